//! What masks will do to an answer, as far as a statement's text tells: for people who ask beforehand.
//!
//! Owns the forecast. Touches its arguments only. Invariants: it is made by the code that masks in earnest ([`taint`]); it says what
//! is masked and what only the server's catalog tells, and of nothing that it is not masked.

use sallyport_policy::{Action, Column, ColumnPattern, MaskMethod, QualifiedName};

use super::{Touched, taint};

/// Where a mask will be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In that item of the list of what the statement returns, counted from one: the column as it is.
    AsItIs(usize),
    /// In that item: something that the column may have a part in.
    PartOf(usize),
    /// In that item, which is a star: if the column is among what it stands for.
    OfStar(usize),
    /// It is not told which items there are.
    Anywhere,
}

/// Where a mask of `column` by `method` will be seen in the answer to a statement that does `action`, and by which method then.
#[must_use]
pub fn foreseen(action: &Action, column: &ColumnPattern, method: MaskMethod) -> Vec<(Place, MaskMethod)> {
    let touched = Touched::of(action);
    if !touched.is_open() && !touched.tables().any(|table| column.table().matches(table)) {
        return Vec::new();
    }
    let (fields, name) = (&action.fields, column.column());
    if fields.shown.is_empty() {
        let anywhere = taint(fields, Column::Unknown, name, method);
        return anywhere.into_iter().map(|method| (Place::Anywhere, method)).collect();
    }
    let items = fields.shown.iter().enumerate().filter_map(|(at, shown)| {
        let at = at + 1;
        if shown.star && shown.plain {
            return Some((Place::OfStar(at), taint(fields, Column::OfStar, name, method).unwrap_or(method)));
        }
        let told = taint(fields, Column::Known(shown), name, method)?;
        Some((if shown.plain { Place::AsItIs(at) } else { Place::PartOf(at) }, told))
    });
    items.collect()
}

/// The relations that a statement reads, of which the catalog may tell more: a view, and what inherits, are masked as what they
/// show. None where it cannot be told which they are: then it could be any.
#[must_use]
pub fn read_relations(action: &Action) -> Option<Vec<&QualifiedName>> {
    let touched = Touched::of(action);
    let mut read: Vec<_> = touched.tables().collect();
    read.sort();
    read.dedup();
    (!touched.is_open()).then_some(read)
}
