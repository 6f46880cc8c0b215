//! From the tree of a condition to what is evaluated: names found, types checked, literals read.
//!
//! Owns the functions that conditions have. Touches nothing. Invariant: what is evaluated has been found to have the right
//! types and true or false at its root; whatever could be wrong with a literal is wrong here, and not at a command.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use regex_lite::{Regex, RegexBuilder};

use super::ConditionError;
use super::facts::{Path, Type};
use super::parse::{Node, What};
use super::time::{self, Part};

/// Bytes that a compiled regular expression may have, and brackets within one another in its text.
const LARGEST_REGEX: usize = 8 * 1024;
const DEEPEST_REGEX: u32 = 8;

const FUNCTIONS: &str = "conditions have startsWith, endsWith, contains, matches, size, exists, all, timestamp, duration and the getters of time (getHours, getDayOfWeek, …)";

/// What is evaluated.
#[derive(Debug)]
pub(super) enum Expr {
    Bool(bool),
    Int(i64),
    Text(String),
    Time(Timestamp),
    Span(SignedDuration),
    Fact(Path),
    /// What `exists` and `all` go through, counted from the innermost.
    Element(usize),
    Not(Box<Self>),
    Negative(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
    Choice(Box<Self>, Box<Self>, Box<Self>),
    /// Whether they are equal.
    Equal(Box<Self>, Box<Self>),
    Order(Order, Box<Self>, Box<Self>),
    /// Whether the first is one of a list that is written down.
    OneOf(Box<Self>, Vec<Self>),
    /// Whether the first is in a list of texts.
    Among(Box<Self>, Box<Self>),
    Math(Math, Box<Self>, Box<Self>),
    Search(Search, Box<Self>, Box<Self>),
    Matches(Box<Self>, Regex),
    Size(Box<Self>),
    PartOf(Part, TimeZone, Box<Self>),
    TotalOf(Part, Box<Self>),
    Each(Each, Box<Self>, Box<Self>),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Math {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Search {
    Start,
    End,
    Anywhere,
}

/// For how many elements something must hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Each {
    Some,
    Every,
}

type Checked = Result<(Expr, Type), ConditionError>;

pub(super) fn check(text: &str, node: &Node) -> Result<Expr, ConditionError> {
    let mut checker = Checker { text, elements: Vec::new() };
    checker.of(node, Type::Bool, "a condition is true or false")
}

struct Checker<'t> {
    text: &'t str,
    /// The names that `exists` and `all` have given, the innermost last.
    elements: Vec<&'t str>,
}

impl<'t> Checker<'t> {
    fn wrong<T>(&self, at: usize, message: impl Into<String>) -> Result<T, ConditionError> {
        Err(ConditionError::at(self.text, at, message))
    }

    fn of(&mut self, node: &'t Node, wanted: Type, why: &str) -> Result<Expr, ConditionError> {
        let (expr, found) = self.expr(node)?;
        if found == wanted {
            return Ok(expr);
        }
        self.wrong(node.at, format!("{why}, and this is of type {}", found.name()))
    }

    fn boxed(&mut self, node: &'t Node, wanted: Type, why: &str) -> Result<Box<Expr>, ConditionError> {
        self.of(node, wanted, why).map(Box::new)
    }

    fn expr(&mut self, node: &'t Node) -> Checked {
        match &node.what {
            What::Bool(value) => Ok((Expr::Bool(*value), Type::Bool)),
            What::Number(value) => Ok((Expr::Int(*value), Type::Int)),
            What::Text(text) => Ok((Expr::Text(text.clone()), Type::Text)),
            What::Name(name) => self.name(node.at, name),
            What::Field(of, field) => self.field(node.at, of, field),
            What::Call(None, function, arguments) => self.global(node.at, function, arguments),
            What::Call(Some(target), function, arguments) => self.method(node.at, target, function, arguments),
            What::List(_) => self.wrong(node.at, "a list that is written down can only stand behind in"),
            What::Not(inner) => Ok((Expr::Not(self.boxed(inner, Type::Bool, "! turns true and false")?), Type::Bool)),
            What::Negative(inner) => Ok((Expr::Negative(self.boxed(inner, Type::Int, "- turns a number")?), Type::Int)),
            What::All(parts) => Ok((Expr::All(self.truths(parts, "&&")?), Type::Bool)),
            What::Any(parts) => Ok((Expr::Any(self.truths(parts, "||")?), Type::Bool)),
            What::Binary("in", one, list) => self.within(one, list),
            What::Binary(sign @ ("==" | "!="), one, other) => self.equal(node.at, sign, one, other),
            What::Binary(sign @ ("<" | "<=" | ">" | ">="), one, other) => self.order(node.at, sign, one, other),
            What::Binary(sign, one, other) => self.math(node.at, sign, one, other),
            What::Choice(condition, then, otherwise) => {
                let condition = self.boxed(condition, Type::Bool, "what stands before ? is true or false")?;
                let (then, type_) = self.expr(then)?;
                let otherwise = self.boxed(otherwise, type_, "both sides of : have one type")?;
                Ok((Expr::Choice(condition, Box::new(then), otherwise), type_))
            }
        }
    }

