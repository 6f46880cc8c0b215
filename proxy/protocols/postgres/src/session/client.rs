//! From the client: bytes to commands, commands to the target.
//!
//! Owns the reading of client messages and what each means for the session. Touches the buffers it is lent.
//! Invariant: a message is forwarded exactly as it was judged; in COPY only data and its end go upstream.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use sallyport_core::Fault;
use sallyport_core::protocol::{Described, Entry, Next};
use sallyport_core::record::Parameter;
use sallyport_policy::{Action, Denial};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use super::curb::Spent;
use super::names::{LONGEST_NAME, Meaning, NO_SEGMENT, Portal, Statement};
use super::spoken::{gives_names, runs_names, speaks_of_names};
use super::types::Types;
use super::{Awaits, Conversation, Effect, InFlight, MOST_IN_FLIGHT, Skip};
use crate::codec::backend::ready_for_query;
use crate::codec::frontend::{self, Frame, Kind, Space};
use crate::codec::{CodecError, HEADER};
use crate::mask::is_ours;
use crate::sql::{self, Loss};

/// A text longer than this takes the parser milliseconds.
const LONG_TEXT: usize = 16 * 1024;
/// Values longer than this are kept as they lie in the message instead of being copied out of it.
const COPIED_VALUES: usize = 16 * 1024;

static NOTHING: Action = Action::none();

/// A message of the client that may go upstream.
#[derive(Debug)]
pub struct Command {
    raw: Bytes,
    what: What,
    /// What it does, where that is more than its text says by itself.
    refined: Option<Box<Action>>,
}

#[derive(Debug)]
enum What {
    Query(Result<Arc<sql::Described>, Own>),
    Parse(Result<Arc<Statement>, Own>),
    Bind(Result<Portal, Own>),
    Execute(Result<Portal, Own>),
    FunctionCall,
    /// Describe, Close, Sync, Flush: they run nothing.
    Plain(Kind),
    /// Data of a COPY, in any pieces.
    CopyData,
    /// CopyDone or CopyFail.
    CopyEnd,
}

/// A refusal that policy was not asked for.
#[derive(Debug, Clone)]
pub(super) struct Own {
    cause: String,
    /// SQLSTATE.
    code: &'static str,
}

/// Where a refused command's failure belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is answered with its own ReadyForQuery.
    Query,
    /// What follows it is skipped up to the next Sync.
    Extended,
    /// It cannot be refused by itself.
    Nowhere,
}

impl Own {
    pub(super) fn new(code: &'static str, cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), code }
    }

    fn denial(&self) -> Denial {
        Denial::not_understood(self.cause.clone())
    }
}

impl From<sql::Refusal> for Own {
    fn from(refusal: sql::Refusal) -> Self {
        // What cannot be parsed is a mistake, not a want of privilege: clients tell the two apart.
        let code = if refusal.cause.starts_with("the statement cannot be parsed") { "42601" } else { "42501" };
        Self { cause: refusal.cause, code }
    }
}

impl Command {
    fn body(&self) -> &[u8] {
        self.raw.get(HEADER..).unwrap_or_default()
    }

