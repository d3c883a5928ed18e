# shellcheck shell=bash
# Where everything is and how large it may be. Each value may be set in the environment; `make` passes it on.
set -euo pipefail
umask 022 # servers that run as another user must be able to enter our folders

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
native=$root/infra/native
bin=${CARGO_TARGET_DIR:-$root/target}/debug

# The world's state: data, logs, process ids. A relative path counts from the repository.
: "${TAILWATER_WORLD:=.world}"
[[ $TAILWATER_WORLD = /* ]] || TAILWATER_WORLD=$root/$TAILWATER_WORLD

# Ports on 127.0.0.1. The shift moves all servers at once: tests use 0, so that both worlds can be up together.
: "${TAILWATER_PORT_SHIFT:=1000}"
: "${TAILWATER_POSTGRES_PORT:=$((15432 + TAILWATER_PORT_SHIFT))}"
: "${TAILWATER_KAFKA_PORT:=$((19092 + TAILWATER_PORT_SHIFT))}"
: "${TAILWATER_KAFKA_CONTROLLER_PORT:=$((19093 + TAILWATER_PORT_SHIFT))}"
: "${TAILWATER_S3_PORT:=$((19000 + TAILWATER_PORT_SHIFT))}"
: "${TAILWATER_MINIO_PORT:=$((19010 + TAILWATER_PORT_SHIFT))}" # the tests' second S3 server
: "${TAILWATER_OPENSEARCH_PORT:=$((19200 + TAILWATER_PORT_SHIFT))}"
: "${TAILWATER_OPENSEARCH_TRANSPORT_PORT:=$((19300 + TAILWATER_PORT_SHIFT))}"
: "${TAILWATER_CATALOG_PORT:=18081}"
: "${TAILWATER_INVENTORY_PORT:=18082}"
: "${TAILWATER_ORDERS_PORT:=18083}"
: "${TAILWATER_PAYMENTS_PORT:=18084}"
: "${TAILWATER_READER_PORT:=18090}" # admin ports: /live /ready /metrics
: "${TAILWATER_LAKE_PORT:=18091}"
: "${TAILWATER_SEARCH_PORT:=18092}"
: "${TAILWATER_PGBENCH_READER_PORT:=18190}"
: "${TAILWATER_PGBENCH_LAKE_PORT:=18191}"

# The major version of Postgres; empty is that of the distribution.
: "${TAILWATER_POSTGRES_VERSION:=}"
# The major version of OpenSearch; empty is the newest.
: "${TAILWATER_OPENSEARCH_VERSION:=}"

# Sizes. The whole world stays below 4 GB with these.
: "${TAILWATER_KAFKA_HEAP:=384m}"
: "${TAILWATER_OPENSEARCH_HEAP:=512m}"
: "${TAILWATER_POSTGRES_BUFFERS:=128MB}"
: "${TAILWATER_POSTGRES_SLOT_WAL:=2GB}" # WAL a stopped reader may hold back before its slot is given up
: "${TAILWATER_PGBENCH_SCALE:=5}"       # times 100,000 accounts
: "${TAILWATER_PGBENCH_SECONDS:=30}"
: "${TAILWATER_PGBENCH_CLIENTS:=4}"

s3_access_key=tailwater
s3_secret_key=tailwater-secret

# Seconds a process may take to become ready, and to end before it is killed.
: "${TAILWATER_START_SECONDS:=120}"
: "${TAILWATER_STOP_SECONDS:=30}"

# As root, Postgres and OpenSearch run as `postgres`: both refuse root. Folders below a private home are closed to
# that user, so then data and downloads stand in /var.
unprivileged=()
((EUID != 0)) || unprivileged=(setpriv --reuid=postgres --regid=postgres --init-groups)

# private FOLDER: whether other users are kept out of it or of a folder above it.
private() {
    local folder=$1
    until [[ $folder = / ]]; do
        if [[ -e $folder ]] && (((8#$(stat -c %a "$folder") & 1) == 0)); then return 0; fi
        folder=$(dirname "$folder")
    done
    return 1
}

# Downloads, kept between worlds.
: "${TAILWATER_PARTS:=${XDG_CACHE_HOME:-$HOME/.cache}/tailwater/parts}"
data=$TAILWATER_WORLD/data
if ((EUID == 0)); then
    if private "$TAILWATER_PARTS"; then TAILWATER_PARTS=/var/cache/tailwater/parts; fi
    if private "$TAILWATER_WORLD"; then
        data=/var/lib/tailwater/$(cksum <<<"$TAILWATER_WORLD" | cut -d' ' -f1)
    fi
fi
logs=$TAILWATER_WORLD/log

# The S3 server of the demo: `embedded`, or `minio` where Go 1.24 or newer is installed. A world keeps what it began with.
: "${TAILWATER_S3:=$(cat "$data/s3.kind" 2>/dev/null || echo embedded)}"

# The binaries, and `tailwater.yaml` in both demos, see the same values.
export TAILWATER_WORLD TAILWATER_PARTS "${!TAILWATER_@}"
