//! One world: its names, its files and its processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tailwater_infra_demo::archive::{ArchiveReader, Store};
use tailwater_infra_demo::reconcile::{Expectation, Judge, Origin, Stores};
use tailwater_infra_demo::source::Table;
use tailwater_infra_demo::traffic::Services;
use tokio_postgres::NoTls;

use crate::place::{START_MAX, free_ports, is_ready, run, wait_for_port};
use crate::{Process, Servers};

/// A process of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// `tailwater cdc run`.
    Reader,
    /// `tailwater sinks run lake`.
    Lake,
    /// `tailwater sinks run product-search`.
    Search,
}

/// A database, topics, a bucket and an index under one name, with the marketplace's schema in it.
pub struct World {
    name: String,
    folder: PathBuf,
    servers: Servers,
    services: Vec<Process>,
    urls: Services,
    admin_ports: [u16; 3],
}

impl World {
    /// Creates everything and starts the services; reader and sinks are started by the test.
    pub async fn create(name: &str) -> anyhow::Result<Self> {
        let servers = Servers::from_env()?;
        let folder = std::env::temp_dir().join(format!("tailwater-{name}"));
        std::fs::create_dir_all(folder.join("catalog"))?;
        let (client, connection) = tokio_postgres::connect(&servers.postgres, NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(&format!("create database {name}")).await?;
        let ports = free_ports::<7>()?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let urls = Services {
            catalog: url(ports[0]),
            inventory: url(ports[1]),
            orders: url(ports[2]),
            payments: url(ports[3]),
        };
        let mut world = Self {
            name: name.to_owned(),
            folder,
            servers,
            services: Vec::new(),
            urls,
            admin_ports: [ports[4], ports[5], ports[6]],
        };
        world.write_config()?;
        world.write_catalog()?;
        let database = world.database_url();
        run(&world.folder, "tailwater-marketplace", &["migrate", "--database-url", &database])?;
        run(&world.folder, "tailwater", &["apply", "-f", "catalog"])?;
        for (service, port) in ["catalog", "inventory", "orders", "payments"].iter().zip(ports) {
            let listen = format!("127.0.0.1:{port}");
            let arguments = [service, "--listen", &listen, "--database-url", &database];
            let arguments = arguments.map(str::to_owned);
            let process =
                Process::start(&world.folder, service, "tailwater-marketplace", &arguments)?;
            world.services.push(process);
        }
        for (process, port) in world.services.iter_mut().zip(ports) {
            wait_for_port(process, port).await?;
        }
        Ok(world)
    }

    /// Starts a process of the pipeline.
    pub fn start(&self, app: App) -> anyhow::Result<Process> {
        let admin = |at: usize| format!("127.0.0.1:{}", self.admin_ports[at]);
        let (name, arguments) = match app {
            App::Reader => ("reader", vec!["cdc".to_owned(), "run".to_owned()]),
            App::Lake => ("lake", sink("lake", &admin(1))),
            App::Search => ("product-search", sink("product-search", &admin(2))),
        };
        Process::start(&self.folder, name, "tailwater", &arguments)
    }

    /// Waits until a process says that it can do its work.
    pub async fn wait_until_ready(&self, app: App, process: &mut Process) -> anyhow::Result<()> {
        let port = self.admin_ports[app as usize];
        let began = Instant::now();
        while !is_ready(port).await {
            process.check_running()?;
            ensure!(began.elapsed() < START_MAX, "{app:?} is not ready: {}", process.last_words());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Where traffic goes.
    pub fn services(&self) -> Services {
        self.urls.clone()
    }

    /// A judge over everything this world must hold.
    pub fn judge(&self) -> Judge {
        let stores = Stores {
            database_url: self.database_url(),
            brokers: self.servers.kafka.clone(),
            store: self.store(),
            bucket: self.bucket(),
            opensearch: self.servers.opensearch.clone(),
        };
        let events = |aggregate: &str| Expectation {
            topic: self.topic(&format!("{aggregate}.events")),
            origin: Origin::Outbox(Table::new(aggregate, "outbox"), aggregate.to_owned()),
            alias: None,
        };
        let table = |topic: &str, schema: &str, name: &str, alias| Expectation {
            topic: self.topic(topic),
            origin: Origin::Table(Table::new(schema, name)),
            alias,
        };
        let expectations = vec![
            events("orders"),
            events("payments"),
            table("inventory.cdc", "inventory", "stock", None),
            table(
                "product_documents.cdc",
                "catalog",
                "product_documents",
                Some(format!("{}-products", self.name)),
            ),
        ];
        Judge::new(stores, expectations)
    }

    /// How many objects the archive of a topic has.
    pub async fn archived_objects(&self, topic: &str) -> anyhow::Result<usize> {
        let mut archive = ArchiveReader::new(&self.store(), &self.bucket(), &self.topic(topic));
        archive.catch_up().await?;
        Ok(archive.links().count())
    }

    /// Drops the slot and the database. Topics and objects stay under the world's name.
    pub async fn remove(self) -> anyhow::Result<()> {
        drop(self.services);
        let (client, connection) = tokio_postgres::connect(&self.servers.postgres, NoTls).await?;
        tokio::spawn(connection);
        let drop_slots = "select pg_drop_replication_slot(slot_name)
                          from pg_replication_slots where database = $1";
        client.execute(drop_slots, &[&self.name]).await?;
        client.batch_execute(&format!("drop database {} with (force)", self.name)).await?;
        std::fs::remove_dir_all(&self.folder)?;
        Ok(())
    }

    fn store(&self) -> Store {
        Store {
            endpoint: self.servers.s3.clone(),
            access_key: "tailwater".into(),
            secret_key: "tailwater-secret".into(),
        }
    }

    fn database_url(&self) -> String {
        format!("{}/{}", self.servers.postgres.trim_end_matches('/'), self.name)
    }

    fn bucket(&self) -> String {
        self.name.replace('_', "-")
    }

    fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn write_config(&self) -> anyhow::Result<()> {
        let postgres: tokio_postgres::Config = self.servers.postgres.parse()?;
        let host = match postgres.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            _ => bail!("`{}` names no host", self.servers.postgres),
        };
        let port = postgres.get_ports().first().copied().unwrap_or(5432);
        let user = postgres.get_user().unwrap_or("postgres");
        let text = format!(
            "pipeline: {name}\n\
             postgres: {{ host: {host}, port: {port}, user: {user}, database: {name} }}\n\
             kafka: {{ brokers: \"{kafka}\" }}\n\
             s3: {{ endpoint: \"{s3}\", region: us-east-1, access_key: tailwater, secret_key: tailwater-secret, path_style: true }}\n\
             opensearch: {{ url: \"{opensearch}\" }}\n\
             reader: {{ admin: \"127.0.0.1:{reader}\" }}\n\
             sinks: {{ admin: \"127.0.0.1:{sinks}\" }}\n",
            name = self.name,
            kafka = self.servers.kafka,
            s3 = self.servers.s3,
            opensearch = self.servers.opensearch,
            reader = self.admin_ports[0],
            sinks = self.admin_ports[1],
        );
        Ok(std::fs::write(self.folder.join("tailwater.yaml"), text)?)
    }

    /// The marketplace's own catalog under this world's names.
    fn write_catalog(&self) -> anyhow::Result<()> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../topics/catalog/market");
        for entry in std::fs::read_dir(&source).context("the marketplace's catalog")? {
            let path = entry?.path();
            let mut text = std::fs::read_to_string(&path)?;
            if path.extension().is_some_and(|extension| extension == "yaml") {
                for topic in
                    ["orders.events", "payments.events", "inventory.cdc", "product_documents.cdc"]
                {
                    text = text.replace(topic, &self.topic(topic));
                }
                text = text
                    .replace("bucket: events", &format!("bucket: {}", self.bucket()))
                    // Many segments, so that kills hit the middle of a write.
                    .replace("age: 5s", "age: 200ms")
                    .replace("alias: products", &format!("alias: {}-products", self.name));
            }
            let file = path.file_name().context("a file has a name")?;
            std::fs::write(self.folder.join("catalog").join(file), text)?;
        }
        Ok(())
    }
}

fn sink(name: &str, admin: &str) -> Vec<String> {
    // A fixed instance lets a restarted worker go on at once; without it every kill would cost a session time-out, and
    // most kills would hit a worker that is still waiting for its partitions.
    let arguments = ["sinks", "run", name, "--instance", name, "--admin", admin];
    arguments.map(str::to_owned).into()
}
