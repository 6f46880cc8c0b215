//! A real S3-compatible server (`tests/s3`), which verifies signatures.
//!
//! It builds that server into the cache, once a machine, starts it on a free port over a temporary directory, and reads
//! there what arrived. Invariant: it ends with whoever holds it, at the latest with this process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::build::cache_root;
use crate::cluster::Cluster;

/// A running store with one bucket.
#[derive(Debug)]
pub struct S3 {
    directory: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl S3 {
    /// Starts one that lets that key in.
    pub fn start(access: &str, secret: &str, bucket: &str) -> Result<Self> {
        Self::start_by(Command::new(built()?), [access, secret, "127.0.0.1"], bucket)
    }

    /// The same on the network of a cluster, at its node's address.
    pub fn start_on(cluster: &Cluster, access: &str, secret: &str, bucket: &str) -> Result<Self> {
        Self::start_by(cluster.command(built()?)?, [access, secret, cluster.node_address()], bucket)
    }

    fn start_by(mut command: Command, arguments: [&str; 3], bucket: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::create_dir(directory.path().join(bucket))?;
        // Its standard input ends when this process does, whatever ends that.
        command.arg(directory.path()).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut port)?;
        let port = port.trim().parse().context("the S3 server did not start")?;
        Ok(Self { directory, port, child })
    }

    /// Where it listens, in the clear.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The directory that holds a directory for each bucket, and in it a file for each object.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn built() -> Result<PathBuf> {
    let target = cache_root()?.join("s3");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // Cargo itself takes care that two do not build at once, and that nothing is built twice.
    build.args(["build", "--quiet", "--locked", "--manifest-path"]);
    build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../s3/Cargo.toml")).arg("--target-dir").arg(&target);
    for inherited in ["CARGO_BUILD_BUILD_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        build.env_remove(inherited);
    }
    build.env("CARGO_BUILD_BUILD_DIR", &target);
    ensure!(build.status()?.success(), "tests/s3 cannot be built");
    Ok(target.join("debug/sallyport-s3"))
}
