//! Which columns the rows of a COPY TO STDOUT have: they come without a description.
//!
//! Owns what the text and the catalog tell of them together. Touches its arguments only. Invariant: a column that a masked one
//! may have a part in is masked, or the COPY is refused; in the place of a value whose type is not known stands NULL.

use sallyport_policy::{Action, Column, MaskMethod, Shown};

use super::catalog::Attribute;
use super::copy::Announced;
use super::value::Form;
use super::{Kinds, Known, Relevant, Touched};
use crate::sql::{CopyForm, CopySyntax, StatementKind};

/// How each column is written, and how it is masked.
pub(super) type Layout = Vec<(Form, Option<MaskMethod>)>;

/// What is known of the columns before the server has said how many there are.
pub(super) enum Columns<'a> {
    /// Those that the text lists.
    Listed,
    /// Those of a relation, in their order.
    Starred(Vec<&'a Attribute>),
}

/// The form of all COPYs TO STDOUT of a text: where there are two, nobody knows which of them speaks.
pub(super) fn form<'k>(kinds: impl Kinds<'k>) -> Option<&'k CopyForm> {
    let mut forms = kinds.filter_map(|kind| match kind {
        StatementKind::CopyOut(form) => Some(form.as_deref()),
        _ => None,
    });
    let first = forms.next()?;
    if forms.all(|form| form == first) { first } else { None }
}

/// Where the columns come from.
///
/// # Errors
/// Where that is not known.
pub(super) fn columns<'a>(
    relevant: &Relevant,
    known: Option<&'a Known>,
    action: &Action,
    form: &CopyForm,
) -> Result<Columns<'a>, &'static str> {
    let touched = Touched::of(action);
    if touched.is_open() {
        return Err("COPY would show columns of something that is not known");
    }
    let shown = &action.fields.shown;
    if !shown.iter().any(|column| column.star) {
        return Ok(Columns::Listed);
    }
    const STAR: &str = "COPY would show masked columns, and * does not tell which they are";
    // Of a join or a subquery it is another order than the table's.
    let mut relations = touched.relations();
    let (Some((names, _)), None) = (relations.next(), relations.next()) else { return Err(STAR) };
    if !matches!(shown.as_slice(), [only] if only.plain) || !action.fields.within.is_empty() || relevant.unknown {
        return Err(STAR);
    }
    let Some(known) = known else { return Err(STAR) };
    let mut found = names.iter().filter_map(|name| known.catalog.named(name));
    let (Some(oid), None) = (found.next(), found.next()) else { return Err(STAR) };
    let columns = known.catalog.columns(oid).into_iter().filter(|column| form.of_query || !column.generated);
    Ok(Columns::Starred(columns.collect()))
}

impl Columns<'_> {
    /// How they are written and masked, once the server has said how many they are.
    ///
    /// # Errors
    /// Where it says what cannot be.
    pub(super) fn announced(
        self,
        relevant: &Relevant,
        known: Option<&Known>,
        action: &Action,
        form: &CopyForm,
        announced: Announced,
    ) -> Result<Layout, &'static str> {
        if announced.binary != (form.syntax == CopySyntax::Binary) {
            return Err("COPY in another form than was asked for");
        }
        let format = i16::from(announced.binary);
        let fields = &action.fields;
        match self {
            Self::Starred(columns) if columns.len() == announced.columns => Ok(columns
                .into_iter()
                .map(|column| (Form::of(column.kind, format), relevant.of(&column.name)))
                .collect()),
            // Of something else than that relation, or it has others by now.
            Self::Starred(_) => Ok(vec![(unknown(format), Some(MaskMethod::Redact)); announced.columns]),
            Self::Listed => Ok((0..announced.columns)
                .map(|at| {
                    let column = fields.shown_at(at, announced.columns);
                    let kind = match column {
                        Column::Known(shown) => kind(shown, known, action),
                        Column::OfStar | Column::Unknown => None,
                    };
                    (kind.map_or(unknown(format), |kind| Form::of(kind, format)), relevant.taint(fields, column))
                })
                .collect()),
        }
    }
}

/// The form of a value of any type.
const fn unknown(format: i16) -> Form {
    if format == 0 { Form::Readable } else { Form::Opaque }
}

/// The type of a column that is shown as it is; none where several could be meant that differ in it.
fn kind(shown: &Shown, known: Option<&Known>, action: &Action) -> Option<u32> {
    let (known, name) = (known?, shown.fields.only()?);
    if !shown.plain || !action.fields.within.is_empty() {
        return None;
    }
    let mut kinds = Touched::of(action)
        .tables()
        .filter_map(|table| known.catalog.named(table))
        .flat_map(|oid| known.catalog.columns(oid))
        .filter(|column| *column.name == *name)
        .map(|column| column.kind);
    let first = kinds.next()?;
    kinds.all(|kind| kind == first).then_some(first)
}
