//! The API: `TrustDomain`, `AgentIdentity`, `ProtectedTarget`, `AccessPolicy` and `AccessRequest` as Rust types, the source of `config/crd/`.
//!
//! Owns the schemas, their rules and the words of conditions. Touches nothing: no client, no async, no
//! clock. Invariant: what one field can decide is refused by the API server, with the field and the reason.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a failing test should stop where it fails"
    )
)]
#![allow(clippy::duplicated_attributes, reason = "printer columns share the words of their types")]
#![allow(unreachable_pub, reason = "the schema derive writes a second, private struct for each public one")]

mod access_policy;
mod access_request;
mod agent_identity;
mod binding;
pub mod conditions;
mod definitions;
mod protected_target;
mod schema;
mod statement;
mod trust_domain;

pub use access_policy::{
    AccessMask, AccessPolicy, AccessPolicySpec, AccessPolicyStatus, AccessRule, AgentRef, Ancestor, AskSpec, Detector,
    GroupRef, MaskMethod, OnRevocation, PolicyMode, PostgresRule, RuleAction, SessionLimits, SubjectRef, TargetRef,
    WhereClause,
};
pub use access_request::{
    AccessRequest, AccessRequestSpec, AccessRequestStatus, Answer, AskingAgent, Command, Consumption, Decision,
    MOST_DECISIONS, NotBy, Phase,
};
pub use agent_identity::{
    AgentIdentity, AgentIdentitySpec, AgentIdentityStatus, CertificateSpec, Delivery, KeyAlgorithm,
};
pub use binding::{BoundTo, LabelOperator, LabelRequirement, MOST_ADDRESSES, PodSelector};
pub use definitions::definitions;
pub use protected_target::{
    BundleSourceKind, CaBundleRef, Credential, EmptyDirStore, OnRecordFailure, PostgresTarget, ProtectedTarget,
    ProtectedTargetSpec, ProtectedTargetStatus, ProxySpec, RecordDurability, RecordSpan, RecordStore, RecordingAnchor,
    RecordingLevel, RecordingSpec, ReplicaStatus, Resources, S3Store, SecretRef, ServiceType, TlsMode, TlsSpec,
    VolumeClaimStore,
};
pub use statement::Statement;
pub use trust_domain::{
    AuthorityRef, AuthoritySource, AuthoritySpec, AuthorityStatus, PreviousAuthority, RotationSpec, TrustDomain,
    TrustDomainSpec, TrustDomainStatus,
};

/// The API group.
pub const GROUP: &str = "sallyport.dev";
/// The served version.
pub const VERSION: &str = "v1alpha1";
