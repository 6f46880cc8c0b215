//! Writes of a leader that may not be one any more are held back.
//!
//! Owns a client that refuses to write once the lease may have passed to another. Touches a monotonic clock.
//! Invariant: a process that stood still (a stopped container, a suspended machine) writes nothing when it goes on,
//! not even in the moment before it has looked at the lease.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use tokio::time::Instant;

/// Until when this process leads, as far as it knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fence(Arc<Mutex<Option<Instant>>>);

/// A write was held back.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("this operator does not lead any more: nothing is written")]
pub(crate) struct NotLeading;

impl Fence {
    /// Leads until then.
    pub(crate) fn open_until(&self, end: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// Does not lead any more.
    pub(crate) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn check(&self, method: &Method) -> Result<(), NotLeading> {
        let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let leads = end.is_some_and(|end| Instant::now() < end);
        if leads || *method == Method::GET { Ok(()) } else { Err(NotLeading) }
    }

    /// `client`, with this fence before its writes.
    pub(crate) fn around(&self, client: Client) -> Client {
        let (fence, namespace) = (self.clone(), client.default_namespace().to_owned());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (fence, client) = (fence.clone(), client.clone());
            async move {
                fence.check(request.method())?;
                client.send(request).await.map_err(tower::BoxError::from)
            }
        });
        Client::new(service, namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn writes_pass_while_the_lease_is_held_and_reads_always() {
        let fence = Fence::default();
        assert!(fence.check(&Method::PATCH).is_err(), "before there was a lease");
        fence.open_until(Instant::now() + Duration::from_secs(60));
        assert!(fence.check(&Method::POST).is_ok());
        fence.close();
        assert!(fence.check(&Method::DELETE).is_err(), "after it was lost");
        fence.open_until(Instant::now());
        assert!(fence.check(&Method::POST).is_err(), "after the process stood still");
        assert!(fence.check(&Method::GET).is_ok());
    }
}
