//! The fleet: replicas that come and go, what they may do in the cluster, and what is left of them.

use std::collections::BTreeSet;

use sallyport_crds::ProtectedTarget;
use sallyport_e2e::{Scene, eventually, holds, text};
use serde_json::Value;

const SLEEPER: &str = r#"[{"name": "read", "action": "Allow",
    "postgres": {"statements": ["Select"], "tables": ["public.orders"], "functions": ["pg_catalog.*"]}}]"#;
const CHILDREN: &str = "deployments,services,secrets,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies,pods";

#[tokio::test]
async fn a_killed_replica_is_replaced_and_the_others_go_on() {
    let scene = Scene::open("killed", 2).await.unwrap();
    let agent = scene.agent().unwrap();
    let before = scene.replicas().unwrap();
    assert_eq!(before.len(), 2);
    let mut sessions: Vec<_> = (0..6).map(|_| agent.session().unwrap()).collect();
    for session in &mut sessions {
        assert_eq!(session.ask("select count(*) from orders").unwrap(), "100");
    }

    scene.kubectl(&["delete", "pod", "-n", &scene.shop, &before[0], "--force", "--grace-period=0"]).unwrap();
    let two_again = || async {
        let now = scene.replicas()?;
        Ok((now.len() == 2 && !now.contains(&before[0])).then_some(()))
    };
    eventually("a new replica", two_again).await.unwrap();
    let ready = |target: Option<&Value>| {
        holds(target, "Ready") && target.is_some_and(|target| target["status"]["readyReplicas"] == 2)
    };
    scene.until::<ProtectedTarget>(&scene.shop, "orders-db", "two ready replicas", ready).await.unwrap();
    for _ in 0..6 {
        assert_eq!(agent.psql("select count(*) from orders").unwrap(), "100");
    }
    for session in &mut sessions {
        let answer = session.ask("select count(*) from orders").unwrap();
        assert!(answer == "100" || answer.contains("(psql ended"), "{answer}");
    }
}

#[tokio::test]
async fn a_rolling_restart_lets_running_commands_finish_and_refuses_no_new_connection() {
    let scene = Scene::open("rolling", 2).await.unwrap();
    scene.policy(SLEEPER).unwrap();
    scene.programmed().await.unwrap();
    let agent = scene.agent().unwrap();
    let before: BTreeSet<_> = scene.replicas().unwrap().into_iter().collect();
    let load = agent.keep_asking("select count(*) from orders", true, |answer| answer == "100");
    let long: Vec<_> = (0..4)
        .map(|_| {
            let agent = agent.clone();
            std::thread::spawn(move || agent.psql("select pg_sleep(15), count(*) from orders").unwrap())
        })
        .collect();
    eventually("four commands under way", || async { Ok((scene.upstream_sessions().await? >= 4).then_some(())) })
        .await
        .unwrap();

    scene.kubectl(&["rollout", "restart", "-n", &scene.shop, "deployment/orders-db-proxy"]).unwrap();
    scene.kubectl(&["rollout", "status", "-n", &scene.shop, "deployment/orders-db-proxy", "--timeout=90s"]).unwrap();
    eventually("the old replicas' end", || async {
        Ok(scene.replicas()?.iter().all(|replica| !before.contains(replica)).then_some(()))
    })
    .await
    .unwrap();
    for command in long {
        // psql may add that the session ended after it.
        let answer = command.join().unwrap();
        assert!(answer.lines().any(|line| line == "|100"), "{answer}");
    }
    let (asked, wrong) = load.stop();
    assert!(wrong.is_empty(), "{} of {asked}: {wrong:#?}", wrong.len());
    assert!(asked > 10, "{asked} connections are no load");
}

