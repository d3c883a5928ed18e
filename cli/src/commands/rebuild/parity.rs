//! Whether an index says what the tables say, at one LSN.
//!
//! ```text
//!  the index is filled up to P ▸ a snapshot of the tables at LSN L ▸ fill until everything before L is in
//!                                                                  ▸ compare all rows that nobody touched since P
//! ```
//!
//! **Why it is exact.** Everything the snapshot sees committed before L, so its records are in the index when the
//! filling is beyond L. A row that changed after the snapshot has a record after P, and those are left out. So each row
//! that is compared is the same in the snapshot and in whatever moment the index is read.
//!
//! Values are compared as the reader writes them: by its own code, from the same texts of Postgres, under the same masks.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use serde_json::value::RawValue;
use tailwater_cdc::mask::{self, MaskKey};
use tailwater_cdc::progress;
use tailwater_cdc::value::{self, BadText, Form};
use tailwater_sinks_search::shape::Shape;
use tailwater_sinks_search::{Client, bulk, scan, succession};
use tailwater_topics_contract::{
    From, Lsn, Mask, Registrations, SinkRegistration, TableName, TopicSpec,
};
use tokio_postgres::SimpleQueryMessage;

use crate::commands::rebuild::fill::Filler;
use crate::config::{Config, Existing};

/// Rows of one fetch.
const ROWS: usize = 2_000;
/// How long the reader may take to come to where Postgres was.
const READER_MAX: Duration = Duration::from_secs(120);
/// Differences that are shown.
const SHOWN: usize = 10;

/// What texts of values depend on, as the reader has it.
const PINNED: &str =
    "set client_encoding = 'UTF8'; set datestyle = 'ISO, MDY'; set intervalstyle = 'iso_8601';
set timezone = 'UTC'; set bytea_output = 'hex'; set extra_float_digits = 3; set lc_monetary = 'C';
set search_path = pg_catalog; set quote_all_identifiers = off";

/// Hash of a row's fields, by id.
type Rows = HashMap<String, u64>;

/// Compares; says what differs. True when nothing does.
pub(super) async fn check(
    config: &Config,
    registrations: &Registrations,
    sink: &SinkRegistration,
    filler: &mut Filler,
    client: &Client,
) -> anyhow::Result<bool> {
    filler.remember_touched();
    let (rows, lsn) = snapshot(config, registrations, sink, filler.shape()).await?;
    eprintln!("comparing with {} rows of Postgres at {lsn}", rows.len());
    until_read(config, registrations, sink, lsn).await?;
    filler.catch_up().await?;
    succession::refresh(client, filler.index()).await?;
    let mut found = Rows::new();
    let mut unreadable = Vec::new();
    scan::documents(client, filler.index(), |document| match fields_of(&document.source) {
        Some(hash) => drop(found.insert(document.id, hash)),
        None => unreadable.push(document.id),
    })
    .await?;
    let touched = filler.take_touched();
    let untouched = |id: &&String| !touched.contains(*id);
    let mut differences = Vec::new();
    for id in rows.keys().filter(untouched) {
        match found.get(id) {
            None => differences.push(format!("`{id}` is in Postgres and not in the index")),
            Some(hash) if *hash != rows[id] => {
                differences.push(format!("`{id}` has other values in the index than in Postgres"));
            }
            Some(_) => {}
        }
    }
    for id in found.keys().filter(untouched).filter(|id| !rows.contains_key(*id)) {
        differences.push(format!("`{id}` is in the index and not in Postgres"));
    }
    differences.extend(unreadable.iter().map(|id| format!("`{id}` is no document of ours")));
    differences.sort();
    let compared = rows.keys().filter(untouched).count();
    println!(
        "compared {compared} rows with Postgres at {lsn}: {} differ; {} that changed meanwhile were left out",
        differences.len(),
        touched.len()
    );
    differences.iter().take(SHOWN).for_each(|difference| println!("  {difference}"));
    if differences.len() > SHOWN {
        println!("  and {} more", differences.len() - SHOWN);
    }
    Ok(differences.is_empty())
}

