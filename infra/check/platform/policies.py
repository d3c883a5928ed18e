"""What every overlay has to keep, beyond being valid.

usage: policies.py OVERLAY RENDERED.yaml      checks one rendered overlay
       policies.py --fixtures FIXTURES FOLDER  changes the overlays rendered in FOLDER as FIXTURES says; each change must be found

A policy is a function that yields one sentence a violation. Its name is the policy's name, its first line what it wants.
"""

import copy
import re
import sys

import yaml

POLICIES = {}


def policy(function):
    POLICIES[function.__name__.replace("_", "-")] = function
    return function


class Overlay:
    """Rendered objects and the questions policies ask of them."""

    def __init__(self, name, objects):
        self.name = name
        self.objects = [o for o in objects if o]
        self.in_cluster_stores = name != "prod"

    def of(self, *kinds):
        return [o for o in self.objects if o["kind"] in kinds]

    def find(self, kind, name):
        return next((o for o in self.of(kind) if o["metadata"]["name"] == name), None)

    def workloads(self):
        return self.of("Deployment", "StatefulSet", "Job")

    def pods(self):
        """Workload and pod template of everything that runs."""
        return [(w, w["spec"]["template"]) for w in self.workloads()]

    def catalog(self):
        """Topics (name to partitions) and sinks (name to declaration) as this overlay declares them."""
        data = (self.first_config_map("catalog") or {}).get("data", {})
        documents = [d for key, text in data.items() if key.endswith(".yaml") for d in yaml.safe_load_all(text) if d]
        topics = {d["name"]: d.get("partitions", 1) for d in documents if d["kind"] == "Topic"}
        return topics, {d["name"]: d for d in documents if d["kind"] == "Sink"}

    def first_config_map(self, prefix):
        return next((o for o in self.of("ConfigMap") if named(o, prefix)), None)


def named(workload, name):
    """Whether it has this name, with or without a hash behind it."""
    return re.fullmatch(re.escape(name) + r"(-[a-z0-9]{10})?", workload["metadata"]["name"]) is not None


def title(o):
    return f"{o['kind']} {o['metadata']['name']}"


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


def labels(template):
    return template["metadata"].get("labels", {})


