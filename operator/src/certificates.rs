//! Writing certificates: a new key and its certificate go into one Secret, at once.
//!
//! Owns that write. Touches the API server and the authority. Invariant: a Secret that appeared or changed
//! since it was looked at is not overwritten.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};

use crate::controllers::Context;
use crate::derive::certificate::Order;
use crate::derive::names::FIELD_MANAGER;
use crate::fault::Fault;
use crate::issue::leaf::{Role, Subject};
use crate::issue::{Authority, tls_secret};

/// What is to be issued, and into which Secret.
#[derive(Debug)]
pub(crate) struct Issue<'a> {
    /// Taken once: certificate and bundle are of one authority, also while another comes into force.
    pub(crate) authority: &'a Authority,
    pub(crate) order: &'a Order,
    pub(crate) role: Role,
    pub(crate) subject: Subject<'a>,
    pub(crate) metadata: ObjectMeta,
}

/// Metadata of a certificate's Secret.
pub(crate) fn metadata(
    name: &str,
    namespace: &str,
    owner: OwnerReference,
    labels: BTreeMap<String, String>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Issues, and writes the Secret: made if there was none, replaced if it is still the one in `found`.
pub(crate) async fn write(
    context: &Context,
    secrets: &Api<Secret>,
    found: Option<&Secret>,
    issue: Issue<'_>,
) -> Result<Secret, Fault> {
    let issued = issue.authority.issue(issue.order, issue.role, issue.subject)?;
    let name = issue.metadata.name.clone().unwrap_or_default();
    let mut secret = tls_secret(issue.metadata, &issued, issue.authority.bundle());
    let written = match found {
        // Made, not applied: an apply would overwrite a Secret that somebody made in between.
        None => {
            secrets
                .create(&PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }, &secret)
                .await?
        }
        Some(found) => {
            // With the version we looked at: a conflict if it changed or was made anew since.
            secret.metadata.resource_version = found.resource_version();
            let params = PatchParams::apply(FIELD_MANAGER).force();
            secrets.patch(&name, &params, &Patch::Apply(&secret)).await?
        }
    };
    context.metrics.wrote("Secret");
    Ok(written)
}
