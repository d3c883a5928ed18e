//! What would fail or lose something later, found before it does.
//!
//! Every finding carries the exact setting or statement that mends it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tailwater_topics_contract::{
    Catalog, From as Origin, Registrations, SinkKind, SinkSpec, Standing, TableName, TopicSpec,
};

use crate::config::Config;
use crate::stream::{Connection, Error, Mode, Row, quote_identifier, quote_literal};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The reader works, but somebody should know.
    Warning,
    /// The reader does not start.
    Error,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `TW1` and two digits; the same for the same kind of problem.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a setting, a role, a publication, a table.
    pub subject: String,
    /// What is wrong and what follows from it.
    pub problem: String,
    /// The setting or the SQL that mends it.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}; {}", self.code, self.subject, self.problem, self.remedy)
    }
}

/// What the database shall be prepared for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Tables captured with all changes, with the declared key columns of each topic.
    changes: BTreeMap<TableName, Vec<String>>,
    /// Outbox tables.
    outboxes: BTreeSet<TableName>,
    /// Tables that feed a search index.
    searched: BTreeSet<TableName>,
    /// Tables of removed topics. One that is still published is no mistake: its removal was cut short.
    given_up: BTreeSet<TableName>,
}

impl Declared {
    /// What declared files ask for, before they are applied.
    pub fn in_catalog(catalog: &Catalog) -> Self {
        Self::new(catalog.topics.iter(), catalog.sinks.iter())
    }

    /// What is registered.
    pub fn in_registrations(registrations: &Registrations) -> Self {
        let declared = Self::new(
            registrations.written().map(|topic| &topic.spec),
            registrations.standing_sinks().map(|sink| &sink.spec),
        );
        let removed =
            registrations.topics.values().filter(|topic| topic.standing == Standing::Removed);
        let given_up = removed.filter_map(|topic| topic.spec.table().cloned()).collect();
        Self { given_up, ..declared }
    }

    fn new<'a>(
        topics: impl Iterator<Item = &'a TopicSpec> + Clone,
        sinks: impl Iterator<Item = &'a SinkSpec>,
    ) -> Self {
        let mut declared = Self::default();
        for topic in topics.clone() {
            match &topic.from {
                Origin::Table(table) => {
                    let key = topic.key.clone().unwrap_or_default();
                    declared.changes.entry(table.clone()).or_default().extend(key);
                }
                Origin::Outbox { table, .. } => {
                    declared.outboxes.insert(table.clone());
                }
                Origin::Message(_) => {}
            }
        }
        for sink in sinks.filter(|sink| matches!(sink.kind, SinkKind::Search(_))) {
            let fed = topics.clone().filter(|topic| sink.topics.contains(&topic.name));
            declared.searched.extend(fed.filter_map(|topic| topic.table().cloned()));
        }
        declared
    }

    /// Every outbox table as SQL takes it.
    pub(crate) fn quoted_outboxes(&self) -> Vec<String> {
        self.outboxes.iter().map(TableName::quoted).collect()
    }
}