def matches(selector, pod_labels):
    if any(pod_labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    for e in selector.get("matchExpressions") or []:
        if e["operator"] == "In" and pod_labels.get(e["key"]) not in e["values"]:
            return False
    return True


def words(template):
    return [str(w) for c in containers(template) for w in c.get("command", []) + c.get("args", [])]


def sink_of(template):
    """The sink whose worker this is."""
    found = words(template)
    return found[found.index("run") + 1] if found[:2] == ["sinks", "run"] else None


def needs(overlay, template):
    """The stores that a pod of ours works with, told by what it is asked to do."""
    found = words(template)
    images = [c["image"].split("/")[-1].split(":")[0].split("@")[0] for c in containers(template)]
    if "tailwater-marketplace" in images:
        return {"postgres"}
    if found[:2] in (["cdc", "run"], ["topics", "apply"]):
        return {"postgres", "kafka"}
    if found[:2] == ["sinks", "apply"]:
        return {"postgres", "kafka", "s3", "opensearch"}
    if sink_of(template):
        declared = overlay.catalog()[1].get(sink_of(template), {})
        return {"kafka", {"archive": "s3", "search": "opensearch"}.get(declared.get("type"), "?")}
    if "mc" in images:
        return {"s3"}
    return set()


STORES = {"postgres": ("postgres", 5432), "kafka": ("kafka", 9092), "s3": ("minio", 9000), "opensearch": ("opensearch", 9200)}
SERVICES = ["catalog-service", "inventory-service", "orders-service", "payments-service"]


@policy
def whole(overlay):
    """An overlay holds every workload of the line."""
    wanted = [("Deployment", "reader")] + [("Deployment", name) for name in SERVICES]
    wanted += [("Deployment", f"{sink}-sink") for sink in overlay.catalog()[1]]
    wanted += [("Job", name) for name in ("migrate", "topics", "bucket", "sinks")]
    if overlay.in_cluster_stores:
        wanted += [("StatefulSet", app) for app, _ in STORES.values()]
    for kind, name in wanted:
        if not any(named(o, name) for o in overlay.of(kind)):
            yield f"there is no {kind} {name}"
    for config in ("catalog", "stores"):
        if not overlay.first_config_map(config):
            yield f"there is no ConfigMap {config}"


@policy
def one_reader(overlay):
    """There is one reader, replaced and never doubled: nothing scales it, nothing keeps it from being moved."""
    reader = overlay.find("Deployment", "reader")
    if not reader:
        return
    if reader["spec"].get("replicas") != 1:
        yield f"reader has {reader['spec'].get('replicas')} replicas; a slot has one reader"
    if reader["spec"].get("strategy", {}).get("type") != "Recreate":
        yield "reader is not replaced by `Recreate`; an update would run two readers"
    for scaler in overlay.of("HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["name"] == "reader":
            yield f"{title(scaler)} scales the reader; a slot has one reader"
    for budget in overlay.of("PodDisruptionBudget"):
        if matches(budget["spec"]["selector"], labels(reader["spec"]["template"])):
            yield f"{title(budget)} holds the only reader; its node could not be drained"


@policy
def sinks_fit_partitions(overlay):
    """A sink has no more workers than its widest topic has partitions, and each declared sink has its workers."""
    topics, sinks = overlay.catalog()
    for deployment in overlay.of("Deployment"):
        sink = sink_of(deployment["spec"]["template"])
        if sink is None:
            continue
        if sink not in sinks:
            yield f"{title(deployment)} runs sink {sink}, which the catalog does not declare"
            continue
        widest = max((topics.get(topic, 0) for topic in sinks[sink]["topics"]), default=0)
        counts = {f"{title(deployment)}": deployment["spec"].get("replicas", 0)}
        for scaler in overlay.of("HorizontalPodAutoscaler"):
            if scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]:
                counts[title(scaler)] = scaler["spec"]["maxReplicas"]
        for where, count in counts.items():
            if count > widest:
                yield f"{where} allows {count} workers of sink {sink}, whose widest topic has {widest} partitions"


@policy
def sinks_have_writers(overlay):
    """No sink reads a topic that nobody writes, and sinks and Jobs agree on the bucket."""
    topics, sinks = overlay.catalog()
    bucket = (overlay.first_config_map("stores") or {"data": {}})["data"].get("S3_BUCKET")
    for name, sink in sinks.items():
        for topic in sink["topics"]:
            if topic not in topics:
                yield f"sink {name} reads topic {topic}, which the catalog does not declare"
        if sink["type"] == "archive" and sink["archive"]["bucket"] != bucket:
            yield f"sink {name} writes to bucket {sink['archive']['bucket']}, and the bucket Job makes {bucket}"


@policy
def disruption_budgets(overlay):
    """Everything that may have several pods has a budget that covers it and never blocks a drain."""
    for deployment in overlay.of("Deployment"):
        if deployment["metadata"]["name"] == "reader":
            continue
        pod = labels(deployment["spec"]["template"])
        if not any(matches(b["spec"]["selector"], pod) for b in overlay.of("PodDisruptionBudget")):
            yield f"{title(deployment)} has no disruption budget"
    for budget in overlay.of("PodDisruptionBudget"):
        spec = budget["spec"]
        if not spec.get("maxUnavailable") or "minAvailable" in spec:
            yield f"{title(budget)} must say `maxUnavailable` of at least 1; any other form can block a drain for ever"
        if not any(matches(spec["selector"], labels(t)) for _, t in overlay.pods()):
            yield f"{title(budget)} covers no pod"


@policy
def probes(overlay):
    """Whatever runs all the time says whether it has started, lives, and is ready; ours by /live and /ready."""
    for workload, template in overlay.pods():
        if workload["kind"] == "Job":
            continue
        for container in containers(template):
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe not in container:
                    yield f"{title(workload)}: {container['name']} has no {probe}"
            if container["image"].split("/")[-1].split(":")[0] == "tailwater" and "readinessProbe" in container:
                for probe, path in (("livenessProbe", "/live"), ("readinessProbe", "/ready")):
                    http = container.get(probe, {}).get("httpGet", {})
                    if (http.get("path"), http.get("port")) != (path, "admin"):
                        yield f"{title(workload)}: {probe} must ask {path} on port admin"
            live, ready = container.get("livenessProbe"), container.get("readinessProbe")
            if live and ready and live.get("httpGet") and live["httpGet"] == ready.get("httpGet") and overlay_is_ours(container):
                yield f"{title(workload)}: liveness and readiness ask the same; an unready pod would be killed"


def overlay_is_ours(container):
    return container["image"].split("/")[-1].startswith("tailwater")


@policy
def resources(overlay):
    """Every container says how much it needs and how much it may take."""
    for workload, template in overlay.pods():
        for container in containers(template):
            for part in ("requests", "limits"):
                for resource in ("cpu", "memory"):
                    if not container.get("resources", {}).get(part, {}).get(resource):
                        yield f"{title(workload)}: {container['name']} has no {part}.{resource}"


@policy
def restricted(overlay):
    """Pods run as nobody in particular, write nowhere but on mounts, and may do nothing a process need not do."""
    for workload, template in overlay.pods():
        spec, where = template["spec"], title(workload)
        reasons = template["metadata"].get("annotations", {})
        security = spec.get("securityContext", {})
        if not security.get("runAsNonRoot"):
            yield f"{where}: runAsNonRoot is not set"
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{where}: seccompProfile is not RuntimeDefault"
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(field):
                yield f"{where}: {field} is set"
        if spec.get("automountServiceAccountToken") is not False and "tailwater.dev/uses-api" not in reasons:
            yield f"{where}: a token of the API server is mounted; say in `tailwater.dev/uses-api` what for"
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{where}: volume {volume['name']} is a path of the node"
        for container in containers(template):
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False:
                yield f"{where}: {container['name']} may gain privileges"
            if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
                yield f"{where}: {container['name']} keeps capabilities"
            if own.get("privileged"):
                yield f"{where}: {container['name']} is privileged"
            if not own.get("readOnlyRootFilesystem") and "tailwater.dev/writes-root" not in reasons:
                yield f"{where}: {container['name']} may write to its root file system; say in `tailwater.dev/writes-root` why"
    namespace = overlay.of("Namespace")
    if len(namespace) != 1 or namespace[0]["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce the restricted pod security standard"


@policy
def pinned_images(overlay):
    """Every image has a version, and comes from a registry that still has it."""
    for workload, template in overlay.pods():
        for container in containers(template):
            image = container["image"]
            name, _, tag = image.split("@")[0].rpartition(":") if ":" in image.split("@")[0].split("/")[-1] else (image, "", "")
            if "@sha256:" not in image and (not tag or tag == "latest"):
                yield f"{title(workload)}: image {image} has no version"
            if re.match(r"(docker\.io/)?(minio|bitnami)/", name):
                yield f"{title(workload)}: image {image} is gone from its registry"


@policy
def data_on_claims(overlay):
    """What has to outlive a pod stands on a claim; an emptyDir is small and for scratch only."""
    scratch = re.compile(r"/tmp|/dev/shm|/var/run/.+")
    for workload, template in overlay.pods():
        empty = {v["name"]: v["emptyDir"] for v in template["spec"].get("volumes", []) if "emptyDir" in v}
        for container in containers(template):
            for mount in container.get("volumeMounts", []):
                if mount["name"] in empty and not scratch.fullmatch(mount["mountPath"]):
                    yield f"{title(workload)}: {mount['mountPath']} is on an emptyDir and gone with the pod"
        for name, volume in empty.items():
            if "sizeLimit" not in (volume or {}):
                yield f"{title(workload)}: emptyDir {name} has no sizeLimit"
        if workload["kind"] == "StatefulSet":
            claims = {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])}
            mounted = {m["name"] for c in containers(template) for m in c.get("volumeMounts", [])}
            if not claims & mounted:
                yield f"{title(workload)} keeps nothing on a claim"


