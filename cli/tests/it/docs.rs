//! What the pages say is what the binary does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::run;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_reference_pages_are_what_the_code_says() {
    for name in ["config", "catalog", "commands", "metrics"] {
        let said = run(&root(), &["config", "reference", name]).done();
        let path = format!("docs/reference/{name}.md");
        assert!(page(&path) == said, "{path} is out of date; run `make reference`");
    }
}

#[test]
fn every_test_that_a_guarantee_names_exists() {
    let mut sources = String::new();
    read_sources(&root(), &mut sources);
    let text = page("docs/guarantees.md");
    let rows = text.lines().filter_map(|line| line.rsplit_once(" | "));
    let names: BTreeSet<&str> = rows
        .flat_map(|(_, tests)| tests.split('`').skip(1).step_by(2))
        .filter(|name| name.contains('_'))
        .collect();
    assert!(names.len() > 40, "{}", names.len());
    let missing: Vec<_> =
        names.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// What stands in the table of situations is what the reader can end with, and is tested.
#[test]
fn every_situation_in_which_the_reader_stops_has_its_row_and_its_test() {
    let text = page("docs/must-stop.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.contains("| TW"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let codes: BTreeSet<&str> = rows.iter().map(|row| row[1]).collect();
    let start: Vec<String> = (11..=26).map(|code| format!("TW{code:03}")).collect();
    let missing: Vec<_> = start.iter().filter(|code| !codes.contains(code.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?} have no row");
    let known = run(&root(), &["explain", "-o", "json"]).done();
    let known: serde_json::Value = serde_json::from_str(&known).expect("JSON");
    let known: BTreeSet<&str> =
        known.as_array().into_iter().flatten().filter_map(|page| page["code"].as_str()).collect();
    let mut sources = String::new();
    read_sources(&root().join("cdc/tests"), &mut sources);
    for row in &rows {
        assert_eq!(row.len(), 5, "{row:?}");
        assert!(known.contains(row[1]), "{row:?}: no such code");
        let test = format!("fn {}(", row[2].trim_matches('`'));
        assert!(sources.contains(&test), "{row:?}: no such test");
        let body = sources.split(&test).nth(1).and_then(|rest| rest.split("\n}\n").next());
        assert!(body.is_some_and(|body| body.contains(row[1])), "{row:?}: not what it tests");
    }
}

fn read_sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            read_sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

#[test]
fn the_schemas_take_what_the_project_itself_declares() {
    let schema = |of: &str| -> serde_json::Value {
        serde_json::from_str(&run(&root(), &["config", "schema", of]).done()).expect("JSON")
    };
    let config = schema("config");
    assert_eq!(config["required"], serde_json::json!(["pipeline", "postgres", "kafka"]));
    let documents = schema("catalog")["oneOf"].as_array().expect("a list").clone();
    let kinds: Vec<_> =
        documents.iter().map(|d| d["properties"]["kind"]["const"].clone()).collect();
    assert_eq!(kinds, ["Topic", "Sink", "Sink"]);
}

/// The blocks of shell in a page, in order.
pub(crate) fn blocks(text: &str) -> String {
    let fenced = text.split("```sh\n").skip(1);
    let blocks = fenced.map(|rest| rest.split("```").next().unwrap_or_default());
    blocks.collect::<Vec<_>>().join("\n")
}

pub(crate) fn tutorial() -> String {
    blocks(&page("docs/tutorial.md"))
}
