//! From the policies of a namespace to the bundle of one target.
//!
//! Owns the translation of rules to matchers. Touches nothing. Invariant: the bundle depends on the set
//! of policies, never on their order, and holds no secret and no identity.

use std::collections::BTreeSet;

use kube::ResourceExt;
use sallyport_crds::{
    AccessMask, AccessPolicy, AccessPolicySpec, AccessRule, Detector, MaskMethod, OnRevocation, PolicyMode,
    PostgresRule, ProtectedTarget, ProxySpec, RuleAction, SubjectRef, TlsMode, WhereClause,
};
use sallyport_policy as policy;
use sallyport_policy::{
    Attribute, Bundle, ColumnPattern, Effect, Matcher, NamePattern, ObjectKind, ObjectMatcher, PolicyEntry,
};

use super::{Settings, asking, builtin, condition};

/// Bytes of JSON that a bundle may have: a ConfigMap holds 1 MiB, with its metadata.
pub const LARGEST: usize = 1000 * 1024;

/// Why a policy was not compiled for a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// A word for machines.
    pub reason: &'static str,
    /// A sentence for its author.
    pub message: String,
}

/// Whether `policy` is about the target of that name.
#[must_use]
pub fn concerns(policy: &AccessPolicy, target: &str) -> bool {
    // An object that is on its way out no longer grants; its denials go with it, as its deletion says.
    policy.metadata.deletion_timestamp.is_none() && policy.spec.target_refs.iter().any(|r| r.name == target)
}

/// The bundle of `target`: every policy that concerns it and compiles.
pub fn bundle<'a>(
    target: &ProtectedTarget,
    policies: impl IntoIterator<Item = &'a AccessPolicy>,
    settings: &Settings,
) -> Bundle {
    let name = target.name_any();
    let concerned = policies.into_iter().filter(|policy| concerns(policy, &name));
    let mut entries: Vec<_> = concerned.filter_map(|policy| entry(policy, target).ok()).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let namespaces: BTreeSet<_> =
        entries.iter().flat_map(|entry| &entry.subjects).map(|subject| namespace_of(subject).to_owned()).collect();
    Bundle {
        version: policy::BUNDLE_VERSION,
        revision: String::new(),
        target: policy::TargetRef { namespace: target.namespace().unwrap_or_default(), name },
        trust_domain: settings.trust_domain.clone(),
        upstream: upstream(target),
        agent_namespaces: namespaces.into_iter().collect(),
        recording: super::recording::demands(target),
        sessions: fleet_terms(&target.spec.proxy).unwrap_or_default(),
        policies: entries,
    }
    .sealed()
}

/// One policy, compiled for one target.
///
/// # Errors
/// When a rule cannot be compiled; the whole policy is left out then, and its author told.
pub fn entry(policy: &AccessPolicy, target: &ProtectedTarget) -> Result<PolicyEntry, Rejected> {
    let own = policy.namespace().unwrap_or_default();
    let held = credential_names(target);
    let sessions = session_terms(&policy.spec)?;
    let mode = match policy.spec.mode {
        PolicyMode::Enforce => policy::Mode::Enforce,
        // The schema refuses that; limits that do not hold would be a promise that nobody keeps.
        PolicyMode::Observe if policy.spec.limits.is_some() => {
            return Err(invalid("limits of a policy that observes would not hold".to_owned()));
        }
        PolicyMode::Observe => policy::Mode::Observe,
    };
    let mut rules = builtin::rules();
    for rule in &policy.spec.rules {
        rules.push(compiled(rule)?);
    }
    let subjects = policy.spec.subjects.iter().map(|subject| who(subject, &own)).collect::<Result<_, _>>()?;
    let granted = policy.spec.credentials.iter().filter(|name| held.contains(name.as_str()));
    let masks = policy.spec.masks.iter().map(mask).collect::<Result<_, _>>()?;
    let credentials = granted.cloned().collect();
    Ok(PolicyEntry { name: policy.name_any(), subjects, credentials, mode, sessions, rules, masks })
}

