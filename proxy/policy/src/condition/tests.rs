//! What conditions mean, by tables and by laws.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::action::{Action, Fact, Object, ObjectKind, Operation, QualifiedName, Usage};
use crate::fixture::world;
use crate::{IdentityName, Member, Session};

/// Thursday, 24 December 2026, 17:30:15.250 UTC: 18:30 in Amsterdam, 12:30 in New York.
fn christmas() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_798_133_415_250)
}

fn member() -> Member {
    Member {
        namespace: "ci".into(),
        name: "bot".into(),
        groups: vec!["migrations".into(), "night".into()],
        ..Member::default()
    }
}

/// All is known of it.
fn session() -> Session {
    Session {
        identity: IdentityName::new("cluster.local", "ci", "bot").unwrap(),
        not_before: 0,
        uid: None,
        address: Some([10, 0, 0, 7].into()),
        credential: "readonly".into(),
        facts: SessionFacts {
            database: Fact::Known("shop".into()),
            application_name: Fact::Known("psql".into()),
            started: Fact::Known(christmas() - Duration::from_secs(2 * 3600 + 90)),
        },
    }
}

/// Nothing is known of it but who it is of.
fn blank() -> Session {
    Session { address: None, facts: SessionFacts::default(), ..session() }
}

fn on(verb: &'static str, kind: ObjectKind, names: &[(&'static str, &'static str)]) -> Operation {
    let names = names.iter().map(|(space, name)| QualifiedName::new(*space, *name)).collect();
    Operation::on(verb, Object { kind, names, usage: Usage::Read })
}

fn known() -> Action {
    let operations = vec![
        on("Select", ObjectKind::Table, &[("public", "orders")]),
        on("Select", ObjectKind::Table, &[("Odd.One", "items")]),
        on("Call", ObjectKind::Function, &[("public", "refund")]),
    ];
    Action { operations, ..Action::none() }
}

/// One name of two meanings.
fn ambiguous() -> Action {
    let operations = vec![
        on("Select", ObjectKind::Table, &[("public", "orders")]),
        on("Update", ObjectKind::Table, &[("public", "items"), ("app", "items")]),
    ];
    Action { operations, ..Action::none() }
}

fn opaque() -> Action {
    let mut action = known();
    action.operations.push(Action::opaque("Execute").operations.remove(0));
    action
}

fn outcome(text: &str, session: &Session, action: &Action) -> Outcome {
    let condition = Condition::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let (world, member) = (world(Vec::new()), member());
    condition.holds(&Facts::new(&world, &member, session, christmas(), action))
}

fn all_are(expected: Outcome, session: &Session, action: &Action, texts: &[&str]) {
    for text in texts {
        assert_eq!(outcome(text, session, action), expected, "{text}");
    }
}

#[test]
fn every_fact_is_what_it_says() {
    all_are(
        Outcome::True,
        &session(),
        &known(),
        &[
            "agent.namespace == 'ci'",
            "agent.name == \"bot\"",
            "agent.groups.exists(g, g == 'night') && size(agent.groups) == 2",
            "'migrations' in agent.groups",
            "agent.uri == 'spiffe://cluster.local/ns/ci/agent/bot'",
            "target.namespace + '/' + target.name == 'shop/orders-db'",
            "session.credential == 'readonly'",
            "session.database == 'shop'",
            "session.applicationName == 'psql'",
            "session.clientAddress == '10.0.0.7'",
            "session.started < now && now - session.started > duration('2h1m')",
            "command.statements.all(s, s in ['Select', 'Call']) && command.statements.size() == 2",
            "command.tables.exists(t, t == 'public.orders')",
            "'\"Odd.One\".items' in command.tables",
            "command.functions.all(f, f.startsWith('public.'))",
            "now == timestamp('2026-12-24T17:30:15.25Z')",
        ],
    );
    // And there is a line for each of them above.
    assert_eq!(condition_facts().count(), 15);
}

