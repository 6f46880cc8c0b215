//! Laws of asking: what an Ask rule, an answer and an approval can and cannot do, for every policy.

use proptest::prelude::*;
use sallyport_policy::*;

use super::{action, allowed, completions, rules, terms, verdict};

fn is_asking(rule: &Rule) -> bool {
    matches!(rule.effect, Effect::Ask(_))
}

fn asking() -> impl Strategy<Value = Vec<Rule>> {
    rules(None).prop_map(|rules| rules.into_iter().filter(is_asking).collect())
}

fn without_asking(rules: &[Rule]) -> Vec<Rule> {
    rules.iter().filter(|rule| !is_asking(rule)).cloned().collect()
}

/// The same rules, where who asks allows.
fn asking_nobody(rules: &[Rule]) -> Vec<Rule> {
    let allowing =
        |rule: &Rule| Rule { effect: if is_asking(rule) { Effect::Allow } else { rule.effect }, ..rule.clone() };
    rules.iter().map(allowing).collect()
}

proptest! {
    #[test]
    fn deny_wins_over_ask_and_nothing_is_asked_that_an_approval_could_not_let_through(rules in rules(None), action in action()) {
        let denied = matches!(verdict(&rules, &action), Verdict::Deny(_));
        prop_assert_eq!(denied, !allowed(&asking_nobody(&rules), &action));
    }

    #[test]
    fn an_ask_rule_never_allows_by_itself(rules in rules(None), action in action()) {
        prop_assert!(!allowed(&rules, &action) || allowed(&without_asking(&rules), &action));
    }

    #[test]
    fn ask_wins_over_allow_however_unknown_facts_turn_out(rules in rules(None), action in action()) {
        for known in completions(&action) {
            if matches!(verdict(&rules, &known), Verdict::Ask(_)) {
                prop_assert!(!allowed(&rules, &action), "in ignorance it is not allowed unasked: {:?}", known);
            }
        }
    }

    #[test]
    fn another_ask_rule_refuses_nothing_and_the_terms_only_become_stricter(
        rules in rules(None), more in asking(), action in action(),
    ) {
        let mut asking = rules.clone();
        asking.extend(more);
        match (verdict(&rules, &action), verdict(&asking, &action)) {
            (Verdict::Allow { .. }, then) => prop_assert!(!matches!(then, Verdict::Deny(_))),
            (Verdict::Ask(before), Verdict::Ask(then)) => prop_assert_eq!(before.terms.and(then.terms), then.terms),
            (Verdict::Ask(_), then) => prop_assert!(false, "no longer asked: {:?}", then),
            (Verdict::Deny(_), then) => prop_assert!(!is_allow(&then)),
        }
    }

    #[test]
    fn the_order_of_rules_does_not_change_what_is_asked(rules in rules(None), action in action()) {
        let mut turned = rules.clone();
        turned.reverse();
        let asked = |rules: &[Rule]| match verdict(rules, &action) {
            Verdict::Ask(ask) => Some(ask.terms),
            _ => None,
        };
        prop_assert_eq!(asked(&rules), asked(&turned));
    }

    #[test]
    fn an_approval_helps_the_question_it_was_given_to_and_no_other(
        rules in rules(None), action in action(), other in terms(),
    ) {
        let before = verdict(&rules, &action);
        let approval = match &before {
            Verdict::Ask(ask) => Approval { revision: "one".into(), rule: ask.rule, terms: ask.terms },
            // One of another time does nothing to what is allowed or denied.
            _ => {
                prop_assert_eq!(before.clone().answered("one", None), before);
                return Ok(());
            }
        };
        prop_assert!(is_allow(&before.clone().answered("one", Some(&approval))));
        prop_assert_eq!(before.clone().answered("one", None), before.clone());
        prop_assert_eq!(before.clone().answered("two", Some(&approval)), before.clone());
        if other != approval.terms {
            prop_assert_eq!(before.clone().answered("one", Some(&Approval { terms: other, ..approval.clone() })), before);
        }
        let denied = Verdict::Deny(DenyReason::Suspended.into());
        prop_assert_eq!(denied.clone().answered("one", Some(&approval)), denied);
    }

    #[test]
    fn approvals_are_of_different_people_and_one_denial_denies(terms in terms(), by in proptest::collection::vec((0usize..6, any::<bool>()), 0..8)) {
        const USERS: [&str; 6] = ["alice", "bob", "carol", "requester", "system:serviceaccount:ci:bot", "sallyport:agent:ci/bot"];
        let replies: Vec<_> = by.iter().map(|(who, approves)| reply(USERS[*who], *approves)).collect();
        let people = |approves: bool| {
            let mut all: Vec<_> = by.iter().filter(|(who, said)| *who < 3 && *said == approves).map(|(who, _)| *who).collect();
            all.sort_unstable();
            all.dedup();
            u32::try_from(all.len()).unwrap()
        };
        let expected = match (people(false), terms.approvals.saturating_sub(people(true))) {
            (0, 0) => "approved",
            (0, _) => "pending",
            _ => "denied",
        };
        prop_assert_eq!(word(&terms.tally(&bot(), Some("requester"), &replies)), expected);
    }

    #[test]
    fn a_command_is_known_by_the_whole_of_itself(text in ".*", parameters in proptest::collection::vec(".*", 0..3), other in ".*") {
        let digest = command_digest(&text, &parameters);
        prop_assert_eq!(&digest, &command_digest(&text, &parameters));
        prop_assert!(digest.len() == 71 && digest.starts_with("sha256:"));
        prop_assert!(other == text || command_digest(&other, &parameters) != digest);
        let more: Vec<_> = parameters.iter().cloned().chain([other]).collect();
        prop_assert_ne!(command_digest(&text, &more), digest);
    }
}

