//! A session once it is logged in: the state that both directions share.
//!
//! Owns what is in flight, what names stand for, and where the transaction stands. Touches the buffers it is
//! lent. Invariant: `queue` holds, in order, one entry for each answer that the server owes.

mod answer;
mod client;
mod curb;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hidden;
mod names;
pub(crate) mod rehearsal;
mod shown;
mod spoken;
#[cfg(test)]
mod tests;
mod types;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sallyport_core::Fault;
use sallyport_core::gate::{Granted, Refused};
use sallyport_core::protocol::{self, Described, Ending, Masking, Next, Notice, Outcome, Remedy, Transaction};
use sallyport_core::shown::Part;

pub use self::client::Command;
use self::client::Place;
use self::curb::{Budget, Curb};
pub(crate) use self::hidden::masks_at_login;
use self::names::{Meaning, Names, Portal};
use self::shown::{Keep, Shown};
use self::types::Description;
use crate::cancel::Registered;
use crate::codec::backend::{Status, ready_for_query};
use crate::codec::frontend::Space;
use crate::codec::startup::{self, CancelKey};
use crate::mask::{Catalog, CopyRows, Masks, Rows, Veil};
use crate::{refuse, sql};

/// Answers that may be owed at once. More than the server can hold back unflushed: its buffer of 8 KiB
/// takes 1,638 answers of the smallest size, so a full queue always drains.
const MOST_IN_FLIGHT: usize = 4096;
/// Asks the server for the answers it holds back; sent along when the queue becomes full.
const FLUSH: &[u8] = b"H\0\0\0\x04";
/// Makes a COPY fail that waits for data.
const COPY_FAIL: &[u8] = b"f\0\0\0\x15the session ends\0";

/// The translator of one session.
#[derive(Debug)]
pub struct Conversation {
    front: Arc<sql::Front>,
    key: Option<CancelKey>,
    /// Keeps the client's cancel key good.
    _registered: Registered,
    statements: Names<Meaning>,
    portals: Names<Portal>,
    queue: VecDeque<InFlight>,
    /// Counts messages that give names a meaning.
    serial: u64,
    /// Counts Syncs and Queries.
    segment: u64,
    /// The server was asked for answers it may hold back, because the session is to end.
    hastened: bool,
    /// Whether messages of the extended protocol went upstream since the last Sync: then work of theirs may
    /// be waiting for it to be committed.
    segment_open: bool,
    status: Status,
    skip: Skip,
    /// The server takes the client's CopyData now.
    copy_in: bool,
    /// Bytes of the client's current CopyData that are still to be forwarded.
    copying: usize,
    /// Bytes of the client's current message that go nowhere.
    dropping: usize,
    /// The server's current message, of which a part has passed.
    passing: Passing,
    /// What is being done about an answer that is too long.
    curb: Curb,
    /// The server has said its last words.
    parted: bool,
    /// What the server reported at login of settings that change the meaning of commands.
    pinned: Vec<(Bytes, Bytes)>,
    /// What is masked, where anything is.
    masks: Option<Box<Masks>>,
    /// Kept from row to row.
    row: BytesMut,
    /// What the client is shown, where that is recorded.
    shown: Shown,
}

/// Whether the client's messages are skipped up to its next Sync, as the protocol demands after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    No,
    /// The server skips as well and shall see the Sync.
    UntilSync,
    /// The server knows of nothing: the Sync is answered here.
    UntilSyncHere,
}

#[derive(Debug, Default)]
struct Passing {
    remaining: usize,
    /// Its bytes are dropped: something else was sent in its place.
    replaced: bool,
}

/// The messages that are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Query,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
    /// Of a portal, asked by us before its Execute.
    OurDescribe,
    /// All that answers our question about the catalog, up to its ReadyForQuery.
    OurQuestion,
}

/// A message that the server has not answered yet.
#[derive(Debug)]
struct InFlight {
    awaits: Awaits,
    /// The command's number, where an outcome is owed.
    number: Option<u64>,
    /// Rows that the server has told so far.
    rows: Option<u64>,
    /// Rows that have passed.
    passed: u64,
    failed: Option<[u8; 5]>,
    /// The name that it gives a meaning.
    effect: Option<Effect>,
    /// Where what it tells of a statement's parameters goes.
    describes: Option<Description>,
    /// It gives names a meaning by SQL.
    names: bool,
    /// It is a constant in the place of a refused command: its error is replaced with this.
    refusal: Option<Bytes>,
    /// The server has said that lines of a COPY come, and not yet that they have come.
    copies_out: bool,
    /// What masks do to its answers.
    veil: Option<Box<Veil>>,
    /// How the rows that come now are masked.
    rows_masked: Option<Rows>,
    /// How the rows of the COPY that come now are masked.
    copy_masked: Option<Box<CopyRows>>,
    /// What our question has brought so far.
    catalog: Option<Box<Catalog>>,
    /// What the server says of it may be of commands before it: constraints and triggers that waited for the end of the
    /// transaction.
    settles: bool,
    /// How much it may answer.
    budget: Option<Box<Budget>>,
    /// What its client is shown is recorded.
    keep: Option<Box<Keep>>,
}