#[test]
fn the_operators_are_those_of_cel() {
    all_are(
        Outcome::True,
        &session(),
        &known(),
        &[
            "true || false && false",
            "!(false || !true)",
            "!!true",
            "1 + 2 * 3 - 4 == 3",
            "-7 / 2 == -3 && -7 % 2 == -1 && - - 3 == 3",
            "0x1F == 31 && -9223372036854775808 < 9223372036854775807",
            "'a' + \"b\" == r'ab' && 'a' < 'b' && 'Z' < 'a'",
            r#"'\x41\u00e9\U0001F600\101\'\n' == "Aé😀A'\n""#,
            r"r'\d' == '\\d'",
            "size('é😀') == 2 && 'é😀'.size() == 2",
            "'orders'.contains('rde') && 'orders'.endsWith('s') && !'orders'.startsWith('s')",
            r"'orders_2026'.matches('^orders_[0-9]{4}$') && 'xordersx'.matches(r'o\w+s') && !'é'.matches(r'^\w$')",
            "false ? false : true ? true : false",
            "(1 in [1, 2, 3,]) == true && !(4 in [1, 2, 3]) && !(1 in [])",
            "duration('1h30m') == duration('90m') && duration('-1.5h') < duration('0')",
            "duration('100m').getHours() == 1 && duration('100m').getMinutes() == 100",
            "timestamp('2026-01-01T00:00:00+01:00') == timestamp('2025-12-31T23:00:00Z')",
            "now + duration('1h') > now && duration('1h') + now == now - duration('-60m')",
            "// a comment\n  true // and another",
        ],
    );
}

#[test]
fn time_is_read_as_a_clock_on_that_wall_shows_it() {
    all_are(
        Outcome::True,
        &session(),
        &known(),
        &[
            "now.getFullYear() == 2026 && now.getMonth() == 11 && now.getDate() == 24 && now.getDayOfMonth() == 23",
            "now.getDayOfWeek() == 4 && now.getDayOfYear() == 357",
            "now.getHours() == 17 && now.getMinutes() == 30 && now.getSeconds() == 15 && now.getMilliseconds() == 250",
            "now.getHours('Europe/Amsterdam') == 18 && now.getHours('America/New_York') == 12",
            "now.getHours('+05:45') == 23 && now.getMinutes('+05:45') == 15 && now.getDate('+12:00') == 25",
            "now.getHours('UTC') == 17",
            // The night that summer time ends: 00:30 UTC is 02:30, and so is 01:30 UTC.
            "timestamp('2026-10-25T00:30:00Z').getHours('Europe/Amsterdam') == 2",
            "timestamp('2026-10-25T01:30:00Z').getHours('Europe/Amsterdam') == 2",
            // And the one that it begins: there is no 02:30.
            "timestamp('2026-03-29T00:59:59Z').getHours('Europe/Amsterdam') == 1",
            "timestamp('2026-03-29T01:00:00Z').getHours('Europe/Amsterdam') == 3",
            // Long after the last rule that is written down.
            "timestamp('2061-07-01T12:00:00Z').getHours('Europe/Amsterdam') == 14",
            "!(now.getHours('Europe/Amsterdam') in [8,9,10,11,12,13,14,15,16])",
        ],
    );
}

#[test]
fn what_is_not_known_is_overcome_only_by_what_decides_alone() {
    let unknown = [
        "session.database == 'shop'",
        "session.database != 'shop'",
        "!(session.database == 'shop')",
        "session.database in ['shop', 'other']",
        "session.database in agent.groups",
        "session.database == session.database",
        "session.database.startsWith('')",
        "session.database.matches('.*')",
        "size(session.database) >= 0",
        "session.database + 'x' != 'y'",
        "session.applicationName == ''",
        "session.clientAddress.startsWith('10.')",
        "session.started <= now",
        "(session.database == 'shop' ? 1 : 1) == 1",
        "session.database == 'a' || session.database != 'a'",
        "agent.groups.all(g, g != session.database)",
        // What cannot be computed is not known either.
        "1 / 0 == 1",
        "1 % 0 == 1",
        "9223372036854775807 + 1 > 0",
        "-9223372036854775808 - 1 < 0 ",
        "-9223372036854775807 * 2 < 0",
        "-9223372036854775808 / -1 < 0",
        "timestamp('9999-12-30T00:00:00Z') + duration('87600h') > now",
    ];
    all_are(Outcome::Unknown, &blank(), &known(), &unknown);
    for text in unknown {
        all_are(Outcome::False, &blank(), &known(), &[&format!("({text}) && agent.name == 'other'")]);
        all_are(Outcome::True, &blank(), &known(), &[&format!("{text} || agent.name == 'bot'")]);
        all_are(Outcome::Unknown, &blank(), &known(), &[&format!("{text} && agent.name == 'bot'")]);
    }
}