    fn text(&self) -> Cow<'_, str> {
        let text = match self.what {
            What::Query(_) => frontend::query(self.body()).ok(),
            What::Parse(_) => frontend::parse(self.body()).ok().map(|parse| parse.text),
            _ => None,
        };
        String::from_utf8_lossy(text.unwrap_or_default())
    }

    /// What the session must know of each statement of a query.
    pub(super) fn kinds(&self) -> &[sql::StatementKind] {
        self.described_query().map_or(&[], |described| &described.kinds)
    }

    /// What each statement of a query does by itself.
    pub(super) fn actions(&self) -> &[Action] {
        self.described_query().map_or(&[], |described| &described.actions)
    }

    fn described_query(&self) -> Option<&sql::Described> {
        match &self.what {
            What::Query(Ok(described)) => Some(described),
            _ => None,
        }
    }

    /// What it does, where it was understood.
    pub(super) fn action(&self) -> Option<&Action> {
        if let Some(refined) = &self.refined {
            return Some(refined);
        }
        match &self.what {
            What::Query(Ok(described)) => Some(&described.action),
            What::Parse(Ok(statement)) => Some(&statement.described.action),
            What::Bind(Ok(portal)) | What::Execute(Ok(portal)) => Some(portal.meaning.action()),
            _ => None,
        }
    }

    /// The kinds of the statements that it sends, prepares or runs.
    pub(super) fn all_kinds(&self) -> impl Iterator<Item = &sql::StatementKind> + Clone {
        let (own, statements): (&[_], &[_]) = match &self.what {
            What::Query(Ok(described)) => (&described.kinds, &[]),
            What::Parse(Ok(statement)) => (&statement.described.kinds, &[]),
            What::Bind(Ok(portal)) | What::Execute(Ok(portal)) => (&[], portal.meaning.statements()),
            _ => (&[], &[]),
        };
        own.iter().chain(statements.iter().flat_map(|statement| &statement.described.kinds))
    }

    /// Whether the server may wait for data after it.
    pub(super) fn may_copy_in(&self) -> bool {
        self.all_kinds().any(|kind| *kind == sql::StatementKind::CopyIn)
    }

    /// Whether it can be the first of a segment.
    pub(super) const fn begins_work(&self) -> bool {
        matches!(self.what, What::Query(_) | What::Parse(_) | What::Bind(_) | What::Execute(_))
    }

    /// Whether the server is ready for something else after it.
    pub(super) const fn ends_segment(&self) -> bool {
        matches!(self.what, What::Query(_) | What::Plain(Kind::Sync))
    }

    pub(super) const fn place(&self) -> Place {
        match self.what {
            // A FunctionCall is answered like a Query: result or error, then ReadyForQuery.
            What::Query(_) | What::FunctionCall => Place::Query,
            What::Parse(_) | What::Bind(_) | What::Execute(_) => Place::Extended,
            What::Plain(_) | What::CopyData | What::CopyEnd => Place::Nowhere,
        }
    }

    /// Whether it runs, by SQL, what a name stands for that was given before.
    pub(super) fn runs_by_name(&self) -> bool {
        match &self.what {
            What::Query(Ok(described)) => runs_names(described),
            What::Execute(Ok(portal)) => {
                portal.meaning.statements().iter().any(|statement| runs_names(&statement.described))
                    || portal.meaning.statements().len() > 1
            }
            _ => false,
        }
    }

    /// Whether it is one that runs with values of which it is not known which they are.
    pub(super) const fn has_doubtful_values(&self) -> bool {
        matches!(&self.what, What::Execute(Ok(portal)) if !portal.sure)
    }

    /// Whether it does nothing but end the transaction, or go back in it.
    pub(super) fn concludes(&self) -> bool {
        let concludes = |described: &sql::Described| {
            use sql::StatementKind::{Commit, Rollback, RollbackTo};
            let ends = |kind: &_| matches!(kind, Commit { chain: false } | Rollback { chain: false } | RollbackTo(_));
            !described.kinds.is_empty() && described.kinds.iter().all(ends)
        };
        match &self.what {
            What::Query(Ok(described)) => concludes(described),
            What::Execute(Ok(portal)) => portal.meaning.statements().iter().all(|one| concludes(&one.described)),
            _ => false,
        }
    }

    /// Where the rows of its answer are counted; `None` where it has none.
    pub(super) fn spent(&self) -> Option<Arc<Spent>> {
        match &self.what {
            What::Query(_) => Some(Arc::default()),
            What::Execute(Ok(portal)) => Some(Arc::clone(&portal.spent)),
            _ => None,
        }
    }

    /// The SQLSTATE of a refusal of our own, with the denial it belongs to.
    pub(super) fn own_refusal(&self) -> Option<(Denial, &'static str)> {
        let own = match &self.what {
            What::Query(Err(own)) | What::Parse(Err(own)) | What::Bind(Err(own)) | What::Execute(Err(own)) => own,
            _ => return None,
        };
        Some((own.denial(), own.code))
    }

    pub(super) fn describe(&self) -> Described<'_> {
        let mut described = self.describe_text();
        if let (Ok(_), Some(refined)) = (&described.action, &self.refined) {
            described.action = Ok(refined);
        }
        described
    }

    fn describe_text(&self) -> Described<'_> {
        let entry = |text, parameters, runs| Some(Entry { text, parameters, runs });
        match &self.what {
            What::Query(judged) => Described {
                action: judged.as_ref().map(|described| &described.action).map_err(Own::denial),
                entry: entry(self.text(), Vec::new(), true),
            },
            What::Parse(judged) => Described {
                action: judged.as_ref().map(|statement| &statement.described.action).map_err(Own::denial),
                entry: entry(self.text(), Vec::new(), false),
            },
            What::Bind(Ok(portal)) => Described {
                action: Ok(portal.meaning.action()),
                entry: entry(portal.meaning.text(), Vec::new(), false),
            },
            What::Execute(Ok(portal)) => Described {
                action: Ok(portal.meaning.action()),
                entry: entry(portal.meaning.text(), parameters(portal), true),
            },
            What::Bind(Err(own)) | What::Execute(Err(own)) => {
                Described { action: Err(own.denial()), entry: entry(Cow::Borrowed(&own.cause), Vec::new(), false) }
            }
            What::FunctionCall => Described {
                action: Err(Denial::not_understood(
                    "the function call message is not let through: call the function in a statement",
                )),
                entry: entry(Cow::Borrowed("function call"), Vec::new(), true),
            },
            What::Plain(_) | What::CopyData | What::CopyEnd => Described { action: Ok(&NOTHING), entry: None },
        }
    }
}

