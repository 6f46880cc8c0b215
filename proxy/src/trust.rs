//! Sessions whose certificate is out of trust, and handshakes whose certificate is ahead of this proxy's clock.
//!
//! Owns what each connection presented in its handshake, and the look at it when the roots change. Touches
//! its arguments. Invariants: a session never outlives the trust that let it in; one whose certificate ended
//! meanwhile is the expiry's matter, not this one's; what is let through the handshake early, the gate refuses.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use sallyport_core::identify::start_of;
use tokio::sync::watch;

use crate::tls::ServerTls;

/// How far ahead a certificate's start may lie for the gate to refuse it, which tells and records why. TLS has one
/// word for all that is wrong with time, and an agent whose new certificate "has expired" asks for the next in vain.
const AHEAD: Duration = Duration::from_secs(3600);
/// Between two looks at a handshake, which has a deadline of its own.
const GLANCE: Duration = Duration::from_millis(50);

tokio::task_local! {
    /// What the client of the current connection presented.
    static PRESENTED: RefCell<Option<Presented>>;
}

/// A verified chain, and when it was verified.
struct Presented {
    leaf: CertificateDer<'static>,
    above: Vec<CertificateDer<'static>>,
    at: UnixTime,
}

/// Verifies as another one does, and keeps what it verified for the current connection.
pub(crate) struct Remembering(pub(crate) Arc<dyn ClientCertVerifier>);

impl fmt::Debug for Remembering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remembering").finish()
    }
}

impl ClientCertVerifier for Remembering {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (verified, at) = match self.0.verify_client_cert(end_entity, intermediates, now) {
            Err(error) => {
                let at = early(end_entity, &error, now).ok_or(error)?;
                (self.0.verify_client_cert(end_entity, intermediates, at)?, at)
            }
            Ok(verified) => (verified, now),
        };
        let above = intermediates.iter().map(|one| one.clone().into_owned()).collect();
        let presented = Presented { leaf: end_entity.clone().into_owned(), above, at };
        let _outside_a_connection = PRESENTED.try_with(|place| place.replace(Some(presented)));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The start of a leaf that is refused for nothing but lying ahead of `now`, by not too much.
fn early(leaf: &CertificateDer<'_>, error: &Error, now: UnixTime) -> Option<UnixTime> {
    let Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) = error else { return None };
    // The leaf's own: one that is valid already below an authority that is not is nobody the gate would refuse.
    let its_own = start_of(leaf).is_some_and(|start| u64::try_from(start) == Ok(not_before.as_secs()));
    let ahead = not_before.as_secs().saturating_sub(now.as_secs());
    (its_own && (1..=AHEAD.as_secs()).contains(&ahead)).then_some(*not_before)
}

/// Gives the current task a place for what its client presents.
pub(crate) async fn connection<F: Future>(serve: F) -> F::Output {
    PRESENTED.scope(RefCell::new(None), serve).await
}

/// Completes when what the client of the current connection presented is out of trust. `renewals` was taken
/// before the settings that the client is met with, so that no change slips past.
pub(crate) async fn lost(tls: Arc<ServerTls>, mut renewals: watch::Receiver<u64>) {
    while renewals.changed().await.is_ok() {
        // One that is amid its handshake is met with the roots before: it is looked at once it is through.
        while !PRESENTED.with(|place| place.borrow().is_some()) {
            tokio::time::sleep(GLANCE).await;
        }
        let verifier = tls.verifier();
        let refused = PRESENTED.with(|place| {
            // As of its handshake: whether it has ended since is not asked here.
            let again = |it: &Presented| verifier.verify_client_cert(&it.leaf, &it.above, it.at).is_err();
            place.borrow().as_ref().is_some_and(again)
        });
        if refused {
            return;
        }
    }
    // The process ends.
    std::future::pending().await
}
