//! The facts that conditions may speak of, and what is known of each.
//!
//! Owns their names and types, and how they come out of world, session and command. Touches its arguments only.
//! Invariant: a fact that is not known is unknown to whoever asks, never absent and never empty; of a list it may be
//! known that it holds something without its being known that it holds nothing else.

use std::cell::{OnceCell, RefCell};
use std::time::SystemTime;

use jiff::Timestamp;

use super::eval::{Texts, Value};
use super::{Outcome, When};
use crate::action::{Action, Fact, Object, ObjectKind};
use crate::decide::{RuleRef, Session};
use crate::pattern::NamePattern;
use crate::{Member, World};

/// What is known of a session beside who opened it. By default nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFacts {
    /// The database that it is open on.
    pub database: Fact<String>,
    /// What the client calls itself.
    pub application_name: Fact<String>,
    /// When it was opened.
    pub started: Fact<SystemTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Text,
    Time,
    Span,
    Texts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    AgentNamespace,
    AgentName,
    AgentGroups,
    AgentUri,
    TargetNamespace,
    TargetName,
    Credential,
    Database,
    ApplicationName,
    ClientAddress,
    Started,
    Statements,
    Tables,
    Functions,
    Now,
}

const NAMES: &[(&str, Path, Type)] = &[
    ("agent.namespace", Path::AgentNamespace, Type::Text),
    ("agent.name", Path::AgentName, Type::Text),
    ("agent.groups", Path::AgentGroups, Type::Texts),
    ("agent.uri", Path::AgentUri, Type::Text),
    ("target.namespace", Path::TargetNamespace, Type::Text),
    ("target.name", Path::TargetName, Type::Text),
    ("session.credential", Path::Credential, Type::Text),
    ("session.database", Path::Database, Type::Text),
    ("session.applicationName", Path::ApplicationName, Type::Text),
    ("session.clientAddress", Path::ClientAddress, Type::Text),
    ("session.started", Path::Started, Type::Time),
    ("command.statements", Path::Statements, Type::Texts),
    ("command.tables", Path::Tables, Type::Texts),
    ("command.functions", Path::Functions, Type::Texts),
    ("now", Path::Now, Type::Time),
];

/// Every fact as a condition names it, with its type.
pub fn condition_facts() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMES.iter().map(|(name, _, type_)| (*name, type_.name()))
}

impl Path {
    pub(super) fn find(path: &str) -> Option<(Self, Type)> {
        NAMES.iter().find(|(name, ..)| *name == path).map(|(_, name, type_)| (*name, *type_))
    }

    /// The facts below a first word; none where it is no such word.
    pub(super) fn below(root: &str) -> Vec<&'static str> {
        NAMES.iter().filter_map(|(name, ..)| name.strip_prefix(root)?.strip_prefix('.')).collect()
    }

    /// Whether a first word is taken.
    pub(super) fn is_root(word: &str) -> bool {
        NAMES.iter().any(|(name, ..)| name.split('.').next() == Some(word))
    }
}

impl Type {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Text => "string",
            Self::Time => "timestamp",
            Self::Span => "duration",
            Self::Texts => "list(string)",
        }
    }
}

/// The facts about one command, as far as somebody asks for them.
pub(crate) struct Facts<'a> {
    world: &'a World,
    member: &'a Member,
    session: &'a Session,
    now: SystemTime,
    action: &'a Action,
    uri: OnceCell<String>,
    address: OnceCell<Option<String>>,
    statements: OnceCell<Names>,
    tables: OnceCell<Names>,
    functions: OnceCell<Names>,
    /// What came of the conditions of rules so far, in their order: each is evaluated once a command.
    outcomes: RefCell<Vec<(RuleRef, Outcome)>>,
}

/// What is known of a list.
#[derive(Debug, Default)]
struct Names {
    /// These are in it.
    known: Vec<String>,
    /// Each of these may be in it.
    maybe: Vec<String>,
    /// Anything may be in it.
    open: bool,
}

