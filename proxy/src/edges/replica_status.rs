//! This replica's entry in its target's status: which revision it runs.
//!
//! Owns that one entry, under a field manager of its own. Touches the status of one `ProtectedTarget`.
//! Invariant: serving never waits for it.

use std::convert::Infallible;
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use sallyport_crds::ProtectedTarget;
use sallyport_policy::TargetRef;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

/// For one call.
const CALL: Duration = Duration::from_secs(10);
/// The first pause after a failure, doubled up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Without any change it is said again this often: somebody may have removed the entry.
const AGAIN: Duration = Duration::from_secs(300);

/// Answers every revision that comes, the newest only, until it is written.
pub(crate) async fn answer(
    client: Client,
    target: TargetRef,
    pod: String,
    mut running: watch::Receiver<Option<String>>,
) -> Infallible {
    let targets: Api<ProtectedTarget> = Api::namespaced(client, &target.namespace);
    let mut pause = PAUSE.0;
    loop {
        let revision = running.borrow_and_update().clone();
        let wait = match revision {
            None => AGAIN,
            Some(revision) => match apply(&targets, &target.name, &pod, &revision).await {
                Ok(()) => {
                    pause = PAUSE.0;
                    AGAIN
                }
                Err(cause) => {
                    tracing::warn!(revision, %cause, "this replica's status cannot be written yet");
                    pause = (pause * 2).min(PAUSE.1);
                    pause
                }
            },
        };
        if let Ok(Err(_)) = timeout(wait, running.changed()).await {
            // Whoever told of revisions is gone: the process ends.
            std::future::pending::<()>().await;
        }
    }
}

async fn apply(targets: &Api<ProtectedTarget>, name: &str, pod: &str, revision: &str) -> Result<(), String> {
    let entry = json!({
        "apiVersion": ProtectedTarget::api_version(&()),
        "kind": ProtectedTarget::kind(&()),
        "metadata": { "name": name },
        "status": { "replicas": [{ "pod": pod, "revision": revision }] },
    });
    // Names of field managers have 128 characters at most; the end of a pod's name is what differs.
    let manager = format!("sallyport-proxy-{}", pod.get(pod.len().saturating_sub(100)..).unwrap_or(pod));
    let parameters = PatchParams::apply(&manager).force();
    match timeout(CALL, targets.patch_status(name, &parameters, &Patch::Apply(entry))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {CALL:?}")),
    }
}
