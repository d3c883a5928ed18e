//! Nothing a client sends can become an object before its length, its MD5 and every checksum it
//! announced (in headers or behind the body) were found right. Until then it is a file in `tmp/`
//! that vanishes with its owner.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3Request, S3Result, TrailingHeaders, s3_error};

use crate::object::{self, Meta};
use crate::sums::{self, ALGORITHMS, Sums};

/// Bytes gathered before a blocking thread is asked to hash and write them.
const WRITE_BYTES: usize = 1 << 20;

/// A file that is nobody's yet. Removed when dropped.
pub(crate) struct Staged {
    path: PathBuf,
    file: File,
}

impl Staged {
    /// A new, empty file in `tmp`.
    pub(crate) fn create(tmp: &Path) -> io::Result<Self> {
        let path = tmp.join(uuid::Uuid::new_v4().simple().to_string());
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        Ok(Self { path, file })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds the description and makes the file durable when asked to.
    pub(crate) fn seal(&mut self, meta: &Meta, fsync: bool) -> io::Result<()> {
        object::write_meta(&mut self.file, meta)?;
        if fsync { self.file.sync_all() } else { Ok(()) }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove, and `tmp/` is emptied at every start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a client says its body is.
pub(crate) struct Declared {
    size: u64,
    md5: Option<String>,
    sums: Sums,
    /// Algorithms whose sums come behind the body.
    trailing: Vec<&'static str>,
    trailers: Option<TrailingHeaders>,
}

impl Declared {
    /// Gathers the declarations of an upload request.
    pub(crate) fn of<T>(
        request: &S3Request<T>,
        content_length: Option<i64>,
        md5: Option<String>,
        sums: Sums,
    ) -> S3Result<Self> {
        let decoded = request
            .headers
            .get("x-amz-decoded-content-length")
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let size = content_length
            .and_then(|length| u64::try_from(length).ok())
            .or(decoded)
            .ok_or_else(|| s3_error!(MissingContentLength))?;
        let announced = request.headers.get_all("x-amz-trailer");
        let announced: Vec<String> = announced
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|name| name.trim().to_ascii_uppercase())
            .collect();
        let trailing = ALGORITHMS
            .into_iter()
            .filter(|name| announced.iter().any(|said| *said == format!("X-AMZ-CHECKSUM-{name}")))
            .collect();
        Ok(Self { size, md5, sums, trailing, trailers: request.trailing_headers.clone() })
    }
}

/// A body that arrived whole and right.
pub(crate) struct Received {
    pub(crate) staged: Staged,
    pub(crate) size: u64,
    /// MD5 in hexadecimal, which is also the ETag of an object put in one piece.
    pub(crate) md5: String,
    /// The sums the client asked for.
    pub(crate) sums: Sums,
}

/// The file and the running sums; travels to a blocking thread and back.
struct Intake {
    staged: Staged,
    md5: Md5,
    hasher: ChecksumHasher,
    size: u64,
}

impl Intake {
    fn write(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        for chunk in chunks {
            self.md5.update(chunk);
            self.hasher.update(chunk);
            self.staged.file.write_all(chunk)?;
            self.size += chunk.len() as u64;
        }
        Ok(())
    }
}

/// Takes a request body into a staged file.
///
/// # Errors
/// `IncompleteBody` when it ends early, late or with a wrong signature, `BadDigest` when a sum is
/// wrong; nothing is left behind then.
pub(crate) async fn receive(
    tmp: PathBuf,
    body: Option<StreamingBlob>,
    declared: Declared,
) -> S3Result<Received> {
    let algorithms: Vec<&str> = ALGORITHMS
        .into_iter()
        .filter(|name| declared.sums.get(name).is_some() || declared.trailing.contains(name))
        .collect();
    let hasher = Sums::hasher(&algorithms);
    let mut intake = blocking(move || {
        Ok(Intake { staged: Staged::create(&tmp)?, md5: Md5::new(), hasher, size: 0 })
    })
    .await?;

    let mut body = body.unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
    let mut arrived = 0;
    let mut waiting: Vec<Bytes> = Vec::new();
    let mut waiting_bytes = 0;
    loop {
        let chunk = match body.next().await {
            None => None,
            Some(Ok(chunk)) => Some(chunk),
            Some(Err(error)) => {
                return Err(s3_error!(
                    IncompleteBody,
                    "the body ended early or failed its signature: {error}"
                ));
            }
        };
        let last = chunk.is_none();
        if let Some(chunk) = chunk {
            arrived += chunk.len() as u64;
            waiting_bytes += chunk.len();
            waiting.push(chunk);
            if arrived > declared.size {
                return Err(s3_error!(IncompleteBody, "the body is longer than declared"));
            }
        }
        if waiting_bytes >= WRITE_BYTES || (last && !waiting.is_empty()) {
            let chunks = std::mem::take(&mut waiting);
            waiting_bytes = 0;
            intake = blocking(move || {
                intake.write(&chunks)?;
                Ok(intake)
            })
            .await?;
        }
        if last {
            break;
        }
    }
    if arrived != declared.size {
        return Err(s3_error!(
            IncompleteBody,
            "the body has {arrived} bytes where {} were declared",
            declared.size
        ));
    }

    let Intake { staged, md5, hasher, size } = intake;
    let md5 = md5.finalize();
    if let Some(expected) = declared.md5
        && expected != sums::base64(md5.as_ref())
    {
        return Err(s3_error!(BadDigest, "the Content-MD5 you specified did not match"));
    }
    let mut expected = declared.sums;
    for algorithm in declared.trailing {
        let name = format!("x-amz-checksum-{}", algorithm.to_ascii_lowercase());
        let value = declared.trailers.as_ref().and_then(|trailers| {
            trailers.read(|map| map.get(&name)?.to_str().ok().map(str::to_owned)).flatten()
        });
        let value = value.ok_or_else(|| {
            s3_error!(InvalidRequest, "the trailer `{name}` was announced and did not come")
        })?;
        expected.set(algorithm, value);
    }
    let sums = Sums::finish(hasher);
    sums.verify(&expected)?;
    Ok(Received { staged, size, md5: sums::hex(md5.as_ref()), sums })
}

/// Runs file work off the async threads; an I/O error is the server's fault.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> S3Result<T> {
    blocking_s3(move || work().map_err(internal)).await
}

/// As [`blocking`], for work that can also be refused.
pub(crate) async fn blocking_s3<T: Send + 'static>(
    work: impl FnOnce() -> S3Result<T> + Send + 'static,
) -> S3Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(S3Error::internal_error)?
}

/// `InternalError`, said in the log too: a person has to look at the disk.
pub(crate) fn internal(error: io::Error) -> S3Error {
    tracing::error!(%error, "disk trouble");
    S3Error::internal_error(error)
}
