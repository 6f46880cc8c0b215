//! Golden folders: `given.yaml` is a cluster, `then.yaml` what the operator makes of it.
//!
//! Each folder's name is a claim and shows what the claim is about. `BLESS=1` writes `then.yaml`; read the
//! difference before committing it. Invariant: what guards security has a law or a test by hand as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod world;

use std::path::Path;

use sallyport_operator::derive::certificate::Plan;
use serde_json::{Map, Value, json};
use world::World;

#[test]
fn every_claim_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut claims: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    claims.sort();
    assert!(claims.len() >= 10, "the golden folders are gone");
    let mut broken = Vec::new();
    for claim in claims {
        let text = std::fs::read_to_string(claim.join("given.yaml")).unwrap();
        let world: World = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", claim.display()));
        let then = serde_saphyr::to_string(&shown(&world)).unwrap();
        assert!(then.lines().count() <= 120, "{}: one topic, under 120 lines", claim.display());
        let path = claim.join("then.yaml");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &then).unwrap();
        }
        let expected: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap_or_default()).unwrap_or_default();
        if expected != shown(&world) {
            broken.push(format!("{}\n{then}", claim.display()));
        }
    }
    assert!(broken.is_empty(), "these claims do not hold:\n{}", broken.join("\n"));
}

/// The parts of the outcome that the claim is about, by object.
fn shown(world: &World) -> Value {
    let outcome = world.outcome();
    let mut out = Map::new();
    let shows = |part: &str| world.show.iter().any(|shown| shown == part);
    if shows("status") {
        for (name, plan) in &outcome.identities {
            out.insert(format!("AgentIdentity {name}"), words(&serde_json::to_value(&plan.status).unwrap()));
        }
        for (name, plan) in &outcome.targets {
            out.insert(format!("ProtectedTarget {name}"), words(&serde_json::to_value(&plan.status).unwrap()));
        }
        for (name, status) in &outcome.policies {
            out.insert(format!("AccessPolicy {name}"), words(&serde_json::to_value(status).unwrap()));
        }
    }
    if shows("certificates") {
        for (name, plan) in &outcome.identities {
            let told = match &plan.certificate {
                None => json!("nothing"),
                Some(Plan::Blocked) => json!("left alone"),
                Some(Plan::OnRequest { .. }) => json!("on request"),
                Some(Plan::Keep { renewal, .. }) => json!({"keep until": renewal}),
                Some(Plan::Issue(order)) => {
                    json!({"issue because": order.because, "from": order.not_before, "to": order.not_after, "uris": order.names.uris})
                }
            };
            out.insert(format!("certificate {name}"), told);
        }
    }
    for (name, plan) in &outcome.targets {
        for child in &plan.children {
            let mut value = serde_json::to_value(child).unwrap();
            let kind = value["kind"].as_str().unwrap_or_default().to_owned();
            if kind == "ConfigMap" && shows("bundle") {
                out.insert(format!("bundle {name}"), bundle(&value));
            }
            if shows(&kind) {
                value.as_object_mut().unwrap().remove("apiVersion");
                out.insert(format!("{kind} {name}"), value);
            }
        }
        if shows("children") {
            let names = plan.children.iter().map(|child| {
                let value = serde_json::to_value(child).unwrap();
                format!("{} {}", value["kind"].as_str().unwrap(), value["metadata"]["name"].as_str().unwrap())
            });
            out.insert(format!("children {name}"), json!(names.collect::<Vec<_>>()));
            out.insert(format!("departed {name}"), json!(plan.departed));
        }
    }
    if shows("fleets") {
        for binding in &outcome.fleets {
            let subjects = binding.subjects.iter().flatten();
            let subjects: Vec<_> =
                subjects.map(|s| format!("{}/{}", s.namespace.as_deref().unwrap_or_default(), s.name)).collect();
            out.insert(format!("fleets that read {}", binding.metadata.namespace.as_deref().unwrap()), json!(subjects));
        }
    }
    Value::Object(out)
}

/// Conditions as `Type=Status Reason since: message`.
fn words(status: &Value) -> Value {
    match status {
        Value::Array(conditions) if conditions.first().is_some_and(|c| c.get("lastTransitionTime").is_some()) => {
            conditions
                .iter()
                .map(|c| {
                    let part = |name: &str| c[name].as_str().unwrap_or_default();
                    json!(format!(
                        "{}={} {} since {}: {}",
                        part("type"),
                        part("status"),
                        part("reason"),
                        part("lastTransitionTime"),
                        part("message")
                    ))
                })
                .collect()
        }
        Value::Array(all) => all.iter().map(words).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), words(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// The bundle without the built-in rules, which have tests of their own.
fn bundle(config_map: &Value) -> Value {
    let mut bundle: Value = serde_json::from_str(config_map["data"]["bundle.json"].as_str().unwrap()).unwrap();
    bundle.as_object_mut().unwrap().remove("revision");
    for policy in bundle["policies"].as_array_mut().unwrap() {
        let rules = policy["rules"].as_array_mut().unwrap();
        let built_in: Vec<_> = rules.iter().take(2).map(|rule| rule["name"].clone()).collect();
        assert_eq!(built_in, [json!("builtin:session"), json!("builtin:catalog")], "they come first, always");
        rules.drain(..2);
    }
    bundle
}

/// By hand, because it guards a secret: what a store needs is mounted as files, and no argument has any of it.
#[test]
fn the_credential_of_a_store_is_mounted_and_nothing_else_of_its_secret() {
    let claim = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/a-store-for-recordings-stands-in-the-bundle");
    let world: World = serde_saphyr::from_str(&std::fs::read_to_string(claim.join("given.yaml")).unwrap()).unwrap();
    let outcome = world.outcome();
    let (_, plan) = outcome.targets.iter().next().unwrap();
    let children = plan.children.iter().map(|child| serde_json::to_value(child).unwrap());
    let deployment = children.into_iter().find(|child| child["kind"] == "Deployment").unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    let volume = |name: &str| {
        let volumes = pod["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == name).unwrap().clone()
    };
    assert_eq!(volume("store")["secret"]["secretName"], "records-s3");
    assert_eq!(
        volume("store")["secret"]["items"],
        json!([{"key": "accessKeyId", "path": "username"}, {"key": "secretAccessKey", "path": "password"}])
    );
    assert_eq!(volume("store-ca")["configMap"]["name"], "minio-ca");
    assert_eq!(volume("records")["persistentVolumeClaim"]["claimName"], "records");
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let records = mounts.iter().find(|mount| mount["name"] == "records").unwrap();
    assert_eq!(records["subPath"], "orders-db", "a claim may be another target's as well");
    let at = |name: &str| mounts.iter().find(|mount| mount["name"] == name).unwrap()["mountPath"].clone();
    assert_eq!(
        (at("store"), at("store-ca")),
        (json!("/etc/sallyport/store/credential"), json!("/etc/sallyport/store-ca"))
    );
    let flags = container["args"].as_array().unwrap();
    for flag in ["--store-dir=/etc/sallyport/store", "--store-ca=/etc/sallyport/store-ca/ca.crt"] {
        assert!(flags.contains(&json!(flag)), "{flags:?}");
    }
    assert!(!flags.iter().any(|flag| flag.as_str().unwrap().contains("records-room")), "a claim has its own bounds");
}
