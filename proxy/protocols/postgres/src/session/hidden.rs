//! Masks in a session: when the catalog is asked, which answers are veiled, and what passes in their place.
//!
//! Owns our own messages among the client's, and the masking of what answers these. Touches the buffers it is lent.
//! Invariants: nothing of an answer to our own messages reaches the client; rows of a veiled command pass masked as
//! their own description says, or the session ends.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sallyport_core::Fault;
use sallyport_core::protocol::Masking;

use super::answer::out_of_step;
use super::client::Command;
use super::{Awaits, Conversation, InFlight, Skip};
use crate::codec::backend::{Kind, Status};
use crate::codec::{close, message};
use crate::mask::{self, Announced, Catalog, Masks};

impl Conversation {
    /// Takes the masks of the world in force; the same value means that nothing changed.
    pub(super) fn take_masking(&mut self, masking: Option<&Arc<Masking>>) {
        match (masking, &self.masks) {
            (None, None) => {}
            (None, Some(_)) => self.masks = None,
            (Some(new), Some(old)) if Arc::ptr_eq(new, &old.masking) => {}
            (Some(new), _) => self.masks = Some(Box::new(Masks::new(Arc::clone(new)))),
        }
    }

    /// The catalog is being asked: what comes now is judged when the answer is there.
    pub(super) fn awaits_catalog(&self) -> bool {
        // Behind the question comes at most the command it was asked for, with our Describe: nothing is decoded until
        // it is answered. So however many are in flight, three entries are looked at.
        self.queue.iter().rev().take(3).any(|entry| entry.awaits == Awaits::OurQuestion)
    }

    /// Asks the catalog before a command, where masks need to know it better and the session is where it can be asked.
    pub(super) fn ask_before(&mut self, command: &Command, upstream: &mut BytesMut) {
        let Some(masks) = &self.masks else { return };
        let idle = self.queue.is_empty() && !self.segment_open && !self.copy_in && self.copying == 0;
        if !idle || self.status == Status::Failed || self.skip != Skip::No || !command.begins_work() {
            return;
        }
        if command.action().is_some_and(|action| masks.wants_to_know(action, command.all_kinds())) {
            self.ask(upstream);
        }
    }

    /// Asks the catalog behind a command that defines something.
    pub(super) fn ask_behind(&mut self, command: &Command, upstream: &mut BytesMut) {
        let defines = command.action().is_some_and(Masks::is_definition);
        let copies = command.may_copy_in();
        let Some(masks) = &mut self.masks else { return };
        if defines {
            masks.doubt();
        }
        // While the server waits for data it would take our question for it.
        masks.copies_in |= copies;
        if command.ends_segment() && !std::mem::take(&mut masks.copies_in) && masks.doubts() {
            self.ask(upstream);
        }
    }

    fn ask(&mut self, upstream: &mut BytesMut) {
        if let Some(masks) = &self.masks {
            mask::ask(masks, upstream);
            let mut entry = InFlight::new(Awaits::OurQuestion, None);
            entry.catalog = Some(Box::default());
            self.queue.push_back(entry);
        }
    }

    /// Veils an entry of the queue that is about to be owed; a portal is described before it runs, for rows alone do
    /// not tell where their columns come from.
    pub(super) fn veil(&mut self, command: &Command, entry: &mut InFlight) {
        let asked = self.awaits_catalog();
        if let (Some(masks), Some(action)) = (&self.masks, command.action()) {
            // What is about to be learned may be that a mask has to do with it.
            entry.veil = masks.veil(action, command.all_kinds(), asked);
        }
    }

    /// Sends our Describe of a portal ahead of its Execute.
    pub(super) fn describe_ahead(&mut self, portal: &[u8], upstream: &mut BytesMut) {
        message(upstream, b'D', &[b"P", portal, b"\0"]);
        self.queue.push_back(InFlight::new(Awaits::OurDescribe, None));
    }

    /// A message that answers our question.
    pub(super) fn learn(&mut self, kind: Kind, body: &[u8]) -> Result<(), Fault> {
        match kind {
            Kind::DataRow => {
                if let Some(catalog) = self.queue.front_mut().and_then(|entry| entry.catalog.as_mut()) {
                    catalog.take(body);
                }
            }
            Kind::ErrorResponse => {
                // What is not known is masked, or refused.
                if let Some(entry) = self.queue.front_mut() {
                    entry.catalog = None;
                }
            }
            Kind::ReadyForQuery => {
                self.status = Status::read(body).map_err(|error| out_of_step(error.to_string()))?;
                let catalog = self.queue.pop_front().and_then(|entry| entry.catalog);
                match (&mut self.masks, catalog) {
                    (Some(masks), Some(catalog)) => masks.learn(*catalog, &self.front),
                    (Some(masks), None) => masks.failed_to_learn(),
                    (None, _) => {}
                }
            }
            Kind::ParseComplete | Kind::BindComplete | Kind::CloseComplete | Kind::CommandComplete => {}
            other => return Err(out_of_step(format!("{other:?} in answer to a question about the catalog"))),
        }
        Ok(())
    }

