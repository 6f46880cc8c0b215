//! `ProtectedTarget`: the fleet it should have, and what to tell about it.
//!
//! Owns that decision. Touches nothing. Invariant: a fleet that would verify less than the object says
//! is never wanted; what cannot be resolved leaves the running fleet as it is.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use sallyport_crds::conditions::{self, ACCEPTED, Finding, PROGRAMMED, READY, ok, reason};
use sallyport_crds::{AccessPolicy, ProtectedTarget, ProtectedTargetStatus, RecordingAnchor};
use sallyport_policy::{Bundle, Mask};

use super::certificate::{self, Facts, Held, Names, Plan, Wanted};
use super::children::{self, Child};
use super::refs::References;
use super::{Settings, compile, names, recording, refs};

/// How long a fleet's server certificate is valid; agents' own are shorter, this one is re-read by every replica.
const SERVER_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Anchors of recordings that are kept; the schema allows no more.
const ANCHORS: usize = 64;

/// All that a target's plan depends on.
#[derive(Debug, Clone)]
pub struct TargetView<'a> {
    /// The target.
    pub target: &'a ProtectedTarget,
    /// Policies of its namespace, in any order.
    pub policies: Vec<&'a AccessPolicy>,
    /// What the Secrets and ConfigMaps it names hold.
    pub references: References,
    /// What the Secret of the fleet's server certificate holds.
    pub server: Held,
    /// The fleet as it is.
    pub fleet: Fleet,
    /// Objects of the fleet's names that exist and belong to somebody else (`Service orders-db`).
    pub foreign: Vec<String>,
}

/// The fleet as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Names of its pods, without those that are being deleted.
    pub pods: BTreeSet<String>,
    /// Replicas that accept sessions.
    pub ready: i32,
    /// Names of the volumes that its Deployment mounts already, with what they hold.
    pub mounted: BTreeSet<(String, String)>,
}

/// What is to be done about one target.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetPlan {
    /// The objects it should have, in the order they are to be written.
    pub children: Vec<Child>,
    /// What to do with the fleet's server certificate.
    pub server: Option<Plan>,
    /// Some mask hangs on a key: there has to be one.
    pub needs_mask_key: bool,
    /// What to tell, except the replicas' own entries.
    pub status: ProtectedTargetStatus,
    /// Replicas that have an entry and are gone.
    pub departed: Vec<String>,
    /// How long nothing changes by itself.
    pub again: Option<Duration>,
}

impl Fleet {
    /// What a Deployment and the pods of its target say.
    #[must_use]
    pub fn of(deployment: Option<&Deployment>, pods: BTreeSet<String>) -> Self {
        let ready = deployment.and_then(|d| d.status.as_ref()).and_then(|status| status.ready_replicas).unwrap_or(0);
        let mounted = deployment.map(children::mounted).unwrap_or_default();
        Self { pods, ready, mounted }
    }
}

/// The plan for a target.
#[must_use]
pub fn plan(view: &TargetView<'_>, settings: &Settings, now: Timestamp) -> TargetPlan {
    let target = view.target;
    if let Err(message) = acceptable(target) {
        return rejected(view, &message, now);
    }
    let bundle = compile::bundle(target, view.policies.iter().copied(), settings);
    let json = bundle.to_json();
    let fits = json.len() <= compile::LARGEST;
    let server = certificate::plan(&view.server, &server_wanted(target, settings), now);

    let mut wanted = children::foundations(target);
    wanted.extend(fits.then(|| children::bundle(target, json)));
    wanted.extend(children::deployment(target, settings, &view.references, &view.fleet.mounted));
    wanted.extend(children::frontage(target));

    let findings = findings(view, &bundle, fits, &server);
    let before = target.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let status = ProtectedTargetStatus {
        endpoint: Some(endpoint(target, settings)),
        ready_replicas: Some(view.fleet.ready),
        bundle_revision: Some(bundle.revision.clone()),
        replicas: Vec::new(),
        recordings: recordings(view),
        attached_policies: Some(i32::try_from(bundle.policies.len()).unwrap_or(i32::MAX)),
        conditions: conditions::settle(before, findings, target.metadata.generation, &Time(now)),
    };
    let sound = view.foreign.is_empty() && refs::finding(target, &view.references).holds;
    let again = again(&server, sound, now);
    let needs_mask_key = bundle.policies.iter().flat_map(|policy| &policy.masks).any(Mask::needs_key);
    TargetPlan { children: wanted, server: Some(server), needs_mask_key, status, departed: departed(view), again }
}

/// Whether the fleet may be made: its pods trust whatever roots are in the Secret of its certificate, so the Secret has
/// to be ours before the first of them mounts it. A fleet that is there goes on.
#[must_use]
pub fn may_mount(view: &TargetView<'_>) -> bool {
    let is_there = !view.fleet.mounted.is_empty();
    let sound = |facts: &Facts| facts.from_our_authority && facts.key_matches && facts.trust_is_current;
    is_there || matches!(&view.server, Held::Certificate(facts) if sound(facts))
}

/// Whether every replica of `target` runs `bundle`, as a finding.
#[must_use]
pub fn programmed(target: &ProtectedTarget, bundle: &Bundle, fleet: &Fleet) -> Finding {
    let answers = target.status.as_ref().map_or(&[][..], |status| &status.replicas);
    let runs = |pod: &String| answers.iter().any(|entry| entry.pod == *pod && entry.revision == bundle.revision);
    let (current, all) = (fleet.pods.iter().filter(|pod| runs(pod)).count(), fleet.pods.len());
    let revision = &bundle.revision;
    if all == 0 {
        Finding::no(PROGRAMMED, reason::NO_REPLICAS, "the fleet has no replicas yet")
    } else if current < all {
        Finding::no(PROGRAMMED, reason::PENDING, format!("{current} of {all} replicas run revision {revision}"))
    } else {
        Finding::yes(PROGRAMMED, ok::PROGRAMMED, format!("every replica runs revision {revision}"))
    }
}

