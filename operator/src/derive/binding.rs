//! From which addresses an identity may be used: those of the pods it is bound to.
//!
//! Owns that choice and what is told about it. Touches nothing. Invariant: an address is listed only while a pod
//! that is selected, runs under the wanted service account and shares its address with nobody is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use sallyport_crds::conditions::{BOUND, Finding, ok, reason};
use sallyport_crds::{
    AgentIdentity, AgentIdentityStatus, LabelOperator, LabelRequirement, MOST_ADDRESSES, PodSelector,
};

use super::certificate::until;
use super::pods::Pod;

/// Where one identity may be used from.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// The binding that is answered.
    pub bound_for: String,
    /// The addresses, sorted.
    pub addresses: Vec<String>,
    /// What to tell.
    pub finding: Finding,
    /// How long nothing changes by itself.
    pub again: Option<Duration>,
}

/// Whether the selector means a pod with these labels.
#[must_use]
pub fn selects(selector: &PodSelector, labels: &BTreeMap<String, String>) -> bool {
    // The schema refuses it; what means every pod would bind to nothing.
    let empty = selector.match_labels.is_empty() && selector.match_expressions.is_empty();
    !empty
        && selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|requirement| holds(requirement, labels.get(&requirement.key)))
}

fn holds(requirement: &LabelRequirement, value: Option<&String>) -> bool {
    let listed = || value.is_some_and(|value| requirement.values.contains(value));
    match requirement.operator {
        LabelOperator::In => listed(),
        LabelOperator::NotIn => !listed(),
        LabelOperator::Exists => value.is_some(),
        LabelOperator::DoesNotExist => value.is_none(),
    }
}

/// The binding of `identity`, where it has one. `pods` are those of its namespace; none while they are not known
/// yet: then what was told before stays, for an operator that starts knows less than the one before it did.
#[must_use]
pub fn of(identity: &AgentIdentity, pods: Option<&[Arc<Pod>]>, now: Timestamp) -> Option<Binding> {
    let selector = &identity.spec.bound_to.as_ref()?.pod_selector;
    let bound_for = identity.spec.binding()?;
    let Some(pods) = pods else { return Some(before(identity, bound_for)) };

    let no_labels = BTreeMap::new();
    let selected = |pod: &&Arc<Pod>| selects(selector, pod.metadata.labels.as_ref().unwrap_or(&no_labels));
    let account = identity.spec.service_account_name.as_deref();
    let (mut counted, mut strangers, mut sharing) = (Vec::new(), 0_usize, 0_usize);
    for pod in pods.iter().filter(selected).filter(|pod| pod.is_there(now)) {
        if account.is_some_and(|account| !pod.runs_as(account)) {
            strangers += 1;
        } else if pod.is_on_its_nodes_network() {
            sharing += 1;
        } else if pod.addresses().next().is_some() {
            counted.push(pod);
        }
    }
    let again = counted.iter().filter_map(|pod| pod.ends()).min().map(|end| until(end, now));
    // The oldest first: where there is no room, who is in stays in.
    counted.sort_by_cached_key(|pod| {
        let born = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (born, pod.metadata.uid.clone(), pod.metadata.name.clone())
    });
    let (mut addresses, mut housed) = (BTreeSet::new(), 0_usize);
    for pod in &counted {
        if addresses.len() + pod.addresses().count() > MOST_ADDRESSES {
            break;
        }
        addresses.extend(pod.addresses());
        housed += 1;
    }
    let mut finding = if counted.is_empty() {
        let message = format!("nobody may use it: no pod with {selector} has an address of its own");
        Finding::no(BOUND, reason::NO_PODS, message)
    } else if housed < counted.len() {
        let message = format!(
            "there is room for {MOST_ADDRESSES} addresses: of {} pods with {selector} only the {housed} oldest may use it, bind fewer",
            counted.len()
        );
        Finding::no(BOUND, reason::TOO_MANY_ADDRESSES, message)
    } else {
        Finding::yes(BOUND, ok::BOUND, format!("it may be used from {} with {selector}", number(housed)))
    };
    if let Some(account) = account.filter(|_| strangers > 0) {
        let strangers = number(strangers);
        let _infallible =
            write!(finding.message, "; left out: {strangers} under another service account than {account}");
    }
    if sharing > 0 {
        let sharing = number(sharing);
        let _infallible = write!(finding.message, "; left out: {sharing} with hostNetwork, whose address others share");
    }
    let addresses = addresses.into_iter().map(|address| address.to_string()).collect();
    Some(Binding { bound_for, addresses, finding, again })
}

fn number(pods: usize) -> String {
    if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") }
}

/// What was told before, as far as it answers the same binding.
fn before(identity: &AgentIdentity, bound_for: String) -> Binding {
    let none = AgentIdentityStatus::default();
    let status = identity.status.as_ref().unwrap_or(&none);
    let told = status.conditions.iter().find(|condition| condition.type_ == BOUND);
    let answered = told.filter(|_| status.bound_for.as_ref() == Some(&bound_for)).and_then(finding_of);
    let pending =
        || Finding::no(BOUND, reason::PENDING, "nobody may use it yet: the pods of its namespace are awaited");
    Binding {
        addresses: status.addresses_for(&identity.spec).to_vec(),
        finding: answered.unwrap_or_else(pending),
        bound_for,
        again: None,
    }
}

