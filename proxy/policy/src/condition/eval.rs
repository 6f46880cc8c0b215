//! What a condition comes to for one command.
//!
//! Owns the logic of three values. Touches the facts it is given. Invariants: unknown goes through every function and
//! is overcome only by what decides alone (`false && …`, `true || …`); what cannot be computed (overflow, division by
//! zero, too many steps) is unknown; no evaluation takes more than [`STEPS`].

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};

use super::check::{Each, Expr, Math, Order, Search};
use super::facts::Facts;

/// Steps that one evaluation may take: a node is one, and so is a byte that a regular expression looks at.
const STEPS: u32 = 4096;

/// What is known of a value.
#[derive(Debug, Clone)]
pub(super) enum Value<'v> {
    Unknown,
    Bool(bool),
    Int(i64),
    Text(Cow<'v, str>),
    Time(Timestamp),
    Span(SignedDuration),
    Texts(Texts<'v>),
}

/// What is known of a list of texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Texts<'v> {
    /// These are in it.
    pub(super) known: &'v [String],
    /// Each of these may be in it.
    pub(super) maybe: &'v [String],
    /// Anything may be in it.
    pub(super) open: bool,
}

pub(super) fn truth(expr: &Expr, facts: &Facts<'_>) -> Option<bool> {
    Evaluation { facts, steps: STEPS }.truth(expr, None)
}

struct Evaluation<'v> {
    facts: &'v Facts<'v>,
    steps: u32,
}

/// The elements that `exists` and `all` are at, the innermost first.
#[derive(Clone, Copy)]
struct Elements<'v, 'e> {
    element: &'v str,
    outer: Option<&'e Elements<'v, 'e>>,
}

type Within<'v, 'e> = Option<&'e Elements<'v, 'e>>;

impl<'v> Evaluation<'v> {
    fn spend(&mut self, steps: usize) -> Option<()> {
        self.steps = self.steps.checked_sub(u32::try_from(steps).ok()?)?;
        Some(())
    }

