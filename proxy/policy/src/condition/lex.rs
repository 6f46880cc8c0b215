//! From the text of a condition to its words, each with its place.
//!
//! Owns the spelling of names, numbers and texts. Touches nothing. Invariants: it takes time and room in proportion to
//! the text, whose length is bounded before; what CEL has and conditions do not is told by its name.

use super::ConditionError;

/// A word, and the byte it begins at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Name(String),
    /// Without its sign: the smallest integer has no positive twin.
    Number(u64),
    Text(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// Longer ones first: `<=` is not `<` and `=`.
const SIGNS: &[&str] = &[
    "||", "&&", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", "(", ")", "[", "]", ",", ".",
];

/// Words that CEL keeps for itself; after a dot they are names like any other.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, ConditionError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens: Vec<Token> = Vec::new();
    loop {
        lexer.skip();
        let at = lexer.at;
        let kind = lexer.next()?;
        if let Kind::Name(name) = &kind
            && RESERVED.contains(&name.as_str())
            && tokens.last().is_none_or(|before| before.kind != Kind::Sign("."))
        {
            return Err(lexer.wrong(at, format!("{name} is a reserved word")));
        }
        let end = kind == Kind::End;
        tokens.push(Token { kind, at });
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong(&self, at: usize, message: impl Into<String>) -> ConditionError {
        ConditionError::at(self.text, at, message)
    }

    /// White space, and comments to the end of their line.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']).len();
            let comment = match rest.get(blank..) {
                Some(after) if after.starts_with("//") => after.find('\n').unwrap_or(after.len()),
                _ => 0,
            };
            self.at += blank + comment;
            if blank + comment == 0 {
                return;
            }
        }
    }

    fn next(&mut self) -> Result<Kind, ConditionError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Kind::End) };
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            if *sign == "." && rest.get(1..).is_some_and(|after| after.starts_with(|c: char| c.is_ascii_digit())) {
                return Err(self.wrong(self.at, "numbers are whole here"));
            }
            self.at += sign.len();
            return Ok(Kind::Sign(sign));
        }
        match first {
            '"' | '\'' => self.quoted(false),
            '0'..='9' => self.number(),
            '_' | 'a'..='z' | 'A'..='Z' => {
                let word = rest.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next().unwrap_or_default();
                let quote = rest.get(word.len()..).is_some_and(|after| after.starts_with(['"', '\'']));
                match word {
                    "r" | "R" if quote => {
                        self.at += 1;
                        self.quoted(true)
                    }
                    "b" | "B" | "br" | "rb" | "bR" | "Rb" | "Br" | "rB" | "BR" | "RB" if quote => {
                        Err(self.wrong(self.at, "bytes are not known here: write a text"))
                    }
                    _ => {
                        let name = word.to_owned();
                        self.at += name.len();
                        Ok(Kind::Name(name))
                    }
                }
            }
            '{' | '}' => Err(self.wrong(self.at, "maps and messages are not known here")),
            '=' => Err(self.wrong(self.at, "a comparison is written ==")),
            '&' | '|' => Err(self.wrong(self.at, "written && and ||")),
            other => Err(self.wrong(self.at, format!("{other:?} is no part of an expression"))),
        }
    }

    fn number(&mut self) -> Result<Kind, ConditionError> {
        let (start, rest) = (self.at, self.rest());
        let hexadecimal = rest.starts_with("0x") || rest.starts_with("0X");
        let (digits, radix, length) = if hexadecimal {
            let digits = prefix(rest.get(2..).unwrap_or_default(), |c| c.is_ascii_hexdigit());
            (digits, 16, digits.len() + 2)
        } else {
            let digits = prefix(rest, |c| c.is_ascii_digit());
            (digits, 10, digits.len())
        };
        let after = rest.get(length..).and_then(|after| after.chars().next());
        let value = u64::from_str_radix(digits, radix).ok().filter(|value| *value <= i64::MIN.unsigned_abs());
        match (value, after) {
            (_, Some('u' | 'U')) => Err(self.wrong(start, "unsigned numbers are not known here: leave out the u")),
            (_, Some('.' | 'e' | 'E')) => Err(self.wrong(start, "numbers are whole here")),
            (Some(value), after) if after.is_none_or(|c| c != '_' && !c.is_ascii_alphanumeric()) => {
                self.at += length;
                Ok(Kind::Number(value))
            }
            _ => Err(self.wrong(start, "this is no number, or none of 64 bits")),
        }
    }

    /// A text in quotes; a raw one has no escapes.
    fn quoted(&mut self, raw: bool) -> Result<Kind, ConditionError> {
        let start = self.at;
        let mut characters = self.text.get(start..).unwrap_or_default().char_indices();
        let quote = characters.next().map_or('"', |(_, quote)| quote);
        if self.rest().starts_with("\"\"\"") || self.rest().starts_with("'''") {
            return Err(self.wrong(start, "texts in three quotes are not known here"));
        }
        let mut content = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                '\n' | '\r' => break,
                '\\' if !raw => content.push(self.escaped(start + at, &mut characters)?),
                _ if character == quote => {
                    self.at = start + at + 1;
                    return Ok(Kind::Text(content));
                }
                _ => content.push(character),
            }
        }
        Err(self.wrong(start, "this text has no end on its line"))
    }

    fn escaped(&self, at: usize, rest: &mut std::str::CharIndices<'_>) -> Result<char, ConditionError> {
        let unknown = || self.wrong(at, "this is no escape; for a regular expression write r'…'");
        let (_, letter) = rest.next().ok_or_else(unknown)?;
        let mut code = |first: u32, digits: usize, radix: u32| {
            let mut value = first;
            for _ in 0..digits {
                let digit = rest.next().and_then(|(_, c)| c.to_digit(radix))?;
                value = value.checked_mul(radix)?.checked_add(digit)?;
            }
            char::from_u32(value)
        };
        let character = match letter {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '\\' | '?' | '"' | '\'' | '`' => Some(letter),
            'x' | 'X' => code(0, 2, 16),
            'u' => code(0, 4, 16),
            'U' => code(0, 8, 16),
            '0'..='3' => code(letter.to_digit(8).unwrap_or(0), 2, 8),
            _ => None,
        };
        character.ok_or_else(unknown)
    }
}

fn prefix(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}
