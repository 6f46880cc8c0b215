//! Alerts and dashboard in `config/monitoring`: every query parses, every alert says what to do, fires when it should
//! and not before. Reads those files, `docs/identity.md` and the README, and asks Prometheus' own promtool; changes
//! nothing. That the metrics they name exist is asked by the tests of the programs that expose them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What promtool is to try the alerts on.
const TRIALS: [&str; 2] = ["tests/architecture/monitoring/operator.yaml", "tests/architecture/monitoring/fleets.yaml"];
const RUNBOOK: &str = "https://github.com/sallyport/sallyport/blob/main/docs/identity.md#";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn alerts() -> Vec<Value> {
    let groups = yaml("config/monitoring/rules.yaml")["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// Headings of the document, as the links to them are spelled.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")).collect()
}

#[test]
fn every_alert_parses_and_says_what_it_is_and_what_to_do() {
    let anchors = anchors(&text("docs/identity.md"));
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap().to_owned();
        let query = alert["expr"].as_str().unwrap();
        promql_parser::parser::parse(query).unwrap_or_else(|error| panic!("{name}: {error}: {query}"));
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
        for annotation in ["summary", "description"] {
            assert!(alert["annotations"][annotation].as_str().is_some_and(|it| it.len() > 20), "{name}: {annotation}");
        }
        let runbook = alert["annotations"]["runbook_url"].as_str().unwrap();
        let anchor = runbook.strip_prefix(RUNBOOK).unwrap_or_else(|| panic!("{name}: {runbook}"));
        assert!(anchor == name.to_lowercase() && anchors.contains(anchor), "{name}: no heading for {anchor}");
        assert!(names.insert(name.clone()), "{name} twice");
    }
    let told: BTreeSet<_> = names.iter().map(|name| name.to_lowercase()).collect();
    let orphans: Vec<_> = anchors.iter().filter(|it| it.starts_with("sallyport") && !told.contains(*it)).collect();
    assert!(orphans.is_empty(), "runbooks of no alert: {orphans:?}");
}

fn promtool(arguments: &[&str]) {
    let run = Command::new("promtool").args(arguments).current_dir(root()).output();
    let output = run.expect("promtool comes with Debian's package prometheus, which hack/setup.sh installs");
    let (told, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{wrong}");
}

#[test]
fn prometheus_takes_the_rules_and_fires_each_when_it_should_and_not_before() {
    promtool(&["check", "rules", "config/monitoring/rules.yaml"]);
    promtool(&[&["test", "rules"], &TRIALS[..]].concat());
}

#[test]
fn every_alert_is_tried_once_where_it_fires_and_once_where_it_does_not() {
    let mut tried = BTreeSet::new();
    for trial in TRIALS {
        for scene in yaml(trial)["tests"].as_array().unwrap() {
            for case in scene["alert_rule_test"].as_array().unwrap() {
                let fires = !case["exp_alerts"].as_array().unwrap().is_empty();
                tried.insert((case["alertname"].as_str().unwrap().to_owned(), fires));
            }
        }
    }
    let name = |alert: &Value| alert["alert"].as_str().unwrap().to_owned();
    let wanted = alerts().iter().flat_map(|alert| [(name(alert), false), (name(alert), true)]).collect();
    assert_eq!(tried, wanted);
}

#[test]
fn both_forms_of_the_rules_say_the_same() {
    let (plain, wrapped) = (yaml("config/monitoring/rules.yaml"), yaml("config/monitoring/prometheusrule.yaml"));
    assert_eq!(wrapped["spec"], plain, "config/monitoring/prometheusrule.yaml is not rules.yaml");
    assert_eq!(wrapped["kind"], "PrometheusRule");
}

#[test]
fn every_panel_parses_and_has_a_place_of_its_own() {
    let dashboard: Value = serde_json::from_str(&text("config/monitoring/dashboard.json")).unwrap();
    let (mut places, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
        for place in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(place.0 < 24 && places.insert(place), "{title} lies on another or outside");
        }
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(targets.is_empty(), panel["type"] == "row", "{title}");
        for target in targets {
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
            promql_parser::parser::parse(&query).unwrap_or_else(|error| panic!("{title}: {error}: {query}"));
        }
    }
}

#[test]
fn a_reader_finds_the_runbook() {
    assert!(text("README.md").contains("docs/identity.md"), "the README does not link to docs/identity.md");
}
