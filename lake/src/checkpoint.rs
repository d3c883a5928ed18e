//! The manifests of a topic in one Parquet file.
//!
//! ```text
//!  row = one manifest ─┬─ manifest_key, manifest_etag, manifest ──▶ read back, byte for byte
//!                      └─ path, dt, …_min, …_max                ──▶ for engines that choose objects by them
//!  footer: CRC-32 of all other bytes of the file
//! ```
//!
//! * A checkpoint is a cache. A row stands for its manifest only while that is listed with the row's ETag, so one that
//!   is old, or of manifests that were replaced since, makes no answer wrong.
//! * Only the three columns of the manifest are read back. The others repeat what stands in it, in types that every
//!   engine has: a number beyond 63 bits is the largest there is, times are in UTC.
//! * Parquet does not see every flipped bit, and its decoder panics over some that it does see. So nothing is decoded
//!   before the whole file matches its checksum.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{
    ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray,
};
use datafusion::arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use tailwater_sinks_archive::layout;
use tailwater_sinks_archive::manifest::{Extent, Manifest};

/// What is read back, in the order of a row's fields.
const READ_BACK: [&str; 3] = ["manifest_key", "manifest_etag", "manifest"];
/// Before the eight digits of the checksum: in the footer, so that it is the last such text of a file.
const SEAL: &str = "tailwater.crc32=";
/// Rows that are held as columns at once: a manifest of many chunks has a hundred kilobytes.
const BATCH: usize = 256;
/// Rows of a row group. Manifests of one partition are of neighbouring offsets, so groups can be left out by them.
const GROUP: usize = 16 * BATCH;

/// One manifest as it stood in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: String,
    /// The ETag that it was read with.
    pub etag: String,
    /// Its JSON, byte for byte.
    pub manifest: String,
}