impl Conversation {
    pub(super) fn next_command(&mut self, input: &mut BytesMut, client: &mut BytesMut) -> Result<Next<Command>, Fault> {
        if self.dropping > 0 {
            return Ok(self.drop_bytes(input));
        }
        if self.copying > 0 {
            return Ok(self.copy_bytes(input));
        }
        if self.curb.holds() {
            return Ok(Next::Full);
        }
        let Some(frame) = frontend::frame(input).map_err(fault)? else { return Ok(Next::Incomplete) };
        if frame.kind == Kind::Terminate {
            return Ok(Next::Goodbye);
        }
        if let Some(next) = self.skipped(frame, input, client) {
            return Ok(next);
        }
        if matches!(frame.kind, Kind::CopyData | Kind::CopyDone | Kind::CopyFail) {
            return Ok(self.copy_message(frame, input));
        }
        if self.copy_in {
            return match frame.kind {
                // The server ignores these while it waits for data, for the sake of clients that send them
                // before they know that their statement is a COPY.
                Kind::Sync | Kind::Flush => Ok(self.drop_message(frame, input)),
                _ => Err(Fault::client("only copy data may be sent while a COPY waits for data")),
            };
        }
        // What masks forbid may hang on what the catalog is about to say.
        if self.queue.len() >= MOST_IN_FLIGHT || self.awaits_catalog() {
            return Ok(Next::Full);
        }
        if frame.is_long_text() {
            return Ok(Next::Command(self.long_text(frame, input)));
        }
        if input.len() < frame.total {
            return Ok(Next::Incomplete);
        }
        let raw = input.split_to(frame.total).freeze();
        let what = self.read(frame.kind, &raw).map_err(fault)?;
        let refined = match &what {
            What::Query(Ok(described)) if speaks_of_names(described) => self.refined_query(described),
            What::Parse(Ok(statement)) => self.refined(std::slice::from_ref(statement)),
            What::Bind(Ok(portal)) | What::Execute(Ok(portal)) => self.refined(portal.meaning.statements()),
            _ => None,
        };
        Ok(Next::Command(Command { raw, what, refined: refined.map(Box::new) }))
    }

    /// A text that is longer than is read: it is refused as any other, and nothing of it is held.
    fn long_text(&mut self, frame: Frame, input: &mut BytesMut) -> Command {
        let own = Own::new("54000", sql::Refusal::too_long(frame.total).cause);
        let what = if frame.kind == Kind::Query { What::Query(Err(own)) } else { What::Parse(Err(own)) };
        let _dropped = self.drop_message(frame, input);
        Command { raw: Bytes::new(), what, refined: None }
    }

