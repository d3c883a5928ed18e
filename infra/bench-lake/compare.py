"""The lake beside DuckDB and stock DataFusion, in one run. usage: compare.py LAKE FOLDER RECORDS RAW ROUNDS

Ours is the whole program, its start and the store's HTTP included; theirs the question alone over local files. The least
of several rounds counts. Ends with 1 where a goal is missed."""
import csv
import io
import json
import os
import pathlib
import subprocess
import sys
import time

lake, folder, records, raw, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
low = 100_000 + int(records * 0.5) * 64
high = 100_000 + int(records * 0.51) * 64
QUESTIONS = {
    "head": "SELECT op_code, count(*), max(kafka_offset), sum(commit_lsn) FROM bench_product GROUP BY 1 ORDER BY 1",
    "absent": "SELECT count(*) FROM bench_product WHERE kafka_key = '{\"id\":999999999}'",
    "range": f"SELECT count(*), max(tw_seq) FROM bench_product WHERE commit_lsn BETWEEN {low} AND {high}",
}
GOALS = {"head": 2, "absent": 50, "range": 20}
MEMORY = 256 << 20


def ours(question):
    began = time.monotonic()
    command = [lake, "query", QUESTIONS[question], "-o", "csv", "--threads", "2"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder)
    out, said = child.stdout.read().decode(), child.stderr.read().decode()
    _, status, used = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(said)
    rows = [[int(c) if c.lstrip("-").isdigit() else c for c in row] for row in csv.reader(io.StringIO(out))][1:]
    return {"cpu": used.ru_utime + used.ru_stime, "wall": time.monotonic() - began, "rows": rows, "rss": used.ru_maxrss * 1024, "said": said.strip().splitlines()[0]}


def theirs(engine, question):
    here = pathlib.Path(__file__).parent / "peer.py"
    done = subprocess.run([sys.executable, str(here), engine, question, folder, str(low), str(high)], capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.decode())
    return json.loads(done.stdout)


print(f"{records:,} records, {raw / 1e9:.2f} GB of lines; the least CPU of {rounds} rounds")
print(f"{'question':<8} {'engine':<12} {'CPU s':>8} {'wall s':>8} {'GB/CPU s':>9} {'peak MiB':>9}")
missed = []
for question, goal in GOALS.items():
    told = {"lake": [], "duckdb": [], "datafusion": []}
    for _ in range(rounds):
        told["lake"].append(ours(question))
        for engine in ("duckdb", "datafusion"):
            told[engine].append(theirs(engine, question))
    best = {engine: min(rounds, key=lambda round: round["cpu"]) for engine, rounds in told.items()}
    for engine, round in best.items():
        print(f"{question:<8} {engine:<12} {round['cpu']:>8.3f} {round['wall']:>8.2f} {raw / 1e9 / max(round['cpu'], 1e-6):>9.2f} {round['rss'] / 2**20:>9.0f}")
    for engine in ("duckdb", "datafusion"):
        if best[engine]["rows"] != best["lake"]["rows"]:
            sys.exit(f"{engine} answers {best[engine]['rows']}, the lake {best['lake']['rows']}")
    ratio = min(best["duckdb"]["cpu"], best["datafusion"]["cpu"]) / best["lake"]["cpu"]
    peak = max(round["rss"] for round in told["lake"])
    verdict = "ok" if ratio >= goal and peak <= MEMORY else "MISSED"
    if verdict != "ok":
        missed.append(question)
    print(f"{question:<8} ratio to the better of them {ratio:.1f}, goal {goal}; peak {peak / 2**20:.0f} MiB, goal {MEMORY >> 20}: {verdict}")
    print(f"         {best['lake']['said']}")
sys.exit(1 if missed else 0)
