//! A value that masks hide, at a server that is hostile in every other way. Run with `make fuzz TARGETS=mask`.
//!
//! Owns nothing: the laws stand in `sallyport_postgres::fuzzing`. Touches memory only. Invariant: the same body
//! runs in the crate's own tests.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sallyport_postgres::fuzzing::mask(data));
