//! What the end-to-end stories share: a cluster with Sallyport in it, and one guarded database a story.
//! It does what a person would do, with kubectl and psql, and reads nothing that a person could not read.
//! A story never sees another's namespaces, and every wait has a deadline.

mod psql;
mod scene;
mod stage;
mod wait;

pub use psql::{Agent, Session, StatementLoop, certificate};
pub use scene::{POLICY, Scene, Workload};
pub use stage::{Stage, stage, text};
pub use wait::{LIMIT, condition, eventually, holds};
