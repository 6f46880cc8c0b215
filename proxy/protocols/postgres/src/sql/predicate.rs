//! Whether a WHERE clause bounds a write, as far as the text tells.
//!
//! Owns the evaluation of conditions that hang on no column. Touches the walk, which it moves on. Invariant: a
//! condition that might be true of every row whatever the row holds is never called bounding; one over a column
//! is, so this catches a missing or empty WHERE, not one that is merely wide.

use pg_query::protobuf as pb;
use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as N;
use sallyport_policy::Fact;

use super::walk::{Visit, Walker, text};

/// What a condition comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truth {
    True,
    /// Or null.
    False,
    /// Hangs on a row's content.
    Varies,
    /// The same for every row, and not worked out.
    Unknown,
}

/// Counts references to columns while a condition is walked.
#[derive(Debug, Default)]
pub(super) struct Columns {
    seen: usize,
    /// How many subqueries deep the walk is. A column without a qualifier counts as the target's only outside them.
    pub(super) sublinks: usize,
    /// What the table that is written is called.
    pub(super) target: Option<String>,
}

impl Truth {
    pub(super) const fn unbounded(self) -> Fact<bool> {
        match self {
            Self::True => Fact::Known(true),
            Self::False | Self::Varies => Fact::Known(false),
            Self::Unknown => Fact::Unknown,
        }
    }

    pub(super) const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False, _) | (_, Self::False) => Self::False,
            (Self::Varies, _) | (_, Self::Varies) => Self::Varies,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::True, Self::True) => Self::True,
        }
    }

    const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::True, _) | (_, Self::True) => Self::True,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Varies, _) | (_, Self::Varies) => Self::Varies,
            (Self::False, Self::False) => Self::False,
        }
    }

    const fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            other => other,
        }
    }

    const fn of(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl Columns {
    /// A column was met.
    pub(super) fn note(&mut self, fields: &[pb::Node]) {
        let counts = match fields {
            // A condition on a joined table alone holds for every row of the target or for none.
            [.., qualifier, _] => text(qualifier).is_some_and(|name| self.target.as_deref() == Some(name)),
            _ => self.sublinks == 0,
        };
        self.seen += usize::from(counts);
    }
}

impl Walker<'_> {
    /// Walks a condition and tells what it comes to; none is always true.
    pub(super) fn condition(&mut self, condition: Option<&pb::Node>) -> Truth {
        let Some(node) = condition else { return Truth::True };
        match &node.node {
            Some(N::BoolExpr(expression)) => self.connective(expression),
            Some(N::AExpr(expression)) if compares_with_itself(expression) => {
                node.visit(self);
                Truth::Unknown
            }
            // One row at most, by its cursor.
            Some(N::CurrentOfExpr(_)) => Truth::Varies,
            _ => {
                let before = self.predicate.seen;
                node.visit(self);
                if self.predicate.seen > before { Truth::Varies } else { constant(node) }
            }
        }
    }

    fn connective(&mut self, expression: &pb::BoolExpr) -> Truth {
        let pb::BoolExpr { xpr, boolop, args, location: _ } = expression;
        xpr.visit(self);
        let truths: Vec<_> = args.iter().map(|argument| self.condition(Some(argument))).collect();
        match pb::BoolExprType::try_from(*boolop) {
            Ok(pb::BoolExprType::AndExpr) => truths.into_iter().fold(Truth::True, Truth::and),
            Ok(pb::BoolExprType::OrExpr) => truths.into_iter().fold(Truth::False, Truth::or),
            Ok(pb::BoolExprType::NotExpr) => truths.into_iter().next().map_or(Truth::Unknown, Truth::not),
            _ => Truth::Unknown,
        }
    }
}

/// However much of its name each side spells out.
fn compares_with_itself(expression: &pb::AExpr) -> bool {
    match (expression.lexpr.as_deref(), expression.rexpr.as_deref()) {
        (Some(pb::Node { node: Some(N::ColumnRef(left)) }), Some(pb::Node { node: Some(N::ColumnRef(right)) })) => {
            left.fields.iter().rev().zip(right.fields.iter().rev()).all(|(left, right)| text(left) == text(right))
        }
        _ => false,
    }
}

/// A condition without columns.
fn constant(node: &pb::Node) -> Truth {
    match &node.node {
        Some(N::AConst(pb::AConst { isnull: true, .. })) => Truth::False,
        Some(N::AConst(pb::AConst { val: Some(Val::Boolval(value)), .. })) => Truth::of(value.boolval),
        Some(N::AConst(pb::AConst { val: Some(Val::Sval(value)), .. })) => boolean(&value.sval),
        Some(N::TypeCast(cast)) => match (cast.arg.as_deref(), cast.type_name.as_ref()) {
            (Some(argument), Some(to)) if to.names.last().and_then(text) == Some("bool") => constant(argument),
            _ => Truth::Unknown,
        },
        Some(N::AExpr(expression)) => comparison(expression),
        _ => Truth::Unknown,
    }
}

/// As the server reads a boolean: any beginning of these words, in any case.
fn boolean(value: &str) -> Truth {
    let value = value.trim().to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Truth::True
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Truth::False
    } else {
        Truth::Unknown
    }
}

fn comparison(expression: &pb::AExpr) -> Truth {
    let [operator] = expression.name.as_slice() else { return Truth::Unknown };
    let (Some(left), Some(right)) = (expression.lexpr.as_deref(), expression.rexpr.as_deref()) else {
        return Truth::Unknown;
    };
    if expression.kind != pb::AExprKind::AexprOp as i32 {
        return Truth::Unknown;
    }
    let ordering = match (number(left), number(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        // How texts are ordered is the collation's affair; that equal ones are equal is not.
        _ => match (literal(left), literal(right)) {
            (Some(left), Some(right)) if left == right => std::cmp::Ordering::Equal,
            _ => return Truth::Unknown,
        },
    };
    match text(operator) {
        Some("=") => Truth::of(ordering.is_eq()),
        Some("<>") => Truth::of(ordering.is_ne()),
        Some("<") => Truth::of(ordering.is_lt()),
        Some("<=") => Truth::of(ordering.is_le()),
        Some(">") => Truth::of(ordering.is_gt()),
        Some(">=") => Truth::of(ordering.is_ge()),
        _ => Truth::Unknown,
    }
}

fn number(node: &pb::Node) -> Option<i32> {
    match &node.node {
        Some(N::AConst(pb::AConst { val: Some(Val::Ival(value)), isnull: false, .. })) => Some(value.ival),
        _ => None,
    }
}

fn literal(node: &pb::Node) -> Option<&str> {
    match &node.node {
        Some(N::AConst(pb::AConst { val: Some(Val::Sval(value)), isnull: false, .. })) => Some(&value.sval),
        _ => None,
    }
}
