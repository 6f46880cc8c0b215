//! Functions, however a statement calls them: by a call, an operator, a sampling method, or as if they were columns.
//!
//! Owns the rules for each form. Touches the walk. Invariant: a form that runs a function which is not known
//! harmless adds an operation on that function.
//!
//! PostgreSQL calls `f(x)` for `x.f` where `x` has no column `f`: `('/etc/passwd'::text).pg_read_file` reads the
//! file, and so does `x.pg_read_file` over `unnest(ARRAY['/etc/passwd']) x`. An expression's field is therefore a
//! call of whatever function could have that name. A table's column is one only where the name is a built-in
//! function's: what is left, a function that an administrator made to be read like a column of that table, is
//! judged as the column that it looks like.

use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;
use sallyport_policy::Operation;

use super::catalog::{self, FunctionClass};
use super::fields::Place;
use super::walk::{Visit, Walker, names_of, text};

/// What was read as `qualifier.name`, and which qualifiers are functions' results: only the end of a statement
/// shows both.
#[derive(Debug, Default)]
pub(super) struct Notation {
    /// With the verb of the statement that reads it.
    read: Vec<(&'static str, String, String)>,
    /// Alias and the columns it names.
    functions: Vec<(String, Vec<String>)>,
}

impl Walker<'_> {
    /// `(x).name`, or `x.name` where `x` is a function's result.
    fn field(&mut self, verb: &'static str, name: &pb::Node) {
        match text(name) {
            Some(field) if catalog::is_field(field) => {}
            _ => self.runs(verb, std::slice::from_ref(name)),
        }
    }

    /// Judges what the statement just walked read off functions' results.
    pub(super) fn settle_notation(&mut self) {
        let Notation { read, functions } = std::mem::take(&mut self.notation);
        for (verb, qualifier, name) in read {
            let results: Vec<_> =
                functions.iter().filter(|(alias, _)| *alias == qualifier || alias.is_empty()).collect();
            let named = |(alias, columns): &&(String, Vec<String>)| *alias == name || columns.contains(&name);
            if !results.is_empty() && !results.iter().all(named) {
                self.field(verb, &pb::Node { node: Some(N::String(pb::String { sval: name })) });
            }
        }
    }

    /// An operator's name. Built-in ones are harmless; any other runs its function, which nobody has to have listed:
    /// it is judged as a function of the operator's name.
    fn operator(&mut self, name: &[pb::Node]) {
        match names_of(name) {
            Some((schema @ ("" | "pg_catalog"), name)) if catalog::is_operator(name) && self.names.finds(schema) => {}
            _ => self.runs(self.verb, name),
        }
    }
}

impl Visit for pb::FuncCall {
    fn visit(&self, walker: &mut Walker<'_>) {
        if walker.sets_harmless(self) {
            walker.add(Operation::bare("Session"));
        } else {
            walker.runs(walker.verb, &self.funcname);
        }
        self.visit_arguments(walker);
    }
}

impl VisitArguments for pb::FuncCall {
    fn visit_arguments(&self, walker: &mut Walker<'_>) {
        let Self {
            funcname,
            args,
            agg_order,
            agg_filter,
            over,
            agg_within_group: _,
            agg_star: _,
            agg_distinct: _,
            func_variadic: _,
            funcformat: _,
            location: _,
        } = self;
        match args.as_slice() {
            // A setting is told to the client by itself, and to whoever asks for it.
            [name, set @ ..] if matches!(names_of(funcname), Some((_, "set_config"))) => {
                name.visit(walker);
                walker.at(Place::WithinAndCopied, |walker| set.iter().for_each(|value| value.visit(walker)));
            }
            _ => args.visit(walker),
        }
        agg_order.visit(walker);
        agg_filter.visit(walker);
        over.visit(walker);
    }
}

/// What a call is given, without the call itself.
pub(super) trait VisitArguments {
    fn visit_arguments(&self, walker: &mut Walker<'_>);
}

impl Visit for pb::AExpr {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { kind, name, lexpr, rexpr, rexpr_list_start: _, rexpr_list_end: _, location: _ } = self;
        use pb::AExprKind as Kind;
        match Kind::try_from(*kind) {
            // Named by its keyword; it compares with built-in operators.
            Ok(Kind::AexprBetween | Kind::AexprNotBetween | Kind::AexprBetweenSym | Kind::AexprNotBetweenSym) => {}
            _ => walker.operator(name),
        }
        lexpr.visit(walker);
        rexpr.visit(walker);
    }
}

