//! The decoder: what the server writes is read, anything else is refused without panic.

use proptest::prelude::*;
use tailwater_cdc::pgoutput::{Cell, DecodeError, Message, Old, Tuple, decode};

use crate::wire::{self, Value};

#[test]
fn every_prefix_of_a_message_is_refused_and_so_is_a_byte_too_many() {
    for message in one_of_each() {
        assert!(decode(&message).is_ok(), "{}", char::from(message[0]));
        for end in 0..message.len() {
            assert!(decode(&message[..end]).is_err(), "{} to {end}", char::from(message[0]));
        }
        let mut longer = message.clone();
        longer.push(0);
        let expected = DecodeError::Trailing { tag: char::from(message[0]), count: 1 };
        assert_eq!(decode(&longer), Err(expected));
    }
}

#[test]
fn a_count_that_promises_more_than_there_is_allocates_nothing() {
    let mut message = vec![b'T'];
    message.extend(u32::MAX.to_be_bytes());
    message.push(0);
    assert!(matches!(decode(&message), Err(DecodeError::Short { .. })));
}

#[test]
fn negative_lengths_are_refused() {
    let mut message = wire::insert(1, &wire::row(&["a"]));
    let at = message.len() - 5;
    message[at..at + 4].copy_from_slice(&(-1_i32).to_be_bytes());
    assert!(decode(&message).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn rows_read_as_they_were_written(new in values(), old in values(), kind in 0..3_u8) {
        let message = match kind {
            0 => wire::update(9, None, &new),
            1 => wire::update(9, Some((b'K', &old)), &new),
            _ => wire::update(9, Some((b'O', &old)), &new),
        };
        let Ok(Message::Update { relation: 9, old: read_old, new: read_new }) = decode(&message) else {
            return Err(TestCaseError::fail("not read as an update"));
        };
        prop_assert_eq!(cells(&read_new), new);
        match (kind, read_old) {
            (0, None) => {}
            (1, Some(Old::Key(tuple))) | (2, Some(Old::Full(tuple))) => {
                prop_assert_eq!(cells(&tuple), old);
            }
            (_, other) => return Err(TestCaseError::fail(format!("old is {other:?}"))),
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn damaged_messages_are_read_or_refused(
        which in 0..11_usize,
        damages in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut message = one_of_each()[which].clone();
        for (at, byte) in damages {
            let at = at.index(message.len());
            message[at] = byte;
        }
        if let Ok(Message::Insert { new, .. }) = decode(&message) {
            prop_assert_eq!(new.cells().count(), new.column_count());
        }
    }
}

#[test]
fn a_hundred_thousand_random_messages_do_not_panic() {
    use rand::{Rng, SeedableRng};
    let seed: u64 = std::env::var("TAILWATER_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}; replay with TAILWATER_TEST_SEED={seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let messages = one_of_each();
    for _ in 0..100_000 {
        let mut message = messages[random.random_range(0..messages.len())].clone();
        for _ in 0..random.random_range(0..6) {
            let at = random.random_range(0..message.len());
            message[at] = random.random();
        }
        message.truncate(random.random_range(0..=message.len()));
        let _ = decode(&message);
    }
}

fn cells(tuple: &Tuple<'_>) -> Vec<Value> {
    let value = |cell| match cell {
        Cell::Null => Value::Null,
        Cell::Unchanged => Value::Unchanged,
        Cell::Text(text) => Value::Text(text.to_vec()),
    };
    tuple.cells().map(value).collect()
}

fn values() -> impl Strategy<Value = Vec<Value>> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Text),
    ];
    proptest::collection::vec(value, 0..12)
}

fn one_of_each() -> Vec<Vec<u8>> {
    let columns = [("id", 23, true), ("name", 25, false)];
    let mut origin = vec![b'O'];
    origin.extend(5_u64.to_be_bytes());
    origin.extend(b"elsewhere\0");
    let mut kind = vec![b'Y'];
    kind.extend(77_u32.to_be_bytes());
    kind.extend(b"public\0mood\0");
    let values = [wire::text("1"), Value::Null];
    vec![
        wire::begin(10, 7),
        wire::commit(10, 20),
        origin,
        wire::relation(1, "public", "t", b'd', &columns),
        kind,
        wire::insert(1, &values),
        wire::update(1, None, &values),
        wire::update(1, Some((b'O', &values)), &values),
        wire::delete(1, b'K', &values),
        wire::truncate(&[1, 2]),
        wire::logical(None, "p", b"content"),
    ]
}
