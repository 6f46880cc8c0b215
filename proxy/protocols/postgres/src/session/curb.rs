//! Answers that are too long: what the client still sees of them, and how it is told.
//!
//! Owns the limits on the rows of one command. Touches the session's own state. Invariants: no byte beyond a limit reaches
//! the client; it hears of that once the server has told how the command ended, so that what it hears of its effect and
//! of its transaction is true.
//!
//! From the first row too many the command is cancelled at the server, and its answer goes nowhere. Where the server
//! fails, its error is replaced. Where the command succeeds before the cancel comes, a transaction block is made to fail
//! as for any refusal, and an implicit one by a message that fails in front of its Sync; where that is on its way already
//! the effect stands, and the error says so. Until all of this is over the client's next messages wait: a cancel hits
//! whatever runs when it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use sallyport_core::Fault;
use sallyport_core::protocol::{Outcome, Reached, Remedy};
use sallyport_policy::Allowance;

use super::answer::{Fate, fault};
use super::{Awaits, COPY_FAIL, Conversation, FLUSH, InFlight, Skip};
use crate::codec::HEADER;
use crate::codec::backend::{Frame, Kind, Status, ready_for_query};
use crate::refuse::{self, Effect};

/// What one command may answer, and what it has.
#[derive(Debug)]
pub(super) struct Budget {
    allowance: Arc<Allowance>,
    spent: Arc<Spent>,
    /// The rows of a COPY come in binary form.
    binary: bool,
    pub(super) reached: Option<Reached>,
}

/// Rows and their bytes, of a portal over all of its Executes.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    rows: AtomicU64,
    bytes: AtomicU64,
}

/// What is being done about an answer that is too long.
#[derive(Debug, Default)]
pub(super) struct Curb {
    over: Option<Over>,
    interrupt: Interrupt,
    send: Option<&'static [u8]>,
}

#[derive(Debug)]
struct Over {
    reached: Reached,
    most: u64,
}

/// The request to cancel, on a connection of its own.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Interrupt {
    #[default]
    No,
    Wanted,
    Running,
}

impl Budget {
    pub(super) const fn new(allowance: Arc<Allowance>, spent: Arc<Spent>) -> Self {
        Self { allowance, spent, binary: false, reached: None }
    }

    /// Counts one row, and says which limit it is beyond.
    fn take(&self, frame: Frame) -> Option<Over> {
        // The end of a binary COPY is a message of its own and no row.
        if frame.kind == Kind::CopyData && self.binary && frame.total == HEADER + 2 {
            return None;
        }
        let size = u64::try_from(frame.total).unwrap_or(u64::MAX);
        let rows = self.spent.rows.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let bytes = self.spent.bytes.fetch_add(size, Ordering::Relaxed).saturating_add(size);
        let Allowance { rows: most_rows, bytes: most_bytes } = &*self.allowance;
        let over = |count, bound: &Option<sallyport_policy::Bound>, limit| {
            let bound = bound.as_ref().filter(|bound| count > bound.most)?;
            Some(Over { reached: Reached { limit, policy: Arc::clone(&bound.policy) }, most: bound.most })
        };
        over(rows, most_rows, "rowsPerCommand").or_else(|| over(bytes, most_bytes, "bytesPerCommand"))
    }
}

impl Curb {
    /// Whether the client's next messages have to wait.
    pub(super) fn holds(&self) -> bool {
        self.over.is_some() || self.interrupt != Interrupt::No
    }

    pub(super) fn remedy(&mut self) -> Remedy {
        if let Some(constant) = self.send.take() {
            return Remedy::Send(constant);
        }
        if self.interrupt == Interrupt::Wanted {
            self.interrupt = Interrupt::Running;
            return Remedy::Interrupt;
        }
        Remedy::None
    }

    pub(super) fn interrupted(&mut self) {
        if self.interrupt == Interrupt::Running {
            self.interrupt = Interrupt::No;
        }
    }

    /// The answer is over, and so is what was done about it, but for a cancel that is under way.
    fn settle(&mut self, effect: Effect) -> Bytes {
        if self.interrupt == Interrupt::Wanted {
            self.interrupt = Interrupt::No;
        }
        let over = self.over.take();
        over.map(|Over { reached, most }| refuse::too_long(&reached, most, effect)).unwrap_or_default()
    }
}

impl Conversation {
    /// Notes how much the command that was just forwarded may answer.
    pub(super) fn allow(&mut self, allowance: Arc<Allowance>, spent: Arc<Spent>) {
        let runs = |entry: &&mut InFlight| matches!(entry.awaits, Awaits::Query | Awaits::Execute);
        if let Some(entry) = self.queue.iter_mut().rev().find(runs) {
            entry.budget = Some(Box::new(Budget::new(allowance, spent)));
        }
    }

