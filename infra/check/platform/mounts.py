"""Writes the ConfigMaps of a rendered overlay as the folders that pods see. usage: mounts.py RENDERED.yaml FOLDER"""

import re
import sys
from pathlib import Path

import yaml


def main(rendered, folder):
    for item in yaml.safe_load_all(Path(rendered).read_text(encoding="utf-8")):
        if item and item["kind"] == "ConfigMap":
            place = Path(folder) / re.sub(r"-[a-z0-9]{10}$", "", item["metadata"]["name"])
            place.mkdir(parents=True)
            for name, text in item["data"].items():
                (place / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
