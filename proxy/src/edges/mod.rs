//! What a port is in the world: the cluster, files, recordings and what becomes of them, credentials.
//!
//! Owns the outside of the proxy. Touches the API server and the file system, each in its own module.
//! Invariant: values are carried in and out here, decisions are made elsewhere.

pub(crate) mod approvals;
pub(crate) mod archivist;
pub(crate) mod changes;
pub(crate) mod cluster;
pub(crate) mod files;
pub(crate) mod last_known_good;
pub(crate) mod namespaces;
pub(crate) mod pulse;
pub(crate) mod recordings;
pub(crate) mod replica_status;
pub(crate) mod store;
pub(crate) mod vault;
