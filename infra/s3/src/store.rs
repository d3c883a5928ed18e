//! ```text
//!  <data>/lock            held by the serving process
//!        /tmp/            files that are nobody's yet; emptied at start
//!        /buckets/<name>/
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use s3s::{S3Result, s3_error};

use crate::body::internal;
use crate::bucket::{Bucket, sync_folder};

/// Why a data folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process serves it.
    #[error("`{path}` is in use by another process")]
    InUse {
        /// The data folder.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("could not read or prepare `{path}`")]
    Read {
        /// The file or folder in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An object's file is not whole, which only a power cut without `fsync` can explain.
    #[error("`{path}` is not a whole object; move it away to go on without it")]
    Damaged {
        /// The object's file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
}

pub(crate) struct Store {
    data: PathBuf,
    fsync: bool,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    /// Released when the process ends, however it ends.
    _lock: File,
}

impl Store {
    /// Takes the folder, creating it when absent, and reads what is in it.
    pub(crate) fn open(data: &Path, fsync: bool) -> Result<Self, OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Read { path, source }
        };
        let (tmp, folder) = (data.join("tmp"), data.join("buckets"));
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let path = data.join("lock");
        let lock = File::create(&path).map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { path: data.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(OpenError::Read { path, source }),
        }
        if tmp.exists() {
            fs::remove_dir_all(&tmp).map_err(at(&tmp))?;
        }
        fs::create_dir(&tmp).map_err(at(&tmp))?;

        let mut buckets = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let entry = entry.map_err(at(&folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let bucket = Bucket::load(name.clone(), entry.path(), fsync)?;
            buckets.insert(name, Arc::new(bucket));
        }
        Ok(Self { data: data.to_owned(), fsync, buckets: RwLock::new(buckets), _lock: lock })
    }

    /// Where staged files live; on the same file system as the buckets.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.data.join("tmp")
    }

    pub(crate) fn bucket(&self, name: &str) -> S3Result<Arc<Bucket>> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.get(name).cloned().ok_or_else(|| s3_error!(NoSuchBucket))
    }

    /// All buckets by name.
    pub(crate) fn buckets(&self) -> Vec<Arc<Bucket>> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.values().cloned().collect()
    }

    pub(crate) fn create_bucket(&self, name: &str) -> S3Result<()> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if buckets.contains_key(name) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        let draft = self.scratch_folder();
        let folder = self.data.join("buckets").join(name);
        Bucket::lay_out(&draft).map_err(internal)?;
        fs::rename(&draft, &folder).map_err(internal)?;
        sync_folder(&self.data.join("buckets")).map_err(internal)?;
        let bucket = Bucket::load(name.to_owned(), folder, self.fsync)
            .map_err(|error| internal(io::Error::other(error)))?;
        buckets.insert(name.to_owned(), Arc::new(bucket));
        Ok(())
    }

    pub(crate) fn remove_bucket(&self, name: &str) -> S3Result<()> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket))?;
        let trash = self.scratch_folder();
        bucket.retire(&trash)?;
        buckets.remove(name);
        drop(buckets);
        fs::remove_dir_all(&trash).map_err(internal)?;
        sync_folder(&self.data.join("buckets")).map_err(internal)
    }

    /// A name in `tmp/` that nobody has.
    pub(crate) fn scratch_folder(&self) -> PathBuf {
        self.tmp().join(uuid::Uuid::new_v4().simple().to_string())
    }
}
