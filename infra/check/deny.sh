#!/usr/bin/env bash
# cargo-deny over deny.toml. The advisory database is a git repository elsewhere, which a build without access to it
# cannot fetch; where it can, `cargo deny check advisories` is worth running too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../native/settings.sh"
source "$native/say.sh"
source "$native/packages.sh"
source "$native/parts.sh"
cd "$root"
fetch_deny
cargo deny --locked --log-level error check --hide-inclusion-graph bans licenses sources
