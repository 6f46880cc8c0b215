//! Kubeconfig files for what the harness starts.
//! It writes files with keys inside, readable by their owner alone, and turns them into clients.
//! A file works from wherever the API server's address in it can be reached; nothing else is assumed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::pki::{Leaf, Pki, write_private};

/// No call to an API server on the same machine takes longer, watches apart, which the server itself ends.
const CONNECT: Duration = Duration::from_secs(10);

/// A kubeconfig in which a client certificate speaks.
pub(crate) fn write(path: &Path, server: &str, pki: &Pki, user: &Leaf) -> Result<()> {
    let cluster = json!({ "server": server, "certificate-authority-data": base64(&pki.ca_pem()) });
    let user = json!({ "client-certificate-data": base64(&user.cert_pem), "client-key-data": base64(&user.key_pem) });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "sallyport", "cluster": cluster }],
        "users": [{ "name": "sallyport", "user": user }],
        "contexts": [{ "name": "sallyport", "context": { "cluster": "sallyport", "user": "sallyport" } }],
        "current-context": "sallyport",
    });
    write_private(path, &serde_json::to_string_pretty(&config)?)
}

/// The same cluster, spoken to as somebody else: the API server judges every call as that user's.
pub(crate) fn impersonating(admin: &Path, user: &str, groups: &[&str], path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(admin).with_context(|| format!("cannot read {}", admin.display()))?;
    let mut config: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", admin.display()))?;
    let users = config.get_mut("users").and_then(Value::as_array_mut).context("the kubeconfig has no users")?;
    for entry in users {
        let entry = entry
            .get_mut("user")
            .and_then(Value::as_object_mut)
            .context("a user of the kubeconfig has no credentials")?;
        entry.insert("as".to_owned(), json!(user));
        entry.insert("as-groups".to_owned(), json!(groups));
    }
    write_private(path, &serde_json::to_string_pretty(&config)?)
}

pub(crate) async fn load(path: &Path) -> Result<kube::Config> {
    install_crypto();
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(CONNECT);
    Ok(config)
}

/// One provider for every TLS user of the process; the first to ask installs it.
pub(crate) fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impersonation_keeps_the_cluster_and_names_user_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new("cluster").unwrap();
        let (admin, other) = (dir.path().join("admin"), dir.path().join("other"));
        write(&admin, "https://127.0.0.1:1", &pki, &pki.agent("a", "b").unwrap()).unwrap();
        impersonating(&admin, "jane", &["devs"], &other).unwrap();
        let read = Kubeconfig::read_from(&other).unwrap();
        let user = read.auth_infos[0].auth_info.clone().unwrap();
        assert_eq!(user.impersonate.as_deref(), Some("jane"));
        assert_eq!(user.impersonate_groups, Some(vec!["devs".to_owned()]));
        assert_eq!(read.clusters[0].cluster.clone().unwrap().server.as_deref(), Some("https://127.0.0.1:1"));
    }
}
