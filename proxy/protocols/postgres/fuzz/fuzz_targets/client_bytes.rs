//! Raw bytes from the client's side. Run with `make fuzz TARGETS=client_bytes`.
//!
//! Owns nothing: the laws stand in `sallyport_postgres::fuzzing`. Touches memory only. Invariant: the same body
//! runs in the crate's own tests.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sallyport_postgres::fuzzing::client_bytes(data));
