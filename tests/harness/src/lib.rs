//! Real surroundings for tests: a Kubernetes control plane, a whole one-node cluster, PostgreSQL, certificates, images.
//! It starts the real programs on loopback or inside namespaces of its own and touches nothing else of the machine.
//! Whatever is started ends with the process that started it; what a crash could leave is swept at the next start.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")
)]

mod build;
mod cluster;
mod control_plane;
pub mod image;
mod kubeconfig;
pub mod monitoring;
mod namespace;
mod pki;
mod ports;
mod postgres;
mod process;
mod relay;
mod run_dir;
mod s3;
mod toolchain;

pub use cluster::{Cluster, Forward, Status, shared_cluster};
pub use control_plane::{ControlPlane, shared};
pub use namespace::{TempNamespace, temp_namespace};
pub use pki::{Leaf, LeafFiles, LeafKey, LeafOptions, Pki};
pub use ports::{Port, free_port};
pub use postgres::{Place, Postgres, PostgresOptions};
pub use relay::{Call, Fate, Relay};
pub use run_dir::{run_root, sweep};
pub use s3::S3;
pub use toolchain::Toolchain;
