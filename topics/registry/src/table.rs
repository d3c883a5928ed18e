//! What Postgres says of a table, and whether it can be captured.
//!
//! A publication with updates and deletes demands that every table in it can name the row that changed. Where
//! one cannot, Postgres refuses the *application's* own updates from the moment the table is published. So a
//! table is looked at before it enters a publication, its partitions too: an update is checked against the
//! identity of the partition it touches, and a partition does not inherit the identity of its parent.

use std::collections::BTreeMap;

use tailwater_topics_contract::{Mask, TableName};

/// Columns of an outbox table with their types, as `format_type` prints them.
const OUTBOX_COLUMNS: [(&str, &str); 12] = [
    ("id", "uuid"),
    ("created_at", "timestamp with time zone"),
    ("aggregate_type", "text"),
    ("aggregate_id", "text"),
    ("event_type", "text"),
    ("event_version", "smallint"),
    ("partition_key", "text"),
    ("payload", "jsonb"),
    ("headers", "jsonb"),
    ("correlation_id", "uuid"),
    ("causation_id", "uuid"),
    ("traceparent", "text"),
];

/// Types whose values are texts.
const TEXT_TYPES: [&str; 6] =
    ["text", "character varying", "character", "bpchar", "citext", "name"];

/// Types that Debezium's form has, as `format_type` prints them; enums have it too.
#[rustfmt::skip]
const DEBEZIUM_TYPES: [&str; 83] = [
    "boolean", "smallint", "integer", "bigint", "oid", "real", "double precision", "numeric", "money", "bit",
    "bit varying", "character", "bpchar", "character varying", "text", "name", "\"char\"", "citext", "json", "jsonb",
    "xml", "uuid", "inet", "cidr", "macaddr", "macaddr8", "bytea", "date", "time without time zone",
    "time with time zone", "timestamp without time zone", "timestamp with time zone", "interval", "hstore", "ltree",
    "isbn", "isbn13", "ismn", "ismn13", "issn", "issn13", "ean13", "upc", "tsvector", "int4range", "int8range",
    "numrange", "tsrange", "tstzrange", "daterange", "point", "boolean[]", "bytea[]", "smallint[]", "integer[]",
    "bigint[]", "oid[]", "real[]", "double precision[]", "date[]", "time without time zone[]",
    "timestamp without time zone[]", "timestamp with time zone[]", "time with time zone[]", "numeric[]", "uuid[]",
    "json[]", "jsonb[]", "cidr[]", "macaddr8[]", "\"char\"[]", "text[]", "character[]", "bpchar[]",
    "character varying[]", "macaddr[]", "inet[]", "int4range[]", "numrange[]", "tsrange[]", "tstzrange[]",
    "daterange[]", "int8range[]",
];

/// A type's name without its schema.
fn unqualified(data_type: &str) -> &str {
    data_type.rsplit_once('.').map_or(data_type, |(_, name)| name)
}

/// A table as it stands in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    /// What kind of relation it is.
    pub kind: TableKind,
    /// Whether its changes reach the WAL; unlogged and temporary tables do not.
    pub is_logged: bool,
    /// Columns in table order.
    pub columns: Vec<Column>,
    /// Columns of the primary key in table order; empty without one.
    pub primary_key: Vec<String>,
    /// How a changed row is named.
    pub identity: Identity,
    /// Whether it, or a partition of it, has a TOAST table. Postgres makes one only where a row could outgrow
    /// its page, so without it no value is ever left out of an update.
    pub has_toast: bool,
    /// The partitions that hold rows; empty for a plain table.
    pub leaves: Vec<Leaf>,
}

/// What kind of relation a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// A table with rows of its own.
    Plain,
    /// A partitioned table.
    Partitioned,
    /// A partition of another table.
    Partition {
        /// The partitioned table at the top.
        root: TableName,
    },
    /// Nothing that the WAL has changes of; the text names it, such as `a view`.
    Other(&'static str),
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as `format_type` prints it without modifiers.
    pub data_type: String,
    /// Whether a large value may be moved out of the row.
    pub is_toastable: bool,
    /// Whether Postgres computes it; such columns are not sent.
    pub is_generated: bool,
    /// Whether it may hold NULL.
    pub is_nullable: bool,
    /// Its type without a domain around it, as `format_type` prints it.
    pub base_type: String,
    /// Whether that is an enum.
    pub is_enum: bool,
}

