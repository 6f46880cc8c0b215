//! What a protocol must be able to do: translate. Everything else is the core's.
//!
//! Owns the traits a protocol fills and the values that pass between it and the serve loop. A
//! [`Conversation`] does no input or output itself: it reads from and writes to the buffers it is lent.
//! Invariant: the buffer towards the target is only reachable through [`Granted`] and [`Refused`].

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sallyport_policy::{Action, Denial, MaskPlan, SessionFacts};

use crate::fault::Fault;
use crate::gate::{Granted, GrantedOpening, Refused};
use crate::ports::{BoxedIo, Io, MaskKey};
use crate::record::Parameter;
use crate::sessions::SessionId;
use crate::shown::Part;

/// A protocol: how sessions begin. One value serves every session of a fleet.
pub trait Protocol: Send + Sync + 'static {
    /// What a client asked for when it opened a session.
    type Opening: Send;
    /// A request that comes on a connection of its own and concerns another session (cancel).
    type OutOfBand: Send;
    /// The session once it is logged in.
    type Conversation: Conversation;

    /// Reads what comes before TLS and answers it, byte by byte: nothing may be read past it, for what
    /// follows in the clear must never be taken for what comes inside TLS (CVE-2021-23222).
    ///
    /// # Errors
    /// When the peer does not speak this protocol. An answer in the protocol's form was already sent.
    fn preamble<S: Io>(&self, io: &mut S) -> impl Future<Output = Result<Preamble<Self::OutOfBand>, Fault>> + Send;

    /// Reads what opens a session, inside TLS. Nothing is answered yet.
    ///
    /// # Errors
    /// When it is malformed or asks for what this protocol never allows.
    fn hello<S: Io>(
        &self,
        io: &mut S,
        how: TlsFacts<'_>,
    ) -> impl Future<Output = Result<Hello<Self::Opening, Self::OutOfBand>, Fault>> + Send;

    /// Opens the target with the credential that the grant lends, up to where commands may come.
    ///
    /// # Errors
    /// When the target cannot be reached, verified or logged in to.
    fn login(
        &self,
        opening: GrantedOpening<Self::Opening>,
        session: SessionId,
    ) -> impl Future<Output = Result<LoggedIn<Self::Conversation>, Fault>> + Send;

    /// The session that an out-of-band request speaks of, if its proof of ownership is right.
    fn interrupts(&self, request: &Self::OutOfBand) -> Option<SessionId>;

    /// Interrupts what a session of the target is doing now, on a connection of its own.
    ///
    /// # Errors
    /// When the target cannot be reached.
    fn interrupt(&self, way: Arc<crate::gate::Way>, packet: Bytes) -> impl Future<Output = Result<(), Fault>> + Send;

    /// The bytes that tell a client, which has not logged in yet, why it will not be.
    fn refusal(&self, fault: &Fault) -> Bytes;
}

/// What came before TLS.
#[derive(Debug)]
pub enum Preamble<O> {
    /// TLS follows; these bytes of it have been read already.
    Tls {
        /// The beginning of the ClientHello, if it was read to recognise it.
        read: Bytes,
        /// The client spoke TLS at once, without asking; then ALPN must name the protocol.
        direct: bool,
    },
    /// A request concerning another session, in the clear.
    OutOfBand(O),
}

/// What the TLS handshake told.
#[derive(Debug, Clone, Copy)]
pub struct TlsFacts<'a> {
    /// As in [`Preamble::Tls`].
    pub direct: bool,
    /// The protocol agreed on.
    pub alpn: Option<&'a [u8]>,
}

/// What a client wants, inside TLS.
#[derive(Debug)]
pub enum Hello<P, O> {
    /// A session.
    Open(Opening<P>),
    /// Something concerning another session.
    OutOfBand(O),
}

