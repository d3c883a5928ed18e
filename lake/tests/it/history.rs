//! A shop whose tables meet everything a current state must get right, and copies of them at moments on the way.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::world::World;

const SCHEMA: &str = r#"
CREATE TABLE product (
    id bigint PRIMARY KEY, sku text NOT NULL, price numeric(12,2), weight double precision, active boolean,
    attributes jsonb, description text, updated_at timestamptz
);
ALTER TABLE product ALTER description SET STORAGE EXTERNAL;
CREATE TABLE stock (
    warehouse int, product_id bigint, quantity int NOT NULL, "Shelf" text, PRIMARY KEY (warehouse, product_id)
);
CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE ledger (id bigint PRIMARY KEY, account int NOT NULL, amount bigint NOT NULL, after text);
CREATE TABLE note (id int PRIMARY KEY, kind int, body text);
"#;

const TABLES: [(&str, &[&str], i32); 5] = [
    ("product", &["id"], 3),
    ("stock", &["warehouse", "product_id"], 2),
    ("account", &["id"], 2),
    ("ledger", &["id"], 3),
    ("note", &["id"], 1),
];

/// A moment that was kept: a schema with copies of the tables, its LSN, and its time.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) schema: String,
    pub(crate) lsn: String,
    pub(crate) time: String,
}

/// Lives through it; everything is archived at the end.
pub(crate) async fn live(seed: u64) -> (World, Vec<Moment>) {
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new(SCHEMA, &TABLES).await;
    begin(&world).await;
    let mut moments = Vec::new();
    for step in 0..150 {
        world.sql(&next(&mut random, step)).await;
        if step == 60 || step == 110 {
            moments.push(keep(&world, step).await);
        }
    }
    world.archive(400).await;
    (world, moments)
}

async fn begin(world: &World) {
    world
        .sql(
            "INSERT INTO note SELECT g, g, 'first' FROM generate_series(1, 50) g;
             TRUNCATE note;
             INSERT INTO note SELECT g, g % 7, 'body ' || g FROM generate_series(101, 400) g;",
        )
        .await;
    // For a while `kind` is text: values of another type than before and after.
    world
        .sql(
            "ALTER TABLE note ALTER kind TYPE text;
             INSERT INTO note SELECT g, 'k-' || g, 'drifted' FROM generate_series(501, 530) g;",
        )
        .await;
    world.sql("DELETE FROM note WHERE id > 500").await;
    world
        .sql(
            "ALTER TABLE note ALTER kind TYPE int USING kind::int;
             INSERT INTO note SELECT g, g % 5, 'later ' || g FROM generate_series(601, 900) g;",
        )
        .await;
    world
        .sql(
            r#"INSERT INTO product SELECT g, 'sku-' || g, (g * 7 % 100) + 0.25, g * 0.25, g % 3 = 0,
                 jsonb_build_object('color', (ARRAY['red','green','blue'])[1 + g % 3], 'size', jsonb_build_object('cm', g),
                     'tags', jsonb_build_array('t' || g % 4, 'a "quoted" \ one')),
                 (SELECT string_agg(md5(g::text || '-' || n), '') FROM generate_series(1, 120) n),
                 '2026-01-01T00:00:00Z'::timestamptz + g * interval '1 minute'
             FROM generate_series(1, 80) g;
             UPDATE product SET active = NULL, attributes = NULL WHERE id % 17 = 0;
             INSERT INTO stock SELECT w, p, w * p, 'S' || p % 3 FROM generate_series(1, 3) w, generate_series(1, 80) p;
             INSERT INTO account SELECT g, 0 FROM generate_series(1, 8) g;"#,
        )
        .await;
}

/// The next transaction of a shop.
fn next(random: &mut StdRng, step: u64) -> String {
    let id = random.random_range(1..=80);
    let amount = random.random_range(1..=50);
    let (from, to) = (random.random_range(1..=8), random.random_range(1..=8));
    let transfer = format!(
        "UPDATE account SET balance = balance - {amount} WHERE id = {from};
         UPDATE account SET balance = balance + {amount} WHERE id = {to};
         INSERT INTO ledger VALUES ({}, {from}, -{amount}, 'out'), ({}, {to}, {amount}, NULL);",
        step * 2,
        step * 2 + 1
    );
    let event = format!(
        "INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, event_type, event_version, payload)
         VALUES ('{}', 'shop', 's{from}', 'shop.{}', 1, '{{\"total\": {amount}, \"currency\": \"EUR\", \"lines\": [{{\"sku\": \"sku-{id}\", \"n\": {to}}}]}}');",
        uuid::Uuid::new_v4(),
        ["opened", "paid", "closed"][step as usize % 3]
    );
    let work = match random.random_range(0..9) {
        0 => format!("UPDATE product SET price = price + {amount} WHERE id % 10 = {};", id % 10),
        1 => format!(
            "DELETE FROM stock WHERE product_id = {id}; DELETE FROM product WHERE id = {id};"
        ),
        2 => format!(
            "INSERT INTO product VALUES ({id}, 'again-{step}', {amount}, 0.5, true, '{{\"color\":\"black\",\"tags\":[]}}', repeat('again {step} ', 400), '2026-02-01T00:00:00Z')
             ON CONFLICT (id) DO UPDATE SET weight = product.weight + 0.25;"
        ),
        // A moved key: the description is not sent, and stands under the old key.
        3 => format!(
            "UPDATE product SET id = {} WHERE id = {id};",
            10_000 + step * 100 + id
        ),
        4 => format!(
            "UPDATE product SET id = id + 100000 WHERE id BETWEEN 10000 AND 99999 AND id % 2 = {};",
            step % 2
        ),
        5 => format!(
            "UPDATE product SET description = repeat('new {step} ', 500), attributes = jsonb_set(coalesce(attributes, '{{}}'), '{{color}}', '\"white\"') WHERE id = {id};"
        ),
        6 => format!("UPDATE product SET active = NOT coalesce(active, false), updated_at = '2026-03-01T00:00:00Z'::timestamptz + {step} * interval '1 second' WHERE id % 7 = {};", id % 7),
        7 => format!(
            "UPDATE stock SET quantity = quantity + 1, \"Shelf\" = NULL WHERE product_id = {id};
             UPDATE stock SET warehouse = warehouse + 10 WHERE warehouse = 1 AND product_id = {id};"
        ),
        _ => format!("UPDATE note SET kind = kind + 1 WHERE id % 50 = {};", id % 50),
    };
    format!("BEGIN; {work} {transfer} {event} COMMIT;")
}

async fn keep(world: &World, step: u64) -> Moment {
    let schema = format!("at_{step}");
    let lsn = world.text("SELECT pg_current_wal_insert_lsn()").await;
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let time = world
        .text("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MSZ')")
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    world.sql(&format!("CREATE SCHEMA {schema}")).await;
    for (table, ..) in TABLES {
        world.sql(&format!("CREATE TABLE {schema}.{table} AS TABLE public.{table}")).await;
    }
    Moment { schema, lsn, time }
}
