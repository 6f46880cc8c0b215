//! A session without core or sockets, between two that send whatever they like.
//!
//! Owns the rig that drives a session as the serve loop does, and the laws that hold at each of its steps. Touches memory
//! only. Invariant: a broken law panics, nothing else does.

mod bytes;
mod hostile;
mod laws;
mod script;
mod veiled;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use ::bytes::BytesMut;
use sallyport_core::Fault;
use sallyport_core::protocol::{Conversation as _, Ending, Masking, Next, Notice, Outcome, Remedy};
use sallyport_core::sessions::SessionId;
use sallyport_core::shown::Part;
use sallyport_policy::{Allowance, Denial};

pub use self::bytes::{client_bytes, server_bytes};
pub use self::hostile::session;
use self::laws::assert_exact;
pub use self::veiled::mask;
use super::client::Command;
use super::{Beginning, COPY_FAIL, Conversation, FLUSH, MOST_IN_FLIGHT};
use crate::cancel::Registry;
use crate::codec::startup::CancelKey;
use crate::mask::Masks;
use crate::{refuse, sql};

/// No text with this in it is allowed.
const FORBIDDEN: &str = "forbidden";

/// One front for all runs: what a text does hangs on nothing else.
fn front() -> Arc<sql::Front> {
    static FRONT: OnceLock<Arc<sql::Front>> = OnceLock::new();
    Arc::clone(FRONT.get_or_init(|| Arc::new(sql::Front::new(sql::NameSettings::default()))))
}

/// A session and what has passed on its four ways.
struct Dry {
    session: Conversation,
    /// All that the client has sent, of which `input` is what was not taken yet.
    said: Vec<u8>,
    input: BytesMut,
    /// What of the server's bytes was not taken yet.
    held: BytesMut,
    /// All that the server has sent is counted, not kept.
    heard: usize,
    client: BytesMut,
    /// All that the client has seen.
    seen: BytesMut,
    upstream: BytesMut,
    /// All outcomes.
    outcomes: Vec<Outcome>,
    settled: usize,
    /// Numbers and texts of commands whose outcome is owed, in their order.
    owed: VecDeque<(u64, String)>,
    commands: u64,
    /// Constants that the session had sent by itself.
    remedies: usize,
    interrupts: bool,
    /// Every so many commands one is refused; 0: none but what is forbidden.
    refuse_each: u64,
    allowance: Option<Arc<Allowance>>,
    masked: bool,
    /// What the client is shown is kept, as it would be recorded.
    kept: Vec<Part>,
    keeps: bool,
    /// The session is to end: nothing more of the client's is decoded.
    mute: bool,
    over: bool,
}

impl Dry {
    fn new(refuse_each: u64, masking: Option<&Arc<Masking>>) -> Self {
        let registered = Arc::new(Registry::default()).register(SessionId::from_random(0), 0);
        let masks = masking.map(|masking| Box::new(Masks::new(Arc::clone(masking))));
        let key = Some(CancelKey { pid: 7, secret: vec![1, 2, 3, 4] });
        let pinned = vec![("client_encoding".into(), "UTF8".into())];
        let masked = masks.is_some();
        let session = Conversation::new(Beginning { front: front(), key, registered, pinned, masks });
        let empty = BytesMut::new;
        Self {
            session,
            said: Vec::new(),
            input: empty(),
            held: empty(),
            heard: 0,
            client: empty(),
            seen: empty(),
            upstream: empty(),
            outcomes: Vec::new(),
            settled: 0,
            owed: VecDeque::new(),
            commands: 0,
            remedies: 0,
            interrupts: false,
            refuse_each,
            allowance: None,
            masked,
            kept: Vec::new(),
            keeps: false,
            mute: false,
            over: false,
        }
    }

    /// From now on what the client is shown is kept. Then a portal is described by us, as it is for masks.
    fn keep(&mut self) {
        self.session.show(true);
        (self.keeps, self.masked) = (true, true);
    }

    /// The client sends.
    fn send(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        self.input.extend_from_slice(bytes);
        self.pump();
    }

    /// Takes what the client has sent, as far as it is a command's turn.
    fn pump(&mut self) {
        while !self.over && !self.mute {
            let from = self.said.len() - self.input.len();
            match self.session.next(&mut self.input, &mut self.client) {
                Ok(Next::Command(command)) => {
                    let to = self.said.len() - self.input.len();
                    let raw = self.said.get(from..to).unwrap_or_default().to_vec();
                    self.judge(&command, &raw);
                }
                Ok(Next::Handled) => {}
                Ok(Next::Incomplete | Next::Full) => break,
                Ok(Next::Goodbye) => self.over = true,
                Err(fault) => self.end(&fault),
            }
        }
        self.look();
    }

