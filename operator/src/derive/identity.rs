//! `AgentIdentity`: the certificate it should have, and what to tell about it.
//!
//! Owns that decision. Touches nothing. Invariant: no certificate is valid from before the identity's
//! creation or its revocation.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use sallyport_crds::conditions::{self, ACCEPTED, Finding, ISSUED, READY, ROTATING, ok, reason};
use sallyport_crds::{AgentIdentity, AgentIdentityStatus};
use sallyport_policy::IdentityName;

use super::binding::{self, Binding};
use super::certificate::{self, Facts, Held, Names, Plan, Wanted};
use super::pods::Pod;
use super::rotation::{self, Refusal};
use super::{Settings, names};

/// What is to be done about one identity.
#[derive(Debug, Clone, PartialEq)]
pub struct IdentityPlan {
    /// Name of the Secret.
    pub secret: String,
    /// What to do with the certificate in it; nothing if the identity was rejected.
    pub certificate: Option<Plan>,
    /// What to tell.
    pub status: AgentIdentityStatus,
    /// How long nothing changes by itself.
    pub again: Option<Duration>,
}

/// The plan for `identity`, given what its Secret holds, and the pods of its namespace as far as they are known.
#[must_use]
pub fn plan(
    identity: &AgentIdentity,
    held: &Held,
    pods: Option<&[Arc<Pod>]>,
    settings: &Settings,
    now: Timestamp,
) -> IdentityPlan {
    let secret = names::identity_secret(identity);
    let told = |findings| {
        let before = identity.status.as_ref().map_or(&[][..], |status| &status.conditions);
        conditions::settle(before, findings, identity.metadata.generation, &Time(now))
    };
    let (name, wanted) = match wanted(identity, settings) {
        Ok(wanted) => wanted,
        Err(message) => {
            let findings = vec![
                Finding::no(ACCEPTED, reason::INVALID, message.clone()),
                Finding::no(ISSUED, reason::INVALID, "nothing is issued for an identity that is not accepted"),
                Finding::no(READY, reason::INVALID, message),
            ];
            let status = AgentIdentityStatus { conditions: told(findings), ..AgentIdentityStatus::default() };
            return IdentityPlan { secret, certificate: None, status, again: None };
        }
    };
    let plan = certificate::plan(held, &wanted, now);
    let mut status = AgentIdentityStatus {
        spiffe_id: Some(name.to_string()),
        // With several pods there is no serial, and no time, that would be the identity's: none is told.
        secret_name: (!matches!(plan, Plan::OnRequest { .. })).then(|| secret.clone()),
        ..Default::default()
    };
    if let Plan::Keep { facts, renewal } = &plan {
        show(&mut status, facts, *renewal);
    }
    let mut findings = findings(identity, &plan, &secret, now);
    let mut again = again(&plan, now);
    if let Some(Binding { bound_for, addresses, finding, again: sooner }) = binding::of(identity, pods, now) {
        status.bound_for = Some(bound_for);
        status.bound_addresses = addresses;
        // Ready does not wait for it: a pod needs the certificate before it can run.
        findings.push(finding);
        again = again.into_iter().chain(sooner).min();
    }
    status.conditions = told(findings);
    IdentityPlan { secret, again, certificate: Some(plan), status }
}

/// What to tell when the certificate that `plan` wants could not be written: the one that is held goes on while it can.
pub fn stuck(
    plan: &mut IdentityPlan,
    identity: &AgentIdentity,
    held: &Held,
    settings: &Settings,
    refusal: &Refusal,
    now: Timestamp,
) {
    let before = identity.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = identity.metadata.generation;
    let usable = match (held, wanted(identity, settings)) {
        (Held::Certificate(facts), Ok((_, wanted))) if certificate::is_usable(facts, &wanted, now) => {
            Some((facts, certificate::renewal(facts, &wanted)))
        }
        _ => None,
    };
    let mut told = findings(identity, &plan.held(usable), &plan.secret, now);
    match usable {
        Some((facts, renewal)) => show(&mut plan.status, facts, renewal),
        None => told.retain(|finding| finding.type_ != ISSUED),
    }
    let mut conditions = std::mem::take(&mut plan.status.conditions);
    for told in conditions::settle(before, told, generation, &Time(now)) {
        conditions.iter_mut().filter(|old| old.type_ == told.type_).for_each(|old| *old = told.clone());
    }
    let type_ = if usable.is_some() { ROTATING } else { ISSUED };
    plan.status.conditions = rotation::stuck(type_, before, conditions, refusal, generation, now);
}

impl IdentityPlan {
    /// The plan to show: to keep what is held while it can be used.
    fn held(&self, usable: Option<(&Facts, Timestamp)>) -> Plan {
        match (usable, &self.certificate) {
            (Some((facts, renewal)), _) => Plan::Keep { facts: facts.clone(), renewal },
            (None, Some(plan)) => plan.clone(),
            (None, None) => Plan::Blocked,
        }
    }
}

