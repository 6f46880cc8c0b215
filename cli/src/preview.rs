//! `preview`: which verdicts on what was recorded a draft would change.
//!
//! Owns the comparison. Touches recordings, files or the cluster, and a writer. Invariants: both sides are judged by
//! the same code on the same facts, the policies in force beside the draft, so that what differs is the draft alone; the
//! same input gives the same answer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::time::SystemTime;

use anyhow::Context;
use sallyport_policy::{Action, Bundle, Denial, Fact, IdentityName, Member, Roster, Session, SessionFacts, World};
use sallyport_postgres::sql::without_constants;
use sallyport_postgres::{Rehearsal, session_facts};
use sallyport_proxy::shown;
use serde::Serialize;

use crate::Answer;
use crate::arguments::{AgentName, Output, PreviewArguments, Reach};
use crate::cluster::Cluster;
use crate::draft::{self, Drafted};
use crate::recordings::{Entry, Recordings};
use crate::ruled::Ruled;
use crate::source;
use crate::told::clock;

/// What a preview found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Preview {
    target: String,
    revision: String,
    draft_revision: String,
    /// What the author of the draft should know.
    notes: Vec<String>,
    sessions: u64,
    commands: u64,
    /// Openings and commands whose verdict would change.
    changed: u64,
    /// Same verdict, by another rule.
    by_another_rule: u64,
    /// The policies in force do not say what was recorded: they, or an identity, have changed since.
    recorded_otherwise: u64,
    /// Left out: of agents that are no more, of other targets, or of sessions whose opening is not recorded.
    left_out: u64,
    /// Lines that are no record.
    torn: u64,
    changes: Vec<Change>,
    /// Whether some rule has a condition, so that it matters when something was recorded.
    #[serde(skip)]
    conditional: bool,
}

/// One verdict that would change, with how often.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    times: u64,
    #[serde(flatten)]
    case: Case,
    /// When it was recorded first: conditions are judged by that time.
    time: String,
    /// One of the texts, as it was recorded first; absent with the statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Case {
    agent: String,
    credential: String,
    /// Without its constants, where they can be told. Absent: the opening of a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<String>,
    was: Ruled,
    would: Ruled,
}

/// Answers `sallyport preview`.
pub(crate) async fn run(reach: &Reach, arguments: &PreviewArguments, out: &mut impl Write) -> anyhow::Result<Answer> {
    let mut policies = Vec::new();
    for file in &arguments.file {
        policies.extend(draft::read(&source::text_of(file)?).with_context(|| file.display().to_string())?);
    }
    anyhow::ensure!(
        !policies.is_empty() || !arguments.without.is_empty(),
        "nothing to preview: give --file with a draft, or --without POLICY"
    );
    let mut notes = Vec::new();
    let (bundle, roster, recordings) = match source::world_in_files(&arguments.files)? {
        Some(world) => {
            let recordings = Recordings::of(reach, &arguments.from).await?;
            ((*world.bundle).clone(), (*world.roster).clone(), recordings)
        }
        None => {
            let named = arguments.from.target.clone().or_else(|| draft::only_target(&policies));
            let target = named.context("name the ProtectedTarget: the draft is about several, or about none")?;
            let cluster = Cluster::reach(reach).await?;
            let bundle = cluster.bundle(&target).await?;
            for policy in &policies {
                notes.extend(cluster.would_take(policy).await?);
            }
            let recordings = match &arguments.from.records_dir {
                Some(_) => Recordings::of(reach, &arguments.from).await?,
                None => Recordings::copied(&cluster, &target, arguments.from.keep.as_deref()).await?,
            };
            let mut roster = Roster::default();
            for namespace in namespaces_in(&recordings, &bundle)? {
                cluster.members(&namespace).await?.into_iter().for_each(|member| roster.insert(member));
            }
            (bundle, roster, recordings)
        }
    };
    let mut drafted = draft::drafted(&bundle, &policies, &arguments.without)?;
    drafted.notes.extend(notes);
    let preview = compare(bundle, drafted, roster, &recordings)?;
    match arguments.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&preview)?)?,
        Output::Text => tell(&preview, arguments.most, out)?,
    }
    Ok(if preview.changed == 0 { Answer::Yes } else { Answer::No })
}

/// The namespaces of the agents that were there.
fn namespaces_in(recordings: &Recordings, bundle: &Bundle) -> anyhow::Result<BTreeSet<String>> {
    let mut namespaces = BTreeSet::new();
    recordings.each(|entry| {
        if entry.event == "open"
            && let Ok(identity) = IdentityName::parse(&entry.agent, &bundle.trust_domain)
        {
            namespaces.insert(identity.namespace().to_owned());
        }
        Ok(())
    })?;
    Ok(namespaces)
}

