//! `tailwater check`: what would fail or lose something later, found now.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use tailwater_cdc::preflight::{self, Declared, Severity};
use tailwater_topics_contract::{Catalog, Registrations, SinkKind};
use tailwater_topics_registry::{Registry, Scope, plan, registrations};

use crate::config::{Config, Existing};
use crate::workers::{probe, store};
use crate::{Context, declared, output};

/// Find what would fail or lose changes, before the reader starts
///
/// Looks at the settings and grants of Postgres, at every captured table, at Kafka, at the S3 store and at
/// OpenSearch, and says which setting or SQL statement mends what is wrong. Changes nothing. Exits with 1 when
/// there are errors; warnings alone exit with 0.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tailwater check -f topics/catalog/market    # before the first apply
  tailwater check")]
pub(crate) struct Args {
    /// Look at this catalog instead of at what is registered
    #[arg(short, long = "file", value_name = "DIR")]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Finding {
    severity: &'static str,
    code: &'static str,
    subject: String,
    problem: String,
    remedy: String,
}

pub(crate) async fn run(cx: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let config = cx.config()?;
    let catalog = args.file.as_deref().map(declared::load).transpose()?.map(|(catalog, _)| catalog);
    eprintln!(
        "checking Postgres at {} and Kafka at {}",
        config.postgres.address(),
        config.kafka.brokers
    );
    let findings = match &catalog {
        Some(catalog) => declared_findings(&config, catalog).await,
        None => registered_findings(&config).await,
    };
    cx.format.list(&["SEVERITY", "CODE", "SUBJECT", "PROBLEM", "REMEDY"], &findings, |f| {
        vec![
            f.severity.to_owned(),
            f.code.to_owned(),
            f.subject.clone(),
            f.problem.clone(),
            f.remedy.clone(),
        ]
    })?;
    let errors = findings.iter().filter(|finding| finding.severity == "error").count();
    let warnings = output::counted(findings.len() - errors, "warning");
    eprintln!("{}, {warnings}", output::counted(errors, "error"));
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn declared_findings(config: &Config, catalog: &Catalog) -> Vec<Finding> {
    // What apply will make or refuses is the plan's to say; the reader's own look adds what it needs of the server.
    let mut findings = reader_findings(config, &Declared::in_catalog(catalog)).await;
    findings.retain(|finding| !is_planned(finding));
    let observed = async {
        let registry = Registry::connect(config.pipeline.clone(), config.servers()).await?;
        registry.observe(catalog).await
    };
    match observed.await {
        Err(error) => findings.push(error_finding("TW200", "servers", &error.into())),
        Ok(world) => {
            let refusals = plan(&config.pipeline, catalog, Scope::All, &world).err();
            findings.extend(refusals.into_iter().flatten().map(|refusal| Finding {
                severity: "error",
                code: "TW201",
                remedy: refusal.remedy.clone().unwrap_or_default(),
                problem: refusal.problem.clone(),
                subject: match &refusal.place {
                    Some(place) => format!("{place}: {}", refusal.subject),
                    None => refusal.subject.clone(),
                },
            }));
        }
    }
    findings
}

/// Whether a finding is about publications or the errors of a table, which a plan creates or refuses by itself.
fn is_planned(finding: &Finding) -> bool {
    finding.subject.starts_with("publication ")
        || finding.subject.starts_with("table ") && finding.severity == "error"
}

async fn registered_findings(config: &Config) -> Vec<Finding> {
    let loaded = registrations::load(&config.kafka_client(), &config.pipeline).await;
    let (registered, missing) = match loaded {
        Ok(registered) => (registered, None),
        Err(error) => {
            let finding = error_finding("TW200", "registrations", &error.into());
            (Registrations::default(), Some(finding))
        }
    };
    let mut findings = reader_findings(config, &Declared::in_registrations(&registered)).await;
    findings.extend(missing);
    for sink in registered.standing_sinks() {
        let name = &sink.spec.name;
        let checked = match &sink.spec.kind {
            SinkKind::Archive(archive) => match store(config, archive) {
                Ok(store) => probe(&store, archive).await.map(drop).map_err(anyhow::Error::new),
                Err(error) => Err(error),
            },
            SinkKind::Search(search) => search_answers(config, search).await,
        };
        if let Err(error) = checked {
            findings.push(error_finding("TW202", &format!("sink `{name}`"), &error));
        }
    }
    findings
}

async fn search_answers(
    config: &Config,
    spec: &tailwater_topics_contract::SearchSpec,
) -> anyhow::Result<()> {
    use anyhow::Context as _;
    use tailwater_sinks_search::{Client, index};

    let opensearch = config.opensearch.clone();
    let client =
        Client::new(opensearch.context("there is no `opensearch` section in the configuration")?)?;
    match index::inspect(&client, &config.pipeline, spec).await? {
        index::State::Ready { .. } => Ok(()),
        index::State::Absent => anyhow::bail!(
            "there is no index behind alias `{}`; run `tailwater apply` again",
            spec.alias
        ),
    }
}

async fn reader_findings(config: &Config, declared: &Declared) -> Vec<Finding> {
    let found = preflight::check(&config.reader(Existing::default()), declared).await;
    let finding = |found: preflight::Finding| Finding {
        severity: match found.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        },
        code: found.code,
        subject: found.subject,
        problem: found.problem,
        remedy: found.remedy,
    };
    found.into_iter().map(finding).collect()
}

fn error_finding(code: &'static str, subject: &str, error: &anyhow::Error) -> Finding {
    Finding {
        severity: "error",
        code,
        subject: subject.to_owned(),
        problem: output::causes(error).join(": "),
        remedy: "correct the configuration, or start the server".to_owned(),
    }
}
