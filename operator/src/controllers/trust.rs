//! Keeps the authority in force what the CA's Secret says.
//!
//! Owns that loop. Touches the API server: reads the one Secret. Invariant: a Secret that cannot be used
//! whole changes nothing; it is told, and the last good authority goes on.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::Api;
use kube::runtime::events::{Event, EventType};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Context, DEADLINE};
use crate::bell::Bell;
use crate::fault::Fault;
use crate::issue::Authority;

/// Looked at again after this without a waking: an authority may end by itself.
const RECHECK: Duration = Duration::from_secs(300);

/// Where the CA's Secret is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) secret: String,
}

impl Place {
    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(self.secret.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectReference::default()
        }
    }
}

pub(crate) async fn run(context: Arc<Context>, bell: Bell, rung: Arc<Notify>, stop: CancellationToken) {
    let (mut failures, mut told) = (0, None);
    loop {
        let result = tokio::time::timeout(DEADLINE, reconcile(&context, &bell, &mut told))
            .await
            .unwrap_or(Err(Fault::Deadline(DEADLINE)));
        let pause = match result {
            Ok(()) => {
                failures = 0;
                RECHECK
            }
            Err(fault) => {
                tracing::warn!(%fault, "the CA Secret was not read, trying again");
                failures += 1;
                fault.pause(failures)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = rung.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Takes what the Secret says into force; `told` is the fault that was told last.
async fn reconcile(context: &Context, bell: &Bell, told: &mut Option<String>) -> Result<(), Fault> {
    let place = &context.ca;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &place.namespace);
    let current = context.authority();
    let read = match api.get_opt(&place.secret).await? {
        Some(secret) => Authority::read(&secret, context.now()).map_err(|error| (error.word(), error.to_string())),
        None => Err(("CADeleted", "it was deleted".to_owned())),
    };
    match read {
        Ok(authority) => {
            *told = None;
            if authority.bundle() != current.bundle() || authority.facts() != current.facts() {
                let facts = authority.facts().clone();
                context.trust.replace(authority);
                tracing::info!(fingerprint = facts.fingerprint, not_after = %facts.not_after, "another authority is in force");
                tell(context, EventType::Normal, "InForce", format!("authority {} is in force", facts.serial)).await;
                bell.everything();
            }
        }
        Err((_, fault)) if told.as_ref() == Some(&fault) => {}
        // A word for each fault: events of one reason are counted, not told again.
        Err((word, fault)) => {
            tracing::error!(
                secret = place.secret,
                fault,
                "the CA Secret cannot be used, the authority read before stays"
            );
            let note = format!("{fault}; the authority read before stays in force");
            tell(context, EventType::Warning, word, note).await;
            *told = Some(fault);
        }
    }
    Ok(())
}

async fn tell(context: &Context, type_: EventType, reason: &str, note: String) {
    let note = Some(note.chars().take(900).collect());
    let event = Event { type_, reason: reason.to_owned(), note, action: "Trust".to_owned(), secondary: None };
    context.publish_at(&context.ca.reference(), &event).await;
}
