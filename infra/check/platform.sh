#!/usr/bin/env bash
# What runs Tailwater elsewhere: overlays, compose, images, rules, dashboard. usage: platform.sh quick|cluster|images|all
#
#   quick    renders, schemas, policies, names, rules, metrics, compose files; needs Python and seconds
#   cluster  applies every overlay twice to a real API server on loopback; needs Go, and minutes the first time
#   images   builds the images and brings the compose file up; needs root, Go, and a quarter of an hour the first time
set -euo pipefail
TAILWATER_WORLD=${TAILWATER_PLATFORM_WORLD:-.world-platform}
source "$(dirname "${BASH_SOURCE[0]}")/../native/settings.sh"
platform=$root/infra/check/platform
source "$native/say.sh"
source "$native/process.sh"
source "$native/packages.sh"
source "$native/parts.sh"
source "$platform/parts.sh"
source "$platform/overlays.sh"
source "$platform/cluster.sh"
source "$platform/engine.sh"
source "$platform/images.sh"

overlays=(dev kind prod)
rendered=$TAILWATER_WORLD/rendered

quick() {
    step "Platform tools"
    fetch_quick_tools
    say "  all there ($TAILWATER_PARTS)"
    step "Scripts"
    if has shellcheck; then (cd "$root" && shellcheck -x infra/check/platform.sh infra/check/platform/*.sh infra/check/platform/standins/*/entrypoint infra/image/healthy); else say "  shellcheck is not installed"; fi
    step "Overlays"
    render
    schemas
    policies
    configurations
    bucket_job
    names
    step "Rules and dashboard"
    rules
    step "Compose files and Dockerfile"
    compose_files
    step "Documentation"
    documented
}

# Every test, policy and function that docs/defects-covered.md names is there.
documented() {
    local name count=0
    # shellcheck disable=SC2016 # backticks as Markdown has them
    while read -r name; do
        count=$((count + 1))
        grep -rqE --include='*.rs' --include='*.py' --include='*.sh' --exclude-dir=target "(fn|def) ${name//-/_}\\b|^${name//-/_}\\(\\) \\{" \
            "$root"/{cdc,cli,infra,services,sinks,tests,topics} || die "docs/defects-covered.md names \`$name\`, which is nowhere."
    done < <(grep -oE '`[a-z][a-z_-]+`' "$root/docs/defects-covered.md" | tr -d '`' | sort -u)
    say "  $count tests and policies that are named are there"
}

rules() {
    local observability=$root/infra/observability
    quietly "promtool check rules" "Look at the lines above." promtool check rules "$observability/rules/tailwater.yaml"
    quietly "promtool check config" "Look at the lines above." promtool check config --syntax-only "$observability/prometheus.yml"
    # Debian's promtool knows no Kubernetes; where the targets come from is left out for it.
    sed '/kubernetes_sd_configs:/,/namespaces:/d' "$root/k8s/components/observability/prometheus.yml" >"$TAILWATER_WORLD/prometheus.yml"
    quietly "promtool check config" "Look at the lines above." promtool check config --syntax-only "$TAILWATER_WORLD/prometheus.yml"
    quietly "promtool test rules" "Look at the lines above." promtool test rules "$observability/rules/tailwater_test.yaml"
    python "$platform/metrics.py" "$root" "$TAILWATER_WORLD/expressions.yaml" "$(exposed)" ||
        die "Rules, dashboard and metrics do not fit together."
    quietly "promtool check rules" "An expression of the dashboard cannot be parsed." \
        promtool check rules "$TAILWATER_WORLD/expressions.yaml"
    say "  $(grep -c 'alert: ' "$observability/rules/tailwater.yaml") alerts fire when they should and are silent when they should"
}

# exposed: a file with the metrics of the binary, where it is built and can say them; otherwise nothing, and the list
# in infra/observability/metrics.tsv stands alone.
exposed() {
    local list=$TAILWATER_WORLD/exposed.tsv
    if "$bin/tailwater" config metrics >"$list" 2>/dev/null; then echo "$list"; fi
}

compose_files() {
    local file
    quietly hadolint "Look at the lines above." hadolint "$root/infra/image/Dockerfile"
    python "$platform/compose.py" "$root" || die "The compose file does not keep its promises."
    if go_is_new; then
        fetch "compose-parser-$compose_parser_version" make_compose_parser
        for file in compose.yaml "compose.yaml $root/infra/compose.s3-embedded.yaml"; do
            # shellcheck disable=SC2086 # two files are two words
            quietly "the compose parser" "Look at the lines above." "$(part "compose-parser-$compose_parser_version")/compose-parser" $root/infra/$file
        done
        say "  the compose parser takes both forms"
    else
        say "  Go 1.24 is not installed: the compose parser did not run"
    fi
}

cluster() {
    step "Kubernetes API server"
    go_is_new || die "the API server is built with Go 1.26 or newer, and it is not installed."
    fetch_quick_tools
    fetch "control-plane-$kubernetes_version" make_control_plane
    render
    trap cluster_down EXIT
    cluster_up
    apply_all
    cluster_down
    trap - EXIT
}

[[ $# = 1 ]] || die "usage: platform.sh quick|cluster|images|all"
lock_platform() {
    mkdir -p "$TAILWATER_WORLD" "$logs" "$data"
    exec 9>"$TAILWATER_WORLD/lock"
    flock -n 9 || die "another platform check is running in $TAILWATER_WORLD; wait until it is done."
}
lock_platform
case $1 in
    quick) quick ;;
    cluster) cluster ;;
    images) images ;;
    all)
        quick
        cluster
        images
        ;;
    *) die "\`$1\` is none of quick, cluster, images, all" ;;
esac
