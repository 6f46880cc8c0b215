//! Definitions of tables and what belongs to them: indexes, views, sequences, triggers.
//!
//! Owns those statements and the column and constraint clauses in them. Touches the walk. Invariant: every table that
//! such a statement names is an object of it, with the statement's own verb: those it refers to are read, those whose
//! content or definition it changes are written.

use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;
use sallyport_policy::{ObjectKind, Usage};

use super::define::is_relation;
use super::fields::Place;
use super::names;
use super::walk::{Visit, Walker, text};

impl Walker<'_> {
    pub(super) fn create_table(&mut self, statement: &pb::CreateStmt) {
        let pb::CreateStmt {
            relation,
            table_elts,
            inh_relations,
            partbound,
            partspec,
            of_typename,
            constraints,
            nnconstraints,
            options,
            oncommit: _,
            tablespacename: _,
            access_method: _,
            if_not_exists: _,
        } = statement;
        self.verb = "CreateTable";
        match relation {
            Some(relation) => self.creates("CreateTable", relation),
            None => self.unknown("CreateTable"),
        }
        // What is in the new table shows in its parent.
        for parent in inh_relations {
            match &parent.node {
                Some(N::RangeVar(parent)) => self.existing("CreateTable", parent, Usage::Write),
                _ => self.unknown("CreateTable"),
            }
        }
        table_elts.visit(self);
        if let Some(bound) = partbound {
            bound.visit(self);
        }
        partspec.visit(self);
        of_typename.visit(self);
        constraints.visit(self);
        nnconstraints.visit(self);
        options.visit(self);
    }

    pub(super) fn create_index(&mut self, statement: &pb::IndexStmt) {
        let pb::IndexStmt {
            idxname: _,
            relation,
            access_method: _,
            table_space: _,
            index_params,
            index_including_params,
            options,
            where_clause,
            exclude_op_names,
            idxcomment: _,
            index_oid: _,
            old_number: _,
            old_create_subid: _,
            old_first_relfilelocator_subid: _,
            unique: _,
            nulls_not_distinct: _,
            primary: _,
            isconstraint: _,
            iswithoutoverlaps: _,
            deferrable: _,
            initdeferred: _,
            transformed: _,
            concurrent: _,
            if_not_exists: _,
            reset_default_tblspc: _,
        } = statement;
        self.verb = "CreateIndex";
        match relation {
            Some(relation) => self.existing("CreateIndex", relation, Usage::Write),
            None => self.unknown("CreateIndex"),
        }
        // An index shows nothing by itself.
        let place = self.move_to(Place::Compared);
        index_params.visit(self);
        index_including_params.visit(self);
        options.visit(self);
        where_clause.visit(self);
        self.move_to(place);
        exclude_op_names.visit(self);
    }

    pub(super) fn create_view(&mut self, statement: &pb::ViewStmt) {
        let pb::ViewStmt { view, aliases: _, query, replace: _, options, with_check_option: _ } = statement;
        self.verb = "CreateView";
        match view {
            Some(view) => self.creates("CreateView", view),
            None => self.unknown("CreateView"),
        }
        query.visit(self);
        options.visit(self);
    }

    pub(super) fn create_sequence(&mut self, statement: &pb::CreateSeqStmt) {
        let pb::CreateSeqStmt { sequence, options, owner_id: _, for_identity: _, if_not_exists: _ } = statement;
        match sequence {
            Some(sequence) => self.creates("CreateSequence", sequence),
            None => self.unknown("CreateSequence"),
        }
        self.sequence_options("CreateSequence", options);
    }

    pub(super) fn alter_sequence(&mut self, statement: &pb::AlterSeqStmt) {
        let pb::AlterSeqStmt { sequence, options, for_identity: _, missing_ok: _ } = statement;
        match sequence {
            Some(sequence) => self.existing("AlterOther", sequence, Usage::Write),
            None => self.unknown("AlterOther"),
        }
        self.sequence_options("AlterOther", options);
    }

    fn sequence_options(&mut self, verb: &'static str, options: &[pb::Node]) {
        for option in options {
            match &option.node {
                Some(N::DefElem(option)) if option.defname == "owned_by" => {
                    let parts = match option.arg.as_deref() {
                        Some(pb::Node { node: Some(N::List(list)) }) => list.items.as_slice(),
                        _ => &[],
                    };
                    match parts {
                        [none] if text(none) == Some("none") => {}
                        [table @ .., _] if !table.is_empty() => self.named_relation(verb, table),
                        _ => self.unknown(verb),
                    }
                }
                _ => option.visit(self),
            }
        }
    }

    pub(super) fn create_trigger(&mut self, statement: &pb::CreateTrigStmt) {
        let pb::CreateTrigStmt {
            replace: _,
            isconstraint: _,
            trigname: _,
            relation,
            funcname,
            args,
            row: _,
            timing: _,
            events: _,
            columns,
            when_clause,
            transition_rels: _,
            deferrable: _,
            initdeferred: _,
            constrrel,
        } = statement;
        self.verb = "CreateTrigger";
        match relation {
            Some(relation) => self.existing("CreateTrigger", relation, Usage::Write),
            None => self.unknown("CreateTrigger"),
        }
        if let Some(other) = constrrel {
            self.existing("CreateTrigger", other, Usage::Write);
        }
        self.runs("CreateTrigger", funcname);
        args.visit(self);
        columns.visit(self);
        when_clause.visit(self);
    }

    pub(super) fn alter_table(&mut self, statement: &pb::AlterTableStmt) {
        let pb::AlterTableStmt { relation, cmds, objtype, missing_ok: _ } = statement;
        self.verb = "AlterTable";
        match (relation, pb::ObjectType::try_from(*objtype)) {
            (Some(relation), Ok(kind)) if is_relation(kind) => self.existing("AlterTable", relation, Usage::Write),
            _ => self.unknown("AlterOther"),
        }
        for command in cmds {
            match &command.node {
                Some(N::AlterTableCmd(command)) => self.alter_command(command),
                _ => self.unknown("AlterTable"),
            }
        }
    }

    fn alter_command(&mut self, command: &pb::AlterTableCmd) {
        let pb::AlterTableCmd { subtype: _, name: _, num: _, newowner: _, def, behavior, missing_ok: _, recurse: _ } =
            command;
        match def.as_deref().and_then(|def| def.node.as_ref()) {
            None => {}
            // A parent or child: both show in each other, from now on or no longer.
            Some(N::RangeVar(other)) => {
                self.flow.mark_any();
                self.existing("AlterTable", other, Usage::Write);
            }
            Some(N::PartitionCmd(pb::PartitionCmd { name, bound, concurrent: _ })) => {
                self.flow.mark_any();
                if let Some(partition) = name {
                    self.existing("AlterTable", partition, Usage::Write);
                }
                bound.visit(self);
            }
            Some(N::ReplicaIdentityStmt(_) | N::AtalterConstraint(_)) => {}
            Some(def) => def.visit(self),
        }
        if *behavior == pb::DropBehavior::DropCascade as i32 {
            self.unknown("AlterTable");
        }
    }

    pub(super) fn rename(&mut self, statement: &pb::RenameStmt) {
        let pb::RenameStmt {
            rename_type,
            relation_type: _,
            relation,
            object: _,
            subname,
            newname,
            behavior,
            missing_ok: _,
        } = statement;
        let kind = pb::ObjectType::try_from(*rename_type).unwrap_or_default();
        // By another name no mask finds it.
        match kind {
            pb::ObjectType::ObjectColumn => self.flow.mark_name(subname),
            _ => self.flow.mark_any(),
        }
        match relation {
            Some(relation) if kind != pb::ObjectType::ObjectType && kind != pb::ObjectType::ObjectAttribute => {
                self.existing("Rename", relation, Usage::Write);
                // Rules speak of names: it leaves one and takes another. ALTER INDEX renames a table as well.
                if is_relation(kind) || kind == pb::ObjectType::ObjectIndex {
                    let renamed = self.names.relation(&relation.schemaname, newname);
                    self.touch("Rename", ObjectKind::Table, renamed, Usage::Write);
                }
            }
            _ => self.unknown("Rename"),
        }
        if *behavior == pb::DropBehavior::DropCascade as i32 {
            self.unknown("Rename");
        }
    }

    pub(super) fn move_to_schema(&mut self, statement: &pb::AlterObjectSchemaStmt) {
        let pb::AlterObjectSchemaStmt { object_type, relation, object: _, newschema, missing_ok: _ } = statement;
        self.flow.mark_any();
        match (relation, pb::ObjectType::try_from(*object_type)) {
            (Some(relation), Ok(kind)) if is_relation(kind) => {
                self.existing("AlterTable", relation, Usage::Write);
                let moved = vec![names::qualified(newschema, &relation.relname)];
                self.touch("AlterTable", ObjectKind::Table, moved, Usage::Write);
            }
            _ => self.unknown("AlterOther"),
        }
    }
}