/// The two worlds, and what comes of holding them side by side.
struct Comparison {
    now: World,
    draft: World,
    /// A session of the target that nothing has happened in.
    blank: Rehearsal,
    open: BTreeMap<String, Open>,
    preview: Preview,
    /// How often, and the time and text of the first.
    cases: BTreeMap<Case, (u64, String, Option<String>)>,
}

/// A recorded session.
struct Open {
    session: Session,
    rehearsal: Rehearsal,
    /// The command that people were asked about last: their answer is recorded under its number.
    waiting: Option<u64>,
}

fn compare(bundle: Bundle, drafted: Drafted, roster: Roster, recordings: &Recordings) -> anyhow::Result<Preview> {
    let blank = Rehearsal::new(&bundle.upstream.settings).map_err(anyhow::Error::msg)?;
    let preview = Preview {
        target: format!("{}/{}", bundle.target.namespace, bundle.target.name),
        revision: bundle.revision.clone(),
        draft_revision: drafted.bundle.revision.clone(),
        notes: drafted.notes,
        conditional: [&bundle, &drafted.bundle].into_iter().any(has_conditions),
        ..Preview::default()
    };
    let roster = source::roster_of(roster.members.into_values().map(in_good_standing));
    let (now, draft) = (source::world(bundle, roster.clone()), source::world(drafted.bundle, roster));
    let mut comparison = Comparison { now, draft, blank, open: BTreeMap::new(), preview, cases: BTreeMap::new() };
    let torn = recordings.each(|entry| {
        comparison.take(&entry);
        Ok(())
    })?;
    let Comparison { mut preview, cases, .. } = comparison;
    preview.torn = torn;
    let change = |(case, (times, time, text))| Change { times, case, time, text };
    preview.changes = cases.into_iter().map(change).collect();
    // The most frequent first; what is as frequent stays in the order of its case.
    preview.changes.sort_by_key(|change| std::cmp::Reverse(change.times));
    Ok(preview)
}

fn has_conditions(bundle: &Bundle) -> bool {
    bundle.policies.iter().flat_map(|policy| &policy.rules).any(|rule| rule.when.is_some())
}

/// A draft of policies changes nothing of these, so they must not hide what it does change.
fn in_good_standing(member: Member) -> Member {
    Member { suspended: false, min_not_before: i64::MIN, uid: None, addresses: None, ..member }
}

impl Comparison {
    fn take(&mut self, entry: &Entry) {
        match entry.event.as_str() {
            // Conditions are judged by it: without it nothing could be said.
            "open" | "command" if clock(&entry.time).is_none() => self.preview.left_out += 1,
            "open" => self.opening(entry),
            "command" => self.command(entry),
            "close" => drop(self.open.remove(&entry.session)),
            _ => {}
        }
    }

    fn opening(&mut self, entry: &Entry) {
        let Some(session) = self.session(entry) else {
            self.preview.left_out += 1;
            return;
        };
        self.preview.sessions += 1;
        self.judge(&session, entry, None, &Ok(Action::none()));
        // A session that was turned away has no commands.
        if entry.verdict.as_deref() != Some("deny") {
            self.open.insert(entry.session.clone(), Open { session, rehearsal: self.blank.another(), waiting: None });
        }
    }

    fn session(&self, entry: &Entry) -> Option<Session> {
        if entry.target != self.preview.target {
            return None;
        }
        let identity = IdentityName::parse(&entry.agent, &self.now.bundle.trust_domain).ok()?;
        self.now.roster.member(identity.namespace(), identity.name())?;
        let agent = AgentName { namespace: identity.namespace().to_owned(), name: identity.name().to_owned() };
        let fact = |name: &str| entry.facts.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let started = clock(&entry.time).map(SystemTime::from);
        let facts = SessionFacts {
            started: started.map_or(Fact::Unknown, Fact::Known),
            ..session_facts(fact("database"), fact("application"))
        };
        let session = source::session(&self.now, &agent, &entry.credential, facts).ok()?;
        let client = entry.client.as_ref().and_then(|client| client.parse::<SocketAddr>().ok());
        Some(Session { address: client.map(|client| client.ip()), ..session })
    }