    fn truths(&mut self, parts: &'t [Node], sign: &str) -> Result<Vec<Expr>, ConditionError> {
        let why = format!("{sign} joins what is true or false");
        parts.iter().map(|part| self.of(part, Type::Bool, &why)).collect()
    }

    fn name(&self, at: usize, name: &str) -> Checked {
        if let Some(distance) = self.elements.iter().rev().position(|element| *element == name) {
            return Ok((Expr::Element(distance), Type::Text));
        }
        match (Path::find(name), Path::below(name)) {
            (Some((name, type_)), _) => Ok((Expr::Fact(name), type_)),
            (None, below) if below.is_empty() => self
                .wrong(at, format!("{name} is not known: conditions speak of agent, target, session, command and now")),
            (None, below) => self.wrong(at, format!("{name} is no value by itself: it has {}", below.join(", "))),
        }
    }

    fn field(&self, at: usize, of: &Node, field: &str) -> Checked {
        let What::Name(root) = &of.what else { return self.wrong(at, format!("there is no {field} here")) };
        if self.elements.contains(&root.as_str()) {
            return self.wrong(at, format!("{root} is a text and has no {field}"));
        }
        if let Some((name, type_)) = Path::find(&format!("{root}.{field}")) {
            return Ok((Expr::Fact(name), type_));
        }
        match Path::below(root) {
            below if below.is_empty() => self.name(of.at, root),
            below => self.wrong(at, format!("{root} has no {field}: it has {}", below.join(", "))),
        }
    }

    fn equal(&mut self, at: usize, sign: &str, one: &'t Node, other: &'t Node) -> Checked {
        let (one, type_) = self.expr(one)?;
        if type_ == Type::Texts {
            return self.wrong(at, "lists are not compared: use in, exists or all");
        }
        let other = self.boxed(other, type_, &format!("{sign} compares values of one type ({})", type_.name()))?;
        let equal = Expr::Equal(Box::new(one), other);
        Ok((if sign == "==" { equal } else { Expr::Not(Box::new(equal)) }, Type::Bool))
    }

    fn order(&mut self, at: usize, sign: &str, one: &'t Node, other: &'t Node) -> Checked {
        let (one, type_) = self.expr(one)?;
        if matches!(type_, Type::Bool | Type::Texts) {
            return self.wrong(at, format!("values of type {} have no order", type_.name()));
        }
        let other = self.boxed(other, type_, &format!("{sign} compares values of one type ({})", type_.name()))?;
        let order = match sign {
            "<" => Order::Less,
            "<=" => Order::LessOrEqual,
            ">" => Order::Greater,
            _ => Order::GreaterOrEqual,
        };
        Ok((Expr::Order(order, Box::new(one), other), Type::Bool))
    }

    fn within(&mut self, one: &'t Node, list: &'t Node) -> Checked {
        let (expr, type_) = self.expr(one)?;
        if let What::List(all) = &list.what {
            if type_ == Type::Texts {
                return self.wrong(one.at, "a list is in no list here: use exists or all");
            }
            let why = format!("the list holds what is compared with it ({})", type_.name());
            let all = all.iter().map(|element| self.of(element, type_, &why)).collect::<Result<_, _>>()?;
            return Ok((Expr::OneOf(Box::new(expr), all), Type::Bool));
        }
        let list = self.boxed(list, Type::Texts, "behind in stands a list")?;
        if type_ != Type::Text {
            return self.wrong(one.at, format!("the list holds texts, and this is of type {}", type_.name()));
        }
        Ok((Expr::Among(Box::new(expr), list), Type::Bool))
    }

    fn math(&mut self, at: usize, sign: &str, one: &'t Node, other: &'t Node) -> Checked {
        let math = match sign {
            "+" => Math::Add,
            "-" => Math::Subtract,
            "*" => Math::Multiply,
            "/" => Math::Divide,
            _ => Math::Remainder,
        };
        let ((one, left), (other, right)) = (self.expr(one)?, self.expr(other)?);
        let type_ = match (math, left, right) {
            (_, Type::Int, Type::Int) => Type::Int,
            (Math::Add, Type::Text, Type::Text) => Type::Text,
            (Math::Add | Math::Subtract, Type::Span, Type::Span) | (Math::Subtract, Type::Time, Type::Time) => {
                Type::Span
            }
            (Math::Add | Math::Subtract, Type::Time, Type::Span) | (Math::Add, Type::Span, Type::Time) => Type::Time,
            _ => return self.wrong(at, format!("{sign} does not go with {} and {}", left.name(), right.name())),
        };
        Ok((Expr::Math(math, Box::new(one), Box::new(other)), type_))
    }