/// How a table names the row that an update or delete touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By its primary key, if it has one.
    Default,
    /// By all columns.
    Full,
    /// Not at all.
    Nothing,
    /// By the columns of a unique index.
    Index(Vec<String>),
}

/// A partition that holds rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its name.
    pub name: TableName,
    /// How it names a changed row.
    pub identity: Identity,
    /// Columns of its primary key; empty without one.
    pub primary_key: Vec<String>,
}

/// Why a table cannot be captured as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What is wrong.
    pub problem: String,
    /// The SQL that mends it, where SQL can.
    pub remedy: Option<String>,
}

impl Obstacle {
    fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: None }
    }

    fn mended_by(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: Some(remedy.into()) }
    }
}

impl TableState {
    /// The columns that make the record key, in table order, or everything that stands in the way of capturing
    /// updates and deletes of this table.
    pub fn key_columns(
        &self,
        name: &TableName,
        declared: Option<&[String]>,
    ) -> Result<Vec<String>, Vec<Obstacle>> {
        let mut obstacles = self.unfit(name);
        if !obstacles.is_empty() {
            return Err(obstacles);
        }
        obstacles.extend(self.without_identity(name));
        let key = match declared {
            Some(declared) => {
                obstacles.extend(self.unusable_key(name, declared));
                self.in_table_order(declared)
            }
            None if self.identity == Identity::Full && self.primary_key.is_empty() => {
                obstacles.push(Obstacle::new(format!(
                    "`{name}` has no primary key; say which columns are the key with `key: [column]`"
                )));
                Vec::new()
            }
            None => {
                let key = match &self.identity {
                    Identity::Index(columns) => self.in_table_order(columns),
                    _ => self.primary_key.clone(),
                };
                obstacles.extend(self.uncovered(name, &key));
                key
            }
        };
        if obstacles.is_empty() { Ok(key) } else { Err(obstacles) }
    }

    /// Everything that keeps this table from being an outbox.
    pub fn outbox_obstacles(&self, name: &TableName) -> Vec<Obstacle> {
        let mut obstacles = self.unfit(name);
        if !obstacles.is_empty() {
            return obstacles;
        }
        for (column, data_type) in OUTBOX_COLUMNS {
            let problem = match self.column(column) {
                None => format!("outbox table `{name}` has no column `{column}` ({data_type})"),
                Some(found) if found.data_type != data_type => format!(
                    "column `{column}` of outbox table `{name}` is {}, not {data_type}",
                    found.data_type
                ),
                Some(_) => continue,
            };
            obstacles.push(Obstacle::new(problem));
        }
        obstacles
    }

    /// Everything that keeps columns from being masked as declared. What is masked must be there: a column that was
    /// renamed would go out under its new name.
    pub fn mask_obstacles(
        &self,
        name: &TableName,
        mask: &BTreeMap<String, Mask>,
        key: &[String],
    ) -> Vec<Obstacle> {
        let obstacle = |(column, mask): (&String, &Mask)| {
            let Some(found) = self.column(column) else {
                let columns: Vec<_> = self.columns.iter().map(|c| c.name.as_str()).collect();
                return Some(format!(
                    "masked column `{column}` does not exist in `{name}`, which has {}",
                    columns.join(", ")
                ));
            };
            if key.contains(column) {
                return Some(format!(
                    "column `{column}` of `{name}` is in the key, which is never masked; declare another `key`"
                ));
            }
            if found.is_generated {
                return Some(format!(
                    "masked column `{column}` of `{name}` is generated, and generated columns are not sent"
                ));
            }
            let is_text = TEXT_TYPES.contains(&unqualified(&found.base_type));
            (matches!(mask, Mask::Truncate(_)) && !is_text).then(|| {
                format!(
                    "column `{column}` of `{name}` is {}, and only texts can be truncated; use `drop` or `hmac`",
                    found.data_type
                )
            })
        };
        mask.iter().filter_map(obstacle).map(Obstacle::new).collect()
    }