/// What the schema refuses as well; an object from before a rule was written may still have it.
fn acceptable(target: &ProtectedTarget) -> Result<(), String> {
    recording::acceptable(&target.spec.recording)?;
    compile::fleet_terms(&target.spec.proxy)?;
    let mut seen = BTreeSet::new();
    match target.spec.credentials.iter().find(|credential| !seen.insert(&credential.name)) {
        Some(twice) => Err(format!("credentials: {} is listed twice", twice.name)),
        None => Ok(()),
    }
}

/// Nothing is written for a target that is not accepted; what runs for it keeps its last good configuration.
fn rejected(view: &TargetView<'_>, message: &str, now: Timestamp) -> TargetPlan {
    let target = view.target;
    let before = target.status.clone().unwrap_or_default();
    let findings = vec![
        Finding::no(ACCEPTED, reason::INVALID, message),
        refs::finding(target, &view.references),
        Finding::no(PROGRAMMED, reason::INVALID, "a target that is not accepted is not programmed"),
        Finding::no(READY, reason::INVALID, message),
    ];
    let conditions = conditions::settle(&before.conditions, findings, target.metadata.generation, &Time(now));
    let status = ProtectedTargetStatus { conditions, replicas: Vec::new(), recordings: recordings(view), ..before };
    TargetPlan {
        children: Vec::new(),
        server: None,
        needs_mask_key: false,
        status,
        departed: departed(view),
        again: None,
    }
}

fn findings(view: &TargetView<'_>, bundle: &Bundle, fits: bool, server: &Plan) -> Vec<Finding> {
    let accepted = Finding::yes(ACCEPTED, ok::ACCEPTED, "the spec is valid");
    let resolved = refs::finding(view.target, &view.references);
    let programmed = if fits {
        programmed(view.target, bundle, &view.fleet)
    } else {
        let message = "the policies come to more than a ConfigMap holds: the last bundle that fitted stays in force";
        Finding::no(PROGRAMMED, reason::BUNDLE_TOO_LARGE, message)
    };
    let mut foreign = view.foreign.clone();
    if *server == Plan::Blocked {
        foreign.push(format!("Secret {}", names::server_secret(&view.target.name_any())));
    }
    let ready = if !foreign.is_empty() {
        let message =
            format!("{} exists and belongs to somebody else: delete it, or rename the target", foreign.join(", "));
        Finding::no(READY, reason::NOT_OURS, message)
    } else if let Some(fault) = [&accepted, &resolved, &programmed].into_iter().find(|finding| !finding.holds) {
        Finding::no(READY, fault.reason, fault.message.clone())
    } else if view.fleet.ready == 0 {
        Finding::no(READY, reason::NO_REPLICAS, "no replica accepts sessions yet")
    } else {
        Finding::yes(READY, ok::READY, "agents can connect")
    };
    vec![accepted, resolved, programmed, ready]
}

fn departed(view: &TargetView<'_>) -> Vec<String> {
    let entries = view.target.status.iter().flat_map(|status| &status.replicas);
    entries.filter(|entry| !view.fleet.pods.contains(&entry.pod)).map(|entry| entry.pod.clone()).collect()
}

/// Anchors outlive their replicas: recordings on a volume are checked against them later.
fn recordings(view: &TargetView<'_>) -> Vec<RecordingAnchor> {
    let Some(status) = &view.target.status else { return Vec::new() };
    let gone = status.replicas.iter().filter(|entry| !view.fleet.pods.contains(&entry.pod));
    let mut kept = status.recordings.clone();
    for anchor in gone.filter_map(|entry| entry.recording.as_ref()) {
        match kept.iter_mut().find(|kept| kept.run == anchor.run) {
            // A last word that came late knows more.
            Some(kept) if kept.records < anchor.records => kept.clone_from(anchor),
            Some(_) => {}
            None => kept.push(anchor.clone()),
        }
    }
    kept.split_off(kept.len().saturating_sub(ANCHORS))
}

fn server_wanted(target: &ProtectedTarget, settings: &Settings) -> Wanted {
    let (name, namespace) = (target.name_any(), target.namespace().unwrap_or_default());
    let mut dns = vec![
        name.clone(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.{}", settings.cluster_domain),
    ];
    dns.sort();
    let created = target.metadata.creation_timestamp.as_ref().map(|time| time.0);
    Wanted {
        uid: None,
        key_algorithm: sallyport_crds::KeyAlgorithm::EcdsaP256,
        names: Names { uris: Vec::new(), dns },
        lifetime: SERVER_LIFETIME,
        renew_before: SERVER_LIFETIME / 3,
        not_before: certificate::earliest(created, None),
        since: settings.since,
    }
}

fn endpoint(target: &ProtectedTarget, settings: &Settings) -> String {
    let (name, namespace) = (target.name_any(), target.namespace().unwrap_or_default());
    format!("{name}.{namespace}.svc.{}:{}", settings.cluster_domain, target.spec.proxy.port)
}

fn again(server: &Plan, sound: bool, now: Timestamp) -> Option<Duration> {
    // What a target names is read, not watched: nothing watches all Secrets of a cluster.
    let recheck = Duration::from_secs(if sound { 300 } else { 10 });
    let renewal = match server {
        Plan::Keep { renewal, .. } => certificate::until(*renewal, now),
        Plan::Issue(_) => Duration::ZERO,
        Plan::Blocked | Plan::OnRequest { .. } => Duration::from_secs(30),
    };
    Some(recheck.min(renewal))
}
