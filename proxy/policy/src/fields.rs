//! What a command does with the fields of the objects that it touches, as far as its text tells.
//!
//! Owns the words for it: which fields show in the answer, which are compared or computed with, which are copied
//! into something else. Touches nothing. Invariant: a field that is not listed, where `any` is not set, has no part
//! in what the list speaks of; what cannot be told sets `any`.

use std::collections::BTreeSet;

/// More names than this in one list are not told apart any more.
const MOST_NAMES: usize = 512;

/// Names of fields, each without the object it belongs to: whoever asks brings that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldNames {
    names: BTreeSet<Box<str>>,
    any: bool,
}

/// What a command does with fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// The columns of the answer in their order, where the command has one answer whose columns are known.
    pub shown: Vec<Shown>,
    /// What may have a part in any column of the answer.
    pub within: FieldNames,
    /// What the command hangs on beyond showing it as it is: compared, computed with, ordered by, handed on.
    pub used: FieldNames,
    /// What flows into something else than the answer, or is to be known by another name.
    pub copied: FieldNames,
}

/// One column of an answer, or the columns that a star stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// What has a part in it.
    pub fields: FieldNames,
    /// It is a field as it is, not an expression.
    pub plain: bool,
    /// It stands for as many columns as there are.
    pub star: bool,
}

impl FieldNames {
    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self { names: BTreeSet::new(), any: false }
    }

    /// Adds a field.
    pub fn insert(&mut self, name: &str) {
        if self.names.contains(name) {
            return;
        }
        if self.names.len() >= MOST_NAMES {
            self.any = true;
        } else {
            self.names.insert(name.into());
        }
    }

    /// It could be any field.
    pub const fn insert_any(&mut self) {
        self.any = true;
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.any |= other.any;
        other.names.iter().for_each(|name| self.insert(name));
    }

    /// Whether the field of that name may be among them.
    #[must_use]
    pub fn may_hold(&self, name: &str) -> bool {
        self.any || self.names.contains(name)
    }

    /// The name of the one field that it is, where it is one.
    #[must_use]
    pub fn only(&self) -> Option<&str> {
        let mut names = self.names.iter();
        match (self.any, names.next(), names.next()) {
            (false, Some(name), None) => Some(name),
            _ => None,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.any && self.names.is_empty()
    }
}

impl Fields {
    /// Nothing is done with any field.
    #[must_use]
    pub const fn none() -> Self {
        Self { shown: Vec::new(), within: FieldNames::none(), used: FieldNames::none(), copied: FieldNames::none() }
    }

    /// What several commands do, of which each may give an answer: which column is whose is not known then.
    #[must_use]
    pub fn of_all<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = all.into_iter();
        let Some(first) = all.next() else { return Self::none() };
        let mut union = first.clone();
        for other in all {
            if *other == Self::none() || *other == union {
                continue;
            }
            if union == Self::none() {
                union = other.clone();
                continue;
            }
            let shown = std::mem::take(&mut union.shown);
            shown.iter().chain(&other.shown).for_each(|column| union.within.extend(&column.fields));
            union.within.extend(&other.within);
            union.used.extend(&other.used);
            union.copied.extend(&other.copied);
        }
        union
    }

    /// What may have a part in column `at` of an answer of `columns` columns, beyond [`Self::within`]; all that may
    /// show anywhere, where it is not known which column is which.
    #[must_use]
    pub fn shown_at(&self, at: usize, columns: usize) -> Column<'_> {
        let first = self.shown.iter().position(|column| column.star);
        let Some(first) = first else {
            return match self.shown.get(at) {
                Some(column) if self.shown.len() == columns => Column::Known(column),
                _ => Column::Unknown,
            };
        };
        if let Some(column) = self.shown.get(at).filter(|_| at < first) {
            return Column::Known(column);
        }
        // Behind the last star they are counted from the end.
        let last = self.shown.iter().rposition(|column| column.star).unwrap_or(first);
        let behind = self.shown.len() - 1 - last;
        let from_end = columns.saturating_sub(at);
        match self.shown.len().checked_sub(from_end).and_then(|n| self.shown.get(n)) {
            Some(column) if from_end <= behind => Column::Known(column),
            // What is in a star of relations is known by its origin, or comes from within.
            _ if columns >= self.shown.len().saturating_sub(1) && self.is_of_stars(first, last) => Column::OfStar,
            _ => Column::Unknown,
        }
    }

    /// Whether nothing but relations stands there: between two stars, or of a row that is made of something, any column
    /// could be any.
    fn is_of_stars(&self, first: usize, last: usize) -> bool {
        self.shown.get(first..=last).is_some_and(|items| items.iter().all(|item| item.star && item.plain))
    }
}

/// What is known of one column of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// It is this.
    Known(&'a Shown),
    /// It is one that a star stands for.
    OfStar,
    /// It could be any.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str) -> Shown {
        let mut fields = FieldNames::none();
        fields.insert(name);
        Shown { fields, plain: true, star: false }
    }

    fn star() -> Shown {
        Shown { fields: FieldNames::none(), plain: true, star: true }
    }

    fn fields(shown: Vec<Shown>) -> Fields {
        Fields { shown, ..Fields::none() }
    }

    #[test]
    fn columns_are_counted_from_both_ends_of_stars() {
        let two = fields(vec![column("a"), column("b")]);
        assert_eq!(two.shown_at(1, 2), Column::Known(&column("b")));
        assert_eq!(two.shown_at(1, 3), Column::Unknown, "the server says otherwise");
        let starred = fields(vec![column("a"), star(), column("b"), star(), column("c")]);
        assert_eq!(starred.shown_at(0, 9), Column::Known(&column("a")));
        assert_eq!(starred.shown_at(8, 9), Column::Known(&column("c")));
        for between in 1..8 {
            assert_eq!(starred.shown_at(between, 9), Column::Unknown, "b is one of them");
        }
        assert_eq!(fields(vec![column("a"), star(), star()]).shown_at(4, 9), Column::OfStar);
        let row = Shown { plain: false, ..star() };
        let spread = fields(vec![row, column("a"), column("b")]);
        assert_eq!(spread.shown_at(0, 3), Column::Unknown, "a row has any number of columns, or none");
        assert_eq!(spread.shown_at(2, 3), Column::Known(&column("b")));
        assert_eq!(fields(vec![star()]).shown_at(0, 1), Column::OfStar);
        assert_eq!(fields(Vec::new()).shown_at(0, 1), Column::Unknown);
    }

    #[test]
    fn of_several_it_is_not_known_which_column_is_whose() {
        let union = Fields::of_all([&fields(vec![column("a")]), &fields(vec![column("b")])]);
        assert!(union.shown.is_empty());
        assert!(union.within.may_hold("a") && union.within.may_hold("b") && !union.within.may_hold("c"));
        let alone = Fields::of_all([&Fields::none(), &fields(vec![column("a")]), &Fields::none()]);
        assert_eq!(alone.shown, vec![column("a")]);
    }

    #[test]
    fn too_many_names_are_any() {
        let mut names = FieldNames::none();
        (0..=MOST_NAMES).for_each(|n| names.insert(&format!("c{n}")));
        assert!(names.may_hold("whatever"));
    }
}
