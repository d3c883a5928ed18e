//! Keys of the environment under a sink that runs.

use std::path::PathBuf;

use crate::command::{run, tailwater};
use crate::live::{Running, eventually, json};
use crate::place::Place;

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_mended_is_read_again_by_a_running_sink_and_wrong_variables_stop_it()
-> anyhow::Result<()> {
    let place = Place::new().await?;
    run(&place.folder, &["apply", "-f", "catalog"]).done();
    place.sql.batch_execute("INSERT INTO shop.stock SELECT generate_series(1, 10)").await?;
    let reader = Running::start(&place, &["cdc", "run"])?;
    let profile = place.folder.join("credentials");
    let write = |secret: &str| {
        let keys = format!("aws_access_key_id = tailwater\naws_secret_access_key = {secret}");
        std::fs::write(&profile, format!("[default]\n{keys}\n"))
    };
    let in_a_profile = [("AWS_SHARED_CREDENTIALS_FILE", profile.to_str().expect("text"))];

    write("yesterday")?;
    let (lake, log) = lake(&place, &in_a_profile)?;
    let says = |word: &str| std::fs::read_to_string(&log).is_ok_and(|log| log.contains(word));
    eventually("the sink waits", || says("they are read again")).await?;
    write("tailwater-secret")?;
    let topic = format!("stock.{}", place.id);
    let segments = || json(run(&place.folder, &["lake", "ls", &topic, "-o", "json"]));
    let records = || {
        let segments = segments().as_array().cloned().unwrap_or_default();
        segments.iter().filter_map(|segment| segment["records"].as_u64()).sum::<u64>()
    };
    eventually("it goes on with the mended profile", || records() == 10).await?;
    assert_eq!(lake.drain()?, Some(0));

    let wrong = [("AWS_ACCESS_KEY_ID", "tailwater"), ("AWS_SECRET_ACCESS_KEY", "yesterday")];
    let (lake, log) = self::lake(&place, &wrong)?;
    let says = |word: &str| std::fs::read_to_string(&log).is_ok_and(|log| log.contains(word));
    eventually("the sink stops", || says("stopped: ") && says("SignatureDoesNotMatch")).await?;
    assert!(!says("read again"), "a variable stays what it is");
    assert_eq!(lake.drain()?, Some(1));
    assert_eq!(reader.drain()?, Some(0));
    place.leave().await
}

/// The archive's sink with keys of these variables and of nothing else, and where its log is.
fn lake(place: &Place, variables: &[(&str, &str)]) -> anyhow::Result<(Running, PathBuf)> {
    let arguments = ["sinks", "run", "lake", "--config", place.without_keys()?];
    let mut command = tailwater(&place.folder, &arguments);
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", "/nonexistent");
    command.envs(variables.iter().copied());
    let log = place.folder.join(format!("lake-{}.log", variables[0].0));
    Ok((Running::logging(command, &log)?, log))
}
