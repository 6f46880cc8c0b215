//! Keys that never travel: the kubelet makes them, the operator signs, psql uses them from the projected volume.

use std::time::{Duration, Instant};

use base64::Engine as _;
use sallyport_e2e::{POLICY, Scene, eventually};
use serde_json::{Value, json};

const READ: &str = "select count(*) from orders";
/// Two renewals of the soonest kind, each: 10 minutes (Kubernetes takes no less), up to 5 that a kubelet spreads its
/// requests by, up to 2 until it looks.
const TWO_RENEWALS: Duration = Duration::from_secs(2 * (10 + 5 + 2) * 60 + 120);

/// The scene with an identity of pods alone, in force, and a pod that holds it.
async fn open(name: &str) -> Scene {
    let scene = Scene::set(name).await.unwrap();
    let ci = &scene.ci;
    let apply = |object: Value| scene.stage.apply(&object.to_string()).unwrap();
    apply(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": ci, "name": "bot" } }));
    apply(json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity", "metadata": { "namespace": ci, "name": "bot" },
        "spec": {
            "groups": ["migrations"], "serviceAccountName": "bot",
            "certificate": { "delivery": "PodCertificate", "duration": "1h", "renewBefore": "50m" },
        },
    }));
    // What fleets are verified by is no secret, and comes on a way of its own.
    let authority = scene.get("sallyport-system", "secret/sallyport-ca").unwrap();
    let trust =
        base64::engine::general_purpose::STANDARD.decode(authority["data"]["ca.crt"].as_str().unwrap()).unwrap();
    apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": ci, "name": "trust" },
        "data": { "ca.crt": String::from_utf8(trust).unwrap() },
    }));
    scene.target(1).unwrap();
    scene.policy(POLICY).unwrap();
    scene.in_force().await.unwrap();
    apply(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": ci, "name": "agent" },
        "spec": {
            "serviceAccountName": "bot", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            // With a group the key is root's, and the group may read it (0640): as libpq wants it.
            "securityContext": { "runAsNonRoot": true, "fsGroup": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "agent", "image": "sallyport/tools:dev", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "10000"],
                "env": [{ "name": "HOME", "value": "/tmp" }],
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true },
                "volumeMounts": [
                    { "name": "identity", "mountPath": "/identity", "readOnly": true }, { "name": "edwards", "mountPath": "/edwards", "readOnly": true },
                    { "name": "tmp", "mountPath": "/tmp" },
                ],
            }],
            "volumes": [
                { "name": "identity", "projected": { "sources": [
                    { "podCertificate": {
                        "signerName": "sallyport.dev/agent", "keyType": "ECDSAP256", "keyPath": "tls.key", "certificateChainPath": "tls.crt", "credentialBundlePath": "bundle.pem",
                        "userAnnotations": { "sallyport.dev/identity": "bot" },
                    } },
                    { "configMap": { "name": "trust", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                ] } },
                { "name": "edwards", "projected": { "sources": [{ "podCertificate": {
                    "signerName": "sallyport.dev/agent", "keyType": "ED25519", "credentialBundlePath": "bundle.pem",
                } }] } },
                { "name": "tmp", "emptyDir": { "medium": "Memory" } },
            ],
        },
    }));
    scene.kubectl(&["wait", "-n", ci, "pod/agent", "--for=condition=Ready", "--timeout=90s"]).unwrap();
    scene
}

/// The digests of certificate and key as they are in the pod now.
fn files(scene: &Scene) -> [String; 2] {
    let digests = scene.in_pod("cd /identity && openssl dgst -sha256 -r tls.crt tls.key").unwrap();
    let mut digests = digests.lines().map(|line| line.split_whitespace().next().unwrap_or_default().to_owned());
    let mut next = || digests.next().filter(|digest| digest.len() == 64).expect("no digest");
    [next(), next()]
}

