//! Laws of the decision and of the bundle that hold for every policy: generated, not hand-picked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use proptest::prelude::*;
use sallyport_policy::*;

#[path = "laws/asking.rs"]
mod asking;
#[path = "laws/conditions.rs"]
mod conditions;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const VERBS: [&str; 3] = ["Select", "Update", "Drop"];
const TABLES: [&str; 3] = ["a", "b", "c"];

fn session() -> Session {
    Session {
        identity: IdentityName::new("cluster.local", "ci", "bot").unwrap(),
        not_before: 100,
        uid: Some("one".into()),
        address: Some([10, 0, 0, 1].into()),
        credential: "default".into(),
        facts: SessionFacts::default(),
    }
}

fn bundle(rules: Vec<Rule>) -> Bundle {
    Bundle {
        version: BUNDLE_VERSION,
        revision: String::new(),
        target: TargetRef { namespace: "shop".into(), name: "orders-db".into() },
        trust_domain: "cluster.local".into(),
        upstream: Upstream {
            protocol: "postgres".into(),
            host: "db".into(),
            port: 5432,
            tls: TlsMode::VerifyFull,
            server_name: None,
            credentials: vec!["default".into()],
            settings: serde_json::Map::new(),
        },
        agent_namespaces: vec!["ci".into()],
        recording: Recording::at(RecordingLevel::Commands),
        sessions: FleetTerms::default(),
        policies: vec![PolicyEntry {
            name: "p".into(),
            subjects: vec![Subject::Agent { namespace: "ci".into(), name: "bot".into() }],
            credentials: vec!["default".into()],
            rules,
            ..PolicyEntry::default()
        }],
    }
    .sealed()
}

fn world(rules: Vec<Rule>) -> World {
    let mut roster = Roster::default();
    roster.insert(Member { namespace: "ci".into(), name: "bot".into(), ..Member::default() });
    World { bundle: Arc::new(bundle(rules)), roster: Arc::new(roster), generation: 1 }
}

fn matcher() -> impl Strategy<Value = Matcher> {
    let verbs = proptest::option::of(proptest::sample::subsequence(VERBS.to_vec(), 0..=3));
    let tables = proptest::option::of(proptest::sample::subsequence(TABLES.to_vec(), 0..=3));
    (verbs, tables, proptest::option::of(any::<bool>())).prop_map(|(verbs, tables, unbounded)| Matcher {
        verbs: verbs.map(|verbs| verbs.into_iter().map(str::to_owned).collect()),
        objects: tables.map(|names| {
            vec![ObjectMatcher {
                kind: ObjectKind::Table,
                names: names.iter().map(|name| NamePattern::parse(&format!("public.{name}")).unwrap()).collect(),
            }]
        }),
        attributes: unbounded.map(|wanted| (Attribute::Unbounded, wanted)).into_iter().collect(),
    })
}

fn rules(effect: Option<Effect>) -> impl Strategy<Value = Vec<Rule>> {
    let effects = match effect {
        Some(effect) => Just(effect).boxed(),
        None => prop_oneof![Just(Effect::Allow), Just(Effect::Deny), terms().prop_map(Effect::Ask)].boxed(),
    };
    proptest::collection::vec((matcher(), effects), 0..5).prop_map(move |rules| {
        let rule = |(n, (matcher, effect))| Rule { name: format!("r{n}"), effect, message: None, matcher, when: None };
        rules.into_iter().enumerate().map(rule).collect()
    })
}

