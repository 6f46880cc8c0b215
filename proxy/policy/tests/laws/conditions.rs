//! Laws of conditions: what a rule that counts only sometimes can and cannot do, for every policy.

use std::time::Duration;

use proptest::prelude::*;
use sallyport_policy::*;

use super::{NOW, action, allow_all, bundle, rules, session, verdict, world};

fn holds(text: &str) -> Option<When> {
    Some(When::Holds(Condition::parse(text).unwrap()))
}

/// Of each outcome one. The database is not known in these sessions.
fn when(outcome: Outcome) -> Option<When> {
    match outcome {
        Outcome::True => holds("agent.name == 'bot'"),
        Outcome::False => holds("agent.name == 'other'"),
        Outcome::Unknown => holds("session.database == 'shop'"),
        Outcome::Broken => Some(When::Broken("agent.nmae == 'bot'".into())),
    }
}

const OUTCOMES: [Outcome; 4] = [Outcome::True, Outcome::False, Outcome::Unknown, Outcome::Broken];

fn outcomes() -> impl Strategy<Value = Vec<Option<Outcome>>> {
    let outcome = proptest::option::of(proptest::sample::select(OUTCOMES.to_vec()));
    proptest::collection::vec(outcome, 5)
}

fn with(rules: &[Rule], outcomes: &[Option<Outcome>]) -> Vec<Rule> {
    let one = |(rule, outcome): (&Rule, &Option<Outcome>)| Rule { when: outcome.and_then(when), ..rule.clone() };
    rules.iter().zip(outcomes).map(one).collect()
}

/// What is to be left of a rule.
fn resolved(rules: &[Rule], outcomes: &[Option<Outcome>], keep: impl Fn(&Rule, Outcome) -> bool) -> Vec<Rule> {
    let kept = rules.iter().zip(outcomes).filter(|(rule, outcome)| outcome.is_none_or(|outcome| keep(rule, outcome)));
    kept.map(|(rule, _)| rule.clone()).collect()
}

fn is_allow(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Allow { .. })
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allow { .. } => "allow",
        Verdict::Ask(_) => "ask",
        Verdict::Deny(_) => "deny",
    }
}

proptest! {
    #[test]
    fn a_rule_counts_while_its_condition_holds_and_otherwise_is_not_there(
        rules in rules(None), outcomes in proptest::collection::vec(any::<bool>(), 5), action in action(),
    ) {
        let outcomes: Vec<_> =
            outcomes.iter().map(|holds| Some(if *holds { Outcome::True } else { Outcome::False })).collect();
        let left = resolved(&rules, &outcomes, |_, outcome| outcome == Outcome::True);
        prop_assert_eq!(word(&verdict(&with(&rules, &outcomes), &action)), word(&verdict(&left, &action)));
    }

    #[test]
    fn where_it_is_not_known_nothing_is_let_through_that_is_not_either_way(
        rules in rules(None), outcomes in outcomes(), action in action(), turned_out in proptest::collection::vec(any::<bool>(), 5),
    ) {
        let judged = verdict(&with(&rules, &outcomes), &action);
        let is_open = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Unknown | Outcome::Broken));
        let then: Vec<_> = outcomes.iter().zip(&turned_out).map(|(outcome, holds)| match outcome {
            open if is_open(open) => Some(if *holds { Outcome::True } else { Outcome::False }),
            known => *known,
        }).collect();
        let known = verdict(&with(&rules, &then), &action);
        match judged {
            Verdict::Allow { .. } => prop_assert!(is_allow(&known), "{:?}", known),
            Verdict::Ask(_) => prop_assert!(!matches!(known, Verdict::Deny(_)), "{:?}", known),
            Verdict::Deny(_) => {}
        }
    }

    #[test]
    fn the_order_of_rules_does_not_matter_to_conditions(
        rules in rules(None), outcomes in outcomes(), action in action(),
    ) {
        let mut rules = with(&rules, &outcomes);
        let before = word(&verdict(&rules, &action));
        rules.reverse();
        prop_assert_eq!(before, word(&verdict(&rules, &action)));
    }

    #[test]
    fn a_bundle_with_conditions_reads_back_as_itself(rules in rules(None), outcomes in outcomes()) {
        let bundle = bundle(with(&rules, &outcomes));
        prop_assert_eq!(Bundle::read(&bundle.to_json()).unwrap(), bundle);
    }

    #[test]
    fn to_observe_refuses_nothing_whatever_the_conditions(
        rules in rules(None), outcomes in outcomes(), action in action(),
    ) {
        let rules = with(&rules, &outcomes);
        let mut world = world(rules.clone());
        let mut observing = (*world.bundle).clone();
        observing.policies[0].mode = Mode::Observe;
        world.bundle = std::sync::Arc::new(observing);
        let decided = decide(&world, &session(), NOW, &action);
        prop_assert!(is_allow(&decided));
        let would = would_have(&world, &session(), NOW, &action, &decided);
        prop_assert_eq!(would.as_ref().map_or("allow", word), word(&verdict(&rules, &action)));
    }
}

