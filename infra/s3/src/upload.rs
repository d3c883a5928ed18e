//! An upload is a folder: `upload.json` says what the object shall be, every part is a file in the
//! format of an object. It survives restarts; completing it copies the parts into a staged file and
//! commits that as any other object.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use s3s::crypto::{Checksum as _, Md5};
use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};

use crate::body::{Received, Staged, internal};
use crate::bucket::{Bucket, sync_folder};
use crate::condition::Condition;
use crate::object::{self, Headers, Meta};
use crate::sums::{self, Sums};

/// Every part but the last must have at least this size, as on the original.
const PART_BYTES_MIN: u64 = 5 << 20;
/// Highest part number.
const PART_NUMBER_MAX: i32 = 10_000;
/// Buffer while parts are read back to be summed.
const COPY_BYTES: usize = 1 << 20;

/// Contents of `upload.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) initiated_ms: u64,
    pub(crate) headers: Headers,
    /// Checksum algorithm declared for the object.
    pub(crate) algorithm: Option<String>,
    /// True when its sum is to cover the bytes rather than the parts' sums.
    pub(crate) full_object: bool,
}

/// A part as the completing client lists it.
pub(crate) struct NamedPart {
    pub(crate) number: i32,
    pub(crate) etag: Option<String>,
    pub(crate) sums: Sums,
}

/// What the completing client expects of the whole.
pub(crate) struct Expected {
    pub(crate) size: Option<u64>,
    pub(crate) sums: Sums,
}

impl Upload {
    pub(crate) fn initiated(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.initiated_ms)
    }

    /// Begins an upload by way of `draft`, a name in `tmp/`; returns its id.
    pub(crate) fn begin(&self, bucket: &Bucket, draft: &Path) -> S3Result<String> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let folder = bucket.uploads_folder().join(&id);
        let write = || -> io::Result<()> {
            fs::create_dir(draft)?;
            let mut file = File::create(draft.join("upload.json"))?;
            file.write_all(&serde_json::to_vec(self)?)?;
            if bucket.fsync() {
                file.sync_all()?;
                sync_folder(draft)?;
            }
            fs::rename(draft, &folder)?;
            if bucket.fsync() { sync_folder(&bucket.uploads_folder()) } else { Ok(()) }
        };
        write().map_err(internal)?;
        Ok(id)
    }

    /// Finds an upload; the key must be the one it was begun with.
    pub(crate) fn find(bucket: &Bucket, id: &str, key: &str) -> S3Result<(Self, PathBuf)> {
        let folder = folder(bucket, id)?;
        let upload = Self::read(&folder)?.ok_or_else(|| s3_error!(NoSuchUpload))?;
        if upload.key == key { Ok((upload, folder)) } else { Err(s3_error!(NoSuchUpload)) }
    }

    /// All uploads of a bucket, by key and then by id.
    pub(crate) fn list(bucket: &Bucket) -> S3Result<Vec<(String, Self)>> {
        let mut uploads = Vec::new();
        for entry in fs::read_dir(bucket.uploads_folder()).map_err(internal)? {
            let entry = entry.map_err(internal)?;
            // One that ends meanwhile is not listed.
            if let Some(upload) = Self::read(&entry.path())? {
                uploads.push((entry.file_name().to_string_lossy().into_owned(), upload));
            }
        }
        uploads.sort_by(|(one, a), (other, b)| (&a.key, one).cmp(&(&b.key, other)));
        Ok(uploads)
    }

    fn read(folder: &Path) -> S3Result<Option<Self>> {
        match fs::read(folder.join("upload.json")) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| internal(e.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(internal(error)),
        }
    }

    /// Stores one part, replacing an earlier one of that number.
    pub(crate) fn put_part(
        bucket: &Bucket,
        folder: &Path,
        number: i32,
        key: &str,
        received: Received,
    ) -> S3Result<Meta> {
        let Received { mut staged, size, md5, sums } = received;
        let meta = Meta {
            key: key.to_owned(),
            size,
            etag: md5,
            modified_ms: object::now_ms(),
            sums,
            headers: Headers::default(),
        };
        staged.seal(&meta, bucket.fsync()).map_err(internal)?;
        match fs::rename(staged.path(), part_path(folder, number)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(s3_error!(NoSuchUpload));
            }
            Err(error) => return Err(internal(error)),
        }
        if bucket.fsync() {
            sync_folder(folder).map_err(internal)?;
        }
        Ok(meta)
    }

    /// The parts present, by number.
    pub(crate) fn parts(folder: &Path) -> S3Result<Vec<(i32, Meta)>> {
        let mut parts = Vec::new();
        for entry in fs::read_dir(folder).map_err(|_| s3_error!(NoSuchUpload))? {
            let entry = entry.map_err(internal)?;
            if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                let file = File::open(entry.path()).map_err(internal)?;
                parts.push((number, object::read_meta(&file).map_err(internal)?));
            }
        }
        parts.sort_by_key(|(number, _)| *number);
        Ok(parts)
    }

    /// Turns the named parts into the object and ends the upload.
    pub(crate) fn complete(
        &self,
        bucket: &Bucket,
        folder: &Path,
        tmp: &Path,
        named: &[NamedPart],
        expected: &Expected,
        condition: &Condition,
    ) -> S3Result<Meta> {
        let parts = gather(folder, named)?;
        let full: Vec<&str> = sums::ALGORITHMS
            .into_iter()
            .filter(|name| {
                let declared = self.full_object && self.algorithm.as_deref() == Some(name);
                let asked = expected.sums.get(name).is_some_and(|sum| !sum.contains('-'));
                declared || asked
            })
            .collect();
        let mut staged = Staged::create(tmp).map_err(internal)?;
        let (size, mut sums) = join(&parts, &full, staged.file()).map_err(internal)?;
        if sums.is_empty()
            && let Some(algorithm) = &self.algorithm
            && let Some(composite) =
                Sums::composite(algorithm, parts.iter().map(|(_, meta)| &meta.sums))
        {
            sums = composite;
        }
        sums.verify(&expected.sums)?;
        if expected.size.is_some_and(|expected| expected != size) {
            return Err(s3_error!(InvalidRequest, "the parts have {size} bytes together"));
        }
        let mut md5 = Md5::new();
        for (_, part) in &parts {
            md5.update(&sums::unhex(&part.etag).unwrap_or_default());
        }
        let meta = Meta {
            key: self.key.clone(),
            size,
            etag: format!("{}-{}", sums::hex(md5.finalize().as_ref()), parts.len()),
            modified_ms: object::now_ms(),
            sums,
            headers: self.headers.clone(),
        };
        staged.seal(&meta, bucket.fsync()).map_err(internal)?;
        bucket.commit(staged, &meta, condition)?;
        Ok(meta)
    }

    /// Removes the upload's folder by way of `trash`, a name in `tmp/`.
    pub(crate) fn end(folder: &Path, trash: &Path) -> S3Result<()> {
        fs::rename(folder, trash).map_err(internal)?;
        fs::remove_dir_all(trash).map_err(internal)
    }
}