fn terms() -> impl Strategy<Value = AskTerms> {
    let not_by = prop_oneof![Just(NotBy::Requester), Just(NotBy::ServiceAccounts)];
    (1u32..4, 1u64..4, 4u64..8, not_by).prop_map(|(approvals, timeout_seconds, validity_seconds, not_by)| AskTerms {
        approvals,
        timeout_seconds,
        validity_seconds,
        not_by,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let names = proptest::sample::subsequence(TABLES.to_vec(), 1..=3);
    let object = prop_oneof![
        Just(Fact::Unknown),
        Just(Fact::Known(None)),
        names.prop_map(|names| Fact::Known(Some(Object {
            kind: ObjectKind::Table,
            names: names.into_iter().map(|name| QualifiedName::new("public", name)).collect(),
            usage: Usage::Read,
        })))
    ];
    let unbounded = prop_oneof![Just(Fact::Unknown), any::<bool>().prop_map(Fact::Known)];
    (proptest::sample::select(VERBS.to_vec()), object, unbounded).prop_map(|(verb, object, unbounded)| Operation {
        verb: verb.into(),
        object,
        attributes: vec![(Attribute::Unbounded, unbounded)],
    })
}

fn action() -> impl Strategy<Value = Action> {
    proptest::collection::vec(operation(), 1..4).prop_map(|operations| Action { operations, ..Action::none() })
}

/// Every way the unknown facts of an action could turn out.
fn completions(action: &Action) -> Vec<Action> {
    let mut all = vec![Action::none()];
    for operation in &action.operations {
        let objects = match &operation.object {
            Fact::Unknown => {
                let mut every = vec![Fact::Known(None)];
                every.extend(TABLES.map(|name| {
                    Fact::Known(Some(Object {
                        kind: ObjectKind::Table,
                        names: vec![QualifiedName::new("public", name)],
                        usage: Usage::Read,
                    }))
                }));
                every
            }
            known => vec![known.clone()],
        };
        let unbounded = match operation.attribute(Attribute::Unbounded) {
            Fact::Unknown => vec![true, false],
            Fact::Known(known) => vec![known],
        };
        let mut next = Vec::new();
        for so_far in &all {
            for object in &objects {
                for value in &unbounded {
                    let mut longer = so_far.clone();
                    longer.operations.push(Operation {
                        verb: operation.verb.clone(),
                        object: object.clone(),
                        attributes: vec![(Attribute::Unbounded, Fact::Known(*value))],
                    });
                    next.push(longer);
                }
            }
        }
        all = next;
    }
    all
}

fn verdict(rules: &[Rule], action: &Action) -> Verdict {
    decide(&world(rules.to_vec()), &session(), NOW, action)
}

fn allowed(rules: &[Rule], action: &Action) -> bool {
    matches!(verdict(rules, action), Verdict::Allow { .. })
}

proptest! {
    #[test]
    fn without_an_allow_rule_nothing_is_allowed(rules in rules(Some(Effect::Deny)), action in action()) {
        prop_assert!(!allowed(&rules, &action));
    }

    #[test]
    fn removing_an_allow_never_widens(rules in rules(None), action in action(), at in 0usize..5) {
        let mut fewer = rules.clone();
        if fewer.get(at).is_some_and(|rule| rule.effect == Effect::Allow) { fewer.remove(at); }
        prop_assert!(!allowed(&fewer, &action) || allowed(&rules, &action));
    }

    #[test]
    fn adding_a_deny_never_widens(rules in rules(None), more in rules(Some(Effect::Deny)), action in action()) {
        let mut stricter = rules.clone();
        stricter.extend(more);
        prop_assert!(!allowed(&stricter, &action) || allowed(&rules, &action));
    }

    #[test]
    fn the_order_of_rules_does_not_matter(rules in rules(None), action in action()) {
        let mut turned = rules.clone();
        turned.reverse();
        prop_assert_eq!(allowed(&rules, &action), allowed(&turned, &action));
    }

    #[test]
    fn what_is_allowed_in_ignorance_is_allowed_however_it_turns_out(rules in rules(None), action in action()) {
        if allowed(&rules, &action) {
            for known in completions(&action) {
                prop_assert!(allowed(&rules, &known), "{:?}", known);
            }
        }
    }

    #[test]
    fn a_binding_never_widens(rules in rules(None), action in action(), addresses in addresses(), from in address()) {
        let mut bound = world(rules.clone());
        let free = world(rules);
        bound.roster = Arc::new(bound_to(Some(addresses.clone())));
        let session = Session { address: from, ..session() };
        let allowed = |world: &World| matches!(decide(world, &session, NOW, &action), Verdict::Allow { .. });
        prop_assert!(!allowed(&bound) || allowed(&free));
        let listed = from.is_some_and(|from| addresses.contains(&from));
        prop_assert_eq!(allowed(&bound), listed && allowed(&free), "an address of the list changes nothing");
        prop_assert_eq!(is_outside_binding(&bound, &session), !listed);
    }

    #[test]
    fn more_addresses_take_nothing_away(first in addresses(), more in addresses(), from in address()) {
        let all = [first.clone(), more].concat();
        let may = |addresses| bound_to(Some(addresses)).member("ci", "bot").unwrap().may_come_from(from);
        prop_assert!(!may(first) || may(all));
    }

    #[test]
    fn a_roster_reads_back_as_itself(addresses in proptest::option::of(addresses())) {
        let roster = bound_to(addresses);
        let json = serde_json::to_string(&roster).unwrap();
        prop_assert_eq!(serde_json::from_str::<Roster>(&json).unwrap(), roster);
    }

    #[test]
    fn a_bundle_reads_back_as_itself(rules in rules(None)) {
        let bundle = bundle(rules);
        prop_assert_eq!(Bundle::read(&bundle.to_json()).unwrap(), bundle);
    }
}

/// Few addresses, so that they meet.
fn address() -> impl Strategy<Value = Option<IpAddr>> {
    proptest::option::of(one_address())
}

fn one_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1u8..4).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        (1u16..4).prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])),
    ]
}

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    proptest::collection::vec(one_address(), 0..4)
}

