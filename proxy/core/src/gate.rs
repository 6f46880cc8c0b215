//! The gate: the only place where a decision becomes a permission.
//!
//! Owns `Granted`, `Refused` and `GrantedOpening`: no other module can make one, and only through one can
//! bytes reach the target. Touches the feed and the records. Invariants: the decision is made against the
//! world in force now; what must be recorded is recorded before the permission exists, and where it must be on disk
//! before it goes upstream, the permission lends the way behind the sluice.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use sallyport_policy::{
    Allowance, Ask, Denial, DenyReason, Durability, Fact, Mode, NotApproved, OnFailure, RecordingLevel, RuleRef,
    Session, SessionFacts, Terms, Upstream, Verdict, World, decide, is_outside_binding, masks, standing, terms,
};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::asking::Question;
use crate::fault::Fault;
use crate::feed::PolicyFeed;
use crate::hours::{Hours, Reading};
use crate::identify::Principal;
use crate::ports::{BoxedIo, Credential, Event as Count, Ports, RecordFault};
use crate::protocol::{Conversation, Described, Masking, Opening, Outcome, Transaction};
use crate::record::{Decision, Event, Record, WouldHave};
use crate::sessions::Registration;
use crate::shown::Part;
use crate::sluice::{Debt, PATIENCE, Sluice};
use crate::usage::Seat;

mod asking;
mod observing;

pub(crate) use self::asking::{Asked, Before, refusal as not_approved};

/// A command that may go upstream, with the way there.
///
/// Nothing outside this module can make one:
///
/// ```compile_fail,E0451
/// let mut upstream = bytes::BytesMut::new();
/// let forged = sallyport_core::Granted { command: "drop table orders", number: None, allowance: None, upstream: &mut upstream };
/// ```
#[derive(Debug)]
pub struct Granted<'u, C> {
    command: C,
    number: Option<u64>,
    allowance: Option<Arc<Allowance>>,
    upstream: &'u mut BytesMut,
}

impl<'u, C> Granted<'u, C> {
    /// How much its answer may have, where that is limited. Whoever takes the command answers for it.
    pub const fn allowance(&self) -> Option<&Arc<Allowance>> {
        self.allowance.as_ref()
    }

    /// The command, its number where an outcome is owed, and the buffer towards the target.
    pub fn into_parts(self) -> (C, Option<u64>, &'u mut BytesMut) {
        (self.command, self.number, self.upstream)
    }
}

/// A command that was refused. It lends a way to tell the target to fail in the same place, for which
/// only constants will do: no byte of the refused command can be among them.
#[derive(Debug)]
pub struct Refused<'u, C> {
    command: C,
    denial: Denial,
    upstream: &'u mut BytesMut,
}

impl<C> Refused<'_, C> {
    /// The command, to be dropped or answered.
    pub const fn command(&self) -> &C {
        &self.command
    }

    /// Why.
    pub const fn denial(&self) -> &Denial {
        &self.denial
    }

    /// Sends a constant to the target.
    pub fn send_constant(&mut self, bytes: &'static [u8]) {
        self.upstream.extend_from_slice(bytes);
    }
}

/// The way to the target, lent for one session.
#[derive(Debug, Clone)]
pub struct Way {
    ports: Ports,
    to: Upstream,
}

impl Way {
    /// The target, as the bundle describes it.
    #[must_use]
    pub const fn target(&self) -> &Upstream {
        &self.to
    }

