#!/usr/bin/env bash
# The tests, with servers of their own. usage: test.sh run|lake|postgres|opensearch|gauntlet|gauntlet-reader|fuzz|servers|down
#
#   run      everything: starts servers, runs all rings, counts them, stops the servers (TAILWATER_KEEP=1 leaves them)
#   lake     the same for the lake alone
#   postgres the reader's tests against every other major version of Postgres
#   opensearch
#            the tests that write to an index, against OpenSearch 2.19
#   gauntlet sinks in torment, in the long form; TAILWATER_GAUNTLET says how often, TAILWATER_TEST_SEED replays
#   gauntlet-reader
#            the reader in torment, in the long form; the same variables, and TAILWATER_TEST_CUTS, _OUTAGE_S, _BROKER_KILLS
#   fuzz     bytes nobody should send, for TAILWATER_FUZZ_S seconds; needs no servers
#   servers  only the servers, to run single tests by hand; writes their addresses to .world-test/env
#   down     stops them and removes their data
set -euo pipefail
TAILWATER_WORLD=${TAILWATER_TEST_WORLD:-.world-test}
TAILWATER_PORT_SHIFT=${TAILWATER_TEST_PORT_SHIFT:-0}
TAILWATER_S3=embedded
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
source "$native/servers.sh"
source "$native/build.sh"
source "$native/rings.sh"

servers_up() {
    if go_is_new; then
        servers+=(minio)
    else
        say "Go 1.24 is not installed: S3 tests run against the embedded server only."
    fi
    install_servers
    fetch_postgres 18
    fetch pgbouncer make_pgbouncer
    # Servers that somebody kept are used as they are; new ones start empty.
    if (($(running_servers) == 0)); then
        rm -rf "$data" "$logs"
        [[ ${TAILWATER_KEEP:-0} = 1 || $1 = keep ]] || trap down EXIT
    fi
    install_pip
    fetch_duckdb
    start_servers
    mkdir -p "$logs"
    addresses >"$TAILWATER_WORLD/env"
    source "$TAILWATER_WORLD/env"
}

addresses() {
    cat <<TEXT
export TAILWATER_TEST_POSTGRES=$(postgres_url)
export TAILWATER_TEST_KAFKA=127.0.0.1:$kafka_port
export TAILWATER_TEST_S3=http://127.0.0.1:$s3_port
export TAILWATER_TEST_OPENSEARCH=http://127.0.0.1:$opensearch_port
TEXT
    # Some tests kill a broker of their own.
    echo "export TAILWATER_TEST_JAVA=$(java_at_least 17)"
    echo "export TAILWATER_TEST_KAFKA_LIBS=$(part "kafka-$kafka_version")/libs"
    # And some fail over, which takes a version that keeps slots on standbys.
    echo "export TAILWATER_TEST_POSTGRES_18=$(part "postgres-$(postgres_version 18)")"
    echo "export TAILWATER_TEST_PGBOUNCER=$(part pgbouncer)"
    echo "export TAILWATER_TEST_DUCKDB=$(part "duckdb-$duckdb_version")" # a Python module's folder
    if is_running minio; then echo "export TAILWATER_TEST_MINIO=http://127.0.0.1:$minio_port"; fi
}

down() {
    stop_everything
    rm -rf "$data"
}

run() {
    local code=0
    build
    install_tests
    servers_up drop
    cd "$root"
    step "Tests"
    cargo nextest run --locked --no-fail-fast 2>&1 | tee "$logs/nextest.log" || code=$?
    step "Examples in documentation"
    cargo test --locked --doc 2>&1 | tee "$logs/doc.log" || code=$?
    step "Summary"
    ignored
    rings "$logs/nextest.log" "$logs/doc.log"
    say "  not run: the tests of the lake, which compile a query engine; make test-lake runs them"
    return "$code"
}

# The lake is no default member: its query engine takes longer to compile than everything else together.
lake() {
    local code=0
    build
    fetch_nextest
    servers_up drop
    cd "$root"
    step "Tests of the lake"
    cargo nextest run --locked -p tailwater-lake --no-fail-fast 2>&1 | tee "$logs/nextest.log" || code=$?
    return "$code"
}

# The reader's tests against every other major version; the distribution's own is that of `run`.
postgres() {
    local version tests code=0
    build
    fetch_nextest
    servers_up drop
    cd "$root"
    for version in "${postgres_versions[@]}"; do
        TAILWATER_POSTGRES_VERSION=${version%%.*}
        fetch_postgres "$TAILWATER_POSTGRES_VERSION"
        step "Tests of the reader on Postgres ${version%.*}"
        stop postgres
        rm -rf "$data/postgres"
        start_server postgres
        TAILWATER_TEST_POSTGRES_PROGRAMS=$(postgres_programs) # for the servers that tests start themselves
        export TAILWATER_TEST_POSTGRES_PROGRAMS
        tests=$reader_at_a_server
        ((TAILWATER_POSTGRES_VERSION >= 15)) || tests="$tests & not test(/_from_postgres_15_on$/)"
        cargo nextest run --locked --no-fail-fast -E "$tests" || code=$?
    done
    return "$code"
}

