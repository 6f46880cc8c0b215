//! The protocols this proxy speaks: one line each.
//!
//! Owns the way from a protocol's name to a door that speaks it. Touches nothing. Invariant: nothing else
//! in the binary names a protocol.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use sallyport_core::PolicyFeed;
use sallyport_core::ports::{Answer, Ports};
use sallyport_core::protocol::Protocol;
use sallyport_core::serve::{Limits, Service, connection};
use sallyport_core::sessions::{SessionId, Sessions};
use serde_json::{Map, Value};
use tokio::net::TcpStream;

/// Opens the protocol of that name with the settings of a bundle.
pub(crate) fn open(name: &str, settings: &Map<String, Value>, parts: Parts) -> Result<Opened, String> {
    match name {
        "postgres" => Ok(parts.opened(sallyport_postgres::Postgres::new(settings)?, b"postgresql")),
        other => {
            Err(format!("the bundle's protocol \"{other}\" is not one this proxy speaks (postgres): update the proxy"))
        }
    }
}

/// What every protocol serves with.
pub(crate) struct Parts {
    pub(crate) feed: Arc<PolicyFeed>,
    pub(crate) ports: Ports,
    pub(crate) sessions: Arc<Sessions>,
}

/// A door, and the name of its protocol in TLS.
pub(crate) struct Opened {
    pub(crate) door: Arc<dyn Door>,
    pub(crate) alpn: &'static [u8],
}

/// Serves connections of one protocol.
pub(crate) trait Door: Send + Sync {
    /// Serves one connection from accept to close.
    fn serve(&self, id: SessionId, io: TcpStream, peer: SocketAddr, tls: Arc<ServerConfig>) -> Answer<'_, ()>;
}

impl<P: Protocol> Door for Service<P> {
    fn serve(&self, id: SessionId, io: TcpStream, peer: SocketAddr, tls: Arc<ServerConfig>) -> Answer<'_, ()> {
        Box::pin(connection(self, id, io, Some(peer), tls))
    }
}

impl Parts {
    fn opened<P: Protocol>(self, protocol: P, alpn: &'static [u8]) -> Opened {
        let Self { feed, ports, sessions } = self;
        let service = Service { protocol: Arc::new(protocol), feed, ports, sessions, limits: Limits::default() };
        Opened { door: Arc::new(service), alpn }
    }
}