    /// Reads a whole message that is none of COPY's.
    fn read(&self, kind: Kind, raw: &Bytes) -> Result<What, CodecError> {
        let body = raw.get(HEADER..).unwrap_or_default();
        Ok(match kind {
            Kind::Query => {
                let understood = self.understand(frontend::query(body)?);
                What::Query(understood.and_then(|described| {
                    self.nothing_is_named_behind(&described)?;
                    Ok(described)
                }))
            }
            Kind::Parse => {
                let parse = frontend::parse(body)?;
                What::Parse(self.statement(&parse))
            }
            Kind::Bind => {
                let bind = frontend::bind(body)?;
                What::Bind(self.portal(&bind, raw))
            }
            Kind::Execute => {
                let name = frontend::execute(body)?;
                let known = self.portals.meaning(name, self.segment);
                let unknown = || Own::new("34000", format!("no portal of the name {:?} is known here", lossy(name)));
                What::Execute(known.ok_or_else(unknown).and_then(|portal| {
                    for statement in portal.meaning.statements() {
                        self.nothing_is_named_behind(&statement.described)?;
                    }
                    Ok(portal)
                }))
            }
            Kind::FunctionCall => What::FunctionCall,
            Kind::Describe => frontend::named("Describe", body).map(|_| What::Plain(kind))?,
            Kind::Close => frontend::named("Close", body).map(|_| What::Plain(kind))?,
            _ => What::Plain(kind),
        })
    }

    fn understand(&self, text: &[u8]) -> Result<Arc<sql::Described>, Own> {
        let text = std::str::from_utf8(text)
            .map_err(|_| Own::new("22021", "the statement is not valid UTF-8, which this proxy demands"))?;
        let described = unhindered(text.len(), || self.front.describe(text))?;
        self.names_fit(text, &described)?;
        Ok(described)
    }

    fn statement(&self, parse: &frontend::Parse<'_>) -> Result<Arc<Statement>, Own> {
        let &frontend::Parse { name, text, types } = parse;
        name_fits(name)?;
        if self.statements.is_full(name, text.len() + types.len()) {
            return Err(Own::new("54000", "this session has too many prepared statements: close some"));
        }
        let described = self.understand(text)?;
        let text = String::from_utf8_lossy(text).into();
        Ok(Arc::new(Statement { text, described, types: Types::given(types) }))
    }

    fn portal(&self, bind: &frontend::Bind<'_>, raw: &Bytes) -> Result<Portal, Own> {
        name_fits(bind.portal)?;
        if self.portals.is_full(bind.portal, bind.values.len()) {
            return Err(Own::new("54000", "this session has too many portals: close some"));
        }
        let meaning = self.statements.meaning(bind.statement, self.segment).ok_or_else(|| {
            let name = lossy(bind.statement);
            Own::new("26000", format!("no prepared statement of the name {name:?} is known here: prepare it"))
        })?;
        let values = match bind.values.len() {
            0 => Bytes::new(),
            1..=COPIED_VALUES => Bytes::copy_from_slice(bind.values),
            _ => raw.slice_ref(bind.values),
        };
        Ok(Portal { meaning, values, sure: true, spent: Arc::default() })
    }

    /// What happens to a message that comes before the Sync that is waited for.
    fn skipped(&mut self, frame: Frame, input: &mut BytesMut, client: &mut BytesMut) -> Option<Next<Command>> {
        match (self.skip, frame.kind) {
            (Skip::No, _) | (Skip::UntilSync, Kind::Sync) => None,
            (Skip::UntilSyncHere, Kind::Sync) => {
                if input.len() < frame.total {
                    return Some(Next::Incomplete);
                }
                if self.passing.remaining > 0 {
                    // A notice is on its way through: our answer must not fall into it.
                    return Some(Next::Full);
                }
                input.advance(frame.total);
                ready_for_query(client, self.status);
                self.skip = Skip::No;
                Some(Next::Handled)
            }
            _ => Some(self.drop_message(frame, input)),
        }
    }

    /// CopyData, CopyDone and CopyFail.
    fn copy_message(&mut self, frame: Frame, input: &mut BytesMut) -> Next<Command> {
        if !self.copy_in {
            let may_become_copy =
                self.queue.iter().any(|entry| matches!(entry.awaits, Awaits::Query | Awaits::Execute));
            // Sent ahead of the server's word that it takes data: wait for that word. Without a COPY these
            // messages mean nothing, and the server would ignore them.
            return if may_become_copy { Next::Full } else { self.drop_message(frame, input) };
        }
        if frame.kind == Kind::CopyData {
            // As many messages as have come at once, the last of them perhaps not whole.
            let mut end = 0;
            while let Ok(Some(Frame { kind: Kind::CopyData, total })) =
                frontend::frame(input.get(end..).unwrap_or_default())
            {
                end += total;
            }
            self.copying = end;
            self.data_comes();
            return self.copy_bytes(input);
        }
        if input.len() < frame.total {
            return Next::Incomplete;
        }
        Next::Command(Command { raw: input.split_to(frame.total).freeze(), what: What::CopyEnd, refined: None })
    }

