//! The neutral words for what a command does: operations on objects, each fact known or unknown.
//!
//! Owns the vocabulary that every protocol describes its commands in and that policy judges.
//! Touches nothing. Invariant: a fact that could not be derived is [`Fact::Unknown`], never a guess.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::fields::Fields;

/// A fact about a command: derived from it with certainty, or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact<T> {
    /// Derived with certainty.
    Known(T),
    /// Could not be derived. A rule whose outcome hangs on it does not allow.
    Unknown,
}

/// What nobody has said is not known.
impl<T> Default for Fact<T> {
    fn default() -> Self {
        Self::Unknown
    }
}

/// Everything one command would do. Empty operations mean a command without effect of its own
/// (a flush, a synchronisation point): only the caller's standing is judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Action {
    /// Each is judged by itself; the command is allowed only when every one of them is.
    pub operations: Vec<Operation>,
    /// What it does with fields of the objects that it touches.
    pub fields: Fields,
}

/// One effect of a command.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Operation {
    /// What is done, in the protocol's own term and canonical spelling (`Select`, `CreateTable`).
    pub verb: Cow<'static, str>,
    /// What it is done to; `Known(None)` where the operation touches no object at all.
    pub object: Fact<Option<Object>>,
    /// Further facts by name. An attribute that is not listed is known to be absent.
    pub attributes: Vec<(Attribute, Fact<bool>)>,
}

/// Facts about an operation other than its verb and object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Attribute {
    /// The write touches every row: there is no WHERE clause.
    Unbounded,
}

/// A thing that operations touch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    /// What kind of thing.
    pub kind: ObjectKind,
    /// Every object that the name could mean; more than one where resolution depends on the server.
    /// Allowing needs all of them, denying one. Never empty.
    pub names: Vec<QualifiedName>,
    /// How it is used.
    pub usage: Usage,
}

/// The kinds of things that policy can speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ObjectKind {
    /// A table, view, sequence or anything else that lives in a relation namespace.
    Table,
    /// A function, procedure or operator with effects that are not known to be harmless.
    Function,
    /// Anything else that has a name: a role, a schema, a channel, a setting.
    Other,
}

/// How an operation uses its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Usage {
    /// Its content flows to the caller or into something else.
    Read,
    /// Its content or definition changes.
    Write,
    /// It is executed.
    Run,
}

/// A name with the namespace it was resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QualifiedName {
    /// The namespace (a schema); empty where the kind has none.
    pub space: Cow<'static, str>,
    /// The name within it.
    pub name: Cow<'static, str>,
}

impl Action {
    /// A command without effects of its own.
    #[must_use]
    pub const fn none() -> Self {
        Self { operations: Vec::new(), fields: Fields::none() }
    }

    /// A command of which nothing but the verb is known.
    #[must_use]
    pub fn opaque(verb: impl Into<Cow<'static, str>>) -> Self {
        let unknown = Operation { verb: verb.into(), object: Fact::Unknown, attributes: Vec::new() };
        Self { operations: vec![unknown], fields: Fields::none() }
    }
}

impl Operation {
    /// An operation that touches no object.
    #[must_use]
    pub fn bare(verb: impl Into<Cow<'static, str>>) -> Self {
        Self { verb: verb.into(), object: Fact::Known(None), attributes: Vec::new() }
    }

    /// An operation on one known object.
    #[must_use]
    pub fn on(verb: impl Into<Cow<'static, str>>, object: Object) -> Self {
        Self { verb: verb.into(), object: Fact::Known(Some(object)), attributes: Vec::new() }
    }

    /// Whether `attribute` holds; an attribute that is not listed does not.
    #[must_use]
    pub fn attribute(&self, attribute: Attribute) -> Fact<bool> {
        self.attributes.iter().find(|(name, _)| *name == attribute).map_or(Fact::Known(false), |(_, fact)| fact.clone())
    }
}

impl QualifiedName {
    /// A name in a namespace.
    #[must_use]
    pub fn new(space: impl Into<Cow<'static, str>>, name: impl Into<Cow<'static, str>>) -> Self {
        Self { space: space.into(), name: name.into() }
    }
}

impl std::fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.space.is_empty() { f.write_str(&self.name) } else { write!(f, "{}.{}", self.space, self.name) }
    }
}
