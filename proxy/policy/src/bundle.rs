//! The bundle: the policies of one target, compiled; the contract between operator and proxy.
//!
//! Owns its serialised form, version and revision. Touches nothing; carries no secret and no table of
//! identities, so that it changes only when a target or a policy does. Invariant: a proxy that does
//! not understand every part of a bundle refuses it whole and keeps the one it has.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ask::AskTerms;
use crate::condition::When;
use crate::mask::Mask;
use crate::observe::Mode;
use crate::pattern::NamePattern;
use crate::recording::Recording;
use crate::terms::{FleetTerms, SessionTerms};
use crate::{Attribute, ObjectKind};

/// The format this code writes, and the newest it reads.
pub const BUNDLE_VERSION: u32 = 1;

/// Bytes of a bundle's JSON that are read at most (a ConfigMap holds 1 MiB).
const LONGEST: usize = 1024 * 1024;

/// The policies of one target, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Bundle {
    /// Format of this document.
    pub version: u32,
    /// Names this content: the first 16 hex digits of its SHA-256. Filled by [`Bundle::sealed`].
    #[serde(default)]
    pub revision: String,
    /// The target it is for.
    pub target: TargetRef,
    /// The trust domain whose identities are met.
    pub trust_domain: String,
    /// How the target is reached.
    pub upstream: Upstream,
    /// Namespaces whose identities the policies speak of, sorted.
    pub agent_namespaces: Vec<String>,
    /// What is recorded, and what happens where it cannot be.
    pub recording: Recording,
    /// What holds of every session.
    #[serde(default, skip_serializing_if = "FleetTerms::is_default")]
    pub sessions: FleetTerms,
    /// The policies, sorted by name.
    pub policies: Vec<PolicyEntry>,
}

/// The target's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetRef {
    /// Namespace of the `ProtectedTarget`.
    pub namespace: String,
    /// Name of the `ProtectedTarget`.
    pub name: String,
}

/// How the target is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Upstream {
    /// The protocol by its name in the registry (`postgres`).
    pub protocol: String,
    /// DNS name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS towards the target.
    pub tls: TlsMode,
    /// The name in the target's certificate, where it is not `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Credentials that exist for this target, by name, sorted.
    pub credentials: Vec<String>,
    /// Protocol settings, as the protocol's own crate reads them (for PostgreSQL: `searchPath`,
    /// `allowCleartext`, ...). Unknown names are refused by the protocol.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// TLS towards the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    /// The certificate's chain and name are verified.
    VerifyFull,
    /// The chain is verified, the name is not.
    VerifyCa,
    /// No TLS. Had to be spelled out.
    Disable,
}

/// One policy, compiled. By default it says nothing to nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyEntry {
    /// Name of the `AccessPolicy`; its namespace is the target's.
    pub name: String,
    /// Whom it speaks of.
    pub subjects: Vec<Subject>,
    /// The credentials it grants; its rules count in sessions opened with one of them.
    #[serde(rename = "as")]
    pub credentials: Vec<String>,
    /// Whether it decides.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,
    /// What it demands of the sessions that it applies to.
    #[serde(default, skip_serializing_if = "SessionTerms::is_default")]
    pub sessions: SessionTerms,
    /// Its rules, in the order written.
    pub rules: Vec<Rule>,
    /// What it hides of the answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masks: Vec<Mask>,
}

/// Whom a policy speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subject {
    /// One identity.
    Agent {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Every identity of that namespace that is in that group.
    Group {
        /// The namespace the group belongs to.
        namespace: String,
        /// The group.
        name: String,
    },
}

/// One rule, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// Unique in its policy.
    pub name: String,
    /// What it does with an operation it matches.
    pub effect: Effect,
    /// Shown to the agent when this rule refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it matches.
    pub matcher: Matcher,
    /// When it counts. Absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Lets matched operations through, unless another rule denies or asks.
    Allow,
    /// Lets them through once people have approved the command, on these terms, unless another rule denies.
    Ask(AskTerms),
    /// Refuses them, whatever else is said.
    Deny,
}

/// A test over the facts of one operation. All parts that are present must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Matcher {
    /// Verbs, any of; absent: every verb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verbs: Option<Vec<String>>,
    /// Objects it is limited to; absent: every object, and operations without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<Vec<ObjectMatcher>>,
    /// Attributes that must (true) or must not (false) hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(Attribute, bool)>,
}

/// The objects of one kind that a matcher is limited to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ObjectMatcher {
    /// The kind.
    pub kind: ObjectKind,
    /// Names, any of.
    pub names: Vec<NamePattern>,
}

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Longer than a ConfigMap can hold.
    #[error("the bundle has {0} bytes, more than {LONGEST}")]
    TooLong(usize),
    /// Not a bundle, or one with parts this proxy does not know.
    #[error("the bundle cannot be read: {0}; a newer operator may have written it: update the proxy")]
    Unreadable(#[from] serde_json::Error),
    /// Another format.
    #[error("the bundle has version {0}, this proxy reads version {BUNDLE_VERSION}: update the proxy")]
    Version(u64),
    /// Content and name differ.
    #[error("the bundle's revision is {found}, its content comes to {computed}")]
    Revision {
        /// What it says.
        found: String,
        /// What it is.
        computed: String,
    },
}

impl Bundle {
    /// Reads a bundle, whole or not at all.
    ///
    /// # Errors
    /// When it is too long, not JSON of this form and version, or its revision does not name its content.
    pub fn read(json: &str) -> Result<Self, BundleError> {
        if json.len() > LONGEST {
            return Err(BundleError::TooLong(json.len()));
        }
        // The version is looked at first: a newer format should be told as that, not as a strange field.
        let raw: serde_json::Value = serde_json::from_str(json)?;
        match raw.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version != u64::from(BUNDLE_VERSION) => return Err(BundleError::Version(version)),
            _ => {}
        }
        let bundle: Self = serde_json::from_value(raw)?;
        let computed = bundle.content_revision();
        if bundle.revision.is_empty() || bundle.revision == computed {
            return Ok(Self { revision: computed, ..bundle });
        }
        Err(BundleError::Revision { found: bundle.revision, computed })
    }

    /// The same bundle, named by its content.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.revision = self.content_revision();
        self
    }

    /// The document as the operator stores it: JSON, a line a field, the same for the same content.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Serialising plain structs with string keys cannot fail; an empty text would be refused by `read`.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    fn content_revision(&self) -> String {
        let unnamed = Self { revision: String::new(), ..self.clone() };
        let digest = Sha256::digest(unnamed.to_json().as_bytes());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
