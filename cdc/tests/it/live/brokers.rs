//! Brokers that encrypt and ask who we are, with a broker of our own.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tailwater_cdc::publish::Publisher;
use tailwater_cdc::publish::kafka::Kafka;
use tailwater_config::KafkaConfig;
use tailwater_config::kafka::{KafkaTls, Mechanism, Sasl, refusal};
use tailwater_config::postgres::ClientCertificate;
use tailwater_runtime::Secret;

use super::{PATIENCE, World};
use crate::certificates::{Authority, Files};
use crate::own_kafka::{OwnKafka, PASSWORD, USER};

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_encrypt_and_ask_who_we_are_are_written_to_and_refusals_are_named_at_once() {
    let (authority, files) = (Authority::new("the company"), Files::new());
    let broker = OwnKafka::start(&authority);
    let ca_file = Some(files.write("ca.pem", &authority.pem()));
    let stranger = Some(files.write("stranger.pem", &Authority::new("somebody else").pem()));
    let secure = |mechanism| KafkaConfig {
        tls: Some(KafkaTls { ca_file: ca_file.clone(), client_certificate: None }),
        sasl: Some(Sasl { mechanism, user: USER.to_owned(), password: Secret::new(PASSWORD) }),
        ..KafkaConfig::new(format!("localhost:{}", broker.secure))
    };
    let mutual = |client_certificate| KafkaConfig {
        tls: Some(KafkaTls { ca_file: ca_file.clone(), client_certificate }),
        ..KafkaConfig::new(format!("localhost:{}", broker.mutual))
    };

    let mechanisms = [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512];
    for (at, mechanism) in mechanisms.into_iter().enumerate() {
        let config = secure(mechanism);
        assert_eq!(refusal(&config.client()).expect("a client"), None, "{mechanism:?}");
        let pipeline = format!("secure_{at}").parse().expect("a name");
        let mut kafka = Kafka::new(&config, &pipeline).expect("a client");
        kafka.init(&AtomicBool::new(false)).unwrap_or_else(|e| panic!("{mechanism:?}: {e}"));
        kafka.commit(b"{}").unwrap_or_else(|e| panic!("{mechanism:?}: {e}"));
    }

    let mut wrong_password = secure(Mechanism::ScramSha512);
    wrong_password.sasl.as_mut().expect("set").password = Secret::new("wrong");
    let mut wrong_user = secure(Mechanism::Plain);
    wrong_user.sasl.as_mut().expect("set").user = "nobody".to_owned();
    let mut unknown_authority = secure(Mechanism::Plain);
    unknown_authority.tls.as_mut().expect("set").ca_file = stranger;
    let wrong_name =
        KafkaConfig { brokers: format!("127.0.0.1:{}", broker.secure), ..secure(Mechanism::Plain) };
    let no_tls_there =
        KafkaConfig { brokers: format!("localhost:{}", broker.open), ..secure(Mechanism::Plain) };
    for (what, config, remedy) in [
        ("wrong password", wrong_password, "correct `kafka.sasl.user`, its password"),
        ("wrong user", wrong_user, "correct `kafka.sasl.user`, its password"),
        ("unknown authority", unknown_authority, "`kafka.tls.ca_file`"),
        ("wrong name", wrong_name, "`kafka.tls.ca_file`, and reach them by a name"),
        ("no TLS there", no_tls_there, "look whether this listener speaks TLS"),
    ] {
        let began = Instant::now();
        let refused = refusal(&config.client()).expect("a client");
        let said = refused.unwrap_or_else(|| panic!("{what}: let in")).to_string();
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
        assert!(said.contains(remedy) && said.contains(&config.brokers), "{what}: {said}");
        assert!(!said.contains(PASSWORD), "{what}: {said}");
    }

    // By certificate instead of a password.
    let known_by = |authority: &Authority| {
        let own = authority.client("reader");
        let client_certificate = Some(ClientCertificate {
            certificate: files.write("reader.pem", &own.certificate),
            key: files.write("reader.key", &own.key),
        });
        mutual(client_certificate)
    };
    let config = known_by(&authority);
    assert_eq!(refusal(&config.client()).expect("a client"), None);
    let mut kafka = Kafka::new(&config, &"mutual".parse().expect("a name")).expect("a client");
    kafka.init(&AtomicBool::new(false)).expect("it is let in");
    kafka.commit(b"{}").expect("it is written");
    for (what, config) in
        [("no certificate", mutual(None)), ("a stranger's", known_by(&Authority::new("stranger")))]
    {
        let refused = refusal(&config.client()).expect("a client");
        let said = refused.unwrap_or_else(|| panic!("{what}: let in")).to_string();
        assert!(said.contains("`kafka.tls.cert_file`"), "{what}: {said}");
    }

    let world = World::new().await.moved_to(&broker, secure(Mechanism::ScramSha512)).await;
    let reader = world.start_reader().await;
    world.sql("INSERT INTO item SELECT g, 'sealed' FROM generate_series(1, 100) g").await;
    let began = Instant::now();
    while World::read_all_at(&broker.address(), &world.changes()).len() < 100 {
        assert!(began.elapsed() < PATIENCE, "rows do not arrive over an encrypted connection");
    }
    reader.stop().await.expect("it drains");
    world.drop().await;
}
