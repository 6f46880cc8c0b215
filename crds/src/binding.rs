//! What an identity is bound to: the pods from whose addresses alone its certificate counts.
//!
//! Owns the selector's fields and rules, and the one spelling of a binding by which a status says what it
//! answers. Touches nothing. Invariant: two bindings that select differently are spelled differently.

use std::collections::BTreeMap;
use std::fmt;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;
use crate::{AgentIdentitySpec, AgentIdentityStatus};

/// Addresses that a status has room for.
pub const MOST_ADDRESSES: usize = 256;

/// Where an identity's certificate may be used from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoundTo {
    /// The pods, in this object's namespace. A pod on its node's network is never counted: others share its address.
    pub pod_selector: PodSelector,
}

/// Pods by their labels; all that is listed must hold. Unlike elsewhere in Kubernetes it cannot be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)").message("a podSelector names at least one label: an empty one would select every pod of the namespace"))]
pub struct PodSelector {
    /// Labels with their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Labels and what must hold of their values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A label and what must hold of its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)").message("In and NotIn need values, Exists and DoesNotExist take none"))]
pub struct LabelRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317), regex(pattern = schema::LABEL_KEY))]
    pub key: String,
    /// What must hold.
    pub operator: LabelOperator,
    /// The values that In and NotIn speak of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63), regex(pattern = schema::LABEL_VALUE)))]
    pub values: Vec<String>,
}

/// What must hold of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// It is there and has one of the values.
    In,
    /// It is not there, or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl AgentIdentitySpec {
    /// The binding as `status.boundFor` spells it; none where the identity is not bound.
    #[must_use]
    pub fn binding(&self) -> Option<String> {
        let selector = &self.bound_to.as_ref()?.pod_selector;
        Some(match &self.service_account_name {
            Some(account) => format!("{selector}; serviceAccountName={account}"),
            None => selector.to_string(),
        })
    }
}

impl AgentIdentityStatus {
    /// The addresses that hold for `spec`: none at all while the status still answers another binding.
    /// Whoever asks has made sure that the identity is bound.
    #[must_use]
    pub fn addresses_for(&self, spec: &AgentIdentitySpec) -> &[String] {
        let current = self.bound_for.is_some() && self.bound_for == spec.binding();
        if current { &self.bound_addresses } else { &[] }
    }
}

impl fmt::Display for PodSelector {
    /// As kubectl takes selectors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (key, value) in &self.match_labels {
            write!(f, "{comma}{key}={value}")?;
            comma = ",";
        }
        for LabelRequirement { key, operator, values } in &self.match_expressions {
            f.write_str(comma)?;
            comma = ",";
            match operator {
                LabelOperator::In => write!(f, "{key} in ({})", values.join(","))?,
                LabelOperator::NotIn => write!(f, "{key} notin ({})", values.join(","))?,
                LabelOperator::Exists => f.write_str(key)?,
                LabelOperator::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(account: Option<&str>) -> AgentIdentitySpec {
        let tier = LabelRequirement {
            key: "tier".into(),
            operator: LabelOperator::NotIn,
            values: vec!["dev".into(), "test".into()],
        };
        let gone = LabelRequirement { key: "canary".into(), operator: LabelOperator::DoesNotExist, values: Vec::new() };
        AgentIdentitySpec {
            service_account_name: account.map(str::to_owned),
            bound_to: Some(BoundTo {
                pod_selector: PodSelector {
                    match_labels: [("app".to_owned(), "migrate".to_owned())].into(),
                    match_expressions: vec![tier, gone],
                },
            }),
            ..AgentIdentitySpec::default()
        }
    }

    #[test]
    fn a_binding_is_spelled_as_kubectl_takes_it() {
        assert_eq!(spec(None).binding().unwrap(), "app=migrate,tier notin (dev,test),!canary");
        let bot = "app=migrate,tier notin (dev,test),!canary; serviceAccountName=bot";
        assert_eq!(spec(Some("bot")).binding().unwrap(), bot);
        assert_eq!(AgentIdentitySpec { bound_to: None, ..spec(Some("bot")) }.binding(), None);
    }

    #[test]
    fn addresses_of_another_binding_count_for_nothing() {
        let found = |bound_for: Option<String>| AgentIdentityStatus {
            bound_for,
            bound_addresses: vec!["10.0.0.1".into()],
            ..AgentIdentityStatus::default()
        };
        assert_eq!(found(spec(None).binding()).addresses_for(&spec(None)), ["10.0.0.1"]);
        assert!(found(spec(Some("bot")).binding()).addresses_for(&spec(None)).is_empty());
        assert!(found(None).addresses_for(&spec(None)).is_empty());
        assert!(found(None).addresses_for(&AgentIdentitySpec::default()).is_empty());
    }
}
