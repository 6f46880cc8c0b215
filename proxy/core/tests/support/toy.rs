//! A protocol of lines: small, but whole. It pipelines, refuses in order, and is interrupted out of band.
//!
//! Owns its codec and its translation. Touches the buffers it is lent. Invariant: answers reach the client in
//! the order of its commands, refusals among them.
//!
//! Client: `tls` or `interrupt <session>` in the clear, then inside TLS `user <name>` and commands
//! `<verb> <table>`. `hold <verb> <table>` is a command whose answer the target keeps back until a `go`.
//! `begin` and `end` are commands around a transaction. `quit` ends. Target: `login <user> <password>` is answered `welcome <key>`; a command is answered by any
//! number of `row ...` and one `ok [rows]` or `err <code>`; `interrupt <key>` comes on its own connection.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sallyport_core::fault::Fault;
use sallyport_core::gate::{Granted, GrantedOpening, Refused, Way};
use sallyport_core::ports::Io;
use sallyport_core::protocol::{
    Conversation, Credential, Described, Ending, Entry, Hello, LoggedIn, Next, Notice, Opening, Outcome, Preamble,
    Protocol, TlsFacts, Transaction,
};
use sallyport_core::sessions::SessionId;
use sallyport_core::shown::{Layout, Part};
use sallyport_policy::{Action, Denial, Object, ObjectKind, Operation, QualifiedName, SessionFacts, Usage};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of a line at most.
pub const LONGEST: usize = 1024;
/// Commands in flight at most.
pub const DEPTH: usize = 8;

#[derive(Debug)]
pub struct Toy;

#[derive(Debug)]
pub struct Lines {
    key: String,
    waiting: VecDeque<Place>,
    /// Whether the target keeps answers back.
    held: bool,
    /// Whether a transaction is open at the target.
    open: bool,
    /// Whether rows are to be told, and those that are.
    shows: bool,
    shown: Vec<Part>,
}

/// What the client is owed, in order.
#[derive(Debug)]
enum Place {
    /// With the command's number, and whether a transaction is open when it has succeeded.
    Answer(Option<u64>, Option<bool>),
    Refusal(String),
}

#[derive(Debug)]
pub struct Line {
    text: String,
    action: Result<Action, Denial>,
    runs: bool,
}

async fn line<S: Io>(io: &mut S) -> Result<String, Fault> {
    let mut line = Vec::new();
    loop {
        match io.read_u8().await {
            Ok(b'\n') => return String::from_utf8(line).map_err(|_| Fault::client("not text")),
            Ok(_) if line.len() == 64 => return Err(Fault::client("the line is too long")),
            Ok(byte) => line.push(byte),
            Err(_) => return Err(Fault::client("the connection ended")),
        }
    }
}

fn cut(input: &mut BytesMut, longest: usize) -> Result<Option<String>, &'static str> {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(at) if at <= longest => {
            let line = input.split_to(at + 1);
            Ok(Some(std::str::from_utf8(&line[..at]).map_err(|_| "not text")?.to_owned()))
        }
        None if input.len() <= longest => Ok(None),
        _ => Err("the message is too long"),
    }
}

impl Protocol for Toy {
    type Opening = ();
    type OutOfBand = String;
    type Conversation = Lines;

    async fn preamble<S: Io>(&self, io: &mut S) -> Result<Preamble<String>, Fault> {
        let first = line(io).await?;
        if let Some(session) = first.strip_prefix("interrupt ") {
            return Ok(Preamble::OutOfBand(session.to_owned()));
        }
        if first != "tls" {
            let _gone = io.write_all(b"no speak tls\n").await;
            return Err(Fault::client("speak tls"));
        }
        io.write_all(b"ok\n").await.map_err(|_| Fault::client("the connection ended"))?;
        Ok(Preamble::Tls { read: Bytes::new(), direct: false })
    }

