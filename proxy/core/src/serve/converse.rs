//! The conversation of one session: both directions, one task.
//!
//! Owns the loop that decodes, judges, forwards and answers, its back-pressure and its endings. Touches the
//! two connections. Invariants: a command is judged by the gate before the protocol may forward it; nothing
//! is read while the other side has more than its bound to take; a session that lost its standing ends as
//! soon as nothing of it runs.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::Service;
use crate::fault::Fault;
use crate::gate::{Gate, Way};
use crate::ports::{BoxedIo, Io};
use crate::protocol::{Conversation, Ending, LoggedIn, Next, Outcome, Protocol};
use crate::sessions::Registration;
use crate::wire::Line;

/// What reaches a session from outside its two connections.
pub(super) struct Signals {
    pub(super) changes: watch::Receiver<u64>,
    pub(super) registration: Registration,
}

enum Signal {
    WorldChanged,
    Interrupt,
    Drain,
}

enum Progress {
    Moved,
    ClientGone,
    TargetGone,
    Stalled,
    Signal(Signal),
}

impl Signals {
    /// Waits for the next one; takes and gives itself so that one pinned future can wait across many polls.
    async fn next(mut self) -> (Signal, Self) {
        let draining_already = *self.registration.draining.borrow();
        let signal = tokio::select! {
            biased;
            changed = self.changes.changed() => match changed {
                Ok(()) => Signal::WorldChanged,
                // The feed is gone: the process ends.
                Err(_) => Signal::Drain,
            },
            drained = self.registration.draining.wait_for(|draining| *draining), if !draining_already => {
                drop(drained);
                Signal::Drain
            }
            () = self.registration.interrupted.notified() => Signal::Interrupt,
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
    conversation: P::Conversation,
    outcomes: Vec<Outcome>,
    /// Set once the session shall end as soon as nothing of it runs.
    doomed: Option<Ending>,
    /// Whether the client's next bytes are of use now.
    hungry: bool,
    /// Whether half a message of the client's lies there.
    half: bool,
    /// When a byte last moved.
    moved_at: Instant,
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
        conversation,
        outcomes: Vec::new(),
        doomed: None,
        hungry: true,
        half: false,
        moved_at: Instant::now(),
    };
    this.client.output.extend_from_slice(&greeting);
    // Whatever changed between the opening decision and now.
    if *signals.registration.draining.borrow() {
        this.doomed = Some(Ending::Draining);
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
        loop {
            match self.step() {
                Ok(false) => {}
                Ok(true) => return Left::Client,
                Err(fault) => return Left::Ended(ending_of(&fault)),
            }
            if self.conversation.idle()
                && let Some(ending) = self.doomed.take()
            {
                return Left::Ended(ending);
            }
            let progress = poll_fn(|cx| match signal.as_mut().poll(cx) {
                Poll::Ready((fired, again)) => {
                    signal.set(again.next());
                    Poll::Ready(Progress::Signal(fired))
                }
                Poll::Pending => self.poll_progress(cx, stall.as_mut()),
            });
            match progress.await {
                Progress::Moved => {}
                Progress::ClientGone => return Left::Client,
                Progress::TargetGone => {
                    return Left::Ended(Ending::Upstream("the target closed the connection".into()));
                }
                Progress::Stalled => {
                    return Left::Ended(Ending::Client("no progress within the deadline".into()));
                }
                Progress::Signal(Signal::WorldChanged) => self.check_standing(),
                Progress::Signal(Signal::Drain) => self.doomed = Some(Ending::Draining),
                Progress::Signal(Signal::Interrupt) => self.interrupt(),
            }
        }
    }

    /// Everything that can be done without waiting. True when the client said goodbye.
    fn step(&mut self) -> Result<bool, Fault> {
        let backlog = self.service.limits.backlog;
        if !self.target.input.is_empty() && self.client.output.len() < backlog {
            self.conversation.answer(&mut self.target.input, &mut self.client.output, &mut self.outcomes)?;
            for outcome in self.outcomes.drain(..) {
                self.gate.settle(&outcome);
            }
        }
        self.hungry = false;
        while self.doomed.is_none() && self.target.output.len() < backlog && self.client.output.len() < backlog {
            match self.conversation.next(&mut self.client.input, &mut self.client.output)? {
                Next::Incomplete => {
                    self.hungry = true;
                    break;
                }
                Next::Full => break,
                Next::Handled => {}
                Next::Goodbye => return Ok(true),
                Next::Command(command) => self.command(command)?,
            }
        }
        self.half = self.hungry && !self.client.input.is_empty();
        // A doomed session is still read from, within bounds, so that a client that leaves is noticed.
        self.hungry |= self.doomed.is_some() && self.client.input.len() < backlog;
        Ok(false)
    }

    fn command(&mut self, command: <P::Conversation as Conversation>::Command) -> Result<(), Fault> {
        match self.gate.judge(&self.conversation, command, &mut self.target.output) {
            Ok(granted) => self.conversation.forward(granted),
            Err(refused) if refused.denial().ends_session() => {
                self.doomed = Some(Ending::Denied(refused.denial().clone()));
                Ok(())
            }
            Err(refused) => self.conversation.refuse(refused, &mut self.client.output),
        }
    }

    fn check_standing(&mut self) {
        if let Err(denial) = self.gate.standing() {
            self.doomed = Some(Ending::Denied(denial));
        }
    }

    fn interrupt(&self) {
        if let Some(packet) = self.conversation.interruption() {
            let (protocol, way) = (Arc::clone(&self.service.protocol), Arc::clone(&self.way));
            let deadline = self.service.limits.login;
            tokio::spawn(async move {
                match timeout(deadline, protocol.interrupt(way, packet)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(fault)) => tracing::warn!(%fault, "interrupt failed"),
                    Err(_) => tracing::warn!("interrupt timed out"),
                }
            });
        }
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>, stall: Pin<&mut Sleep>) -> Poll<Progress> {
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
        if self.hungry && done(self.client.poll_fill(cx)) {
            return Poll::Ready(Progress::ClientGone);
        }
        if self.client.eof {
            return Poll::Ready(Progress::ClientGone);
        }
        if self.target.eof && self.target.input.is_empty() {
            return Poll::Ready(Progress::TargetGone);
        }
        if moved {
            self.moved_at = Instant::now();
            return Poll::Ready(Progress::Moved);
        }
        self.poll_stall(cx, stall)
    }