/// Looks the database over. A server that cannot be reached or refuses the login is a finding too.
pub async fn check(config: &Config, declared: &Declared) -> Vec<Finding> {
    match look(config, declared).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding {
            code: "TW100",
            severity: Severity::Error,
            subject: format!("server {}", config.postgres.address()),
            problem: with_sources(&error),
            remedy: "correct `postgres` in the configuration, or start the server".to_owned(),
        }],
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// As [`check`], for the reader's start, where a connection problem is not a finding.
pub(crate) async fn look(config: &Config, declared: &Declared) -> Result<Vec<Finding>, Error> {
    let application = format!("tailwater {} check", config.pipeline);
    let mut connection = Connection::open(&config.postgres, &application, Mode::Sql).await?;
    let mut findings = Vec::new();
    let version = server(&mut connection, config, &mut findings).await?;
    publication(
        &mut connection,
        &config.pipeline.changes_publication(),
        "insert, update, delete, truncate",
        declared.changes.keys().collect(),
        &declared.given_up,
        &mut findings,
    )
    .await?;
    publication(
        &mut connection,
        &config.pipeline.outbox_publication(),
        "insert",
        declared.outboxes.iter().collect(),
        &declared.given_up,
        &mut findings,
    )
    .await?;
    let tables = Table::find_all(&mut connection, declared.changes.keys()).await?;
    for ((table, key), found) in declared.changes.iter().zip(&tables) {
        let searched = declared.searched.contains(table);
        judge(table, found.as_ref(), Some((key, searched)), &mut findings);
        let Some(found) = found else { continue };
        if !config.from_now {
            found.judge_reading(table, &config.postgres.user, &mut findings);
        }
        if version < PARTITIONS_FOLLOWED {
            found.judge_partitions(table, &config.pipeline.changes_publication(), &mut findings);
        }
    }
    let tables = Table::find_all(&mut connection, declared.outboxes.iter()).await?;
    for (table, found) in declared.outboxes.iter().zip(&tables) {
        judge(table, found.as_ref(), None, &mut findings);
    }
    connection.close().await;
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

/// Judges the server and the role; answers `server_version_num`.
async fn server(
    connection: &mut Connection,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> Result<i64, Error> {
    let slot = quote_literal(&config.pipeline.slot());
    // The reader's own connection is not somebody else's.
    let reader = quote_literal(&config.application());
    let sql = format!(
        "SELECT current_setting('wal_level'), current_setting('server_version_num'),
                current_setting('max_slot_wal_keep_size'),
                current_setting('max_replication_slots'),
                (SELECT count(*) FROM pg_catalog.pg_replication_slots),
                current_setting('max_wal_senders'),
                (SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE application_name <> {reader}),
                (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot}),
                (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot} AND active),
                (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
                current_setting('server_encoding')"
    );
    let rows = connection.query(&sql).await?;
    let Some(row) = rows.first() else { return Ok(0) };
    let text = |column| row.get(column).unwrap_or_default();
    let number = |column| text(column).parse::<i64>().unwrap_or_default();
    let mut add = |code, severity, subject: &str, problem: String, remedy: String| {
        findings.push(Finding { code, severity, subject: subject.to_owned(), problem, remedy });
    };
    if text(0) != "logical" {
        add(
            "TW101",
            Severity::Error,
            "wal_level",
            format!("is `{}`, so changes cannot be decoded", text(0)),
            "`ALTER SYSTEM SET wal_level = 'logical'` and restart the server".to_owned(),
        );
    }
    if number(1) < 140_000 {
        add(
            "TW102",
            Severity::Error,
            "server version",
            format!("is {}; this version reads 14 and later", text(1)),
            "upgrade the server".to_owned(),
        );
    }
    if text(9) != "t" {
        let role = quote_identifier(&config.postgres.user);
        add(
            "TW103",
            Severity::Error,
            &format!("role {role}"),
            "may not replicate".to_owned(),
            format!("`ALTER ROLE {role} REPLICATION`"),
        );
    }
    if number(7) == 0 && number(4) >= number(3) {
        add(
            "TW104",
            Severity::Error,
            "max_replication_slots",
            format!("is {} and all are taken", number(3)),
            format!(
                "`ALTER SYSTEM SET max_replication_slots = {}` and restart the server, or drop a slot nobody needs",
                number(3) + 5
            ),
        );
    }
    if number(8) == 0 && number(6) >= number(5) {
        add(
            "TW105",
            Severity::Error,
            "max_wal_senders",
            format!("is {} and all are taken", number(5)),
            format!(
                "`ALTER SYSTEM SET max_wal_senders = {}` and restart the server",
                number(5) + 5
            ),
        );
    }
    if text(10) == "SQL_ASCII" {
        add(
            "TW107",
            Severity::Warning,
            "server_encoding",
            "is SQL_ASCII: the server keeps any bytes as text, and a row with some that are not UTF-8 stops the reader".to_owned(),
            "dump the database and restore it into one with `ENCODING 'UTF8'`".to_owned(),
        );
    }
    if text(2) == "-1" {
        add(
            "TW106",
            Severity::Warning,
            "max_slot_wal_keep_size",
            "is unlimited, so a reader that stands still fills the server's disk".to_owned(),
            "`ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'` (less than the free disk, more than your longest outage) and `SELECT pg_reload_conf()`".to_owned(),
        );
    }
    Ok(number(1))
}

async fn publication(
    connection: &mut Connection,
    name: &str,
    operations: &str,
    declared: BTreeSet<&TableName>,
    given_up: &BTreeSet<TableName>,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let quoted = quote_identifier(name);
    let mut error = |code, problem: String, remedy: String| {
        let subject = format!("publication {quoted}");
        findings.push(Finding { code, severity: Severity::Error, subject, problem, remedy });
    };
    let sql = format!(
        "SELECT concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
                CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END), pubviaroot
         FROM pg_catalog.pg_publication WHERE pubname = {}",
        quote_literal(name)
    );
    let rows = connection.query(&sql).await?;
    let Some(row) = rows.first() else {
        error(
            "TW110",
            "does not exist".to_owned(),
            "declare topics with `tailwater apply`, which creates it".to_owned(),
        );
        return Ok(());
    };
    if row.get(0) != Some(operations) || row.get(1) != Some("t") {
        error(
            "TW111",
            format!(
                "publishes `{}`{}",
                row.get(0).unwrap_or_default(),
                if row.get(1) == Some("t") { "" } else { " and names partitions by themselves" }
            ),
            format!(
                "`ALTER PUBLICATION {quoted} SET (publish = '{operations}', publish_via_partition_root = true)`"
            ),
        );
    }
    let sql = format!(
        "SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables WHERE pubname = {}",
        quote_literal(name)
    );
    let rows = connection.query(&sql).await?;
    let table = |row: &Row| {
        Some(TableName { schema: row.get(0)?.to_owned(), table: row.get(1)?.to_owned() })
    };
    let published: BTreeSet<TableName> = rows.iter().filter_map(table).collect();
    for table in declared.iter().filter(|table| !published.contains(**table)) {
        let table = table.quoted();
        error(
            "TW112",
            format!("does not contain {table}, so its changes are not sent"),
            format!("`ALTER PUBLICATION {quoted} ADD TABLE {table}`"),
        );
    }
    let known = |table: &&TableName| declared.contains(table) || given_up.contains(*table);
    for table in published.iter().filter(|table| !known(table)) {
        let table = table.quoted();
        error(
            "TW113",
            format!("contains {table}, which no topic declares"),
            format!(
                "declare a topic for it, or `ALTER PUBLICATION {quoted} DROP TABLE {table}` if it was added just now"
            ),
        );
    }
    Ok(())
}

