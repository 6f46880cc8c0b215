//! `requests`, `approve`, `deny`: what fleets ask people, and their answers.
//!
//! Owns how a question is shown and an answer is written. Touches the cluster and the terminal. Invariants: nobody
//! approves what was not shown whole, with nothing hidden and nothing executed; an answer is written to the very
//! question that was shown, under one's own name; who may answer is the API server's to say.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::bail;
use jiff::Timestamp;
use sallyport_crds::{AccessRequest, Answer as Said, Phase};
use sallyport_proxy::shown;

use crate::Answer;
use crate::arguments::{AnswerArguments, Output, Reach, RequestsArguments};
use crate::cluster::Cluster;
use crate::told::table;

/// Answers `sallyport requests`.
pub(crate) async fn list(reach: &Reach, arguments: &RequestsArguments, out: &mut impl Write) -> anyhow::Result<Answer> {
    let cluster = Cluster::reach(reach).await?;
    let mut found = cluster.requests(arguments.all_namespaces).await?;
    found.retain(|request| arguments.all || is_open(request));
    found.sort_by_key(|request| {
        (request.metadata.creation_timestamp.as_ref().map(|time| time.0), request.metadata.name.clone())
    });
    match arguments.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?,
        Output::Text => {
            let heads = ["NAMESPACE", "NAME", "PHASE", "ANSWERED", "AGENT", "TARGET", "RULE", "EXPIRES", "COMMAND"];
            table(&heads, found.iter().map(row), out)?;
        }
    }
    Ok(Answer::Yes)
}

/// Answers `sallyport approve` and `sallyport deny`.
pub(crate) async fn answer(
    reach: &Reach,
    arguments: &AnswerArguments,
    said: Said,
    out: &mut impl Write,
) -> anyhow::Result<Answer> {
    let cluster = Cluster::reach(reach).await?;
    let request = cluster.request(&arguments.name).await?;
    tell(&request, out)?;
    out.flush()?;
    let status = request.status.clone().unwrap_or_default();
    if !matches!(status.phase, Phase::Pending | Phase::Approved) {
        bail!("{}: it is {:?} already: no answer would count", arguments.name, status.phase);
    }
    if request.spec.expires_at.0 <= Timestamp::now() {
        bail!("{}: it expired at {}: no answer would count", arguments.name, request.spec.expires_at.0);
    }
    let by = cluster.own_name().await?;
    if let Some(before) = status.decisions.iter().find(|decision| decision.by == by) {
        bail!(
            "{}: {} has answered already: {:?}; an answer is never changed",
            arguments.name,
            shown(&by),
            before.decision
        );
    }
    if !arguments.yes {
        let word = match said {
            Said::Approve => "approve",
            Said::Deny => "deny",
        };
        confirm(word, &by, out)?;
    }
    cluster.decide(request, &by, said, arguments.comment.as_deref()).await?;
    writeln!(out, "{}: {said:?} by {}", arguments.name, shown(&by))?;
    Ok(Answer::Yes)
}

/// Asks at the terminal; anything but the word itself is no.
fn confirm(word: &str, by: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("nobody is there to confirm it: give --yes if you have read the whole command");
    }
    write!(out, "To {word} this once as {}, write {word}: ", shown(by))?;
    out.flush()?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    if line.trim() != word {
        bail!("nothing was answered");
    }
    Ok(())
}

/// Whether an answer would still count.
fn is_open(request: &AccessRequest) -> bool {
    let phase = request.status.as_ref().map(|status| status.phase).unwrap_or_default();
    phase == Phase::Pending && request.spec.expires_at.0 > Timestamp::now()
}

