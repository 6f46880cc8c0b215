//! What a certificate is worth outside the pods that its identity is bound to.

use sallyport_crds::AgentIdentity;
use sallyport_e2e::{Scene, condition, eventually, holds};
use serde_json::{Value, json};

const COUNT: &str = "select count(*) from orders";
const OUTSIDE: &str = "this identity is bound to pods, and this connection comes from none of them";

fn address(scene: &Scene, pod: &str) -> String {
    let pod = scene.get(&scene.ci, &format!("pod/{pod}")).unwrap();
    pod["status"]["podIP"].as_str().unwrap_or_else(|| panic!("no address yet: {pod:#}")).to_owned()
}

/// How many were refused at the opening, over all replicas, as Prometheus reads it.
fn refused(scene: &Scene) -> u32 {
    let count = |replica: &String| {
        let metrics = scene.kubectl(&[
            "get",
            "--raw",
            &format!("/api/v1/namespaces/{}/pods/{replica}:9090/proxy/metrics", scene.shop),
        ]);
        let metrics = metrics.unwrap();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(r#"sallyport_proxy_binding_refused_total{at="opening"} "#));
        line.unwrap_or_else(|| panic!("it is not counted from the start: {metrics}")).parse::<u32>().unwrap()
    };
    scene.replicas().unwrap().iter().map(count).sum()
}

#[tokio::test]
async fn a_copied_certificate_is_refused_from_another_pod_recorded_and_counted() {
    let scene = Scene::open("bound", 1).await.unwrap();
    // Before it is bound, it works from anywhere: here from the node.
    let copy = scene.agent().unwrap();
    assert_eq!(copy.psql(COUNT).unwrap(), "100");
    let mut outside = copy.session().unwrap();
    assert_eq!(outside.ask(COUNT).unwrap(), "100");
    assert_eq!(refused(&scene), 0);

    let bound = json!({"spec": {"boundTo": {"podSelector": {"matchLabels": {"app": "agent"}}}}});
    scene.patch(&scene.ci, "agentidentity/bot", &bound).unwrap();
    let nobody = |bot: Option<&Value>| {
        bot.and_then(|bot| condition(bot, "Bound"))
            .is_some_and(|(status, reason, _)| (status, reason) == ("False", "NoPods"))
    };
    scene.until::<AgentIdentity>(&scene.ci, "bot", "Bound=False", nobody).await.unwrap();
    let last = outside.ask(COUNT).unwrap();
    assert!(last.contains("(psql ended") && !last.contains("100"), "{last}");

    // Its own pod, without a wait for anything but the pod itself.
    scene.start_pod().unwrap();
    assert_eq!(scene.psql_in_pod("/identity", COUNT).unwrap(), "100");
    let mut session = scene.session_in_pod().unwrap();
    assert_eq!(session.ask(COUNT).unwrap(), "100");
    scene.until::<AgentIdentity>(&scene.ci, "bot", "Bound", |bot| holds(bot, "Bound")).await.unwrap();
    assert_eq!(refused(&scene), 0, "a pod that has just started pages nobody");

    // The thief: the same files, in the pod next door.
    let own = scene.get(&scene.ci, "secret/bot-mtls").unwrap();
    let stolen = json!({
        "apiVersion": "v1", "kind": "Secret", "type": own["type"], "data": own["data"],
        "metadata": {"namespace": scene.ci, "name": "stolen"},
    });
    scene.stage.apply(&stolen.to_string()).unwrap();
    scene.start_pod_with("thief", "stolen").unwrap();
    let told = scene.psql_in_pod_of("thief", "/identity", COUNT).unwrap();
    assert!(told.contains(OUTSIDE), "{told}");
    let here = address(&scene, "agent");
    assert!(!told.contains(&here), "it is told where to go: {told}");
    assert_eq!(refused(&scene), 1);
    let records = scene.replicas().unwrap().into_iter().map(|replica| {
        scene.kubectl(&["exec", "-n", &scene.shop, &replica, "--", "/sallyport-proxy", "records", "--json"]).unwrap()
    });
    let records: Vec<Value> =
        records.collect::<String>().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let recorded: Vec<_> =
        records.iter().filter(|record| record["reason"] == OUTSIDE && record["event"] == "open").collect();
    let [recorded] = recorded[..] else { panic!("one refusal is recorded: {recorded:#?}") };
    assert_eq!(recorded["verdict"], "deny");
    assert_eq!(recorded["agent"], format!("spiffe://cluster.local/ns/{}/agent/bot", scene.ci));
    let from = recorded["client"].as_str().unwrap();
    assert!(from.starts_with(&format!("{}:", address(&scene, "thief"))), "{from}");

    // The pod loses what it was selected by, and with that the session it has.
    assert_eq!(session.ask(COUNT).unwrap(), "100", "the pod's session has gone on all the time");
    scene.kubectl(&["label", "pod", "-n", &scene.ci, "agent", "app=retired", "--overwrite"]).unwrap();
    scene.until::<AgentIdentity>(&scene.ci, "bot", "Bound=False", nobody).await.unwrap();
    let cut = || {
        let answer = session.ask(COUNT);
        async move { Ok((!answer?.contains("100")).then_some(())) }
    };
    eventually("the end of its session", cut).await.unwrap();

    // The pod is replaced: its successor gets in from its new address, and the old one is nobody's any more.
    scene.kubectl(&["delete", "pod", "-n", &scene.ci, "agent"]).unwrap();
    scene.start_pod().unwrap();
    assert_eq!(scene.psql_in_pod("/identity", COUNT).unwrap(), "100");
    let now = address(&scene, "agent");
    assert_ne!(now, here);
    let only = |bot: Option<&Value>| bot.is_some_and(|bot| bot["status"]["boundAddresses"] == json!([now]));
    scene.until::<AgentIdentity>(&scene.ci, "bot", "the new address alone", only).await.unwrap();
    assert_eq!(refused(&scene), 1);
}
