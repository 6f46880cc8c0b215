//! What a client is shown, where that is recorded: rows, and lines of COPY; and what it sends for a COPY.
//!
//! Owns what is kept of them until the core takes it. Touches the session's own state. Invariants: what is kept is what is
//! written for the client, byte for byte, behind masks and limits; a row whose columns were not described, or that has
//! others, ends the session before it is shown; nothing is kept, and nothing costs, where it is not wanted.

use std::collections::VecDeque;
use std::sync::Arc;

use sallyport_core::Fault;
use sallyport_core::shown::{Column, Layout, Part};

use super::answer::{fault, out_of_step};
use super::{Conversation, InFlight, Passing};
use crate::codec::backend::{self, Kind};
use crate::codec::{Fields, HEADER, frontend};

/// What the client is shown.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Of the commands that come now.
    wanted: bool,
    /// Of some command that is in flight, or of those that come.
    keeps: bool,
    /// A message was on its way to the client when the last answer began.
    inside: bool,
    /// The command that the client's data is kept of, and how many bytes of its current CopyData have not come yet.
    sending: Option<u64>,
    coming: usize,
    parts: Vec<Part>,
}

/// What is known of the result of one command.
#[derive(Debug, Default)]
pub(super) struct Keep {
    parts: u64,
    columns: Option<Arc<[Column]>>,
    /// The columns stand in a part.
    told: bool,
    /// Lines of a COPY come in binary form.
    binary: bool,
}

impl Shown {
    pub(super) const fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        self.keeps |= wanted;
    }

    pub(super) const fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Notes that the answers to this one are kept.
    pub(super) fn keep(&self, entry: &mut InFlight) {
        if self.wanted && entry.number.is_some() {
            entry.keep = Some(Box::default());
        }
    }

    /// Notes where things stand as an answer begins.
    pub(super) fn begin(&mut self, passing: &Passing, queue: &VecDeque<InFlight>) {
        if self.keeps {
            self.inside = passing.remaining > 0 && !passing.replaced;
            self.keeps = self.wanted || queue.iter().any(|entry| entry.keep.is_some());
        }
    }

    /// What was on its way to the client as the last answer began: of what has begun nothing else may be said.
    pub(super) fn passing_before(&self) -> Passing {
        Passing { remaining: usize::from(self.inside), replaced: false }
    }

    pub(super) fn take(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.parts)
    }
}

impl Conversation {
    /// Whether what comes now, or behind our Describe, is looked at whole.
    pub(super) fn is_kept(&self) -> bool {
        self.shown.keeps && self.queue.iter().take(2).any(|entry| entry.keep.is_some())
    }

    /// The rows that come next have these columns.
    pub(super) fn columns_are(&mut self, at: usize, description: &[u8]) -> Result<(), Fault> {
        let Some(keep) = self.queue.get_mut(at).and_then(|entry| entry.keep.as_mut()) else { return Ok(()) };
        let columns = columns(description);
        let columns = columns.ok_or_else(|| out_of_step("a RowDescription that cannot be read".to_owned()))?;
        (keep.columns, keep.told) = (Some(columns), false);
        Ok(())
    }

    /// Keeps what has been written for the client: whole messages.
    pub(super) fn keep_written(&mut self, mut written: &[u8]) -> Result<(), Fault> {
        if !self.shown.keeps {
            return Ok(());
        }
        while let Some(frame) = backend::frame(written).map_err(fault)? {
            self.keep(frame.kind, written.get(HEADER..frame.total).unwrap_or_default())?;
            written = written.get(frame.total..).unwrap_or_default();
        }
        Ok(())
    }

    /// The data that the client sends next has this form.
    pub(super) fn data_is(&mut self, body: &[u8]) {
        if let Some((_, keep)) = kept(&mut self.queue) {
            keep.binary = body.first() != Some(&0);
        }
    }

    /// The client's data comes next, from the beginning of a message.
    pub(super) fn data_comes(&mut self) {
        if self.shown.keeps {
            (self.shown.sending, self.shown.coming) = (kept(&mut self.queue).map(|(number, _)| number), 0);
        }
    }

