//! The decision: a pure function from world, session and action to a verdict.
//!
//! Owns the meaning of rules. Touches its arguments only. Invariants: nothing matching is refused; a deny
//! wins over an ask, an ask over an allow; a rule whose outcome hangs on an unknown fact never helps to allow and,
//! where it denies or asks, does so.

use core::net::IpAddr;
use std::time::SystemTime;

use crate::ask::Ask;
use crate::bundle::{Bundle, Effect, Matcher, ObjectMatcher, PolicyEntry, Rule, Subject};
use crate::condition::{Facts, Outcome, SessionFacts, When};
use crate::mask::forbids;
use crate::observe::{Deciding, Mode, deciding};
use crate::{Action, Fact, IdentityName, Member, Object, Operation, World};

mod conditions;
mod denial;

pub use self::conditions::{JudgedCondition, conditions};
pub use self::denial::{Denial, DenyReason};

/// The facts of a session that decisions hang on. Whether it may go on at all hangs on the verified certificate, the
/// socket, and the credential the session was opened with; `facts` are for the conditions of rules alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who speaks.
    pub identity: IdentityName,
    /// notBefore of the certificate, in seconds since the Unix epoch.
    pub not_before: i64,
    /// UID of the object the certificate was issued for, where it says.
    pub uid: Option<String>,
    /// The address at the other end of its socket, which is all that a binding hangs on; nothing that the client
    /// sends says it. Absent where there is no socket.
    pub address: Option<IpAddr>,
    /// The target's credential by name.
    pub credential: String,
    /// What else conditions may ask of it.
    pub facts: SessionFacts,
}

/// Where a rule stands in the bundle that was in force; its names are in [`Bundle::rule_names`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    policy: usize,
    rule: usize,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on; `rule` is the first that allowed, absent where there was nothing to judge.
    Allow {
        /// The rule.
        rule: Option<RuleRef>,
    },
    /// It may once people have approved it.
    Ask(Ask),
    /// It may not.
    Deny(Denial),
}

/// How far a matcher applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    Unknown,
}

/// Whether the session may go on at all: the identity is known, not suspended, its certificate not
/// revoked and used from where it is bound to, and its credential granted to it by some policy.
///
/// # Errors
/// With the cause, when it may not.
pub fn standing(world: &World, session: &Session) -> Result<(), Denial> {
    let member = known_member(world, session)?;
    let granted = |policy: &PolicyEntry| policy.credentials.contains(&session.credential);
    if applicable(&world.bundle, member).any(|(_, policy)| granted(policy))
        && world.bundle.upstream.credentials.contains(&session.credential)
    {
        return Ok(());
    }
    let mut granted: Vec<String> =
        applicable(&world.bundle, member).flat_map(|(_, policy)| policy.credentials.iter().cloned()).collect();
    granted.sort();
    granted.dedup();
    Err(DenyReason::CredentialNotGranted { granted }.into())
}

/// Whether all that stands against the session is the address that it comes from.
#[must_use]
pub fn is_outside_binding(world: &World, session: &Session) -> bool {
    known_member(world, session).is_err_and(|denial| denial.reason == DenyReason::OutsideBinding)
}

/// Judges one command that comes at that time.
#[must_use]
pub fn decide(world: &World, session: &Session, now: SystemTime, action: &Action) -> Verdict {
    if let Err(denial) = standing(world, session) {
        return Verdict::Deny(denial);
    }
    let member = match known_member(world, session) {
        Ok(member) => member,
        Err(denial) => return Verdict::Deny(denial),
    };
    if deciding(world, member, session) == Deciding::None {
        // What is masked stays masked, whatever the mode.
        return forbids(world, session, action).map_or(Verdict::Allow { rule: None }, Verdict::Deny);
    }
    judge(world, member, session, &Facts::new(world, member, session, now, action), |policy| {
        policy.mode == Mode::Enforce
    })
}

