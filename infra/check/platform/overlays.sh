# shellcheck shell=bash
# Overlays: rendered, held against the API's schemas and our policies; names that follow content.

render() {
    local overlay
    mkdir -p "$rendered"
    for overlay in "${overlays[@]}"; do
        kubectl kustomize "$root/k8s/overlays/$overlay" >"$rendered/$overlay.yaml" || die "overlay $overlay does not render."
        say "  $overlay renders: $(grep -c '^kind:' "$rendered/$overlay.yaml") objects"
    done
}

schemas() {
    python "$platform/schema.py" "${schema_versions[@]}" -- "${overlays[@]/#/$rendered/}" || die "An overlay is not what the API takes."
}

policies() {
    local overlay
    for overlay in "${overlays[@]}"; do
        python "$platform/policies.py" "$overlay" "$rendered/$overlay.yaml" || die "Overlay $overlay breaks a policy."
    done
    python "$platform/policies.py" --fixtures "$platform/broken.yaml" "$rendered" || die "A policy does not see what it should."
}

# The configurations and the catalog that each overlay mounts, read by the product itself: whole with the variables that
# the pods get, and refused by line and variable without them.
configurations() {
    local tailwater=$bin/tailwater overlay file said code count=0
    if [[ ! -x $tailwater ]]; then
        say "  $tailwater is not built: nobody read the configurations"
        return 0
    fi
    for overlay in "${overlays[@]}"; do
        rm -rf "${rendered:?}/$overlay"
        python "$platform/mounts.py" "$rendered/$overlay.yaml" "$rendered/$overlay"
        for file in "$rendered/$overlay"/*-config/tailwater.yaml; do
            count=$((count + 1))
            code=0
            said=$(env -i "$tailwater" --config "$file" plan -f "$rendered/$overlay/catalog" 2>&1) || code=$?
            [[ $code = 2 && $said = *"$file:"*"the environment variable"*"is not set"* ]] ||
                die "$file without its variables should be refused with code 2, and ends with $code:" "$said"
            with_variables "$file" "$rendered/$overlay/catalog" >"$file.said" 2>&1 &
        done
    done
    wait
    for file in "$rendered"/*/*-config/tailwater.yaml; do
        # Nobody answers at these addresses; that it asks means that it has read everything.
        grep -q "^comparing [0-9]* topics and [0-9]* sinks with" "$file.said" || die "$file cannot be read:" "$(<"$file.said")"
        ! grep -q canary "$file.said" || die "a secret of $file is repeated."
    done
    say "  $count configurations and ${#overlays[@]} catalogs are read by the product; without a secret it names the variable"
}

with_variables() {
    timeout 5 env -i POSTGRES_HOST=127.0.0.1 POSTGRES_PORT=1 POSTGRES_DATABASE=market POSTGRES_USERNAME=a POSTGRES_PASSWORD=canary \
        KAFKA_BROKERS=127.0.0.1:1 S3_ENDPOINT=http://127.0.0.1:1 S3_REGION=us-east-1 S3_ACCESS_KEY=a S3_SECRET_KEY=canary \
        OPENSEARCH_URL=http://127.0.0.1:1 OPENSEARCH_USERNAME=a OPENSEARCH_PASSWORD=canary \
        "$bin/tailwater" --config "$1" plan -f "$2"
}

# The bucket Job's script with a client that only pretends: it fails on a bucket that is open, and on one it cannot make.
bucket_job() {
    local stub=$TAILWATER_WORLD/stub script permission code said
    mkdir -p "$stub"
    script=$(python -c 'import sys, yaml
for item in yaml.safe_load_all(open(sys.argv[1])):
    if item["kind"] == "Job" and item["metadata"]["name"].startswith("bucket-"):
        print(item["spec"]["template"]["spec"]["containers"][0]["command"][2])' "$rendered/prod.yaml")
    cat >"$stub/mc" <<'MC'
#!/bin/sh
case $1 in
    mb) [ "$PERMISSION" != none ] ;;
    anonymous) echo "Access permission for \`$3\` is \`$PERMISSION\`" ;;
