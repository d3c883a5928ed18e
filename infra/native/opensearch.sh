# shellcheck shell=bash
# One OpenSearch node, started without its launcher scripts: two JVMs fewer and ready in half the time.

opensearch_port=$TAILWATER_OPENSEARCH_PORT

opensearch_start() {
    local folder=$data/opensearch home java name of_version=()
    home=$(part "$(opensearch_part)")
    java=$(opensearch_java)
    if [[ $TAILWATER_OPENSEARCH_VERSION = 2 ]]; then
        of_version=(-Djava.security.manager=allow -cp "$home/lib/*")
    else
        of_version=(-XX:+AutoCreateSharedArchive -XX:SharedArchiveFile="$folder/classes/opensearch.jsa"
            -cp "$home/lib/*:$(echo "$home"/agent/opensearch-agent-bootstrap-*.jar)")
    fi
    claim OpenSearch "$opensearch_port" TAILWATER_OPENSEARCH_PORT
    claim "OpenSearch's transport" "$TAILWATER_OPENSEARCH_TRANSPORT_PORT" TAILWATER_OPENSEARCH_TRANSPORT_PORT
    # The node writes a key store beside its settings, so it gets a copy of them.
    for name in data log tmp classes; do mkdir -p "$folder/$name"; done
    [[ -d $folder/config ]] || cp -r "$home/config" "$folder/config"
    ((EUID != 0)) || chown -R postgres: "$folder"
    # C1 only and, where Java has it, a class archive for a quick start; the demo must also work on a nearly full disk.
    (cd "$folder" && start opensearch "${unprivileged[@]}" env HOME="$folder/tmp" "$java" \
        -Xms"$TAILWATER_OPENSEARCH_HEAP" -Xmx"$TAILWATER_OPENSEARCH_HEAP" -Xss1m \
        -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:MaxDirectMemorySize=128m \
        -Djna.nosys=true -Djna.tmpdir="$folder/tmp" -Djava.io.tmpdir="$folder/tmp" \
        -Dio.netty.noUnsafe=true -Dio.netty.noKeySetOptimization=true -Dio.netty.recycler.maxCapacityPerThread=0 \
        -Dlog4j.shutdownHookEnabled=false -Dlog4j2.disable.jmx=true -Djava.locale.providers=SPI,CLDR \
        -Dopensearch.path.home="$home" -Dopensearch.path.conf="$folder/config" \
        -Dopensearch.distribution.type=zip -Dopensearch.bundled_jdk=false "${of_version[@]}" \
        org.opensearch.bootstrap.OpenSearch \
        -Ehttp.port="$opensearch_port" -Etransport.port="$TAILWATER_OPENSEARCH_TRANSPORT_PORT" \
        -Enetwork.host=127.0.0.1 -Ediscovery.type=single-node \
        -Ecluster.routing.allocation.disk.threshold_enabled=false \
        -Epath.data="$folder/data" -Epath.logs="$folder/log")
}

opensearch_ready() { http_ok "$opensearch_port" "/_cluster/health?wait_for_status=yellow&timeout=1s"; }

# opensearch_now: the version that runs, as it says itself.
opensearch_now() { sed -nE 's/.*[^_]version\[([0-9.]+)\].*/\1/p' "$logs/opensearch.log" | tail -n 1; }
