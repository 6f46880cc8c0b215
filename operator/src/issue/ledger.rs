//! The authorities of a trust domain as one Secret: what signs, what signs next, what signed.
//!
//! Owns that Secret's form. Touches its arguments. Invariants: every step is one new value of the whole
//! Secret; of an authority that signs no more there is a certificate and no key.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::authority::Trusted;
use super::material::{Certificate, Material, facts};
use super::{Authority, AuthorityError, CA, CERTIFICATE, KEY};
use crate::derive::trust::{self, CaFacts, Step};

const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const NEXT_CA: &str = "next-ca.crt";
const STATE: &str = "state.json";

/// The authorities, with their keys.
#[derive(Debug, Clone)]
pub struct Ledger {
    active: Arc<Material>,
    next: Option<Next>,
    previous: Vec<Former>,
}

#[derive(Debug, Clone)]
struct Next {
    material: Arc<Material>,
    settled: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct Former {
    facts: CaFacts,
    trusted: Trusted,
    retire_after: Timestamp,
}

/// What is written down beside certificates and keys.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    previous: Vec<FormerState>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FormerState {
    certificate: String,
    roots: String,
    retire_after: Timestamp,
}

impl Ledger {
    /// Only this one, which signs.
    #[must_use]
    pub fn of(active: Material) -> Self {
        Self { active: Arc::new(active), next: None, previous: Vec::new() }
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the authority that signs cannot be used, or what was written down cannot be read.
    pub fn read(secret: &Secret, now: Timestamp) -> Result<Self, AuthorityError> {
        let active = Arc::new(Material::read(secret, now)?);
        let bytes = secret.data.as_ref().and_then(|data| data.get(STATE)).map(|bytes| bytes.0.as_slice());
        let state = bytes.filter(|bytes| !bytes.is_empty()).map(serde_json::from_slice::<State>).transpose();
        let state = state.map_err(|error| AuthorityError::State(error.to_string()))?.unwrap_or_default();
        let previous = state.previous.iter().map(Former::read).collect::<Result<_, _>>()?;
        // One that is gone bad is made or taken anew.
        let next = Material::read_as(secret, [NEXT_CERTIFICATE, NEXT_KEY, NEXT_CA], now).ok();
        let next = next.map(|material| Next { material: Arc::new(material), settled: state.settled });
        Ok(Self { active, next, previous })
    }

    /// The keys of the Secret, and what is in them; nothing where a key is to be taken out.
    #[must_use]
    pub fn data(&self) -> BTreeMap<&'static str, Option<ByteString>> {
        let bytes = |text: &str| Some(ByteString(text.as_bytes().to_vec()));
        let roots = |material: &Material| material.roots().iter().map(|root| root.pem.as_str()).collect::<String>();
        let state = State {
            settled: self.next.as_ref().and_then(|next| next.settled),
            previous: self.previous.iter().map(Former::written).collect(),
        };
        let next = self.next.as_ref().map(|next| &next.material);
        [
            (CERTIFICATE, bytes(&self.active.chain_pem())),
            (KEY, bytes(self.active.key().expose_secret())),
            (CA, bytes(&roots(&self.active))),
            (NEXT_CERTIFICATE, next.and_then(|next| bytes(&next.chain_pem()))),
            (NEXT_KEY, next.and_then(|next| bytes(next.key().expose_secret()))),
            (NEXT_CA, next.and_then(|next| bytes(&roots(next)))),
            (STATE, bytes(&serde_json::to_string(&state).unwrap_or_default())),
        ]
        .into()
    }

    /// The whole Secret.
    #[must_use]
    pub fn secret(&self, metadata: ObjectMeta) -> Secret {
        let data = self.data().into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let type_ = Some("kubernetes.io/tls".to_owned());
        Secret { metadata, type_, data: Some(data.collect()), ..Secret::default() }
    }

    /// What can be told of it.
    #[must_use]
    pub fn facts(&self) -> trust::Ledger {
        let next = self.next.as_ref();
        let previous = self.previous.iter();
        trust::Ledger {
            active: self.active.facts().clone(),
            next: next.map(|next| trust::Next { ca: next.material.facts().clone(), settled: next.settled }),
            previous: previous
                .map(|former| trust::Previous { ca: former.facts.clone(), retire_after: former.retire_after })
                .collect(),
        }
    }

    /// What signs, and all that is trusted.
    ///
    /// # Errors
    /// When a certificate can be no trust anchor.
    pub fn authority(&self) -> Result<Authority, AuthorityError> {
        let next = self.next.iter().map(|next| trusted(&next.material));
        let others: Vec<_> = next.chain(self.previous.iter().map(|former| former.trusted.clone())).collect();
        Authority::new(&self.active, &others)
    }

    /// The one after `step`, with the authority that the step takes.
    #[must_use]
    pub fn after(&self, step: &Step, taken: Option<Material>, now: Timestamp) -> Self {
        let taken = taken.map(Arc::new);
        let mut ledger = self.clone();
        match (step, taken) {
            (Step::Prepare(_), Some(material)) => ledger.next = Some(Next { material, settled: None }),
            (Step::Settle, _) => {
                if let Some(next) = &mut ledger.next {
                    next.settled = Some(now);
                }
            }
            (Step::Promote(retire_after), _) => {
                if let Some(next) = ledger.next.take() {
                    ledger.signs(next.material, *retire_after);
                }
            }
            (Step::Exchange(retire_after), Some(material)) => ledger.signs(material, *retire_after),
            (Step::Retire(over), _) => ledger.previous.retain(|former| !over.contains(&former.facts.fingerprint)),
            (Step::Abandon(_), _) => ledger.next = None,
            (Step::Replace(_), Some(active)) => ledger = Self { active, next: None, previous: Vec::new() },
            (Step::Keep | Step::Prepare(_) | Step::Exchange(_) | Step::Replace(_), _) => {}
        }
        ledger
    }

