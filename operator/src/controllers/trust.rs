//! Keeps the authority as it should be: rotates it, and exchanges what is in force in this process.
//!
//! Owns the order of steps: read, ask `derive`, one write, put in force, wake all. Touches the API server: the
//! CA's Secrets, statuses. Invariant: nothing is in force that is not written down before; what cannot be
//! used whole changes nothing and is told.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use sallyport_crds::conditions::reason;
use sallyport_crds::{Delivery, TrustDomain, TrustDomainStatus};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::target::fleet_of;
use super::{Context, DEADLINE};
use crate::bell::Bell;
use crate::derive::certificate::until;
use crate::derive::names::{self, FIELD_MANAGER};
use crate::derive::trust::{self, Given, Plan, Spread, Step, Wait};
use crate::derive::trust_domain::{self, Origin};
use crate::derive::{Settings, identity};
use crate::fault::Fault;
use crate::issue::AuthorityError;
use crate::issue::ledger::Ledger;
use crate::issue::material::Material;

pub(crate) const KIND: &str = "TrustDomain";

/// Where the CA's Secrets are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    /// What the flag names: made here, or given.
    pub(crate) secret: String,
}

/// What one process remembers of the authorities.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// What this process started with.
    started: Ledger,
    /// The ledger in force.
    ledger: Option<Ledger>,
    /// What was told last of what cannot be used.
    told: Option<String>,
    failures: u32,
}

/// Takes what is written down into force before anything is issued: another process may have led meanwhile.
pub(crate) async fn catch_up(context: &Context, started: Ledger, bell: &Bell) -> Keeper {
    let mut keeper = Keeper { started, ledger: None, told: None, failures: 0 };
    while keeper.ledger.is_none() {
        let pause = keeper.look(context, bell).await;
        if keeper.ledger.is_none() {
            tokio::time::sleep(pause).await;
        }
    }
    keeper
}

impl Keeper {
    pub(crate) async fn run(mut self, context: Arc<Context>, bell: Bell, rung: Arc<Notify>, stop: CancellationToken) {
        loop {
            let pause = self.look(&context, &bell).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = rung.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look within its deadline; how long to wait.
    async fn look(&mut self, context: &Context, bell: &Bell) -> Duration {
        let start = tokio::time::Instant::now();
        let result = tokio::time::timeout(DEADLINE, reconcile(context, bell, self)).await;
        let result = result.unwrap_or(Err(Fault::Deadline(DEADLINE)));
        let outcome = result.as_ref().err().map_or("ok", Fault::label);
        context.metrics.reconciled(KIND, outcome, start.elapsed().as_secs_f64());
        match result {
            Ok(pause) => {
                self.failures = 0;
                pause
            }
            Err(fault) => {
                tracing::warn!(%fault, "the authority was not looked after, trying again");
                self.failures += 1;
                fault.pause(self.failures)
            }
        }
    }
}

/// One look, one step at most; when to look again.
async fn reconcile(context: &Context, bell: &Bell, keeper: &mut Keeper) -> Result<Duration, Fault> {
    let now = context.now();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.ca.namespace);
    let found = Found::look(&secrets, &context.ca).await?;
    let domains = context.stores.trust_domains.state();
    let elected =
        trust_domain::elect(domains.iter().map(AsRef::as_ref), found.flagged_given(&context.ca), &context.settings());
    for (domain, why) in &elected.others {
        tell(context, domain, &trust_domain::refused(domain, why.clone(), now)).await?;
    }

    // What is written down, and what somebody else put beside it.
    let (ledger, edited) = keeper.written_down(found.ledger.as_ref(), now)?;
    let place = elected.origin.given.as_deref().unwrap_or(&found.name);
    let (given, taken) = match (&elected.origin.given, edited) {
        (Some(named), _) => {
            let secret = secrets.get_opt(named).await?;
            if *named == found.name || secret.as_ref().is_some_and(is_ours) {
                (Given::Unusable("NotGiven", format!("Secret {named} is the operator's own: name another")), None)
            } else {
                judged(named, secret.as_ref().map(|secret| Material::read(secret, now)))
            }
        }
        // Somebody put another authority where ours is written down: it is taken as given, in order.
        (None, Some(edited)) => judged(&found.name, Some(edited)),
        (None, None) => (Given::Generate, None),
    };

    let facts = ledger.facts();
    let mut plan = trust::plan(&facts, &given, &elected.wanted, &spread(context, &ledger)?, now);
    keeper.complain(context, &plan, place).await;
    let next = match &plan.step {
        Step::Keep => ledger,
        step @ (Step::Prepare(_) | Step::Replace(_)) if taken.is_none() => {
            ledger.after(step, Some(made(context, &elected.origin, now)?), now)
        }
        step => ledger.after(step, taken, now),
    };
    if plan.step != Step::Keep || found.ledger.is_none() {
        if let Err(fault) = write(&secrets, &found, &next).await {
            // Nothing has changed, and somebody has to know why.
            let Some(refusal) = fault.refusal(keeper.failures) else { return Err(fault) };
            let why = format!("Secret {} cannot be written: {}", found.name, refusal.said);
            plan.waits = Some((Wait::Unwritten(refusal.reason), why));
            keeper.complain(context, &plan, &found.name).await;
            tell_elected(context, elected.domain, &facts, &plan, now).await?;
            return Err(fault);
        }
        context.metrics.wrote("Secret");
        announce(context, &found.name, &plan.step, &next).await;
    }
    put_in_force(context, bell, &next)?;
    keeper.ledger = Some(next.clone());
    tell_elected(context, elected.domain, &next.facts(), &plan, now).await?;
    Ok(plan.again)
}

async fn tell_elected(
    context: &Context,
    domain: Option<&TrustDomain>,
    facts: &trust::Ledger,
    plan: &Plan,
    now: Timestamp,
) -> Result<(), Fault> {
    let Some(domain) = domain else { return Ok(()) };
    let trust = context.authority().trust_digest();
    let unpublished = context.unpublished.lock().unwrap_or_else(PoisonError::into_inner).clone();
    tell(context, domain, &trust_domain::status(domain, facts, plan, &unpublished, &trust, now)).await
}

/// The Secrets as they are.
struct Found {
    /// Where the authorities are written down, by name.
    name: String,
    ledger: Option<Secret>,
}

impl Found {
    /// A given Secret is never written: beside one, the authorities are written down in a Secret of their own.
    async fn look(secrets: &Api<Secret>, place: &Place) -> Result<Self, Fault> {
        let flagged = secrets.get_opt(&place.secret).await?;
        if flagged.as_ref().is_some_and(is_ours) {
            return Ok(Self { ledger: flagged, name: place.secret.clone() });
        }
        let name = format!("{}-state", place.secret);
        let ledger = secrets.get_opt(&name).await?;
        // One that was given before and was deleted is still a given one.
        let name = if flagged.is_none() && ledger.is_none() { place.secret.clone() } else { name };
        Ok(Self { name, ledger })
    }

