//! How a COPY TO STDOUT writes its lines.
//!
//! Owns the options of COPY (PostgreSQL documentation, COPY) as far as they change what a line looks like. Touches nothing.
//! Invariant: a form is told only where every option is known here; else there is none.

use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;

/// What the rows of a COPY TO STDOUT look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyForm {
    /// How their values are written.
    pub syntax: CopySyntax,
    /// They are the rows of a query and not a table's own, which leave out what is generated.
    pub of_query: bool,
}

/// How the values of a row are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySyntax {
    /// A line of values with backslashes before what is not itself.
    Text(Line),
    /// A line of values in quotes where need be.
    Csv {
        /// What both kinds of lines have.
        line: Line,
        /// Around a value.
        quote: u8,
        /// Before a quote within a value.
        escape: u8,
    },
    /// As in a DataRow.
    Binary,
}

/// What all lines have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Between two values.
    pub delimiter: u8,
    /// In the place of NULL.
    pub null: Box<[u8]>,
    /// The first line holds the names of the columns.
    pub header: bool,
}

/// The form that these options come to.
pub(super) fn form(options: &[pb::Node], of_query: bool) -> Option<CopyForm> {
    let (mut format, mut header) = ("text", false);
    let (mut delimiter, mut null, mut quote, mut escape) = (None, None, None, None);
    for option in options {
        let Some(N::DefElem(option)) = &option.node else { return None };
        let argument = option.arg.as_deref().and_then(|node| node.node.as_ref());
        match (option.defname.as_str(), argument) {
            ("format", Some(N::String(text))) => format = &text.sval,
            ("header", argument) => header = is_on(argument)?,
            ("delimiter", Some(N::String(text))) => delimiter = Some(byte(&text.sval)?),
            ("null", Some(N::String(text))) => null = Some(text.sval.as_str()),
            ("quote", Some(N::String(text))) => quote = Some(byte(&text.sval)?),
            ("escape", Some(N::String(text))) => escape = Some(byte(&text.sval)?),
            // What was in quotes stays so.
            ("force_quote", _) => {}
            ("encoding", Some(N::String(text))) if ["utf8", "utf-8"].contains(&&*text.sval.to_ascii_lowercase()) => {}
            _ => return None,
        }
    }
    let line = |between: u8, nothing: &str| Line {
        delimiter: delimiter.unwrap_or(between),
        null: null.unwrap_or(nothing).as_bytes().into(),
        header,
    };
    let syntax = match format {
        "text" => CopySyntax::Text(line(b'\t', "\\N")),
        "csv" => {
            let quote = quote.unwrap_or(b'"');
            CopySyntax::Csv { line: line(b',', ""), quote, escape: escape.unwrap_or(quote) }
        }
        "binary" => CopySyntax::Binary,
        _ => return None,
    };
    Some(CopyForm { syntax, of_query })
}

/// A single byte that cannot be part of a character or end a line: the server takes no other.
fn byte(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => Some(*byte),
        _ => None,
    }
}

fn is_on(argument: Option<&N>) -> Option<bool> {
    match argument {
        None => Some(true),
        Some(N::Boolean(value)) => Some(value.boolval),
        Some(N::Integer(value)) => match value.ival {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        Some(N::String(text)) => match &*text.sval.to_ascii_lowercase() {
            "true" | "on" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        },
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Front, NameSettings, StatementKind};

    fn form(text: &str) -> Option<CopyForm> {
        let described = Front::new(NameSettings::default()).describe(text).unwrap();
        match described.kinds.first() {
            Some(StatementKind::CopyOut(form)) => form.as_deref().cloned(),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn line(delimiter: u8, null: &str, header: bool) -> Line {
        Line { delimiter, null: null.as_bytes().into(), header }
    }

    #[test]
    fn both_spellings_of_options_come_to_the_same() {
        let csv = |line, quote, escape| CopySyntax::Csv { line, quote, escape };
        for (text, syntax) in [
            ("copy t to stdout", CopySyntax::Text(line(b'\t', "\\N", false))),
            ("copy t to stdout (format text, header)", CopySyntax::Text(line(b'\t', "\\N", true))),
            ("copy t to stdout with delimiter '|' null 'x'", CopySyntax::Text(line(b'|', "x", false))),
            ("copy t to stdout csv header", csv(line(b',', "", true), b'"', b'"')),
            ("copy t to stdout (format csv, quote '''', header off)", csv(line(b',', "", false), b'\'', b'\'')),
            ("copy t to stdout csv quote '$' escape '\\' force quote *", csv(line(b',', "", false), b'$', b'\\')),
            ("copy t to stdout (format 'csv', encoding 'UTF8')", csv(line(b',', "", false), b'"', b'"')),
            ("copy binary t to stdout", CopySyntax::Binary),
            ("copy t to stdout (format binary)", CopySyntax::Binary),
        ] {
            assert_eq!(form(text).map(|form| form.syntax), Some(syntax), "{text}");
        }
        assert!(form("copy (select 1) to stdout").unwrap().of_query);
        assert!(!form("copy t (a) to stdout").unwrap().of_query);
    }

    #[test]
    fn of_an_option_that_is_not_known_no_form_is_told() {
        for text in [
            "copy t to stdout (format 'json')",
            "copy t to stdout (encoding 'LATIN1')",
            "copy t to stdout (delimiter 'ab')",
            "copy t to stdout (header match)",
            "copy t to stdout (whatever)",
        ] {
            assert_eq!(form(text), None, "{text}");
        }
    }
}
