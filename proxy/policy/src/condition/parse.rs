//! From the words of a condition to its tree.
//!
//! Owns the grammar: that of CEL, without what conditions have no use for (maps, messages, indexing). Touches nothing.
//! Invariants: no tree is deeper or has more nodes than is said here, and the parser goes no deeper than its
//! brackets, so that no text can exhaust a stack.

use super::ConditionError;
use super::lex::{Kind, Token, tokens};

/// Brackets and branches within one another.
const DEEPEST_BRACKETS: usize = 8;
/// Levels of the tree: what walks it goes as deep.
const DEEPEST: usize = 32;
/// Nodes of the tree.
const MOST_NODES: usize = 256;

/// A part of an expression, and the byte that tells best where it is.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) what: What,
    depth: usize,
}

#[derive(Debug)]
pub(super) enum What {
    Bool(bool),
    Number(i64),
    Text(String),
    Name(String),
    /// `operand.field`
    Field(Box<Node>, String),
    /// `name(arguments)` or `target.name(arguments)`
    Call(Option<Box<Node>>, String, Vec<Node>),
    List(Vec<Node>),
    Not(Box<Node>),
    Negative(Box<Node>),
    /// All of one chain: it is not nested, however long.
    All(Vec<Node>),
    Any(Vec<Node>),
    Binary(&'static str, Box<Node>, Box<Node>),
    Choice(Box<Node>, Box<Node>, Box<Node>),
}

pub(super) fn parse(text: &str) -> Result<Node, ConditionError> {
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0, brackets: 0, nodes: 0 };
    let node = parser.expression()?;
    match parser.peek() {
        Kind::End => Ok(node),
        _ => Err(parser.wrong("an operator is missing here, or something is left over")),
    }
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Token>,
    next: usize,
    brackets: usize,
    nodes: usize,
}

type Parsed = Result<Node, ConditionError>;

