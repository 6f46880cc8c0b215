//! The project's custom resource definitions, from their files into an API server.
//! It reads `config/crd` and applies what is there, server-side; nothing is deleted.
//! It returns only when every definition is established, so the next request of a test finds its kind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

use crate::process::wait_until;

const ESTABLISHED: Duration = Duration::from_secs(30);

/// `config/crd` of this checkout.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/crd")
}

pub(super) async fn apply(client: &Client, folder: &Path) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definitions = read(folder)?;
    for definition in &definitions {
        let name = definition.metadata.name.as_deref().context("a definition has no name")?;
        let params = PatchParams::apply("sallyport-harness").force();
        api.patch(name, &params, &Patch::Apply(definition))
            .await
            .with_context(|| format!("cannot apply definition {name}"))?;
    }
    for definition in &definitions {
        let name = definition.metadata.name.as_deref().unwrap_or_default();
        let established = || async { Ok(api.get_opt(name).await?.is_some_and(|crd| is_established(&crd))) };
        wait_until(&format!("definition {name}"), ESTABLISHED, established).await?;
    }
    Ok(())
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Established" && c.status == "True"))
}

fn read(folder: &Path) -> Result<Vec<CustomResourceDefinition>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    let mut definitions = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(&text).with_context(|| format!("{} is not YAML", file.display()))?;
        for document in documents {
            if document.get("kind").and_then(|k| k.as_str()) == Some("CustomResourceDefinition") {
                let definition =
                    serde_json::from_value(document).with_context(|| format!("{} is no definition", file.display()))?;
                definitions.push(definition);
            }
        }
    }
    if definitions.is_empty() {
        bail!("{} holds no custom resource definition: generate them first", folder.display());
    }
    Ok(definitions)
}