/// A session asked for.
#[derive(Debug)]
pub struct Opening<P> {
    /// The credential it named; `default` where the protocol has no user or it named itself.
    pub credential: Credential,
    /// Further facts for the record (database, application name), bounded by the protocol.
    pub facts: Vec<(&'static str, String)>,
    /// What of them the conditions of rules may ask, as far as it is certain; when the session began is the gate's to say.
    pub known: SessionFacts,
    /// What the protocol itself needs to log in.
    pub detail: P,
}

/// How a client named the credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// By a user name; the agent's own name means `default`.
    User(String),
    /// Not at all.
    Default,
}

/// A session that is logged in to the target.
pub struct LoggedIn<C> {
    /// The connection to the target.
    pub upstream: BoxedIo,
    /// What was read from it past the login.
    pub read: BytesMut,
    /// The translator.
    pub conversation: C,
    /// What the client is sent first.
    pub greeting: Bytes,
}

impl<C> std::fmt::Debug for LoggedIn<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoggedIn").finish_non_exhaustive()
    }
}

/// A session's translator: bytes to commands, decisions to bytes. No input or output of its own.
pub trait Conversation: Send {
    /// The smallest unit that goes upstream.
    type Command: Send;

    /// What the target is sent last, between commands, so that it sees an orderly end.
    const PARTING: &'static [u8];

    /// Takes at most one command off the front of `input`.
    ///
    /// # Errors
    /// When the bytes are not the protocol: the session ends.
    fn next(&mut self, input: &mut BytesMut, client: &mut BytesMut) -> Result<Next<Self::Command>, Fault>;

    /// From the next command on, what answers show is masked so; with none, nothing is. Says whether it can be: where
    /// it cannot, no command is let through.
    fn mask(&mut self, masking: Option<&Arc<Masking>>) -> bool {
        masking.is_none()
    }

    /// From the next command on, what its client is shown is to be told by [`Self::shown`]. Says whether it can be: where
    /// it cannot, no command is let through.
    fn show(&mut self, wanted: bool) -> bool {
        !wanted
    }

    /// What the last answer has written for the client, or the last command for the target beside itself, as far as it was
    /// to be told: asked before any of it is sent.
    fn shown(&mut self) -> Vec<Part> {
        Vec::new()
    }

    /// What the last answer has written for the client is not sent: the session ends.
    fn unsaid(&mut self) {}

    /// What a command does, and what of it is recorded.
    fn describe<'a>(&'a self, command: &'a Self::Command) -> Described<'a>;

    /// Whether the command does nothing but conclude what was begun. In an open transaction it runs at any pace: to
    /// refuse it would undo what was allowed.
    fn concludes(&self, _command: &Self::Command) -> bool {
        false
    }

    /// Writes an allowed command to the target.
    ///
    /// # Errors
    /// When the conversation is out of step: the session ends.
    fn forward(&mut self, granted: Granted<'_, Self::Command>) -> Result<(), Fault>;

    /// Tells the client of a refusal, in its turn, and brings the target into the same state.
    ///
    /// # Errors
    /// When the conversation is out of step: the session ends.
    fn refuse(&mut self, refused: Refused<'_, Self::Command>, client: &mut BytesMut) -> Result<(), Fault>;

    /// Takes what the target sent, as far as it is whole or can be passed on in pieces, and writes what
    /// the client shall see.
    ///
    /// # Errors
    /// When the bytes are not the protocol: the session ends.
    fn answer(&mut self, input: &mut BytesMut, client: &mut BytesMut, outcomes: &mut Vec<Outcome>)
    -> Result<(), Fault>;

    /// What makes the target tell outcomes that it keeps back for a later command of the client's; empty when
    /// it keeps back none, or was told already. Asked while the session must end but something is in flight.
    /// It may make nothing take effect that the client did not conclude itself (in PostgreSQL: Flush, not Sync).
    fn hasten(&mut self) -> &'static [u8] {
        b""
    }

    /// Tells the client something while its command waits; false where that would fall into the middle of a message:
    /// then it is tried again later. A protocol that cannot tells nothing.
    fn notice(&mut self, _notice: &Notice, _client: &mut BytesMut) -> bool {
        true
    }

    /// Why people could not see from its text what a command would run, where that is so: then nobody is asked.
    fn hides(&self, _command: &Self::Command) -> Option<&'static str> {
        None
    }