SECRETS = {
    "postgres-credentials": {"username", "password"},
    "minio-credentials": {"accesskey", "secretkey"},
    "opensearch-credentials": {"username", "password"},
    "grafana-credentials": {"username", "password"},
}


@policy
def secrets(overlay):
    """Secrets have the agreed names and keys. An overlay brings all it uses, or none and says which must be there."""
    brought = {s["metadata"]["name"]: set(s.get("data", {})) | set(s.get("stringData", {})) for s in overlay.of("Secret")}
    for name, keys, where in sorted(references(overlay)):
        if keys not in SECRETS.get(name, set()):
            yield f"{where} uses key {keys} of Secret {name}, which is none of the agreed ones"
        elif overlay.name != "prod" and keys not in brought.get(name, set()):
            yield (
                f"{where} uses key {keys} of Secret {name}, and this overlay does not bring it; add it to secretGenerator, "
                f"or create it: kubectl create secret generic {name} {' '.join(f'--from-literal={k}=…' for k in sorted(SECRETS[name]))}"
            )
    if overlay.name == "prod" and brought:
        yield f"prod holds Secret {', '.join(sorted(brought))}; passwords of production have no place in a repository"


def references(overlay):
    for workload, template in overlay.pods():
        for container in containers(template):
            for variable in container.get("env", []):
                ref = variable.get("valueFrom", {}).get("secretKeyRef")
                if ref:
                    yield ref["name"], ref["key"], title(workload)


