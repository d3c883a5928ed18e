//! A sink that has to say who it is, in front of a real server whose door is watched.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::request::Parts;
use jiff::SignedDuration;
use tailwater_config::{Keys, Login, SearchConfig, Service, Signature, Word};
use tailwater_sinks_search::index;
use tailwater_sinks_worker::contract;
use tailwater_sinks_worker::{Sink, SinkError, Writer};

use crate::aws::{ACCESS, FrontDoor, REGION};
use crate::door::{Door, Guard, Refusal};
use crate::live::{Live, abandon, succeed};
use crate::records::{
    assert_definite, assert_transient, chain, delete, open, partition, pipeline, push_all, put,
};

/// Longer than keys that were refused are kept.
const READ_AGAIN: Duration = Duration::from_millis(1_100);

#[tokio::test]
async fn a_sink_that_signs_its_requests_keeps_the_contract_of_sinks() {
    for (service, token) in [(Service::Domain, None), (Service::Serverless, Some("a/token+=="))] {
        let door = door(service, "secret", token).await;
        let keys = keys(Word::given("secret"), token.map(Word::given));
        contract::check(|| async { Live::through(signed(&door, service, keys.clone())) }).await;
        let (passed, refused) = door.counts();
        assert!(passed > 100 && refused == 0, "{passed} passed, {refused} did not");
    }
}

#[tokio::test]
async fn an_index_lives_its_whole_life_by_signed_requests() {
    let (service, token) = (Service::Serverless, Some("token"));
    let door = door(service, "secret", token).await;
    let keys = keys(Word::given("secret"), token.map(Word::given));
    let live = || Live::through(signed(&door, service, keys.clone()));
    succeed(live()).await;
    abandon(live()).await;
    // Names that are escaped on the wire are escaped once more for the signature.
    for alias in ["naïve", "a b", "a%2Fb", "a+b=c&d", "it's(1)!~@:,;$", "☃"] {
        let mut live = live();
        alias.clone_into(&mut live.spec.alias);
        let found = index::inspect(&live.client(), &pipeline(), &live.spec).await;
        if let Err(error) = found {
            assert!(!error.to_string().contains("let us in"), "{alias}: {error}");
        }
    }
    assert_eq!(door.counts().1, 0);
}

#[tokio::test]
async fn keys_that_were_rotated_are_waited_for_and_wrong_ones_of_the_configuration_stop_the_sink() {
    let service = Service::Domain;
    let door = door(service, "new", Some("token")).await;
    let token = || Some(Word::given("token"));
    let given = Live::through(signed(&door, service, keys(Word::given("old"), token())));
    let said = definite(&given).await;
    assert!(said.contains("signature we calculated does not match"), "{said}");
    assert!(said.contains("check the keys"), "{said}");
    assert!(!said.contains("security-token"), "the request is repeated: {said}");

    let secret = SecretFile::holding("old");
    let live = Live::through(signed(&door, service, keys(secret.word(), token())));
    let sink = live.sink();
    for _ in 0..2 {
        let opened = sink.open(&partition(), None).await.map(|(_, next)| next);
        assert_transient(opened, "is read again");
    }
    secret.write("new");
    tokio::time::sleep(READ_AGAIN).await;
    let mut writer = open(&sink).await;
    push_all(&mut writer, [put(1, 1, "a"), put(2, 2, "b")]);
    writer.flush(3).await.unwrap();

    // Rotated in the middle of its life; what it was told to write is still to be written.
    door.guard().knows().secret = "newer".to_owned();
    push_all(&mut writer, [put(3, 3, "c"), delete(4, 1)]);
    assert_transient(writer.flush(5).await, "does not match");
    secret.write("newer");
    tokio::time::sleep(READ_AGAIN).await;
    assert!(writer.flush(5).await.unwrap().rejected.is_empty());
    let documents = live.documents().await;
    assert_eq!(documents.keys().collect::<Vec<_>>(), ["2", "3"]);
    live.drop_index().await;
}