    /// Opens a connection to the target.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn dial(&self) -> Result<BoxedIo, Fault> {
        self.ports.dialer.dial(&self.to).await.map_err(|error| {
            let logged = format!("{}:{} cannot be reached: {error}", self.to.host, self.to.port);
            Fault::upstream("the target cannot be reached", logged)
        })
    }

    /// Speaks TLS on it, if the bundle demands TLS; the caller sets the deadline.
    ///
    /// # Errors
    /// When the target's certificate does not prove what it must.
    pub async fn secure(&self, io: BoxedIo) -> Result<Result<TlsStream<BoxedIo>, BoxedIo>, Fault> {
        let told = "the target's certificate could not be verified";
        let tls = self.ports.dialer.tls(&self.to).map_err(|cause| Fault::internal(told, cause))?;
        let Some(tls) = tls else { return Ok(Err(io)) };
        let connector = tokio_rustls::TlsConnector::from(tls.config);
        let stream = connector.connect(tls.server_name, io).await;
        stream.map(Ok).map_err(|error| Fault::upstream(told, format!("tls with {}: {error}", self.to.host)))
    }

    /// Whether the bundle demands TLS.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.to.tls != sallyport_policy::TlsMode::Disable
    }
}

/// A session that may be opened, with the way to the target and its credential.
#[derive(Debug)]
pub struct GrantedOpening<P> {
    /// What the protocol noted of the client's wish.
    pub detail: P,
    way: Arc<Way>,
    credential: Credential,
    masking: Option<Arc<Masking>>,
}

impl<P> GrantedOpening<P> {
    /// The way to the target.
    #[must_use]
    pub const fn way(&self) -> &Arc<Way> {
        &self.way
    }

    /// The credential to log in with.
    #[must_use]
    pub const fn credential(&self) -> &Credential {
        &self.credential
    }

    /// What is masked in the session as it begins; [`Conversation::mask`] tells of it again before the first command.
    #[must_use]
    pub const fn masking(&self) -> Option<&Arc<Masking>> {
        self.masking.as_ref()
    }
}

/// What the gate decided about a command.
enum Ruling {
    /// Its number where an outcome is owed, and the record that must be on disk first.
    Granted(Option<u64>, Option<Debt>),
    Refused(Denial),
    Asked(Arc<Question>, Ask),
}

