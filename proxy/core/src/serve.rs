//! The one serve loop: accept, authenticate, identify, decode, decide, record, forward, answer.
//!
//! Owns the order of those steps and every deadline. Touches the sockets and ports it is given. Invariants:
//! every phase has a deadline; a session is registered before policy is asked, so that no change in
//! between slips past; one task drives both directions of a session.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::fault::Fault;
use crate::feed::PolicyFeed;
use crate::gate::{Gate, Way, await_binding};
use crate::identify::{Principal, identify};
use crate::ports::{Event, Io, Peer, Ports};
use crate::protocol::{Hello, LoggedIn, Opening, Preamble, Protocol, TlsFacts};
use crate::sessions::{Registration, SessionId, Sessions};
use crate::wire::{Rewound, hang_up};

mod converse;

/// What one fleet serves with.
pub struct Service<P: Protocol> {
    /// The protocol.
    pub protocol: Arc<P>,
    /// The world in force.
    pub feed: Arc<PolicyFeed>,
    /// Everything outside.
    pub ports: Ports,
    /// The open sessions.
    pub sessions: Arc<Sessions>,
    /// Deadlines and bounds.
    pub limits: Limits,
}

/// Deadlines and bounds of a session.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From accept to the end of the client's first words inside TLS.
    pub handshake: Duration,
    /// For the address of a bound identity's pod, which may connect before the cluster knows it.
    pub binding: Duration,
    /// For reaching and logging in to the target.
    pub login: Duration,
    /// For a peer that owes bytes of a message begun, or takes none of those it is owed.
    pub stall: Duration,
    /// For the outcomes of commands whose client has left, and for last words.
    pub parting: Duration,
    /// Bytes waiting for one peer above which nothing more is read from the other.
    pub backlog: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            binding: Duration::from_secs(5),
            login: Duration::from_secs(15),
            stall: Duration::from_secs(300),
            parting: Duration::from_secs(5),
            backlog: 256 * 1024,
        }
    }
}

impl<P: Protocol> fmt::Debug for Service<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A connection on which TLS was agreed and the client has named itself and its wish.
struct Identified<S, D> {
    stream: TlsStream<Rewound<S>>,
    principal: Principal,
    opening: Opening<D>,
}

/// Serves one connection from accept to close. Whatever goes wrong ends here: it is told to the client as
/// far as the protocol can, logged and counted.
pub async fn connection<P: Protocol, S: Io + 'static>(
    service: &Service<P>,
    id: SessionId,
    io: S,
    peer: Peer,
    tls: Arc<ServerConfig>,
) {
    let meter = &service.ports.meter;
    meter.count(Event::Accepted);
    // Before anything is asked of policy: a change from here on reaches this session.
    let registration = service.sessions.register(id);
    let admitted = match timeout(service.limits.handshake, admit(service, io, tls)).await {
        Ok(admitted) => admitted,
        Err(_) => Err(Fault::client("the handshake took too long")),
    };
    let ended = match admitted {
        Ok(Some(identified)) => session(service, registration, identified, peer).await,
        Ok(None) => Ok(()),
        Err(fault) => Err(fault),
    };
    if let Err(fault) = ended {
        meter.count(Event::Refused(fault.blame()));
        let address = peer.map(tracing::field::display);
        match fault.blame() {
            "client" | "policy" => {
                tracing::info!(session = %id, peer = address, %fault, "connection refused");
            }
            _ => {
                tracing::warn!(session = %id, peer = address, %fault, "connection failed");
            }
        }
    }
}