fn show(status: &mut AgentIdentityStatus, facts: &Facts, renewal: Timestamp) {
    status.serial = Some(facts.serial.clone());
    status.not_before = Some(Time(facts.not_before));
    status.not_after = Some(Time(facts.not_after));
    // Statuses know whole seconds.
    status.renewal_time = Some(Time(certificate::whole_second(renewal, false)));
}

pub(super) fn wanted(identity: &AgentIdentity, settings: &Settings) -> Result<(IdentityName, Wanted), String> {
    let namespace = identity.namespace().unwrap_or_default();
    let name = IdentityName::new(&settings.trust_domain, &namespace, &identity.name_any())
        .map_err(|error| format!("its name makes no identity: {error}"))?;
    let spec = &identity.spec.certificate;
    let lifetime = duration("certificate.duration", &spec.duration)?;
    let renew_before = match &spec.renew_before {
        Some(text) => duration("certificate.renewBefore", text)?,
        None => lifetime / 3,
    };
    let created = identity.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let not_before = certificate::earliest(created, identity.spec.revoke_before.as_ref().map(|time| time.0));
    let names = Names { uris: vec![name.to_string()], dns: Vec::new() };
    Ok((
        name,
        Wanted {
            names,
            uid: identity.metadata.uid.clone(),
            key_algorithm: spec.key_algorithm,
            lifetime,
            renew_before,
            not_before,
            since: settings.since,
        },
    ))
}

fn findings(identity: &AgentIdentity, plan: &Plan, secret: &str, now: Timestamp) -> Vec<Finding> {
    let issued = match plan {
        Plan::Keep { facts, .. } => {
            Finding::yes(ISSUED, ok::ISSUED, format!("certificate {} is in Secret {secret}", facts.serial))
        }
        Plan::Issue(order) => {
            Finding::no(ISSUED, reason::PENDING, format!("a certificate is issued: {}", order.because))
        }
        Plan::OnRequest { served: true } => {
            let account = identity.spec.service_account_name.as_deref().unwrap_or_default();
            let message = format!("each pod of service account {account} gets its own, with a key that its node makes");
            Finding::yes(ISSUED, ok::ON_REQUEST, message)
        }
        Plan::OnRequest { served: false } => Finding::no(
            ISSUED,
            reason::POD_CERTIFICATES_NOT_SERVED,
            "this cluster does not serve certificates.k8s.io/v1 PodCertificateRequest: set certificate.delivery to Secret",
        ),
        Plan::Blocked => Finding::no(
            ISSUED,
            reason::NOT_OURS,
            format!(
                "Secret {secret} exists and belongs to somebody else: delete it, or choose another certificate.secretName"
            ),
        ),
    };
    let ready = match plan {
        _ if identity.spec.suspend => {
            Finding::no(READY, reason::SUSPENDED, "it is suspended: every command of it is refused")
        }
        Plan::Keep { facts, .. } if facts.not_before > now => {
            let asked = identity.spec.revoke_before.as_ref().is_some_and(|time| time.0 > now);
            let why =
                if asked { "revokeBefore lies ahead" } else { "this operator's clock is behind the API server's" };
            Finding::no(READY, reason::PENDING, format!("its certificate is valid from a time to come: {why}"))
        }
        Plan::Keep { .. } | Plan::OnRequest { served: true } => Finding::yes(READY, ok::READY, "it can be used"),
        Plan::OnRequest { served: false } => Finding::no(READY, issued.reason, issued.message.clone()),
        Plan::Issue(_) | Plan::Blocked => Finding::no(READY, issued.reason, "it has no current certificate"),
    };
    vec![Finding::yes(ACCEPTED, ok::ACCEPTED, "the spec is valid"), issued, ready]
}

fn again(plan: &Plan, now: Timestamp) -> Option<Duration> {
    match plan {
        Plan::Keep { facts, renewal } => {
            let valid = certificate::until(facts.not_before, now);
            Some(if valid.is_zero() { certificate::until(*renewal, now) } else { valid })
        }
        Plan::Issue(_) | Plan::OnRequest { .. } => None,
        // Somebody else's Secret is not watched.
        Plan::Blocked => Some(Duration::from_secs(30)),
    }
}

/// A duration as people write it.
pub(crate) fn duration(field: &str, text: &str) -> Result<Duration, String> {
    kube::core::Duration::from_str(text)
        .ok()
        .filter(|duration| !duration.is_negative())
        .map(Duration::from)
        .ok_or_else(|| format!("{field}: {text:?} is no duration: write it like 1h or 20m"))
}