    fn signs(&mut self, material: Arc<Material>, retire_after: Timestamp) {
        let old = std::mem::replace(&mut self.active, material);
        // One that signs again is no former one.
        self.previous.retain(|former| former.facts.fingerprint != self.active.facts().fingerprint);
        self.previous.push(Former { facts: old.facts().clone(), trusted: trusted(&old), retire_after });
    }
}

fn trusted(material: &Material) -> Trusted {
    Trusted { signing: material.signing().clone(), roots: material.roots().to_vec() }
}

impl Former {
    fn read(state: &FormerState) -> Result<Self, AuthorityError> {
        let all = |pem: &str| Certificate::all(pem).map_err(AuthorityError::State);
        let (signing, roots) = (all(&state.certificate)?, all(&state.roots)?);
        let signing = signing.into_iter().next();
        let signing = signing.ok_or_else(|| AuthorityError::State("a certificate is missing".to_owned()))?;
        let facts = facts(&signing, &roots)?;
        Ok(Self { facts, trusted: Trusted { signing, roots }, retire_after: state.retire_after })
    }

    fn written(&self) -> FormerState {
        FormerState {
            certificate: self.trusted.signing.pem.clone(),
            roots: self.trusted.roots.iter().map(|root| root.pem.as_str()).collect(),
            retire_after: self.retire_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sallyport_crds::KeyAlgorithm;
    use std::time::Duration;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn made() -> Material {
        Material::make("cluster.local", KeyAlgorithm::EcdsaP256, Duration::from_secs(1_000_000), at(NOW)).unwrap()
    }

    fn key(material: &Material) -> String {
        material.key().expose_secret().to_owned()
    }

    fn through_a_secret(ledger: &Ledger) -> (Ledger, String) {
        let secret = ledger.secret(ObjectMeta::default());
        let text: String =
            secret.data.iter().flatten().map(|(_, value)| String::from_utf8(value.0.clone()).unwrap()).collect();
        (Ledger::read(&secret, at(NOW)).unwrap(), text)
    }

    #[test]
    fn a_rotation_reads_back_after_every_step_and_an_old_key_is_gone() {
        let (first, second) = (made(), made());
        let (first_key, second_key) = (key(&first), key(&second));
        let first_only = Ledger::of(first);
        let bundle = |ledger: &Ledger| ledger.authority().unwrap().bundle().to_owned();

        let prepared = first_only.after(&Step::Prepare("it was asked for"), Some(second), at(NOW));
        let (read, text) = through_a_secret(&prepared);
        assert_eq!(read.facts(), prepared.facts());
        assert!(text.contains(&first_key) && text.contains(&second_key));
        let both = bundle(&read);
        assert_eq!(both.matches("BEGIN").count(), 2);

        let settled = read.after(&Step::Settle, None, at(NOW + 5));
        let (read, _) = through_a_secret(&settled);
        assert_eq!(read.facts().next.unwrap().settled, Some(at(NOW + 5)));

        let promoted = settled.after(&Step::Promote(at(NOW + 90)), None, at(NOW + 10));
        let (read, text) = through_a_secret(&promoted);
        assert_eq!(read.facts(), promoted.facts());
        assert!(!text.contains(&first_key), "the key that signs no more is destroyed");
        assert!(text.contains(&second_key));
        assert_eq!(bundle(&read), both, "the signer changes, what is trusted does not");
        let taken_out: Vec<_> =
            promoted.data().into_iter().filter(|(_, value)| value.is_none()).map(|it| it.0).collect();
        assert_eq!(taken_out, [NEXT_CA, NEXT_CERTIFICATE, NEXT_KEY]);

        let over = [promoted.facts().previous[0].ca.fingerprint.clone()].into();
        let retired = promoted.after(&Step::Retire(over), None, at(NOW + 90));
        assert_eq!(bundle(&through_a_secret(&retired).0).matches("BEGIN").count(), 1);
    }

    #[test]
    fn a_replacement_leaves_nothing_of_what_was_before() {
        let ledger = Ledger::of(made()).after(&Step::Prepare("it was asked for"), Some(made()), at(NOW));
        let ledger = ledger.after(&Step::Promote(at(NOW + 90)), None, at(NOW));
        let last = made();
        let fingerprint = last.facts().fingerprint.clone();
        let ledger = ledger.after(&Step::Replace("its key is known to others"), Some(last), at(NOW));
        let (read, text) = through_a_secret(&ledger);
        assert_eq!(text.matches("PRIVATE KEY").count(), 2, "one key, its first and its last line");
        assert_eq!((read.facts().active.fingerprint, read.facts().previous.len()), (fingerprint, 0));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_a_bad_next_one_is_made_anew() {
        let mut secret = Ledger::of(made()).secret(ObjectMeta::default());
        let mut put = |key: &str, value: &[u8]| {
            secret.data.as_mut().unwrap().insert(key.into(), ByteString(value.to_vec()));
            Ledger::read(&secret, at(NOW))
        };
        assert!(put(NEXT_CERTIFICATE, b"no PEM").unwrap().facts().next.is_none());
        assert!(matches!(put(STATE, b"{"), Err(AuthorityError::State(_))));
    }

    #[test]
    fn every_kind_of_key_makes_an_authority() {
        for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Ed25519] {
            let made = Material::make("cluster.local", algorithm, Duration::from_secs(1000), at(NOW)).unwrap();
            assert!(Ledger::of(made).authority().unwrap().bundle().contains("BEGIN CERTIFICATE"), "{algorithm:?}");
        }
    }
}