    /// The rows that come next are these.
    pub(super) fn rows_are(&mut self, at: usize, description: &[u8]) -> Result<(), Fault> {
        self.columns_are(at, description)?;
        let known = self.masks.as_ref().and_then(|masks| masks.known().cloned());
        let Some(entry) = self.queue.get_mut(at) else { return Ok(()) };
        let Some(veil) = &entry.veil else { return Ok(()) };
        let rows = veil.rows(known.as_deref(), description);
        let (rows, doubtful) = rows.ok_or_else(|| out_of_step("a RowDescription that cannot be read".to_owned()))?;
        entry.rows_masked = Some(rows);
        if doubtful && let Some(masks) = &mut self.masks {
            masks.doubt();
        }
        Ok(())
    }

    /// Whether the row that comes is to be held whole.
    pub(super) fn masks_rows(&self) -> bool {
        let head = self.queue.front();
        head.is_some_and(|entry| match (&entry.veil, &entry.rows_masked) {
            (Some(_), Some(rows)) => !rows.are_clear(),
            (Some(_), None) => true,
            (None, _) => false,
        })
    }

    /// Appends what passes in a row's place.
    pub(super) fn mask_row(&self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let rows = self.queue.front().and_then(|entry| entry.rows_masked.as_ref());
        let masked = rows.and_then(|rows| rows.mask(body, out));
        masked.ok_or_else(|| out_of_step("a row without the description that masks need".to_owned()))
    }

    /// An error or notice in a form that hides what masks hide; `None` where it passes as it is.
    pub(super) fn veiled_texts(&self, kind: u8, body: &[u8]) -> Option<Bytes> {
        let mut due = self.queue.iter();
        let head = due.next();
        // An error that answers our Describe is the Execute's.
        let head = if head.is_some_and(|entry| entry.awaits == Awaits::OurDescribe) { due.next() } else { head };
        let masks = self.masks.as_ref();
        // Without a command of its own (a notice that comes late), or of one that may fail for what others did (a deferred
        // constraint, whose detail says a value), as if it were of the strictest.
        let strictest = masks.filter(|_| head.is_none_or(|entry| entry.settles)).map(|masks| masks.veil_of_anything());
        let veil = strictest.as_ref().or_else(|| head?.veil.as_ref())?;
        let hidden = veil.hides_columns(masks.and_then(|masks| masks.known()).map(|known| &**known));
        let mut out = BytesMut::new();
        mask::texts_withheld(kind, body, hidden, veil, &mut out);
        Some(out.freeze())
    }

    /// A notification without its payload; `None` where it passes as it is.
    pub(super) fn veiled_notification(&self, body: &[u8]) -> Option<Bytes> {
        self.masks.as_ref().filter(|masks| masks.withholds_notifications())?;
        let mut out = BytesMut::new();
        mask::payload_withheld(body, &mut out);
        Some(out.freeze())
    }
}

impl Conversation {
    /// The rows of a COPY come next, and so many columns has each.
    pub(super) fn copy_begins(&mut self, body: &[u8]) -> Result<(), Fault> {
        let known = self.masks.as_ref().and_then(|masks| masks.known().cloned());
        let Some(entry) = self.queue.front_mut() else { return Ok(()) };
        let Some(veil) = &entry.veil else { return Ok(()) };
        let announced = Announced::read(body);
        let announced = announced.ok_or_else(|| out_of_step("a CopyOutResponse that cannot be read".to_owned()))?;
        let rows = veil.copy(known.as_deref(), announced).map_err(Fault::client)?;
        entry.copy_masked = rows.map(Box::new);
        Ok(())
    }

    /// Whether rows of a COPY are held whole.
    pub(super) fn masks_copy(&self) -> bool {
        self.queue.front().is_some_and(|entry| entry.copy_masked.is_some())
    }

    /// What passes in the place of a row of a COPY; `None` where it passes as it is.
    pub(super) fn mask_copy(&mut self, body: &[u8]) -> Result<Option<Bytes>, Fault> {
        let rows = self.queue.front_mut().and_then(|entry| entry.copy_masked.as_mut());
        let Some(rows) = rows else { return Ok(None) };
        let mut out = BytesMut::with_capacity(body.len() + 5);
        out.extend_from_slice(b"d\0\0\0\0");
        let masked = rows.mask(body, &mut out).and_then(|()| close(&mut out, 0));
        masked.ok_or_else(|| out_of_step("a row of a COPY in another form than was asked for".to_owned()))?;
        Ok(Some(out.freeze()))
    }
}

/// A catalog that a login asked for.
pub(crate) fn masks_at_login(masking: &Arc<Masking>, catalog: Catalog, front: &crate::sql::Front) -> Box<Masks> {
    let mut masks = Box::new(Masks::new(Arc::clone(masking)));
    masks.learn(catalog, front);
    masks
}