    /// Columns that Debezium's form does not have. It leaves them out, which has to be said: by `drop`.
    pub fn debezium_obstacles(
        &self,
        name: &TableName,
        mask: &BTreeMap<String, Mask>,
    ) -> Vec<Obstacle> {
        let lacks = |column: &&Column| {
            let base = unqualified(&column.base_type);
            let known = column.is_enum || DEBEZIUM_TYPES.contains(&base);
            !known && !column.is_generated && !mask.contains_key(&column.name)
        };
        let obstacle = |column: &Column| {
            let problem = format!(
                "column `{}` of `{name}` is {}, which Debezium leaves out; leave it out too, or keep `values: readable`",
                column.name, column.data_type
            );
            Obstacle::mended_by(problem, format!("mask: {{ {}: drop }}", column.name))
        };
        self.columns.iter().filter(lacks).map(obstacle).collect()
    }

    /// Columns whose value an update may leave out because it was stored aside and did not change.
    pub fn columns_left_out(&self) -> Vec<&str> {
        let mut identities =
            std::iter::once(&self.identity).chain(self.leaves.iter().map(|leaf| &leaf.identity));
        if !self.has_toast || identities.all(|identity| *identity == Identity::Full) {
            return Vec::new();
        }
        let named = match &self.identity {
            Identity::Index(columns) => columns,
            _ => &self.primary_key,
        };
        let left_out = |column: &&Column| column.is_toastable && !named.contains(&column.name);
        self.columns.iter().filter(left_out).map(|column| column.name.as_str()).collect()
    }

    /// The statements that make the server send every column of a changed row.
    pub fn full_identity_sql(&self, name: &TableName) -> String {
        let tables = std::iter::once(name).chain(self.leaves.iter().map(|leaf| &leaf.name));
        tables.map(full_identity).collect::<Vec<_>>().join(" ")
    }

    fn unfit(&self, name: &TableName) -> Vec<Obstacle> {
        let problem = match &self.kind {
            TableKind::Other(what) => {
                format!("`{name}` is {what}; only tables can be captured")
            }
            TableKind::Partition { root } => {
                format!("`{name}` is a partition; name the partitioned table `{root}` instead")
            }
            TableKind::Plain | TableKind::Partitioned if !self.is_logged => {
                let problem = format!("`{name}` is unlogged, so its changes never reach the WAL");
                let remedy = format!("ALTER TABLE {} SET LOGGED;", name.quoted());
                return vec![Obstacle::mended_by(problem, remedy)];
            }
            TableKind::Plain | TableKind::Partitioned => return Vec::new(),
        };
        vec![Obstacle::new(problem)]
    }

    fn without_identity(&self, name: &TableName) -> Vec<Obstacle> {
        let own = (name, &self.identity, !self.primary_key.is_empty());
        let leaves = self.leaves.iter().map(|l| (&l.name, &l.identity, !l.primary_key.is_empty()));
        let unnamed = std::iter::once(own).chain(leaves).filter(|(_, identity, has_key)| {
            matches!(identity, Identity::Nothing) || **identity == Identity::Default && !has_key
        });
        let obstacle = |(table, _, has_key): (&TableName, &Identity, bool)| {
            let problem = format!(
                "`{table}` has no usable replica identity: once published, updates and deletes on it would fail"
            );
            let remedy = if has_key {
                format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT;", table.quoted())
            } else {
                format!(
                    "ALTER TABLE {} ADD PRIMARY KEY (…); or, with `key: [column]` in the topic, {}",
                    table.quoted(),
                    full_identity(table)
                )
            };
            Obstacle::mended_by(problem, remedy)
        };
        unnamed.map(obstacle).collect()
    }

