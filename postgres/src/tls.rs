//! Encrypts a connection, and says in plain words why a certificate is not trusted.
//!
//! * Files are read at every connection, so that a renewed certificate is taken without a restart.
//! * A server's own self-signed certificate may be the trusted one. It is then compared byte for byte; most tools mark
//!   such certificates as authorities, which a chain's last link must not be.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::socket::{Socket, Tcp, buffered};
use crate::{Error, certificate};
use tailwater_config::PostgresConfig;
use tailwater_config::postgres::SslMode;

/// The message `SSLRequest`: its length, and 1234.5679 where a start-up message has the version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Asks the server for encryption and shakes hands.
pub(crate) async fn encrypt(
    mut stream: Tcp,
    config: &PostgresConfig,
    mode: SslMode,
    name: &str,
    address: &str,
) -> Result<Socket, Error> {
    let settings = settings(config, mode)?;
    let server = ServerName::try_from(name.to_owned())
        .map_err(|_| Error::NoTlsName { address: address.to_owned(), name: name.to_owned() })?;
    let lost = |source| Error::Lost { address: address.to_owned(), source };
    stream.write_all(&SSL_REQUEST).await.map_err(lost)?;
    // Exactly one byte, so that nothing sent in clear text can be taken for something sent encrypted.
    match stream.read_u8().await.map_err(lost)? {
        b'S' => {}
        b'N' => return Err(Error::NoTls { address: address.to_owned(), mode }),
        _ => {
            let problem = "the answer to a request for encryption is neither yes nor no".to_owned();
            return Err(Error::Protocol { address: address.to_owned(), problem });
        }
    }
    let connector = TlsConnector::from(Arc::new(settings));
    let stream = connector.connect(server, buffered(stream)).await;
    let stream = stream.map_err(|error| failed(error, address, name))?;
    let end_point = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let end_point = end_point.and_then(|certificate| certificate::end_point(certificate));
    Ok(Socket::tls(stream, end_point))
}

fn failed(error: io::Error, address: &str, name: &str) -> Error {
    let address = address.to_owned();
    match certificate_error(&error) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            let (problem, remedy) = untrusted(why, name);
            Error::Untrusted { address, problem, remedy }
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::Unwelcome { address, alert: format!("{alert:?}") }
        }
        Some(other) => Error::Handshake { address, problem: other.to_string() },
        None => Error::Lost { address, source: error },
    }
}

/// What TLS says within an error of the socket.
pub(crate) fn certificate_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What is wrong with the server's certificate, and who mends it how.
fn untrusted(why: &CertificateError, name: &str) -> (String, &'static str) {
    const RENEW: &str = "renew it on the server, or correct the clock of this machine";
    const ROOT: &str =
        "name the certificate of the authority that signed it with `postgres.sslrootcert`";
    const NAME: &str = "write a name of the certificate into `postgres.host`, have it made out to this name, or write `postgres.sslmode: verify-ca` if names cannot agree";
    match why {
        CertificateError::Expired => ("has expired".to_owned(), RENEW),
        CertificateError::ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / 86_400;
            (format!("expired {days} days ago"), RENEW)
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("is not valid yet".to_owned(), RENEW)
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            ("is signed by no authority that is trusted here".to_owned(), ROOT)
        }
        CertificateError::NotValidForName => (format!("is not made out to `{name}`"), NAME),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => (
            format!(
                "is not made out to `{name}`: it names no host (`subjectAltName` counts, the common name does not)"
            ),
            NAME,
        ),
        CertificateError::NotValidForNameContext { presented, .. } => {
            // As `DnsName("db.example")`.
            let names: Vec<&str> =
                presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name)).collect();
            (format!("is made out to `{}`, not to `{name}`", names.join("`, `")), NAME)
        }
        CertificateError::Revoked => ("is revoked".to_owned(), RENEW),
        other => (format!("cannot be used: {other}"), ROOT),
    }
}

fn settings(config: &PostgresConfig, mode: SslMode) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Files {
            setting: "sslmode",
            path: PathBuf::new(),
            problem: error.to_string(),
        })?;
    let verifier = match mode {
        SslMode::Disable | SslMode::Require => Verifier { provider, trust: None, names: false },
        SslMode::VerifyCa | SslMode::VerifyFull => {
            let trust = Trust::load(config.sslrootcert.as_deref())?;
            Verifier { provider, trust: Some(trust), names: mode == SslMode::VerifyFull }
        }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let Some(own) = &config.client_certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("sslcert", &own.certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(&own.key).map_err(|error| key_error(&own.key, &error))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| Error::Files {
        setting: "sslkey",
        path: own.key.clone(),
        problem: format!("does not go with `{}`: {error}", own.certificate.display()),
    })
}

fn key_error(path: &Path, error: &pem::Error) -> Error {
    let is_encrypted = std::fs::read_to_string(path).is_ok_and(|text| text.contains("ENCRYPTED"));
    let problem = match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        _ if is_encrypted => {
            "is encrypted; write it without a passphrase, with `openssl pkey -in KEY -out KEY.plain`"
                .to_owned()
        }
        _ => "holds no private key in PEM".to_owned(),
    };
    Error::Files { setting: "sslkey", path: path.to_owned(), problem }
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let broken = |problem| Error::Files { setting, path: path.to_owned(), problem };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(broken("holds no certificate in PEM".to_owned())),
        Ok(found) => Ok(found),
        Err(pem::Error::Io(error)) => Err(broken(format!("cannot be read: {error}"))),
        Err(error) => Err(broken(format!("is no PEM: {error}"))),
    }
}

/// Whose certificates are trusted.
#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// Trusted themselves, whatever they are.
    pinned: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn load(file: Option<&Path>) -> Result<Self, Error> {
        let (found, path) = match file {
            Some(path) => (certificates("sslrootcert", path)?, path),
            None => (rustls_native_certs::load_native_certs().certs, Path::new("")),
        };
        let mut roots = RootCertStore::empty();
        let (_, ignored) = roots.add_parsable_certificates(found.iter().cloned());
        if roots.is_empty() {
            let problem = match file {
                Some(_) => format!("holds {ignored} certificates that cannot be read"),
                None => "is not set, and the operating system trusts no authority; install its certificates (`ca-certificates`) or name a file".to_owned(),
            };
            return Err(Error::Files { setting: "sslrootcert", path: path.to_owned(), problem });
        }
        let pinned = if file.is_some() { found } else { Vec::new() };
        Ok(Self { roots, pinned })
    }
}

/// What is asked of the server's certificate.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Without it any certificate will do.
    trust: Option<Trust>,
    names: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let chain = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &trust.roots,
            intermediates,
            now,
            algorithms,
        );
        match chain {
            // Its dates have been looked at before this is found.
            Err(error) if is_authority(&error) && trust.pinned.contains(certificate) => {}
            chain => chain?,
        }
        if self.names {
            verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_authority(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(other))
        if other.to_string() == "CaUsedAsEndEntity")
}
