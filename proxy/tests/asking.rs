//! Asking people, on real parts: a real API server with the shipped admission policies, real PostgreSQL, psql.
//!
//! Owns the proof that a command waits for an answer that a person gives with kubectl, runs once, and that of two replicas
//! one gets it. Touches a control plane and a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sallyport_crds::{AccessRequest, AgentIdentity, Phase, ProtectedTarget};
use sallyport_harness::{ControlPlane, LeafOptions, Postgres, PostgresOptions};
use sallyport_policy::{AskTerms, Bundle, Effect, Matcher, NotBy, Rule, TlsMode};
use sallyport_proxy::{Running, start};
use serde_json::{Value, json};
use stage::{LONG, Stage, bundle, metric_becomes, world_becomes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};
use tokio_rustls::TlsConnector;

const TARGET: &str = "orders-db";
const TERMS: AskTerms =
    AskTerms { approvals: 1, timeout_seconds: 600, validity_seconds: 3600, not_by: NotBy::ServiceAccounts };

struct Site {
    plane: ControlPlane,
    client: Client,
    server: Postgres,
    stages: Vec<Stage>,
}

impl Site {
    async fn new() -> Self {
        let plane = ControlPlane::start().await.unwrap();
        let client = plane.client().await.unwrap();
        plane.apply_crds().await.unwrap();
        for (kind, part) in [("-k", "admission"), ("-f", "rbac/people.yaml")] {
            let path = format!("{}/../config/{part}", env!("CARGO_MANIFEST_DIR"));
            let applied = plane.kubectl().args(["apply", kind, &path]).output().unwrap();
            assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        }
        let server = Postgres::start(PostgresOptions::default()).await.unwrap();
        let site = Self { plane, client, server, stages: Vec::new() };
        for name in ["prod", "ci"] {
            let namespace: Api<Namespace> = Api::all(site.client.clone());
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            namespace.patch(name, &PatchParams::apply("test"), &Patch::Apply(object)).await.unwrap();
        }
        site.put::<ProtectedTarget>(
            "prod",
            TARGET,
            json!({ "spec": {
            "postgres": { "host": "db.example", "port": 5432 }, "tls": { "mode": "Disable" },
            "credentials": [{ "name": "default", "secretRef": { "name": "s" } }] } }),
        )
        .await;
        site.put::<AgentIdentity>("ci", "bot", json!({ "spec": { "groups": ["bots"] } })).await;
        // What the operator gives to a fleet, and what an administrator gives to people.
        let rules = json!([
            { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [format!("{TARGET}-bundle")],
              "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["sallyport.dev"], "resources": ["protectedtargets/status"], "resourceNames": [TARGET], "verbs": ["patch"] },
            { "apiGroups": ["sallyport.dev"], "resources": ["accessrequests"], "verbs": ["create", "get", "list", "watch"] },
            { "apiGroups": ["sallyport.dev"], "resources": ["accessrequests/status"], "verbs": ["update"] }
        ]);
        site.rights("prod", "fleet", json!({"rules": rules})).await;
        let verbs = ["get", "list", "watch"];
        let read = json!({ "apiGroups": ["sallyport.dev"], "resources": ["agentidentities"], "verbs": verbs });
        site.rights("ci", "fleet", json!({"rules": [read]})).await;
        site.bind("prod", "approvers", "ClusterRole", "sallyport-approver", "Group", "dba").await;
        site
    }

    async fn rights(&self, namespace: &str, name: &str, role: Value) {
        self.put::<k8s_openapi::api::rbac::v1::Role>(namespace, name, role).await;
        self.bind(namespace, name, "Role", name, "User", &fleet()).await;
    }

    async fn bind(&self, namespace: &str, name: &str, kind: &str, role: &str, who: &str, whom: &str) {
        let group = "rbac.authorization.k8s.io";
        let binding = json!({
            "roleRef": { "apiGroup": group, "kind": kind, "name": role },
            "subjects": [{ "kind": who, "apiGroup": group, "name": whom }] });
        self.put::<k8s_openapi::api::rbac::v1::RoleBinding>(namespace, name, binding).await;
    }

    async fn put<K>(&self, namespace: &str, name: &str, mut object: Value) -> K
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        object["apiVersion"] = json!(K::api_version(&K::DynamicType::default()));
        object["kind"] = json!(K::kind(&K::DynamicType::default()));
        object["metadata"] = json!({ "name": name });
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.unwrap()
    }