/// What the catalog says of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    /// `r` ordinary, `p` partitioned.
    kind: String,
    unlogged: bool,
    /// Weakest replica identity among the table and its partitions: `n`, `d` without a key, `d`, `i`, `f`.
    identity: Identity,
    columns: BTreeSet<String>,
    identity_columns: BTreeSet<String>,
    /// Columns whose large values are kept out of line.
    toastable: Vec<String>,
    /// The first of the table or its partitions from which we may not select.
    unreadable: Option<String>,
    /// The first of which row security hides rows from us.
    secured: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    Nothing,
    NoKey,
    Columns,
    Full,
}

impl Table {
    /// Looks tables up, many with one query; `None` stands for one that does not exist.
    async fn find_all(
        connection: &mut Connection,
        names: impl Iterator<Item = &TableName>,
    ) -> Result<Vec<Option<Self>>, Error> {
        let names: Vec<String> = names.map(|name| quote_literal(&name.quoted())).collect();
        let mut tables = Vec::with_capacity(names.len());
        for names in names.chunks(AT_ONCE) {
            let rows = connection.query(&tables_sql(names)).await?;
            let mut found: Vec<Option<Self>> = names.iter().map(|_| None).collect();
            for rows in rows.chunk_by(|one, next| one.get(0) == next.get(0)) {
                let at = rows[0].get(0).and_then(|at| at.parse::<usize>().ok());
                if let Some(table) = at.and_then(|at| found.get_mut(at)) {
                    *table = Some(Self::of(rows));
                }
            }
            tables.append(&mut found);
        }
        Ok(tables)
    }

    /// From a row for each column, of which there is one at least.
    fn of(rows: &[Row]) -> Self {
        let first = &rows[0];
        let named = |row: &Row| row.get(4).unwrap_or_default().to_owned();
        let when = |column: usize| rows.iter().filter(move |row| row.get(column) == Some("t"));
        Self {
            kind: first.get(1).unwrap_or_default().to_owned(),
            unlogged: first.get(2) == Some("t"),
            identity: match first.get(3) {
                Some("3") => Identity::Full,
                Some("2") => Identity::Columns,
                Some("1") => Identity::NoKey,
                _ => Identity::Nothing,
            },
            columns: rows.iter().map(named).collect(),
            identity_columns: when(5).map(named).collect(),
            toastable: when(6).map(named).collect(),
            unreadable: first.get(7).map(str::to_owned),
            secured: first.get(8).map(str::to_owned),
        }
    }

