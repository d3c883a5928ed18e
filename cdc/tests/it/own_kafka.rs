//! A Kafka broker of one test: with listeners of its own, and free to be killed.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::certificates::Authority;
use crate::own_postgres::free_port;

/// User and password at the listener that asks for them.
pub(crate) const USER: &str = "reader";
pub(crate) const PASSWORD: &str = "hunter2-canary";

pub(crate) struct OwnKafka {
    folder: PathBuf,
    /// Clear text, for everybody.
    pub(crate) open: u16,
    /// `SASL_SSL`, at `localhost`.
    pub(crate) secure: u16,
    /// `SSL`, at `localhost`, for those with a certificate of the same authority.
    pub(crate) mutual: u16,
    process: Option<Child>,
}

fn java(class: &str) -> Command {
    let libs = std::env::var("TAILWATER_TEST_KAFKA_LIBS").expect(
        "`TAILWATER_TEST_KAFKA_LIBS` names the folder of Kafka's jars; run the tests with `make test`",
    );
    // It dies with the test, whatever ends that.
    let mut command = Command::new("setpriv");
    let program = std::env::var("TAILWATER_TEST_JAVA").unwrap_or_else(|_| "java".to_owned());
    command.args(["--pdeathsig", "KILL", &program, "-Xmx256m", "-XX:+UseSerialGC"]);
    command.args(["-XX:TieredStopAtLevel=1", "-cp", &format!("{libs}/*"), class]);
    command
}

impl OwnKafka {
    /// A broker that shows a certificate of this authority where it encrypts, and trusts those that it signed.
    pub(crate) fn start(authority: &Authority) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let folder = std::env::temp_dir().join(format!("tailwater-kafka-{id}"));
        fs::create_dir(&folder).expect("a folder");
        let (open, secure, mutual) = (free_port(), free_port(), free_port());
        let mut own = Self { folder, open, secure, mutual, process: None };
        let certified = authority.server(&["localhost"]);
        let pem = format!("{}{}", certified.certificate, certified.key);
        fs::write(own.folder.join("server.pem"), pem).expect("we may write");
        fs::write(own.folder.join("ca.pem"), authority.pem()).expect("we may write");
        fs::write(own.properties(), own.settings()).expect("we may write");
        let scram = |hash: &str| format!("SCRAM-SHA-{hash}=[name={USER},password={PASSWORD}]");
        let formatted = java("kafka.tools.StorageTool")
            .args(["format", "-t", &id[..22], "-c"])
            .arg(own.properties())
            .args(["--add-scram", &scram("256"), "--add-scram", &scram("512")])
            .output()
            .expect("Java starts");
        assert!(formatted.status.success(), "{formatted:?}");
        own.resume();
        own
    }

    /// Where it takes clear text.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.open)
    }

    /// Starts the process and waits until it takes connections.
    pub(crate) fn resume(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log"));
        let log = log.expect("a log");
        let child = java("kafka.Kafka")
            .arg(self.properties())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn();
        self.process = Some(child.expect("Java starts"));
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.secure)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(90), "not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// As if the power went.
    pub(crate) fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn properties(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    fn settings(&self) -> String {
        let (open, secure, mutual) = (self.open, self.secure, self.mutual);
        let controller = free_port();
        let folder = self.folder.display();
        let module = "org.apache.kafka.common.security";
        format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=OPEN://127.0.0.1:{open},SECURE://127.0.0.1:{secure},MUTUAL://127.0.0.1:{mutual},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=OPEN://127.0.0.1:{open},SECURE://localhost:{secure},MUTUAL://localhost:{mutual}
listener.security.protocol.map=OPEN:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL,MUTUAL:SSL
inter.broker.listener.name=OPEN
log.dirs={folder}/data
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.pem
listener.name.mutual.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.secure.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";
listener.name.secure.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.secure.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
auto.create.topics.enable=true
group.initial.rebalance.delay.ms=0
"
        )
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for OwnKafka {
    fn drop(&mut self) {
        self.crash();
        if std::thread::panicking() {
            eprintln!("---- the broker's log\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
