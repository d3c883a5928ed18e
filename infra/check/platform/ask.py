"""Asks a running Prometheus everything that rules and dashboard ask.

usage: ask.py URL EXPRESSIONS.yaml WORKLOADS

Waits until as many workloads as told are scraped, then puts every expression. Each must be answered; most have something
to show after traffic, and no alert may fire but those on what is not there.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml


def ask(url, path, **parameters):
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}{path}?{query}", timeout=10) as answer:
        return json.load(answer)["data"]


def main(url, expressions, workloads):
    deadline = time.monotonic() + 120
    while True:
        try:
            scraped = ask(url, "/api/v1/query", query="count(up == 1)")["result"]
            if scraped and int(scraped[0]["value"][1]) == int(workloads):
                break
        except (urllib.error.URLError, ConnectionError):
            pass
        if time.monotonic() > deadline:
            print(f"not all of {workloads} workloads are scraped after two minutes: {ask(url, '/api/v1/query', query='up')['result']}", file=sys.stderr)
            return 1
        time.sleep(2)
    time.sleep(35)  # two more rounds, so that rates have something to compare
    with open(expressions, encoding="utf-8") as file:
        rules = yaml.safe_load(file)["groups"][0]["rules"]
    shown = sum(bool(ask(url, "/api/v1/query", query=rule["expr"].replace("[5m]", "[2m]"))["result"]) for rule in rules)
    firing = [alert["labels"]["alertname"] for alert in ask(url, "/api/v1/alerts")["alerts"] if alert["state"] == "firing"]
    print(f"  Prometheus scrapes {workloads} workloads; {len(rules)} expressions are answered, {shown} have something to show, no alert fires")
    if firing:
        print(f"alerts fire although everything works: {firing}", file=sys.stderr)
    if shown < len(rules) // 2:
        print("most expressions have nothing to show", file=sys.stderr)
    return 1 if firing or shown < len(rules) // 2 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
