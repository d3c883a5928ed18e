//! How rows become documents of a search index, as declared.
//!
//! ```text
//!  key {"tenant":"a","id":7}      ──id: [tenant, id]──▶ _id "a:7"       ──routing: tenant──▶ shard of "a"
//!  row {"id":7,"n":"x","doc":"…"} ──include, exclude──▶ ──rename──▶ ──nested──▶ {"title":"x","doc":{…}}
//! ```
//!
//! **A deletion finds what it deletes.** A record of a deletion carries the key, and the old row only under some replica
//! identities. So `_id` and routing are made of columns of the key alone, and routing of columns that are in `_id`:
//! whatever a row went through, the same `_id` means the same shard.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tailwater_document::{Mistakes, Section};

use crate::shape;

/// The shape of documents. The default one is the row as it is, under its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DocumentSpec {
    /// Columns of the key that make `_id`, in this order; none: all of them, as the key has them.
    pub id: Vec<String>,
    /// The column of the key that says which shard; absent: `_id` does.
    pub routing: Option<String>,
    /// Which columns become fields.
    pub columns: Columns,
    /// Fields that are not called as their columns, by column.
    pub rename: BTreeMap<String, String>,
    /// Columns whose values are JSON documents; a text is read as one.
    pub nested: Vec<String>,
}

/// Which columns of a row become fields of the document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Columns {
    /// All that come.
    #[default]
    All,
    /// These.
    Include(Vec<String>),
    /// All but these.
    Exclude(Vec<String>),
}

impl Columns {
    /// Whether a column becomes a field.
    pub fn takes(&self, column: &str) -> bool {
        let lists = |columns: &[String]| columns.iter().any(|listed| listed == column);
        match self {
            Self::All => true,
            Self::Include(columns) => lists(columns),
            Self::Exclude(columns) => !lists(columns),
        }
    }
}

impl DocumentSpec {
    /// Whether nothing is declared.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Columns that every row must have, since they were named.
    pub fn required(&self) -> BTreeSet<&str> {
        let included: &[String] = match &self.columns {
            Columns::Include(columns) => columns,
            Columns::All | Columns::Exclude(_) => &[],
        };
        let named = included.iter().chain(self.rename.keys()).chain(&self.nested);
        named.map(String::as_str).collect()
    }

    /// Columns that must be in the key.
    pub fn of_the_key(&self) -> impl Iterator<Item = &str> {
        self.id.iter().chain(&self.routing).map(String::as_str)
    }

    /// Why rows with this key cannot have such documents; nothing when they can. `unique` are columns that tell rows of
    /// the table apart by themselves, such as those of its primary key.
    pub fn obstacle(&self, key: &[String], unique: &[String]) -> Option<String> {
        let lacks = |column: &&str| !key.iter().any(|has| has == column);
        if let Some(column) = self.of_the_key().find(lacks) {
            return Some(format!(
                "`{column}` is not in the key ({}), and a deletion carries nothing else: it would not find the document; name columns of the key, or declare `key` of the topic with it",
                key.join(", ")
            ));
        }
        let covers = |columns: &[String]| {
            !columns.is_empty() && columns.iter().all(|column| self.id.contains(column))
        };
        if !self.id.is_empty() && !covers(key) && !covers(unique) {
            return Some(format!(
                "`id` ({}) does not tell two rows apart: one would take the other's place; name all columns of the key ({}) or of the primary key",
                self.id.join(", "),
                key.join(", ")
            ));
        }
        None
    }
}

/// Names that OpenSearch keeps for itself in a document.
const METADATA: [&str; 9] = [
    "_id",
    "_index",
    "_source",
    "_routing",
    "_ignored",
    "_field_names",
    "_nested_path",
    "_seq_no",
    "_version",
];

/// Reads `search.document`.
pub(crate) fn read(mut document: Section<'_>, mistakes: &mut Mistakes) -> DocumentSpec {
    let id = names(&mut document, "id", mistakes);
    let routing: Option<String> = document.optional("routing", mistakes);
    let has_include = document.node("include").is_some();
    let include = names(&mut document, "include", mistakes);
    let exclude = names(&mut document, "exclude", mistakes);
    let rename = document.texts("rename", mistakes);
    let nested = names(&mut document, "nested", mistakes);
    if has_include && include.is_empty() {
        document.refuse("include", "expected at least one column", mistakes);
    }
    if has_include && !exclude.is_empty() {
        let problem = "what is not included is left out already; remove one of the two";
        document.refuse("exclude", problem, mistakes);
    }
    if let Some(column) = routing.as_ref().filter(|column| !id.is_empty() && !id.contains(column)) {
        let problem = format!(
            "`{column}` is not in `id`, so two rows with one `_id` could be on two shards; add it to `id`"
        );
        document.refuse("routing", problem, mistakes);
    }
    let columns = match (has_include, exclude.is_empty()) {
        (true, _) => Columns::Include(include),
        (false, false) => Columns::Exclude(exclude),
        (false, true) => Columns::All,
    };
    let spec = DocumentSpec { id, routing, columns, rename, nested };
    check_fields(&spec, &document, mistakes);
    document.finish_as(&shape::DOCUMENT, mistakes);
    spec
}

