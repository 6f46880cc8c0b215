//! How it stands with all objects, counted when somebody asks for metrics.
//!
//! Owns that count. Touches the stores, which every operator has, leading or not. Invariant: labels are kinds and
//! condition types of our own, never names from objects.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use sallyport_crds::AgentIdentity;
use sallyport_crds::conditions::{ACCEPTED, BOUND, ISSUED, PROGRAMMED, READY, RESOLVED_REFS, ROTATING};

use crate::controllers::{Memory, identity, policy, target};
use crate::derive::certificate::minus;
use crate::metrics::Metrics;
use crate::stores::Stores;

/// Condition types that are counted.
const TYPES: [&str; 7] = [ACCEPTED, BOUND, ISSUED, PROGRAMMED, READY, RESOLVED_REFS, ROTATING];
/// Statuses, as they are spelled.
const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
/// A renewal that is this late will not be explained by a busy moment.
const LATE: Duration = Duration::from_secs(120);

/// How many objects of a kind have a condition in a status.
type Standing = BTreeMap<(&'static str, &'static str, &'static str), i64>;

/// Counts, and puts the numbers where they are read.
pub(crate) fn take(stores: &Stores, memory: &Memory, metrics: &Metrics, now: Timestamp) {
    let identities = stores.identities.state();
    let mut standing = Standing::new();
    for object in &identities {
        let conditions = object.status.as_ref().map(|status| status.conditions.as_slice());
        count(&mut standing, identity::KIND, conditions.unwrap_or_default());
    }
    for object in stores.targets.state() {
        let conditions = object.status.as_ref().map(|status| status.conditions.as_slice());
        count(&mut standing, target::KIND, conditions.unwrap_or_default());
    }
    for object in stores.policies.state() {
        for ancestor in object.status.iter().flat_map(|status| &status.ancestors) {
            count(&mut standing, policy::KIND, &ancestor.conditions);
        }
    }
    metrics.stand(&standing);
    // The leader knows of what never came to a status: a first certificate, and those of fleets.
    let tried = |kind| i64::try_from(memory.overdue(kind, minus(now, LATE))).unwrap_or(i64::MAX);
    let late = overdue(&identities, now).max(tried(identity::KIND));
    metrics.certificates_stand(identity::KIND, nearest(&identities, now), late);
    metrics.certificates_stand(target::KIND, None, tried(target::KIND));
}

fn count(standing: &mut Standing, kind: &'static str, conditions: &[Condition]) {
    for condition in conditions {
        let type_ = TYPES.into_iter().find(|known| *known == condition.type_);
        let status = STATUSES.into_iter().find(|known| *known == condition.status);
        if let (Some(type_), Some(status)) = (type_, status) {
            *standing.entry((kind, type_, status)).or_default() += 1;
        }
    }
}

/// Seconds until the certificate that ends first does; nothing where there is none.
fn nearest(identities: &[impl AsRef<AgentIdentity>], now: Timestamp) -> Option<f64> {
    let ends = identities.iter().filter_map(|it| it.as_ref().status.as_ref()?.not_after.as_ref().map(|time| time.0));
    ends.min().map(|end| end.duration_since(now).as_secs_f64())
}

/// How many should have been renewed some time ago.
fn overdue(identities: &[impl AsRef<AgentIdentity>], now: Timestamp) -> i64 {
    let late = |it: &&_| {
        let due = AsRef::<AgentIdentity>::as_ref(*it).status.as_ref().and_then(|status| status.renewal_time.as_ref());
        due.is_some_and(|due| now.duration_since(due.0).as_secs_f64() > LATE.as_secs_f64())
    };
    i64::try_from(identities.iter().filter(late).count()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use sallyport_crds::{AgentIdentitySpec, AgentIdentityStatus};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn identity(renewal: i64, end: i64) -> Arc<AgentIdentity> {
        let mut identity = AgentIdentity::new("bot", AgentIdentitySpec::default());
        let time = |second| Some(Time(at(second)));
        let status =
            AgentIdentityStatus { renewal_time: time(renewal), not_after: time(end), ..AgentIdentityStatus::default() };
        identity.status = Some(status);
        Arc::new(identity)
    }

    #[test]
    fn a_renewal_is_overdue_two_minutes_late_and_the_first_to_end_counts() {
        let all = [identity(1000, 2000), identity(1100, 1900), Arc::new(AgentIdentity::new("new", Default::default()))];
        assert_eq!((overdue(&all, at(1000)), overdue(&all, at(1121)), overdue(&all, at(1221))), (0, 1, 2));
        assert_eq!(nearest(&all, at(1000)), Some(900.0));
        assert_eq!(nearest(&all[2..], at(1000)), None, "none is no certificate that ends now");
    }

    #[test]
    fn a_condition_of_somebody_elses_words_is_not_counted() {
        let condition = |type_: &str, status: &str| Condition {
            type_: type_.into(),
            status: status.into(),
            reason: String::new(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(at(0)),
        };
        let mut standing = Standing::new();
        count(
            &mut standing,
            "K",
            &[condition("Ready", "False"), condition("Ready", "perhaps"), condition("Mine", "True")],
        );
        assert_eq!(standing.into_iter().collect::<Vec<_>>(), [(("K", "Ready", "False"), 1)]);
    }
}
