//! Draft policies, and the bundle that they would come to.
//!
//! Owns the reading of drafts; the operator's own derivation compiles them, and this is the only place that names it.
//! Touches its arguments. Invariant: what the operator would refuse, or the schema does not know, is an error that
//! names the policy and the field: a preview of half a draft would show nothing worth knowing.

use anyhow::{Context, bail};
use sallyport_crds::{AccessPolicy, ProtectedTarget};
use sallyport_operator::derive::{compile, condition, shadow};
use sallyport_policy::Bundle;
use serde_json::{Value, json};

/// A bundle that is not in force.
pub(crate) struct Drafted {
    pub(crate) bundle: Bundle,
    /// What its author should know.
    pub(crate) notes: Vec<String>,
}

/// Reads policies from YAML or JSON, one or more documents, lists among them.
pub(crate) fn read(text: &str) -> anyhow::Result<Vec<AccessPolicy>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("the draft is no YAML")?;
    let mut policies = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let items = document.get("items").and_then(Value::as_array).cloned();
        for object in items.unwrap_or_else(|| vec![document]) {
            policies.push(policy(object)?);
        }
    }
    if policies.is_empty() {
        bail!("the draft has no AccessPolicy in it");
    }
    Ok(policies)
}

/// The one target that all of them are about, where there is one.
pub(crate) fn only_target(policies: &[AccessPolicy]) -> Option<String> {
    let mut targets = policies.iter().flat_map(|policy| &policy.spec.target_refs).map(|target| &target.name);
    let first = targets.next()?;
    targets.all(|target| target == first).then(|| first.clone())
}

fn policy(object: Value) -> anyhow::Result<AccessPolicy> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    if version != "sallyport.dev/v1alpha1" || kind != "AccessPolicy" {
        bail!("{kind} {name} of {version}: a draft holds AccessPolicies of sallyport.dev/v1alpha1 only");
    }
    if name.is_empty() {
        bail!("an AccessPolicy of the draft has no metadata.name");
    }
    let spec = object.get("spec").cloned().unwrap_or_default();
    let policy: AccessPolicy =
        serde_json::from_value(object).with_context(|| format!("AccessPolicy {name} cannot be read"))?;
    let known = serde_json::to_value(&policy.spec)?;
    if let Some(path) = unknown_field("spec", &spec, &known) {
        bail!("AccessPolicy {name}: {path} is not a field of this version");
    }
    Ok(policy)
}

/// The first field that was written and not read.
fn unknown_field(path: &str, written: &Value, read: &Value) -> Option<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match read.get(name) {
                Some(read) => unknown_field(&path, value, read),
                None => (!is_nothing(value)).then_some(path),
            }
        }),
        (Value::Array(written), Value::Array(read)) => {
            let pairs = written.iter().zip(read).enumerate();
            pairs.into_iter().find_map(|(n, (written, read))| unknown_field(&format!("{path}[{n}]"), written, read))
        }
        _ => None,
    }
}

fn is_nothing(value: &Value) -> bool {
    value.is_null()
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(|map| map.is_empty())
}

