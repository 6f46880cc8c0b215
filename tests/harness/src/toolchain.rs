//! Which binaries a control plane and a node are made of.
//! It looks where the environment says, then where earlier builds are, then builds; it reads the environment and the cache only.
//! A caller that needs a component gets a path that exists or an error that says how to get it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build::{Part, cache_dir};

/// Paths of the components.
#[derive(Debug, Clone)]
pub struct Toolchain {
    pub etcd: PathBuf,
    pub kube_apiserver: PathBuf,
    /// Absent when `$KUBEBUILDER_ASSETS` has none: then no garbage collection and no default service accounts.
    pub kube_controller_manager: Option<PathBuf>,
    pub kubectl: PathBuf,
}

impl Toolchain {
    /// From `$KUBEBUILDER_ASSETS`, what was built before, or a build with its progress on standard error.
    pub async fn locate() -> Result<Self> {
        if let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS") {
            return Self::from_assets(Path::new(&assets));
        }
        let dir = tokio::task::spawn_blocking(|| Part::Kubernetes.ensure()).await??;
        Ok(Self::built(&dir))
    }

    fn from_assets(assets: &Path) -> Result<Self> {
        let needed = |name: &str| {
            let path = assets.join(name);
            path.exists()
                .then_some(path)
                .with_context(|| format!("KUBEBUILDER_ASSETS has no {name}: unset it or add the binary"))
        };
        let manager = assets.join("kube-controller-manager");
        let kubectl = assets.join("kubectl");
        Ok(Self {
            etcd: needed("etcd")?,
            kube_apiserver: needed("kube-apiserver")?,
            kube_controller_manager: manager.exists().then_some(manager),
            kubectl: if kubectl.exists() { kubectl } else { PathBuf::from("kubectl") },
        })
    }

    fn built(dir: &Path) -> Self {
        Self {
            etcd: dir.join("etcd"),
            kube_apiserver: dir.join("kube-apiserver"),
            kube_controller_manager: Some(dir.join("kube-controller-manager")),
            kubectl: dir.join("kubectl"),
        }
    }

    /// Builds everything a whole node needs, if it is not there, and says where it is.
    pub async fn build_all() -> Result<PathBuf> {
        tokio::task::spawn_blocking(|| {
            Part::Kubernetes.ensure()?;
            Part::CoreDns.ensure()?;
            Part::Pause.ensure()
        })
        .await?
    }

    /// The kubectl that was built, if it was: never builds.
    pub fn built_kubectl() -> Option<PathBuf> {
        Part::Kubernetes.is_built().then(|| cache_dir().ok().map(|dir| dir.join("kubectl"))).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_without_a_controller_manager_are_enough_and_without_etcd_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kube-apiserver"), "").unwrap();
        let refused = Toolchain::from_assets(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("no etcd"));
        std::fs::write(dir.path().join("etcd"), "").unwrap();
        assert!(Toolchain::from_assets(dir.path()).unwrap().kube_controller_manager.is_none());
    }
}
