# shellcheck shell=bash
# All servers together: packages, parts, start in parallel, stop.

source "$native/say.sh"
source "$native/process.sh"
source "$native/packages.sh"
source "$native/parts.sh"
source "$native/postgres.sh"
source "$native/kafka.sh"
source "$native/opensearch.sh"
source "$native/s3.sh"

# Each has a function `<name>_start` and a function `<name>_ready`.
servers=(postgres kafka opensearch s3)

install_servers() {
    step "Server packages"
    install_server_packages
    fetch_server_parts
    [[ -z $TAILWATER_POSTGRES_VERSION ]] || fetch_postgres "$TAILWATER_POSTGRES_VERSION"
    if [[ $TAILWATER_S3 = minio || " ${servers[*]} " = *" minio "* ]]; then
        go_is_new || die "MinIO is built with Go 1.24 or newer, and it is not installed." \
            "Install Go, or leave TAILWATER_S3 unset to use the embedded S3 server."
        fetch_minio
    fi
    say "  all there ($TAILWATER_PARTS)"
}

start_servers() {
    local server failed=0
    declare -A jobs
    step "Servers"
    mkdir -p "$data"
    for server in "${servers[@]}"; do
        start_server "$server" &
        jobs[$server]=$!
    done
    for server in "${servers[@]}"; do
        wait "${jobs[$server]}" || failed=1
    done
    ((failed == 0)) || die "Not every server is running."
}

start_server() {
    if is_running "$1"; then
        say "  $1 is running"
    else
        "$1_start"
        await "$1" "$1_ready"
    fi
}

# running_servers: how many of them run.
running_servers() {
    local server count=0
    for server in "${servers[@]}"; do
        ! is_running "$server" || count=$((count + 1))
    done
    echo "$count"
}

# Applications first: they drain into servers that are still there.
stop_everything() {
    local name applications=() others=()
    step "Stopping"
    for name in $(recorded); do
        if [[ " postgres kafka opensearch s3 minio " = *" $name "* ]]; then
            others+=("$name")
        else
            applications+=("$name")
        fi
    done
    stop "${applications[@]}"
    stop "${others[@]}"
    applications+=("${others[@]}")
    say "  stopped: ${applications[*]:-nothing was running}"
}

# lock: one command at a time works on a world.
lock() {
    mkdir -p "$TAILWATER_WORLD"
    exec 9>"$TAILWATER_WORLD/lock"
    flock -n 9 || die "another command is working on the world in $TAILWATER_WORLD; wait until it is done."
}
