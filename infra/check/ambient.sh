#!/usr/bin/env bash
# Nothing reads the clock, the environment or a random source outside `runtime`, `main.rs`, tests and infra, except the
# places in ambient.allow, each with its reason. An entry that nothing needs any more is a mistake as well.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."

clock='SystemTime::now|Instant::now|Utc::now|Zoned::now|Timestamp::now'
environment='env::vars?(_os)?\('
random='rand::rng\(|rand::random|thread_rng|from_os_rng|Uuid::now_v7|Uuid::new_v4'

found() {
    local file
    while read -r file; do
        # Unit tests stand last in a file.
        awk -v file="$file" -v clock="$clock" -v environment="$environment" -v random="$random" '
            /^#\[cfg\(test\)\]/ { exit }
            /^ *\/\// { next }
            $0 ~ clock { print file, "clock" }
            $0 ~ environment { print file, "environment" }
            $0 ~ random { print file, "randomness" }' "$file"
    done < <(find . -name '*.rs' -not -path './target/*' -not -path './.*/*' |
        sed 's#^\./##' | grep -vE '(^|/)(tests|benches)/|^(runtime|infra)/|/(main|build)\.rs$' | sort)
}

used=$(found | sort -u)
allowed=$(sed -E 's/ *#.*//; /^$/d' "$here/ambient.allow" | awk '{ print $1, $2 }' | sort -u)

if new=$(comm -23 <(printf '%s\n' "$used") <(printf '%s\n' "$allowed") | grep .); then
    printf '%s\n' "$new" | awk '{ print $1 " reads the " $2 "; take it as a value, or give a reason in infra/check/ambient.allow" }' >&2
fi
if stale=$(comm -13 <(printf '%s\n' "$used") <(printf '%s\n' "$allowed") | grep .); then
    printf '%s\n' "$stale" | awk '{ print "infra/check/ambient.allow: " $1 " no longer reads the " $2 }' >&2
fi
[[ -z $new && -z $stale ]] || exit 1
echo "  $(wc -l <<<"$allowed") places are allowed, nothing else reads them"
