//! Name patterns as users write them in rules: `public.orders`, `public.*`, `*.*`.
//!
//! Owns their grammar and matching. Touches nothing. Invariant: a star stands for a whole part of a
//! name, never for a piece of one, so that no pattern matches more than it shows.

use serde::{Deserialize, Serialize};

use crate::action::QualifiedName;

/// A pattern over [`QualifiedName`]: each part literal or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern {
    space: Part,
    name: Part,
}

/// A pattern over the columns of tables: `public.customers.email`, `public.*.email`, `public.secrets.*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ColumnPattern {
    table: NamePattern,
    column: Part,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    Any,
    Literal(String),
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not two parts.
    #[error("{0:?} must be of the form schema.name, with * for a whole part")]
    Form(String),
    /// Not three parts.
    #[error("{0:?} must be of the form schema.table.column, with * for a whole part")]
    ColumnForm(String),
    /// A star beside other characters.
    #[error("{0:?}: * stands for a whole part and cannot be mixed with letters")]
    PartialStar(String),
}

impl NamePattern {
    /// Reads `schema.name`. A part may be double-quoted (then `""` is a quote in it and any
    /// character may stand in it) or `*`; unquoted parts are taken as they are, without folding.
    ///
    /// # Errors
    /// When there are not exactly two parts, or a star is mixed with other characters.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        match <[Part; 2]>::try_from(Part::all(text)?) {
            Ok([space, name]) => Ok(Self { space, name }),
            Err(_) => Err(PatternError::Form(text.to_owned())),
        }
    }

    /// The pattern of that name alone.
    pub(crate) fn of(name: &QualifiedName) -> Self {
        let literal = |part: &str| Part::Literal(part.to_owned());
        Self { space: literal(&name.space), name: literal(&name.name) }
    }

    /// Whether `name` is one that this pattern speaks of.
    #[must_use]
    pub fn matches(&self, name: &QualifiedName) -> bool {
        self.space.matches(&name.space) && self.name.matches(&name.name)
    }
}

impl ColumnPattern {
    /// Reads `schema.table.column`, each part as [`NamePattern::parse`] takes it.
    ///
    /// # Errors
    /// When there are not exactly three parts, or a star is mixed with other characters.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        match <[Part; 3]>::try_from(Part::all(text)?) {
            Ok([space, name, column]) => Ok(Self { table: NamePattern { space, name }, column }),
            Err(_) => Err(PatternError::ColumnForm(text.to_owned())),
        }
    }

    /// The tables whose column it is.
    #[must_use]
    pub const fn table(&self) -> &NamePattern {
        &self.table
    }

    /// The column's name; none where it is every column.
    #[must_use]
    pub fn column(&self) -> Option<&str> {
        match &self.column {
            Part::Any => None,
            Part::Literal(name) => Some(name),
        }
    }
}

impl Part {
    fn all(text: &str) -> Result<Vec<Self>, PatternError> {
        let mut parts = Vec::with_capacity(3);
        let mut rest = text;
        loop {
            let (part, after) = Self::first(rest, text)?;
            parts.push(part);
            match after.strip_prefix('.') {
                Some(more) => rest = more,
                None if after.is_empty() => return Ok(parts),
                None => return Err(PatternError::Form(text.to_owned())),
            }
        }
    }

    fn first<'a>(rest: &'a str, whole: &str) -> Result<(Self, &'a str), PatternError> {
        let form = || PatternError::Form(whole.to_owned());
        if let Some(mut tail) = rest.strip_prefix('"') {
            let mut literal = String::new();
            loop {
                let (before, after) = tail.split_once('"').ok_or_else(form)?;
                literal.push_str(before);
                match after.strip_prefix('"') {
                    Some(more) => {
                        literal.push('"');
                        tail = more;
                    }
                    None if literal.is_empty() => return Err(form()),
                    None => return Ok((Self::Literal(literal), after)),
                }
            }
        }
        let (part, after) = rest.find('.').map_or((rest, ""), |at| rest.split_at(at));
        match part {
            "" => Err(form()),
            "*" => Ok((Self::Any, after)),
            _ if part.contains('*') => Err(PatternError::PartialStar(whole.to_owned())),
            _ if part.contains('"') => Err(form()),
            _ => Ok((Self::Literal(part.to_owned()), after)),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Literal(literal) => literal == text,
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Literal(text) if text.contains(['.', '"', '*']) => write!(f, "\"{}\"", text.replace('"', "\"\"")),
            Self::Literal(text) => f.write_str(text),
        }
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.space, self.name)
    }
}

impl TryFrom<String> for NamePattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::parse(&text)
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.to_string()
    }
}

impl std::fmt::Display for ColumnPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.table, self.column)
    }
}

impl TryFrom<String> for ColumnPattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::parse(&text)
    }
}

impl From<ColumnPattern> for String {
    fn from(pattern: ColumnPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, space: &'static str, name: &'static str) -> bool {
        NamePattern::parse(pattern).unwrap().matches(&QualifiedName::new(space, name))
    }

    #[test]
    fn a_literal_matches_only_itself() {
        assert!(matches("public.orders", "public", "orders"));
        assert!(!matches("public.orders", "public", "orders_old"));
        assert!(!matches("public.orders", "Public", "orders"));
    }

    #[test]
    fn a_star_is_a_whole_part() {
        assert!(matches("public.*", "public", "anything"));
        assert!(!matches("public.*", "private", "anything"));
        assert!(matches("*.*", "a", "b"));
        assert!(matches!(NamePattern::parse("public.ord*"), Err(PatternError::PartialStar(_))));
    }

    #[test]
    fn a_quoted_part_may_hold_dots_quotes_and_stars() {
        assert!(matches(r#"public."a.b""#, "public", "a.b"));
        assert!(matches(r#"public."*""#, "public", "*"));
        assert!(!matches(r#"public."*""#, "public", "x"));
        assert!(matches(r#""we""ird".x"#, "we\"ird", "x"));
    }

    #[test]
    fn a_column_has_three_parts() {
        let column = ColumnPattern::parse(r#"public.customers."E.mail""#).unwrap();
        assert_eq!(column.column(), Some("E.mail"));
        assert!(column.table().matches(&QualifiedName::new("public", "customers")));
        assert_eq!(ColumnPattern::parse(&column.to_string()).unwrap(), column);
        assert_eq!(ColumnPattern::parse("public.secrets.*").unwrap().column(), None);
        for bad in ["public.customers", "a.b.c.d", "a.b.", "a.b.c*"] {
            assert!(ColumnPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for bad in ["", "orders", "a.b.c", ".x", "x.", "\"\".x", "\"a", "a\"b.c", "\"a\"b.c"] {
            assert!(NamePattern::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same(space in "[^\\x00]{1,8}", name in "[^\\x00]{1,8}") {
            let quoted = format!("\"{}\".\"{}\"", space.replace('"', "\"\""), name.replace('"', "\"\""));
            let pattern = NamePattern::parse(&quoted).unwrap();
            let shown = pattern.to_string();
            prop_assert_eq!(NamePattern::parse(&shown).unwrap(), pattern.clone());
            prop_assert!(pattern.matches(&QualifiedName::new(space, name)));
        }
    }
}
