//! Masks: which values of an answer are hidden, and how; and what may not be done with what is hidden.
//!
//! Owns masks as bundles carry them, and which of them hold for a session. Touches its arguments only. Invariants:
//! where several masks speak of one column the strictest method holds; a masked column is never copied to
//! where no mask would find it.

use serde::{Deserialize, Serialize};

use crate::action::{Action, Fact, ObjectKind};
use crate::bundle::PolicyEntry;
use crate::decide::{DenyReason, applicable};
use crate::fields::FieldNames;
use crate::pattern::ColumnPattern;
use crate::{Denial, QualifiedName, Session, World};

/// One mask, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mask {
    /// The columns it hides, by where their values come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnPattern>,
    /// What it hides wherever it is found in a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detect: Vec<Detector>,
    /// What stands in a value's place.
    pub method: MaskMethod,
    /// Its columns may be shown, masked, and nothing else be done with them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

/// What stands in a value's place, from the mildest to the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MaskMethod {
    /// Some of it.
    Partial,
    /// Another value of the same form; the same for the same value.
    Tokenize,
    /// A keyed hash; the same for the same value.
    Hash,
    /// A constant.
    Redact,
    /// Nothing (NULL).
    Null,
}

/// What is found by its form, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Detector {
    /// A payment card's number: 13 to 19 digits with a right check digit (ISO/IEC 7812, Luhn).
    CreditCard,
    /// A bank account's number with right check digits (ISO 13616).
    Iban,
    /// An email address.
    Email,
}

/// The masks that hold for one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MaskPlan {
    /// Columns and their methods; several may speak of one column.
    pub columns: Vec<(ColumnPattern, MaskMethod)>,
    /// What is detected, each once, with the strictest method.
    pub detect: Vec<(Detector, MaskMethod)>,
}

impl Mask {
    /// Whether what stands in a value's place hangs on a key.
    #[must_use]
    pub const fn needs_key(&self) -> bool {
        matches!(self.method, MaskMethod::Hash | MaskMethod::Tokenize)
    }
}

impl MaskPlan {
    /// Whether nothing is hidden.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.columns.is_empty() && self.detect.is_empty()
    }

    /// The masks of columns of that table: for each the column, `None` for every column, and the method.
    pub fn of_table(&self, table: &QualifiedName) -> impl Iterator<Item = (Option<&str>, MaskMethod)> {
        let speaks_of = move |(pattern, _): &&(ColumnPattern, MaskMethod)| pattern.table().matches(table);
        self.columns.iter().filter(speaks_of).map(|(pattern, method)| (pattern.column(), *method))
    }
}

/// The masks of `session`: those of all policies that apply to it.
#[must_use]
pub fn masks(world: &World, session: &Session) -> MaskPlan {
    let mut plan = MaskPlan::default();
    for (_, mask) in in_force(world, session) {
        plan.columns.extend(mask.columns.iter().map(|column| (column.clone(), mask.method)));
        for detector in &mask.detect {
            match plan.detect.iter_mut().find(|(known, _)| known == detector) {
                Some((_, method)) => *method = mask.method.max(*method),
                None => plan.detect.push((*detector, mask.method)),
            }
        }
    }
    plan
}

/// What masks have against a command: it would copy what is hidden, or do with it what a strict mask forbids.
pub(crate) fn forbids(world: &World, session: &Session, action: &Action) -> Option<Denial> {
    for (policy, mask) in in_force(world, session) {
        for column in mask.columns.iter().filter(|column| touches(action, column)) {
            let is_among = |names: &FieldNames| match column.column() {
                Some(name) => names.may_hold(name),
                None => !names.is_empty(),
            };
            let copied = is_among(&action.fields.copied);
            if copied || (mask.strict && is_among(&action.fields.used)) {
                let (policy, column) = (policy.name.clone(), column.to_string());
                return Some(DenyReason::Masked { policy, column, copied }.into());
            }
        }
    }
    None
}

/// The masks that hold for `session`, each with the name of its policy.
pub fn masks_in_force<'w>(world: &'w World, session: &'w Session) -> impl Iterator<Item = (&'w str, &'w Mask)> {
    in_force(world, session).map(|(policy, mask)| (policy.name.as_str(), mask))
}

fn touches(action: &Action, column: &ColumnPattern) -> bool {
    let tables = action.operations.iter().filter_map(|operation| match &operation.object {
        Fact::Known(Some(object)) if object.kind == ObjectKind::Table => Some(&object.names),
        _ => None,
    });
    tables.flatten().any(|name| column.table().matches(name))
}

fn in_force<'w>(world: &'w World, session: &'w Session) -> impl Iterator<Item = (&'w PolicyEntry, &'w Mask)> {
    let member = world.roster.member(session.identity.namespace(), session.identity.name());
    member
        .into_iter()
        .flat_map(|member| applicable(&world.bundle, member))
        .filter(|(_, policy)| policy.credentials.contains(&session.credential))
        .flat_map(|(_, policy)| policy.masks.iter().map(move |mask| (policy, mask)))
}
