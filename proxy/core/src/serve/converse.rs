//! The conversation of one session: both directions, one task.
//!
//! Owns the loop that decodes, judges, forwards and answers, its back-pressure and its endings. Touches the
//! two connections. Invariants: a command is judged by the gate before the protocol may forward it; nothing
//! is read while the other side has more than its bound to take; a session that lost its standing ends as
//! soon as nothing of it runs, one whose time is up as soon as it has no transaction open.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::Service;
use crate::fault::Fault;
use crate::gate::{Before, Gate, Judged, Way};
use crate::ports::{BoxedIo, Io};
use crate::protocol::{Conversation, Ending, LoggedIn, Next, Outcome, Protocol, Remedy, Transaction};
use crate::sessions::Registration;
use crate::sluice::{Passed, Sluice};
use crate::wire::Line;
use sallyport_policy::{Denial, DenyReason, OnRevocation};

use self::asking::{Held, News, Vigil};

mod asking;

/// How soon an interrupt is sent again that has not stopped what it was meant for: it may have come before it.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(200);

/// What reaches a session from outside its two connections.
pub(super) struct Signals {
    changes: watch::Receiver<u64>,
    draining: watch::Receiver<bool>,
    distrust: watch::Receiver<bool>,
    interrupted: Arc<Notify>,
}

enum Signal {
    WorldChanged,
    Distrust,
    Interrupt,
    Drain,
}

enum Progress {
    Moved,
    ClientGone,
    TargetGone,
    ClientStalled,
    TargetStalled,
    Interrupted,
    Unrecorded,
    Alarm,
    News(News),
    Signal(Signal),
}

impl Signals {
    /// The registration stays with the caller: the session counts as open until its last record is written.
    pub(super) fn new(changes: watch::Receiver<u64>, registration: &Registration) -> Self {
        Self {
            changes,
            draining: registration.draining(),
            distrust: registration.distrust(),
            interrupted: registration.interrupted(),
        }
    }

    /// Waits for the next one; takes and gives itself so that one pinned future can wait across many polls.
    async fn next(mut self) -> (Signal, Self) {
        let draining_already = *self.draining.borrow_and_update();
        let distrusted_already = *self.distrust.borrow_and_update();
        let signal = tokio::select! {
            biased;
            changed = self.changes.changed() => match changed {
                Ok(()) => Signal::WorldChanged,
                // The feed is gone: the process ends.
                Err(_) => Signal::Drain,
            },
            distrusted = self.distrust.wait_for(|distrusted| *distrusted), if !distrusted_already => {
                drop(distrusted);
                Signal::Distrust
            }
            drained = self.draining.wait_for(|draining| *draining), if !draining_already => {
                drop(drained);
                Signal::Drain
            }
            () = self.interrupted.notified() => Signal::Interrupt,
        };
        (signal, self)
    }
}

struct Conversing<'s, P: Protocol, S> {
    service: &'s Service<P>,
    gate: Gate,
    way: Arc<Way>,
    client: Line<S>,
    target: Line<BoxedIo>,
    /// What waits for its records before it goes to the target.
    sluice: Sluice,
    conversation: P::Conversation,
    outcomes: Vec<Outcome>,
    /// The command that people are asked about.
    held: Option<Held<<P::Conversation as Conversation>::Command>>,
    /// Set once the session shall end as soon as nothing of it runs.
    doomed: Option<Ending>,
    /// Set once the session shall end as soon as it has no transaction open.
    over: Option<Denial>,
    /// Set once what runs is to be cut: until when that may take.
    cut_until: Option<Instant>,
    /// When something last ran; none while something does.
    idle_since: Option<Instant>,
    /// Whether the client's next bytes are taken now.
    hungry: bool,
    /// Since when half a message of the client's has not grown.
    half_since: Option<Instant>,
    /// Whether the target's bytes have been through the conversation as they are.
    answered: bool,
    /// The client has left: nothing is shown to it any more.
    deserted: bool,
    /// The interrupt on its way, one at a time, and whether another was asked for meanwhile.
    interrupts: JoinSet<()>,
    interrupt_again: bool,
}

