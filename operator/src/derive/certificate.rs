//! Whether a certificate can stay, or why not: a list of named checks.
//!
//! Owns the life of a leaf certificate, for agents and fleets alike. Touches nothing; facts about the
//! held certificate and the time are arguments. Invariant: every certificate is replaced for a reason that can be told.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use sallyport_crds::KeyAlgorithm;

use super::renewal::Window;

/// What the Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// There is no such Secret.
    Missing,
    /// There is one, and it is somebody else's.
    Foreign,
    /// It is ours, and holds no certificate with its key.
    Unreadable(String),
    /// It is ours.
    Certificate(Facts),
    /// There is to be none: kubelets make the keys, where the cluster lets them.
    InPods {
        /// Whether it does.
        served: bool,
    },
}

/// What is known of a held certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// The names in it.
    pub names: Names,
    /// The UID of the object it was issued for, where it says.
    pub uid: Option<String>,
    /// An authority of the trust domain signed it, whose leaves are still accepted.
    pub from_our_authority: bool,
    /// The kind of its key; nothing for one that is not issued here.
    pub key_algorithm: Option<KeyAlgorithm>,
    /// The CA certificates beside it are the current ones.
    pub trust_is_current: bool,
    /// The private key beside it is the certificate's.
    pub key_matches: bool,
}

/// The subject alternative names of a certificate, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// URIs.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
}

/// What the certificate should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The names in it.
    pub names: Names,
    /// The UID of the identity it is for; a fleet's certificate needs none.
    pub uid: Option<String>,
    /// The kind of its key.
    pub key_algorithm: KeyAlgorithm,
    /// How long it is valid.
    pub lifetime: Duration,
    /// How long before its end it is replaced.
    pub renew_before: Duration,
    /// Certificates that are valid from an earlier time are dead.
    pub not_before: Timestamp,
    /// Since when renewals are acted on without a gap: those due before were missed, and are made up for from then on.
    pub since: Timestamp,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing, until `renewal`.
    Keep {
        /// The certificate.
        facts: Facts,
        /// When it is to be replaced.
        renewal: Timestamp,
    },
    /// Issue a new one with a new key.
    Issue(Order),
    /// Leave the Secret alone: it is not ours.
    Blocked,
    /// Sign for each pod when its kubelet asks, where the cluster lets it.
    OnRequest {
        /// Whether it does.
        served: bool,
    },
}

/// A certificate to be issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The names in it.
    pub names: Names,
    /// The kind of its key.
    pub key_algorithm: KeyAlgorithm,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Why, for the event and the log.
    pub because: &'static str,
}

/// The reason that comes to every certificate.
pub const RENEWAL: &str = "its renewal is due";

/// How far ahead of this clock a certificate may start: two operators' clocks are not the same.
const SKEW: Duration = Duration::from_secs(10);

type Check = (&'static str, fn(&Facts, &Wanted, Timestamp) -> bool);

/// Reasons to replace a certificate, the first that holds is told.
const CHECKS: &[Check] = &[
    ("the private key is not the certificate's", |held, _, _| !held.key_matches),
    ("another authority signed it", |held, _, _| !held.from_our_authority),
    ("the names in it changed", |held, want, _| held.names != want.names),
    ("it was issued for another object", |held, want, _| held.uid != want.uid),
    ("its key algorithm was changed", |held, want, _| held.key_algorithm != Some(want.key_algorithm)),
    ("it was revoked", |held, want, _| held.not_before < want.not_before),
    ("its duration was changed", |held, want, _| {
        held.not_after.duration_since(held.not_before) != signed(want.lifetime)
    }),
    ("it is valid only from a time to come: the clock was set back", |held, want, now| {
        held.not_before > plus(now.max(want.not_before), SKEW)
    }),
    (RENEWAL, |held, want, now| now >= renewal(held, want)),
];

/// What to do about the certificate that is held.
#[must_use]
pub fn plan(held: &Held, want: &Wanted, now: Timestamp) -> Plan {
    match held {
        Held::Foreign => Plan::Blocked,
        Held::InPods { served } => Plan::OnRequest { served: *served },
        Held::Missing => Plan::Issue(order(want, now, "there was none")),
        Held::Unreadable(_) => Plan::Issue(order(want, now, "the Secret could not be read")),
        Held::Certificate(facts) => match CHECKS.iter().find(|(_, fails)| fails(facts, want, now)) {
            Some((because, _)) => Plan::Issue(order(want, now, because)),
            None => Plan::Keep { facts: facts.clone(), renewal: renewal(facts, want) },
        },
    }
}

/// Whether nothing but its age speaks against a certificate: it still serves while its successor cannot be written.
#[must_use]
pub fn is_usable(held: &Facts, want: &Wanted, now: Timestamp) -> bool {
    held.key_matches
        && held.from_our_authority
        && held.names == want.names
        && held.uid == want.uid
        && held.not_before >= want.not_before
        && held.not_before <= now
        && now < held.not_after
}

/// The longest pause between two tries to replace a certificate: a quarter of what is left of it, so that several
/// follow however late it is; and some minutes at the most.
#[must_use]
pub fn patience(held: &Held, now: Timestamp) -> Duration {
    let left = match held {
        Held::Certificate(facts) => until(facts.not_after, now),
        _ => Duration::ZERO,
    };
    (left / 4).clamp(Duration::from_secs(30), Duration::from_secs(600))
}

/// When `held` is replaced.
pub(super) fn renewal(held: &Facts, want: &Wanted) -> Timestamp {
    Window::new(want.lifetime, want.renew_before).renewal(&held.serial, held.not_after, want.since)
}

/// Not backdated: a proxy refuses a certificate that is valid from before the identity's creation or revocation.
fn order(want: &Wanted, now: Timestamp, because: &'static str) -> Order {
    let not_before = whole_second(now.max(want.not_before), now < want.not_before);
    let not_after = plus(not_before, want.lifetime);
    Order { names: want.names.clone(), key_algorithm: want.key_algorithm, not_before, not_after, because }
}

/// Certificates know whole seconds: down, or up where an earlier time would already be dead.
pub(super) fn whole_second(at: Timestamp, up: bool) -> Timestamp {
    let second = at.as_second() + i64::from(up && at.subsec_nanosecond() > 0);
    Timestamp::from_second(second).unwrap_or(at)
}

/// The later of creation and revocation, to the next whole second.
#[must_use]
pub fn earliest(created: Option<Timestamp>, revoke_before: Option<Timestamp>) -> Timestamp {
    whole_second(created.into_iter().chain(revoke_before).max().unwrap_or(Timestamp::UNIX_EPOCH), true)
}

/// `at` and `span` later; the end of time where there is no later.
#[must_use]
pub fn plus(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(signed(span)).unwrap_or(Timestamp::MAX)
}

/// `at` and `span` earlier; the beginning of time where there is no earlier.
#[must_use]
pub fn minus(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_sub(signed(span)).unwrap_or(Timestamp::MIN)
}

fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX)
}