#[tokio::test]
async fn psql_in_a_pod_uses_a_key_that_was_made_on_its_node_and_is_nowhere_else() {
    let scene = open("pod-key").await;
    assert_eq!(scene.psql_in_pod("/identity", READ).unwrap(), "100");
    // One file with both, and a key of another kind for the only identity that fits.
    for dir in ["/identity", "/edwards"] {
        let files = format!("sslcert={dir}/bundle.pem sslkey={dir}/bundle.pem sslrootcert=/identity/ca.crt");
        let door = format!("{} user=default sslmode=verify-full {files}", scene.door().unwrap());
        assert_eq!(scene.in_pod(&format!("psql -X -q -A -t '{door}' -c '{READ}'")).unwrap(), "100", "{dir}");
    }
    let refused = scene.psql_in_pod("/identity", "delete from orders").unwrap();
    assert!(refused.contains("no-unbounded-writes"), "the identity's policy holds: {refused}");
    let listed = scene.in_pod("ls -lnL /identity/tls.key").unwrap();
    let words: Vec<_> = listed.split_whitespace().collect();
    assert_eq!((words[0], words[2], words[3]), ("-rw-r-----", "0", "65532"), "{listed}");

    // Nothing in the namespace holds a key, and the request holds the public half alone.
    let secrets = scene.kubectl(&["get", "secrets", "-n", &scene.ci, "-o", "name"]).unwrap();
    assert_eq!(secrets.trim(), "", "no Secret is written");
    let requests = scene.kubectl(&["get", "podcertificaterequests", "-n", &scene.ci, "-o", "json"]).unwrap();
    let requests: Value = serde_json::from_str(&requests).unwrap();
    let requests = requests["items"].as_array().unwrap();
    let chains: Vec<_> = requests
        .iter()
        .map(|request| request["status"]["certificateChain"].as_str().unwrap_or_default().trim())
        .collect();
    let chain = scene.in_pod("cat /identity/tls.crt").unwrap();
    assert!(chains.len() == 2 && chains.contains(&chain.as_str()), "{requests:#?}");

    // An identity without a certificate of its own is revoked as any other.
    scene.patch(&scene.ci, "agentidentity/bot", &json!({ "spec": { "suspend": true } })).unwrap();
    eventually("the refusal of the suspended identity", || async {
        Ok(scene.psql_in_pod("/identity", READ)?.contains("this identity is suspended").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
#[ignore = "two renewals by a real kubelet take up to 36 minutes: make renewals"]
async fn psql_in_a_pod_goes_on_through_two_renewals_of_its_kubelet() {
    let scene = open("pod-renewal").await;
    let mut session = scene.session_in_pod().unwrap();
    let (began, mut asked, mut wrong) = (Instant::now(), 0_u32, Vec::new());
    let mut seen = vec![files(&scene)];
    while seen.len() < 3 && began.elapsed() < TWO_RENEWALS {
        // Two ways: a connection for each statement, and one that was opened with the first certificate.
        for answer in [scene.psql_in_pod("/identity", READ).unwrap(), session.ask(READ).unwrap()] {
            asked += 1;
            if answer != "100" {
                wrong.push(format!("after {:?}: {answer}", began.elapsed()));
            }
        }
        let now = files(&scene);
        if seen.last() != Some(&now) {
            eprintln!("renewed after {:?}, {asked} statements so far, wrong: {wrong:?}", began.elapsed());
            seen.push(now);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(seen.len(), 3, "two renewals in {:?}", began.elapsed());
    // With the last key, and nothing was lost on the way.
    assert_eq!(scene.psql_in_pod("/identity", READ).unwrap(), "100");
    assert!(wrong.is_empty(), "{} of {asked} statements: {wrong:#?}", wrong.len());
    for part in 0..2 {
        let mut files: Vec<_> = seen.iter().map(|files| &files[part]).collect();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), 3, "certificate and key are new each time");
    }
}
