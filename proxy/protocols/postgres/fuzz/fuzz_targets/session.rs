//! What a hostile client and a hostile server do, in any order. Run with `make fuzz TARGETS=session`.
//!
//! Owns nothing: the laws stand in `sallyport_postgres::fuzzing`. Touches memory only. Invariant: the same body
//! runs in the crate's own tests.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sallyport_postgres::fuzzing::session(data));
