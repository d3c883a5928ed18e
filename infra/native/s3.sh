# shellcheck shell=bash
# The S3 server: our own embedded endpoint, or MinIO.

s3_port=$TAILWATER_S3_PORT
minio_port=$TAILWATER_MINIO_PORT

s3_start() {
    claim "the S3 server" "$s3_port" TAILWATER_S3_PORT
    s3_keeps_its_kind
    case $TAILWATER_S3 in
        embedded)
            TAILWATER_S3_ACCESS_KEY=$s3_access_key TAILWATER_S3_SECRET_KEY=$s3_secret_key \
                start s3 "$bin/tailwater-s3" --listen "127.0.0.1:$s3_port" --data "$data/s3"
            ;;
        minio) run_minio s3 "$s3_port" ;;
    esac
}

# What one server has stored the other cannot read, and the archive must not seem empty.
s3_keeps_its_kind() {
    local kept
    [[ $TAILWATER_S3 = embedded || $TAILWATER_S3 = minio ]] ||
        die "TAILWATER_S3 is \`$TAILWATER_S3\`; it may be \`embedded\` or \`minio\`."
    mkdir -p "$data"
    kept=$(cat "$data/s3.kind" 2>/dev/null || echo "$TAILWATER_S3")
    [[ $kept = "$TAILWATER_S3" ]] ||
        die "this world keeps its archive in the $kept S3 server, and TAILWATER_S3 asks for $TAILWATER_S3." \
            "Set TAILWATER_S3=$kept, or remove the data with \`make clean\`."
    echo "$kept" >"$data/s3.kind"
}

s3_ready() { listening "$s3_port"; }

minio_start() {
    claim MinIO "$minio_port" TAILWATER_MINIO_PORT
    run_minio minio "$minio_port"
}

minio_ready() { http_ok "$minio_port" /minio/health/ready; }

# What it encrypts with where objects are to be encrypted: a name and 32 bytes that protect nothing.
minio_kms_key=tailwater:dGFpbHdhdGVyLXRhaWx3YXRlci10YWlsd2F0ZXItMzI=

# run_minio NAME PORT
run_minio() {
    mkdir -p "$data/$1"
    MINIO_ROOT_USER=$s3_access_key MINIO_ROOT_PASSWORD=$s3_secret_key \
        MINIO_BROWSER=off MINIO_UPDATE=off MINIO_CALLHOME_ENABLE=off MINIO_KMS_SECRET_KEY=$minio_kms_key \
        start "$1" "$(part "minio-$minio_version")/minio" server --quiet --address "127.0.0.1:$2" "$data/$1"
}