/// Time from `now` until `at`, nothing when it has passed.
#[must_use]
pub fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn want() -> Wanted {
        Wanted {
            names: Names { uris: vec!["spiffe://t/ns/a/agent/b".into()], dns: vec![] },
            uid: Some("0b6f".into()),
            key_algorithm: KeyAlgorithm::EcdsaP256,
            lifetime: Duration::from_secs(3600),
            renew_before: Duration::from_secs(1200),
            not_before: at(1000),
            since: at(0),
        }
    }

    fn held(from: i64) -> Facts {
        Facts {
            serial: "0f".into(),
            not_before: at(from),
            not_after: at(from + 3600),
            names: want().names,
            uid: want().uid,
            from_our_authority: true,
            key_algorithm: Some(KeyAlgorithm::EcdsaP256),
            trust_is_current: true,
            key_matches: true,
        }
    }

    fn because(facts: Facts, now: i64) -> Option<&'static str> {
        match plan(&Held::Certificate(facts), &want(), at(now)) {
            Plan::Issue(order) => Some(order.because),
            _ => None,
        }
    }

    #[test]
    fn a_good_certificate_stays_until_two_thirds() {
        assert_eq!(because(held(1000), 1000), None);
        assert_eq!(because(held(1000), 1000 + 1799), None);
        assert_eq!(because(held(1000), 1000 + 2400), Some("its renewal is due"));
    }

    #[test]
    fn each_fault_is_told() {
        assert_eq!(
            because(Facts { key_matches: false, ..held(1000) }, 1000),
            Some("the private key is not the certificate's")
        );
        assert_eq!(
            because(Facts { from_our_authority: false, ..held(1000) }, 1000),
            Some("another authority signed it")
        );
        assert_eq!(because(Facts { names: Names::default(), ..held(1000) }, 1000), Some("the names in it changed"));
        for uid in [None, Some("another".to_owned())] {
            assert_eq!(because(Facts { uid, ..held(1000) }, 1000), Some("it was issued for another object"));
        }
        for key_algorithm in [None, Some(KeyAlgorithm::Ed25519)] {
            assert_eq!(because(Facts { key_algorithm, ..held(1000) }, 1000), Some("its key algorithm was changed"));
        }
        assert_eq!(because(held(1000), 995), None);
        let ahead = because(held(1300), 1000).unwrap();
        assert!(ahead.contains("the clock was set back"), "{ahead}");
        assert_eq!(because(held(999), 1000), Some("it was revoked"));
        assert_eq!(because(Facts { not_after: at(9000), ..held(1000) }, 1000), Some("its duration was changed"));
    }

    #[test]
    fn a_secret_of_somebody_else_is_left_alone() {
        assert_eq!(plan(&Held::Foreign, &want(), at(2000)), Plan::Blocked);
    }

    #[test]
    fn a_certificate_is_never_backdated() {
        for now in [900, 1000, 5000] {
            let Plan::Issue(order) = plan(&Held::Missing, &want(), at(now)) else { panic!("not issued") };
            assert_eq!(order.not_before, at(now.max(1000)));
            let issued = Facts { not_before: order.not_before, not_after: order.not_after, ..held(0) };
            assert_eq!(because(issued, now), None, "a fresh certificate must satisfy the checks that asked for it");
        }
    }

    #[test]
    fn a_revocation_within_a_second_counts_as_the_next() {
        let fraction = Timestamp::new(1000, 700_000_000).unwrap();
        assert_eq!(earliest(Some(at(10)), Some(fraction)), at(1001));
        assert_eq!(earliest(None, None), Timestamp::UNIX_EPOCH);
    }
}
