//! Masks on the wire: which values of which messages are hidden.
//!
//! Owns what masks come to for one session, and what of each command's answers they change. Touches its arguments
//! only. Invariants: a value whose origin is not known is masked; a message that can hold values of a masked column
//! passes only in a form that cannot.

mod catalog;
mod copy;
mod detect;
mod foreseen;
mod layout;
mod rows;
mod texts;
mod value;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use sallyport_core::protocol::Masking;
use sallyport_policy::{Action, Column, Denial, Fact, Fields, MaskMethod, ObjectKind, QualifiedName, Usage};
use tokio::time::{Duration, Instant};

use self::catalog::ColumnMasks;
pub(crate) use self::catalog::{Catalog, is_ours, question};
pub(crate) use self::copy::{Announced, CopyRows};
use self::detect::Detectors;
pub use self::foreseen::{Place, foreseen, read_relations};
pub(crate) use self::rows::{LONGEST_DESCRIPTION, LONGEST_ROW, Rows};
pub(crate) use self::texts::{LONGEST_TEXTS, payload_withheld, texts_withheld};
use self::value::Key;
use crate::sql::{self, CopyForm, StatementKind};

/// What was learned from the catalog is asked for anew after this long: another session may replace a view.
const FRESH: Duration = Duration::from_secs(30);

/// What the statements of a command are, one after the other.
pub(crate) trait Kinds<'k>: Iterator<Item = &'k StatementKind> + Clone {}

impl<'k, K: Iterator<Item = &'k StatementKind> + Clone> Kinds<'k> for K {}

/// What masks come to for one session.
#[derive(Debug)]
pub(crate) struct Masks {
    pub(crate) masking: Arc<Masking>,
    known: Option<Arc<Known>>,
    detectors: Arc<Detectors>,
    key: Option<Arc<Key>>,
    learned: Option<Instant>,
    stale: bool,
    /// A COPY whose data the client sends may have begun since the last Sync.
    pub(crate) copies_in: bool,
}

/// The catalog, and what is masked of it.
#[derive(Debug)]
pub(crate) struct Known {
    catalog: Catalog,
    masks: HashMap<u32, ColumnMasks>,
}

/// The names that a command's relations could have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Touched<'a>(&'a Action);

/// What has to be done to the answers of one command.
#[derive(Debug, Clone)]
pub(crate) struct Veil {
    action: Arc<Action>,
    masking: Arc<Masking>,
    detectors: Arc<Detectors>,
    key: Option<Arc<Key>>,
    /// What the rows look like, where it is a COPY TO STDOUT and that is known.
    copy: Option<CopyForm>,
}

/// What of a command's relations is masked.
#[derive(Debug, Default)]
struct Relevant {
    /// By name of the column; none stands for every column.
    columns: Vec<(Option<Box<str>>, MaskMethod)>,
    /// Some relation is not known.
    unknown: bool,
}

/// How a column of an answer is masked whose origin is not told: `name` (none: every column) is masked, and may have a
/// part in it or not.
fn taint(fields: &Fields, column: Column<'_>, name: Option<&str>, method: MaskMethod) -> Option<MaskMethod> {
    let holds = |names: &sallyport_policy::FieldNames| match name {
        Some(name) => names.may_hold(name),
        None => !names.is_empty(),
    };
    let within = holds(&fields.within);
    match column {
        Column::Known(shown) if within || holds(&shown.fields) => {
            // As it is, it is masked as it would be; as a part of something else, nothing of it may show.
            Some(if shown.plain && !within { method } else { MaskMethod::Redact.max(method) })
        }
        Column::OfStar if within => Some(MaskMethod::Redact.max(method)),
        Column::Known(_) | Column::OfStar => None,
        Column::Unknown => {
            let shown = fields.shown.iter().any(|column| column.star || holds(&column.fields));
            (within || shown).then(|| MaskMethod::Redact.max(method))
        }
    }
}

impl<'a> Touched<'a> {
    pub(crate) const fn of(action: &'a Action) -> Self {
        Self(action)
    }

