//! Every way to connect, and every way not to, against servers of our own.
//!
//! The replication session and the SQL client are tried each time: they have one connector, and must have one voice.

use std::path::PathBuf;

use tailwater_cdc::stream::{Connection, Error, Mode};
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::{ChannelBinding, ClientCertificate, Hosts, SslMode};
use tailwater_runtime::Secret;

use crate::certificates::{Authority, Certified, Files, self_signed};
use crate::own_postgres::OwnPostgres;

const PASSWORD: &str = "hunter2-canary";

/// A server with TLS for `localhost`, and roles for each way to log in.
struct Place {
    server: OwnPostgres,
    authority: Authority,
    files: Files,
}

impl Place {
    async fn new() -> Self {
        let authority = Authority::new("the company");
        let mut server = OwnPostgres::new();
        let Certified { certificate, key } = authority.server(&["localhost"]);
        server.write("server.crt", &certificate);
        server.write("server.key", &key);
        server.write("ca.crt", &authority.pem());
        server.set("ssl = on\nssl_ca_file = 'ca.crt'");
        server.admit(
            "local all all trust
             host postgres cleartext 127.0.0.1/32 password
             hostssl all certified 127.0.0.1/32 cert
             hostssl all encrypted 127.0.0.1/32 scram-sha-256
             host all scram 127.0.0.1/32 scram-sha-256
             host all md5 127.0.0.1/32 md5",
        );
        server.start();
        server
            .sql(&format!(
                "CREATE ROLE scram LOGIN REPLICATION PASSWORD '{PASSWORD}';
                 CREATE ROLE encrypted LOGIN REPLICATION PASSWORD '{PASSWORD}';
                 CREATE ROLE cleartext LOGIN REPLICATION PASSWORD '{PASSWORD}';
                 CREATE ROLE certified LOGIN REPLICATION;
                 SET password_encryption = 'md5';
                 CREATE ROLE md5 LOGIN REPLICATION PASSWORD '{PASSWORD}';",
            ))
            .await;
        Self { server, authority, files: Files::new() }
    }

    fn config(&self, host: &str, user: &str) -> PostgresConfig {
        let hosts = Hosts::parse(host, self.server.port).expect("a host");
        let ca = self.files.write("ca.pem", &self.authority.pem());
        PostgresConfig {
            password: Some(Secret::new(PASSWORD)),
            sslmode: Some(SslMode::VerifyFull),
            sslrootcert: Some(ca),
            ..PostgresConfig::new(hosts, user, "postgres")
        }
    }

    fn own(&self, name: &str, certified: &Certified) -> ClientCertificate {
        ClientCertificate {
            certificate: self.files.write(&format!("{name}.crt"), &certified.certificate),
            key: self.files.write(&format!("{name}.key"), &certified.key),
        }
    }

    /// The server shows this from now on.
    async fn show(&self, certified: &Certified) {
        self.server.write("server.crt", &certified.certificate);
        self.server.write("server.key", &certified.key);
        self.server.reload().await;
    }
}

/// What the server says of a session, of both kinds: whether it is encrypted, and as whom.
async fn connected(config: &PostgresConfig) -> String {
    let seen = "SELECT ssl::text || ' ' || user || ' ' || coalesce(client_dn, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let client = tailwater_postgres::client(config, "test").await.unwrap_or_else(|e| panic!("{e}"));
    let by_client: String = client.query_one(seen, &[]).await.expect("SQL").get(0);
    let connection = Connection::open(config, "test", Mode::Replication).await;
    let mut connection = connection.unwrap_or_else(|error| panic!("{error}"));
    let rows = connection.query(seen).await.expect("SQL");
    assert_eq!(rows[0].get(0), Some(by_client.as_str()));
    connection.close().await;
    by_client
}

/// Why neither kind of session comes about, with causes; the same words for both.
async fn refused(config: &PostgresConfig) -> Error {
    let client = tailwater_postgres::client(config, "test").await;
    let client = client.err().unwrap_or_else(|| panic!("the client got in: {config:?}"));
    let connection = Connection::open(config, "test", Mode::Replication).await;
    let connection = connection.err().unwrap_or_else(|| panic!("the reader got in: {config:?}"));
    assert_eq!(said(&client), said(&connection));
    assert!(!said(&client).contains(PASSWORD), "a secret shows");
    client
}

