//! Ready-made bulk requests, POSTed.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use rdkafka::Message;
use rdkafka::consumer::BaseConsumer;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tailwater_sinks_search::bulk;
use tailwater_sinks_search::document::{self, Operation, Wish};
use tailwater_sinks_search::shape::Shape;
use tailwater_topics_contract::DocumentSpec;

use super::{Outcome, Queue, Source, peak_mib};
use crate::bare::cpu_seconds;

/// That of a declared search sink without further words. Its other limit, 8 MiB, is not met by documents of this size.
const OPERATIONS: usize = 2_000;

#[derive(Args)]
pub(super) struct Options {
    #[arg(long)]
    opensearch: String,
    #[arg(long)]
    index: String,
}

pub(super) async fn run(source: &Source, options: &Options) -> anyhow::Result<Outcome> {
    let (consumer, queues) = source.fetch()?;
    let bodies = bodies(&consumer, &queues, source.records)?;
    drop(queues);
    drop(consumer);
    let url = format!(
        "{}/{}/_bulk?filter_path={}",
        options.opensearch.trim_end_matches('/'),
        options.index,
        bulk::REPLY_FILTER
    );
    let client = reqwest::Client::new();
    let bytes = bodies.iter().flatten().map(|body| body.len() as u64).sum();
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    // As many at once as the sink has writers.
    let mut posting = Vec::new();
    for bodies in bodies {
        let (client, url) = (client.clone(), url.clone());
        posting.push(tokio::spawn(async move {
            for body in bodies {
                post(&client, &url, body).await?;
            }
            anyhow::Ok(())
        }));
    }
    for posting in posting {
        posting.await??;
    }
    Ok(Outcome {
        bytes,
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds()? - cpu,
        peak_mib: peak_mib()?,
    })
}

async fn post(client: &reqwest::Client, url: &str, body: Bytes) -> anyhow::Result<()> {
    let request = client.post(url).header(CONTENT_TYPE, "application/x-ndjson");
    let answer = request.header(CONTENT_ENCODING, "gzip").body(body).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(
        status.is_success() && text.starts_with("{\"errors\":false"),
        "status {status}: {}",
        text.get(..500).unwrap_or(&text)
    );
    Ok(())
}

/// The bodies of each partition, as the sink makes them.
fn bodies(
    consumer: &BaseConsumer,
    queues: &[Queue],
    records: u64,
) -> anyhow::Result<Vec<Vec<Bytes>>> {
    let shape = Shape::new(DocumentSpec::default());
    let mut bodies = vec![Vec::new(); queues.len()];
    let mut open: Vec<Vec<Operation>> = queues.iter().map(|_| Vec::new()).collect();
    let mut taken = 0;
    while taken < records {
        let _ = consumer.poll(Duration::ZERO);
        for (place, queue) in queues.iter().enumerate() {
            while let Some(message) = queue.poll(Duration::from_millis(1)) {
                let message = message?;
                taken += 1;
                let key = message.key().map(Bytes::copy_from_slice);
                let value = message.payload().map(Bytes::copy_from_slice);
                if let Wish::Write(operation) =
                    document::read(&shape, key.as_ref(), value.as_ref())?
                {
                    open[place].push(operation);
                }
                if open[place].len() == OPERATIONS {
                    bodies[place].push(body(std::mem::take(&mut open[place]))?);
                }
            }
        }
    }
    for (place, rest) in open.into_iter().enumerate() {
        if !rest.is_empty() {
            bodies[place].push(body(rest)?);
        }
    }
    Ok(bodies)
}

/// One request, compressed as the sink compresses it.
fn body(operations: Vec<Operation>) -> anyhow::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&bulk::encode(operations.iter()))?;
    Ok(encoder.finish()?.into())
}
