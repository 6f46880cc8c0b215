//! `AccessPolicy`: what to tell about it, target by target.
//!
//! Owns that. Touches nothing. Invariant: every target that a policy names has an entry, whether it exists or not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use sallyport_crds::conditions::{self, ACCEPTED, Finding, PROGRAMMED, RESOLVED_REFS, ok, reason};
use sallyport_crds::{AccessPolicy, AccessPolicyStatus, AgentIdentity, Ancestor, ProtectedTarget, TargetRef};
use sallyport_policy::{Bundle, Mode, PolicyEntry, Subject};

use super::target::Fleet;
use super::{compile, condition, idle, shadow, target};

/// What one policy needs to know of one target.
#[derive(Debug, Clone)]
pub struct Attachment<'a> {
    /// The target.
    pub target: &'a ProtectedTarget,
    /// Its bundle, with this policy in it.
    pub bundle: &'a Bundle,
    /// Its replicas.
    pub fleet: &'a Fleet,
}

/// The status of `policy`. `attachments` are those of its targets that exist.
#[must_use]
pub fn status<'a>(
    policy: &AccessPolicy,
    attachments: &[Attachment<'_>],
    identities: impl IntoIterator<Item = &'a AgentIdentity>,
    now: Timestamp,
) -> AccessPolicyStatus {
    let mut refs: Vec<_> = policy.spec.target_refs.iter().collect();
    refs.sort_by(|a, b| a.name.cmp(&b.name));
    let ancestors = refs
        .into_iter()
        .map(|named| {
            let attachment = attachments.iter().find(|attachment| attachment.target.name_any() == named.name);
            let findings = attachment.map_or_else(|| absent(&named.name), |attachment| present(policy, attachment));
            let before = before(policy, named);
            let conditions = conditions::settle(before, findings, policy.metadata.generation, &Time(now));
            Ancestor { target_ref: named.clone(), conditions }
        })
        .collect();
    AccessPolicyStatus { ancestors, matched_agents: Some(matched(policy, identities)) }
}

fn before<'a>(policy: &'a AccessPolicy, named: &TargetRef) -> &'a [Condition] {
    let ancestors = policy.status.as_ref().map_or(&[][..], |status| &status.ancestors);
    ancestors.iter().find(|ancestor| ancestor.target_ref == *named).map_or(&[], |ancestor| &ancestor.conditions)
}

fn absent(name: &str) -> Vec<Finding> {
    let message = format!("there is no ProtectedTarget {name} in this namespace (yet)");
    vec![
        Finding::yes(ACCEPTED, ok::ACCEPTED, "the spec is valid"),
        Finding::no(RESOLVED_REFS, reason::TARGET_NOT_FOUND, message.clone()),
        Finding::no(PROGRAMMED, reason::TARGET_NOT_FOUND, message),
    ]
}

fn present(policy: &AccessPolicy, attachment: &Attachment<'_>) -> Vec<Finding> {
    let entry = match compile::entry(policy, attachment.target) {
        Ok(entry) => entry,
        Err(rejected) => {
            return vec![
                Finding::no(ACCEPTED, rejected.reason, rejected.message),
                Finding::yes(RESOLVED_REFS, ok::RESOLVED, "everything it names exists"),
                Finding::no(PROGRAMMED, rejected.reason, "a policy that is not accepted is not enforced"),
            ];
        }
    };
    let unreadable = condition::first_unreadable(&policy.spec);
    let accepted = match (shadow::first(&entry, &attachment.bundle.policies), idle::first(&entry)) {
        _ if unreadable.is_some() => {
            let found = unreadable.map(|found| found.to_string()).unwrap_or_default();
            Finding::no(ACCEPTED, reason::BROKEN_CONDITION, found)
        }
        (None, None) => Finding::yes(ACCEPTED, ok::ACCEPTED, observing(&entry, attachment.bundle)),
        (None, Some(found)) => Finding::no(ACCEPTED, reason::NEVER_MATCHES, found.to_string()),
        (Some(found), _) => Finding::no(
            ACCEPTED,
            reason::CONFLICTED,
            format!(
                "rule {} can never allow anything: rule {} of policy {} denies all that it matches; the other rules are in force",
                found.allow, found.deny, found.policy
            ),
        ),
    };
    let unknown = compile::unknown_credentials(policy, attachment.target);
    let resolved = if unknown.is_empty() {
        Finding::yes(RESOLVED_REFS, ok::RESOLVED, "everything it names exists")
    } else {
        let message = format!("the target has no credential named {}: it is left out", unknown.join(", "));
        Finding::no(RESOLVED_REFS, reason::CREDENTIAL_NOT_FOUND, message)
    };
    vec![accepted, resolved, target::programmed(attachment.target, attachment.bundle, attachment.fleet)]
}

/// What to tell of a valid policy: of one that observes, whom it leaves without any rule that holds.
fn observing(entry: &PolicyEntry, bundle: &Bundle) -> &'static str {
    let enforces = |subject| bundle.policies.iter().any(|p| p.mode == Mode::Enforce && p.subjects.contains(subject));
    match entry.mode {
        Mode::Enforce => "the spec is valid",
        Mode::Observe if entry.subjects.iter().all(enforces) => "the spec is valid; it observes, and others decide",
        Mode::Observe => "the spec is valid; it observes, and subjects that no other policy names are refused nothing",
    }
}

/// How many of `identities` the policy's subjects come to.
fn matched<'a>(policy: &AccessPolicy, identities: impl IntoIterator<Item = &'a AgentIdentity>) -> i32 {
    let own = policy.namespace().unwrap_or_default();
    let subjects: Vec<_> = policy.spec.subjects.iter().filter_map(|subject| compile::who(subject, &own).ok()).collect();
    let count =
        identities.into_iter().filter(|identity| subjects.iter().any(|subject| means(subject, identity))).count();
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn means(subject: &Subject, identity: &AgentIdentity) -> bool {
    let here = identity.namespace().unwrap_or_default();
    match subject {
        Subject::Agent { namespace, name } => *namespace == here && *name == identity.name_any(),
        Subject::Group { namespace, name } => *namespace == here && identity.spec.groups.contains(name),
    }
}
