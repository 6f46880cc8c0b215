//! `replay`: what happened in a session, in its order.
//!
//! Owns how a session is told to a person. Touches recordings and a writer. Invariants: nothing is executed, neither by
//! a server nor by the terminal: control characters and what hides or reorders text are shown; texts are whole.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use sallyport_proxy::shown;
use serde_json::Value;

use crate::Answer;
use crate::arguments::{Reach, ReplayArguments};
use crate::recordings::{Entry, Recordings};
use crate::told::clock;

/// Sessions that an ambiguous beginning is told with at most.
const LISTED: usize = 10;

/// Answers `sallyport replay`.
pub(crate) async fn run(reach: &Reach, arguments: &ReplayArguments, out: &mut impl Write) -> anyhow::Result<Answer> {
    let recordings = Recordings::of(reach, &arguments.from).await?;
    let mut entries: Vec<Entry> = Vec::new();
    recordings.each(|entry| {
        if entry.session.starts_with(&arguments.session) {
            entries.push(entry);
        }
        Ok(())
    })?;
    let mut sessions: Vec<_> = entries.iter().map(|entry| entry.session.clone()).collect();
    sessions.sort();
    sessions.dedup();
    match sessions.as_slice() {
        [] => bail!("no session begins with {:?} in these recordings: see sallyport sessions", arguments.session),
        [_] => {}
        several => {
            let some: Vec<_> = several.iter().take(LISTED).map(String::as_str).collect();
            bail!("{} sessions begin with {:?}: {}", several.len(), arguments.session, some.join(", "));
        }
    }
    entries.sort_by_key(|entry| entry.sequence);
    // Where replicas share a volume each of them had it.
    entries.dedup_by_key(|entry| entry.sequence);
    tell(&entries, out)?;
    Ok(Answer::Yes)
}

fn tell(entries: &[Entry], out: &mut impl Write) -> std::io::Result<()> {
    let Some(first) = entries.first() else { return Ok(()) };
    writeln!(out, "session {}", shown(&first.session))?;
    writeln!(out, "agent   {}", shown(&first.agent))?;
    writeln!(out, "target  {}", shown(&first.target))?;
    writeln!(out, "began   {}", shown(&first.time))?;
    let began = clock(&first.time);
    let mut expected = first.sequence;
    for entry in entries {
        if entry.sequence != expected {
            writeln!(
                out,
                "          -- {} records are missing here: sallyport verify",
                entry.sequence.abs_diff(expected)
            )?;
        }
        expected = entry.sequence.saturating_add(1);
        let since = clock(&entry.time).zip(began).map(|(at, began)| at.duration_since(began).as_secs_f64());
        write!(out, "{:>+10.3}  ", since.unwrap_or(f64::NAN))?;
        match entry.event.as_str() {
            "open" => opening(entry, out)?,
            "command" => command(entry, out)?,
            "result" => result(entry, "shows", out)?,
            "data" => result(entry, "sends", out)?,
            "outcome" => outcome(entry, out)?,
            "close" => writeln!(out, "the session ends: {}", shown(entry.reason.as_deref().unwrap_or("-")))?,
            // A newer proxy knows more events.
            other => writeln!(out, "{}: {}", shown(other), shown(&Value::Object(entry.more.clone()).to_string()))?,
        }
    }
    Ok(())
}

fn opening(entry: &Entry, out: &mut impl Write) -> std::io::Result<()> {
    let refused = entry.verdict.as_deref() == Some("deny");
    write!(out, "{} as {}", if refused { "turned away" } else { "the session opens" }, shown(&entry.credential))?;
    write!(out, " from {}", shown(entry.client.as_deref().unwrap_or("nobody knows where")))?;
    for (name, value) in &entry.facts {
        write!(out, ", {} {}", shown(name), shown(value))?;
    }
    match &entry.reason {
        Some(reason) => writeln!(out, ": {}", shown(reason)),
        None => writeln!(out),
    }
}

fn command(entry: &Entry, out: &mut impl Write) -> std::io::Result<()> {
    let rule = entry.policy.as_deref().zip(entry.rule.as_deref());
    let rule = rule.map_or_else(String::new, |(policy, rule)| format!(" by {policy}/{rule}"));
    let verdict = entry.verdict.as_deref().unwrap_or("-");
    writeln!(out, "#{} {}{}", entry.command.unwrap_or_default(), shown(verdict), shown(&rule))?;
    // A line of the text is a line here; everything else that a terminal would act on is shown.
    for line in entry.text.split('\n') {
        writeln!(out, "{:>14}{}", "", shown(line))?;
    }
    for (number, parameter) in entry.parameters.iter().enumerate() {
        let literal = parameter.get("literal").and_then(Value::as_str).map(str::to_owned);
        let value = parameter.as_str().map(|text| format!("{text:?}")).or(literal);
        let value = value.unwrap_or_else(|| parameter.to_string());
        writeln!(out, "{:>14}${} = {}", "", number + 1, shown(&value))?;
    }
    match &entry.reason {
        Some(reason) => writeln!(out, "{:>14}=> {}", "", shown(reason)),
        None => Ok(()),
    }
}

