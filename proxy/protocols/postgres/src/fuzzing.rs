//! What hostile bytes are thrown at: the bodies of the targets in `fuzz/`, and the tests that run them.
//!
//! Owns the list of the targets. Touches memory only; its tests read the kept corpora. Invariant: a broken law panics,
//! nothing else does.

pub use crate::session::fuzzing::{client_bytes, mask, server_bytes, session};
pub use crate::sql::fuzzing::sql;

#[cfg(test)]
mod tests {
    //! Each target for a while: first all that is kept of earlier runs, then what a seeded generator makes of it.
    //!
    //! Owns the generator. Reads `fuzz/corpus` and `fuzz/found`. Invariant: the same seed makes the same inputs in the same order,
    //! so that a failure can be had again.

    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::path::Path;

    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::{client_bytes, mask, server_bytes, session, sql};

    /// Longest input that is made.
    const LONGEST: usize = 4096;

    /// How many inputs are made for each target, and from which seed. A number and no time, so that a build finds today what it
    /// found yesterday; both can be given to a build for a longer look.
    const RUNS: Option<&str> = option_env!("SALLYPORT_FUZZ_RUNS");
    const SEED: Option<&str> = option_env!("SALLYPORT_FUZZ_SEED");

    fn number(given: Option<&str>, or: u64) -> u64 {
        given.and_then(|text| text.parse().ok()).unwrap_or(or)
    }

    /// What is kept for a target under `fuzz/`, in the order of its names.
    fn kept(directory: &str, target: &str) -> Vec<Vec<u8>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory).join(target);
        let mut files: Vec<_> =
            std::fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    fn run(target: &str, body: fn(&[u8])) {
        let corpus = kept("corpus", target);
        assert!(!corpus.is_empty(), "fuzz/corpus/{target} is empty");
        for input in corpus.iter().chain(&kept("found", target)) {
            try_one(target, body, input, "kept");
        }
        let (seed, runs) = (number(SEED, 1), number(RUNS, 40_000));
        let mut dice = StdRng::seed_from_u64(seed);
        for run in 0..runs {
            let input = another(&mut dice, &corpus);
            try_one(target, body, &input, &format!("number {run} of seed {seed}"));
        }
        println!("{target}: {} kept, {runs} made", corpus.len());
    }

    fn try_one(target: &str, body: fn(&[u8]), input: &[u8], which: &str) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
            eprintln!("{target}, {which}: put this into fuzz/found/{target}/ as it is: b\"{}\"", input.escape_ascii());
            resume_unwind(panic);
        }
    }

    /// One of those that are kept, changed in a few places, or with a piece of another.
    fn another(dice: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
        let any = |dice: &mut StdRng| corpus[dice.random_range(0..corpus.len())].clone();
        let mut input = any(dice);
        for _ in 0..dice.random_range(1..6) {
            let at = dice.random_range(0..=input.len());
            let end = dice.random_range(at..=input.len().min(at + 16));
            match dice.random_range(0..6) {
                0 | 1 if at < input.len() => input[at] = dice.random(),
                2 => input.insert(at, dice.random()),
                3 => drop(input.drain(at..end)),
                4 => {
                    let piece = input[at..end].to_vec();
                    input.splice(at..at, piece);
                }
                _ => {
                    let other = any(dice);
                    let from = dice.random_range(0..=other.len());
                    input.splice(at.., other[from..].iter().copied());
                }
            }
        }
        input.truncate(LONGEST);
        input
    }

    #[test]
    fn no_client_breaks_the_laws() {
        run("client_bytes", client_bytes);
    }

    #[test]
    fn no_server_breaks_the_laws() {
        run("server_bytes", server_bytes);
    }

    #[test]
    fn no_order_of_what_both_sides_do_breaks_the_laws() {
        run("session", session);
    }

    #[test]
    fn no_text_breaks_the_laws() {
        run("sql", sql);
    }

    #[test]
    fn no_server_gets_past_the_masks() {
        run("mask", mask);
    }
}
