//! What of a statement's answer would be masked, as far as its text tells.
//!
//! Owns how that is told. Touches its arguments only. Invariant: where a mask will be seen is the proxy's own word; what the server's
//! catalog alone decides is said to be so, and nothing is said to be clear.

use std::io::Write;

use sallyport_policy::{Action, Detector, MaskMethod, Session, World, masks_in_force};
use sallyport_postgres::{Place, foreseen, read_relations};
use sallyport_proxy::shown;
use serde::Serialize;

/// One mask, where it will be seen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedMask {
    /// Which item of what the statement returns, from one; none where it could be any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<usize>,
    /// `column` as it is, `expression` that it has a part in, `star` that it may be among, or `anywhere`.
    pub of: &'static str,
    /// The masked column, as the policy says it.
    pub column: String,
    /// What stands in its place.
    pub method: &'static str,
    /// The policy.
    pub policy: String,
}

/// What is searched for in every text of every answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedDetector {
    /// What.
    pub detect: &'static str,
    /// What stands in its place.
    pub method: &'static str,
    /// The policy.
    pub policy: String,
}

/// The masks of a statement.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedMasks {
    /// What the text tells.
    pub masks: Vec<ExplainedMask>,
    /// What only the server's catalog tells; absent where no column is masked in the session at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecided: Option<String>,
}

/// What masks would do to the answer of a statement that does `action`.
pub(crate) fn masks(world: &World, session: &Session, action: &Action) -> ExplainedMasks {
    let mut explained = ExplainedMasks::default();
    let mut any = false;
    for (policy, mask) in masks_in_force(world, session) {
        any |= !mask.columns.is_empty();
        for column in &mask.columns {
            for (place, method) in foreseen(action, column, mask.method) {
                let (item, of) = match place {
                    Place::AsItIs(at) => (Some(at), "column"),
                    Place::PartOf(at) => (Some(at), "expression"),
                    Place::OfStar(at) => (Some(at), "star"),
                    Place::Anywhere => (None, "anywhere"),
                };
                let (column, method, policy) = (column.to_string(), word(method), policy.to_owned());
                explained.masks.push(ExplainedMask { item, of, column, method, policy });
            }
        }
    }
    explained.masks.sort_by_key(|mask| mask.item);
    explained.undecided = match read_relations(action) {
        _ if !any => None,
        None => Some("what it touches cannot be told from its text: what may be masked is".to_owned()),
        Some(relations) if relations.is_empty() => None,
        Some(relations) => {
            let names: Vec<_> = relations.iter().map(ToString::to_string).collect();
            Some(format!(
                "only the server's catalog tells whether {} shows more that is masked (a view, an inherited table): it is then, and so is what \
                 the catalog does not know; a COPY whose columns it cannot tell is refused",
                names.join(", ")
            ))
        }
    };
    explained
}

/// What is searched for in the session.
pub(crate) fn detectors(world: &World, session: &Session) -> Vec<ExplainedDetector> {
    let in_force = masks_in_force(world, session);
    let told = in_force.flat_map(|(policy, mask)| {
        mask.detect.iter().map(move |detector| ExplainedDetector {
            detect: match detector {
                Detector::CreditCard => "CreditCard",
                Detector::Iban => "Iban",
                Detector::Email => "Email",
            },
            method: word(mask.method),
            policy: policy.to_owned(),
        })
    });
    told.collect()
}

/// A method as policies say it.
const fn word(method: MaskMethod) -> &'static str {
    match method {
        MaskMethod::Partial => "Partial",
        MaskMethod::Tokenize => "Tokenize",
        MaskMethod::Hash => "Hash",
        MaskMethod::Redact => "Redact",
        MaskMethod::Null => "SetNull",
    }
}

pub(crate) fn tell(of: &ExplainedMasks, out: &mut impl Write) -> std::io::Result<()> {
    for ExplainedMask { item, of, column, method, policy } in &of.masks {
        let at = item.map_or_else(|| "any item".to_owned(), |item| format!("item {item}"));
        let what = match *of {
            "expression" => format!("an expression that {column} may have a part in"),
            "star" => format!("{column}, if it is among what * stands for"),
            "anywhere" => format!("what {column} may have a part in"),
            _ => column.clone(),
        };
        writeln!(out, "  masked {at}: {}  {method}  by {}", shown(&what), shown(policy))?;
    }
    if let Some(undecided) = &of.undecided {
        writeln!(out, "  {}", shown(undecided))?;
    }
    Ok(())
}