fn select() -> Action {
    Action { operations: vec![Operation::bare("Select")], ..Action::none() }
}

fn rule(name: &str, effect: Effect, when: Option<When>) -> Rule {
    Rule { name: name.into(), effect, message: None, matcher: Matcher::default(), when }
}

fn asking() -> Effect {
    Effect::Ask(AskTerms { approvals: 1, timeout_seconds: 1, validity_seconds: 1, not_by: NotBy::Requester })
}

#[test]
fn each_effect_by_each_outcome() {
    // Alone, and beside a rule that allows everything.
    for (effect, outcome, alone, beside) in [
        (Effect::Allow, Outcome::True, "allow", "allow"),
        (Effect::Allow, Outcome::False, "deny", "allow"),
        (Effect::Allow, Outcome::Unknown, "deny", "allow"),
        (Effect::Allow, Outcome::Broken, "deny", "allow"),
        (asking(), Outcome::True, "ask", "ask"),
        (asking(), Outcome::False, "deny", "allow"),
        // What may have to be asked is, and yet no approval would cover it.
        (asking(), Outcome::Unknown, "deny", "ask"),
        (asking(), Outcome::Broken, "deny", "ask"),
        (Effect::Deny, Outcome::True, "deny", "deny"),
        (Effect::Deny, Outcome::False, "deny", "allow"),
        (Effect::Deny, Outcome::Unknown, "deny", "deny"),
        (Effect::Deny, Outcome::Broken, "deny", "deny"),
    ] {
        let sometimes = rule("sometimes", effect, when(outcome));
        let judged = |rules: &[Rule]| word(&verdict(rules, &select()));
        assert_eq!(judged(std::slice::from_ref(&sometimes)), alone, "{effect:?} {outcome}");
        assert_eq!(judged(&[allow_all(), vec![sometimes]].concat()), beside, "{effect:?} {outcome}");
    }
}

#[test]
fn a_refusal_says_which_condition_it_hangs_on() {
    let told = |effect, outcome| {
        let rules =
            [vec![rule("sometimes", effect, when(outcome))], if effect == Effect::Deny { allow_all() } else { vec![] }];
        match verdict(&rules.concat(), &select()) {
            Verdict::Deny(denial) => (denial.to_string(), denial.rule().map(|(_, rule)| rule.to_owned())),
            other => panic!("{other:?}"),
        }
    };
    let named = Some("sometimes".to_owned());
    let unread = "refused by policy p, rule sometimes: its condition cannot be read: tell the policy's owner";
    assert_eq!(told(Effect::Deny, Outcome::Broken), (unread.into(), named.clone()));
    let unknown = "refused by policy p, rule sometimes: what it depends on cannot be derived";
    assert_eq!(told(Effect::Deny, Outcome::Unknown), (unknown.into(), named.clone()));
    assert_eq!(told(Effect::Deny, Outcome::True), ("refused by policy p, rule sometimes".into(), named));
    let not_now = "no rule allows Select now: rule sometimes of policy p has a condition, which does not hold or cannot be derived";
    for outcome in [Outcome::False, Outcome::Unknown, Outcome::Broken] {
        assert_eq!(told(Effect::Allow, outcome), (not_now.into(), None));
    }
}

