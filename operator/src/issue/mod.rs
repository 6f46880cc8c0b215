//! Keys, certificates and the clock: what a pure function cannot have.
//!
//! Owns the authority of the trust domain and every private key while it is made. Touches randomness;
//! the cluster only through what it is given. Invariant: a key is never printed and never leaves but into its Secret.

pub mod authority;
pub mod inspect;
pub mod leaf;
pub mod ledger;
mod mask_key;
pub mod material;
pub mod request;
mod secret;

pub use authority::{Authority, AuthorityError, Trust};
pub use mask_key::mask_key_secret;
pub use secret::{CA, CERTIFICATE, KEY, tls_secret};
