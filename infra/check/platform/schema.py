"""Holds rendered overlays against the API's own schemas, unknown fields included.

usage: schema.py VERSION… -- FILE_WITHOUT_ENDING…
"""

import sys

import kubernetes_validate
import yaml


def main(arguments):
    border = arguments.index("--")
    versions, files = arguments[:border], arguments[border + 1 :]
    failed = count = 0
    for path in files:
        with open(f"{path}.yaml", encoding="utf-8") as file:
            objects = [o for o in yaml.safe_load_all(file) if o]
        for version in versions:
            for item in objects:
                count += 1
                try:
                    kubernetes_validate.validate(item, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    failed += 1
                    name = f"{item['kind']} {item['metadata']['name']}"
                    print(f"{path}: {name}: {'.'.join(map(str, error.path))}: {error.message}", file=sys.stderr)
    # It must also see something wrong, or it checks nothing.
    broken = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"replicaz": 1}}
    try:
        kubernetes_validate.validate(broken, versions[0], strict=True)
        print("an unknown field was not noticed", file=sys.stderr)
        failed += 1
    except kubernetes_validate.ValidationError:
        pass
    print(f"  {count} objects fit the schemas of Kubernetes {', '.join(versions)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
