use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::stream;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket as BucketLine, ChecksumType,
    CommonPrefix, CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart,
    CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteBucketInput, DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput,
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, ETagCondition, EncodingType,
    Error as DeleteError, GetBucketLocationInput, GetBucketLocationOutput, GetObjectInput,
    GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput,
    ListBucketsInput, ListBucketsOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, ListPartsInput,
    ListPartsOutput, MultipartUpload, Object, Owner, Part, PutObjectInput, PutObjectOutput,
    StreamingBlob, Timestamp, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use crate::body::{Declared, blocking, blocking_s3, internal, receive};
use crate::bucket::Bucket;
use crate::condition::Condition;
use crate::listing::{self, From, Line, Page};
use crate::object::{self, Headers, Meta};
use crate::store::Store;
use crate::sums::{Sums, set_sums, sums_of};
use crate::upload::{self, Expected, NamedPart, Upload};

/// Bytes of an object read by one call.
const READ_BYTES: u64 = 1 << 20;
/// User metadata an object may carry, names and values together, as on the original.
const USER_METADATA_BYTES_MAX: usize = 2 << 10;

pub(crate) struct Backend {
    store: Arc<Store>,
}

impl Backend {
    pub(crate) fn new(store: Store) -> Self {
        Self { store: Arc::new(store) }
    }

    fn bucket(&self, name: &str) -> S3Result<Arc<Bucket>> {
        self.store.bucket(name)
    }

    /// Opens an object after its read conditions were found true.
    async fn open(
        &self,
        bucket: &str,
        key: String,
        conditions: ReadConditions,
    ) -> S3Result<(File, Meta)> {
        let bucket = self.bucket(bucket)?;
        let (file, meta) = blocking_s3(move || bucket.open(&key)).await?;
        conditions.check(&meta)?;
        Ok((file, meta))
    }

    fn page(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        from: &From,
        limit: Option<i32>,
    ) -> S3Result<Page> {
        let limit = limit.map_or(listing::PAGE_MAX, |limit| limit.max(0) as usize);
        let bucket = self.bucket(bucket)?;
        let entries = bucket.entries();
        Ok(listing::page(&entries, prefix, delimiter, from, limit.min(listing::PAGE_MAX)))
    }
}

/// `If-Match` and its kin on a read.
struct ReadConditions {
    matches: Option<ETagCondition>,
    none_match: Option<ETagCondition>,
    modified_since: Option<Timestamp>,
    unmodified_since: Option<Timestamp>,
}

macro_rules! read_conditions {
    ($input:expr) => {
        ReadConditions {
            matches: $input.if_match,
            none_match: $input.if_none_match,
            modified_since: $input.if_modified_since,
            unmodified_since: $input.if_unmodified_since,
        }
    };
}

