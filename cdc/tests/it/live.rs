//! The reader between a real Postgres and a real Kafka: every test has its own database, pipeline and topics.

mod brokers;
mod connections;
mod failover;
mod faults;
mod gauntlet;
mod hostile;
mod join;
mod link;
mod repair;
mod shutdown;
mod snapshot;
mod stops;
mod world;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::admin::AdminOptions;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};
use serde_json::Value;
use tailwater_cdc::crash;
use tailwater_cdc::preflight::{self, Declared};
use tailwater_config::postgres::Hosts;
use tailwater_runtime::{Health, Secret, clock};
use tailwater_topics_contract::{
    From as Origin, Lsn, Registrations, Standing, TopicName, TopicRegistration,
};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::world::assert_rows;
pub(crate) use self::world::{
    PATIENCE, Reader, Record, World, admin, config, connect, create_topics, create_topics_at,
    kafka, registration, unique,
};

// ---- what arrives ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_once_whichever_way_the_reader_ends() {
    let mut world = World::new().await;
    let name: TopicName = format!("{}.audit", world.config.pipeline).parse().expect("a name");
    create_topics(&[(&name, 1)]).await;
    let from = Origin::Message("audit".to_owned());
    let (name, topic) = registration(name, from, &[], "delete");
    world.registrations.topics.insert(name.clone(), topic);
    world.begin().await;
    let mut sent = Vec::new();
    for round in 0..4 {
        // Each third belongs to a transaction with a row, each is its own commit; the last are never read back
        // before the reader is gone.
        let mut child = world.start_child();
        for number in 0..30 {
            let content = format!("{round}-{number}");
            let transactional = number % 3 == 0;
            world
                .client
                .batch_execute(&format!(
                    "BEGIN; SELECT pg_logical_emit_message({transactional}, 'audit', '{content}');
                     INSERT INTO item VALUES ({round} * 100 + {number}, 'x'); COMMIT"
                ))
                .await
                .expect("it is written");
            sent.push(content);
            sleep(Duration::from_millis(20)).await;
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
    }
    let reader = world.start_reader().await;
    let seen = world.read_until(&name, sent.len()).await;
    world.read_until(&world.changes(), sent.len()).await;
    reader.stop().await.expect("it drains");
    let content = |record: &Record| record.json().expect("JSON")["message"]["content"].clone();
    let seen: Vec<Value> = seen.iter().map(content).collect();
    assert_eq!(seen, sent.into_iter().map(Value::from).collect::<Vec<_>>());
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_and_events_arrive_once_and_in_order() {
    let world = World::new().await;
    let reader = world.start_reader().await;
    world
        .sql(
            "INSERT INTO item VALUES (1, 'a'), (2, 'b');
             UPDATE item SET body = 'c' WHERE id = 1;
             UPDATE item SET id = 3 WHERE id = 2;
             DELETE FROM item WHERE id = 1;",
        )
        .await;
    world
        .sql(
            "INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, event_type, event_version, payload)
             VALUES ('018f0000-0000-7000-8000-000000000001', 'shop', 's1', 'shop.opened', 1, '{\"n\": 1}')",
        )
        .await;
    let changes = world.read_until(&world.changes(), 8).await;
    let events = world.read_until(&world.events(), 1).await;
    reader.stop().await.expect("it drains");

    let told: Vec<(String, u64)> = changes
        .iter()
        .map(|record| match record.json() {
            Some(value) => (value["op"].as_str().unwrap().to_owned(), record.seq()),
            None => ("tombstone".to_owned(), record.seq()),
        })
        .collect();
    let ops: Vec<&str> = told.iter().map(|(op, _)| op.as_str()).collect();
    assert_eq!(ops, ["c", "c", "u", "d", "tombstone", "c", "d", "tombstone"]);
    let first = (1_u64 << 44) + 1;
    let seqs: Vec<u64> = told.iter().map(|(_, seq)| *seq).collect();
    assert_eq!(seqs, (first..first + 8).collect::<Vec<_>>());
    assert_eq!(events[0].key.as_deref(), Some(b"s1".as_slice()));
    assert_eq!(events[0].json().unwrap()["n"], 1);
    assert_eq!(events[0].header("ce_type"), Some("shop.opened"));
    assert_eq!(events[0].seq(), first + 8);
    let left = world.progress().await.expect("there is progress");
    assert_eq!((left.seq, left.in_flight), (first + 8, None));
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_killed_twenty_times_repeats_and_loses_nothing() {
    let seed = clock::now_ms() as u64;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new().await;
    world.begin().await;
    let load = world.connect().await;
    let writer = tokio::spawn(async move {
        // Single rows, small transactions, some rolled back; all numbered without holes.
        let mut next = 0_i64;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(25) {
            let rows = 1 + next % 7;
            let sql = format!(
                "BEGIN; INSERT INTO item SELECT g, 'x' FROM generate_series({next}, {}) g; COMMIT;
                 BEGIN; INSERT INTO item VALUES (-1, 'never'); ROLLBACK;",
                next + rows - 1
            );
            load.batch_execute(&sql).await.expect("the load runs");
            next += rows;
            sleep(Duration::from_millis(2)).await;
        }
        next
    });
    let mut kills = 0;
    while kills < 20 || !writer.is_finished() {
        let mut child = world.start_child();
        let life = Duration::from_millis(random.random_range(100..2_000));
        let died = Instant::now() + life;
        while Instant::now() < died {
            world.assert_not_ahead().await;
            sleep(Duration::from_millis(50)).await;
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
        kills += 1;
    }
    let rows = writer.await.expect("no panic");
    let reader = world.start_reader().await;
    let records = world.read_until(&world.changes(), rows as usize).await;
    reader.stop().await.expect("it drains");
    let records_after = World::read_all(&world.changes());
    assert_eq!(records_after.len(), records.len(), "nothing comes after the last row");
    assert_rows(&records, rows, seed);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_is_split_and_survives_kills_in_its_middle() {
    let seed = clock::now_ms() as u64;
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new().await;
    world.begin().await;
    let rows = 200_000;
    world
        .sql(&format!(
            "INSERT INTO item SELECT g, repeat('x', 80) FROM generate_series(0, {rows} - 1) g"
        ))
        .await;
    let mut split = 0;
    for _ in 0..6 {
        let progress = world.progress().await;
        if split > 0 && progress.as_ref().is_some_and(|record| record.in_flight.is_none()) {
            // Faster than its killer.
            break;
        }
        let mut child = world.start_child();
        let before = progress.map(|record| record.seq);
        let begun = Instant::now();
        let wait = Duration::from_millis(random.random_range(0..300));
        while begun.elapsed() < PATIENCE {
            let now = world.progress().await;
            split += usize::from(now.as_ref().is_some_and(|record| record.in_flight.is_some()));
            if now.map(|record| record.seq) != before {
                break;
            }
        }
        sleep(wait).await;
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
    }
    assert!(split > 0, "no progress was seen inside the transaction, seed {seed}");
    let reader = world.start_reader().await;
    let records = world.read_until(&world.changes(), rows as usize).await;
    reader.stop().await.expect("it drains");
    assert_rows(&records, rows, seed);
    world.drop().await;
}

// ---- the slot ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_database_moves_its_slot() {
    let world = World::new().await;
    let reader = world.start_reader().await;
    world.sql("CREATE TABLE elsewhere AS SELECT g FROM generate_series(1, 20000) g").await;
    let end: String = world.value("SELECT pg_current_wal_insert_lsn()::text").await;
    let end: Lsn = end.parse().expect("an LSN");
    let begun = Instant::now();
    while world.confirmed().await < end {
        assert!(begun.elapsed() < PATIENCE, "the slot stays at {}", world.confirmed().await);
        world.assert_not_ahead().await;
        sleep(Duration::from_millis(200)).await;
    }
    assert!(World::read_all(&world.changes()).is_empty());
    reader.stop().await.expect("it drains");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moved_by_somebody_else_stops_the_reader() {
    let world = World::new().await;
    world.begin().await;
    world.sql("INSERT INTO item VALUES (1, 'lost')").await;
    let advance = format!(
        "SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())",
        world.config.pipeline.slot()
    );
    world.sql(&advance).await;
    assert_eq!(world.fail().await.code(), "TW015");
    assert!(World::read_all(&world.changes()).is_empty());
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_slot_and_a_slot_without_progress_stop_the_reader() {
    let world = World::new().await;
    world.begin().await;
    let slot = world.config.pipeline.slot();
    world.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    assert_eq!(world.fail().await.code(), "TW012");

    let other = World::new().await;
    let slot = other.config.pipeline.slot();
    other.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    assert_eq!(other.fail().await.code(), "TW011");
    world.drop().await;
    other.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_reader_gives_up_and_leaves_the_first_alone() {
    let mut world = World::new().await;
    let first = world.start_reader().await;
    world.config.limits.slot_wait_ms = 1_500;
    assert_eq!(world.fail().await.code(), "TW020");
    world.sql("INSERT INTO item VALUES (1, 'a')").await;
    world.read_until(&world.changes(), 1).await;
    first.stop().await.expect("it drains");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_is_followed_by_a_fresh_session() {
    let world = World::new().await;
    world.begin().await;
    let reader = world.start_reader().await;
    for id in 0..5 {
        world.sql(&format!("INSERT INTO item VALUES ({id}, 'x')")).await;
        let slot = world.config.pipeline.slot();
        let terminate = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        );
        world.sql(&terminate).await;
        world.read_until(&world.changes(), id + 1).await;
    }
    reader.stop().await.expect("it drains");
    assert_rows(&World::read_all(&world.changes()), 5, 0);
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_database_hears_a_heartbeat_unless_it_is_switched_off() {
    let mut world = World::new().await;
    let ear = format!("ear_{}", world.config.pipeline);
    world.value(&format!("SELECT slot_name::text FROM pg_create_logical_replication_slot('{ear}', 'test_decoding')")).await;
    let beats = format!(
        "SELECT count(*) FROM pg_logical_slot_get_changes('{ear}', NULL, NULL) WHERE data LIKE '%prefix: tailwater.heartbeat%'"
    );
    for (heartbeat, expected) in [(Duration::ZERO, false), (Duration::from_millis(100), true)] {
        world.config.limits.heartbeat = heartbeat;
        let reader = world.start_reader().await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(world.count(&beats).await > 3, expected, "every {heartbeat:?}");
        reader.stop().await.expect("it drains");
    }
    assert!(World::read_all(&world.changes()).is_empty(), "they go nowhere");
    world.value(&format!("SELECT pg_drop_replication_slot('{ear}')::text")).await;
    world.drop().await;
}

// ---- Kafka ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_reader_ends_with_its_own_code() {
    let world = World::new().await;
    let reader = world.start_reader().await;
    let other: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka())
        .set("transactional.id", world.config.pipeline.transactional_id())
        .create()
        .expect("a producer");
    other.init_transactions(PATIENCE).expect("it fences");
    world.sql("INSERT INTO item VALUES (1, 'a')").await;
    let error = reader.ended().await.expect_err("it is fenced");
    assert_eq!(error.code(), "TW030", "{error:?}");
    assert!(World::read_all(&world.changes()).is_empty());
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_lost_records_stops_the_reader() {
    let world = World::new().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item SELECT g, 'x' FROM generate_series(1, 10) g").await;
    world.read_until(&world.changes(), 10).await;
    reader.stop().await.expect("it drains");
    let admin = admin();
    let topic = world.changes();
    admin.delete_topics(&[topic.as_str()], &AdminOptions::new()).await.expect("it is deleted");
    sleep(Duration::from_millis(500)).await;
    create_topics(&[(&topic, 1)]).await;
    assert_eq!(world.fail().await.code(), "TW026");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_and_a_wrong_partition_count_stop_the_reader() {
    let mut world = World::new().await;
    let name = world.changes();
    let topic = world.registrations.topics.get_mut(&name).expect("it is registered");
    topic.spec.partitions = 5;
    assert_eq!(world.fail().await.code(), "TW033");
    let topic = world.registrations.topics.remove(&name).expect("it is registered");
    let missing: TopicName = format!("{name}.missing").parse().expect("a name");
    let mut spec = topic.spec.clone();
    spec.name = missing.clone();
    world.registrations.topics.insert(missing, TopicRegistration { spec, ..topic });
    assert_eq!(world.fail().await.code(), "TW033");
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_was_cut_short_does_not_stop_the_reader() {
    let mut world = World::new().await;
    let removed = world.changes();
    world.registrations.topics.get_mut(&removed).expect("it is registered").standing =
        Standing::Removed;
    // The table is still published, as when somebody was killed between the two steps of a removal.
    let reader = world.start_reader().await;
    world
        .sql(
            "INSERT INTO item VALUES (1, 'a');
             INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, event_type, event_version, payload)
             VALUES ('018f0000-0000-7000-8000-000000000001', 'shop', 's1', 'shop.opened', 1, '{}')",
        )
        .await;
    let events = world.read_until(&world.events(), 1).await;
    assert_eq!(events[0].seq(), (1_u64 << 44) + 1, "the row before took no number");
    reader.stop().await.expect("it drains");
    assert!(World::read_all(&removed).is_empty());
    world.drop().await;
}

// ---- logging in, and what preflight finds ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_are_proved_by_scram_md5_and_in_clear_text() {
    let world = World::new().await;
    let run = unique();
    let methods = [("scram-sha-256", "scram-sha-256"), ("md5", "md5"), ("password", "md5")];
    let roles: Vec<String> = (0..methods.len()).map(|i| format!("login_{run}_{i}")).collect();
    for (role, (_, stored)) in roles.iter().zip(&methods) {
        world
            .sql(&format!("SET password_encryption = '{stored}'; CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'geheim'"))
            .await;
    }
    let asked = Hba::ask(&world, &roles, &methods).await;
    for role in &roles {
        let mut config = world.config.clone();
        config.postgres.user.clone_from(role);
        let declared = Declared::default();
        let refused = preflight::check(&config, &declared).await;
        assert!(refused[0].problem.contains("asks for a password"), "{}", refused[0]);
        config.postgres.password = Some(Secret::new("falsch"));
        let refused = preflight::check(&config, &declared).await;
        assert!(refused[0].problem.contains("28P01"), "{}", refused[0]);
        config.postgres.password = Some(Secret::new("geheim"));
        let findings = preflight::check(&config, &declared).await;
        assert!(findings.iter().all(|finding| finding.code != "TW100"), "{findings:?}");
    }
    asked.restore(&world).await;
    for role in &roles {
        world.sql(&format!("DROP ROLE {role}")).await;
    }
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflight_names_the_statement_that_mends_each_problem() {
    let world = World::new().await;
    let declared = Declared::in_registrations(&world.registrations);
    let errors = || async {
        let found = preflight::check(&world.config, &declared).await;
        let errors = found.into_iter().filter(|f| f.severity == preflight::Severity::Error);
        errors.collect::<Vec<_>>()
    };
    assert_eq!(errors().await, []);
    let changes = world.config.pipeline.changes_publication();
    // Breaks it, expects the code, then does what the remedy says.
    for (breaking, code) in [
        (format!("ALTER PUBLICATION {changes} DROP TABLE item"), "TW112"),
        (
            format!(
                "CREATE TABLE extra (id int PRIMARY KEY); ALTER PUBLICATION {changes} ADD TABLE extra"
            ),
            "TW113",
        ),
        (format!("ALTER PUBLICATION {changes} SET (publish = 'insert')"), "TW111"),
        ("ALTER TABLE item REPLICA IDENTITY NOTHING".to_owned(), "TW123"),
    ] {
        world.sql(&breaking).await;
        let found = errors().await;
        let codes: Vec<_> = found.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, [code], "{found:?}");
        let statement = found[0].remedy.split('`').nth(1).expect("a statement in backticks");
        world.sql(statement).await;
        assert_eq!(errors().await, [], "after `{statement}`");
    }
    world.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflight_warns_where_a_stream_does_not_follow_partitions() {
    let world = World::new().await;
    world.sql("CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id)").await;
    let declared = |table: &str| {
        let mut registrations = world.registrations.clone();
        let topic = registrations.topics.values_mut().next().expect("a topic");
        topic.spec.from = tailwater_topics_contract::From::Table(table.parse().expect("a table"));
        Declared::in_registrations(&registrations)
    };
    let warned = async |table| {
        let found = preflight::check(&world.config, &declared(table)).await;
        found.into_iter().any(|finding| finding.code == "TW130")
    };
    assert_eq!(warned("public.part").await, world.version().await < 150_000);
    assert!(!warned("public.item").await, "it has no partitions");
    world.drop().await;
}

// ---- the child that is killed ----

/// Not a test of its own: the process that the tests above start and kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the body of a child process that other tests start and kill"]
async fn child() {
    let task = std::env::var("TAILWATER_TEST_CHILD").expect("only started by other tests");
    let task: Value = serde_json::from_str(&task).expect("our own JSON");
    let text = |field: &str| task[field].as_str().expect("a text").to_owned();
    let topics: Vec<TopicRegistration> =
        serde_json::from_value(task["topics"].clone()).expect("our own JSON");
    let topics = topics.into_iter().map(|topic| (topic.spec.name.clone(), topic)).collect();
    let registrations = Registrations { topics, ..Registrations::default() };
    let mut config = config(&text("pipeline"), &text("database"));
    config.postgres.hosts = Hosts::one("127.0.0.1", task["port"].as_u64().expect("a port") as u16);
    config.kafka.brokers = text("kafka");
    let limits = &mut config.limits;
    limits.transaction_rows = task["rows"].as_u64().unwrap_or(limits.transaction_rows);
    limits.slot_wait_ms = task["slot_wait_ms"].as_u64().unwrap_or(limits.slot_wait_ms);
    if let Some(point) = task["crash"]["point"].as_u64() {
        let hit = task["crash"]["hit"].as_u64().expect("a number") as u32;
        let act: fn() = match task["crash"]["act"].as_str().expect("a text") {
            "freeze" => || raise(Signal::SIGSTOP).expect("it can be stopped"),
            // No destructor runs and nothing is flushed.
            _ => || std::process::abort(),
        };
        crash::arm(crash::Point::ALL[point as usize], hit, act);
    }
    // Who started it may have failed.
    let parent = std::os::unix::process::parent_id();
    tokio::spawn(async move {
        while std::os::unix::process::parent_id() == parent {
            sleep(Duration::from_secs(1)).await;
        }
        std::process::exit(1);
    });
    let (again, follow) = watch::channel(registrations);
    let every = task["register_every_ms"].as_u64().map(Duration::from_millis);
    tokio::spawn(async move {
        loop {
            sleep(every.unwrap_or(Duration::MAX)).await;
            again.send_modify(|_| {});
        }
    });
    let ended = tailwater_cdc::run(config, follow, CancellationToken::new(), Health::default());
    let error = ended.await.expect_err("nobody asks it to stop");
    eprintln!("the reader ended with {}: {error:?}", error.code());
    std::process::exit(error.exit_code().into());
}

// ---- who may log in ----

/// The server's `pg_hba.conf`, with lines in front that ask our own roles, and nobody else, for a password.
struct Hba {
    before: Vec<String>,
}

impl Hba {
    async fn ask(world: &World, roles: &[String], methods: &[(&str, &str)]) -> Self {
        let sql = "SELECT line FROM regexp_split_to_table(pg_read_file(current_setting('hba_file')), E'\\n') line";
        let rows = world.client.query(sql, &[]).await.expect("a superuser");
        let before: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let mut lines: Vec<String> = roles
            .iter()
            .zip(methods)
            .map(|(role, (method, _))| format!("host all {role} 127.0.0.1/32 {method}"))
            .collect();
        lines.extend(before.iter().cloned());
        Self::write(world, &lines).await;
        Self { before }
    }

    async fn restore(self, world: &World) {
        Self::write(world, &self.before).await;
    }

    async fn write(world: &World, lines: &[String]) {
        let file = world.value("SELECT current_setting('hba_file')").await;
        let values: Vec<String> = lines
            .iter()
            .map(|line| if line.is_empty() { "#" } else { line.as_str() })
            .enumerate()
            .map(|(at, line)| format!("({at}, '{}')", line.replace('\'', "''")))
            .collect();
        let copy = format!(
            "COPY (SELECT line FROM (VALUES {}) v(at, line) ORDER BY at) TO '{file}' (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')",
            values.join(", ")
        );
        world.client.batch_execute(&copy).await.expect("a superuser");
        world.client.batch_execute("SELECT pg_reload_conf()").await.expect("a superuser");
        sleep(Duration::from_millis(300)).await;
    }
}
