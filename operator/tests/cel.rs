//! Conditions of rules, judged by somebody else: the CEL of Kubernetes, in a real API server.
//!
//! Each condition becomes a validation rule of a kind that holds the facts, and one object is judged by all of them.
//! Invariant: whatever this language takes, CEL takes and means the same; an error there is what is unknown here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sallyport_crds::{AccessPolicy, ProtectedTarget};
use sallyport_operator::derive::compile;
use sallyport_policy::{
    Action, Condition, Fact, IdentityName, Member, Object, ObjectKind, Operation, Outcome, QualifiedName, Roster,
    Session, SessionFacts, Usage, World, conditions,
};
use serde_json::{Value, json};
use support::{OURS, Stage, until};

/// Thursday, 24 December 2026, 17:30:15.250 UTC.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_798_133_415_250)
}

/// The same facts as below, for the API server.
fn facts() -> Value {
    json!({
        "agent": {
            "namespace": "ci", "name": "bot", "groups": ["migrations", "night"],
            "uri": "spiffe://cluster.local/ns/ci/agent/bot",
        },
        "target": {"namespace": "shop", "name": "orders-db"},
        "session": {
            "credential": "default", "database": "shop", "applicationName": "psql", "clientAddress": "10.0.0.7",
            "started": "2026-12-24T15:28:45.25Z",
        },
        "command": {
            "statements": ["Call", "Select"], "tables": ["public.items", "public.orders"],
            "functions": ["public.refund"],
        },
        "now": "2026-12-24T17:30:15.25Z",
    })
}

fn on(verb: &'static str, kind: ObjectKind, name: &'static str) -> Operation {
    let names = vec![QualifiedName::new("public", name)];
    Operation::on(verb, Object { kind, names, usage: Usage::Read })
}

/// What each of them comes to here.
fn ours(texts: &[String]) -> Vec<Outcome> {
    let rule =
        |(n, text): (usize, &String)| json!({"name": format!("r{n}"), "action": "Allow", "postgres": {}, "when": text});
    let rules: Vec<_> = texts.iter().enumerate().map(rule).collect();
    let target = json!({
        "apiVersion": OURS, "kind": "ProtectedTarget", "metadata": {"namespace": "shop", "name": "orders-db"},
        "spec": {
            "postgres": {"host": "db", "port": 5432}, "tls": {"mode": "Disable"},
            "credentials": [{"name": "default", "secretRef": {"name": "s"}}],
        },
    });
    let policy = json!({
        "apiVersion": OURS, "kind": "AccessPolicy", "metadata": {"namespace": "shop", "name": "p"},
        "spec": {
            "targetRefs": [{"name": "orders-db"}], "subjects": [{"agent": {"namespace": "ci", "name": "bot"}}],
            "rules": rules,
        },
    });
    let target: ProtectedTarget = serde_json::from_value(target).unwrap();
    let policy: AccessPolicy = serde_json::from_value(policy).unwrap();
    let settings = support::config(None).settings;
    let bundle = compile::bundle(&target, [&policy], &settings);
    for text in texts {
        assert_eq!(Condition::parse(text).err(), None, "{text}");
    }
    let mut roster = Roster::default();
    let groups = vec!["migrations".into(), "night".into()];
    roster.insert(Member { namespace: "ci".into(), name: "bot".into(), groups, ..Member::default() });
    let world = World { bundle: Arc::new(bundle), roster: Arc::new(roster), generation: 1 };
    let session = Session {
        identity: IdentityName::new("cluster.local", "ci", "bot").unwrap(),
        not_before: 0,
        uid: None,
        address: Some([10, 0, 0, 7].into()),
        credential: "default".into(),
        facts: SessionFacts {
            database: Fact::Known("shop".into()),
            application_name: Fact::Known("psql".into()),
            started: Fact::Known(now() - Duration::from_secs(2 * 3600 + 90)),
        },
    };
    let operations = vec![
        on("Select", ObjectKind::Table, "orders"),
        on("Select", ObjectKind::Table, "items"),
        on("Call", ObjectKind::Function, "refund"),
    ];
    let action = Action { operations, ..Action::none() };
    let judged = conditions(&world, &session, now(), &action);
    assert_eq!(judged.len(), texts.len());
    judged.iter().map(|one| one.outcome).collect()
}

/// The same condition over an object: its facts are fields, and `namespace` is a word that Kubernetes escapes.
fn theirs(text: &str) -> String {
    let mut text = text.replace("now", "self.now");
    for root in ["agent.", "target.", "session.", "command."] {
        text = text.replace(root, &format!("self.{root}"));
    }
    text.replace(".namespace", ".__namespace__")
}

