//! Rules that ask: from what their author wrote to the terms that a bundle carries.
//!
//! Owns that translation. Touches nothing. Invariant: what the schema let through and cannot be honoured is told, never
//! taken as a weaker term.

use sallyport_crds::{AccessRule, NotBy};
use sallyport_policy as policy;

use super::compile::{Rejected, invalid, seconds};

/// The terms of a rule whose action is Ask.
///
/// # Errors
/// When one of them cannot be honoured (the schema refuses that, an older object may have it).
pub(super) fn terms(rule: &AccessRule) -> Result<policy::AskTerms, Rejected> {
    let spec = rule.ask.clone().unwrap_or_default();
    let wrong = |message: String| invalid(format!("rule {}: {message}", rule.name));
    let span = |field: &str, text: &str| seconds(field, Some(text)).map(Option::unwrap_or_default).map_err(wrong);
    let terms = policy::AskTerms {
        approvals: spec.approvals,
        timeout_seconds: span("ask.timeout", &spec.timeout)?,
        validity_seconds: span("ask.validity", &spec.validity)?,
        not_by: not_by(spec.not_by),
    };
    if terms.approvals == 0 || terms.timeout_seconds == 0 || terms.validity_seconds < terms.timeout_seconds {
        return Err(wrong("ask needs at least one approval, a timeout, and a validity as long as that".to_owned()));
    }
    Ok(terms)
}

pub(super) const fn not_by(not_by: NotBy) -> policy::NotBy {
    match not_by {
        NotBy::Requester => policy::NotBy::Requester,
        NotBy::ServiceAccounts => policy::NotBy::ServiceAccounts,
    }
}
