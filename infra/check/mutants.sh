#!/usr/bin/env bash
# Breaks the rules of infra/check/mutants.txt in a copy of the sources, one at a time, and runs the tests that should see
# it. Writes docs/mutants.md; fails when a mutant survives. usage: mutants.sh [WORD: only those whose title has it]
#
# The copy always lies at the same place and is compiled into the usual target folder, so that a mutant costs one
# compilation of the reader. Servers are not needed: pure tests and loops are asked.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../native/settings.sh"
source "$native/say.sh"
source "$native/packages.sh"
source "$native/parts.sh"

table=$root/infra/check/mutants.txt
page=$root/docs/mutants.md
copy=${TMPDIR:-/tmp}/tailwater-mutants
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
# What needs neither a server nor a minute.
fast='not test(/^(debezium|live|masks|messages|tables|types)::/)'

# refresh FILE…: writes only what differs, so that nothing else is compiled again.
refresh() {
    local file
    for file in "$@"; do
        cmp -s "$root/$file" "$copy/$file" || { mkdir -p "$copy/$(dirname "$file")" && cp "$root/$file" "$copy/$file"; }
    done
}

fresh_copy() {
    local files
    mkdir -p "$copy"
    mapfile -d '' -t files < <(git -C "$root" ls-files -z --cached --others --exclude-standard)
    refresh "${files[@]}"
}

# mutate NUMBER: changes the copy; says title, file and filter on three lines.
mutate() {
    python3 - "$table" "$copy" "$1" <<'PYTHON'
import sys

table, copy, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
mutants = []
for line in open(table):
    line = line.rstrip("\n")
    if not line or line.startswith("#"):
        continue
    mark, text = line[0], line[2:]
    if mark == "=":
        mutants.append({"=": text, "@": "", "-": [], "+": [], "?": ""})
    elif mark in "-+":
        mutants[-1][mark].append(text)
    else:
        mutants[-1][mark] = text
if wanted == 0:
    print(len(mutants))
    for mutant in mutants:
        print(mutant["="])
    sys.exit()
mutant = mutants[wanted - 1]
path = f"{copy}/{mutant['@']}"
source = open(path).read()
before, after = "".join(f"{line}\n" for line in mutant["-"]), "".join(f"{line}\n" for line in mutant["+"])
if source.count(before) != 1:
    sys.exit(f"`{mutant['=']}`: its lines stand {source.count(before)} times in {mutant['@']}")
open(path, "w").write(source.replace(before, after))
print(mutant["@"])
print(mutant["?"])
PYTHON
}

# tests LOG FILTER: runs them in the copy.
tests() {
    (cd "$copy" && cargo nextest run --locked -p tailwater-cdc --config profile.dev.package.tailwater-cdc.opt-level=0 --fail-fast --color never -E "$2") >"$1" 2>&1
}

log=$copy.log
step "Mutants"
install_build_packages
fetch_nextest
fresh_copy
tests "$log" "$fast" || die "the tests fail without a mutant." "$(tail -n 30 "$log")"

mapfile -t titles < <(mutate 0)
rows=()
survived=0
for ((number = 1; number <= titles[0]; number++)); do
    title=${titles[number]}
    [[ -z ${1:-} || $title == *"$1"* ]] || continue
    began=$SECONDS
    mapfile -t said < <(mutate "$number")
    ((${#said[@]} == 2)) || die "the mutant \`$title\` cannot be made." "Its lines in infra/check/mutants.txt no longer fit the source."
    filter=$fast
    [[ -z ${said[1]} ]] || filter=${said[1]}
    if tests "$log" "$filter"; then
        caught="**nothing**"
        survived=$((survived + 1))
    else
        grep -q '^ *Summary ' "$log" || die "the mutant \`$title\` does not compile." "$(grep -A8 '^error' "$log" | head -n 30)"
        caught=$(awk '$1 ~ /^(FAIL|TIMEOUT|SIG[A-Z]+|ABORT)$/ { print $NF }' "$log" | sed 's/.*:://' | sort -u |
            awk 'NR <= 3 { names = names (NR > 1 ? ", " : "") "`" $0 "`" } END { print names (NR > 3 ? " and " NR - 3 " more" : "") }')
    fi
    say "  $title: $caught ($((SECONDS - began)) s)"
    rows+=("| $title | \`${said[0]}\` | $caught |")
    refresh "${said[0]}"
done

((${#rows[@]} > 0)) || die "no mutant has \`$1\` in its title."
if [[ -z ${1:-} ]]; then
    {
        echo "# Mutants"
        echo
        echo "Each row is a mistake that was made on purpose in a copy of the sources, and the tests of \`make test\` that saw it."
        echo "\`make mutants\` makes them all again and writes this page."
        echo
        echo "| Mistake | In | Seen by |"
        echo "| --- | --- | --- |"
        printf '%s\n' "${rows[@]}"
    } >"$page"
fi
((survived == 0)) || die "$survived mutants were not seen." "Write the tests that see them."
say "  ${#rows[@]} mutants, all seen"
