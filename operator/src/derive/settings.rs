//! What the operator was told at its start and decisions depend on.
//!
//! Owns that list. Touches nothing. Invariant: but for a clock that jumps, it does not change while the process leads.

use k8s_openapi::jiff::Timestamp;

/// Settings that plans depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The trust domain that identities are named in.
    pub trust_domain: String,
    /// The cluster's DNS domain, for the names in the fleets' server certificates.
    pub cluster_domain: String,
    /// The image that fleets run.
    pub proxy_image: String,
    /// Since when this process acts; what was due before was missed.
    pub since: Timestamp,
}
