//! The user's stories on real pods: one cluster, one operator, a guarded database a story.
//! The stories run beside each other; what takes the operator or the API server away is in `outages`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod access;
mod binding;
mod credentials;
mod fleet;
mod identity;
mod pod_certificate;
mod records;
mod volumes;
