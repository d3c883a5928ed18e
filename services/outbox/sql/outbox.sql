-- The outbox of one schema. `$schema` stands for its name. May be run again at any time.
--
-- Rows are only ever inserted. Days are partitions, so that old events go by dropping a table and not by deletes that
-- would be changes themselves; whatever has no day of its own falls into the default partition.

CREATE TABLE IF NOT EXISTS $schema.outbox (
    id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    aggregate_type text NOT NULL,
    aggregate_id text NOT NULL,
    event_type text NOT NULL,
    event_version smallint NOT NULL DEFAULT 1,
    partition_key text,
    payload jsonb NOT NULL,
    headers jsonb,
    correlation_id uuid,
    causation_id uuid,
    traceparent text,
    PRIMARY KEY (id, created_at),
    -- A row that no event can be made of must fail here, in the transaction of whoever writes it.
    CHECK (aggregate_type <> '' AND aggregate_id <> '' AND event_type <> '' AND partition_key <> ''),
    CHECK (jsonb_typeof(headers) = 'object'),
    -- Kafka takes 1 MiB with everything around it. Text is at most six times the size of jsonb.
    CHECK (pg_column_size(payload) < 150000 OR octet_length(payload::text) <= 900000)
) PARTITION BY RANGE (created_at);

CREATE TABLE IF NOT EXISTS $schema.outbox_default PARTITION OF $schema.outbox DEFAULT;

-- Makes a partition for today and each of the next `days`. A day whose events already fell into the default partition
-- is passed over.
-- Days are those of UTC, whatever the session's time zone is.
CREATE OR REPLACE FUNCTION $schema.outbox_partitions(days integer DEFAULT 7) RETURNS integer
LANGUAGE plpgsql SET timezone = 'UTC' AS $$
DECLARE
    day date;
    made integer := 0;
BEGIN
    FOR day IN SELECT generate_series(current_date, current_date + days, interval '1 day')::date LOOP
        CONTINUE WHEN to_regclass(format('$schema.outbox_%s', to_char(day, 'YYYYMMDD'))) IS NOT NULL;
        CONTINUE WHEN EXISTS (
            SELECT FROM $schema.outbox_default WHERE created_at >= day AND created_at < day + 1);
        EXECUTE format(
            'CREATE TABLE $schema.outbox_%s PARTITION OF $schema.outbox FOR VALUES FROM (%L) TO (%L)',
            to_char(day, 'YYYYMMDD'), day, day + 1);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Takes away days that ended more than `keep` days ago, once every reader has them. Answers how many tables went.
-- To be called daily, as `outbox_partitions` is.
--
-- In two steps, so that no event is lost: a day is detached first, after which nothing can be added to it, and the end of
-- the write-ahead log of that moment is noted as its comment. It is dropped by a later call, when every logical slot of
-- this database (or the one that is named) has confirmed that point: then all its events are in Kafka. Where no slot is,
-- nobody follows and nothing is dropped.
--
-- Both steps need the outbox for themselves for a moment. A call that does not get it within two seconds fails, has done
-- nothing, and may be repeated; writers never wait longer than that for it.
CREATE OR REPLACE FUNCTION $schema.outbox_retire(keep integer DEFAULT 7, slot name DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SET timezone = 'UTC' SET lock_timeout = '2s' AS $$
DECLARE
    day record;
    confirmed pg_lsn;
    gone integer := 0;
BEGIN
    IF keep < 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'outbox_retire: days cannot be negative';
    END IF;
    IF slot IS NOT NULL AND NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = slot) THEN
        RAISE undefined_object USING MESSAGE = format('outbox_retire: there is no slot `%s`', slot);
    END IF;
    SELECT min(coalesce(confirmed_flush_lsn, '0/0')) INTO confirmed FROM pg_replication_slots
        WHERE database = current_database() AND (slot IS NULL OR slot_name = slot);
    FOR day IN
        SELECT c.oid::regclass AS name, to_date(substr(c.relname, 8), 'YYYYMMDD') AS date,
            EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid) AS is_attached,
            obj_description(c.oid, 'pg_class') AS note
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = '$schema' AND c.relkind = 'r' AND c.relname ~ '^outbox_[0-9]{8}$'
        ORDER BY c.relname
    LOOP
        CONTINUE WHEN day.date >= current_date - keep;
        IF day.is_attached THEN
            EXECUTE format('ALTER TABLE $schema.outbox DETACH PARTITION %s', day.name);
            EXECUTE format('COMMENT ON TABLE %s IS %L', day.name,
                'detached at ' || pg_current_wal_insert_lsn());
        ELSIF confirmed >= substring(day.note FROM '^detached at ([0-9A-F]+/[0-9A-F]+)$')::pg_lsn THEN
            EXECUTE format('DROP TABLE %s', day.name);
            gone := gone + 1;
        END IF;
    END LOOP;
    RETURN gone;