# The index's tests against the last release of the major version before; the newest is that of `run`.
opensearch() {
    local code=0
    build
    install_tests
    TAILWATER_OPENSEARCH_VERSION=2
    servers_up drop
    # Servers that somebody kept have the newest.
    [[ $(opensearch_now) = "$opensearch_2_version" ]] || replace_opensearch
    step "Tests of the index on OpenSearch $(opensearch_now)"
    cd "$root"
    cargo nextest run --locked --no-fail-fast -E "$tests_with_an_index" 2>&1 | tee "$logs/opensearch-2.log" || code=$?
    step "Summary"
    beyond_the_core
    if [[ ${TAILWATER_KEEP:-0} = 1 ]]; then
        TAILWATER_OPENSEARCH_VERSION=
        replace_opensearch
    fi
    return "$code"
}

# The artifact of 2.19 that can be fetched has none of the modules beside the core, and what needs one cannot run on it.
beyond_the_core() {
    say "  This 2.19 has the modules of the core only: no scaled_float, no analyzers of languages, no scripts, no _reindex."
    say "  No test needs one of these, and none was left out."
}

replace_opensearch() {
    stop opensearch
    rm -rf "$data/opensearch"
    install_servers
    start_server opensearch
}

tests_with_an_index='(package(tailwater-sinks-search) & binary(it))
    | (package(tailwater-topics-registry) & binary(it) & test(/^live::/))
    | (package(tailwater) & binary(it) & test(/^(live|repair)::/))'

# Not what has no server, or one of its own.
reader_at_a_server='package(tailwater-cdc) & binary(it)
    & not test(/^(capture|debezium|decode|loops|live::(brokers|connections|failover))::/)'

# The whole plan and the world around it are those of the short form in `make test`.
gauntlet() {
    build
    fetch_nextest
    servers_up drop
    cd "$root"
    step "Gauntlet"
    TAILWATER_GAUNTLET=${TAILWATER_GAUNTLET:-freezes=100,kills=300,cuts=200,faults=400} \
        cargo nextest run --locked --profile gauntlet -p tailwater-tests --test gauntlet --no-capture
}

# The tests are those of the short form; only how often differs. Each prints a row of the table.
gauntlet_reader() {
    local code=0
    build
    fetch_nextest
    servers_up drop
    cd "$root"
    step "Gauntlet of the reader"
    TAILWATER_GAUNTLET=${TAILWATER_GAUNTLET:-kills=300,hits=5,restarts=20,freezes=10,points=13} \
        TAILWATER_TEST_CUTS=${TAILWATER_TEST_CUTS:-340} \
        TAILWATER_TEST_OUTAGE_S=${TAILWATER_TEST_OUTAGE_S:-600} \
        TAILWATER_TEST_BROKER_KILLS=${TAILWATER_TEST_BROKER_KILLS:-20} \
        cargo nextest run --locked --profile gauntlet --no-fail-fast --success-output final \
        -E 'package(tailwater-cdc) and test(/live::(gauntlet|faults::brokers|link)/)' 2>&1 |
        tee "$logs/gauntlet-reader.log" || code=$?
    step "Result"
    say "| torment | seed | faults | transactions | records | lost | duplicated | out of order |"
    say "| --- | --- | --- | --- | --- | --- | --- | --- |"
    sed -nE 's/^ *(\| .* \|)$/\1/p' "$logs/gauntlet-reader.log"
    return "$code"
}

fuzz() {
    install_build_packages
    fetch_nextest
    cd "$root"
    step "Fuzzing"
    TAILWATER_FUZZ_S=${TAILWATER_FUZZ_S:-600} cargo nextest run --locked --profile gauntlet --no-capture \
        -E 'package(tailwater-cdc) and test(no_input_makes_it_panic)'
}

# What is marked so that it does not run by itself, each with its reason.
ignored() {
    grep -rn --include='*.rs' --exclude-dir=target '^ *#\[ignore' . |
        sed -nE 's#^\./([^:]*:[0-9]+):.*"(.*)".*#  not run by itself: \1 (\2)#p' || true
}

install_tests() {
    step "Compiling tests"
    fetch_nextest
    (cd "$root" && cargo nextest run --locked --no-run) ||
        die "the tests do not compile." "The compiler's messages are above."
}

[[ $# = 1 ]] || die "usage: test.sh run|lake|postgres|opensearch|gauntlet|gauntlet-reader|fuzz|servers|down"
lock
case $1 in
    run) run ;;
    lake) lake ;;
    postgres) postgres ;;
    opensearch) opensearch ;;
    gauntlet) gauntlet ;;
    gauntlet-reader) gauntlet_reader ;;
    fuzz) fuzz ;;
    servers)
        build
        servers_up keep
        say
        say "source $TAILWATER_WORLD/env   # then, for example: cargo nextest run -p tailwater-cdc"
        ;;
    down) down ;;
    *) die "\`$1\` is none of run, lake, postgres, opensearch, gauntlet, gauntlet-reader, fuzz, servers, down" ;;
esac