    /// Whether a command that came and was not forwarded yet is not to run any more, because of what the target has
    /// answered to one before it. Its client knows that, and expects nothing for it.
    fn overtaken(&self) -> bool {
        false
    }

    /// What the conversation wants done at the target because of what it saw in its answers. Asked after every answer
    /// until there is nothing more. A constant may make the target fail, and nothing else.
    fn remedy(&mut self) -> Remedy {
        Remedy::None
    }

    /// No interrupt is under way any more; told whoever asked for one.
    fn interrupted(&mut self) {}

    /// Whether nothing is in flight: no command awaits its outcome.
    fn idle(&self) -> bool;

    /// Whether the client has begun what it has not concluded: a session whose time is up ends when it has.
    fn transaction(&self) -> Transaction {
        if self.idle() { Transaction::None } else { Transaction::Settling }
    }

    /// What to send, on a connection of its own, to interrupt the command in flight; `None` when idle.
    fn interruption(&self) -> Option<Bytes>;

    /// Tells the client why the session ends now.
    fn farewell(&mut self, ending: &Ending, client: &mut BytesMut);
}

/// What is masked in a session, and the key of what hashes and tokens hang on.
#[derive(Debug)]
pub struct Masking {
    /// What and how.
    pub plan: MaskPlan,
    /// The target's key; without one what needs it is redacted.
    pub key: Option<MaskKey>,
}

/// Where the work stands that a client has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// All of it is concluded.
    None,
    /// The target's next answers tell.
    Settling,
    /// It is for the client to conclude.
    Open,
}

/// What the front of the client's bytes held.
#[derive(Debug)]
pub enum Next<C> {
    /// Not a whole command yet.
    Incomplete,
    /// As many are in flight as may be: come again when the target has answered.
    Full,
    /// Something that needs no decision and sends nothing upstream was dealt with; ask again.
    Handled,
    /// A command.
    Command(C),
    /// The client is done.
    Goodbye,
}

/// A command, described.
#[derive(Debug)]
pub struct Described<'a> {
    /// What policy judges, or the protocol's own cause to refuse.
    pub action: Result<&'a Action, Denial>,
    /// What is recorded; `None` for what runs nothing by itself (then only its refusal is recorded).
    pub entry: Option<Entry<'a>>,
}

/// A command as it is recorded.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Whole.
    pub text: Cow<'a, str>,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// Whether it runs something: then it is recorded before it goes upstream, and an outcome with the
    /// command's number is owed. Otherwise only a refusal is recorded.
    pub runs: bool,
}

/// Something that a client is told beside the answers to its commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// How a command that ran came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The number that [`Granted::into_parts`] gave.
    pub command: u64,
    /// The target's code when it failed.
    pub failed: Option<String>,
    /// Rows, where the target says.
    pub rows: Option<u64>,
    /// The limit that its answer was cut at.
    pub limit: Option<Reached>,
}

/// A limit that an answer has reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Its name in the policy.
    pub limit: &'static str,
    /// The policy.
    pub policy: Arc<str>,
}

/// What a conversation wants done at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing.
    None,
    /// What runs is to be interrupted; the conversation is told when that is through.
    Interrupt,
    /// This is to be sent.
    Send(&'static [u8]),
}

/// Why a session ends from our side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Its standing was lost.
    Denied(Denial),
    /// The proxy is going away.
    Draining,
    /// The client broke the protocol or a limit.
    Client(String),
    /// The target closed or broke the protocol.
    Upstream(String),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(denial) => write!(f, "{denial}"),
            Self::Draining => f.write_str("this proxy is going away: connect again"),
            Self::Client(cause) | Self::Upstream(cause) => f.write_str(cause),
        }
    }
}
