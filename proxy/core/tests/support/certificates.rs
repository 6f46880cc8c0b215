//! Certificates as agents and authorities have them, good and bad, and TLS settings made of them.
//!
//! Owns their making. Touches nothing. Invariant: both sides of every handshake in the suite are real rustls.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

/// Who signs.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub struct Leaf {
    pub certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

pub const HOST: &str = "proxy.test";

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose, last_year: i32) -> Leaf {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        self.complete(params, names, usage)
    }

    fn complete(&self, mut params: CertificateParams, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> Leaf {
        params.subject_alt_names = names;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Leaf { certificate, key: key.serialize_der() }
    }

    pub fn agent(&self, uris: &[&str]) -> Leaf {
        self.sign(uris.iter().map(|name| uri(name)).collect(), ExtendedKeyUsagePurpose::ClientAuth, 2090)
    }

    /// An agent's, issued for the object of that UID.
    pub fn agent_of(&self, name: &str, uid: &str) -> Leaf {
        let mut params = CertificateParams::default();
        let uid = DnValue::PrintableString(uid.try_into().unwrap());
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), uid);
        self.complete(params, vec![uri(name)], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// An agent's, valid from and up to so many seconds from now.
    pub fn agent_between(&self, name: &str, from: i64, to: i64) -> Leaf {
        let mut params = CertificateParams::default();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let at = |seconds: i64| {
            date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(now.as_secs().saturating_add_signed(seconds))
        };
        (params.not_before, params.not_after) = (at(from), at(to));
        self.complete(params, vec![uri(name)], ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub fn expired(&self, name: &str) -> Leaf {
        self.sign(vec![uri(name)], ExtendedKeyUsagePurpose::ClientAuth, 2021)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }

    /// A fleet's settings: client certificates always; the versions are the caller's.
    pub fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
        let names = vec![SanType::DnsName(HOST.try_into().unwrap())];
        let leaf = self.sign(names, ExtendedKeyUsagePurpose::ServerAuth, 2090);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), Arc::clone(&provider)).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf.certificate.clone()], leaf.key())
            .unwrap();
        Arc::new(config)
    }

    /// An agent's settings.
    pub fn client(&self, leaf: Option<&Leaf>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots());
        let config = match leaf {
            Some(leaf) => config.with_client_auth_cert(vec![leaf.certificate.clone()], leaf.key()).unwrap(),
            None => config.with_no_client_auth(),
        };
        Arc::new(config)
    }
}

impl Leaf {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}

pub fn host() -> ServerName<'static> {
    HOST.try_into().unwrap()
}
