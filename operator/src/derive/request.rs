//! `AccessRequest`: where a question stands, and when it is cleared away.
//!
//! Owns that. Touches nothing. Invariant: it only tells; what an answer is worth is counted by the fleets, from the
//! decisions themselves, with or without an operator.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use sallyport_crds::{AccessRequest, AccessRequestStatus, Answer, Phase};
use sallyport_policy::{AskTerms, IdentityName, Reply, Tally};

use super::asking;

/// How long a question that somebody answered is kept after it has expired: records hold it longer.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long one is that nobody answered. An agent makes them as it likes, people do not answer as fast.
const KEPT_UNANSWERED: Duration = Duration::from_secs(3600);

/// What to do about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The phase to tell, where another is told.
    pub phase: Option<Phase>,
    /// Whether it has been over for long enough.
    pub clear_away: bool,
    /// When it is to be looked at again, if nobody writes to it.
    pub again: Option<Duration>,
}

/// What to do about `request` now.
#[must_use]
pub fn plan(request: &AccessRequest, trust_domain: &str, now: Timestamp) -> Plan {
    let expires = request.spec.expires_at.0;
    let told = request.status.as_ref().map_or(Phase::Pending, |status| status.phase);
    let stands = stands(request, trust_domain, now >= expires);
    let left = |until: Timestamp| Duration::try_from(until.duration_since(now)).ok().filter(|left| !left.is_zero());
    let answered = request.status.as_ref().is_some_and(|status| !status.decisions.is_empty());
    let gone = expires.checked_add(if answered { KEPT } else { KEPT_UNANSWERED }).unwrap_or(Timestamp::MAX);
    let again = left(expires).or_else(|| left(gone));
    Plan { phase: (stands != told).then_some(stands), clear_away: again.is_none(), again }
}

fn stands(request: &AccessRequest, trust_domain: &str, expired: bool) -> Phase {
    let status = request.status.clone().unwrap_or_default();
    // An end stays one; and of a name that cannot be, nothing is told.
    if matches!(status.phase, Phase::Consumed | Phase::Denied | Phase::Expired) {
        return status.phase;
    }
    let agent = &request.spec.agent;
    let Ok(agent) = IdentityName::new(trust_domain, &agent.namespace, &agent.name) else { return status.phase };
    let terms = AskTerms {
        approvals: request.spec.approvals,
        timeout_seconds: 0,
        validity_seconds: 0,
        not_by: asking::not_by(request.spec.not_by),
    };
    match terms.tally(&agent, request.spec.requested_by.as_deref(), &replies(&status)) {
        Tally::Denied { .. } => Phase::Denied,
        _ if expired => Phase::Expired,
        Tally::Approved => Phase::Approved,
        Tally::Pending { .. } => Phase::Pending,
    }
}

fn replies(status: &AccessRequestStatus) -> Vec<Reply> {
    let reply = |decision: &sallyport_crds::Decision| Reply {
        by: decision.by.clone(),
        approves: decision.decision == Answer::Approve,
        comment: None,
    };
    status.decisions.iter().map(reply).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use sallyport_crds::{AccessRequestSpec, AskingAgent, Command, Decision, NotBy};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A question that expires at 1000 and wants two approvals.
    fn request(answers: &[(&str, Answer)]) -> AccessRequest {
        let spec = AccessRequestSpec {
            agent: AskingAgent { namespace: "ci".into(), name: "bot".into() },
            target: "orders-db".into(),
            policy: "p".into(),
            rule: "r".into(),
            policy_revision: "0123456789abcdef".into(),
            session: None,
            requested_by: Some("carol".into()),
            command: Command::default(),
            approvals: 2,
            not_by: NotBy::ServiceAccounts,
            reason: None,
            expires_at: Time(at(1000)),
        };
        let decision = |(by, decision): &(&str, Answer)| Decision {
            decision: *decision,
            by: (*by).to_owned(),
            at: Time(at(10)),
            comment: None,
        };
        let decisions = answers.iter().map(decision).collect();
        let status = Some(AccessRequestStatus { decisions, ..AccessRequestStatus::default() });
        AccessRequest { status, ..AccessRequest::new("q", spec) }
    }

    fn phase(answers: &[(&str, Answer)], now: i64) -> Option<Phase> {
        plan(&request(answers), "cluster.local", at(now)).phase
    }

    #[test]
    fn a_phase_is_what_the_decisions_come_to() {
        use Answer::{Approve, Deny};
        assert_eq!(phase(&[], 0), None);
        assert_eq!(phase(&[("alice", Approve)], 0), None);
        assert_eq!(phase(&[("alice", Approve), ("carol", Approve)], 0), None, "nobody answers a question of their own");
        assert_eq!(phase(&[("alice", Approve), ("bob", Approve)], 0), Some(Phase::Approved));
        assert_eq!(phase(&[("alice", Approve), ("bob", Deny)], 0), Some(Phase::Denied));
        assert_eq!(phase(&[("alice", Approve), ("bob", Approve)], 1000), Some(Phase::Expired));
        assert_eq!(phase(&[("bob", Deny)], 1000), Some(Phase::Denied));
    }

    #[test]
    fn an_end_stays_one() {
        for phase in [Phase::Consumed, Phase::Denied, Phase::Expired] {
            let mut ended = request(&[("alice", Answer::Approve), ("bob", Answer::Approve)]);
            ended.status.as_mut().unwrap().phase = phase;
            assert_eq!(plan(&ended, "cluster.local", at(0)).phase, None);
            assert_eq!(plan(&ended, "cluster.local", at(2000)).phase, None);
        }
    }

    #[test]
    fn it_is_looked_at_when_it_expires_and_cleared_away_some_time_after() {
        let look = |answers: &[(&str, Answer)], now: i64| {
            let Plan { clear_away, again, .. } = plan(&request(answers), "cluster.local", at(now));
            (clear_away, again.map(|again| again.as_secs()))
        };
        let week = 7 * 24 * 3600;
        let denied = [("bob", Answer::Deny)];
        assert_eq!(look(&denied, 0), (false, Some(1000)));
        assert_eq!(look(&denied, 1000), (false, Some(week)));
        assert_eq!(look(&denied, 1000 + i64::try_from(week).unwrap()), (true, None));
        // What nobody answered interests nobody for as long.
        assert_eq!(look(&[], 1000), (false, Some(3600)));
        assert_eq!(look(&[], 4600), (true, None));
    }
}