impl Visit for pb::TableLikeClause {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { relation, options: _, relation_oid: _ } = self;
        match relation {
            Some(relation) => walker.existing(walker.verb, relation, Usage::Read),
            None => walker.unknown(walker.verb),
        }
    }
}

impl Visit for pb::ColumnDef {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self {
            colname: _,
            type_name,
            compression: _,
            inhcount: _,
            is_local: _,
            is_not_null: _,
            is_from_type: _,
            storage: _,
            storage_name: _,
            raw_default,
            cooked_default,
            identity: _,
            identity_sequence,
            generated: _,
            coll_clause,
            coll_oid: _,
            constraints,
            fdwoptions,
            location: _,
        } = self;
        type_name.visit(walker);
        raw_default.visit(walker);
        cooked_default.visit(walker);
        if let Some(sequence) = identity_sequence {
            walker.existing(walker.verb, sequence, Usage::Write);
        }
        coll_clause.visit(walker);
        constraints.visit(walker);
        fdwoptions.visit(walker);
    }
}

impl Visit for pb::Constraint {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self {
            contype,
            conname: _,
            deferrable: _,
            initdeferred: _,
            is_enforced: _,
            skip_validation: _,
            initially_valid: _,
            is_no_inherit: _,
            raw_expr,
            cooked_expr: _,
            generated_when: _,
            generated_kind: _,
            nulls_not_distinct: _,
            keys,
            without_overlaps: _,
            including,
            exclusions,
            options,
            indexname: _,
            indexspace: _,
            reset_default_tblspc: _,
            access_method: _,
            where_clause,
            pktable,
            fk_attrs,
            pk_attrs,
            fk_with_period: _,
            pk_with_period: _,
            fk_matchtype: _,
            fk_upd_action: _,
            fk_del_action: _,
            fk_del_set_cols,
            old_conpfeqop,
            old_pktable_oid: _,
            location: _,
        } = self;
        let is_check = *contype == pb::ConstrType::ConstrCheck as i32;
        let place = if is_check { Place::Compared } else { walker.place() };
        walker.at(place, |walker| raw_expr.visit(walker));
        keys.visit(walker);
        including.visit(walker);
        exclusions.visit(walker);
        options.visit(walker);
        where_clause.visit(walker);
        if let Some(referenced) = pktable {
            walker.existing(walker.verb, referenced, Usage::Read);
        }
        fk_attrs.visit(walker);
        pk_attrs.visit(walker);
        fk_del_set_cols.visit(walker);
        old_conpfeqop.visit(walker);
    }
}