fn bound_to(addresses: Option<Vec<IpAddr>>) -> Roster {
    let mut roster = Roster::default();
    roster.insert(Member { namespace: "ci".into(), name: "bot".into(), addresses, ..Member::default() });
    roster
}

#[test]
fn a_bound_identity_is_refused_from_elsewhere_and_from_no_address_at_all() {
    let mut world = world(allow_all());
    let refused = |world: &World, address| {
        standing(world, &Session { address, ..session() }).err().map(|denial| (denial.ends_session(), denial.reason))
    };
    let here = Some(IpAddr::from([10, 0, 0, 1]));
    let outside = Some((true, DenyReason::OutsideBinding));
    world.roster = Arc::new(bound_to(Some(vec![[10, 0, 0, 1].into()])));
    assert_eq!(refused(&world, here), None);
    assert_eq!(refused(&world, Some([10, 0, 0, 2].into())), outside);
    assert_eq!(refused(&world, None), outside);
    // A dual-stack listener sees IPv4 as IPv6.
    assert_eq!(refused(&world, Some("::ffff:10.0.0.1".parse().unwrap())), None);
    world.roster = Arc::new(bound_to(Some(vec!["::ffff:10.0.0.1".parse().unwrap()])));
    assert_eq!(refused(&world, here), None);
    // Bound, and to nothing: nobody.
    world.roster = Arc::new(bound_to(Some(Vec::new())));
    assert_eq!(refused(&world, here), outside);
    world.roster = Arc::new(bound_to(None));
    assert_eq!(refused(&world, None), None);
}

#[test]
fn a_suspended_or_revoked_identity_is_told_that_wherever_it_comes_from() {
    let mut world = world(allow_all());
    let elsewhere = Session { address: None, ..session() };
    let member = bound_to(Some(Vec::new())).member("ci", "bot").unwrap().clone();
    for (member, reason) in [
        (Member { suspended: true, ..member.clone() }, DenyReason::Suspended),
        (Member { min_not_before: 101, ..member }, DenyReason::Revoked),
    ] {
        let mut roster = Roster::default();
        roster.insert(member);
        world.roster = Arc::new(roster);
        assert_eq!(standing(&world, &elsewhere).unwrap_err().reason, reason);
        assert!(!is_outside_binding(&world, &elsewhere));
    }
}

#[test]
fn the_refusal_of_a_binding_says_no_address() {
    let mut world = world(allow_all());
    world.roster = Arc::new(bound_to(Some(vec![[10, 9, 8, 7].into()])));
    let told = standing(&world, &session()).unwrap_err().to_string();
    assert_eq!(told, "this identity is bound to pods, and this connection comes from none of them");
}

