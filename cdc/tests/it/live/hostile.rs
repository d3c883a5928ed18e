//! What stands between us and a usable server: a pooler, and a database that keeps bytes of no encoding.

use std::io::Write;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use tailwater_cdc::Error;
use tailwater_cdc::stream::{Connection, Mode};
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::Hosts;
use tokio::time::sleep;

use super::faults::chain;
use super::{PATIENCE, World};
use crate::own_postgres::{OwnPostgres, command, free_port, new_folder};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_in_between_is_named_or_carries_the_stream() {
    let mut server = OwnPostgres::new();
    server.start();
    let pooler = Pooler::before(&server).await;
    let config = PostgresConfig::new(Hosts::one("127.0.0.1", pooler.port), "postgres", "postgres");
    // From 1.23 on PgBouncer can pass replication through.
    match Connection::open(&config, "test", Mode::Replication).await {
        Ok(mut connection) => {
            let identity = connection.query("IDENTIFY_SYSTEM").await.expect("it is Postgres");
            assert_eq!(identity.len(), 1);
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("a connection pooler such as PgBouncer answers there"), "{said}");
            assert!(said.contains("`postgres.host`"), "{said}");
            assert!(error.is_definite(), "waiting does not help: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_no_encoding_stop_the_reader_and_are_named_whether_streamed_or_copied() {
    let mut server = OwnPostgres::new();
    server.start();
    // New databases are made after this one.
    server.sql("UPDATE pg_database SET datistemplate = false WHERE datname = 'template1'").await;
    server.sql("DROP DATABASE template1").await;
    server
        .sql("CREATE DATABASE template1 TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        .await;
    let write = "INSERT INTO item VALUES (2, convert_from('\\xc3e4'::bytea, 'SQL_ASCII'))";

    let world = World::at(&server).await;
    world.begin().await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item VALUES (1, 'näher')").await;
    world.read_until(&world.changes(), 1).await;
    world.sql(write).await;
    world.sql("INSERT INTO item VALUES (3, 'behind it')").await;
    assert_names_the_place(&reader.ended().await.expect_err("it must not skip it"));
    assert_eq!(World::read_all(&world.changes()).len(), 1);
    world.stops("TW050").await;
    // Its old bytes stay in the WAL; a resync begins behind them.
    world.sql("UPDATE item SET body = 'corrected' WHERE id = 2").await;
    world.brought_back("behind bytes of no encoding").await;
    world.drop().await;

    let world = World::at(&server).await;
    world.sql(write).await;
    assert_names_the_place(&world.fail().await);
    world.drop().await;
}

fn assert_names_the_place(error: &Error) {
    assert_eq!(error.code(), "TW050", "{error:?}");
    let said = chain(error);
    assert!(
        said.contains("column `body` of `public.item` holds bytes that are not UTF-8"),
        "{said}"
    );
}

/// A PgBouncer of the test's own.
struct Pooler {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Pooler {
    async fn before(server: &OwnPostgres) -> Self {
        let part =
            std::env::var("TAILWATER_TEST_PGBOUNCER").expect("run the tests with `make test`");
        let (part, folder, port) = (PathBuf::from(part), new_folder(), free_port());
        let write = |name: &str, text: String| {
            let mut file = std::fs::File::create(folder.join(name)).expect("a file");
            file.write_all(text.as_bytes()).expect("it is written");
        };
        write("users.txt", "\"postgres\" \"\"\n".to_owned());
        write(
            "pooler.ini",
            format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = trust\nauth_file = users.txt\npool_mode = transaction\n",
                server.port
            ),
        );
        let libraries = std::fs::read_dir(part.join("usr/lib")).expect("libraries").flatten();
        let libraries: Vec<PathBuf> = libraries.map(|entry| entry.path()).collect();
        let process = command(&part.join("usr/sbin/pgbouncer"), &folder)
            .arg("pooler.ini")
            .env("LD_LIBRARY_PATH", std::env::join_paths(libraries).expect("paths"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        let pooler = Self { process, folder, port };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "PgBouncer does not listen");
            sleep(Duration::from_millis(20)).await;
        }
        pooler
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