    async fn hello<S: Io>(&self, io: &mut S, _how: TlsFacts<'_>) -> Result<Hello<(), String>, Fault> {
        let first = line(io).await?;
        let user = first.strip_prefix("user ").ok_or_else(|| Fault::client("say who you are"))?;
        let credential = Credential::User(user.to_owned());
        let facts = vec![("greeting", first.clone())];
        Ok(Hello::Open(Opening { credential, facts, known: SessionFacts::default(), detail: () }))
    }

    async fn login(&self, opening: GrantedOpening<()>, session: SessionId) -> Result<LoggedIn<Lines>, Fault> {
        let mut upstream = opening.way().dial().await?;
        let credential = opening.credential();
        let login = format!("login {} {}\n", credential.username, credential.password.expose_secret());
        let broken = |_| Fault::upstream("the target closed the connection", "during login");
        upstream.write_all(login.as_bytes()).await.map_err(broken)?;
        let answer =
            line(&mut upstream).await.map_err(|_| Fault::upstream("the target closed the connection", "login"))?;
        let key = answer
            .strip_prefix("welcome ")
            .ok_or_else(|| Fault::upstream("the target did not let this proxy in", answer.clone()))?;
        Ok(LoggedIn {
            upstream,
            read: BytesMut::new(),
            conversation: Lines {
                key: key.to_owned(),
                waiting: VecDeque::new(),
                held: false,
                open: false,
                shows: false,
                shown: Vec::new(),
            },
            greeting: format!("hello {session}\n").into(),
        })
    }

    fn interrupts(&self, request: &String) -> Option<SessionId> {
        u128::from_str_radix(request, 16).ok().map(SessionId::from_random)
    }

    async fn interrupt(&self, way: Arc<Way>, packet: Bytes) -> Result<(), Fault> {
        let mut upstream = way.dial().await?;
        let broken = |_| Fault::upstream("the target closed the connection", "during interrupt");
        upstream.write_all(&packet).await.map_err(broken)?;
        let _end = upstream.read_u8().await;
        Ok(())
    }

    fn refusal(&self, fault: &Fault) -> Bytes {
        format!("no {}\n", fault.told()).into()
    }
}

impl Lines {
    fn refusals(&mut self, client: &mut BytesMut) {
        while let Some(Place::Refusal(text)) = self.waiting.front() {
            client.extend_from_slice(text.as_bytes());
            self.waiting.pop_front();
        }
    }
}

impl Conversation for Lines {
    type Command = Line;
    const PARTING: &'static [u8] = b"quit\n";

    fn next(&mut self, input: &mut BytesMut, _client: &mut BytesMut) -> Result<Next<Line>, Fault> {
        if self.waiting.len() >= DEPTH {
            return Ok(Next::Full);
        }
        let Some(text) = cut(input, LONGEST).map_err(Fault::client)? else { return Ok(Next::Incomplete) };
        let words: Vec<&str> = text.split(' ').collect();
        let on = |verb: &str, table: &str| {
            let names = vec![QualifiedName::new("public", table.to_owned())];
            let object = Object { kind: ObjectKind::Table, names, usage: Usage::Read };
            Action { operations: vec![Operation::on(verb.to_owned(), object)], ..Action::none() }
        };
        let (action, runs) = match words[..] {
            ["quit"] => return Ok(Next::Goodbye),
            ["boom"] => panic!("a conversation that panics"),
            ["go"] => (Ok(Action::none()), false),
            ["begin" | "end"] => (Ok(Action::none()), true),
            ["hold", verb, table] | [verb, table] => (Ok(on(verb, table)), true),
            _ => (Err(Denial::not_understood("a command is a verb and a table")), true),
        };
        Ok(Next::Command(Line { text, action, runs }))
    }

    /// A session that calls itself blind cannot tell what it shows.
    fn show(&mut self, wanted: bool) -> bool {
        self.shows = wanted;
        !wanted || self.key != "blind"
    }

