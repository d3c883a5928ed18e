# shellcheck shell=bash
# A container engine: the one that is there, or dockerd started by hand with everything it keeps in this world's folder.
# Where no registry can be reached, images are stood in for by ones made here. They carry this machine's certificates
# and must never be pushed or saved.

engine_folder=$data/docker

docker_up() {
    local policy
    if docker info >/dev/null 2>&1; then
        say "  using the container engine that is there"
        return 0
    fi
    ((EUID == 0)) || die "no container engine answers, and only root can start one." "Set DOCKER_HOST to one that is there."
    has dockerd || want docker.io "runs the images"
    has iptables || want iptables "lets containers reach each other"
    has debootstrap || want debootstrap "makes a base image"
    install_missing
    mkdir -p "$engine_folder"
    export DOCKER_HOST=unix://$engine_folder/docker.sock
    # dockerd closes forwarding for everybody else; what it was is put back at the end.
    policy=$(iptables -S FORWARD | head -n 1)
    [[ -e $engine_folder/forward ]] || echo "${policy##* }" >"$engine_folder/forward"
    if ! is_running dockerd; then
        start dockerd nice -n 10 dockerd --data-root "$engine_folder/images" --exec-root "$engine_folder/exec" \
            --pidfile "$engine_folder/dockerd.pid" -H "$DOCKER_HOST"
    fi
    await dockerd docker info
}

docker_down() {
    [[ ${DOCKER_HOST:-} = "unix://$engine_folder/docker.sock" ]] || return 0
    stop dockerd
    iptables -P FORWARD "$(cat "$engine_folder/forward")" 2>/dev/null || true
    ip link delete docker0 2>/dev/null || true
    # The chains that it leaves behind; nobody else has any of that name here, or its engine would have been used.
    iptables-save | grep -vi docker | iptables-restore || true
}

# have IMAGE: here already, or pulled.
have() { docker image inspect "$1" >/dev/null 2>&1 || docker pull -q "$1" >/dev/null 2>&1; }

# A base image of Debian's own packages under the name that the Dockerfile says.
base_images() {
    local folder=$engine_folder/debian context mirror
    if ! have debian:bookworm-slim; then
        say "  no registry answers: making stand-ins for base images"
        rm -rf "$folder"
        # shellcheck disable=SC2016 # the format is apt's
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Origin: Debian' | head -n 1)
        quietly debootstrap "Look at the lines above." nice -n 10 debootstrap --variant=minbase --include=ca-certificates bookworm "$folder" "$mirror"
        cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/ca-certificates.crt"
        tar -C "$folder" -c . | docker import --change 'CMD ["bash"]' - debian:bookworm-slim >/dev/null
        rm -rf "$folder"
    fi
    if ! have rust:1.95-slim-bookworm; then
        [[ $(rustc --version) = "rustc 1.95."* ]] || die "the stand-in for rust:1.95-slim-bookworm needs Rust 1.95 here."
        tar -C "$(rustc --print sysroot)" --exclude=share/doc --exclude=lib/rustlib/src -c . | docker import - tailwater-standin/rust >/dev/null
        context=$(mktemp -d "$TAILWATER_WORLD/context.XXXXXX")
        cp /etc/ssl/certs/ca-certificates.crt "$context"
        cat >"$context/Dockerfile" <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=tailwater-standin/rust / /usr/local/rust/
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PATH=/usr/local/rust/bin:$PATH CARGO_HOME=/usr/local/cargo
DOCKERFILE
        quietly "docker build of a Rust base" "Look at the lines above." docker build -q -t rust:1.95-slim-bookworm "$context"
        rm -r "$context"
    fi
}

# Stand-ins for the stores, made of the programs that the native world runs. They take the variables and arguments of
# the images they stand in for, so the compose file is tried as it is.
store_images() {
    local java
    have postgres:17.11-bookworm && have apache/kafka:4.1.1 && have opensearchproject/opensearch:3.6.0 && have "$minio_image" && return 0
    say "  making stand-ins for the stores"
    install_server_packages
    fetch_server_parts
    fetch_minio
    java=$(java_at_least 21)
    standin postgres
    cp -r "$(part "kafka-$kafka_version")/libs" "$(standin_context kafka)/libs"
    cp -rL "${java%/bin/java}" "$(standin_context kafka)/java"
    standin kafka
    cp -r "$(part "$(opensearch_part)")" "$(standin_context opensearch)/opensearch"
    cp -rL "${java%/bin/java}" "$(standin_context opensearch)/java"
    standin opensearch
    cp "$(part "minio-$minio_version")/minio" "$root/infra/image/healthy" "$(standin_context minio)"
    standin minio
    cp "$(part "promtool-$(dpkg --print-architecture)")/prometheus" "$(standin_context prometheus)"
    standin prometheus
    export TAILWATER_PROMETHEUS_IMAGE=tailwater-standin/prometheus
    export TAILWATER_POSTGRES_IMAGE=tailwater-standin/postgres TAILWATER_KAFKA_IMAGE=tailwater-standin/kafka
    export TAILWATER_OPENSEARCH_IMAGE=tailwater-standin/opensearch TAILWATER_MINIO_IMAGE=tailwater-standin/minio
}

standin_context() {
    mkdir -p "$engine_folder/context/$1"
    echo "$engine_folder/context/$1"
}

standin() {
    local context
    context=$(standin_context "$1")
    cp -r "$platform/standins/$1/." "$context"
    quietly "docker build of a stand-in for $1" "Look at the lines above." docker build -q -t "tailwater-standin/$1" "$context"
    rm -rf "$context"
}
