//! Prepared statements and portals: what each name may stand for, as far as it is known.
//!
//! Owns the two tables of a session. Touches nothing. Invariant: at any moment a name's candidates hold
//! everything that the server could run under it; where that is not one thing, all of them are judged.
//!
//! Messages run ahead of their answers. A Parse that was sent may fail, or be skipped after an error, and
//! then the name keeps its old meaning. Within one *segment* (up to the next Sync or Query) the server runs
//! a message only if all before it succeeded, so there the last Parse of a name is what it stands for. In
//! later segments the old meaning stays a candidate until the answer has come.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sallyport_policy::{Action, Fields};

use super::curb::Spent;
use super::types::Types;
use crate::sql;

/// Names longer than this are cut by the server: two of them could be one there.
pub(crate) const LONGEST_NAME: usize = 63;
/// Named statements and named portals of a session, each.
pub(crate) const MOST_NAMES: usize = 10_000;
/// Bytes of text or parameters behind the names of one table.
pub(crate) const MOST_BYTES: usize = 128 * 1024 * 1024;
/// Things that one name may stand for at once. Only a session that gives one name many meanings without
/// ever closing it comes near.
const MOST_CANDIDATES: usize = 256;
/// Stands between the texts that one name may stand for where they are recorded.
pub(super) const OR: &str = "\n-- or, as the name's meaning was still open:\n";
/// The segment of a meaning that no later message can rely on, for it may fail without anything being skipped.
pub(crate) const NO_SEGMENT: u64 = u64::MAX;

/// A prepared statement.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) text: Box<str>,
    pub(crate) described: Arc<sql::Described>,
    /// Of its parameters.
    pub(crate) types: Types,
}

/// What would run: one statement, or any of several.
#[derive(Debug, Clone)]
pub(crate) enum Meaning {
    One(Arc<Statement>),
    Any(Arc<Several>),
}

/// Statements of which one would run; it is not known which.
#[derive(Debug)]
pub(crate) struct Several {
    statements: Vec<Arc<Statement>>,
    text: String,
    action: Action,
}

impl Meaning {
    pub(crate) fn action(&self) -> &Action {
        match self {
            Self::One(statement) => &statement.described.action,
            Self::Any(several) => &several.action,
        }
    }

    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::One(statement) => Cow::Borrowed(&statement.text),
            Self::Any(several) => Cow::Borrowed(&several.text),
        }
    }

    pub(super) fn statements(&self) -> &[Arc<Statement>] {
        match self {
            Self::One(statement) => std::slice::from_ref(statement),
            Self::Any(several) => &several.statements,
        }
    }

    /// The type of the parameter of that number, where it is certain.
    pub(super) fn type_of(&self, number: usize) -> Option<u32> {
        match self {
            Self::One(statement) => statement.types.of(number),
            // Each would read the same bytes in its own way.
            Self::Any(_) => None,
        }
    }

    /// What the client says that a parameter is to be read as, where it is a text and that says more than text.
    pub(super) fn claimed(&self, number: usize) -> Option<u32> {
        match self {
            Self::One(statement) => statement.types.claimed(number),
            Self::Any(_) => None,
        }
    }

    /// The same statements as `front` understands them.
    pub(super) fn reread(&self, front: &sql::Front) -> Self {
        let reread = |statement: &Arc<Statement>| {
            let Statement { text, described, types } = &**statement;
            let kind = described.kinds.first().cloned().unwrap_or(sql::StatementKind::Other);
            // Of a PREPARE its text is kept; what it does when it runs is in there.
            let action =
                front.describe(text).map_or_else(|_| Action::opaque("Other"), |described| described.action.clone());
            let described = sql::Described {
                action: action.clone(),
                statements: 1,
                kinds: vec![kind],
                actions: vec![action],
                loses: described.loses,
                path: described.path,
            };
            // The server reads it anew, but its parameters keep their types.
            Arc::new(Statement { text: text.clone(), described: Arc::new(described), types: types.clone() })
        };
        let statements: Vec<_> = self.statements().iter().map(reread).collect();
        let meanings: Vec<_> = statements.into_iter().map(Self::One).collect();
        Self::union(meanings.iter()).unwrap_or_else(|| self.clone())
    }

    /// The meaning that holds all of `meanings`; `None` when there are none.
    fn union<'a>(mut meanings: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let first = meanings.next()?;
        let mut rest = meanings.peekable();
        if rest.peek().is_none() {
            return Some(first.clone());
        }
        let mut statements: Vec<Arc<Statement>> = first.statements().to_vec();
        for statement in rest.flat_map(Self::statements) {
            if !statements.iter().any(|known| Arc::ptr_eq(known, statement)) {
                statements.push(Arc::clone(statement));
            }
        }
        if let [only] = statements.as_slice() {
            return Some(Self::One(Arc::clone(only)));
        }
        let texts: Vec<&str> = statements.iter().map(|statement| &*statement.text).collect();
        let text = texts.join(OR);
        let operations = statements.iter().flat_map(|statement| statement.described.action.operations.iter().cloned());
        let fields = Fields::of_all(statements.iter().map(|statement| &statement.described.action.fields));
        let action = Action { operations: operations.collect(), fields };
        Some(Self::Any(Arc::new(Several { statements, text, action })))
    }
}