fn finding_of(told: &Condition) -> Option<Finding> {
    let word =
        [ok::BOUND, reason::NO_PODS, reason::TOO_MANY_ADDRESSES].into_iter().find(|word| *word == told.reason)?;
    let message = told.message.clone();
    Some(Finding { type_: BOUND, holds: told.status == "True", reason: word, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-11-23T10:00:00Z";

    fn identity() -> AgentIdentity {
        let spec = json!({"boundTo": {"podSelector": {"matchLabels": {"app": "bot"}}}});
        let object = json!({"apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity", "metadata": {"name": "bot"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn pod(name: &str, minute: usize, addresses: &[String]) -> Arc<Pod> {
        let born = format!("2026-11-23T{:02}:{:02}:00Z", minute / 60, minute % 60);
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let meta = json!({"name": name, "labels": {"app": "bot"}, "creationTimestamp": born});
        Arc::new(
            serde_json::from_value(json!({"metadata": meta, "status": {"phase": "Running", "podIPs": ips}})).unwrap(),
        )
    }

    fn bound(pods: &[Arc<Pod>]) -> Binding {
        of(&identity(), Some(pods), NOW.parse().unwrap()).unwrap()
    }

    #[test]
    fn where_there_is_no_room_the_oldest_stay_and_it_is_told() {
        // Each has two addresses; the oldest has the last name and the highest address.
        let address = |n: usize| [format!("10.0.{}.{}", n / 250, n % 250), format!("fd00::{n:x}")];
        let count = MOST_ADDRESSES / 2 + 1;
        let mut pods: Vec<_> = (0..count).map(|n| pod(&format!("p{n:03}"), 500 - n, &address(n))).collect();
        let all = bound(&pods);
        assert_eq!(all.addresses.len(), MOST_ADDRESSES);
        assert!(!all.addresses.contains(&"10.0.0.0".to_owned()), "the youngest is out, with both its addresses");
        assert!(!all.addresses.contains(&"fd00::".to_owned()));
        assert_eq!((all.finding.holds, all.finding.reason), (false, reason::TOO_MANY_ADDRESSES));
        assert!(all.finding.message.contains(&format!("of {count} pods with app=bot only the {} oldest", count - 1)));
        pods.remove(0);
        assert!(bound(&pods).finding.holds);
    }

    #[test]
    fn addresses_are_sorted_as_addresses_and_each_stands_once() {
        let ips = |all: &[&str]| all.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>();
        let pods = [
            pod("a", 1, &ips(&["fd00::2", "10.0.0.10"])),
            pod("b", 2, &ips(&["10.0.0.9", "::ffff:10.0.0.10", "nonsense"])),
        ];
        assert_eq!(bound(&pods).addresses, ["10.0.0.9", "10.0.0.10", "fd00::2"]);
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_looked_at_again_when_its_time_is_over() {
        let mut leaving = (*pod("a", 1, &["10.0.0.1".to_owned()])).clone();
        let end = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-11-23T10:00:30Z".parse().unwrap());
        leaving.metadata.deletion_timestamp = Some(end);
        let pods = [Arc::new(leaving)];
        assert_eq!(bound(&pods).again, Some(Duration::from_secs(30)));
        let later = of(&identity(), Some(&pods), "2026-11-23T10:00:30Z".parse().unwrap()).unwrap();
        assert_eq!((later.addresses.len(), later.again, later.finding.reason), (0, None, reason::NO_PODS));
    }

    #[test]
    fn operators_mean_what_they_mean_elsewhere_in_kubernetes() {
        let labels: BTreeMap<_, _> =
            [("app", "bot"), ("tier", "prod")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let means = |selector: Value| selects(&serde_json::from_value(selector).unwrap(), &labels);
        let one = |key: &str, operator: &str, values: &[&str]| {
            means(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        assert!(means(json!({"matchLabels": {"app": "bot", "tier": "prod"}})));
        assert!(!means(json!({"matchLabels": {"app": "bot", "tier": "dev"}})));
        assert!(!means(json!({"matchLabels": {"app": "bot", "zone": ""}})), "an absent label is no empty one");
        assert!(one("tier", "In", &["dev", "prod"]) && !one("tier", "In", &["dev"]) && !one("zone", "In", &["a"]));
        assert!(one("tier", "NotIn", &["dev"]) && one("zone", "NotIn", &["a"]) && !one("tier", "NotIn", &["prod"]));
        assert!(one("tier", "Exists", &[]) && !one("zone", "Exists", &[]));
        assert!(one("zone", "DoesNotExist", &[]) && !one("tier", "DoesNotExist", &[]));
        assert!(!means(json!({})), "what would mean every pod means none");
        let both =
            json!({"matchLabels": {"app": "bot"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]});
        assert!(!means(both), "all must hold");
    }
}