impl<'a> Facts<'a> {
    pub(crate) const fn new(
        world: &'a World,
        member: &'a Member,
        session: &'a Session,
        now: SystemTime,
        action: &'a Action,
    ) -> Self {
        Self {
            world,
            member,
            session,
            now,
            action,
            uri: OnceCell::new(),
            address: OnceCell::new(),
            statements: OnceCell::new(),
            tables: OnceCell::new(),
            functions: OnceCell::new(),
            outcomes: RefCell::new(Vec::new()),
        }
    }

    /// The command.
    pub(crate) const fn action(&self) -> &'a Action {
        self.action
    }

    /// What comes of the condition of that rule.
    pub(crate) fn outcome(&self, at: RuleRef, when: &When) -> Outcome {
        let known = self.outcomes.borrow().binary_search_by_key(&at, |(rule, _)| *rule);
        match known {
            Ok(found) => self.outcomes.borrow().get(found).map_or(Outcome::Unknown, |(_, outcome)| *outcome),
            Err(place) => {
                let outcome = when.holds(self);
                self.outcomes.borrow_mut().insert(place, (at, outcome));
                outcome
            }
        }
    }

    pub(super) fn value(&self, name: Path) -> Value<'_> {
        let Session { identity, credential, facts, .. } = self.session;
        match name {
            Path::AgentNamespace => text(identity.namespace()),
            Path::AgentName => text(identity.name()),
            Path::AgentGroups => Value::Texts(Texts { known: self.member.groups.as_slice(), maybe: &[], open: false }),
            Path::AgentUri => text(self.uri.get_or_init(|| identity.to_string())),
            Path::TargetNamespace => text(&self.world.bundle.target.namespace),
            Path::TargetName => text(&self.world.bundle.target.name),
            Path::Credential => text(credential),
            Path::Database => known_text(&facts.database),
            Path::ApplicationName => known_text(&facts.application_name),
            Path::ClientAddress => {
                let address = || self.session.address.map(|address| address.to_canonical().to_string());
                self.address.get_or_init(address).as_deref().map_or(Value::Unknown, text)
            }
            Path::Started => match facts.started {
                Fact::Known(started) => time(started),
                Fact::Unknown => Value::Unknown,
            },
            Path::Statements => self.statements.get_or_init(|| statements(self.action)).value(),
            Path::Tables => self.tables.get_or_init(|| objects(self.action, ObjectKind::Table)).value(),
            Path::Functions => self.functions.get_or_init(|| objects(self.action, ObjectKind::Function)).value(),
            Path::Now => time(self.now),
        }
    }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(text.into())
}

fn known_text(fact: &Fact<String>) -> Value<'_> {
    match fact {
        Fact::Known(known) => text(known),
        Fact::Unknown => Value::Unknown,
    }
}

fn time(time: SystemTime) -> Value<'static> {
    Timestamp::try_from(time).map_or(Value::Unknown, Value::Time)
}

impl Names {
    fn value(&self) -> Value<'_> {
        Value::Texts(Texts { known: &self.known, maybe: &self.maybe, open: self.open })
    }
}

/// The kinds of statement. What touches the unknown may run another: `EXECUTE` of a plan that nobody knows.
fn statements(action: &Action) -> Names {
    let mut names = Names::default();
    for operation in &action.operations {
        names.open |= operation.object == Fact::Unknown;
        names.known.push(operation.verb.clone().into_owned());
    }
    names.settled()
}

fn objects(action: &Action, kind: ObjectKind) -> Names {
    let mut names = Names::default();
    for operation in &action.operations {
        match &operation.object {
            Fact::Unknown => names.open = true,
            Fact::Known(Some(Object { kind: of, names: all, .. })) if *of == kind => match all.as_slice() {
                [] => names.open = true,
                [one] => names.known.push(NamePattern::of(one).to_string()),
                several => names.maybe.extend(several.iter().map(|name| NamePattern::of(name).to_string())),
            },
            Fact::Known(_) => {}
        }
    }
    names.settled()
}

impl Names {
    fn settled(mut self) -> Self {
        for list in [&mut self.known, &mut self.maybe] {
            list.sort_unstable();
            list.dedup();
        }
        self
    }
}
