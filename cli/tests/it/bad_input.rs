//! Mistakes of people: listed at once, with exit code 2, and without secrets.

use std::fs;
use std::path::PathBuf;

use crate::command::{ran, run, tailwater};

const CANARY: &str = "hunter2-canary";

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tailwater-{name}-{}", std::process::id()));
    fs::create_dir_all(folder.join("catalog")).expect("a folder");
    folder
}

#[test]
fn mistakes_in_configuration_and_catalog_come_together_and_exit_with_2() {
    let folder = folder("mistakes");
    let config = format!(
        "pipeline: market\npostgres: {{ host: localhost, prot: 1, user: u, password: {CANARY}, database: d }}\nkafka: {{}}\n"
    );
    fs::write(folder.join("tailwater.yaml"), config).expect("written");
    let topic = "apiVersion: tailwater/v1\nkind: Topic\nname: Orders\nfrom: { tabel: a.b }\nmask: { x: dropp }\n";
    fs::write(folder.join("catalog/topics.yaml"), topic).expect("written");
    let ran = run(&folder, &["apply", "-f", "catalog"]);
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert_eq!(ran.stdout, "");
    for expected in [
        "tailwater.yaml:2:30: `postgres.prot`: unknown key; did you mean `port`?",
        "`kafka.brokers`: missing",
        "catalog/topics.yaml:3:7: `name`: expected a topic name",
        "`from.tabel`: unknown key; did you mean `table`?",
        "`mask`: `x: dropp`: expected `drop`, `hmac` or `truncate(<characters>)`",
    ] {
        assert!(ran.stderr.contains(expected), "{expected}\nis not in\n{}", ran.stderr);
    }
    assert!(!ran.stderr.contains(CANARY));
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_missing_file_is_named_with_the_way_to_name_another() {
    let folder = folder("missing");
    let ran = run(&folder, &["status"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("cannot read the configuration `tailwater.yaml`"), "{ran:?}");
    assert!(ran.stderr.contains("--config or TAILWATER_CONFIG"), "{ran:?}");
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn the_environment_names_the_configuration_and_fills_it() {
    let folder = folder("environment");
    fs::write(folder.join("other.yaml"), "pipeline: ${TW_TEST_NAME}\nport: ${TW_TEST_SECRET}\n")
        .expect("written");
    let output = tailwater(&folder, &["status"])
        .env("TAILWATER_CONFIG", "other.yaml")
        .env("TW_TEST_NAME", "NOT A NAME")
        .env("TW_TEST_SECRET", CANARY)
        .output()
        .expect("the binary starts");
    let ran = ran(output);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("other.yaml:1:11: `pipeline`: expected a pipeline name"),
        "{ran:?}"
    );
    assert!(!ran.stderr.contains(CANARY), "{ran:?}");
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn wrong_arguments_exit_with_2_and_help_tells_the_exit_codes() {
    let folder = folder("arguments");
    assert_eq!(run(&folder, &["aply"]).code, Some(2));
    assert_eq!(run(&folder, &["sinks", "run", "Not-A-Sink"]).code, Some(2));
    let help = run(&folder, &["--help"]).done();
    assert!(help.contains("Exit codes:") && help.contains("tailwater explain"), "{help}");
    let page = run(&folder, &["explain", "TW012"]).done();
    assert!(page.contains("What happened") && page.contains("What to do"), "{page}");
    assert_eq!(run(&folder, &["explain", "TW999"]).code, Some(1));
    fs::remove_dir_all(folder).expect("removed");
}
