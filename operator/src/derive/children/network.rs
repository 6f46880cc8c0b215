//! What stands before a fleet: its Service, its disruption budget and its network policy.
//!
//! Owns these. Touches nothing. Invariant: agents reach the proxy's port and nothing else of a replica.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use sallyport_crds::{ProtectedTarget, ServiceType};

use super::super::names;
use super::Child;

/// Service, disruption budget and network policy of a fleet.
#[must_use]
pub fn frontage(target: &ProtectedTarget) -> Vec<Child> {
    vec![
        Child::Service(Box::new(service(target))),
        Child::PodDisruptionBudget(budget(target)),
        Child::NetworkPolicy(policy(target)),
    ]
}

fn service(target: &ProtectedTarget) -> Service {
    let name = target.name_any();
    let kind = match target.spec.proxy.service_type {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata: names::meta(target, name.clone()),
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            selector: Some(names::selector(&name)),
            ports: Some(vec![ServicePort {
                name: Some("proxy".to_owned()),
                port: target.spec.proxy.port.into(),
                target_port: Some(IntOrString::String("proxy".to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// One replica at a time may be taken away; a fleet of one can still be drained.
fn budget(target: &ProtectedTarget) -> PodDisruptionBudget {
    let name = target.name_any();
    PodDisruptionBudget {
        metadata: names::meta(target, names::fleet(&name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(pods(&name)),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// Agents may come from anywhere, metrics are for the cluster's own pods. Where a fleet may go is left open: the
/// API server and the target may be at any address, and a fleet that cannot reach either is worse than none.
fn policy(target: &ProtectedTarget) -> NetworkPolicy {
    let name = target.name_any();
    let port = |name: &str| {
        let port = Some(IntOrString::String(name.to_owned()));
        Some(vec![NetworkPolicyPort { port, protocol: Some("TCP".to_owned()), end_port: None }])
    };
    let any_pod =
        NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    NetworkPolicy {
        metadata: names::meta(target, names::fleet(&name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pods(&name)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule { ports: port("proxy"), from: None },
                NetworkPolicyIngressRule { ports: port("admin"), from: Some(vec![any_pod]) },
            ]),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn pods(target: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(names::selector(target)), ..LabelSelector::default() }
}
