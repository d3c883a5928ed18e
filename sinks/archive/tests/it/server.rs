//! The S3 servers that `make test` has started, and buckets of our own in them.

use tailwater_config::s3::Encryption;
use tailwater_config::{Keys, S3Config};
use tailwater_sinks_archive::Store;

/// Every server that is there, with its name. The embedded one always is; MinIO where it could be built.
pub(crate) fn all() -> Vec<(&'static str, String)> {
    let embedded = std::env::var("TAILWATER_TEST_S3")
        .expect("`TAILWATER_TEST_S3` is not set; run the tests with `make test`");
    let minio = std::env::var("TAILWATER_TEST_MINIO").ok();
    [("embedded", Some(embedded)), ("minio", minio)]
        .into_iter()
        .filter_map(|(name, endpoint)| endpoint.map(|endpoint| (name, endpoint)))
        .collect()
}

/// A new bucket, reached at `endpoint`.
pub(crate) async fn bucket(endpoint: &str) -> Store {
    let store = connect(endpoint, &format!("it-{}", uuid::Uuid::new_v4()));
    store.ensure_bucket().await.expect("creates a bucket");
    store
}

/// A bucket by its name, which need not exist.
pub(crate) fn connect(endpoint: &str, bucket: &str) -> Store {
    encrypting(endpoint, bucket, None)
}

/// The same, where everything that is written is to be encrypted.
pub(crate) fn encrypting(endpoint: &str, bucket: &str, encryption: Option<Encryption>) -> Store {
    Store::connect(S3Config { encryption, ..config(endpoint, keys()) }, bucket)
}

/// A bucket by its name, for whoever has these keys.
pub(crate) fn known_by(endpoint: &str, bucket: &str, keys: Keys) -> Store {
    Store::connect(config(endpoint, keys), bucket)
}

fn keys() -> Keys {
    Keys::given("tailwater", "tailwater-secret")
}

fn config(endpoint: &str, keys: Keys) -> S3Config {
    S3Config {
        endpoint: endpoint.to_owned(),
        region: "us-east-1".to_owned(),
        keys,
        path_style: true,
        encryption: None,
    }
}
