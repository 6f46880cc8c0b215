//! Statements: what each kind does, and what the session must know of it.
//!
//! Owns the match over statement kinds that are not definitions. Touches the walk. Invariant: as in [`super::walk`],
//! no struct is taken apart with `..` here, and a statement that is not understood is an operation on something
//! unknown.

use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;
use sallyport_policy::{ObjectKind, Operation, Usage};

use super::StatementKind;
use super::function::VisitArguments;
use super::walk::{Visit, Walker};

fn is_constant(argument: &pb::Node) -> bool {
    match &argument.node {
        Some(N::AConst(_)) => true,
        Some(N::TypeCast(cast)) => cast.arg.as_deref().is_some_and(is_constant),
        _ => false,
    }
}

/// `LOCK TABLE ... IN ACCESS SHARE MODE`, by the server's number.
const ACCESS_SHARE: i32 = 1;

impl Walker<'_> {
    /// Walks one statement of a text.
    pub(super) fn statement(&mut self, node: &N) -> StatementKind {
        let kind = self.dispatch(node);
        self.settle_notation();
        kind
    }

    fn dispatch(&mut self, node: &N) -> StatementKind {
        match node {
            N::SelectStmt(select) => {
                self.verb = "Select";
                self.answers();
                let before = self.operations.len();
                select.visit(self);
                // Later, so that a query of functions' results alone counts as touching those.
                self.settle_notation();
                if self.operations.len() == before {
                    self.add(Operation::bare("Select"));
                }
            }
            N::InsertStmt(_) | N::UpdateStmt(_) | N::DeleteStmt(_) | N::MergeStmt(_) => {
                self.answers();
                node.visit(self);
            }
            N::TruncateStmt(statement) => self.truncate(statement),
            N::CopyStmt(statement) => return self.copy(statement),
            N::TransactionStmt(statement) => return self.transaction(statement),
            N::ExplainStmt(statement) => {
                let pb::ExplainStmt { query, options } = &**statement;
                // What is explained is not declared: a FETCH after it reads whatever had that name before.
                let cursors = self.cursors.clone();
                self.inner(query.as_deref());
                self.cursors = cursors;
                self.flow.explained();
                options.visit(self);
            }
            N::PrepareStmt(statement) => {
                let pb::PrepareStmt { name, argtypes, query } = &**statement;
                argtypes.visit(self);
                self.inner(query.as_deref());
                self.prepared.insert(name.clone());
                return StatementKind::Prepare(name.clone());
            }
            N::ExecuteStmt(statement) => {
                let pb::ExecuteStmt { name, params } = statement;
                self.verb = "Execute";
                if self.prepared.contains(name) {
                    self.add(Operation::bare("Session"));
                } else {
                    self.unknown("Execute");
                    // Something unknown in an argument would look like the statement itself, for which a session puts
                    // what the name stands for.
                    if !params.iter().all(is_constant) {
                        self.unknown("Other");
                    }
                }
                params.visit(self);
                return StatementKind::Execute(name.clone());
            }
            N::DeallocateStmt(pb::DeallocateStmt { name, isall, location: _ }) => {
                self.add(Operation::bare("Session"));
                if *isall {
                    self.prepared.clear();
                }
                self.prepared.remove(name);
                return StatementKind::Deallocate((!isall).then(|| name.clone()));
            }
            N::DeclareCursorStmt(statement) => {
                let pb::DeclareCursorStmt { portalname, options: _, query } = &**statement;
                self.inner(query.as_deref());
                self.cursors.insert(portalname.clone());
                return StatementKind::Declare(portalname.clone());
            }
            N::FetchStmt(pb::FetchStmt { direction: _, how_many: _, portalname, ismove: _ }) => {
                if self.cursors.contains(portalname) {
                    self.add(Operation::bare("Session"));
                } else {
                    self.unknown("Execute");
                }
                return StatementKind::Fetch(portalname.clone());
            }
            N::ClosePortalStmt(pb::ClosePortalStmt { portalname }) => {
                self.add(Operation::bare("Session"));
                // Without a name: all of them.
                if portalname.is_empty() {
                    self.cursors.clear();
                }
                self.cursors.remove(portalname);
                return StatementKind::CloseCursor((!portalname.is_empty()).then(|| portalname.clone()));
            }
            N::VariableSetStmt(statement) => self.set(statement),
            N::VariableShowStmt(pb::VariableShowStmt { name: _ }) => self.add(Operation::bare("Session")),
            N::DiscardStmt(statement) => {
                self.discard(statement);
                self.prepared.clear();
                self.cursors.clear();
            }
            N::ConstraintsSetStmt(_) => {
                self.add(Operation::bare("Transaction"));
                return StatementKind::SetConstraints;
            }
            N::ListenStmt(pb::ListenStmt { conditionname }) => self.other("Listen", conditionname, Usage::Read),
            N::NotifyStmt(pb::NotifyStmt { conditionname, payload: _, payload_location: _ }) => {
                self.other("Notify", conditionname, Usage::Write);
            }
            N::UnlistenStmt(pb::UnlistenStmt { conditionname: _ }) => self.add(Operation::bare("Session")),
            N::DoStmt(_) => {
                // A body may set a search path, and nobody here reads it.
                self.loses(super::Loss::All);
                self.unknown("Do");
            }
            N::CallStmt(statement) => self.call(statement),
            N::LockStmt(pb::LockStmt { relations, mode, nowait: _ }) => {
                for relation in relations {
                    match &relation.node {
                        // The lock that every SELECT takes: pg_dump holds it on what it reads.
                        Some(N::RangeVar(relation)) if *mode == ACCESS_SHARE => {
                            self.existing("Select", relation, Usage::Read);
                        }
                        Some(N::RangeVar(relation)) => self.existing("Lock", relation, Usage::Write),
                        _ => self.unknown("Lock"),
                    }
                }
            }
            N::VacuumStmt(statement) => self.vacuum(statement),
            N::ReindexStmt(pb::ReindexStmt { kind, relation, name: _, params }) => {
                match relation {
                    Some(index) if *kind == pb::ReindexObjectType::ReindexObjectIndex as i32 => {
                        let name = super::names::qualified(&index.schemaname, &index.relname);
                        self.touch("Reindex", ObjectKind::Other, vec![name], Usage::Write);
                    }
                    relation => self.maintain("Reindex", relation.as_ref()),
                }
                params.visit(self);
            }
            N::ClusterStmt(pb::ClusterStmt { relation, indexname: _, params }) => {
                self.maintain("Cluster", relation.as_ref());
                params.visit(self);
            }
            N::RefreshMatViewStmt(pb::RefreshMatViewStmt { concurrent: _, skip_data: _, relation }) => {
                self.maintain("RefreshMaterializedView", relation.as_ref());
            }
            definition => self.definition(definition),
        }
        StatementKind::Other
    }

    /// The statement within an EXPLAIN, a PREPARE, a DECLARE.
    pub(super) fn inner(&mut self, query: Option<&pb::Node>) {
        match query.and_then(|query| query.node.as_ref()) {
            Some(node) => {
                self.dispatch(node);
            }
            None => self.unknown("Other"),
        }
    }

    fn maintain(&mut self, verb: &'static str, relation: Option<&pb::RangeVar>) {
        match relation {
            Some(relation) => self.existing(verb, relation, Usage::Write),
            None => self.unknown(verb),
        }
    }

    fn vacuum(&mut self, statement: &pb::VacuumStmt) {
        let pb::VacuumStmt { options, rels, is_vacuumcmd } = statement;
        let verb = if *is_vacuumcmd { "Vacuum" } else { "Analyze" };
        self.verb = verb;
        options.visit(self);
        if rels.is_empty() {
            self.unknown(verb);
        }
        for relation in rels {
            match &relation.node {
                Some(N::VacuumRelation(pb::VacuumRelation { relation, oid: _, va_cols: _ })) => {
                    self.maintain(verb, relation.as_ref());
                }
                _ => self.unknown(verb),
            }
        }
    }

    fn call(&mut self, statement: &pb::CallStmt) {
        let pb::CallStmt { funccall, funcexpr, outargs } = statement;
        self.verb = "Call";
        match funccall {
            Some(call) => {
                // Even one that is harmless in an expression: what may be called is said by name.
                match super::walk::names_of(&call.funcname) {
                    Some((schema, name)) => {
                        let names = if schema.is_empty() {
                            self.names.created(name)
                        } else {
                            vec![super::names::qualified(schema, name)]
                        };
                        self.touch("Call", ObjectKind::Function, names, Usage::Run);
                    }
                    None => self.unknown("Call"),
                }
                call.visit_arguments(self);
            }
            None => self.unknown("Call"),
        }
        if funcexpr.is_some() {
            self.unknown("Call");
        }
        outargs.visit(self);
    }

    fn copy(&mut self, statement: &pb::CopyStmt) -> StatementKind {
        let pb::CopyStmt { relation, query, attlist, is_from, is_program, filename, options, where_clause } = statement;
        let (verb, usage) = if *is_from { ("CopyFrom", Usage::Write) } else { ("CopyTo", Usage::Read) };
        match (relation, query) {
            (Some(relation), None) => {
                self.existing(verb, relation, usage);
                if !*is_from {
                    self.answers();
                    self.copied_out(attlist);
                }
            }
            (None, Some(query)) => {
                self.add(Operation::bare(verb));
                self.inner(Some(query));
            }
            _ => self.unknown(verb),
        }
        if !*is_from {
            self.flow.written_in_lines(!*is_program && filename.is_empty());
        }
        self.verb = verb;
        attlist.visit(self);
        options.visit(self);
        where_clause.visit(self);
        match (*is_program, filename.is_empty(), *is_from) {
            (true, _, _) => self.other(verb, "program", Usage::Run),
            (false, false, _) => self.other(verb, "file", usage),
            (false, true, true) => return StatementKind::CopyIn,
            (false, true, false) => {
                return StatementKind::CopyOut(super::copy::form(options, query.is_some()).map(Box::new));
            }
        }
        StatementKind::Other
    }

    fn transaction(&mut self, statement: &pb::TransactionStmt) -> StatementKind {
        let pb::TransactionStmt { kind, options: _, savepoint_name, gid: _, chain, location: _ } = statement;
        use pb::TransactionStmtKind as Kind;
        let kind = match Kind::try_from(*kind) {
            Ok(Kind::TransStmtBegin | Kind::TransStmtStart) => StatementKind::Begin,
            Ok(Kind::TransStmtCommit) => StatementKind::Commit { chain: *chain },
            Ok(Kind::TransStmtRollback) => StatementKind::Rollback { chain: *chain },
            Ok(Kind::TransStmtSavepoint) => StatementKind::Savepoint(savepoint_name.clone()),
            Ok(Kind::TransStmtRelease) => StatementKind::Release(savepoint_name.clone()),
            Ok(Kind::TransStmtRollbackTo) => StatementKind::RollbackTo(savepoint_name.clone()),
            // Two-phase commit outlives the session.
            Ok(
                Kind::TransStmtPrepare
                | Kind::TransStmtCommitPrepared
                | Kind::TransStmtRollbackPrepared
                | Kind::Undefined,
            )
            | Err(_) => {
                self.unknown("Other");
                return StatementKind::Other;
            }
        };
        // A cursor can end with its transaction, and with a rollback what was declared since a savepoint.
        self.cursors.clear();
        self.add(Operation::bare("Transaction"));
        kind
    }

    /// CREATE TABLE AS, CREATE MATERIALIZED VIEW AS.
    pub(super) fn create_as(&mut self, statement: &pb::CreateTableAsStmt) {
        let pb::CreateTableAsStmt { query, into, objtype, is_select_into: _, if_not_exists: _ } = statement;
        let is_view = *objtype == pb::ObjectType::ObjectMatview as i32;
        self.verb = if is_view { "CreateMaterializedView" } else { "CreateTableAs" };
        match into.as_deref() {
            Some(into) if is_view => match &into.rel {
                Some(relation) => {
                    self.creates("CreateMaterializedView", relation);
                    into.options.visit(self);
                }
                None => self.unknown("CreateMaterializedView"),
            },
            Some(into) => into.visit(self),
            None => self.unknown(self.verb),
        }
        match query.as_deref().and_then(|query| query.node.as_ref()) {
            Some(N::ExecuteStmt(execute)) => {
                // Whatever it shows goes into the table.
                self.flow.mark_any();
                self.dispatch(&N::ExecuteStmt(execute.clone()));
            }
            Some(query) => query.visit(self),
            None => self.unknown(self.verb),
        }
    }
}
