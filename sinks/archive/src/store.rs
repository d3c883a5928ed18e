//! The store: create-only writes, looks, lists.
//!
//! * Every write is conditional and carries a checksum; the client's own retries are off, because a retry that finds
//!   our first attempt must be told apart from a rival, and only the chain can do that.
//! * A write without a clear answer says so. Nothing is guessed. A look without one is asked [`again`].
//! * Keys that the store does not take may be those of yesterday. Where others can come, that is no refusal.

mod again;
/// What a failed request means.
mod failure;
mod probe;
mod upload;

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, IdentityCache, Region, StalledStreamProtectionConfig};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, CreateBucketConfiguration, ServerSideEncryption,
};
use bytes::Bytes;
use tailwater_config::S3Config;
use tailwater_config::s3::Encryption;
use tailwater_runtime::{Classify, ErrorClass};
use tailwater_sinks_keys::HeldKeys;

pub(crate) use self::again::again;
use self::failure::status;
use self::probe::{UPLOADERS, WRITERS};
pub use self::upload::requests;
use crate::chain::{Link, NotALink};

/// How long one request may take. A segment of 64 MiB passes in it at one MiB a second.
const REQUEST_MAX: Duration = Duration::from_secs(90);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The region that is not to be named when a bucket is created in it.
const FIRST_REGION: &str = "us-east-1";

/// What a chain asks of a store. Nothing is ever replaced or deleted.
pub trait Objects: Clone + Send + Sync + 'static {
    /// Creates an object unless its key is taken.
    ///
    /// # Errors
    /// Only refusals, also those that pass; what may have happened without our knowledge is [`Put::Unclear`].
    fn create(
        &self,
        key: &str,
        body: Bytes,
        metadata: HashMap<String, String>,
        content_type: &str,
    ) -> impl Future<Output = Result<Put, StoreError>> + Send;

    /// The link at a key, if one is there.
    fn link(&self, key: &str) -> impl Future<Output = Result<Option<Link>, StoreError>> + Send;

    /// The bytes of an object, if it is there.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// Every object under a prefix, in the order of keys.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Vec<Listed>, StoreError>> + Send;
}

/// A bucket of a store.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    keys: HeldKeys,
    endpoint: String,
    region: String,
    bucket: String,
    encryption: Option<Encryption>,
    /// Whether it is told to create only where nothing stands.
    is_conditional: bool,
}

/// What became of a conditional create.
#[derive(Debug)]
pub enum Put {
    /// The object is ours.
    Created,
    /// The key was taken.
    Taken,
    /// Somebody else was creating it at the same time, and it is not told who was first: look.
    Conflict(StoreError),
    /// Nobody can tell: look.
    Unclear(StoreError),
}

/// A store that does not do what is asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reached, or out of order for now.
    #[error("the S3 store at {endpoint} did not answer while {doing}: {why}")]
    Unavailable {
        /// Where it listens.
        endpoint: String,
        /// What was asked.
        doing: String,
        /// What came instead.
        why: String,
    },
    /// It does not take the keys, and they may be others soon.
    #[error(
        "the S3 store at {endpoint} did not take the keys for {doing}: {why}; they are read again"
    )]
    StaleKeys {
        /// Where it listens.
        endpoint: String,
        /// What was asked.
        doing: String,
        /// What it said.
        why: String,
    },
    /// Its clock and ours differ, so that no signature holds.
    #[error(
        "the S3 store at {endpoint} takes the clock of this machine to be wrong, and so no signature, for {doing}: {why}; set the clock, with NTP"
    )]
    Clock {
        /// Where it listens.
        endpoint: String,
        /// What was asked.
        doing: String,
        /// What it said.
        why: String,
    },
    /// It refuses, and will go on refusing.
    #[error("the S3 store at {endpoint} refused {doing}: {why}")]
    Refused {
        /// Where it listens.
        endpoint: String,
        /// What was asked.
        doing: String,
        /// What it said.
        why: String,
    },
    /// The bucket is not there.
    #[error("bucket `{bucket}` does not exist at {endpoint}; create it with `tailwater apply`")]
    NoBucket {
        /// Where it should be.
        endpoint: String,
        /// The bucket.
        bucket: String,
    },
    /// Of several writers of one object not exactly one was told that it had created it.
    #[error(
        "the S3 store at {endpoint} let {winners} of {WRITERS} writers create the same object, where it must be one, so an archive in it could lose records; use a store with atomic conditional writes, or declare an archive with `guarantee: at-least-once`"
    )]
    NotAtomic {
        /// Where it listens.
        endpoint: String,
        /// How many.
        winners: usize,
    },
    /// An object does not hold what its only creator wrote.
    #[error(
        "the S3 store at {endpoint} replaced an object that was only to be created, so an archive in it could lose records; use a store with atomic conditional writes, or declare an archive with `guarantee: at-least-once`"
    )]
    Overwrites {
        /// Where it listens.
        endpoint: String,
    },
    /// Of several uploads of one object not exactly one was completed, and stayed.
    #[error(
        "the S3 store at {endpoint} let {winners} of {UPLOADERS} uploads in parts create the same object, where it must be one and stay; declare segments of at most 64MiB, which need no parts"
    )]
    PartsNotAtomic {
        /// Where it listens.
        endpoint: String,
        /// How many.
        winners: usize,
    },
    /// An object that no writer of ours made.
    #[error("object `{key}` is not part of an archive")]
    Foreign {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: NotALink,
    },
}

