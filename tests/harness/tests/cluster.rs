//! The whole node: pods that really run, names that resolve, a database that they reach, and nothing beyond.
//! It needs root and starts one cluster for all tests of this file.
//! Each test says one thing that the end-to-end stories rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::{await_condition, conditions};
use sallyport_harness::image::Image;
use sallyport_harness::{Cluster, Place, Postgres, PostgresOptions, TempNamespace, shared_cluster, temp_namespace};
use serde_json::json;
use tokio::sync::OnceCell;

const TOOLS: &str = "sallyport/tools:dev";

/// The shared cluster with the tools image in it.
async fn cluster() -> &'static Cluster {
    static LOADED: OnceCell<()> = OnceCell::const_new();
    let cluster = shared_cluster().await.unwrap();
    LOADED
        .get_or_init(|| async {
            let archive: PathBuf = tempfile::tempdir().unwrap().keep().join("tools.tar");
            Image::tools(TOOLS).unwrap().write_archive(&archive).unwrap();
            cluster.load_images(&[&archive]).await.unwrap();
            std::fs::remove_dir_all(archive.parent().unwrap()).unwrap();
        })
        .await;
    cluster
}

/// A pod under the restricted Pod Security standard, running.
async fn pod(namespace: &TempNamespace, name: &str, command: &[&str]) -> Pod {
    let pods: Api<Pod> = namespace.api();
    let pod = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "main", "image": TOOLS, "imagePullPolicy": "Never", "command": command,
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true },
            }],
        },
    }));
    pods.create(&PostParams::default(), &pod.unwrap()).await.unwrap();
    let running = await_condition(pods.clone(), name, conditions::is_pod_running());
    tokio::time::timeout(std::time::Duration::from_secs(60), running)
        .await
        .expect("the pod runs within a minute")
        .unwrap();
    pods.get(name).await.unwrap()
}

fn exec(cluster: &Cluster, namespace: &TempNamespace, pod: &str, script: &str) -> Output {
    let mut kubectl = cluster.control_plane().kubectl();
    kubectl.args(["exec", "-n", namespace.name(), pod, "--", "bash", "-c", script]).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn restricted_namespace(cluster: &Cluster, prefix: &str) -> TempNamespace {
    let client = cluster.client().await.unwrap();
    let namespace = temp_namespace(&client, prefix).await.unwrap();
    let all: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client);
    let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    all.patch(namespace.name(), &Default::default(), &kube::api::Patch::Merge(label)).await.unwrap();
    namespace
}

#[tokio::test]
async fn a_restricted_pod_runs_as_nobody_and_reaches_another_by_its_service_name() {
    let cluster = cluster().await;
    let namespace = restricted_namespace(cluster, "pods").await;
    pod(&namespace, "server", &["openssl", "s_server", "-accept", "8443", "-nocert", "-psk", "00", "-quiet"]).await;
    pod(&namespace, "client", &["sleep", "1000"]).await;
    let services: Api<Service> = namespace.api();
    let service = json!({ "metadata": { "name": "server" }, "spec": { "selector": { "app": "server" }, "ports": [{ "port": 80, "targetPort": 8443 }] } });
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();

    let who = exec(cluster, &namespace, "client", "id -u");
    assert_eq!(text(&who).trim(), "65532");
    let wait = format!(
        "for i in $(seq 100); do (exec 3<>/dev/tcp/server.{}.svc.cluster.local/80) 2>/dev/null && echo reached && exit; sleep 0.1; done",
        namespace.name()
    );
    assert_eq!(text(&exec(cluster, &namespace, "client", &wait)).trim(), "reached");
}

#[tokio::test]
async fn nothing_beyond_the_cluster_is_reached_from_a_pod() {
    let cluster = cluster().await;
    let namespace = restricted_namespace(cluster, "out").await;
    pod(&namespace, "client", &["sleep", "1000"]).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for address in ["127.0.0.1", cluster.node_address(), "192.0.2.1"] {
        let script = format!(
            "timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>/dev/null && echo reached || echo unreachable"
        );
        let answer = exec(cluster, &namespace, "client", &script);
        assert_eq!(text(&answer).trim(), "unreachable", "{address}");
    }
    // Every link in there has its other end in there too: loopback, the wire to nowhere, and the pods' own.
    let links = cluster.command("ip").unwrap().args(["-brief", "link"]).output().unwrap();
    for link in text(&links).lines() {
        assert!(["lo ", "out0@out1", "out1@out0", "veth"].iter().any(|known| link.starts_with(known)), "{link}");
    }
}

#[tokio::test]
async fn a_pod_reaches_a_database_on_the_node_by_a_service_name_with_its_certificate_checked() {
    let cluster = cluster().await;
    let namespace = restricted_namespace(cluster, "db").await;
    let name = format!("orders.{}.svc", namespace.name());
    let options = PostgresOptions {
        place: Place::node(cluster).unwrap(),
        names: vec![name.clone()],
        ..PostgresOptions::default()
    };
    let server = Postgres::start(options).await.unwrap();
    cluster.expose_host_service(namespace.name(), "orders", 5432, server.port()).await.unwrap();
    pod(&namespace, "client", &["sleep", "1000"]).await;

    let script = format!(
        "cat > /dev/shm/ca <<'EOF'\n{}EOF\nfor i in $(seq 100); do psql -XAt -c \"SELECT 'answered'\" \
         'host={name} user=postgres password={} dbname=postgres sslmode=verify-full sslrootcert=/dev/shm/ca' && exit; sleep 0.1; done",
        server.ca_pem(),
        server.superuser_password()
    );
    let answer = text(&exec(cluster, &namespace, "client", &script));
    assert!(answer.contains("answered"), "{answer}\n{}", server.log());
}

#[tokio::test]
async fn the_machine_reaches_inside_by_a_forward_and_by_the_network_of_the_node() {
    let cluster = cluster().await;
    let place = Place::node(cluster).unwrap();
    let server = Postgres::start(PostgresOptions { place, ..PostgresOptions::default() }).await.unwrap();
    let (host, port) = server.address();
    // The machine's own network knows nothing of the cluster's.
    for list in ["address", "route"] {
        let known = Command::new("ip").arg(list).output().unwrap();
        assert!(!text(&known).contains(host), "{}", text(&known));
    }

    let forward = cluster.forward(format!("{host}:{port}").parse::<SocketAddr>().unwrap()).unwrap();
    let through = server.superuser_url().replace(&format!("{host}:{port}"), &forward.address().to_string());
    let psql =
        |mut command: Command, url: &str| command.args(["-XAt", "-c", "SELECT 'answered'", url]).output().unwrap();
    assert_eq!(text(&psql(Command::new("psql"), &through)).trim(), "answered");
    let inside = cluster.command("psql").unwrap();
    assert_eq!(text(&psql(inside, &server.superuser_url())).trim(), "answered");

    // A name, from the machine's own program: the cluster's name server answers.
    cluster.expose_host_service("default", "by-name", 5432, port).await.unwrap();
    let by_name = server
        .superuser_url()
        .replace(&format!("{host}:{port}"), "by-name.default.svc.cluster.local:5432")
        .replace("verify-full", "require");
    let mut answer = String::new();
    for _ in 0..100 {
        answer = text(&psql(cluster.command("psql").unwrap(), &by_name));
        if answer.trim() == "answered" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(answer.trim(), "answered");
}
