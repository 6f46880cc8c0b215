//! Any text before the SQL front. Run with `make fuzz TARGETS=sql`.
//!
//! Owns nothing: the laws stand in `sallyport_postgres::fuzzing`. Touches memory only. Invariant: the same body
//! runs in the crate's own tests.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sallyport_postgres::fuzzing::sql(data));