esac
MC
    chmod +x "$stub/mc"
    for permission in private download public custom none; do
        code=0
        said=$(env PATH="$stub:$PATH" PERMISSION=$permission S3_ENDPOINT=x S3_ACCESS_KEY=a S3_SECRET_KEY=canary S3_REGION=r \
            S3_BUCKET=events sh -euc "$script" 2>&1) || code=$?
        [[ $said != *canary* && (($permission = private && $code = 0) || ($permission != private && $code != 0)) ]] ||
            die "the bucket Job ends with code $code for a bucket that is $permission:" "$said"
    done
    say "  the bucket Job fails on a bucket that is open or cannot be made"
}

# A Job's name follows everything the Job does, in every overlay and by any kustomize.
names() {
    local copy before after variant
    copy=$(mktemp -d "$TAILWATER_WORLD/copy.XXXXXX")
    mkdir -p "$copy/infra" "$copy/topics/catalog"
    cp -r "$root/k8s" "$copy/k8s"
    cp -r "$root/infra/observability" "$copy/infra/observability"
    cp -r "$root/topics/catalog/market" "$copy/topics/catalog/market"
    before=$(job_names "$copy")
    [[ $before = "$(job_names "$copy")" ]] || die "Jobs change their names although nothing changed."
    # What is changed, the Jobs whose names must follow, and those that must not.
    while IFS='|' read -r variant file expression moved; do
        cp "$copy/$file" "$copy/kept"
        sed -i "$expression" "$copy/$file"
        ! cmp -s "$copy/kept" "$copy/$file" || die "the test of Job names changes nothing: $variant"
        after=$(job_names "$copy")
        mv "$copy/kept" "$copy/$file"
        [[ $(comm -13 <(echo "$before") <(echo "$after") | sed -E 's/-[a-z0-9]{10}$//' | paste -sd' ' -) = "$moved" ]] ||
            die "after a change of $variant other Jobs than these have new names: $moved" "before: ${before//$'\n'/ }; after: ${after//$'\n'/ }"
    done <<'CHANGES'
the partitions of a topic|topics/catalog/market/topics.yaml|0,/partitions: 3/s//partitions: 6/|sinks topics
a sink|topics/catalog/market/sinks.yaml|s/age: 5s/age: 6s/|sinks topics
the mapping of the index|topics/catalog/market/products.mapping.json|s/keyword/text/|sinks topics
the image|k8s/overlays/kind/kustomization.yaml|s/name: tailwater, newTag: local/name: tailwater, newTag: other/|sinks topics
the marketplace's image|k8s/overlays/kind/kustomization.yaml|s/name: tailwater-marketplace, newTag: local/name: tailwater-marketplace, newTag: other/|migrate
the address of Kafka|k8s/base/config/kustomization.yaml|s/kafka:9092/kafka:9093/|sinks topics
the address of Postgres|k8s/base/config/kustomization.yaml|s/POSTGRES_HOST=postgres/POSTGRES_HOST=other/|migrate sinks topics
the address of S3|k8s/base/config/kustomization.yaml|s#http://minio:9000#http://other:9000#|bucket sinks
the reader's configuration|k8s/base/config/reader/tailwater.yaml|s/^pipeline: market/pipeline: other/|topics
the archive's configuration|k8s/base/config/archive/tailwater.yaml|s/128MiB/64MiB/|
a limit of a Job|k8s/components/bootstrap/topics.yaml|s/128Mi/129Mi/|topics
CHANGES
    rm -r "$copy"
    say "  names of Jobs follow what they do, in 11 changes"
}

job_names() {
    kubectl kustomize "$1/k8s/overlays/kind" | awk '/^kind: Job/ { job = 1 } job && /^  name: / { print $2; job = 0 }' | sort
}

# apply_all: each overlay is applied twice to the cluster that is up; the API server's word counts.
apply_all() {
    local overlay namespace first second
    refused
    for overlay in "${overlays[@]}"; do
        namespace=$(awk '/^kind: Namespace/ { found = 1 } found && /^  name: / { print $2; exit }' "$rendered/$overlay.yaml")
        apply "$overlay" >/dev/null
        kubectl -n "$namespace" wait --for=condition=complete job --all --timeout=60s >/dev/null || die "Jobs of $overlay do not complete."
        for workload in $(kubectl -n "$namespace" get -o name deployments,statefulsets); do
            kubectl -n "$namespace" rollout status "$workload" --timeout=60s >/dev/null || die "$workload of $overlay does not roll out."
        done
        first=$(objects "$namespace")
        kubectl diff --server-side -f "$rendered/$overlay.yaml" >"$TAILWATER_WORLD/diff" ||
            die "a second apply of $overlay would change something:" "$(head -40 "$TAILWATER_WORLD/diff")"
        apply "$overlay" >/dev/null
        second=$(objects "$namespace")
        [[ $first = "$second" ]] || die "a second apply of $overlay changed something:" "$(diff <(echo "$first") <(echo "$second") | cut -c1-400)"
        say "  $overlay: applied twice, $(wc -l <<<"$first") objects, the second time without a change"
        changed_job "$overlay" "$namespace"
        drained "$overlay" "$namespace"
        kubectl delete namespace "$namespace" --wait --timeout=120s >/dev/null
    done
}

