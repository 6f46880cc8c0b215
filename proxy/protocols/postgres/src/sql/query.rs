//! Queries and the four writes that can stand within one: SELECT, INSERT, UPDATE, DELETE, MERGE.
//!
//! Owns the scope of CTE names and what FROM lists, locking clauses and RETURNING add. Touches the walk. Invariant:
//! a name is taken for a CTE only where the server takes it for one: without a schema, in a FROM list (never as the
//! target of a write), and within the CTE's scope, which in a plain WITH begins after the CTE itself.

use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;
use sallyport_policy::{Fact, ObjectKind, Usage};

use super::fields::Place;
use super::names;
use super::predicate::{Columns, Truth};
use super::walk::{Visit, Walker, text};

/// Which tables of a FROM list are locked by the locking clauses of its query.
#[derive(Debug, Clone, Default)]
pub(super) enum Locks {
    #[default]
    None,
    All,
    Named(Vec<String>),
}

impl Locks {
    fn of(clauses: &[pb::Node]) -> Self {
        let mut named = Vec::new();
        for clause in clauses {
            let Some(N::LockingClause(pb::LockingClause { locked_rels, strength: _, wait_policy: _ })) = &clause.node
            else {
                return Self::All;
            };
            if locked_rels.is_empty() {
                return Self::All;
            }
            for relation in locked_rels {
                match &relation.node {
                    Some(N::RangeVar(relation)) => named.push(relation.relname.clone()),
                    _ => return Self::All,
                }
            }
        }
        if named.is_empty() { Self::None } else { Self::Named(named) }
    }

    fn hold(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|locked| locked == name),
        }
    }
}

impl Walker<'_> {
    /// Enters a WITH clause; the answer goes to [`Self::leave`].
    fn enter(&mut self, with: Option<&pb::WithClause>) -> usize {
        let outer = self.ctes.len();
        let Some(pb::WithClause { ctes, recursive, location: _ }) = with else { return outer };
        let name = |node: &pb::Node| match &node.node {
            Some(N::CommonTableExpr(cte)) => Some(cte.ctename.clone()),
            _ => None,
        };
        if *recursive {
            self.ctes.extend(ctes.iter().filter_map(name));
            ctes.iter().for_each(|cte| cte.visit(self));
        } else {
            for cte in ctes {
                cte.visit(self);
                self.ctes.extend(name(cte));
            }
        }
        outer
    }

    fn leave(&mut self, outer: usize) {
        self.ctes.truncate(outer);
    }

    fn is_cte(&self, relation: &pb::RangeVar) -> bool {
        relation.schemaname.is_empty() && self.ctes.contains(&relation.relname)
    }

    /// Walks a write with its own verb, tables for its condition, and WITH clause.
    fn write(&mut self, verb: &'static str, with: Option<&pb::WithClause>, body: impl FnOnce(&mut Self, Returning)) {
        let outer_verb = std::mem::replace(&mut self.verb, verb);
        let answering = std::mem::take(&mut self.flow.answering);
        let outer_columns = std::mem::take(&mut self.predicate);
        let outer_locks = std::mem::take(&mut self.locks);
        // What a WITH brings may go into the write as well as into what it returns.
        let outer = self.at(Place::WithinAndCopied, |walker| walker.enter(with));
        let place = self.place();
        self.at(Place::Copied, |walker| body(walker, Returning { answering, place }));
        self.leave(outer);
        self.locks = outer_locks;
        self.predicate = outer_columns;
        self.verb = outer_verb;
    }

    fn returning(&mut self, at: Returning, clause: Option<&pb::ReturningClause>, target: Option<&pb::RangeVar>) {
        if let (Some(pb::ReturningClause { options, exprs }), Some(target)) = (clause, target) {
            self.existing("Select", target, Usage::Read);
            for option in options {
                match &option.node {
                    Some(N::ReturningOption(pb::ReturningOption { option: _, value, location: _ })) => {
                        self.flow.row(value);
                    }
                    _ => self.flow.mark_any(),
                }
            }
            // Old and new are the rows that every write has.
            self.flow.row("old");
            self.flow.row("new");
            match at.answering {
                true => self.show(exprs),
                false => self.at(at.place, |walker| exprs.visit(walker)),
            }
        }
    }

    fn target(&mut self, relation: Option<&pb::RangeVar>) {
        self.predicate = Columns::default();
        self.predicate.target = relation.map(called);
        if let Some(relation) = relation {
            self.flow.row(&called(relation));
        }
    }

    fn compared(&mut self, part: &(impl Visit + ?Sized)) {
        self.at(Place::Compared, |walker| part.visit(walker));
    }

    fn compared_condition(&mut self, condition: Option<&pb::Node>) -> Truth {
        self.at(Place::Compared, |walker| walker.condition(condition))
    }
}