/// A portal: what it runs and with which values.
#[derive(Debug, Clone)]
pub(crate) struct Portal {
    pub(crate) meaning: Meaning,
    /// As [`crate::codec::frontend::parameters`] reads them.
    pub(crate) values: Bytes,
    /// Whether these are certain: not where it may be what another Bind made of the same statement.
    pub(crate) sure: bool,
    /// What it has answered so far.
    pub(crate) spent: Arc<Spent>,
}

/// What a name can stand for.
pub(crate) trait Value: Clone {
    /// Bytes that it holds on to.
    fn weight(&self) -> usize;
    /// The value that stands for any of `values`; `None` when there are none.
    fn any<'a>(values: impl Iterator<Item = &'a Self>) -> Option<Self>
    where
        Self: 'a;
}

impl Value for Meaning {
    fn weight(&self) -> usize {
        self.statements().iter().map(|statement| statement.text.len() + statement.types.weight()).sum()
    }
    fn any<'a>(values: impl Iterator<Item = &'a Self>) -> Option<Self> {
        Self::union(values)
    }
}

impl Value for Portal {
    fn weight(&self) -> usize {
        self.values.len()
    }
    fn any<'a>(values: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let mut last: Option<&Self> = None;
        let mut sure = true;
        let meaning = Meaning::union(values.map(|portal| {
            sure &= portal.sure && last.is_none_or(|before| before.values == portal.values);
            last = Some(portal);
            &portal.meaning
        }))?;
        let last = last?;
        Some(Self { meaning, values: last.values.clone(), sure, spent: Arc::clone(&last.spent) })
    }
}

/// One thing a name may stand for; `None`: it was closed.
#[derive(Debug)]
struct Candidate<V> {
    serial: u64,
    segment: u64,
    value: Option<V>,
}

/// One of the two tables. The unnamed statement or portal has the empty name and a place of its own.
#[derive(Debug)]
pub(crate) struct Names<V> {
    unnamed: VecDeque<Candidate<V>>,
    named: HashMap<Box<[u8]>, VecDeque<Candidate<V>>>,
    bytes: usize,
}

impl<V> Default for Names<V> {
    fn default() -> Self {
        Self { unnamed: VecDeque::new(), named: HashMap::new(), bytes: 0 }
    }
}

impl<V: Value> Names<V> {
    /// Whether one more name with that much behind it would be too much.
    pub(crate) fn is_full(&self, name: &[u8], weight: usize) -> bool {
        let too_many = match self.named.get(name) {
            Some(candidates) => candidates.len() >= MOST_CANDIDATES,
            None => !name.is_empty() && self.named.len() >= MOST_NAMES,
        };
        too_many || self.bytes.saturating_add(weight) > MOST_BYTES
    }