    pub(crate) fn tables(self) -> impl Iterator<Item = &'a QualifiedName> {
        self.relations().flat_map(|(names, _)| names)
    }

    fn relations(self) -> impl Iterator<Item = (&'a [QualifiedName], Usage)> {
        self.0.operations.iter().filter_map(|operation| match &operation.object {
            Fact::Known(Some(object)) if object.kind == ObjectKind::Table => Some((&*object.names, object.usage)),
            _ => None,
        })
    }

    fn is_open(self) -> bool {
        self.0.operations.iter().any(|operation| operation.object == Fact::Unknown)
    }
}

impl Known {
    fn of(catalog: Catalog, masking: &Masking, front: &sql::Front) -> Self {
        let masks = catalog.resolve(masking, front);
        Self { catalog, masks }
    }
}

fn relevant(masking: &Masking, known: Option<&Known>, action: &Action) -> Relevant {
    let mut relevant = Relevant::default();
    if masking.plan.columns.is_empty() {
        return relevant;
    }
    let touched = Touched::of(action);
    relevant.unknown = touched.is_open();
    for (names, usage) in touched.relations() {
        let mut found = false;
        for name in names {
            // By the name as the command says it, whatever the catalog said of it.
            let listed = masking.plan.of_table(name).map(|(column, method)| (column.map(Into::into), method));
            relevant.columns.extend(listed);
            let Some((oid, known)) = known.and_then(|known| Some((known.catalog.named(name)?, known))) else {
                continue;
            };
            found = true;
            let shown = known.masks.get(&oid).into_iter().flat_map(ColumnMasks::names);
            relevant.columns.extend(shown.map(|(column, method)| (column.map(Into::into), method)));
        }
        relevant.unknown |= !found && usage == Usage::Read;
    }
    relevant
}

fn copies_out<'k>(mut kinds: impl Kinds<'k>) -> bool {
    kinds.any(|kind| matches!(kind, StatementKind::CopyOut(_)))
}

/// Whether which columns a COPY has is for the catalog to say.
fn copies_star<'k>(action: &Action, kinds: impl Kinds<'k>) -> bool {
    copies_out(kinds) && action.fields.shown.iter().any(|column| column.star)
}

impl Relevant {
    fn is_none(&self) -> bool {
        self.columns.is_empty() && !self.unknown
    }

    /// How the column of that name is masked, as it is.
    fn of(&self, column: &str) -> Option<MaskMethod> {
        let of = |(name, _): &&(Option<Box<str>>, MaskMethod)| name.as_deref().is_none_or(|name| name == column);
        self.columns.iter().filter(of).map(|(_, method)| *method).max()
    }

    fn taint(&self, fields: &Fields, column: Column<'_>) -> Option<MaskMethod> {
        let named = self.columns.iter();
        let named = named.filter_map(|(name, method)| taint(fields, column, name.as_deref(), *method)).max();
        let unknown = self.unknown.then(|| taint(fields, column, None, MaskMethod::Redact)).flatten();
        named.max(unknown)
    }
}

impl Masks {
    pub(crate) fn new(masking: Arc<Masking>) -> Self {
        let detectors = Arc::new(Detectors::new(masking.plan.detect.clone()));
        let key = masking.key.as_ref().map(|key| Arc::new(Key::new(key.expose())));
        Self { masking, known: None, detectors, key, learned: None, stale: false, copies_in: false }
    }

    /// Takes what the server told of its catalog.
    pub(crate) fn learn(&mut self, catalog: Catalog, front: &sql::Front) {
        if !catalog.is_whole() {
            self.known = None;
            return self.failed_to_learn();
        }
        self.known = Some(Arc::new(Known::of(catalog, &self.masking, front)));
        self.learned = Some(Instant::now());
        self.stale = false;
    }

    /// The catalog did not answer: what is not known stays so, and is not asked for before every command.
    pub(crate) fn failed_to_learn(&mut self) {
        self.learned = Some(Instant::now());
        self.stale = false;
    }