/// What becomes of the rows that a write returns.
#[derive(Debug, Clone, Copy)]
struct Returning {
    /// They are the answer.
    answering: bool,
    /// Otherwise they are used here.
    place: Place,
}

fn called(relation: &pb::RangeVar) -> String {
    relation.alias.as_ref().map_or_else(|| relation.relname.clone(), |alias| alias.aliasname.clone())
}

impl Visit for pb::RangeVar {
    /// In a FROM list.
    fn visit(&self, walker: &mut Walker<'_>) {
        walker.flow.row(&called(self));
        walker.flow.alias(self.alias.as_ref());
        if walker.is_cte(self) {
            return;
        }
        walker.existing("Select", self, Usage::Read);
        if walker.locks.hold(&called(self)) {
            walker.existing("Lock", self, Usage::Write);
        }
    }
}

impl Visit for pb::RangeSubselect {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { lateral: _, subquery, alias } = self;
        let name = alias.as_ref().map_or("", |alias| &alias.aliasname);
        let inner = if walker.locks.hold(name) { Locks::All } else { Locks::None };
        let outer = std::mem::replace(&mut walker.locks, inner);
        if let Some(alias) = alias {
            walker.flow.row(&alias.aliasname);
        }
        subquery.visit(walker);
        walker.locks = outer;
    }
}

impl Visit for pb::WithClause {
    /// Where a WITH clause stands that no statement has entered.
    fn visit(&self, walker: &mut Walker<'_>) {
        walker.unknown("Other");
    }
}

impl Visit for pb::CommonTableExpr {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self {
            ctename,
            aliascolnames: _,
            ctematerialized: _,
            ctequery,
            search_clause,
            cycle_clause,
            location: _,
            cterecursive: _,
            cterefcount: _,
            ctecolnames: _,
            ctecoltypes: _,
            ctecoltypmods: _,
            ctecolcollations: _,
        } = self;
        let outer = std::mem::take(&mut walker.locks);
        walker.flow.row(ctename);
        ctequery.visit(walker);
        walker.locks = outer;
        search_clause.visit(walker);
        cycle_clause.visit(walker);
    }
}

