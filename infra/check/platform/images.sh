# shellcheck shell=bash
# Builds the images and brings the compose file up, with traffic and the demo's judge; then once more with the other
# S3 store. Ports are others than a user's, so that a world of theirs may be up meanwhile.

minio_image=quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z
compose_project=tailwater-check
image_port_shift=3000

compose() {
    "$(part "compose-$compose_version")/docker-compose" --project-name "$compose_project" -f "$root/infra/compose.yaml" "$@"
}
embedded=(-f "$root/infra/compose.s3-embedded.yaml")

images() {
    step "Images"
    go_is_new || die "Docker Compose is built with Go 1.24 or newer, and it is not installed."
    fetch_quick_tools
    fetch "compose-$compose_version" make_compose
    trap images_down EXIT
    docker_up
    base_images
    store_images
    ports
    # As one command: the stages they share are built once.
    say "  building (a release build; this takes a quarter of an hour the first time)"
    compose --progress plain "${embedded[@]}" --profile tools build apply migrate s3 >"$logs/build.log" 2>&1 ||
        die "the images cannot be built:" "$(tail -n 30 "$logs/build.log")"
    look_at_images
    missing_secret
    step "Compose, with MinIO"
    world_works
    step "Compose, with the embedded S3 endpoint"
    world_works "${embedded[@]}"
    images_down
    trap - EXIT
}

images_down() {
    compose "${embedded[@]}" --profile tools --profile observability down --volumes --timeout 20 >/dev/null 2>&1 || true
    docker_down
}

# Free ports: those of the compose file, moved.
ports() {
    local variable port
    while IFS=':' read -r variable port; do
        export "$variable=$((port + image_port_shift))"
    done < <(grep -oE 'TAILWATER_COMPOSE_[A-Z0-9_]+_PORT:-[0-9]+' "$root/infra/compose.yaml" | sed 's/:-/:/' | sort -u)
}

# Small, run by nobody in particular, able to start with a read-only root and no capability.
look_at_images() {
    local image base size most
    base=$(docker image inspect --format '{{.Size}}' debian:bookworm-slim)
    while read -r image most; do
        # The base may be a stand-in of another size; what counts is what we put on it.
        size=$((($(docker image inspect --format '{{.Size}}' "$image") - base + 500000) / 1000000))
        [[ $(docker image inspect --format '{{.Config.User}}' "$image") = 10001:10001 ]] || die "$image runs as somebody else than 10001."
        docker run --rm --read-only --cap-drop ALL --network none "$image" --version >/dev/null || die "$image does not start."
        say "  $image: $size MB on top of its base, of which $(binary_size "$image") MB are the program"
        ((size < most)) || die "$image adds $size MB to its base, more than $most."
    done <<'SIZES'
tailwater:local 60
tailwater-marketplace:local 45
tailwater-s3:local 45
SIZES
    [[ -z $(docker run --rm --entrypoint find tailwater:local /usr/local/bin -name 'tailwater-lake') ]] ||
        die "the image of the data plane holds the query engine."
}

binary_size() {
    docker run --rm --entrypoint sh "$1" -c 'cat /usr/local/bin/tailwater* | wc -c' | awk '{ printf "%.0f", $1 / 1e6 }'
}

# What is said when a variable that a configuration names is not set: line and variable, and no start.
missing_secret() {
    local said code=0
    said=$(docker run --rm -v "$root/infra/compose/tailwater.yaml:/etc/tailwater/tailwater.yaml:ro" tailwater:local cdc run 2>&1) || code=$?
    [[ $code = 2 && $said = *"POSTGRES_PASSWORD"* ]] ||
        die "a missing secret should end the start with code 2 and the variable's name; code $code:" "$said"
    say "  without secrets it says: $(grep -m 1 POSTGRES_PASSWORD <<<"$said" | sed 's/^ *//')"
}