fn definition(texts: &[String]) -> Value {
    let text = json!({"type": "string", "maxLength": 64});
    let time = json!({"type": "string", "format": "date-time", "maxLength": 32});
    let list = json!({"type": "array", "maxItems": 4, "items": text});
    let fields = facts();
    let type_of = |value: &Value| match value {
        Value::Array(_) => list.clone(),
        Value::String(text) if text.ends_with('Z') => time.clone(),
        _ => text.clone(),
    };
    let mut properties = serde_json::Map::new();
    for (name, value) in fields.as_object().unwrap() {
        let schema = match value {
            Value::Object(below) => {
                let below: serde_json::Map<_, _> = below.iter().map(|(name, v)| (name.clone(), type_of(v))).collect();
                let required: Vec<_> = below.keys().cloned().collect();
                json!({"type": "object", "properties": below, "required": required})
            }
            plain => type_of(plain),
        };
        properties.insert(name.clone(), schema);
    }
    let required: Vec<_> = properties.keys().cloned().collect();
    let rules: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(n, text)| json!({"rule": theirs(text), "message": format!("case-{n}-")}))
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "oracles.example.org"},
        "spec": {
            "group": "example.org", "scope": "Cluster",
            "names": {"kind": "Oracle", "plural": "oracles", "singular": "oracle", "listKind": "OracleList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object", "required": ["spec"],
                    "properties": {"spec": {
                        "type": "object", "properties": properties, "required": required,
                        "x-kubernetes-validations": rules,
                    }},
                }},
            }],
        },
    })
}