END $$;

-- Appends an event in the transaction of the caller, from any language.
CREATE OR REPLACE FUNCTION $schema.outbox_append(
    aggregate_type text,
    aggregate_id text,
    event_type text,
    payload jsonb,
    partition_key text DEFAULT NULL,
    headers jsonb DEFAULT NULL,
    correlation_id uuid DEFAULT NULL,
    causation_id uuid DEFAULT NULL,
    traceparent text DEFAULT NULL,
    event_version smallint DEFAULT 1
) RETURNS uuid
LANGUAGE sql AS $$
    INSERT INTO $schema.outbox (id, aggregate_type, aggregate_id, event_type, event_version, partition_key,
        payload, headers, correlation_id, causation_id, traceparent)
    VALUES (gen_random_uuid(), $1, $2, $3, $10, $5, $4, $6, $7, $8, $9)
    RETURNING id
$$;

-- Publishes an event in the transaction of the caller without a row: it goes into the write-ahead log alone, so the table
-- does not grow and nothing is left to clean up. It stands in the order of the transaction's other changes, and comes
-- if and only if that commits. What has no row cannot be read again: after a `tailwater cdc resync` it is not sent anew.
CREATE OR REPLACE FUNCTION $schema.outbox_emit(
    aggregate_type text,
    aggregate_id text,
    event_type text,
    payload jsonb,
    partition_key text DEFAULT NULL,
    headers jsonb DEFAULT NULL,
    correlation_id uuid DEFAULT NULL,
    causation_id uuid DEFAULT NULL,
    traceparent text DEFAULT NULL,
    event_version smallint DEFAULT 1,
    id uuid DEFAULT gen_random_uuid()
) RETURNS uuid
LANGUAGE plpgsql AS $$
BEGIN
    -- The checks of the table, because nobody can mend what is in the log.
    IF aggregate_type = '' OR aggregate_id = '' OR event_type = '' OR partition_key = ''
        OR aggregate_type IS NULL OR aggregate_id IS NULL OR event_type IS NULL OR payload IS NULL
        OR event_version IS NULL OR id IS NULL
    THEN
        RAISE check_violation USING MESSAGE = 'an event needs aggregate_type, aggregate_id, event_type and payload, none of them empty';
    END IF;
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE check_violation USING MESSAGE = 'headers of an event are a JSON object';
    END IF;
    IF octet_length(payload::text) > 900000 THEN
        RAISE check_violation USING MESSAGE = 'the payload of an event has at most 900000 bytes';
    END IF;
    PERFORM pg_logical_emit_message(true, '$schema.outbox', json_build_object(
        'id', id,
        'created_at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'aggregate_type', aggregate_type,
        'aggregate_id', aggregate_id,
        'event_type', event_type,
        'event_version', event_version,
        'partition_key', partition_key,
        'correlation_id', correlation_id,
        'causation_id', causation_id,
        'traceparent', traceparent,
        'headers', headers,
        'payload', payload)::text);
    RETURN id;
END $$;