/// Names in `as` that the target has no credential for.
#[must_use]
pub fn unknown_credentials(policy: &AccessPolicy, target: &ProtectedTarget) -> Vec<String> {
    let held = credential_names(target);
    policy.spec.credentials.iter().filter(|name| !held.contains(name.as_str())).cloned().collect()
}

/// The namespace whose identities a subject speaks of.
#[must_use]
pub fn namespace_of(subject: &policy::Subject) -> &str {
    match subject {
        policy::Subject::Agent { namespace, .. } | policy::Subject::Group { namespace, .. } => namespace,
    }
}

/// A subject with its namespace filled in.
///
/// # Errors
/// When it is neither or both of agent and group (the schema refuses that, an older object may have it).
pub fn who(subject: &SubjectRef, own: &str) -> Result<policy::Subject, Rejected> {
    let or_own = |namespace: &Option<String>| namespace.clone().unwrap_or_else(|| own.to_owned());
    match (&subject.agent, &subject.group) {
        (Some(agent), None) => {
            Ok(policy::Subject::Agent { namespace: or_own(&agent.namespace), name: agent.name.clone() })
        }
        (None, Some(group)) => {
            Ok(policy::Subject::Group { namespace: or_own(&group.namespace), name: group.name.clone() })
        }
        _ => Err(invalid("a subject is either an agent or a group: set exactly one".to_owned())),
    }
}

/// What the fleet's object says of every session.
///
/// # Errors
/// With the field, when it holds no duration (the schema refuses that, an older object may have it).
pub fn fleet_terms(proxy: &ProxySpec) -> Result<policy::FleetTerms, String> {
    Ok(policy::FleetTerms {
        expiry_grace_seconds: seconds("proxy.expiryGrace", proxy.expiry_grace.as_deref())?,
        stale_after_seconds: seconds("proxy.staleAfter", proxy.stale_after.as_deref())?,
    })
}

fn session_terms(spec: &AccessPolicySpec) -> Result<policy::SessionTerms, Rejected> {
    let limits = spec.limits.clone().unwrap_or_default();
    Ok(policy::SessionTerms {
        duration_seconds: seconds("limits.sessionDuration", limits.session_duration.as_deref()).map_err(invalid)?,
        idle_seconds: seconds("limits.idleDuration", limits.idle_duration.as_deref()).map_err(invalid)?,
        on_revocation: match spec.on_revocation {
            OnRevocation::Finish => policy::OnRevocation::Finish,
            OnRevocation::Cancel => policy::OnRevocation::Cancel,
        },
        rows_per_command: count("limits.rowsPerCommand", limits.rows_per_command)?,
        bytes_per_command: limits.bytes_per_command.as_deref().map(bytes).transpose()?,
        commands_per_minute: count("limits.commandsPerMinute", limits.commands_per_minute)?,
        concurrent_sessions: count("limits.concurrentSessions", limits.concurrent_sessions)?,
    })
}

fn count(field: &str, value: Option<i64>) -> Result<Option<u64>, Rejected> {
    // Zero is no limit that anybody means: who may do nothing has no policy.
    let read = |value: i64| u64::try_from(value).ok().filter(|count| *count > 0);
    value.map(|value| read(value).ok_or_else(|| invalid(format!("{field} must be at least 1")))).transpose()
}

fn bytes(text: &str) -> Result<u64, Rejected> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..) {
        Some("") => 1,
        Some("Ki") => 1 << 10,
        Some("Mi") => 1 << 20,
        Some("Gi") => 1 << 30,
        _ => 0,
    };
    let read = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|count| *count > 0);
    read.ok_or_else(|| invalid(format!("limits.bytesPerCommand: {text:?} is no number of bytes like 64Mi")))
}

pub(super) fn seconds(field: &str, text: Option<&str>) -> Result<Option<u64>, String> {
    text.map(|text| super::identity::duration(field, text).map(|span| span.as_secs())).transpose()
}

