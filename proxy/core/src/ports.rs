//! The ports: what the core needs of the world outside, as traits that `edges/` and tests fill.
//!
//! Owns their contracts. Touches nothing itself. Invariant: secrets cross here only as types that print
//! redacted.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use sallyport_policy::Upstream;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};

use crate::asking::{DeskFault, Question, Sheet};
use crate::record::Record;

/// A connection, whatever carries it.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection whose kind does not matter any more.
pub type BoxedIo = Box<dyn Io>;

/// A future that a port answers with.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The way to the target.
pub trait Dialer: Send + Sync {
    /// Opens a connection to the target. The caller sets the deadline.
    fn dial<'a>(&'a self, to: &'a Upstream) -> Answer<'a, io::Result<BoxedIo>>;

    /// TLS towards the target, as the bundle demands it; `None` where it spells out `Disable`.
    ///
    /// # Errors
    /// When the trust anchors cannot be read or the server's name is none.
    fn tls(&self, to: &Upstream) -> Result<Option<UpstreamTls>, String>;
}

/// How to speak TLS to the target.
#[derive(Clone)]
pub struct UpstreamTls {
    /// The client side's settings.
    pub config: Arc<rustls::ClientConfig>,
    /// The name the certificate must have.
    pub server_name: rustls_pki_types::ServerName<'static>,
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// The target's credentials.
pub trait Vault: Send + Sync {
    /// The credential of that name, as it is now.
    ///
    /// # Errors
    /// When it is missing or half-written; the text names the file or key, never its content.
    fn credential(&self, name: &str) -> Result<Credential, String>;

    /// The key of the target's masks, where there is one.
    ///
    /// # Errors
    /// When it is half-written; the text names the file or key, never its content.
    fn mask_key(&self) -> Result<Option<MaskKey>, String> {
        Ok(None)
    }
}

/// What hashes and tokens of masked values hang on; prints redacted.
#[derive(Clone)]
pub struct MaskKey(Arc<SecretString>);

impl MaskKey {
    /// A key of these characters.
    #[must_use]
    pub fn new(secret: SecretString) -> Self {
        Self(Arc::new(secret))
    }

    /// The key, to be used and not kept.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

impl PartialEq for MaskKey {
    fn eq(&self, other: &Self) -> bool {
        // Of two keys of the same file, both ours.
        self.expose() == other.expose()
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey([redacted])")
    }
}

/// A user of the target.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The user's name at the target.
    pub username: String,
    /// Its password; prints redacted.
    pub password: SecretString,
}

/// Where records go.
pub trait RecordSink: Send + Sync {
    /// Appends one record. It counts as written when this returns `Ok`: it outlives this process.
    ///
    /// # Errors
    /// When there is no room or no store.
    fn append(&self, record: &Record<'_>) -> Result<(), RecordFault>;

    /// Appends one record and says when it outlives the machine. Does not wait for that: the caller may have more to
    /// record, and many sessions share one wait.
    ///
    /// # Errors
    /// When there is no room or no store.
    fn append_durably(&self, record: &Record<'_>) -> Result<Pending, RecordFault>;
}

/// A record could not be written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the record could not be written: {0}")]
pub struct RecordFault(pub String);

/// A record on its way to the disk: resolves once, when it is there or cannot be brought there.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<(), RecordFault>>);

/// The other end of [`Pending`]. Dropped without a word it counts as failed.
#[derive(Debug)]
pub struct Promise(oneshot::Sender<Result<(), RecordFault>>);

impl Promise {
    /// A promise, and what waits for it.
    #[must_use]
    pub fn new() -> (Self, Pending) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), Pending(receiver))
    }

    /// Keeps it, or says why it cannot be kept.
    pub fn resolve(self, outcome: Result<(), RecordFault>) {
        // Whoever waited may be gone.
        let _told = self.0.send(outcome);
    }
}

impl Future for Pending {
    type Output = Result<(), RecordFault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(told.unwrap_or_else(|_| Err(RecordFault("nobody brings it to the disk any more".to_owned()))))
    }
}

/// Where people are asked.
pub trait ApprovalDesk: Send + Sync {
    /// Puts a question, or finds the one that was put before and is still open, and tells how it stands for as long as
    /// the receiver is kept.
    fn ask(&self, question: Arc<Question>) -> watch::Receiver<Sheet>;

    /// Uses up the approval of that name, once, whoever else tries at the same time. Success means that it is written
    /// down; it has a deadline of its own.
    fn consume(&self, question: Arc<Question>, name: String) -> Answer<'static, Result<(), DeskFault>>;
}

/// The wall clock.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> SystemTime;
}

/// What is counted.
pub trait Meter: Send + Sync {
    /// Something happened.
    fn count(&self, event: Event);
}

/// Things worth counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A connection was accepted.
    Accepted,
    /// A connection ended before a session began; the label is [`crate::Fault::blame`].
    Refused(&'static str),
    /// A session began.
    Opened,
    /// A session ended.
    Closed,
    /// A command was allowed.
    Allowed,
    /// A command was refused.
    Denied,
    /// A command waits for people.
    Asked,
    /// A session was refused or ended because it comes from outside its identity's binding: at its `opening`, or
    /// later as an open `session`.
    OutsideBinding(&'static str),
    /// A policy that observes would have decided otherwise; the label is how.
    WouldHave(&'static str),
    /// A limit of a policy was reached; the label is its name there.
    Limited(&'static str),
    /// A record could not be written.
    RecordLost,
}

/// Everything outside that a session needs.
#[derive(Clone)]
pub struct Ports {
    /// The way to the target.
    pub dialer: Arc<dyn Dialer>,
    /// Its credentials.
    pub vault: Arc<dyn Vault>,
    /// Where records go.
    pub records: Arc<dyn RecordSink>,
    /// Where people are asked.
    pub desk: Arc<dyn ApprovalDesk>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub meter: Arc<dyn Meter>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// Where a connection came from; absent for in-memory pipes.
pub type Peer = Option<SocketAddr>;
