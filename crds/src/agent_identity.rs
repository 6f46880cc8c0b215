//! `AgentIdentity`: who an agent is.
//!
//! Owns the kind's fields, defaults and rules. Touches nothing. Invariant: a duration that the schema
//! let through leaves at least a minute between issue and renewal.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::BoundTo;
use crate::schema::{self, Conditions};

/// Who an agent is. The operator issues it a short-lived certificate into a `kubernetes.io/tls` Secret; its
/// principal is `spiffe://<trust-domain>/ns/<namespace>/agent/<name>`.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sallyport.dev",
    version = "v1alpha1",
    kind = "AgentIdentity",
    plural = "agentidentities",
    shortname = "agent",
    category = "sallyport",
    namespaced,
    status = "AgentIdentityStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Who an agent is. The operator issues it a short-lived certificate; its principal is spiffe://<trust-domain>/ns/<namespace>/agent/<name>.",
    validation = Rule::new("size(self.metadata.name) <= 63").message("the name of an AgentIdentity has at most 63 characters"),
    validation = Rule::new("self.spec.certificate.delivery != 'PodCertificate' || has(self.spec.serviceAccountName)").message("delivery PodCertificate needs serviceAccountName: whose pods may hold this identity"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Identity", type_ = "string", json_path = ".status.spiffeId"),
    // Not type `date`: kubectl shows how long ago a date was, and `<invalid>` for one to come.
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.notAfter"),
    printcolumn(name = "Renews", type_ = "string", json_path = ".status.renewalTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Bound", type_ = "string", json_path = r#".status.conditions[?(@.type=="Bound")].reason"#, priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct AgentIdentitySpec {
    /// The service account whose pods may hold this identity, in this object's namespace. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub service_account_name: Option<String>,

    /// Groups that policies select by, besides the name. A group belongs to this object's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Vec<String>,

    /// While true, the next command of every open session is refused, and no new session opens.
    #[serde(default)]
    pub suspend: bool,

    /// Certificates issued before this time are dead, at once, on every proxy. Absent: none are revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke_before: Option<Time>,

    /// How the certificate is issued.
    #[serde(default)]
    pub certificate: CertificateSpec,

    /// The pods from whose addresses alone the certificate counts: a copy of it is refused elsewhere. A change
    /// ends open sessions. Absent: it counts from anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<BoundTo>,
}

/// How the certificate is issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.renewBefore) || duration(self.duration) - duration(self.renewBefore) >= duration('1m')").message("renewBefore must leave at least 1m of duration before the renewal"))]
#[x_kube(validation = Rule::new("self.delivery != 'PodCertificate' || duration(self.duration) >= duration('1h')").message("with delivery PodCertificate a duration is at least 1h: Kubernetes takes no shorter one"))]
#[x_kube(validation = Rule::new("self.delivery != 'PodCertificate' || !has(self.renewBefore) || (duration(self.renewBefore) >= duration('10m') && duration(self.duration) - duration(self.renewBefore) >= duration('10m'))").message("with delivery PodCertificate renewBefore leaves 10m on either side: Kubernetes takes no less"))]
#[x_kube(validation = Rule::new("self.delivery != 'PodCertificate' || !has(self.secretName)").message("secretName has no meaning with delivery PodCertificate: no Secret is written"))]
#[x_kube(validation = Rule::new("self.delivery != 'PodCertificate' || self.keyAlgorithm == 'ECDSA-P256'").message("keyAlgorithm has no meaning with delivery PodCertificate: the pod's volume says keyType"))]
pub struct CertificateSpec {
    /// `Secret`: the operator makes the key and writes it with its certificate to a Secret. `PodCertificate`: the
    /// kubelet makes the key for each pod of `serviceAccountName` that projects a `podCertificate` volume of the signer
    /// `sallyport.dev/agent`, and the key never leaves the node; no Secret is written. Needs a cluster that serves
    /// `certificates.k8s.io/v1` PodCertificateRequest (Kubernetes 1.37).
    #[serde(default)]
    pub delivery: Delivery,

    /// How long a certificate is valid, from 5m to 24h.
    #[serde(default = "one_hour")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('5m') && duration(self) <= duration('24h')").message("duration must be from 5m to 24h"))]
    pub duration: String,

    /// How long before its end a certificate is replaced. Absent: a third of `duration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('30s')").message("renewBefore must be at least 30s"))]
    pub renew_before: Option<String>,

    /// The kind of key. Every renewal makes a new one; a change replaces the certificate at once. With delivery
    /// `PodCertificate` the pod's volume says it (`keyType`).
    #[serde(default)]
    pub key_algorithm: KeyAlgorithm,

    /// Name of the Secret the certificate is written to. Absent: `<name>-mtls`. A Secret that is not the
    /// operator's is never overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub secret_name: Option<String>,
}

/// How key and certificate reach the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Delivery {
    /// In a Secret that the operator writes.
    #[default]
    Secret,
    /// By the kubelet, into the pod.
    PodCertificate,
}

/// The kind of a certificate's key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeyAlgorithm {
    /// What every client of the last twenty years can use.
    #[default]
    #[serde(rename = "ECDSA-P256")]
    EcdsaP256,
    /// Where a rule asks for more than 128 bits of strength.
    #[serde(rename = "ECDSA-P384")]
    EcdsaP384,
    /// For clients with a TLS library that knows it (OpenSSL 1.1.1, Go, Java 15, and later).
    Ed25519,
}

/// What the operator found and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentIdentityStatus {
    /// The principal that the certificate carries and that records name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub spiffe_id: Option<String>,
    /// Serial number of the current certificate, in hexadecimal. Absent, as the times and the Secret, with delivery
    /// `PodCertificate`: each pod has a certificate of its own, and its PodCertificateRequest tells about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub serial: Option<String>,
    /// The certificate is valid from this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// The certificate is valid up to this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// The certificate is replaced at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_time: Option<Time>,
    /// Name of the Secret that holds certificate and key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub secret_name: Option<String>,
    /// The binding that `boundAddresses` answer, as a selector. While the spec says another, nobody is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768))]
    pub bound_for: Option<String>,
    /// The addresses of the pods that the identity is bound to, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 45)))]
    // One owner: an address that somebody else adds is gone with the operator's next word.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub bound_addresses: Vec<String>,
    /// What is known about this object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Conditions,
}

impl Default for CertificateSpec {
    fn default() -> Self {
        Self {
            delivery: Delivery::Secret,
            duration: one_hour(),
            renew_before: None,
            key_algorithm: KeyAlgorithm::default(),
            secret_name: None,
        }
    }
}

fn one_hour() -> String {
    "1h".to_owned()
}
