//! Bundles for tests, in the form the operator compiles them to.
//! It builds values only. The built-in rules are those the operator adds to every policy.

use sallyport_policy::{
    Attribute, BUNDLE_VERSION, Bundle, Effect, FleetTerms, Matcher, NamePattern, ObjectKind, ObjectMatcher,
    PolicyEntry, Recording, RecordingLevel, Rule, Subject, TargetRef, TlsMode, Upstream,
};

/// A bundle for the server at that address.
#[must_use]
pub fn bundle(host: &str, port: u16, policies: Vec<PolicyEntry>) -> Bundle {
    Bundle {
        version: BUNDLE_VERSION,
        revision: String::new(),
        target: TargetRef { namespace: "shop".into(), name: "orders-db".into() },
        trust_domain: "cluster.local".into(),
        upstream: Upstream {
            protocol: "postgres".into(),
            host: host.into(),
            port,
            tls: TlsMode::VerifyFull,
            server_name: None,
            credentials: vec!["default".into()],
            settings: serde_json::Map::new(),
        },
        agent_namespaces: vec!["ci".into()],
        recording: Recording::at(RecordingLevel::Commands),
        sessions: FleetTerms::default(),
        policies,
    }
    .sealed()
}

/// A policy for `ci/bot` with the built-in rules before its own.
#[must_use]
pub fn policy(name: &str, rules: Vec<Rule>) -> PolicyEntry {
    let mut all = vec![rule("builtin:session", Effect::Allow, &["Transaction", "Session"])];
    all.extend(rules);
    PolicyEntry {
        name: name.into(),
        subjects: vec![Subject::Agent { namespace: "ci".into(), name: "bot".into() }],
        credentials: vec!["default".into()],
        rules: all,
        ..PolicyEntry::default()
    }
}

/// Everything is allowed.
#[must_use]
pub fn allow_all() -> Vec<PolicyEntry> {
    vec![policy("all", vec![rule("everything", Effect::Allow, &[])])]
}

/// What the README's policy says: read orders and customers, write orders, but not without WHERE.
#[must_use]
pub fn readme() -> Vec<PolicyEntry> {
    let mut unbounded = rule("no-unbounded-writes", Effect::Deny, &["Update", "Delete"]);
    unbounded.message = Some("a write needs a WHERE clause".into());
    unbounded.matcher.attributes = vec![(Attribute::Unbounded, true)];
    vec![policy(
        "read-orders",
        vec![
            tables(rule("read-orders", Effect::Allow, &["Select"]), &["public.orders", "public.customers"]),
            tables(rule("write-orders", Effect::Allow, &["Insert", "Update", "Delete"]), &["public.orders"]),
            unbounded,
        ],
    )]
}

/// A rule over those verbs, or over all of them when none is named.
#[must_use]
pub fn rule(name: &str, effect: Effect, verbs: &[&str]) -> Rule {
    let verbs = (!verbs.is_empty()).then(|| verbs.iter().map(|&verb| verb.to_owned()).collect());
    Rule { name: name.into(), effect, message: None, matcher: Matcher { verbs, ..Matcher::default() }, when: None }
}

/// The same rule, limited to those tables.
#[must_use]
pub fn tables(mut rule: Rule, names: &[&str]) -> Rule {
    let names = names.iter().filter_map(|name| NamePattern::parse(name).ok()).collect();
    rule.matcher.objects = Some(vec![ObjectMatcher { kind: ObjectKind::Table, names }]);
    rule
}
