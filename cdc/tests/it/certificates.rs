//! Authorities and certificates of one test.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Certified {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// For hosts.
    pub(crate) fn server(&self, hosts: &[&str]) -> Certified {
        self.sign(names(hosts))
    }

    /// For a host, and over since years.
    pub(crate) fn expired(&self, host: &str) -> Certified {
        let mut params = names(&[host]);
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(params)
    }

    /// For a role.
    pub(crate) fn client(&self, role: &str) -> Certified {
        let mut params = names(&[]);
        params.distinguished_name.push(DnType::CommonName, role);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Certified {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Certified { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// As `openssl req -x509` makes it: an authority, signed by itself, for a host.
pub(crate) fn self_signed(host: &str) -> Certified {
    let key = KeyPair::generate().expect("a key");
    let mut params = names(&[host]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate");
    Certified { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn names(hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("names");
    params.distinguished_name.remove(DnType::CommonName);
    params
}

/// Files of a test, gone with it.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new() -> Self {
        let folder =
            std::env::temp_dir().join(format!("tailwater-tls-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).expect("a folder");
        Self(folder)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("we may write");
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