    fn flagged_given<'a>(&self, place: &'a Place) -> Option<&'a str> {
        (self.name != place.secret).then_some(place.secret.as_str())
    }
}

impl Keeper {
    /// What is in force, and the authority that somebody put in its place.
    #[allow(clippy::type_complexity, reason = "two answers of one look")]
    fn written_down(
        &self,
        found: Option<&Secret>,
        now: Timestamp,
    ) -> Result<(Ledger, Option<Result<Material, AuthorityError>>), Fault> {
        let read = found.map(|secret| Ledger::read(secret, now));
        match (&self.ledger, read) {
            (None, Some(Ok(read))) => Ok((read, None)),
            // Led by this process from now on: what it read at its start is the last good.
            (None, Some(Err(error))) => Ok((self.started.clone(), Some(Err(error)))),
            (None, None) => Ok((self.started.clone(), None)),
            (Some(ours), None) => Ok((ours.clone(), None)),
            (Some(ours), Some(Err(error))) => Ok((ours.clone(), Some(Err(error)))),
            // Our own, also where the answer to the write was lost.
            (Some(ours), Some(Ok(read))) if ours.facts().leads_to(&read.facts()) => Ok((read, None)),
            (Some(ours), Some(Ok(_))) => Ok((ours.clone(), found.map(|secret| Material::read(secret, now)))),
        }
    }

    /// Tells once what somebody has to do.
    async fn complain(&mut self, context: &Context, plan: &Plan, secret: &str) {
        let what = match &plan.waits {
            None | Some((Wait::Pending, _)) => {
                self.told = None;
                return;
            }
            Some((Wait::Given(word), why)) => (*word, format!("{why}; the last good authority stays in force")),
            Some((Wait::Compromised, why)) => (reason::COMPROMISED, why.clone()),
            Some((Wait::NearItsEnd, why)) => (reason::NEAR_ITS_END, why.clone()),
            Some((Wait::Unwritten(word), why)) => (*word, why.clone()),
        };
        if self.told.as_ref() != Some(&what.1) {
            tracing::error!(secret, reason = what.0, cause = what.1, "the authority needs somebody");
            // A word for each fault: events of one reason are counted, not told again.
            publish(context, secret, EventType::Warning, what.0, what.1.clone()).await;
            self.told = Some(what.1);
        }
    }
}

