//! What is counted, and how it is exposed.
//!
//! Owns every metric and its name. Touches nothing outside; [`crate::admin`] prints them. Invariant: labels
//! come from a closed set, never from what a client sent.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sallyport_core::ports::{Event, Meter};

type Labels = [(&'static str, &'static str); 1];
type Named = [(&'static str, String); 1];

/// What can be refused from outside.
const INPUTS: [&str; 4] = ["bundle", "roster", "tls", "upstream-ca"];

/// Every metric of the proxy.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    accepted: Counter,
    refused: Family<Labels, Counter>,
    shed: Family<Labels, Counter>,
    open: Gauge,
    opened: Counter,
    commands: Family<Labels, Counter>,
    binding: Family<Labels, Counter>,
    observed: Family<Labels, Counter>,
    limits: Family<Labels, Counter>,
    records_lost: Counter,
    recordings_waiting: Gauge,
    inputs_refused: Family<Labels, Counter>,
    bundle: Family<Named, Gauge>,
    age: Family<Labels, Gauge<f64, AtomicU64>>,
    last_known_good: Gauge,
    certificate_left: Gauge<f64, AtomicU64>,
    in_force: Family<Labels, Histogram>,
    revocation: Histogram,
}

/// What the world in force is, for whoever reads metrics.
pub(crate) struct WorldFacts {
    /// Revision of the bundle.
    pub(crate) revision: Option<String>,
    /// Seconds since the bundle was last known to be the newest.
    pub(crate) bundle_age: Option<f64>,
    /// Seconds since the roster was last known to be the newest.
    pub(crate) roster_age: Option<f64>,
    /// Whether part of it comes from before this process started.
    pub(crate) last_known_good: bool,
    /// Seconds until the server's certificate ends.
    pub(crate) certificate_left: Option<f64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("sallyport_proxy");
        let metrics = Self {
            accepted: Counter::default(),
            refused: Family::default(),
            shed: Family::default(),
            open: Gauge::default(),
            opened: Counter::default(),
            commands: Family::default(),
            binding: Family::default(),
            observed: Family::default(),
            limits: Family::default(),
            records_lost: Counter::default(),
            recordings_waiting: Gauge::default(),
            inputs_refused: Family::default(),
            bundle: Family::default(),
            age: Family::default(),
            last_known_good: Gauge::default(),
            certificate_left: Gauge::default(),
            in_force: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0001, 2.0, 14))),
            revocation: Histogram::new([1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0]),
            registry: Registry::default(),
        };
        let m = &metrics;
        // There from the start: an alert asks for the increase, and the first refusal has to be one.
        for at in ["opening", "session"] {
            drop(m.binding.get_or_create(&[("at", at)]));
        }
        for input in INPUTS {
            drop(m.inputs_refused.get_or_create(&[("input", input)]));
        }
        registry.register("connections_accepted", "Connections accepted", m.accepted.clone());
        registry.register("connections_refused", "Connections refused before a session, by blame", m.refused.clone());
        registry.register("connections_shed", "Connections closed at once for want of room, by cause", m.shed.clone());
        registry.register("sessions_open", "Sessions open now", m.open.clone());
        registry.register("sessions_opened", "Sessions opened", m.opened.clone());
        registry.register("commands", "Commands judged, by verdict", m.commands.clone());
        let help = "Sessions from outside their identity's binding: refused at the opening, or ended later";
        registry.register("binding_refused", help, m.binding.clone());
        let help =
            "Commands that would have been judged otherwise if the policies that observe enforced, by that verdict";
        registry.register("commands_observed", help, m.observed.clone());
        let help = "Sessions, commands and answers that a limit of a policy stopped, by limit";
        registry.register("limits_reached", help, m.limits.clone());
        registry.register("records_lost", "Records that could not be written", m.records_lost.clone());
        let help = "Recordings that are closed and not in the store yet";
        registry.register("recordings_waiting", help, m.recordings_waiting.clone());
        let help = "Bundles, rosters and certificates that could not be used, so that the former stays";
        registry.register("inputs_refused", help, m.inputs_refused.clone());
        registry.register("bundle_info", "The bundle in force, by revision", m.bundle.clone());
        let help = "Seconds since bundle and roster were last known to be the newest";
        registry.register("age_seconds", help, m.age.clone());
        let help = "1 while bundle or roster are those kept from before this process started";
        registry.register("last_known_good", help, m.last_known_good.clone());
        let help = "Until the certificate that agents are met with ends";
        registry.register("server_certificate_expiry_seconds", help, m.certificate_left.clone());
        let help = "From the receipt of a changed bundle or roster to it being in force";
        registry.register("change_in_force_seconds", help, m.in_force.clone());
        let help = "From the write of a suspension or revocation to it being in force here; the API server dates writes \
                    in whole seconds, so that up to one is told too much";
        registry.register("revocation_seconds", help, m.revocation.clone());
        Self { registry, ..metrics }
    }

    /// A connection was closed at once.
    pub(crate) fn shed(&self, cause: &'static str) {
        self.shed.get_or_create(&[("cause", cause)]).inc();
    }

    /// So many files are not in the store yet.
    pub(crate) fn recordings_waiting(&self, files: usize) {
        self.recordings_waiting.set(i64::try_from(files).unwrap_or(i64::MAX));
    }

    /// Something from outside could not be used.
    pub(crate) fn input_refused(&self, kind: &'static str) {
        self.inputs_refused.get_or_create(&[("input", kind)]).inc();
    }

    /// A changed bundle or roster is in force, so long after it came.
    pub(crate) fn in_force(&self, of: &'static str, took: Duration) {
        self.in_force.get_or_create(&[("of", of)]).observe(took.as_secs_f64());
    }

    /// A suspension or revocation is in force, so long after it was written.
    pub(crate) fn revoked(&self, took: Duration) {
        self.revocation.observe(took.as_secs_f64());
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn print(&self, facts: WorldFacts) -> Result<String, std::fmt::Error> {
        self.bundle.clear();
        if let Some(revision) = facts.revision {
            self.bundle.get_or_create(&[("revision", revision)]).set(1);
        }
        for (of, age) in [("bundle", facts.bundle_age), ("roster", facts.roster_age)] {
            if let Some(age) = age {
                self.age.get_or_create(&[("of", of)]).set(age);
            }
        }
        self.last_known_good.set(facts.last_known_good.into());
        if let Some(left) = facts.certificate_left {
            self.certificate_left.set(left);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Meter for Metrics {
    fn count(&self, event: Event) {
        match event {
            Event::Accepted => drop(self.accepted.inc()),
            Event::Refused(blame) => drop(self.refused.get_or_create(&[("blame", blame)]).inc()),
            Event::Opened => {
                self.opened.inc();
                self.open.inc();
                crate::listen::handshake_is_over();
            }
            Event::Closed => drop(self.open.dec()),
            Event::Allowed => drop(self.commands.get_or_create(&[("verdict", "allow")]).inc()),
            Event::Denied => drop(self.commands.get_or_create(&[("verdict", "deny")]).inc()),
            Event::Asked => drop(self.commands.get_or_create(&[("verdict", "ask")]).inc()),
            Event::OutsideBinding(at) => drop(self.binding.get_or_create(&[("at", at)]).inc()),
            Event::WouldHave(verdict) => drop(self.observed.get_or_create(&[("verdict", verdict)]).inc()),
            Event::Limited(limit) => drop(self.limits.get_or_create(&[("limit", limit)]).inc()),
            Event::RecordLost => drop(self.records_lost.inc()),
        }
    }
}

#[cfg(test)]
mod tests {
    use sallyport_harness::monitoring;

    use super::*;

    /// Every metric, each with something in it, as Prometheus reads them.
    fn printed() -> String {
        let metrics = Metrics::new();
        for event in [Event::Accepted, Event::Refused("client"), Event::Allowed, Event::Denied, Event::RecordLost] {
            metrics.count(event);
        }
        metrics.count(Event::WouldHave("deny"));
        metrics.count(Event::Limited("commandsPerMinute"));
        metrics.shed("room");
        metrics.input_refused("tls");
        metrics.in_force("roster", Duration::from_millis(1));
        metrics.revoked(Duration::from_secs(1));
        let facts = WorldFacts {
            revision: Some("abc".into()),
            bundle_age: Some(1.0),
            roster_age: Some(2.0),
            last_known_good: false,
            certificate_left: Some(60.0),
        };
        metrics.print(facts).unwrap()
    }

    #[test]
    fn another_parser_reads_every_metric() {
        let read = openmetrics_parser::openmetrics::parse_openmetrics(&printed()).unwrap();
        for (name, family) in &read.families {
            assert!(!family.help.is_empty() && family.iter_samples().next().is_some(), "{name}");
        }
    }

    #[test]
    fn what_alerts_and_panels_ask_for_exists() {
        monitoring::all_exist("sallyport_proxy_", &printed()).unwrap();
    }

    #[test]
    fn the_first_of_what_pages_somebody_is_an_increase() {
        let untouched = Metrics::new();
        let facts = WorldFacts {
            revision: None,
            bundle_age: None,
            roster_age: None,
            last_known_good: false,
            certificate_left: None,
        };
        let text = untouched.print(facts).unwrap();
        for series in
            ["binding_refused_total{at=\"opening\"} 0", "records_lost_total 0", "inputs_refused_total{input=\"tls\"} 0"]
        {
            assert!(text.contains(&format!("sallyport_proxy_{series}")), "{series}: {text}");
        }
    }
}
