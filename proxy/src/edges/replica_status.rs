//! This replica's entry in its target's status: which revision it runs, which roots it trusts, and
//! where its recording stands.
//!
//! Owns that one entry, under a field manager of its own. Touches the status of one `ProtectedTarget`.
//! Invariant: serving never waits for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use sallyport_crds::{ProtectedTarget, RecordingAnchor, ReplicaStatus};
use sallyport_policy::TargetRef;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::recordings::Recordings;
use crate::tls::ServerTls;

/// For one call.
const CALL: Duration = Duration::from_secs(10);
/// The first pause after a failure, doubled up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Without any change it is said again this often: somebody may have removed the entry.
const AGAIN: Duration = Duration::from_secs(300);
/// How often a recording that grew is anchored. Each anchor is a write that the target's watchers see.
const ANCHOR: Duration = Duration::from_secs(30);

/// Writes the entry of this replica.
#[derive(Clone)]
pub(crate) struct Answer {
    targets: Api<ProtectedTarget>,
    target: String,
    pod: String,
    recordings: Arc<Recordings>,
    tls: Arc<ServerTls>,
}

impl Answer {
    pub(crate) fn new(
        client: Client,
        target: TargetRef,
        pod: String,
        recordings: Arc<Recordings>,
        tls: Arc<ServerTls>,
    ) -> Self {
        Self { targets: Api::namespaced(client, &target.namespace), target: target.name, pod, recordings, tls }
    }

    /// Tells every revision that comes, the newest only, until it is written; and the recording as it grows.
    pub(crate) async fn follow(self, mut running: watch::Receiver<Option<String>>) -> Infallible {
        let (mut pause, mut said) = (PAUSE.0, ReplicaStatus::default());
        let (mut silent_since, mut renewals) = (Instant::now(), self.tls.renewals());
        loop {
            renewals.mark_unchanged();
            let revision = running.borrow_and_update().clone();
            let entry = revision.map(|revision| self.entry(revision, &said));
            let wait = match entry {
                None => AGAIN,
                Some(entry) if entry == said && silent_since.elapsed() < AGAIN => ANCHOR,
                Some(entry) => match self.apply(&entry).await {
                    Ok(()) => {
                        self.note_anchored(&entry);
                        (pause, said, silent_since) = (PAUSE.0, entry, Instant::now());
                        ANCHOR
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
            if let Ok(Err(_)) = timeout(wait, news).await {
                // Whoever told of revisions is gone: the process ends.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The last word: where the recording ends.
    pub(crate) async fn end(self, revision: String) {
        if let Err(cause) = self.apply(&self.entry(revision, &ReplicaStatus::default())).await {
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

    async fn apply(&self, entry: &ReplicaStatus) -> Result<(), String> {
        let pod = &self.pod;
        let object = json!({
            "apiVersion": ProtectedTarget::api_version(&()),
            "kind": ProtectedTarget::kind(&()),
            "metadata": { "name": self.target },
            "status": { "replicas": [entry] },
        });
        // Names of field managers have 128 characters at most; the end of a pod's name is what differs.
        let manager = format!("sallyport-proxy-{}", pod.get(pod.len().saturating_sub(100)..).unwrap_or(pod));
        let parameters = PatchParams::apply(&manager).force();
        match timeout(CALL, self.targets.patch_status(&self.target, &parameters, &Patch::Apply(object))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {CALL:?}")),
        }
    }
}