/// The authority at the start, before anything is led: as written down, as given, or made.
///
/// # Errors
/// When there is one that cannot be used, or the API server does not answer.
pub(crate) async fn establish(
    client: &Client,
    place: &Place,
    settings: &Settings,
    now: Timestamp,
) -> anyhow::Result<Ledger> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &place.namespace);
    let domains: Api<TrustDomain> = Api::all(client.clone());
    let domains = domains.list(&ListParams::default()).await.context("TrustDomains cannot be listed")?.items;
    loop {
        let found = Found::look(&secrets, place).await?;
        if let Some(ledger) = &found.ledger {
            let named = || format!("CA Secret {}/{}", place.namespace, found.name);
            return Ledger::read(ledger, now).with_context(named);
        }
        let elected = trust_domain::elect(&domains, found.flagged_given(place), settings);
        let origin = elected.origin;
        let active = match &origin.given {
            Some(named) => {
                let secret = secrets.get_opt(named).await?;
                let secret = secret.with_context(|| format!("CA Secret {}/{named} does not exist", place.namespace))?;
                let named = || format!("CA Secret {}/{named}", place.namespace);
                Material::read(&secret, now).with_context(named)?
            }
            None => Material::make(&settings.trust_domain, origin.algorithm, origin.lifetime, now)?,
        };
        let ledger = Ledger::of(active);
        match write(&secrets, &found, &ledger).await {
            Ok(()) => return Ok(ledger),
            // Of two operators that find none, one makes it and the other reads it.
            Err(Fault::Api(kube::Error::Api(status))) if status.is_already_exists() => {}
            Err(fault) => return Err(fault.into()),
        }
    }
}

impl Place {
    fn reference(&self, name: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            ..ObjectReference::default()
        }
    }
}

fn is_ours(secret: &Secret) -> bool {
    secret.labels().get(names::MANAGED_BY).is_some_and(|value| value == names::SALLYPORT)
}

fn judged(name: &str, read: Option<Result<Material, AuthorityError>>) -> (Given, Option<Material>) {
    match read {
        Some(Ok(material)) => (Given::Usable(material.facts().clone()), Some(material)),
        Some(Err(error)) => (Given::Unusable(error.word(), format!("Secret {name}: {error}")), None),
        None => (Given::Unusable("CADeleted", format!("Secret {name} does not exist")), None),
    }
}

fn made(context: &Context, origin: &Origin, now: Timestamp) -> Result<Material, Fault> {
    Ok(Material::make(&context.settings().trust_domain, origin.algorithm, origin.lifetime, now)?)
}

