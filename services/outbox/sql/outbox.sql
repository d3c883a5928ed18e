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
