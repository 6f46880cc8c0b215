//! Fake ports: a dialer of pipes, a vault of one credential, and a journal of everything in its order.
//!
//! Owns the journal, in which records and the bytes towards the target stand in the order they happened.
//! Touches memory only. Invariant: bytes are noted when the core writes them, before the target can read them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use sallyport_core::ports::{
    Answer, BoxedIo, Clock, Credential, Dialer, Event, Meter, Pending, Promise, RecordFault, RecordSink, UpstreamTls,
    Vault,
};
use sallyport_core::record::{Event as Recorded, Record};
use sallyport_policy::Upstream;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    Dialled,
    Record { session: String, sequence: u64, event: Value },
    Sent(String),
    Counted(Event),
}

/// All of it, in order.
#[derive(Debug, Default, Clone)]
pub struct Journal(Arc<Mutex<Vec<Note>>>);

impl Journal {
    pub fn write(&self, note: Note) {
        self.0.lock().unwrap().push(note);
    }

    pub fn notes(&self) -> Vec<Note> {
        self.0.lock().unwrap().clone()
    }

    pub fn dials(&self) -> usize {
        self.notes().iter().filter(|note| **note == Note::Dialled).count()
    }

    pub fn counted(&self, event: Event) -> usize {
        self.notes().iter().filter(|note| **note == Note::Counted(event)).count()
    }

    /// The events recorded, of one kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.notes().into_iter().filter_map(|note| match note {
            Note::Record { event, .. } if event["event"] == kind => Some(event),
            _ => None,
        });
        events.collect()
    }

    /// What the records say became of each command: `(number, outcome)`.
    pub fn outcomes(&self) -> Vec<(u64, String)> {
        let outcome = |event: &Value| (event["command"].as_u64().unwrap(), event["outcome"].as_str().unwrap().into());
        self.events("outcome").iter().map(outcome).collect()
    }
}

/// Hands the other end of each connection to the test. Blocks while the test keeps it shut.
pub struct FakeDialer {
    pub journal: Journal,
    pub dialled: mpsc::UnboundedSender<DuplexStream>,
    pub open: Semaphore,
    pub unreachable: AtomicBool,
    pub pipe: usize,
}

impl Dialer for FakeDialer {
    fn dial<'a>(&'a self, to: &'a Upstream) -> Answer<'a, io::Result<BoxedIo>> {
        self.journal.write(Note::Dialled);
        Box::pin(async move {
            drop(self.open.acquire().await.unwrap());
            if self.unreachable.load(Ordering::SeqCst) {
                return Err(io::Error::other(format!("no route to {}", to.host)));
            }
            let (ours, theirs) = tokio::io::duplex(self.pipe);
            self.dialled.send(theirs).unwrap();
            Ok(Box::new(Observed { io: ours, journal: self.journal.clone() }) as BoxedIo)
        })
    }

    fn tls(&self, _to: &Upstream) -> Result<Option<UpstreamTls>, String> {
        Ok(None)
    }
}

/// Notes what goes to the target.
struct Observed {
    io: DuplexStream,
    journal: Journal,
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = polled {
            self.journal.write(Note::Sent(String::from_utf8_lossy(&buf[..written]).into_owned()));
        }
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Knows one credential, until it is told to forget it.
#[derive(Default)]
pub struct FakeVault {
    pub empty: AtomicBool,
}

pub const PASSWORD: &str = "hunter2";

impl Vault for FakeVault {
    fn credential(&self, name: &str) -> Result<Credential, String> {
        if name != "default" || self.empty.load(Ordering::SeqCst) {
            return Err(format!("no file of credential {name}"));
        }
        Ok(Credential { username: "app".into(), password: PASSWORD.into() })
    }
}

/// Captures records, as long as there is room; brings them to its disk when the test says so.
pub struct FakeRecords {
    pub journal: Journal,
    pub full: AtomicBool,
    /// There is room for everything but results and data.
    pub narrow: AtomicBool,
    /// What waits for the disk, in order.
    pub promises: Mutex<VecDeque<Promise>>,
}

impl FakeRecords {
    /// The disk answers for the oldest record that waits for it.
    pub fn answer(&self, outcome: Result<(), RecordFault>) {
        self.promises.lock().unwrap().pop_front().expect("no record waits").resolve(outcome);
    }
}

impl RecordSink for FakeRecords {
    fn append(&self, record: &Record<'_>) -> Result<(), RecordFault> {
        let large = matches!(record.event, Recorded::Result { .. } | Recorded::Data { .. });
        if self.full.load(Ordering::SeqCst) || (large && self.narrow.load(Ordering::SeqCst)) {
            return Err(RecordFault("the disk is full".into()));
        }
        self.journal.write(Note::Record {
            session: record.session.to_owned(),
            sequence: record.sequence,
            event: serde_json::to_value(&record.event).unwrap(),
        });
        Ok(())
    }

    fn append_durably(&self, record: &Record<'_>) -> Result<Pending, RecordFault> {
        self.append(record)?;
        let (promise, pending) = Promise::new();
        self.promises.lock().unwrap().push_back(promise);
        Ok(pending)
    }
}

/// The wall clock, which goes on as the test's own time does, and jumps when told to.
pub struct FakeClock {
    began: (SystemTime, Instant),
    /// Seconds that it goes fast.
    pub fast: AtomicI64,
}

impl FakeClock {
    pub fn new() -> Self {
        Self { began: (SystemTime::now(), Instant::now()), fast: AtomicI64::new(0) }
    }
}

impl Clock for FakeClock {
    fn now(&self) -> SystemTime {
        let fast = self.fast.load(Ordering::SeqCst);
        let now = self.began.0 + self.began.1.elapsed();
        let by = Duration::from_secs(fast.unsigned_abs());
        if fast < 0 { now - by } else { now + by }
    }
}

pub struct FakeMeter(pub Journal);

impl Meter for FakeMeter {
    fn count(&self, event: Event) {
        self.0.write(Note::Counted(event));
    }
}
