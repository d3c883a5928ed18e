//! `tailwater init`: a first configuration and catalog, made from what a database holds.
//!
//! ```text
//!  database ──▶ tables with their keys, outboxes with their aggregates ──▶ tailwater.yaml, catalog/*.yaml
//! ```
//!
//! What could not be captured as it is stands in the catalog too, as a comment with what would mend it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use tailwater_config::PostgresConfig;
use tailwater_postgres::from_url;
use tailwater_runtime::Secret;
use tailwater_topics_contract::{PipelineName, TableName, TopicName, looks_like_card_data};
use tailwater_topics_registry::database::{Discovered, discover};
use tailwater_topics_registry::table::TableState;

use crate::output;

/// Write a first configuration and catalog for an existing database
///
/// Looks through the database and writes `tailwater.yaml` and `catalog/` with a topic for each table. Changes
/// nothing in the database. Files that exist are never written over.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater init --postgres postgres://tailwater@127.0.0.1:5432/shop
  PGPASSWORD=… tailwater init --postgres postgres://tailwater@db:5432/shop --kafka kafka:9092 --dir shop")]
pub(crate) struct Args {
    /// The database, as a URL; its password is read from PGPASSWORD and not written anywhere
    #[arg(long, value_name = "URL")]
    postgres: String,
    /// The brokers
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    kafka: String,
    /// The S3 store for the archive
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9000")]
    s3: String,
    /// Name of the pipeline; by default that of the database
    #[arg(long, value_name = "NAME")]
    pipeline: Option<PipelineName>,
    /// Folder to write into
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Password of the database
    #[arg(long, env = "PGPASSWORD", hide = true, hide_env_values = true)]
    password: Option<String>,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut postgres = from_url(&args.postgres).context("--postgres")?;
    if postgres.password.is_some() {
        bail!(
            "--postgres holds a password, which other users of this machine can see; put it into PGPASSWORD"
        );
    }
    postgres.password = args.password.clone().map(Secret::new);
    postgres.check().map_err(|wrong| anyhow!("--postgres: `{}` {wrong}", wrong.key))?;
    let pipeline = match &args.pipeline {
        Some(pipeline) => pipeline.clone(),
        None => pipeline_of(&postgres.database)?,
    };
    let files = ["tailwater.yaml", "catalog/topics.yaml", "catalog/sinks.yaml"];
    for file in files {
        let path = args.dir.join(file);
        if path.exists() {
            bail!("`{}` exists; move it away or choose another folder with --dir", path.display());
        }
    }
    eprintln!("looking through `{}` on {}", postgres.database, postgres.hosts);
    let found = discover(&postgres).await?;
    let topics = topics(&found, &pipeline);
    let has_password = args.password.is_some();
    let texts = [
        config(args, &postgres, &pipeline, has_password),
        topics.text,
        sinks(&pipeline, &topics.names),
    ];
    fs::create_dir_all(args.dir.join("catalog"))
        .with_context(|| format!("cannot make a folder in `{}`", args.dir.display()))?;
    for (file, text) in files.iter().zip(texts) {
        let path = args.dir.join(file);
        write_new(&path, &text).with_context(|| format!("cannot write `{}`", path.display()))?;
        println!("{}", path.display());
    }
    report(args, &found, topics.names.len(), topics.left_out);
    Ok(ExitCode::SUCCESS)
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}

fn report(args: &Args, found: &Discovered, topics: usize, left_out: usize) {
    eprintln!("{}, {} left out with the reason", output::counted(topics, "topic"), left_out);
    if found.wal_level != "logical" {
        eprintln!(
            "the server's wal_level is `{}`: run ALTER SYSTEM SET wal_level = 'logical' and restart it",
            found.wal_level
        );
    }
    let to = if args.dir == Path::new(".") {
        String::new()
    } else {
        format!("cd {} && ", args.dir.display())
    };
    eprintln!("next:  {to}tailwater check -f catalog  &&  tailwater plan -f catalog");
}

fn pipeline_of(database: &str) -> anyhow::Result<PipelineName> {
    let letters = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = database.chars().map(letters).take(40).collect();
    name.parse().with_context(|| {
        format!("no pipeline name follows from database `{database}`; give --pipeline")
    })
}

fn config(
    args: &Args,
    postgres: &PostgresConfig,
    pipeline: &PipelineName,
    has_password: bool,
) -> String {
    let password = if has_password { "\n  password: ${PGPASSWORD}" } else { "" };
    format!(
        "# `tailwater config reference config` explains every key.
pipeline: {pipeline}
postgres:
  host: {host}
  user: {user}{password}
  database: {database}{tls}
kafka:
  brokers: {kafka}
s3:
  endpoint: {s3}
  access_key: ${{S3_ACCESS_KEY:-tailwater}}
  secret_key: ${{S3_SECRET_KEY:-tailwater-secret}}
",
        host = quoted(&postgres.hosts.to_string()),
        user = quoted(&postgres.user),
        database = quoted(&postgres.database),
        tls = tls(postgres),
        kafka = quoted(&args.kafka),
        s3 = quoted(&args.s3),
    )
}