    /// Whether its rows could be copied. Partitions are read by themselves, under their own privileges.
    fn judge_reading(&self, name: &TableName, role: &str, findings: &mut Vec<Finding>) {
        let role = quote_identifier(role);
        let mut add = |code, problem: String, remedy| {
            let subject = format!("table {}", name.quoted());
            findings.push(Finding { code, severity: Severity::Warning, subject, problem, remedy });
        };
        if let Some(part) = &self.unreadable {
            let problem =
                format!("may not be read by {role}, so the rows in {part} cannot be copied");
            add("TW128", problem, format!("`GRANT SELECT ON {part} TO {role}`"));
        }
        if let Some(part) = &self.secured {
            let problem = format!(
                "has row security that hides rows in {part} from {role}, so they cannot be copied"
            );
            add("TW129", problem, format!("`ALTER ROLE {role} BYPASSRLS`"));
        }
    }

    /// Whether the server will say when a table becomes one of its partitions, or stops being one.
    fn judge_partitions(&self, name: &TableName, publication: &str, findings: &mut Vec<Finding>) {
        if self.kind != "p" {
            return;
        }
        let publication = quote_identifier(publication);
        findings.push(Finding {
            code: "TW130",
            severity: Severity::Warning,
            subject: format!("table {}", name.quoted()),
            problem: "is partitioned, and before version 15 a running stream takes no notice of `ATTACH` or `DETACH PARTITION` of a \
                      table it has met: an attached one's rows are not sent, a detached one's still are"
                .to_owned(),
            remedy: format!(
                "upgrade the server, or end each transaction that attaches or detaches with `ALTER PUBLICATION {publication} SET (publish_via_partition_root = true)`"
            ),
        });
    }
}

/// `server_version_num` from which on a stream takes notice of partitions that are attached and detached. Before, the
/// output plugin keeps whether a table is published until the *publication* changes, so changing that, even to what it
/// is, makes it look again.
const PARTITIONS_FOLLOWED: i64 = 150_000;
/// How many tables a query looks up.
const AT_ONCE: usize = 250;

/// The columns of the tables, in the tables' order. The leaves matter because each row change is checked against the
/// identity of the partition it is in.
fn tables_sql(names: &[String]) -> String {
    let wanted: Vec<String> =
        names.iter().enumerate().map(|(at, name)| format!("({at}, {name})")).collect();
    format!(
        "SELECT wanted.at, t.* FROM (VALUES {}) AS wanted (at, name) CROSS JOIN LATERAL (
             WITH root AS (SELECT to_regclass(wanted.name)::oid AS oid),
                  leaf AS (SELECT relid AS oid FROM root, pg_catalog.pg_partition_tree(root.oid) UNION SELECT oid FROM root)
             SELECT c.relkind,
                    (SELECT bool_or(l.relpersistence = 'u') FROM leaf JOIN pg_catalog.pg_class l USING (oid)),
                    (SELECT min(CASE WHEN l.relreplident = 'n' THEN 0
                                     WHEN l.relreplident = 'f' THEN 3
                                     WHEN EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = l.oid
                                                  AND (CASE l.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END)) THEN 2
                                     ELSE 1 END)
                     FROM leaf JOIN pg_catalog.pg_class l USING (oid)),
                    a.attname,
                    c.relreplident = 'f' OR EXISTS (
                        SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid
                        AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                        AND (CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END)),
                    a.attstorage IN ('x', 'e', 'm') AND EXISTS (
                        SELECT FROM leaf JOIN pg_catalog.pg_class l USING (oid) WHERE l.reltoastrelid <> 0),
                    (SELECT min(l.oid::regclass::text) FROM leaf JOIN pg_catalog.pg_class l USING (oid)
                     WHERE l.relkind = 'r' AND NOT has_table_privilege(l.oid, 'SELECT')),
                    (SELECT min(l.oid::regclass::text) FROM leaf JOIN pg_catalog.pg_class l USING (oid)
                     WHERE l.relkind = 'r' AND row_security_active(l.oid)),
                    a.attnum
             FROM root JOIN pg_catalog.pg_class c USING (oid)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         ) t ORDER BY wanted.at, t.attnum",
        wanted.join(", ")
    )
}

