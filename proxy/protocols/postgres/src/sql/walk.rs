//! The walk over a parse tree: every node is visited, and what it touches becomes an operation.
//!
//! Owns what the walk remembers (operations, visible CTEs, where it is) and the table of which parts a node has;
//! queries, writes, names of functions and utility statements are in the modules beside it. Touches nothing else.
//! Invariant: complete by construction. Every struct is taken apart without `..` and the match over node kinds has no
//! wildcard, so a parser with one more field or kind does not compile; what cannot appear in a raw parse tree, or is
//! not understood, becomes an operation on an unknown object.

use std::collections::HashSet;

use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;
use sallyport_policy::{Attribute, Fact, Object, ObjectKind, Operation, QualifiedName, Usage};

use super::names::{self, Callee, Loss, NameSettings};
use super::query::Locks;

/// More distinct operations in one text than this are refused: no rule set needs them, and each costs a decision.
const MOST_OPERATIONS: usize = 4096;

/// The parser's own tree cannot be deeper than about a hundred messages; this only guards against its growing.
const DEEPEST: usize = 512;

/// Why a tree was given up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surrender {
    TooManyOperations,
    TooDeep,
    /// Texts after this one would be read by another syntax or encoding.
    OtherSyntax,
}

/// What the walk knows at one node.
#[derive(Debug)]
pub(super) struct Walker<'a> {
    pub(super) names: &'a NameSettings,
    /// In the order they were met, each once.
    pub(super) operations: Vec<Operation>,
    seen: HashSet<Operation>,
    pub(super) surrender: Option<Surrender>,
    depth: usize,
    /// Of the statement that encloses the node: what a function call in it counts as.
    pub(super) verb: &'static str,
    /// CTEs whose names stand for themselves here, innermost last.
    pub(super) ctes: Vec<String>,
    /// Which tables of the FROM list at hand a `FOR UPDATE` locks.
    pub(super) locks: Locks,
    pub(super) predicate: super::predicate::Columns,
    pub(super) notation: super::function::Notation,
    pub(super) flow: super::fields::Flow,
    /// Names of the statements prepared and cursors declared by earlier statements of this text.
    pub(super) prepared: HashSet<String>,
    pub(super) cursors: HashSet<String>,
    /// The setting that the query at hand reads from `pg_settings` by its name.
    pub(super) setting: Option<String>,
    /// What follows this statement finds other objects by its names.
    pub(super) loses: Option<Loss>,
    /// How many places of it do that, and the parameter that one of them sets the search path to.
    pub(super) losses: usize,
    pub(super) path: Option<i32>,
    /// Every parameter, as often as it stands there.
    pub(super) parameters: Vec<i32>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(names: &'a NameSettings) -> Self {
        Self {
            names,
            operations: Vec::new(),
            seen: HashSet::new(),
            surrender: None,
            depth: 0,
            verb: "Other",
            ctes: Vec::new(),
            locks: Locks::None,
            predicate: super::predicate::Columns::default(),
            notation: super::function::Notation::default(),
            flow: super::fields::Flow::default(),
            prepared: HashSet::new(),
            cursors: HashSet::new(),
            setting: None,
            loses: None,
            losses: 0,
            path: None,
            parameters: Vec::new(),
        }
    }

    /// Hands over what one statement does and forgets it.
    pub(super) fn take_operations(&mut self) -> Vec<Operation> {
        self.seen.clear();
        std::mem::take(&mut self.operations)
    }

    pub(super) fn add(&mut self, operation: Operation) {
        if self.seen.contains(&operation) {
            return;
        }
        if self.operations.len() >= MOST_OPERATIONS {
            self.surrender = Some(Surrender::TooManyOperations);
            return;
        }
        self.seen.insert(operation.clone());
        self.operations.push(operation);
    }

    /// What the statement does beyond this point cannot be told.
    pub(super) fn unknown(&mut self, verb: &'static str) {
        self.add(Operation { verb: verb.into(), object: Fact::Unknown, attributes: Vec::new() });
    }

    /// An object with these candidates; where there are none it could be any.
    pub(super) fn touch(&mut self, verb: &'static str, kind: ObjectKind, names: Vec<QualifiedName>, usage: Usage) {
        if names.is_empty() {
            return self.unknown(verb);
        }
        self.add(Operation::on(verb, Object { kind, names, usage }));
    }

    /// An object that is neither table nor function.
    pub(super) fn other(&mut self, verb: &'static str, name: &str, usage: Usage) {
        self.touch(verb, ObjectKind::Other, vec![names::qualified("", name)], usage);
    }

    pub(super) fn existing(&mut self, verb: &'static str, relation: &pb::RangeVar, usage: Usage) {
        let names = self.relation_names(relation);
        self.touch(verb, ObjectKind::Table, names, usage);
    }

    pub(super) fn existing_bounded(&mut self, verb: &'static str, relation: &pb::RangeVar, unbounded: Fact<bool>) {
        let names = self.relation_names(relation);
        let attributes = match unbounded {
            Fact::Known(false) => Vec::new(),
            fact => vec![(Attribute::Unbounded, fact)],
        };
        let object = match names.is_empty() {
            true => Fact::Unknown,
            false => Fact::Known(Some(Object { kind: ObjectKind::Table, names, usage: Usage::Write })),
        };
        self.add(Operation { verb: verb.into(), object, attributes });
    }

    /// What follows the statement finds other objects by its names, as far as that.
    pub(super) fn loses(&mut self, loss: Loss) {
        self.losses += 1;
        self.loses = self.loses.max(Some(loss));
    }

    /// A relation that the statement creates.
    pub(super) fn creates(&mut self, verb: &'static str, relation: &pb::RangeVar) {
        let pb::RangeVar { catalogname: _, schemaname, relname, inh: _, relpersistence, alias: _, location: _ } =
            relation;
        let names = match (schemaname.as_str(), relpersistence.as_str()) {
            ("", "t") => vec![names::qualified("pg_temp", relname)],
            ("", _) => self.names.created(relname),
            (schema, _) => vec![names::qualified(schema, relname)],
        };
        self.touch(verb, ObjectKind::Table, names, Usage::Write);
    }

    pub(super) fn relation_names(&self, relation: &pb::RangeVar) -> Vec<QualifiedName> {
        self.names.relation(&relation.schemaname, &relation.relname)
    }

    pub(super) fn runs(&mut self, verb: &'static str, name: &[pb::Node]) {
        let Some((schema, name)) = names_of(name) else { return self.unknown(verb) };
        if let Callee::Runs(names) = self.names.function(schema, name) {
            self.touch(verb, ObjectKind::Function, names, Usage::Run);
        }
    }
}

