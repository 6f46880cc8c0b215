//! SET, RESET and DISCARD: which settings are the session's own affair.
//!
//! Owns the list of harmless settings. Touches the walk. Invariant: a setting that changes what a statement means,
//! whose rights it runs with, how text is read, or how much memory it may take is never harmless.

use pg_query::protobuf as pb;
use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as N;
use sallyport_policy::{Operation, Usage};

use super::names::Loss;
use super::walk::{Surrender, Visit, Walker};

/// How results are written, how long things may take, and how they are planned. `row_security` either filters rows or
/// fails where it would have to: nobody sees more by it.
const HARMLESS: [&str; 48] = [
    "application_name",
    "bytea_output",
    "client_min_messages",
    "constraint_exclusion",
    "cpu_index_tuple_cost",
    "cpu_operator_cost",
    "cpu_tuple_cost",
    "cursor_tuple_fraction",
    "datestyle",
    "default_statistics_target",
    "effective_cache_size",
    "enable_async_append",
    "enable_bitmapscan",
    "enable_gathermerge",
    "enable_hashagg",
    "enable_hashjoin",
    "enable_incremental_sort",
    "enable_indexonlyscan",
    "enable_indexscan",
    "enable_material",
    "enable_memoize",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_parallel_append",
    "enable_parallel_hash",
    "enable_partition_pruning",
    "enable_partitionwise_aggregate",
    "enable_partitionwise_join",
    "enable_seqscan",
    "enable_sort",
    "enable_tidscan",
    "extra_float_digits",
    "from_collapse_limit",
    "geqo",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "join_collapse_limit",
    "lock_timeout",
    "plan_cache_mode",
    "random_page_cost",
    "restrict_nonsystem_relation_kind",
    "row_security",
    "seq_page_cost",
    "statement_timeout",
    "synchronize_seqscans",
    "timezone",
];

impl Visit for pb::ParamRef {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { number, location: _ } = self;
        walker.parameters.push(*number);
    }
}

