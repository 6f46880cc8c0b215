//! What the operator counts.
//!
//! Owns the names of its metrics. Touches nothing else. Invariant: labels are words of our own, never
//! names from objects, so that their number is bounded.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// By kind of object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByKind {
    kind: &'static str,
}

/// By kind of object and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByOutcome {
    kind: &'static str,
    outcome: &'static str,
}

/// The counters.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    reconciles: Family<ByOutcome, Counter>,
    durations: Family<ByKind, Histogram>,
    certificates: Family<ByOutcome, Counter>,
    requests: Family<ByOutcome, Counter>,
    writes: Family<ByKind, Counter>,
    /// Seconds until the certificate that ends first does.
    pub(crate) nearest_expiry: Gauge<f64, AtomicU64>,
    /// Seconds until the authority ends.
    pub(crate) authority_expiry: Gauge<f64, AtomicU64>,
    /// 1 while this process holds the lease.
    pub(crate) leading: Gauge,
}

impl Metrics {
    /// All metrics, in `registry`.
    #[must_use]
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 14))),
            certificates: Family::default(),
            requests: Family::default(),
            writes: Family::default(),
            nearest_expiry: Gauge::default(),
            authority_expiry: Gauge::default(),
            leading: Gauge::default(),
        };
        let group = registry.sub_registry_with_prefix("sallyport_operator");
        group.register("reconciles", "Reconciles, by kind and outcome", metrics.reconciles.clone());
        group.register("reconcile_duration_seconds", "Time a reconcile took", metrics.durations.clone());
        group.register(
            "certificates_issued",
            "Certificates issued, by kind; first or renewed",
            metrics.certificates.clone(),
        );
        group.register(
            "signing_requests",
            "Requests for certificates of others' keys that were answered, by kind and reason",
            metrics.requests.clone(),
        );
        group.register("writes", "Objects and statuses written, by kind", metrics.writes.clone());
        group.register(
            "nearest_certificate_expiry_seconds",
            "Until the first agent certificate ends",
            metrics.nearest_expiry.clone(),
        );
        group.register("authority_expiry_seconds", "Until the authority ends", metrics.authority_expiry.clone());
        group.register("leading", "1 while this replica holds the lease", metrics.leading.clone());
        metrics
    }

    /// One reconcile.
    pub(crate) fn reconciled(&self, kind: &'static str, outcome: &'static str, seconds: f64) {
        self.reconciles.get_or_create(&ByOutcome { kind, outcome }).inc();
        self.durations.get_or_create(&ByKind { kind }).observe(seconds);
    }

    /// One certificate.
    pub(crate) fn issued(&self, kind: &'static str, first: bool) {
        let outcome = if first { "first" } else { "renewed" };
        self.certificates.get_or_create(&ByOutcome { kind, outcome }).inc();
    }

    /// One request for a certificate, answered: a word for issued, or the reason of the denial.
    pub(crate) fn answered(&self, kind: &'static str, outcome: &'static str) {
        self.requests.get_or_create(&ByOutcome { kind, outcome }).inc();
    }

    /// One write.
    pub(crate) fn wrote(&self, kind: &'static str) {
        self.writes.get_or_create(&ByKind { kind }).inc();
    }
}