#[tokio::test]
async fn what_was_made_for_a_target_or_an_identity_goes_with_it() {
    let scene = Scene::open("gone", 1).await.unwrap();
    let children =
        || scene.kubectl(&["get", CHILDREN, "-n", &scene.shop, "-l", "sallyport.dev/target=orders-db", "-o", "name"]);
    let there = children().unwrap();
    for kind in [
        "deployment",
        "service",
        "secret",
        "configmap",
        "serviceaccount",
        "role",
        "rolebinding",
        "poddisruptionbudget",
        "networkpolicy",
        "pod",
    ] {
        assert!(there.lines().any(|name| name.split(['/', '.']).next() == Some(kind)), "no {kind} in {there}");
    }
    let bindings = || scene.kubectl(&["get", "rolebindings", "-n", &scene.ci, "-o", "name", "--ignore-not-found"]);
    assert!(bindings().unwrap().contains("sallyport-fleets"));

    scene.kubectl(&["delete", "-n", &scene.shop, "protectedtarget/orders-db"]).unwrap();
    eventually("the end of all children", || async { Ok(children()?.trim().is_empty().then_some(())) }).await.unwrap();
    eventually("the end of the fleet's rights", || async {
        Ok((!bindings()?.contains("sallyport-fleets")).then_some(()))
    })
    .await
    .unwrap();
    let left = scene.kubectl(&["get", "secrets", "-n", &scene.shop, "-o", "name"]).unwrap();
    assert_eq!(left.lines().collect::<Vec<_>>(), ["secret/orders-ca", "secret/orders-db"], "what people made stays");

    scene.kubectl(&["delete", "-n", &scene.ci, "agentidentity/bot"]).unwrap();
    let secret = || scene.kubectl(&["get", "secret/bot-mtls", "-n", &scene.ci, "-o", "name", "--ignore-not-found"]);
    eventually("the end of the agent's Secret", || async { Ok(secret()?.trim().is_empty().then_some(())) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_fleet_runs_restricted_and_may_read_its_bundle_and_its_agents_alone() {
    let scene = Scene::open("rights", 1).await.unwrap();
    // The standard is enforced here, and the fleet runs.
    let naughty =
        scene.stage.try_kubectl(&["run", "naughty", "-n", &scene.shop, "--image=sallyport/tools:dev"]).unwrap();
    assert!(text(&naughty).contains("violates PodSecurity"), "{}", text(&naughty));

    let account = format!("--as=system:serviceaccount:{}:orders-db-proxy", scene.shop);
    let may = |verb: &str, what: &str, namespace: &str| {
        let asked = scene.stage.try_kubectl(&["auth", "can-i", verb, what, "-n", namespace, &account]).unwrap();
        match String::from_utf8_lossy(&asked.stdout).lines().next() {
            Some("yes") => true,
            Some("no") => false,
            _ => panic!("{verb} {what}: {}", text(&asked)),
        }
    };
    let (shop, ci) = (scene.shop.as_str(), scene.ci.as_str());
    for (verb, what, namespace) in [
        ("get", "configmaps/orders-db-bundle", shop),
        ("watch", "configmaps/orders-db-bundle", shop),
        ("list", "agentidentities.sallyport.dev", ci),
    ] {
        assert!(may(verb, what, namespace), "{verb} {what} in {namespace} is needed");
    }
    for (verb, what, namespace) in [
        ("get", "configmaps/kube-root-ca.crt", shop),
        ("list", "configmaps", shop),
        ("update", "configmaps/orders-db-bundle", shop),
        ("get", "secrets/orders-db", shop),
        ("list", "secrets", shop),
        ("get", "secrets/bot-mtls", ci),
        ("get", "secrets/sallyport-ca", "sallyport-system"),
        ("list", "agentidentities.sallyport.dev", shop),
        ("list", "agentidentities.sallyport.dev", "default"),
        ("patch", "agentidentities.sallyport.dev", ci),
        ("patch", "protectedtargets.sallyport.dev/orders-db", shop),
        ("get", "protectedtargets.sallyport.dev/another", shop),
        ("list", "accesspolicies.sallyport.dev", shop),
        ("create", "pods", shop),
        ("create", "pods/exec", shop),
    ] {
        assert!(!may(verb, what, namespace), "{verb} {what} in {namespace} must not be");
    }
}