    fn judge(&mut self, command: &Command, raw: &[u8]) {
        self.commands += 1;
        let described = self.session.describe(command);
        let runs = described.entry.as_ref().filter(|entry| entry.runs).map(|entry| entry.text.to_string());
        let denial = match (described.action, described.entry) {
            (Err(denial), _) => Some(denial),
            (Ok(_), Some(entry)) if entry.text.contains(FORBIDDEN) => Some(Denial::not_understood("forbidden")),
            (Ok(_), Some(_)) if self.refuse_each > 0 && self.commands.is_multiple_of(self.refuse_each) => {
                Some(Denial::not_understood("now and then"))
            }
            _ => None,
        };
        let before = self.upstream.len();
        if let Some(denial) = denial {
            let error = refuse::command_refused(&denial, command.own_refusal());
            let constant = self.session.refuse_at(command.place(), error, &mut self.client).unwrap_or_default();
            assert!(
                constant.is_empty() || [refuse::QUERY_THAT_FAILS, refuse::PARSE_THAT_FAILS].contains(&constant),
                "in a refused command's place stands something else"
            );
            self.upstream.extend_from_slice(constant);
        } else {
            let number = runs.as_ref().map(|_| self.commands);
            self.owed.extend(number.zip(runs));
            match self.session.forward_command(command, number, &mut self.upstream) {
                Ok(()) => {
                    self.kept.append(&mut self.session.shown());
                    assert_exact(self.upstream.get(before..).unwrap_or_default(), raw, self.masked);
                    if let (Some(allowance), Some(spent)) = (&self.allowance, command.spent()) {
                        self.session.allow(Arc::clone(allowance), spent);
                    }
                }
                Err(fault) => self.end(&fault),
            }
        }
        assert!(self.session.queue.len() <= MOST_IN_FLIGHT + 8, "more is in flight than may be");
    }

    /// The server sends, in pieces of that size.
    fn serve(&mut self, bytes: &[u8], piece: usize) {
        self.heard += bytes.len();
        for piece in bytes.chunks(piece.max(1)) {
            if self.over {
                break;
            }
            self.held.extend_from_slice(piece);
            let answered = self.session.answer(&mut self.held, &mut self.client, &mut self.outcomes);
            self.kept.append(&mut self.session.shown());
            self.look();
            self.settle();
            self.remedy();
            if let Err(fault) = answered {
                self.end(&fault);
            }
        }
    }

    /// Every command that ran has one outcome, in their order.
    fn settle(&mut self) {
        for outcome in self.outcomes.iter().skip(self.settled) {
            let due = self.owed.pop_front().map(|(number, _)| number);
            assert_eq!(due, Some(outcome.command), "an outcome that was not due");
        }
        self.settled = self.outcomes.len();
        assert!(!self.session.idle() || self.owed.is_empty(), "idle, and an outcome is due");
    }

    fn remedy(&mut self) {
        loop {
            match self.session.remedy() {
                Remedy::None => break,
                Remedy::Interrupt => self.interrupts = true,
                Remedy::Send(constant) => {
                    let known = [FLUSH, COPY_FAIL, refuse::QUERY_THAT_FAILS, refuse::PARSE_THAT_FAILS];
                    assert!(known.contains(&constant), "an unknown constant goes upstream");
                    self.remedies += 1;
                    self.upstream.extend_from_slice(constant);
                }
            }
        }
    }

    /// The cancel that the session asked for is through.
    fn interrupted(&mut self) {
        if std::mem::take(&mut self.interrupts) {
            self.session.interrupted();
        }
    }

    fn notice(&mut self) {
        let notice = Notice { text: "somebody is asked".to_owned(), hint: None };
        let told = self.session.notice(&notice, &mut self.client);
        assert_eq!(told, !self.client.is_empty(), "a notice is told whole or not at all");
        self.look();
    }

    /// The session is to end, and its server is asked for what it keeps back.
    fn hasten(&mut self) {
        self.mute = true;
        let constant = self.session.hasten();
        assert!([&b""[..], FLUSH, COPY_FAIL].contains(&constant), "an unknown constant goes upstream");
        self.remedies += 1;
        self.upstream.extend_from_slice(constant);
    }

    fn end(&mut self, fault: &Fault) {
        self.over = true;
        self.look();
        self.session.farewell(&Ending::Client(fault.told().into_owned()), &mut self.client);
        self.look();
    }

    fn look(&mut self) {
        self.seen.extend_from_slice(&std::mem::take(&mut self.client));
    }
}
