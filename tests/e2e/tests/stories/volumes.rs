//! Recordings that outlive their pods: on a claim that a fleet shares, and in an S3-compatible store.
//! Each claim is a directory of the machine, each store somebody else's server on the node; both are read there afterwards,
//! by the proxy's own checker, with what the target's status has kept.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use sallyport_e2e::{Scene, eventually, text};
use sallyport_harness::S3;
use serde_json::{Value, json};

const KEY: (&str, &str) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
/// Longer than what is written to may still be of a replica that lives.
const QUIET: Duration = Duration::from_secs(1000);

/// A volume that is a directory, and a claim to it.
fn claim(scene: &Scene) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let nodes = scene.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).unwrap();
    let name = format!("{}-records", scene.shop);
    scene
        .apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
            "spec": {
                "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteMany"], "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain", "local": { "path": directory.path() },
                "claimRef": { "namespace": scene.shop, "name": "records" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": [nodes] }] }] } },
            },
        }))
        .unwrap();
    scene
        .apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "namespace": scene.shop, "name": "records" },
            "spec": { "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": name,
                      "resources": { "requests": { "storage": "1Gi" } } },
        }))
        .unwrap();
    directory
}

/// A store that pods reach, and the demand for it.
async fn store(scene: &Scene) -> (S3, Value) {
    let store = S3::start_on(scene.stage.cluster, KEY.0, KEY.1, "records").unwrap();
    scene.stage.cluster.expose_host_service(&scene.shop, "s3", 9000, store.port()).await.unwrap();
    scene
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": scene.shop, "name": "records-s3" },
            "stringData": { "accessKeyId": KEY.0, "secretAccessKey": KEY.1 },
        }))
        .unwrap();
    let endpoint = format!("http://s3.{}.svc:9000", scene.shop);
    let demand = json!({ "endpoint": endpoint, "bucket": "records", "credentialsRef": { "name": "records-s3" } });
    (store, demand)
}

/// The fleet with these demands, in force.
async fn open(scene: &Scene, replicas: u32, recording: &Value) {
    scene.identity(&scene.ci, &["migrations"]).unwrap();
    scene.target_that_records(replicas, recording).unwrap();
    scene.policy(sallyport_e2e::POLICY).unwrap();
    scene.in_force().await.unwrap();
}

/// The names of a replica's files in a directory.
fn files(directory: &Path, pod: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(pod) && name.contains(".jsonl")).collect()
}

fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().skip(1).take(3).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built"))
}

/// What `sallyport-proxy verify` says of a directory, against the target's status, or the part of it that is kept of
/// replicas that are gone.
fn verified(scene: &Scene, directory: &Path, only_gone: bool) -> (bool, String) {
    let mut target = scene.get(&scene.shop, "protectedtarget/orders-db").unwrap();
    if only_gone {
        target["status"].as_object_mut().unwrap().remove("replicas");
    }
    let anchor = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(anchor.path(), target.to_string()).unwrap();
    let mut verify = Command::new(built("sallyport-proxy"));
    verify.arg("verify").arg("--records-dir").arg(directory).arg("--anchor").arg(anchor.path());
    let output = verify.output().unwrap();
    (output.status.success(), text(&output))
}

/// Waits until what the status knows of a replica's recording has that many records, living or gone.
async fn anchored(scene: &Scene, pod: &str, gone: bool) {
    eventually("an anchor", || async {
        let target = scene.get(&scene.shop, "protectedtarget/orders-db")?;
        let anchors = match gone {
            true => target["status"]["recordings"].as_array().cloned().unwrap_or_default(),
            false => {
                let replicas = target["status"]["replicas"].as_array().cloned().unwrap_or_default();
                replicas.into_iter().map(|replica| replica["recording"].clone()).collect()
            }
        };
        let knows = |anchor: &Value| anchor["run"].as_str().is_some_and(|run| run.starts_with(pod));
        Ok(anchors.iter().any(|anchor| knows(anchor) && anchor["records"].as_u64() > Some(3)).then_some(()))
    })
    .await
    .unwrap();
}

