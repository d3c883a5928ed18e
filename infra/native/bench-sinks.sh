#!/usr/bin/env bash
# The sinks against their targets, on release binaries and on servers of their own, stopped and removed afterwards
# (TAILWATER_KEEP=1 leaves them). Arguments go to `tailwater-bench sinks`.
set -euo pipefail
# Servers that nobody else uses, beside all other worlds; MinIO where Go can build it, because it syncs what it stores.
: "${TAILWATER_WORLD:=.world-bench-sinks}"
: "${TAILWATER_PORT_SHIFT:=8000}"
: "${TAILWATER_POSTGRES_SLOT_WAL:=16GB}"
: "${TAILWATER_POSTGRES_BUFFERS:=256MB}"
: "${TAILWATER_KAFKA_HEAP:=512m}"
# With the tests' half a GiB its circuit breaker refuses requests, and then neither loop is measured.
: "${TAILWATER_OPENSEARCH_HEAP:=2g}"
chosen_s3=${TAILWATER_S3:-}
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
source "$native/servers.sh"

down() {
    stop_everything
    rm -rf "$data"
}

lock
if [[ -z $chosen_s3 ]] && go_is_new; then TAILWATER_S3=minio; fi
step "Release build"
install_build_packages
(cd "$root" && cargo build --locked --release -p tailwater -p tailwater-infra-bench -p tailwater-infra-s3) ||
    die "cargo build failed." "Its messages are above."
release=${CARGO_TARGET_DIR:-$root/target}/release
bin=$release # the embedded S3 server is that of the release build, too

install_servers
[[ ${TAILWATER_KEEP:-0} = 1 ]] || trap down EXIT
if (($(running_servers) == 0)); then rm -rf "$data" "$logs"; fi
start_servers

# A record of the long topic is a row, its WAL, a record, a line and a document, most of them at once.
sizes=()
room=$(($(df --output=avail --block-size=1G "$root" | tail -1)))
if [[ " $* " != *" --backlog"* ]] && ((room < 14)); then
    sizes=(--backlog $((room * 5000000 / 14)))
    say "$room GB of disk are free, so the long topic has ${sizes[1]} records instead of 5,000,000."
fi

step "Benchmark"
"$release/tailwater-bench" sinks --tailwater "$release/tailwater" --postgres "$(postgres_url)" \
    --brokers "127.0.0.1:$kafka_port" --s3 "http://127.0.0.1:$s3_port" \
    --opensearch "http://127.0.0.1:$opensearch_port" "${sizes[@]}" "$@"