/// A checkpoint that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not Parquet, or not what goes into it.
    #[error("its Parquet cannot be written or read")]
    Parquet(#[from] ParquetError),
    /// The same, of its columns.
    #[error("its columns cannot be written or read")]
    Arrow(#[from] ArrowError),
    /// A file of somebody else.
    #[error("it is no checkpoint: it has no `{0}`")]
    Foreign(&'static str),
    /// Other bytes than were written.
    #[error("it does not match its checksum")]
    Checksum,
    /// A row whose manifest is none.
    #[error("manifest `{key}` is damaged")]
    Manifest {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The file of some manifests, in their order.
pub fn write(rows: &[Row]) -> Result<Vec<u8>, Error> {
    let json = ColumnPath::from(READ_BACK[2]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(GROUP))
        .set_column_dictionary_enabled(json.clone(), false)
        .set_column_statistics_enabled(json, EnabledStatistics::None)
        .build();
    let schema = columns(&[])?.schema();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
    for rows in rows.chunks(BATCH) {
        writer.write(&columns(rows)?)?;
    }
    let seal = KeyValue::new("seal".to_owned(), format!("{SEAL}00000000"));
    writer.append_key_value_metadata(seal);
    let mut file = writer.into_inner()?;
    let (place, checksum) = seal_of(&file).ok_or(Error::Foreign(SEAL))?;
    file[place].copy_from_slice(checksum.as_bytes());
    Ok(file)
}

/// The rows of a file that [`write`] made; nothing else is read.
pub fn read(file: Bytes) -> Result<Vec<Row>, Error> {
    let (place, checksum) = seal_of(&file).ok_or(Error::Foreign(SEAL))?;
    if file[place] != *checksum.as_bytes() {
        return Err(Error::Checksum);
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), READ_BACK);
    let mut rows = Vec::new();
    for batch in builder.with_projection(mask).with_batch_size(BATCH).build()? {
        let batch = batch?;
        let column = |name| {
            let column = batch.column_by_name(name);
            column.and_then(|column| column.as_string_opt::<i32>()).ok_or(Error::Foreign(name))
        };
        let [key, etag, manifest] = READ_BACK.map(column);
        let (keys, etags, manifests) = (key?, etag?, manifest?);
        rows.extend((0..batch.num_rows()).map(|at| {
            let [key, etag, manifest] =
                [keys, etags, manifests].map(|column| column.value(at).to_owned());
            Row { key, etag, manifest }
        }));
    }
    Ok(rows)
}

/// Where the checksum of a file stands, and what it is to be.
fn seal_of(file: &[u8]) -> Option<(Range<usize>, String)> {
    let start = memchr::memmem::rfind(file, SEAL.as_bytes())? + SEAL.len();
    let place = start..start + 8;
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&file[..start]);
    checksum.update(file.get(place.end..)?);
    Some((place, format!("{:08x}", checksum.finalize())))
}

/// Rows as columns; of no rows, their types.
fn columns(rows: &[Row]) -> Result<RecordBatch, Error> {
    let parsed = rows.iter().map(|row| {
        serde_json::from_str(&row.manifest)
            .map_err(|source| Error::Manifest { key: row.key.clone(), source })
    });
    let manifests = parsed.collect::<Result<Vec<Manifest>, Error>>()?;
    let numbers = |of: fn(&Manifest) -> Option<i64>| -> ArrayRef {
        Arc::new(manifests.iter().map(of).collect::<Int64Array>())
    };
    let days = manifests
        .iter()
        .map(|manifest| layout::parse(&manifest.key).map(|(_, place)| place.dt.to_string()));
    let kafka_ts = |of: fn(&Extent) -> Option<i64>| -> ArrayRef {
        let times = manifests.iter().map(|manifest| of(&manifest.extent));
        Arc::new(times.collect::<TimestampMillisecondArray>())
    };
    let commit_ts = |of: fn(&Extent) -> Option<i64>| -> ArrayRef {
        let times = manifests.iter().map(|manifest| of(&manifest.extent));
        Arc::new(times.collect::<TimestampMicrosecondArray>())
    };
    let [key, etag, manifest] = READ_BACK;
    let paths = manifests.iter().map(|manifest| manifest.key.as_str());
    let partitions = manifests.iter().map(|manifest| manifest.partition);
    let text = |of: fn(&Row) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("path", Arc::new(StringArray::from_iter_values(paths))),
        ("partition", Arc::new(Int32Array::from_iter_values(partitions))),
        ("dt", Arc::new(days.collect::<StringArray>())),
        ("start", numbers(|manifest| Some(manifest.start))),
        ("next", numbers(|manifest| Some(manifest.next))),
        ("records", numbers(|manifest| Some(signed(manifest.extent.records)))),
        ("bytes", numbers(|manifest| Some(signed(manifest.bytes)))),
        ("raw_bytes", numbers(|manifest| Some(signed(manifest.raw_bytes)))),
        ("offset_min", numbers(|manifest| low(manifest.extent.offset))),
        ("offset_max", numbers(|manifest| high(manifest.extent.offset))),
        ("kafka_ts_min", kafka_ts(|extent| low(extent.kafka_ts_ms))),
        ("kafka_ts_max", kafka_ts(|extent| high(extent.kafka_ts_ms))),
        ("commit_lsn_min", numbers(|manifest| low(manifest.extent.commit_lsn).map(signed))),
        ("commit_lsn_max", numbers(|manifest| high(manifest.extent.commit_lsn).map(signed))),
        ("commit_ts_min", commit_ts(|extent| low(extent.commit_ts_us))),
        ("commit_ts_max", commit_ts(|extent| high(extent.commit_ts_us))),
        ("tw_seq_min", numbers(|manifest| low(manifest.extent.tw_seq).map(signed))),
        ("tw_seq_max", numbers(|manifest| high(manifest.extent.tw_seq).map(signed))),
        (key, text(|row| &row.key)),
        (etag, text(|row| &row.etag)),
        (manifest, text(|row| &row.manifest)),
    ];
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn low<T: Copy>(range: Option<(T, T)>) -> Option<T> {
    range.map(|(low, _)| low)
}

fn high<T: Copy>(range: Option<(T, T)>) -> Option<T> {
    range.map(|(_, high)| high)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Array as _;
    use datafusion::arrow::datatypes::Int64Type;
    use proptest::prelude::*;
    use tailwater_sinks_archive::manifest::ChunkEntry;
    use tailwater_sinks_archive::segment::Chunk;

    use super::*;

    fn extents() -> impl Strategy<Value = Extent> {
        type Range<T> = Option<(T, T)>;
        any::<(u64, Range<i64>, Range<i64>, Range<u64>, Range<i64>, Range<u64>)>().prop_map(
            |(records, offset, kafka_ts_ms, commit_lsn, commit_ts_us, tw_seq)| Extent {
                records,
                offset,
                kafka_ts_ms,
                commit_lsn,
                commit_ts_us,
                tw_seq,
            },
        )
    }

    fn chunks() -> impl Strategy<Value = ChunkEntry> {
        (any::<(u64, u32, u32, u32)>(), extents()).prop_map(
            |((at, compressed_bytes, raw_bytes, crc32), extent)| ChunkEntry {
                chunk: Chunk { at, compressed_bytes, raw_bytes, crc32 },
                extent,
            },
        )
    }

    fn manifests() -> impl Strategy<Value = Manifest> {
        let texts = ("\\PC{0,40}", "\\PC{0,10}", "[a-z0-9-]{0,40}");
        let numbers = any::<(i32, i64, i64, u64, u64)>();
        let ops = proptest::collection::btree_map(any::<char>(), any::<u64>(), 0..4);
        let chunks = proptest::collection::vec(chunks(), 0..5);
        (texts, numbers, extents(), ops, chunks).prop_map(
            |(
                (key, next_dt, writer),
                (partition, start, next, bytes, raw_bytes),
                extent,
                ops,
                chunks,
            )| {
                Manifest {
                    format: 1,
                    topic: "shop.item".to_owned(),
                    partition,
                    key,
                    start,
                    next,
                    next_dt,
                    bytes,
                    raw_bytes,
                    sha256: "00".repeat(32),
                    writer,
                    extent,
                    ops,
                    chunks,
                }
            },
        )
    }

    fn rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
        let row =
            ("\\PC{0,60}", "[0-9a-f]{1,32}", manifests()).prop_map(|(key, etag, manifest)| Row {
                key,
                etag,
                manifest: serde_json::to_string(&manifest).expect("JSON"),
            });
        proptest::collection::vec(row, 0..most)
    }

    fn one() -> Row {
        let manifest = r#"{"format":1,"topic":"t","partition":3,"key":"tw/data/t/dt=2026-09-21/p00003-00000000000000000007.jsonl.gz","start":7,"next":9,"next_dt":"2026-09-21","bytes":100,"raw_bytes":1000,"sha256":"","writer":"w","records":2,"offset":[7,8],"kafka_ts_ms":[-1,1767225600001],"commit_lsn":[16,18446744073709551615],"commit_ts_us":null,"tw_seq":null,"ops":{"c":2},"chunks":[]}"#;
        Row { key: "k".to_owned(), etag: "e".to_owned(), manifest: manifest.to_owned() }
    }

    #[test]
    fn every_column_says_what_the_manifest_says() {
        let columns = columns(&[one()]).expect("columns");
        let number = |name: &str| {
            let column = columns.column_by_name(name).expect("there");
            let column = column.as_primitive::<Int64Type>();
            column.is_valid(0).then(|| column.value(0))
        };
        let text = |name: &str| {
            columns.column_by_name(name).expect("there").as_string::<i32>().value(0).to_owned()
        };
        assert_eq!(text("path"), "tw/data/t/dt=2026-09-21/p00003-00000000000000000007.jsonl.gz");
        assert_eq!(text("dt"), "2026-09-21");
        for (name, expected) in [
            ("start", Some(7)),
            ("next", Some(9)),
            ("records", Some(2)),
            ("bytes", Some(100)),
            ("raw_bytes", Some(1_000)),
            ("offset_min", Some(7)),
            ("offset_max", Some(8)),
            ("commit_lsn_min", Some(16)),
            ("commit_lsn_max", Some(i64::MAX)),
            ("tw_seq_min", None),
        ] {
            assert_eq!(number(name), expected, "{name}");
        }
        let shown = |name: &str| {
            let column = columns.column_by_name(name).expect("there");
            datafusion::arrow::util::display::array_value_to_string(column, 0).expect("shown")
        };
        assert_eq!(shown("partition"), "3");
        assert_eq!(shown("kafka_ts_min"), "1969-12-31T23:59:59.999");
        assert_eq!(shown("kafka_ts_max"), "2026-01-01T00:00:00.001");
        assert_eq!(shown("commit_ts_max"), "");
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let batch = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1])) as _)]);
        let batch = batch.expect("a batch");
        let mut foreign = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("opens");
        foreign.write(&batch).expect("taken");
        let foreign = foreign.into_inner().expect("written");
        assert!(matches!(read(foreign.into()), Err(Error::Foreign(SEAL))));
        for bytes in [&b""[..], b"PAR1", b"tailwater.crc32=", b"tailwater.crc32=0000000"] {
            assert!(matches!(read(Bytes::from_static(bytes)), Err(Error::Foreign(SEAL))));
        }
        let mut sealed = format!("not Parquet {SEAL}00000000").into_bytes();
        assert!(matches!(read(sealed.clone().into()), Err(Error::Checksum)));
        let (place, checksum) = seal_of(&sealed).expect("a place for it");
        sealed[place].copy_from_slice(checksum.as_bytes());
        assert!(matches!(read(sealed.into()), Err(Error::Parquet(_))));
        let none = Row { manifest: "{}".to_owned(), ..one() };
        assert!(matches!(write(&[none]), Err(Error::Manifest { .. })));
    }

    #[test]
    fn many_groups_are_read_back_in_their_order() {
        let row = |number: usize| Row { key: number.to_string(), ..one() };
        let rows: Vec<Row> = (0..=2 * GROUP).map(row).collect();
        assert_eq!(read(write(&rows).expect("written").into()).expect("reads"), rows);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_byte_for_byte(rows in rows(20)) {
            let file = write(&rows).expect("written");
            prop_assert_eq!(read(file.into()).expect("reads"), rows);
        }

        #[test]
        fn a_file_with_other_bytes_or_fewer_is_refused(
            rows in rows(6),
            at in any::<prop::sample::Index>(),
            flip in 1..=u8::MAX,
            length in any::<Option<prop::sample::Index>>(),
        ) {
            let mut file = write(&rows).expect("written");
            let at = at.index(file.len());
            file[at] ^= flip;
            if let Some(length) = length {
                file.truncate(length.index(file.len()));
            }
            prop_assert!(matches!(read(file.into()), Err(Error::Checksum | Error::Foreign(SEAL))));
        }
    }
}