    fn copy_bytes(&self, input: &mut BytesMut) -> Next<Command> {
        let take = self.copying.min(input.len());
        if take == 0 {
            return Next::Incomplete;
        }
        Next::Command(Command { raw: input.split_to(take).freeze(), what: What::CopyData, refined: None })
    }

    fn drop_message(&mut self, frame: Frame, input: &mut BytesMut) -> Next<Command> {
        self.dropping = frame.total;
        self.drop_bytes(input)
    }

    fn drop_bytes(&mut self, input: &mut BytesMut) -> Next<Command> {
        let gone = self.dropping.min(input.len());
        input.advance(gone);
        self.dropping -= gone;
        if self.dropping == 0 { Next::Handled } else { Next::Incomplete }
    }

    pub(super) fn forward_command(
        &mut self,
        command: &Command,
        number: Option<u64>,
        upstream: &mut BytesMut,
    ) -> Result<(), Fault> {
        self.ask_before(command, upstream);
        if self.masks.is_none() && !self.shown.is_wanted() {
            upstream.extend_from_slice(&command.raw);
            return self.note_forwarded(command, number, upstream);
        }
        if let What::Execute(Ok(_)) = &command.what {
            let mut probe = InFlight::new(Awaits::Execute, None);
            self.veil(command, &mut probe);
            // Their format stands nowhere else.
            if probe.veil.is_some() || self.shown.is_wanted() {
                self.describe_ahead(frontend::execute(command.body()).map_err(fault)?, upstream);
            }
        }
        upstream.extend_from_slice(&command.raw);
        self.note_forwarded(command, number, upstream)?;
        self.ask_behind(command, upstream);
        Ok(())
    }

    fn note_forwarded(&mut self, command: &Command, number: Option<u64>, upstream: &mut BytesMut) -> Result<(), Fault> {
        let out_of_step = || Fault::internal("the session is out of step", "a refused message was to be forwarded");
        let mut entry = match &command.what {
            What::Query(Ok(described)) => {
                let mut entry = InFlight::new(Awaits::Query, number);
                entry.settles = self.segment_open || settles(described);
                self.begin_segment();
                if speaks_of_names(described) {
                    entry.names = gives_names(described);
                    entry.effect = self.note_names(&command.text(), described, NO_SEGMENT);
                }
                if let Some(loss) = described.loses {
                    self.lose_names(loss);
                }
                entry
            }
            What::Parse(Ok(statement)) => {
                let name = frontend::parse(command.body()).map_err(fault)?.name;
                let meaning = Meaning::One(Arc::clone(statement));
                let mut entry = InFlight::new(Awaits::Parse, None);
                entry.effect = Some(self.effect(Space::Statement, name));
                self.statements.sent(name, self.serial, self.segment, Some(meaning));
                entry
            }
            What::Bind(Ok(portal)) => {
                let name = frontend::bind(command.body()).map_err(fault)?.portal;
                let mut entry = InFlight::new(Awaits::Bind, None);
                entry.effect = Some(self.effect(Space::Portal, name));
                self.portals.sent(name, self.serial, self.segment, Some(portal.clone()));
                entry
            }
            What::Execute(Ok(portal)) => {
                let mut entry = InFlight::new(Awaits::Execute, number);
                // Where it is not known which statement runs, each may give its name.
                let sure = if portal.meaning.statements().len() == 1 { self.segment } else { NO_SEGMENT };
                for statement in portal.meaning.statements() {
                    entry.settles |= settles(&statement.described);
                    entry.names |= gives_names(&statement.described);
                    let effect = self.note_names(&statement.text, &statement.described, sure);
                    entry.effect = effect.filter(|_| sure != NO_SEGMENT);
                }
                if let Some(loss) = self.loss_of(portal) {
                    self.lose_names(loss);
                }
                entry
            }
            What::Plain(Kind::Describe) => {
                let mut entry = InFlight::new(Awaits::Describe, None);
                if let (Space::Statement, name) = frontend::named("Describe", command.body()).map_err(fault)?
                    && let Some(Meaning::One(statement)) = self.statements.meaning(name, self.segment)
                {
                    // What is answered is of this statement or an error: the name can stand for no other.
                    entry.describes = Some(statement.types.description());
                }
                entry
            }
            What::Plain(Kind::Close) => {
                let (space, name) = frontend::named("Close", command.body()).map_err(fault)?;
                let mut entry = InFlight::new(Awaits::Close, None);
                entry.effect = Some(self.effect(space, name));
                match space {
                    Space::Statement => self.statements.sent(name, self.serial, self.segment, None),
                    Space::Portal => self.portals.sent(name, self.serial, self.segment, None),
                }
                entry
            }
            What::Plain(Kind::Sync) => {
                self.segment += 1;
                self.segment_open = false;
                self.skip = Skip::No;
                self.expect(InFlight::new(Awaits::Sync, None), upstream);
                return Ok(());
            }
            What::CopyData => {
                self.copying = self.copying.checked_sub(command.raw.len()).ok_or_else(out_of_step)?;
                self.keep_sent(&command.raw)?;
                return Ok(());
            }
            What::CopyEnd => {
                self.copy_in = false;
                return Ok(());
            }
            What::Plain(_) => return Ok(()),
            What::Query(Err(_))
            | What::Parse(Err(_))
            | What::Bind(Err(_))
            | What::Execute(Err(_))
            | What::FunctionCall => return Err(out_of_step()),
        };
        // A Bind is planned, and what is planned may read.
        if matches!(entry.awaits, Awaits::Query | Awaits::Bind | Awaits::Execute) {
            self.veil(command, &mut entry);
        }
        self.shown.keep(&mut entry);
        self.segment_open |= entry.awaits != Awaits::Query;
        self.expect(entry, upstream);
        Ok(())
    }