/// A command with what was decided about it.
pub(crate) enum Judged<'u, C> {
    Granted(Granted<'u, C>),
    Refused(Refused<'u, C>),
    /// People are to be asked.
    Asked(Asked<C>),
}

/// One session's gate.
pub(crate) struct Gate {
    feed: Arc<PolicyFeed>,
    ports: Ports,
    session: Session,
    hours: Hours,
    /// Those of the world of that generation, or of the last in which some policy applied.
    terms: (u64, Terms),
    /// Those of the world of that generation.
    masking: (u64, Option<Arc<Masking>>),
    /// What of them goes with each command.
    allowance: Option<Arc<Allowance>>,
    /// Whether some policy that could speak of it observes.
    observed: bool,
    /// What those would have made of the command that is being decided on.
    would_have: Option<WouldHave>,
    /// Its place among the agent's open sessions, from its opening on.
    seat: Option<Seat>,
    names: Names,
    sequence: u64,
    commands: u64,
    owed: VecDeque<Owed>,
    closed: bool,
    client: Option<SocketAddr>,
    /// Whether this session has been counted as one from outside its binding.
    outside: bool,
    /// The record of the opening, where the target must not be reached before it is on disk.
    debt: Option<Debt>,
}

/// A pod may come before the cluster knows the address that it comes from: its containers run as soon as the
/// node has started them. Waits until all that stands against the session is something else, or until `patience` is
/// over. Decides nothing: what comes next asks anew.
pub(crate) async fn await_binding(
    feed: &Arc<PolicyFeed>,
    principal: &Principal,
    client: Option<SocketAddr>,
    patience: Duration,
) {
    let session = session_of(principal, client, String::new(), SessionFacts::default());
    // Before the world is looked at: a change in between is not slept through.
    let mut changes = feed.subscribe();
    let arrived = async {
        while feed.load().as_deref().is_some_and(|world| is_outside_binding(world, &session)) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    let _in_time = timeout(patience, arrived).await;
}

fn session_of(principal: &Principal, client: Option<SocketAddr>, credential: String, facts: SessionFacts) -> Session {
    Session {
        identity: principal.identity.clone(),
        not_before: principal.not_before,
        uid: principal.uid.clone(),
        address: client.map(|client| client.ip()),
        credential,
        facts,
    }
}

/// An outcome that is owed to the records.
struct Owed {
    command: u64,
    since: Instant,
}

struct Names {
    session: String,
    agent: String,
    serial: String,
    target: String,
}

impl Gate {
    /// Decides whether a session may be opened, and records that.
    pub(crate) fn open<P>(
        feed: &Arc<PolicyFeed>,
        ports: &Ports,
        registration: &Registration,
        principal: &Principal,
        client: Option<SocketAddr>,
        opening: Opening<P>,
    ) -> Result<(Self, GrantedOpening<P>), Fault> {
        let world = feed
            .current()
            .ok_or_else(|| Fault::internal("this proxy has no policy yet: try again", "no bundle or roster yet"))?;
        let credential = match opening.credential {
            crate::protocol::Credential::User(user) if user != principal.identity.name() => user,
            _ => "default".to_owned(),
        };
        let facts = SessionFacts { started: Fact::Known(ports.clock.now()), ..opening.known };
        let target = &world.bundle.target;
        let mut gate = Self {
            feed: Arc::clone(feed),
            ports: ports.clone(),
            session: session_of(principal, client, credential, facts),
            hours: Hours { opened: Instant::now(), not_after: at(principal.not_after) },
            terms: (0, Terms::default()),
            masking: (0, None),
            allowance: None,
            observed: false,
            would_have: None,
            seat: None,
            names: Names {
                session: registration.id.to_string(),
                agent: principal.identity.to_string(),
                serial: principal.serial.clone(),
                target: format!("{}/{}", target.namespace, target.name),
            },
            sequence: 0,
            commands: 0,
            owed: VecDeque::new(),
            // Until it is open there is nothing to close.
            closed: true,
            client,
            outside: false,
            debt: None,
        };
        gate.take_terms(&world);
        let may = standing(&world, &gate.session).and_then(|()| gate.in_time(&world, principal));
        let refused = may.and_then(|()| gate.take_seat(registration)).err();
        let reason = refused.as_ref().map(ToString::to_string);
        let credential = gate.session.credential.clone();
        let decision = Decision {
            verdict: if refused.is_some() { "deny" } else { "allow" },
            policy: refused.as_ref().and_then(Denial::policy),
            rule: None,
            reason: reason.as_deref(),
            revision: &world.bundle.revision,
            request: None,
            answered_by: &[],
            would_have: None,
        };
        let event = Event::Open { client, credential: &credential, facts: &opening.facts, decision };
        let recorded = match refused {
            None => gate.record_first(&world, event).map(|debt| gate.debt = debt),
            Some(_) => gate.record(event),
        };
        if let Some(denial) = refused {
            gate.mark_outside(&denial, "opening");
            gate.mark_limit(&denial);
            return Err(Fault::Policy(denial));
        }
        if world.bundle.recording.level != RecordingLevel::None {
            recorded.map_err(|_| Fault::Policy(DenyReason::NoRoomToRecord.into()))?;
        }
        gate.closed = false;
        let told = "the target's credential is not available to this proxy";
        let credential = match ports.vault.credential(&gate.session.credential) {
            Ok(credential) => credential,
            Err(cause) => {
                gate.close(told);
                return Err(Fault::internal(told, cause));
            }
        };
        let way = Arc::new(Way { ports: ports.clone(), to: world.bundle.upstream.clone() });
        let masking = gate.take_masks(&world).cloned();
        Ok((gate, GrantedOpening { detail: opening.detail, way, credential, masking }))
    }

    /// Waits until the target may be reached: the record of the opening is where it must be by then.
    pub(crate) async fn opening_recorded(&mut self) -> Result<(), Fault> {
        let Some(Debt { pending, on_failure }) = self.debt.take() else { return Ok(()) };
        let late = || RecordFault(format!("it was not on disk within {PATIENCE:?}"));
        match timeout(PATIENCE, pending).await.unwrap_or_else(|_| Err(late())) {
            Ok(()) => Ok(()),
            Err(fault) => {
                self.lost(&fault);
                if on_failure == OnFailure::Continue {
                    return Ok(());
                }
                let denial: Denial = DenyReason::NoRoomToRecord.into();
                self.close(&denial.to_string());
                Err(Fault::Policy(denial))
            }
        }
    }

    /// Whether the session may go on, in the world as it is now.
    pub(crate) fn standing(&mut self) -> Result<(), Denial> {
        let standing = match self.feed.current() {
            Some(world) => {
                self.take_terms(&world);
                standing(&world, &self.session)
            }
            None => Err(Denial::not_understood("this proxy has no policy")),
        };
        standing.inspect_err(|denial| self.mark_outside(denial, "session"))
    }

    /// Counts a session from outside its binding, once. At the opening that is a certificate which is used from
    /// where it should not be; later it is a binding that was changed, or a pod that is gone.
    fn mark_outside(&mut self, denial: &Denial, at: &'static str) {
        if denial.reason == DenyReason::OutsideBinding && !std::mem::replace(&mut self.outside, true) {
            self.ports.meter.count(Count::OutsideBinding(at));
            let (session, agent, serial) = (&self.names.session, &self.names.agent, &self.names.serial);
            let client = self.client.map(tracing::field::display);
            tracing::warn!(session, agent, serial, client, at, "a certificate is used from outside its binding");
        }
    }

    fn mark_limit(&self, denial: &Denial) {
        if let Some(limit) = denial.limit() {
            self.ports.meter.count(Count::Limited(limit));
        }
    }

    fn take_seat(&mut self, registration: &Registration) -> Result<(), Denial> {
        let Session { identity, credential, .. } = &self.session;
        let seat = registration.usage().seat(identity, credential, &self.terms.1.seats, Instant::now())?;
        self.seat = Some(seat);
        Ok(())
    }

    /// Whether the agent may run one more command now. What runs nothing costs nothing; what is refused for another
    /// cause is paid for, for it was a try.
    fn in_pace(&self, described: &Described<'_>, must_run: bool) -> Result<(), Denial> {
        match &self.seat {
            Some(seat) if described.entry.as_ref().is_some_and(|entry| entry.runs) => {
                Ok(seat.spend(&self.terms.1.pace, Instant::now(), must_run)?)
            }
            _ => Ok(()),
        }
    }

    /// What holds for the session now.
    pub(crate) const fn terms(&self) -> &Terms {
        &self.terms.1
    }

    /// Reads the clocks; `idle_since` is none while something runs.
    pub(crate) fn hours(&self, idle_since: Option<Instant>) -> Reading {
        self.hours.read(self.terms(), Instant::now(), self.ports.clock.now(), idle_since)
    }

    fn take_terms(&mut self, world: &World) {
        if self.terms.0 != world.generation {
            if let Some(terms) = terms(world, &self.session) {
                let limited = !terms.answer.is_unlimited();
                self.allowance = limited.then(|| Arc::new(terms.answer.clone()));
                self.terms.1 = terms;
            }
            self.terms.0 = world.generation;
            self.observed = world.bundle.policies.iter().any(|policy| policy.mode == Mode::Observe);
        }
    }

    /// What is masked by that world. The same value for as long as it says the same.
    fn take_masks(&mut self, world: &World) -> Option<&Arc<Masking>> {
        if self.masking.0 != world.generation {
            let plan = masks(world, &self.session);
            let masking = (!plan.is_empty()).then(|| {
                let key = self.ports.vault.mask_key().unwrap_or_else(|cause| {
                    tracing::error!(%cause, "what needs a key is redacted");
                    None
                });
                Arc::new(Masking { plan, key })
            });
            let same = match (&masking, &self.masking.1) {
                (Some(new), Some(old)) => new.plan == old.plan && new.key == old.key,
                (None, None) => true,
                _ => false,
            };
            let masking = if same { self.masking.1.take() } else { masking };
            self.masking = (world.generation, masking);
        }
        self.masking.1.as_ref()
    }

    /// TLS has judged the certificate's times already, a moment ago; this is what is told and recorded of them.
    fn in_time(&self, world: &World, principal: &Principal) -> Result<(), Denial> {
        let early = at(principal.not_before).duration_since(self.ports.clock.now()).unwrap_or_default();
        if !early.is_zero() {
            let seconds = early.as_secs().max(1);
            return Err(DenyReason::CertificateNotYetValid { seconds }.into());
        }
        self.hours(None).over.map_or(Ok(()), Err)?;
        self.fresh(world)
    }

    /// Whether what is decided with was confirmed by its source lately enough.
    fn fresh(&self, world: &World) -> Result<(), Denial> {
        let Some(limit) = world.bundle.sessions.stale_after() else { return Ok(()) };
        match self.feed.age() {
            Some(age) if age <= limit => Ok(()),
            age => Err(DenyReason::Stale { seconds: age.unwrap_or(Duration::MAX).as_secs() }.into()),
        }
    }

    /// What speaks against a command whatever it does: the time of the session is up and nothing is open, or
    /// the world is too old.
    fn too_late(&self, world: &World, transaction: Transaction) -> Result<(), Denial> {
        let Reading { over, past, .. } = self.hours(None);
        match over {
            Some(denial) if past || transaction == Transaction::None => Err(denial),
            _ => self.fresh(world),
        }
    }

    /// Decides on one command and records it. A permission is made only by [`Gate::grant`] below, from
    /// the ruling of this call.
    fn rule(
        &mut self,
        world: &World,
        described: &Described<'_>,
        transaction: Transaction,
        concludes: bool,
        before: &Before,
    ) -> Ruling {
        self.take_terms(world);
        // Standing first: a suspended agent is told that, whatever it sent and whenever.
        let may = standing(world, &self.session).and_then(|()| self.too_late(world, transaction));
        let must_run = concludes && transaction != Transaction::None;
        // A command that has waited for people was counted when it came.
        let may = may.and_then(|()| if before.is_first() { self.in_pace(described, must_run) } else { Ok(()) });
        // One moment for all that is asked of this command: no rule sees another one.
        let now = self.ports.clock.now();
        let verdict = match (may, &described.action) {
            (Ok(()), Ok(action)) => decide(world, &self.session, now, action),
            (Ok(()), Err(denial)) => Verdict::Deny(denial.clone()),
            (Err(denial), _) => Verdict::Deny(denial),
        };
        let verdict = verdict.answered(&world.bundle.revision, before.approval.as_ref());
        self.would_have = self.otherwise(world, described, now, &verdict);
        match verdict {
            Verdict::Deny(denial) => self.denied(world, described, denial, before),
            Verdict::Ask(ask) => self.ask(world, described, ask, before),
            Verdict::Allow { rule } => self.allowed(world, described, rule, before),
        }
    }

    fn denied(&mut self, world: &World, described: &Described<'_>, denial: Denial, before: &Before) -> Ruling {
        self.ports.meter.count(Count::Denied);
        self.mark_outside(&denial, "session");
        self.mark_limit(&denial);
        let reason = denial.to_string();
        let (policy, rule) = (denial.policy(), denial.rule().map(|(_, rule)| rule));
        let would_have = self.would_have.take();
        let decision = Decision {
            verdict: "deny",
            policy,
            rule,
            reason: Some(&reason),
            revision: &world.bundle.revision,
            request: before.request.as_deref(),
            answered_by: &before.answered_by,
            would_have: would_have.as_ref(),
        };
        if let Some(entry) = &described.entry {
            let command = before.number.unwrap_or_else(|| self.number());
            // Refused either way: a refusal that cannot be recorded is counted, not forgiven.
            let event = Event::Command { command, text: &entry.text, parameters: &entry.parameters, decision };
            let _counted = self.record(event);
        }
        Ruling::Refused(denial)
    }

    fn allowed(&mut self, world: &World, described: &Described<'_>, rule: Option<RuleRef>, before: &Before) -> Ruling {
        let Some(entry) = described.entry.as_ref().filter(|entry| entry.runs) else {
            return Ruling::Granted(None, None);
        };
        let command = before.number.unwrap_or_else(|| self.number());
        let mut owed = None;
        if world.bundle.recording.level != RecordingLevel::None {
            let (policy, rule) = rule.and_then(|rule| world.bundle.rule_names(rule)).unzip();
            let would_have = self.would_have.take();
            let decision = Decision {
                verdict: "allow",
                policy,
                rule,
                reason: None,
                revision: &world.bundle.revision,
                request: before.request.as_deref(),
                answered_by: &before.answered_by,
                would_have: would_have.as_ref(),
            };
            let event = Event::Command { command, text: &entry.text, parameters: &entry.parameters, decision };
            match self.record_first(world, event) {
                Ok(debt) => owed = debt,
                Err(_) => {
                    self.ports.meter.count(Count::Denied);
                    return Ruling::Refused(DenyReason::NoRoomToRecord.into());
                }
            }
            // Owed because its intent stands in the records, whatever the level is by then.
            self.owed.push_back(Owed { command, since: Instant::now() });
        }
        self.ports.meter.count(Count::Allowed);
        Ruling::Granted(Some(command), owed)
    }

    /// Judges a command, against the world in force now and with what has become of it before, and hands out the
    /// permission or the refusal, or what people are to be asked.
    pub(crate) fn judge<'u, C: Conversation>(
        &mut self,
        conversation: &mut C,
        command: C::Command,
        before: Before,
        (sluice, output): (&'u mut Sluice, &'u mut BytesMut),
    ) -> Judged<'u, C::Command> {
        let Some(world) = self.feed.current() else {
            let denial = Denial::not_understood("this proxy has no policy");
            return Judged::Refused(Refused { command, denial, upstream: sluice.admit(None, output) });
        };
        // By the same world as the verdict: no answer is masked by less than what allowed its command.
        let can = conversation.mask(self.take_masks(&world));
        let shows = conversation.show(world.bundle.recording.level == RecordingLevel::Full);
        let concludes = conversation.concludes(&command);
        let ruling = {
            let mut described = conversation.describe(&command);
            let cause = match (can, shows) {
                (false, _) => Some("answers are to be masked, which this protocol cannot do"),
                (true, false) => Some("results are to be recorded, which this protocol cannot do"),
                (true, true) => None,
            };
            if let Some(cause) = cause {
                described.action = Err(Denial::not_understood(cause));
            }
            self.rule(&world, &described, conversation.transaction(), concludes, &before)
        };
        match ruling {
            Ruling::Granted(number, debt) => {
                let allowance = self.allowance.clone();
                Judged::Granted(Granted { command, number, allowance, upstream: sluice.admit(debt, output) })
            }
            Ruling::Refused(denial) => {
                Judged::Refused(Refused { command, denial, upstream: sluice.admit(None, output) })
            }
            Ruling::Asked(question, ask) => {
                let asked = self.waiting(command, question, ask, before);
                match conversation.hides(&asked.command) {
                    Some(cause) => {
                        let why = NotApproved::NotShown { cause };
                        let denial = not_approved(&asked.question.policy, &asked.question.rule, why);
                        Judged::Refused(self.refuse_asked(conversation, asked, denial, (sluice, output)))
                    }
                    None => Judged::Asked(asked),
                }
            }
        }
    }

    /// Records what a client is about to be shown, or what it has sent. Where it cannot be, and nothing may happen without its record, the
    /// session ends before it is.
    pub(crate) fn show(&mut self, part: &Part) -> Result<(), Fault> {
        let world = self.feed.current();
        let goes_on = world.is_some_and(|world| world.bundle.recording.on_failure == OnFailure::Continue);
        match self.record(part.event()) {
            Err(_) if !goes_on => Err(Fault::Policy(DenyReason::NoRoomToRecord.into())),
            _ => Ok(()),
        }
    }

    /// Records how commands came to their end.
    pub(crate) fn settle(&mut self, outcome: &Outcome) {
        let Some(at) = self.owed.iter().position(|owed| owed.command == outcome.command) else { return };
        let Some(Owed { command, since }) = self.owed.remove(at) else { return };
        let duration = since.elapsed();
        let (word, code) = outcome.failed.as_deref().map_or(("completed", None), |code| ("failed", Some(code)));
        if let Some(reached) = &outcome.limit {
            self.ports.meter.count(Count::Limited(reached.limit));
        }
        let (limit, policy) = outcome.limit.as_ref().map(|reached| (reached.limit, &*reached.policy)).unzip();
        // It ran: a lost outcome is counted, and the next command is refused for want of room.
        let event = Event::Outcome { command, outcome: word, code, rows: outcome.rows, limit, policy, duration };
        let _counted = self.record(event);
    }

    /// Records the end of the session; what is still owed is unknown.
    pub(crate) fn close(&mut self, reason: &str) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        while let Some(Owed { command, since }) = self.owed.pop_front() {
            let duration = since.elapsed();
            let _counted = self.record(Event::Outcome {
                command,
                outcome: "unknown",
                code: None,
                rows: None,
                limit: None,
                policy: None,
                duration,
            });
        }
        let _counted = self.record(Event::Close { reason });
    }

    const fn number(&mut self) -> u64 {
        self.commands += 1;
        self.commands
    }

    /// Records what must be recorded before something happens, and how it must be: the debt is what is to be waited
    /// for. Where a target goes on without records, a lost one is none.
    fn record_first(&mut self, world: &World, event: Event<'_>) -> Result<Option<Debt>, RecordFault> {
        let recording = &world.bundle.recording;
        let synced = recording.durability == Durability::Synced && recording.level != RecordingLevel::None;
        let record = self.next_record(event);
        let appended = if synced {
            let pending = self.ports.records.append_durably(&record);
            pending.map(|pending| Some(Debt { pending, on_failure: recording.on_failure }))
        } else {
            self.ports.records.append(&record).map(|()| None)
        };
        self.sequence += 1;
        match appended {
            Err(fault) => {
                self.lost(&fault);
                if recording.on_failure == OnFailure::Continue { Ok(None) } else { Err(fault) }
            }
            written => written,
        }
    }

    fn record(&mut self, event: Event<'_>) -> Result<(), RecordFault> {
        let written = self.ports.records.append(&self.next_record(event));
        self.sequence += 1;
        written.inspect_err(|fault| self.lost(fault))
    }

    fn next_record<'r>(&'r self, event: Event<'r>) -> Record<'r> {
        Record {
            time: self.ports.clock.now(),
            session: &self.names.session,
            sequence: self.sequence,
            agent: &self.names.agent,
            serial: &self.names.serial,
            target: &self.names.target,
            event,
        }
    }

    /// A record could not be written, or not be brought to the disk.
    pub(crate) fn lost(&self, fault: &RecordFault) {
        self.ports.meter.count(Count::RecordLost);
        tracing::error!(session = %self.names.session, error = %fault, "record lost");
    }
}

impl Drop for Gate {
    /// A panic, or the end of the process in the middle of the session: what is owed is unknown.
    fn drop(&mut self) {
        self.close("the session was cut off");
    }
}

/// Seconds since the Unix epoch, as a certificate counts.
fn at(second: i64) -> SystemTime {
    let second = u64::try_from(second).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(second)).unwrap_or(UNIX_EPOCH)
}
