//! The operator: turns Sallyport's objects into certificates, fleets and statuses.
//!
//! `derive` decides (pure), `issue` makes keys and certificates, `apply` and `controllers` carry values
//! in and out, `config` and `app` wire it. Invariant: fleets never need the operator to enforce what they have.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a failing test should stop where it fails"
    )
)]

mod admin;
mod agent_pods;
mod app;
mod apply;
mod bell;
mod census;
mod certificates;
mod clock;
mod config;
mod controllers;
pub mod derive;
mod fault;
mod fence;
pub mod issue;
mod lease;
mod metrics;
mod seen;
mod stores;

pub use app::{run, run_by};
pub use config::{Arguments, Config, ConfigErrors};
