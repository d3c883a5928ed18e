# shellcheck shell=bash
# The applications: every command line of the marketplace and of the two pipelines stands here.

market_config=$native/market/tailwater.yaml
market_catalog=$root/topics/catalog/market
pgbench_config=$native/pgbench/tailwater.yaml
pgbench_catalog=$native/pgbench/catalog

start_market() {
    local url
    url=$(postgres_url market)
    step "Marketplace: services, reader, sinks"
    ensure_database market
    "$bin/tailwater-marketplace" --log warn migrate --database-url "$url"
    "$bin/tailwater" --config "$market_config" apply -f "$market_catalog"
    touch "$data/market.made"
    # The reader comes first: its slot has to be there before the first row.
    launch reader "$TAILWATER_READER_PORT" TAILWATER_READER_PORT /ready \
        "$bin/tailwater" --config "$market_config" cdc run
    launch lake "$TAILWATER_LAKE_PORT" TAILWATER_LAKE_PORT /ready \
        "$bin/tailwater" --config "$market_config" sinks run lake --admin "127.0.0.1:$TAILWATER_LAKE_PORT"
    launch product-search "$TAILWATER_SEARCH_PORT" TAILWATER_SEARCH_PORT /ready \
        "$bin/tailwater" --config "$market_config" sinks run product-search --admin "127.0.0.1:$TAILWATER_SEARCH_PORT"
    launch_service catalog "$TAILWATER_CATALOG_PORT" TAILWATER_CATALOG_PORT
    launch_service inventory "$TAILWATER_INVENTORY_PORT" TAILWATER_INVENTORY_PORT
    launch_service orders "$TAILWATER_ORDERS_PORT" TAILWATER_ORDERS_PORT
    launch_service payments "$TAILWATER_PAYMENTS_PORT" TAILWATER_PAYMENTS_PORT
    await_launched
}

# launch_service NAME PORT VARIABLE
launch_service() {
    launch "$1" "$2" "$3" /readyz \
        "$bin/tailwater-marketplace" "$1" --listen "127.0.0.1:$2" --database-url "$url"
}

start_pgbench() {
    step "pgbench: tables, reader, sink"
    ensure_database pgbench
    if [[ $(sql pgbench "select to_regclass('pgbench_accounts') is null") = t ]]; then
        quietly "pgbench -i" "Look at the lines above." \
            "$(postgres_bin)/pgbench" -i -I dtp -s "$TAILWATER_PGBENCH_SCALE" "$(postgres_url pgbench)"
    fi
    # It has no primary key, so updates and deletes of a published history would fail; `tailwater check` asks for this.
    sql pgbench "alter table pgbench_history replica identity full"
    "$bin/tailwater" --config "$pgbench_config" apply -f "$pgbench_catalog"
    touch "$data/pgbench.made"
    launch pgbench-reader "$TAILWATER_PGBENCH_READER_PORT" TAILWATER_PGBENCH_READER_PORT /ready \
        "$bin/tailwater" --config "$pgbench_config" cdc run
    launch pgbench-lake "$TAILWATER_PGBENCH_LAKE_PORT" TAILWATER_PGBENCH_LAKE_PORT /ready \
        "$bin/tailwater" --config "$pgbench_config" sinks run lake --admin "127.0.0.1:$TAILWATER_PGBENCH_LAKE_PORT"
    await_launched
}

launched=()

# launch NAME PORT VARIABLE READY_PATH COMMAND…: starts it unless it runs; `await_launched` waits for all of them.
launch() {
    if is_running "$1"; then
        say "  $1 is running"
    else
        claim "$1" "$2" "$3"
        start "$1" "${@:5}"
        launched+=("$1 $2 $4")
    fi
}

await_launched() {
    local name port path
    for application in "${launched[@]}"; do
        read -r name port path <<<"$application"
        await "$name" http_ok "$port" "$path"
    done
    launched=()
}