# apply OVERLAY: whatever the server warns of is a failure, the restricted pod security standard among it.
apply() {
    local said
    kubectl apply --server-side -f <(awk 'BEGIN { RS = "---\n" } /\nkind: Namespace\n/' "$rendered/$1.yaml") >/dev/null
    said=$(kubectl apply --server-side --dry-run=server -f "$rendered/$1.yaml" 2>&1) || die "the API server refuses overlay $1:" "$said"
    ! grep -i warning <<<"$said" >&2 || die "the API server warns of overlay $1."
    kubectl apply --server-side -f "$rendered/$1.yaml"
}

# A catalog that changed is applied beside what is there: a new Job, and no immutable field in the way.
changed_job() {
    local changed=$TAILWATER_WORLD/changed copy
    copy=$(mktemp -d "$TAILWATER_WORLD/copy.XXXXXX")
    mkdir -p "$copy/infra" "$copy/topics/catalog"
    cp -r "$root/k8s" "$copy/k8s"
    cp -r "$root/infra/observability" "$copy/infra/observability"
    cp -r "$root/topics/catalog/market" "$copy/topics/catalog/market"
    sed -i 's/^partitions: 3/partitions: 6/' "$copy/topics/catalog/market/topics.yaml" "$copy/k8s/overlays/prod/catalog/topics.yaml"
    kubectl kustomize "$copy/k8s/overlays/$1" >"$changed"
    rm -r "$copy"
    kubectl apply --server-side -f "$changed" >/dev/null || die "overlay $1 with another catalog cannot be applied over itself."
    [[ $(kubectl -n "$2" get jobs -o name | grep -c '/topics-') = 2 ]] || die "another catalog did not make another Job in $1."
    say "  $1: another catalog is applied over it"
}

# Nodes can be emptied one after the other although every workload has but few pods.
drained() {
    local node
    for node in node-1 node-2 node-3; do
        kubectl drain "$node" --ignore-daemonsets --delete-emptydir-data --timeout=60s >/dev/null 2>&1 || die "$node cannot be drained under $1."
        kubectl uncordon "$node" >/dev/null
    done
    say "  $1: every node can be drained"
}

# What the API server refuses: each would otherwise be found when it runs.
refused() {
    local name sentence said
    kubectl create namespace refused >/dev/null
    kubectl label namespace refused pod-security.kubernetes.io/enforce=restricted >/dev/null
    while IFS='|' read -r name expression sentence; do
        said=$(awk 'BEGIN { RS = "---\n" } /\nkind: (Deployment|Job)\n/ { printf "---\n%s", $0 }' "$rendered/kind.yaml" |
            sed -E "s/^  namespace: .*/  namespace: refused/; $expression" |
            kubectl apply --server-side --dry-run=server -f - 2>&1 || true)
        [[ $said = *"$sentence"* ]] || die "the API server did not say of $name: $sentence" "$said"
    done <<'REFUSED'
a misspelled field|s/readinessProbe:/readynessProbe:/|readynessProbe
a selector of other pods|/matchLabels:/,+1s/name: reader/name: raeder/|`selector` does not match template `labels`
a Job that always restarts|s/restartPolicy: OnFailure/restartPolicy: Always/|Required value: valid values: "OnFailure", "Never"
a pod that is root|s/runAsNonRoot: true/runAsNonRoot: false/|runAsNonRoot != true
a limit below its request|s/memory: 384Mi/memory: 1Mi/|must be less than or equal to memory limit
REFUSED
    kubectl delete namespace refused --wait=false >/dev/null
    say "  the API server refuses five broken overlays"
}
