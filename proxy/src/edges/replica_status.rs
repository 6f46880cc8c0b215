//! This replica's entry in its target's status: which revision it runs, which roots it trusts, and
//! where its recording stands.
//!
//! Owns that one entry. Touches the status of one `ProtectedTarget`. Invariants: serving never waits for it; nobody
//! else's entry is written, wherever they have moved since.
//!
//! By position, and not by server-side apply: every field manager is an entry in the object's metadata, which each write
//! of each replica has the API server read, merge and write back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use sallyport_crds::{ProtectedTarget, RecordingAnchor, ReplicaStatus};
use sallyport_policy::TargetRef;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::recordings::Recordings;
use crate::tls::ServerTls;

/// One for all replicas: whose entry it is stands in it.
const MANAGER: &str = "sallyport-proxy";
/// For one word, however many calls it takes.
const CALL: Duration = Duration::from_secs(10);
/// The first pause after a failure, doubled up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Without any change it is said again this often: somebody may have removed the entry.
const AGAIN: Duration = Duration::from_secs(300);
/// How often a recording that grew is anchored, at most and in a fleet of up to thirty. Each anchor is a write that
/// the target's watchers see.
const ANCHOR: Duration = Duration::from_secs(30);
/// What one entry of the fleet adds to the time over which its replicas answer a change, and anchor. All write the same
/// object: those who write at the same moment make the API server begin anew, each as often as there are others.
const TURN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Writes the entry of this replica.
#[derive(Clone)]
pub(crate) struct Answer {
    targets: Api<ProtectedTarget>,
    target: String,
    pod: String,
    recordings: Arc<Recordings>,
    tls: Arc<ServerTls>,
    /// Where this replica's entry was when last seen.
    position: Option<usize>,
    /// How many entries there were then.
    fleet: u32,
}

impl Answer {
    pub(crate) fn new(
        client: Client,
        target: TargetRef,
        pod: String,
        recordings: Arc<Recordings>,
        tls: Arc<ServerTls>,
    ) -> Self {
        Self {
            targets: Api::namespaced(client, &target.namespace),
            target: target.name,
            pod,
            recordings,
            tls,
            position: None,
            fleet: 0,
        }
    }

    /// Tells every revision that comes, the newest only, until it is written; and the recording as it grows.
    pub(crate) async fn follow(mut self, mut running: watch::Receiver<Option<String>>) -> Infallible {
        let (mut pause, mut said) = (PAUSE.0, ReplicaStatus::default());
        let (mut silent_since, mut renewals) = (Instant::now(), self.tls.renewals());
        loop {
            renewals.mark_unchanged();
            let revision = running.borrow_and_update().clone();
            let entry = revision.map(|revision| self.entry(revision, &said));
            let wait = match entry {
                None => AGAIN,
                Some(entry) if entry == said && silent_since.elapsed() < AGAIN => self.until_the_next_anchor(),
                Some(entry) => match self.tell(&entry).await {
                    Ok(()) => {
                        self.note_anchored(&entry);
                        (pause, said, silent_since) = (PAUSE.0, entry, Instant::now());
                        self.until_the_next_anchor()
                    }
                    Err(cause) => {
                        tracing::warn!(entry.revision, %cause, "this replica's status cannot be written yet");
                        pause = (pause * 2).min(PAUSE.1);
                        pause
                    }
                },
            };
            let news = async {
                tokio::select! {
                    told = running.changed() => told,
                    // The sender is in `self`.
                    _ = renewals.changed() => Ok(()),
                }
            };
            match timeout(wait, news).await {
                // Time for an anchor, or for another try.
                Err(_) => {}
                // All of the fleet hear it in the same moment.
                Ok(Ok(())) => sleep((TURN.0 * self.fleet).mul_f64(rand::random())).await,
                // Whoever told of revisions is gone: the process ends.
                Ok(Err(_)) => std::future::pending::<()>().await,
            }
        }
    }

