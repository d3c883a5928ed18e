//! Where the servers are.

use anyhow::Context;

/// Addresses of the real servers, as `make test` exports them.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Postgres, as a URL without database.
    pub postgres: String,
    /// Kafka brokers.
    pub kafka: String,
    /// The embedded S3 endpoint.
    pub s3: String,
    /// OpenSearch.
    pub opensearch: String,
}

impl Servers {
    /// Reads `TAILWATER_TEST_…`; an absent one fails the test, because a skipped proof proves nothing.
    pub fn from_env() -> anyhow::Result<Self> {
        let read = |name: &str| {
            std::env::var(name)
                .with_context(|| format!("`{name}` is not set; run the tests with `make test`"))
        };
        Ok(Self {
            postgres: read("TAILWATER_TEST_POSTGRES")?,
            kafka: read("TAILWATER_TEST_KAFKA")?,
            s3: read("TAILWATER_TEST_S3")?,
            opensearch: read("TAILWATER_TEST_OPENSEARCH")?,
        })
    }
}