    fn truth(&mut self, expr: &'v Expr, within: Within<'v, '_>) -> Option<bool> {
        match self.value(expr, within) {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn value(&mut self, expr: &'v Expr, within: Within<'v, '_>) -> Value<'v> {
        self.known(expr, within).unwrap_or(Value::Unknown)
    }

    /// None where it is not known.
    fn known(&mut self, expr: &'v Expr, within: Within<'v, '_>) -> Option<Value<'v>> {
        if self.spend(1).is_none() {
            // What is spent stays spent.
            self.steps = 0;
            return None;
        }
        Some(match expr {
            Expr::Bool(value) => Value::Bool(*value),
            Expr::Int(value) => Value::Int(*value),
            Expr::Text(text) => Value::Text(Cow::Borrowed(text)),
            Expr::Time(time) => Value::Time(*time),
            Expr::Span(span) => Value::Span(*span),
            Expr::Fact(name) => self.facts.value(*name),
            Expr::Element(distance) => {
                let mut at = within?;
                for _ in 0..*distance {
                    at = at.outer?;
                }
                Value::Text(Cow::Borrowed(at.element))
            }
            Expr::Not(inner) => Value::Bool(!self.truth(inner, within)?),
            Expr::Negative(inner) => match self.value(inner, within) {
                Value::Int(value) => Value::Int(value.checked_neg()?),
                _ => return None,
            },
            Expr::All(parts) => Value::Bool(!self.any(parts, within, false)?),
            Expr::Any(parts) => Value::Bool(self.any(parts, within, true)?),
            Expr::Choice(condition, then, otherwise) => {
                let chosen = if self.truth(condition, within)? { then } else { otherwise };
                self.value(chosen, within)
            }
            Expr::Equal(one, other) => {
                let (one, other) = (self.value(one, within), self.value(other, within));
                Value::Bool(equal(&one, &other)?)
            }
            Expr::Order(order, one, other) => {
                let (one, other) = (self.value(one, within), self.value(other, within));
                let found = compare(&one, &other)?;
                Value::Bool(match order {
                    Order::Less => found.is_lt(),
                    Order::LessOrEqual => found.is_le(),
                    Order::Greater => found.is_gt(),
                    Order::GreaterOrEqual => found.is_ge(),
                })
            }
            Expr::OneOf(one, list) => {
                let one = self.value(one, within);
                let mut unknown = false;
                for element in list {
                    match equal(&one, &self.value(element, within)) {
                        Some(true) => return Some(Value::Bool(true)),
                        Some(false) => {}
                        None => unknown = true,
                    }
                }
                // Nothing is in no list at all, whatever it is.
                (!unknown).then_some(Value::Bool(false))?
            }
            Expr::Among(one, list) => match (self.value(one, within), self.value(list, within)) {
                (Value::Text(text), Value::Texts(list)) => {
                    self.spend(list.known.len() + list.maybe.len())?;
                    let is_it = |element: &String| *element == *text;
                    match list.known.iter().any(is_it) {
                        true => Value::Bool(true),
                        false if list.open || list.maybe.iter().any(is_it) => return None,
                        false => Value::Bool(false),
                    }
                }
                _ => return None,
            },
            Expr::Math(math, one, other) => {
                let (one, other) = (self.value(one, within), self.value(other, within));
                calculate(*math, one, other)?
            }
            Expr::Search(search, text, what) => match (self.value(text, within), self.value(what, within)) {
                (Value::Text(text), Value::Text(what)) => Value::Bool(match search {
                    Search::Start => text.starts_with(&*what),
                    Search::End => text.ends_with(&*what),
                    Search::Anywhere => text.contains(&*what),
                }),
                _ => return None,
            },
            Expr::Matches(text, regex) => match self.value(text, within) {
                Value::Text(text) => {
                    self.spend(text.len())?;
                    Value::Bool(regex.is_match(&text))
                }
                _ => return None,
            },
            Expr::Size(of) => Value::Int(match self.value(of, within) {
                Value::Text(text) => i64::try_from(text.chars().count()).ok()?,
                Value::Texts(Texts { known, maybe: [], open: false }) => i64::try_from(known.len()).ok()?,
                _ => return None,
            }),
            Expr::PartOf(part, zone, time) => match self.value(time, within) {
                Value::Time(time) => Value::Int(part.of(time, zone)),
                _ => return None,
            },
            Expr::TotalOf(part, span) => match self.value(span, within) {
                Value::Span(span) => Value::Int(part.total(span)?),
                _ => return None,
            },
            Expr::Each(each, list, predicate) => {
                let Value::Texts(list) = self.value(list, within) else { return None };
                // Every one is: there is none that is not.
                match each {
                    Each::Some => Value::Bool(self.some(list, predicate, within, true)?),
                    Each::Every => Value::Bool(!self.some(list, predicate, within, false)?),
                }
            }
        })
    }

    /// Whether one of them is `wanted`.
    fn any(&mut self, parts: &'v [Expr], within: Within<'v, '_>, wanted: bool) -> Option<bool> {
        let mut unknown = false;
        for part in parts {
            match self.truth(part, within) {
                Some(found) if found == wanted => return Some(true),
                Some(_) => {}
                None => unknown = true,
            }
        }
        (!unknown).then_some(false)
    }

    /// Whether for one of the list `predicate` is `wanted`.
    fn some(&mut self, list: Texts<'v>, predicate: &'v Expr, outer: Within<'v, '_>, wanted: bool) -> Option<bool> {
        let mut unknown = list.open;
        let elements = list.known.iter().map(|element| (element, true));
        for (element, certain) in elements.chain(list.maybe.iter().map(|element| (element, false))) {
            match self.truth(predicate, Some(&Elements { element, outer })) {
                Some(found) if found != wanted => {}
                Some(_) if certain => return Some(true),
                _ => unknown = true,
            }
            if self.steps == 0 {
                return None;
            }
        }
        (!unknown).then_some(false)
    }
}

fn equal(one: &Value<'_>, other: &Value<'_>) -> Option<bool> {
    match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => Some(one == other),
        _ => compare(one, other).map(std::cmp::Ordering::is_eq),
    }
}

fn compare(one: &Value<'_>, other: &Value<'_>) -> Option<std::cmp::Ordering> {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => Some(one.cmp(other)),
        (Value::Text(one), Value::Text(other)) => Some(one.cmp(other)),
        (Value::Time(one), Value::Time(other)) => Some(one.cmp(other)),
        (Value::Span(one), Value::Span(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

fn calculate<'v>(math: Math, one: Value<'v>, other: Value<'v>) -> Option<Value<'v>> {
    Some(match (math, one, other) {
        (Math::Add, Value::Int(one), Value::Int(other)) => Value::Int(one.checked_add(other)?),
        (Math::Subtract, Value::Int(one), Value::Int(other)) => Value::Int(one.checked_sub(other)?),
        (Math::Multiply, Value::Int(one), Value::Int(other)) => Value::Int(one.checked_mul(other)?),
        (Math::Divide, Value::Int(one), Value::Int(other)) => Value::Int(one.checked_div(other)?),
        (Math::Remainder, Value::Int(one), Value::Int(other)) => Value::Int(one.checked_rem(other)?),
        (Math::Add, Value::Text(one), Value::Text(other)) => Value::Text(one + other),
        (Math::Add, Value::Span(one), Value::Span(other)) => Value::Span(one.checked_add(other)?),
        (Math::Subtract, Value::Span(one), Value::Span(other)) => Value::Span(one.checked_sub(other)?),
        (Math::Subtract, Value::Time(one), Value::Time(other)) => Value::Span(one.duration_since(other)),
        (Math::Add, Value::Time(time), Value::Span(span)) | (Math::Add, Value::Span(span), Value::Time(time)) => {
            Value::Time(time.checked_add(span).ok()?)
        }
        (Math::Subtract, Value::Time(time), Value::Span(span)) => Value::Time(time.checked_sub(span).ok()?),
        _ => return None,
    })
}
