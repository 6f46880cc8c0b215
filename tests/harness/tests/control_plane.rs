//! The control plane on its own: what every admission and reconcile test stands on.
//! It starts real processes on loopback and needs no root.
//! Each test says one thing that other tests rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, RoleBinding};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use sallyport_harness::{ControlPlane, shared, temp_namespace};
use serde_json::json;

#[tokio::test]
async fn a_namespace_is_ready_for_pods_when_it_is_handed_out_and_gone_after() {
    let client = shared().await.unwrap().client().await.unwrap();
    let namespace = temp_namespace(&client, "ready").await.unwrap();
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = namespace.api();
    assert_eq!(accounts.get("default").await.unwrap().name_any(), "default");
    let name = namespace.name().to_owned();
    drop(namespace);
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client);
    let deadline = Instant::now() + Duration::from_secs(30);
    while namespaces.get_opt(&name).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "namespace {name} was not deleted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_object_applied_twice_is_written_once() {
    let client = shared().await.unwrap().client().await.unwrap();
    let namespace = temp_namespace(&client, "apply").await.unwrap();
    let maps: Api<ConfigMap> = namespace.api();
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "k": "v" } });
    let params = PatchParams::apply("test");
    let first = maps.patch("a", &params, &Patch::Apply(&map)).await.unwrap();
    let second = maps.patch("a", &params, &Patch::Apply(&map)).await.unwrap();
    assert_eq!(first.resource_version(), second.resource_version());
}

#[tokio::test]
async fn a_restricted_user_has_the_rights_that_were_bound_to_it_and_no_others() {
    let plane = shared().await.unwrap();
    let client = plane.client().await.unwrap();
    let namespace = temp_namespace(&client, "user").await.unwrap();
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "map-reader" },
        "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"] }] });
    roles.patch("map-reader", &PatchParams::apply("test"), &Patch::Apply(&role)).await.unwrap();
    let bindings: Api<RoleBinding> = namespace.api();
    let binding = serde_json::from_value(json!({ "metadata": { "name": "readers" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "map-reader" },
        "subjects": [{ "kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "readers" }] }))
    .unwrap();
    bindings.create(&PostParams::default(), &binding).await.unwrap();

    let jane = plane.user_client("jane", &["readers"]).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(jane.clone(), namespace.name());
    // RBAC reads its own objects through a watch: a new binding is in force a moment after it is stored.
    let deadline = Instant::now() + Duration::from_secs(10);
    while maps.list(&Default::default()).await.is_err() {
        assert!(Instant::now() < deadline, "the binding never came into force");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let secrets: Api<Secret> = Api::namespaced(jane, namespace.name());
    match secrets.list(&Default::default()).await.unwrap_err() {
        kube::Error::Api(status) => assert_eq!(status.code, 403),
        other => panic!("not a refusal: {other}"),
    }
}

#[tokio::test]
async fn the_projects_definitions_are_served_once_they_are_applied() {
    let plane = shared().await.unwrap();
    plane.apply_crds().await.unwrap();
    let client = plane.client().await.unwrap();
    let served = client.list_api_group_resources("sallyport.dev/v1alpha1").await.unwrap();
    let kinds: Vec<&str> = served.resources.iter().map(|resource| resource.kind.as_str()).collect();
    for kind in ["AgentIdentity", "ProtectedTarget", "AccessPolicy"] {
        assert!(kinds.contains(&kind), "{kind} is not among {kinds:?}");
    }
}

#[tokio::test]
async fn the_api_server_comes_back_on_the_same_port_with_the_same_data() {
    let plane = ControlPlane::start().await.unwrap();
    let client = plane.client().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map =
        ConfigMap { metadata: ObjectMeta { name: Some("kept".into()), ..Default::default() }, ..Default::default() };
    let written = maps.create(&PostParams::default(), &map).await.unwrap();

    plane.stop_api_server().await.unwrap();
    let away = tokio::time::timeout(Duration::from_secs(2), maps.get("kept")).await;
    assert!(!matches!(away, Ok(Ok(_))), "somebody answered while the API server was stopped");
    plane.start_api_server().await.unwrap();
    assert_eq!(maps.get("kept").await.unwrap().uid(), written.uid());
}

#[tokio::test]
async fn nothing_is_left_of_a_control_plane_that_was_dropped() {
    let plane = ControlPlane::start().await.unwrap();
    let dir = plane.kubeconfig().parent().unwrap().to_owned();
    let started: Vec<String> = std::fs::read_to_string(dir.join("pids")).unwrap().lines().map(str::to_owned).collect();
    assert!(started.len() >= 4, "janitor, etcd, API server and controllers were expected: {started:?}");
    drop(plane);
    assert!(!dir.exists());
    for line in started {
        let pid = line.split(' ').next().unwrap().to_owned();
        assert!(!std::path::Path::new("/proc").join(&pid).exists(), "process {pid} is still there");
    }
}