impl Visit for pb::SelectStmt {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self {
            distinct_clause,
            into_clause,
            target_list,
            from_clause,
            where_clause,
            group_clause,
            group_distinct: _,
            having_clause,
            window_clause,
            values_lists,
            sort_clause,
            limit_offset,
            limit_count,
            limit_option: _,
            locking_clause,
            with_clause,
            op: _,
            all: _,
            larg,
            rarg,
        } = self;
        let inherited = std::mem::take(&mut walker.locks);
        let answering = std::mem::take(&mut walker.flow.answering) && into_clause.is_none();
        let place = if into_clause.is_some() { Place::Copied } else { walker.place() };
        let outer_place = walker.move_to(place);
        let outer_setting = walker.setting.take();
        let outer = walker.enter(with_clause.as_ref());
        into_clause.visit(walker);
        walker.locks = if matches!(inherited, Locks::All) { Locks::All } else { Locks::of(locking_clause) };
        from_clause.visit(walker);
        walker.locks = inherited.clone();
        walker.union(answering, larg.as_deref(), rarg.as_deref());
        walker.locks = Locks::None;
        // In this list alone is the column what the condition says.
        walker.setting = walker.setting_read_by(self);
        if answering {
            if larg.is_none() {
                walker.show(target_list);
            }
            [distinct_clause, group_clause, sort_clause].into_iter().for_each(|nodes| walker.shapes_answer(nodes));
        } else {
            target_list.visit(walker);
        }
        walker.setting = None;
        values_lists.visit(walker);
        walker.move_to(Place::Compared);
        // A plain DISTINCT is a list with one absent node.
        distinct_clause.iter().filter(|node| node.node.is_some()).for_each(|node| node.visit(walker));
        where_clause.visit(walker);
        group_clause.visit(walker);
        having_clause.visit(walker);
        window_clause.visit(walker);
        sort_clause.visit(walker);
        limit_offset.visit(walker);
        limit_count.visit(walker);
        walker.move_to(outer_place);
        walker.leave(outer);
        walker.setting = outer_setting;
        walker.locks = inherited;
    }
}

impl Visit for pb::IntoClause {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self {
            rel,
            col_names: _,
            access_method: _,
            options,
            on_commit: _,
            table_space_name: _,
            view_query,
            skip_data: _,
        } = self;
        match rel {
            Some(relation) => walker.creates("CreateTableAs", relation),
            None => walker.unknown("CreateTableAs"),
        }
        options.visit(walker);
        if view_query.is_some() {
            walker.unknown("Other");
        }
    }
}

impl Visit for pb::InsertStmt {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { relation, cols, select_stmt, on_conflict_clause, returning_clause, with_clause, r#override: _ } =
            self;
        walker.write("Insert", with_clause.as_ref(), |walker, at| {
            match relation {
                Some(relation) => {
                    walker.flow.row(&called(relation));
                    walker.existing("Insert", relation, Usage::Write);
                }
                None => walker.unknown("Insert"),
            }
            cols.visit(walker);
            select_stmt.visit(walker);
            if let Some(clause) = on_conflict_clause {
                let pb::OnConflictClause { action, infer, target_list, where_clause, location: _ } = &**clause;
                if *action != pb::OnConflictAction::OnconflictNothing as i32 {
                    match relation {
                        Some(relation) => walker.existing("Update", relation, Usage::Write),
                        None => walker.unknown("Update"),
                    }
                }
                walker.compared(infer);
                walker.flow.excludes = true;
                target_list.visit(walker);
                walker.flow.excludes = false;
                walker.compared(where_clause);
            }
            walker.returning(at, returning_clause.as_ref(), relation.as_ref());
        });
    }
}

impl Visit for pb::UpdateStmt {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { relation, target_list, where_clause, from_clause, returning_clause, with_clause } = self;
        walker.write("Update", with_clause.as_ref(), |walker, at| {
            walker.target(relation.as_ref());
            let bound = walker.compared_condition(where_clause.as_deref()).unbounded();
            match relation {
                Some(relation) => walker.existing_bounded("Update", relation, bound),
                None => walker.unknown("Update"),
            }
            walker.at(Place::WithinAndCopied, |walker| from_clause.visit(walker));
            target_list.visit(walker);
            walker.returning(at, returning_clause.as_ref(), relation.as_ref());
        });
    }
}

impl Visit for pb::DeleteStmt {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { relation, using_clause, where_clause, returning_clause, with_clause } = self;
        walker.write("Delete", with_clause.as_ref(), |walker, at| {
            walker.target(relation.as_ref());
            let bound = walker.compared_condition(where_clause.as_deref()).unbounded();
            match relation {
                Some(relation) => walker.existing_bounded("Delete", relation, bound),
                None => walker.unknown("Delete"),
            }
            walker.at(Place::Within, |walker| using_clause.visit(walker));
            walker.returning(at, returning_clause.as_ref(), relation.as_ref());
        });
    }
}

