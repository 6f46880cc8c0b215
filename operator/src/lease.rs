//! One leader at a time, by a `Lease`.
//!
//! Owns the lease's renewal. Touches the API server and the clock. Invariant: a process that could not
//! renew in time has stopped leading before another may begin. (kube-lease-manager keeps on leading while
//! the API server is away, hence these lines.)

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep, timeout};

use crate::fence::Fence;

/// How long a lease counts after its last renewal.
const DURATION: Duration = Duration::from_secs(15);
/// The holder gives up when it could not renew for this long; with one more pause and request it has ended before
/// the others may take the lease.
const GIVE_UP: Duration = Duration::from_secs(8);
/// Writes are held back this long after the last renewal, whatever else this process has noticed by then.
const FENCED: Duration = Duration::from_secs(12);
/// Pause between renewals.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause between looks of those who wait; the last look comes when the lease lapses. What was renewed just before the
/// holder died is seen that much later, and counts from then.
const LOOK: Duration = Duration::from_secs(1);
/// A little more than nothing.
const TICK: Duration = Duration::from_millis(50);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The lease.
pub(crate) struct Leadership {
    api: Api<Lease>,
    name: String,
    holder: String,
    /// What was last seen of another holder, and since when by our own clock: clocks of two machines are
    /// never compared.
    seen: Option<(Lease, Instant)>,
    fence: Fence,
}

impl Leadership {
    /// The lease `name`, for `holder`.
    #[must_use]
    pub(crate) fn new(client: Client, namespace: &str, name: &str, holder: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.to_owned(), holder: holder.to_owned(), seen: None, fence: Fence::default() }
    }

    /// What holds writes back once the lease may be another's.
    #[must_use]
    pub(crate) fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Waits until this process leads.
    pub(crate) async fn acquire(&mut self) {
        loop {
            let started = Instant::now();
            match timeout(PATIENCE, self.attempt()).await {
                Ok(Ok(true)) => return self.fence.open_until(started + FENCED),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "lease not read or written, trying again"),
                Err(_) => tracing::warn!("lease not read or written in time, trying again"),
            }
            sleep(self.until_next_look()).await;
        }
    }

    fn until_next_look(&self) -> Duration {
        let lapses = self.seen.as_ref().map_or(LOOK, |(_, since)| (DURATION + TICK).saturating_sub(since.elapsed()));
        lapses.clamp(TICK, LOOK)
    }

    /// Renews until that fails for too long or another holds the lease; then the process must end.
    pub(crate) async fn hold(&mut self) {
        self.renew().await;
        self.fence.close();
    }

    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(PAUSE).await;
            let started = Instant::now();
            match timeout(PATIENCE, self.attempt()).await {
                Ok(Ok(true)) => {
                    renewed = started;
                    self.fence.open_until(started + FENCED);
                }
                Ok(Ok(false)) => return tracing::error!("another process holds the lease"),
                Ok(Err(error)) => tracing::warn!(%error, "lease not renewed, trying again"),
                Err(_) => tracing::warn!("lease not renewed in time, trying again"),
            }
            if renewed.elapsed() > GIVE_UP {
                return tracing::error!("the lease could not be renewed for {GIVE_UP:?}");
            }
        }
    }

    /// Lets the next one begin at once.
    pub(crate) async fn release(&self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.holder)) {
                spec.holder_identity = None;
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        if !matches!(timeout(PATIENCE, released).await, Ok(Ok(()))) {
            tracing::warn!("lease not released: the next leader waits {DURATION:?}");
        }
    }

    /// Takes or renews the lease if that is allowed; says whether it is ours now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(found) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.claim(None)) };
            return written(self.api.create(&PostParams::default(), &lease).await);
        };
        let holder =
            found.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()).filter(|holder| !holder.is_empty());
        let free = holder.is_none() || self.has_lapsed(&found);
        if !free && holder != Some(&self.holder) {
            return Ok(false);
        }
        let lease = Lease { spec: Some(self.claim(found.spec.as_ref())), ..found };
        // With the version that was read: of two who try, one gets a conflict.
        written(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn has_lapsed(&mut self, found: &Lease) -> bool {
        let unchanged =
            self.seen.as_ref().filter(|(seen, _)| seen.metadata.resource_version == found.metadata.resource_version);
        match unchanged {
            Some((_, since)) => since.elapsed() > DURATION,
            None => {
                self.seen = Some((found.clone(), Instant::now()));
                false
            }
        }
    }

    fn claim(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let held = before.filter(|spec| spec.holder_identity.as_ref() == Some(&self.holder));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: held.map_or(now.clone(), |spec| spec.acquire_time.clone()),
            renew_time: now,
            lease_transitions: Some(transitions + i32::from(held.is_none() && before.is_some())),
            ..LeaseSpec::default()
        }
    }
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leadership").field("name", &self.name).field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// A conflict means that another was faster.
fn written(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}