    fn bundle(&self, terms: AskTerms) -> Bundle {
        let mut bundle = bundle("prod", TARGET, &["ci"], "migrations");
        bundle.upstream.host = self.server.host().to_owned();
        bundle.upstream.port = self.server.port();
        bundle.upstream.tls = TlsMode::Disable;
        let verbs = Some(vec!["CreateTable".to_owned(), "Drop".to_owned()]);
        bundle.policies[0].rules.push(Rule {
            name: "ddl-needs-a-human".to_owned(),
            effect: Effect::Ask(terms),
            message: Some("schema changes are reviewed".to_owned()),
            matcher: Matcher { verbs, ..Matcher::default() },
            when: None,
        });
        bundle.sealed()
    }

    async fn publish(&self, bundle: &Bundle) {
        let name = format!("{TARGET}-bundle");
        self.put::<ConfigMap>("prod", &name, json!({ "data": { "bundle.json": bundle.to_json() } })).await;
    }

    /// A replica of the fleet, with the bundle in force.
    async fn replica(&mut self, bundle: &Bundle) -> Running {
        let stage = Stage::new();
        for (file, content) in [("username", self.server.superuser()), ("password", self.server.superuser_password())] {
            std::fs::write(stage.path("credentials/default").join(file), content).unwrap();
        }
        let uid = Api::<AgentIdentity>::namespaced(self.client.clone(), "ci").get("bot").await.unwrap().metadata.uid;
        let uris = vec![stage.pki.spiffe_id("ci", "bot")];
        let not_before = std::time::SystemTime::now();
        let leaf = stage.pki.leaf(&LeafOptions { uris, uid, not_before, ..LeafOptions::default() }).unwrap();
        leaf.write(stage.dir.path(), "agent").unwrap();
        let groups = ["system:serviceaccounts", "system:authenticated"];
        let kubeconfig = self.plane.user_kubeconfig(&fleet(), &groups).unwrap();
        let running = start(stage.in_cluster(&kubeconfig, "prod", TARGET)).await.unwrap();
        self.stages.push(stage);
        world_becomes(&running.feed, "the world", |world| {
            world.bundle.revision == bundle.revision && world.roster.member("ci", "bot").is_some()
        })
        .await;
        running
    }