#[derive(Debug)]
struct Effect {
    space: Space,
    name: Box<[u8]>,
    serial: u64,
}

/// What a session begins with.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) front: Arc<sql::Front>,
    pub(crate) key: Option<CancelKey>,
    pub(crate) registered: Registered,
    pub(crate) pinned: Vec<(Bytes, Bytes)>,
    pub(crate) masks: Option<Box<Masks>>,
}

impl InFlight {
    const fn new(awaits: Awaits, number: Option<u64>) -> Self {
        Self {
            awaits,
            number,
            rows: None,
            passed: 0,
            failed: None,
            effect: None,
            describes: None,
            names: false,
            refusal: None,
            copies_out: false,
            veil: None,
            rows_masked: None,
            copy_masked: None,
            catalog: None,
            settles: matches!(awaits, Awaits::Sync | Awaits::OurQuestion),
            budget: None,
            keep: None,
        }
    }
}

impl Conversation {
    pub(crate) fn new(beginning: Beginning) -> Self {
        Self {
            front: beginning.front,
            key: beginning.key,
            _registered: beginning.registered,
            statements: Names::default(),
            portals: Names::default(),
            queue: VecDeque::new(),
            serial: 0,
            segment: 0,
            hastened: false,
            segment_open: false,
            status: Status::Idle,
            skip: Skip::No,
            copy_in: false,
            copying: 0,
            dropping: 0,
            passing: Passing::default(),
            curb: Curb::default(),
            parted: false,
            pinned: beginning.pinned,
            masks: beginning.masks,
            row: BytesMut::new(),
            shown: Shown::default(),
        }
    }

    /// Whether the server knows of nothing that a local answer could overtake or contradict.
    fn is_at_rest(&self) -> bool {
        self.queue.is_empty()
            && !self.segment_open
            && self.status != Status::InTransaction
            && self.copying == 0
            && self.passing.remaining == 0
    }

    /// Notes a message that the server will answer; asks for held-back answers when no more may be owed.
    fn expect(&mut self, entry: InFlight, upstream: &mut BytesMut) {
        self.queue.push_back(entry);
        if self.queue.len() >= MOST_IN_FLIGHT {
            upstream.extend_from_slice(FLUSH);
        }
    }

    /// Answers a refused command, or says what to send the server so that it fails in the same place: an open
    /// transaction has to be aborted, and what is in flight before must be answered first.
    fn refuse_at(&mut self, place: Place, error: Bytes, client: &mut BytesMut) -> Option<&'static [u8]> {
        let at_rest = self.is_at_rest();
        let (constant, awaits) = match place {
            Place::Query => (refuse::QUERY_THAT_FAILS, Awaits::Query),
            Place::Extended => (refuse::PARSE_THAT_FAILS, Awaits::Parse),
            Place::Nowhere => return None,
        };
        if at_rest {
            client.extend_from_slice(&error);
            match place {
                Place::Query => ready_for_query(client, self.status),
                _ => self.skip = Skip::UntilSyncHere,
            }
            return None;
        }
        let mut entry = InFlight::new(awaits, None);
        entry.settles = true;
        entry.refusal = Some(error);
        self.queue.push_back(entry);
        if place == Place::Query {
            self.begin_segment();
        } else {
            self.segment_open = true;
            self.skip = Skip::UntilSync;
        }
        Some(constant)
    }

    /// Notes that a Query goes upstream: it ends whatever the extended protocol had begun.
    const fn begin_segment(&mut self) {
        self.segment += 1;
        self.segment_open = false;
    }
}

impl protocol::Conversation for Conversation {
    type Command = Command;

    const PARTING: &'static [u8] = b"X\0\0\0\x04";

    fn next(&mut self, input: &mut BytesMut, client: &mut BytesMut) -> Result<Next<Command>, Fault> {
        self.next_command(input, client)
    }