impl Parser<'_> {
    fn peek(&self) -> &Kind {
        self.tokens.get(self.next).map_or(&Kind::End, |token| &token.kind)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.text.len(), |token| token.at)
    }

    fn wrong(&self, message: impl Into<String>) -> ConditionError {
        ConditionError::at(self.text, self.at(), message)
    }

    /// Whether the next word is one of these, which is then taken.
    fn takes(&mut self, signs: &[&'static str]) -> Option<&'static str> {
        let Kind::Sign(sign) = self.peek() else { return None };
        let sign = signs.iter().find(|wanted| *wanted == sign)?;
        self.next += 1;
        Some(sign)
    }

    fn demands(&mut self, sign: &'static str) -> Result<(), ConditionError> {
        match self.takes(&[sign]) {
            Some(_) => Ok(()),
            None => Err(self.wrong(format!("{sign:?} is missing here"))),
        }
    }

    fn node(&mut self, at: usize, what: What) -> Parsed {
        let below = match &what {
            What::Bool(_) | What::Number(_) | What::Text(_) | What::Name(_) => 0,
            What::Field(one, _) | What::Not(one) | What::Negative(one) => one.depth,
            What::Call(target, _, arguments) => {
                target.iter().map(|node| node.depth).chain(arguments.iter().map(|node| node.depth)).max().unwrap_or(0)
            }
            What::List(all) | What::All(all) | What::Any(all) => all.iter().map(|node| node.depth).max().unwrap_or(0),
            What::Binary(_, left, right) => left.depth.max(right.depth),
            What::Choice(one, two, three) => one.depth.max(two.depth).max(three.depth),
        };
        self.nodes += 1;
        if below >= DEEPEST || self.nodes > MOST_NODES {
            let most = format!("this is too much: at most {MOST_NODES} parts, {DEEPEST} of them upon one another");
            return Err(ConditionError::at(self.text, at, most));
        }
        Ok(Node { at, what, depth: below + 1 })
    }

    /// The one place where the parser calls itself.
    fn expression(&mut self) -> Parsed {
        if self.brackets >= DEEPEST_BRACKETS {
            return Err(self.wrong(format!("brackets and branches go at most {DEEPEST_BRACKETS} deep")));
        }
        self.brackets += 1;
        let node = self.choice();
        self.brackets -= 1;
        node
    }

    fn choice(&mut self) -> Parsed {
        let condition = self.any()?;
        let at = self.at();
        if self.takes(&["?"]).is_none() {
            return Ok(condition);
        }
        // CEL: the middle has no branches of its own unless in brackets, the last part has.
        let then = self.any()?;
        self.demands(":")?;
        let otherwise = self.expression()?;
        self.node(at, What::Choice(Box::new(condition), Box::new(then), Box::new(otherwise)))
    }

    fn any(&mut self) -> Parsed {
        self.chain("||", Self::all, What::Any)
    }

    fn all(&mut self) -> Parsed {
        self.chain("&&", Self::relation, What::All)
    }

    fn chain(
        &mut self,
        sign: &'static str,
        part: impl Fn(&mut Self) -> Parsed,
        whole: impl Fn(Vec<Node>) -> What,
    ) -> Parsed {
        let first = part(self)?;
        let at = self.at();
        let mut parts = vec![first];
        while self.takes(&[sign]).is_some() {
            parts.push(part(self)?);
        }
        match parts.pop() {
            Some(only) if parts.is_empty() => Ok(only),
            last => {
                parts.extend(last);
                self.node(at, whole(parts))
            }
        }
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            let at = self.at();
            let sign = match self.peek() {
                Kind::Name(name) if name == "in" => {
                    self.next += 1;
                    Some("in")
                }
                _ => self.takes(&["==", "!=", "<=", ">=", "<", ">"]),
            };
            let Some(sign) = sign else { return Ok(left) };
            let right = self.sum()?;
            left = self.node(at, What::Binary(sign, Box::new(left), Box::new(right)))?;
        }
    }

    fn sum(&mut self) -> Parsed {
        self.left_to_right(&["+", "-"], Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.left_to_right(&["*", "/", "%"], Self::unary)
    }

    fn left_to_right(&mut self, signs: &[&'static str], part: impl Fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = part(self)?;
        loop {
            let at = self.at();
            let Some(sign) = self.takes(signs) else { return Ok(left) };
            let right = part(self)?;
            left = self.node(at, What::Binary(sign, Box::new(left), Box::new(right)))?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let mut signs = 0_usize;
        let Some(sign) = self.takes(&["!", "-"]) else { return self.member() };
        signs += 1;
        while self.takes(&[sign]).is_some() {
            signs += 1;
        }
        // The sign next to a number belongs to it.
        let mut inner = match (sign, self.peek()) {
            ("-", Kind::Number(value)) => {
                let value = 0_i64.checked_sub_unsigned(*value);
                let value = value.ok_or_else(|| self.wrong("this is no number of 64 bits"))?;
                self.next += 1;
                signs -= 1;
                let number = self.node(at, What::Number(value))?;
                self.suffixes(number)?
            }
            _ => self.member()?,
        };
        for _ in 0..signs {
            let what = if sign == "!" { What::Not(Box::new(inner)) } else { What::Negative(Box::new(inner)) };
            inner = self.node(at, what)?;
        }
        Ok(inner)
    }

    fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.suffixes(primary)
    }

    fn suffixes(&mut self, mut node: Node) -> Parsed {
        loop {
            let at = self.at();
            if self.takes(&["["]).is_some() {
                return Err(ConditionError::at(self.text, at, "lists are not indexed here: use in, exists or all"));
            }
            if self.takes(&["."]).is_none() {
                return Ok(node);
            }
            let at = self.at();
            let Kind::Name(name) = self.peek() else { return Err(self.wrong("a name is missing here")) };
            let name = name.clone();
            self.next += 1;
            let what = if self.takes(&["("]).is_some() {
                What::Call(Some(Box::new(node)), name, self.list(")")?)
            } else {
                What::Field(Box::new(node), name)
            };
            node = self.node(at, what)?;
        }
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        let kind = self.peek().clone();
        self.next += 1;
        let what = match kind {
            Kind::Name(name) => match name.as_str() {
                "true" => What::Bool(true),
                "false" => What::Bool(false),
                "null" => return Err(self.back("null is not known here: what is not known makes the rule unknown")),
                "in" => return Err(self.back("something is missing before in")),
                _ if self.takes(&["("]).is_some() => What::Call(None, name, self.list(")")?),
                _ => What::Name(name),
            },
            Kind::Number(value) => {
                let value = i64::try_from(value).map_err(|_| self.back("this is no number of 64 bits"))?;
                What::Number(value)
            }
            Kind::Text(text) => What::Text(text),
            Kind::Sign("(") => {
                let inner = self.expression()?;
                self.demands(")")?;
                return Ok(inner);
            }
            Kind::Sign("[") => What::List(self.list("]")?),
            Kind::Sign(_) | Kind::End => return Err(self.back("a value is missing here")),
        };
        self.node(at, what)
    }

    /// The error is at the word before.
    fn back(&mut self, message: &str) -> ConditionError {
        self.next -= 1;
        self.wrong(message)
    }

    fn list(&mut self, end: &'static str) -> Result<Vec<Node>, ConditionError> {
        let mut all = Vec::new();
        while self.takes(&[end]).is_none() {
            if !all.is_empty() {
                self.demands(",")?;
                // CEL lets a list end with a comma.
                if end == "]" && self.takes(&[end]).is_some() {
                    break;
                }
            }
            all.push(self.expression()?);
        }
        Ok(all)
    }
}