/// Preamble, TLS, certificate, first words. `None` when the connection brought an out-of-band request.
async fn admit<P: Protocol, S: Io + 'static>(
    service: &Service<P>,
    mut io: S,
    tls: Arc<ServerConfig>,
) -> Result<Option<Identified<S, P::Opening>>, Fault> {
    let (read, direct) = match service.protocol.preamble(&mut io).await {
        Ok(Preamble::Tls { read, direct }) => (read, direct),
        Err(fault) => {
            let _closed = timeout(service.limits.parting, hang_up(&mut io)).await;
            return Err(fault);
        }
        Ok(Preamble::OutOfBand(request)) => {
            interrupt(service, &request);
            let _closed = io.shutdown().await;
            return Ok(None);
        }
    };
    let accepted = TlsAcceptor::from(tls).accept(Rewound::new(read, io)).into_fallible().await;
    let mut stream = match accepted {
        Ok(stream) => stream,
        Err((error, mut io)) => {
            // A client of TLS 1.3 sends on before it learns of a refusal; see `hang_up`.
            let _closed = timeout(service.limits.parting, hang_up(&mut io)).await;
            return Err(Fault::client(format!("tls handshake failed: {error}")));
        }
    };
    let principal = principal(service, &stream);
    // The client's words are read before it is told of a certificate that names nobody: closing on unread
    // bytes would reset the connection and it might never see the reason.
    let (_, facts) = stream.get_ref();
    let alpn = facts.alpn_protocol().map(<[u8]>::to_vec);
    let how = TlsFacts { direct, alpn: alpn.as_deref() };
    let outcome = match service.protocol.hello(&mut stream, how).await {
        Ok(Hello::Open(opening)) => principal.map(|principal| (principal, opening)),
        Ok(Hello::OutOfBand(request)) => {
            if principal.is_ok() {
                interrupt(service, &request);
            }
            let _closed = stream.shutdown().await;
            return principal.map(|_| None);
        }
        Err(fault) => Err(fault),
    };
    match outcome {
        Ok((principal, opening)) => Ok(Some(Identified { stream, principal, opening })),
        Err(fault) => {
            tell(service, &mut stream, &fault).await;
            Err(fault)
        }
    }
}

/// A session that is counted as open for as long as this lives, even where a panic ends it.
struct Counted<'p>(&'p Ports);

impl<'p> Counted<'p> {
    fn open(ports: &'p Ports) -> Self {
        ports.meter.count(Event::Opened);
        Self(ports)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.meter.count(Event::Closed);
    }
}

fn principal<P: Protocol, S>(service: &Service<P>, stream: &TlsStream<S>) -> Result<Principal, Fault> {
    let world = service.feed.current();
    let world =
        world.ok_or_else(|| Fault::internal("this proxy has no policy yet: try again", "no bundle or roster yet"))?;
    let (_, facts) = stream.get_ref();
    // The settings say so too; the promise does not hang on whoever makes them.
    if facts.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(Fault::client("TLS 1.3 is required"));
    }
    let certificate = facts.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or_else(|| Fault::client("a client certificate is required"))?;
    identify(certificate, &world.bundle.trust_domain).map_err(|error| Fault::client(error.to_string()))
}

fn interrupt<P: Protocol>(service: &Service<P>, request: &P::OutOfBand) {
    if let Some(session) = service.protocol.interrupts(request) {
        service.sessions.interrupt(session);
    }
}

/// Last words to a client that will not be served.
async fn tell<P: Protocol, S: Io>(service: &Service<P>, stream: &mut S, fault: &Fault) {
    let words = service.protocol.refusal(fault);
    let told = async {
        stream.write_all(&words).await?;
        hang_up(stream).await
    };
    // A client that does not listen has no claim to more.
    let _told = timeout(service.limits.parting, told).await;
}

/// Policy, login, conversation.
async fn session<P: Protocol, S: Io + 'static>(
    service: &Service<P>,
    registration: Registration,
    identified: Identified<S, P::Opening>,
    peer: Peer,
) -> Result<(), Fault> {
    let Identified { mut stream, principal, opening } = identified;
    await_binding(&service.feed, &principal, peer, service.limits.binding).await;
    let changes = service.feed.subscribe();
    let opened = Gate::open(&service.feed, &service.ports, &registration, &principal, peer, opening);
    let (mut gate, granted) = match opened {
        Ok(opened) => opened,
        Err(fault) => {
            tell(service, &mut stream, &fault).await;
            return Err(fault);
        }
    };
    if let Err(fault) = gate.opening_recorded().await {
        tell(service, &mut stream, &fault).await;
        return Err(fault);
    }
    let way: Arc<Way> = Arc::clone(granted.way());
    let login = timeout(service.limits.login, service.protocol.login(granted, registration.id)).await;
    let logged_in: LoggedIn<P::Conversation> =
        match login.unwrap_or_else(|_| Err(Fault::upstream("the target did not answer in time", "login timed out"))) {
            Ok(logged_in) => logged_in,
            Err(fault) => {
                gate.close(&fault.told());
                tell(service, &mut stream, &fault).await;
                return Err(fault);
            }
        };
    let _counted = Counted::open(&service.ports);
    tracing::info!(session = %registration.id, agent = %principal.identity, peer = peer.map(tracing::field::display), "session opened");
    let signals = converse::Signals::new(changes, &registration);
    let reason = converse::converse(service, gate, way, stream, logged_in, signals).await;
    tracing::info!(agent = %principal.identity, reason, "session closed");
    Ok(())
}