/// Whether S3 allows this part number.
pub(crate) fn check_part_number(number: i32) -> S3Result<()> {
    if (1..=PART_NUMBER_MAX).contains(&number) {
        Ok(())
    } else {
        Err(s3_error!(InvalidArgument, "a part number is between 1 and {PART_NUMBER_MAX}"))
    }
}

/// Opens the named parts and checks them against what is stored.
fn gather(folder: &Path, named: &[NamedPart]) -> S3Result<Vec<(File, Meta)>> {
    if named.is_empty() {
        return Err(s3_error!(MalformedXML, "no parts were named"));
    }
    if !named.is_sorted_by(|one, other| one.number < other.number) {
        return Err(s3_error!(InvalidPartOrder));
    }
    let mut parts = Vec::with_capacity(named.len());
    for (place, part) in named.iter().enumerate() {
        let file = File::open(part_path(folder, part.number))
            .map_err(|_| s3_error!(InvalidPart, "part {} was not uploaded", part.number))?;
        let meta = object::read_meta(&file).map_err(internal)?;
        if part.etag.as_ref().is_some_and(|etag| *etag != meta.etag)
            || meta.sums.verify(&part.sums).is_err()
        {
            return Err(s3_error!(InvalidPart, "part {} is another one", part.number));
        }
        if meta.size < PART_BYTES_MIN && place + 1 < named.len() {
            return Err(s3_error!(EntityTooSmall, "part {} is under 5 MiB", part.number));
        }
        parts.push((file, meta));
    }
    Ok(parts)
}

/// Copies the parts' data one after the other. Without sums to compute the kernel does it alone.
fn join(parts: &[(File, Meta)], algorithms: &[&str], into: &mut File) -> io::Result<(u64, Sums)> {
    let mut hasher = Sums::hasher(algorithms);
    let mut size = 0;
    for (file, meta) in parts {
        let mut data = file.take(meta.size);
        if algorithms.is_empty() {
            size += io::copy(&mut data, into)?;
            continue;
        }
        let mut data = BufReader::with_capacity(COPY_BYTES, data);
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = data.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            into.write_all(&buffer[..read])?;
            size += read as u64;
        }
    }
    if size == parts.iter().map(|(_, meta)| meta.size).sum::<u64>() {
        Ok((size, Sums::finish(hasher)))
    } else {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a part is shorter than it says"))
    }
}

/// The folder of an upload. Ids are ours, so anything else names no upload (and no path either).
fn folder(bucket: &Bucket, id: &str) -> S3Result<PathBuf> {
    let ours = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if ours { Ok(bucket.uploads_folder().join(id)) } else { Err(s3_error!(NoSuchUpload)) }
}

fn part_path(folder: &Path, number: i32) -> PathBuf {
    folder.join(format!("{number:05}"))
}
