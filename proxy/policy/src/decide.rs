//! The decision: a pure function from world, session and action to a verdict.
//!
//! Owns the meaning of rules. Touches its arguments only. Invariants: nothing matching is refused; a deny
//! wins over an ask, an ask over an allow; a rule whose outcome hangs on an unknown fact never helps to allow and,
//! where it denies or asks, does so.

use core::net::IpAddr;
use std::time::SystemTime;

use crate::ask::{Ask, NotApproved};
use crate::bundle::{Bundle, Effect, Matcher, ObjectMatcher, PolicyEntry, Rule, Subject};
use crate::condition::{Facts, Outcome, SessionFacts, When};
use crate::mask::forbids;
use crate::observe::{Deciding, Mode, deciding};
use crate::{Action, Fact, IdentityName, Member, Object, Operation, World};

mod conditions;

pub use self::conditions::{JudgedCondition, conditions};

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

/// A refusal with its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: DenyReason,
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenyReason {
    /// The roster does not have the identity.
    UnknownIdentity,
    /// It is suspended.
    Suspended,
    /// The certificate was issued before the identity's `minNotBefore`, or for one of the same name before it.
    Revoked,
    /// The identity is bound to pods, and the connection comes from none of them.
    OutsideBinding,
    /// The certificate has expired.
    CertificateExpired,
    /// The authority that issued the certificate is not trusted any more.
    Distrusted,
    /// The certificate is not valid yet by this proxy's clock.
    CertificateNotYetValid {
        /// How long that is to come.
        seconds: u64,
    },
    /// The session has lasted as long as its policies let it.
    SessionTooLong {
        /// How long that is.
        seconds: u64,
    },
    /// The session has been without a command for as long as its policies let it.
    SessionIdle {
        /// How long that is.
        seconds: u64,
    },
    /// The agent has as many sessions open here as a policy lets it.
    TooManySessions {
        /// How many that is.
        most: u64,
        /// The policy.
        policy: String,
    },
    /// The agent has run as many commands here as a policy lets it in a minute.
    TooManyCommands {
        /// How many that is.
        most: u64,
        /// The policy.
        policy: String,
        /// When there is room for the next.
        seconds: u64,
    },
    /// What is decided with has not been confirmed by its source for too long.
    Stale {
        /// For how long.
        seconds: u64,
    },
    /// It must be recorded, and there is no room.
    NoRoomToRecord,
    /// No policy grants this credential to this identity.
    CredentialNotGranted {
        /// Those it may use, sorted.
        granted: Vec<String>,
    },
    /// A rule denies it.
    Rule {
        /// Its policy.
        policy: String,
        /// Its name.
        rule: String,
        /// What its author wants the agent to read.
        message: Option<String>,
    },
    /// A rule that denies may apply, and what it hangs on is not known.
    Undecidable {
        /// Its policy.
        policy: String,
        /// Its name.
        rule: String,
    },
    /// A rule that denies may apply: its condition cannot be evaluated at all.
    BrokenCondition {
        /// Its policy.
        policy: String,
        /// Its name.
        rule: String,
    },
    /// A rule asks people about it, and it was not approved.
    NotApproved {
        /// Its policy.
        policy: String,
        /// Its name.
        rule: String,
        /// Why not.
        why: Box<NotApproved>,
    },
    /// It would copy a column that is masked, or do with it what its mask forbids.
    Masked {
        /// The policy whose mask it is.
        policy: String,
        /// The column, as the mask names it.
        column: String,
        /// Whether it would be copied.
        copied: bool,
    },
    /// No rule allows it.
    NotAllowed {
        /// The operation that no rule allows, for a person.
        operation: String,
        /// Policy and name of the first rule that would, if its condition were known to hold.
        unless: Option<(String, String)>,
    },
    /// The command could not be read, or does what is never let through; said by the protocol.
    NotUnderstood {
        /// The cause and the next step.
        cause: String,
    },
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

impl From<DenyReason> for Denial {
    fn from(reason: DenyReason) -> Self {
        Self { reason }
    }
}

impl Denial {
    /// A refusal that the protocol itself has cause for.
    #[must_use]
    pub fn not_understood(cause: impl Into<String>) -> Self {
        DenyReason::NotUnderstood { cause: cause.into() }.into()
    }

    /// Policy and rule that refused, where one did.
    #[must_use]
    pub fn rule(&self) -> Option<(&str, &str)> {
        match &self.reason {
            DenyReason::Rule { policy, rule, .. }
            | DenyReason::Undecidable { policy, rule }
            | DenyReason::BrokenCondition { policy, rule }
            | DenyReason::NotApproved { policy, rule, .. } => Some((policy, rule)),
            _ => None,
        }
    }

    /// The policy that refused, where one did.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        match &self.reason {
            DenyReason::TooManySessions { policy, .. }
            | DenyReason::TooManyCommands { policy, .. }
            | DenyReason::Masked { policy, .. } => Some(policy),
            _ => self.rule().map(|(policy, _)| policy),
        }
    }

    /// The limit that was reached, where one was, by its name in the policy.
    #[must_use]
    pub const fn limit(&self) -> Option<&'static str> {
        match &self.reason {
            DenyReason::TooManySessions { .. } => Some("concurrentSessions"),
            DenyReason::TooManyCommands { .. } => Some("commandsPerMinute"),
            _ => None,
        }
    }

    /// Whether the session itself is over, not only this command.
    #[must_use]
    pub const fn ends_session(&self) -> bool {
        matches!(
            self.reason,
            DenyReason::UnknownIdentity
                | DenyReason::Suspended
                | DenyReason::Revoked
                | DenyReason::OutsideBinding
                | DenyReason::CredentialNotGranted { .. }
                | DenyReason::CertificateNotYetValid { .. }
        ) || self.asks_to_reconnect()
    }

    /// Whether the session ends for no other cause than its time or its authority's: a new one, with the newest certificate, is welcome.
    #[must_use]
    pub const fn asks_to_reconnect(&self) -> bool {
        matches!(
            self.reason,
            DenyReason::CertificateExpired
                | DenyReason::Distrusted
                | DenyReason::SessionTooLong { .. }
                | DenyReason::SessionIdle { .. }
        )
    }

    /// Whether the cause is a state of this proxy's, which no policy speaks of.
    #[must_use]
    pub const fn is_our_own(&self) -> bool {
        matches!(self.reason, DenyReason::Stale { .. } | DenyReason::NoRoomToRecord)
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reason {
            DenyReason::UnknownIdentity => f.write_str("this identity is not known here"),
            DenyReason::Suspended => f.write_str("this identity is suspended"),
            DenyReason::Revoked => f.write_str("this certificate was revoked: use a newer one"),
            // Not which: whoever holds a copy would learn where to go.
            DenyReason::OutsideBinding => {
                f.write_str("this identity is bound to pods, and this connection comes from none of them")
            }
            DenyReason::Distrusted => {
                f.write_str("the authority of this certificate is not trusted any more: connect again with a newer one")
            }
            DenyReason::CertificateExpired => {
                f.write_str("this certificate has expired: connect again with the new one")
            }
            DenyReason::CertificateNotYetValid { seconds } => write!(
                f,
                "this certificate is not valid for another {seconds} s by this proxy's clock: wait, or set the clocks right"
            ),
            DenyReason::SessionTooLong { seconds } => {
                write!(f, "this session has lasted its {seconds} s: connect again")
            }
            DenyReason::SessionIdle { seconds } => {
                write!(f, "this session has been idle for {seconds} s: connect again")
            }
            DenyReason::TooManySessions { most, policy } => write!(
                f,
                "this agent has as many sessions open here as policy {policy} lets it ({most}): close one, or try again later"
            ),
            DenyReason::TooManyCommands { most, policy, seconds } => write!(
                f,
                "this agent has run as many commands here as policy {policy} lets it ({most} a minute): try again in {seconds} s"
            ),
            DenyReason::Stale { seconds } => write!(
                f,
                "this proxy has not heard from the cluster for {seconds} s and refuses everything until it does: try again later"
            ),
            DenyReason::NoRoomToRecord => {
                f.write_str("this must be recorded and there is no room to record it: tell the target's owner")
            }
            DenyReason::CredentialNotGranted { granted } if granted.is_empty() => {
                f.write_str("no policy grants this identity anything here")
            }
            DenyReason::CredentialNotGranted { granted } => {
                write!(f, "this credential is not granted: connect with one of {}", granted.join(", "))
            }
            DenyReason::Rule { policy, rule, message: Some(message) } => {
                write!(f, "refused by policy {policy}, rule {rule}: {message}")
            }
            DenyReason::Rule { policy, rule, message: None } => write!(f, "refused by policy {policy}, rule {rule}"),
            DenyReason::Undecidable { policy, rule } => {
                write!(f, "refused by policy {policy}, rule {rule}: what it depends on cannot be derived")
            }
            DenyReason::BrokenCondition { policy, rule } => {
                write!(
                    f,
                    "refused by policy {policy}, rule {rule}: its condition cannot be read: tell the policy's owner"
                )
            }
            DenyReason::NotApproved { policy, rule, why } => {
                write!(f, "needs an approval by policy {policy}, rule {rule}: {why}")
            }
            DenyReason::Masked { policy, column, copied: true } => write!(
                f,
                "{column} is masked by policy {policy}: it may be shown, and not be copied or renamed to where no mask would find it"
            ),
            DenyReason::Masked { policy, column, copied: false } => write!(
                f,
                "{column} is masked by policy {policy}, strictly: it may be shown, and not be compared, ordered by or computed with"
            ),
            DenyReason::NotAllowed { operation, unless: None } => write!(f, "no rule allows {operation}"),
            DenyReason::NotAllowed { operation, unless: Some((policy, rule)) } => write!(
                f,
                "no rule allows {operation} now: rule {rule} of policy {policy} has a condition, which does not hold or cannot be derived"
            ),
            DenyReason::NotUnderstood { cause } => f.write_str(cause),
        }
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