/// Everything that the language has, each in a form that goes wrong where it is meant otherwise.
fn by_hand() -> Vec<String> {
    [
        "true || false && false",
        "(true || false) && false",
        "!(false || !true)",
        "!!true",
        "1 + 2 * 3 - 4 == 3",
        "7 - 2 - 1 == 4",
        "-7 / 2 == -3",
        "-7 / 2 == -4",
        "-7 % 2 == -1",
        "7 % -2 == 1",
        "0x1F == 31",
        "-9223372036854775808 < 9223372036854775807",
        "1 / (size(agent.groups) - 2) == 1",
        "1 % (size(agent.groups) - 2) == 1",
        "9223372036854775807 + size(agent.name) > 0",
        "-9223372036854775808 - size(agent.name) < 0",
        "9223372036854775807 * size(agent.name) > 0",
        "1 / (size(agent.groups) - 2) == 1 || agent.name == 'bot'",
        "1 / (size(agent.groups) - 2) == 1 && agent.name == 'other'",
        "agent.name == 'bot' || 1 / (size(agent.groups) - 2) == 1",
        "agent.name == 'other' && 1 / (size(agent.groups) - 2) == 1",
        "1 / (size(agent.groups) - 2) == 1 ? true : true",
        "false ? false : true ? true : false",
        "true == false == false",
        "1 < 2 == true",
        "agent.namespace == 'ci' && target.namespace == 'shop'",
        "agent.namespace + '/' + agent.name == 'ci/bot'",
        "'a' + \"b\" == r'ab'",
        "'Z' < 'a' && 'a' < 'aa' && 'a' <= 'a'",
        r#"'\x41\u00e9\U0001F600\101\'\n' == "Aé😀A'\n""#,
        r"r'\d' == '\\d'",
        "size('é😀') == 2",
        "'é😀'.size() == 2",
        "'orders'.contains('rde') && 'orders'.contains('')",
        "'orders'.endsWith('s') && !'orders'.startsWith('s')",
        "'orders_2026'.matches('^orders_[0-9]{4}$')",
        "'xordersx'.matches('orders')",
        r"'é'.matches(r'^\w$')",
        r"'é'.matches(r'^.$')",
        r"'9'.matches(r'^\d$') && !'٩'.matches(r'^\d$')",
        r"'a b'.matches(r'^a\sb$') && 'a\nb'.matches(r'a.b')",
        r"'a\nb'.matches(r'(?s)a.b') && 'AB'.matches(r'(?i)ab') && 'a\nb'.matches(r'(?m)^b$')",
        r"'a\n'.matches('a$')",
        r"'ab'.matches(r'\Aa\b') || 'a-b'.matches(r'\Aa\b')",
        "'ab'.matches('(a|b)*(c|$)') && 'α'.matches('[[:alpha:]]')",
        "1 in [1, 2, 3,]",
        "4 in [1, 2, 3]",
        "agent.name in ['a', agent.name + '', 'b']",
        "'night' in agent.groups && !('day' in agent.groups)",
        "agent.groups.all(g, size(g) > 3)",
        "agent.groups.exists(g, g.startsWith('n') && command.tables.all(t, t.startsWith('public.')))",
        "agent.groups.exists(g, 1 / (size(g) - 5) == 7)",
        "agent.groups.exists(g, g == 'night' || 1 / (size(g) - 10) == 1)",
        "agent.groups.all(g, g == 'day' || 1 / (size(g) - 5) == 7)",
        "agent.groups.all(g, g != 'night' && 1 / (size(g) - 10) != 1)",
        "command.functions.size() == 1 && size(command.statements) == 2",
        "session.database == 'shop' ? session.applicationName == 'psql' : false",
        "session.clientAddress.startsWith('10.')",
        "duration('1h30m') == duration('90m')",
        "duration('-1.5h') < duration('0')",
        "duration('1.5s') == duration('1500ms') && duration('1us') == duration('1000ns')",
        "duration('100m').getHours() == 1 && duration('100m').getMinutes() == 100 && duration('-90s').getMinutes() == -1",
        "duration('90m').getSeconds() == 5400",
        "timestamp('2026-01-01T00:00:00+01:00') == timestamp('2025-12-31T23:00:00Z')",
        "now - session.started == duration('2h1m30s')",
        "now + duration('1h') > now && duration('1h') + now == now - duration('-60m')",
        "now == timestamp('2026-12-24T17:30:15.25Z') && now.getMilliseconds() == 250",
        "timestamp('9999-12-30T00:00:00Z') + duration('87600h') > now",
        "!(now.getHours('Europe/Amsterdam') in [8,9,10,11,12,13,14,15,16])",
        "// a comment\n now.getDayOfWeek() == 4 // and another",
        "command.tables.exists(t, t == 'public.orders') && 'public.refund' in command.functions",
        "agent.uri.matches('^spiffe://[^/]+/ns/ci/') && target.name != session.credential",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// What clocks and calendars show in places where they do odd things: what it is here has to be what it is there.
fn by_the_clock() -> Vec<String> {
    let moments = [
        "2026-03-29T00:59:59Z",
        "2026-03-29T01:00:00Z",
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:30:00Z",
        "2024-02-29T23:59:59.999Z",
        "2024-12-31T12:00:00Z",
        "1965-06-01T00:00:00Z",
        "2061-07-01T12:00:00Z",
    ];
    let zones = [
        "",
        "'UTC'",
        "'Europe/Amsterdam'",
        "'America/New_York'",
        "'Australia/Lord_Howe'",
        "'Asia/Kathmandu'",
        "'+05:45'",
        "'-11:00'",
    ];
    let getters = [
        ("getFullYear", 1960..2070),
        ("getMonth", 0..12),
        ("getDate", 1..32),
        ("getDayOfMonth", 0..31),
        ("getDayOfWeek", 0..7),
        ("getDayOfYear", 0..366),
        ("getHours", 0..24),
        ("getMinutes", 0..60),
    ];
    let mut all = Vec::new();
    for moment in moments {
        for zone in zones {
            let parts = getters.iter().map(|(getter, values)| {
                let is = |value: &i32| format!("timestamp('{moment}').{getter}({zone}) == {value}");
                let texts: Vec<_> = values.clone().map(|value| is(&value)).collect();
                let holds: Vec<_> = ours(&texts).into_iter().zip(&texts).filter(|(o, _)| *o == Outcome::True).collect();
                assert_eq!(holds.len(), 1, "{moment} {zone} {getter}");
                holds[0].1.clone()
            });
            all.push(parts.collect::<Vec<_>>().join(" && "));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_mean_what_kubernetes_own_cel_takes_them_to_mean() {
    let texts = [by_hand(), by_the_clock()].concat();
    let expected = ours(&texts);
    for outcome in [Outcome::True, Outcome::False, Outcome::Unknown] {
        assert!(expected.iter().filter(|one| **one == outcome).count() > 4, "{outcome} is hardly there");
    }
    let stage = Stage::new().await;
    stage.kubectl_create(&definition(&texts).to_string()).unwrap();
    let object = json!({
        "apiVersion": "example.org/v1", "kind": "Oracle", "metadata": {"name": "all"}, "spec": facts(),
    });
    // It takes a moment until a new kind is served, and another until its rules are those of all of it.
    let told = until("the verdict of the API server", async || {
        stage.would_create(&object.to_string()).err().filter(|told| told.contains("case-"))
    })
    .await;
    let lines: BTreeMap<usize, &str> = told
        .lines()
        .filter_map(|line| Some((line.split_once("case-")?.1.split_once('-')?.0.parse().ok()?, line)))
        .collect();
    let mut wrong = Vec::new();
    for (n, (text, ours)) in texts.iter().zip(expected).enumerate() {
        let theirs = match lines.get(&n) {
            None => Outcome::True,
            Some(line) if line.contains("evaluating rule") => Outcome::Unknown,
            Some(_) => Outcome::False,
        };
        if ours != theirs {
            wrong.push(format!("{text}\n    here {ours}, there {theirs}: {}", lines.get(&n).unwrap_or(&"")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