/// Writes all of it at once: what the step takes out is taken out by the same write.
async fn write(secrets: &Api<Secret>, found: &Found, ledger: &Ledger) -> Result<(), Fault> {
    let Some(before) = &found.ledger else {
        let metadata =
            ObjectMeta { name: Some(found.name.clone()), labels: Some(names::managed()), ..ObjectMeta::default() };
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        secrets.create(&params, &ledger.secret(metadata)).await?;
        tracing::info!(secret = found.name, "the authority is written down");
        return Ok(());
    };
    let patch = json!({
        // With the version we looked at: a conflict if it changed since.
        "metadata": {"resourceVersion": before.resource_version()},
        "data": ledger.data(),
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    secrets.patch(&found.name, &params, &Patch::Merge(&patch)).await?;
    Ok(())
}

fn put_in_force(context: &Context, bell: &Bell, ledger: &Ledger) -> Result<(), Fault> {
    let (authority, current) = (ledger.authority()?, context.authority());
    if authority != *current {
        let facts = authority.facts();
        tracing::info!(
            fingerprint = facts.fingerprint,
            trust = authority.trust_digest(),
            "another authority is in force"
        );
        context.trust.replace(authority);
        bell.everything();
    }
    Ok(())
}

/// Who lacks roots, and whose certificates are still served with: from the stores, no Secret is read.
fn spread(context: &Context, ledger: &Ledger) -> Result<Spread, Fault> {
    // Not of what is in force in this process: another one may have written since.
    let (stores, trust, ledger) = (&context.stores, ledger.authority()?.trust_digest(), ledger.facts());
    let mut spread = Spread::default();
    let annotated = |namespace: &str, name: &str, uid: Option<&String>, key: &str| {
        let secret = stores.secrets.get(&ObjectRef::new(name).within(namespace))?;
        // A Secret that is not there, or not ours, is none that anybody trusts by.
        let ours = names::is_owned_by(&secret.metadata, uid?);
        ours.then(|| secret.annotations().get(key).cloned().unwrap_or_default())
    };
    for identity in stores.identities.state() {
        let spec = identity::duration("certificate.duration", &identity.spec.certificate.duration);
        let ends = identity.status.as_ref().and_then(|status| status.not_after.as_ref());
        let left = ends.map_or(Duration::ZERO, |end| until(end.0, context.now()));
        spread.longest_leaf = spread.longest_leaf.max(spec.unwrap_or_default()).max(left);
        let has_none = identity.spec.certificate.delivery == Delivery::PodCertificate;
        if ledger.next.is_none() || has_none || identity.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let (namespace, name) = (identity.namespace().unwrap_or_default(), names::identity_secret(&identity));
        let has = annotated(&namespace, &name, identity.metadata.uid.as_ref(), names::TRUST);
        if has.is_some_and(|has| has != trust) {
            spread.lacking.insert(format!("Secret {namespace}/{name}"));
        }
    }
    for target in stores.targets.state() {
        if ledger.next.is_none() && ledger.previous.is_empty() || target.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let (namespace, name) = (target.namespace().unwrap_or_default(), target.name_any());
        let (secret, uid) = (names::server_secret(&name), target.metadata.uid.as_ref());
        if annotated(&namespace, &secret, uid, names::TRUST).is_some_and(|has| has != trust) {
            spread.lacking.insert(format!("Secret {namespace}/{secret}"));
        }
        spread.serving.extend(annotated(&namespace, &secret, uid, names::ISSUER));
        let entries = target.status.as_ref().map_or(&[][..], |status| &status.replicas);
        let uses = |pod: &String| entries.iter().any(|it| it.pod == *pod && it.trust.as_ref() == Some(&trust));
        let pods = fleet_of(context, &namespace, &name).pods;
        let lacking = pods.into_iter().filter(|pod| !uses(pod));
        spread.lacking.extend(lacking.map(|pod| format!("Pod {namespace}/{pod}")));
    }
    Ok(spread)
}

/// Tells what was done.
async fn announce(context: &Context, secret: &str, step: &Step, ledger: &Ledger) {
    let facts = ledger.facts();
    let (word, note) = match step {
        Step::Keep => ("Restored", "it was deleted, and is written down again".to_owned()),
        Step::Prepare(because) => {
            let next = facts.next.map(|next| next.ca.serial).unwrap_or_default();
            ("RotationBegun", format!("{because}: the root of authority {next} is published"))
        }
        Step::Settle => ("RootPublished", "every replica and every Secret has the next root".to_owned()),
        Step::Promote(until) | Step::Exchange(until) => {
            let what = format!("authority {} signs; the one before is trusted until {until}", facts.active.serial);
            ("Rotated", what)
        }
        Step::Retire(_) => ("Retired", "authorities whose last leaf has ended are trusted no more".to_owned()),
        Step::Abandon(because) => ("RotationAbandoned", (*because).to_owned()),
        Step::Replace(because) => {
            ("Replaced", format!("{because}: authority {} signs, and nothing else is trusted", facts.active.serial))
        }
    };
    tracing::info!(secret, step = word, note, "the authority");
    publish(context, secret, EventType::Normal, word, note).await;
}

async fn publish(context: &Context, secret: &str, type_: EventType, word: &str, note: String) {
    let event = Event { type_, reason: word.to_owned(), note: Some(note), action: "Trust".to_owned(), secondary: None };
    context.publish_at(&context.ca.reference(secret), &event).await;
}

async fn tell(context: &Context, domain: &TrustDomain, status: &TrustDomainStatus) -> Result<(), Fault> {
    if domain.status.as_ref() == Some(status) || context.memory.is_behind(domain) {
        return Ok(());
    }
    let api: Api<TrustDomain> = Api::all(context.client.clone());
    let body = json!({
        "apiVersion": TrustDomain::api_version(&()), "kind": TrustDomain::kind(&()),
        // Nobody else writes it: a conflict when it changed, or was deleted and made again, since it was looked at.
        "metadata": {"name": domain.name_any(), "resourceVersion": domain.resource_version()},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = api.patch_status(&domain.name_any(), &params, &Patch::Apply(&body)).await?;
    context.metrics.wrote("TrustDomain/status");
    let before = domain.status.as_ref().map_or(&[][..], |status| &status.conditions);
    context.report(KIND, domain, before, &status.conditions).await;
    context.memory.wrote(domain, written.resource_version());
    Ok(())
}
