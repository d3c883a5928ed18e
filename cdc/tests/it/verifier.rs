//! Judges what a read-committed consumer got against what the tables hold in the end. It decodes records by itself and
//! shares nothing with the reader.
//!
//! | check | statement |
//! | --- | --- |
//! | numbers | over all topics `seq` is 1, 2, 3 …, and within a partition it grows |
//! | places | by `seq`, (commit LSN, ordinal) never goes back and is used once |
//! | versions | the `ver` of an account goes up by one, all in one partition |
//! | balances | after every transaction the accounts hold together what they held at first |
//! | rows | folded by key, topics equal tables; transfers and events are those of the tables, each once |

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A record as Kafka gave it; records of a partition in their order.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) topic: &'static str,
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    /// `tw-seq` and `ce_id`.
    pub(crate) seq: Option<u64>,
    pub(crate) event: Option<String>,
}

/// Columns by name, as texts.
pub(crate) type Row = BTreeMap<String, Option<String>>;

/// What the tables hold once everybody has stopped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    /// Rows by table and id.
    pub(crate) tables: BTreeMap<&'static str, BTreeMap<String, Row>>,
    /// Ids of the outbox.
    pub(crate) events: BTreeSet<String>,
    /// What all accounts hold together.
    pub(crate) total: i64,
}

/// What is wrong; nothing, if all is well.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) records: usize,
    pub(crate) lost: usize,
    pub(crate) duplicated: usize,
    pub(crate) reordered: usize,
    /// The first few of everything.
    pub(crate) wrong: Vec<String>,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.wrong.is_empty()
    }

    fn lost(&mut self, what: String) {
        self.lost += 1;
        self.say(format!("lost: {what}"));
    }

    fn duplicated(&mut self, what: String) {
        self.duplicated += 1;
        self.say(format!("duplicated: {what}"));
    }

    fn reordered(&mut self, what: String) {
        self.reordered += 1;
        self.say(format!("out of order: {what}"));
    }

    fn say(&mut self, what: String) {
        if self.wrong.len() < 20 {
            self.wrong.push(what);
        }
    }
}

/// A record, read.
#[derive(Clone, Debug)]
struct Told<'s> {
    topic: &'static str,
    partition: i32,
    key: &'s str,
    kind: Kind,
    seq: u64,
}

#[derive(Clone, Debug)]
enum Kind {
    Change(Change),
    Tombstone,
    Event(String),
}

#[derive(Clone, Debug)]
struct Change {
    op: char,
    after: Row,
    unchanged: Vec<String>,
    commit_lsn: u64,
    ordinal: u64,
}

const FIRST_SEQ: u64 = (1 << 44) + 1;

pub(crate) fn judge(seen: &[Seen], truth: &Truth) -> Verdict {
    let mut verdict = Verdict { records: seen.len(), ..Verdict::default() };
    let mut told: Vec<Told<'_>> = Vec::with_capacity(seen.len());
    for seen in seen {
        match read(seen) {
            Some(read) => told.push(read),
            None => verdict.say(format!("cannot be read: {seen:?}")),
        }
    }
    partitions(&mut verdict, &told);
    rows(&mut verdict, &told, truth);
    events(&mut verdict, &told, truth);
    told.sort_by_key(|told| told.seq);
    numbers(&mut verdict, &told);
    places(&mut verdict, &told);
    accounts(&mut verdict, &told, truth);
    verdict
}

fn read(seen: &Seen) -> Option<Told<'_>> {
    let (kind, seq) = match (&seen.event, &seen.value) {
        (Some(event), _) => (Kind::Event(event.clone()), seen.seq?),
        (None, None) => (Kind::Tombstone, seen.seq?),
        (None, Some(value)) => {
            let value: Value = serde_json::from_str(value).ok()?;
            let number = |name: &str| value["source"][name].as_u64();
            let unchanged = value["unchanged"].as_array().into_iter().flatten();
            let change = Change {
                op: value["op"].as_str()?.chars().next()?,
                after: row(&value["after"]),
                unchanged: unchanged.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
                commit_lsn: number("commit_lsn")?,
                ordinal: number("ordinal")?,
            };
            (Kind::Change(change), number("seq")?)
        }
    };
    Some(Told { topic: seen.topic, partition: seen.partition, key: &seen.key, kind, seq })
}

fn row(image: &Value) -> Row {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let columns = image.as_object().into_iter().flatten();
    columns.map(|(name, value)| (name.clone(), text(value))).collect()
}