    /// What is known may not be so any more.
    pub(crate) const fn doubt(&mut self) {
        self.stale = true;
    }

    pub(crate) const fn doubts(&self) -> bool {
        self.stale
    }

    /// The veil of a command of which nothing is known.
    pub(crate) fn veil_of_anything(&self) -> Box<Veil> {
        Box::new(Veil {
            action: Arc::new(Action::opaque("Other")),
            masking: Arc::clone(&self.masking),
            detectors: Arc::clone(&self.detectors),
            key: self.key.clone(),
            copy: None,
        })
    }

    /// Whether the catalog should be asked, before a command that does `action`.
    pub(crate) fn wants_to_know<'k>(&self, action: &Action, kinds: impl Kinds<'k>) -> bool {
        if self.masking.plan.columns.is_empty() {
            return false;
        }
        let old = self.learned.is_none_or(|learned| learned.elapsed() >= FRESH);
        let Some(known) = self.known.as_deref() else { return old || self.stale };
        let relevant = relevant(&self.masking, Some(known), action);
        // Its lines do not tell which columns they have: what another session has changed meanwhile must be known.
        let starred = copies_star(action, kinds) && !relevant.is_none();
        old || self.stale || starred || relevant.unknown
    }

    /// Whether `action` defines something that masks must know of.
    pub(crate) fn is_definition(action: &Action) -> bool {
        const DEFINE: [&str; 6] = ["Create", "Alter", "Drop", "Rename", "Other", "Import"];
        action.operations.iter().any(|operation| DEFINE.iter().any(|verb| operation.verb.starts_with(verb)))
    }

    /// What must be done to the answers of a command; nothing where no mask can have to do with it.
    /// `always`: even where no mask seems to, for more is about to be known.
    pub(crate) fn veil<'k>(&self, action: &Action, kinds: impl Kinds<'k>, always: bool) -> Option<Box<Veil>> {
        let none = || relevant(&self.masking, self.known.as_deref(), action).is_none();
        if !always && self.detectors.is_empty() && none() {
            return None;
        }
        Some(Box::new(Veil {
            action: Arc::new(action.clone()),
            masking: Arc::clone(&self.masking),
            detectors: Arc::clone(&self.detectors),
            key: self.key.clone(),
            copy: layout::form(kinds).cloned(),
        }))
    }

    /// What speaks against a command that policy cannot see: it knows no catalog.
    pub(crate) fn forbids<'k>(&self, action: &Action, kinds: impl Kinds<'k>) -> Option<Denial> {
        let relevant = relevant(&self.masking, self.known.as_deref(), action);
        if relevant.is_none() {
            return None;
        }
        let fields = &action.fields;
        let copied = relevant.columns.iter().find(|(name, _)| match name {
            Some(name) => fields.copied.may_hold(name),
            None => !fields.copied.is_empty(),
        });
        if let Some((name, _)) = copied {
            let name = name.as_deref().unwrap_or("a column");
            return Some(Denial::not_understood(format!(
                "{name} is masked here: it may be shown, and not be copied or renamed to where no mask would find it"
            )));
        }
        if relevant.unknown && !fields.copied.is_empty() {
            return Some(Denial::not_understood(
                "values of a relation that is not known yet would be copied, and columns are masked here: try again",
            ));
        }
        if !copies_out(kinds.clone()) || relevant.taint(fields, Column::Unknown).is_none() {
            return None;
        }
        let columns = match layout::form(kinds.clone()) {
            // By now they may be others, in another order.
            Some(_) if copies_star(action, kinds) && (self.stale || Self::is_definition(action)) => {
                Err("COPY would show masked columns, and what was just defined may have changed which they are")
            }
            None => Err("COPY would show masked columns in a form that is not known here"),
            Some(form) => layout::columns(&relevant, self.known.as_deref(), action, form),
        };
        columns.err().map(|why| Denial::not_understood(format!("{why}: list its columns by name, or use SELECT")))
    }
}