fn row(request: &AccessRequest) -> Vec<String> {
    let spec = &request.spec;
    let status = request.status.clone().unwrap_or_default();
    let cells = [
        request.metadata.namespace.clone().unwrap_or_default(),
        request.metadata.name.clone().unwrap_or_default(),
        format!("{:?}", status.phase),
        format!("{}/{}", status.decisions.len(), spec.approvals),
        format!("{}/{}", spec.agent.namespace, spec.agent.name),
        spec.target.clone(),
        format!("{}/{}", spec.policy, spec.rule),
        spec.expires_at.0.to_string(),
        beginning(&spec.command.text),
    ];
    cells.iter().map(|cell| shown(cell)).collect()
}

/// As much of a text as a table has room for.
fn beginning(text: &str) -> String {
    const ROOM: usize = 60;
    let mut beginning: String = text.chars().take(ROOM).collect();
    if beginning.len() < text.len() {
        beginning.push_str("...");
    }
    beginning
}

/// The whole question.
fn tell(request: &AccessRequest, out: &mut impl Write) -> std::io::Result<()> {
    let spec = &request.spec;
    let status = request.status.clone().unwrap_or_default();
    let mut fact = |name: &str, value: &str| writeln!(out, "{name:<10} {}", shown(value));
    fact("request", request.metadata.name.as_deref().unwrap_or_default())?;
    fact("agent", &format!("{}/{}", spec.agent.namespace, spec.agent.name))?;
    fact("target", &spec.target)?;
    fact("asked by", &format!("policy {}, rule {}, revision {}", spec.policy, spec.rule, spec.policy_revision))?;
    if let Some(person) = &spec.requested_by {
        fact("requested", person)?;
    }
    if let Some(reason) = &spec.reason {
        fact("reason", reason)?;
    }
    fact("phase", &format!("{:?}, {} approvals wanted, until {}", status.phase, spec.approvals, spec.expires_at.0))?;
    for decision in &status.decisions {
        let comment = decision.comment.as_deref().map(|comment| format!(": {comment}")).unwrap_or_default();
        fact("answered", &format!("{:?} by {} at {}{comment}", decision.decision, decision.by, decision.at.0))?;
    }
    writeln!(out, "command    {} bytes, whole:", spec.command.text.len())?;
    for line in spec.command.text.split('\n') {
        writeln!(out, "  | {}", shown(line))?;
    }
    for (number, parameter) in spec.command.parameters.iter().enumerate() {
        writeln!(out, "  ${} = {}", number + 1, shown(parameter))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_shown_whole_and_nothing_in_it_acts() {
        let request: AccessRequest = serde_json::from_value(serde_json::json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessRequest", "metadata": { "name": "ask-1" },
            "spec": {
                "agent": { "namespace": "ci", "name": "bot" }, "target": "orders-db", "policy": "p", "rule": "r",
                "policyRevision": "0123456789abcdef", "approvals": 2, "reason": "why\u{1b}[1A\u{1b}[2K",
                "command": { "text": format!("select 1;\r\n{}\u{202e}drop table orders", " ".repeat(5000)), "digest": "d",
                    "parameters": ["'a\u{1b}b'"] },
                "expiresAt": "2026-11-27T10:00:00Z",
            },
            "status": { "phase": "Pending", "decisions": [
                { "decision": "Approve", "by": "ann\u{1b}c", "at": "2026-11-27T09:00:00Z", "comment": "ok\nrequest    other" }] },
        }))
        .unwrap();
        let mut out = Vec::new();
        tell(&request, &mut out).unwrap();
        let told = String::from_utf8(out).unwrap();
        let all_shown = told.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}'));
        assert!(all_shown, "{told:?}");
        for part in [
            "  | select 1;\\r\n",
            "\\u{202e}drop table orders\n",
            "why\\u{1b}[1A",
            "Approve by ann\\u{1b}c at 2026-11-27T09:00:00Z: ok\\nrequest    other\n",
            "  $1 = 'a\\u{1b}b'\n",
            "Pending, 2 approvals wanted",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(row(&request).len(), 9);
        assert!(row(&request)[8].ends_with("..."));
    }
}
