//! The life of the authority: which step is next, as a state machine over what is written down.
//!
//! Owns that decision. Touches its arguments only. Invariants: an authority signs only when every relying
//! party has trusted it for a while; a root is trusted until the last leaf below it has ended; a key that is
//! known to others ends both at once. A step is one write, so that whoever is killed goes on from there.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::certificate::{plus, until};

/// Longer than a reconcile may take and a leaf be dated ahead: what is in flight when the signer changes.
const IN_FLIGHT: Duration = Duration::from_secs(60);
/// Authorities that are trusted and sign no more, at most: every relying party carries them.
const MOST_PREVIOUS: usize = 8;
/// Without a waking it is looked again.
const RECHECK: Duration = Duration::from_secs(5);

/// What can be told of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFacts {
    /// SHA-256 of the signing certificate, hexadecimal.
    pub fingerprint: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// Start of its validity.
    pub not_before: Timestamp,
    /// End of its validity, or of a certificate above it if that ends before.
    pub not_after: Timestamp,
    /// Fingerprints of the roots that it is trusted by.
    pub roots: BTreeSet<String>,
}

/// The authority that signs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// It.
    pub ca: CaFacts,
    /// Since when every relying party has its root, if they all do.
    pub settled: Option<Timestamp>,
}

/// An authority that signs no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    /// It.
    pub ca: CaFacts,
    /// Its last leaf has ended by then.
    pub retire_after: Timestamp,
}

/// All that is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// What signs.
    pub active: CaFacts,
    /// What signs next.
    pub next: Option<Next>,
    /// What signed.
    pub previous: Vec<Previous>,
}

impl Ledger {
    /// Whether the other one has the same signer, or the one that was to sign next.
    #[must_use]
    pub fn leads_to(&self, other: &Self) -> bool {
        let next = self.next.as_ref().is_some_and(|next| next.ca == other.active);
        self.active == other.active || next
    }
}

/// What somebody else put where authorities are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// Nothing is looked for: the operator makes its own.
    Generate,
    /// It cannot be used: a word and a sentence.
    Unusable(&'static str, String),
    /// It can.
    Usable(CaFacts),
}

/// What is wanted of the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// How long before its end it is replaced.
    pub renew_before: Duration,
    /// One made before this is replaced in order.
    pub requested_at: Option<Timestamp>,
    /// One made before this is out of trust.
    pub compromised_before: Option<Timestamp>,
    /// How long all must have had a root before its authority signs.
    pub propagation: Duration,
}

/// How far the roots have come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread {
    /// Who does not have all roots yet: replicas and Secrets by name.
    pub lacking: BTreeSet<String>,
    /// Fingerprints of the authorities that signed the certificates fleets serve with.
    pub serving: BTreeSet<String>,
    /// The longest that a leaf lives.
    pub longest_leaf: Duration,
}