/// Schema (empty where there is none) and name out of a dotted name of at most three parts.
pub(super) fn names_of(parts: &[pb::Node]) -> Option<(&str, &str)> {
    match parts {
        [name] => Some(("", text(name)?)),
        [schema, name] | [_, schema, name] => Some((text(schema)?, text(name)?)),
        _ => None,
    }
}

pub(super) fn text(node: &pb::Node) -> Option<&str> {
    match &node.node {
        Some(N::String(pb::String { sval })) => Some(sval),
        _ => None,
    }
}

/// Something that has parts.
pub(super) trait Visit {
    fn visit(&self, walker: &mut Walker<'_>);
}

impl<T: Visit> Visit for Option<T> {
    fn visit(&self, walker: &mut Walker<'_>) {
        if let Some(value) = self {
            value.visit(walker);
        }
    }
}

impl<T: Visit + ?Sized> Visit for Box<T> {
    fn visit(&self, walker: &mut Walker<'_>) {
        (**self).visit(walker);
    }
}

impl<T: Visit> Visit for Vec<T> {
    fn visit(&self, walker: &mut Walker<'_>) {
        for value in self {
            value.visit(walker);
        }
    }
}

/// Writes `Visit` for structs whose parts are visited and that do nothing by themselves: first the fields that are
/// visited, then those that hold no node. A field in neither list does not compile.
macro_rules! parts {
    ($($name:ident { $($part:ident),* ; $($plain:ident),* })*) => {
        $(impl Visit for pb::$name {
            fn visit(&self, _walker: &mut Walker<'_>) {
                let Self { $($part,)* $($plain: _,)* } = self;
                $($part.visit(_walker);)*
            }
        })*
    };
}

parts! {
    // expressions
    AArrayExpr { elements; list_start, list_end, location }
    AIndices { lidx, uidx; is_slice }
    BoolExpr { xpr, args; boolop, location }
    BooleanTest { xpr, arg; booltesttype, location }
    CaseExpr { xpr, arg, args, defresult; casetype, casecollid, location }
    CaseWhen { xpr, expr, result; location }
    CoalesceExpr { xpr, args; coalescetype, coalescecollid, location }
    CollateClause { arg, collname; location }
    GroupingFunc { xpr, args, refs; agglevelsup, location }
    GroupingSet { content; kind, location }
    MergeSupportFunc { xpr; msftype, msfcollid, location }
    MinMaxExpr { xpr, args; minmaxtype, minmaxcollid, inputcollid, op, location }
    MultiAssignRef { source; colno, ncolumns }
    NamedArgExpr { xpr, arg; name, argnumber, location }
    NullTest { xpr, arg; nulltesttype, argisrow, location }
    ResTarget { indirection, val; name, location }
    RowExpr { xpr, args, colnames; row_typeid, row_format, location }
    SetToDefault { xpr; type_id, type_mod, collation, location }
    SqlValueFunction { xpr; op, r#type, typmod, location }
    TypeCast { arg, type_name; location }
    TypeName { names, typmods, array_bounds; type_oid, setof, pct_type, typemod, location }
    WindowDef { partition_clause, order_clause, start_offset, end_offset; name, refname, frame_options, location }
    XmlExpr { xpr, named_args, arg_names, args; op, name, xmloption, indent, r#type, typmod, location }
    XmlSerialize { expr, type_name; xmloption, indent, location }
    // SQL/JSON
    JsonAggConstructor { output, agg_filter, agg_order, over; location }
    JsonArgument { val; name }
    JsonArrayAgg { constructor, arg; absent_on_null }
    JsonArrayConstructor { exprs, output; absent_on_null, location }
    JsonArrayQueryConstructor { query, output; format, absent_on_null, location }
    JsonBehavior { expr; btype, coerce, location }
    JsonFuncExpr { context_item, pathspec, passing, output, on_empty, on_error;
                   op, column_name, wrapper, quotes, location }
    JsonIsPredicate { expr; format, item_type, unique_keys, location }
    JsonKeyValue { key, value; }
    JsonObjectAgg { constructor, arg; absent_on_null, unique }
    JsonObjectConstructor { exprs, output; absent_on_null, unique, location }
    JsonOutput { type_name; returning }
    JsonParseExpr { expr, output; unique_keys, location }
    JsonScalarExpr { expr, output; location }
    JsonSerializeExpr { expr, output; location }
    JsonTable { context_item, pathspec, passing, columns, on_error; alias, lateral, location }
    JsonTableColumn { type_name, pathspec, columns, on_empty, on_error;
                      coltype, name, format, wrapper, quotes, location }
    JsonTablePathSpec { string; name, name_location, location }
    JsonValueExpr { raw_expr, formatted_expr; format }
    // queries
    CteCycleClause { cycle_col_list, cycle_mark_value, cycle_mark_default;
                     cycle_mark_column, cycle_path_column, location, cycle_mark_type, cycle_mark_typmod,
                     cycle_mark_collation, cycle_mark_neop }
    CteSearchClause { search_col_list; search_breadth_first, search_seq_column, location }
    InferClause { index_elems, where_clause; conname, location }
    IndexElem { expr, collation, opclass, opclassopts; name, indexcolname, ordering, nulls_ordering }
    RangeTableFunc { docexpr, rowexpr, namespaces, columns; lateral, alias, location }
    RangeTableFuncCol { type_name, colexpr, coldefexpr; colname, for_ordinality, is_not_null, location }
    ReturningClause { options, exprs; }
    ReturningOption { ; option, value, location }
    // definitions
    DefElem { arg; defnamespace, defname, defaction, location, arg_location }
    PartitionBoundSpec { listdatums, lowerdatums, upperdatums; strategy, is_default, modulus, remainder, location }
    PartitionElem { expr, collation, opclass; name, location }
    PartitionRangeDatum { value; kind, location }
    PartitionSpec { part_params; strategy, location }
    // lists and constants
    AConst { ; isnull, location, val }
    AStar { ; }
    BitString { ; bsval }
    Boolean { ; boolval }
    Float { ; fval }
    Integer { ; ival }
    IntList { items; }
    List { items; }
    OidList { items; }
    RoleSpec { ; roletype, rolename, location }
    String { ; sval }
}

impl Visit for pb::Node {
    fn visit(&self, walker: &mut Walker<'_>) {
        if walker.depth >= DEEPEST {
            walker.surrender = Some(Surrender::TooDeep);
        }
        if walker.surrender.is_some() {
            return;
        }
        walker.depth += 1;
        match &self.node {
            Some(node) => node.visit(walker),
            // The parser writes an empty node for one it cannot dump, and for the absent ones of a few lists,
            // which those who visit such a list leave out.
            None => walker.unknown("Other"),
        }
        walker.depth -= 1;
    }
}

impl Visit for N {
    #[rustfmt::skip]
    fn visit(&self, w: &mut Walker<'_>) {
        match self {
            // those that mean something by themselves
            Self::AExpr(n) => n.visit(w), Self::AIndirection(n) => n.visit(w), Self::ColumnRef(n) => n.visit(w),
            Self::ColumnDef(n) => n.visit(w), Self::CommonTableExpr(n) => n.visit(w), Self::Constraint(n) => n.visit(w),
            Self::DeleteStmt(n) => n.visit(w), Self::FuncCall(n) => n.visit(w), Self::InsertStmt(n) => n.visit(w),
            Self::IntoClause(n) => n.visit(w), Self::MergeStmt(n) => n.visit(w), Self::RangeFunction(n) => n.visit(w),
            Self::RangeSubselect(n) => n.visit(w), Self::RangeTableSample(n) => n.visit(w),
            Self::RangeVar(n) => n.visit(w), Self::SelectStmt(n) => n.visit(w), Self::SortBy(n) => n.visit(w),
            Self::SubLink(n) => n.visit(w), Self::TableLikeClause(n) => n.visit(w), Self::UpdateStmt(n) => n.visit(w),
            Self::WithClause(n) => n.visit(w),
            // those that only have parts
            Self::AArrayExpr(n) => n.visit(w), Self::AConst(n) => n.visit(w), Self::AIndices(n) => n.visit(w),
            Self::AStar(n) => n.visit(w), Self::BitString(n) => n.visit(w), Self::BoolExpr(n) => n.visit(w),
            Self::Boolean(n) => n.visit(w), Self::BooleanTest(n) => n.visit(w), Self::CaseExpr(n) => n.visit(w),
            Self::CaseWhen(n) => n.visit(w), Self::CoalesceExpr(n) => n.visit(w), Self::CollateClause(n) => n.visit(w),
            Self::CtecycleClause(n) => n.visit(w), Self::CtesearchClause(n) => n.visit(w), Self::DefElem(n) => n.visit(w),
            Self::Float(n) => n.visit(w), Self::GroupingFunc(n) => n.visit(w), Self::GroupingSet(n) => n.visit(w),
            Self::IndexElem(n) => n.visit(w), Self::InferClause(n) => n.visit(w), Self::IntList(n) => n.visit(w),
            Self::Integer(n) => n.visit(w), Self::JoinExpr(n) => n.visit(w), Self::JsonAggConstructor(n) => n.visit(w),
            Self::JsonArgument(n) => n.visit(w), Self::JsonArrayAgg(n) => n.visit(w),
            Self::JsonArrayConstructor(n) => n.visit(w), Self::JsonArrayQueryConstructor(n) => n.visit(w),
            Self::JsonBehavior(n) => n.visit(w), Self::JsonFuncExpr(n) => n.visit(w),
            Self::JsonIsPredicate(n) => n.visit(w), Self::JsonKeyValue(n) => n.visit(w),
            Self::JsonObjectAgg(n) => n.visit(w), Self::JsonObjectConstructor(n) => n.visit(w),
            Self::JsonOutput(n) => n.visit(w), Self::JsonParseExpr(n) => n.visit(w), Self::JsonScalarExpr(n) => n.visit(w),
            Self::JsonSerializeExpr(n) => n.visit(w), Self::JsonTable(n) => n.visit(w),
            Self::JsonTableColumn(n) => n.visit(w), Self::JsonTablePathSpec(n) => n.visit(w),
            Self::JsonValueExpr(n) => n.visit(w), Self::List(n) => n.visit(w), Self::MergeSupportFunc(n) => n.visit(w),
            Self::MinMaxExpr(n) => n.visit(w), Self::MultiAssignRef(n) => n.visit(w), Self::NamedArgExpr(n) => n.visit(w),
            Self::NullTest(n) => n.visit(w), Self::OidList(n) => n.visit(w), Self::ParamRef(n) => n.visit(w),
            Self::PartitionBoundSpec(n) => n.visit(w), Self::PartitionElem(n) => n.visit(w),
            Self::PartitionRangeDatum(n) => n.visit(w), Self::PartitionSpec(n) => n.visit(w),
            Self::RangeTableFunc(n) => n.visit(w), Self::RangeTableFuncCol(n) => n.visit(w), Self::ResTarget(n) => n.visit(w),
            Self::ReturningClause(n) => n.visit(w), Self::ReturningOption(n) => n.visit(w), Self::RoleSpec(n) => n.visit(w),
            Self::RowExpr(n) => n.visit(w), Self::SetToDefault(n) => n.visit(w), Self::SqlvalueFunction(n) => n.visit(w),
            Self::String(n) => n.visit(w), Self::TypeCast(n) => n.visit(w), Self::TypeName(n) => n.visit(w),
            Self::WindowDef(n) => n.visit(w), Self::XmlExpr(n) => n.visit(w), Self::XmlSerialize(n) => n.visit(w),
            // names and options without nodes of interest
            Self::Alias(pb::Alias { aliasname: _, colnames: _ }) | Self::CurrentOfExpr(_)
            | Self::JsonFormat(_) | Self::JsonReturning(_) => {}
            // what only its own statement can tell the meaning of, what exists in analysed trees only,
            // and statements that stand where an expression should
            Self::AccessPriv(_) | Self::Aggref(_) | Self::AlterCollationStmt(_) | Self::AlterDatabaseRefreshCollStmt(_)
            | Self::AlterDatabaseSetStmt(_) | Self::AlterDatabaseStmt(_) | Self::AlterDefaultPrivilegesStmt(_)
            | Self::AlterDomainStmt(_) | Self::AlterEnumStmt(_) | Self::AlterEventTrigStmt(_)
            | Self::AlterExtensionContentsStmt(_) | Self::AlterExtensionStmt(_) | Self::AlterFdwStmt(_)
            | Self::AlterForeignServerStmt(_) | Self::AlterFunctionStmt(_) | Self::AlterObjectDependsStmt(_)
            | Self::AlterObjectSchemaStmt(_) | Self::AlterOpFamilyStmt(_) | Self::AlterOperatorStmt(_)
            | Self::AlterOwnerStmt(_) | Self::AlterPolicyStmt(_) | Self::AlterPublicationStmt(_)
            | Self::AlterRoleSetStmt(_) | Self::AlterRoleStmt(_) | Self::AlterSeqStmt(_) | Self::AlterStatsStmt(_)
            | Self::AlterSubscriptionStmt(_) | Self::AlterSystemStmt(_) | Self::AlterTableCmd(_)
            | Self::AlterTableMoveAllStmt(_) | Self::AlterTableSpaceOptionsStmt(_) | Self::AlterTableStmt(_)
            | Self::AlterTsconfigurationStmt(_) | Self::AlterTsdictionaryStmt(_) | Self::AlterTypeStmt(_)
            | Self::AlterUserMappingStmt(_) | Self::AlternativeSubPlan(_) | Self::ArrayCoerceExpr(_)
            | Self::ArrayExpr(_) | Self::AtalterConstraint(_) | Self::CallContext(_) | Self::CallStmt(_)
            | Self::CaseTestExpr(_) | Self::CheckPointStmt(_) | Self::ClosePortalStmt(_) | Self::ClusterStmt(_)
            | Self::CoerceToDomain(_) | Self::CoerceToDomainValue(_) | Self::CoerceViaIo(_) | Self::CollateExpr(_)
            | Self::CommentStmt(_) | Self::CompositeTypeStmt(_) | Self::ConstraintsSetStmt(_)
            | Self::ConvertRowtypeExpr(_) | Self::CopyStmt(_) | Self::CreateAmStmt(_) | Self::CreateCastStmt(_)
            | Self::CreateConversionStmt(_) | Self::CreateDomainStmt(_) | Self::CreateEnumStmt(_)
            | Self::CreateEventTrigStmt(_) | Self::CreateExtensionStmt(_) | Self::CreateFdwStmt(_)
            | Self::CreateForeignServerStmt(_) | Self::CreateForeignTableStmt(_) | Self::CreateFunctionStmt(_)
            | Self::CreateOpClassItem(_) | Self::CreateOpClassStmt(_) | Self::CreateOpFamilyStmt(_)
            | Self::CreatePlangStmt(_) | Self::CreatePolicyStmt(_) | Self::CreatePublicationStmt(_)
            | Self::CreateRangeStmt(_) | Self::CreateRoleStmt(_) | Self::CreateSchemaStmt(_) | Self::CreateSeqStmt(_)
            | Self::CreateStatsStmt(_) | Self::CreateStmt(_) | Self::CreateSubscriptionStmt(_)
            | Self::CreateTableAsStmt(_) | Self::CreateTableSpaceStmt(_) | Self::CreateTransformStmt(_)
            | Self::CreateTrigStmt(_) | Self::CreateUserMappingStmt(_) | Self::CreatedbStmt(_)
            | Self::DeallocateStmt(_) | Self::DeclareCursorStmt(_) | Self::DefineStmt(_) | Self::DiscardStmt(_)
            | Self::DistinctExpr(_) | Self::DoStmt(_) | Self::DropOwnedStmt(_) | Self::DropRoleStmt(_)
            | Self::DropStmt(_) | Self::DropSubscriptionStmt(_) | Self::DropTableSpaceStmt(_)
            | Self::DropUserMappingStmt(_) | Self::DropdbStmt(_) | Self::ExecuteStmt(_) | Self::ExplainStmt(_)
            | Self::FetchStmt(_) | Self::FieldSelect(_) | Self::FieldStore(_) | Self::FromExpr(_) | Self::FuncExpr(_)
            | Self::FunctionParameter(_) | Self::GrantRoleStmt(_) | Self::GrantStmt(_)
            | Self::ImportForeignSchemaStmt(_) | Self::IndexStmt(_) | Self::InferenceElem(_)
            | Self::InlineCodeBlock(_) | Self::JsonConstructorExpr(_) | Self::JsonExpr(_) | Self::JsonTablePath(_)
            | Self::JsonTablePathScan(_) | Self::JsonTableSiblingJoin(_) | Self::ListenStmt(_) | Self::LoadStmt(_)
            | Self::LockStmt(_) | Self::LockingClause(_) | Self::MergeAction(_) | Self::MergeWhenClause(_)
            | Self::NextValueExpr(_) | Self::NotifyStmt(_) | Self::NullIfExpr(_) | Self::ObjectWithArgs(_)
            | Self::OnConflictClause(_) | Self::OnConflictExpr(_) | Self::OpExpr(_) | Self::Param(_)
            | Self::PartitionCmd(_) | Self::PlassignStmt(_) | Self::PrepareStmt(_) | Self::PublicationObjSpec(_)
            | Self::PublicationTable(_) | Self::Query(_) | Self::RangeTblEntry(_) | Self::RangeTblFunction(_)
            | Self::RangeTblRef(_) | Self::RawStmt(_) | Self::ReassignOwnedStmt(_) | Self::RefreshMatViewStmt(_)
            | Self::ReindexStmt(_) | Self::RelabelType(_) | Self::RenameStmt(_) | Self::ReplicaIdentityStmt(_)
            | Self::ReturnStmt(_) | Self::ReturningExpr(_) | Self::RowCompareExpr(_) | Self::RowMarkClause(_)
            | Self::RtepermissionInfo(_) | Self::RuleStmt(_) | Self::ScalarArrayOpExpr(_) | Self::SecLabelStmt(_)
            | Self::SetOperationStmt(_) | Self::SortGroupClause(_) | Self::StatsElem(_) | Self::SubPlan(_)
            | Self::SubscriptingRef(_) | Self::TableFunc(_) | Self::TableSampleClause(_) | Self::TargetEntry(_)
            | Self::TransactionStmt(_) | Self::TriggerTransition(_) | Self::TruncateStmt(_) | Self::UnlistenStmt(_)
            | Self::VacuumRelation(_) | Self::VacuumStmt(_) | Self::Var(_) | Self::VariableSetStmt(_)
            | Self::VariableShowStmt(_) | Self::ViewStmt(_) | Self::WindowClause(_) | Self::WindowFunc(_)
            | Self::WindowFuncRunCondition(_) | Self::WithCheckOption(_) => w.unknown("Other"),
        }
    }
}
