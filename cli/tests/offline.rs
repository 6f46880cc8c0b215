//! The program on files alone: what it says, and how it exits.
//!
//! Owns a directory of its own. Touches nothing else. Invariant: whoever calls it from a script can tell yes, no and
//! no answer apart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::PathBuf;
use std::process::{Command, Output};

use sallyport_conformance::policy;
use sallyport_policy::{AskTerms, ColumnPattern, Condition, Detector, Effect, Mask, MaskMethod, NotBy, When};
use serde_json::Value;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("bundle.json", &policy::bundle("db", 5432, policy::readme()).to_json());
        files.write(
            "roster.yaml",
            "members:\n- {namespace: ci, name: bot}\n- {namespace: ci, name: gone, suspended: true}\n",
        );
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sallyport")).args(arguments).current_dir(self.0.path()).output().unwrap()
    }

    fn explain(&self, more: &[&str]) -> (i32, String) {
        let mut arguments = vec!["explain", "--bundle", "bundle.json", "--roster", "roster.yaml"];
        arguments.extend(more);
        told(&self.run(&arguments))
    }
}

fn told(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn a_statement_is_explained_operation_by_operation() {
    let files = Files::new();
    let (status, told) = files.explain(&["--agent", "ci/bot", "select note from orders; delete from orders"]);
    let revision = policy::bundle("db", 5432, policy::readme()).revision;
    let expected = format!(
        "deny by read-orders/no-unbounded-writes
  the agent is told: refused by policy read-orders, rule no-unbounded-writes: a write needs a WHERE clause
  spiffe://cluster.local/ns/ci/agent/bot as default on shop/orders-db, bundle {revision}
statement 1
  allow  Select on public.orders  by read-orders/read-orders
statement 2
  deny   Delete on public.orders  by read-orders/no-unbounded-writes
"
    );
    assert_eq!((status, told), (1, expected));
    let (status, json) = files.explain(&["--agent", "ci/bot", "-o", "json", "select 1 from secrets"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["verdict"], &json["rule"]), (1, &Value::from("deny"), &Value::Null));
    assert_eq!(json["statements"][0]["operations"][0]["reason"], json["reason"]);
    assert!(json["reason"].as_str().unwrap().starts_with("no rule allows Select on public.secrets"), "{json}");
}

#[test]
fn a_question_to_people_is_told_with_its_terms_and_the_status_3() {
    let files = Files::new();
    let mut asks = policy::policy("reviews", Vec::new());
    let terms = AskTerms { approvals: 2, timeout_seconds: 600, validity_seconds: 3600, not_by: NotBy::ServiceAccounts };
    let mut rule = policy::rule("reviewed", Effect::Ask(terms), &["Drop"]);
    rule.message = Some("schema changes are reviewed".into());
    asks.rules.push(rule);
    files.write("bundle.json", &policy::bundle("db", 5432, vec![asks]).to_json());
    let (status, told) = files.explain(&["--agent", "ci/bot", "drop table orders"]);
    let start = "ask by reviews/reviewed
  the command waits up to 600 s for the approval of 2 people: schema changes are reviewed
";
    assert!(status == 3 && told.starts_with(start), "{status} {told}");
    let long = format!("drop table orders -- {}", "x".repeat(40_000));
    let (status, told) = files.explain(&["--agent", "ci/bot", &long]);
    assert!(status == 1 && told.contains("too long to show"), "{status} {told}");
}

#[test]
fn what_is_masked_is_told_as_far_as_the_text_tells_and_nothing_is_said_to_be_clear() {
    let files = Files::new();
    let mut sees = policy::policy("sees", vec![policy::rule("all", Effect::Allow, &[])]);
    let column = |name: &str| ColumnPattern::parse(name).unwrap();
    let mask = |columns, method| Mask { columns, detect: Vec::new(), method, strict: false };
    sees.masks = vec![
        mask(vec![column("public.customers.email")], MaskMethod::Partial),
        Mask { strict: true, ..mask(vec![column("public.customers.ssn")], MaskMethod::Tokenize) },
        Mask { detect: vec![Detector::Iban], ..mask(Vec::new(), MaskMethod::Null) },
    ];
    files.write("bundle.json", &policy::bundle("db", 5432, vec![sees]).to_json());
    let lines = |text: &str| -> Vec<String> {
        let (status, told) = files.explain(&["--agent", "ci/bot", text]);
        assert_eq!(status, 0, "{told}");
        let after = told.lines().skip_while(|line| !line.starts_with("statement 1"));
        after.filter(|line| !line.starts_with("  allow") && !line.starts_with("statement")).map(str::to_owned).collect()
    };
    let unsure = |names: &str| {
        format!(
            "  only the server's catalog tells whether {names} shows more that is masked (a view, an inherited table): it is then, and so is what the catalog does not know; a COPY whose columns it cannot tell is refused"
        )
    };
    let searched = "searched for in every text: Iban  SetNull  by sees";
    assert_eq!(
        lines("select id, email, upper(email), ssn from customers"),
        [
            "  masked item 2: public.customers.email  Partial  by sees",
            "  masked item 3: an expression that public.customers.email may have a part in  Redact  by sees",
            "  masked item 4: public.customers.ssn  Tokenize  by sees",
            &unsure("public.customers"),
            searched,
        ]
    );
    let star = lines("select o.id, c.* from orders o, customers c");
    assert_eq!(star[0], "  masked item 2: public.customers.email, if it is among what * stands for  Partial  by sees");
    assert!(star[1].contains("public.customers.ssn, if it is among"));
    assert_eq!(star[2], unsure("public.customers, public.orders"));
    // A relation that no mask names may be a view of one that is: nothing is said to be clear.
    assert_eq!(lines("select email from contacts"), [&unsure("public.contacts"), searched]);
    assert!(lines("delete from customers where id = 1 returning email")[0].starts_with("  masked item 1"));
    let within = lines("select x from (select upper(email) as x from customers) s");
    assert!(within[0].contains("item 1: ") && within[0].contains("Redact"), "{within:?}");
    assert_eq!(lines("select 1"), [searched]);
    // What masks refuse is a verdict, with the policy and the column in its reason.
    for (text, why) in [
        ("select 1 from customers where ssn = '1'", "ssn"),
        ("create table copied as select email from customers", "email"),
    ] {
        let (status, told) = files.explain(&["--agent", "ci/bot", text]);
        assert!(status == 1 && told.contains(why) && told.contains("policy sees") && !told.contains("item"), "{told}");
    }
    let (_, json) = files.explain(&["--agent", "ci/bot", "-o", "json", "select email from customers"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["statements"][0]["masks"][0]["method"], "Partial", "{json:#}");
    assert_eq!(json["detectors"][0]["detect"], "Iban");
}

#[test]
fn the_exit_status_tells_yes_no_and_no_answer_apart() {
    let files = Files::new();
    files.write("draft.sql", "select 1 from orders");
    for (arguments, expected, words) in [
        (&["--agent", "ci/bot", "select 1"][..], 0, "allow"),
        (&["--agent", "ci/bot", "-f", "draft.sql"], 0, "allow by read-orders/read-orders"),
        (&["--agent", "ci/bot", "--as", "bot", "-f", "draft.sql"], 0, "as default"),
        (&["--agent", "ci/bot", "--as", "admin", "-f", "draft.sql"], 1, "connect with one of default"),
        (&["--agent", "ci/gone", "select 1"], 1, "suspended"),
        (&["--agent", "ci/nobody", "select 1"], 1, "not known"),
        (&["--agent", "ci/bot", "selekt"], 1, "cannot be parsed"),
        (&["--agent", "ci/bot", "select '\u{1b}[2J' from from"], 1, "statement cannot be parsed"),
        (&["--agent", "bot", "select 1"], 2, "NAMESPACE/NAME"),
        (&["--agent", "CI/bot", "select 1"], 2, "--agent"),
        (&["select 1"], 2, "--agent"),
        (&["--agent", "ci/bot", "orders-db", "select 1"], 2, "leave TARGET out"),
        (&["--agent", "ci/bot", "-f", "draft.sql", "select 1"], 2, "given twice"),
        (&["--agent", "ci/bot", "-f", "nowhere.sql"], 2, "nowhere.sql cannot be read"),
    ] {
        let (status, told) = files.explain(arguments);
        assert!(
            status == expected && told.contains(words) && !told.contains('\u{1b}'),
            "{arguments:?}: {status} {told}"
        );
    }
    files.write("bundle.json", "{\"version\": 7}");
    let (status, told) = files.explain(&["--agent", "ci/bot", "select 1"]);
    assert!(status == 2 && told.contains("--bundle bundle.json") && told.contains("version 7"), "{told}");
    let (status, told) =
        self::told(&files.run(&["explain", "--agent", "ci/bot", "orders-db", "select 1", "--kubeconfig", "none"]));
    assert!(status == 2 && told.contains("--kubeconfig none"), "{told}");
}

#[test]
fn help_has_examples_and_shells_complete() {
    let files = Files::new();
    for command in ["explain", "sessions", "replay", "verify", "preview"] {
        let (status, told) = told(&files.run(&[command, "--help"]));
        assert!(status == 0 && told.contains("Examples:\n  ") && told.contains("--namespace"), "{command}: {told}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (status, told) = told(&files.run(&["completions", shell]));
        assert!(status == 0 && told.contains("replay"), "{shell}");
    }
}

/// Two sessions: one of `ci/bot` that reads and writes, one of an agent that is no more.
const RECORDS: &str = r#"{"time":"2026-11-23T16:00:00.000000Z","session":"aa00","sequence":0,"agent":"spiffe://cluster.local/ns/ci/agent/bot","target":"shop/orders-db","event":"open","client":"10.0.0.1:5000","credential":"default","facts":[],"verdict":"allow","revision":"r"}
{"time":"2026-11-23T16:00:01.000000Z","session":"aa00","sequence":1,"agent":"spiffe://cluster.local/ns/ci/agent/bot","target":"shop/orders-db","event":"command","command":1,"text":"select note from orders","verdict":"allow","policy":"read-orders","rule":"read-orders","revision":"r"}
{"time":"2026-11-23T16:00:01.050000Z","session":"aa00","sequence":2,"agent":"spiffe://cluster.local/ns/ci/agent/bot","target":"shop/orders-db","event":"result","command":1,"part":1,"columns":[{"name":"note","type":25}],"shown":[["delete from orders"],[null]]}
{"time":"2026-11-23T16:00:01.100000Z","session":"aa00","sequence":3,"agent":"spiffe://cluster.local/ns/ci/agent/bot","target":"shop/orders-db","event":"outcome","command":1,"outcome":"completed","rows":3,"durationMicros":100}
{"time":"2026-11-23T16:00:02.000000Z","session":"aa00","sequence":4,"agent":"spiffe://cluster.local/ns/ci/agent/bot","target":"shop/orders-db","event":"command","command":2,"text":"prepare p as\ndelete from orders where id = 1","verdict":"allow","policy":"read-orders","rule":"write-orders","revision":"r"}
{"time":"2026-11-23T16:00:03.000000Z","session":"aa00","sequence":5,"agent":"spiffe://cluster.local/ns/ci/agent/bot","target":"shop/orders-db","event":"command","command":3,"text":"execute p","verdict":"allow","policy":"read-orders","rule":"write-orders","revision":"r"}
{"time":"2026-11-23T16:00:04.000000Z","session":"aa00","sequence":6,"agent":"spiffe://cluster.local/ns/ci/agent/bot","target":"shop/orders-db","event":"command","command":4,"text":"execute p","verdict":"allow","policy":"read-orders","rule":"write-orders","revision":"r"}
{"time":"2026-11-23T16:00:05.000000Z","session":"aa00","sequence":7,"agent":"spiffe://cluster.local/ns/ci/agent/bot","target":"shop/orders-db","event":"command","command":5,"text":"select * from secrets where id = 7","verdict":"deny","reason":"no rule allows Select on public.secrets","revision":"r"}
{"time":"2026-11-23T16:00:06.000000Z","session":"aa00","sequence":8,"agent":"spiffe://cluster.local/ns/ci/agent/bot","target":"shop/orders-db","event":"close","reason":"the client left"}
{"time":"2026-11-23T16:00:07.000000Z","session":"bb00","sequence":0,"agent":"spiffe://cluster.local/ns/ci/agent/past","target":"shop/orders-db","event":"open","credential":"default","facts":[],"verdict":"deny","reason":"this identity is not known here","revision":"r"}
{"torn
"#;

const DRAFT: &str = "
apiVersion: sallyport.dev/v1alpha1
kind: AccessPolicy
metadata: {name: read-orders}
spec:
  targetRefs: [{name: orders-db}]
  subjects: [{agent: {namespace: ci, name: bot}}]
  rules:
  - {name: read-all, action: Allow, postgres: {statements: [Select], tables: ['public.*']}}
  - {name: no-deletes, action: Deny, message: keep it, postgres: {statements: [Delete]}}
";

impl Files {
    fn recorded() -> Self {
        let files = Self::new();
        std::fs::create_dir(files.path("records")).unwrap();
        files.write("records/pod-1-0.jsonl", RECORDS);
        files.write("draft.yaml", DRAFT);
        files
    }

    fn preview(&self, more: &[&str]) -> (i32, String) {
        let mut arguments =
            vec!["preview", "--bundle", "bundle.json", "--roster", "roster.yaml", "--records-dir", "records"];
        arguments.extend(more);
        told(&self.run(&arguments))
    }
}

#[test]
fn sessions_are_told_with_how_they_ended() {
    let files = Files::recorded();
    let (status, told) = told(&files.run(&["sessions", "--records-dir", "records"]));
    let expected = "\
SESSION   AGENT     FROM            AS        BEGAN                         LASTED    COMMANDS   ASKED   REFUSED   FAILED   ENDED
aa00      ci/bot    10.0.0.1:5000   default   2026-11-23T16:00:00.000000Z   6.000 s   5          0       1         0        the client left
bb00      ci/past   -               default   2026-11-23T16:00:07.000000Z   0.000 s   0          0       0         0        turned away: this identity is not known here
1 lines that are no record were passed over (sallyport verify names them)
";
    assert_eq!((status, told.as_str()), (0, expected));
    let (status, told) = self::told(&files.run(&["replay", "zz", "--records-dir", "records"]));
    assert!(status == 2 && told.contains("no session begins with \"zz\""), "{told}");
    let (status, told) = self::told(&files.run(&["replay", "", "--records-dir", "records"]));
    assert!(status == 2 && told.contains("2 sessions begin with"), "{told}");
    let (status, told) = self::told(&files.run(&["verify", "--records-dir", "records"]));
    assert!(status == 1 && told.contains("without a seal"), "{told}");
    let (status, told) = self::told(&files.run(&["sessions", "--records-dir", "nowhere"]));
    assert!(status == 2 && told.contains("nowhere cannot be read"), "{told}");
}

#[test]
fn a_preview_shows_what_a_draft_would_change_and_the_same_each_time() {
    let files = Files::recorded();
    let (status, told) = files.preview(&["-f", "draft.yaml"]);
    let told = told.split_once('\n').unwrap().1;
    let expected = "\
5 commands of 1 sessions judged by both: 4 verdicts would change
  allow -> deny: 3
  deny -> allow: 1
1 verdicts would stay, by another rule
1 records were left out: of agents that are no more, of other targets, or without their session's opening
1 lines are no record

2 x allow -> deny  spiffe://cluster.local/ns/ci/agent/bot as default
    now   allow by read-orders/write-orders
    draft deny by read-orders/no-deletes
    | execute p

1 x allow -> deny  spiffe://cluster.local/ns/ci/agent/bot as default
    now   allow by read-orders/write-orders
    draft deny by read-orders/no-deletes
    | prepare p as
    | delete from orders where id = 1

1 x deny -> allow  spiffe://cluster.local/ns/ci/agent/bot as default
    now   deny by no rule allows Select on public.secrets
    draft allow by read-orders/read-all
    | select * from secrets where id = $1
    for one:
    | select * from secrets where id = 7
";
    assert_eq!((status, told), (1, expected));
    let json = files.preview(&["-f", "draft.yaml", "-o", "json"]);
    assert_eq!(files.preview(&["-f", "draft.yaml", "-o", "json"]), json);
    let json: Value = serde_json::from_str(&json.1).unwrap();
    assert_eq!((&json["changed"], json["changes"].as_array().unwrap().len()), (&Value::from(4), 3));
    assert_eq!(json["changes"][0]["would"]["rule"], "no-deletes");
    assert_eq!(json["changes"][2]["statement"], "select * from secrets where id = $1");
    assert_eq!(json["changes"][2]["text"], "select * from secrets where id = 7");
    // Whoever is suspended meanwhile is judged by the policies all the same.
    files.write("roster.yaml", "members:\n- {namespace: ci, name: bot, suspended: true, minNotBefore: 99999999999}\n");
    let (_, again) = files.preview(&["-f", "draft.yaml"]);
    assert_eq!(again.split_once('\n').unwrap().1, expected);
}

#[test]
fn a_draft_that_changes_nothing_says_so_and_a_policy_can_be_left_out() {
    let files = Files::recorded();
    let same = DRAFT.replace("read-orders", "more").replace("  - {name: no-deletes", "  #");
    files.write("draft.yaml", &same.replace("'public.*'", "public.orders"));
    let (status, told) = files.preview(&["-f", "draft.yaml"]);
    assert!(status == 0 && told.contains("0 verdicts would change"), "{told}");
    let (status, told) = files.preview(&["--without", "read-orders"]);
    assert!(status == 1 && told.contains("(a session that opens)") && told.contains("no policy grants"), "{told}");
    let (status, told) = files.preview(&[]);
    assert!(status == 2 && told.contains("nothing to preview"), "{told}");
    files.write("draft.yaml", &DRAFT.replace("tables:", "table:"));
    let (status, told) = files.preview(&["-f", "draft.yaml"]);
    assert!(
        status == 2 && told.contains("draft.yaml: AccessPolicy read-orders: spec.rules[0].postgres.table"),
        "{told}"
    );
}

#[test]
fn conditions_are_explained_with_what_they_come_to() {
    let files = Files::new();
    let when = |name: &str, effect, condition: &str| {
        let when = Some(When::Holds(Condition::parse(condition).unwrap()));
        sallyport_policy::Rule { when, ..policy::rule(name, effect, &["Select"]) }
    };
    let mut broken = policy::rule("broken", Effect::Allow, &["Select"]);
    broken.when = Some(When::Broken("agent.nmae".into()));
    let rules = vec![
        when("office", Effect::Deny, "!(now.getHours('Europe/Amsterdam') in [9, 10])"),
        when("shop", Effect::Allow, "session.database == 'shop'"),
        when("psql", Effect::Allow, "session.applicationName == 'psql' && session.started == now"),
        broken,
    ];
    files.write("bundle.json", &policy::bundle("db", 5432, vec![policy::policy("p", rules)]).to_json());
    let explain = |more: &[&str]| files.explain(&[&["--agent", "ci/bot"], more, &["select 1 from orders"]].concat());
    let morning = "--at=2026-12-24T08:30:00Z";
    let (status, told) = explain(&[morning]);
    let expected = "conditions, at 2026-12-24T08:30:00Z
  false    p/office  when !(now.getHours('Europe/Amsterdam') in [9, 10])
  unknown  p/shop  when session.database == 'shop'
  unknown  p/psql  when session.applicationName == 'psql' && session.started == now
  broken   p/broken  when agent.nmae
statement 1
";
    assert!(status == 1 && told.contains(expected), "{status} {told}");
    assert!(told.starts_with("deny by no rule allows Select on public.orders now: rule shop of policy p"), "{told}");
    let (status, told) = explain(&[morning, "--database", "shop"]);
    assert!(status == 0 && told.contains("true     p/shop") && told.starts_with("allow by p/shop"), "{told}");
    let (status, told) = explain(&[morning, "--application-name", "psql"]);
    assert!(status == 0 && told.starts_with("allow by p/psql"), "{told}");
    let (status, told) = explain(&["--at=2026-12-24T10:30:00Z", "--database", "shop"]);
    assert!(status == 1 && told.starts_with("deny by p/office"), "{told}");
    let (status, json) = explain(&[morning, "-o", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, &json["at"]), (1, &Value::from("2026-12-24T08:30:00Z")));
    assert_eq!(json["conditions"][3]["outcome"], "broken");
    let (status, told) = explain(&["--at", "soon"]);
    assert!(status == 2 && told.contains("--at"), "{told}");
}

#[test]
fn a_preview_judges_by_the_time_and_the_session_that_were_recorded() {
    let files = Files::recorded();
    let draft = |when: &str| {
        let when = format!("message: keep it, when: \"{when}\", postgres: {{statements: [Delete]}}");
        let same = DRAFT.replace("message: keep it, postgres: {statements: [Delete]}", &when);
        let all = "postgres: {statements: [Select], tables: ['public.*']}";
        files.write("draft.yaml", &same.replace(all, "postgres: {}"));
    };
    // It was four in the afternoon, and the deletes came within its first five seconds.
    for (when, denied) in [
        ("now.getHours() == 16", 3),
        ("now.getHours() == 17", 0),
        ("now - session.started == duration('4s')", 1),
        ("session.clientAddress == '10.0.0.1'", 3),
        ("session.clientAddress != '10.0.0.1'", 0),
        // No database was recorded.
        ("session.database == 'shop'", 3),
    ] {
        draft(when);
        let (_, told) = files.preview(&["-f", "draft.yaml"]);
        let expected = format!("allow -> deny: {denied}\n");
        assert_eq!(told.contains(&expected), denied > 0, "{when}: {told}");
        assert_eq!(told.contains("allow -> deny"), denied > 0, "{when}: {told}");
        assert!(told.contains("    first at 2026-11-23T16:00:0"), "{told}");
    }
    draft("now.getHour() == 16");
    let (status, told) = files.preview(&["-f", "draft.yaml"]);
    let expected =
        "AccessPolicy read-orders would not be accepted: rule no-deletes: when, line 1, column 5: there is no .getHour";
    assert!(status == 2 && told.contains(expected), "{told}");
}