/// All rows that the sink shows, as Postgres has them at one moment, and an LSN not before it.
async fn snapshot(
    config: &Config,
    registrations: &Registrations,
    sink: &SinkRegistration,
    shape: &Shape,
) -> anyhow::Result<(Rows, Lsn)> {
    let client =
        tailwater_postgres::client(&config.postgres, &format!("tailwater {}", config.pipeline))
            .await?;
    client.batch_execute(PINNED).await?;
    client.batch_execute("begin isolation level repeatable read read only").await?;
    // The first statement fixes the snapshot; whatever it sees was in the log before the position is asked for.
    let position = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await?;
    let lsn: String = position.get(0);
    let lsn: Lsn = lsn.parse().ok().with_context(|| format!("`{lsn}` is no LSN"))?;
    let publication = config.pipeline.changes_publication();
    let mask_key = config.reader.mask_key.as_ref().map(MaskKey::new);
    let mut rows = Rows::new();
    for topic in &sink.spec.topics {
        let topic = registrations.topics.get(topic);
        let topic = topic.with_context(|| "a topic of the sink is not registered".to_owned())?;
        let From::Table(table) = &topic.spec.from else { continue };
        let published = published(&client, &publication, table).await?;
        let columns = columns(published, &topic.spec, mask_key.as_ref())
            .with_context(|| format!("reading `{table}`"))?;
        read(&client, table, &columns, &topic.key_columns, shape, &mut rows)
            .await
            .with_context(|| format!("reading `{table}`"))?;
    }
    client.batch_execute("commit").await?;
    Ok((rows, lsn))
}

/// A column of the reader's records.
struct Column {
    name: String,
    written: Written,
}

/// How it writes the column's values.
enum Written {
    Readable(Form),
    Truncated(u32),
    Hmac(MaskKey),
}

/// Those that a topic has of the published columns.
fn columns(
    published: Vec<(String, Form)>,
    topic: &TopicSpec,
    mask_key: Option<&MaskKey>,
) -> anyhow::Result<Vec<Column>> {
    let mut columns = Vec::with_capacity(published.len());
    for (name, form) in published {
        let written = match topic.mask.get(&name) {
            None => Written::Readable(form),
            Some(Mask::Drop) => continue,
            Some(Mask::Truncate(count)) => Written::Truncated(*count),
            Some(Mask::Hmac) => Written::Hmac(mask_key.cloned().with_context(|| {
                format!("column `{name}` is masked by `hmac`; set `reader.mask_key` or `reader.mask_key_file` as the reader has it, or leave out the comparison with --no-parity")
            })?),
        };
        columns.push(Column { name, written });
    }
    Ok(columns)
}

impl Column {
    /// Appends a value as the reader writes it.
    fn write(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
        match &self.written {
            Written::Readable(form) => value::write(*form, text, out),
            Written::Truncated(count) => mask::truncate(*count, text, out),
            Written::Hmac(key) => {
                key.write(text, out);
                Ok(())
            }
        }
    }
}

/// The published columns of a table, in its order.
async fn published(
    client: &tokio_postgres::Client,
    publication: &str,
    table: &TableName,
) -> anyhow::Result<Vec<(String, Form)>> {
    // A domain is written as the type at its bottom.
    let columns = client
        .query(
            "with recursive base(attnum, attname, typ) as (
                 select a.attnum, a.attname, a.atttypid
                 from pg_attribute a
                 where a.attrelid = format('%I.%I', $1::text, $2::text)::regclass and a.attnum > 0
                   and not a.attisdropped and a.attgenerated = ''
                 union all
                 select b.attnum, b.attname, t.typbasetype
                 from base b join pg_type t on t.oid = b.typ where t.typbasetype <> 0)
             select b.attname::text, b.typ
             from base b join pg_type t on t.oid = b.typ
             where t.typbasetype = 0
               and b.attname in (select unnest(p.attnames) from pg_publication_tables p
                                 where p.pubname = $3 and p.schemaname = $1 and p.tablename = $2)
             order by b.attnum",
            &[&table.schema, &table.table, &publication],
        )
        .await?;
    let column = |row: &tokio_postgres::Row| (row.get(0), Form::of_type(row.get(1)));
    let columns: Vec<(String, Form)> = columns.iter().map(column).collect();
    ensure!(!columns.is_empty(), "`{table}` is not in publication `{publication}`");
    Ok(columns)
}