    fn unusable_key(&self, name: &TableName, declared: &[String]) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        let mut usable = Vec::new();
        for key in declared {
            match self.column(key) {
                None => {
                    let columns: Vec<_> = self.columns.iter().map(|c| c.name.as_str()).collect();
                    obstacles.push(Obstacle::new(format!(
                        "key column `{key}` does not exist in `{name}`, which has {}",
                        columns.join(", ")
                    )));
                }
                Some(column) if column.is_generated => obstacles.push(Obstacle::new(format!(
                    "key column `{key}` of `{name}` is generated, and generated columns are not sent"
                ))),
                // Its row could never be deleted: nothing would name it.
                Some(column) if column.is_nullable => {
                    let problem = format!("key column `{key}` of `{name}` may hold NULL, which names no row");
                    let remedy = format!(
                        "ALTER TABLE {} ALTER COLUMN \"{}\" SET NOT NULL;",
                        name.quoted(),
                        key.replace('"', "\"\"")
                    );
                    obstacles.push(Obstacle::mended_by(problem, remedy));
                    usable.push(key.clone());
                }
                Some(_) => usable.push(key.clone()),
            }
        }
        obstacles.extend(self.uncovered(name, &usable));
        obstacles
    }

    /// Key columns that a delete would not carry, for the table and for each partition: a delete is written with
    /// the identity of the partition that held the row.
    fn uncovered(&self, name: &TableName, key: &[String]) -> Vec<Obstacle> {
        let own = (name, &self.identity, &self.primary_key);
        let leaves = self.leaves.iter().map(|leaf| (&leaf.name, &leaf.identity, &leaf.primary_key));
        let obstacle = |(table, identity, primary_key): (&TableName, &Identity, &Vec<String>)| {
            let covers = |column: &&String| match identity {
                Identity::Full => true,
                Identity::Nothing => false,
                Identity::Default => primary_key.contains(column),
                Identity::Index(columns) => columns.contains(column),
            };
            // Without any identity it is refused for that.
            let has_none = *identity == Identity::Nothing
                || *identity == Identity::Default && primary_key.is_empty();
            let uncovered: Vec<String> = key
                .iter()
                .filter(|column| !has_none && !covers(column))
                .map(|column| format!("`{column}`"))
                .collect();
            (!uncovered.is_empty()).then(|| {
                let problem = format!(
                    "key column {} of `{table}` is not part of its replica identity, so a delete would not carry it",
                    uncovered.join(", ")
                );
                Obstacle::mended_by(problem, full_identity(table))
            })
        };
        std::iter::once(own).chain(leaves).filter_map(obstacle).collect()
    }

    fn in_table_order(&self, wanted: &[String]) -> Vec<String> {
        let names = self.columns.iter().map(|column| &column.name);
        names.filter(|name| wanted.contains(name)).cloned().collect()
    }

    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

