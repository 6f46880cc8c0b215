//! The law of the whole session: a proxy before a server looks like a server that refuses by itself.
//!
//! Owns a model of the server's rules for names, transactions, errors and skipping. Touches memory only. Each
//! run sends the same messages to a session before the model, in some schedule, and to a second model that
//! refuses by itself; the client must see the same, and the records must say what the model did.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Message {
    Query(&'static str),
    Parse(&'static str, &'static str),
    Bind(&'static str, &'static str),
    Describe(u8, &'static str),
    Execute(&'static str),
    Close(u8, &'static str),
    Sync,
    Flush,
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Query(text) => query(text),
            Self::Parse(name, text) => parse(name, text),
            Self::Bind(portal, statement) => bind(portal, statement, &[], 0),
            Self::Describe(space, name) => describe(*space, name),
            Self::Execute(portal) => execute(portal),
            Self::Close(space, name) => close(*space, name),
            Self::Sync => sync(),
            Self::Flush => flush(),
        }
    }
}

/// What became of a Query or Execute.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Ran(String),
    Failed,
    Skipped,
}

/// A server. `refuses`: it refuses secret texts by itself.
struct Model {
    refuses: bool,
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
    status: u8,
    skipping: bool,
    ends: Vec<End>,
}

impl Model {
    fn new(refuses: bool) -> Self {
        let (statements, portals) = (HashMap::new(), HashMap::new());
        Self { refuses, statements, portals, status: b'I', skipping: false, ends: Vec::new() }
    }

    /// Answers one message.
    fn take(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(body).into_owned();
        let fields: Vec<&str> = text.split('\0').collect();
        if kind == b'S' {
            self.skipping = false;
            self.end_if_idle();
            return ready(self.status);
        }
        let counted = (kind == b'Q' && !fields[0].starts_with("SALLYPORT")) || kind == b'E';
        if self.skipping {
            if counted {
                self.ends.push(End::Skipped);
            }
            return Vec::new();
        }
        let done = match kind {
            b'Q' => self.check(fields[0]).and_then(|()| self.run(fields[0])),
            b'P' => self.parse(fields[0], fields[1]),
            b'B' => self.bind(fields[0], fields[1]),
            b'E' => match self.portals.get(fields[0]).cloned() {
                Some(text) => self.run(&text),
                None => Err("34000"),
            },
            b'D' if body[0] == b'S' => {
                self.statements.get(&fields[0][1..]).map(|_| [one(b't', &[0, 0]), bare("n")].concat()).ok_or("26000")
            }
            b'D' => self.portals.get(&fields[0][1..]).map(|_| bare("n")).ok_or("34000"),
            b'C' => {
                let names = if body[0] == b'S' { &mut self.statements } else { &mut self.portals };
                names.remove(&fields[0][1..]);
                Ok(bare("3"))
            }
            b'H' => return Vec::new(),
            other => panic!("{other}"),
        };
        if counted {
            let ran = || fields[0].to_owned();
            self.ends.push(match (&done, kind) {
                (Ok(_), b'Q') => End::Ran(ran()),
                (Ok(_), _) => End::Ran(self.portals.get(fields[0]).cloned().unwrap_or_default()),
                (Err(_), _) => End::Failed,
            });
        }
        let mut out = done.unwrap_or_else(|code| {
            self.status = if self.status == b'I' { b'I' } else { b'E' };
            self.skipping = kind != b'Q';
            self.end_if_idle();
            error(code)
        });
        if kind == b'Q' {
            self.end_if_idle();
            out.extend(ready(self.status));
        }
        out
    }

    fn end_if_idle(&mut self) {
        if self.status == b'I' {
            self.portals.clear();
        }
    }

    fn check(&self, text: &str) -> Result<(), &'static str> {
        if self.refuses && text.contains("secret") {
            return Err("42501");
        }
        assert!(!text.contains("secret"), "a refused text reached the server");
        if text.starts_with("selec ") || text.starts_with("SALLYPORT") {
            return Err("42601");
        }
        if self.status == b'E' && !matches!(text, "commit" | "rollback") { Err("25P02") } else { Ok(()) }
    }

    fn parse(&mut self, name: &str, text: &str) -> Result<Vec<u8>, &'static str> {
        self.check(text)?;
        if !name.is_empty() && self.statements.contains_key(name) {
            return Err("42P05");
        }
        self.statements.insert(name.to_owned(), text.to_owned());
        Ok(bare("1"))
    }

    fn bind(&mut self, portal: &str, statement: &str) -> Result<Vec<u8>, &'static str> {
        let text = self.statements.get(statement).cloned().ok_or("26000")?;
        self.check(&text)?;
        if !portal.is_empty() && self.portals.contains_key(portal) {
            return Err("42P03");
        }
        self.portals.insert(portal.to_owned(), text);
        Ok(bare("2"))
    }

    fn run(&mut self, text: &str) -> Result<Vec<u8>, &'static str> {
        self.check(text)?;
        match text {
            "begin" => self.status = b'T',
            "commit" | "rollback" => self.status = b'I',
            "select 1/0" => return Err("22012"),
            _ => {}
        }
        Ok(done("SELECT 0"))
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 1 => Just("a"), 1 => Just("b")]
}