/// Runs a session to its end and says why it ended.
pub(super) async fn converse<P: Protocol, S: Io>(
    service: &Service<P>,
    gate: Gate,
    way: Arc<Way>,
    client: S,
    logged_in: LoggedIn<P::Conversation>,
    signals: Signals,
) -> String {
    let LoggedIn { upstream, read, conversation, greeting } = logged_in;
    let mut this = Conversing {
        service,
        gate,
        way,
        client: Line::new(client, BytesMut::new()),
        target: Line::new(upstream, read),
        sluice: Sluice::default(),
        conversation,
        outcomes: Vec::new(),
        held: None,
        doomed: None,
        over: None,
        cut_until: None,
        idle_since: Some(Instant::now()),
        hungry: true,
        half_since: None,
        answered: false,
        deserted: false,
        interrupts: JoinSet::new(),
        interrupt_again: false,
    };
    this.client.output.extend_from_slice(&greeting);
    // Whatever changed between the opening decision and now.
    if *signals.draining.borrow() {
        this.doomed = Some(Ending::Draining);
    }
    if *signals.distrust.borrow() {
        this.distrust();
    }
    this.check_standing();
    let ending = this.run(signals).await;
    let reason = this.part(ending).await;
    this.gate.close(&reason);
    reason
}

/// Why the loop was left.
enum Left {
    /// The client said goodbye or went away.
    Client,
    Ended(Ending),
}

