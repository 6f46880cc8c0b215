//! TLS towards agents: TLS 1.3, a client certificate always, no resumption.
//!
//! Owns the server's settings and their renewal when the files change. Touches the TLS directory.
//! Invariant: certificate, key and trust anchors come from one version of the files; a version that cannot
//! be used in full changes nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sallyport_core::identify::end_of;
use tokio::sync::watch;

use crate::edges::changes::Changes;
use crate::meter::Metrics;
use crate::trust::Remembering;

/// The server side of TLS, as it is now.
pub(crate) struct ServerTls {
    directory: PathBuf,
    current: ArcSwap<Built>,
    state: Mutex<State>,
    renewed: watch::Sender<u64>,
}

/// Settings, and what they verify clients with.
struct Built {
    config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

struct State {
    alpn: &'static [u8],
    read: Files,
    fault: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    anchors: Vec<u8>,
}

impl ServerTls {
    /// Reads tls.crt, tls.key and ca.crt.
    pub(crate) fn read(directory: &Path) -> Result<Self, String> {
        let read = Files::read(directory)?;
        let config = build(directory, &read, &[])?;
        let state = Mutex::new(State { alpn: &[], read, fault: None });
        Ok(Self {
            directory: directory.to_owned(),
            current: ArcSwap::from_pointee(config),
            state,
            renewed: watch::Sender::default(),
        })
    }

    /// What a new connection is met with.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// Digest of the roots that agents are verified with: what the operator waits for when it changes them.
    pub(crate) fn trust(&self) -> String {
        sallyport_policy::digest(&self.lock().read.anchors)
    }

    /// What clients are verified with now.
    pub(crate) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.current.load().verifier)
    }

    /// Tells when other files came into use.
    pub(crate) fn renewals(&self) -> watch::Receiver<u64> {
        self.renewed.subscribe()
    }

    /// Accepts this name of the protocol where a client offers names.
    pub(crate) fn speak(&self, alpn: &'static [u8]) -> Result<(), String> {
        let mut state = self.lock();
        if state.alpn != alpn {
            self.current.store(Arc::new(build(&self.directory, &state.read, alpn)?));
            state.alpn = alpn;
        }
        Ok(())
    }

    /// When the certificate in use ends, seconds since the Unix epoch.
    pub(crate) fn ends(&self) -> Option<i64> {
        let chain = certificates(&self.lock().read.certificate).ok()?;
        chain.first().and_then(end_of)
    }

    /// Reads the files again as they change, for as long as the process lives.
    pub(crate) async fn follow(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut changes = Changes::of([self.directory.as_path()]);
        loop {
            if let Err(cause) = self.refresh() {
                metrics.input_refused("tls");
                tracing::error!(%cause, "the new TLS files cannot be used, those read before stay");
            }
            changes.next().await;
        }
    }

    /// Puts changed files into use. An error is returned once a change.
    fn refresh(&self) -> Result<(), String> {
        let mut state = self.lock();
        let built = Files::read(&self.directory).and_then(|read| {
            let changed = read != state.read;
            let config = changed.then(|| build(&self.directory, &read, state.alpn)).transpose()?;
            Ok((read, config))
        });
        match built {
            Ok((read, config)) => {
                if let Some(config) = config {
                    self.current.store(Arc::new(config));
                    state.read = read;
                    self.renewed.send_modify(|count| *count += 1);
                    tracing::info!(directory = %self.directory.display(), "new TLS files are in use");
                }
                state.fault = None;
                Ok(())
            }
            Err(cause) if state.fault.as_ref() == Some(&cause) => Ok(()),
            Err(cause) => {
                state.fault = Some(cause.clone());
                Err(cause)
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn read(directory: &Path) -> Result<Self, String> {
        // Kubernetes swaps a volume by the one link `..data`; it is followed once for all three files.
        let version = directory.join("..data").canonicalize().unwrap_or_else(|_| directory.to_owned());
        let read = |name: &str| {
            let bytes = std::fs::read(version.join(name));
            bytes.map_err(|error| format!("{}: {error}", directory.join(name).display()))
        };
        match (read("tls.crt"), read("tls.key"), read("ca.crt")) {
            (Ok(certificate), Ok(key), Ok(anchors)) => Ok(Self { certificate, key, anchors }),
            (certificate, key, anchors) => {
                let causes: Vec<_> = [certificate, key, anchors].into_iter().filter_map(Result::err).collect();
                Err(causes.join("; "))
            }
        }
    }
}

fn build(directory: &Path, files: &Files, alpn: &[u8]) -> Result<Built, String> {
    let wrong = |name: &str, cause: &dyn std::fmt::Display| format!("{}: {cause}", directory.join(name).display());
    let chain = certificates(&files.certificate).map_err(|cause| wrong("tls.crt", &cause))?;
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|error| wrong("tls.key", &error))?;
    let anchors = anchors(&files.anchors).map_err(|cause| wrong("ca.crt", &cause))?;
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), Arc::clone(&provider))
        .build()
        .map_err(|error| wrong("ca.crt", &error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(Arc::new(Remembering(Arc::clone(&verifier))))
        .with_single_cert(chain, key)
        .map_err(|error| wrong("tls.crt", &format_args!("does not go with tls.key: {error}")))?;
    // No resumption and no early data: every session proves its identity anew, and nothing can be replayed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    Ok(Built { config: Arc::new(config), verifier })
}

/// Certificates of a PEM file: all of it or none.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("not whole PEM: {error}"))?;
    if chain.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(chain) }
}