impl Visit for pb::MergeStmt {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { relation, source_relation, join_condition, merge_when_clauses, returning_clause, with_clause } =
            self;
        walker.write("Merge", with_clause.as_ref(), |walker, at| {
            let Some(target) = relation else { return walker.unknown("Merge") };
            walker.existing("Merge", target, Usage::Write);
            walker.at(Place::WithinAndCopied, |walker| source_relation.visit(walker));
            walker.target(Some(target));
            let joined = walker.compared_condition(join_condition.as_deref());
            for clause in merge_when_clauses {
                match &clause.node {
                    Some(N::MergeWhenClause(clause)) => walker.merge_clause(clause, target, joined),
                    _ => walker.unknown("Merge"),
                }
            }
            walker.returning(at, returning_clause.as_ref(), Some(target));
        });
    }
}

impl Walker<'_> {
    fn merge_clause(&mut self, clause: &pb::MergeWhenClause, target: &pb::RangeVar, joined: Truth) {
        let pb::MergeWhenClause { match_kind, command_type, r#override: _, condition, target_list, values } = clause;
        let own = self.compared_condition(condition.as_deref());
        // The join bounds the rows that match it, not those that do not.
        let matched = *match_kind == pb::MergeMatchKind::MergeWhenMatched as i32;
        let bound = if matched { joined.and(own) } else { own }.unbounded();
        match pb::CmdType::try_from(*command_type) {
            Ok(pb::CmdType::CmdInsert) => self.existing("Insert", target, Usage::Write),
            Ok(pb::CmdType::CmdUpdate) => self.existing_bounded("Update", target, bound),
            Ok(pb::CmdType::CmdDelete) => self.existing_bounded("Delete", target, bound),
            Ok(pb::CmdType::CmdNothing) => {}
            _ => self.unknown("Merge"),
        }
        target_list.visit(self);
        values.visit(self);
    }

    /// TRUNCATE: every row of each table.
    pub(super) fn truncate(&mut self, statement: &pb::TruncateStmt) {
        let pb::TruncateStmt { relations, restart_seqs: _, behavior } = statement;
        for relation in relations {
            match &relation.node {
                Some(N::RangeVar(relation)) => self.existing_bounded("Truncate", relation, Fact::Known(true)),
                _ => self.unknown("Truncate"),
            }
        }
        if *behavior == pb::DropBehavior::DropCascade as i32 {
            self.unknown("Truncate");
        }
    }

    /// Tables given as a list of names.
    pub(super) fn named_relation(&mut self, verb: &'static str, parts: &[pb::Node]) {
        match super::walk::names_of(parts) {
            Some((schema, name)) => {
                let names = self.names.relation(schema, name);
                self.touch(verb, ObjectKind::Table, names, Usage::Write);
            }
            None => self.unknown(verb),
        }
    }

    /// Something else given as a list of names or as one.
    pub(super) fn named_other(&mut self, verb: &'static str, node: &pb::Node) {
        let parts = match &node.node {
            Some(N::String(_)) => std::slice::from_ref(node),
            Some(N::List(list)) => list.items.as_slice(),
            Some(N::TypeName(name)) => name.names.as_slice(),
            Some(N::ObjectWithArgs(object)) => object.objname.as_slice(),
            _ => return self.unknown(verb),
        };
        let parts: Option<Vec<_>> = parts.iter().map(text).collect();
        let name = match parts.as_deref() {
            Some([name]) => names::qualified("", name),
            Some([schema, name]) => names::qualified(schema, name),
            Some([_, schema, name]) => names::qualified(schema, name),
            _ => return self.unknown(verb),
        };
        self.touch(verb, ObjectKind::Other, vec![name], Usage::Write);
    }
}
