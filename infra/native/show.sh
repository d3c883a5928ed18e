# shellcheck shell=bash
# What is running and what to try next.

show_servers() {
    cat <<TEXT

Postgres     $(postgres_url)
Kafka        127.0.0.1:$kafka_port
S3           http://127.0.0.1:$s3_port   ($TAILWATER_S3; access key $s3_access_key, secret key $s3_secret_key)
OpenSearch   http://127.0.0.1:$opensearch_port
Logs         $logs
TEXT
}

show_world() {
    local tailwater
    write_environment
    show_servers
    if is_running catalog; then
        cat <<TEXT
Services     catalog http://127.0.0.1:$TAILWATER_CATALOG_PORT · inventory http://127.0.0.1:$TAILWATER_INVENTORY_PORT
             orders http://127.0.0.1:$TAILWATER_ORDERS_PORT · payments http://127.0.0.1:$TAILWATER_PAYMENTS_PORT
Metrics      http://127.0.0.1:{$TAILWATER_READER_PORT,$TAILWATER_LAKE_PORT,$TAILWATER_SEARCH_PORT}/metrics   (reader, lake, product-search)
TEXT
    fi
    if is_running pgbench-reader; then
        say "Metrics      http://127.0.0.1:{$TAILWATER_PGBENCH_READER_PORT,$TAILWATER_PGBENCH_LAKE_PORT}/metrics   (pgbench: reader, lake)"
    fi
    tailwater=$(shortened "$bin/tailwater")
    say
    say "Next:"
    say "  source $(shortened "$TAILWATER_WORLD/env")   # ports, for the commands below"
    if is_running catalog; then
        say "  $tailwater --config infra/native/market/tailwater.yaml status"
        say "  $tailwater --config infra/native/market/tailwater.yaml lake ls orders.events"
        say "  curl -s 'http://127.0.0.1:$opensearch_port/products/_search?size=1&pretty'"
    fi
    if is_running pgbench-reader; then
        say "  $tailwater --config infra/native/pgbench/tailwater.yaml status"
    fi
    say "  make down    # ends what was started; \`make up\` starts it again, \`make clean\` removes the data"
}

# Relative to the repository where that is shorter.
shortened() { echo "${1#"$root"/}"; }

# What a shell needs to use the two configurations by hand when ports were overridden.
write_environment() {
    local name
    for name in "${!TAILWATER_@}"; do
        [[ $name != *_PORT ]] || printf 'export %s=%q\n' "$name" "${!name}"
    done >"$TAILWATER_WORLD/env"
}
