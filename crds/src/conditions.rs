//! Every condition type and reason, spelled once.
//!
//! Owns the words that statuses use and the rule of when a condition's time moves. Touches nothing.
//! Invariant: `lastTransitionTime` moves only when `status` flips, so that an unchanged world has an unchanged status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The spec is valid, by itself and beside the others.
pub const ACCEPTED: &str = "Accepted";
/// What the spec names exists and can be read.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Every replica of the fleet runs it.
pub const PROGRAMMED: &str = "Programmed";
/// The sum of the others: it can be used.
pub const READY: &str = "Ready";
/// A certificate is in the Secret, valid and current.
pub const ISSUED: &str = "Issued";
/// Pods that the identity is bound to are there, and their addresses are told to the fleets.
pub const BOUND: &str = "Bound";

/// Certificates are replaced in time. There only while it is `False`: since then a renewal is due that does not come through.
pub const ROTATING: &str = "Rotating";

/// The roots are where they are asked for. There only while it is `False`.
pub const PUBLISHED: &str = "Published";

/// Reasons of conditions that are `True`.
pub mod ok {
    /// `Accepted`: nothing is wrong with the spec.
    pub const ACCEPTED: &str = "Accepted";
    /// `ResolvedRefs`: all of them exist.
    pub const RESOLVED: &str = "ResolvedRefs";
    /// `Programmed`: every replica answers with the wanted revision.
    pub const PROGRAMMED: &str = "Programmed";
    /// `Ready`: it can be used.
    pub const READY: &str = "Ready";
    /// `Issued`: the certificate is current.
    pub const ISSUED: &str = "Issued";
    /// `Bound`: the addresses of every pod that counts are told.
    pub const BOUND: &str = "Bound";
    /// `Issued`: none is kept; each pod gets its own when its kubelet asks.
    pub const ON_REQUEST: &str = "OnRequest";
}

/// Reasons of conditions that are not `True`.
pub mod reason {
    /// The spec holds something that the schema let through and that cannot work.
    pub const INVALID: &str = "Invalid";
    /// Another object claims the same thing, and came first.
    pub const CONFLICTED: &str = "Conflicted";
    /// A rule lists what the rest of it excludes.
    pub const NEVER_MATCHES: &str = "NeverMatches";
    /// The condition of a rule cannot be read.
    pub const BROKEN_CONDITION: &str = "BrokenCondition";
    /// The named target does not exist (yet).
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";
    /// The named target exists and was not accepted.
    pub const TARGET_NOT_ACCEPTED: &str = "TargetNotAccepted";
    /// The target has no credential of that name.
    pub const CREDENTIAL_NOT_FOUND: &str = "CredentialNotFound";
    /// A named Secret does not exist.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// A named Secret lacks a key, or the key is empty.
    pub const SECRET_INCOMPLETE: &str = "SecretIncomplete";
    /// The named ConfigMap does not exist.
    pub const CONFIG_MAP_NOT_FOUND: &str = "ConfigMapNotFound";
    /// The named ConfigMap lacks a key.
    pub const CONFIG_MAP_INCOMPLETE: &str = "ConfigMapIncomplete";
    /// An object of the wanted name exists and is not ours: it is left alone.
    pub const NOT_OURS: &str = "NotOurs";
    /// The identity is suspended.
    pub const SUSPENDED: &str = "Suspended";
    /// The identity's keys are to be made by kubelets, and this cluster serves no PodCertificateRequest.
    pub const POD_CERTIFICATES_NOT_SERVED: &str = "PodCertificatesNotServed";
    /// The compiled bundle is larger than a ConfigMap can hold.
    pub const BUNDLE_TOO_LARGE: &str = "BundleTooLarge";
    /// The API server refuses the certificate's Secret: a quota, an admission policy or webhook, a missing right.
    pub const WRITE_REFUSED: &str = "WriteRefused";
    /// The certificate's Secret could not be written, again and again.
    pub const WRITE_FAILED: &str = "WriteFailed";
    /// It is on its way.
    pub const PENDING: &str = "Pending";
    /// No pod that the identity is bound to has an address of its own.
    pub const NO_PODS: &str = "NoPods";
    /// More pods than there is room for addresses.
    pub const TOO_MANY_ADDRESSES: &str = "TooManyAddresses";
    /// What the operator was started with says otherwise.
    pub const DISAGREES: &str = "Disagrees";
    /// A key is known to others and is still in use: somebody has to act.
    pub const COMPROMISED: &str = "Compromised";
    /// It ends soon, and only somebody else can replace it.
    pub const NEAR_ITS_END: &str = "NearItsEnd";
    /// The replicas are not up.
    pub const NO_REPLICAS: &str = "NoReplicas";
}

/// One verdict about an object, before it knows when it became true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Condition type.
    pub type_: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// A word for machines.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Finding {
    /// The condition holds.
    #[must_use]
    pub fn yes(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, holds: true, reason, message: message.into() }
    }

    /// The condition does not hold.
    #[must_use]
    pub fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, holds: false, reason, message: message.into() }
    }
}

/// The conditions that come of `findings`, keeping the times of `before` wherever the status did not flip.
#[must_use]
pub fn settle(before: &[Condition], findings: Vec<Finding>, generation: Option<i64>, now: &Time) -> Vec<Condition> {
    findings
        .into_iter()
        .map(|finding| {
            let status = if finding.holds { "True" } else { "False" };
            let since = before
                .iter()
                .find(|old| old.type_ == finding.type_ && old.status == status)
                .map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
            Condition {
                type_: finding.type_.to_owned(),
                status: status.to_owned(),
                reason: finding.reason.to_owned(),
                message: bounded(finding.message),
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

/// `metav1.Condition` bounds a message at 32 KiB; ours stay readable.
fn bounded(mut message: String) -> String {
    const LONGEST: usize = 1024;
    if message.len() > LONGEST {
        let cut = (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(cut);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_time_moves_only_when_the_status_flips() {
        let first = settle(&[], vec![Finding::yes(READY, ok::READY, "a")], Some(1), &at(10));
        let same = settle(&first, vec![Finding::yes(READY, ok::READY, "b")], Some(2), &at(20));
        assert_eq!(same[0].last_transition_time, at(10));
        assert_eq!((same[0].message.as_str(), same[0].observed_generation), ("b", Some(2)));
        let flipped = settle(&same, vec![Finding::no(READY, reason::PENDING, "c")], Some(2), &at(30));
        assert_eq!(flipped[0].last_transition_time, at(30));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let long = settle(&[], vec![Finding::yes(READY, ok::READY, "é".repeat(2000))], None, &at(1));
        assert!(long[0].message.len() <= 1024 + '…'.len_utf8());
        assert!(long[0].message.ends_with('…'));
    }
}