# world_works [COMPOSE OPTION…]
world_works() {
    local began=$SECONDS said
    compose "$@" up --detach --wait --wait-timeout 300 >"$logs/up.log" 2>&1 || {
        compose "$@" ps --all >&2
        compose "$@" logs --no-color --tail 15 >&2
        die "the compose file does not come up:" "$(tail -n 20 "$logs/up.log")"
    }
    say "  up after $((SECONDS - began)) s"
    said=$(compose "$@" run --rm tailwater apply -f /etc/tailwater/catalog 2>&1)
    [[ $said = *"everything is as declared"* ]] || die "a second apply changes something:" "$said"
    traffic
    measured
    observed "$@"
    memory "$@"
    said=$(compose "$@" run --rm tailwater status 2>&1) || die "\`tailwater status\` fails:" "$said"
    said=$(compose "$@" run --rm tailwater check 2>&1) || die "\`tailwater check\` finds something:" "$said"
    compose "$@" stop lake >/dev/null 2>&1
    [[ $(compose "$@" ps --all --format '{{.ExitCode}}' lake) = 0 ]] || die "lake does not end cleanly when it is asked to."
    compose "$@" kill reader >/dev/null 2>&1
    compose "$@" up --detach --wait --wait-timeout 120 >>"$logs/up.log" 2>&1 || die "it does not come back after a kill:" "$(tail -n 20 "$logs/up.log")"
    traffic
    say "  again after the reader was killed and lake was stopped"
    compose "$@" --profile tools --profile observability down --volumes --timeout 20 >/dev/null 2>&1
}

# Orders through the services, then the demo's judge over all four stores.
traffic() {
    [[ -x $bin/tailwater-demo ]] || (cd "$root" && quietly "cargo build of the judge" "Look at the lines above." \
        nice -n 10 cargo build --locked -p tailwater-infra-demo)
    TAILWATER_DEMO_SECONDS=${TAILWATER_DEMO_SECONDS:-5} \
        TAILWATER_DEMO_POSTGRES="postgres://tailwater:only-on-loopback@127.0.0.1:$TAILWATER_COMPOSE_POSTGRES_PORT/market" \
        TAILWATER_DEMO_KAFKA=127.0.0.1:$TAILWATER_COMPOSE_KAFKA_PORT \
        TAILWATER_DEMO_S3=http://127.0.0.1:$TAILWATER_COMPOSE_S3_PORT \
        TAILWATER_DEMO_S3_SECRET_KEY=only-on-loopback \
        TAILWATER_DEMO_OPENSEARCH=http://127.0.0.1:$TAILWATER_COMPOSE_OPENSEARCH_PORT \
        TAILWATER_DEMO_CATALOG=http://127.0.0.1:$TAILWATER_COMPOSE_CATALOG_PORT \
        TAILWATER_DEMO_INVENTORY=http://127.0.0.1:$TAILWATER_COMPOSE_INVENTORY_PORT \
        TAILWATER_DEMO_ORDERS=http://127.0.0.1:$TAILWATER_COMPOSE_ORDERS_PORT \
        TAILWATER_DEMO_PAYMENTS=http://127.0.0.1:$TAILWATER_COMPOSE_PAYMENTS_PORT \
        "$bin/tailwater-demo" market >"$logs/judge.log" 2>&1 ||
        die "the judge does not agree:" "$(tail -n 30 "$logs/judge.log")"
    say "  $(grep '^traffic:' "$logs/judge.log"); $(grep -cE '(┆|│) equal' "$logs/judge.log") topics equal in all stores"
}

# What the processes answer on /metrics is what rules and dashboard were held against.
measured() {
    local port files=()
    for port in "$TAILWATER_COMPOSE_READER_PORT" "$TAILWATER_COMPOSE_LAKE_PORT" "$TAILWATER_COMPOSE_SEARCH_PORT" "$TAILWATER_COMPOSE_ORDERS_PORT"; do
        files+=("$TAILWATER_WORLD/scraped.$port")
        python -c 'import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1]).read().decode())' \
            "http://127.0.0.1:$port/metrics" >"$TAILWATER_WORLD/scraped.$port"
    done
    python "$platform/metrics.py" --scraped "$root" "${files[@]}" || die "What is measured is not what is listed."
}

# Prometheus with our rules, over what runs: it finds everything, and can answer what the dashboard asks.
observed() {
    rules >/dev/null
    compose "$@" --profile observability up --detach prometheus >>"$logs/up.log" 2>&1 || die "Prometheus does not start:" "$(tail -n 20 "$logs/up.log")"
    python "$platform/ask.py" "http://127.0.0.1:$TAILWATER_COMPOSE_PROMETHEUS_PORT" "$TAILWATER_WORLD/expressions.yaml" 7 ||
        die "Prometheus does not see what it should."
}

# What the containers use against what they may use.
memory() {
    local ids
    mapfile -t ids < <(compose "$@" ps --quiet)
    docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' "${ids[@]}" | sed -E "s/^$compose_project-//; s/-1 / /" | sort | sed 's/^/    /'
}