@policy
def no_plain_secrets(overlay):
    """No password stands in a configuration or an environment variable."""
    secret = re.compile(r"(password|secret_key|secretkey|token)", re.I)
    for config in overlay.of("ConfigMap"):
        for key, text in config.get("data", {}).items():
            for line in text.splitlines():
                found = re.match(r"\s*\"?([A-Za-z_]*(?:password|secret_key|secret))\"?\s*[:=]\s*(\S+)", line, re.I)
                if found and not found[2].strip("\"'").startswith("${"):
                    yield f"{title(config)}: {key} holds a value for {found[1]}"
    for workload, template in overlay.pods():
        for container in containers(template):
            for variable in container.get("env", []):
                if secret.search(variable["name"]) and "value" in variable:
                    yield f"{title(workload)}: {variable['name']} is given in clear"


@policy
def network(overlay):
    """Nothing may talk to anything by default; a pod reaches the stores it works with and no other."""
    rules = overlay.of("NetworkPolicy")
    denies = [r for r in rules if r["spec"]["podSelector"] == {} and not r["spec"].get("ingress") and not r["spec"].get("egress")]
    if not any(set(r["spec"].get("policyTypes", [])) == {"Ingress", "Egress"} for r in denies):
        yield "there is no policy that denies everything by default"
    for workload, template in overlay.pods():
        ours = needs(overlay, template)
        pod = labels(template)
        reached = set()
        for rule in rules:
            if "Egress" in rule["spec"].get("policyTypes", []) and matches(rule["spec"]["podSelector"], pod):
                for egress in rule["spec"].get("egress", []):
                    reached |= store_of(overlay, egress, rule)
        if pod.get("app.kubernetes.io/component") in ("store", "observability"):
            ours = set()
        for store in sorted(ours - reached):
            yield f"{title(workload)} works with {store} and may not reach it"
        for store in sorted(reached - ours):
            yield f"{title(workload)} may reach {store} and does not work with it"
        if pod.get("app.kubernetes.io/component") != "observability":
            for rule in rules:
                if matches(rule["spec"]["podSelector"], pod) and any(not e.get("to") for e in rule["spec"].get("egress", []) or []):
                    yield f"{title(workload)} may reach any address by {title(rule)}"
    for rule in rules:
        for ingress in rule["spec"].get("ingress", []) or []:
            if not ingress.get("from"):
                yield f"{title(rule)} lets anybody in"


