//! Who an agent is: `spiffe://<trust-domain>/ns/<namespace>/agent/<name>`.
//!
//! Owns the form of that name (SPIFFE-ID standard, section 2) and its strict reading. Touches
//! nothing. Invariant: names are compared whole; a string that is not exactly of our form is no identity.

/// An agent's identity, read from a certificate or made from an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdentityName {
    trust_domain: String,
    namespace: String,
    name: String,
}

/// Why a string names no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Not of our form.
    #[error("not of the form spiffe://<trust-domain>/ns/<namespace>/agent/<name>")]
    Form,
    /// Well formed, of somebody else.
    #[error("of another trust domain")]
    TrustDomain,
}

impl IdentityName {
    /// Makes the name of an identity from its parts.
    ///
    /// # Errors
    /// When a part is not a DNS name of Kubernetes' kind.
    pub fn new(trust_domain: &str, namespace: &str, name: &str) -> Result<Self, SpiffeError> {
        let sound = is_dns_name(trust_domain, 253) && is_dns_name(namespace, 63) && is_dns_name(name, 253);
        if !sound || namespace.contains('.') {
            return Err(SpiffeError::Form);
        }
        Ok(Self { trust_domain: trust_domain.into(), namespace: namespace.into(), name: name.into() })
    }

    /// Reads a URI SAN, in `trust_domain` only.
    ///
    /// # Errors
    /// When it is not of our form, or of another trust domain.
    pub fn parse(uri: &str, trust_domain: &str) -> Result<Self, SpiffeError> {
        // 2048 bytes is the SPIFFE-ID standard's bound on the whole name.
        let rest = uri.strip_prefix("spiffe://").filter(|_| uri.len() <= 2048).ok_or(SpiffeError::Form)?;
        let mut parts = rest.split('/');
        let (domain, ns, namespace, agent, name) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(domain), Some("ns"), Some(namespace), Some("agent"), Some(name), None) =
            (domain, ns, namespace, agent, name, parts.next())
        else {
            return Err(SpiffeError::Form);
        };
        let identity = Self::new(domain, namespace, name)?;
        if domain == trust_domain { Ok(identity) } else { Err(SpiffeError::TrustDomain) }
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
    /// The namespace of the `AgentIdentity` object.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
    /// The name of the `AgentIdentity` object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::fmt::Display for IdentityName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spiffe://{}/ns/{}/agent/{}", self.trust_domain, self.namespace, self.name)
    }
}

/// RFC 1123 names as Kubernetes takes them: lower case letters, digits, `-` and `.`.
fn is_dns_name(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_form_reads_back() {
        let id = IdentityName::new("cluster.local", "ci", "migration-bot").unwrap();
        assert_eq!(IdentityName::parse(&id.to_string(), "cluster.local").unwrap(), id);
    }

    #[test]
    fn nothing_else_is_an_identity() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://cluster.local/ns/ci/agent/",
            "spiffe://cluster.local/ns/ci/agent/a/b",
            "spiffe://cluster.local/ns/ci/sa/a",
            "spiffe://cluster.local/ns/../agent/a",
            "spiffe://cluster.local/ns/ci/agent/a?x",
            "spiffe://cluster.local/ns/ci/agent/a%2e",
            "SPIFFE://cluster.local/ns/ci/agent/a",
            "spiffe://cluster.local:1/ns/ci/agent/a",
            "spiffe://u@cluster.local/ns/ci/agent/a",
            "spiffe://cluster.local/ns/a.b/agent/a",
            "https://cluster.local/ns/ci/agent/a",
        ] {
            assert_eq!(IdentityName::parse(bad, "cluster.local"), Err(SpiffeError::Form), "{bad}");
        }
    }

    #[test]
    fn names_are_compared_whole() {
        let other = "spiffe://cluster.local.evil/ns/ci/agent/a";
        assert_eq!(IdentityName::parse(other, "cluster.local"), Err(SpiffeError::TrustDomain));
    }
}
