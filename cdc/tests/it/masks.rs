//! What a mask hides leaves the reader in no form.

use tailwater_cdc::mask::MaskKey;
use tailwater_runtime::Secret;
use tailwater_topics_contract::{From as Origin, Mask, Values};

use crate::source::{Source, ops};

/// What must never be seen.
const CANARY: &str = "canary-7f3a";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_masked_value_is_in_no_image_key_header_or_error() {
    for values in [Values::Readable, Values::Debezium] {
        for identity in ["DEFAULT", "FULL"] {
            let mut source = Source::new().await;
            source
                .sql(&format!(
                    "CREATE EXTENSION pgcrypto;
                     CREATE TABLE person (id int PRIMARY KEY, email text, note text, secret jsonb, card bytea, big text, n int);
                     ALTER TABLE person REPLICA IDENTITY {identity}, ALTER big SET STORAGE EXTERNAL"
                ))
                .await;
            capture(&mut source, values).await;
            let mut stream = source.stream().await;
            source
                .sql(&format!(
                    "INSERT INTO person VALUES (1, '{CANARY}@x', 'ab{CANARY}', '\"{CANARY}\"', '{CANARY}', repeat('{CANARY}', 300), 0), (2, '{CANARY}@x', NULL, NULL, NULL, NULL, 0);
                     UPDATE person SET n = 1; UPDATE person SET id = 3, email = 'z{CANARY}' WHERE id = 1; DELETE FROM person"
                ))
                .await;
            let seen = source.changes(&mut stream).await;
            assert_eq!(ops(&seen), "ccuud-cd-d-");
            for record in &seen {
                let all = format!("{record:?}");
                assert!(!all.contains(CANARY), "{all}");
            }
            let code = source
                .client
                .query_one(
                    "SELECT encode(hmac($1, 'a key of the tests', 'sha256'), 'hex')",
                    &[&format!("{CANARY}@x")],
                )
                .await
                .expect("pgcrypto");
            let expected = format!("\"{}\"", code.get::<_, String>(0));
            assert_eq!(
                seen[0].raw("after", "email").as_ref(),
                Some(&expected),
                "by Postgres itself"
            );
            assert_eq!(
                seen[1].raw("after", "email").as_ref(),
                Some(&expected),
                "equal stays equal"
            );
            assert_eq!(seen[0].raw("after", "note").as_deref(), Some("\"abca\""));
            assert_eq!(seen[1].raw("after", "note").as_deref(), Some("null"));
            assert_eq!(seen[0].raw("after", "secret"), None);
            assert_eq!(
                seen[2].json().get("unchanged").is_some(),
                identity == "DEFAULT" && values == Values::Readable
            );
            if identity == "FULL" {
                assert_eq!(seen[2].raw("before", "email").as_ref(), Some(&expected));
            }
            source.drop([stream]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_masked_column_that_is_renamed_stops_the_reader_before_a_value_goes_out() {
    for change in ["RENAME COLUMN email TO mail", "DROP COLUMN email"] {
        let mut source = Source::new().await;
        source.sql("CREATE TABLE person (id int PRIMARY KEY, email text, note text, secret jsonb, card bytea, big text, n int)").await;
        capture(&mut source, Values::Readable).await;
        let mut stream = source.stream().await;
        source.sql(&format!("ALTER TABLE person {change}")).await;
        source.sql(&format!("INSERT INTO person (id, note) VALUES (1, '{CANARY}')")).await;
        let error =
            source.try_changes(&mut stream).await.expect_err("it may be under another name");
        let said = format!("{error} {error:?}");
        assert!(
            said.contains("`email`, which its topic masks") && !said.contains(CANARY),
            "{said}"
        );
        source.drop([stream]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mask_without_its_key_and_a_mask_on_the_key_stop_the_reader() {
    for (column, problem) in [("email", "reader.mask_key"), ("id", "never masked")] {
        let mut source = Source::new().await;
        source.mask_key = None;
        source.sql("CREATE TABLE person (id int PRIMARY KEY, email text)").await;
        source.sql("ALTER PUBLICATION \"all\" ADD TABLE person").await;
        let from = Origin::Table("public.person".parse().expect("a table"));
        source.register_as("person", from, &["id"], |spec| {
            spec.mask.insert(column.to_owned(), Mask::Hmac);
        });
        if column == "email" {
            let error = source.try_stream().await.err().expect("it is known before a row comes");
            assert!(error.to_string().contains(problem), "{error}");
            source.drop([]).await;
            continue;
        }
        source.mask_key = Some(MaskKey::new(&Secret::new("a key of the tests")));
        let mut stream = source.stream().await;
        source.sql("INSERT INTO person VALUES (1, 'x')").await;
        let error = source.try_changes(&mut stream).await.expect_err("it cannot be masked");
        assert!(error.to_string().contains(problem), "{error}");
        source.drop([stream]).await;
    }
}

async fn capture(source: &mut Source, values: Values) {
    source.sql("ALTER PUBLICATION \"all\" ADD TABLE person").await;
    let from = Origin::Table("public.person".parse().expect("a table"));
    source.register_as("person", from, &["id"], |spec| {
        spec.values = values;
        let masks = [
            ("email", Mask::Hmac),
            ("note", Mask::Truncate(4)),
            ("secret", Mask::Drop),
            ("card", Mask::Hmac),
            ("big", Mask::Truncate(6)),
        ];
        spec.mask.extend(masks.map(|(column, mask)| (column.to_owned(), mask)));
    });
}
