//! What the API server itself refuses: every rule of the schemas, one object that passes and one that does not.
//!
//! Touches a real API server, with the definitions of `config/crd`. Invariant: a refusal says what and why.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "admission/asking.rs"]
mod asking;
mod support;

use support::{OURS, Stage};

/// A change of the base object, and what the refusal says; nothing where it passes.
type Case = (&'static str, &'static str, Option<&'static str>);

fn judge(stage: &Stage, base: &str, cases: &[Case]) {
    let mut wrong = Vec::new();
    stage.would_create(base).unwrap_or_else(|error| panic!("the base itself was refused: {error}"));
    for (from, to, refusal) in cases {
        assert!(base.contains(from), "{from:?} is not in the base");
        let document = base.replacen(from, to, 1);
        match (stage.would_create(&document), refusal) {
            (Ok(_), None) => {}
            (Ok(_), Some(_)) => wrong.push(format!("let through: {to}")),
            (Err(error), None) => wrong.push(format!("refused: {to}: {error}")),
            (Err(error), Some(why)) if error.contains(why) => {}
            (Err(error), Some(why)) => wrong.push(format!("{to}: not told {why:?} but {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const LONG: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

const IDENTITY: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AgentIdentity
metadata: {name: bot, namespace: ci}
spec: {groups: [one], revokeBefore: 2026-01-01T00:00:00Z, certificate: {duration: 2h, renewBefore: 20m, secretName: bot-tls}}
";
const BOUND: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AgentIdentity
metadata: {name: bot, namespace: ci}
spec:
  serviceAccountName: bot
  boundTo: {podSelector: {matchLabels: {app: bot}, matchExpressions: [{key: tier, operator: In, values: [prod]}]}}
";

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_identity_is_judged_by_its_schema() {
    let stage = Stage::new().await;
    let cases: &[Case] = &[
        ("name: bot,", "name: a.b-c,", None),
        ("name: bot,", &*Box::leak(format!("name: {LONG},").into_boxed_str()), Some("at most 63 characters")),
        ("groups: [one]", "groups: [one, two]", None),
        ("groups: [one]", "groups: [one, one]", Some("Duplicate value")),
        ("groups: [one]", "groups: [Not_A_Group]", Some("spec.groups[0]")),
        ("revokeBefore: 2026-01-01T00:00:00Z", "revokeBefore: 2026-11-23T16:00:00Z", None),
        ("revokeBefore: 2026-01-01T00:00:00Z", "revokeBefore: yesterday", Some("spec.revokeBefore")),
        ("duration: 2h", "duration: 5m, x: 1", Some("unknown field")),
        ("duration: 2h, renewBefore: 20m", "duration: 5m", None),
        ("duration: 2h, renewBefore: 20m", "duration: 24h", None),
        ("duration: 2h, renewBefore: 20m", "duration: 4m", Some("duration must be from 5m to 24h")),
        ("duration: 2h, renewBefore: 20m", "duration: 24h1s", Some("duration must be from 5m to 24h")),
        ("duration: 2h, renewBefore: 20m", "duration: soon", Some("spec.certificate.duration")),
        ("renewBefore: 20m", "renewBefore: 119m", None),
        ("renewBefore: 20m", "renewBefore: 2h", Some("must leave at least 1m")),
        ("renewBefore: 20m", "renewBefore: 29s", Some("renewBefore must be at least 30s")),
        ("secretName: bot-tls", "keyAlgorithm: ECDSA-P256", None),
        ("secretName: bot-tls", "keyAlgorithm: ECDSA-P384", None),
        ("secretName: bot-tls", "keyAlgorithm: Ed25519", None),
        ("secretName: bot-tls", "keyAlgorithm: RSA-1024", Some("Unsupported value")),
        ("secretName: bot-tls", "secretName: Bot", Some("spec.certificate.secretName")),
    ];
    judge(&stage, IDENTITY, cases);
    // Defaults are what the code takes them to be.
    stage.kubectl_create("{apiVersion: sallyport.dev/v1alpha1, kind: AgentIdentity, metadata: {name: plain, namespace: ci}, spec: {}}").unwrap();
    let plain = stage.get(OURS, "AgentIdentity", "ci", "plain").await.unwrap();
    assert_eq!(
        plain["spec"],
        serde_json::json!({"suspend": false, "certificate": {"delivery": "Secret", "duration": "1h", "keyAlgorithm": "ECDSA-P256"}})
    );
}

const IN_PODS: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AgentIdentity
metadata: {name: bot, namespace: ci}
spec: {serviceAccountName: bot, certificate: {delivery: PodCertificate, duration: 2h, renewBefore: 20m}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_by_kubelets_is_judged_by_its_schema() {
    let stage = Stage::new().await;
    let cases: &[Case] = &[
        ("delivery: PodCertificate", "delivery: Secret", None),
        ("delivery: PodCertificate", "delivery: Mail", Some("Unsupported value")),
        ("serviceAccountName: bot, ", "", Some("delivery PodCertificate needs serviceAccountName")),
        ("duration: 2h, renewBefore: 20m", "duration: 1h", None),
        (
            "duration: 2h, renewBefore: 20m",
            "duration: 59m",
            Some("with delivery PodCertificate a duration is at least 1h"),
        ),
        ("renewBefore: 20m", "renewBefore: 10m", None),
        ("renewBefore: 20m", "renewBefore: 9m", Some("renewBefore leaves 10m on either side")),
        ("renewBefore: 20m", "renewBefore: 110m", None),
        ("renewBefore: 20m", "renewBefore: 111m", Some("renewBefore leaves 10m on either side")),
        ("renewBefore: 20m", "keyAlgorithm: Ed25519", Some("keyAlgorithm has no meaning with delivery PodCertificate")),
        ("renewBefore: 20m", "secretName: bot-tls", Some("secretName has no meaning with delivery PodCertificate")),
    ];
    judge(&stage, IN_PODS, cases);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_judged_by_its_schema() {
    let stage = Stage::new().await;
    let expressions = ", matchExpressions: [{key: tier, operator: In, values: [prod]}]";
    let many = |n: usize| (0..n).map(|n| format!("l{n}: v")).collect::<Vec<_>>().join(", ");
    let (room, over) = (format!("{{{}}}", many(16)), format!("{{{}}}", many(17)));
    let cases: &[Case] = &[
        ("serviceAccountName: bot", "serviceAccountName: Bot", Some("spec.serviceAccountName")),
        (expressions, "", None),
        ("matchLabels: {app: bot}, ", "", None),
        (
            "{matchLabels: {app: bot}, matchExpressions: [{key: tier, operator: In, values: [prod]}]}",
            "{}",
            Some("at least one label"),
        ),
        (
            "{matchLabels: {app: bot}, matchExpressions: [{key: tier, operator: In, values: [prod]}]}",
            "{matchLabels: {}, matchExpressions: []}",
            Some("at least one label"),
        ),
        (
            "boundTo: {podSelector: {matchLabels: {app: bot}, matchExpressions: [{key: tier, operator: In, values: [prod]}]}}",
            "boundTo: {}",
            Some("spec.boundTo.podSelector"),
        ),
        ("{app: bot}", "{example.com/app: bot, x: ''}", None),
        ("{app: bot}", "{'app,x': bot}", Some("a key is the name of a label")),
        ("{app: bot}", "{app: 'bot,x=y'}", Some("spec.boundTo.podSelector.matchLabels.app")),
        ("{app: bot}", &*Box::leak(room.into_boxed_str()), None),
        ("{app: bot}", &*Box::leak(over.into_boxed_str()), Some("16")),
        ("operator: In, values: [prod]", "operator: NotIn, values: [dev, test]", None),
        ("operator: In, values: [prod]", "operator: Exists", None),
        ("operator: In, values: [prod]", "operator: DoesNotExist", None),
        ("operator: In, values: [prod]", "operator: In", Some("In and NotIn need values")),
        ("operator: In, values: [prod]", "operator: Exists, values: [x]", Some("take none")),
        ("operator: In, values: [prod]", "operator: Gt, values: ['1']", Some("Unsupported value")),
        ("key: tier", "key: 'a b'", Some("spec.boundTo.podSelector.matchExpressions[0].key")),
        ("values: [prod]", "values: ['a)']", Some("spec.boundTo.podSelector.matchExpressions[0].values[0]")),
    ];
    judge(&stage, BOUND, cases);
}

const TARGET: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: ProtectedTarget
metadata: {name: orders-db, namespace: prod}
spec:
  postgres: {host: postgres.db.svc, port: 5432, searchPath: [public]}
  tls: {mode: VerifyFull, serverName: pg.internal, caBundleRef: {kind: Secret, name: ca}}
  credentials: [{name: default, secretRef: {name: creds}}]
  proxy: {replicas: 2, port: 5432, serviceType: ClusterIP, resources: {requests: {cpu: 1}}}
  recording: {level: Commands, store: {emptyDir: {sizeLimit: 1Gi}}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_protected_target_is_judged_by_its_schema() {
    let stage = Stage::new().await;
    let tls = "mode: VerifyFull, serverName: pg.internal, caBundleRef: {kind: Secret, name: ca}";
    let cases: &[Case] = &[
        ("name: orders-db,", "name: 1db,", Some("becomes a Service")),
        ("name: orders-db,", "name: a.b,", Some("becomes a Service")),
        ("name: orders-db,", &*Box::leak(format!("name: {LONG},").into_boxed_str()), Some("becomes a Service")),
        ("  postgres: {host: postgres.db.svc, port: 5432, searchPath: [public]}\n", "", Some("spec.postgres")),
        ("host: postgres.db.svc", "host: 10.1.2.3", None),
        ("host: postgres.db.svc", "host: '::1'", None),
        ("host: postgres.db.svc", "host: /var/run/postgresql", Some("host must be a DNS name or an IP address")),
        ("host: postgres.db.svc", "host: 'db:5432'", Some("host must be a DNS name or an IP address")),
        ("port: 5432, searchPath", "port: 0, searchPath", Some("spec.postgres.port")),
        ("port: 5432, searchPath", "port: 65536, searchPath", Some("spec.postgres.port")),
        ("searchPath: [public]", "searchPath: ['$user', public]", Some("$user is not supported")),
        ("searchPath: [public]", "searchPath: []", Some("spec.postgres.searchPath")),
        ("mode: VerifyFull, ", "", Some("spec.tls.mode")),
        (tls, "mode: Prefer", Some("Unsupported value")),
        (tls, "mode: Disable", None),
        (
            tls,
            "mode: Disable, caBundleRef: {kind: Secret, name: ca}",
            Some("caBundleRef has no meaning with mode Disable"),
        ),
        (tls, "mode: VerifyCa, caBundleRef: {kind: ConfigMap, name: ca, key: root.pem}", None),
        (tls, "mode: VerifyCa, serverName: a", Some("serverName is verified with mode VerifyFull alone")),
        ("serverName: pg.internal", "serverName: 'a b'", Some("serverName must be a DNS name or an IP address")),
        ("kind: Secret, name: ca", "kind: File, name: ca", Some("Unsupported value")),
        ("[{name: default, secretRef: {name: creds}}]", "[]", Some("spec.credentials")),
        (
            "[{name: default, secretRef: {name: creds}}]",
            "[{name: a, secretRef: {name: c}}, {name: b, secretRef: {name: c}}]",
            None,
        ),
        (
            "[{name: default, secretRef: {name: creds}}]",
            "[{name: a, secretRef: {name: c}}, {name: a, secretRef: {name: d}}]",
            Some("uplicate"),
        ),
        ("name: default, secretRef", "name: a/b, secretRef", Some("spec.credentials[0].name")),
        ("replicas: 2", "replicas: 0", Some("spec.proxy.replicas")),
        ("replicas: 2", "expiryGrace: 0s, staleAfter: 1m", None),
        ("replicas: 2", "expiryGrace: 25h", Some("expiryGrace must be at most 24h")),
        ("replicas: 2", "staleAfter: 30s", Some("staleAfter must be at least 1m")),
        ("replicas: 2", "staleAfter: never", Some("spec.proxy.staleAfter")),
        ("serviceType: ClusterIP", "serviceType: ExternalName", Some("Unsupported value")),
        ("cpu: 1", "cpu: 500m", None),
        ("cpu: 1", "cpu: many", Some("spec.proxy.resources.requests")),
        ("level: Commands", "level: None", None),
        ("level: Commands", "level: Some", Some("Unsupported value")),
        ("level: Commands", "durability: Synced, onFailure: Continue", None),
        ("level: Commands", "durability: Perhaps", Some("Unsupported value")),
        ("level: Commands", "onFailure: Retry", Some("Unsupported value")),
        ("level: Commands", "rotation: {size: 16Mi, age: 5m}, retention: {age: 720h}", None),
        ("level: Commands", "rotation: {}", Some("set size, age, or both")),
        ("level: Commands", "retention: {size: 100Ki}", Some("size must be at least 1Mi")),
        ("level: Commands", "retention: {size: lots}", Some("spec.recording.retention.size")),
        ("level: Commands", "retention: {age: 30s}", Some("age must be at least 1m")),
        (
            "store: {emptyDir",
            "store: {s3: {endpoint: 'https://minio.storage.svc:9000', bucket: records, prefix: a/b, credentialsRef: {name: s3}, caBundleRef: {kind: ConfigMap, name: ca}}, emptyDir",
            None,
        ),
        (
            "store: {emptyDir",
            "store: {s3: {endpoint: 'http://10.0.0.1', bucket: records, credentialsRef: {name: s3}}, emptyDir",
            None,
        ),
        (
            "store: {emptyDir: {sizeLimit: 1Gi}}",
            "store: {s3: {endpoint: 'https://s3.example', bucket: records, credentialsRef: {name: s3}}}",
            Some("set exactly one"),
        ),
        (
            "store: {emptyDir",
            "store: {s3: {endpoint: 'https://s3.example/path', bucket: records, credentialsRef: {name: s3}}, emptyDir",
            Some("endpoint is https://host"),
        ),
        (
            "store: {emptyDir",
            "store: {s3: {endpoint: 'https://user:password@s3.example', bucket: records, credentialsRef: {name: s3}}, emptyDir",
            Some("endpoint is https://host"),
        ),
        (
            "store: {emptyDir",
            "store: {s3: {endpoint: 'http://s3.example', bucket: records, credentialsRef: {name: s3}, caBundleRef: {kind: ConfigMap, name: ca}}, emptyDir",
            Some("caBundleRef has no meaning without TLS"),
        ),
        (
            "store: {emptyDir",
            "store: {s3: {endpoint: 'https://s3.example', bucket: 'Not A Bucket', credentialsRef: {name: s3}}, emptyDir",
            Some("spec.recording.store.s3.bucket"),
        ),
        (
            "store: {emptyDir",
            "store: {s3: {endpoint: 'https://s3.example', bucket: records}, emptyDir",
            Some("credentialsRef"),
        ),
        ("emptyDir: {sizeLimit: 1Gi}", "persistentVolumeClaim: {claimName: records}", None),
        (
            "emptyDir: {sizeLimit: 1Gi}",
            "emptyDir: {}, persistentVolumeClaim: {claimName: records}",
            Some("set exactly one"),
        ),
        ("store: {emptyDir: {sizeLimit: 1Gi}}", "store: {}", Some("set exactly one")),
        ("sizeLimit: 1Gi", "sizeLimit: big", Some("sizeLimit")),
    ];
    judge(&stage, TARGET, cases);
    stage.kubectl_create("{apiVersion: sallyport.dev/v1alpha1, kind: ProtectedTarget, metadata: {name: plain, namespace: prod}, spec: {postgres: {host: db}, tls: {mode: VerifyFull}, credentials: [{name: default, secretRef: {name: c}}]}}").unwrap();
    let plain = stage.get(OURS, "ProtectedTarget", "prod", "plain").await.unwrap();
    let spec = &plain["spec"];
    assert_eq!(
        spec["postgres"],
        serde_json::json!({"host": "db", "port": 5432, "searchPath": ["pg_catalog", "public", "pg_temp"]})
    );
    assert_eq!(spec["proxy"], serde_json::json!({"replicas": 2, "port": 5432, "serviceType": "ClusterIP"}));
    assert_eq!(
        spec["recording"],
        serde_json::json!({
            "level": "Commands", "durability": "Written", "onFailure": "Refuse",
            "store": {"emptyDir": {"sizeLimit": "1Gi"}}
        })
    );
}

const POLICY: &str = r#"
apiVersion: sallyport.dev/v1alpha1
kind: AccessPolicy
metadata: {name: p, namespace: prod}
spec:
  targetRefs: [{name: orders-db}]
  subjects: [{agent: {namespace: ci, name: bot}}]
  as: [default]
  rules:
  - {name: one, action: Allow, message: hello, postgres: {statements: [Select], tables: [public.orders]}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_access_policy_is_judged_by_its_schema() {
    let stage = Stage::new().await;
    let subjects = "[{agent: {namespace: ci, name: bot}}]";
    let cases: &[Case] = &[
        ("[{name: orders-db}]", "[]", Some("spec.targetRefs")),
        ("[{name: orders-db}]", "[{name: a}, {name: b}]", None),
        ("[{name: orders-db}]", "[{name: a}, {name: a}]", Some("uplicate")),
        (subjects, "[{group: {name: migrations}}]", None),
        (subjects, "[{agent: {name: a}, group: {name: g}}]", Some("set exactly one")),
        (subjects, "[{}]", Some("set exactly one")),
        (subjects, "[]", Some("spec.subjects")),
        (subjects, "[{group: {namespace: '*', name: g}}]", Some("spec.subjects[0].group.namespace")),
        ("as: [default]", "as: []", Some("spec.as")),
        ("as: [default]", "as: [a, b]", None),
        ("as: [default]", "limits: {sessionDuration: 8h, idleDuration: 15m}", None),
        ("as: [default]", "limits: {idleDuration: 10s}", None),
        ("as: [default]", "limits: {}", Some("limits limits nothing")),
        ("as: [default]", "limits: {sessionDuration: 30s}", Some("sessionDuration must be from 1m to 720h")),
        ("as: [default]", "limits: {sessionDuration: 721h}", Some("sessionDuration must be from 1m to 720h")),
        ("as: [default]", "limits: {sessionDuration: long}", Some("spec.limits.sessionDuration")),
        ("as: [default]", "limits: {idleDuration: 5s}", Some("idleDuration must be from 10s to 24h")),
        (
            "as: [default]",
            "limits: {sessionDuration: 1h, idleDuration: 1h}",
            Some("idleDuration must be shorter than sessionDuration"),
        ),
        (
            "as: [default]",
            "limits: {rowsPerCommand: 10000, bytesPerCommand: 64Mi, commandsPerMinute: 600, concurrentSessions: 4}",
            None,
        ),
        ("as: [default]", "limits: {rowsPerCommand: 0}", Some("spec.limits.rowsPerCommand")),
        ("as: [default]", "limits: {rowsPerCommand: '10'}", Some("spec.limits.rowsPerCommand")),
        ("as: [default]", "limits: {bytesPerCommand: 0Mi}", Some("spec.limits.bytesPerCommand")),
        ("as: [default]", "limits: {bytesPerCommand: 64MB}", Some("spec.limits.bytesPerCommand")),
        ("as: [default]", "limits: {commandsPerMinute: 1000001}", Some("spec.limits.commandsPerMinute")),
        ("as: [default]", "limits: {concurrentSessions: -1}", Some("spec.limits.concurrentSessions")),
        ("as: [default]", "mode: Observe", None),
        ("as: [default]", "mode: Enforce\n  limits: {rowsPerCommand: 1}", None),
        ("as: [default]", "mode: Observe\n  limits: {rowsPerCommand: 1}", Some("put them into one that enforces")),
        ("as: [default]", "mode: Audit", Some("Unsupported value")),
        ("as: [default]", "onRevocation: Cancel", None),
        ("as: [default]", "onRevocation: Kill", Some("Unsupported value")),
        ("name: one", "name: 'builtin:catalog'", Some("operator's own")),
        ("name: one", "name: One", Some("lower case letters")),
        ("action: Allow", "action: Maybe", Some("Unsupported value")),
        ("action: Allow", "action: Ask", None),
        ("action: Allow", "action: Ask, ask: {}", None),
        ("action: Allow", "action: Ask, ask: {approvals: 2, timeout: 5m, validity: 24h, notBy: Requester}", None),
        ("action: Allow", "action: Allow, ask: {approvals: 1}", Some("it goes with no other action")),
        ("action: Allow", "action: Ask, ask: {approvals: 0}", Some("spec.rules[0].ask.approvals")),
        ("action: Allow", "action: Ask, ask: {approvals: 9}", Some("spec.rules[0].ask.approvals")),
        ("action: Allow", "action: Ask, ask: {timeout: 0s}", Some("timeout must be from 1s to 1h")),
        ("action: Allow", "action: Ask, ask: {timeout: 61m}", Some("timeout must be from 1s to 1h")),
        ("action: Allow", "action: Ask, ask: {timeout: soon}", Some("spec.rules[0].ask.timeout")),
        ("action: Allow", "action: Ask, ask: {validity: 59s}", Some("validity must be from 1m to 24h")),
        ("action: Allow", "action: Ask, ask: {validity: 25h}", Some("validity must be from 1m to 24h")),
        ("action: Allow", "action: Ask, ask: {timeout: 10m, validity: 9m}", Some("validity must be at least timeout")),
        ("action: Allow", "action: Ask, ask: {notBy: Nobody}", Some("Unsupported value")),
        ("message: hello", "message: \"two\\nlines\"", Some("one line without control characters")),
        ("message: hello", "when: \"now.getHours('Europe/Amsterdam') in [8, 9]\"", None),
        ("message: hello", "when: \"true\\n&& agent.name == 'bot'\"", None),
        // What only a compiler can tell is told by a condition, and the rule stays.
        ("message: hello", "when: agent.nmae == 'bot'", None),
        ("message: hello", "when: ''", Some("spec.rules[0].when")),
        ("message: hello", "when: true", Some("spec.rules[0].when")),
        ("statements: [Select], tables: [public.orders]", "functions: [public.refund]", None),
        ("postgres: {statements: [Select], tables: [public.orders]}", "postgres: {}", None),
        (", postgres: {statements: [Select], tables: [public.orders]}", "", Some("spec.rules[0].postgres")),
        ("statements: [Select]", "statements: [SELECT]", Some("Unsupported value")),
        ("statements: [Select]", "statements: []", Some("spec.rules[0].postgres.statements")),
        ("public.orders", "orders", Some("a table is written schema.name")),
        ("public.orders", "public.ord*", Some("a table is written schema.name")),
        ("public.orders", "a.b.c", Some("a table is written schema.name")),
        ("public.orders", "'public. orders'", Some("a table is written schema.name")),
        ("public.orders", "'*.*'", None),
        ("public.orders", r#"'public."we.ird ""one"""'"#, None),
        ("tables: [public.orders]", "functions: [refund]", Some("a function is written schema.name")),
        ("statements: [Select]", "statements: [Update, Delete], where: Absent", None),
        ("statements: [Select]", "statements: [Update], where: Present", None),
        (
            "statements: [Select]",
            "statements: [Select, Update], where: Absent",
            Some("where speaks of Update and Delete alone"),
        ),
        ("statements: [Select]", "where: Absent", Some("where speaks of Update and Delete alone")),
        ("statements: [Select]", "statements: [Update], where: Maybe", Some("Unsupported value")),
    ];
    judge(&stage, POLICY, cases);
    let twice = POLICY.to_owned() + "  - {name: one, action: Deny, postgres: {}}\n";
    assert!(stage.would_create(&twice).unwrap_err().contains("uplicate"));
    let statements =
        sallyport_crds::Statement::ALL.iter().map(|statement| statement.verb()).collect::<Vec<_>>().join(", ");
    stage.would_create(&POLICY.replace("statements: [Select]", &format!("statements: [{statements}]"))).unwrap();
    let many: String = (0..128).map(|n| format!("  - {{name: r{n}, action: Deny, postgres: {{}}}}\n")).collect();
    let head = POLICY.split("  - {name: one").next().unwrap();
    stage.would_create(&format!("{head}{many}")).unwrap();
    let long = |length: usize| POLICY.replace("message: hello", &format!("when: '{}'", "x".repeat(length)));
    stage.would_create(&long(1024)).unwrap();
    assert!(stage.would_create(&long(1025)).unwrap_err().contains("spec.rules[0].when"));
    let over = stage.would_create(&format!("{head}{many}  - {{name: more, action: Deny, postgres: {{}}}}\n"));
    assert!(over.unwrap_err().contains("128"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_samples_are_accepted() {
    let stage = Stage::new().await;
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/samples");
    let applied = stage.plane.kubectl().args(["apply", "-n", "prod", "-k", samples]).output().unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let listed = stage.plane.kubectl().args(["get", "sallyport", "-n", "prod", "-o", "name"]).output().unwrap();
    let files = std::fs::read_dir(samples).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let ours: usize = files.map(|text| text.matches("apiVersion: sallyport.dev/").count()).sum();
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), ours, "the category shows all of them");
}

const TRUST_DOMAIN: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: TrustDomain
metadata: {name: td}
spec:
  trustDomain: cluster.local
  ca: {source: SecretRef, secretRef: {name: corporate}, keyAlgorithm: ECDSA-P384, duration: 8760h, renewBefore: 720h}
  rotation: {requestedAt: 2026-11-23T16:00:00Z, compromisedBefore: 2026-11-23T16:00:00Z, propagationTime: 1m}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_domain_is_judged_by_its_schema() {
    let stage = Stage::new().await;
    let cases: &[Case] = &[
        ("trustDomain: cluster.local", "trustDomain: Not A Domain", Some("spec.trustDomain")),
        ("  trustDomain: cluster.local\n", "", Some("spec.trustDomain")),
        ("source: SecretRef, secretRef: {name: corporate}", "source: Generate", None),
        ("source: SecretRef", "source: Generate", Some("secretRef goes with source SecretRef")),
        ("secretRef: {name: corporate}, ", "", Some("secretRef goes with source SecretRef")),
        ("source: SecretRef", "source: Vault", Some("spec.ca.source")),
        ("keyAlgorithm: ECDSA-P384", "keyAlgorithm: Ed25519", None),
        ("keyAlgorithm: ECDSA-P384", "keyAlgorithm: RSA1024", Some("spec.ca.keyAlgorithm")),
        ("duration: 8760h", "duration: 479h", Some("duration must be from 480h")),
        ("duration: 8760h", "duration: 175201h", Some("duration must be from 480h to 175200h")),
        ("renewBefore: 720h", "renewBefore: 239h", Some("renewBefore must be at least 240h")),
        ("renewBefore: 720h", "renewBefore: 8737h", Some("must leave at least 24h")),
        ("propagationTime: 1m", "propagationTime: 9s", Some("propagationTime must be from 10s to 24h")),
        ("propagationTime: 1m", "propagationTime: 25h", Some("propagationTime must be from 10s to 24h")),
        ("requestedAt: 2026-11-23T16:00:00Z", "requestedAt: now", Some("spec.rotation.requestedAt")),
        ("compromisedBefore: 2026-11-23T16:00:00Z", "compromisedBefore: now", Some("spec.rotation.compromisedBefore")),
    ];
    judge(&stage, TRUST_DOMAIN, cases);
    // The name of a trust domain is in every certificate: it cannot be changed.
    stage.kubectl_create("{apiVersion: sallyport.dev/v1alpha1, kind: TrustDomain, metadata: {name: plain}, spec: {trustDomain: a.example}}").unwrap();
    let plain = stage.get(OURS, "TrustDomain", "", "plain").await.unwrap();
    let defaults = serde_json::json!({
        "trustDomain": "a.example", "rotation": {"propagationTime": "5m"},
        "ca": {"source": "Generate", "keyAlgorithm": "ECDSA-P256", "duration": "87600h"},
    });
    assert_eq!(plain["spec"], defaults, "defaults are what the code takes them to be");
    let renamed = "{apiVersion: sallyport.dev/v1alpha1, kind: TrustDomain, metadata: {name: plain}, spec: {trustDomain: b.example}}";
    let refused = stage.try_apply(renamed).await.unwrap_err().to_string();
    assert!(refused.contains("trustDomain cannot be changed"), "{refused}");
}

const MASKING: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AccessPolicy
metadata: {name: masking, namespace: prod}
spec:
  targetRefs: [{name: orders-db}]
  subjects: [{agent: {name: bot}}]
  rules: [{name: all, action: Allow, postgres: {}}]
  masks:
    - {columns: [public.customers.email], method: Partial}
    - {detect: [CreditCard, Iban, Email], method: Redact}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_is_judged_by_its_schema() {
    let stage = Stage::new().await;
    let cases: &[Case] = &[
        ("method: Partial", "method: Hash, strict: true", None),
        ("method: Partial", "method: SetNull", None),
        ("method: Partial", "method: Blur", Some("Unsupported value")),
        (", method: Partial", "", Some("method")),
        ("[public.customers.email]", "['public.*.email', '*.*.*', 'public.\"T.x\".\"E\"']", None),
        ("[public.customers.email]", "[public.email]", Some("a column is written schema.table.column")),
        ("[public.customers.email]", "[public.customers.em*]", Some("a column is written schema.table.column")),
        ("[public.customers.email]", "[a.b.c.d]", Some("a column is written schema.table.column")),
        ("[public.customers.email]", "[a.b.c, a.b.c]", Some("Duplicate value")),
        ("[public.customers.email]", "[]", Some("spec.masks[0].columns")),
        ("columns: [public.customers.email]", "columns: [a.b.c], detect: [Email]", Some("set exactly one")),
        ("columns: [public.customers.email], ", "", Some("set exactly one")),
        ("[CreditCard, Iban, Email]", "[Email]", None),
        ("[CreditCard, Iban, Email]", "[Passport]", Some("Unsupported value")),
        ("method: Redact", "method: Tokenize", None),
        ("method: Redact", "method: SetNull", Some("what is detected is a part of a value")),
        ("method: Redact", "method: Redact, strict: true", Some("strict speaks of columns")),
    ];
    judge(&stage, MASKING, cases);
}
