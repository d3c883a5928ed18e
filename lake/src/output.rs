//! Rows for people and programs, and the line that says what they cost.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::json::{ArrayWriter, LineDelimitedWriter};
use datafusion::arrow::util::display::FormatOptions;
use datafusion::arrow::util::pretty::pretty_format_batches_with_options;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::stats::Stats;

/// Rows that a table shows. What more there is belongs into a file.
const TABLE_ROWS: usize = 1_000;
/// So many manifests are fetched one by one without a word: it takes a second or two.
const MANIFESTS: u64 = 1_000;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, up to 1,000 rows.
    Table,
    /// Comma-separated values under a header.
    Csv,
    /// One JSON array.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The wish of the user, else a table on a terminal and CSV in a pipe.
    pub fn chosen(wish: Option<Self>) -> Self {
        let usual = if io::stdout().is_terminal() { Self::Table } else { Self::Csv };
        wish.unwrap_or(usual)
    }
}

/// Rows cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output ended.
    #[error("the rows cannot be written")]
    Io(#[from] io::Error),
    /// Rows of this type have no such form.
    #[error("the rows cannot be written in this form")]
    Arrow(#[from] datafusion::arrow::error::ArrowError),
    /// The same, of Parquet.
    #[error("the rows cannot be written in this form")]
    Parquet(#[from] parquet::errors::ParquetError),
}

/// Writes rows as they come.
pub struct Rows<W: Write + Send> {
    schema: SchemaRef,
    written: usize,
    sink: Sink<W>,
}

enum Sink<W: Write + Send> {
    Table { out: W, held: Vec<RecordBatch>, rows: usize },
    Csv(Box<datafusion::arrow::csv::Writer<W>>),
    Json(Box<ArrayWriter<W>>),
    Jsonl(Box<LineDelimitedWriter<W>>),
    Parquet(Box<ArrowWriter<W>>),
}

impl<W: Write + Send> Rows<W> {
    /// Begins; the header comes with the rows, or at the end when there are none.
    pub fn new(format: Format, schema: SchemaRef, out: W) -> Result<Self, Error> {
        let sink = match format {
            Format::Table => Sink::Table { out, held: Vec::new(), rows: 0 },
            Format::Csv => Sink::Csv(Box::new(WriterBuilder::new().with_header(true).build(out))),
            Format::Json => Sink::Json(Box::new(ArrayWriter::new(out))),
            Format::Jsonl => Sink::Jsonl(Box::new(LineDelimitedWriter::new(out))),
            Format::Parquet => {
                let properties =
                    WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                Sink::Parquet(Box::new(ArrowWriter::try_new(
                    out,
                    schema.clone(),
                    Some(properties),
                )?))
            }
        };
        Ok(Self { schema, written: 0, sink })
    }

    /// Takes some rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.written += batch.num_rows();
        match &mut self.sink {
            Sink::Table { held, rows, .. } => {
                let take = batch.num_rows().min(TABLE_ROWS - *rows);
                *rows += take;
                if take > 0 {
                    held.push(batch.slice(0, take));
                }
            }
            Sink::Csv(writer) => writer.write(batch)?,
            Sink::Json(writer) => writer.write(batch)?,
            Sink::Jsonl(writer) => writer.write(batch)?,
            Sink::Parquet(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    /// Ends, and answers how many rows there were and how many of them are not shown.
    pub fn finish(self) -> Result<(usize, usize), Error> {
        let mut hidden = 0;
        match self.sink {
            Sink::Table { mut out, mut held, rows } => {
                hidden = self.written - rows;
                if held.is_empty() {
                    held.push(RecordBatch::new_empty(self.schema));
                }
                let options = FormatOptions::default().with_null("NULL");
                writeln!(out, "{}", pretty_format_batches_with_options(&held, &options)?)?;
            }
            Sink::Csv(mut writer) => {
                if self.written == 0 {
                    writer.write(&RecordBatch::new_empty(self.schema))?;
                }
                writer.into_inner().flush()?;
            }
            Sink::Json(mut writer) => {
                writer.finish()?;
                let mut out = writer.into_inner();
                writeln!(out)?;
                out.flush()?;
            }
            Sink::Jsonl(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Sink::Parquet(writer) => {
                writer.into_inner()?.flush()?;
            }
        }
        Ok((self.written, hidden))
    }
}

/// The line that every query ends with, on standard error.
pub fn footer(
    stats: &Stats,
    rows: usize,
    hidden: usize,
    took: Duration,
    completeness: &str,
) -> String {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut cost = vec![counted(rows as u64, "row"), format!("{:.2} s", took.as_secs_f64())];
    if hidden > 0 {
        cost.push(format!("{hidden} not shown, use -o csv"));
    }
    let of = |some: &AtomicU64, all: &AtomicU64| {
        format!("{} of {}", grouped(read(some)), grouped(read(all)))
    };
    cost.push(format!("objects {}", of(&stats.segments_read, &stats.segments)));
    cost.push(format!("chunks {}", of(&stats.chunks_read, &stats.chunks)));
    let (fetched, all) = (read(&stats.bytes_fetched), read(&stats.bytes));
    cost.push(format!("fetched {} of {}", bytes(fetched), bytes(all)));
    cost.push(format!("decoded {}", bytes(read(&stats.bytes_decoded))));
    let reasons = stats.reasons();
    if !reasons.is_empty() {
        cost.push(format!("pruned by {}", reasons.join(", ")));
    }
    let mut worth = vec![completeness.to_owned(), counted(read(&stats.drifted), "drifted value")];
    let unfilled = read(&stats.unfilled);
    if unfilled > 0 {
        let unfilled = counted(unfilled, "unchanged value");
        worth.push(format!("{unfilled} not in the archive, shown as NULL"));
    }
    worth.extend(peak_memory().map(|peak| format!("peak {}", bytes(peak))));
    let lines = [cost.join(" · "), worth.join(" · ")];
    let lines = lines.into_iter().chain(advice(read(&stats.manifests_fetched)));
    lines.collect::<Vec<_>>().join("\n")
}

/// What is to be said when so many manifests were fetched one by one; nothing when they were few.
pub fn advice(fetched: u64) -> Option<String> {
    let fetched = Some(fetched).filter(|fetched| *fetched > MANIFESTS).map(grouped)?;
    Some(format!(
        "{fetched} manifests were fetched one by one; `tailwater lake checkpoint` rolls them up"
    ))
}

/// The most memory this process has held, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// A number of things, with its noun.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A number with a comma before each three digits.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of bytes for people.
pub fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            let digits = usize::from(unit != "B" && size < 100.0);
            return format!("{size:.digits$} {unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

/// Standard output that a thread may own.
pub fn stdout() -> io::BufWriter<io::Stdout> {
    io::BufWriter::new(io::stdout())
}

/// Text from an archive must not steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(bytes(150 << 20), "150 MiB");
    }

    #[test]
    fn many_manifests_that_were_fetched_one_by_one_are_worth_a_line() {
        let footer = |fetched| {
            let stats = Stats::default();
            Stats::add(&stats.manifests_fetched, fetched);
            footer(&stats, 1, 0, Duration::ZERO, "no commits")
        };
        assert!(!footer(1_000).contains("checkpoint"));
        let expected =
            "\n1,001 manifests were fetched one by one; `tailwater lake checkpoint` rolls them up";
        assert!(footer(1_001).ends_with(expected));
    }
}
