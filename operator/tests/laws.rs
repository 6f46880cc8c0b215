//! Laws of derive, over drawn worlds.
//!
//! Invariant of the whole: the same world in any order gives the same plans, every input is answered, and
//! deriving from the result changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod world;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use sallyport_operator::derive::certificate::Plan;
use sallyport_operator::derive::pods::Pod;
use serde_json::{Value, json};
use world::{World, key};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const SPACES: [&str; 2] = ["ci", "prod"];
const SECRET: &str = "s3cr3t-byt3s";

fn meta(namespace: &str, name: &str, kind: &str) -> Value {
    json!({"name": name, "namespace": namespace, "uid": format!("{kind}-{namespace}-{name}"), "generation": 1, "creationTimestamp": "2026-11-23T09:00:00Z"})
}

/// What the schema takes for a name of a table or function: its own words, from the definition that clusters get.
fn taken_names() -> impl Strategy<Value = String> {
    let definitions: Vec<_> =
        sallyport_crds::definitions().into_iter().map(|d| serde_json::to_value(d).unwrap()).collect();
    let policy = definitions.iter().find(|d| d["spec"]["names"]["kind"] == "AccessPolicy").unwrap();
    let rules =
        &policy["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["rules"];
    let tables = &rules["items"]["properties"]["postgres"]["properties"]["tables"];
    let rule = tables["x-kubernetes-validations"][0]["rule"].as_str().unwrap();
    let regex = rule.split_once("matches('").unwrap().1.split_once("')").unwrap().0.replace("\\\\", "\\");
    proptest::string::string_regex(regex.trim_start_matches('^').trim_end_matches('$')).unwrap()
}

prop_compose! {
    fn identity()(ns in select(&SPACES), name in select(&NAMES), groups in subsequence(vec!["g", "h"], 0..=2), suspend in any::<bool>(), revoke in prop::option::of(Just("2026-11-23T10:00:10Z")), bound in prop::option::of(select(&["x", "y"])), account in prop::option::of(select(&["x", "y"]))) -> Value {
        let bound = bound.map(|app| json!({"podSelector": {"matchLabels": {"app": app}}}));
        json!({"metadata": meta(ns, name, "agent"), "spec": {"groups": groups, "suspend": suspend, "revokeBefore": revoke, "boundTo": bound, "serviceAccountName": account}})
    }
}

prop_compose! {
    fn pod()(ns in select(&SPACES), name in select(&NAMES), app in select(&["x", "y", "z"]), account in select(&["x", "y"]), phase in select(&["Pending", "Running", "Running", "Failed"]), shares in prop::bool::weighted(0.2), last in prop::option::weighted(0.9, 1..5_u8), ends in prop::option::weighted(0.2, select(&["2026-11-23T09:59:00Z", "2026-11-23T10:20:00Z"]))) -> Value {
        let mut metadata = meta(ns, name, "pod");
        metadata["labels"] = json!({"app": app});
        metadata["deletionTimestamp"] = json!(ends);
        let ips: Vec<_> = last.iter().map(|last| json!({"ip": format!("10.0.0.{last}")})).collect();
        json!({"metadata": metadata, "spec": {"serviceAccountName": account, "hostNetwork": shares}, "status": {"phase": phase, "podIPs": ips}})
    }
}

prop_compose! {
    fn target()(ns in select(&SPACES), name in select(&NAMES), mode in select(&["VerifyFull", "VerifyCa", "Disable"]), ca in any::<bool>(), creds in subsequence(vec!["default", "readonly"], 1..=2), claim in any::<bool>(), stray in any::<bool>()) -> Value {
        let tls = if ca && mode != "Disable" { json!({"mode": mode, "caBundleRef": {"kind": "ConfigMap", "name": "ca"}}) } else { json!({"mode": mode}) };
        let creds: Vec<_> = creds.iter().map(|c| json!({"name": c, "secretRef": {"name": format!("secret-{c}")}})).collect();
        let store = if claim { json!({"persistentVolumeClaim": {"claimName": "records"}}) } else { json!({"emptyDir": {"sizeLimit": "1Gi"}}) };
        let replicas = if stray { json!([{"pod": "gone", "revision": "x"}]) } else { json!([]) };
        json!({"metadata": meta(ns, name, "target"), "spec": {"postgres": {"host": "db"}, "tls": tls, "credentials": creds, "recording": {"store": store}}, "status": {"replicas": replicas}})
    }
}

prop_compose! {
    fn rule()(name in select(&NAMES), allow in any::<bool>(), statements in subsequence(vec!["Select", "Update", "Delete", "Drop"], 1..=4), table in prop::option::of(select(&["public.a", "public.*", "*.*"])), bad in prop::bool::weighted(0.1), when in prop::option::of(select(&["now.getHours() < 8", "agent.nmae == 'a'"]))) -> Value {
        let mut postgres = json!({"statements": statements});
        if let Some(table) = table { postgres["tables"] = json!([if bad { "unqualified" } else { table }]); }
        json!({"name": name, "action": if allow { "Allow" } else { "Deny" }, "postgres": postgres, "when": when})
    }
}

prop_compose! {
    fn policy()(ns in select(&SPACES), name in select(&NAMES), refs in subsequence(NAMES.to_vec(), 1..=3), grants in subsequence(vec!["default", "readonly", "nobody"], 1..=3), agents in subsequence(NAMES.to_vec(), 0..=2), group in select(&["g", "h"]), home in select(&SPACES), rules in prop::collection::vec(rule(), 1..4)) -> Value {
        let mut subjects: Vec<_> = agents.iter().map(|a| json!({"agent": {"namespace": home, "name": a}})).collect();
        subjects.push(json!({"group": {"name": group}}));
        let refs: Vec<_> = refs.iter().map(|r| json!({"name": r})).collect();
        json!({"metadata": meta(ns, name, "policy"), "spec": {"targetRefs": refs, "subjects": subjects, "as": grants, "rules": rules}})
    }
}

/// One object a name, as the API server keeps it.
fn unique(mut all: Vec<Value>) -> Vec<Value> {
    let name = |v: &Value| format!("{}/{}", v["metadata"]["namespace"], v["metadata"]["name"]);
    all.sort_by_key(name);
    all.dedup_by_key(|v| name(v));
    all
}

fn worlds() -> impl Strategy<Value = World> {
    use prop::collection::vec;
    let present = subsequence(vec!["Secret/secret-default", "Secret/secret-readonly", "ConfigMap/ca"], 0..=3);
    let agent_pods = prop::option::weighted(0.8, vec(pod(), 0..6));
    (vec(identity(), 0..6), vec(target(), 0..5), vec(policy(), 0..6), present, any::<bool>(), agent_pods).prop_map(|(i, t, p, present, pods, agent_pods)| {
        let all_keys = json!(["username", "password", "ca.crt"]);
        let present: serde_json::Map<_, _> =
            SPACES.iter().flat_map(|ns| present.iter().map(move |it| format!("{ns}/{it}"))).map(|at| (at, all_keys.clone())).collect();
        let targets = unique(t);
        let pods: serde_json::Map<_, _> = targets
            .iter()
            .filter(|_| pods)
            .map(|t| (format!("{}/{}", t["metadata"]["namespace"].as_str().unwrap(), t["metadata"]["name"].as_str().unwrap()), json!(["p1", "p2"])))
            .collect();
        serde_json::from_value(json!({
            "now": "2026-11-23T10:00:00Z", "identities": unique(i), "targets": targets, "policies": unique(p), "present": present, "pods": pods, "agentPods": agent_pods.map(unique),
        }))
        .unwrap()
    })
}

fn seen(pod: &Pod) -> Value {
    let labels = pod.metadata.labels.as_ref().unwrap();
    json!({
        "namespace": pod.metadata.namespace, "app": labels["app"],
        "runsAs": {"x": pod.runs_as("x"), "y": pod.runs_as("y")},
        "shares": pod.is_on_its_nodes_network(), "there": pod.is_there("2026-11-23T10:00:00Z".parse().unwrap()),
        "addresses": pod.addresses().map(|address| address.to_string()).collect::<Vec<_>>(),
    })
}

fn rotated<T: Clone>(all: &[T], by: usize) -> Vec<T> {
    let mut all = all.to_vec();
    if !all.is_empty() {
        let by = by % all.len();
        all.rotate_left(by);
        all.reverse();
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn derive_is_deterministic_and_order_free(world in worlds(), by in 0_usize..5) {
        let mut other = world.clone();
        other.identities = rotated(&world.identities, by);
        other.targets = rotated(&world.targets, by);
        other.policies = rotated(&world.policies, by);
        other.agent_pods = world.agent_pods.as_ref().map(|pods| rotated(pods, by));
        prop_assert_eq!(world.outcome(), world.outcome());
        prop_assert_eq!(world.outcome(), other.outcome());
    }

    #[test]
    fn every_object_is_owned_and_labelled(world in worlds()) {
        let outcome = world.outcome();
        for target in &world.targets {
            for child in &outcome.targets[&key(target)].children {
                let meta = child.meta();
                prop_assert!(sallyport_operator::derive::names::is_owned_by(meta, target.metadata.uid.as_deref().unwrap()));
                prop_assert_eq!(&meta.namespace, &target.metadata.namespace);
                prop_assert_eq!(meta.labels.as_ref().unwrap()["app.kubernetes.io/managed-by"].as_str(), "sallyport");
            }
        }
    }

    /// Told from the outside in, and not as derive does it: no address without a pod that has every right to it.
    #[test]
    fn an_address_is_listed_only_for_a_pod_that_may_hold_the_identity(world in worlds(), gone in 0_usize..6) {
        let outcome = world.outcome();
        let pods: Vec<Value> = world.agent_pods.iter().flatten().map(seen).collect();
        for identity in &world.identities {
            let status = &outcome.identities[&key(identity)].status;
            let Some(bound) = &identity.spec.bound_to else {
                prop_assert!(status.bound_for.is_none() && status.bound_addresses.is_empty());
                continue;
            };
            prop_assert_eq!(&status.bound_for, &identity.spec.binding());
            for address in &status.bound_addresses {
                let rightful = pods.iter().any(|pod| {
                    pod["namespace"].as_str() == identity.metadata.namespace.as_deref()
                        && pod["app"].as_str() == bound.pod_selector.match_labels.get("app").map(String::as_str)
                        && identity.spec.service_account_name.as_deref().is_none_or(|account| pod["runsAs"][account] == true)
                        && pod["shares"] == false && pod["there"] == true
                        && pod["addresses"].as_array().unwrap().contains(&json!(address))
                });
                prop_assert!(rightful, "{} of {}", address, key(identity));
            }
        }
        // A pod that goes lets nobody in.
        let mut fewer = world.clone();
        if let Some(pods) = fewer.agent_pods.as_mut().filter(|pods| gone < pods.len()) {
            pods.remove(gone);
        }
        for (name, plan) in fewer.outcome().identities {
            let before = &outcome.identities[&name].status.bound_addresses;
            prop_assert!(plan.status.bound_addresses.iter().all(|address| before.contains(address)));
        }
    }

    #[test]
    fn every_input_has_a_status(world in worlds()) {
        let outcome = world.outcome();
        for identity in &world.identities {
            prop_assert!(outcome.identities[&key(identity)].status.conditions.iter().any(|c| c.type_ == "Ready"));
        }
        for target in &world.targets {
            let conditions = &outcome.targets[&key(target)].status.conditions;
            for wanted in ["Accepted", "ResolvedRefs", "Programmed", "Ready"] {
                prop_assert!(conditions.iter().any(|c| c.type_ == wanted && c.observed_generation == Some(1)));
            }
        }
        for policy in &world.policies {
            let status = &outcome.policies[&key(policy)];
            prop_assert_eq!(status.ancestors.len(), policy.spec.target_refs.len());
            prop_assert!(status.ancestors.iter().all(|a| a.conditions.len() == 3));
        }
    }

    #[test]
    fn deriving_from_its_own_result_changes_nothing(world in worlds()) {
        // Once for the certificates, once for the statuses that tell of them.
        let mut settled = world.after().after();
        // A later look must not touch what did not change.
        settled.now = "2026-11-23T10:05:00Z".parse().unwrap();
        let outcome = settled.outcome();
        for identity in &settled.identities {
            let plan = &outcome.identities[&key(identity)];
            let kept = matches!(plan.certificate, Some(Plan::Keep { .. }));
            prop_assert!(kept, "{:?}", plan.certificate);
            // What becomes valid with time may become Ready with it; nothing else moves.
            if identity.spec.revoke_before.is_none() {
                prop_assert_eq!(Some(&plan.status), identity.status.as_ref());
            }
        }
        for target in &settled.targets {
            let plan = &outcome.targets[&key(target)];
            let mut told = target.status.clone().unwrap();
            told.replicas.clear();
            prop_assert_eq!(&plan.status, &told);
            prop_assert!(plan.departed.is_empty());
        }
        for policy in &settled.policies {
            prop_assert_eq!(Some(&outcome.policies[&key(policy)]), policy.status.as_ref());
        }
    }

    #[test]
    fn no_secret_byte_is_in_a_bundle_or_status(world in worlds()) {
        // The only way in would be through what the view holds: there is no field for it. Held certificates are facts.
        let mut world = world;
        for target in &mut world.targets {
            target.metadata.annotations = Some([("note".to_owned(), SECRET.to_owned())].into());
        }
        let outcome = world.outcome();
        let told = format!("{outcome:?}");
        prop_assert!(!told.contains(SECRET));
        prop_assert!(!told.contains("PRIVATE KEY"));
    }

    #[test]
    fn a_bundle_reads_back_and_names_its_content(world in worlds()) {
        for (name, plan) in world.outcome().targets {
            for child in &plan.children {
                let value = serde_json::to_value(child).unwrap();
                if let Some(json) = value.pointer("/data/bundle.json").and_then(Value::as_str) {
                    let bundle = sallyport_policy::Bundle::read(json).map_err(|e| TestCaseError::fail(format!("{name}: {e}")))?;
                    prop_assert_eq!(Some(bundle.revision), plan.status.bundle_revision.clone());
                }
            }
        }
    }

    /// Whether it can be read or not: what the rules match and do is the same as without.
    #[test]
    fn a_condition_takes_no_rule_out_of_a_bundle_and_is_never_left_out(world in worlds()) {
        let mut without = world.clone();
        without.policies.iter_mut().flat_map(|p| &mut p.spec.rules).for_each(|rule| rule.when = None);
        for target in &world.targets {
            let of = |world: &World| {
                let here = world.policies.iter().filter(|policy| policy.metadata.namespace == target.metadata.namespace);
                sallyport_operator::derive::compile::bundle(target, here, &world::settings()).policies
            };
            let mut with = of(&world);
            for entry in &mut with {
                let policy = world.policies.iter().find(|p| p.metadata.namespace == target.metadata.namespace && p.metadata.name.as_ref() == Some(&entry.name));
                let own = entry.rules.iter_mut().skip(2);
                for (rule, written) in own.zip(&policy.unwrap().spec.rules) {
                    prop_assert_eq!(rule.when.take().map(|when| when.text().to_owned()), written.when.clone());
                }
            }
            prop_assert_eq!(with, of(&without));
        }
    }

    #[test]
    fn a_fleet_never_verifies_less_than_the_target_says(world in worlds()) {
        let outcome = world.outcome();
        for target in &world.targets {
            let text = serde_json::to_string(&outcome.targets[&key(target)].children).unwrap();
            if target.spec.tls.ca_bundle_ref.is_some() && text.contains("\"kind\":\"Deployment\"") {
                prop_assert!(text.contains("--upstream-ca=") && text.contains("\"name\":\"upstream-ca\""));
            }
        }
    }

    /// A policy that cannot be compiled is in force nowhere, with all that it denies: no edit may come to that unseen.
    #[test]
    fn what_the_schema_takes_for_a_name_compiles(name in taken_names()) {
        prop_assume!(name.len() <= 140);
        prop_assert!(sallyport_policy::NamePattern::parse(&name).is_ok(), "{name:?}");
    }

    #[test]
    fn one_broken_policy_changes_no_other(world in worlds()) {
        let mut without = world.clone();
        let broken = |p: &sallyport_crds::AccessPolicy| p.spec.rules.iter().any(|r| r.postgres.tables.iter().flatten().any(|t| t == "unqualified"));
        without.policies.retain(|p| !broken(p));
        let (with, without_outcome) = (world.outcome(), without.outcome());
        for (name, plan) in &with.targets {
            prop_assert_eq!(&plan.children, &without_outcome.targets[name].children);
        }
        for policy in world.policies.iter().filter(|p| broken(p)) {
            for ancestor in &with.policies[&key(policy)].ancestors {
                let accepted = ancestor.conditions.iter().find(|c| c.type_ == "Accepted").unwrap();
                let resolved = ancestor.conditions.iter().find(|c| c.type_ == "ResolvedRefs").unwrap();
                prop_assert!(accepted.status == "False" || resolved.reason == "TargetNotFound");
            }
        }
    }
}