/// Within a partition numbers grow; a key stays in its partition.
fn partitions(verdict: &mut Verdict, told: &[Told<'_>]) {
    let mut last: BTreeMap<(&str, i32), u64> = BTreeMap::new();
    let mut homes: BTreeMap<(&str, &str), i32> = BTreeMap::new();
    for told in told {
        let before = last.insert((told.topic, told.partition), told.seq);
        if before.is_some_and(|before| before > told.seq) {
            verdict.reordered(format!("{} {} after {before:?}", told.topic, told.seq));
        }
        let home = *homes.entry((told.topic, told.key)).or_insert(told.partition);
        if home != told.partition {
            verdict.reordered(format!("{} {} is in two partitions", told.topic, told.key));
        }
    }
}

/// Folded by key, topics equal tables; a transfer is written once and never rolled back.
fn rows(verdict: &mut Verdict, told: &[Told<'_>], truth: &Truth) {
    let mut folds: BTreeMap<&str, BTreeMap<&str, Row>> = BTreeMap::new();
    let mut written: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for told in told {
        let fold = folds.entry(told.topic).or_default();
        let Kind::Change(change) = &told.kind else {
            if matches!(told.kind, Kind::Tombstone) {
                fold.remove(told.key);
            }
            continue;
        };
        if told.topic == "transfers" {
            let written = written.entry(told.key).or_default();
            match change.op {
                'c' => written.0 += 1,
                _ => written.1 += 1,
            }
        }
        if change.op == 'd' {
            // Perhaps before a copy had come to it.
            fold.remove(told.key);
            continue;
        }
        let mut row = change.after.clone();
        for column in &change.unchanged {
            // A row that is changed before it was copied has what is large from its copy later.
            if let Some(value) = fold.get(told.key).and_then(|row| row.get(column)) {
                row.insert(column.clone(), value.clone());
            }
        }
        fold.insert(told.key, row);
    }
    for (key, (created, _)) in written {
        if created > 1 {
            verdict.duplicated(format!("transfer {key} comes {created} times"));
        }
    }
    for (table, expected) in &truth.tables {
        let empty = BTreeMap::new();
        let found = folds.get(table).unwrap_or(&empty);
        for (key, row) in expected {
            match found.get(key.as_str()) {
                None => verdict.lost(format!("{table} {key}")),
                Some(found) if found != row => {
                    verdict.say(format!("{table} {key}: {row:?} in the table, {found:?} in Kafka"));
                }
                Some(_) => {}
            }
        }
        for key in found.keys().filter(|key| !expected.contains_key(**key)) {
            verdict.say(format!("{table} {key}: in Kafka, not in the table"));
        }
    }
}

fn events(verdict: &mut Verdict, told: &[Told<'_>], truth: &Truth) {
    let mut seen = BTreeSet::new();
    for told in told {
        let Kind::Event(id) = &told.kind else { continue };
        if !seen.insert(id.clone()) {
            verdict.duplicated(format!("event {id}"));
        }
        if !truth.events.contains(id) {
            verdict.say(format!("event {id} was never committed"));
        }
    }
    for id in truth.events.difference(&seen) {
        verdict.lost(format!("event {id}"));
    }
}

/// Sorted by number: none is missing, none is used twice.
fn numbers(verdict: &mut Verdict, told: &[Told<'_>]) {
    let mut expected = FIRST_SEQ;
    for told in told {
        match told.seq {
            seq if seq < expected => verdict.duplicated(format!("number {seq}")),
            seq => {
                for missing in expected..seq.min(expected + 1_000) {
                    verdict.lost(format!("number {missing}"));
                }
                expected = seq + 1;
            }
        }
    }
}

/// By number, transactions come in the order of their commits, and each change once.
fn places(verdict: &mut Verdict, told: &[Told<'_>]) {
    let mut last: Option<(&Told<'_>, &Change)> = None;
    for told in told {
        let Kind::Change(change) = &told.kind else { continue };
        if let Some((before, last)) = last {
            let place = |change: &Change| {
                let is_streamed = change.op != 'r';
                // Rows of an interrupted copy come again with the numbers of the next one.
                (change.commit_lsn, is_streamed, if is_streamed { change.ordinal } else { 0 })
            };
            // The two halves of a key that was changed are one change.
            let is_moved = last.op == 'd' && change.op == 'c' && before.topic == told.topic;
            match place(last).cmp(&place(change)) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal if is_moved || change.op == 'r' => {}
                std::cmp::Ordering::Equal => verdict.duplicated(format!("the place of {told:?}")),
                std::cmp::Ordering::Greater => verdict.reordered(format!("{told:?}")),
            }
        }
        last = Some((told, change));
    }
}

/// By number: versions without a gap, and nothing is made or lost by a transaction.
fn accounts(verdict: &mut Verdict, told: &[Told<'_>], truth: &Truth) {
    let count = truth.tables.get("accounts").map_or(0, BTreeMap::len);
    let mut known: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    let changes = told.iter().filter_map(|told| match &told.kind {
        Kind::Change(change) if told.topic == "accounts" => Some((told, change)),
        _ => None,
    });
    let mut changes = changes.peekable();
    while let Some((told, change)) = changes.next() {
        let number = |column: &str| change.after.get(column)?.as_ref()?.parse::<i64>().ok();
        let (Some(balance), Some(ver)) = (number("balance"), number("ver")) else {
            verdict.say(format!("no account: {told:?}"));
            continue;
        };
        let before = known.insert(told.key, (balance, ver)).map(|(_, ver)| ver);
        let expected = before.map(|before| if change.op == 'r' { before } else { before + 1 });
        match expected {
            Some(expected) if ver > expected => {
                verdict.lost(format!("account {} jumps from {before:?} to {ver}", told.key));
            }
            Some(expected) if ver < expected => {
                verdict.duplicated(format!("account {} goes from {before:?} to {ver}", told.key));
            }
            _ => {}
        }
        let is_last = changes.peek().is_none_or(|(_, next)| next.commit_lsn != change.commit_lsn);
        let sum: i64 = known.values().map(|(balance, _)| balance).sum();
        if is_last && change.op != 'r' && known.len() == count && sum != truth.total {
            verdict.say(format!("after {}: {sum} in place of {}", change.commit_lsn, truth.total));
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    use super::*;

    /// Records as an exact reader would write them, and the tables behind.
    struct Story {
        random: StdRng,
        seen: Vec<Seen>,
        truth: Truth,
        seq: u64,
        lsn: u64,
    }

    impl Story {
        fn new(seed: u64, transactions: u32) -> Self {
            let random = StdRng::seed_from_u64(seed);
            let truth = Truth { total: 4_000, ..Truth::default() };
            let mut story = Self { random, seen: Vec::new(), truth, seq: 0, lsn: 1_000 };
            for id in 0..4 {
                let row = json!({"id": id, "balance": 1_000, "ver": 0, "big": "x"});
                story.change("accounts", 'r', id, &row, id);
            }
            for number in 0..transactions {
                story.transaction(i64::from(number));
            }
            story
        }

        fn transaction(&mut self, number: i64) {
            self.lsn += 100;
            let (from, to) = (self.random.random_range(0..4), self.random.random_range(1..4));
            for (ordinal, (id, amount)) in
                [(from, -7), ((from + to) % 4, 7)].into_iter().enumerate()
            {
                let row = &self.truth.tables["accounts"][&key(id)];
                let number = |name: &str| row[name].clone().unwrap().parse::<i64>().unwrap();
                let (balance, ver) = (number("balance") + amount, number("ver") + 1);
                let row = json!({"id": id, "balance": balance, "ver": ver, "big": "x"});
                self.change("accounts", 'u', id, &row, ordinal as i64);
            }
            self.change("transfers", 'c', number, &json!({"id": number, "amount": 7}), 2);
            self.seq += 1;
            let (event, seq) = (Some(format!("e{number}")), Some(FIRST_SEQ - 1 + self.seq));
            self.truth.events.extend(event.clone());
            let value = Some("{}".to_owned());
            let aggregate = number.to_string();
            self.seen.push(Seen {
                topic: "events",
                partition: 0,
                key: aggregate,
                value,
                seq,
                event,
            });
            if number % 3 == 0 {
                self.change("parcels", 'c', number, &json!({"id": number, "note": "n"}), 4);
            }
            if number % 6 == 0 {
                self.change("parcels", 'd', number, &Value::Null, 5);
                self.seq += 1;
                let seq = Some(FIRST_SEQ - 1 + self.seq);
                let (topic, partition) = ("parcels", (number % 3) as i32);
                let key = key(number);
                self.seen.push(Seen { topic, partition, key, value: None, seq, event: None });
            }
        }

        fn change(&mut self, topic: &'static str, op: char, id: i64, after: &Value, ordinal: i64) {
            self.seq += 1;
            let rows = self.truth.tables.entry(topic).or_default();
            match op {
                'd' => drop(rows.remove(&key(id))),
                _ => drop(rows.insert(key(id), row(after))),
            }
            let seq = FIRST_SEQ - 1 + self.seq;
            let source = json!({"commit_lsn": self.lsn, "ordinal": ordinal, "seq": seq});
            let value = json!({"op": op.to_string(), "after": after, "source": source});
            let (partition, value) = ((id % 3) as i32, Some(value.to_string()));
            self.seen.push(Seen { topic, partition, key: key(id), value, seq: None, event: None });
        }
    }

    fn key(id: i64) -> String {
        json!({ "id": id }).to_string()
    }

    fn number_of(seen: &Seen) -> u64 {
        read(seen).expect("ours").seq
    }

    /// As a reader that lost the record and went on counting would have numbered the others.
    fn renumber(seen: &mut [Seen], from: u64) {
        for seen in seen {
            let number = number_of(seen);
            if number < from {
                continue;
            }
            match &mut seen.value {
                Some(value) if seen.seq.is_none() => {
                    *value = value.replace(&number.to_string(), &(number - 1).to_string());
                }
                _ => seen.seq = Some(number - 1),
            }
        }
    }

    /// Damages the records in one of eight ways; answers which.
    fn damage(seen: &mut Vec<Seen>, kind: u32, random: &mut StdRng) -> &'static str {
        let any = random.random_range(0..seen.len() - 1);
        let of = |seen: &[Seen], topics: &[&str], random: &mut StdRng| loop {
            let at = random.random_range(4..seen.len());
            if topics.contains(&seen[at].topic) && (seen[at].value.is_some()) {
                return at;
            }
        };
        match kind {
            0 => {
                seen.remove(any);
                "a record lost"
            }
            1 => {
                seen.insert(any + 1, seen[any].clone());
                "a record twice"
            }
            2 => {
                let partition = |seen: &Seen| (seen.topic, seen.partition);
                let next =
                    (any + 1..seen.len()).find(|at| partition(&seen[*at]) == partition(&seen[any]));
                match next {
                    Some(next) => seen.swap(any, next),
                    None => drop(seen.remove(any)),
                }
                "two records of a partition swapped"
            }
            3 => {
                let at = of(seen, &["accounts"], random);
                let value = seen[at].value.as_mut().expect("a value");
                *value = value.replacen("\"balance\":", "\"balance\":1", 1);
                "a digit too many"
            }
            4 => {
                let at = of(seen, &["accounts"], random);
                seen[at].partition = (seen[at].partition + 1) % 3;
                "a record in another partition"
            }
            5 => {
                let at = of(seen, &["accounts", "transfers"], random);
                let Some(Told { kind: Kind::Change(lost), .. }) = read(&seen[at]) else {
                    unreachable!()
                };
                seen.retain(|seen| {
                    !matches!(read(seen), Some(Told { kind: Kind::Change(change), .. })
                        if change.commit_lsn == lost.commit_lsn)
                });
                "a transaction lost"
            }
            6 => {
                let mut never = seen[of(seen, &["transfers"], random)].clone();
                never.key = key(-1);
                let number = number_of(&never);
                let last = seen.iter().map(number_of).max().expect("some") + 1;
                let value = never.value.take().expect("a value");
                let value = value.replace("\"commit_lsn\":", "\"commit_lsn\":9");
                never.value = Some(value.replace(&number.to_string(), &last.to_string()));
                seen.push(never);
                "a row that was rolled back"
            }
            _ => {
                let at = of(seen, &["accounts", "transfers", "events"], random);
                let lost = number_of(&seen.remove(at));
                renumber(seen, lost);
                "a record lost and its number used again"
            }
        }
    }

    #[test]
    fn what_an_exact_reader_writes_is_found_to_be_right() {
        for seed in 0..20 {
            let story = Story::new(seed, 60);
            let verdict = judge(&story.seen, &story.truth);
            assert!(verdict.is_clean(), "{seed}: {:?}", verdict.wrong);
        }
    }

    #[test]
    fn every_damage_is_found() {
        let mut random = StdRng::seed_from_u64(5);
        for number in 0..400 {
            let story = Story::new(number, 40);
            let mut seen = story.seen.clone();
            let what = damage(&mut seen, number as u32 % 8, &mut random);
            let verdict = judge(&seen, &story.truth);
            assert!(!verdict.is_clean(), "damage {number} was not seen: {what}");
        }
    }
}