/// What is done next: one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Take an authority (made, or the given one) as the next, and publish its root.
    Prepare(&'static str),
    /// Write down that all have the next one's root.
    Settle,
    /// The next signs; the key of the one before is destroyed. It stays trusted until then.
    Promote(Timestamp),
    /// An authority (the given one) under a root that all trust already signs at once.
    Exchange(Timestamp),
    /// These are trusted no more.
    Retire(BTreeSet<String>),
    /// The next is dropped before it signed anything.
    Abandon(&'static str),
    /// An authority (made, or the given one) signs at once, and nothing else is trusted.
    Replace(&'static str),
}

/// What is to be done, and why nothing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The step.
    pub step: Step,
    /// What is waited for, or what somebody has to do: a word and a sentence.
    pub waits: Option<(Wait, String)>,
    /// When to look again.
    pub again: Duration,
}

/// Why nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It goes on by itself.
    Pending,
    /// The given authority cannot be used.
    Given(&'static str),
    /// A key known to others signs, and only somebody else can replace it.
    Compromised,
    /// The given authority ends soon.
    NearItsEnd,
    /// The next step cannot be written down: a word for what the API server said.
    Unwritten(&'static str),
}

/// The next step.
#[must_use]
pub fn plan(ledger: &Ledger, given: &Given, want: &Wanted, spread: &Spread, now: Timestamp) -> Plan {
    let stolen = |ca: &CaFacts| made_before(ca, want.compromised_before, now);
    let given = &match given {
        Given::Usable(ca) if stolen(ca) && ca.fingerprint != ledger.active.fingerprint => {
            Given::Unusable("Compromised", "its key is known to others (rotation.compromisedBefore)".to_owned())
        }
        other => other.clone(),
    };
    let mut waits = match given {
        Given::Unusable(word, why) => Some((Wait::Given(word), why.clone())),
        Given::Generate | Given::Usable(_) => None,
    };
    // A key that is known to others, before everything else.
    if stolen(&ledger.active) {
        match given {
            Given::Generate => return step(Step::Replace("its key is known to others")),
            Given::Usable(other) if !stolen(other) => return step(Step::Replace("its key is known to others")),
            Given::Usable(_) | Given::Unusable(..) => {
                let why = "the key that signs is known to others: put an authority made since into its Secret";
                waits = Some((Wait::Compromised, why.to_owned()));
            }
        }
    }
    if ledger.next.as_ref().is_some_and(|next| stolen(&next.ca)) {
        return step(Step::Abandon("its key is known to others"));
    }
    let over = |previous: &&Previous| {
        let ended = now >= previous.retire_after && !spread.serving.contains(&previous.ca.fingerprint);
        ended || stolen(&previous.ca)
    };
    let over: BTreeSet<_> = ledger.previous.iter().filter(over).map(|it| it.ca.fingerprint.clone()).collect();
    if !over.is_empty() {
        return step(Step::Retire(over));
    }
    match &ledger.next {
        Some(next) => under_way(ledger, next, given, want, spread, now, waits),
        None => at_rest(ledger, given, want, spread, now, waits),
    }
}

type Waits = Option<(Wait, String)>;

fn under_way(
    ledger: &Ledger,
    next: &Next,
    given: &Given,
    want: &Wanted,
    spread: &Spread,
    now: Timestamp,
    waits: Waits,
) -> Plan {
    if let Given::Usable(other) = given {
        if other.fingerprint == ledger.active.fingerprint {
            return step(Step::Abandon("the one before was put back"));
        }
        if other.fingerprint != next.ca.fingerprint {
            return step(Step::Prepare("another one was given"));
        }
    }
    // What it signs would not outlive it: those who lack the next one's root lose nothing any more.
    let overdue = until(ledger.active.not_after, now) <= spread.longest_leaf;
    let told = |why: String, again: Duration| {
        let waits = waits.clone().or(Some((Wait::Pending, why)));
        Plan { step: Step::Keep, waits, again }
    };
    if !spread.lacking.is_empty() && !overdue {
        let some: Vec<_> = spread.lacking.iter().take(3).map(String::as_str).collect();
        let why = format!("{} do not have the next root yet: {}", spread.lacking.len(), some.join(", "));
        return told(why, RECHECK);
    }
    let Some(settled) = next.settled else { return step(Step::Settle) };
    let signs = plus(settled, want.propagation);
    if now < signs && !overdue {
        return told(format!("all have the next root; it signs at {signs}"), until(signs, now));
    }
    step(Step::Promote(retire_after(want, spread, now)))
}

fn at_rest(ledger: &Ledger, given: &Given, want: &Wanted, spread: &Spread, now: Timestamp, waits: Waits) -> Plan {
    let active = &ledger.active;
    let due = if made_before(active, want.requested_at, now) {
        Some("it was asked for")
    } else if until(active.not_after, now) <= want.renew_before {
        Some("its end comes near")
    } else {
        None
    };
    let full = ledger.previous.len() >= MOST_PREVIOUS;
    let mut waits = waits;
    match (given, due) {
        (Given::Usable(other), _) if other.fingerprint != active.fingerprint => {
            if full {
                waits = waits.or_else(|| Some((Wait::Pending, "too many authorities are still trusted".to_owned())));
            } else if other.roots.is_subset(&active.roots) {
                return step(Step::Exchange(retire_after(want, spread, now)));
            } else {
                return step(Step::Prepare("another one was given"));
            }
        }
        (Given::Generate, Some(because)) if !full => return step(Step::Prepare(because)),
        (Given::Generate, None) | (Given::Unusable(..), _) | (Given::Usable(_), None) => {}
        (Given::Generate, Some(_)) => {
            waits = waits.or_else(|| Some((Wait::Pending, "too many authorities are still trusted".to_owned())));
        }
        (Given::Usable(_), Some(because)) => {
            let why = format!("{because}: put another authority into its Secret, it ends at {}", active.not_after);
            waits = waits.or(Some((Wait::NearItsEnd, why)));
        }
    }
    let retires = ledger.previous.iter().map(|previous| previous.retire_after);
    let asked = [want.requested_at, want.compromised_before].into_iter().flatten().filter(|at| *at > now);
    let soonest = retires.chain(asked).map(|at| until(at, now)).min().unwrap_or(Duration::MAX);
    // A fleet that still serves with the old one is waited for.
    let again = soonest.max(Duration::from_secs(1)).min(Duration::from_secs(300));
    Plan { step: Step::Keep, waits, again }
}

fn step(step: Step) -> Plan {
    Plan { step, waits: None, again: Duration::ZERO }
}

fn retire_after(want: &Wanted, spread: &Spread, now: Timestamp) -> Timestamp {
    plus(now, spread.longest_leaf.max(want.propagation) + IN_FLIGHT)
}

/// Whether `ca` was made before a time that has come. Certificates know whole seconds: one made in the same
/// second counts as made since.
fn made_before(ca: &CaFacts, at: Option<Timestamp>, now: Timestamp) -> bool {
    at.is_some_and(|at| at <= now && ca.not_before.as_second() < at.as_second())
}