    /// What names do not tell any more once a portal has run: by its text, unless the path that it sets by a parameter is one
    /// under which they tell what they told.
    fn loss_of(&self, portal: &Portal) -> Option<Loss> {
        let keeps = |statement: &Statement| {
            let number = statement.described.path.filter(|number| portal.sure && statement.types.may_be_text(*number));
            let value = number.and_then(|number| parameters(portal).into_iter().nth(number));
            matches!(value, Some(Parameter::Text(path)) if self.front.names().holds_path(&path))
        };
        let statements = portal.meaning.statements().iter().filter(|statement| !keeps(statement));
        statements.filter_map(|statement| statement.described.loses).max()
    }

    pub(super) fn effect(&mut self, space: Space, name: &[u8]) -> Effect {
        self.serial += 1;
        Effect { space, name: name.into(), serial: self.serial }
    }
}

/// What a portal runs with.
fn parameters(portal: &Portal) -> Vec<Parameter> {
    let meaning = &portal.meaning;
    frontend::parameters(&portal.values, |number| meaning.type_of(number), |number| meaning.claimed(number))
}

/// Whether a text makes the server check what was put off to the end of the transaction.
fn settles(described: &sql::Described) -> bool {
    use sql::StatementKind::{Commit, SetConstraints};
    described.kinds.iter().any(|kind| matches!(kind, Commit { .. } | SetConstraints))
}

/// Reads a text where a long one does not keep this thread's other sessions and handshakes waiting.
fn unhindered<T>(length: usize, read: impl FnOnce() -> T) -> T {
    let runtime = Handle::try_current().map(|handle| handle.runtime_flavor());
    match runtime {
        Ok(RuntimeFlavor::MultiThread) if length > LONG_TEXT => block_in_place(read),
        _ => read(),
    }
}

fn name_fits(name: &[u8]) -> Result<(), Own> {
    if is_ours(name) {
        return Err(Own::new("42939", "this name is the proxy's own: use another"));
    }
    if name.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(Own::new("42622", format!("names of more than {LONGEST_NAME} bytes are refused: the server would cut them")))
}

fn lossy(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(name.get(..LONGEST_NAME).unwrap_or(name))
}

fn fault(error: CodecError) -> Fault {
    Fault::client(error.to_string())
}
