//! `TrustDomain`: which one counts, what it wants, and what to tell about it.
//!
//! Owns that decision. Touches nothing. Invariant: an object that disagrees with what the operator was started
//! with changes nothing: identities are named by one trust domain for as long as there are any.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use sallyport_crds::conditions::{self, ACCEPTED, Finding, READY, ok, reason};
use sallyport_crds::{
    AuthoritySource, AuthorityStatus, KeyAlgorithm, PreviousAuthority, TrustDomain, TrustDomainSpec, TrustDomainStatus,
};

use super::publish::{self, Unpublished};
use super::trust::{CaFacts, Ledger, Plan, Wait, Wanted};
use super::{Settings, identity};

/// How long an authority is valid that is made without a word about it.
pub const LIFETIME: Duration = Duration::from_secs(87_600 * 3600);
const PROPAGATION: Duration = Duration::from_secs(300);

/// How authorities come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The Secret of a given one; nothing where the operator makes its own.
    pub given: Option<String>,
    /// The key of one that is made.
    pub algorithm: KeyAlgorithm,
    /// How long one that is made is valid.
    pub lifetime: Duration,
}

/// The object that counts, if any, and why the others do not.
#[derive(Debug, Clone, PartialEq)]
pub struct Elected<'a> {
    /// The oldest, if it agrees with the operator's flags.
    pub domain: Option<&'a TrustDomain>,
    /// What it wants; without one what the flags say.
    pub wanted: Wanted,
    /// How authorities come about.
    pub origin: Origin,
    /// The others, each with what to tell of it.
    pub others: Vec<(&'a TrustDomain, Finding)>,
}

/// Of several the oldest counts; of those of one second the first by name. `given` is the Secret that the flags
/// name, if it is somebody else's.
pub fn elect<'a>(
    domains: impl IntoIterator<Item = &'a TrustDomain>,
    given: Option<&str>,
    settings: &Settings,
) -> Elected<'a> {
    let live = domains.into_iter().filter(|domain| domain.metadata.deletion_timestamp.is_none());
    let mut all: Vec<_> = live.collect();
    all.sort_by_key(|domain| (domain.metadata.creation_timestamp.as_ref().map(|at| at.0), domain.name_any()));
    let (wanted, origin) = by_flags(given);
    let mut elected = Elected { domain: None, wanted, origin, others: Vec::new() };
    let first = all.first().map(|domain| domain.name_any()).unwrap_or_default();
    for (at, domain) in all.into_iter().enumerate() {
        let (ours, named) = (&settings.trust_domain, &domain.spec.trust_domain);
        let refused = if at > 0 {
            let why = format!("TrustDomain {first} is older, and there is one: delete this one or that one");
            Finding::no(ACCEPTED, reason::CONFLICTED, why)
        } else if named != ours {
            let why = format!(
                "the operator was started with --trust-domain {ours} and issues for it: name that one, or start another operator with {named}"
            );
            Finding::no(ACCEPTED, reason::DISAGREES, why)
        } else {
            match wanted_by(&domain.spec) {
                Ok((wanted, origin)) => {
                    elected = Elected { domain: Some(domain), wanted, origin, ..elected };
                    continue;
                }
                Err(why) => Finding::no(ACCEPTED, reason::INVALID, why),
            }
        };
        elected.others.push((domain, refused));
    }
    elected
}

fn wanted_by(spec: &TrustDomainSpec) -> Result<(Wanted, Origin), String> {
    let lifetime = identity::duration("ca.duration", &spec.ca.duration)?;
    let renew_before = match &spec.ca.renew_before {
        Some(text) => identity::duration("ca.renewBefore", text)?,
        None => lifetime / 3,
    };
    let wanted = Wanted {
        renew_before,
        requested_at: spec.rotation.requested_at.as_ref().map(|time| time.0),
        compromised_before: spec.rotation.compromised_before.as_ref().map(|time| time.0),
        propagation: identity::duration("rotation.propagationTime", &spec.rotation.propagation_time)?,
    };
    let given = match spec.ca.source {
        AuthoritySource::SecretRef => Some(spec.ca.secret_ref.as_ref().ok_or("ca.secretRef: name the Secret")?),
        AuthoritySource::Generate => None,
    };
    let given = given.map(|named| named.name.clone());
    Ok((wanted, Origin { given, algorithm: spec.ca.key_algorithm, lifetime }))
}

/// The defaults of the schema.
fn by_flags(given: Option<&str>) -> (Wanted, Origin) {
    let wanted =
        Wanted { renew_before: LIFETIME / 3, requested_at: None, compromised_before: None, propagation: PROPAGATION };
    (wanted, Origin { given: given.map(str::to_owned), algorithm: KeyAlgorithm::default(), lifetime: LIFETIME })
}