/// The bundle with `policies` in it, each in the place of the one of its name, and without those named in `removed`.
pub(crate) fn drafted(bundle: &Bundle, policies: &[AccessPolicy], removed: &[String]) -> anyhow::Result<Drafted> {
    let target = target(bundle)?;
    let mut notes = Vec::new();
    let mut entries = bundle.policies.clone();
    for name in removed {
        let before = entries.len();
        entries.retain(|entry| entry.name != *name);
        if entries.len() == before {
            bail!("--without {name}: the bundle has no policy of that name");
        }
    }
    for policy in policies {
        let mut policy = policy.clone();
        let name = policy.metadata.name.clone().unwrap_or_default();
        let namespace = policy.metadata.namespace.get_or_insert_with(|| bundle.target.namespace.clone());
        if *namespace != bundle.target.namespace {
            bail!("AccessPolicy {name} is of namespace {namespace}, the target of {}", bundle.target.namespace);
        }
        let was_there = entries.iter().any(|entry| entry.name == name);
        entries.retain(|entry| entry.name != name);
        if !compile::concerns(&policy, &bundle.target.name) {
            let targets: Vec<_> = policy.spec.target_refs.iter().map(|target| target.name.as_str()).collect();
            if !was_there {
                bail!("AccessPolicy {name} is about {}, not about {}", targets.join(", "), bundle.target.name);
            }
            notes.push(format!("{name} is no longer about {}", bundle.target.name));
            continue;
        }
        let entry = compile::entry(&policy, &target)
            .map_err(|rejected| anyhow::anyhow!("AccessPolicy {name} would not be accepted: {}", rejected.message))?;
        if let Some(unreadable) = condition::first_unreadable(&policy.spec) {
            bail!("AccessPolicy {name} would not be accepted: {unreadable}");
        }
        let unknown = compile::unknown_credentials(&policy, &target);
        if !unknown.is_empty() {
            notes.push(format!("{name}: the target has no credential named {}: it is left out", unknown.join(", ")));
        }
        entries.push(entry);
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    for policy in policies {
        let name = policy.metadata.name.as_deref().unwrap_or_default();
        let entry = entries.iter().find(|entry| entry.name == name);
        if let Some(found) = entry.and_then(|entry| shadow::first(entry, &entries)) {
            notes.push(format!(
                "{name}: rule {} can never allow anything: rule {} of policy {} denies all that it matches",
                found.allow, found.deny, found.policy
            ));
        }
    }
    let namespaces: std::collections::BTreeSet<_> = entries
        .iter()
        .flat_map(|entry| &entry.subjects)
        .map(|subject| compile::namespace_of(subject).to_owned())
        .collect();
    let agent_namespaces = namespaces.into_iter().collect();
    let bundle = Bundle { policies: entries, agent_namespaces, ..bundle.clone() }.sealed();
    Ok(Drafted { bundle, notes })
}

/// The target as far as a policy is compiled by it.
fn target(bundle: &Bundle) -> anyhow::Result<ProtectedTarget> {
    let credentials: Vec<_> =
        bundle.upstream.credentials.iter().map(|name| json!({ "name": name, "secretRef": { "name": name } })).collect();
    let target = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "ProtectedTarget",
        "metadata": { "name": bundle.target.name, "namespace": bundle.target.namespace },
        "spec": {
            "postgres": { "host": bundle.upstream.host, "port": bundle.upstream.port },
            "tls": { "mode": "Disable" },
            "credentials": credentials,
        },
    });
    serde_json::from_value(target).context("the bundle's target cannot be understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AccessPolicy
metadata: {name: read}
spec:
  targetRefs: [{name: orders-db}]
  subjects: [{agent: {namespace: ci, name: bot}}]
  rules:
  - {name: read, action: Allow, postgres: {statements: [Select], tables: [public.orders]}}
";

    fn bundle() -> Bundle {
        sallyport_conformance::policy::bundle("db", 5432, sallyport_conformance::policy::allow_all())
    }

    fn refusal(text: &str) -> String {
        match read(text).and_then(|policies| drafted(&bundle(), &policies, &[])) {
            Ok(drafted) => panic!("{}", drafted.bundle.to_json()),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn a_draft_is_added_or_takes_the_place_of_its_name() {
        let read = |text: &str| super::read(text).unwrap();
        let names = |drafted: &Drafted| drafted.bundle.policies.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        let added = drafted(&bundle(), &read(POLICY), &[]).unwrap();
        assert_eq!(names(&added), ["all", "read"]);
        let replaced = drafted(&bundle(), &read(&POLICY.replace("{name: read}", "{name: all}")), &[]).unwrap();
        assert_eq!(names(&replaced), ["all"]);
        assert_ne!(replaced.bundle.revision, bundle().revision);
        let both = format!("---\n{POLICY}\n---\n{}", POLICY.replace("{name: read}", "{name: other}"));
        let instead = drafted(&bundle(), &read(&both), &["all".to_owned()]).unwrap();
        assert_eq!(names(&instead), ["other", "read"]);
        let list =
            format!("apiVersion: v1\nkind: List\nitems:\n-{}", POLICY.replace('\n', "\n  ").trim_start_matches('\n'));
        let list = list.replacen("-  ", "- ", 1);
        assert_eq!(names(&drafted(&bundle(), &read(&list), &[]).unwrap()), ["all", "read"]);
    }

    #[test]
    fn what_would_not_be_accepted_is_an_error_with_its_field() {
        for (edit, expected) in [
            (("statements: [Select]", "statments: [Select]"), "spec.rules[0].postgres.statments is not a field"),
            (("action: Allow", "action: Permit"), "AccessPolicy read cannot be read"),
            (("kind: AccessPolicy", "kind: AgentIdentity"), "AgentIdentity read"),
            (("{name: read}", "{name: read, namespace: other}"), "is of namespace other"),
            (("targetRefs: [{name: orders-db}]", "targetRefs: [{name: other}]"), "is about other"),
            (("tables: [public.orders]", "tables: ['pub*.orders']"), "would not be accepted: rule read"),
            (
                ("postgres: {", "when: 'now.getHours() <', postgres: {"),
                "rule read: when, line 1, column 17: a value is missing",
            ),
            (("{name: read}", "{}"), "no metadata.name"),
        ] {
            let told = refusal(&POLICY.replacen(edit.0, edit.1, 1));
            assert!(told.contains(expected), "{told}");
        }
        assert!(refusal("").contains("no AccessPolicy"));
    }

    #[test]
    fn an_author_is_told_what_will_not_act() {
        let shadowed = POLICY.replace("rules:", "rules:\n  - {name: never, action: Deny, postgres: {}}");
        let drafted =
            drafted(&bundle(), &read(&shadowed.replace("  rules:", "  as: [default, admin]\n  rules:")).unwrap(), &[])
                .unwrap();
        assert_eq!(drafted.notes.len(), 2, "{:?}", drafted.notes);
    }
}