#[test]
fn of_a_list_it_may_be_known_what_is_in_it_and_not_what_else() {
    all_are(
        Outcome::True,
        &session(),
        &ambiguous(),
        &[
            "'public.orders' in command.tables",
            "command.tables.all(t, t.endsWith('s'))",
            "size(command.functions) == 0",
        ],
    );
    all_are(
        Outcome::Unknown,
        &session(),
        &ambiguous(),
        &[
            "'app.items' in command.tables",
            "command.tables.exists(t, t.startsWith('app.'))",
            "command.tables.all(t, t.startsWith('public.'))",
            "size(command.tables) == 2",
        ],
    );
    all_are(Outcome::False, &session(), &ambiguous(), &["'other.items' in command.tables"]);
    all_are(
        Outcome::True,
        &session(),
        &opaque(),
        &[
            "'public.orders' in command.tables",
            "'Execute' in command.statements",
            "!command.tables.all(t, t != 'public.orders')",
        ],
    );
    all_are(
        Outcome::Unknown,
        &session(),
        &opaque(),
        &[
            "'public.secrets' in command.tables",
            "command.tables.all(t, true)",
            "!('Drop' in command.statements)",
            "command.functions.exists(f, f == 'public.wipe')",
            "size(command.statements) > 0",
        ],
    );
}

#[test]
fn an_author_is_told_what_is_wrong_and_where() {
    for (text, at, expected) in [
        ("", (1, 1), "a value is missing here"),
        ("agent.nmae == 'bot'", (1, 7), "agent has no nmae: it has namespace, name, groups, uri"),
        ("true &&\n  agnet.name == 'bot'", (2, 3), "agnet is not known"),
        ("agent", (1, 1), "agent is no value by itself"),
        ("now", (1, 1), "a condition is true or false, and this is of type timestamp"),
        ("agent.name", (1, 7), "and this is of type string"),
        ("'é' == 1", (1, 8), "== compares values of one type (string), and this is of type int"),
        ("now.getHours('Europe/Amsterdm') == 8", (1, 14), "there is no time zone \"Europe/Amsterdm\""),
        ("now.getHours('europe/amsterdam') == 8", (1, 14), "there is no time zone"),
        ("now.getHours('+2:00') == 8", (1, 14), "is no offset"),
        ("now.getHours('+99:00') == 8", (1, 14), "is no offset"),
        ("now.getHours(agent.name) == 8", (1, 5), "takes a time zone that is written down"),
        ("agent.name.getHours() == 8", (1, 12), "there is no getHours of a value of type string"),
        ("agent.name.matches(agent.uri)", (1, 26), "is written down"),
        ("agent.name.matches('(')", (1, 20), "no regular expression"),
        ("agent.name.matches('(a{900}){900}')", (1, 20), "no regular expression"),
        ("has(session.database)", (1, 1), "has is not known here"),
        ("session.database == null", (1, 21), "null is not known here"),
        ("timestamp('2026-12-24') < now", (1, 11), "this is no time"),
        ("timestamp(agent.name) < now", (1, 1), "takes one text that is written down"),
        ("duration('1 h') < duration('1x')", (1, 10), "this is no duration"),
        ("agent.groups[0] == 'a'", (1, 13), "lists are not indexed"),
        ("agent.groups == ['a']", (1, 14), "lists are not compared"),
        ("agent.groups.map(g, g) == 1", (1, 14), "there is no .map"),
        ("agent.groups.exists(now, true)", (1, 21), "now is taken"),
        ("agent.groups.exists(g, agent.groups.exists(g, true))", (1, 44), "g is taken"),
        ("agent.groups.exists(g, h == g)", (1, 24), "h is not known"),
        ("agent.name in ['a', 1]", (1, 21), "the list holds what is compared with it (string)"),
        ("1 in agent.groups", (1, 1), "the list holds texts"),
        ("agent.name = 'a'", (1, 12), "a comparison is written =="),
        ("true & true", (1, 6), "written &&"),
        ("1.5 > 1", (1, 1), "numbers are whole here"),
        ("1u == 1u", (1, 1), "unsigned"),
        ("99999999999999999999 > 1", (1, 1), "none of 64 bits"),
        ("9223372036854775808 > 1", (1, 1), "64 bits"),
        ("b'x' == b'x'", (1, 1), "bytes"),
        ("'''x''' == 'x'", (1, 1), "three quotes"),
        ("'x", (1, 1), "has no end"),
        (r"'\d' == 'x'", (1, 2), "no escape"),
        ("{'a': 1}", (1, 1), "maps"),
        ("namespace == 'x'", (1, 1), "reserved"),
        ("true true", (1, 6), "an operator is missing"),
        ("(true", (1, 6), "\")\" is missing"),
        ("true ? 1 : 'a' == 'a'", (1, 16), "both sides of : have one type"),
        ("true < false", (1, 6), "no order"),
        ("now + now == now", (1, 5), "+ does not go with timestamp and timestamp"),
    ] {
        let error = Condition::parse(text).expect_err(text);
        assert_eq!((error.line, error.column), at, "{text}: {error}");
        assert!(error.message.contains(expected), "{text}: {error}");
    }
}