/// What the client was shown, a row a line, or has sent; each value as JSON has it.
fn result(entry: &Entry, verb: &str, out: &mut impl Write) -> std::io::Result<()> {
    let list = |field: &str| entry.more.get(field).and_then(Value::as_array).into_iter().flatten();
    let told = |value: &Value| shown(&value.to_string());
    write!(out, "#{} {verb}", entry.command.unwrap_or_default())?;
    let names: Vec<_> = list("columns").map(|column| told(column.get("name").unwrap_or(&Value::Null))).collect();
    writeln!(out, "{}{}", if names.is_empty() { "" } else { " " }, names.join(" | "))?;
    for row in list("shown") {
        let values: Vec<_> = row.as_array().into_iter().flatten().map(told).collect();
        writeln!(out, "{:>14}{}", "", values.join(" | "))?;
    }
    for line in list("lines").chain(list("sent")) {
        writeln!(out, "{:>14}{}", "", told(line))?;
    }
    Ok(())
}

fn outcome(entry: &Entry, out: &mut impl Write) -> std::io::Result<()> {
    write!(out, "#{} {}", entry.command.unwrap_or_default(), shown(entry.outcome.as_deref().unwrap_or("-")))?;
    if let Some(code) = &entry.code {
        write!(out, " {}", shown(code))?;
    }
    if let Some(rows) = entry.rows {
        write!(out, ", {rows} rows")?;
    }
    writeln!(out, ", {:?}", Duration::from_micros(entry.duration_micros.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_session_acts_on_the_terminal_and_every_record_is_told() {
        let lines = [
            r#"{"time":"2026-11-23T16:00:00.000000Z","session":"aa","sequence":0,"agent":"spiffe://t/ns/ci/agent/bot","target":"shop/db","event":"open","client":"10.0.0.1:5000","credential":"default","facts":[["database","sh\u001b[31mop"]],"verdict":"allow","revision":"r"}"#,
            r#"{"time":"2026-11-23T16:00:01.500000Z","session":"aa","sequence":1,"event":"command","command":1,"text":"select '\u001b]0;owned\u0007',\n\u202e1 \r hidden","parameters":["a\u001bb",null,{"binaryBytes":4},{"binaryBytes":2,"literal":"'a\u001b'::text"}],"verdict":"allow","policy":"p","rule":"r"}"#,
            r#"{"time":"2026-11-23T16:00:01.550000Z","session":"aa","sequence":2,"event":"result","command":1,"part":1,"columns":[{"name":"a\u001b","type":25},{"name":"b","type":23,"binary":true}],"shown":[["x\u001b[2J\n\"",null],["null",{"base64":"AAAABw=="}]]}"#,
            r#"{"time":"2026-11-23T16:00:01.550000Z","session":"aa","sequence":3,"event":"result","command":1,"part":2,"lines":["1\t\u202ex\n",{"cut":"abc","bytes":20000,"sha256":"00"}]}"#,
            r#"{"time":"2026-11-23T16:00:01.600000Z","session":"aa","sequence":4,"event":"outcome","command":1,"outcome":"failed","code":"22012","durationMicros":1500}"#,
            r#"{"time":"2026-11-23T16:00:02.000000Z","session":"aa","sequence":6,"event":"command","command":2,"text":"delete from orders","verdict":"deny","policy":"p","rule":"no","reason":"refused by policy p, rule no"}"#,
            r#"{"time":"2026-11-23T16:00:03.000000Z","session":"aa","sequence":7,"event":"weighed","grams":5}"#,
            r#"{"time":"2026-11-23T16:00:04.000000Z","session":"aa","sequence":8,"event":"close","reason":"the client left"}"#,
        ];
        let entries: Vec<Entry> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut out = Vec::new();
        tell(&entries, &mut out).unwrap();
        let told = String::from_utf8(out).unwrap();
        let expected = r##"session aa
agent   spiffe://t/ns/ci/agent/bot
target  shop/db
began   2026-11-23T16:00:00.000000Z
    +0.000  the session opens as default from 10.0.0.1:5000, database sh\u{1b}[31mop
    +1.500  #1 allow by p/r
              select '\u{1b}]0;owned\u{7}',
              \u{202e}1 \r hidden
              $1 = "a\u{1b}b"
              $2 = null
              $3 = {"binaryBytes":4}
              $4 = 'a\u{1b}'::text
    +1.550  #1 shows "a\u001b" | "b"
              "x\u001b[2J\n\"" | null
              "null" | {"base64":"AAAABw=="}
    +1.550  #1 shows
              "1\t\u{202e}x\n"
              {"bytes":20000,"cut":"abc","sha256":"00"}
    +1.600  #1 failed 22012, 1.5ms
          -- 1 records are missing here: sallyport verify
    +2.000  #2 deny by p/no
              delete from orders
              => refused by policy p, rule no
    +3.000  weighed: {"grams":5}
    +4.000  the session ends: the client left
"##;
        assert_eq!(told, expected);
    }
}