    /// Keeps what goes to the server as data of a COPY: messages of which the first begins where the last one ended, and the
    /// last may not be whole.
    pub(super) fn keep_sent(&mut self, mut raw: &[u8]) -> Result<(), Fault> {
        if !self.shown.keeps {
            return Ok(());
        }
        // Where the COPY has failed meanwhile, the server takes the rest for nothing.
        let Some((number, keep)) = kept(&mut self.queue).filter(|(number, _)| self.shown.sending == Some(*number))
        else {
            return Ok(());
        };
        while !raw.is_empty() {
            if self.shown.coming == 0 {
                // Headers are whole: how long a piece is was told by them.
                let out_of_step = || Fault::internal("the session is out of step", "copy data without its length");
                let frame = frontend::frame(raw).ok().flatten().ok_or_else(out_of_step)?;
                raw = raw.get(HEADER..).unwrap_or_default();
                self.shown.coming = frame.total.saturating_sub(HEADER);
            }
            let (data, rest) = raw.split_at_checked(self.shown.coming).unwrap_or((raw, b""));
            self.shown.coming -= data.len();
            raw = rest;
            let mut part = open(&mut self.shown.parts, number, keep, Layout::Sent);
            part.sent(data, keep.binary);
            self.shown.parts.push(part);
        }
        Ok(())
    }

    /// Keeps a message that passes, where it is of a result.
    pub(super) fn keep(&mut self, kind: Kind, body: &[u8]) -> Result<(), Fault> {
        if !self.shown.keeps {
            return Ok(());
        }
        let Some((number, keep)) = kept(&mut self.queue) else { return Ok(()) };
        match kind {
            Kind::CopyOutResponse => keep.binary = body.first() != Some(&0),
            Kind::CopyData => {
                let mut part = open(&mut self.shown.parts, number, keep, Layout::Lines);
                part.value(Some(body), keep.binary);
                part.end_row();
                self.shown.parts.push(part);
            }
            Kind::DataRow => {
                let unfit = || out_of_step("a row of other columns than were described".to_owned());
                let columns = keep.columns.clone().ok_or_else(unfit)?;
                let values = values(body, columns.len()).ok_or_else(unfit)?;
                let mut part = open(&mut self.shown.parts, number, keep, Layout::Rows);
                for (value, column) in values.iter().zip(&*columns) {
                    part.value(*value, column.binary);
                }
                part.end_row();
                self.shown.parts.push(part);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The command whose turn it is, where what it shows is kept.
fn kept(queue: &mut VecDeque<InFlight>) -> Option<(u64, &mut Keep)> {
    let entry = queue.front_mut()?;
    Some((entry.number?, entry.keep.as_mut()?))
}

/// The part that takes the next row: the one before, unless that is full or of something else. It is to be put back.
fn open(parts: &mut Vec<Part>, number: u64, keep: &mut Keep, layout: Layout) -> Part {
    let columns = match layout {
        Layout::Rows if !keep.told => keep.columns.clone(),
        _ => None,
    };
    let goes_on = |part: &mut Part| part.command() == number && part.is_of(layout) && !part.is_full();
    let before = if columns.is_none() { parts.pop_if(goes_on) } else { None };
    before.unwrap_or_else(|| {
        keep.told |= columns.is_some();
        keep.parts += 1;
        Part::new(number, keep.parts, layout, columns)
    })
}

/// The columns of a RowDescription's body.
fn columns(body: &[u8]) -> Option<Arc<[Column]>> {
    let mut fields = Fields::new("RowDescription", body);
    let count = fields.u16().ok()?;
    let mut columns = Vec::with_capacity(usize::from(count).min(1664));
    for _ in 0..count {
        let name = String::from_utf8_lossy(fields.string().ok()?).into_owned();
        let (_table, _number) = (fields.i32().ok()?, fields.u16().ok()?);
        let kind = u32::from_be_bytes(fields.i32().ok()?.to_be_bytes());
        let (_size, _modifier) = (fields.u16().ok()?, fields.i32().ok()?);
        columns.push(Column { name, kind: Some(kind), binary: fields.u16().ok()? != 0 });
    }
    fields.end().ok()?;
    Some(columns.into())
}

/// The values of a DataRow's body, if there are so many.
fn values(body: &[u8], count: usize) -> Option<Vec<Option<&[u8]>>> {
    let mut fields = Fields::new("DataRow", body);
    if usize::from(fields.u16().ok()?) != count {
        return None;
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(match fields.i32().ok()? {
            -1 => None,
            length => Some(fields.bytes(usize::try_from(length).ok()?).ok()?),
        });
    }
    fields.end().ok()?;
    Some(values)
}