#[test]
fn texts_that_are_too_long_deep_or_large_are_refused_and_reasonable_ones_are_not() {
    let deep = |n: usize| format!("{}true{}", "(".repeat(n), ")".repeat(n));
    assert!(Condition::parse(&deep(7)).is_ok());
    assert!(Condition::parse(&deep(8)).unwrap_err().message.contains("at most 8 deep"));
    assert!(Condition::parse(&format!("{}true", "!".repeat(1000))).unwrap_err().message.contains("too much"));
    assert!(Condition::parse(&format!("0{} > 0", "+1".repeat(400))).unwrap_err().message.contains("too much"));
    assert!(Condition::parse(&format!("true{}", "?true:true".repeat(90))).unwrap_err().message.contains("8 deep"));
    assert!(Condition::parse(&format!("1 in [{}1]", "1,".repeat(300))).unwrap_err().message.contains("too much"));
    let long = format!("true //{}", "x".repeat(LONGEST_CONDITION));
    assert!(Condition::parse(&long).unwrap_err().message.contains("1024 bytes"));
    let chain = vec!["agent.name == 'bot'"; 40].join("||");
    assert_eq!(outcome(&chain, &session(), &known()), Outcome::True);
}

#[test]
fn no_evaluation_takes_more_than_its_steps() {
    let names: Vec<String> = (0..100).map(|n| format!("group-{n}")).collect();
    let (world, session, action) = (world(Vec::new()), session(), known());
    let member = Member { groups: names, ..member() };
    let facts = Facts::new(&world, &member, &session, christmas(), &action);
    let holds = |text: &str| Condition::parse(text).unwrap().holds(&facts);
    assert_eq!(holds("agent.groups.all(a, a.startsWith('group-'))"), Outcome::True);
    assert_eq!(holds("agent.groups.all(a, agent.groups.all(b, a + b != ''))"), Outcome::Unknown);
    // What is spent does not come back, and what decides alone still does.
    assert_eq!(holds("agent.groups.all(a, agent.groups.all(b, a + b != '')) || true"), Outcome::Unknown);
    assert_eq!(holds("true || agent.groups.all(a, agent.groups.all(b, a + b != ''))"), Outcome::True);
}

