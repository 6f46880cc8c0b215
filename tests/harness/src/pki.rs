//! Certificate authorities and leaf certificates for tests, good ones and bad ones.
//! It makes values and writes them only where it is told, keys readable by their owner alone.
//! A leaf says exactly what was asked, so that a test of a refusal has one reason to be refused.

use std::fmt;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct Leaf {
    pub cert_pem: String,
    pub key_pem: String,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("cert_pem", &self.cert_pem).field("key_pem", &"[redacted]").finish()
    }
}

/// A leaf on disk.
#[derive(Debug, Clone)]
pub struct LeafFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Leaf {
    /// Writes `<stem>.crt` and `<stem>.key`, the key with mode 0600.
    pub fn write(&self, dir: &Path, stem: &str) -> Result<LeafFiles> {
        let files = LeafFiles { cert: dir.join(format!("{stem}.crt")), key: dir.join(format!("{stem}.key")) };
        fs::write(&files.cert, &self.cert_pem).with_context(|| format!("cannot write {}", files.cert.display()))?;
        write_private(&files.key, &self.key_pem)?;
        Ok(files)
    }
}

/// Writes a file that only its owner may read, from its first byte on.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes())).with_context(|| format!("cannot write {}", path.display()))
}

/// What a leaf says. The default is a client certificate, valid from an hour ago for a day, with no name at all.
#[derive(Debug, Clone)]
pub struct LeafOptions {
    pub common_name: Option<String>,
    pub organization: Option<String>,
    /// The object it is issued for: the subject's serialNumber.
    pub uid: Option<String>,
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub client_auth: bool,
    pub server_auth: bool,
    pub key: LeafKey,
}

/// The kind of a leaf's key.
#[derive(Debug, Clone, Copy, Default)]
pub enum LeafKey {
    #[default]
    EcdsaP256,
    EcdsaP384,
    Ed25519,
}

impl Default for LeafOptions {
    fn default() -> Self {
        let now = SystemTime::now();
        Self {
            common_name: None,
            organization: None,
            uid: None,
            uris: Vec::new(),
            dns: Vec::new(),
            ips: Vec::new(),
            not_before: now - HOUR,
            not_after: now + DAY,
            client_auth: true,
            server_auth: false,
            key: LeafKey::default(),
        }
    }
}

/// A certificate authority of one trust domain.
pub struct Pki {
    trust_domain: String,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Pki {
    /// A fresh authority with an ECDSA P-256 key, valid for thirty days.
    pub fn new(trust_domain: &str) -> Result<Self> {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = name(Some(&format!("{trust_domain} test CA")), None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        validity(&mut params, now - HOUR, now + 30 * DAY)?;
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { trust_domain: trust_domain.to_owned(), ca })
    }

    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    pub fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    /// The authority's private key, for those who must sign with it themselves (an operator that is given its CA).
    pub fn ca_key_pem(&self) -> String {
        self.ca.key().serialize_pem()
    }

    /// `spiffe://<trust-domain>/ns/<namespace>/agent/<name>`.
    pub fn spiffe_id(&self, namespace: &str, name: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/agent/{name}", self.trust_domain)
    }

    /// The certificate that the operator would issue for an `AgentIdentity`.
    pub fn agent(&self, namespace: &str, name: &str) -> Result<Leaf> {
        self.leaf(&LeafOptions { uris: vec![self.spiffe_id(namespace, name)], ..LeafOptions::default() })
    }

    /// A server certificate; names that are IP addresses become address SANs.
    pub fn server(&self, names: &[&str]) -> Result<Leaf> {
        let (ips, dns): (Vec<_>, Vec<_>) =
            names.iter().map(|n| (n.parse::<IpAddr>(), *n)).partition(|(ip, _)| ip.is_ok());
        self.leaf(&LeafOptions {
            ips: ips.into_iter().filter_map(|(ip, _)| ip.ok()).collect(),
            dns: dns.into_iter().map(|(_, name)| name.to_owned()).collect(),
            client_auth: false,
            server_auth: true,
            ..LeafOptions::default()
        })
    }

    /// A leaf that says exactly this.
    pub fn leaf(&self, options: &LeafOptions) -> Result<Leaf> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(options.common_name.as_deref(), options.organization.as_deref());
        if let Some(uid) = &options.uid {
            let uid = DnValue::PrintableString(uid.as_str().try_into()?);
            params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), uid);
        }
        for uri in &options.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        for dns in &options.dns {
            params.subject_alt_names.push(SanType::DnsName(dns.as_str().try_into()?));
        }
        params.subject_alt_names.extend(options.ips.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if options.client_auth {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        if options.server_auth {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, options.not_before, options.not_after)?;
        let key = KeyPair::generate_for(match options.key {
            LeafKey::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            LeafKey::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            LeafKey::Ed25519 => &rcgen::PKCS_ED25519,
        })?;
        let cert = params.signed_by(&key, &self.ca)?;
        Ok(Leaf { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

fn name(common: Option<&str>, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    if let Some(common) = common {
        name.push(DnType::CommonName, common);
    }
    name
}

/// Sets the validity to whole seconds, as X.509 has them.
fn validity(params: &mut CertificateParams, from: SystemTime, to: SystemTime) -> Result<()> {
    let since_1970 = |time: SystemTime| -> Result<Duration> {
        let since =
            time.duration_since(SystemTime::UNIX_EPOCH).context("certificates before 1970 are not made here")?;
        Ok(Duration::from_secs(since.as_secs()))
    };
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_1970(from)?;
    params.not_after = epoch + since_1970(to)?;
    Ok(())
}