fn text() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        4 => prop_oneof![Just("select 1"), Just("select 2"), Just("select 3")],
        2 => Just("select secret"),
        2 => Just("begin"),
        1 => prop_oneof![Just("commit"), Just("rollback")],
        1 => Just("select 1/0"),
        1 => Just("selec nonsense"),
    ]
}

fn space() -> impl Strategy<Value = u8> {
    prop_oneof![Just(b'S'), Just(b'P')]
}

fn a_message() -> impl Strategy<Value = Vec<Message>> {
    prop_oneof![
        3 => text().prop_map(|text| vec![Message::Query(text)]),
        2 => (name(), text()).prop_map(|(name, text)| vec![Message::Parse(name, text)]),
        2 => (name(), name()).prop_map(|(portal, name)| vec![Message::Bind(portal, name)]),
        2 => name().prop_map(|name| vec![Message::Execute(name)]),
        3 => (name(), text(), name()).prop_map(|(name, text, portal)| {
            vec![Message::Parse(name, text), Message::Bind(portal, name), Message::Execute(portal)]
        }),
        1 => (space(), name()).prop_map(|(space, name)| vec![Message::Describe(space, name)]),
        1 => (space(), name()).prop_map(|(space, name)| vec![Message::Close(space, name)]),
        4 => Just(vec![Message::Sync]),
        1 => Just(vec![Message::Flush]),
    ]
}

/// A session before a model, with the bytes on their way between them.
struct Staged {
    rig: Rig,
    model: Model,
    to_model: BytesMut,
    from_model: VecDeque<u8>,
    seen: BytesMut,
}

impl Staged {
    fn send(&mut self, bytes: &[u8]) {
        self.rig.input.extend_from_slice(bytes);
        self.rig.pump().unwrap();
        self.to_model.extend_from_slice(&std::mem::take(&mut self.rig.upstream));
        self.look();
    }

    /// The model takes a message; whether there was one.
    fn step(&mut self) -> bool {
        let Some(frame) = crate::codec::frontend::frame(&self.to_model).unwrap() else { return false };
        let message = self.to_model.split_to(frame.total);
        self.from_model.extend(self.model.take(message[0], &message[5..]));
        true
    }

    /// So many bytes of the model's reach the session.
    fn deliver(&mut self, count: usize) {
        let count = count.min(self.from_model.len());
        let mut rest = std::mem::take(&mut self.rig.held);
        rest.extend(self.from_model.drain(..count));
        self.rig.session.answer(&mut rest, &mut self.rig.client, &mut self.rig.outcomes).unwrap();
        self.rig.held = rest;
        self.look();
        self.send(&[]);
    }

    fn look(&mut self) {
        self.seen.extend_from_slice(&std::mem::take(&mut self.rig.client));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]
    #[test]
    fn a_proxy_before_a_server_looks_like_a_server_that_refuses(
        messages in prop::collection::vec(a_message(), 1..25),
        schedule in prop::collection::vec((0usize..4, 0usize..4, 0usize..40), 0..60),
    ) {
        let mut messages: Vec<Message> = messages.into_iter().flatten().collect();
        messages.push(Message::Sync);
        let mut ideal = Model::new(true);
        let mut wanted = BytesMut::new();
        let mut staged = Staged {
            rig: Rig::new(),
            model: Model::new(false),
            to_model: BytesMut::new(),
            from_model: VecDeque::new(),
            seen: BytesMut::new(),
        };
        let mut schedule = schedule.into_iter();
        for message in &messages {
            let bytes = message.bytes();
            wanted.extend_from_slice(&ideal.take(bytes[0], &bytes[5..]));
            let (cut, steps, deliver) = schedule.next().unwrap_or((0, 1, 9));
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            staged.send(head);
            for _ in 0..steps {
                staged.step();
            }
            staged.deliver(deliver);
            staged.send(tail);
        }
        while staged.step() || !staged.from_model.is_empty() {
            staged.deliver(usize::MAX);
        }
        prop_assert_eq!(summary(&staged.seen), summary(&wanted));
        prop_assert!(staged.rig.session.idle());
        prop_assert_eq!(staged.model.status, ideal.status, "client and server stand differently");
        // What ran is what was judged, and the records tell how each command ended.
        let outcomes = staged.rig.outcomes();
        prop_assert_eq!(outcomes.len(), staged.rig.ran.len());
        prop_assert_eq!(staged.model.ends.len(), staged.rig.ran.len());
        for (number, failed, _) in outcomes {
            let at = usize::try_from(number).unwrap() - 1;
            let told = failed.as_deref();
            match &staged.model.ends[at] {
                End::Ran(text) => {
                    prop_assert!(staged.rig.ran[at].contains(text.as_str()), "ran {text}, judged {}", staged.rig.ran[at]);
                    prop_assert_eq!(told, None);
                }
                End::Failed => prop_assert!(told.is_some_and(|code| code != "skipped")),
                End::Skipped => prop_assert_eq!(told, Some("skipped")),
            }
        }
    }
}