/// What those policies say of the action that `counts` lets have a say.
pub(crate) fn judge(
    world: &World,
    member: &Member,
    session: &Session,
    facts: &Facts<'_>,
    counts: impl Fn(&PolicyEntry) -> bool + Copy,
) -> Verdict {
    let action = facts.action();
    let in_force = || {
        applicable(&world.bundle, member)
            .filter(move |(_, policy)| policy.credentials.contains(&session.credential) && counts(policy))
            .flat_map(|(at, policy)| {
                policy.rules.iter().enumerate().map(move |(n, rule)| (RuleRef { policy: at, rule: n }, policy, rule))
            })
    };
    // Deny first, over every operation: which rule is named must not hang on the order of operations.
    for (at, policy, rule) in in_force().filter(|(_, _, rule)| rule.effect == Effect::Deny) {
        if let Some(reason) = denies(policy, rule, action, || counts_now(at, rule, facts)) {
            return Verdict::Deny(reason.into());
        }
    }
    if let Some(denial) = forbids(world, session, action) {
        return Verdict::Deny(denial);
    }
    // What an approval lets through has to be covered as well as what is allowed: nobody is asked in vain.
    let mut first = None;
    for operation in &action.operations {
        let mut unless = None;
        let mut covering = in_force()
            .filter(|(_, _, rule)| rule.effect != Effect::Deny && allows(&rule.matcher, operation) == Match::Yes);
        let covered = covering.find_map(|(at, policy, rule)| {
            let counts = counts_now(at, rule, facts) == Match::Yes;
            unless = unless.or(Some((policy, rule)));
            counts.then_some(at)
        });
        match covered {
            Some(rule) => first = first.or(Some(rule)),
            None => {
                let unless = unless.map(|(policy, rule)| (policy.name.clone(), rule.name.clone()));
                return Verdict::Deny(DenyReason::NotAllowed { operation: operation.to_string(), unless }.into());
            }
        }
    }
    // And whoever may have to be asked, is: under the strictest terms of all that ask.
    let asking = in_force().filter_map(|(at, _, rule)| match rule.effect {
        Effect::Ask(terms) if may_match(&rule.matcher, action) && counts_now(at, rule, facts) != Match::No => {
            Some(Ask { rule: at, terms })
        }
        _ => None,
    });
    match asking.reduce(|first, next| Ask { terms: first.terms.and(next.terms), ..first }) {
        Some(ask) => Verdict::Ask(ask),
        None => Verdict::Allow { rule: first },
    }
}

fn known_member<'w>(world: &'w World, session: &Session) -> Result<&'w Member, Denial> {
    let identity = &session.identity;
    if identity.trust_domain() != world.bundle.trust_domain {
        return Err(DenyReason::UnknownIdentity.into());
    }
    let member = world.roster.member(identity.namespace(), identity.name()).ok_or(DenyReason::UnknownIdentity)?;
    if member.suspended {
        return Err(DenyReason::Suspended.into());
    }
    let of_another = member.uid.is_some() && member.uid != session.uid;
    if session.not_before < member.min_not_before || of_another {
        return Err(DenyReason::Revoked.into());
    }
    if !member.may_come_from(session.address) {
        return Err(DenyReason::OutsideBinding.into());
    }
    Ok(member)
}

pub(crate) fn applicable<'w>(bundle: &'w Bundle, member: &'w Member) -> impl Iterator<Item = (usize, &'w PolicyEntry)> {
    bundle
        .policies
        .iter()
        .enumerate()
        .filter(move |(_, policy)| policy.subjects.iter().any(|subject| speaks_of(subject, member)))
}

fn speaks_of(subject: &Subject, member: &Member) -> bool {
    match subject {
        Subject::Agent { namespace, name } => *namespace == member.namespace && *name == member.name,
        Subject::Group { namespace, name } => *namespace == member.namespace && member.groups.contains(name),
    }
}

/// Whether the rule counts for this command, whatever it matches. Asked last: it is what costs most.
fn counts_now(at: RuleRef, rule: &Rule, facts: &Facts<'_>) -> Match {
    match rule.when.as_ref().map(|when| facts.outcome(at, when)) {
        None | Some(Outcome::True) => Match::Yes,
        Some(Outcome::False) => Match::No,
        Some(Outcome::Unknown | Outcome::Broken) => Match::Unknown,
    }
}