fn compiled(rule: &AccessRule) -> Result<policy::Rule, Rejected> {
    if rule.name.contains(':') {
        return Err(invalid(format!("rule {:?}: names with a prefix are the operator's own", rule.name)));
    }
    let effect = match rule.action {
        RuleAction::Allow => Effect::Allow,
        RuleAction::Ask => Effect::Ask(asking::terms(rule)?),
        RuleAction::Deny => Effect::Deny,
    };
    let matcher = matcher(&rule.postgres).map_err(|message| invalid(format!("rule {}: {message}", rule.name)))?;
    let when = condition::compiled(rule);
    Ok(policy::Rule { name: rule.name.clone(), effect, message: rule.message.clone(), matcher, when })
}

fn matcher(rule: &PostgresRule) -> Result<Matcher, String> {
    let verbs = rule.statements.as_ref().map(|all| {
        let sorted: BTreeSet<_> = all.iter().map(|statement| statement.verb().to_owned()).collect();
        sorted.into_iter().collect()
    });
    let mut objects = Vec::new();
    for (kind, names) in [(ObjectKind::Table, &rule.tables), (ObjectKind::Function, &rule.functions)] {
        if let Some(names) = names {
            objects.push(ObjectMatcher { kind, names: patterns(names)? });
        }
    }
    let objects = (!objects.is_empty()).then_some(objects);
    let attributes = rule.where_clause.map(|clause| (Attribute::Unbounded, clause == WhereClause::Absent));
    Ok(Matcher { verbs, objects, attributes: attributes.into_iter().collect() })
}

fn mask(mask: &AccessMask) -> Result<policy::Mask, Rejected> {
    let columns: BTreeSet<_> = mask
        .columns
        .iter()
        .flatten()
        .map(|column| ColumnPattern::parse(column))
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("masks: {error}")))?;
    let detect: BTreeSet<_> = mask
        .detect
        .iter()
        .flatten()
        .map(|detector| match detector {
            Detector::CreditCard => policy::Detector::CreditCard,
            Detector::Iban => policy::Detector::Iban,
            Detector::Email => policy::Detector::Email,
        })
        .collect();
    if columns.is_empty() == detect.is_empty() {
        return Err(invalid("a mask is either of columns or of what it detects: set exactly one".to_owned()));
    }
    let method = match mask.method {
        MaskMethod::Redact => policy::MaskMethod::Redact,
        MaskMethod::SetNull => policy::MaskMethod::Null,
        MaskMethod::Hash => policy::MaskMethod::Hash,
        MaskMethod::Partial => policy::MaskMethod::Partial,
        MaskMethod::Tokenize => policy::MaskMethod::Tokenize,
    };
    let (columns, detect) = (columns.into_iter().collect(), detect.into_iter().collect());
    Ok(policy::Mask { columns, detect, method, strict: mask.strict })
}

fn patterns(names: &[String]) -> Result<Vec<NamePattern>, String> {
    let parsed: Result<BTreeSet<_>, _> = names.iter().map(|name| NamePattern::parse(name)).collect();
    parsed.map(|set| set.into_iter().collect()).map_err(|error| error.to_string())
}

fn upstream(target: &ProtectedTarget) -> policy::Upstream {
    let (server, tls) = (&target.spec.postgres, &target.spec.tls);
    let search_path = server.search_path.iter().cloned().map(serde_json::Value::String).collect();
    policy::Upstream {
        protocol: "postgres".to_owned(),
        host: server.host.clone(),
        port: server.port,
        tls: match tls.mode {
            TlsMode::VerifyFull => policy::TlsMode::VerifyFull,
            TlsMode::VerifyCa => policy::TlsMode::VerifyCa,
            TlsMode::Disable => policy::TlsMode::Disable,
        },
        server_name: tls.server_name.clone(),
        credentials: credential_names(target).into_iter().map(str::to_owned).collect(),
        settings: [("searchPath".to_owned(), serde_json::Value::Array(search_path))].into_iter().collect(),
    }
}

fn credential_names(target: &ProtectedTarget) -> BTreeSet<&str> {
    target.spec.credentials.iter().map(|credential| credential.name.as_str()).collect()
}

pub(super) const fn invalid(message: String) -> Rejected {
    Rejected { reason: sallyport_crds::conditions::reason::INVALID, message }
}
