//! A scripted source: transactions as pgoutput and the copy stream would carry them.

use std::collections::BTreeMap;

use serde_json::Value;
use tailwater_cdc::publish::memory::Stored;
use tailwater_topics_contract::{
    From, Generation, Lsn, Registrations, Standing, TableName, TopicName, TopicRegistration,
    TopicSpec,
};

use crate::wire;

/// The table's oid.
const OID: u32 = 7;

/// One transaction that inserts rows.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) commit_lsn: u64,
    pub(crate) end_lsn: u64,
    pub(crate) ids: Vec<u64>,
}

/// What a server has to send.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) transactions: Vec<Transaction>,
    next_id: u64,
}

impl Script {
    /// Appends a transaction of so many rows.
    pub(crate) fn transaction(&mut self, rows: u64) {
        let begins = self.transactions.last().map_or(1_000, |last| last.end_lsn);
        let commit_lsn = begins + 100 * rows + 10;
        let ids = (self.next_id..self.next_id + rows).collect();
        self.next_id += rows;
        self.transactions.push(Transaction { commit_lsn, end_lsn: commit_lsn + 48, ids });
    }

    /// Where the last transaction ends.
    pub(crate) fn end(&self) -> u64 {
        self.transactions.last().map_or(1_000, |last| last.end_lsn)
    }

    /// The messages that a server sends to one who begins at `position`: each transaction whose commit record
    /// does not lie before it.
    pub(crate) fn messages_from(&self, position: Lsn) -> Vec<Vec<u8>> {
        let columns = [("id", 20, true)];
        let mut out = vec![data(0, &wire::relation(OID, "public", "item", b'd', &columns))];
        for transaction in &self.transactions {
            if transaction.commit_lsn < position.0 {
                continue;
            }
            let at = transaction.end_lsn;
            out.push(data(at, &wire::begin(transaction.commit_lsn, 5)));
            let insert = |id: &u64| wire::insert(OID, &[wire::text(&id.to_string())]);
            out.extend(transaction.ids.iter().map(|id| data(at, &insert(id))));
            out.push(data(at, &wire::commit(transaction.commit_lsn, transaction.end_lsn)));
        }
        out
    }

    /// `(commit LSN, ordinal, id)` of every row, in order.
    pub(crate) fn rows(&self) -> Vec<(u64, u64, u64)> {
        let rows = |transaction: &Transaction| {
            let at = transaction.commit_lsn;
            let ids = transaction.ids.iter().enumerate();
            ids.map(|(ordinal, id)| (at, ordinal as u64, *id)).collect::<Vec<_>>()
        };
        self.transactions.iter().flat_map(rows).collect()
    }
}

/// Checks that the log holds each row once, in order, under dense numbers.
pub(crate) fn assert_exactly_once(script: &Script, log: &[Stored], what: &str) {
    let number = |value: &Value, field: &str| value["source"][field].as_u64().expect("a number");
    let values: Vec<Value> = log
        .iter()
        .map(|record| {
            let value = record.value.as_deref().expect("a change");
            serde_json::from_slice(value).expect("JSON")
        })
        .collect();
    let rows: Vec<_> = values
        .iter()
        .map(|value| {
            let id = value["after"]["id"].as_u64().expect("an id");
            (number(value, "commit_lsn"), number(value, "ordinal"), id)
        })
        .collect();
    assert_eq!(rows, script.rows(), "{what}");
    let first = (1_u64 << 44) + 1;
    let seqs: Vec<u64> = values.iter().map(|value| number(value, "seq")).collect();
    assert_eq!(seqs, (first..first + seqs.len() as u64).collect::<Vec<_>>(), "{what}");
}

/// `public.item (id bigint primary key)` into topic `items.cdc`.
pub(crate) fn registrations() -> Registrations {
    let name: TopicName = "items.cdc".parse().expect("a name");
    let table: TableName = "public.item".parse().expect("a name");
    let spec = TopicSpec {
        name: name.clone(),
        from: From::Table(table),
        key: None,
        partitions: 1,
        replication: None,
        config: BTreeMap::new(),
        expose: Vec::new(),
        values: tailwater_topics_contract::Values::default(),
        mask: std::collections::BTreeMap::new(),
        declared_at: None,
    };
    let topic = TopicRegistration {
        spec,
        key_columns: vec!["id".to_owned()],
        generation: Generation::default(),
        standing: Standing::Active,
        reread: None,
    };
    Registrations { topics: BTreeMap::from([(name, topic)]), ..Registrations::default() }
}

/// A `d` message with a `w` inside.
pub(crate) fn data(wal_end: u64, body: &[u8]) -> Vec<u8> {
    let mut inner = vec![b'w'];
    inner.extend_from_slice(&wal_end.to_be_bytes());
    inner.extend_from_slice(&wal_end.to_be_bytes());
    inner.extend_from_slice(&0_u64.to_be_bytes());
    inner.extend_from_slice(body);
    message(b'd', &inner)
}

/// A `d` message with a keepalive inside.
pub(crate) fn keepalive(wal_end: u64, reply: bool) -> Vec<u8> {
    let mut inner = vec![b'k'];
    inner.extend_from_slice(&wal_end.to_be_bytes());
    inner.extend_from_slice(&0_u64.to_be_bytes());
    inner.push(u8::from(reply));
    message(b'd', &inner)
}

/// Tag, length, body.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}