    /// Notes that a message was sent which gives `name` a meaning, or closes it.
    pub(crate) fn sent(&mut self, name: &[u8], serial: u64, segment: u64, value: Option<V>) {
        self.bytes += value.as_ref().map_or(0, V::weight);
        let candidate = Candidate { serial, segment, value };
        if name.is_empty() {
            self.unnamed.push_back(candidate);
        } else if let Some(candidates) = self.named.get_mut(name) {
            candidates.push_back(candidate);
        } else if candidate.value.is_some() {
            self.named.insert(name.into(), VecDeque::from([candidate]));
        }
    }

    /// That message succeeded: what the name stood for before is gone.
    pub(crate) fn succeeded(&mut self, name: &[u8], serial: u64) {
        self.change(name, |candidates, gone| {
            // In their order: what is older stands in front.
            while candidates
                .front()
                .is_some_and(|first| first.serial < serial || (first.serial == serial && first.value.is_none()))
            {
                *gone += candidates.pop_front().map_or(0, |first| first.weight());
            }
        });
    }

    /// That message failed or was skipped: what the name stood for before stays.
    pub(crate) fn failed(&mut self, name: &[u8], serial: u64) {
        self.change(name, |candidates, gone| {
            if let Ok(at) = candidates.binary_search_by_key(&serial, |candidate| candidate.serial) {
                *gone += candidates.remove(at).map_or(0, |candidate| candidate.weight());
            }
        });
    }

    /// Forgets the unnamed one and what `keep` does not want kept; only for when nothing is in flight that
    /// gives a name a meaning.
    pub(crate) fn keep(&mut self, keep: impl Fn(&V) -> bool) {
        let kept = |candidate: &Candidate<V>| candidate.value.as_ref().is_some_and(&keep);
        self.unnamed.clear();
        self.named.retain(|_, candidates| {
            candidates.retain(kept);
            !candidates.is_empty()
        });
        self.bytes = self.named.values().flatten().map(Candidate::weight).sum();
    }

    /// Replaces every value with what it has become.
    pub(crate) fn reread(&mut self, reread: impl Fn(&V) -> V) {
        for candidate in self.named.values_mut().chain([&mut self.unnamed]).flatten() {
            candidate.value = candidate.value.as_ref().map(&reread);
        }
    }

    /// Whether no name stands for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.unnamed.is_empty() && self.named.is_empty()
    }

    /// Everything that `name` may stand for in a message of that segment.
    pub(crate) fn meaning(&self, name: &[u8], segment: u64) -> Option<V> {
        let candidates = if name.is_empty() { Some(&self.unnamed) } else { self.named.get(name) }?;
        match candidates.back() {
            Some(last) if last.segment == segment || candidates.len() == 1 => last.value.clone(),
            _ => V::any(candidates.iter().filter_map(|candidate| candidate.value.as_ref())),
        }
    }

    fn change(&mut self, name: &[u8], change: impl Fn(&mut VecDeque<Candidate<V>>, &mut usize)) {
        let candidates = if name.is_empty() { Some(&mut self.unnamed) } else { self.named.get_mut(name) };
        let Some(candidates) = candidates else { return };
        let mut gone = 0;
        change(candidates, &mut gone);
        self.bytes = self.bytes.saturating_sub(gone);
        if candidates.is_empty() && !name.is_empty() {
            self.named.remove(name);
        }
    }
}

