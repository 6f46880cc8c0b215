//! What should be, from what is: pure functions from views of the cluster to plans.
//!
//! Owns every decision of the operator. Touches its arguments only: no network, clock, randomness or
//! hash-map order. Invariant: nothing here fails; a bad object is a value that becomes a condition on it.

mod asking;
pub mod binding;
pub mod builtin;
pub mod certificate;
pub mod children;
pub mod compile;
pub mod condition;
pub mod fleets;
pub mod identity;
pub mod idle;
pub mod names;
pub mod pod_certificate;
pub mod pods;
pub mod policy;
pub mod publish;
mod recording;
pub mod refs;
mod renewal;
pub mod request;
pub mod rotation;
pub mod settings;
pub mod shadow;
pub mod target;
pub mod trust;
pub mod trust_domain;

pub use settings::Settings;