    /// psql of the agent, connected to that replica.
    fn psql(&self, at: usize, running: &Running, statements: &[&str]) -> Child {
        let file = |name: &str| self.stages[at].path(name).to_str().unwrap().to_owned();
        let uri = format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=bot dbname=postgres sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
            running.listen.port(),
            file("tls/ca.crt"),
            file("agent.crt"),
            file("agent.key")
        );
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=0", &uri]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        for statement in statements {
            writeln!(input, "{statement};").unwrap();
        }
        child
    }

    /// A driver of the agent's, connected to that replica; it speaks the extended protocol. With what it is told.
    async fn driver(&self, at: usize, running: &Running) -> (tokio_postgres::Client, mpsc::UnboundedReceiver<String>) {
        let stage = &self.stages[at];
        let pem = |name: &str| std::fs::read(stage.path(name)).unwrap();
        let certificate = |name: &str| CertificateDer::from_pem_slice(&pem(name)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate("tls/ca.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem("agent.key")).unwrap();
        let tls = ClientConfig::builder().with_root_certificates(roots);
        let tls = tls.with_client_auth_cert(vec![certificate("agent.crt")], key).unwrap();
        let mut tcp = TcpStream::connect(running.listen).await.unwrap();
        tcp.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
        assert_eq!(tcp.read_u8().await.unwrap(), b'S');
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
        let mut config = tokio_postgres::Config::new();
        config.user("bot").dbname("postgres").ssl_mode(tokio_postgres::config::SslMode::Disable);
        let (client, mut connection) = config.connect_raw(stream, NoTls).await.unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    tell.send(notice.message().to_owned()).unwrap_or_default();
                }
            }
        });
        (client, told)
    }

    fn requests(&self) -> Api<AccessRequest> {
        Api::namespaced(self.client.clone(), "prod")
    }

    /// Waits until a question of that text is there and as wanted.
    async fn request(&self, text: &str, wanted: impl Fn(&AccessRequest) -> bool) -> AccessRequest {
        let deadline = Instant::now() + LONG;
        loop {
            let all = self.requests().list(&kube::api::ListParams::default()).await.unwrap().items;
            let found = all.iter().find(|request| request.spec.command.text.contains(text) && wanted(request));
            if let Some(found) = found {
                return found.clone();
            }
            assert!(Instant::now() < deadline, "{text}: {all:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// What a person does, with kubectl and nothing else.
    fn answer(&self, user: &str, group: &str, name: &str, decision: &str) -> Result<(), String> {
        let decisions = json!([{"decision": decision, "by": user, "at": "2026-11-23T16:00:00Z", "comment": "seen"}]);
        let patch = json!({"status": {"decisions": decisions}}).to_string();
        let mut kubectl = self.plane.kubectl();
        kubectl.args(["--as", user, "--as-group", group, "--as-group", "system:authenticated", "-n", "prod"]);
        kubectl.args(["patch", "ask", name, "--subresource=status", "--type=merge", "-p", &patch]);
        let output = kubectl.output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
    }

    async fn tables(&self) -> Vec<String> {
        let sql = "select relname from pg_class where relname like 'story%' order by 1";
        let rows = self.server.exec_sql_in("postgres", sql).await.unwrap();
        rows.into_iter().map(|row| row[0].clone().unwrap()).collect()
    }
}

fn fleet() -> String {
    format!("system:serviceaccount:prod:{TARGET}-proxy")
}

/// What psql printed, errors and notices included.
async fn ended(child: Child) -> (String, String) {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

const fn pending(request: &AccessRequest) -> bool {
    request.status.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_needs_a_human() {
    let mut site = Site::new().await;
    let bundle = site.bundle(TERMS);
    site.publish(&bundle).await;
    let one = site.replica(&bundle).await;

    // The agent's client waits, and is told what for; what it sends behind waits too.
    let psql = site.psql(0, &one, &["select 'before'", "create table story(id int)", "select 'after'"]);
    let asked = site.request("create table story", pending).await;
    let name = asked.name_any();
    assert_eq!(asked.spec.command.text.trim_end_matches(';'), "create table story(id int)");
    assert_eq!((asked.spec.agent.namespace.as_str(), asked.spec.agent.name.as_str()), ("ci", "bot"));
    assert_eq!((asked.spec.policy.as_str(), asked.spec.rule.as_str()), ("migrations", "ddl-needs-a-human"));
    assert_eq!(asked.spec.policy_revision, bundle.revision);
    assert!(site.tables().await.is_empty());
    // Not everybody may answer, and nobody in another's name.
    assert!(site.answer("mallory", "devs", &name, "Approve").unwrap_err().contains("is forbidden"));
    assert!(site.answer("system:serviceaccount:ci:bot", "dba", &name, "Approve").unwrap_err().contains("no agent"));
    site.answer("alice", "dba", &name, "Approve").unwrap();
    let (out, told) = ended(psql).await;
    assert_eq!(out, "before\nafter\n", "{told}");
    assert!(told.contains(&format!("waiting for 1 approval of access request {name}")), "{told}");
    assert!(told.contains(&format!("kubectl get ask {name} -n prod")), "{told}");
    assert!(told.contains(&format!("access request {name} was approved by alice")), "{told}");
    assert_eq!(site.tables().await, ["story"]);
    let used = site.requests().get(&name).await.unwrap().status.unwrap();
    assert_eq!(used.phase, Phase::Consumed);
    let consumed = used.consumed.unwrap();
    assert_eq!((consumed.session, consumed.replica.as_str()), (asked.spec.session.clone().unwrap(), "orders-db-0"));

    // The same again is another question; a denial is told with its reason, in a transaction as refusals are.
    site.server.exec_sql_in("postgres", "drop table story").await.unwrap();
    let psql =
        site.psql(0, &one, &["begin", "create table story(id int)", "select 'aborted'", "rollback", "select 'on'"]);
    let again = site.request("create table story", |request| request.name_any() != name).await;
    assert!(site.answer("alice", "dba", &name, "Deny").unwrap_err().contains("come to its end"));
    site.answer("bob", "dba", &again.name_any(), "Deny").unwrap();
    let (out, told) = ended(psql).await;
    assert!(told.contains(&format!("access request {} was denied by bob: seen", again.name_any())), "{told}");
    assert!(told.contains("current transaction is aborted"), "{told}");
    assert_eq!(out, "on\n");
    assert!(site.tables().await.is_empty());

    // Records: asked, then what became of it, each with the question's name.
    let records = site.stages[0].path("records");
    let text: String = std::fs::read_dir(records)
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let of =
        |wanted: &str| text.lines().filter(|line| line.contains(wanted) && line.contains("create table story")).count();
    assert_eq!(
        (of("\"verdict\":\"ask\""), of("\"verdict\":\"allow\""), of("\"verdict\":\"deny\"")),
        (2, 1, 1),
        "{text}"
    );
    assert!(text.contains("\"answeredBy\":[\"alice\"]"));
    drop(one);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_race_for_one_approval_and_one_from_before_a_change_is_worth_nothing() {
    let mut site = Site::new().await;
    let bundle = site.bundle(TERMS);
    site.publish(&bundle).await;
    let (one, two) = (site.replica(&bundle).await, site.replica(&bundle).await);

    // The client does not wait for its answer; the question stays.
    let create = ["create table story_late(id int)"];
    let mut impatient = site.psql(0, &one, &create);
    let late = site.request("story_late", pending).await.name_any();
    impatient.kill().unwrap();
    impatient.wait().unwrap();
    metric_becomes(&one, "sallyport_proxy_sessions_open 0").await;
    site.answer("alice", "dba", &late, "Approve").unwrap();
    // Approved in the meantime, it passes at once, at whichever replica, for one of those who send it; the other asks anew.
    let both = [site.psql(0, &one, &create), site.psql(1, &two, &create)];
    let next = site.request("story_late", |request| request.name_any() != late).await.name_any();
    site.answer("bob", "dba", &next, "Deny").unwrap();
    let mut told = Vec::new();
    for psql in both {
        told.push(ended(psql).await.1);
    }
    let ran = told.iter().filter(|told| told.contains("was approved by alice") && !told.contains("ERROR")).count();
    let refused = told.iter().filter(|told| told.contains(&format!("access request {next} was denied by bob"))).count();
    assert_eq!((ran, refused), (1, 1), "{told:#?}");
    assert_eq!(site.tables().await, ["story_late"]);
    assert_eq!(site.requests().get(&late).await.unwrap().status.unwrap().phase, Phase::Consumed);

    // Another revision of the policy has no use for an answer to the one before.
    let create = ["create table story_changed(id int)"];
    let mut impatient = site.psql(0, &one, &create);
    let before = site.request("story_changed", pending).await.name_any();
    impatient.kill().unwrap();
    impatient.wait().unwrap();
    metric_becomes(&one, "sallyport_proxy_sessions_open 0").await;
    site.answer("alice", "dba", &before, "Approve").unwrap();
    let changed = site.bundle(AskTerms { timeout_seconds: TERMS.timeout_seconds - 1, ..TERMS });
    site.publish(&changed).await;
    world_becomes(&one.feed, "the change", |world| world.bundle.revision == changed.revision).await;
    let psql = site.psql(0, &one, &create);
    let after = site.request("story_changed", |request| request.name_any() != before).await;
    assert_eq!(after.spec.policy_revision, changed.revision);
    site.answer("bob", "dba", &after.name_any(), "Deny").unwrap();
    let (_, told) = ended(psql).await;
    assert!(told.contains("was denied by bob") && !told.contains(&before), "{told}");
    assert_eq!(site.tables().await, ["story_late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_waits_at_its_execute_cancels_and_stays_in_step() {
    let mut site = Site::new().await;
    let bundle = site.bundle(TERMS);
    site.publish(&bundle).await;
    let one = site.replica(&bundle).await;
    let (client, mut told) = site.driver(0, &one).await;
    let code = |error: &tokio_postgres::Error| error.as_db_error().map(|error| error.code().code().to_owned());

    // Preparing asks nobody; running does.
    let create = client.prepare("create table story_driver(id int)").await.unwrap();
    assert!(site.requests().list(&kube::api::ListParams::default()).await.unwrap().items.is_empty());
    let running = client.execute(&create, &[]);
    let answering = async {
        let name = site.request("story_driver", pending).await.name_any();
        site.answer("alice", "dba", &name, "Approve").unwrap();
        name
    };
    let (ran, name) = tokio::join!(running, answering);
    ran.unwrap();
    assert_eq!(site.tables().await, ["story_driver"]);
    assert!(told.recv().await.unwrap().contains(&format!("waiting for 1 approval of access request {name}")));
    assert_eq!(told.recv().await.unwrap(), format!("access request {name} was approved by alice"));

    // What is pipelined behind it waits with it, and gets its own answer.
    let drop_it = client.prepare("drop table story_driver").await.unwrap();
    let after = client.prepare("select 7").await.unwrap();
    let answering = async {
        let name = site.request("drop table story_driver", pending).await.name_any();
        site.answer("bob", "dba", &name, "Deny").unwrap();
    };
    let (dropped, seven, ()) = tokio::join!(client.execute(&drop_it, &[]), client.query_one(&after, &[]), answering);
    assert_eq!(code(&dropped.unwrap_err()).as_deref(), Some("42501"));
    assert_eq!(seven.unwrap().get::<_, i32>(0), 7);

    // Cancelled while it waits: as the server says it, and the session goes on.
    let cancel = client.cancel_token();
    let again = client.prepare("create table story_cancelled(id int)").await.unwrap();
    let cancelling = async {
        site.request("story_cancelled", pending).await;
        let tcp = TcpStream::connect(one.listen).await.unwrap();
        cancel.cancel_query_raw(tcp, NoTls).await.unwrap();
    };
    let (cancelled, ()) = tokio::join!(client.execute(&again, &[]), cancelling);
    assert_eq!(code(&cancelled.unwrap_err()).as_deref(), Some("57014"));
    assert_eq!(client.query_one(&after, &[]).await.unwrap().get::<_, i32>(0), 7);
    assert_eq!(site.tables().await, ["story_driver"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_in_binary_form_are_shown_as_what_they_are_and_an_answer_is_for_these_alone() {
    let mut site = Site::new().await;
    let mut bundle = site.bundle(TERMS);
    bundle.policies[0].rules.last_mut().unwrap().matcher.verbs = Some(vec!["Insert".to_owned()]);
    let bundle = bundle.sealed();
    site.publish(&bundle).await;
    let one = site.replica(&bundle).await;
    site.server.exec_sql_in("postgres", "create table orders(id int, note text)").await.unwrap();
    let (client, _told) = site.driver(0, &one).await;

    // The driver sends both values in binary form, and leaves it to the server of what types they are.
    let insert = client.prepare("insert into orders values ($1, $2)").await.unwrap();
    let running = client.execute(&insert, &[&42_i32, &"it's"]);
    let answering = async {
        let asked = site.request("insert into orders", pending).await;
        assert_eq!(asked.spec.command.parameters, ["'42'::int4", "'it''s'::text"]);
        site.answer("alice", "dba", &asked.name_any(), "Approve").unwrap();
        asked.name_any()
    };
    let (ran, first) = tokio::join!(running, answering);
    assert_eq!(ran.unwrap(), 1);

    // Other values, or the same as text, are other commands: nobody has answered these.
    let literal = "insert into orders values ('42', 'it''s')";
    for (statement, id) in [("insert into orders values ($1, $2)", 43_i32), (literal, 0)] {
        let insert = client.prepare(statement).await.unwrap();
        let note = "it's";
        let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[&id, &note];
        let running = client.execute(&insert, if statement == literal { &[] } else { values });
        let answering = async {
            let asked = site.request(statement, |request| {
                let status = request.status.as_ref();
                request.name_any() != first && status.is_some_and(|status| status.phase == Phase::Pending)
            });
            site.answer("bob", "dba", &asked.await.name_any(), "Deny").unwrap();
        };
        let (ran, ()) = tokio::join!(running, answering);
        assert!(ran.unwrap_err().to_string().contains("db error"));
    }
    let rows = site.server.exec_sql_in("postgres", "select id || ' ' || note from orders").await.unwrap();
    assert_eq!(rows, [[Some("42 it's".to_owned())]]);
}
