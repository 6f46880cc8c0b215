//! The cluster that all stories of one test program share, with the operator running in it and a database beside it.
//! It loads the images, applies `config/default` and starts the database; the stories do the rest.
//! Everything ends with the process that started it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use sallyport_harness::{Cluster, Place, Postgres, PostgresOptions, shared_cluster};
use tokio::sync::OnceCell;

/// The name in the database's certificate; targets spell it out as `serverName`.
pub(crate) const DATABASE: &str = "orders.example";
const IMAGES: [&str; 3] = ["operator", "proxy", "tools"];

/// The cluster, and what all stories find in it.
#[derive(Debug)]
pub struct Stage {
    pub cluster: &'static Cluster,
    pub postgres: Postgres,
}

/// The stage of this process; the first story that asks sets it.
pub async fn stage() -> Result<&'static Stage> {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    STAGE.get_or_try_init(Stage::set).await
}

impl Stage {
    async fn set() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let archives: Vec<PathBuf> = IMAGES.iter().map(|name| root.join(format!("build/images/{name}.tar"))).collect();
        if let Some(missing) = archives.iter().find(|path| !path.is_file()) {
            bail!("{} is missing: make the images with PROFILE=dev hack/images.sh", missing.display());
        }
        let cluster = shared_cluster().await?;
        if cluster.is_external() {
            bail!("these stories need the network of a cluster of the harness: leave SALLYPORT_USE_CLUSTER out");
        }
        let options = PostgresOptions {
            place: Place::node(cluster)?,
            names: vec![DATABASE.to_owned()],
            settings: vec!["log_statement = all".to_owned(), "max_connections = 300".to_owned()],
            ..PostgresOptions::default()
        };
        let (postgres, ()) = tokio::try_join!(Postgres::start(options), cluster.load_images(&archives))?;
        let stage = Self { cluster, postgres };
        let config = root.join("config/default");
        let all = stage.kubectl(&["kustomize", &config.display().to_string()])?;
        stage.apply(&all)?;
        stage.operator_is_there()?;
        Ok(stage)
    }

    /// Waits until the operator's Deployment is available.
    pub fn operator_is_there(&self) -> Result<()> {
        let wait = ["wait", "-n", "sallyport-system", "deployment/sallyport-operator", "--for=condition=Available"];
        self.kubectl(&[&wait[..], &["--timeout=120s"]].concat()).map(drop)
    }

    /// What kubectl printed; a failure quotes what it complained of.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_kubectl(arguments)?;
        if !output.status.success() {
            bail!("kubectl {arguments:?} ended with {}: {}", output.status, text(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// kubectl, whatever comes of it.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_command().args(arguments).stdin(Stdio::null()).output().context("cannot start kubectl")
    }

    /// kubectl with every right, ready for its arguments.
    pub fn kubectl_command(&self) -> Command {
        self.cluster.control_plane().kubectl()
    }

    /// `kubectl apply --server-side` of these documents.
    pub fn apply(&self, documents: &str) -> Result<()> {
        let mut kubectl = self.kubectl_command();
        kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("kubectl has no input")?.write_all(documents.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl apply ended with {}: {}\n{documents}", output.status, text(&output));
        }
        Ok(())
    }
}

/// All that a program printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
