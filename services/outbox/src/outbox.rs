//! The outbox table of one schema.

use tokio_postgres::{GenericClient, Transaction};

use crate::Event;

const SQL: &str = include_str!("../sql/outbox.sql");

/// A text that is no plain schema name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a plain schema name: 1 to 40 of a-z, 0-9 and `_`, beginning with a letter")]
pub struct BadSchema(String);

/// A statement failed. The caller's transaction is aborted, as after any failed statement.
#[derive(Debug, thiserror::Error)]
#[error("`{schema}.outbox` could not be written to")]
pub struct AppendError {
    schema: String,
    #[source]
    source: tokio_postgres::Error,
}

/// The outbox of one schema.
#[derive(Clone, Debug)]
pub struct Outbox {
    schema: String,
    insert: String,
    emit: String,
}

impl Outbox {
    /// The outbox of a schema.
    ///
    /// # Errors
    /// Names that would need quotes.
    pub fn of(schema: &str) -> Result<Self, BadSchema> {
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let good = (1..=40).contains(&schema.len())
            && schema.starts_with(|c: char| c.is_ascii_lowercase())
            && schema.bytes().all(letters);
        if !good {
            return Err(BadSchema(schema.to_owned()));
        }
        let insert = format!(
            "INSERT INTO {schema}.outbox (id, aggregate_type, aggregate_id, event_type, event_version, \
             partition_key, payload, headers, correlation_id, causation_id, traceparent) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
        );
        let emit =
            format!("SELECT {schema}.outbox_emit($2, $3, $4, $7, $6, $8, $9, $10, $11, $5, $1)");
        Ok(Self { schema: schema.to_owned(), insert, emit })
    }

    /// Writes an event in the caller's transaction: it is published when that commits, and only then.
    pub async fn append(
        &self,
        transaction: &Transaction<'_>,
        event: &Event,
    ) -> Result<(), AppendError> {
        self.write(transaction, &self.insert, event).await
    }

    /// Publishes an event in the caller's transaction without a row: it goes into the write-ahead log alone, so the table
    /// does not grow. Consumers see no difference. It cannot be sent anew after a `tailwater cdc resync`, and nobody can
    /// look it up in the table.
    pub async fn emit(
        &self,
        transaction: &Transaction<'_>,
        event: &Event,
    ) -> Result<(), AppendError> {
        self.write(transaction, &self.emit, event).await
    }

    async fn write(
        &self,
        transaction: &Transaction<'_>,
        sql: &str,
        event: &Event,
    ) -> Result<(), AppendError> {
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 11] = [
            &event.id,
            &event.aggregate_type,
            &event.aggregate_id,
            &event.event_type,
            &event.event_version,
            &event.partition_key,
            &event.payload,
            &event.headers,
            &event.correlation_id,
            &event.causation_id,
            &event.traceparent,
        ];
        let written = transaction.execute(sql, &values).await;
        written.map(|_| ()).map_err(|source| self.failed(source))
    }

    /// Makes the partitions of the next week and takes away days that ended more than `days` days ago, once every reader
    /// has confirmed them. To be called daily; answers how many days went. A day goes in two calls: see `outbox_retire`
    /// in `sql/outbox.sql`.
    pub async fn keep(&self, client: &impl GenericClient, days: u16) -> Result<u32, AppendError> {
        let partitions = format!("SELECT {}.outbox_partitions(7)", self.schema);
        client.execute(&partitions, &[]).await.map_err(|source| self.failed(source))?;
        let retire = format!("SELECT {}.outbox_retire($1)", self.schema);
        let gone = client.query_one(&retire, &[&i32::from(days)]).await;
        Ok(gone.map_err(|source| self.failed(source))?.get::<_, i32>(0).unsigned_abs())
    }

    /// Creates the table and its functions where they are missing, and partitions for the next week. May be called
    /// again at any time, for example on every start. The schema must exist.
    pub async fn install(&self, client: &impl GenericClient) -> Result<(), AppendError> {
        let sql = SQL.replace("$schema", &self.schema);
        client.batch_execute(&sql).await.map_err(|source| self.failed(source))?;
        let partitions = format!("SELECT {}.outbox_partitions(7)", self.schema);
        client.execute(&partitions, &[]).await.map_err(|source| self.failed(source))?;
        Ok(())
    }

    fn failed(&self, source: tokio_postgres::Error) -> AppendError {
        AppendError { schema: self.schema.clone(), source }
    }
}
