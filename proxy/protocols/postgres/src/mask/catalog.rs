//! What the server's catalog says of relations: which is which, which column is which, what shows in what.
//!
//! Owns the question put to the server, the reading of its answer, and what masks come to with it. Touches its
//! arguments only. Invariant: a relation or column that the answer does not have is not known, and what is not known
//! is never taken for unmasked.

use std::collections::HashMap;

use bytes::BytesMut;
use sallyport_core::protocol::Masking;
use sallyport_policy::{Column, MaskMethod, QualifiedName};

use super::Touched;
use crate::codec::{self, Fields};
use crate::sql;

/// The name of our statement and portal; clients may not use it.
pub(crate) const OUR_NAME: &str = "sallyport catalog";
/// Bytes and rows of an answer at most: of a longer one nothing is known.
const MOST_BYTES: usize = 64 * 1024 * 1024;
const MOST_ROWS: usize = 500_000;
/// Rounds in which masks travel to what shows the same values.
const MOST_ROUNDS: usize = 64;

/// Relations of the server's own that hold values of everybody's columns: what ANALYZE found most common.
const STATISTICS: [&str; 5] =
    ["pg_statistic", "pg_statistic_ext_data", "pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"];

/// Relations, with how many columns they ever had (`r`); columns of those in which a masked one could be, each with its
/// type and whether it is generated (`a`); who
/// inherits from whom (`i`); and the texts of the views that hang on any of these (`v`).
/// `$1` are the names of masked columns, `$2` is whether some mask speaks of every column of a table.
const QUESTION: &str = "\
WITH RECURSIVE hot(oid) AS (
  SELECT a.attrelid FROM pg_catalog.pg_attribute a
   WHERE (a.attname::pg_catalog.text = ANY ($1::pg_catalog.text[]) OR $2::pg_catalog.bool)
     AND a.attnum > 0 AND NOT a.attisdropped AND a.attrelid >= 16384
  UNION
  SELECT w.ev_class FROM hot
    JOIN pg_catalog.pg_depend d ON d.refobjid = hot.oid
     AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
     AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
    JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid)
SELECT 'r', c.oid::pg_catalog.text,
       CASE WHEN c.relnamespace = pg_catalog.pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname::pg_catalog.text END,
       c.relname::pg_catalog.text, c.relnatts::pg_catalog.text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
UNION ALL
SELECT 'a', a.attrelid::pg_catalog.text, a.attnum::pg_catalog.text, a.attname::pg_catalog.text,
       pg_catalog.concat(a.atttypid, ':', a.attgenerated)
  FROM pg_catalog.pg_attribute a JOIN hot ON hot.oid = a.attrelid
 WHERE a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'i', i.inhrelid::pg_catalog.text, i.inhparent::pg_catalog.text, '', '' FROM pg_catalog.pg_inherits i
UNION ALL
SELECT 'v', c.oid::pg_catalog.text, pg_catalog.pg_get_viewdef(c.oid), '', ''
  FROM pg_catalog.pg_class c JOIN hot ON hot.oid = c.oid WHERE c.relkind IN ('v', 'm')";

/// The relations of a database, as the server told them at one moment.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    relations: HashMap<u32, Relation>,
    by_name: HashMap<QualifiedName, u32>,
    inherits: Vec<(u32, u32)>,
    /// With their texts; none of one that went while the question was answered.
    views: Vec<(u32, Option<String>)>,
    bytes: usize,
    rows: usize,
    /// Not all of the answer was read.
    cut: bool,
}

#[derive(Debug)]
struct Relation {
    name: QualifiedName,
    /// Columns it ever had: a higher number is new.
    columns_ever: i16,
    columns: Vec<Attribute>,
}

/// A column of a relation.
#[derive(Debug, Clone)]
pub(crate) struct Attribute {
    pub(crate) number: i16,
    pub(crate) name: Box<str>,
    /// The OID of its type.
    pub(crate) kind: u32,
    pub(crate) generated: bool,
}

/// What is masked of one relation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ColumnMasks {
    /// Every column.
    every: Option<MaskMethod>,
    /// By number and name.
    columns: Vec<(i16, Box<str>, MaskMethod)>,
}