/// What to tell about the one that counts.
#[must_use]
pub fn status(
    domain: &TrustDomain,
    ledger: &Ledger,
    plan: &Plan,
    unpublished: &[Unpublished],
    trust: &str,
    now: Timestamp,
) -> TrustDomainStatus {
    let ready = match &plan.waits {
        None => Finding::yes(READY, ok::READY, "the authority signs"),
        Some((Wait::Pending, what)) => Finding::yes(READY, ok::READY, what),
        Some((Wait::Given(word), why)) => {
            Finding::no(READY, word, format!("{why}; the last good authority stays in force"))
        }
        Some((Wait::Compromised, why)) => Finding::no(READY, reason::COMPROMISED, why),
        Some((Wait::NearItsEnd, why)) => Finding::no(READY, reason::NEAR_ITS_END, why),
        Some((Wait::Unwritten(word), why)) => Finding::no(READY, word, why),
    };
    let mut findings = vec![Finding::yes(ACCEPTED, ok::ACCEPTED, "the spec is valid"), ready];
    findings.extend(publish::finding(unpublished));
    let phase = match (&ledger.next, ledger.previous.is_empty()) {
        (Some(_), _) => "Propagating",
        (None, false) => "Retiring",
        (None, true) => "Stable",
    };
    let previous = ledger.previous.iter().map(|previous| PreviousAuthority {
        fingerprint: previous.ca.fingerprint.clone(),
        retire_after: Time(previous.retire_after),
    });
    TrustDomainStatus {
        phase: Some(phase.to_owned()),
        active: Some(told(&ledger.active)),
        next: ledger.next.as_ref().map(|next| told(&next.ca)),
        previous: previous.collect(),
        trust: Some(trust.to_owned()),
        conditions: settled(domain, findings, now),
    }
}

/// What to tell about one that does not count.
#[must_use]
pub fn refused(domain: &TrustDomain, why: Finding, now: Timestamp) -> TrustDomainStatus {
    let ready = Finding::no(READY, why.reason, why.message.clone());
    TrustDomainStatus { conditions: settled(domain, vec![why, ready], now), ..TrustDomainStatus::default() }
}

fn settled(domain: &TrustDomain, findings: Vec<Finding>, now: Timestamp) -> Vec<Condition> {
    let before = domain.status.as_ref().map_or(&[][..], |status| &status.conditions);
    conditions::settle(before, findings, domain.metadata.generation, &Time(now))
}

fn told(ca: &CaFacts) -> AuthorityStatus {
    AuthorityStatus {
        fingerprint: ca.fingerprint.clone(),
        serial: ca.serial.clone(),
        not_before: Time(ca.not_before),
        not_after: Time(ca.not_after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str, second: i64, trust_domain: &str) -> TrustDomain {
        let spec = TrustDomainSpec { trust_domain: trust_domain.to_owned(), ..TrustDomainSpec::default() };
        let mut domain = TrustDomain::new(name, spec);
        domain.metadata.creation_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
        domain
    }

    fn settings() -> Settings {
        Settings {
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            proxy_image: "sallyport-proxy:dev".into(),
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn of_two_the_older_counts_and_of_one_age_the_first_by_name() {
        let (young, old, twin) =
            (domain("a", 20, "cluster.local"), domain("c", 10, "cluster.local"), domain("b", 10, "cluster.local"));
        for order in [[&young, &old, &twin], [&twin, &young, &old], [&old, &twin, &young]] {
            let elected = elect(order, None, &settings());
            assert_eq!(elected.domain.map(ResourceExt::name_any).as_deref(), Some("b"));
            let others: Vec<_> = elected.others.iter().map(|(domain, why)| (domain.name_any(), why.reason)).collect();
            assert_eq!(others, [("c".to_owned(), reason::CONFLICTED), ("a".to_owned(), reason::CONFLICTED)]);
        }
    }

    #[test]
    fn one_that_disagrees_with_the_flags_changes_nothing() {
        let other = domain("a", 10, "elsewhere.example");
        let elected = elect([&other], None, &settings());
        assert_eq!(elected.domain, None);
        assert_eq!(elected.others[0].1.reason, reason::DISAGREES);
        assert!(elected.others[0].1.message.contains("cluster.local"));
    }

    #[test]
    fn without_one_the_flags_give_the_same_values() {
        let object = domain("a", 10, "cluster.local");
        let (with, without) = (elect([&object], None, &settings()), elect([], None, &settings()));
        assert_eq!((with.wanted, with.origin), (without.wanted, without.origin));
        assert_eq!(elect([], Some("theirs"), &settings()).origin.given.as_deref(), Some("theirs"));
    }
}
