#!/usr/bin/env bash
# The lake beside DuckDB and stock DataFusion over one archive, on release binaries and the tests' S3 server.
#
#   TAILWATER_BENCH_LAKE_MB      megabytes of lines (1100)
#   TAILWATER_BENCH_LAKE_ROUNDS  rounds, of which the least counts (3)
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/../native/test.sh" servers
source "$(dirname "${BASH_SOURCE[0]}")/../native/settings.sh"
source "$native/say.sh"
source "$native/packages.sh"
source "$native/parts.sh"

: "${TAILWATER_BENCH_LAKE_MB:=1100}"
: "${TAILWATER_BENCH_LAKE_ROUNDS:=3}"
test_world=${TAILWATER_TEST_WORLD:-.world-test}
[[ $test_world = /* ]] || test_world=$root/$test_world
profile=${TAILWATER_BENCH_LAKE_PROFILE:-release}
built=${CARGO_TARGET_DIR:-$root/target}/${profile/#dev/debug}

step "Build ($profile, many minutes the first time)"
# Without link-time optimisation: it takes half an hour here and changes little where the time goes.
(cd "$root" && CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 \
    cargo build --locked --profile "$profile" -p tailwater-lake --bin tailwater-lake --example make-archive) ||
    die "cargo build failed." "Its messages are above."
install_pip
fetch_duckdb
fetch_datafusion
source "$test_world/env"

step "Archive"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bucket=bench-lake-$RANDOM$RANDOM
made=$("$built/examples/make-archive" "$TAILWATER_TEST_S3" "$bucket" "$work" "$TAILWATER_BENCH_LAKE_MB")
say "  $made"
cat >"$work/tailwater.yaml" <<TEXT
pipeline: bench
kafka: { brokers: "$TAILWATER_TEST_KAFKA" }
s3: { endpoint: "$TAILWATER_TEST_S3", access_key: $s3_access_key, secret_key: $s3_secret_key }
TEXT
number() { sed -nE "s/.*\"$1\":([0-9]+).*/\1/p" <<<"$made"; }

step "Benchmark"
export PYTHONPATH TAILWATER_ARCHIVE=s3://$bucket/
PYTHONPATH=$(part "duckdb-$duckdb_version"):$(part "datafusion-$datafusion_version")
python3 "$root/infra/bench-lake/compare.py" "$built/tailwater-lake" "$work" "$(number records)" "$(number raw)" \
    "$TAILWATER_BENCH_LAKE_ROUNDS"
say
say "The servers are left up; \`make test-down\` stops them."