impl Walker<'_> {
    /// The parameter, counted from zero, that alone says which search path a text may set, where it is one SELECT. It stands
    /// there once: as the argument of `set_config`, so that the server reads it as text and as nothing else (`name` would
    /// cut it).
    pub(super) fn path_parameter(&self, statements: &[pb::RawStmt]) -> Option<usize> {
        let [pb::RawStmt { stmt: Some(only), stmt_location: _, stmt_len: _ }] = statements else { return None };
        let (Some(N::SelectStmt(_)), 1, Some(number)) = (&only.node, self.losses, self.path) else { return None };
        let once = self.parameters.iter().filter(|other| **other == number).count() == 1;
        usize::try_from(number).ok()?.checked_sub(1).filter(|_| once)
    }

    /// `set_config('name', ...)`, which is SET for a harmless setting. The name must stand there. Notes where it may
    /// change what names mean.
    pub(super) fn sets_harmless(&mut self, call: &pb::FuncCall) -> bool {
        let called = super::walk::names_of(&call.funcname);
        let Some((schema @ ("" | "pg_catalog"), "set_config")) = called else { return false };
        let argument = |n: usize| call.args.get(n).map(std::slice::from_ref).and_then(value);
        let read = call.args.first().filter(|first| is_column(first, "name")).and(self.setting.clone());
        let harmless = match argument(0).map(str::to_ascii_lowercase).or(read).as_deref() {
            // What pg_dump does: it writes every name whole from there on.
            Some("search_path") if argument(1).is_some_and(|path| path.trim().is_empty()) => {
                self.loses(Loss::Relations);
                true
            }
            Some("search_path") if argument(1).is_some_and(|path| self.names.holds_path(path)) => true,
            Some("search_path") => {
                if let Some(pb::Node { node: Some(N::ParamRef(pb::ParamRef { number, .. })) }) = call.args.get(1) {
                    self.path = Some(*number);
                }
                self.loses(Loss::All);
                false
            }
            Some(name) if HARMLESS.binary_search(&name).is_ok() => true,
            Some("client_encoding" | "standard_conforming_strings") | None => {
                self.surrender = Some(Surrender::OtherSyntax);
                return false;
            }
            Some(_) => false,
        };
        harmless && self.names.finds(schema)
    }

    /// The name in `FROM pg_settings WHERE name = '...'`: how pg_dump sets what an older server does not have.
    pub(super) fn setting_read_by(&self, select: &pb::SelectStmt) -> Option<String> {
        let [pb::Node { node: Some(N::RangeVar(relation)) }] = select.from_clause.as_slice() else { return None };
        let Some(pb::Node { node: Some(N::AExpr(condition)) }) = select.where_clause.as_deref() else { return None };
        let of_settings = relation.relname == "pg_settings" && matches!(&*relation.schemaname, "" | "pg_catalog");
        let equals = condition.kind == pb::AExprKind::AexprOp as i32
            && matches!(super::walk::names_of(&condition.name), Some(("", "=")))
            && condition.lexpr.as_deref().is_some_and(|column| is_column(column, "name"));
        let name = condition.rexpr.as_deref().map(std::slice::from_ref).and_then(value)?;
        (of_settings && equals && self.names.finds("") && self.ctes.is_empty()).then(|| name.to_ascii_lowercase())
    }

    pub(super) fn set(&mut self, statement: &pb::VariableSetStmt) {
        let pb::VariableSetStmt { kind, name, args, jumble_args: _, is_local: _, location: _ } = statement;
        // The server looks settings up without regard to case, quoted or not.
        let name = name.to_ascii_lowercase();
        let kind = pb::VariableSetKind::try_from(*kind).unwrap_or_default();
        match (name.as_str(), kind) {
            (_, pb::VariableSetKind::VarResetAll) => return self.other("SetParameter", "all", Usage::Write),
            ("transaction", pb::VariableSetKind::VarSetMulti) => self.add(Operation::bare("Transaction")),
            ("session characteristics", pb::VariableSetKind::VarSetMulti) => {
                for option in args {
                    match &option.node {
                        Some(N::DefElem(option)) => {
                            self.other("SetParameter", &format!("default_{}", option.defname), Usage::Write);
                        }
                        _ => self.unknown("SetParameter"),
                    }
                }
            }
            ("role" | "session_authorization", _) => {
                let role = value(args).map_or_else(|| "default".to_owned(), str::to_owned);
                self.other("SetRole", &role, Usage::Write);
            }
            ("client_encoding", pb::VariableSetKind::VarSetValue) if is_utf8(args) => {
                self.add(Operation::bare("Session"));
            }
            ("standard_conforming_strings", pb::VariableSetKind::VarSetValue) if is_on(args) => {
                self.add(Operation::bare("Session"));
            }
            ("client_encoding" | "standard_conforming_strings", pb::VariableSetKind::VarSetValue) => {
                // Whatever policy says: what a client sends in the same breath is read before the server has answered.
                self.surrender = Some(Surrender::OtherSyntax);
            }
            ("search_path", pb::VariableSetKind::VarSetValue) => {
                let path: Option<Vec<_>> = args.iter().map(std::slice::from_ref).map(value).collect();
                match path {
                    Some(path) if path == [""] => {
                        self.loses(Loss::Relations);
                        self.add(Operation::bare("Session"));
                    }
                    Some(path) if self.names.holds(&path) => self.add(Operation::bare("Session")),
                    _ => {
                        self.loses(Loss::All);
                        self.other("SetParameter", "search_path", Usage::Write);
                    }
                }
            }
            (
                name,
                pb::VariableSetKind::VarSetValue | pb::VariableSetKind::VarSetDefault | pb::VariableSetKind::VarReset,
            ) if HARMLESS.binary_search(&name).is_ok() => self.add(Operation::bare("Session")),
            (name, _) => self.other("SetParameter", name, Usage::Write),
        }
        args.visit(self);
    }

    pub(super) fn discard(&mut self, statement: &pb::DiscardStmt) {
        let pb::DiscardStmt { target } = statement;
        match pb::DiscardMode::try_from(*target) {
            Ok(pb::DiscardMode::DiscardPlans | pb::DiscardMode::DiscardSequences) => {
                self.add(Operation::bare("Session"));
            }
            Ok(pb::DiscardMode::DiscardTemp) => self.unknown("Drop"),
            _ => {
                self.other("SetParameter", "all", Usage::Write);
                self.unknown("Drop");
            }
        }
    }
}

fn is_column(node: &pb::Node, name: &str) -> bool {
    let Some(N::ColumnRef(column)) = &node.node else { return false };
    matches!(column.fields.as_slice(), [field] if super::walk::text(field) == Some(name))
}

fn value(args: &[pb::Node]) -> Option<&str> {
    match args {
        [pb::Node { node: Some(N::AConst(pb::AConst { val: Some(Val::Sval(value)), .. })) }] => Some(&value.sval),
        _ => None,
    }
}

fn is_utf8(args: &[pb::Node]) -> bool {
    // The server compares encoding names by their letters and digits alone.
    let plain = |value: &str| {
        value.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect::<String>()
    };
    value(args).is_some_and(|value| matches!(plain(value).as_str(), "utf8" | "unicode"))
}

fn is_on(args: &[pb::Node]) -> bool {
    value(args).is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_list_is_sorted_and_holds_nothing_that_changes_meaning() {
        assert!(super::HARMLESS.is_sorted());
        for name in ["search_path", "role", "session_replication_role", "work_mem", "array_nulls"] {
            assert!(super::HARMLESS.binary_search(&name).is_err(), "{name}");
        }
    }
}