impl<V: Value> Candidate<V> {
    fn weight(&self) -> usize {
        self.value.as_ref().map_or(0, V::weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A value that remembers which ones it may be.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Set(Vec<u32>);
    impl Value for Set {
        fn weight(&self) -> usize {
            1
        }
        fn any<'a>(values: impl Iterator<Item = &'a Self>) -> Option<Self> {
            let all: Vec<u32> = values.flat_map(|set| set.0.iter().copied()).collect();
            if all.is_empty() { None } else { Some(Self(all)) }
        }
    }

    #[test]
    fn within_a_segment_the_last_parse_is_what_a_name_stands_for() {
        let mut names = Names::default();
        names.sent(b"a", 1, 0, Some(Set(vec![1])));
        names.sent(b"a", 2, 0, Some(Set(vec![2])));
        assert_eq!(names.meaning(b"a", 0), Some(Set(vec![2])));
    }

    #[test]
    fn in_a_later_segment_all_that_is_not_answered_counts() {
        let mut names = Names::default();
        names.sent(b"a", 1, 0, Some(Set(vec![1])));
        names.succeeded(b"a", 1);
        names.sent(b"a", 2, 1, None);
        names.sent(b"a", 3, 1, Some(Set(vec![3])));
        assert_eq!(names.meaning(b"a", 2), Some(Set(vec![1, 3])));
        names.succeeded(b"a", 2);
        assert_eq!(names.meaning(b"a", 2), Some(Set(vec![3])), "the close was answered");
        names.failed(b"a", 3);
        assert_eq!(names.meaning(b"a", 2), None);
        assert_eq!((names.bytes, names.named.len()), (0, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Parse(u8),
        Close(u8),
        Sync,
        /// The server takes the next message; false: it fails, if it is one that can.
        Serve(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u8..3).prop_map(Step::Parse),
            1 => (0u8..3).prop_map(Step::Close),
            2 => Just(Step::Sync),
            4 => any::<bool>().prop_map(Step::Serve),
        ]
    }

    /// A server: names to values, an error skips to the next Sync; a Parse of a name that exists fails.
    #[derive(Default, Clone)]
    struct Server {
        names: HashMap<u8, u32>,
        skipping: bool,
    }

    #[derive(Clone)]
    enum Message {
        Parse(u8, u32, u64),
        Close(u8, u64),
        Sync,
    }

    impl Server {
        /// Whether it succeeded.
        fn take(&mut self, message: &Message, good: bool) -> bool {
            if let Message::Sync = message {
                self.skipping = false;
                return true;
            }
            if self.skipping {
                return false;
            }
            match message {
                Message::Parse(name, value, _) if good && (*name == 0 || !self.names.contains_key(name)) => {
                    self.names.insert(*name, *value);
                }
                Message::Close(name, _) if good => {
                    self.names.remove(name);
                }
                _ => {
                    self.skipping = true;
                    return false;
                }
            }
            true
        }
    }

    fn bytes_of(name: u8) -> Vec<u8> {
        if name == 0 { Vec::new() } else { vec![name] }
    }

    proptest! {
        // The law the whole session stands on: whatever the server would run is among what is judged.
        #[test]
        fn what_the_server_would_run_is_always_a_candidate(steps in prop::collection::vec(step(), 0..60), luck: Vec<bool>) {
            let mut names = Names::<Set>::default();
            let mut server = Server::default();
            let (mut queue, mut serial, mut segment) = (std::collections::VecDeque::new(), 0u64, 0u64);
            for step in steps {
                serial += 1;
                match step {
                    Step::Parse(name) => {
                        let value = u32::try_from(serial).unwrap();
                        names.sent(&bytes_of(name), serial, segment, Some(Set(vec![value])));
                        queue.push_back(Message::Parse(name, value, serial));
                    }
                    Step::Close(name) => {
                        names.sent(&bytes_of(name), serial, segment, None);
                        queue.push_back(Message::Close(name, serial));
                    }
                    Step::Sync => {
                        segment += 1;
                        queue.push_back(Message::Sync);
                    }
                    Step::Serve(good) => if let Some(message) = queue.pop_front() {
                        let done = server.take(&message, good);
                        match message {
                            Message::Parse(name, _, serial) | Message::Close(name, serial) if done => names.succeeded(&bytes_of(name), serial),
                            Message::Parse(name, _, serial) | Message::Close(name, serial) => names.failed(&bytes_of(name), serial),
                            Message::Sync => {}
                        }
                    }
                }
                // What would a Bind sent now find, if the server went on with any luck?
                let mut ahead = server.clone();
                for (n, message) in queue.iter().enumerate() {
                    ahead.take(message, luck.get(n).copied().unwrap_or(true));
                }
                if !ahead.skipping {
                    for (name, value) in &ahead.names {
                        let candidates = names.meaning(&bytes_of(*name), segment).map_or(Vec::new(), |set| set.0);
                        prop_assert!(candidates.contains(value), "{name} is {value}, judged {candidates:?}");
                    }
                }
            }
        }
    }
}