/// A list of columns, each once.
fn names(document: &mut Section<'_>, key: &'static str, mistakes: &mut Mistakes) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (name, _) in document.list::<String>(key, mistakes) {
        if names.contains(&name) {
            document.refuse(key, format!("`{name}` is listed twice"), mistakes);
        } else {
            names.push(name);
        }
    }
    names
}

/// Notes what names a column that does not come, and fields that meet.
fn check_fields(spec: &DocumentSpec, document: &Section<'_>, mistakes: &mut Mistakes) {
    for (key, columns) in [
        ("rename", spec.rename.keys().collect::<Vec<_>>()),
        ("nested", spec.nested.iter().collect()),
    ] {
        for column in columns.into_iter().filter(|column| !spec.columns.takes(column)) {
            let problem = format!("`{column}` is left out of the document, so it has no field");
            document.refuse(key, problem, mistakes);
        }
    }
    let mut fields = BTreeSet::new();
    for (column, field) in &spec.rename {
        let bad = if field.is_empty() || field.split('.').any(str::is_empty) {
            Some("it is no name of a field")
        } else if METADATA.contains(&field.as_str()) {
            Some("OpenSearch keeps that name for itself")
        } else if !fields.insert(field) {
            Some("another column has that name already")
        } else if matches!(&spec.columns, Columns::Include(included) if included.contains(field))
            && !spec.rename.contains_key(field)
        {
            Some("an included column is called so")
        } else {
            None
        };
        if let Some(bad) = bad {
            document.refuse("rename", format!("`{column}: {field}`: {bad}"), mistakes);
        }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_document::parse;

    use super::*;

    fn read_text(text: &str) -> Result<DocumentSpec, Vec<String>> {
        let mut mistakes = Mistakes::default();
        let nodes = parse("a.yaml", text).expect("YAML");
        let spec = read(nodes[0].section("search.document", &mut mistakes), &mut mistakes);
        let mistakes = mistakes.finish(Some(spec));
        mistakes.map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_shape_is_read_and_read_back_as_it_was_written() {
        let text = "id: [tenant, sku]\nrouting: tenant\ninclude: [sku, name, doc]\nrename: { name: title }\nnested: [doc]\n";
        let spec = read_text(text).expect("good");
        assert_eq!(spec.required(), ["doc", "name", "sku"].into());
        assert!(spec.columns.takes("sku") && !spec.columns.takes("other"));
        let stored = serde_json::to_string(&spec).expect("serializes");
        assert_eq!(serde_json::from_str::<DocumentSpec>(&stored).expect("reads"), spec);
        assert!(read_text("exclude: [a]").is_ok_and(|spec| !spec.columns.takes("a")));
        assert!(DocumentSpec::default().is_default());
    }

    #[test]
    fn what_cannot_work_is_refused_at_its_line() {
        for (text, place, problem) in [
            ("include: [a]\nexclude: [b]\n", "a.yaml:2", "left out already"),
            ("include: []\n", "a.yaml:1", "at least one column"),
            ("id: [a, a]\n", "a.yaml:1", "listed twice"),
            ("id: [a]\nrouting: b\n", "a.yaml:2", "not in `id`"),
            ("exclude: [a]\nrename: { a: b }\n", "a.yaml:2", "left out of the document"),
            ("include: [a]\nnested: [b]\n", "a.yaml:2", "left out of the document"),
            ("rename: { a: c, b: c }\n", "a.yaml:1", "another column has that name"),
            ("include: [a, b]\nrename: { a: b }\n", "a.yaml:2", "an included column is called so"),
            ("rename: { a: _id }\n", "a.yaml:1", "keeps that name"),
            ("rename: { a: x..y }\n", "a.yaml:1", "no name of a field"),
            ("flatten: [a]\n", "a.yaml:1", "flatten"),
        ] {
            let found = read_text(text).expect_err(text);
            assert!(found[0].contains(place) && found[0].contains(problem), "{text}: {found:?}");
        }
        let swapped = "include: [a, b]\nrename: { a: b, b: a }\n";
        assert!(read_text(swapped).is_ok(), "two fields may change places");
    }

    #[test]
    fn ids_are_of_the_key_and_tell_rows_apart() {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (key, unique) = (list(&["tenant", "id"]), list(&["id"]));
        for (id, routing, problem) in [
            (&[][..], None, None),
            (&[], Some("tenant"), None),
            (&["id", "tenant"], Some("tenant"), None),
            (&["id"], None, None),
            (&["tenant"], None, Some("does not tell two rows apart")),
            (&["sku"], None, Some("`sku` is not in the key (tenant, id)")),
            (&[], Some("country"), Some("`country` is not in the key")),
        ] {
            let routing = routing.map(str::to_owned);
            let spec = DocumentSpec { id: list(id), routing, ..DocumentSpec::default() };
            let found = spec.obstacle(&key, &unique);
            match (found, problem) {
                (None, None) => {}
                (Some(found), Some(problem)) => assert!(found.contains(problem), "{found}"),
                (found, _) => panic!("{id:?}: {found:?}"),
            }
        }
    }
}
