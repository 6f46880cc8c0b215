//! Two policies in conflict: an allow or a question that a deny takes back whole.
//!
//! Owns the search for rules that can never do what they say. Touches nothing. Invariant: it only tells;
//! what is enforced is the same with or without it, because deny wins anyway.

use sallyport_policy::{Effect, Matcher, Mode, NamePattern, PolicyEntry, Rule};

/// A rule that allows or asks without effect, and the deny that takes it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// Name of that rule.
    pub allow: String,
    /// Name of the policy with the deny rule.
    pub policy: String,
    /// Name of the deny rule.
    pub deny: String,
}

/// The first rule of `entry` that allows or asks and that a deny among `all` covers for the same subjects and credentials.
#[must_use]
pub fn first(entry: &PolicyEntry, all: &[PolicyEntry]) -> Option<Shadowed> {
    let allows = entry.rules.iter().filter(|rule| rule.effect != Effect::Deny && !rule.name.contains(':'));
    allows.into_iter().find_map(|allow| {
        let others = all.iter().filter(|other| speaks_for(other, entry));
        let mut denials = others.flat_map(|other| denies(other).map(move |deny| (other, deny)));
        let (other, deny) = denials.find(|(_, deny)| covers(&deny.matcher, &allow.matcher))?;
        Some(Shadowed { allow: allow.name.clone(), policy: other.name.clone(), deny: deny.name.clone() })
    })
}

fn denies(entry: &PolicyEntry) -> impl Iterator<Item = &Rule> {
    // One with a condition takes nothing back for good.
    entry.rules.iter().filter(|rule| rule.effect == Effect::Deny && rule.when.is_none())
}

/// Whether `wide` concerns every subject and credential that `narrow` does, as written.
fn speaks_for(wide: &PolicyEntry, narrow: &PolicyEntry) -> bool {
    narrow.subjects.iter().all(|subject| wide.subjects.contains(subject))
        && narrow.credentials.iter().all(|name| wide.credentials.contains(name))
        // What only observes takes nothing back from what enforces.
        && (wide.mode == Mode::Enforce || narrow.mode == Mode::Observe)
}

/// Whether everything that `narrow` matches, `wide` matches. May say no where it is so; never yes where it is not.
fn covers(wide: &Matcher, narrow: &Matcher) -> bool {
    let verbs = match (&wide.verbs, &narrow.verbs) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|verb| wide.contains(verb)),
    };
    let objects = match (&wide.objects, &narrow.objects) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.iter().all(|inner| {
            let same = wide.iter().filter(|outer| outer.kind == inner.kind);
            let outer: Vec<_> = same.flat_map(|outer| &outer.names).collect();
            inner.names.iter().all(|name| outer.iter().any(|wide| contains(wide, name)))
        }),
    };
    verbs && objects && wide.attributes.iter().all(|attribute| narrow.attributes.contains(attribute))
}

fn contains(wide: &NamePattern, narrow: &NamePattern) -> bool {
    wide == narrow || wide.to_string() == "*.*"
}
