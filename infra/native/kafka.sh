# shellcheck shell=bash
# One Apache Kafka process that is broker and controller.

kafka_port=$TAILWATER_KAFKA_PORT

kafka_start() {
    local folder=$data/kafka java classes
    java=$(java_at_least 17)
    classes="$(part "kafka-$kafka_version")/libs/*"
    claim Kafka "$kafka_port" TAILWATER_KAFKA_PORT
    claim "Kafka's controller" "$TAILWATER_KAFKA_CONTROLLER_PORT" TAILWATER_KAFKA_CONTROLLER_PORT
    mkdir -p "$folder"
    kafka_properties "$folder" >"$folder/server.properties"
    if [[ ! -s $folder/log/meta.properties ]]; then
        rm -rf "$folder/log"
        quietly "formatting Kafka's storage" "Look at the lines above." \
            "$java" -XX:TieredStopAtLevel=1 -cp "$classes" kafka.tools.StorageTool format \
            -t "$(head -c 16 /dev/urandom | base64 | tr '+/' 'ab' | cut -c1-22)" -c "$folder/server.properties"
    fi
    start kafka "$java" -Xms"$TAILWATER_KAFKA_HEAP" -Xmx"$TAILWATER_KAFKA_HEAP" -XX:+UseSerialGC \
        -Dlog4j2.configurationFile="$native/kafka/log4j2.properties" -cp "$classes" \
        kafka.Kafka "$folder/server.properties"
}

kafka_properties() {
    cat <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$TAILWATER_KAFKA_CONTROLLER_PORT
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$TAILWATER_KAFKA_CONTROLLER_PORT
log.dirs=$1/log
# One node holds everything once.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=3
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Topics are declared; a group of one need not wait for others.
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
# The demo compares everything that ever was, so nothing is deleted, and nothing compacted that is not full.
log.retention.ms=-1
log.roll.hours=8760
PROPERTIES
}

kafka_ready() { listening "$kafka_port"; }
