#!/usr/bin/env bash
# Everything that is checked without running the product. Each step says how long it took.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../native/settings.sh"
source "$native/say.sh"
source "$native/packages.sh"
source "$native/parts.sh"
cd "$root"

timed() {
    local began=$SECONDS
    step "$1"
    "${@:2}" || die "lint failed: $1"
    say "  ($((SECONDS - began)) s)"
}

scripts() {
    if has shellcheck; then
        shellcheck -x .ci/run infra/native/*.sh infra/bench-lake/*.sh infra/check/*.sh
    else
        say "  shellcheck is not installed; the scripts were not checked"
    fi
}

install_build_packages
timed "rustfmt" cargo fmt --all --check
timed "scripts" scripts
timed "dependency directions" infra/check/directions.sh
timed "clock, environment, random sources" infra/check/ambient.sh
timed "licences, bans, sources" infra/check/deny.sh
timed "clippy" cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