    fn until_the_next_anchor(&self) -> Duration {
        ANCHOR.max(TURN.1 * self.fleet).mul_f64(f64::midpoint(rand::random(), 1.0))
    }

    /// The last word: where the recording ends.
    pub(crate) async fn end(mut self, revision: String) {
        let entry = self.entry(revision, &ReplicaStatus::default());
        if let Err(cause) = self.tell(&entry).await {
            tracing::warn!(%cause, "the end of the recording could not be anchored");
        }
    }

    /// What is anchored may be removed later, if that is what the target says.
    fn note_anchored(&self, entry: &ReplicaStatus) {
        let anchored = entry.recording.as_ref().and_then(|anchor| u64::try_from(anchor.records).ok());
        self.recordings.note_anchored(anchored.unwrap_or(0));
    }

    fn entry(&self, revision: String, said: &ReplicaStatus) -> ReplicaStatus {
        let since = said.observed_at.clone().filter(|_| said.revision == revision);
        let head = self.recordings.anchor();
        let recording = head.map(|(run, records, hash)| RecordingAnchor {
            run: run.to_owned(),
            records: i64::try_from(records).unwrap_or(i64::MAX),
            hash,
        });
        let observed_at = since.or_else(|| Some(Time(Timestamp::now())));
        ReplicaStatus { pod: self.pod.clone(), revision, trust: Some(self.tls.trust()), observed_at, recording }
    }

    async fn tell(&mut self, entry: &ReplicaStatus) -> Result<(), String> {
        match timeout(CALL, self.write(entry)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {CALL:?}")),
        }
    }

    async fn write(&mut self, entry: &ReplicaStatus) -> kube::Result<()> {
        // Where it was the last time, it mostly still is.
        if let Some(position) = self.position {
            match self.patch(replace(position, entry)).await {
                Err(kube::Error::Api(status)) if status.is_invalid() => tracing::debug!("the entries have moved"),
                written => return written,
            }
        }
        let target = self.targets.get(&self.target).await?;
        self.look(&target);
        let steps = match self.position {
            Some(position) => replace(position, entry),
            None => append(&target, entry),
        };
        self.patch(steps).await
    }

    async fn patch(&mut self, steps: Value) -> kube::Result<()> {
        let patch: Patch<ProtectedTarget> =
            Patch::Json(serde_json::from_value(steps).map_err(kube::Error::SerdeError)?);
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.position = None;
        let written = self.targets.patch_status(&self.target, &parameters, &patch).await?;
        self.look(&written);
        Ok(())
    }

    fn look(&mut self, target: &ProtectedTarget) {
        let entries = target.status.as_ref().map_or(&[][..], |status| &status.replicas);
        self.position = entries.iter().position(|entry| entry.pod == self.pod);
        self.fleet = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        // What those have left that are not among them is for the others to look after.
        self.recordings.note_fleet(entries.iter().map(|entry| entry.pod.clone()).collect());
    }
}

/// Writes over the entry at a position, if it is still this replica's.
fn replace(position: usize, entry: &ReplicaStatus) -> Value {
    let path = format!("/status/replicas/{position}");
    json!([
        { "op": "test", "path": format!("{path}/pod"), "value": entry.pod },
        { "op": "replace", "path": path, "value": entry },
    ])
}

/// Adds the entry. Where there is no list yet it becomes one, if that is still so.
fn append(target: &ProtectedTarget, entry: &ReplicaStatus) -> Value {
    let (path, value) = match &target.status {
        Some(status) if !status.replicas.is_empty() => {
            return json!([{ "op": "add", "path": "/status/replicas/-", "value": entry }]);
        }
        Some(_) => ("/status/replicas", json!([entry])),
        None => ("/status", json!({ "replicas": [entry] })),
    };
    json!([
        { "op": "test", "path": "/metadata/resourceVersion", "value": target.metadata.resource_version },
        { "op": "add", "path": path, "value": value },
    ])
}
