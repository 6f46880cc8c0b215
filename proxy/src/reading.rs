//! `sallyport-proxy records`: the recordings of this replica, for a person or a program.
//!
//! Owns the way from stored lines to what is printed. Touches the records directory and standard output.
//! Invariants: control characters are shown, never executed; a torn line is named and skipped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::config::RecordsArguments;
use crate::stored::{Line, Place, Tail, places};

/// Commands whose outcome is awaited at most; the oldest is shown without.
const AWAITED: usize = 10_000;
/// How often more is looked for.
const PAUSE: Duration = Duration::from_millis(200);

/// Prints recordings as the arguments say.
///
/// # Errors
/// When the directory or standard output cannot be used.
pub fn print_records(arguments: &RecordsArguments) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match print_to(arguments, &mut out) {
        // `records | head` is done when head is.
        Err(error) if broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn print_to(arguments: &RecordsArguments, out: &mut impl Write) -> anyhow::Result<()> {
    // Nothing comes after the end of a compressed one: it need not stay open.
    let mut files: BTreeMap<Place, Option<Tail>> = BTreeMap::new();
    let mut printer = Printer {
        session: arguments.session.clone().unwrap_or_default(),
        json: arguments.json,
        awaited: BTreeMap::new(),
    };
    loop {
        for place in places(&arguments.records_dir)? {
            let compressed = place.is_compressed();
            if let Entry::Vacant(new) = files.entry(place) {
                let mut tail = Tail::open(&new.key().path)?;
                if compressed {
                    printer.print_all(&mut tail, false, out)?;
                }
                new.insert(Some(tail).filter(|_| !compressed));
            }
        }
        for tail in files.values_mut().flatten() {
            printer.print_all(tail, arguments.follow, out)?;
        }
        if !arguments.follow {
            return printer.finish(out);
        }
        out.flush()?;
        std::thread::sleep(PAUSE);
    }
}

struct Printer {
    session: String,
    json: bool,
    /// Commands that were allowed, by session and number, until their outcome comes.
    awaited: BTreeMap<(String, u64), Value>,
}

impl Printer {
    fn print_all(&mut self, tail: &mut Tail, follow: bool, out: &mut impl Write) -> anyhow::Result<()> {
        while let Some(line) = tail.line(follow).with_context(|| tail.place())? {
            self.print(&line, out)?;
        }
        Ok(())
    }

    fn print(&mut self, line: &Line, out: &mut impl Write) -> anyhow::Result<()> {
        let Ok(record @ Value::Object(_)) = serde_json::from_slice::<Value>(&line.bytes) else {
            eprintln!("{}: torn record, skipped ({} bytes)", line.place, line.bytes.len());
            return Ok(());
        };
        if !text(&record, "session").starts_with(&self.session) {
            return Ok(());
        }
        if self.json {
            out.write_all(&line.bytes)?;
            out.write_all(b"\n")?;
            return Ok(());
        }
        let key = (text(&record, "session").to_owned(), number(&record, "command").unwrap_or_default());
        match (text(&record, "event"), text(&record, "verdict")) {
            ("command", "allow") => {
                self.awaited.insert(key, record);
                if self.awaited.len() > AWAITED
                    && let Some((_, oldest)) = self.awaited.pop_first()
                {
                    writeln!(out, "{}", command(&oldest, None))?;
                }
            }
            ("command", _) => writeln!(out, "{}", command(&record, None))?,
            ("outcome", _) => {
                if let Some(asked) = self.awaited.remove(&key) {
                    writeln!(out, "{}", command(&asked, Some(&record)))?;
                }
            }
            // What a client was shown or has sent is for a program (--json) or a replay: this is one line a command.
            ("result" | "data", _) => {}
            _ => writeln!(out, "{}", session(&record))?,
        }
        Ok(())
    }

    /// What has no outcome yet is shown all the same.
    fn finish(self, out: &mut impl Write) -> anyhow::Result<()> {
        let mut rest: Vec<_> = self.awaited.into_values().collect();
        rest.sort_by(|one, other| text(one, "time").cmp(text(other, "time")));
        for asked in rest {
            writeln!(out, "{}", command(&asked, None))?;
        }
        Ok(out.flush()?)
    }
}

fn command(asked: &Value, outcome: Option<&Value>) -> String {
    let mut line = head(asked);
    let rule = match (text(asked, "policy"), text(asked, "rule")) {
        ("", _) => "-".to_owned(),
        (policy, rule) => format!("{policy}/{rule}"),
    };
    let verdict = text(asked, "verdict");
    let _infallible = write!(line, "{verdict:<5}  {}  ", shown(&rule));
    let end = match outcome {
        Some(outcome) => {
            let rows = number(outcome, "rows").map_or_else(|| "-".to_owned(), |rows| format!("{rows} rows"));
            let how = match (text(outcome, "outcome"), text(outcome, "code")) {
                ("completed", _) => String::new(),
                (how, "") => format!("  {how}"),
                (how, code) => format!("  {how} {code}"),
            };
            let micros = number(outcome, "durationMicros").unwrap_or_default();
            format!("{rows}  {:?}{how}{}", Duration::from_micros(micros), approved_by(asked))
        }
        None if verdict == "ask" => format!("access request {}", text(asked, "request")),
        None if verdict == "allow" => "no outcome recorded".to_owned(),
        None => text(asked, "reason").to_owned(),
    };
    let _infallible = write!(line, "{}  {}", shown(&end), shown(text(asked, "text")));
    line
}

/// Who approved it, where people were asked.
fn approved_by(asked: &Value) -> String {
    let people: Vec<_> = asked["answeredBy"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if people.is_empty() { String::new() } else { format!("  approved by {}", people.join(", ")) }
}

fn session(record: &Value) -> String {
    let mut line = head(record);
    let about = match text(record, "event") {
        "open" => {
            let credential = format!("as {}", text(record, "credential"));
            format!("{:<5}  session opens {credential}  {}", text(record, "verdict"), text(record, "reason"))
        }
        "close" => format!("-      session ends: {}", text(record, "reason")),
        "gap" => {
            let lost = number(record, "lost").unwrap_or_default();
            format!("-      {lost} records could not be written since {}", text(record, "since"))
        }
        "pruned" => "-      the oldest files are removed, as recording.retention says".to_owned(),
        other => format!("-      {other}"),
    };
    line.push_str(shown(&about).trim_end());
    line
}

fn head(record: &Value) -> String {
    let session: String = text(record, "session").chars().take(8).collect();
    format!("{}  {}  {}  ", shown(text(record, "time")), shown(&session), shown(text(record, "agent")))
}

fn text<'r>(record: &'r Value, field: &str) -> &'r str {
    record.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn number(record: &Value, field: &str) -> Option<u64> {
    record.get(field).and_then(Value::as_u64)
}

/// The text with everything that a terminal might act on, or that hides or reorders text, made visible.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let hidden = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if character.is_control() || hidden {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(files: &[(&str, &str)], json: bool, session: Option<&str>) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let arguments = RecordsArguments {
            records_dir: dir.path().to_owned(),
            session: session.map(str::to_owned),
            follow: false,
            json,
        };
        let mut out = Vec::new();
        print_to(&arguments, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const ASKED: &str = r#"{"time":"2026-11-23T16:00:00.000001Z","session":"aa11","sequence":1,"agent":"spiffe://t/ns/ci/agent/bot","event":"command","command":1,"text":"select 1\u001b[2J\n","verdict":"allow","policy":"p","rule":"r"}"#;
    const ENDED: &str = r#"{"time":"2026-11-23T16:00:00.000002Z","session":"aa11","sequence":2,"agent":"spiffe://t/ns/ci/agent/bot","event":"outcome","command":1,"outcome":"completed","rows":3,"durationMicros":1500}"#;

    #[test]
    fn a_command_and_its_outcome_are_one_line_and_its_escapes_are_shown() {
        let line = printed(&[("pod-1-0.jsonl", &format!("{ASKED}\n{ENDED}\n"))], false, None);
        assert_eq!(
            line,
            "2026-11-23T16:00:00.000001Z  aa11  spiffe://t/ns/ci/agent/bot  allow  p/r  3 rows  1.5ms  select 1\\u{1b}[2J\\n\n"
        );
    }

    #[test]
    fn a_torn_line_hides_none_of_its_neighbours() {
        let content = format!("{{\"time\":\"2026\n{ASKED}\n{ENDED}\n{{\"tor");
        assert_eq!(printed(&[("pod-1-0.jsonl", &content)], true, None), format!("{ASKED}\n{ENDED}\n"));
    }

    #[test]
    fn the_tenth_file_comes_after_the_ninth() {
        let nine = ASKED.replace("aa11", "nine");
        let ten = ASKED.replace("aa11", "ten0");
        let files = [("pod-1-10.jsonl", format!("{ten}\n")), ("pod-1-9.jsonl", format!("{nine}\n"))];
        let files: Vec<_> = files.iter().map(|(name, content)| (*name, content.as_str())).collect();
        assert_eq!(printed(&files, true, None), format!("{nine}\n{ten}\n"));
        assert_eq!(printed(&files, true, Some("ten")), format!("{ten}\n"));
    }

    #[test]
    fn a_command_without_outcome_is_shown() {
        let line = printed(&[("pod-1-0.jsonl", &format!("{ASKED}\n"))], false, None);
        assert!(line.contains("no outcome recorded"), "{line}");
    }
}