/// Trust anchors of a PEM file: all of it or none.
pub(crate) fn anchors(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|error| format!("not a trust anchor: {error}"))?;
    }
    Ok(store)
}

/// The process's one provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let ours = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    CryptoProvider::get_default().map_or_else(ours, Arc::clone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sallyport_harness::Pki;

    fn write(dir: &Path, pki: &Pki) {
        let leaf = pki.server(&["localhost"]).unwrap();
        std::fs::write(dir.join("tls.crt"), &leaf.cert_pem).unwrap();
        std::fs::write(dir.join("tls.key"), &leaf.key_pem).unwrap();
        std::fs::write(dir.join("ca.crt"), pki.ca_pem()).unwrap();
    }

    #[test]
    fn a_half_written_pair_keeps_the_old_one_and_is_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new("cluster.local").unwrap();
        write(dir.path(), &pki);
        let tls = ServerTls::read(dir.path()).unwrap();
        let first = tls.current();

        let whole = std::fs::read(dir.path().join("tls.crt")).unwrap();
        std::fs::write(dir.path().join("tls.crt"), &whole[..whole.len() / 2]).unwrap();
        let cause = tls.refresh().unwrap_err();
        assert!(cause.contains("tls.crt"), "{cause}");
        assert_eq!(tls.refresh(), Ok(()), "the same fault is told once");
        assert!(Arc::ptr_eq(&first, &tls.current()));

        let other = pki.server(&["localhost"]).unwrap();
        std::fs::write(dir.path().join("tls.crt"), &other.cert_pem).unwrap();
        let cause = tls.refresh().unwrap_err();
        assert!(cause.contains("does not go with tls.key"), "{cause}");
        assert!(Arc::ptr_eq(&first, &tls.current()));

        std::fs::write(dir.path().join("tls.key"), &other.key_pem).unwrap();
        tls.refresh().unwrap();
        assert!(!Arc::ptr_eq(&first, &tls.current()), "the whole pair is in use");
        assert!(tls.ends() > Some(0), "its end is known");

        // Roots that cannot be used are not told to be in use.
        let (trust, roots) = (tls.trust(), pki.ca_pem());
        std::fs::write(dir.path().join("ca.crt"), format!("{roots}-----BEGIN CERTIFICATE-----\nAA")).unwrap();
        tls.refresh().unwrap_err();
        assert_eq!(tls.trust(), trust);
        let both = roots + &Pki::new("cluster.local").unwrap().ca_pem();
        std::fs::write(dir.path().join("ca.crt"), &both).unwrap();
        let renewals = tls.renewals();
        tls.refresh().unwrap();
        assert_eq!(tls.trust(), sallyport_policy::digest(both.as_bytes()));
        assert!(renewals.has_changed().unwrap());
    }

    #[test]
    fn every_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let cause = ServerTls::read(dir.path()).map(drop).unwrap_err();
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            assert!(cause.contains(name), "{cause}");
        }
    }

    #[tokio::test]
    async fn a_client_with_any_of_the_key_algorithms_is_let_in() {
        use sallyport_harness::{LeafKey, LeafOptions};
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new("cluster.local").unwrap();
        write(dir.path(), &pki);
        let tls = ServerTls::read(dir.path()).unwrap();
        for key in [LeafKey::EcdsaP256, LeafKey::EcdsaP384, LeafKey::Ed25519] {
            let uris = vec![pki.spiffe_id("ci", "bot")];
            let leaf = pki.leaf(&LeafOptions { uris, key, ..LeafOptions::default() }).unwrap();
            let client = rustls::ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(anchors(pki.ca_pem().as_bytes()).unwrap())
                .with_client_auth_cert(
                    certificates(leaf.cert_pem.as_bytes()).unwrap(),
                    PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap(),
                )
                .unwrap();
            let (here, there) = tokio::io::duplex(1 << 16);
            let (server, client) = (
                tokio_rustls::TlsAcceptor::from(tls.current()).accept(there),
                tokio_rustls::TlsConnector::from(Arc::new(client)).connect("localhost".try_into().unwrap(), here),
            );
            let (server, client) = tokio::join!(server, client);
            let (server, _client) = (server.unwrap(), client.unwrap());
            let shown = server.get_ref().1.peer_certificates().unwrap().first().unwrap().clone();
            assert_eq!(shown, certificates(leaf.cert_pem.as_bytes()).unwrap()[0], "{key:?}");
        }
    }

    #[test]
    fn nothing_is_resumed_and_nothing_is_early() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &Pki::new("cluster.local").unwrap());
        let tls = ServerTls::read(dir.path()).unwrap();
        tls.speak(b"postgresql").unwrap();
        let config = tls.current();
        assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
        assert!(!config.session_storage.can_cache() && !config.ticketer.enabled());
        assert_eq!(config.alpn_protocols, [b"postgresql".to_vec()]);
    }
}