impl Visit for pb::SubLink {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { xpr, sub_link_type: _, sub_link_id: _, testexpr, oper_name, subselect, location: _ } = self;
        xpr.visit(walker);
        testexpr.visit(walker);
        if !oper_name.is_empty() {
            walker.operator(oper_name);
        }
        let locks = std::mem::take(&mut walker.locks);
        walker.predicate.sublinks += 1;
        subselect.visit(walker);
        walker.predicate.sublinks -= 1;
        walker.locks = locks;
    }
}

impl Visit for pb::SortBy {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { node, sortby_dir: _, sortby_nulls: _, use_op, location: _ } = self;
        node.visit(walker);
        if !use_op.is_empty() {
            walker.operator(use_op);
        }
    }
}

impl Visit for pb::ColumnRef {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { fields, location: _ } = self;
        walker.predicate.note(fields);
        walker.flow.note(fields);
        let [.., qualifier, name] = fields.as_slice() else { return };
        let Some(name) = text(name) else { return };
        if catalog::function(name, walker.names.release) == Some(FunctionClass::Effect) {
            walker.runs(walker.verb, fields.get(fields.len().saturating_sub(1)..).unwrap_or_default());
        } else if let Some(qualifier) = text(qualifier) {
            walker.notation.read.push((walker.verb, qualifier.to_owned(), name.to_owned()));
        }
    }
}

impl Visit for pb::AIndirection {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { arg, indirection } = self;
        arg.visit(walker);
        for step in indirection {
            match &step.node {
                Some(N::String(_)) => walker.field(walker.verb, step),
                _ => step.visit(walker),
            }
        }
    }
}

impl Visit for pb::RangeFunction {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { lateral: _, ordinality: _, is_rowsfrom: _, functions, alias, coldeflist } = self;
        let mut columns: Vec<String> = Vec::new();
        for definition in coldeflist.iter().chain(functions.iter().flat_map(definitions)) {
            if let Some(N::ColumnDef(column)) = &definition.node {
                columns.push(column.colname.clone());
            }
        }
        let mut name = String::new();
        if let Some(pb::Alias { aliasname, colnames }) = alias {
            name.clone_from(aliasname);
            walker.flow.row(aliasname);
            columns.extend(colnames.iter().filter_map(text).map(str::to_owned));
        } else if let Some(called) = functions.first().and_then(called) {
            name = called.to_owned();
            walker.flow.row(called);
        }
        // One without a name that can be told here (`FROM current_user`) keeps the empty one, which stands for all.
        walker.notation.functions.push((name, columns));
        for function in functions {
            // A pair of the call and its column definitions, where the latter may be absent.
            match &function.node {
                Some(N::List(pair)) => {
                    pair.items.iter().filter(|item| item.node.is_some()).for_each(|item| item.visit(walker));
                }
                _ => function.visit(walker),
            }
        }
        coldeflist.visit(walker);
    }
}

fn definitions(function: &pb::Node) -> &[pb::Node] {
    match &function.node {
        Some(N::List(pair)) => match pair.items.get(1).map(|item| &item.node) {
            Some(Some(N::List(definitions))) => &definitions.items,
            _ => &[],
        },
        _ => &[],
    }
}

fn called(function: &pb::Node) -> Option<&str> {
    let Some(N::List(pair)) = &function.node else { return None };
    let Some(N::FuncCall(call)) = &pair.items.first()?.node else { return None };
    names_of(&call.funcname).map(|(_, name)| name)
}

impl Visit for pb::RangeTableSample {
    fn visit(&self, walker: &mut Walker<'_>) {
        let Self { relation, method, args, repeatable, location: _ } = self;
        relation.visit(walker);
        match names_of(method) {
            Some(("" | "pg_catalog", "bernoulli" | "system")) => {}
            _ => walker.runs(walker.verb, method),
        }
        args.visit(walker);
        repeatable.visit(walker);
    }
}
