#!/usr/bin/env bash
# The demo's world. usage: world.sh build|servers|up|down|clean|demo|demo-pgbench
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
source "$native/servers.sh"
source "$native/build.sh"
source "$native/apps.sh"
source "$native/show.sh"

servers_up() {
    # The compiler's packages first: the embedded S3 server is one of our binaries.
    build
    install_servers
    start_servers
}

# Servers, and the applications of the demos that ran here; of the marketplace when none did.
up() {
    servers_up
    if [[ ! -e $data/pgbench.made || -e $data/market.made ]]; then start_market; fi
    if [[ -e $data/pgbench.made ]]; then start_pgbench; fi
    show_world
}

down() {
    stop_everything
}

clean() {
    down
    rm -rf "$data" "$logs" "$pids" "$TAILWATER_WORLD/env"
    say "  removed $data"
}

demo() {
    servers_up
    start_market
    step "Traffic"
    demo_environment market
    TAILWATER_DEMO_CATALOG=http://127.0.0.1:$TAILWATER_CATALOG_PORT \
        TAILWATER_DEMO_INVENTORY=http://127.0.0.1:$TAILWATER_INVENTORY_PORT \
        TAILWATER_DEMO_ORDERS=http://127.0.0.1:$TAILWATER_ORDERS_PORT \
        TAILWATER_DEMO_PAYMENTS=http://127.0.0.1:$TAILWATER_PAYMENTS_PORT \
        "$bin/tailwater-demo" market || disagreed
    show_world
}

demo_pgbench() {
    local pgbench
    servers_up
    start_pgbench
    pgbench=$(postgres_bin)/pgbench
    step "pgbench"
    # Generating truncates the tables and fills them with one COPY; both have to arrive like everything else.
    if [[ $(sql pgbench "select exists (select from pgbench_accounts)") = f ]]; then
        "$pgbench" -i -I g -s "$TAILWATER_PGBENCH_SCALE" "$(postgres_url pgbench)"
    fi
    # -n: it would truncate the history first, and a second run is to add to it.
    "$pgbench" -n -c "$TAILWATER_PGBENCH_CLIENTS" -T "$TAILWATER_PGBENCH_SECONDS" -P 5 "$(postgres_url pgbench)"
    step "Reconciliation"
    demo_environment pgbench
    "$bin/tailwater-demo" pgbench || disagreed
    show_world
}

demo_environment() {
    export TAILWATER_DEMO_POSTGRES TAILWATER_DEMO_KAFKA TAILWATER_DEMO_S3 TAILWATER_DEMO_OPENSEARCH
    TAILWATER_DEMO_POSTGRES=$(postgres_url "$1")
    TAILWATER_DEMO_KAFKA=127.0.0.1:$kafka_port
    TAILWATER_DEMO_S3=http://127.0.0.1:$s3_port
    TAILWATER_DEMO_OPENSEARCH=http://127.0.0.1:$opensearch_port
}

disagreed() {
    local name
    for name in $(recorded); do
        is_running "$name" || say "  $name is not running; the end of its log is in $logs/$name.log"
    done >&2
    die "the demo did not end well; the world is left up for a look." \
        "Logs: $logs · \`make down\` ends it, \`make clean\` also removes its data."
}

[[ $# = 1 ]] || die "usage: world.sh build|servers|up|down|clean|demo|demo-pgbench"
lock
case $1 in
    build) build ;;
    servers)
        servers_up
        show_servers
        ;;
    up) up ;;
    down) down ;;
    clean) clean ;;
    demo) demo ;;
    demo-pgbench) demo_pgbench ;;
    *) die "\`$1\` is none of build, servers, up, down, clean, demo, demo-pgbench" ;;
esac
