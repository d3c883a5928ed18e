#!/usr/bin/env bash
# The benchmark, on the tests' servers and on release binaries. Arguments go to `tailwater-bench`.
set -euo pipefail
"$(dirname "${BASH_SOURCE[0]}")/test.sh" servers
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
source "$native/say.sh"
source "$native/packages.sh"

test_world=${TAILWATER_TEST_WORLD:-.world-test}
[[ $test_world = /* ]] || test_world=$root/$test_world
release=${CARGO_TARGET_DIR:-$root/target}/release

step "Release build"
(cd "$root" && cargo build --locked --release -p tailwater -p tailwater-infra-bench) ||
    die "cargo build failed." "Its messages are above."
source "$test_world/env"
step "Benchmark"
PATH=$(postgres_bin):$PATH "$release/tailwater-bench" line --tailwater "$release/tailwater" "$@"
say
say "The servers are left up; \`make test-down\` stops them."