impl Veil {
    /// How the columns of an answer are masked, from its RowDescription; `None` when that cannot be read. Says as well
    /// whether something was not known.
    pub(crate) fn rows(&self, known: Option<&Known>, description: &[u8]) -> Option<(Rows, bool)> {
        let described = rows::columns(description)?;
        let relevant = relevant(&self.masking, known, &self.action);
        let fields = &self.action.fields;
        let open = Touched::of(&self.action).is_open();
        let mut doubtful = false;
        let methods: Vec<_> = described
            .iter()
            .enumerate()
            .map(|(at, column)| {
                if relevant.is_none() {
                    return None;
                }
                if column.table == 0 {
                    let shown = fields.shown_at(at, described.len());
                    // Of a cursor or statement that nobody here has seen it is not known what it is made of either.
                    let unseen = open && matches!(shown, Column::Unknown);
                    return relevant.taint(fields, shown).or_else(|| unseen.then_some(MaskMethod::Redact));
                }
                let told = self.told(known, column.table, column.number);
                doubtful |= told.is_none();
                told.unwrap_or(Some(MaskMethod::Redact))
            })
            .collect();
        let rows = Rows::new(&described, &methods, Arc::clone(&self.detectors), self.key.clone());
        Some((rows, doubtful))
    }

    /// How a column of that origin is masked; `None` when it is not known which it is.
    fn told(&self, known: Option<&Known>, table: u32, number: i16) -> Option<Option<MaskMethod>> {
        let known = known?;
        let (name, columns) = known.catalog.relation(table)?;
        // What the answer comes from is what the command names. If it is not, names have moved since.
        let named = Touched::of(&self.action).tables().any(|touched| touched == name);
        if !(named || Touched::of(&self.action).is_open()) || number > columns {
            return None;
        }
        Some(known.masks.get(&table).and_then(|masks| masks.of(number)))
    }

    /// How the rows of a COPY are masked that shows what the command shows; none where they pass as they are.
    ///
    /// # Errors
    /// Where that cannot be told: they must not pass. Refused before, but for what the server has told since.
    pub(crate) fn copy(&self, known: Option<&Known>, announced: Announced) -> Result<Option<CopyRows>, &'static str> {
        let relevant = relevant(&self.masking, known, &self.action);
        let hides =
            Touched::of(&self.action).is_open() || relevant.taint(&self.action.fields, Column::Unknown).is_some();
        match (hides, announced.binary, self.detectors.is_empty()) {
            (false, _, true) => return Ok(None),
            (false, false, false) => {
                return Ok(Some(CopyRows::searched(Arc::clone(&self.detectors), self.key.clone())));
            }
            // What cannot be told apart from other bytes would not be found.
            (_, true, false) => return Err("a COPY in binary cannot be searched for what is to be masked: use text"),
            (true, _, _) => {}
        }
        let Some(form) = &self.copy else { return Err("a COPY in a form that is not known here") };
        let columns = layout::columns(&relevant, known, &self.action, form)?;
        let columns = columns.announced(&relevant, known, &self.action, form, announced)?;
        Ok(Some(CopyRows::new(columns, form.syntax.clone(), Arc::clone(&self.detectors), self.key.clone())))
    }

    /// Whether texts of errors and notices may hold values of masked columns.
    pub(crate) fn hides_columns(&self, known: Option<&Known>) -> bool {
        !relevant(&self.masking, known, &self.action).is_none()
    }

    /// A text with what is detected in it replaced.
    pub(crate) fn detected(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.detectors.replaced(text, self.key.as_deref())
    }
}

impl Masks {
    pub(crate) fn known(&self) -> Option<&Arc<Known>> {
        self.known.as_ref()
    }

    /// Whether messages that belong to no command of the session's are to be withheld.
    pub(crate) fn withholds_notifications(&self) -> bool {
        !self.masking.plan.is_empty()
    }
}

/// Appends the question to the server, for these masks.
pub(crate) fn ask(masks: &Masks, out: &mut BytesMut) {
    question(&masks.masking, out);
}