def store_of(overlay, egress, rule):
    """The stores that an egress rule opens: by the pods it names, or by its own name when they are outside."""
    found = set()
    for store, (app, _) in STORES.items():
        for peer in egress.get("to", []):
            selector = peer.get("podSelector")
            if selector is not None and not peer.get("namespaceSelector") and matches(selector, {"app.kubernetes.io/name": app, "app.kubernetes.io/component": "store"}):
                found.add(store)
            if "ipBlock" in peer and rule["metadata"]["name"] == f"to-{store}":
                if peer["ipBlock"]["cidr"].endswith("/0"):
                    found |= set(STORES)
                found.add(store)
    return found


@policy
def jobs(overlay):
    """A Job is named by all that it does, is tried again, and goes away; so an apply never meets one it cannot change."""
    for job in overlay.of("Job"):
        where, spec = title(job), job["spec"]
        if not re.search(r"-[bcdfghkmt0-9]{10}$", job["metadata"]["name"]):
            yield f"{where} has no content hash in its name; the next change of it could not be applied"
        if not spec.get("ttlSecondsAfterFinished"):
            yield f"{where} has no ttlSecondsAfterFinished"
        if not spec.get("backoffLimit") or spec["template"]["spec"].get("restartPolicy") != "OnFailure":
            yield f"{where} is not tried again when a store is not up yet"
        copied = set(job["metadata"].get("annotations", {}).values())
        for volume in spec["template"]["spec"].get("volumes", []):
            config = overlay.find("ConfigMap", volume.get("configMap", {}).get("name"))
            for key, text in (config or {}).get("data", {}).items():
                if text not in copied:
                    yield f"{where} mounts {key} of {title(config)}, which its name does not cover"
        for container in containers(spec["template"]):
            if container.get("envFrom") or any("configMapKeyRef" in v.get("valueFrom", {}) for v in container.get("env", [])):
                yield f"{where} takes variables from a ConfigMap, which its name does not cover"
            for variable in container.get("env", []):
                if variable.get("value") == "":
                    yield f"{where}: {variable['name']} is empty"
            if any(re.search(r"\bsleep\b", word) for word in container.get("command", []) + container.get("args", [])):
                yield f"{where} waits by `sleep`; what it needs is either there or it fails and is tried again"


