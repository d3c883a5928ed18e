"""What the compose file promises beside being valid. usage: compose.py ROOT"""

import re
import sys
from pathlib import Path

import yaml


class Loader(yaml.SafeLoader):
    """Takes compose's own tags for what they stand before."""


def tagged(loader, _suffix, node):
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


Loader.add_multi_constructor("!", tagged)

# Megabytes that the services without a profile may take together.
CORE_MEMORY = 4096
ONCE = {"migrate", "apply"}


def plain(text):
    """A value with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))


def megabytes(limit):
    return int(limit[:-1]) * {"m": 1, "g": 1024}[limit[-1]]


def native_ports(root):
    """The ports of `make demo` and `make test`."""
    text = (root / "infra/native/settings.sh").read_text(encoding="utf-8")
    shifted = [int(p) for p in re.findall(r"\$\(\((\d+) \+ TAILWATER_PORT_SHIFT\)\)", text)]
    fixed = [int(p) for p in re.findall(r":=(1\d{4})\}", text)]
    return {p + shift for p in shifted for shift in (0, 1000)} | set(fixed)


def check(root):
    document = yaml.load((root / "infra/compose.yaml").read_text(encoding="utf-8"), Loader)
    services, volumes = document["services"], set(document["volumes"])
    taken, core = {}, 0
    for name, service in services.items():
        image = plain(service["image"])
        ours = "build" in service
        if not ours and "@sha256:" not in image and not re.search(r":v?[\w]*\d+\.\d+", image):
            yield f"{name}: image {image} has no version"
        if re.match(r"(docker\.io/)?(minio|bitnami)/", image):
            yield f"{name}: image {image} is gone from its registry"
        if ours and not (service.get("read_only") and service.get("cap_drop") == ["ALL"]):
            yield f"{name} may write to its root file system or keeps capabilities"
        if "mem_limit" not in service:
            yield f"{name} has no memory limit"
        elif not service.get("profiles") and name not in ONCE:
            core += megabytes(service["mem_limit"])
        once = name in ONCE or "tools" in service.get("profiles", [])
        if not once and not service.get("profiles") and "healthcheck" not in service:
            yield f"{name} has no health check"
        for dependency, condition in (service.get("depends_on") or {}).items():
            wanted = "service_completed_successfully" if dependency in ONCE else "service_healthy"
            if condition["condition"] != wanted:
                yield f"{name} does not wait until {dependency} is {wanted}"
        for port in map(plain, service.get("ports", [])):
            address, published, _ = port.rsplit(":", 2)
            if address != "127.0.0.1":
                yield f"{name} publishes port {published} beyond loopback"
            if published in taken:
                yield f"{name} and {taken[published]} publish the same port {published}"
            if int(published) in native_ports(root):
                yield f"{name} publishes port {published}, which the native world uses"
            taken[published] = name
        if any("${" not in str(port) for port in service.get("ports", [])):
            yield f"{name} publishes a port that cannot be set"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                if not (root / "infra" / source).exists():
                    yield f"{name} mounts {source}, which is not there"
                if not volume.endswith(":ro"):
                    yield f"{name} may write to {source}"
            elif source not in volumes:
                yield f"{name} uses volume {source}, which is not declared"
        data = [v for v in service.get("volumes", []) if v.split(":")[0] in volumes]
        if name in ("postgres", "kafka", "s3", "opensearch") and not data:
            yield f"{name} keeps nothing in a named volume"
    if core > CORE_MEMORY:
        yield f"the core may take {core} MB, more than {CORE_MEMORY}"
    for needed in ("postgres", "kafka", "s3", "opensearch", "apply", "reader", "lake", "product-search", "catalog", "orders"):
        if needed not in services:
            yield f"there is no service {needed}"
    scraped = (root / "infra/observability/prometheus.yml").read_text(encoding="utf-8")
    for host in re.findall(r'"([a-z-]+):\d+"', scraped):
        if host not in services:
            yield f"Prometheus scrapes {host}, which is no service"
    # The build's context leaves everything out that it does not name; a new member of the workspace has to be named.
    members = re.search(r"^members = \[(.*?)\]", (root / "Cargo.toml").read_text(encoding="utf-8"), re.S | re.M)[1]
    context = (root / "infra/image/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for member in re.findall(r'"([^"]+)"', members):
        if f"!{member.split('/')[0]}" not in context or member in context:
            yield f"the images are built without {member}; name it in infra/image/Dockerfile.dockerignore"
    if "wal_level=logical" not in services["postgres"]["command"]:
        yield "postgres does not write logical WAL"
    check.core = core


def main(root):
    found = list(check(Path(root)))
    for sentence in found:
        print(f"compose.yaml: {sentence}", file=sys.stderr)
    if not found:
        print(f"  compose.yaml: limits of the core add up to {check.core} MB; ports on loopback, none of the native world's")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
