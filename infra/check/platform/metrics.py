"""Rules and dashboards speak only of what the binaries expose.

usage: metrics.py ROOT EXPRESSIONS.yaml [EXPOSED.tsv]
       metrics.py --scraped ROOT SCRAPED…

Compares every metric and label in the rules and the dashboard with infra/observability/metrics.tsv (name, kind, labels),
and that list with the sources, or with EXPOSED.tsv where the binary printed one. Writes all expressions of the dashboard
as rules, so that promtool parses them. With --scraped it holds what running processes answered against the list.
"""

import json
import re
import sys
from pathlib import Path

import yaml

# What Prometheus adds: from the scrape configuration, and the two series it makes itself.
TARGET_LABELS = {"job", "instance", "workload"}
OWN = {"up": set()}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
FUNCTIONS = re.compile(r"\b[a-z_]+\s*\(")
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool", "vector", "scalar"}


def read_list(path):
    """Series name to labels, histograms by their three series."""
    series = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, kind, labels = (line.split("\t") + [""])[:3]
        labels = set(filter(None, labels.split(",")))
        for suffix in SUFFIXES.get(kind, ("",)):
            series[name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return series


def recorded(rules):
    """Series that recording rules make; ours have no labels."""
    return {rule["record"]: set() for group in rules["groups"] for rule in group["rules"] if "record" in rule}


def jobs(root):
    """The names of jobs in the scrape configuration; that of Kubernetes makes the same ones out of components."""
    config = yaml.safe_load((root / "infra/observability/prometheus.yml").read_text(encoding="utf-8"))
    named = {job["job_name"] for job in config["scrape_configs"]}
    cluster = yaml.safe_load((root / "k8s/components/observability/prometheus.yml").read_text(encoding="utf-8"))
    kept = next(r for r in cluster["scrape_configs"][0]["relabel_configs"] if r.get("action") == "keep")["regex"]
    made = {"tailwater-" + pair.split(";")[1] for pair in kept.split("|")}
    assert made == named, f"compose scrapes {sorted(named)}, Kubernetes {sorted(made)}"
    return named


def problems(expression, series, known_jobs=frozenset()):
    """What an expression asks for that nobody exposes."""
    for job in re.findall(r'\bjob="([^"]*)"', expression):
        if known_jobs and job not in known_jobs:
            yield f"there is no job {job}"
    expression = re.sub(r"\$__rate_interval", "5m", expression)
    matchers = {}
    for name, body in re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}", expression):
        matchers.setdefault(name, set()).update(re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", body))
    bare = re.sub(r"\{[^}]*\}", " ", expression)
    bare = re.sub(r'"[^"]*"', " ", bare)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    groupings = {label.strip() for body in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", bare) for label in body.split(",") if label.strip()}
    bare = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\boffset\s+\d+[smhd]", " ", bare)
    bare = FUNCTIONS.sub(" (", bare)
    names = set(re.findall(r"(?<![\w.])[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - WORDS
    known = set()
    for name in sorted(names):
        if name not in series:
            yield f"nobody exposes {name}"
            continue
        known |= series[name]
        for label in sorted(matchers.get(name, set()) - series[name] - TARGET_LABELS):
            yield f"{name} has no label {label}"
    if names & set(series):
        for label in sorted(groupings - known - TARGET_LABELS):
            yield f"nothing in it has the label {label}, by which it groups"


def expressions(root):
    """Place and expression of everything that asks Prometheus."""
    rules = yaml.safe_load((root / "infra/observability/rules/tailwater.yaml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield f"rule {rule.get('alert') or rule['record']}", rule["expr"], rule
    for path in sorted((root / "infra/observability/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.name}, panel “{panel['title']}”", target["expr"], target


def used_labels(rule):
    """Labels that a text about the result mentions."""
    texts = [*rule.get("annotations", {}).values(), rule.get("legendFormat", "")]
    return {label for text in texts for label in re.findall(r"\$labels\.(\w+)|\{\{(\w+)\}\}", text) for label in label if label}


def kept_labels(expression, series):
    """Labels the result may have: those grouped by, or all of the series when nothing is aggregated away."""
    groupings = re.findall(r"\bby\s*\(([^)]*)\)", expression)
    if groupings:
        return {label.strip() for body in groupings for label in body.split(",")}
    if re.search(r"\b(sum|max|min|avg|count|absent)\s*\(", expression):
        return set()
    names = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", expression)) & set(series)
    return TARGET_LABELS.union(*(series[name] for name in names))


def from_sources(root):
    """Every metric name that stands in a source file of the binaries."""
    name = re.compile(r'"(tailwater_[a-z0-9_]+_(?:total|bytes|left|seconds|records|offset|paused|partitions|lsn)|tailwater_ready)"')
    crates = ["runtime", "cdc", "sinks", "services", "cli", "topics"]
    files = (path for crate in crates for path in (root / crate).rglob("*.rs") if "tests" not in path.parts)
    return {found for path in files for found in name.findall(path.read_text(encoding="utf-8"))}


def alerts(root):
    """Each alert is tested to fire and to be silent, and has its page."""
    rules = yaml.safe_load((root / "infra/observability/rules/tailwater.yaml").read_text(encoding="utf-8"))
    tests = yaml.safe_load((root / "infra/observability/rules/tailwater_test.yaml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    page = (root / "docs/operations.md").read_text(encoding="utf-8")
    for alert in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
        name = alert["alert"]
        outcomes = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == name}
        if outcomes != {True, False}:
            yield f"alert {name} is not tested both to fire and to be silent"
        if f"\n### {name}\n" not in page or alert["annotations"].get("runbook") != f"docs/operations.md#{name.lower()}":
            yield f"alert {name} has no page in docs/operations.md, or does not lead to it"


# What must be noticed; each was once a panel or an alert of somebody that could never show anything.
WRONG = {
    'rate(tailwater_marketplace_requests_total{status_code=~"5.."}[5m])': "tailwater_marketplace_requests_total has no label status_code",
    "sum by (consumer_group) (kafka_consumergroup_lag)": "nobody exposes kafka_consumergroup_lag",
    "sum by (group) (tailwater_sink_lag_records)": "nothing in it has the label group, by which it groups",
    "histogram_quantile(0.9, sum by (le) (rate(tailwater_cdc_stage_seconds[5m])))": "nobody exposes tailwater_cdc_stage_seconds",
    "http_requests_total": "nobody exposes http_requests_total",
    'up{job="tailwater-sinks"} == 0': "there is no job tailwater-sinks",
}


def missed(series, known_jobs):
    return [expression for expression, problem in WRONG.items() if problem not in problems(expression, series, known_jobs)]


def scraped(root, *files):
    """Every series that a process answered is in the list with exactly its labels."""
    series = read_list(Path(root) / "infra/observability/metrics.tsv")
    found, seen = [], set()
    for line in (line for path in files for line in Path(path).read_text(encoding="utf-8").splitlines()):
        matched = re.match(r"(tailwater_\w+)(?:\{(.*)\})? ", line)
        if not matched:
            continue
        name, labels = matched[1], set(re.findall(r'(\w+)="', matched[2] or ""))
        seen.add(name)
        if name not in series:
            found.append(f"a process answers {name}, which is not in metrics.tsv")
        elif labels != series[name]:
            found.append(f"{name} has the labels {sorted(labels)}, metrics.tsv says {sorted(series[name])}")
    for sentence in sorted(set(found)):
        print(sentence, file=sys.stderr)
    print(f"  {len(seen)} series of running processes are as listed")
    return 1 if found or not seen else 0


def main(root, out, exposed=None):
    root, found, count = Path(root), [], 0
    known_jobs = jobs(root)
    listed_path = root / "infra/observability/metrics.tsv"
    series = read_list(listed_path) | OWN
    series |= recorded(yaml.safe_load((root / "infra/observability/rules/tailwater.yaml").read_text(encoding="utf-8")))
    asked = []
    for place, expression, rule in expressions(root):
        count += 1
        found += [f"{place}: {problem}" for problem in problems(expression, series, known_jobs)]
        for label in sorted(used_labels(rule) - kept_labels(expression, series)):
            found.append(f"{place}: its text names label {label}, which the result does not have")
        asked.append({"record": f"check:expression_{count}", "expr": expression.replace("$__rate_interval", "5m")})
    Path(out).write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": asked}]}), encoding="utf-8")

    lines = listed_path.read_text(encoding="utf-8").splitlines()
    listed = {line.split("\t")[0] for line in lines}
    if exposed:
        # The services are another binary; their names stand in the sources only.
        printed = Path(exposed).read_text(encoding="utf-8").splitlines()
        same = lambda all_lines: {tuple((line.split("\t") + [""])[:3]) for line in all_lines if not line.startswith("tailwater_marketplace_")}
        found += [f"metrics.tsv lacks or differs from what the binary says: {' '.join(line)}" for line in sorted(same(printed) - same(lines))]
        found += [f"metrics.tsv says what the binary does not: {' '.join(line)}" for line in sorted(same(lines) - same(printed))]
    found += [f"metrics.tsv has {name}, which no source names" for name in sorted(listed - from_sources(root))]
    found += alerts(root)
    found += [f"this check did not notice: {expression}" for expression in missed(series, known_jobs)]
    for sentence in found:
        print(sentence, file=sys.stderr)
    source = "as the binary says them" if exposed else "as metrics.tsv lists them; no binary to ask"
    print(f"  {count} expressions ask for {len(listed)} metrics and their labels only ({source})")
    return 1 if found else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--scraped"]:
        sys.exit(scraped(*sys.argv[2:]))
    sys.exit(main(*[argument for argument in sys.argv[1:] if argument]))