/// The question, as messages whose answers end with a ReadyForQuery. Not as a Query, which would destroy the unnamed
/// statement and portal, for those are the client's.
pub(crate) fn question(masking: &Masking, out: &mut BytesMut) {
    let mut array = String::from("{");
    let mut every = false;
    for (pattern, _) in &masking.plan.columns {
        match pattern.column() {
            Some(name) => {
                if array.len() > 1 {
                    array.push(',');
                }
                array.push('"');
                array.push_str(&name.replace('\\', "\\\\").replace('"', "\\\""));
                array.push('"');
            }
            None => every = true,
        }
    }
    array.push('}');
    let every = if every { "t" } else { "f" };
    let name = OUR_NAME.as_bytes();
    let length = |text: &str| i32::try_from(text.len()).unwrap_or(i32::MAX).to_be_bytes();
    // What an aborted transaction may have left of an earlier one.
    codec::message(out, b'C', &[b"S", name, b"\0"]);
    codec::message(out, b'P', &[name, b"\0", QUESTION.as_bytes(), b"\0\0\0"]);
    codec::message(
        out,
        b'B',
        &[
            name,
            b"\0",
            name,
            b"\0",
            b"\0\0",
            b"\0\x02",
            &length(&array),
            array.as_bytes(),
            &length(every),
            every.as_bytes(),
            b"\0\0",
        ],
    );
    codec::message(out, b'E', &[name, b"\0\0\0\0\0"]);
    codec::message(out, b'C', &[b"P", name, b"\0"]);
    codec::message(out, b'C', &[b"S", name, b"\0"]);
    codec::message(out, b'S', &[]);
}

impl Catalog {
    /// Takes a row of the answer, the body of a DataRow.
    pub(crate) fn take(&mut self, row: &[u8]) {
        self.bytes = self.bytes.saturating_add(row.len());
        self.rows += 1;
        let fits = self.bytes <= MOST_BYTES && self.rows <= MOST_ROWS;
        self.cut |= !fits || self.read(row).is_none();
    }

    /// Whether the whole answer was read. What is missing could be the columns that are masked of a relation that is known.
    pub(crate) const fn is_whole(&self) -> bool {
        !self.cut
    }

    fn read(&mut self, row: &[u8]) -> Option<()> {
        let mut fields = Fields::new("DataRow", row);
        let count = fields.u16().ok()?;
        let mut texts = [None; 5];
        if usize::from(count) != texts.len() {
            return None;
        }
        for text in &mut texts {
            *text = match fields.i32().ok()? {
                -1 => None,
                length => Some(std::str::from_utf8(fields.bytes(usize::try_from(length).ok()?).ok()?).ok()?),
            };
        }
        let [Some(kind), Some(oid), second, Some(third), Some(fourth)] = texts else { return None };
        let oid: u32 = oid.parse().ok()?;
        let view = second.map(str::to_owned);
        let second = match kind {
            "v" => "",
            _ => second?,
        };
        match kind {
            "r" => {
                let name = QualifiedName::new(second.to_owned(), third.to_owned());
                self.by_name.insert(name.clone(), oid);
                let columns_ever = fourth.parse().ok()?;
                // The order of rows is not promised: columns may have come before.
                let columns = self.relations.remove(&oid).map(|known| known.columns).unwrap_or_default();
                self.relations.insert(oid, Relation { name, columns_ever, columns });
            }
            "a" => {
                let (kind, generated) = fourth.split_once(':')?;
                let (number, kind) = (second.parse().ok()?, kind.parse().ok()?);
                let column = Attribute { number, name: third.into(), kind, generated: !generated.is_empty() };
                let unnamed = || Relation { name: QualifiedName::new("", ""), columns_ever: 0, columns: Vec::new() };
                self.relations.entry(oid).or_insert_with(unnamed).columns.push(column);
            }
            "i" => self.inherits.push((oid, second.parse().ok()?)),
            "v" => self.views.push((oid, view)),
            _ => {}
        }
        Some(())
    }

