//! SQL text to what it does, in policy's neutral words, with PostgreSQL's own grammar.
//!
//! Owns parsing and everything derived from a parse tree. Touches neither network nor clock; shared by all sessions.
//! Invariant: what a text does is contained in its [`Described::action`], or some operation in that has an unknown
//! object, or the text is refused.
//!
//! What an administrator must see to, because no text can tell: nobody whom the agents' policies do not trust may
//! create functions, operators or casts in the schemas of the search path (`REVOKE CREATE ON SCHEMA public FROM
//! PUBLIC`); a view, trigger, default, rule or row security policy does what its owner made it do and is judged by
//! the name of the table it hangs on; the database's encoding is UTF8.

mod catalog;
mod copy;
mod define;
mod fields;
mod function;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod likeness;
mod names;
mod predicate;
mod query;
mod settings;
mod statement;
mod table;
mod walk;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use moka::sync::Cache;
use sallyport_policy::{Action, Fact, Fields, Object, Operation};

pub use catalog::Release;
pub use copy::{CopyForm, CopySyntax, Line};
pub use likeness::without_constants;
pub use names::{Loss, NameSettings, NameSettingsError};
use walk::{Surrender, Walker};

/// A longer text is refused before it is read.
pub const LONGEST_TEXT: usize = 1024 * 1024;

/// Texts and what they do are kept up to about this many bytes.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// A text longer than this is not worth its room in the cache.
const LONGEST_CACHED: usize = 64 * 1024;

/// The parser turns standard error of the *process* aside while it runs, and back afterwards: two at once would
/// swap it for good. Whatever else writes there in that time is lost, so the proxy logs to standard output.
static PARSER: Mutex<()> = Mutex::new(());

/// The way from text to meaning, shared by all sessions of a target.
#[derive(Debug)]
pub struct Front {
    names: NameSettings,
    cache: Cache<Arc<str>, Arc<Described>>,
    /// The fronts for sessions that have set a search path of their own, as far as this is not such a one already.
    empty: Option<Arc<Self>>,
    lost: Option<Arc<Self>>,
}

/// What a text does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Of all statements together, each operation once.
    pub action: Action,
    /// How many statements there are.
    pub statements: usize,
    /// What the session must know of each, in their order; one [`StatementKind::Empty`] where there is none.
    pub kinds: Vec<StatementKind>,
    /// What each does by itself, in the order of `kinds`.
    pub actions: Vec<Action>,
    /// Once it has run, names without a schema may mean other objects than this front takes them for: from there on
    /// texts are for [`Front::lost`], and those described before are to be described anew.
    pub loses: Option<Loss>,
    /// The parameter, counted from zero, whose value is the search path that it sets, where it loses what it does by that alone: it loses
    /// nothing where that path holds what the session begins with.
    pub path: Option<usize>,
}

/// What a session must know of a statement, beyond what policy judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatementKind {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END.
    Commit {
        /// Another transaction begins at once.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// Another transaction begins at once.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint(String),
    /// RELEASE SAVEPOINT.
    Release(String),
    /// ROLLBACK TO SAVEPOINT.
    RollbackTo(String),
    /// SET CONSTRAINTS.
    SetConstraints,
    /// COPY FROM STDIN.
    CopyIn,
    /// COPY TO STDOUT, and what its rows look like; none where that cannot be told.
    CopyOut(Option<Box<CopyForm>>),
    /// PREPARE.
    Prepare(String),
    /// EXECUTE. Its operation is `Session` where the same text prepared it, else `Execute` of something unknown.
    Execute(String),
    /// DEALLOCATE, of all where there is no name.
    Deallocate(Option<String>),
    /// DECLARE CURSOR.
    Declare(String),
    /// FETCH, MOVE. Its operation is `Session` where the same text declared it, else `Execute` of something unknown.
    Fetch(String),
    /// CLOSE, of all where there is no name.
    CloseCursor(Option<String>),
    /// No statement at all.
    Empty,
    /// Anything else.
    Other,
}

/// A text that cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct Refusal {
    /// Why, and what to do, for the agent.
    pub cause: String,
}

impl Front {
    /// A front for upstream sessions that resolve names in this way.
    #[must_use]
    pub fn new(settings: NameSettings) -> Self {
        let release = settings.release;
        let lost = Some(Arc::new(Self::alone(NameSettings::lost(Loss::All, release))));
        let empty = Self { lost: lost.clone(), ..Self::alone(NameSettings::lost(Loss::Relations, release)) };
        Self { empty: Some(Arc::new(empty)), lost, ..Self::alone(settings) }
    }

    fn alone(settings: NameSettings) -> Self {
        let weigh =
            |text: &str, described: &Described| u32::try_from(text.len() + described.weight()).unwrap_or(u32::MAX);
        let cache = Cache::builder()
            .max_capacity(CACHE_BYTES)
            .weigher(move |text: &Arc<str>, described: &Arc<Described>| weigh(text, described))
            .build();
        Self { names: settings, cache, empty: None, lost: None }
    }