async fn read(
    client: &tokio_postgres::Client,
    table: &TableName,
    columns: &[Column],
    key: &[String],
    shape: &Shape,
    rows: &mut Rows,
) -> anyhow::Result<()> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let names: Vec<String> = columns.iter().map(|column| quoted(&column.name)).collect();
    let declare = format!(
        "declare parity no scroll cursor for select {} from {}",
        names.join(", "),
        table.quoted()
    );
    client.batch_execute(&declare).await?;
    loop {
        // Texts, as the reader gets them.
        let fetched = client.simple_query(&format!("fetch {ROWS} from parity")).await?;
        let mut is_end = true;
        for message in &fetched {
            let SimpleQueryMessage::Row(row) = message else { continue };
            is_end = false;
            let mut fields = Vec::new();
            for (place, column) in columns.iter().enumerate() {
                let mut text = Vec::new();
                match row.get(place) {
                    None => text.extend_from_slice(b"null"),
                    Some(value) => {
                        if column.write(value.as_bytes(), &mut text).is_err() {
                            bail!(
                                "column `{}` came in a form that its type does not have",
                                column.name
                            );
                        }
                    }
                }
                fields.push((column.name.as_str(), String::from_utf8(text)?));
            }
            let of_key = |(name, _): &&(&str, String)| key.iter().any(|column| column == name);
            let key = object(fields.iter().filter(of_key))?;
            let row = object(fields.iter())?;
            // By the code that writes them, so that what is compared is what would be written.
            // One that cannot be a document was refused by the filling as well, and counted there.
            let Ok(document) = shape.document(std::str::from_utf8(&row)?, &row) else { continue };
            let document: Vec<u8> = bulk::on_one_line(&document).collect();
            let document: &RawValue = serde_json::from_slice(&document)?;
            let hash = fields_of(document).context("a document is an object")?;
            rows.insert(shape.address(Some(&key))?.id, hash);
        }
        if is_end {
            break;
        }
    }
    Ok(client.batch_execute("close parity").await?)
}

/// Fields as the reader writes them, in the order of the table.
fn object<'f>(fields: impl Iterator<Item = &'f (&'f str, String)>) -> anyhow::Result<Bytes> {
    let mut parts = Vec::new();
    for (name, text) in fields {
        parts.push(format!("{}:{text}", serde_json::to_string(name)?));
    }
    Ok(format!("{{{}}}", parts.join(",")).into())
}

/// The hash of a document's fields; nothing when it is no object.
fn fields_of(document: &RawValue) -> Option<u64> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(document.get()).ok()?;
    let fields: BTreeMap<&str, &str> =
        fields.iter().map(|(name, value)| (name.as_str(), value.get())).collect();
    Some(hash(&fields))
}

fn hash(fields: &BTreeMap<&str, &str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    fields.hash(&mut hasher);
    hasher.finish()
}

/// Waits until everything of a sink's tables that committed before an LSN is in Kafka.
async fn until_read(
    config: &Config,
    registrations: &Registrations,
    sink: &SinkRegistration,
    lsn: Lsn,
) -> anyhow::Result<()> {
    let (reader, began) = (config.reader(Existing::default()), Instant::now());
    loop {
        // While a table is copied, rows from before are still to come.
        let record = progress::read(&reader).await?;
        let tables = registrations.tables_of(&sink.spec);
        let position = record.and_then(|record| record.complete_to(tables)).unwrap_or_default();
        if position >= lsn {
            return Ok(());
        }
        ensure!(
            began.elapsed() < READER_MAX,
            "the reader stands at {position} and has not come to {lsn} within {} s; is it running?",
            READER_MAX.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
