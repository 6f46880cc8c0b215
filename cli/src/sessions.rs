//! `sessions`: who was there, from where, when, and how it ended.
//!
//! Owns that table. Touches recordings and a writer. Invariant: it tells what is recorded; a session whose end is not
//! recorded is told as that, not as open.

use std::collections::BTreeMap;
use std::io::Write;

use sallyport_proxy::shown;
use serde::Serialize;

use crate::Answer;
use crate::arguments::{Output, Reach, SessionsArguments};
use crate::recordings::{Entry, Recordings};
use crate::told::{clock, table};

/// A session in the recordings.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    session: String,
    agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    credential: String,
    target: String,
    began: String,
    last: String,
    commands: u64,
    asked: u64,
    /// The command that people were asked about last: their answer is recorded under its number.
    #[serde(skip)]
    waiting: Option<u64>,
    refused: u64,
    failed: u64,
    /// How it ended; absent where that is not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    /// Whether it was refused before it began.
    turned_away: bool,
}

/// Answers `sallyport sessions`.
pub(crate) async fn run(reach: &Reach, arguments: &SessionsArguments, out: &mut impl Write) -> anyhow::Result<Answer> {
    let recordings = Recordings::of(reach, &arguments.from).await?;
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let torn = recordings.each(|entry| {
        let session = seen.entry(entry.session.clone()).or_default();
        session.take(entry);
        Ok(())
    })?;
    let suffix = arguments.agent.as_ref().map(|agent| format!("/ns/{}/agent/{}", agent.namespace, agent.name));
    let mut seen: Vec<_> = seen.into_values().collect();
    seen.retain(|session| suffix.as_ref().is_none_or(|suffix| session.agent.ends_with(suffix)));
    seen.sort_by(|one, other| (&one.began, &one.session).cmp(&(&other.began, &other.session)));
    match arguments.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&seen)?)?,
        Output::Text => {
            let heads = [
                "SESSION", "AGENT", "FROM", "AS", "BEGAN", "LASTED", "COMMANDS", "ASKED", "REFUSED", "FAILED", "ENDED",
            ];
            table(&heads, seen.iter().map(Seen::row), out)?;
            if torn > 0 {
                writeln!(out, "{torn} lines that are no record were passed over (sallyport verify names them)")?;
            }
        }
    }
    Ok(Answer::Yes)
}

impl Seen {
    fn take(&mut self, entry: Entry) {
        if self.session.is_empty() {
            self.began.clone_from(&entry.time);
            (self.session, self.agent, self.target) = (entry.session, entry.agent, entry.target);
        }
        self.last = entry.time;
        let denied = entry.verdict.as_deref() == Some("deny");
        match entry.event.as_str() {
            "open" => {
                (self.client, self.credential) = (entry.client, entry.credential);
                self.turned_away = denied;
                if denied {
                    self.end = entry.reason;
                }
            }
            "command" => {
                // With the answer of people it comes again.
                self.commands += u64::from(self.waiting.is_none() || self.waiting != entry.command);
                let asks = entry.verdict.as_deref() == Some("ask");
                self.waiting = entry.command.filter(|_| asks);
                self.asked += u64::from(asks);
                self.refused += u64::from(denied);
            }
            "outcome" => self.failed += u64::from(entry.outcome.as_deref() == Some("failed")),
            "close" => self.end = entry.reason,
            _ => {}
        }
    }

    fn row(&self) -> Vec<String> {
        let end = self.end.as_deref().unwrap_or("no end recorded");
        let end = if self.turned_away { format!("turned away: {end}") } else { end.to_owned() };
        let lasted = clock(&self.began).zip(clock(&self.last));
        let lasted = lasted.map(|(from, to)| format!("{:.3} s", to.duration_since(from).as_secs_f64()));
        let agent = self.agent.split_once("/ns/").and_then(|(_, rest)| rest.split_once("/agent/"));
        let cells = [
            self.session.chars().take(12).collect(),
            agent.map_or_else(|| self.agent.clone(), |(namespace, name)| format!("{namespace}/{name}")),
            self.client.clone().unwrap_or_else(|| "-".to_owned()),
            self.credential.clone(),
            self.began.clone(),
            lasted.unwrap_or_else(|| "-".to_owned()),
            self.commands.to_string(),
            self.asked.to_string(),
            self.refused.to_string(),
            self.failed.to_string(),
            end,
        ];
        cells.iter().map(|cell| shown(cell)).collect()
    }
}
