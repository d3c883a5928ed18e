# shellcheck shell=bash
# Postgres with a data folder of ours; the distribution's own clusters are left alone.

postgres_port=$TAILWATER_POSTGRES_PORT

postgres_start() {
    local programs folder=$data/postgres
    programs=$(postgres_programs)
    claim Postgres "$postgres_port" TAILWATER_POSTGRES_PORT
    if [[ ! -s $folder/PG_VERSION ]]; then
        postgres_init "$programs" "$folder"
    elif [[ $("$programs/postgres" --version) != *" $(<"$folder/PG_VERSION")."* ]]; then
        die "the world's data was made by Postgres $(<"$folder/PG_VERSION"), and $programs is another major version." \
            "\`make clean\` removes the data."
    fi
    # Whoever reaches the port is the superuser: it listens on loopback only and has no socket.
    (cd "$folder" && start postgres "${unprivileged[@]}" "$programs/postgres" -D "$folder" \
        -c listen_addresses=127.0.0.1 -c port="$postgres_port" -c unix_socket_directories= \
        -c wal_level=logical -c max_replication_slots=50 -c max_wal_senders=50 \
        -c max_slot_wal_keep_size="$TAILWATER_POSTGRES_SLOT_WAL" -c max_connections=200 \
        -c shared_buffers="$TAILWATER_POSTGRES_BUFFERS")
}

# postgres_programs: the server's; clients are always the distribution's.
postgres_programs() {
    if [[ -n $TAILWATER_POSTGRES_VERSION ]]; then
        echo "$(part "postgres-$(postgres_version "$TAILWATER_POSTGRES_VERSION")")/bin"
    else
        postgres_bin
    fi
}

# Made beside its place and renamed, so an interrupted initdb is not taken for a cluster.
postgres_init() {
    rm -rf "$2" "$2.new"
    mkdir -p "$2.new"
    chmod 700 "$2.new"
    ((EUID != 0)) || chown postgres: "$2.new"
    (cd "$2.new" && quietly initdb "Look at the lines above." \
        "${unprivileged[@]}" "$1/initdb" -D "$2.new" -U postgres -A trust -E UTF8 --locale=C.UTF-8)
    mv "$2.new" "$2"
}

postgres_ready() { "$(postgres_bin)/pg_isready" -q -U postgres -h 127.0.0.1 -p "$postgres_port"; }

# sql DATABASE STATEMENT: as the superuser, bare output.
sql() { "$(postgres_bin)/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$(postgres_url "$1")" -c "$2"; }

# ensure_database NAME
ensure_database() {
    [[ $(sql postgres "select count(*) from pg_database where datname = '$1'") = 1 ]] ||
        sql postgres "create database $1"
}

# postgres_url [DATABASE]
postgres_url() { echo "postgres://postgres@127.0.0.1:$postgres_port${1:+/$1}"; }