#[tokio::test]
async fn a_token_that_expired_is_waited_for_where_another_may_come() {
    let service = Service::Domain;
    let door = door(service, "secret", Some("token")).await;
    let file = SecretFile::holding("token");
    let in_a_file =
        Live::through(signed(&door, service, keys(Word::given("secret"), Some(file.word()))));
    let given = keys(Word::given("secret"), Some(Word::given("token")));
    let given = Live::through(signed(&door, service, given));
    door.guard().knows().is_expired = true;
    let opened = in_a_file.sink().open(&partition(), None).await.map(|(_, next)| next);
    assert_transient(opened, "security token included in the request is expired");
    assert!(definite(&given).await.contains("is expired"));
    door.guard().knows().is_expired = false;
    door.guard().knows().token = Some("another".to_owned());
    file.write("another");
    tokio::time::sleep(READ_AGAIN).await;
    open(&in_a_file.sink()).await;
    in_a_file.drop_index().await;
    // Half of what goes together is no key at all.
    let without = Live::through(signed(&door, service, keys(Word::given("secret"), None)));
    assert!(definite(&without).await.contains("security token included in the request is invalid"));
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named_and_waited_for() {
    let service = Service::Domain;
    let door = door(service, "secret", None).await;
    let live = Live::through(signed(&door, service, keys(Word::given("secret"), None)));
    for (minutes, word) in [(10, "Signature expired"), (-10, "Signature not yet current")] {
        door.guard().knows().ahead = SignedDuration::from_mins(minutes);
        let opened = live.sink().open(&partition(), None).await.map(|(_, next)| next);
        assert_transient(opened, word);
        let opened = live.sink().open(&partition(), None).await.map(|(_, next)| next);
        assert_transient(opened, "set the clock");
    }
    door.guard().knows().ahead = SignedDuration::from_mins(4);
    open(&live.sink()).await;
    live.drop_index().await;
}

#[tokio::test]
async fn what_the_keys_may_not_do_or_are_not_for_stops_the_sink() {
    let service = Service::Serverless;
    let door = door(service, "secret", None).await;
    let secret = SecretFile::holding("secret");
    let config = signed(&door, service, keys(secret.word(), None));
    let live = Live::through(config.clone());
    door.guard().knows().denies = true;
    assert!(definite(&live).await.contains("access policy"));
    // Not so when others have come since: these may be the ones that may.
    let sink = live.sink();
    let opened = sink.open(&partition(), None).await.map(|(_, next)| next);
    assert_definite(opened, "403 Forbidden");
    tokio::time::sleep(READ_AGAIN).await;
    secret.write("of another role");
    let opened = sink.open(&partition(), None).await.map(|(_, next)| next);
    assert_transient(opened, "does not match");

    let Login::Signed(signature) = config.login else { unreachable!() };
    let elsewhere = Signature { region: "us-east-2".to_owned(), ..signature };
    let elsewhere = SearchConfig { login: Login::Signed(elsewhere), ..config };
    secret.write("secret");
    let said = definite(&Live::through(elsewhere)).await;
    assert!(said.contains("not 'us-east-2'") && said.contains("`opensearch.region`"), "{said}");
    let unsigned = definite(&Live::through(SearchConfig::open(&door.url))).await;
    assert!(unsigned.contains("Missing Authentication Token"), "{unsigned}");
}

#[tokio::test]
async fn keys_or_a_password_whose_file_is_away_are_waited_for() {
    let door = door(Service::Domain, "secret", None).await;
    let nowhere = || Word::File(std::env::temp_dir().join("tailwater-is-not-there"));
    let signed = signed(&door, Service::Domain, keys(nowhere(), None));
    for config in [signed, basic(&door.url, nowhere())] {
        let opened = Live::through(config).sink().open(&partition(), None).await;
        assert_transient(opened.map(|(_, next)| next), "tailwater-is-not-there");
    }
}

#[tokio::test]
async fn a_password_that_was_rotated_is_waited_for_and_one_of_the_configuration_stops_the_sink() {
    let door = Door::open(Password("new".to_owned())).await;
    let given = Live::through(basic(&door.url, Word::given("old")));
    assert!(definite(&given).await.contains("check user, password"));
    let file = SecretFile::holding("old");
    let live = Live::through(basic(&door.url, file.word()));
    let sink = live.sink();
    let opened = sink.open(&partition(), None).await.map(|(_, next)| next);
    assert_transient(opened, "does not take the password");
    file.write("new");
    let mut writer = open(&sink).await;
    push_all(&mut writer, [put(1, 1, "a")]);
    writer.flush(2).await.unwrap();
    live.drop_index().await;
}

/// Lets in the user `tailwater` with its password.
struct Password(String);

impl Guard for Password {
    fn look(&self, request: &Parts, _: &Bytes) -> Result<(), Refusal> {
        // Whoever builds a request by the same library has the same header.
        let known = reqwest::Client::new().get("http://x").basic_auth("tailwater", Some(&self.0));
        let known = known.build().unwrap();
        let shown = request.headers.get("authorization").map(|value| value.as_bytes());
        let is_known = shown == known.headers().get("authorization").map(|value| value.as_bytes());
        if is_known { Ok(()) } else { Err((401, "Unauthorized".to_owned())) }
    }
}

async fn door(service: Service, secret: &str, token: Option<&str>) -> Door<FrontDoor> {
    Door::open(FrontDoor::of(service.name(), secret, token)).await
}

fn keys(secret: Word, session_token: Option<Word>) -> Keys {
    Keys::Named { access: Word::given(ACCESS), secret, session_token }
}

fn signed(door: &Door<FrontDoor>, service: Service, keys: Keys) -> SearchConfig {
    let signature = Signature { service, region: REGION.to_owned(), keys };
    SearchConfig { url: door.url.clone(), login: Login::Signed(signature) }
}

fn basic(url: &str, password: Word) -> SearchConfig {
    let login = Login::Basic { user: "tailwater".to_owned(), password: Some(password) };
    SearchConfig { url: url.to_owned(), login }
}

/// What stops a sink, as a log would show it.
async fn definite(live: &Live) -> String {
    match live.sink().open(&partition(), None).await {
        Err(error @ SinkError::Definite(_)) => chain(&error),
        other => panic!("{:?}", other.map(|(_, next)| next)),
    }
}

/// A secret that somebody rotates.
struct SecretFile(PathBuf);

impl SecretFile {
    fn holding(secret: &str) -> Self {
        let name = format!("tailwater-secret-{}", uuid::Uuid::new_v4());
        let file = Self(std::env::temp_dir().join(name));
        file.write(secret);
        file
    }

    fn write(&self, secret: &str) {
        fs::write(&self.0, format!("{secret}\n")).unwrap();
    }

    fn word(&self) -> Word {
        Word::File(self.0.clone())
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
