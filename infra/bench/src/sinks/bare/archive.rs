//! Fetch, gzip, PUT.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};
use tokio::runtime::Handle;

use super::{Keep, Outcome, Queue, Source, peak_mib};
use crate::bare::cpu_seconds;
use crate::sinks::scene::s3;

/// The archive's own (`sinks/archive/src/segment.rs`).
const LEVEL: u32 = 3;
/// Those of a declared archive without further words.
const SEGMENT_BYTES: u64 = 64 << 20;
const SEGMENT_RECORDS: u64 = 500_000;

#[derive(Args)]
pub(super) struct Options {
    #[arg(long)]
    s3: String,
    #[arg(long)]
    bucket: String,
    #[arg(long)]
    prefix: String,
    #[arg(long, value_enum)]
    keep: Keep,
}

pub(super) async fn run(source: &Source, options: &Options) -> anyhow::Result<Outcome> {
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    let (consumer, queues) = source.fetch()?;
    let taken = Arc::new(AtomicU64::new(0));
    let client = s3(&options.s3);
    let mut threads = Vec::new();
    for (partition, queue) in queues.into_iter().enumerate() {
        let mut segments = Segments {
            client: client.clone(),
            bucket: options.bucket.clone(),
            folder: format!("{}{partition}/", options.prefix),
            keep: options.keep,
            handle: Handle::current(),
            open: encoder(),
            records: 0,
            count: 0,
            bytes: 0,
        };
        let (taken, records) = (Arc::clone(&taken), source.records);
        threads.push(tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
            segments.take_all(&queue, &taken, records)?;
            Ok(segments.bytes)
        }));
    }
    let mut bytes = 0;
    for mut thread in threads {
        loop {
            // The client calls back only while somebody polls.
            let _ = consumer.poll(Duration::ZERO);
            let ended = tokio::time::timeout(Duration::from_millis(50), &mut thread).await;
            if let Ok(ended) = ended {
                bytes += ended??;
                break;
            }
        }
    }
    Ok(Outcome {
        bytes,
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds()? - cpu,
        peak_mib: peak_mib()?,
    })
}

/// The segments of one partition.
struct Segments {
    client: aws_sdk_s3::Client,
    bucket: String,
    folder: String,
    keep: Keep,
    handle: Handle,
    open: GzEncoder<Vec<u8>>,
    /// In the open segment.
    records: u64,
    /// That were put.
    count: u64,
    bytes: u64,
}

fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::new(LEVEL))
}

impl Segments {
    /// Takes records until all threads together have them all.
    fn take_all(&mut self, queue: &Queue, taken: &AtomicU64, all: u64) -> anyhow::Result<()> {
        let mut line = Vec::new();
        while taken.load(Ordering::Relaxed) < all {
            let Some(message) = queue.poll(Duration::from_millis(5)) else { continue };
            let message = message?;
            line.clear();
            match self.keep {
                Keep::Everything => everything(&message, &mut line)?,
                Keep::Values => line.extend_from_slice(message.payload().unwrap_or_default()),
            }
            line.push(b'\n');
            self.open.write_all(&line)?;
            self.records += 1;
            taken.fetch_add(1, Ordering::Relaxed);
            if self.records >= SEGMENT_RECORDS || self.open.get_ref().len() as u64 >= SEGMENT_BYTES
            {
                self.put()?;
            }
        }
        if self.records > 0 { self.put() } else { Ok(()) }
    }

    fn put(&mut self) -> anyhow::Result<()> {
        let body = std::mem::replace(&mut self.open, encoder()).finish()?;
        self.bytes += body.len() as u64;
        let key = format!("{}{}.jsonl.gz", self.folder, self.count);
        let put = self.client.put_object().bucket(&self.bucket).key(key);
        self.handle.block_on(put.body(ByteStream::from(body)).send())?;
        self.count += 1;
        self.records = 0;
        Ok(())
    }
}

/// Everything there is to know of a record, in the simplest way that keeps it: nothing is checked or escaped.
fn everything(message: &BorrowedMessage<'_>, line: &mut Vec<u8>) -> anyhow::Result<()> {
    let time = message.timestamp().to_millis().unwrap_or_default();
    write!(
        line,
        "{{\"offset\":{},\"partition\":{},\"time\":{time},\"key\":",
        message.offset(),
        message.partition()
    )?;
    line.extend_from_slice(message.key().unwrap_or_default());
    line.extend_from_slice(b",\"headers\":{");
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        write!(line, "\"{}\":\"", header.key)?;
        line.extend_from_slice(header.value.unwrap_or_default());
        line.extend_from_slice(b"\",");
    }
    line.extend_from_slice(b"},\"value\":");
    line.extend_from_slice(message.payload().unwrap_or_default());
    line.push(b'}');
    Ok(())
}