    fn global(&mut self, at: usize, function: &str, arguments: &'t [Node]) -> Checked {
        match (function, arguments) {
            ("size", [of]) => self.size(of),
            ("timestamp", [Node { what: What::Text(text), at, .. }]) => match time::timestamp(text) {
                Some(time) => Ok((Expr::Time(time), Type::Time)),
                None => self.wrong(*at, "this is no time: one is written like 2026-12-24T18:00:00Z"),
            },
            ("duration", [Node { what: What::Text(text), at, .. }]) => match time::duration(text) {
                Some(span) => Ok((Expr::Span(span), Type::Span)),
                None => self.wrong(*at, "this is no duration: one is written like 1h30m"),
            },
            ("timestamp" | "duration", _) => self.wrong(at, format!("{function} takes one text that is written down")),
            ("has", _) => self.wrong(at, "has is not known here: a fact is known or makes the rule unknown"),
            _ => self.wrong(at, format!("there is no {function}(…) with {} arguments: {FUNCTIONS}", arguments.len())),
        }
    }

    fn size(&mut self, of: &'t Node) -> Checked {
        match self.expr(of)? {
            (of, Type::Text | Type::Texts) => Ok((Expr::Size(Box::new(of)), Type::Int)),
            (_, type_) => self.wrong(of.at, format!("a value of type {} has no size", type_.name())),
        }
    }

    fn method(&mut self, at: usize, target: &'t Node, function: &str, arguments: &'t [Node]) -> Checked {
        let search = match function {
            "startsWith" => Some(Search::Start),
            "endsWith" => Some(Search::End),
            "contains" => Some(Search::Anywhere),
            _ => None,
        };
        if let (Some(search), [what]) = (search, arguments) {
            let target = self.boxed(target, Type::Text, &format!("{function} looks into a text"))?;
            let what = self.boxed(what, Type::Text, &format!("{function} looks for a text"))?;
            return Ok((Expr::Search(search, target, what), Type::Bool));
        }
        match (function, arguments) {
            ("size", []) => self.size(target),
            ("matches", [pattern]) => {
                let target = self.boxed(target, Type::Text, "matches looks into a text")?;
                let What::Text(text) = &pattern.what else {
                    return self.wrong(pattern.at, "the regular expression of matches is written down");
                };
                match RegexBuilder::new(text).size_limit(LARGEST_REGEX).nest_limit(DEEPEST_REGEX).build() {
                    Ok(regex) => Ok((Expr::Matches(target, regex), Type::Bool)),
                    Err(error) => self.wrong(pattern.at, format!("this is no regular expression: {error}")),
                }
            }
            ("exists" | "all", [Node { what: What::Name(element), at, .. }, predicate]) => {
                let list = self.boxed(target, Type::Texts, &format!("{function} goes through a list"))?;
                if Path::is_root(element) || self.elements.contains(&element.as_str()) {
                    return self.wrong(*at, format!("{element} is taken: give the element another name"));
                }
                self.elements.push(element);
                let predicate = self.boxed(predicate, Type::Bool, &format!("{function} asks what is true or false"));
                self.elements.pop();
                let each = if function == "exists" { Each::Some } else { Each::Every };
                Ok((Expr::Each(each, list, predicate?), Type::Bool))
            }
            ("exists" | "all", _) => self.wrong(at, format!("written list.{function}(element, condition)")),
            _ => self.part(at, target, function, arguments),
        }
    }

    fn part(&mut self, at: usize, target: &'t Node, function: &str, arguments: &'t [Node]) -> Checked {
        let Some(part) = Part::find(function) else {
            let count = arguments.len();
            return self.wrong(at, format!("there is no .{function}(…) with {count} arguments: {FUNCTIONS}"));
        };
        match (self.expr(target)?, arguments) {
            ((time, Type::Time), []) => Ok((Expr::PartOf(part, TimeZone::UTC, Box::new(time)), Type::Int)),
            ((time, Type::Time), [Node { what: What::Text(name), at, .. }]) => match time::zone(name) {
                Ok(zone) => Ok((Expr::PartOf(part, zone, Box::new(time)), Type::Int)),
                Err(message) => self.wrong(*at, message),
            },
            ((span, Type::Span), []) if matches!(part, Part::Hours | Part::Minutes | Part::Seconds) => {
                Ok((Expr::TotalOf(part, Box::new(span)), Type::Int))
            }
            ((_, Type::Time), _) => {
                self.wrong(at, format!("{function} takes a time zone that is written down, or none"))
            }
            ((_, type_), _) => self.wrong(at, format!("there is no {function} of a value of type {}", type_.name())),
        }
    }
}
