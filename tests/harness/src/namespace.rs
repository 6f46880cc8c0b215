//! A namespace for one test, gone after it.
//! It makes and deletes that namespace and nothing else in the cluster.
//! When it is handed out, its `default` service account exists, so pods can be created at once.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};

/// A namespace that is deleted when this is dropped.
pub struct TempNamespace {
    name: String,
    client: Client,
}

impl std::fmt::Debug for TempNamespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TempNamespace").field(&self.name).finish()
    }
}

impl TempNamespace {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The objects of one kind in it.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }
}

/// Makes `<prefix>-<something unique>`, with its `default` service account.
pub async fn temp_namespace(client: &Client, prefix: &str) -> Result<TempNamespace> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos());
    let name = format!("{prefix}-{:x}-{nanos:x}-{count}", std::process::id());
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .with_context(|| format!("cannot create namespace {name}"))?;
    let temp = TempNamespace { name, client: client.clone() };
    ensure_default_account(client, &temp.name).await?;
    Ok(temp)
}

/// Makes the `default` service account, which the controller-manager would make some seconds later.
pub(crate) async fn ensure_default_account(client: &Client, namespace: &str) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let default = ServiceAccount {
        metadata: ObjectMeta { name: Some("default".to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    match accounts.create(&PostParams::default(), &default).await {
        // The controller-manager was faster.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot create the default service account of {namespace}")),
        Ok(_) => Ok(()),
    }
}

impl Drop for TempNamespace {
    fn drop(&mut self) {
        // A drop cannot wait for a client of a runtime that may be ending: another thread with a runtime of its own
        // could not use this client either. The request is sent if the runtime lives; else the whole cluster is about to go.
        let (client, name) = (self.client.clone(), self.name.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let namespaces: Api<Namespace> = Api::all(client);
                if let Err(error) = namespaces.delete(&name, &DeleteParams::default()).await {
                    tracing::warn!(%error, name, "namespace was not deleted");
                }
            });
        }
    }
}
