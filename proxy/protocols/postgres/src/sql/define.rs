//! Definitions: CREATE, ALTER, DROP, GRANT and their kin.
//!
//! Owns the match over the statement kinds that [`super::statement`] leaves. Touches the walk. Invariant: the match
//! has no wildcard; a definition whose objects cannot all be named is an operation on something unknown, whatever
//! else it adds.

use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;
use sallyport_policy::{ObjectKind, Usage};

use super::names;
use super::walk::{Visit, Walker, names_of};

impl Walker<'_> {
    #[rustfmt::skip]
    #[expect(clippy::too_many_lines, reason = "one line for each kind of statement")]
    pub(super) fn definition(&mut self, node: &N) {
        match node {
            N::CreateTableAsStmt(statement) => self.create_as(statement),
            N::CreateStmt(statement) => self.create_table(statement),
            N::IndexStmt(statement) => self.create_index(statement),
            N::ViewStmt(statement) => self.create_view(statement),
            N::CreateSchemaStmt(statement) => self.create_schema(statement),
            N::CreateSeqStmt(statement) => self.create_sequence(statement),
            N::AlterSeqStmt(statement) => self.alter_sequence(statement),
            N::CreateFunctionStmt(statement) => self.create_function(statement),
            N::CreateTrigStmt(statement) => self.create_trigger(statement),
            N::AlterTableStmt(statement) => self.alter_table(statement),
            N::RenameStmt(statement) => self.rename(statement),
            N::AlterObjectSchemaStmt(statement) => self.move_to_schema(statement),
            N::CommentStmt(statement) => self.comment(statement),
            N::GrantStmt(statement) => self.grant(statement),
            N::DropStmt(statement) => self.drop(statement),
            N::CompositeTypeStmt(pb::CompositeTypeStmt { typevar, coldeflist }) => {
                self.verb = "CreateType";
                match typevar {
                    Some(name) => self.touch("CreateType", ObjectKind::Other,
                        vec![names::qualified(&name.schemaname, &name.relname)], Usage::Write),
                    None => self.unknown("CreateType"),
                }
                coldeflist.visit(self);
            }
            N::CreateEnumStmt(pb::CreateEnumStmt { type_name, vals: _ }) => {
                self.named_other("CreateType", &list(type_name));
            }
            N::CreateDomainStmt(statement) => {
                let pb::CreateDomainStmt { domainname, type_name, coll_clause, constraints } = &**statement;
                self.verb = "CreateType";
                self.named_other("CreateType", &list(domainname));
                type_name.visit(self);
                coll_clause.visit(self);
                constraints.visit(self);
            }
            N::CreateRangeStmt(_) => self.unknown("CreateType"),
            N::DefineStmt(statement) => {
                let aggregate = statement.kind == pb::ObjectType::ObjectAggregate as i32;
                let of_type = statement.kind == pb::ObjectType::ObjectType as i32;
                self.unknown(if aggregate { "CreateFunction" } else if of_type { "CreateType" } else { "CreateOther" });
            }
            // An extension brings a schema's worth of objects, and runs a script of the server's.
            N::CreateExtensionStmt(pb::CreateExtensionStmt { extname, if_not_exists: _, options }) => {
                self.other("CreateExtension", extname, Usage::Write);
                if !options.is_empty() {
                    self.unknown("CreateExtension");
                }
            }
            N::CreateRoleStmt(pb::CreateRoleStmt { stmt_type: _, role, options }) => {
                self.other("CreateRole", role, Usage::Write);
                // IN ROLE, ROLE, ADMIN: membership.
                if options.iter().any(|option| !is_plain_role_option(option)) {
                    self.unknown("CreateRole");
                }
            }
            N::AlterRoleStmt(pb::AlterRoleStmt { role, options: _, action: _ }) => self.role("AlterRole", role.as_ref()),
            N::AlterRoleSetStmt(pb::AlterRoleSetStmt { role, database: _, setstmt: _ }) => {
                self.role("AlterRole", role.as_ref());
            }
            N::DropRoleStmt(pb::DropRoleStmt { roles, missing_ok: _ }) => {
                for role in roles {
                    match &role.node {
                        Some(N::RoleSpec(role)) => self.role("Drop", Some(role)),
                        _ => self.unknown("Drop"),
                    }
                }
            }
            N::CreatedbStmt(pb::CreatedbStmt { dbname, options: _ }) => {
                self.other("CreateDatabase", dbname, Usage::Write);
            }
            N::DropdbStmt(pb::DropdbStmt { dbname, missing_ok: _, options: _ }) => {
                self.other("Drop", dbname, Usage::Write);
            }
            N::DropTableSpaceStmt(pb::DropTableSpaceStmt { tablespacename, missing_ok: _ }) => {
                self.other("Drop", tablespacename, Usage::Write);
            }
            N::DropUserMappingStmt(pb::DropUserMappingStmt { user: _, servername, missing_ok: _ }) => {
                self.other("Drop", servername, Usage::Write);
            }
            N::DropSubscriptionStmt(pb::DropSubscriptionStmt { subname, missing_ok: _, behavior: _ }) => {
                self.other("Drop", subname, Usage::Write);
            }
            N::AlterSystemStmt(pb::AlterSystemStmt { setstmt }) => match setstmt {
                Some(setting) if !setting.name.is_empty() => {
                    self.other("AlterSystem", &setting.name.to_ascii_lowercase(), Usage::Write);
                }
                _ => self.unknown("AlterSystem"),
            },
            N::CreateForeignTableStmt(_) => self.unknown("CreateTable"),
            N::AlterTableMoveAllStmt(_) => self.unknown("AlterTable"),
            N::DropOwnedStmt(_) => self.unknown("Drop"),
            N::GrantRoleStmt(pb::GrantRoleStmt { granted_roles: _, grantee_roles: _, is_grant, opt: _, grantor: _,
                behavior: _ }) => self.unknown(if *is_grant { "Grant" } else { "Revoke" }),
            N::AlterDefaultPrivilegesStmt(pb::AlterDefaultPrivilegesStmt { options: _, action }) => {
                let granted = action.as_ref().is_none_or(|action| action.is_grant);
                self.unknown(if granted { "Grant" } else { "Revoke" });
            }
            N::AlterCollationStmt(_) | N::AlterDatabaseRefreshCollStmt(_) | N::AlterDatabaseSetStmt(_)
            | N::AlterDatabaseStmt(_) | N::AlterDomainStmt(_) | N::AlterEnumStmt(_) | N::AlterEventTrigStmt(_)
            | N::AlterExtensionContentsStmt(_) | N::AlterExtensionStmt(_) | N::AlterFdwStmt(_)
            | N::AlterForeignServerStmt(_) | N::AlterFunctionStmt(_) | N::AlterObjectDependsStmt(_)
            | N::AlterOpFamilyStmt(_) | N::AlterOperatorStmt(_) | N::AlterOwnerStmt(_) | N::AlterPolicyStmt(_)
            | N::AlterPublicationStmt(_) | N::AlterStatsStmt(_) | N::AlterSubscriptionStmt(_)
            | N::AlterTableSpaceOptionsStmt(_) | N::AlterTsconfigurationStmt(_) | N::AlterTsdictionaryStmt(_)
            | N::AlterTypeStmt(_) | N::AlterUserMappingStmt(_) | N::ReassignOwnedStmt(_) => self.unknown("AlterOther"),
            N::CreateAmStmt(_) | N::CreateCastStmt(_) | N::CreateConversionStmt(_) | N::CreateEventTrigStmt(_)
            | N::CreateFdwStmt(_) | N::CreateForeignServerStmt(_) | N::CreateOpClassStmt(_)
            | N::CreateOpFamilyStmt(_) | N::CreatePlangStmt(_) | N::CreatePolicyStmt(_)
            | N::CreatePublicationStmt(_) | N::CreateStatsStmt(_) | N::CreateSubscriptionStmt(_)
            | N::CreateTableSpaceStmt(_) | N::CreateTransformStmt(_) | N::CreateUserMappingStmt(_)
            | N::ImportForeignSchemaStmt(_) | N::RuleStmt(_) => self.unknown("CreateOther"),
            // Statements of neither kind, and nodes that are no statements.
            N::CheckPointStmt(_) | N::LoadStmt(_) | N::SecLabelStmt(_) | N::RawStmt(_) | N::ReturnStmt(_)
            | N::PlassignStmt(_) | N::SetOperationStmt(_) => self.unknown("Other"),
            N::AArrayExpr(_) | N::AConst(_) | N::AExpr(_) | N::AIndices(_) | N::AIndirection(_) | N::AStar(_)
            | N::AccessPriv(_) | N::Aggref(_) | N::Alias(_) | N::AlterTableCmd(_) | N::AlternativeSubPlan(_)
            | N::ArrayCoerceExpr(_) | N::ArrayExpr(_) | N::AtalterConstraint(_) | N::BitString(_) | N::BoolExpr(_)
            | N::Boolean(_) | N::BooleanTest(_) | N::CallContext(_) | N::CallStmt(_) | N::CaseExpr(_)
            | N::CaseTestExpr(_) | N::CaseWhen(_) | N::ClosePortalStmt(_) | N::ClusterStmt(_) | N::CoalesceExpr(_)
            | N::CoerceToDomain(_) | N::CoerceToDomainValue(_) | N::CoerceViaIo(_) | N::CollateClause(_)
            | N::CollateExpr(_) | N::ColumnDef(_) | N::ColumnRef(_) | N::CommonTableExpr(_) | N::Constraint(_)
            | N::ConstraintsSetStmt(_) | N::ConvertRowtypeExpr(_) | N::CopyStmt(_) | N::CreateOpClassItem(_)
            | N::CtecycleClause(_) | N::CtesearchClause(_) | N::CurrentOfExpr(_) | N::DeallocateStmt(_)
            | N::DeclareCursorStmt(_) | N::DefElem(_) | N::DeleteStmt(_) | N::DiscardStmt(_) | N::DistinctExpr(_)
            | N::DoStmt(_) | N::ExecuteStmt(_) | N::ExplainStmt(_) | N::FetchStmt(_) | N::FieldSelect(_)
            | N::FieldStore(_) | N::Float(_) | N::FromExpr(_) | N::FuncCall(_) | N::FuncExpr(_)
            | N::FunctionParameter(_) | N::GroupingFunc(_) | N::GroupingSet(_) | N::IndexElem(_) | N::InferClause(_)
            | N::InferenceElem(_) | N::InlineCodeBlock(_) | N::InsertStmt(_) | N::IntList(_) | N::Integer(_)
            | N::IntoClause(_) | N::JoinExpr(_) | N::JsonAggConstructor(_) | N::JsonArgument(_) | N::JsonArrayAgg(_)
            | N::JsonArrayConstructor(_) | N::JsonArrayQueryConstructor(_) | N::JsonBehavior(_)
            | N::JsonConstructorExpr(_) | N::JsonExpr(_) | N::JsonFormat(_) | N::JsonFuncExpr(_)
            | N::JsonIsPredicate(_) | N::JsonKeyValue(_) | N::JsonObjectAgg(_) | N::JsonObjectConstructor(_)
            | N::JsonOutput(_) | N::JsonParseExpr(_) | N::JsonReturning(_) | N::JsonScalarExpr(_)
            | N::JsonSerializeExpr(_) | N::JsonTable(_) | N::JsonTableColumn(_) | N::JsonTablePath(_)
            | N::JsonTablePathScan(_) | N::JsonTablePathSpec(_) | N::JsonTableSiblingJoin(_) | N::JsonValueExpr(_)
            | N::List(_) | N::ListenStmt(_) | N::LockStmt(_) | N::LockingClause(_) | N::MergeAction(_)
            | N::MergeStmt(_) | N::MergeSupportFunc(_) | N::MergeWhenClause(_) | N::MinMaxExpr(_)
            | N::MultiAssignRef(_) | N::NamedArgExpr(_) | N::NextValueExpr(_) | N::NotifyStmt(_) | N::NullIfExpr(_)
            | N::NullTest(_) | N::ObjectWithArgs(_) | N::OidList(_) | N::OnConflictClause(_) | N::OnConflictExpr(_)
            | N::OpExpr(_) | N::Param(_) | N::ParamRef(_) | N::PartitionBoundSpec(_) | N::PartitionCmd(_)
            | N::PartitionElem(_) | N::PartitionRangeDatum(_) | N::PartitionSpec(_) | N::PrepareStmt(_)
            | N::PublicationObjSpec(_) | N::PublicationTable(_) | N::Query(_) | N::RangeFunction(_)
            | N::RangeSubselect(_) | N::RangeTableFunc(_) | N::RangeTableFuncCol(_) | N::RangeTableSample(_)
            | N::RangeTblEntry(_) | N::RangeTblFunction(_) | N::RangeTblRef(_) | N::RangeVar(_)
            | N::RefreshMatViewStmt(_) | N::ReindexStmt(_) | N::RelabelType(_) | N::ReplicaIdentityStmt(_)
            | N::ResTarget(_) | N::ReturningClause(_) | N::ReturningExpr(_) | N::ReturningOption(_)
            | N::RoleSpec(_) | N::RowCompareExpr(_) | N::RowExpr(_) | N::RowMarkClause(_)
            | N::RtepermissionInfo(_) | N::ScalarArrayOpExpr(_) | N::SelectStmt(_) | N::SetToDefault(_)
            | N::SortBy(_) | N::SortGroupClause(_) | N::SqlvalueFunction(_) | N::StatsElem(_) | N::String(_)
            | N::SubLink(_) | N::SubPlan(_) | N::SubscriptingRef(_) | N::TableFunc(_) | N::TableLikeClause(_)
            | N::TableSampleClause(_) | N::TargetEntry(_) | N::TransactionStmt(_) | N::TriggerTransition(_)
            | N::TruncateStmt(_) | N::TypeCast(_) | N::TypeName(_) | N::UnlistenStmt(_) | N::UpdateStmt(_)
            | N::VacuumRelation(_) | N::VacuumStmt(_) | N::Var(_) | N::VariableSetStmt(_) | N::VariableShowStmt(_)
            | N::WindowClause(_) | N::WindowDef(_) | N::WindowFunc(_) | N::WindowFuncRunCondition(_)
            | N::WithCheckOption(_) | N::WithClause(_) | N::XmlExpr(_) | N::XmlSerialize(_) => self.unknown("Other"),
        }
    }

    fn role(&mut self, verb: &'static str, role: Option<&pb::RoleSpec>) {
        match role {
            Some(pb::RoleSpec { roletype: _, rolename, location: _ }) if !rolename.is_empty() => {
                self.other(verb, rolename, Usage::Write);
            }
            _ => self.unknown(verb),
        }
    }

    fn create_schema(&mut self, statement: &pb::CreateSchemaStmt) {
        let pb::CreateSchemaStmt { schemaname, authrole: _, schema_elts, if_not_exists: _ } = statement;
        // Without a name it is called as the role is. Names within it are resolved in it first.
        if schemaname.is_empty() || !schema_elts.is_empty() {
            self.unknown("CreateSchema");
        }
        if !schemaname.is_empty() {
            self.other("CreateSchema", schemaname, Usage::Write);
        }
    }

    fn create_function(&mut self, statement: &pb::CreateFunctionStmt) {
        // Its body is judged by what calling it may do, not here.
        let pb::CreateFunctionStmt {
            is_procedure: _,
            replace: _,
            funcname,
            parameters: _,
            return_type: _,
            options: _,
            sql_body: _,
        } = statement;
        match names_of(funcname) {
            Some((schema, name)) => {
                let names =
                    if schema.is_empty() { self.names.created(name) } else { vec![names::qualified(schema, name)] };
                self.touch("CreateFunction", ObjectKind::Function, names, Usage::Write);
            }
            None => self.unknown("CreateFunction"),
        }
    }

    fn grant(&mut self, statement: &pb::GrantStmt) {
        let pb::GrantStmt {
            is_grant,
            targtype,
            objtype: _,
            objects,
            privileges: _,
            grantees: _,
            grant_option: _,
            grantor: _,
            behavior: _,
        } = statement;
        let verb = if *is_grant { "Grant" } else { "Revoke" };
        if *targtype != pb::GrantTargetType::AclTargetObject as i32 {
            return self.unknown(verb);
        }
        for object in objects {
            match &object.node {
                Some(N::RangeVar(relation)) => self.existing(verb, relation, Usage::Write),
                _ => self.named_other(verb, object),
            }
        }
    }

    fn comment(&mut self, statement: &pb::CommentStmt) {
        let pb::CommentStmt { objtype, object, comment: _ } = statement;
        let parts = match object.as_deref() {
            Some(pb::Node { node: Some(N::List(list)) }) => list.items.as_slice(),
            _ => return self.unknown("Comment"),
        };
        match pb::ObjectType::try_from(*objtype) {
            Ok(kind) if is_relation(kind) => self.named_relation("Comment", parts),
            Ok(pb::ObjectType::ObjectColumn) => {
                self.named_relation("Comment", parts.split_last().map_or(&[], |(_, table)| table));
            }
            _ => self.unknown("Comment"),
        }
    }

    fn drop(&mut self, statement: &pb::DropStmt) {
        let pb::DropStmt { objects, remove_type, behavior, missing_ok: _, concurrent: _ } = statement;
        use pb::ObjectType as Kind;
        let kind = Kind::try_from(*remove_type).unwrap_or_default();
        for object in objects {
            match (kind, &object.node) {
                (kind, Some(N::List(name))) if is_relation(kind) => self.named_relation("Drop", &name.items),
                (Kind::ObjectTrigger | Kind::ObjectRule | Kind::ObjectPolicy, Some(N::List(name))) => {
                    let Some((last, table)) = name.items.split_last() else {
                        self.unknown("Drop");
                        continue;
                    };
                    self.named_other("Drop", last);
                    self.named_relation("AlterTable", table);
                }
                (
                    Kind::ObjectFunction | Kind::ObjectProcedure | Kind::ObjectRoutine | Kind::ObjectAggregate,
                    Some(N::ObjectWithArgs(function)),
                ) => match names_of(&function.objname) {
                    Some((schema, name)) => {
                        let names = if schema.is_empty() {
                            self.names.created(name)
                        } else {
                            vec![names::qualified(schema, name)]
                        };
                        self.touch("Drop", ObjectKind::Function, names, Usage::Write);
                    }
                    None => self.unknown("Drop"),
                },
                _ => self.named_other("Drop", object),
            }
        }
        // Whatever hangs on them goes as well.
        if *behavior == pb::DropBehavior::DropCascade as i32 {
            self.unknown("Drop");
        }
    }
}

/// An index is not: the table behind it is nowhere in the text.
pub(super) const fn is_relation(kind: pb::ObjectType) -> bool {
    use pb::ObjectType as Kind;
    matches!(
        kind,
        Kind::ObjectTable | Kind::ObjectView | Kind::ObjectMatview | Kind::ObjectSequence | Kind::ObjectForeignTable
    )
}

fn list(items: &[pb::Node]) -> pb::Node {
    pb::Node { node: Some(N::List(pb::List { items: items.to_vec() })) }
}

fn is_plain_role_option(option: &pb::Node) -> bool {
    match &option.node {
        Some(N::DefElem(option)) => !matches!(option.defname.as_str(), "rolemembers" | "adminmembers" | "addroleto"),
        _ => false,
    }
}