impl ReadConditions {
    fn check(self, meta: &Meta) -> S3Result<()> {
        let hit = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == meta.etag,
        };
        // HTTP dates have whole seconds.
        let seconds = Duration::from_secs(meta.modified_ms / 1000);
        let modified = Timestamp::from(SystemTime::UNIX_EPOCH + seconds);
        match self.matches {
            Some(condition) if !hit(&condition) => return Err(Condition::failed()),
            None if self.unmodified_since.is_some_and(|time| modified > time) => {
                return Err(Condition::failed());
            }
            _ => {}
        }
        match self.none_match {
            Some(condition) if hit(&condition) => Err(s3_error!(NotModified)),
            None if self.modified_since.is_some_and(|time| modified <= time) => {
                Err(s3_error!(NotModified))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses what would otherwise be silently ignored.
macro_rules! refuse {
    ($input:expr, $($field:ident),+) => {
        $(if $input.$field.is_some() {
            return Err(s3_error!(
                NotImplemented,
                concat!("this endpoint does not support `", stringify!($field), "`")
            ));
        })+
    };
}

macro_rules! headers_of {
    ($input:expr) => {
        Headers {
            content_type: $input.content_type,
            // `aws-chunked` belongs to the transfer, which is over.
            content_encoding: $input.content_encoding.and_then(|value| stored_encoding(&value)),
            content_language: $input.content_language,
            content_disposition: $input.content_disposition,
            cache_control: $input.cache_control,
            user: user_metadata($input.metadata)?,
        }
    };
}

/// Fills what GET and HEAD answer alike.
macro_rules! describe {
    ($output:expr, $meta:expr, $wants_sums:expr) => {{
        $output.accept_ranges = Some("bytes".to_owned());
        $output.content_type = $meta.headers.content_type.clone();
        $output.content_encoding = $meta.headers.content_encoding.clone();
        $output.content_language = $meta.headers.content_language.clone();
        $output.content_disposition = $meta.headers.content_disposition.clone();
        $output.cache_control = $meta.headers.cache_control.clone();
        $output.e_tag = Some(ETag::Strong($meta.etag.clone()));
        $output.last_modified = Some(Timestamp::from($meta.modified()));
        let user = $meta.headers.user.iter();
        $output.metadata = Some(user.map(|(name, value)| (name.clone(), value.clone())).collect());
        if $wants_sums {
            set_sums!($output, $meta.sums);
            $output.checksum_type = sums_type(&$meta.sums);
        }
    }};
}

fn sums_type(sums: &Sums) -> Option<ChecksumType> {
    let name =
        if sums.is_composite() { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
    (!sums.is_empty()).then(|| ChecksumType::from_static(name))
}

fn stored_encoding(value: &str) -> Option<String> {
    let kept: Vec<&str> =
        value.split(',').map(str::trim).filter(|name| *name != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

fn user_metadata(
    metadata: Option<HashMap<String, String>>,
) -> S3Result<std::collections::BTreeMap<String, String>> {
    let metadata = metadata.unwrap_or_default();
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > USER_METADATA_BYTES_MAX {
        return Err(s3_error!(MetadataTooLarge));
    }
    Ok(metadata.into_iter().collect())
}

/// Streams a range of an open object.
fn stream_of(file: File, range: Range<u64>) -> StreamingBlob {
    let state = (Arc::new(file), range);
    StreamingBlob::wrap(stream::try_unfold(state, |(file, range)| async move {
        if range.is_empty() {
            return Ok::<_, io::Error>(None);
        }
        let reader = Arc::clone(&file);
        let length = (range.end - range.start).min(READ_BYTES);
        let at = range.start;
        let chunk = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; length as usize];
            reader.read_exact_at(&mut chunk, at).map(|()| Bytes::from(chunk))
        })
        .await
        .map_err(io::Error::other)??;
        Ok(Some((chunk, (file, at + length..range.end))))
    }))
}

/// Names in a listing, percent-encoded when the client asked for it: XML cannot carry every key.
struct Names {
    url: bool,
}

impl Names {
    fn of(encoding: Option<&EncodingType>) -> Self {
        Self { url: encoding.is_some_and(|encoding| encoding.as_str() == EncodingType::URL) }
    }

    fn name(&self, name: &str) -> String {
        if !self.url {
            return name.to_owned();
        }
        let mut encoded = String::with_capacity(name.len());
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                encoded.push('%');
                encoded.push_str(&crate::sums::hex(&[byte]).to_uppercase());
            }
        }
        encoded
    }

    fn lines(&self, lines: Vec<Line>) -> (Vec<Object>, Vec<CommonPrefix>) {
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for line in lines {
            match line {
                Line::Object(key, entry) => objects.push(Object {
                    key: Some(self.name(&key)),
                    size: Some(entry.size.cast_signed()),
                    e_tag: Some(ETag::Strong(entry.etag)),
                    last_modified: Some(Timestamp::from(entry.modified)),
                    ..Object::default()
                }),
                Line::Prefix(prefix) => {
                    prefixes.push(CommonPrefix { prefix: Some(self.name(&prefix)) });
                }
            }
        }
        (objects, prefixes)
    }
}

fn owner() -> Owner {
    Owner { display_name: Some("tailwater".to_owned()), id: Some("tailwater".to_owned()) }
}

#[expect(clippy::unnecessary_wraps, reason = "every operation ends with it")]
fn answer<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        refuse!(req.input, object_lock_enabled_for_bucket);
        let (store, name) = (Arc::clone(&self.store), req.input.bucket);
        let location = format!("/{name}");
        blocking_s3(move || store.create_bucket(&name)).await?;
        answer(CreateBucketOutput { location: Some(location) })
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(&req.input.bucket)?;
        answer(HeadBucketOutput::default())
    }

    async fn delete_bucket(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let (store, name) = (Arc::clone(&self.store), req.input.bucket);
        blocking_s3(move || store.remove_bucket(&name)).await?;
        answer(DeleteBucketOutput {})
    }

    async fn list_buckets(
        &self,
        _req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let line = |bucket: &Arc<Bucket>| BucketLine {
            name: Some(bucket.name.clone()),
            creation_date: Some(Timestamp::from(bucket.created())),
            ..BucketLine::default()
        };
        answer(ListBucketsOutput {
            buckets: Some(self.store.buckets().iter().map(line).collect()),
            owner: Some(owner()),
            ..ListBucketsOutput::default()
        })
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.bucket(&req.input.bucket)?;
        answer(GetBucketLocationOutput::default())
    }

    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        refuse!(
            req.input,
            tagging,
            object_lock_mode,
            object_lock_legal_hold_status,
            object_lock_retain_until_date,
            server_side_encryption,
            sse_customer_algorithm,
            write_offset_bytes,
            website_redirect_location
        );
        let declared = Declared::of(
            &req,
            req.input.content_length,
            req.input.content_md5.clone(),
            sums_of!(req.input),
        )?;
        let input = req.input;
        let condition = Condition::of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let bucket = self.bucket(&input.bucket)?;
        let headers = headers_of!(input);
        let received = receive(self.store.tmp(), input.body, declared).await?;
        let meta = blocking_s3(move || {
            let mut staged = received.staged;
            let meta = Meta {
                key: input.key,
                size: received.size,
                etag: received.md5,
                modified_ms: object::now_ms(),
                sums: received.sums,
                headers,
            };
            staged.seal(&meta, bucket.fsync()).map_err(internal)?;
            bucket.commit(staged, &meta, &condition)?;
            Ok(meta)
        })
        .await?;
        let mut output = PutObjectOutput {
            e_tag: Some(ETag::Strong(meta.etag)),
            checksum_type: sums_type(&meta.sums),
            ..PutObjectOutput::default()
        };
        set_sums!(output, meta.sums);
        answer(output)
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        refuse!(req.input, part_number, version_id, sse_customer_algorithm);
        let input = req.input;
        let conditions = read_conditions!(input);
        let (file, meta) = self.open(&input.bucket, input.key, conditions).await?;
        let whole = 0..meta.size;
        let range = match input.range {
            Some(range) => range.check(meta.size)?,
            None => whole.clone(),
        };
        let mut output = GetObjectOutput {
            content_length: Some((range.end - range.start).cast_signed()),
            content_range: input.range.map(|_| {
                format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), meta.size)
            }),
            ..GetObjectOutput::default()
        };
        // A checksum of the whole would be taken for one of the range.
        describe!(output, meta, input.checksum_mode.is_some() && range == whole);
        output.body = Some(stream_of(file, range));
        answer(output)
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        refuse!(req.input, part_number, version_id, sse_customer_algorithm);
        let input = req.input;
        let conditions = read_conditions!(input);
        let (_, meta) = self.open(&input.bucket, input.key, conditions).await?;
        let mut output = HeadObjectOutput {
            content_length: Some(meta.size.cast_signed()),
            ..HeadObjectOutput::default()
        };
        describe!(output, meta, input.checksum_mode.is_some());
        answer(output)
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        refuse!(req.input, version_id, if_match_last_modified_time, if_match_size);
        let input = req.input;
        let condition = Condition::of_write(input.if_match.as_ref(), None)?;
        let bucket = self.bucket(&input.bucket)?;
        blocking_s3(move || bucket.remove(&input.key, &condition)).await?;
        answer(DeleteObjectOutput::default())
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        let bucket = self.bucket(&input.bucket)?;
        let quiet = input.delete.quiet.unwrap_or(false);
        let (deleted, errors) = blocking(move || {
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for object in input.delete.objects {
                let key = Some(object.key.clone());
                let result = if object.version_id.is_some() {
                    Err(s3_error!(NotImplemented, "this endpoint keeps no versions"))
                } else {
                    let condition = object
                        .e_tag
                        .map_or(Condition::Always, |etag| Condition::Matches(etag.into_value()));
                    bucket.remove(&object.key, &condition)
                };
                match result {
                    Ok(()) => deleted.push(DeletedObject { key, ..DeletedObject::default() }),
                    Err(error) => errors.push(DeleteError {
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(str::to_owned),
                        key,
                        ..DeleteError::default()
                    }),
                }
            }
            Ok((deleted, errors))
        })
        .await?;
        answer(DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            errors: (!errors.is_empty()).then_some(errors),
            ..DeleteObjectsOutput::default()
        })
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let from = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => URL_SAFE_NO_PAD
                .decode(token)
                .ok()
                .and_then(|token| From::of_token(std::str::from_utf8(&token).ok()?))
                .ok_or_else(|| s3_error!(InvalidArgument, "not a continuation token of ours"))?,
            (None, Some(key)) => From::After(key.clone()),
            (None, None) => From::Start,
        };
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let page =
            self.page(&input.bucket, prefix, input.delimiter.as_deref(), &from, input.max_keys)?;
        let names = Names::of(input.encoding_type.as_ref());
        let (objects, prefixes) = names.lines(page.lines);
        answer(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| names.name(&prefix)),
            delimiter: input.delimiter.map(|delimiter| names.name(&delimiter)),
            start_after: input.start_after.map(|key| names.name(&key)),
            max_keys: Some(input.max_keys.unwrap_or(listing::PAGE_MAX as i32)),
            key_count: Some((objects.len() + prefixes.len()) as i32),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(|next| URL_SAFE_NO_PAD.encode(next.token())),
            continuation_token: input.continuation_token,
            contents: Some(objects),
            common_prefixes: Some(prefixes),
            encoding_type: input.encoding_type,
            ..ListObjectsV2Output::default()
        })
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = req.input;
        // Here the marker is the last line of the page before, a key or a common prefix.
        let from = match (&input.marker, &input.delimiter) {
            (Some(marker), Some(delimiter)) if marker.ends_with(delimiter.as_str()) => {
                From::Beyond(marker.clone())
            }
            (Some(marker), _) => From::After(marker.clone()),
            (None, _) => From::Start,
        };
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let page =
            self.page(&input.bucket, prefix, input.delimiter.as_deref(), &from, input.max_keys)?;
        let names = Names::of(input.encoding_type.as_ref());
        let (objects, prefixes) = names.lines(page.lines);
        answer(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| names.name(&prefix)),
            marker: input.marker.map(|marker| names.name(&marker)),
            delimiter: input.delimiter.map(|delimiter| names.name(&delimiter)),
            max_keys: Some(input.max_keys.unwrap_or(listing::PAGE_MAX as i32)),
            is_truncated: Some(page.next.is_some()),
            next_marker: page.next.and_then(|next| match next {
                From::After(last) | From::Beyond(last) => Some(names.name(&last)),
                From::Start => None,
            }),
            contents: Some(objects),
            common_prefixes: Some(prefixes),
            encoding_type: input.encoding_type,
            ..ListObjectsOutput::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        refuse!(
            req.input,
            tagging,
            object_lock_mode,
            object_lock_legal_hold_status,
            object_lock_retain_until_date,
            server_side_encryption,
            sse_customer_algorithm,
            website_redirect_location
        );
        let input = req.input;
        let algorithm = input.checksum_algorithm.as_ref().map(|name| name.as_str().to_owned());
        let kind = input.checksum_type.as_ref().map(ChecksumType::as_str);
        let upload = Upload {
            key: input.key.clone(),
            initiated_ms: object::now_ms(),
            headers: headers_of!(input),
            // The one algorithm that only exists over the whole.
            full_object: kind == Some(ChecksumType::FULL_OBJECT)
                || (kind.is_none() && algorithm.as_deref() == Some("CRC64NVME")),
            algorithm,
        };
        let bucket = self.bucket(&input.bucket)?;
        let draft = self.store.scratch_folder();
        let id = blocking_s3(move || upload.begin(&bucket, &draft)).await?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: input.checksum_type,
            ..CreateMultipartUploadOutput::default()
        })
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        refuse!(req.input, sse_customer_algorithm);
        let declared = Declared::of(
            &req,
            req.input.content_length,
            req.input.content_md5.clone(),
            sums_of!(req.input),
        )?;
        let input = req.input;
        upload::check_part_number(input.part_number)?;
        let bucket = self.bucket(&input.bucket)?;
        let (_, folder) = Upload::find(&bucket, &input.upload_id, &input.key)?;
        let received = receive(self.store.tmp(), input.body, declared).await?;
        let meta = blocking_s3(move || {
            Upload::put_part(&bucket, &folder, input.part_number, &input.key, received)
        })
        .await?;
        let mut output = UploadPartOutput {
            e_tag: Some(ETag::Strong(meta.etag)),
            ..UploadPartOutput::default()
        };
        set_sums!(output, meta.sums);
        answer(output)
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let condition = Condition::of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let expected = Expected {
            size: input.mpu_object_size.and_then(|size| u64::try_from(size).ok()),
            sums: sums_of!(input),
        };
        let named = |part: CompletedPart| NamedPart {
            number: part.part_number.unwrap_or(0),
            sums: sums_of!(part),
            etag: part.e_tag.map(ETag::into_value),
        };
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let parts: Vec<NamedPart> = parts.into_iter().map(named).collect();
        let bucket = self.bucket(&input.bucket)?;
        let (tmp, trash) = (self.store.tmp(), self.store.scratch_folder());
        let (id, key) = (input.upload_id, input.key.clone());
        let meta = blocking_s3(move || {
            let _completing = bucket.lock_upload(&id);
            let (upload, folder) = Upload::find(&bucket, &id, &key)?;
            let meta = upload.complete(&bucket, &folder, &tmp, &parts, &expected, &condition)?;
            // The object is there; a leftover upload is only clutter.
            if let Err(error) = Upload::end(&folder, &trash) {
                tracing::warn!(%error, "could not remove a completed upload");
            }
            Ok(meta)
        })
        .await?;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(meta.etag)),
            checksum_type: sums_type(&meta.sums),
            ..CompleteMultipartUploadOutput::default()
        };
        set_sums!(output, meta.sums);
        answer(output)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        refuse!(req.input, if_match_initiated_time);
        let input = req.input;
        let bucket = self.bucket(&input.bucket)?;
        let trash = self.store.scratch_folder();
        blocking_s3(move || {
            let _ending = bucket.lock_upload(&input.upload_id);
            let (_, folder) = Upload::find(&bucket, &input.upload_id, &input.key)?;
            Upload::end(&folder, &trash)
        })
        .await?;
        answer(AbortMultipartUploadOutput::default())
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        refuse!(req.input, delimiter);
        let input = req.input;
        let bucket = self.bucket(&input.bucket)?;
        let mut uploads = blocking_s3(move || Upload::list(&bucket)).await?;
        uploads.retain(|(id, upload)| {
            let later = match (&input.key_marker, &input.upload_id_marker) {
                (None, _) => true,
                (Some(key), None) => upload.key > *key,
                (Some(key), Some(marker)) => (&upload.key, id) > (key, marker),
            };
            later && upload.key.starts_with(input.prefix.as_deref().unwrap_or_default())
        });
        let limit = input.max_uploads.map_or(listing::PAGE_MAX, |limit| limit.max(0) as usize);
        let limit = limit.min(listing::PAGE_MAX);
        let truncated = uploads.len() > limit;
        uploads.truncate(limit);
        let names = Names::of(input.encoding_type.as_ref());
        let next = uploads.last().filter(|_| truncated);
        let line = |(id, upload): &(String, Upload)| MultipartUpload {
            key: Some(names.name(&upload.key)),
            upload_id: Some(id.clone()),
            initiated: Some(Timestamp::from(upload.initiated())),
            owner: Some(owner()),
            ..MultipartUpload::default()
        };
        answer(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix.as_deref().map(|prefix| names.name(prefix)),
            key_marker: input.key_marker.as_deref().map(|key| names.name(key)),
            upload_id_marker: input.upload_id_marker.clone(),
            max_uploads: Some(limit as i32),
            is_truncated: Some(truncated),
            next_key_marker: next.map(|(_, upload)| names.name(&upload.key)),
            next_upload_id_marker: next.map(|(id, _)| id.clone()),
            uploads: Some(uploads.iter().map(line).collect()),
            encoding_type: input.encoding_type.clone(),
            ..ListMultipartUploadsOutput::default()
        })
    }

    async fn list_parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let bucket = self.bucket(&input.bucket)?;
        let (id, key) = (input.upload_id.clone(), input.key.clone());
        let mut parts = blocking_s3(move || {
            let (_, folder) = Upload::find(&bucket, &id, &key)?;
            Upload::parts(&folder)
        })
        .await?;
        let marker = input.part_number_marker.unwrap_or(0);
        parts.retain(|(number, _)| *number > marker);
        let limit = input.max_parts.map_or(listing::PAGE_MAX, |limit| limit.max(0) as usize);
        let limit = limit.min(listing::PAGE_MAX);
        let truncated = parts.len() > limit;
        parts.truncate(limit);
        let line = |(number, meta): &(i32, Meta)| {
            let mut part = Part {
                part_number: Some(*number),
                size: Some(meta.size.cast_signed()),
                e_tag: Some(ETag::Strong(meta.etag.clone())),
                last_modified: Some(Timestamp::from(meta.modified())),
                ..Part::default()
            };
            set_sums!(part, meta.sums);
            part
        };
        answer(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            part_number_marker: input.part_number_marker,
            max_parts: Some(limit as i32),
            is_truncated: Some(truncated),
            next_part_number_marker: parts.last().filter(|_| truncated).map(|(number, _)| *number),
            parts: Some(parts.iter().map(line).collect()),
            ..ListPartsOutput::default()
        })
    }
}
