//! What a fleet may do in the cluster: read its one bundle, write its own status entries, and ask people.
//!
//! Owns the service account, role and binding. Touches nothing. Invariant: every rule names its resource, but for the
//! questions of the fleet, whose names come with them: whose they are is held by an admission policy.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::ResourceExt;
use sallyport_crds::ProtectedTarget;

use super::super::names;
use super::Child;

/// Service account, role and binding of a fleet.
#[must_use]
pub fn foundations(target: &ProtectedTarget) -> Vec<Child> {
    let name = target.name_any();
    let fleet = names::fleet(&name);
    let account = ServiceAccount { metadata: names::meta(target, fleet.clone()), ..ServiceAccount::default() };
    let role = Role {
        metadata: names::meta(target, fleet.clone()),
        rules: Some(vec![
            rule("", "configmaps", &names::bundle(&name), &["get", "list", "watch"]),
            rule(sallyport_crds::GROUP, "protectedtargets", &name, &["get"]),
            rule(sallyport_crds::GROUP, "protectedtargets/status", &name, &["patch"]),
            questions("accessrequests", &["create", "get", "list", "watch"]),
            questions("accessrequests/status", &["update"]),
        ]),
    };
    let binding = RoleBinding {
        metadata: names::meta(target, fleet.clone()),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "Role".to_owned(),
            name: fleet.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: fleet,
            namespace: target.namespace(),
            api_group: None,
        }]),
    };
    vec![Child::ServiceAccount(account), Child::Role(role), Child::RoleBinding(binding)]
}

fn questions(resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule { resource_names: None, ..rule(sallyport_crds::GROUP, resource, "", verbs) }
}

fn rule(group: &str, resource: &str, name: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(vec![name.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}
