//! From the target: what passes, what it settles, and the errors that are replaced by our own.
//!
//! Owns the reading of server messages. Touches the buffers it is lent. Invariants: what is not replaced
//! passes byte for byte; no message is held back longer than it takes to see what matters of it; an answer
//! that nothing was owed ends the session.

use std::mem;

use bytes::{Buf, Bytes, BytesMut};
use sallyport_core::Fault;
use sallyport_core::protocol::Outcome;

use super::{Awaits, Conversation, InFlight, Passing, Skip, types};
use crate::codec::backend::{self, ERROR_PEEK, Frame, Kind, Status};
use crate::codec::frontend::Space;
use crate::codec::{CodecError, HEADER};
use crate::mask::{LONGEST_DESCRIPTION, LONGEST_ROW, LONGEST_TEXTS};
use crate::sql::Loss;

/// The code in the record of a command that the target skipped after an error before it.
pub(super) const SKIPPED: &str = "skipped";

/// What becomes of a message.
pub(super) enum Fate {
    Passes,
    Replaced(Bytes),
}

impl Conversation {
    pub(super) fn pass(
        &mut self,
        input: &mut BytesMut,
        client: &mut BytesMut,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Fault> {
        // Everything before this offset has been seen and passes, whatever comes behind it: of a message that has begun to
        // pass the client must not see the half, with our last words for the rest.
        let mut seen = 0;
        let passed = self.pass_seen(input, client, outcomes, &mut seen);
        deliver(input, seen, client);
        passed
    }

    fn pass_seen(
        &mut self,
        input: &mut BytesMut,
        client: &mut BytesMut,
        outcomes: &mut Vec<Outcome>,
        seen: &mut usize,
    ) -> Result<(), Fault> {
        loop {
            let rest = input.get(*seen..).unwrap_or_default();
            if self.passing.remaining > 0 {
                let gone = self.passing.remaining.min(rest.len());
                self.passing.remaining -= gone;
                if self.passing.replaced {
                    deliver(input, *seen, client);
                    input.advance(gone);
                    *seen = 0;
                } else {
                    *seen += gone;
                }
                if self.passing.remaining > 0 {
                    break;
                }
                continue;
            }
            let Some(frame) = backend::frame(rest).map_err(fault)? else { break };
            if rest.len() < self.needed(frame)? {
                break;
            }
            let body = rest.get(HEADER..frame.total.min(rest.len())).unwrap_or_default();
            let over = self.goes_over(frame, body);
            if !over && frame.kind == Kind::DataRow && self.masks_rows() && self.is_row_due() {
                // Held whole: what passes in its place is of another length.
                let mut row = mem::take(&mut self.row);
                row.clear();
                let masked = self.mask_row(body, &mut row).and_then(|()| self.keep_written(&row));
                if masked.is_err() {
                    row.clear();
                }
                if let Some(entry) = self.queue.front_mut() {
                    entry.passed += 1;
                }
                deliver(input, *seen, client);
                *seen = 0;
                client.extend_from_slice(&row);
                self.row = row;
                masked?;
                self.passing = Passing { remaining: frame.total, replaced: true };
                continue;
            }
            let fate =
                if over { self.curtail(frame.kind, body, outcomes) } else { self.take(frame.kind, body, outcomes) };
            match fate? {
                Fate::Passes => {
                    self.keep(frame.kind, body)?;
                    self.passing = Passing { remaining: frame.total, replaced: false };
                }
                Fate::Replaced(by) => {
                    self.keep_written(&by)?;
                    deliver(input, *seen, client);
                    *seen = 0;
                    client.extend_from_slice(&by);
                    self.passing = Passing { remaining: frame.total, replaced: true };
                }
            }
        }
        Ok(())
    }

    /// Notes what one message means. `body` is whole for the kinds that [`needed`] waits for.
    pub(super) fn take(&mut self, kind: Kind, body: &[u8], outcomes: &mut Vec<Outcome>) -> Result<Fate, Fault> {
        let awaits = self.queue.front().map(|entry| entry.awaits);
        match (kind, awaits) {
            (Kind::NoticeResponse, Some(Awaits::OurQuestion)) => return Ok(Fate::Replaced(Bytes::new())),
            (Kind::NoticeResponse, _) => {
                return Ok(self.veiled_texts(b'N', body).map_or(Fate::Passes, Fate::Replaced));
            }
            (Kind::NotificationResponse, _) => {
                return Ok(self.veiled_notification(body).map_or(Fate::Passes, Fate::Replaced));
            }
            (Kind::ParameterStatus, _) => {
                self.pinned_holds(body)?;
                return Ok(Fate::Passes);
            }
            (Kind::ErrorResponse, Some(Awaits::OurQuestion)) if backend::failure(body).ends_session => {}
            (_, Some(Awaits::OurQuestion)) => {
                self.learn(kind, body)?;
                return Ok(Fate::Replaced(Bytes::new()));
            }
            (Kind::RowDescription | Kind::NoData, Some(Awaits::OurDescribe)) => {
                if kind == Kind::RowDescription {
                    self.rows_are(1, body)?;
                }
                self.complete(outcomes)?;
                return Ok(Fate::Replaced(Bytes::new()));
            }
            (Kind::ParameterDescription, Some(Awaits::Describe)) => {
                if let Some(description) = self.queue.front().and_then(|entry| entry.describes.as_ref()) {
                    types::describe(description, body);
                }
            }
            (Kind::RowDescription, Some(Awaits::Query)) => self.rows_are(0, body)?,
            (Kind::CopyOutResponse, _) => self.copy_begins(body)?,
            _ => {}
        }
        let head = self.queue.front_mut();
        if head.as_ref().is_some_and(|entry| !entry.can_answer(kind)) {
            return Err(out_of_step(format!("{kind:?} where only an error can be, or behind one")));
        }
        match (kind, awaits) {
            (Kind::DataRow, Some(Awaits::Query | Awaits::Execute)) => {
                if let Some(entry) = head {
                    if entry.rows_masked.as_ref().is_some_and(|rows| !rows.fits(body)) {
                        return Err(out_of_step("a row of other columns than were described".to_owned()));
                    }
                    entry.passed += 1;
                }
            }
            (Kind::CopyData, Some(Awaits::Query | Awaits::Execute)) => {
                if let Some(masked) = self.mask_copy(body)? {
                    return Ok(Fate::Replaced(masked));
                }
            }
            (Kind::CopyOutResponse | Kind::CopyDone, Some(Awaits::Query | Awaits::Execute)) => {
                if let Some(entry) = head {
                    entry.copies_out = kind == Kind::CopyOutResponse;
                }
            }
            (Kind::RowDescription, Some(Awaits::Query | Awaits::Execute))
            | (Kind::ParameterDescription, Some(Awaits::Describe))
            | (Kind::EmptyQueryResponse, Some(Awaits::Query)) => {}
            (Kind::RowDescription | Kind::NoData, Some(Awaits::Describe))
            | (Kind::ParseComplete, Some(Awaits::Parse))
            | (Kind::BindComplete, Some(Awaits::Bind))
            | (Kind::CloseComplete, Some(Awaits::Close))
            | (Kind::EmptyQueryResponse | Kind::PortalSuspended, Some(Awaits::Execute)) => self.complete(outcomes)?,
            (Kind::CommandComplete, Some(awaits @ (Awaits::Query | Awaits::Execute))) => {
                self.copy_in = false;
                if let (Some(entry), Some(rows)) = (head, backend::rows(body)) {
                    entry.rows = Some(entry.rows.unwrap_or(0).saturating_add(rows));
                }
                self.all_may_be_forgotten(body);
                if awaits == Awaits::Execute {
                    self.complete(outcomes)?;
                }
            }
            (Kind::CopyInResponse, Some(Awaits::Query | Awaits::Execute)) => {
                self.begin_copy_in();
                self.data_is(body);
            }
            (Kind::ReadyForQuery, Some(Awaits::Query | Awaits::Sync)) => {
                self.copy_in = false;
                self.status = Status::read(body).map_err(fault)?;
                self.complete(outcomes)?;
                if self.status == Status::Idle && self.queue.is_empty() && !self.segment_open {
                    self.transaction_ended();
                }
            }
            (Kind::ErrorResponse, _) => return self.error(body, outcomes),
            _ => return Err(out_of_step(format!("{kind:?} while {awaits:?} was due"))),
        }
        Ok(Fate::Passes)
    }

    /// The head of the queue succeeded, or is a Query whose error was told before.
    fn complete(&mut self, outcomes: &mut Vec<Outcome>) -> Result<(), Fault> {
        let Some(entry) = self.queue.pop_front() else { return Ok(()) };
        if entry.refusal.is_some() {
            // The constant in the place of a refused command must fail.
            return Err(out_of_step("the target ran what cannot be run".to_owned()));
        }
        if let Some(effect) = &entry.effect {
            // A Query whose error was told before it was ready did not succeed.
            match (effect.space, entry.failed) {
                (Space::Statement, None) => self.statements.succeeded(&effect.name, effect.serial),
                (Space::Statement, Some(_)) => self.statements.failed(&effect.name, effect.serial),
                (Space::Portal, None) => self.portals.succeeded(&effect.name, effect.serial),
                (Space::Portal, Some(_)) => self.portals.failed(&effect.name, effect.serial),
            }
        }
        if let Some(command) = entry.number {
            let rows = entry.rows.or((entry.passed > 0).then_some(entry.passed));
            let failed = entry.failed.map(|code| String::from_utf8_lossy(&code).into_owned());
            outcomes.push(Outcome { command, failed, rows, limit: entry.reached() });
        }
        Ok(())
    }

    fn error(&mut self, body: &[u8], outcomes: &mut Vec<Outcome>) -> Result<Fate, Fault> {
        let failure = backend::failure(body);
        let veiled = self.veiled_texts(b'E', body);
        if failure.ends_session {
            // The target closes after it. What was in flight has an unknown end.
            self.parted = true;
            return Ok(veiled.map_or(Fate::Passes, Fate::Replaced));
        }
        self.copy_in = false;
        let is_our_describe = self.queue.front().is_some_and(|entry| entry.awaits == Awaits::OurDescribe);
        if is_our_describe && let Some(execute) = self.queue.get_mut(1) {
            // It is what the Execute would have said.
            execute.failed = Some(failure.code);
        }
        let Some(entry) = self.queue.front_mut() else {
            return Err(out_of_step("an error while nothing was due".to_owned()));
        };
        entry.failed = Some(failure.code);
        let replaced = entry.refusal.take();
        if !matches!(entry.awaits, Awaits::Query | Awaits::Sync) {
            self.fail_until_sync(outcomes);
        }
        Ok(replaced.or(veiled).map_or(Fate::Passes, Fate::Replaced))
    }

    /// Whether a DataRow has its place here and belongs to the client.
    fn is_row_due(&self) -> bool {
        let awaits = self.queue.front().map(|entry| entry.awaits);
        matches!(awaits, Some(Awaits::Query | Awaits::Execute))
    }

    /// The head failed, and the server skips everything up to the next Sync, Queries included.
    fn fail_until_sync(&mut self, outcomes: &mut Vec<Outcome>) {
        while let Some(entry) = self.queue.front()
            && entry.awaits != Awaits::Sync
        {
            let Some(entry) = self.queue.pop_front() else { break };
            self.failed(entry, outcomes);
        }
        if self.queue.is_empty() && self.skip == Skip::No {
            self.skip = Skip::UntilSync;
        }
    }

    fn failed(&mut self, entry: InFlight, outcomes: &mut Vec<Outcome>) {
        if let Some(effect) = &entry.effect {
            match effect.space {
                Space::Statement => self.statements.failed(&effect.name, effect.serial),
                Space::Portal => self.portals.failed(&effect.name, effect.serial),
            }
        }
        if let Some(command) = entry.number {
            let code = entry.failed.map(|code| String::from_utf8_lossy(&code).into_owned());
            let failed = Some(code.unwrap_or_else(|| SKIPPED.to_owned()));
            outcomes.push(Outcome { command, failed, rows: None, limit: entry.reached() });
        }
    }

    /// The server waits for data. Syncs that are already on their way to it will be ignored there.
    fn begin_copy_in(&mut self) {
        self.copy_in = true;
        while self.queue.get(1).is_some_and(|entry| entry.awaits == Awaits::Sync) {
            self.queue.remove(1);
            self.segment_open |= self.queue.front().is_some_and(|entry| entry.awaits == Awaits::Execute);
        }
    }

    /// Whether texts are judged as they must be under this search path.
    fn follows(&self, path: &[u8]) -> bool {
        let path = String::from_utf8_lossy(path);
        let schemas: Vec<_> = path.split(',').map(|schema| schema.trim().trim_matches('"')).collect();
        let empty = schemas == [""] && self.front.lost(Loss::Relations).is_none();
        empty || self.front.lost(Loss::All).is_none() || self.front.names().holds(&schemas)
    }

    /// How much of a message must have come before it is looked at.
    fn needed(&self, frame: Frame) -> Result<usize, Fault> {
        let whole = |limit: usize| match frame.total {
            total if total <= limit => Ok(total),
            total => Err(out_of_step(format!("{:?} of {total} bytes is longer than is looked at", frame.kind))),
        };
        let veiled = self.masks.is_some() || self.queue.iter().take(2).any(|entry| entry.veil.is_some());
        let kept = self.is_kept();
        let ours = self.queue.front().map(|entry| entry.awaits);
        match frame.kind {
            _ if ours == Some(Awaits::OurQuestion) && frame.kind != Kind::ErrorResponse => whole(LONGEST_DESCRIPTION),
            Kind::DataRow if kept || self.masks_rows() => whole(LONGEST_ROW),
            Kind::RowDescription if veiled || kept => whole(LONGEST_DESCRIPTION),
            Kind::CopyData if kept || self.masks_copy() => whole(LONGEST_ROW),
            Kind::ErrorResponse | Kind::NoticeResponse | Kind::NotificationResponse if veiled => {
                Ok(frame.total.min(LONGEST_TEXTS))
            }
            Kind::ParameterDescription if self.queue.front().is_some_and(|entry| entry.describes.is_some()) => {
                Ok(if frame.total <= HEADER + types::LONGEST { frame.total } else { HEADER })
            }
            // How many values there are stands first.
            Kind::DataRow => Ok(frame.total.min(HEADER + 2)),
            Kind::CopyData
            | Kind::RowDescription
            | Kind::ParameterDescription
            | Kind::NoticeResponse
            | Kind::NotificationResponse => Ok(HEADER),
            Kind::ErrorResponse => Ok(frame.total.min(HEADER + ERROR_PEEK)),
            _ => Ok(frame.total),
        }
    }

    /// A setting that commands were judged under must not change.
    fn pinned_holds(&self, body: &[u8]) -> Result<(), Fault> {
        let (name, value) = backend::parameter_status(body).map_err(fault)?;
        let changed = self.pinned.iter().any(|(pinned, wanted)| pinned == name && wanted != value);
        // A path that policy let the session set is followed; servers from 18 on report it.
        let followed = *name == b"search_path"[..] && self.follows(value);
        if changed && !followed {
            let name = String::from_utf8_lossy(name);
            return Err(Fault::upstream(
                format!("{name} changed, under which this session's commands are judged"),
                format!("the target reported a change of {name}"),
            ));
        }
        Ok(())
    }
}

impl InFlight {
    /// Whether the server can say this of it at all: of the constant in the place of a refused command nothing but that it
    /// fails, of a Query that has failed nothing but that it is ready, and lines of a COPY only where it has told of them:
    /// there it was seen whether they may pass. What stands elsewhere would have been looked at by nobody.
    fn can_answer(&self, kind: Kind) -> bool {
        match (&self.refusal, &self.failed) {
            (Some(_), _) => matches!(kind, Kind::ErrorResponse),
            (None, Some(_)) => matches!(kind, Kind::ErrorResponse | Kind::ReadyForQuery),
            (None, None) => self.copies_out || !matches!(kind, Kind::CopyData | Kind::CopyDone),
        }
    }
}

/// Moves the first `count` bytes of `input` to the client. Where the client's buffer is empty the two
/// buffers change places, and only the beginning of a message that is not whole is copied.
fn deliver(input: &mut BytesMut, count: usize, client: &mut BytesMut) {
    if count == 0 {
        return;
    }
    if client.is_empty() {
        mem::swap(input, client);
        input.extend_from_slice(client.get(count..).unwrap_or_default());
        client.truncate(count);
    } else {
        client.extend_from_slice(input.get(..count).unwrap_or_default());
        input.advance(count.min(input.len()));
    }
}

pub(super) fn out_of_step(logged: String) -> Fault {
    Fault::upstream("the target broke the protocol", logged)
}

pub(super) fn fault(error: CodecError) -> Fault {
    out_of_step(error.to_string())
}
