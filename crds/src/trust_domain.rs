//! `TrustDomain`: the authority behind all identities of a cluster.
//!
//! Owns the kind's fields, defaults and rules. Touches nothing. Invariant: durations that the schema let
//! through leave no leaf that outlives the authority that signed it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::KeyAlgorithm;
use crate::schema::{self, Conditions};

/// The authority behind all identities of a cluster: where it comes from, how long it lives, and when it is
/// replaced. There is one; without any, the operator's flags give the same values.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sallyport.dev",
    version = "v1alpha1",
    kind = "TrustDomain",
    plural = "trustdomains",
    shortname = "td",
    category = "sallyport",
    status = "TrustDomainStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "The authority behind all identities of a cluster: where it comes from, how long it lives, and when it is replaced.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.trustDomain"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    // Not type `date`: kubectl shows how long ago a date was, and `<invalid>` for one to come.
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.active.notAfter"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TrustDomainSpec {
    /// The name that identities carry (`spiffe://<trustDomain>/...`): the one the operator was started with. It
    /// cannot be changed, for every certificate and every record says it.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::DNS_SUBDOMAIN))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("trustDomain cannot be changed: every certificate carries it"))]
    pub trust_domain: String,

    /// The certificate authority.
    #[serde(default)]
    pub ca: AuthoritySpec,

    /// When it is replaced, besides in time before its end.
    #[serde(default)]
    pub rotation: RotationSpec,
}

/// The certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.source == 'SecretRef' ? has(self.secretRef) : !has(self.secretRef)").message("secretRef goes with source SecretRef, and only with it"),
    validation = Rule::new("!has(self.renewBefore) || duration(self.duration) - duration(self.renewBefore) >= duration('24h')").message("renewBefore must leave at least 24h of duration before the rotation")
)]
pub struct AuthoritySpec {
    /// Made by the operator, or given.
    #[serde(default)]
    pub source: AuthoritySource,

    /// The given authority: a Secret in the operator's namespace with `tls.crt` (the signing certificate and what
    /// leads to its root), `tls.key` and `ca.crt` (the root). The operator reads it and never writes it. Another
    /// authority in it is a rotation: it signs once every relying party trusts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<AuthorityRef>,

    /// The kind of key that the next authority is made with.
    #[serde(default)]
    pub key_algorithm: KeyAlgorithm,

    /// How long the next authority is valid, from 480h to 175200h (20 years).
    #[serde(default = "ten_years")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('480h') && duration(self) <= duration('175200h')").message("duration must be from 480h to 175200h"))]
    pub duration: String,

    /// How long before its end an authority is replaced, at least 240h: longer than any leaf lives. Absent: a
    /// third of `duration`. A given authority is not replaced, but told to be near its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('240h')").message("renewBefore must be at least 240h: leaves live up to 168h"))]
    pub renew_before: Option<String>,
}

/// Where an authority comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthoritySource {
    /// The operator makes it.
    #[default]
    Generate,
    /// It is in a Secret that somebody else writes.
    SecretRef,
}

/// A Secret in the operator's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthorityRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub name: String,
}

/// When the authority is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationSpec {
    /// An authority made before this time is replaced, in order: nothing is dropped. A time to come is an
    /// appointment. Once it is done, the field says nothing any more and can stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<Time>,

    /// The keys of authorities made before this time are known to others: they are out of trust at once, and every
    /// certificate is issued anew at once. Connections fail until both sides have re-read their files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compromised_before: Option<Time>,

    /// How long to wait, once every replica uses the new root and every Secret has it, before it signs: agents re-read
    /// their files in that time. From 10s to 24h.
    #[serde(default = "five_minutes")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('24h')").message("propagationTime must be from 10s to 24h"))]
    pub propagation_time: String,
}

/// What the operator found and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustDomainStatus {
    /// What goes on: `Stable`, `Propagating` (the next root is published, the old authority signs), `Retiring` (the
    /// new one signs, the old root is trusted until its last leaf has ended).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub phase: Option<String>,
    /// The authority that signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<AuthorityStatus>,
    /// The authority that signs next; its root is published already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<AuthorityStatus>,
    /// Authorities that sign no more and are still trusted. Their keys are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub previous: Vec<PreviousAuthority>,
    /// Digest of all roots that relying parties shall trust; replicas answer with what they use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub trust: Option<String>,
    /// What is known about this object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Conditions,
}

/// An authority, as people compare it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// SHA-256 of its certificate, hexadecimal.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// Serial number of its certificate, hexadecimal.
    #[schemars(length(max = 64))]
    pub serial: String,
    /// It is valid from this time.
    pub not_before: Time,
    /// It, or a certificate above it, is valid up to this time.
    pub not_after: Time,
}

/// An authority that signs no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviousAuthority {
    /// SHA-256 of its certificate, hexadecimal.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// Its root is trusted at least until this time: then its last leaf has ended.
    pub retire_after: Time,
}

impl Default for AuthoritySpec {
    fn default() -> Self {
        Self {
            source: AuthoritySource::default(),
            secret_ref: None,
            key_algorithm: KeyAlgorithm::default(),
            duration: ten_years(),
            renew_before: None,
        }
    }
}

impl Default for RotationSpec {
    fn default() -> Self {
        Self { requested_at: None, compromised_before: None, propagation_time: five_minutes() }
    }
}

fn ten_years() -> String {
    "87600h".to_owned()
}

fn five_minutes() -> String {
    "5m".to_owned()
}
