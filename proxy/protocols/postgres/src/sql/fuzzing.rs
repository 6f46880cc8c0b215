//! Any text before the front.
//!
//! Owns the laws of what a text is taken to do. Touches memory only. Invariant: a broken law panics, nothing else does.

use std::sync::{Arc, OnceLock};

use super::{Described, Front, Loss, NameSettings, Refusal, StatementKind, without_constants};

/// Longest cause that a client is told.
const LONGEST_CAUSE: usize = 1000;

/// A text, or two with a byte between that no text has: what it does is told the same whenever it is asked, whatever stands
/// around it, and two texts one after the other do what each does.
pub fn sql(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0xff);
    let texts: Vec<_> = parts.by_ref().map(String::from_utf8_lossy).collect();
    for text in &texts {
        of_one(text);
    }
    if let [first, second] = texts.as_slice() {
        of_two(first, second);
    }
}

fn settings() -> NameSettings {
    NameSettings::new(["public", "app"]).unwrap_or_default()
}

/// A front that has seen every text before, and none: what it says must not hang on that.
fn front() -> Arc<Front> {
    static FRONT: OnceLock<Arc<Front>> = OnceLock::new();
    Arc::clone(FRONT.get_or_init(|| Arc::new(Front::new(settings()))))
}

fn of_one(text: &str) {
    let front = front();
    let described = front.describe(text);
    assert_eq!(described, front.describe(text), "asked again, it is told otherwise");
    assert_eq!(described, front.derive_alone(text), "a front that knows nothing says otherwise");
    for loss in [Loss::Relations, Loss::All] {
        let lost = front.lost(loss).map(|lost| lost.describe(text));
        let (Some(lost), Ok(known)) = (lost, &described) else { continue };
        match lost {
            Ok(lost) => assert_eq!(known.statements, lost.statements, "what names mean changes how many there are"),
            Err(refusal) => assert!(is_of_size(&refusal), "refused for what names mean: {refusal}"),
        }
    }
    let around = front.describe(&format!(" \t/* a /* b */ c */\n-- d\n{text}\n-- e\n/* f */ \n"));
    match (&described, &around) {
        (Ok(known), Ok(around)) => assert_eq!(known, around, "what stands around it changes what it does"),
        (Err(refusal), Err(_)) => assert!(refusal.cause.len() <= LONGEST_CAUSE, "{} bytes", refusal.cause.len()),
        (known, around) => {
            let refusal = known.as_ref().err().or(around.as_ref().err());
            assert!(
                text.len() > super::LONGEST_TEXT - 64,
                "what stands around it changes that it is refused: {refusal:?}"
            );
        }
    }
    if let Ok(described) = &described {
        assert_eq!(described.kinds.len(), described.actions.len());
        assert_eq!(described.kinds.len(), described.statements.max(1));
        let all = described.actions.iter().flat_map(|action| &action.operations);
        assert!(all.clone().all(|operation| described.action.operations.contains(operation)), "an operation is lost");
    }
    // For people only; it may not take the process with it.
    let _ = without_constants(text);
}

fn of_two(first: &str, second: &str) {
    let front = front();
    let (Ok(one), Ok(other)) = (front.describe(first), front.describe(second)) else { return };
    let both = match front.describe(&format!("{first}\n;\n{second}")) {
        Ok(both) => both,
        Err(refusal) => {
            assert!(is_of_size(&refusal), "each alone is understood, and both are not: {refusal}");
            return;
        }
    };
    assert_eq!(both.statements, one.statements + other.statements, "statements are lost");
    let of = |described: &Described| described.actions.iter().take(described.statements).cloned().collect::<Vec<_>>();
    let actions = of(&both);
    let (head, tail) = actions.split_at_checked(one.statements).unwrap_or_default();
    assert_eq!(head, of(&one), "what comes behind a text changes what it does");
    assert!(both.loses >= one.loses.max(other.loses), "it is forgotten that names mean something else");
    // Names that the first gives, and a path that it sets, are known in the second.
    let gives = |kind: &_| matches!(kind, StatementKind::Prepare(_) | StatementKind::Declare(_));
    if one.loses.is_none() && !one.kinds.iter().any(gives) {
        assert_eq!(tail, of(&other), "what comes before a text changes what it does");
    }
}

/// Refused for the resources that it takes, which is no question of meaning.
fn is_of_size(refusal: &Refusal) -> bool {
    ["touches too many objects", "nested too deeply", "more than"].iter().any(|cause| refusal.cause.contains(cause))
}

impl Front {
    /// What a front says that has been asked nothing before.
    fn derive_alone(&self, text: &str) -> Result<Arc<Described>, Refusal> {
        if text.contains('\0') {
            return self.describe(text);
        }
        self.derive(text).map(Arc::new)
    }
}
