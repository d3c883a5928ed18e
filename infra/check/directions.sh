#!/usr/bin/env bash
# Who may depend on whom: the first three invariants of ARCHITECTURE.md and a few more, read from Cargo's own tree.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

wrong=0

# members: every package of the workspace.
members() {
    cargo tree --locked --workspace --depth 0 --prefix none --format '{p}' | awk 'NF { print $1 }' | sort -u
}

# free_of PACKAGE PATTERN REASON: nothing that PACKAGE is built from may match; its tests may use what they like.
free_of() {
    local found
    found=$(cargo tree --locked -p "$1" -e normal --prefix none --format '{p}' |
        awk -v self="$1" 'NF && $1 != self { print $1 }' | sort -u | grep -xE "$2" || true)
    if [[ -n $found ]]; then
        printf '%s must not depend on %s: %s\n' "$1" "$(paste -sd, - <<<"$found" | sed 's/,/, /g')" "$3" >&2
        wrong=1
    fi
}

every=$(members)
# Who speaks to AWS, and who signs as it wants it.
aws='aws-(config|credential-types|runtime|sdk-.*|sigv4)'

free_of tailwater-cdc "tailwater-sinks-.*|$aws" "reader and sinks share the contract and nothing else"
for sink in worker archive search; do
    free_of "tailwater-sinks-$sink" 'tailwater-cdc' "reader and sinks share the contract and nothing else"
done
free_of tailwater-sinks-worker "tailwater-sinks-.*|$aws|reqwest" "the worker knows no destination"
free_of tailwater-sinks-archive 'tailwater-sinks-search' "sinks know nothing of each other"
free_of tailwater-sinks-search 'tailwater-sinks-archive|aws-sdk-s3' "sinks know nothing of each other"
free_of tailwater-sinks-keys 'tailwater-(topics|cdc|sinks).*|aws-sdk-s3|reqwest' "keys know nothing of what they open"

for pure in tailwater-topics-contract tailwater-document; do
    free_of "$pure" 'tokio.*|hyper.*|rdkafka.*|reqwest|aws-sdk-.*|.*postgres.*|tailwater-runtime' "it does no I/O"
done
for plumbing in tailwater-runtime tailwater-config tailwater-postgres; do
    free_of "$plumbing" "tailwater-(topics|cdc|sinks|services|infra|outbox).*|$aws" "plumbing knows nothing of the domain"
done

while read -r service; do
    free_of "$service" "rdkafka.*|$aws|reqwest" "services write to Postgres and to nothing else"
done < <(grep -xE 'tailwater-(outbox|services-.*)' <<<"$every")
free_of tailwater-infra-demo 'tailwater-.*' "the judge must not share the product's code"

for member in $every; do
    [[ $member = tailwater-lake ]] || free_of "$member" 'datafusion.*' "the query engine lives in the lake only"
done

((wrong == 0)) || exit 1
echo "  $(wc -l <<<"$every") packages keep their direction"
