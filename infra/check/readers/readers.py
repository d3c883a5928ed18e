"""One reader over an archive as files. usage: readers.py READER FOLDER

Prints what it found as JSON: either the hash of all bytes, or the number of rows and the sum of their offsets."""
import glob
import gzip
import hashlib
import json
import sys

reader, folder = sys.argv[1], sys.argv[2]
pattern = f"{folder}/data/**/*.jsonl.gz"
files = sorted(glob.glob(pattern, recursive=True))


def python():
    digest = hashlib.sha256()
    for file in files:
        with gzip.open(file) as lines:
            digest.update(lines.read())
    return sys.version.split()[0], {"sha256": digest.hexdigest()}


def duckdb():
    import duckdb

    rows = duckdb.sql(
        f"SELECT count(*), sum(kafka_offset) FROM read_json('{pattern}', format = 'newline_delimited', "
        "columns = {kafka_offset: 'BIGINT'}, maximum_object_size = 16777216)"
    ).fetchall()[0]
    return duckdb.__version__, {"lines": rows[0], "offsets": int(rows[1])}


def polars():
    import polars

    rows, offsets = 0, 0
    for file in files:
        with gzip.open(file) as lines:
            found = polars.read_ndjson(lines.read(), schema={"kafka_offset": polars.Int64})
        rows, offsets = rows + found.height, offsets + found["kafka_offset"].sum()
    return polars.__version__, {"lines": rows, "offsets": offsets}


def chdb():
    import chdb

    said = chdb.query(
        f"SELECT count(), sum(kafka_offset) FROM file('{pattern}', JSONEachRow, 'kafka_offset Int64') "
        "SETTINGS input_format_skip_unknown_fields = 1",
        "CSV",
    )
    rows, offsets = str(said).strip().split(",")
    return chdb.engine_version, {"lines": int(rows), "offsets": int(offsets)}


def datafusion():
    import datafusion
    import pyarrow

    context = datafusion.SessionContext()
    schema = pyarrow.schema([("kafka_offset", pyarrow.int64())])
    days = [("dt", pyarrow.string())]
    context.register_json(
        "rows", f"{folder}/data/shop.stock/", schema=schema, file_extension=".jsonl.gz", file_compression_type="gz", table_partition_cols=days
    )
    found = context.sql("SELECT count(*) AS n, sum(kafka_offset) AS s FROM rows").to_pylist()[0]
    return datafusion.__version__, {"lines": found["n"], "offsets": found["s"]}


def spark():
    import pyspark
    from pyspark.sql import SparkSession

    session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    rows = session.read.schema("kafka_offset BIGINT").option("recursiveFileLookup", "true").json(f"{folder}/data")
    found = rows.selectExpr("count(*)", "sum(kafka_offset)").first()
    session.stop()
    return pyspark.__version__, {"lines": found[0], "offsets": found[1]}


version, found = globals()[reader]()
print(json.dumps({"version": str(version), **found}))
