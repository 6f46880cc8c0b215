//! What the operator counts.
//!
//! Owns the names of its metrics. Touches nothing else. Invariant: labels are words of our own, never
//! names from objects, so that their number is bounded.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::controllers::pod_certificate;
use crate::derive::pod_certificate::because;

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

/// By kind of object and the reason that its condition gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByReason {
    kind: &'static str,
    reason: String,
}

/// By kind of object, condition type and status.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByCondition {
    kind: &'static str,
    condition: &'static str,
    status: &'static str,
}

/// The counters.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    reconciles: Family<ByOutcome, Counter>,
    durations: Family<ByKind, Histogram>,
    certificates: Family<ByOutcome, Counter>,
    requests: Family<ByOutcome, Counter>,
    writes: Family<ByKind, Counter>,
    refused: Family<ByReason, Counter>,
    convergence: Histogram,
    objects: Family<ByCondition, Gauge>,
    nearest_expiry: Family<ByKind, Gauge<f64, AtomicU64>>,
    overdue: Family<ByKind, Gauge>,
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
            refused: Family::default(),
            convergence: Histogram::new(exponential_buckets(0.01, 2.0, 14)),
            objects: Family::default(),
            nearest_expiry: Family::default(),
            overdue: Family::default(),
            authority_expiry: Gauge::default(),
            leading: Gauge::default(),
        };
        // There from the start: an alert asks for the increase, and the first denial has to be one.
        for reason in because::DENIED {
            drop(metrics.requests.get_or_create(&ByOutcome { kind: pod_certificate::KIND, outcome: reason }));
        }
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
        group.register(
            "certificates_refused",
            "Certificates that are not issued, by kind and reason",
            metrics.refused.clone(),
        );
        group.register(
            "renewals_overdue",
            "Certificates whose renewal is more than two minutes late",
            metrics.overdue.clone(),
        );
        group.register(
            "convergence_seconds",
            "From the news of a changed policy to its bundle running on every replica of a fleet that ran the one before",
            metrics.convergence.clone(),
        );
        group.register("objects", "Objects by kind, condition and its status", metrics.objects.clone());
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

    /// A certificate that is not issued.
    pub(crate) fn refused(&self, kind: &'static str, reason: &str) {
        self.refused.get_or_create(&ByReason { kind, reason: reason.to_owned() }).inc();
    }

    /// A change runs everywhere.
    pub(crate) fn converged(&self, seconds: f64) {
        self.convergence.observe(seconds);
    }

    /// How many objects stand how: by kind, condition type and status.
    pub(crate) fn stand(&self, standing: &BTreeMap<(&'static str, &'static str, &'static str), i64>) {
        self.objects.clear();
        for ((kind, condition, status), count) in standing {
            self.objects.get_or_create(&ByCondition { kind, condition, status }).set(*count);
        }
    }

    /// How it stands with the certificates of a kind: seconds until the first ends, and renewals that are late.
    pub(crate) fn certificates_stand(&self, kind: &'static str, nearest: Option<f64>, overdue: i64) {
        match nearest {
            Some(seconds) => drop(self.nearest_expiry.get_or_create(&ByKind { kind }).set(seconds)),
            // Without a certificate there is none that ends: nothing is told rather than nought.
            None => drop(self.nearest_expiry.remove(&ByKind { kind })),
        }
        self.overdue.get_or_create(&ByKind { kind }).set(overdue);
    }

    /// One write.
    pub(crate) fn wrote(&self, kind: &'static str) {
        self.writes.get_or_create(&ByKind { kind }).inc();
    }
}

#[cfg(test)]
mod tests {
    use sallyport_harness::monitoring;

    use super::*;

    /// Every metric, each with something in it, as Prometheus reads them.
    fn printed() -> String {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.reconciled("K", "ok", 0.1);
        metrics.issued("K", true);
        metrics.wrote("K");
        metrics.answered("K", "issued");
        metrics.refused("K", "NotOurs");
        metrics.converged(0.2);
        metrics.stand(&BTreeMap::from([(("K", "Ready", "True"), 3)]));
        metrics.certificates_stand("K", Some(60.0), 1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn another_parser_reads_every_metric() {
        let read = openmetrics_parser::openmetrics::parse_openmetrics(&printed()).unwrap();
        for (name, family) in &read.families {
            assert!(!family.help.is_empty() && family.iter_samples().next().is_some(), "{name}");
        }
    }

    #[test]
    fn the_first_denial_is_an_increase() {
        for reason in ["KeyReused", "PodMismatch", "InvalidRequest"] {
            let series = format!("signing_requests_total{{kind=\"PodCertificateRequest\",outcome=\"{reason}\"}} 0");
            assert!(printed().contains(&series), "{series}: {}", printed());
        }
    }

    #[test]
    fn what_alerts_and_panels_ask_for_exists() {
        monitoring::all_exist("sallyport_operator_", &printed()).unwrap();
    }
}