impl Classify for StoreError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unavailable { .. } | Self::StaleKeys { .. } | Self::Clock { .. } => {
                ErrorClass::Transient
            }
            Self::Refused { .. }
            | Self::NoBucket { .. }
            | Self::NotAtomic { .. }
            | Self::PartsNotAtomic { .. }
            | Self::Overwrites { .. }
            | Self::Foreign { .. } => ErrorClass::Definite,
        }
    }
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its ETag: while that is the same, so are its bytes. None where the store tells none that means this.
    pub etag: Option<String>,
}

/// An ETag that stands for the very bytes, without its quotes.
fn strong(etag: Option<&str>) -> Option<String> {
    let etag = etag?.trim_matches('"');
    (!etag.is_empty() && !etag.starts_with("W/")).then(|| etag.to_owned())
}

impl Store {
    /// Prepares a client for a bucket; nothing is sent yet.
    pub fn connect(config: S3Config, bucket: &str) -> Self {
        let keys = HeldKeys::new(config.keys, &config.region);
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_MAX)
            .operation_attempt_timeout(REQUEST_MAX)
            .build();
        let client = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&config.endpoint)
            .credentials_provider(keys.provider())
            .identity_cache(IdentityCache::no_cache())
            .region(Region::new(config.region.clone()))
            .force_path_style(config.path_style)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Self {
            client: Client::from_conf(client),
            keys,
            endpoint: config.endpoint,
            region: config.region,
            bucket: bucket.to_owned(),
            encryption: config.encryption,
            is_conditional: true,
        }
    }

    /// The same for stores that do not know conditions, or refuse requests with one: what is created then takes the place
    /// of what stands there. For keys that nobody else has.
    pub fn without_conditions(self) -> Self {
        Self { is_conditional: false, ..self }
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Whether the bucket exists.
    pub async fn has_bucket(&self) -> Result<bool, StoreError> {
        again(|| self.look_for_bucket()).await
    }

    /// Makes sure that the bucket is there.
    ///
    /// # Errors
    /// It is not, or the store does not answer.
    pub async fn ensure_reachable(&self) -> Result<(), StoreError> {
        if self.has_bucket().await? { Ok(()) } else { Err(self.no_bucket()) }
    }

    async fn look_for_bucket(&self) -> Result<bool, StoreError> {
        match self.client.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(self.head_failed(&error, "looking for the bucket").await),
        }
    }

    /// Creates the bucket if it is not there.
    pub async fn ensure_bucket(&self) -> Result<(), StoreError> {
        if self.has_bucket().await? {
            return Ok(());
        }
        let place = (self.region != FIRST_REGION).then(|| {
            let region = BucketLocationConstraint::from(self.region.as_str());
            CreateBucketConfiguration::builder().location_constraint(region).build()
        });
        let create = self.client.create_bucket().bucket(&self.bucket);
        match create.set_create_bucket_configuration(place).send().await {
            Ok(_) => Ok(()),
            // Somebody was faster.
            Err(error) if status(&error) == Some(409) && self.has_bucket().await? => Ok(()),
            Err(error) => Err(self.failed(&error, "creating the bucket")),
        }
    }

    /// Some bytes of an object, if it is there; fewer where it ends.
    pub async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StoreError> {
        let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let got = again(|| self.fetch(key, Some(range.clone()))).await?;
        Ok(got.map(|(body, _)| body))
    }

    /// The bytes of an object and the ETag that is theirs, as in [`Listed`], if it is there.
    pub async fn get_with_etag(
        &self,
        key: &str,
    ) -> Result<Option<(Bytes, Option<String>)>, StoreError> {
        again(|| self.fetch(key, None)).await
    }

    /// Puts an object where another may stand: for what follows from the objects of a chain, never for those.
    pub(crate) async fn replace(
        &self,
        key: &str,
        body: Bytes,
        content_type: &str,
    ) -> Result<(), StoreError> {
        again(|| async {
            let put = self.client.put_object().bucket(&self.bucket).key(key);
            let put = put.content_type(content_type).set_server_side_encryption(self.encryption());
            let put = put.set_ssekms_key_id(self.kms_key()).body(ByteStream::from(body.clone()));
            let put = put.send().await.map(drop);
            put.map_err(|error| self.failed(&error, &format!("replacing `{key}`")))
        })
        .await
    }

    /// Of a create: that nothing stands there.
    fn condition(&self) -> Option<String> {
        self.is_conditional.then(|| "*".to_owned())
    }

    fn encryption(&self) -> Option<ServerSideEncryption> {
        self.encryption.as_ref().map(|encryption| match encryption {
            Encryption::Aes256 => ServerSideEncryption::Aes256,
            Encryption::Kms { .. } => ServerSideEncryption::AwsKms,
        })
    }

    fn kms_key(&self) -> Option<String> {
        match &self.encryption {
            Some(Encryption::Kms { key }) => key.clone(),
            _ => None,
        }
    }

    async fn look(&self, key: &str) -> Result<Option<Link>, StoreError> {
        match self.client.head_object().bucket(&self.bucket).key(key).send().await {
            Ok(head) => {
                let metadata = head.metadata().cloned().unwrap_or_default();
                let foreign = |source| StoreError::Foreign { key: key.to_owned(), source };
                Link::from_metadata(&metadata).map(Some).map_err(foreign)
            }
            Err(error) if status(&error) == Some(404) => {
                // A missing bucket answers a HEAD in the same way.
                if self.look_for_bucket().await? { Ok(None) } else { Err(self.no_bucket()) }
            }
            Err(error) => Err(self.head_failed(&error, &format!("looking at `{key}`")).await),
        }
    }

    /// One page of a listing, from where the one before it ended.
    async fn page(
        &self,
        prefix: &str,
        after: Option<String>,
    ) -> Result<ListObjectsV2Output, StoreError> {
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let page = list.set_continuation_token(after).send().await;
        page.map_err(|error| self.failed(&error, &format!("listing `{prefix}`")))
    }

    /// Where the page behind this one begins, if there is one. What a listing leaves out would pass for lost, so one that
    /// says that there is more, and not where, is no listing.
    fn page_behind(
        &self,
        page: &ListObjectsV2Output,
        after: Option<&str>,
        prefix: &str,
    ) -> Result<Option<String>, StoreError> {
        let next = page.next_continuation_token();
        if next.is_none() && page.is_truncated() == Some(true) || next.is_some() && next == after {
            return Err(StoreError::Refused {
                endpoint: self.endpoint.clone(),
                doing: format!("listing `{prefix}`"),
                why: "it says that there is more, and not where".to_owned(),
            });
        }
        Ok(next.map(str::to_owned))
    }

    async fn fetch(
        &self,
        key: &str,
        range: Option<String>,
    ) -> Result<Option<(Bytes, Option<String>)>, StoreError> {
        let doing = || format!("reading `{key}`");
        let get = self.client.get_object().bucket(&self.bucket).key(key).set_range(range);
        match get.send().await {
            Ok(object) => {
                let etag = strong(object.e_tag());
                match object.body.collect().await {
                    Ok(body) => Ok(Some((body.into_bytes(), etag))),
                    Err(error) => Err(self.unavailable(doing(), error.to_string())),
                }
            }
            Err(error) if error.code() == Some("NoSuchKey") => Ok(None),
            Err(error) => Err(self.failed(&error, &doing())),
        }
    }
}