fn denies(
    policy: &PolicyEntry,
    rule: &Rule,
    action: &Action,
    counts_now: impl FnOnce() -> Match,
) -> Option<DenyReason> {
    let mut matched = Match::No;
    for operation in &action.operations {
        matched = matched.or(denied_by(&rule.matcher, operation));
        if matched == Match::Yes {
            break;
        }
    }
    if matched == Match::No {
        return None;
    }
    let told = matched.and(counts_now());
    let (policy, name) = (policy.name.clone(), rule.name.clone());
    match told {
        Match::No => None,
        Match::Yes => Some(DenyReason::Rule { policy, rule: name, message: rule.message.clone() }),
        Match::Unknown if matches!(rule.when, Some(When::Broken(_))) => {
            Some(DenyReason::BrokenCondition { policy, rule: name })
        }
        Match::Unknown => Some(DenyReason::Undecidable { policy, rule: name }),
    }
}

/// It is enough that it may match one operation, as a deny would or as an allow would.
fn may_match(matcher: &Matcher, action: &Action) -> bool {
    let may = |operation| denied_by(matcher, operation) != Match::No || allows(matcher, operation) != Match::No;
    action.operations.iter().any(may)
}

/// To allow, a matcher must cover every object that the name could mean.
fn allows(matcher: &Matcher, operation: &Operation) -> Match {
    let object = |wanted: &[ObjectMatcher]| match &operation.object {
        Fact::Unknown => Match::Unknown,
        // An operation without an object is covered by a limited rule only when its verb is spelled out.
        Fact::Known(None) => Match::of(matcher.verbs.is_some()),
        Fact::Known(Some(object)) => {
            Match::of(!object.names.is_empty() && object.names.iter().all(|name| listed(wanted, object, name)))
        }
    };
    matches(matcher, operation, object)
}

/// To deny, and to ask, it is enough that one object that the name could mean is listed.
fn denied_by(matcher: &Matcher, operation: &Operation) -> Match {
    let object = |wanted: &[ObjectMatcher]| match &operation.object {
        Fact::Unknown => Match::Unknown,
        Fact::Known(None) => Match::No,
        Fact::Known(Some(object)) => Match::of(object.names.iter().any(|name| listed(wanted, object, name))),
    };
    matches(matcher, operation, object)
}

fn matches(matcher: &Matcher, operation: &Operation, object: impl Fn(&[ObjectMatcher]) -> Match) -> Match {
    let verb = matcher.verbs.as_ref().is_none_or(|verbs| verbs.iter().any(|verb| *verb == operation.verb));
    if !verb {
        return Match::No;
    }
    let mut result = matcher.objects.as_deref().map_or(Match::Yes, object);
    for (attribute, wanted) in &matcher.attributes {
        result = result.and(match operation.attribute(*attribute) {
            Fact::Known(found) => Match::of(found == *wanted),
            Fact::Unknown => Match::Unknown,
        });
    }
    result
}

fn listed(wanted: &[ObjectMatcher], object: &Object, name: &crate::QualifiedName) -> bool {
    wanted.iter().any(|kind| kind.kind == object.kind && kind.names.iter().any(|pattern| pattern.matches(name)))
}

impl Match {
    const fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }

    const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes, _) | (_, Self::Yes) => Self::Yes,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::No, Self::No) => Self::No,
        }
    }
}

impl Bundle {
    /// Policy and rule that a reference of a verdict under this very bundle names.
    #[must_use]
    pub fn rule_names(&self, at: RuleRef) -> Option<(&str, &str)> {
        self.rule_at(at).map(|(policy, rule)| (policy.name.as_str(), rule.name.as_str()))
    }

    pub(crate) fn rule_at(&self, at: RuleRef) -> Option<(&PolicyEntry, &Rule)> {
        let policy = self.policies.get(at.policy)?;
        Some((policy, policy.rules.get(at.rule)?))
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.verb)?;
        match &self.object {
            Fact::Known(None) => Ok(()),
            Fact::Unknown => f.write_str(" of something that cannot be derived"),
            Fact::Known(Some(object)) => {
                f.write_str(" on")?;
                for (n, name) in object.names.iter().enumerate() {
                    write!(f, "{} {name}", if n == 0 { "" } else { " or" })?;
                }
                Ok(())
            }
        }
    }
}
