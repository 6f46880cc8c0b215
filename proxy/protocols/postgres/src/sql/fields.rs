//! Which columns a statement shows, compares and copies.
//!
//! Owns the places a column can stand in, and what each means. Touches the walk. Invariant: every reference to a
//! column counts in the place that the walk is in; what could stand for a whole row counts as any column. Where
//! the place is not known it is the strictest: copied.
//!
//! The server tells for each column of an answer which table's column it is, through aliases, subqueries and common
//! table expressions, but only where it is that column as it is. What is told here is what may have a part in the others.

use std::collections::HashSet;

use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;
use sallyport_policy::{FieldNames, Fields, Shown};

use super::walk::{Visit, Walker, text};

/// Functions that can be given a whole row, and so be read like a column of it: `c.to_json` is `to_json(c)`.
const ROW_FUNCTIONS: [&str; 22] = [
    "any_value",
    "array_agg",
    "concat",
    "hash_record",
    "hash_record_extended",
    "json_agg",
    "json_agg_strict",
    "json_build_array",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "max",
    "min",
    "num_nonnulls",
    "num_nulls",
    "quote_literal",
    "quote_nullable",
    "record_out",
    "record_send",
    "row_to_json",
    "to_json",
    "to_jsonb",
];

/// Where a reference to a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the last column of the answer so far.
    Shown,
    /// In what the answer is made from.
    Within,
    /// In a condition, an order, a grouping.
    Compared,
    /// In what is written elsewhere.
    Copied,
    /// In what both the answer and a write are made from.
    WithinAndCopied,
}

/// What the walk has met of one statement.
#[derive(Debug)]
pub(super) struct Flow {
    place: Place,
    /// The query or write at hand is the one that is answered.
    pub(super) answering: bool,
    /// `excluded` stands for the row that the client itself sends.
    pub(super) excludes: bool,
    shown: Vec<Answer>,
    within: Draft,
    compared: Draft,
    copied: Draft,
    /// What rows are called: alone, such a name is the whole row.
    rows: HashSet<String>,
    /// The answer is ordered, grouped or made distinct by these of its columns.
    by_name: Vec<String>,
    by_position: bool,
}

#[derive(Debug, Default)]
struct Draft {
    names: FieldNames,
    /// Those that had no qualifier.
    alone: HashSet<String>,
}

#[derive(Debug, Default)]
struct Answer {
    name: String,
    draft: Draft,
    plain: bool,
    star: bool,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            place: Place::Copied,
            answering: false,
            excludes: false,
            shown: Vec::new(),
            within: Draft::default(),
            compared: Draft::default(),
            copied: Draft::default(),
            rows: HashSet::new(),
            by_name: Vec::new(),
            by_position: false,
        }
    }
}

impl Flow {
    fn mark(&mut self, mark: impl Fn(&mut Draft)) {
        match self.place {
            Place::Shown => match self.shown.last_mut() {
                Some(answer) => mark(&mut answer.draft),
                None => mark(&mut self.within),
            },
            Place::Within => mark(&mut self.within),
            Place::Compared => mark(&mut self.compared),
            Place::Copied => mark(&mut self.copied),
            Place::WithinAndCopied => {
                mark(&mut self.within);
                mark(&mut self.copied);
            }
        }
    }

    /// What it could be any column of.
    pub(super) fn mark_any(&mut self) {
        self.mark(|draft| draft.names.insert_any());
    }

    pub(super) fn mark_name(&mut self, name: &str) {
        self.mark(|draft| draft.names.insert(name));
    }

    /// A row is called so.
    pub(super) fn row(&mut self, name: &str) {
        self.rows.insert(name.to_owned());
    }

    /// The names that an alias gives columns hide which they are.
    pub(super) fn alias(&mut self, alias: Option<&pb::Alias>) {
        if let Some(pb::Alias { aliasname, colnames }) = alias {
            self.row(aliasname);
            if !colnames.is_empty() {
                self.mark_any();
            }
        }
    }

