# shellcheck shell=bash
# The workspace's binaries.

build() {
    step "Build"
    install_build_packages
    # All but the lake, whose query engine takes many minutes; at once and with the tests' profile, so `make demo` and `make test` share what is compiled.
    (cd "$root" && cargo build --locked --bins) ||
        die "cargo build failed." "Its messages are above."
}