#[test]
fn a_condition_is_known_by_its_text_and_reads_back() {
    let text = "agent.name == 'bot' // \"quoted\"";
    let when = When::Holds(Condition::parse(text).unwrap());
    let json = serde_json::to_string(&when).unwrap();
    assert_eq!(json, r#"{"holds":"agent.name == 'bot' // \"quoted\""}"#);
    assert_eq!(serde_json::from_str::<When>(&json).unwrap(), when);
    assert!(serde_json::from_str::<When>(r#"{"holds":"agent.name"}"#).is_err());
    let broken = When::Broken("agent.name".into());
    assert_eq!(serde_json::to_string(&broken).unwrap(), r#"{"broken":"agent.name"}"#);
    assert_eq!(broken.text(), "agent.name");
}

/// Runs on a stack of 256 KiB, an eighth of what a task of the proxy has, without optimisation.
fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(256 * 1024).spawn(work).unwrap().join().unwrap()
}

/// Words that the language is made of, in any order: more of them come to something than of random letters.
fn words() -> impl Strategy<Value = String> {
    let word = proptest::sample::select(vec![
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "?",
        ":",
        "&&",
        "||",
        "==",
        "!=",
        "<",
        ">=",
        "in",
        "agent",
        "agent.name",
        "agent.groups",
        "now",
        "session.started",
        "command.tables",
        "size",
        "exists",
        "all",
        "g",
        "matches",
        "getHours",
        "duration",
        "timestamp",
        "'a'",
        "\"1h\"",
        "'UTC'",
        "r'(a|b)*'",
        "0",
        "17",
        "true",
        "false",
        "'",
        "\\",
        "//",
        "\n",
        "null",
        "has",
        "1.",
        "0x",
        "é",
    ]);
    proptest::collection::vec(word, 0..200).prop_map(|words| words.join(" "))
}

/// Openers and chains, as long as they may be.
fn towers() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "(",
        "[",
        "!",
        "-",
        "size(",
        "1+",
        "true?",
        "true?true:",
        "true&&",
        "'a'+",
        "1 in [",
        "agent.groups.all(g,",
        ".size()",
        "x.",
        "'a'.contains(",
        "((",
        "1==1==",
    ]);
    (piece, 1usize..2000, ".{0,8}").prop_map(|(piece, times, end)| format!("{}{end}", piece.repeat(times)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_is_too_much_for_the_compiler(text in prop_oneof![".{0,300}", words(), towers()]) {
        let judged = on_a_small_stack(move || {
            let condition = Condition::parse(&text).ok()?;
            Some(outcome(condition.text(), &session(), &known()))
        });
        prop_assert!(judged != Some(Outcome::Broken));
    }

    #[test]
    fn what_is_certain_in_ignorance_is_so_however_it_turns_out(
        text in boolean(),
        (database, application, started, address) in any::<(bool, bool, bool, bool)>(),
        hidden in any::<bool>(),
    ) {
        let full = session();
        let partly = Session {
            address: full.address.filter(|_| address),
            facts: SessionFacts {
                database: if database { full.facts.database.clone() } else { Fact::Unknown },
                application_name: if application { full.facts.application_name.clone() } else { Fact::Unknown },
                started: if started { full.facts.started.clone() } else { Fact::Unknown },
            },
            ..full.clone()
        };
        let (seen, real) = if hidden { (opaque(), wider()) } else { (ambiguous(), resolved()) };
        let ignorant = outcome(&text, &partly, &seen);
        let certain = outcome(&text, &full, &real);
        if ignorant != Outcome::Unknown && certain != Outcome::Unknown {
            prop_assert_eq!(ignorant, certain, "{}", text);
        }
    }
}

/// What [`opaque`] could turn out to be.
fn wider() -> Action {
    let mut action = known();
    action.operations.push(on("Execute", ObjectKind::Table, &[("public", "secrets")]));
    action.operations.push(on("Drop", ObjectKind::Table, &[("app", "items")]));
    action
}

/// What [`ambiguous`] could.
fn resolved() -> Action {
    let operations = vec![
        on("Select", ObjectKind::Table, &[("public", "orders")]),
        on("Update", ObjectKind::Table, &[("app", "items")]),
    ];
    Action { operations, ..Action::none() }
}

/// Conditions that compile.
fn boolean() -> impl Strategy<Value = String> {
    let text = proptest::sample::select(vec![
        "agent.name",
        "session.database",
        "session.applicationName",
        "session.clientAddress",
        "'shop'",
        "'app.items'",
        "'public.orders'",
        "'10.0.0.7'",
        "'Drop'",
    ]);
    let list =
        proptest::sample::select(vec!["agent.groups", "command.tables", "command.statements", "command.functions"]);
    let time = proptest::sample::select(vec!["now", "session.started", "timestamp('2026-12-24T17:00:00Z')"]);
    let leaf = prop_oneof![
        (text.clone(), text.clone()).prop_map(|(a, b)| format!("{a} == {b}")),
        (text.clone(), text.clone()).prop_map(|(a, b)| format!("{a}.contains({b})")),
        (text.clone(), list.clone()).prop_map(|(a, list)| format!("{a} in {list}")),
        (text.clone(), text.clone()).prop_map(|(a, b)| format!("{a} in [{b}, 'x']")),
        (list.clone(), text.clone()).prop_map(|(list, a)| format!("{list}.exists(e, e == {a})")),
        (list.clone(), text.clone()).prop_map(|(list, a)| format!("{list}.all(e, e != {a})")),
        (list.clone(), 0..4).prop_map(|(list, n)| format!("size({list}) > {n}")),
        (time.clone(), time).prop_map(|(a, b)| format!("{a} < {b}")),
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("1 / 0 == 1".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) && ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) || ({b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a}) ? ({b}) : ({c})")),
        ]
    })
}