    fn mask(&mut self, masking: Option<&Arc<Masking>>) -> bool {
        self.take_masking(masking);
        true
    }

    fn show(&mut self, wanted: bool) -> bool {
        self.shown.want(wanted);
        true
    }

    fn shown(&mut self) -> Vec<Part> {
        self.shown.take()
    }

    fn unsaid(&mut self) {
        self.passing = self.shown.passing_before();
    }

    fn describe<'a>(&'a self, command: &'a Command) -> Described<'a> {
        let mut described = command.describe();
        if let (Some(masks), Ok(action)) = (&self.masks, &described.action)
            && let Some(denial) = masks.forbids(action, command.all_kinds())
        {
            described.action = Err(denial);
        }
        described
    }

    fn concludes(&self, command: &Command) -> bool {
        command.concludes()
    }

    fn forward(&mut self, granted: Granted<'_, Command>) -> Result<(), Fault> {
        let allowance = granted.allowance().cloned();
        let (command, number, upstream) = granted.into_parts();
        self.forward_command(&command, number, upstream)?;
        if let (Some(allowance), Some(spent)) = (allowance, command.spent()) {
            self.allow(allowance, spent);
        }
        Ok(())
    }

    fn refuse(&mut self, mut refused: Refused<'_, Command>, client: &mut BytesMut) -> Result<(), Fault> {
        let error = refuse::command_refused(refused.denial(), refused.command().own_refusal());
        match self.refuse_at(refused.command().place(), error, client) {
            Some(constant) => refused.send_constant(constant),
            None if refused.command().place() == Place::Nowhere => return Err(Fault::Policy(refused.denial().clone())),
            None => {}
        }
        Ok(())
    }

    fn answer(
        &mut self,
        input: &mut BytesMut,
        client: &mut BytesMut,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Fault> {
        self.shown.begin(&self.passing, &self.queue);
        self.pass(input, client, outcomes)
    }

    /// A Flush, not a Sync: a Sync would commit what the client never concluded. A COPY that waits for data is
    /// made to fail, for the client's will come no more.
    fn hasten(&mut self) -> &'static [u8] {
        if self.copying > 0 {
            // In the middle of a message anything we say would be taken for data.
            return &[];
        }
        if std::mem::take(&mut self.copy_in) {
            return COPY_FAIL;
        }
        if std::mem::replace(&mut self.hastened, true) { &[] } else { FLUSH }
    }

    fn notice(&mut self, notice: &Notice, client: &mut BytesMut) -> bool {
        // In the middle of a message it would be taken for its content.
        let between_messages = self.passing.remaining == 0;
        if between_messages {
            client.extend_from_slice(&refuse::notice(notice));
        }
        between_messages
    }

    fn hides(&self, command: &Command) -> Option<&'static str> {
        if command.runs_by_name() {
            return Some(
                "it runs another statement by its name, which does not show that statement: send the statement itself",
            );
        }
        // Else people would be shown the values of one Bind, and those of another would run.
        command.has_doubtful_values().then_some(
            "its portal may still stand for what was bound before: wait for the answers to what was sent ahead of it",
        )
    }

    /// After an error the server skips everything up to the next Sync, and so does this side.
    fn overtaken(&self) -> bool {
        self.skip != Skip::No
    }

    fn remedy(&mut self) -> Remedy {
        self.curb.remedy()
    }

    fn interrupted(&mut self) {
        self.curb.interrupted();
    }

    fn idle(&self) -> bool {
        self.queue.is_empty() && self.copying == 0
    }

    /// A transaction block, or work of the extended protocol that no Sync has concluded yet, or a COPY whose data
    /// comes. What a Query or a Sync in flight leaves open is known with its ReadyForQuery.
    fn transaction(&self) -> Transaction {
        if self.segment_open || self.copy_in || self.copying > 0 {
            Transaction::Open
        } else if !self.queue.is_empty() {
            Transaction::Settling
        } else if self.status == Status::Idle {
            Transaction::None
        } else {
            Transaction::Open
        }
    }

    fn interruption(&self) -> Option<Bytes> {
        if self.idle() {
            return None;
        }
        self.key.as_ref().map(|key| startup::cancel_request(key).freeze())
    }

    fn farewell(&mut self, ending: &Ending, client: &mut BytesMut) {
        // In the middle of a message anything we say would be taken for its content. And where the server has said
        // why it closes, that it closed is no news.
        if self.passing.remaining == 0 && !(self.parted && matches!(ending, Ending::Upstream(_))) {
            client.extend_from_slice(&refuse::farewell(ending));
        }
    }
}