#[test]
fn every_command_is_judged_at_its_own_time_and_by_its_own_tables() {
    let office = holds("!(now.getHours('Europe/Amsterdam') in [8,9,10,11,12,13,14,15,16])");
    let world = world([allow_all(), vec![rule("business-hours-only", Effect::Deny, office)]].concat());
    // 23 November 2026 is a Monday; Amsterdam is an hour ahead.
    let at = |hour: u64, minute: u64| NOW + Duration::from_secs(1_795_392_000 + hour * 3600 + minute * 60);
    let judged = |now| word(&decide(&world, &session(), now, &select()));
    assert_eq!([at(6, 59), at(7, 0), at(15, 59), at(16, 0)].map(judged), ["deny", "allow", "allow", "deny"]);
    // In summer by two hours.
    let july = |hour: u64| NOW + Duration::from_secs(1_783_987_200 + hour * 3600);
    assert_eq!([july(5), july(6), july(14), july(15)].map(judged), ["deny", "allow", "allow", "deny"]);

    let public = holds("command.tables.all(t, t.startsWith('public.'))");
    let public = vec![rule("public-only", Effect::Allow, public)];
    let on = |names: &[(&'static str, &'static str)]| {
        let names = names.iter().map(|(space, name)| QualifiedName::new(*space, *name)).collect();
        let object = Object { kind: ObjectKind::Table, names, usage: Usage::Read };
        Action { operations: vec![Operation::on("Select", object)], ..Action::none() }
    };
    assert_eq!(word(&verdict(&public, &on(&[("public", "a")]))), "allow");
    assert_eq!(word(&verdict(&public, &on(&[("app", "a")]))), "deny");
    assert_eq!(word(&verdict(&public, &on(&[("public", "a"), ("app", "a")]))), "deny", "it could be either");
    assert_eq!(word(&verdict(&public, &on(&[("public.x", "a")]))), "deny", "a schema's name is no prefix of another's");
    assert_eq!(word(&verdict(&public, &Action::opaque("Execute"))), "deny");
}

#[test]
fn the_conditions_that_a_verdict_hangs_on_are_told() {
    let mut rules: Vec<_> =
        OUTCOMES.iter().map(|outcome| rule(&outcome.to_string(), Effect::Allow, when(*outcome))).collect();
    rules.push(Rule {
        matcher: Matcher { verbs: Some(vec!["Drop".into()]), ..Matcher::default() },
        ..rule("another-verb", Effect::Deny, when(Outcome::True))
    });
    let world = world(rules);
    let told = conditions(&world, &session(), NOW, &select());
    let told: Vec<_> = told.iter().map(|one| (one.rule, one.outcome)).collect();
    let expected: Vec<_> = ["true", "false", "unknown", "broken"].into_iter().zip(OUTCOMES).collect();
    assert_eq!(told, expected);
}

#[test]
fn several_policies_have_conditions_of_their_own() {
    let mut several = bundle(vec![rule("by-day", Effect::Allow, when(Outcome::True))]);
    let mut other = several.policies[0].clone();
    other.name = "q".into();
    other.rules = vec![rule("by-night", Effect::Deny, when(Outcome::False))];
    several.policies.push(other);
    let judged = |bundle: &Bundle| {
        let mut world = world(Vec::new());
        world.bundle = std::sync::Arc::new(bundle.clone());
        word(&decide(&world, &session(), NOW, &select()))
    };
    assert_eq!(judged(&several), "allow");
    several.policies[1].rules[0].when = when(Outcome::Unknown);
    assert_eq!(judged(&several), "deny");
    several.policies[1].rules[0].when = None;
    assert_eq!(judged(&several), "deny");
}

#[test]
fn masks_hold_whatever_the_conditions() {
    let mut masked = bundle(vec![rule("sometimes", Effect::Allow, when(Outcome::False))]);
    masked.policies[0].masks = vec![Mask {
        columns: vec![ColumnPattern::parse("public.a.email").unwrap()],
        detect: Vec::new(),
        method: MaskMethod::Redact,
        strict: false,
    }];
    let mut world = world(Vec::new());
    world.bundle = std::sync::Arc::new(masked);
    assert!(!masks(&world, &session()).is_empty());
}

#[test]
fn a_bundle_whose_condition_this_proxy_cannot_read_is_refused_whole() {
    let sound = bundle(vec![rule("sometimes", Effect::Allow, when(Outcome::True))]);
    let json = sound.to_json();
    let newer = json.replace("agent.name == 'bot'", "agent.clearance > 3");
    let Err(BundleError::Unreadable(error)) = Bundle::read(&newer) else { panic!("read") };
    assert!(error.to_string().contains("line 1, column 7: agent has no clearance"), "{error}");
    // What a proxy from before conditions does with one: the same as with any field of a rule that it does not know.
    let unknown = json.replace("\"when\"", "\"until\"");
    assert!(matches!(Bundle::read(&unknown), Err(BundleError::Unreadable(_))));
    // And one from before reads as it always did, under the same revision.
    let before = bundle(allow_all());
    assert!(!before.to_json().contains("when"));
    assert_eq!(Bundle::read(&before.to_json()).unwrap().revision, before.revision);
}

/// The page that tells of them names every fact, with its type.
#[test]
fn every_fact_is_documented() {
    let page = include_str!("../../../../docs/policies.md");
    for (name, type_) in condition_facts() {
        assert!(
            page.contains(&format!("| `{name}` | {type_} |")),
            "docs/policies.md does not tell of {name} ({type_})"
        );
    }
}
