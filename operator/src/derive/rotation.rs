//! What is told when a certificate should be replaced and cannot be.
//!
//! Owns those conditions; `Rotating` is there only while it is `False`. Touches nothing. Invariant: the same
//! refusal again is the same status, so that trying again writes nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use sallyport_crds::conditions::{self, Finding};

/// Why a certificate that was to be written is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A word for machines.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// What the API server said.
    pub said: String,
}

/// `others`, with a condition of `type_` that says why: `Rotating` while the certificate that is held still serves,
/// `Issued` where there is none.
#[must_use]
pub fn stuck(
    type_: &'static str,
    before: &[Condition],
    others: Vec<Condition>,
    refusal: &Refusal,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let same = |old: &&Condition| old.type_ == type_ && old.reason == refusal.reason;
    let message = match before.iter().find(same) {
        Some(old) => old.message.clone(),
        None => refusal.message.clone(),
    };
    let finding = Finding::no(type_, refusal.reason, message);
    others
        .into_iter()
        .filter(|other| other.type_ != type_)
        .chain(conditions::settle(before, vec![finding], generation, &Time(now)))
        .collect()
}