/// `changes`: the declared key and whether the table feeds a search index; `None` for an outbox table.
fn judge(
    name: &TableName,
    table: Option<&Table>,
    changes: Option<(&Vec<String>, bool)>,
    findings: &mut Vec<Finding>,
) {
    let quoted = name.quoted();
    let mut add = |code, severity, problem: String, remedy: String| {
        let subject = format!("table {quoted}");
        findings.push(Finding { code, severity, subject, problem, remedy });
    };
    let Some(table) = table else {
        let remedy = "create it, or correct the topic's `from`".to_owned();
        return add("TW120", Severity::Error, "does not exist".to_owned(), remedy);
    };
    if !matches!(table.kind.as_str(), "r" | "p") {
        let remedy = "declare a table instead".to_owned();
        return add("TW121", Severity::Error, "is not a table".to_owned(), remedy);
    }
    if table.unlogged {
        add(
            "TW122",
            Severity::Error,
            "is unlogged, so its changes are not in the WAL".to_owned(),
            format!("`ALTER TABLE {quoted} SET LOGGED`"),
        );
    }
    let Some((key, searched)) = changes else { return };
    let full = format!("`ALTER TABLE {quoted} REPLICA IDENTITY FULL`");
    match table.identity {
        Identity::Nothing => add(
            "TW123",
            Severity::Error,
            "has replica identity NOTHING, so updates and deletes by the application fail while it is published"
                .to_owned(),
            format!("`ALTER TABLE {quoted} REPLICA IDENTITY DEFAULT`"),
        ),
        Identity::NoKey => add(
            "TW123",
            Severity::Error,
            "has no primary key, so updates and deletes by the application fail while it is published"
                .to_owned(),
            format!("add a primary key, or {full}"),
        ),
        Identity::Columns | Identity::Full => {}
    }
    for column in key {
        if !table.columns.contains(column) {
            let problem = format!("has no column `{column}`, which the topic's key names");
            add("TW125", Severity::Error, problem, "correct the topic's `key`".to_owned());
        } else if !table.identity_columns.contains(column) {
            let problem = format!(
                "does not have key column `{column}` in its replica identity, so deletes would come without it"
            );
            add("TW126", Severity::Error, problem, full.clone());
        }
    }
    if searched && table.identity != Identity::Full && !table.toastable.is_empty() {
        let columns = table.toastable.join("`, `");
        let problem = format!(
            "feeds a search index, but updates leave out large values of `{columns}` that did not change"
        );
        add("TW127", Severity::Error, problem, full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Table {
            kind: "r".to_owned(),
            unlogged: false,
            identity: Identity::Columns,
            columns: names(&["id", "body"]),
            identity_columns: names(&["id"]),
            toastable: vec!["body".to_owned()],
            unreadable: None,
            secured: None,
        }
    }

    fn codes(table: Option<&Table>, changes: Option<(&[&str], bool)>) -> Vec<&'static str> {
        let mut findings = Vec::new();
        let name = "shop.product".parse().expect("a name");
        let key: Vec<String> =
            changes.iter().flat_map(|(key, _)| *key).map(|c| (*c).to_owned()).collect();
        judge(&name, table, changes.map(|(_, searched)| (&key, searched)), &mut findings);
        findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn a_table_is_judged_by_what_its_topic_needs() {
        assert_eq!(codes(None, None), ["TW120"]);
        assert!(codes(Some(&table()), Some((&["id"], false))).is_empty());
        assert_eq!(codes(Some(&table()), Some((&["body"], false))), ["TW126"]);
        assert_eq!(codes(Some(&table()), Some((&["nope"], false))), ["TW125"]);
        assert_eq!(codes(Some(&table()), Some((&[], true))), ["TW127"]);
        let full = Table { identity: Identity::Full, identity_columns: table().columns, ..table() };
        assert!(codes(Some(&full), Some((&["id"], true))).is_empty());
        assert!(codes(Some(&full), Some((&[], true))).is_empty(), "keyed by its primary key");
        let nothing = Table { identity: Identity::Nothing, ..table() };
        assert_eq!(codes(Some(&nothing), Some((&[], false))), ["TW123"]);
        assert!(codes(Some(&nothing), None).is_empty(), "an outbox is insert-only");
        let unlogged = Table { unlogged: true, ..table() };
        assert_eq!(codes(Some(&unlogged), None), ["TW122"]);
    }
}
