# shellcheck shell=bash
# A real Kubernetes control plane on loopback, with nodes that only pretend: pods are scheduled and become ready, no
# container runs. Enough to see what the API server says of an overlay, and what a second apply changes.

: "${TAILWATER_ETCD_PORT:=12379}"
: "${TAILWATER_APISERVER_PORT:=16443}"

cluster=$data/cluster
control_plane() { part "control-plane-$kubernetes_version"; }

cluster_up() {
    local programs token log
    programs=$(control_plane)
    mkdir -p "$cluster/certs"
    claim etcd "$TAILWATER_ETCD_PORT" TAILWATER_ETCD_PORT
    claim "the API server" "$TAILWATER_APISERVER_PORT" TAILWATER_APISERVER_PORT
    (umask 077 && openssl genrsa -out "$cluster/accounts.key" 2048 2>/dev/null)
    openssl rsa -in "$cluster/accounts.key" -pubout -out "$cluster/accounts.pub" 2>/dev/null
    token=$(head -c 24 /dev/urandom | base64 | tr -dc a-zA-Z0-9)
    (umask 077 && echo "$token,admin,admin,system:masters" >"$cluster/tokens.csv")
    kubeconfig "$token" >"$cluster/kubeconfig"
    export KUBECONFIG=$cluster/kubeconfig
    start etcd "$programs/etcd" --data-dir "$cluster/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "http://127.0.0.1:$TAILWATER_ETCD_PORT" \
        --advertise-client-urls "http://127.0.0.1:$TAILWATER_ETCD_PORT" \
        --listen-peer-urls "http://127.0.0.1:$((TAILWATER_ETCD_PORT + 1))" \
        --initial-advertise-peer-urls "http://127.0.0.1:$((TAILWATER_ETCD_PORT + 1))" \
        --initial-cluster "default=http://127.0.0.1:$((TAILWATER_ETCD_PORT + 1))"
    await etcd listening "$TAILWATER_ETCD_PORT"
    start kube-apiserver "$programs/kube-apiserver" --etcd-servers="http://127.0.0.1:$TAILWATER_ETCD_PORT" \
        --bind-address=127.0.0.1 --secure-port="$TAILWATER_APISERVER_PORT" --cert-dir="$cluster/certs" \
        --authorization-mode=RBAC --token-auth-file="$cluster/tokens.csv" \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$cluster/accounts.pub" \
        --service-account-signing-key-file="$cluster/accounts.key" --service-cluster-ip-range=10.96.0.0/16 \
        --endpoint-reconciler-type=none
    await kube-apiserver kubectl get --raw /readyz
    start kube-controller-manager "$programs/kube-controller-manager" --kubeconfig="$KUBECONFIG" --leader-elect=false \
        --service-account-private-key-file="$cluster/accounts.key" --bind-address=127.0.0.1 \
        --secure-port=$((TAILWATER_APISERVER_PORT + 1)) --cert-dir="$cluster/certs"
    start kube-scheduler "$programs/kube-scheduler" --kubeconfig="$KUBECONFIG" --leader-elect=false \
        --bind-address=127.0.0.1 --secure-port=$((TAILWATER_APISERVER_PORT + 2)) --cert-dir="$cluster/certs"
    start kwok "$programs/kwok" --kubeconfig="$KUBECONFIG" --config="$programs/stages.yaml" --manage-all-nodes=true \
        --node-lease-duration-seconds=40
    nodes | kubectl apply -f - >/dev/null
    kubectl wait --for=condition=Ready node --all --timeout=60s >/dev/null
    await kube-controller-manager kubectl -n default get serviceaccount default
    say "  Kubernetes $kubernetes_version with 3 nodes"
}

cluster_down() {
    stop kwok kube-scheduler kube-controller-manager kube-apiserver etcd
    rm -rf "$cluster"
}

kubeconfig() {
    cat <<YAML
apiVersion: v1
kind: Config
clusters: [{ name: local, cluster: { server: "https://127.0.0.1:$TAILWATER_APISERVER_PORT", insecure-skip-tls-verify: true } }]
users: [{ name: admin, user: { token: "$1" } }]
contexts: [{ name: local, context: { cluster: local, user: admin } }]
current-context: local
YAML
}

nodes() {
    local number
    for number in 1 2 3; do
        cat <<YAML
---
apiVersion: v1
kind: Node
metadata:
  name: node-$number
  labels: { kubernetes.io/hostname: node-$number, kubernetes.io/os: linux, kubernetes.io/arch: amd64 }
status:
  allocatable: { cpu: "16", memory: 64Gi, pods: "110", ephemeral-storage: 200Gi }
  capacity: { cpu: "16", memory: 64Gi, pods: "110", ephemeral-storage: 200Gi }
YAML
    done
    # Claims need a class; nobody makes volumes here, so they are made beforehand.
    cat <<YAML
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: { name: standard, annotations: { storageclass.kubernetes.io/is-default-class: "true" } }
provisioner: kubernetes.io/no-provisioner
YAML
    for number in {1..20}; do
        cat <<YAML
---
apiVersion: v1
kind: PersistentVolume
metadata: { name: volume-$number }
spec:
  storageClassName: standard
  capacity: { storage: 50Gi }
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: { path: /nowhere }
YAML
    done
}

# objects NAMESPACE: what an apply could have changed, without what the cluster itself counts.
objects() {
    kubectl -n "$1" get -o json deployments,statefulsets,jobs,services,configmaps,secrets,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers,serviceaccounts,roles,rolebindings |
        python "$platform/cluster.py" fingerprint
}
