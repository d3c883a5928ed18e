//! The same questions for Postgres, the lake and DuckDB.

/// A question: `{table}` stands for a table as each engine calls it.
pub(crate) struct Question {
    pub(crate) sql: &'static str,
    /// Where Postgres says it in other words.
    pub(crate) postgres: Option<&'static str>,
    /// Whether the generated views of another engine can answer it: they do not follow moved keys.
    pub(crate) elsewhere: bool,
}

const fn q(sql: &'static str) -> Question {
    Question { sql, postgres: None, elsewhere: true }
}

const fn only_here(sql: &'static str, postgres: Option<&'static str>) -> Question {
    Question { sql, postgres, elsewhere: false }
}

/// About the state of the tables.
pub(crate) const STATE: &[Question] = &[
    q("SELECT count(*) FROM {product}"),
    q("SELECT id, sku, CAST(price AS DECIMAL(12,2)) FROM {product}"),
    q(
        "SELECT sum(CAST(price AS DECIMAL(12,2))), min(CAST(price AS DECIMAL(12,2))), max(CAST(price AS DECIMAL(12,2))) FROM {product}",
    ),
    q(
        "SELECT CASE WHEN active THEN 'yes' WHEN NOT active THEN 'no' ELSE 'unknown' END AS a, count(*) FROM {product} GROUP BY 1",
    ),
    only_here(
        "SELECT id, length(description), substr(description, 1, 40), substr(description, 3000, 40) FROM {product}",
        None,
    ),
    only_here("SELECT count(*) FROM {product} WHERE description IS NULL", None),
    q("SELECT id, attributes->>'color' FROM {product}"),
    q("SELECT id, attributes->'size'->>'cm' FROM {product}"),
    q(
        "SELECT attributes->'tags'->>0 AS tag, attributes->'tags'->>1, count(*) FROM {product} GROUP BY 1, 2",
    ),
    q(
        "SELECT attributes->>'color' AS color, count(*), sum(CAST(price AS DECIMAL(12,2))) FROM {product} GROUP BY 1",
    ),
    q("SELECT warehouse, sum(quantity), count(*) FROM {stock} GROUP BY 1"),
    q(
        "SELECT p.sku, sum(s.quantity) FROM {stock} s JOIN {product} p ON p.id = s.product_id GROUP BY p.sku",
    ),
    q(
        "SELECT p.id FROM {product} p LEFT JOIN {stock} s ON p.id = s.product_id WHERE s.product_id IS NULL",
    ),
    q("SELECT \"Shelf\", count(*) FROM {stock} GROUP BY 1"),
    q("SELECT id, balance FROM {account}"),
    q("SELECT account, sum(amount), count(*) FROM {ledger} GROUP BY 1"),
    q(
        "SELECT a.id, a.balance, coalesce(sum(l.amount), 0) FROM {account} a LEFT JOIN {ledger} l ON l.account = a.id GROUP BY 1, 2 HAVING a.balance <> coalesce(sum(l.amount), 0)",
    ),
    q("SELECT sum(balance) FROM {account}"),
    q("SELECT id, rank() OVER (PARTITION BY account ORDER BY amount DESC, id) AS r FROM {ledger}"),
    q("SELECT count(*), min(id), max(id) FROM {note}"),
    q("SELECT sum(kind), count(kind) FROM {note}"),
    q("SELECT kind, count(*) FROM {note} WHERE body LIKE 'later%' GROUP BY 1"),
    only_here(
        "SELECT row_after, count(*) FROM {ledger} GROUP BY 1",
        Some("SELECT after, count(*) FROM {ledger} GROUP BY 1"),
    ),
    q(
        "SELECT id FROM {product} WHERE CAST(price AS DECIMAL(12,2)) > (SELECT avg(CAST(price AS DECIMAL(12,2))) FROM {product})",
    ),
    q("SELECT upper(sku) FROM {product} WHERE sku LIKE 'again%'"),
    Question {
        sql: "SELECT max(updated_at), min(updated_at) FROM {product}",
        postgres: Some(
            "SELECT to_char(max(updated_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), to_char(min(updated_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM {product}",
        ),
        elsewhere: true,
    },
    q("SELECT count(DISTINCT product_id) FROM {stock}"),
    q("SELECT id FROM {product} EXCEPT SELECT product_id FROM {stock}"),
    q(
        "WITH per AS (SELECT product_id, sum(quantity) AS n FROM {stock} GROUP BY 1) SELECT count(*), sum(n) FROM per WHERE n > 100",
    ),
    q("SELECT CAST(round(sum(weight) * 1000) AS BIGINT) FROM {product}"),
    q("SELECT sku FROM {product} WHERE id = 7"),
    q("SELECT quantity FROM {stock} WHERE warehouse = 2 AND product_id = 11"),
    only_here("SELECT sku, substr(description, 2000, 20) FROM {product} WHERE id > 10000", None),
];

/// About records and events, as they were written.
pub(crate) const HISTORY: &[Question] = &[
    only_here(
        "SELECT op_code, count(*) FROM {ledger} GROUP BY 1",
        Some("SELECT 'c', count(*) FROM {ledger}"),
    ),
    only_here(
        "SELECT ce_type, count(*) FROM {events} GROUP BY 1",
        Some("SELECT event_type, count(*) FROM {events} GROUP BY 1"),
    ),
    only_here(
        "SELECT kafka_key, sum(total), count(*) FROM {events} WHERE currency = 'EUR' GROUP BY 1",
        Some(
            "SELECT aggregate_id, sum((payload->>'total')::bigint), count(*) FROM {events} WHERE payload->>'currency' = 'EUR' GROUP BY 1",
        ),
    ),
    only_here(
        "SELECT lines->0->>'sku', sum(CAST(lines->0->>'n' AS BIGINT)) FROM {events} WHERE lines IS NOT NULL GROUP BY 1",
        Some(
            "SELECT payload->'lines'->0->>'sku', sum((payload->'lines'->0->>'n')::bigint) FROM {events} WHERE payload ? 'lines' GROUP BY 1",
        ),
    ),
    only_here(
        "SELECT count(DISTINCT tx_id), count(*) FROM {ledger}",
        Some("SELECT count(*) / 2, count(*) FROM {ledger}"),
    ),
    only_here(
        "SELECT count(*), count(kind) FROM {note} WHERE op_code = 'c' AND body = 'drifted'",
        Some("SELECT 30, 0"),
    ),
    only_here(
        "SELECT count(*), min(drift->>'kind'), max(drift->>'kind') FROM {note} WHERE drift IS NOT NULL",
        Some("SELECT 30, 'k-501', 'k-530'"),
    ),
    only_here("SELECT count(*) FROM {note} WHERE op_code = 't'", Some("SELECT 1")),
];
