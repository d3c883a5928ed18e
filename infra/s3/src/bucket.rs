//! ```text
//!  buckets/<name>/bucket.json          when it was created
//!                /objects/<sha-256 of the key>
//!                /uploads/<id>/upload.json, 00001, 00002, …
//! ```
//! Files are named by the hash of the key, so any key S3 allows has a place and `a` lives beside
//! `a/b`. The order of keys is kept in memory and rebuilt at start.
//!
//! One stripe lock covers a commit from the check of the condition to the moment of visibility, with
//! the sync in between: nobody sees, or loses against, an object that a power cut could take back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use s3s::{S3Result, s3_error};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::body::{Staged, internal};
use crate::condition::Condition;
use crate::object::{self, Meta};
use crate::store::OpenError;

/// Writers of different keys rarely wait for each other.
const STRIPES: usize = 64;

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
}

impl From<&Meta> for Entry {
    fn from(meta: &Meta) -> Self {
        Self { size: meta.size, etag: meta.etag.clone(), modified: meta.modified() }
    }
}

/// Contents of `bucket.json`.
#[derive(Serialize, Deserialize)]
struct Description {
    created_ms: u64,
}

pub(crate) struct Bucket {
    pub(crate) name: String,
    folder: PathBuf,
    created_ms: u64,
    fsync: bool,
    stripes: [Mutex<()>; STRIPES],
    uploads: [Mutex<()>; STRIPES],
    /// What is visible.
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Held for writing by the removal of the bucket, for reading by everything that adds to it.
    removed: RwLock<bool>,
}

impl Bucket {
    /// Prepares the folder of a new bucket; the caller moves it into place.
    pub(crate) fn lay_out(folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)?;
        fs::create_dir(folder.join("objects"))?;
        fs::create_dir(folder.join("uploads"))?;
        let description = serde_json::to_vec(&Description { created_ms: object::now_ms() })?;
        fs::write(folder.join("bucket.json"), description)?;
        File::open(folder.join("bucket.json"))?.sync_all()?;
        File::open(folder)?.sync_all()
    }

    /// Reads a bucket's folder, every object's description included.
    pub(crate) fn load(name: String, folder: PathBuf, fsync: bool) -> Result<Self, OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Read { path, source }
        };
        let path = folder.join("bucket.json");
        let text = fs::read(&path).map_err(at(&path))?;
        let Description { created_ms } =
            serde_json::from_slice(&text).map_err(|source| at(&path)(source.into()))?;
        let mut entries = BTreeMap::new();
        let objects = folder.join("objects");
        for file in fs::read_dir(&objects).map_err(at(&objects))? {
            let path = file.map_err(at(&objects))?.path();
            let meta = File::open(&path).and_then(|file| object::read_meta(&file));
            let meta = meta.map_err(|source| OpenError::Damaged { path, source })?;
            entries.insert(meta.key.clone(), Entry::from(&meta));
        }
        Ok(Self {
            name,
            folder,
            created_ms,
            fsync,
            stripes: std::array::from_fn(|_| Mutex::new(())),
            uploads: std::array::from_fn(|_| Mutex::new(())),
            entries: Mutex::new(entries),
            removed: RwLock::new(false),
        })
    }

    pub(crate) fn created(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.created_ms)
    }

    pub(crate) fn fsync(&self) -> bool {
        self.fsync
    }

    pub(crate) fn uploads_folder(&self) -> PathBuf {
        self.folder.join("uploads")
    }

    /// What is visible, in key order. Keep it short: every commit waits.
    pub(crate) fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        lock(&self.entries)
    }

    /// Serializes completion and abortion of one upload.
    pub(crate) fn lock_upload(&self, id: &str) -> MutexGuard<'_, ()> {
        lock(&self.uploads[stripe(&digest(id))])
    }

    /// Makes a sealed file the object `meta.key`, if the condition holds at that moment.
    pub(crate) fn commit(
        &self,
        staged: Staged,
        meta: &Meta,
        condition: &Condition,
    ) -> S3Result<()> {
        let removed = self.removed.read().unwrap_or_else(PoisonError::into_inner);
        if *removed {
            return Err(s3_error!(NoSuchBucket));
        }
        let digest = digest(&meta.key);
        let path = self.object_path(&digest);
        let _writing = lock(&self.stripes[stripe(&digest)]);
        condition.check(self.entries().get(&meta.key).map(|entry| entry.etag.as_str()))?;
        let moved = if *condition == Condition::Absent {
            // The file system has the last word: unlike a rename, a link never replaces.
            fs::hard_link(staged.path(), &path)
        } else {
            fs::rename(staged.path(), &path)
        };
        match moved {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Condition::failed());
            }
            Err(error) => return Err(internal(error)),
        }
        self.sync_objects()?;
        self.entries().insert(meta.key.clone(), Entry::from(meta));
        Ok(())
    }

    /// Opens an object for reading; what is read stays the same whatever happens to the key.
    pub(crate) fn open(&self, key: &str) -> S3Result<(File, Meta)> {
        if !self.entries().contains_key(key) {
            return Err(s3_error!(NoSuchKey));
        }
        match File::open(self.object_path(&digest(key))) {
            Ok(file) => {
                let meta = object::read_meta(&file).map_err(internal)?;
                Ok((file, meta))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(s3_error!(NoSuchKey)),
            Err(error) => Err(internal(error)),
        }
    }

    /// Removes an object if the condition holds. Removing nothing is no error.
    pub(crate) fn remove(&self, key: &str, condition: &Condition) -> S3Result<()> {
        let digest = digest(key);
        let _writing = lock(&self.stripes[stripe(&digest)]);
        let current = self.entries().get(key).map(|entry| entry.etag.clone());
        condition.check(current.as_deref())?;
        if current.is_none() {
            return Ok(());
        }
        self.entries().remove(key);
        match fs::remove_file(self.object_path(&digest)) {
            Ok(()) => self.sync_objects(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(internal(error)),
        }
    }

    /// Moves the whole bucket to `trash`, unless something is in it.
    pub(crate) fn retire(&self, trash: &Path) -> S3Result<()> {
        let mut removed = self.removed.write().unwrap_or_else(PoisonError::into_inner);
        if !self.entries().is_empty() {
            return Err(s3_error!(BucketNotEmpty));
        }
        if *removed {
            return Err(s3_error!(NoSuchBucket));
        }
        fs::rename(&self.folder, trash).map_err(internal)?;
        *removed = true;
        Ok(())
    }

    fn object_path(&self, digest: &[u8]) -> PathBuf {
        self.folder.join("objects").join(crate::sums::hex(digest))
    }

    fn sync_objects(&self) -> S3Result<()> {
        if self.fsync {
            sync_folder(&self.folder.join("objects")).map_err(internal)
        } else {
            Ok(())
        }
    }
}

/// Makes additions to and removals from a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn digest(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

fn stripe(digest: &[u8]) -> usize {
    usize::from(digest[0]) % STRIPES
}

/// The maps are changed by single calls, so a panic elsewhere leaves nothing half-done in them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