fn full_identity(table: &TableName) -> String {
    format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.quoted())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> TableName {
        "shop.stock".parse().expect("valid")
    }

    fn column(name: &str, data_type: &str) -> Column {
        Column {
            name: name.to_owned(),
            data_type: data_type.to_owned(),
            is_toastable: data_type == "text",
            is_generated: false,
            is_nullable: false,
            base_type: data_type.to_owned(),
            is_enum: false,
        }
    }

    fn table() -> TableState {
        TableState {
            kind: TableKind::Plain,
            is_logged: true,
            columns: vec![column("id", "uuid"), column("place", "integer"), column("note", "text")],
            primary_key: vec!["id".into()],
            identity: Identity::Default,
            has_toast: true,
            leaves: vec![],
        }
    }

    fn declared(columns: &[&str]) -> Vec<String> {
        columns.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_key_is_the_replica_identity_unless_declared() {
        assert_eq!(table().key_columns(&name(), None), Ok(declared(&["id"])));
        let by_index = TableState {
            identity: Identity::Index(declared(&["place", "id"])),
            primary_key: vec![],
            ..table()
        };
        assert_eq!(by_index.key_columns(&name(), None), Ok(declared(&["id", "place"])));
        let full = TableState { identity: Identity::Full, ..table() };
        assert_eq!(full.key_columns(&name(), None), Ok(declared(&["id"])));
        let key = declared(&["note", "place"]);
        assert_eq!(full.key_columns(&name(), Some(&key)), Ok(declared(&["place", "note"])));
    }

    #[test]
    fn a_table_that_cannot_name_its_rows_is_refused_with_the_sql_that_mends_it() {
        let unkeyed = TableState { primary_key: vec![], ..table() };
        let found = unkeyed.key_columns(&name(), None).expect_err("no identity");
        let remedy = found[0].remedy.as_deref().expect("SQL");
        assert!(
            remedy.contains(r#"ALTER TABLE "shop"."stock" REPLICA IDENTITY FULL;"#),
            "{remedy}"
        );
        let nothing = TableState { identity: Identity::Nothing, ..table() };
        let found = nothing.key_columns(&name(), None).expect_err("no identity");
        assert!(found[0].remedy.as_deref().is_some_and(|sql| sql.contains("IDENTITY DEFAULT")));
        let full = TableState { identity: Identity::Full, primary_key: vec![], ..table() };
        let found = full.key_columns(&name(), None).expect_err("no key");
        assert!(found[0].problem.contains("key: [column]"));
    }

    #[test]
    fn a_partition_with_another_identity_must_carry_the_key_too() {
        let leaf = Leaf {
            name: "shop.stock_1".parse().expect("valid"),
            identity: Identity::Index(declared(&["place"])),
            primary_key: declared(&["id"]),
        };
        let table =
            TableState { kind: TableKind::Partitioned, leaves: vec![leaf.clone()], ..table() };
        let obstacles = table.key_columns(&name(), None).expect_err("a delete would lose the id");
        assert!(obstacles[0].problem.contains("`id` of `shop.stock_1`"), "{obstacles:?}");
        assert_eq!(
            obstacles[0].remedy.as_deref(),
            Some("ALTER TABLE \"shop\".\"stock_1\" REPLICA IDENTITY FULL;")
        );
        let full = TableState { leaves: vec![Leaf { identity: Identity::Full, ..leaf }], ..table };
        assert_eq!(full.key_columns(&name(), None), Ok(declared(&["id"])));
    }

    #[test]
    fn a_partition_without_identity_is_found_below_a_good_parent() {
        let leaf: TableName = "shop.stock_1".parse().expect("valid");
        let leaves =
            vec![Leaf { name: leaf, identity: Identity::Nothing, primary_key: declared(&["id"]) }];
        let parent = TableState { kind: TableKind::Partitioned, leaves, ..table() };
        let found = parent.key_columns(&name(), None).expect_err("leaf without identity");
        assert!(found[0].problem.contains("shop.stock_1"), "{found:?}");
    }

    #[test]
    fn a_declared_key_must_exist_and_be_sent_with_deletes() {
        let key = declared(&["plaec", "note"]);
        let found = table().key_columns(&name(), Some(&key)).expect_err("bad key");
        assert!(found[0].problem.contains("`plaec` does not exist"), "{found:?}");
        assert!(found[1].remedy.as_deref().is_some_and(|sql| sql.contains("FULL")), "{found:?}");
    }

    #[test]
    fn only_tables_with_logged_changes_can_be_captured() {
        let view = TableState { kind: TableKind::Other("a view"), ..table() };
        assert!(view.key_columns(&name(), None).is_err());
        let unlogged = TableState { is_logged: false, ..table() };
        let found = unlogged.outbox_obstacles(&name());
        assert!(found[0].remedy.as_deref().is_some_and(|sql| sql.contains("SET LOGGED")));
    }

    #[test]
    fn every_wrong_column_of_an_outbox_is_named() {
        let mut columns: Vec<Column> =
            OUTBOX_COLUMNS.iter().map(|(name, data_type)| column(name, data_type)).collect();
        let outbox = TableState { columns: columns.clone(), ..table() };
        assert_eq!(outbox.outbox_obstacles(&name()), []);
        columns.remove(0);
        columns[6].data_type = "json".into();
        let broken = TableState { columns, ..table() };
        let found = broken.outbox_obstacles(&name());
        assert_eq!(found.len(), 2);
        assert!(found[0].problem.contains("no column `id`"), "{found:?}");
        assert!(found[1].problem.contains("is json, not jsonb"), "{found:?}");
    }

    #[test]
    fn values_stored_aside_are_left_out_unless_the_identity_is_full() {
        assert_eq!(table().columns_left_out(), ["note"]);
        assert!(TableState { has_toast: false, ..table() }.columns_left_out().is_empty());
        let full = TableState { identity: Identity::Full, ..table() };
        assert!(full.columns_left_out().is_empty());
    }
}
