"""One question to one engine over files, and what it cost. usage: peer.py ENGINE QUESTION FOLDER LOW HIGH

The files, only the columns that the question needs, and their types are told to the engine, so that it neither looks for
them nor guesses. The cost is that of the question alone, without starting the engine."""
import json
import resource
import sys
import time

engine, question, folder, low, high = sys.argv[1:6]
files = f"{folder}/data/bench.product/"
ABSENT = 999999999


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def duckdb():
    import duckdb as engine

    database = engine.connect()
    database.execute("SET threads = 2")
    columns = {
        "head": "op_code: 'VARCHAR', kafka_offset: 'BIGINT', commit_lsn: 'BIGINT'",
        "absent": "kafka_key: 'VARCHAR'",
        "range": "commit_lsn: 'BIGINT', tw_seq: 'BIGINT'",
    }[question]
    table = f"read_json('{files}dt=*/p*.jsonl.gz', format = 'newline_delimited', compression = 'gzip', hive_partitioning = false, columns = {{{columns}}})"
    sql = {
        "head": f"SELECT op_code, count(*), max(kafka_offset), sum(commit_lsn) FROM {table} GROUP BY 1 ORDER BY 1",
        "absent": f"SELECT count(*) FROM {table} WHERE kafka_key = '{{\"id\":{ABSENT}}}'",
        "range": f"SELECT count(*), max(tw_seq) FROM {table} WHERE commit_lsn BETWEEN {low} AND {high}",
    }[question]
    return lambda: [list(row) for row in database.execute(sql).fetchall()]


def datafusion():
    import datafusion as engine
    import pyarrow

    context = engine.SessionContext(engine.SessionConfig().with_target_partitions(2))
    whole = pyarrow.int64()
    schema = {
        "head": [("op_code", pyarrow.string()), ("kafka_offset", whole), ("commit_lsn", whole)],
        "absent": [("kafka_key", pyarrow.struct([("id", whole)]))],
        "range": [("commit_lsn", whole), ("tw_seq", whole)],
    }[question]
    context.register_json("t", files, schema=pyarrow.schema(schema), file_extension=".jsonl.gz", file_compression_type="gz")
    sql = {
        "head": "SELECT op_code, count(*), max(kafka_offset), sum(commit_lsn) FROM t GROUP BY 1 ORDER BY 1",
        "absent": f"SELECT count(*) FROM t WHERE kafka_key['id'] = {ABSENT}",
        "range": f"SELECT count(*), max(tw_seq) FROM t WHERE commit_lsn BETWEEN {low} AND {high}",
    }[question]
    return lambda: [list(row.values()) for batch in context.sql(sql).collect() for row in batch.to_pylist()]


ask = {"duckdb": duckdb, "datafusion": datafusion}[engine]()
before, began = cpu(), time.monotonic()
rows = ask()
answer = {"cpu": cpu() - before, "wall": time.monotonic() - began, "rows": rows}
answer["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
json.dump(answer, sys.stdout)