impl Objects for Store {
    async fn create(
        &self,
        key: &str,
        body: Bytes,
        metadata: HashMap<String, String>,
        content_type: &str,
    ) -> Result<Put, StoreError> {
        if body.len() > upload::SINGLE_MAX {
            return self.create_in_parts(key, body, metadata, content_type).await;
        }
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .set_if_none_match(self.condition())
            .content_type(content_type)
            .set_metadata(Some(metadata))
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.kms_key())
            .body(ByteStream::from(body));
        match put.send().await {
            Ok(_) => Ok(Put::Created),
            // 304 is what some older servers say instead of 412.
            Err(error) if matches!(status(&error), Some(412 | 304)) => Ok(Put::Taken),
            Err(error) => match self.failed(&error, &format!("writing `{key}`")) {
                unclear @ StoreError::Unavailable { .. } if status(&error) == Some(409) => {
                    Ok(Put::Conflict(unclear))
                }
                unclear @ StoreError::Unavailable { .. } => Ok(Put::Unclear(unclear)),
                refused => Err(refused),
            },
        }
    }

    async fn link(&self, key: &str) -> Result<Option<Link>, StoreError> {
        again(|| self.look(key)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get_with_etag(key).await?.map(|(body, _)| body))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = again(|| self.page(prefix, after.clone())).await?;
            listed.extend(page.contents().iter().filter_map(|object| {
                let bytes = u64::try_from(object.size().unwrap_or(0)).unwrap_or(0);
                Some(Listed { key: object.key()?.to_owned(), bytes, etag: strong(object.e_tag()) })
            }));
            after = self.page_behind(&page, after.as_deref(), prefix)?;
            if after.is_none() {
                return Ok(listed);
            }
        }
    }
}
