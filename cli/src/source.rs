//! What is in force, from the cluster or from files.
//!
//! Owns how a world comes together for a question. Touches files, and the cluster through [`crate::cluster`].
//! Invariant: bundle and roster are read by the code of the proxy, which refuses what it does not understand.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use sallyport_policy::{Bundle, IdentityName, Member, Roster, Session, SessionFacts, World};
use sallyport_proxy::read_roster;

use crate::arguments::{AgentName, WorldFiles};

/// Bytes of a file of ours at most.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Bundle and roster from files, where they are given.
pub(crate) fn world_in_files(files: &WorldFiles) -> anyhow::Result<Option<World>> {
    let (Some(bundle), Some(roster)) = (&files.bundle, &files.roster) else { return Ok(None) };
    let named = |flag: &str, path: &Path| format!("{flag} {}", path.display());
    let bundle = Bundle::read(&text_of(bundle)?).with_context(|| named("--bundle", bundle))?;
    let roster =
        read_roster(&text_of(roster)?).map_err(anyhow::Error::msg).with_context(|| named("--roster", roster))?;
    Ok(Some(world(bundle, roster)))
}

/// A world of these two.
pub(crate) fn world(bundle: Bundle, roster: Roster) -> World {
    World { bundle: Arc::new(bundle), roster: Arc::new(roster), generation: 1 }
}

/// A session of that agent as it would be now: with its newest certificate, from where it is bound to.
pub(crate) fn session(
    world: &World,
    agent: &AgentName,
    credential: &str,
    facts: SessionFacts,
) -> anyhow::Result<Session> {
    let identity = IdentityName::new(&world.bundle.trust_domain, &agent.namespace, &agent.name)
        .with_context(|| format!("--agent {agent}: these are no names of a namespace and an AgentIdentity"))?;
    let member = world.roster.member(&agent.namespace, &agent.name);
    // The agent's own name names no credential, as at the gate.
    let credential = if credential == agent.name { "default" } else { credential };
    Ok(Session {
        identity,
        not_before: i64::MAX,
        uid: member.and_then(|member| member.uid.clone()),
        address: member.and_then(|member| member.addresses.as_ref()?.first().copied()),
        credential: credential.to_owned(),
        facts,
    })
}

/// A roster of one.
pub(crate) fn roster_of(members: impl IntoIterator<Item = Member>) -> Roster {
    let mut roster = Roster::default();
    members.into_iter().for_each(|member| roster.insert(member));
    roster
}

/// The text of a file, `-` for standard input.
pub(crate) fn text_of(path: &Path) -> anyhow::Result<String> {
    let unreadable = || format!("{} cannot be read", path.display());
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(LONGEST + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).with_context(unreadable)?.take(LONGEST + 1).read_to_string(&mut text)
    };
    read.with_context(unreadable)?;
    anyhow::ensure!(text.len() as u64 <= LONGEST, "{} has more than {LONGEST} bytes", path.display());
    Ok(text)
}
