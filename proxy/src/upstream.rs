//! The way to the target: TCP, and TLS as the bundle demands it.
//!
//! Owns dialling and the client side of TLS. Touches the network and the file of trust anchors. Invariant:
//! a target's certificate is verified unless the bundle spells out `Disable`.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sallyport_core::ports::{Answer, BoxedIo, Dialer, UpstreamTls};
use sallyport_policy::{TlsMode, Upstream};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::edges::changes::Changes;
use crate::meter::Metrics;
use crate::tls::{anchors, provider};

/// For resolving and connecting, all addresses together.
const CONNECT: Duration = Duration::from_secs(5);

/// Dials targets over TCP.
pub(crate) struct TcpDialer {
    ca: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    read: Vec<u8>,
    settings: Option<Settings>,
    fault: Option<String>,
}

#[derive(Clone)]
struct Settings {
    full: Arc<ClientConfig>,
    chain_only: Arc<ClientConfig>,
}

impl TcpDialer {
    /// With the trust anchors of a file, which must be usable now, or those of the system.
    pub(crate) fn new(ca: Option<PathBuf>) -> Result<Self, String> {
        let dialer = Self { ca, state: Mutex::default() };
        if dialer.ca.is_some() {
            dialer.refresh()?;
        }
        Ok(dialer)
    }

    /// Reads the trust anchors again as they change, for as long as the process lives.
    pub(crate) async fn follow(self: Arc<Self>, metrics: Arc<Metrics>) {
        let Some(ca) = &self.ca else { return std::future::pending().await };
        let mut changes = Changes::of([ca.as_path()]);
        loop {
            if let Err(cause) = self.refresh() {
                metrics.input_refused("upstream-ca");
                tracing::error!(%cause, "the new trust anchors of the target cannot be used, those read before stay");
            }
            changes.next().await;
        }
    }

    /// Puts a changed file into use. An error is returned once a change.
    pub(crate) fn refresh(&self) -> Result<(), String> {
        let Some(ca) = &self.ca else { return Ok(()) };
        let named = |cause: &dyn std::fmt::Display| format!("{}: {cause}", ca.display());
        let read = std::fs::read(ca).map_err(|error| named(&error));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.settings.is_some() && read.as_ref() == Ok(&state.read) {
            state.fault = None;
            return Ok(());
        }
        let built = read.and_then(|read| {
            let roots = anchors(&read).map_err(|cause| named(&cause))?;
            Ok((read, settings(roots)?))
        });
        match built {
            Ok((read, settings)) => {
                *state = State { read, settings: Some(settings), fault: None };
                Ok(())
            }
            Err(cause) if state.fault.as_ref() == Some(&cause) => Ok(()),
            Err(cause) => {
                state.fault = Some(cause.clone());
                Err(cause)
            }
        }
    }

    fn settings(&self) -> Result<Settings, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(settings) = &state.settings {
            return Ok(settings.clone());
        }
        let settings = settings(of_the_system()?)?;
        state.settings = Some(settings.clone());
        Ok(settings)
    }
}

impl Dialer for TcpDialer {
    fn dial<'a>(&'a self, to: &'a Upstream) -> Answer<'a, io::Result<BoxedIo>> {
        Box::pin(async move {
            let deadline = Instant::now() + CONNECT;
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT:?}"));
            let addresses = timeout_at(deadline, lookup_host((to.host.as_str(), to.port))).await.map_err(late)??;
            let addresses: Vec<_> = addresses.collect();
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for (index, address) in addresses.iter().enumerate() {
                // An address that swallows packets leaves time for the others.
                let now = Instant::now();
                let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
                let share = now + deadline.saturating_duration_since(now) / left;
                match timeout_at(share, TcpStream::connect(address)).await.map_err(late).flatten() {
                    Ok(stream) => {
                        tune(&stream)?;
                        return Ok(Box::new(stream) as BoxedIo);
                    }
                    Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
                }
            }
            Err(last)
        })
    }

    fn tls(&self, to: &Upstream) -> Result<Option<UpstreamTls>, String> {
        let config = match to.tls {
            TlsMode::Disable => return Ok(None),
            TlsMode::VerifyFull => self.settings()?.full,
            TlsMode::VerifyCa => self.settings()?.chain_only,
        };
        let name = to.server_name.as_ref().unwrap_or(&to.host);
        let server_name = ServerName::try_from(name.clone());
        let server_name = server_name.map_err(|_| format!("\"{name}\" is no name a certificate can have"))?;
        Ok(Some(UpstreamTls { config, server_name }))
    }
}

/// Small messages leave at once, and a peer that vanished is noticed within two minutes.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn of_the_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system has no trust anchors: give --upstream-ca".to_owned());
    }
    Ok(roots)
}

fn settings(roots: RootCertStore) -> Result<Settings, String> {
    let provider = provider();
    let roots = Arc::new(roots);
    let full = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
    let full = full.map_err(|error| error.to_string())?;
    let chain_only = Arc::new(ChainOnly { roots, provider: Arc::clone(&provider) });
    Ok(Settings { full: client(&provider, full)?, chain_only: client(&provider, chain_only)? })
}

fn client(provider: &Arc<CryptoProvider>, verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, String> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// `VerifyCa`: the chain must lead to a trust anchor, the name may be any.
#[derive(Debug)]
struct ChainOnly {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _any_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
