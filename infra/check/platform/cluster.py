"""Reads what `kubectl get -o json` prints. usage: cluster.py fingerprint < objects.json"""

import json
import sys


def fingerprint(objects):
    """One line an object: name, generation and resource version of what was asked for, not of what the cluster made of it."""
    for item in objects["items"]:
        meta = item["metadata"]
        spec = {key: value for key, value in item.items() if key not in ("metadata", "status")}
        yield "\t".join(
            [
                item["kind"],
                meta["name"],
                meta["uid"],
                str(meta.get("generation", 0)),
                json.dumps([meta.get("labels"), meta.get("annotations"), spec], sort_keys=True),
            ]
        )


if __name__ == "__main__":
    assert sys.argv[1:] == ["fingerprint"], __doc__
    print("\n".join(sorted(fingerprint(json.load(sys.stdin)))))
