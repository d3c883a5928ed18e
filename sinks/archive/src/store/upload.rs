//! Objects that are too large for one request, in parts.
//!
//! ```text
//!  begin ──▶ part 1, 2, 3, … (some at once, each tried again by itself) ──▶ complete, `If-None-Match: *`
//!              └─ one that cannot be sent: abort                              └─ taken, in conflict: abort
//! ```
//!
//! * The object comes into being with the completion, whole and with its metadata, and only where none stands: to the
//!   chain it is the same conditional create as one request, and the same answers are unclear.
//! * Before that nothing is visible under the key. What an upload leaves behind when its writer dies is no object, but
//!   it is paid for; [`Store::abort_stale_uploads`] ends it.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::failure::status;
use super::{Put, Store, StoreError, again};

/// Bodies of more bytes than this are sent in parts.
pub(super) const SINGLE_MAX: usize = 64 << 20;
/// Bytes of each part but the last, all alike as some stores want them. S3 takes parts of 5 MiB and more, and 10,000 of
/// them, so 156 GiB: far more than a segment can have.
const PART: usize = 16 << 20;
/// Parts that are on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// Uploads that began longer ago are nobody's any more: their requests have all ended long since.
const STALE: Duration = Duration::from_hours(24);

/// How many requests that are paid for as writes a segment of so many bytes takes, with its key filter and its manifest.
pub fn requests(bytes: u64) -> u64 {
    let parts = bytes.div_ceil(PART as u64);
    // In parts, it is begun and completed as well.
    let object = if bytes > SINGLE_MAX as u64 { parts + 2 } else { 1 };
    object + 2
}

impl Store {
    pub(super) async fn create_in_parts(
        &self,
        key: &str,
        body: Bytes,
        metadata: HashMap<String, String>,
        content_type: &str,
    ) -> Result<Put, StoreError> {
        let id = match self.begin(key, metadata, content_type).await {
            Ok(id) => id,
            Err(error) => return unclear_unless_refused(error),
        };
        let put = match self.send_parts(key, &id, &body).await {
            Ok(parts) => self.complete(key, &id, parts).await,
            Err(error) => unclear_unless_refused(error),
        };
        if !matches!(put, Ok(Put::Created)) {
            // Best effort: what stays is ended when it is stale. One that was completed is not there any more.
            let _ = self.abort(key, &id).await;
        }
        put
    }

    async fn begin(
        &self,
        key: &str,
        metadata: HashMap<String, String>,
        content_type: &str,
    ) -> Result<String, StoreError> {
        let doing = || format!("beginning an upload of `{key}`");
        let begin = self.client.create_multipart_upload().bucket(&self.bucket).key(key);
        let begin = begin.content_type(content_type).set_metadata(Some(metadata));
        let begin = begin.set_server_side_encryption(self.encryption());
        let begin = begin.set_ssekms_key_id(self.kms_key());
        let begun = begin.send().await.map_err(|error| self.failed(&error, &doing()))?;
        let nameless = || self.unavailable(doing(), "it gave the upload no id".to_owned());
        begun.upload_id.ok_or_else(nameless)
    }

    async fn send_parts(
        &self,
        key: &str,
        id: &str,
        body: &Bytes,
    ) -> Result<Vec<CompletedPart>, StoreError> {
        let starts = (0..body.len()).step_by(PART);
        stream::iter((1..).zip(starts))
            .map(|(number, start)| {
                let part = body.slice(start..(start + PART).min(body.len()));
                // To send one again is harmless: it takes the place of the first.
                again(move || self.send_part(key, id, number, part.clone()))
            })
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn send_part(
        &self,
        key: &str,
        id: &str,
        number: i32,
        part: Bytes,
    ) -> Result<CompletedPart, StoreError> {
        let send = self.client.upload_part().bucket(&self.bucket).key(key).upload_id(id);
        let sent = send.part_number(number).body(ByteStream::from(part)).send().await;
        let sent = sent
            .map_err(|error| self.failed(&error, &format!("sending part {number} of `{key}`")))?;
        // The checksum is only needed where the upload declared one, and then must be named again.
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32(sent.checksum_crc32)
            .build())
    }

    async fn complete(
        &self,
        key: &str,
        id: &str,
        parts: Vec<CompletedPart>,
    ) -> Result<Put, StoreError> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(key);
        let complete =
            complete.upload_id(id).multipart_upload(parts).set_if_none_match(self.condition());
        match complete.send().await {
            Ok(_) => Ok(Put::Created),
            Err(error) if matches!(status(&error), Some(412 | 304)) => Ok(Put::Taken),
            // Somebody has ended the upload, or an earlier answer was lost.
            Err(error) if error.code() == Some("NoSuchUpload") => {
                let doing = format!("completing the upload of `{key}`");
                Ok(Put::Unclear(self.unavailable(doing, "the upload is not there".to_owned())))
            }
            Err(error) => {
                let is_conflict = status(&error) == Some(409);
                match self.failed(&error, &format!("completing the upload of `{key}`")) {
                    conflict @ StoreError::Unavailable { .. } if is_conflict => {
                        Ok(Put::Conflict(conflict))
                    }
                    error => unclear_unless_refused(error),
                }
            }
        }
    }

    /// Ends uploads under a prefix that began more than a day ago; answers how many. A store that cannot list uploads
    /// has none that this could find.
    ///
    /// # Errors
    /// The store fails.
    pub async fn abort_stale_uploads(
        &self,
        prefix: &str,
        now: SystemTime,
    ) -> Result<u64, StoreError> {
        let before = now.checked_sub(STALE).unwrap_or(SystemTime::UNIX_EPOCH);
        let (mut after_key, mut after_id, mut aborted) = (None, None, 0);
        loop {
            let list = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(prefix);
            let list = list.set_key_marker(after_key).set_upload_id_marker(after_id);
            let page = match list.send().await {
                Ok(page) => page,
                Err(error) if status(&error) == Some(501) => return Ok(aborted),
                Err(error) => return Err(self.failed(&error, "listing uploads")),
            };
            for upload in page.uploads() {
                let began = upload.initiated().and_then(|at| SystemTime::try_from(*at).ok());
                if began.is_some_and(|began| began < before)
                    && let (Some(key), Some(id)) = (upload.key(), upload.upload_id())
                {
                    self.abort(key, id).await?;
                    aborted += 1;
                }
            }
            if page.is_truncated() != Some(true) {
                return Ok(aborted);
            }
            (after_key, after_id) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    /// Ends an upload, if it is there.
    async fn abort(&self, key: &str, id: &str) -> Result<(), StoreError> {
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket);
        match abort.key(key).upload_id(id).send().await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            Err(error) => Err(self.failed(&error, &format!("ending an upload of `{key}`"))),
        }
    }
}

/// A refusal stands, or passes: nothing has happened. After anything else nobody can tell, and the chain looks.
fn unclear_unless_refused(error: StoreError) -> Result<Put, StoreError> {
    match error {
        unclear @ StoreError::Unavailable { .. } => Ok(Put::Unclear(unclear)),
        refused => Err(refused),
    }
}