    /// Counts one message, and says whether its command is beyond a limit, or one before it in the same segment.
    pub(super) fn goes_over(&mut self, frame: Frame, body: &[u8]) -> bool {
        if self.curb.over.is_some() {
            return true;
        }
        let Some(InFlight { budget: Some(budget), awaits, .. }) = self.queue.front_mut() else { return false };
        if frame.kind == Kind::CopyOutResponse {
            budget.binary = body.first() == Some(&1);
        }
        let is_row = matches!(frame.kind, Kind::DataRow | Kind::CopyData);
        let Some(over) = is_row.then(|| budget.take(frame)).flatten() else { return false };
        budget.reached = Some(over.reached.clone());
        // What the server keeps back for a Sync has to come before that: the Sync waits.
        let flush = (*awaits == Awaits::Execute).then_some(FLUSH);
        self.curb = Curb { over: Some(over), interrupt: Interrupt::Wanted, send: flush };
        true
    }

    /// Takes one message of a command that is over its limit, or of one behind it in the same segment.
    pub(super) fn curtail(&mut self, kind: Kind, body: &[u8], outcomes: &mut Vec<Outcome>) -> Result<Fate, Fault> {
        let nothing = || Fate::Replaced(Bytes::new());
        let cut = self.queue.front().is_some_and(|entry| entry.is_cut());
        let executes = self.queue.front().is_some_and(|entry| entry.awaits == Awaits::Execute);
        match kind {
            Kind::NoticeResponse | Kind::NotificationResponse | Kind::ParameterStatus => {
                self.take(kind, body, outcomes)
            }
            Kind::DataRow | Kind::CopyData if cut => Ok(nothing()),
            Kind::ErrorResponse => {
                // What we had put there to fail has the words already.
                let ours = self.queue.front().is_some_and(|entry| entry.refusal.is_some());
                let fate = self.take(kind, body, outcomes)?;
                if self.parted {
                    // The last words of a server that closes.
                    return Ok(fate);
                }
                let told = self.curb.settle(Effect::Undone);
                Ok(if ours { fate } else { Fate::Replaced(told) })
            }
            Kind::CopyInResponse => {
                // The client does not hear of it and sends nothing.
                self.take(kind, body, outcomes)?;
                self.copy_in = false;
                self.curb.send = Some(COPY_FAIL);
                Ok(nothing())
            }
            Kind::ReadyForQuery => self.ready_after_all(body, outcomes),
            _ => {
                self.take(kind, body, outcomes)?;
                let ended = matches!(kind, Kind::CommandComplete | Kind::PortalSuspended | Kind::EmptyQueryResponse);
                if cut && executes && ended && !self.queue.iter().any(|entry| entry.awaits == Awaits::Sync) {
                    self.fail_segment();
                }
                Ok(nothing())
            }
        }
    }

    /// The command succeeded, and no Sync is behind it yet: the server is made to fail before one comes.
    fn fail_segment(&mut self) {
        let mut entry = InFlight::new(Awaits::Parse, None);
        entry.refusal = self.curb.over.as_ref().map(|over| refuse::too_long(&over.reached, over.most, Effect::Undone));
        self.queue.push_back(entry);
        self.segment_open = true;
        self.skip = Skip::UntilSync;
        self.curb.send = Some(refuse::PARSE_THAT_FAILS);
    }

    /// Everything succeeded at the server, and it is ready: a transaction block is made to fail, if nothing runs in it
    /// already that the client sent behind; else the effect stands.
    fn ready_after_all(&mut self, body: &[u8], outcomes: &mut Vec<Outcome>) -> Result<Fate, Fault> {
        let status = Status::read(body).map_err(fault)?;
        self.take(Kind::ReadyForQuery, body, outcomes)?;
        if status == Status::InTransaction && self.queue.is_empty() && !self.segment_open {
            let mut entry = InFlight::new(Awaits::Query, None);
            entry.refusal = Some(self.curb.settle(Effect::Undone));
            self.queue.push_back(entry);
            self.begin_segment();
            self.curb.send = Some(refuse::QUERY_THAT_FAILS);
            return Ok(Fate::Replaced(Bytes::new()));
        }
        let mut told = BytesMut::from(&*self.curb.settle(Effect::Stands));
        ready_for_query(&mut told, status);
        Ok(Fate::Replaced(told.freeze()))
    }
}

impl InFlight {
    pub(super) fn is_cut(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.reached.is_some())
    }

    pub(super) fn reached(&self) -> Option<Reached> {
        self.budget.as_ref().and_then(|budget| budget.reached.clone())
    }
}
