//! Nothing to link: this crate holds the test that keeps the house's module rules.