fn said(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[tokio::test]
async fn sessions_are_encrypted_and_prove_who_they_are() {
    let place = Place::new().await;
    let full = place.config("localhost", "scram");
    assert_eq!(connected(&full).await, "true scram ");

    // SCRAM bound to the certificate, and only that when it is required.
    let bound = PostgresConfig { channel_binding: ChannelBinding::Require, ..full.clone() };
    assert_eq!(connected(&bound).await, "true scram ");
    let loose = PostgresConfig { channel_binding: ChannelBinding::Disable, ..full.clone() };
    assert_eq!(connected(&loose).await, "true scram ");
    for user in ["md5", "cleartext"] {
        let config = place.config("localhost", user);
        assert_eq!(connected(&config).await, format!("true {user} "));
        let bound = PostgresConfig { channel_binding: ChannelBinding::Require, ..config };
        assert!(matches!(refused(&bound).await, Error::NoBinding { .. }), "{user}");
    }

    // The name is another one, or nothing is known of the certificate.
    let ca =
        PostgresConfig { sslmode: Some(SslMode::VerifyCa), ..place.config("127.0.0.1", "scram") };
    assert_eq!(connected(&ca).await, "true scram ");
    let blind = PostgresConfig { sslmode: Some(SslMode::Require), sslrootcert: None, ..ca.clone() };
    assert_eq!(connected(&blind).await, "true scram ");
    let clear = PostgresConfig { sslmode: Some(SslMode::Disable), sslrootcert: None, ..ca.clone() };
    assert_eq!(connected(&clear).await, "false scram ");

    // By certificate instead of a password.
    let client_certificate = Some(place.own("certified", &place.authority.client("certified")));
    let certified = PostgresConfig {
        password: None,
        client_certificate,
        ..place.config("localhost", "certified")
    };
    assert_eq!(connected(&certified).await, "true certified /CN=certified");

    // Over the socket of this machine, whatever `sslmode` says.
    let socket = place.config(&place.server.socket(), "scram");
    assert_eq!(connected(&socket).await, "false scram ");

    // A server's own self-signed certificate is the trusted one.
    let alone = self_signed("localhost");
    place.show(&alone).await;
    let sslrootcert = Some(place.files.write("alone.pem", &alone.certificate));
    let pinned = PostgresConfig { sslrootcert, ..full.clone() };
    assert_eq!(connected(&pinned).await, "true scram ");
    let misnamed = PostgresConfig { ..place.config("127.0.0.1", "scram") };
    let misnamed = PostgresConfig { sslrootcert: pinned.sslrootcert.clone(), ..misnamed };
    assert!(matches!(refused(&misnamed).await, Error::Untrusted { .. }));
}

#[tokio::test]
async fn what_keeps_a_session_out_is_named_with_the_remedy() {
    let place = Place::new().await;
    let full = place.config("localhost", "scram");
    let with = |change: &dyn Fn(&mut PostgresConfig)| {
        let mut config = full.clone();
        change(&mut config);
        config
    };
    let stranger = Authority::new("somebody else");
    let strange_root = place.files.write("stranger.pem", &stranger.pem());
    let strange_client = place.own("strange", &stranger.client("certified"));
    let good = place.own("good", &place.authority.client("certified"));
    let no_pem = place.files.write("empty.pem", "nothing\n");
    let encrypted_key = place.files.write(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let address = format!("`localhost:{}/postgres`", place.server.port);
    let pair = |certificate: PathBuf, key: PathBuf| Some(ClientCertificate { certificate, key });

    let cases: Vec<(&str, PostgresConfig, Vec<&str>)> = vec![
        (
            "wrong password",
            with(&|c| c.password = Some(Secret::new("wrong"))),
            vec![&address, "28P01", "correct `postgres.user` and its password"],
        ),
        (
            "no password",
            with(&|c| c.password = None),
            vec![&address, "a password of `scram`", "`postgres.password_file`"],
        ),
        (
            "wrong database",
            with(&|c| c.database = "none".into()),
            vec!["3D000", "correct `postgres.database`"],
        ),
        (
            "nobody's role",
            with(&|c| c.user = "nobody".into()),
            vec!["28000", "add an entry for this user, database and address to `pg_hba.conf`"],
        ),
        (
            "encryption wanted by the server",
            with(&|c| {
                c.user = "encrypted".into();
                c.sslmode = Some(SslMode::Disable);
            }),
            vec!["28000", "write `postgres.sslmode: verify-full`"],
        ),
        (
            "another authority",
            with(&|c| c.sslrootcert = Some(strange_root.clone())),
            vec![
                &address,
                "is signed by no authority that is trusted here",
                "`postgres.sslrootcert`",
            ],
        ),
        (
            "the operating system's authorities",
            with(&|c| c.sslrootcert = None),
            vec!["is signed by no authority that is trusted here", "`postgres.sslrootcert`"],
        ),
        (
            "another authority, names left alone",
            with(&|c| {
                c.sslmode = Some(SslMode::VerifyCa);
                c.sslrootcert = Some(strange_root.clone());
            }),
            vec!["is signed by no authority that is trusted here"],
        ),
        (
            "another name",
            with(&|c| c.hosts = Hosts::one("127.0.0.1", place.server.port)),
            vec![
                "is made out to `localhost`, not to `127.0.0.1`",
                "`postgres.host`",
                "`postgres.sslmode: verify-ca`",
            ],
        ),
        (
            "no client certificate",
            with(&|c| c.user = "certified".into()),
            vec!["28000", "name one with `postgres.sslcert`"],
        ),
        (
            "a client certificate of somebody else",
            with(&|c| {
                c.user = "certified".into();
                c.client_certificate = Some(strange_client.clone());
            }),
            vec!["the alert UnknownCA", "`ssl_ca_file`"],
        ),
        (
            "a client certificate for another role",
            with(&|c| {
                c.user = "encrypted".into();
                c.password = Some(Secret::new("wrong"));
                c.client_certificate = Some(good.clone());
            }),
            vec!["28P01"],
        ),
        (
            "a file that is not there",
            with(&|c| c.sslrootcert = Some("/nowhere/ca.pem".into())),
            vec!["`postgres.sslrootcert`: `/nowhere/ca.pem` cannot be read"],
        ),
        (
            "a file without a certificate",
            with(&|c| c.sslrootcert = Some(no_pem.clone())),
            vec!["empty.pem` holds no certificate in PEM"],
        ),
        (
            "a key with a passphrase",
            with(&|c| c.client_certificate = pair(good.certificate.clone(), encrypted_key.clone())),
            vec!["`postgres.sslkey`", "is encrypted; write it without a passphrase"],
        ),
        (
            "a key of another certificate",
            with(&|c| {
                c.client_certificate = pair(good.certificate.clone(), strange_client.key.clone());
            }),
            vec!["`postgres.sslkey`", "does not go with"],
        ),
    ];
    for (what, config, parts) in &cases {
        let error = refused(config).await;
        assert!(error.is_definite(), "{what}: {error:?}");
        for part in parts {
            assert!(said(&error).contains(part), "{what}: `{}` lacks `{part}`", said(&error));
        }
    }

    // The server's certificate is over.
    place.show(&place.authority.expired("localhost")).await;
    let expired = refused(&full).await;
    let words = said(&expired);
    assert!(
        words.contains("expired") && words.contains("days ago; renew it on the server"),
        "{words}"
    );
    assert!(expired.is_tls() && expired.is_definite());

    // The server has no TLS at all.
    place.server.set("ssl = off");
    place.server.reload().await;
    let without = refused(&full).await;
    assert!(matches!(without, Error::NoTls { .. }), "{without:?}");
    assert!(said(&without).contains("`postgres.sslmode: disable`"), "{without}");
}

#[tokio::test]
async fn the_first_host_that_answers_and_takes_writes_is_used() {
    let mut primary = OwnPostgres::new();
    let mut standby = primary.standby();
    primary.start();
    standby.start();
    let config = |hosts: &[u16]| {
        let hosts: Vec<String> = hosts.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let hosts = Hosts::parse(&hosts.join(","), 5432).expect("hosts");
        PostgresConfig::new(hosts, "postgres", "postgres")
    };
    let port = |of: PostgresConfig| async move {
        let client =
            tailwater_postgres::client(&of, "test").await.unwrap_or_else(|e| panic!("{e}"));
        let by_client: String = client.query_one("SHOW port", &[]).await.expect("SQL").get(0);
        let mut connection =
            Connection::open(&of, "test", Mode::Replication).await.expect("it opens");
        let rows = connection.query("SHOW port").await.expect("SQL");
        assert_eq!(rows[0].get(0), Some(by_client.as_str()));
        connection.close().await;
        by_client.parse::<u16>().expect("a port")
    };
    let dead = crate::own_postgres::free_port();
    assert_eq!(port(config(&[dead, standby.port, primary.port])).await, primary.port);

    let alone = refused(&config(&[standby.port])).await;
    assert!(matches!(alone, Error::Standby { .. }), "{alone:?}");
    assert!(!alone.is_definite(), "a promotion may be on its way");
    assert!(said(&alone).contains("read-only standby; name the primary in `postgres.host`"));
    let none = refused(&config(&[dead, standby.port])).await;
    let words = said(&none);
    assert!(words.starts_with("none of the hosts in"), "{words}");
    assert!(words.contains("cannot be reached") && words.contains("read-only standby"), "{words}");

    primary.crash();
    standby.promote();
    assert_eq!(port(config(&[primary.port, standby.port])).await, standby.port);
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut config = PostgresConfig::new(Hosts::one("127.0.0.1", port), "u", "d");
    for mode in [None, Some(SslMode::Require)] {
        config.sslmode = mode;
        let (client, connection) = tokio::join!(
            tailwater_postgres::client(&config, "test"),
            Connection::open(&config, "test", Mode::Replication)
        );
        for error in [client.err(), connection.err()] {
            assert!(matches!(error, Some(Error::Silent { seconds: 10, .. })), "{error:?}");
        }
    }
}