/// A replica is torn from its node. What it left on the claim is sound, and is looked after by those that live.
#[tokio::test]
async fn on_a_shared_claim_recordings_outlive_their_pod_and_the_others_take_up_what_it_left() {
    let scene = Scene::set("claimed").await.unwrap();
    let volume = claim(&scene);
    let (store, s3) = store(&scene).await;
    let demand = json!({ "level": "Full", "store": { "persistentVolumeClaim": { "claimName": "records" }, "s3": s3 } });
    open(&scene, 2, &demand).await;
    let agent = scene.agent().unwrap();
    let before = scene.replicas().unwrap();
    for _ in 0..12 {
        assert_eq!(agent.psql("select name from customers where id = 7").unwrap(), "customer 7");
    }
    let gone = &before[0];
    anchored(&scene, gone, false).await;
    scene.kubectl(&["delete", "pod", "-n", &scene.shop, gone, "--force", "--grace-period=0"]).unwrap();
    anchored(&scene, gone, true).await;
    let directory = volume.path().join("orders-db");
    let left = files(&directory, gone);
    assert!(left.len() == 1 && left[0].ends_with(".jsonl"), "{left:?}");
    let content = std::fs::read_to_string(directory.join(&left[0])).unwrap();
    assert!(content.contains(r#""shown":[["customer 7"]]"#), "{content}");
    let (holds, told) = verified(&scene, &directory, false);
    assert!(holds && told.contains(&format!("{gone}-")), "{told}");

    // A while later.
    let file = std::fs::File::options().write(true).open(directory.join(&left[0])).unwrap();
    file.set_modified(SystemTime::now() - QUIET).unwrap();
    drop(file);
    let shelf = store.directory().join(format!("records/{}/orders-db", scene.shop));
    eventually("the others to take it up", || async {
        // Who records anchors, and who anchors is told of the fleet.
        agent.psql("select 1 from customers")?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok((files(&shelf, gone) == [format!("{}.zst", left[0])]).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(files(&directory, gone), [format!("{}.zst", left[0])], "compressed, and the plain one removed");
    let (holds, told) = verified(&scene, &directory, false);
    assert!(holds, "{told}");
    let (holds, told) = verified(&scene, &shelf, true);
    assert!(holds && told.contains(&format!("{gone}-")), "{told}");
    scene.kubectl(&["delete", "persistentvolume", &format!("{}-records", scene.shop), "--wait=false"]).unwrap();
}

/// A replica ends as it should, with all that it had on its node.
#[tokio::test]
async fn what_a_pod_recorded_on_its_node_is_in_the_store_when_it_is_gone() {
    let scene = Scene::set("stored").await.unwrap();
    let (store, s3) = store(&scene).await;
    open(&scene, 1, &json!({ "level": "Full", "store": { "emptyDir": { "sizeLimit": "64Mi" }, "s3": s3 } })).await;
    let agent = scene.agent().unwrap();
    let gone = scene.replicas().unwrap().remove(0);
    for _ in 0..3 {
        assert_eq!(agent.psql("select name from customers where id = 7").unwrap(), "customer 7");
    }
    scene.kubectl(&["delete", "pod", "-n", &scene.shop, &gone]).unwrap();
    anchored(&scene, &gone, true).await;
    let shelf = store.directory().join(format!("records/{}/orders-db", scene.shop));
    assert!(!files(&shelf, &gone).is_empty(), "its end was copied before it ended");
    let (holds, told) = verified(&scene, &shelf, true);
    assert!(holds && told.contains("anchored up to record"), "{told}");
    let mut reader = Command::new(built("sallyport-proxy"));
    let output = reader.args(["records", "--json", "--records-dir"]).arg(&shelf).output().unwrap();
    let records = text(&output);
    let shown = records.lines().filter(|line| line.contains(r#""shown":[["customer 7"]]"#)).count();
    assert!(shown == 3 && records.contains(r#""event":"close""#), "{records}");
}