/// How the connection was encrypted, as keys; nothing where the default was taken.
fn tls(postgres: &PostgresConfig) -> String {
    let file = |path: &Path| {
        quoted(&std::path::absolute(path).unwrap_or(path.to_owned()).display().to_string())
    };
    let mut keys = Vec::new();
    keys.extend(postgres.sslmode.map(|mode| format!("sslmode: {mode}")));
    keys.extend(postgres.sslrootcert.as_ref().map(|path| format!("sslrootcert: {}", file(path))));
    if let Some(own) = &postgres.client_certificate {
        keys.push(format!("sslcert: {}", file(&own.certificate)));
        keys.push(format!("sslkey: {}", file(&own.key)));
    }
    keys.iter().map(|key| format!("\n  {key}")).collect()
}

/// The topics of a database.
struct Topics {
    text: String,
    names: Vec<TopicName>,
    left_out: usize,
}

fn topics(found: &Discovered, pipeline: &PipelineName) -> Topics {
    let text = "# `tailwater config reference catalog` explains every key.\n".to_owned();
    let mut topics = Topics { text, names: Vec::new(), left_out: 0 };
    for (name, table) in &found.tables {
        match found.aggregates.get(name) {
            Some(aggregates) => topics.outbox(name, aggregates),
            None => topics.table(name, table, pipeline),
        }
    }
    topics
}

impl Topics {
    fn table(&mut self, name: &TableName, table: &TableState, pipeline: &PipelineName) {
        let topic = topic_of(name, pipeline);
        let card = table.columns.iter().map(|c| c.name.as_str()).find(|c| looks_like_card_data(c));
        let obstacles = match (table.key_columns(name, None), card) {
            (Ok(_), None) => {
                return self.add(
                    &topic,
                    &format!("{{ table: {} }}", quoted(&name.to_string())),
                    true,
                );
            }
            (Ok(_), Some(column)) => vec![format!(
                "column `{column}` looks like card data; if it is harmless say `expose: [{column}]`"
            )],
            (Err(obstacles), _) => obstacles
                .into_iter()
                .map(|o| {
                    [Some(o.problem), o.remedy].into_iter().flatten().collect::<Vec<_>>().join("; ")
                })
                .collect(),
        };
        self.left_out += 1;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# ---\n# {name} is left out:");
        for obstacle in obstacles {
            let _ = writeln!(self.text, "#   {obstacle}");
        }
        let _ = writeln!(
            self.text,
            "# apiVersion: tailwater/v1\n# kind: Topic\n# name: {topic}\n# from: {{ table: {} }}",
            quoted(&name.to_string())
        );
    }

    fn outbox(&mut self, name: &TableName, aggregates: &BTreeSet<String>) {
        if aggregates.is_empty() {
            self.left_out += 1;
            let _ = writeln!(
                self.text,
                "# ---\n# {name} is an outbox without rows yet; declare a topic for each aggregate type:\n# apiVersion: tailwater/v1\n# kind: Topic\n# name: orders.events\n# from: {{ outbox: orders, table: {} }}",
                quoted(&name.to_string())
            );
        }
        for aggregate in aggregates {
            let topic = plain(&format!("{aggregate}.events"));
            let from = format!(
                "{{ outbox: {}, table: {} }}",
                quoted(aggregate),
                quoted(&name.to_string())
            );
            self.add(&topic, &from, false);
        }
    }

    fn add(&mut self, topic: &str, from: &str, is_table: bool) {
        let Ok(name) = topic.parse::<TopicName>() else { return };
        let compact = if is_table { "config: { cleanup.policy: compact }\n" } else { "" };
        let _ = write!(
            self.text,
            "---\napiVersion: tailwater/v1\nkind: Topic\nname: {}\nfrom: {from}\npartitions: 3\n{compact}",
            quoted(topic)
        );
        self.names.push(name);
    }
}

fn sinks(pipeline: &PipelineName, topics: &[TopicName]) -> String {
    let bucket = pipeline.as_str().replace('_', "-");
    let topics: Vec<String> = topics.iter().map(|topic| quoted(topic.as_str())).collect();
    if topics.is_empty() {
        return "# No topic is declared yet, so there is nothing to archive.\n".to_owned();
    }
    format!(
        "apiVersion: tailwater/v1\nkind: Sink\nname: lake\ntype: archive\ntopics:\n  - {}\narchive: {{ bucket: {bucket}-archive }}\n",
        topics.join("\n  - ")
    )
}

/// `shop.public.stock` would say nothing that `shop.stock` does not.
fn topic_of(name: &TableName, pipeline: &PipelineName) -> String {
    let schema = if name.schema == "public" { pipeline.as_str() } else { &name.schema };
    plain(&format!("{schema}.{}", name.table))
}

/// As a topic may be named.
fn plain(text: &str) -> String {
    let letter = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
        _ => '-',
    };
    text.chars().map(letter).take(200).collect()
}

/// A text as a YAML scalar that no reader takes for something else.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_lowercase().as_str());
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_those_of_the_database() {
        let pipeline = pipeline_of("My Shop-2").expect("letters");
        assert_eq!(pipeline.as_str(), "my_shop_2");
        assert!(pipeline_of("2nd").is_err());
        let table =
            |schema: &str, table: &str| TableName { schema: schema.into(), table: table.into() };
        assert_eq!(topic_of(&table("public", "Order Items"), &pipeline), "my_shop_2.order-items");
        assert_eq!(topic_of(&table("billing", "invoice"), &pipeline), "billing.invoice");
    }

    #[test]
    fn odd_texts_are_quoted() {
        assert_eq!(quoted("shop"), "shop");
        assert_eq!(quoted("no"), "\"no\"");
        assert_eq!(quoted("7"), "\"7\"");
        assert_eq!(quoted("http://127.0.0.1:9000"), "\"http://127.0.0.1:9000\"");
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
    }
}