    /// The front for a session that has set a search path of its own: a name without a schema is any object at all.
    /// None where this one knows no more than that.
    #[must_use]
    pub const fn lost(&self, loss: Loss) -> Option<&Arc<Self>> {
        match loss {
            Loss::Relations => self.empty.as_ref(),
            Loss::All => self.lost.as_ref(),
        }
    }

    /// What the upstream session's `search_path` must be for the answers to hold.
    #[must_use]
    pub const fn names(&self) -> &NameSettings {
        &self.names
    }

    /// What `text` does.
    ///
    /// # Errors
    /// When it is too long, is not SQL, or is too deep or too wide to be understood. Refusals are not remembered: one
    /// may be due to want of memory or file descriptors.
    pub fn describe(&self, text: &str) -> Result<Arc<Described>, Refusal> {
        if text.len() > LONGEST_TEXT {
            return Err(Refusal::too_long(text.len()));
        }
        if text.contains('\0') {
            return Err(Refusal::new("the statement contains a NUL byte"));
        }
        if let Some(described) = self.cache.get(text) {
            return Ok(described);
        }
        let described = Arc::new(self.derive(text)?);
        if text.len() <= LONGEST_CACHED {
            self.cache.insert(text.into(), Arc::clone(&described));
        }
        Ok(described)
    }

    fn derive(&self, text: &str) -> Result<Described, Refusal> {
        let parsed = {
            let _alone = PARSER.lock().unwrap_or_else(PoisonError::into_inner);
            pg_query::parse(text, 0).map_err(|error| Refusal::unparsed(&error))?
        };
        let release = self.names.release;
        let (empty, lost) = (NameSettings::lost(Loss::Relations, release), NameSettings::lost(Loss::All, release));
        let mut walker = Walker::new(&self.names);
        let mut kinds = Vec::new();
        let mut actions = Vec::new();
        for raw in &parsed.protobuf.stmts {
            match raw.stmt.as_deref().and_then(|node| node.node.as_ref()) {
                Some(node) => kinds.push(walker.statement(node)),
                None => return Err(Refusal::new("a statement is of a kind that is not known here")),
            }
            if let Some(surrender) = walker.surrender {
                return Err(Refusal::surrendered(surrender));
            }
            actions.push(Action { operations: walker.take_operations(), fields: walker.take_fields() });
            if let Some(loss) = walker.loses.filter(|loss| self.lost(*loss).is_some()) {
                walker.names = if loss == Loss::All { &lost } else { &empty };
                // The server reads a prepared statement anew when the path has changed.
                walker.prepared.clear();
            }
        }
        let statements = kinds.len();
        if kinds.is_empty() {
            kinds.push(StatementKind::Empty);
            actions.push(Action::none());
        }
        let path = walker.path_parameter(&parsed.protobuf.stmts);
        Ok(Described { action: union(&actions), statements, kinds, actions, loses: walker.loses, path })
    }
}

fn union(actions: &[Action]) -> Action {
    let mut seen = HashSet::new();
    let operations = actions.iter().flat_map(|action| &action.operations);
    Action {
        operations: operations.filter(|operation| seen.insert(*operation)).cloned().collect(),
        fields: Fields::of_all(actions.iter().map(|action| &action.fields)),
    }
}

impl Described {
    /// About how many bytes it takes.
    fn weight(&self) -> usize {
        let object = |object: &Object| {
            object.names.iter().map(|name| size_of_val(name) + name.space.len() + name.name.len()).sum::<usize>()
        };
        let operation = |operation: &Operation| {
            size_of_val(operation)
                + match &operation.object {
                    Fact::Known(Some(known)) => object(known),
                    _ => 0,
                }
        };
        let action = |action: &Action| action.operations.iter().map(operation).sum::<usize>();
        256 + action(&self.action) + self.actions.iter().map(action).sum::<usize>() + self.kinds.len() * 64
    }
}

impl Refusal {
    fn new(cause: impl Into<String>) -> Self {
        Self { cause: cause.into() }
    }

    pub(crate) fn too_long(bytes: usize) -> Self {
        Self::new(format!(
            "the statement has {bytes} bytes, more than {LONGEST_TEXT}: send data with COPY or parameters"
        ))
    }

    fn unparsed(error: &pg_query::Error) -> Self {
        match error {
            pg_query::Error::Parse(message) => {
                let piece: String = message.chars().filter(|c| !c.is_control()).take(160).collect();
                Self::new(format!("the statement cannot be parsed: {piece}"))
            }
            pg_query::Error::Decode(_) => {
                Self::new("the statement is nested too deeply or is not UTF-8: split it, or use parameters")
            }
            _ => Self::new("the statement cannot be parsed"),
        }
    }

    fn surrendered(surrender: Surrender) -> Self {
        match surrender {
            Surrender::TooManyOperations => Self::new("the statement touches too many objects: split it"),
            Surrender::OtherSyntax => Self::new(
                "client_encoding is UTF8 and standard_conforming_strings is on behind this proxy, and set_config must \
                 name its setting",
            ),
            Surrender::TooDeep => Self::new("the statement is nested too deeply: split it"),
        }
    }
}