    /// The timer is not moved with every byte: it fires, looks when something last moved, and is set anew.
    fn poll_stall(&self, cx: &mut Context<'_>, mut stall: Pin<&mut Sleep>) -> Poll<Progress> {
        let deadline = self.service.limits.stall;
        let owing = self.half || self.client.owes() || self.target.owes();
        while stall.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if owing && now.duration_since(self.moved_at) >= deadline {
                return Poll::Ready(Progress::Stalled);
            }
            let from = if owing { self.moved_at } else { now };
            stall.as_mut().reset(from + deadline);
        }
        Poll::Pending
    }

    /// Last words to both sides. Outcomes of what still runs are waited for, for a while.
    async fn part(&mut self, left: Left) -> String {
        let deadline = self.service.limits.parting;
        let reason = match left {
            Left::Client => {
                if !self.conversation.idle() {
                    let _in_time = timeout(deadline, self.await_outcomes()).await;
                }
                "the client left".to_owned()
            }
            Left::Ended(ending) => {
                self.conversation.farewell(&ending, &mut self.client.output);
                ending.to_string()
            }
        };
        if self.conversation.idle() {
            self.target.output.extend_from_slice(P::Conversation::PARTING);
        }
        let (client, target) = (&mut self.client, &mut self.target);
        // Both are closing: a peer that does not take its last bytes loses them.
        let _parted = timeout(deadline, async { tokio::join!(client.finish(), target.finish()) }).await;
        reason
    }

    async fn await_outcomes(&mut self) {
        while !self.conversation.idle() && !self.target.eof {
            let target = &mut self.target;
            let read = poll_fn(|cx| match target.poll_drain(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => target.poll_fill(cx),
            });
            if pin!(read).await.is_err() {
                return;
            }
            self.client.output.clear();
            let answered =
                self.conversation.answer(&mut self.target.input, &mut self.client.output, &mut self.outcomes);
            for outcome in self.outcomes.drain(..) {
                self.gate.settle(&outcome);
            }
            if answered.is_err() {
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