    fn command(&mut self, entry: &Entry) {
        let Some(mut open) = self.open.remove(&entry.session) else {
            self.preview.left_out += 1;
            return;
        };
        let answered = open.waiting.is_some() && open.waiting == entry.command;
        open.waiting = entry.command.filter(|_| entry.verdict.as_deref() == Some("ask"));
        self.preview.commands += u64::from(!answered);
        match open.rehearsal.query(&entry.text) {
            Ok(rehearsed) => {
                if !answered {
                    self.judge(&open.session, entry, Some(&entry.text), &rehearsed.action);
                }
                // What follows is judged as the session went on then: by what really ran.
                if entry.verdict.as_deref() == Some("allow") && open.rehearsal.ran(rehearsed).is_err() {
                    open.rehearsal = self.blank.another();
                }
            }
            Err(fault) => {
                let denied = Err(Denial::not_understood(fault.to_string()));
                self.judge(&open.session, entry, Some(&entry.text), &denied);
                open.rehearsal = self.blank.another();
            }
        }
        self.open.insert(entry.session.clone(), open);
    }

    fn judge(&mut self, session: &Session, entry: &Entry, text: Option<&str>, action: &Result<Action, Denial>) {
        let time = clock(&entry.time).map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
        let was = Ruled::on(&self.now, session, time, action);
        let would = Ruled::on(&self.draft, session, time, action);
        if entry.verdict.as_deref().is_some_and(|recorded| recorded != was.verdict.to_string()) {
            self.preview.recorded_otherwise += 1;
        }
        if was.verdict == would.verdict {
            let moved = (&was.policy, &was.rule) != (&would.policy, &would.rule);
            self.preview.by_another_rule += u64::from(moved);
            return;
        }
        self.preview.changed += 1;
        let (agent, credential) = (session.identity.to_string(), session.credential.clone());
        let statement = text.map(|text| without_constants(text).unwrap_or_else(|| text.to_owned()));
        let case = Case { agent, credential, statement, was, would };
        let first = || (0, entry.time.clone(), text.map(str::to_owned));
        let (times, ..) = self.cases.entry(case).or_insert_with(first);
        *times += 1;
    }
}

fn tell(preview: &Preview, most: usize, out: &mut impl Write) -> anyhow::Result<()> {
    let Preview { target, revision, draft_revision, sessions, commands, changed, .. } = preview;
    writeln!(out, "{target}: bundle {revision} -> {draft_revision}")?;
    for note in &preview.notes {
        writeln!(out, "note: {}", shown(note))?;
    }
    writeln!(out, "{commands} commands of {sessions} sessions judged by both: {changed} verdicts would change")?;
    let mut ways: BTreeMap<String, u64> = BTreeMap::new();
    for Change { times, case, .. } in &preview.changes {
        *ways.entry(format!("{} -> {}", case.was.verdict, case.would.verdict)).or_default() += times;
    }
    for (way, times) in ways {
        writeln!(out, "  {way}: {times}")?;
    }
    for (count, what) in [
        (preview.by_another_rule, "verdicts would stay, by another rule"),
        (preview.recorded_otherwise, "were recorded with another verdict than the policies in force give now"),
        (
            preview.left_out,
            "records were left out: of agents that are no more, of other targets, or without their session's opening",
        ),
        (preview.torn, "lines are no record"),
    ] {
        if count > 0 {
            writeln!(out, "{count} {what}")?;
        }
    }
    for Change { times, case, time, text } in preview.changes.iter().take(most) {
        let Case { agent, credential, statement, was, would } = case;
        writeln!(out, "\n{times} x {} -> {}  {} as {}", was.verdict, would.verdict, shown(agent), shown(credential))?;
        writeln!(out, "    now   {} by {}", was.verdict, shown(&was.by()))?;
        writeln!(out, "    draft {} by {}", would.verdict, shown(&would.by()))?;
        if preview.conditional {
            writeln!(out, "    first at {}", shown(time))?;
        }
        match statement {
            Some(statement) => quote(statement, out)?,
            None => writeln!(out, "    (a session that opens)")?,
        }
        if let Some(text) = text.as_ref().filter(|text| Some(*text) != statement.as_ref()) {
            writeln!(out, "    for one:")?;
            quote(text, out)?;
        }
    }
    if preview.changes.len() > most {
        writeln!(out, "\nand {} more: --most, or -o json", preview.changes.len() - most)?;
    }
    Ok(())
}

fn quote(text: &str, out: &mut impl Write) -> std::io::Result<()> {
    text.split('\n').try_for_each(|line| writeln!(out, "    | {}", shown(line)))
}