@policy
def private(overlay):
    """Nothing of it is open to the world: no public bucket, no load balancer."""
    for workload, template in overlay.pods():
        for word in words(template):
            if re.search(r"anonymous\s+set\S*\s+(public|download|upload)|policy\s+set\s+(public|download|upload)|--acl\s+public", word):
                yield f"{title(workload)} opens a bucket to the public"
    for service in overlay.of("Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{title(service)} is a {service['spec']['type']}"


@policy
def autoscaled(overlay):
    """What an autoscaler scales says no number of replicas itself, and the autoscaler names something that is there."""
    for scaler in overlay.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        workload = overlay.find(target["kind"], target["name"])
        if not workload:
            yield f"{title(scaler)} scales {target['kind']} {target['name']}, which is not there"
        elif "replicas" in workload["spec"]:
            yield f"{title(workload)} says `replicas` beside {title(scaler)}; each apply would undo the other"


@policy
def references_resolve(overlay):
    """Whatever one object names is there: ConfigMaps and their keys, pods behind Services, ports behind probes."""
    for workload, template in overlay.pods():
        where = title(workload)
        if workload["kind"] != "Job" and not matches(workload["spec"]["selector"], labels(template)):
            yield f"{where}: its selector does not match its own pods"
        used = [v["configMap"]["name"] for v in template["spec"].get("volumes", []) if "configMap" in v]
        used += [r["configMapRef"]["name"] for c in containers(template) for r in c.get("envFrom", []) if "configMapRef" in r]
        for name in used:
            if not overlay.find("ConfigMap", name):
                yield f"{where} uses ConfigMap {name}, which is not there"
        volumes = {v["name"] for v in template["spec"].get("volumes", [])}
        volumes |= {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])}
        for container in containers(template):
            ports = {p.get("name") for p in container.get("ports", [])} | {p["containerPort"] for p in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                for kind in ("httpGet", "tcpSocket"):
                    port = container.get(probe, {}).get(kind, {}).get("port")
                    if port is not None and port not in ports:
                        yield f"{where}: {probe} asks port {port}, which {container['name']} does not open"
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{where} mounts {mount['name']}, which is no volume of it"
    for service in overlay.of("Service"):
        behind = [t for _, t in overlay.pods() if matches({"matchLabels": service["spec"]["selector"]}, labels(t))]
        if not behind:
            yield f"{title(service)} has no pods behind it"
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            opened = {p.get("name") for t in behind for c in containers(t) for p in c.get("ports", [])}
            opened |= {p["containerPort"] for t in behind for c in containers(t) for p in c.get("ports", [])}
            if behind and target not in opened:
                yield f"{title(service)} leads to port {target}, which its pods do not open"
    stores = (overlay.first_config_map("stores") or {}).get("data", {})
    if overlay.in_cluster_stores:
        for key in ("POSTGRES_HOST", "KAFKA_BROKERS", "S3_ENDPOINT", "OPENSEARCH_URL"):
            host = re.sub(r"^https?://", "", stores.get(key, "")).split(":")[0]
            if not overlay.find("Service", host):
                yield f"ConfigMap stores: {key} names {host}, which is no Service here"


def violations(overlay):
    return [(name, sentence) for name, check in POLICIES.items() for sentence in check(overlay)]


def load(name, path):
    with open(path, encoding="utf-8") as file:
        return Overlay(name, list(yaml.safe_load_all(file)))


def change(objects, steps):
    """Applies the steps of a fixture: each selects an object and sets, removes or appends at a path, or removes it whole."""
    for step in steps:
        kind, _, name = step["at"].partition("/")
        targets = [o for o in objects if o["kind"] == kind and (named(o, name) or not name)]
        assert targets, f"no {step['at']} to change"
        target = targets[0]
        if "path" not in step:
            if "add" in step:
                objects.append(step["add"])
            else:
                objects.remove(target)
            continue
        *way, last = [int(p) if p.isdigit() else p.replace("~1", "/") for p in step["path"].strip("/").split("/")]
        for part in way:
            target = target[part] if isinstance(target, list) else target.setdefault(part, {})
        if "replace" in step:
            before, after = step["replace"]
            assert before in target[last], f"{before!r} is not in it"
            target[last] = target[last].replace(before, after)
        elif "append" in step:
            target[last].append(step["append"])
        elif "set" in step:
            target[last] = step["set"]
        else:
            del target[last]


def fixtures(path, folder):
    with open(path, encoding="utf-8") as file:
        cases = list(yaml.safe_load(file))
    failed = 0
    for case in cases:
        overlay = load(case["overlay"], f"{folder}/{case['overlay']}.yaml")
        objects = copy.deepcopy(overlay.objects)
        change(objects, case["change"])
        found = violations(Overlay(case["overlay"], objects))
        # Hashes in names change with every change of the overlay.
        found = [(name, re.sub(r"-[bcdfghkmt0-9]{10}\b", "-HASH", sentence)) for name, sentence in found]
        if (case["policy"], case["says"]) not in found:
            failed += 1
            print(f"policy {case['policy']} did not say: {case['says']}\n  it was said: {found}", file=sys.stderr)
    for name in sorted(set(POLICIES) - {case["policy"] for case in cases}):
        failed += 1
        print(f"policy {name} has no fixture that it refuses", file=sys.stderr)
    print(f"  {len(POLICIES)} policies refuse {len(cases)} broken overlays, each with its sentence")
    return failed


def main(arguments):
    if arguments[:1] == ["--fixtures"]:
        return 1 if fixtures(arguments[1], arguments[2]) else 0
    name, path = arguments
    found = violations(load(name, path))
    for rule, sentence in found:
        print(f"{name}: {rule}: {sentence}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