    /// The relation of that name.
    pub(crate) fn named(&self, name: &QualifiedName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The columns of that relation in their order; none where they were not asked for.
    pub(crate) fn columns(&self, oid: u32) -> Vec<&Attribute> {
        let mut columns: Vec<_> = self.relations.get(&oid).into_iter().flat_map(|known| &known.columns).collect();
        columns.sort_by_key(|column| column.number);
        columns
    }

    /// The name of that relation, and whether it has a column of that number as far as is known.
    pub(crate) fn relation(&self, oid: u32) -> Option<(&QualifiedName, i16)> {
        self.relations
            .get(&oid)
            .filter(|known| !known.name.name.is_empty())
            .map(|known| (&known.name, known.columns_ever))
    }

    /// What is masked of which relation: what masks name; what inherits from it or what it inherits from, for each
    /// shows in the other; and views that show it.
    pub(crate) fn resolve(&self, masking: &Masking, front: &sql::Front) -> HashMap<u32, ColumnMasks> {
        let mut masks: HashMap<u32, ColumnMasks> = HashMap::new();
        for (oid, relation) in &self.relations {
            let mut own = ColumnMasks::default();
            for (column, method) in masking.plan.of_table(&relation.name) {
                own.add(relation, column, method);
            }
            if own != ColumnMasks::default() {
                masks.insert(*oid, own);
            }
        }
        if !masking.plan.columns.is_empty() {
            for name in STATISTICS {
                if let Some(oid) = self.named(&QualifiedName::new("pg_catalog", name)) {
                    masks.entry(oid).or_default().every = Some(MaskMethod::Redact);
                }
            }
        }
        let described = |text: &Option<String>| front.describe(text.as_deref()?).ok();
        let views: Vec<_> = self.views.iter().map(|(oid, text)| (*oid, described(text))).collect();
        for _ in 0..MOST_ROUNDS {
            let before = masks.clone();
            for (child, parent) in &self.inherits {
                self.spread(&mut masks, *child, *parent);
                self.spread(&mut masks, *parent, *child);
            }
            for (oid, described) in &views {
                self.show_through(&mut masks, *oid, described.as_deref());
            }
            if masks == before {
                return masks;
            }
        }
        // Deeper than anybody builds: then whatever could show a masked column is masked whole.
        for oid in self.views.iter().map(|(oid, _)| oid) {
            masks.entry(*oid).or_default().every = Some(MaskMethod::Null);
        }
        masks
    }

    fn spread(&self, masks: &mut HashMap<u32, ColumnMasks>, from: u32, to: u32) {
        let (Some(source), Some(relation)) = (masks.get(&from).cloned(), self.relations.get(&to)) else { return };
        let target = masks.entry(to).or_default();
        if let Some(method) = source.every {
            target.add(relation, None, method);
        }
        for (_, name, method) in &source.columns {
            target.add(relation, Some(name), *method);
        }
        if *target == ColumnMasks::default() {
            masks.remove(&to);
        }
    }

    /// Masks the columns of a view that a masked one has a part in.
    fn show_through(&self, masks: &mut HashMap<u32, ColumnMasks>, view: u32, described: Option<&sql::Described>) {
        let Some(relation) = self.relations.get(&view) else { return };
        let Some(described) = described else {
            // It hangs on a relation that has a masked column, perhaps; its text is beyond us.
            masks.entry(view).or_default().every = Some(MaskMethod::Redact);
            return;
        };
        let touched = Touched::of(&described.action);
        // What it shows of a relation that the answer does not have, nobody can tell.
        if touched.is_open()
            || touched.relations().any(|(names, _)| names.iter().all(|name| self.named(name).is_none()))
        {
            masks.entry(view).or_default().every = Some(MaskMethod::Redact);
            return;
        }
        let sources: Vec<_> = touched.tables().filter_map(|name| masks.get(&self.named(name)?)).cloned().collect();
        let fields = &described.action.fields;
        let total = usize::try_from(relation.columns_ever).unwrap_or(0);
        let mut found = Vec::new();
        for Attribute { number, name, .. } in &relation.columns {
            let at = usize::try_from(*number - 1).unwrap_or(usize::MAX);
            let column = fields.shown_at(at, total);
            if let Some(method) = sources.iter().filter_map(|source| source.taint(fields, column)).max() {
                found.push((name.clone(), method));
            }
        }
        let own = masks.entry(view).or_default();
        for (name, method) in found {
            own.add(relation, Some(&name), method);
        }
        if *own == ColumnMasks::default() {
            masks.remove(&view);
        }
    }
}

impl ColumnMasks {
    fn add(&mut self, relation: &Relation, column: Option<&str>, method: MaskMethod) {
        let Some(column) = column else {
            self.every = self.every.max(Some(method));
            return;
        };
        let Some(Attribute { number, name, .. }) = relation.columns.iter().find(|known| *known.name == *column) else {
            return;
        };
        match self.columns.iter_mut().find(|(known, ..)| known == number) {
            Some((.., known)) => *known = method.max(*known),
            None => {
                self.columns.push((*number, name.clone(), method));
                // Compared as a whole: the order must not hang on that of a map.
                self.columns.sort();
            }
        }
    }

