//! What ties a password exchange to a certificate: `tls-server-end-point` of RFC 5929, section 4.1.
//!
//! ```text
//!  Certificate: SEQUENCE { tbsCertificate: SEQUENCE, signatureAlgorithm: SEQUENCE { algorithm: OID, … }, … }
//! ```
//!
//! The hash is that of the certificate's own signature, and SHA-256 where that is MD5 or SHA-1. For algorithms without
//! a single hash (Ed25519, RSA-PSS) the RFC defines none, and neither does Postgres.

use sha2::{Digest, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;

/// `1.2.840.113549.1.1`, signatures with RSA; one more byte says with which hash.
const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];

/// `1.2.840.10045.4`, signatures with ECDSA.
const ECDSA: [u8; 6] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];

/// The bytes both sides put into the exchange; none where the RFC defines none.
pub(crate) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (body, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(body, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    let (oid, _) = element(algorithm, OID)?;
    if let Some(hash) = oid.strip_prefix(&RSA) {
        return match hash {
            [4 | 5 | 11] => Some(Sha256::digest(certificate).to_vec()),
            [12] => Some(Sha384::digest(certificate).to_vec()),
            [13] => Some(Sha512::digest(certificate).to_vec()),
            _ => None,
        };
    }
    match oid.strip_prefix(&ECDSA)? {
        [1] | [3, 2] => Some(Sha256::digest(certificate).to_vec()),
        [3, 3] => Some(Sha384::digest(certificate).to_vec()),
        [3, 4] => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// The content of the first DER element, which must have this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(*short), rest),
        0x81..=0x84 => {
            let (long, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (long.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    if *first == tag { rest.split_at_checked(length) } else { None }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    use super::*;

    fn certificate(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let params = CertificateParams::new(vec!["db.example".to_owned()]).expect("a name");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let p256 = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point(&p256), Some(Sha256::digest(&p256).to_vec()));
        let p384 = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(end_point(&p384), Some(Sha384::digest(&p384).to_vec()));
        assert_eq!(end_point(&certificate(&rcgen::PKCS_ED25519)), None);
    }

    #[test]
    fn bytes_that_are_no_certificate_have_none() {
        let whole = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for end in 0..whole.len() {
            assert_eq!(end_point(&whole[..end]), None, "cut at {end}");
        }
        assert_eq!(end_point(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(end_point(&[0x30, 0x80]), None);
    }
}