#[test]
fn a_roster_from_before_bindings_still_loads() {
    let roster: Roster = serde_json::from_str(r#"{"members": [{"namespace": "ci", "name": "bot"}]}"#).unwrap();
    assert_eq!(roster.member("ci", "bot").unwrap().addresses, None);
}

fn allow_all() -> Vec<Rule> {
    vec![Rule { name: "all".into(), effect: Effect::Allow, message: None, matcher: Matcher::default(), when: None }]
}

#[test]
fn a_suspended_identity_is_refused_even_an_empty_action() {
    let mut world = world(allow_all());
    assert!(matches!(decide(&world, &session(), NOW, &Action::none()), Verdict::Allow { rule: None }));
    let mut roster = Roster::default();
    roster.insert(Member { namespace: "ci".into(), name: "bot".into(), suspended: true, ..Member::default() });
    world.roster = Arc::new(roster);
    let Verdict::Deny(denial) = decide(&world, &session(), NOW, &Action::none()) else { panic!("allowed") };
    assert_eq!(denial.reason, DenyReason::Suspended);
    assert!(denial.ends_session());
}

#[test]
fn a_certificate_older_than_its_identity_is_refused() {
    let mut world = world(allow_all());
    let mut roster = Roster::default();
    roster.insert(Member { namespace: "ci".into(), name: "bot".into(), min_not_before: 101, ..Member::default() });
    world.roster = Arc::new(roster);
    assert_eq!(standing(&world, &session()).unwrap_err().reason, DenyReason::Revoked);
}

#[test]
fn a_certificate_of_an_identity_that_was_made_again_is_refused_whatever_its_time() {
    let mut world = world(allow_all());
    let mut met = |member: Option<&str>, certificate: Option<&str>| {
        let mut roster = Roster::default();
        let uid = member.map(str::to_owned);
        roster.insert(Member { namespace: "ci".into(), name: "bot".into(), uid, ..Member::default() });
        world.roster = Arc::new(roster);
        let session = Session { uid: certificate.map(str::to_owned), ..session() };
        standing(&world, &session).map_err(|denial| denial.reason)
    };
    assert_eq!(met(Some("one"), Some("one")), Ok(()));
    assert_eq!(met(Some("two"), Some("one")), Err(DenyReason::Revoked));
    assert_eq!(met(Some("two"), None), Err(DenyReason::Revoked), "one that does not say is of nobody");
    // A roster without UIDs (from files) asks for none.
    assert_eq!((met(None, Some("one")), met(None, None)), (Ok(()), Ok(())));
}

#[test]
fn a_group_of_the_same_name_in_another_namespace_is_another_group() {
    let mut world = world(allow_all());
    let mut bundle = (*world.bundle).clone();
    bundle.policies[0].subjects = vec![Subject::Group { namespace: "ci".into(), name: "migrations".into() }];
    world.bundle = Arc::new(bundle);
    let mut roster = Roster::default();
    roster.insert(Member {
        namespace: "other".into(),
        name: "bot".into(),
        groups: vec!["migrations".into()],
        ..Member::default()
    });
    roster.insert(Member { namespace: "ci".into(), name: "bot".into(), ..Member::default() });
    world.roster = Arc::new(roster);
    let mut stranger = session();
    stranger.identity = IdentityName::new("cluster.local", "other", "bot").unwrap();
    assert!(standing(&world, &stranger).is_err());
    assert!(standing(&world, &session()).is_err(), "in no group");
}

#[test]
fn an_ungranted_credential_names_those_that_are() {
    let world = world(allow_all());
    let mut other = session();
    other.credential = "admin".into();
    let denial = standing(&world, &other).unwrap_err();
    assert_eq!(denial.reason, DenyReason::CredentialNotGranted { granted: vec!["default".into()] });
    assert!(denial.to_string().contains("default"));
}

#[test]
fn a_bundle_from_a_newer_version_or_with_a_strange_field_is_refused_whole() {
    let json = bundle(allow_all()).to_json();
    let newer = json.replacen("\"version\": 1", "\"version\": 2", 1);
    assert!(matches!(Bundle::read(&newer), Err(BundleError::Version(2))));
    let strange = json.replacen("\"version\": 1", "\"version\": 1, \"quota\": 3", 1);
    assert!(matches!(Bundle::read(&strange), Err(BundleError::Unreadable(_))));
    let forged = json.replacen("\"Allow\"", "\"Deny\"", 1);
    assert!(matches!(Bundle::read(&forged), Err(BundleError::Revision { .. })));
    assert!(matches!(Bundle::read(&" ".repeat(2 << 20)), Err(BundleError::TooLong(_))));
}