    /// How the column of that number is masked; 0 is the whole row.
    pub(crate) fn of(&self, number: i16) -> Option<MaskMethod> {
        let by_number = self.columns.iter().find(|(known, ..)| *known == number).map(|(.., method)| *method);
        match number {
            0 => Some(MaskMethod::Redact),
            _ => self.every.max(by_number),
        }
    }

    /// The masked columns by name; none stands for every column.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Option<&str>, MaskMethod)> {
        let every = self.every.map(|method| (None, method));
        every.into_iter().chain(self.columns.iter().map(|(_, name, method)| (Some(&**name), *method)))
    }

    /// How a column of an answer is masked whose origin is not told, if something of this relation may be in it.
    fn taint(&self, fields: &sallyport_policy::Fields, column: Column<'_>) -> Option<MaskMethod> {
        self.names().filter_map(|(name, method)| super::taint(fields, column, name, method)).max()
    }
}

/// Whether a client means our statement or portal.
pub(crate) fn is_ours(name: &[u8]) -> bool {
    name == OUR_NAME.as_bytes()
}

const _: () = assert!(OUR_NAME.len() < 64, "the server cuts longer names");

#[cfg(test)]
mod tests {
    use super::*;

    fn row(texts: [Option<&str>; 5]) -> Vec<u8> {
        let values = texts.iter().flat_map(|text| {
            let length = text.map_or(-1, |text| i32::try_from(text.len()).unwrap()).to_be_bytes();
            [&length, text.unwrap_or_default().as_bytes()].concat()
        });
        [0, 5].into_iter().chain(values).collect()
    }

    #[test]
    fn a_view_that_went_while_the_catalog_was_asked_is_masked_whole_and_the_rest_is_known() {
        let mut catalog = Catalog::default();
        catalog.take(&row(["r", "16400", "public", "seen", "1"].map(Some)));
        catalog.take(&row([Some("v"), Some("16400"), None, Some(""), Some("")]));
        assert!(catalog.is_whole());
        let masking = Masking { plan: sallyport_policy::MaskPlan::default(), key: None };
        let masks = catalog.resolve(&masking, &sql::Front::new(sql::NameSettings::default()));
        assert_eq!(masks.get(&16400).and_then(|masks| masks.of(1)), Some(MaskMethod::Redact));
    }

    #[test]
    fn of_an_answer_that_was_not_read_whole_nothing_is_known() {
        let mut catalog = Catalog::default();
        catalog.take(&row(["r", "16400", "public", "people", "1"].map(Some)));
        assert!(catalog.is_whole());
        // The column that is masked would have been this.
        catalog.take(&row(["a", "16400", "1", "email", "of no type"].map(Some)));
        assert!(!catalog.is_whole());
        let masking = std::sync::Arc::new(Masking { plan: sallyport_policy::MaskPlan::default(), key: None });
        let mut masks = super::super::Masks::new(masking);
        masks.learn(catalog, &sql::Front::new(sql::NameSettings::default()));
        assert!(masks.known().is_none());
    }
}