fn is_allow(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Allow { .. })
}

fn reply(by: &str, approves: bool) -> Reply {
    Reply { by: by.into(), approves, comment: None }
}

fn bot() -> IdentityName {
    IdentityName::new("cluster.local", "ci", "bot").unwrap()
}

fn word(tally: &Tally) -> &'static str {
    match tally {
        Tally::Pending { .. } => "pending",
        Tally::Approved => "approved",
        Tally::Denied { .. } => "denied",
    }
}

#[test]
fn programs_answer_where_the_rule_says_so_and_never_those_of_the_agents_own_namespace() {
    let tally = |not_by, by: &str| {
        let terms = AskTerms { approvals: 1, timeout_seconds: 60, validity_seconds: 600, not_by };
        word(&terms.tally(&bot(), None, &[reply(by, true)]))
    };
    assert_eq!(tally(NotBy::ServiceAccounts, "alice@example.com"), "approved");
    assert_eq!(tally(NotBy::ServiceAccounts, "system:serviceaccount:chat:ops"), "pending");
    assert_eq!(tally(NotBy::Requester, "system:serviceaccount:chat:ops"), "approved");
    assert_eq!(tally(NotBy::Requester, "system:serviceaccount:ci:anything"), "pending");
    assert_eq!(tally(NotBy::Requester, "system:serviceaccount:ci"), "pending");
    assert_eq!(tally(NotBy::Requester, "sallyport:agent:ci/bot"), "pending");
    assert_eq!(tally(NotBy::Requester, "system:node:one"), "pending");
    assert_eq!(tally(NotBy::Requester, ""), "pending");
}

#[test]
fn what_is_too_long_to_show_is_told_apart() {
    let long = "x".repeat(32 * 1024);
    assert!(can_be_shown(&long, &[]));
    assert!(!can_be_shown(&long, &["y".into()]));
    assert!(!can_be_shown("", &["y".repeat(4097)]));
    assert!(!can_be_shown("", &vec![String::new(); 129]));
    assert!(!can_be_shown("a\0b", &[]));
}

#[test]
fn the_digest_is_what_anybody_can_compute() {
    // printf %s 'drop table orders' | sha256sum
    let digest = "sha256:1a8e7b53d40ff3730fed9ec09131614c561e16212a49e16006816e4b5e0c5f41";
    assert_eq!(command_digest("drop table orders", &[]), digest);
}

#[test]
fn a_bundle_with_a_rule_that_asks_reads_back_and_one_from_before_still_loads() {
    let ask = r#"{"Ask":{"approvals":2,"timeoutSeconds":60,"validitySeconds":3600,"notBy":"ServiceAccounts"}}"#;
    let effect: Effect = serde_json::from_str(ask).unwrap();
    assert_eq!(serde_json::to_string(&effect).unwrap(), ask);
    assert!(serde_json::from_str::<Effect>(&ask.replace("\"approvals\":2,", "")).is_err());
    assert!(serde_json::from_str::<Effect>(&ask.replace("notBy", "notBye")).is_err());
    assert_eq!(serde_json::from_str::<Effect>("\"Allow\"").unwrap(), Effect::Allow);
}