    fn shown(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.shown)
    }

    fn describe<'a>(&'a self, command: &'a Line) -> Described<'a> {
        let entry = Entry { text: Cow::Borrowed(&command.text), parameters: Vec::new(), runs: command.runs };
        Described { action: command.action.as_ref().map_err(Clone::clone), entry: command.runs.then_some(entry) }
    }

    fn concludes(&self, command: &Line) -> bool {
        command.text == "end"
    }

    fn forward(&mut self, granted: Granted<'_, Line>) -> Result<(), Fault> {
        let (command, number, upstream) = granted.into_parts();
        if command.runs {
            self.held |= command.text.starts_with("hold ");
            let then = [("begin", true), ("end", false)].into_iter().find(|(word, _)| *word == command.text);
            self.waiting.push_back(Place::Answer(number, then.map(|(_, open)| open)));
        } else {
            self.held = false;
        }
        if let (true, Some(number), Some((_, data))) = (self.shows, number, command.text.split_once("insert ")) {
            let mut part = Part::new(number, 1, Layout::Sent, None);
            part.sent(data.as_bytes(), false);
            self.shown.push(part);
        }
        upstream.extend_from_slice(command.text.as_bytes());
        upstream.extend_from_slice(b"\n");
        Ok(())
    }

    fn refuse(&mut self, refused: Refused<'_, Line>, client: &mut BytesMut) -> Result<(), Fault> {
        self.waiting.push_back(Place::Refusal(format!("refused {}\n", refused.denial())));
        self.refusals(client);
        Ok(())
    }

    fn answer(
        &mut self,
        input: &mut BytesMut,
        client: &mut BytesMut,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Fault> {
        let broken = |what: &str| Fault::upstream("the target broke the protocol", what.to_owned());
        while let Some(text) = cut(input, 64 * 1024).map_err(broken)? {
            let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
            if let ("row", true, Some(Place::Answer(Some(number), _))) = (word, self.shows, self.waiting.front()) {
                let mut part = Part::new(*number, 1, Layout::Lines, None);
                part.value(Some(rest.as_bytes()), false);
                part.end_row();
                self.shown.push(part);
            }
            if word != "row" {
                let Some(Place::Answer(number, then)) = self.waiting.pop_front() else {
                    return Err(broken("an answer without a command"));
                };
                let failed = match word {
                    "ok" => None,
                    "err" => Some(rest.to_owned()),
                    _ => return Err(broken(&text)),
                };
                self.open = then.filter(|_| failed.is_none()).unwrap_or(self.open);
                if let Some(command) = number {
                    outcomes.push(Outcome { command, failed, rows: rest.parse().ok(), limit: None });
                }
            }
            client.extend_from_slice(text.as_bytes());
            client.extend_from_slice(b"\n");
            self.refusals(client);
        }
        Ok(())
    }

    fn notice(&mut self, notice: &Notice, client: &mut BytesMut) -> bool {
        client.extend_from_slice(format!("note {}\n", notice.text).as_bytes());
        true
    }

    fn hides(&self, command: &Line) -> Option<&'static str> {
        command.text.ends_with(" hidden").then_some("it does not show what it runs")
    }

    fn hasten(&mut self) -> &'static [u8] {
        if std::mem::take(&mut self.held) { b"go\n" } else { b"" }
    }

    fn idle(&self) -> bool {
        self.waiting.is_empty()
    }

    fn transaction(&self) -> Transaction {
        match self.idle() {
            false => Transaction::Settling,
            true if self.open => Transaction::Open,
            true => Transaction::None,
        }
    }

    fn interruption(&self) -> Option<Bytes> {
        (!self.idle()).then(|| format!("interrupt {}\n", self.key).into())
    }

    fn farewell(&mut self, ending: &Ending, client: &mut BytesMut) {
        client.extend_from_slice(format!("bye {ending}\n").as_bytes());
    }
}