    /// A reference to a column.
    pub(super) fn note(&mut self, fields: &[pb::Node]) {
        let Some((last, before)) = fields.split_last() else { return self.mark_any() };
        let Some(name) = text(last) else { return self.mark_any() };
        if self.excludes && before.len() == 1 && before.first().and_then(text) == Some("excluded") {
            return;
        }
        if !before.is_empty() && ROW_FUNCTIONS.contains(&name) {
            self.mark_any();
        }
        let alone = before.is_empty();
        self.mark(|draft| {
            draft.names.insert(name);
            if alone {
                draft.alone.insert(name.to_owned());
            }
        });
    }

    /// What an EXPLAIN shows is a plan, no row.
    pub(super) fn explained(&mut self) {
        let answers = std::mem::take(&mut self.shown);
        let within = std::mem::take(&mut self.within);
        for draft in answers.into_iter().map(|answer| answer.draft).chain([within]) {
            self.compared.names.extend(&draft.names);
            self.compared.alone.extend(draft.alone);
        }
    }

    /// What a COPY writes: to the client, where nobody tells what a star stands for, or elsewhere.
    pub(super) fn written_in_lines(&mut self, to_client: bool) {
        let stars = self.shown.iter_mut().filter(|answer| answer.star);
        stars.for_each(|answer| answer.draft.names.insert_any());
        if !to_client {
            let within = std::mem::take(&mut self.within);
            for draft in self.shown.iter().map(|answer| &answer.draft).chain([&within]) {
                self.copied.names.extend(&draft.names);
                self.copied.alone.extend(draft.alone.iter().cloned());
            }
            self.within = within;
        }
    }

    fn settle(self) -> Fields {
        let Self { shown, within, mut compared, copied, rows, by_name, by_position, .. } = self;
        let settled = |draft: Draft| {
            let mut names = draft.names;
            if draft.alone.iter().any(|name| rows.contains(name)) {
                names.insert_any();
            }
            names
        };
        for answer in shown.iter().filter(|answer| by_position || by_name.contains(&answer.name)) {
            compared.names.extend(&answer.draft.names);
            compared.alone.extend(answer.draft.alone.iter().cloned());
            if answer.star {
                compared.names.insert_any();
            }
        }
        let (within, copied) = (settled(within), settled(copied));
        let mut used = settled(compared);
        used.extend(&within);
        used.extend(&copied);
        let shown: Vec<Shown> = shown
            .into_iter()
            .map(|Answer { name: _, draft, plain, star }| Shown { fields: settled(draft), plain, star })
            .collect();
        shown.iter().filter(|column| !column.plain).for_each(|column| used.extend(&column.fields));
        Fields { shown, within, used, copied }
    }
}