impl<P: Protocol, S: Io> Conversing<'_, P, S> {
    async fn run(&mut self, signals: Signals) -> Left {
        let mut signal = Box::pin(signals.next());
        let mut stall = Box::pin(sleep_until(Instant::now() + self.service.limits.stall));
        let mut alarm = Box::pin(sleep_until(self.look_at_the_clocks()));
        loop {
            match self.step() {
                Ok(false) => {}
                Ok(true) => return Left::Client,
                Err(fault) => return Left::Ended(ending_of(&fault)),
            }
            self.hasten();
            if let Some(ending) = self.due() {
                return Left::Ended(ending);
            }
            let progress = poll_fn(|cx| match signal.as_mut().poll(cx) {
                Poll::Ready((fired, again)) => {
                    signal.set(again.next());
                    Poll::Ready(Progress::Signal(fired))
                }
                Poll::Pending if alarm.as_mut().poll(cx).is_ready() => Poll::Ready(Progress::Alarm),
                // Whether the client is still there first: nothing is used up for one that has left.
                Poll::Pending => match (self.poll_progress(cx, stall.as_mut()), &mut self.held) {
                    (Poll::Pending, Some(held)) => held.poll(cx).map(Progress::News),
                    (progress, _) => progress,
                },
            });
            let heard = match progress.await {
                Progress::Moved => Ok(()),
                Progress::ClientGone => return Left::Client,
                Progress::TargetGone => {
                    return Left::Ended(Ending::Upstream("the target closed the connection".into()));
                }
                Progress::ClientStalled => {
                    return Left::Ended(Ending::Client("no progress within the deadline".into()));
                }
                Progress::TargetStalled => return Left::Ended(Ending::Upstream("the target takes no more".into())),
                Progress::Interrupted => {
                    // The one that is through may have come before the command that this one was meant for.
                    if std::mem::take(&mut self.interrupt_again) {
                        self.interrupt();
                    }
                    self.note_interrupts();
                    Ok(())
                }
                // The target never sees what waited: there is no answer to wait for either.
                Progress::Unrecorded => {
                    return Left::Ended(Ending::Denied(DenyReason::NoRoomToRecord.into()));
                }
                Progress::Alarm => {
                    alarm.as_mut().reset(self.look_at_the_clocks());
                    Ok(())
                }
                Progress::News(news) => self.hear(news),
                Progress::Signal(Signal::WorldChanged) => {
                    self.check_standing();
                    // Its terms may be others now.
                    alarm.as_mut().reset(self.look_at_the_clocks());
                    self.reconsider()
                }
                Progress::Signal(Signal::Distrust) => {
                    self.distrust();
                    alarm.as_mut().reset(self.look_at_the_clocks());
                    self.reconsider()
                }
                Progress::Signal(Signal::Drain) => {
                    // Who lost its standing is told that.
                    self.doomed = self.doomed.take().or(Some(Ending::Draining));
                    Ok(())
                }
                Progress::Signal(Signal::Interrupt) => {
                    self.interrupt();
                    self.cancel_held()
                }
            };
            if let Err(fault) = heard {
                return Left::Ended(ending_of(&fault));
            }
        }
    }

    /// Everything that can be done without waiting. True when the client said goodbye.
    fn step(&mut self) -> Result<bool, Fault> {
        let backlog = self.service.limits.backlog;
        self.answered = self.client.output.len() < backlog;
        if self.answered {
            self.answer()?;
        }
        self.tend_held();
        let (mut incomplete, mut full) = (false, false);
        let mut settling = false;
        while self.doomed.is_none()
            && self.held.is_none()
            && self.owed_to_target() < backlog
            && self.client.output.len() < backlog
        {
            // Whether the client has concluded its transaction is known when the target has answered.
            settling = self.over.is_some() && self.conversation.transaction() == Transaction::Settling;
            if settling {
                break;
            }
            match self.conversation.next(&mut self.client.input, &mut self.client.output) {
                Ok(Next::Incomplete) => {
                    incomplete = true;
                    break;
                }
                Ok(Next::Full) => {
                    full = true;
                    break;
                }
                Ok(Next::Handled) => {}
                Ok(Next::Goodbye) => return Ok(true),
                Ok(Next::Command(command)) => self.command(command)?,
                // What came before the fault was granted: it gets its answer and its outcome.
                Err(fault) => self.doomed = Some(ending_of(&fault)),
            }
        }
        let half = incomplete && !self.client.input.is_empty();
        self.half_since = half.then(|| self.half_since.unwrap_or_else(Instant::now));
        // Where nothing more is decoded, the client is still read within bounds: so it is noticed when it leaves.
        let stays = full || settling || self.held.is_some() || self.doomed.is_some();
        let waits = stays && self.client.input.len() < backlog;
        self.hungry = incomplete || waits;
        self.note_idleness();
        Ok(false)
    }

    fn owed_to_target(&self) -> usize {
        self.target.output.len() + self.sluice.len()
    }

    fn note_idleness(&mut self) {
        let idle = self.conversation.idle() && self.held.is_none();
        self.idle_since = idle.then(|| self.idle_since.unwrap_or_else(Instant::now));
    }

    /// How the session ends now, if it does.
    fn due(&mut self) -> Option<Ending> {
        let idle = self.conversation.idle();
        let cut_off = self.cut_until.is_some_and(|until| until <= Instant::now());
        if let Some(ending) = self.doomed.take_if(|_| idle || cut_off) {
            return Some(ending);
        }
        let concluded = idle && self.conversation.transaction() == Transaction::None;
        self.over.take_if(|_| concluded).map(Ending::Denied)
    }

    /// Notes what has become due and says when to look again.
    fn look_at_the_clocks(&mut self) -> Instant {
        let reading = self.gate.hours(self.idle_since);
        self.over = reading.over;
        if let Some(denial) = self.over.clone().filter(|_| reading.past) {
            self.doomed = self.doomed.take().or(Some(Ending::Denied(denial)));
            self.cut();
        }
        let Some(until) = self.cut_until else { return reading.again };
        if self.interrupts.is_empty() {
            self.interrupt();
        }
        reading.again.min(until).min(Instant::now() + INTERRUPT_AGAIN)
    }

    /// What runs is stopped, for a while by asking the target, then by leaving.
    fn cut(&mut self) {
        if self.cut_until.is_none() {
            self.cut_until = Some(Instant::now() + self.service.limits.parting);
        }
    }

    fn answer(&mut self) -> Result<(), Fault> {
        if self.target.input.is_empty() {
            return Ok(());
        }
        let before = self.client.output.len();
        let answered = self.conversation.answer(&mut self.target.input, &mut self.client.output, &mut self.outcomes);
        // What came before a fault counts.
        let recorded = self.record_answer();
        if recorded.is_err() {
            // Nobody sees what is not on record.
            self.client.output.truncate(before);
            self.conversation.unsaid();
        }
        self.remedy();
        recorded.and(answered)
    }

    /// Records what a command has sent beside itself. Where that cannot be, none of it goes on.
    fn record_sent(&mut self, before: usize) -> Result<(), Fault> {
        for part in self.conversation.shown() {
            self.gate.show(&part).inspect_err(|_| {
                self.target.output.truncate(before);
                self.sluice.shut();
            })?;
        }
        Ok(())
    }

    /// Records what the client is about to be shown, and how commands came to their end, in their order.
    fn record_answer(&mut self) -> Result<(), Fault> {
        let mut shown = self.conversation.shown();
        if self.deserted {
            shown.clear();
        }
        let mut parts = shown.iter().peekable();
        let mut recorded = Ok(());
        for outcome in self.outcomes.drain(..) {
            while let Some(part) = parts.next_if(|part| part.command() <= outcome.command) {
                recorded = recorded.and_then(|()| self.gate.show(part));
            }
            self.gate.settle(&outcome);
        }
        for part in parts {
            recorded = recorded.and_then(|()| self.gate.show(part));
        }
        recorded
    }

    fn remedy(&mut self) {
        loop {
            match self.conversation.remedy() {
                Remedy::None => return,
                // Behind what waits for its records: it was forwarded before.
                Remedy::Send(constant) => {
                    self.sluice.admit(None, &mut self.target.output).extend_from_slice(constant);
                }
                Remedy::Interrupt => {
                    self.interrupt();
                    self.note_interrupts();
                }
            }
        }
    }

    fn note_interrupts(&mut self) {
        if self.interrupts.is_empty() {
            self.conversation.interrupted();
        }
    }

    /// A session that must end may wait for an outcome that its target keeps back for the client's next command.
    fn hasten(&mut self) {
        if self.doomed.is_some() && !self.conversation.idle() {
            let constant = self.conversation.hasten();
            self.sluice.admit(None, &mut self.target.output).extend_from_slice(constant);
        }
    }

    fn command(&mut self, command: <P::Conversation as Conversation>::Command) -> Result<(), Fault> {
        // A refused one counts: its client is there.
        self.idle_since = self.idle_since.map(|_| Instant::now());
        self.decide(command, Before::default(), None)
    }

    /// Has a command judged, perhaps not for the first time, and does what comes of it.
    fn decide(
        &mut self,
        command: <P::Conversation as Conversation>::Command,
        before: Before,
        vigil: Option<Vigil>,
    ) -> Result<(), Fault> {
        let owed = self.target.output.len();
        match self.gate.judge(&mut self.conversation, command, before, (&mut self.sluice, &mut self.target.output)) {
            Judged::Granted(granted) => {
                self.conversation.forward(granted)?;
                self.record_sent(owed)
            }
            Judged::Refused(refused) if refused.denial().ends_session() => {
                self.doomed = Some(Ending::Denied(refused.denial().clone()));
                Ok(())
            }
            Judged::Refused(refused) => self.conversation.refuse(refused, &mut self.client.output),
            Judged::Asked(asked) => {
                self.hold(asked, vigil);
                Ok(())
            }
        }
    }

    fn check_standing(&mut self) {
        if let Err(denial) = self.gate.standing() {
            self.doomed = Some(Ending::Denied(denial));
            if self.gate.terms().on_revocation == OnRevocation::Cancel {
                self.cut();
            }
        }
    }

    /// Whose authority is out of trust may be a thief: nothing it runs is waited for, whatever a policy says.
    fn distrust(&mut self) {
        self.doomed = self.doomed.take().or(Some(Ending::Denied(DenyReason::Distrusted.into())));
        self.cut();
    }

    fn interrupt(&mut self) {
        // One at a time: each is a connection to the target, and who asks may ask without end.
        if !self.interrupts.is_empty() {
            self.interrupt_again = true;
            return;
        }
        if let Some(packet) = self.conversation.interruption() {
            let (protocol, way) = (Arc::clone(&self.service.protocol), Arc::clone(&self.way));
            let deadline = self.service.limits.login;
            self.interrupts.spawn(async move {
                match timeout(deadline, protocol.interrupt(way, packet)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(fault)) => tracing::warn!(%fault, "interrupt failed"),
                    Err(_) => tracing::warn!("interrupt timed out"),
                }
            });
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>, stall: Pin<&mut Sleep>) -> Poll<Progress> {
        if let Poll::Ready(Some(_)) = self.interrupts.poll_join_next(cx) {
            return Poll::Ready(Progress::Interrupted);
        }
        match self.sluice.poll_pass(cx, &mut self.target.output) {
            Poll::Ready(Passed::Durable) => return Poll::Ready(Progress::Moved),
            Poll::Ready(Passed::Regardless(fault)) => {
                self.gate.lost(&fault);
                return Poll::Ready(Progress::Moved);
            }
            Poll::Ready(Passed::Never(fault)) => {
                self.gate.lost(&fault);
                return Poll::Ready(Progress::Unrecorded);
            }
            Poll::Pending => {}
        }
        let mut moved = false;
        let mut done = |poll: Poll<io::Result<()>>| match poll {
            Poll::Ready(Ok(())) => {
                moved = true;
                false
            }
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if self.target.owes() && done(self.target.poll_drain(cx)) {
            return Poll::Ready(Progress::TargetGone);
        }
        if self.client.owes() && done(self.client.poll_drain(cx)) {
            return Poll::Ready(Progress::ClientGone);
        }
        if self.client.output.len() < self.service.limits.backlog && done(self.target.poll_fill(cx)) {
            return Poll::Ready(Progress::TargetGone);
        }
        if self.hungry {
            let filled = self.client.poll_fill(cx);
            if filled.is_ready() {
                self.half_since = None;
            }
            if done(filled) {
                return Poll::Ready(Progress::ClientGone);
            }
        }
        if self.client.eof {
            return Poll::Ready(Progress::ClientGone);
        }
        // What the conversation left lying is half a message whose other half never comes.
        if self.target.eof && self.answered {
            return Poll::Ready(Progress::TargetGone);
        }
        if moved {
            return Poll::Ready(Progress::Moved);
        }
        self.poll_stall(cx, stall)
    }

    /// The timer is not moved with every byte: it fires, looks when something last moved, and is set anew.
    /// Each debt has a clock of its own: what moves elsewhere pays none.
    fn poll_stall(&mut self, cx: &mut Context<'_>, mut stall: Pin<&mut Sleep>) -> Poll<Progress> {
        let deadline = self.service.limits.stall;
        let client = self.half_since.into_iter().chain(self.client.stuck_since()).min();
        let target = self.target.stuck_since();
        while stall.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let due = |since: Option<Instant>| since.is_some_and(|since| since + deadline <= now);
            if due(client) {
                return Poll::Ready(Progress::ClientStalled);
            }
            if due(target) {
                return Poll::Ready(Progress::TargetStalled);
            }
            let from = client.into_iter().chain(target).min().unwrap_or(now);
            stall.as_mut().reset(from + deadline);
        }
        Poll::Pending
    }

    /// Last words to both sides. Outcomes of what still runs are waited for, for a while.
    async fn part(&mut self, left: Left) -> String {
        let deadline = self.service.limits.parting;
        let mut ended = false;
        let reason = match left {
            Left::Client => {
                if !self.conversation.idle() {
                    let _in_time = timeout(deadline, self.await_outcomes()).await;
                }
                "the client left".to_owned()
            }
            Left::Ended(ending) => {
                ended = true;
                self.conversation.farewell(&ending, &mut self.client.output);
                ending.to_string()
            }
        };
        if self.conversation.idle() {
            self.target.output.extend_from_slice(P::Conversation::PARTING);
        }
        let (client, target) = (&mut self.client, &mut self.target);
        // Both are closing: a peer that does not take its last bytes loses them.
        let client = async { if ended { client.hang_up().await } else { client.finish().await } };
        let _parted = timeout(deadline, async { tokio::join!(client, target.finish()) }).await;
        reason
    }

    async fn await_outcomes(&mut self) {
        self.deserted = true;
        loop {
            self.client.output.clear();
            // First what lies there: it may hold the outcome, and then nothing more comes.
            if self.answer().is_err() || self.conversation.idle() || self.target.eof {
                return;
            }
            let constant = self.conversation.hasten();
            self.sluice.admit(None, &mut self.target.output).extend_from_slice(constant);
            let (target, sluice, gate) = (&mut self.target, &mut self.sluice, &self.gate);
            let read = poll_fn(|cx| {
                while let Poll::Ready(passed) = sluice.poll_pass(cx, &mut target.output) {
                    if let Passed::Regardless(fault) | Passed::Never(fault) = passed {
                        gate.lost(&fault);
                    }
                }
                match target.poll_drain(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) | Poll::Pending => target.poll_fill(cx),
                }
            });
            if pin!(read).await.is_err() {
                return;
            }
        }
    }
}

fn ending_of(fault: &Fault) -> Ending {
    match fault {
        Fault::Client(cause) => Ending::Client(cause.to_string()),
        Fault::Policy(denial) => Ending::Denied(denial.clone()),
        Fault::Upstream { told, logged } => {
            tracing::warn!(cause = %logged, "target out of step");
            Ending::Upstream(told.to_string())
        }
        Fault::Internal { told, logged } => {
            tracing::error!(cause = %logged, "session failed");
            Ending::Upstream(told.to_string())
        }
    }
}