impl Walker<'_> {
    /// Hands over what one statement does with fields and forgets it.
    pub(super) fn take_fields(&mut self) -> Fields {
        std::mem::take(&mut self.flow).settle()
    }

    /// The statement at hand is one that is answered with rows.
    pub(super) const fn answers(&mut self) {
        self.flow.place = Place::Within;
        self.flow.answering = true;
    }

    pub(super) fn at<R>(&mut self, place: Place, walk: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::replace(&mut self.flow.place, place);
        let result = walk(self);
        self.flow.place = outer;
        result
    }

    /// Goes on in another place; the answer is where it was.
    pub(super) const fn move_to(&mut self, place: Place) -> Place {
        std::mem::replace(&mut self.flow.place, place)
    }

    pub(super) const fn place(&self) -> Place {
        self.flow.place
    }

    /// The columns of the answer.
    pub(super) fn show(&mut self, targets: &[pb::Node]) {
        self.at(Place::Shown, |walker| {
            for target in targets {
                let mut answer = Answer::default();
                if let Some(N::ResTarget(column)) = &target.node
                    && let Some(N::ColumnRef(reference)) = column.val.as_ref().and_then(|value| value.node.as_ref())
                    && column.indirection.is_empty()
                {
                    answer.plain = true;
                    answer.star = reference.fields.last().is_some_and(|last| matches!(last.node, Some(N::AStar(_))));
                    answer.name = match (&column.name, reference.fields.last().and_then(text)) {
                        (alias, Some(own)) if alias.is_empty() => own.to_owned(),
                        (alias, _) => alias.clone(),
                    };
                } else if let Some(N::ResTarget(column)) = &target.node {
                    answer.name.clone_from(&column.name);
                    answer.star = column.val.as_deref().is_some_and(is_spread);
                }
                let relations = answer.star && answer.plain;
                walker.flow.shown.push(answer);
                if !relations {
                    target.visit(walker);
                }
            }
        });
    }

    /// The two sides of a UNION, INTERSECT or EXCEPT: a column of the answer is made of the columns at its place.
    pub(super) fn union(&mut self, answering: bool, left: Option<&pb::SelectStmt>, right: Option<&pb::SelectStmt>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        if !answering {
            left.visit(self);
            return right.visit(self);
        }
        let mut sides = [left, right].map(|side| {
            self.flow.answering = true;
            side.visit(self);
            std::mem::take(&mut self.flow.shown)
        });
        let [left, right] = &mut sides;
        let fit = left.len() == right.len() && !left.is_empty();
        if fit && !left.iter().chain(&*right).any(|column| column.star) {
            let merged = std::mem::take(left).into_iter().zip(std::mem::take(right)).map(|(mut column, other)| {
                column.draft.names.extend(&other.draft.names);
                column.draft.alone.extend(other.draft.alone);
                // Other rows of it come from elsewhere.
                column.plain = false;
                column
            });
            self.flow.shown = merged.collect();
            return;
        }
        for column in sides.iter().flatten() {
            self.flow.within.names.extend(&column.draft.names);
            self.flow.within.alone.extend(column.draft.alone.iter().cloned());
            if column.star {
                self.flow.within.names.insert_any();
            }
        }
    }

    /// The columns of a COPY of a table: those that are listed, or all.
    pub(super) fn copied_out(&mut self, columns: &[pb::Node]) {
        if columns.is_empty() {
            self.flow.shown.push(Answer { plain: true, star: true, ..Answer::default() });
        }
        for column in columns {
            let mut answer = Answer { plain: true, ..Answer::default() };
            match text(column) {
                Some(name) => answer.draft.names.insert(name),
                None => answer.draft.names.insert_any(),
            }
            self.flow.shown.push(answer);
        }
    }

    /// What the answer is ordered, grouped or made distinct by; a plain DISTINCT is by all of it.
    pub(super) fn shapes_answer(&mut self, nodes: &[pb::Node]) {
        for node in nodes {
            let node = match &node.node {
                Some(N::SortBy(sort)) => sort.node.as_ref().and_then(|node| node.node.as_ref()),
                other => other.as_ref(),
            };
            match node {
                Some(N::ColumnRef(pb::ColumnRef { fields, location: _ })) => {
                    if let [name] = fields.as_slice() {
                        self.flow.by_name.extend(text(name).map(str::to_owned));
                    }
                }
                // A number is a position; a list or set of groups may hold some.
                Some(N::AConst(_) | N::GroupingSet(_) | N::RowExpr(_)) | None => self.flow.by_position = true,
                Some(_) => {}
            }
        }
    }
}

/// `(row).*` stands for as many columns as the row has, perhaps none.
fn is_spread(node: &pb::Node) -> bool {
    let Some(N::AIndirection(row)) = &node.node else { return false };
    row.indirection.last().is_some_and(|last| matches!(last.node, Some(N::AStar(_))))
}

impl Visit for pb::JoinExpr {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { jointype: _, is_natural, larg, rarg, using_clause, join_using_alias, quals, alias, rtindex: _ } =
            self;
        larg.visit(walker);
        rarg.visit(walker);
        walker.flow.alias(alias.as_ref());
        walker.flow.alias(join_using_alias.as_ref());
        // A column that both sides have is neither's in the answer.
        if *is_natural {
            walker.flow.mark_any();
        }
        for column in using_clause {
            match text(column) {
                Some(name) => walker.flow.mark_name(name),
                None => walker.flow.mark_any(),
            }
        }
        walker.at(Place::Compared, |walker| {
            if *is_natural {
                walker.flow.mark_any();
            }
            using_clause.iter().filter_map(text).for_each(|name| walker.flow.mark_name(name));
            quals.visit(walker);
        });
    }
}
