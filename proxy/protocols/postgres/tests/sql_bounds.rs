//! Hostile texts: whatever arrives, the front answers within its bounds and never takes the process with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test should stop where it fails"
)]

use std::time::Instant;

use proptest::prelude::*;
use sallyport_postgres::sql::{Front, LONGEST_TEXT, NameSettings};

/// Runs on the stack that a worker of the runtime has.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(test).unwrap().join().unwrap();
}

fn front() -> Front {
    Front::new(NameSettings::default())
}

#[test]
fn deep_texts_are_refused_and_do_not_overflow_a_small_stack() {
    const DEEP: usize = 100_000;
    let unions = vec!["SELECT 1"; DEEP].join(" UNION ALL ");
    let texts = [
        format!("SELECT {}1{}", "(".repeat(DEEP), ")".repeat(DEEP)),
        format!("SELECT {}1{}", "(SELECT ".repeat(DEEP), ")".repeat(DEEP)),
        format!("SELECT * FROM {}a{}", "(SELECT * FROM ".repeat(DEEP / 4), ") x".repeat(DEEP / 4)),
        unions.get(..LONGEST_TEXT - 6).unwrap().to_owned(),
        format!("SELECT 1{}", "+1".repeat(DEEP)),
        format!("SELECT 1{}", "-1".repeat(DEEP)),
        format!("SELECT {} true", "NOT ".repeat(DEEP)),
        format!("SELECT {} 1", "- ".repeat(DEEP)),
        format!("SELECT {}1{}", "f(".repeat(DEEP), ")".repeat(DEEP)),
        format!("SELECT 1{}", "::int".repeat(DEEP)),
        format!("SELECT {}1{}", "ARRAY[".repeat(DEEP), "]".repeat(DEEP)),
        format!("SELECT * FROM a {}", "CROSS JOIN b ".repeat(DEEP / 2)),
        format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(DEEP / 4), " END".repeat(DEEP / 4)),
        format!("{}SELECT 1{}", "WITH a AS (".repeat(DEEP / 2), ") SELECT 1".repeat(DEEP / 4)),
        format!("{} SELECT 1", "EXPLAIN ".repeat(DEEP)),
        format!("SELECT {}", "(".repeat(DEEP)),
    ];
    on_a_small_stack(move || {
        let front = front();
        for text in &texts {
            let refusal = front.describe(text).expect_err(text.get(..40).unwrap());
            assert!(refusal.cause.len() < 400, "{refusal}");
        }
    });
}

#[test]
fn long_flat_texts_are_understood() {
    on_a_small_stack(|| {
        let front = front();
        let anded = format!("DELETE FROM a WHERE x = 1{}", " AND x = 1".repeat(50_000));
        assert_eq!(front.describe(&anded).unwrap().action.operations.len(), 1);
        let listed = format!("INSERT INTO a VALUES (1){}", ", (1)".repeat(50_000));
        assert_eq!(front.describe(&listed).unwrap().action.operations.len(), 1);
        let many = "SELECT 1;".repeat(50_000);
        assert_eq!(front.describe(&many).unwrap().statements, 50_000);
        let indexed = format!("SELECT a{}", "[1]".repeat(50_000));
        assert_eq!(front.describe(&indexed).unwrap().action.operations.len(), 1);
        let nested = format!("SELECT {}1{}", "(SELECT ".repeat(15), ")".repeat(15));
        assert_eq!(front.describe(&nested).unwrap().action.operations.len(), 1);
    });
}

#[test]
fn a_text_over_the_limit_is_refused_with_the_limit_named() {
    let text = " ".repeat(LONGEST_TEXT + 1);
    assert!(front().describe(&text).unwrap_err().cause.contains(&LONGEST_TEXT.to_string()));
    assert!(front().describe(text.get(..LONGEST_TEXT).unwrap()).is_ok());
}

#[test]
fn a_text_of_too_many_objects_is_refused() {
    let tables: Vec<_> = (0..5000).map(|n| format!("SELECT 1 FROM t{n}")).collect();
    let one = format!("SELECT ARRAY[({})]", tables.join("), ("));
    assert!(front().describe(&one).unwrap_err().cause.contains("too many objects"));
}

#[test]
fn what_is_no_sql_is_refused_and_echoed_only_in_part() {
    let front = front();
    for text in
        ["SELEC 1", "SELECT '", "SELECT 1 FROM", "\u{feff}SELECT 1", "SELECT \0", "GET / HTTP/1.1", "SELECT E'\\xff'"]
    {
        assert!(front.describe(text).is_err(), "{text}");
    }
    let long = format!("SELECT 1 {}", "x".repeat(100_000));
    let refusal = front.describe(&format!("{long} {long}")).unwrap_err();
    assert!(refusal.cause.len() < 400, "{refusal}");
}

#[test]
fn threads_parse_side_by_side_and_leave_standard_error_alone() {
    let before = std::fs::read_link("/proc/self/fd/2").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let front = front();
                for n in 0..200 {
                    assert_eq!(front.describe(&format!("SELECT {n} FROM t{thread}")).unwrap().statements, 1);
                }
            });
        }
    });
    assert_eq!(std::fs::read_link("/proc/self/fd/2").unwrap(), before);
}

const WORDS: [&str; 64] = [
    "SELECT",
    "FROM",
    "WHERE",
    "WITH",
    "RECURSIVE",
    "AS",
    "(",
    ")",
    ",",
    ";",
    "a",
    "b",
    "public.a",
    "INSERT",
    "INTO",
    "VALUES",
    "UPDATE",
    "SET",
    "=",
    "DELETE",
    "RETURNING",
    "*",
    "MERGE",
    "USING",
    "ON",
    "WHEN",
    "MATCHED",
    "THEN",
    "COPY",
    "TO",
    "STDOUT",
    "PROGRAM",
    "'x'",
    "1",
    "EXPLAIN",
    "ANALYZE",
    "CREATE",
    "TABLE",
    "VIEW",
    "FUNCTION",
    "f()",
    "UNION",
    "FOR",
    "JOIN",
    "LATERAL",
    "DROP",
    "ALTER",
    "COLUMN",
    "$1",
    "::int",
    ".x",
    "[1]",
    "AND",
    "NOT",
    "EXISTS",
    "CASCADE",
    "DO",
    "CALL",
    "EXECUTE",
    "p",
    "FETCH",
    "DECLARE",
    "CURSOR",
    "$$",
];

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = front().describe(&text);
    }

    #[test]
    fn no_sequence_of_words_panics(words in proptest::collection::vec(0..WORDS.len(), 0..24)) {
        let text: Vec<_> = words.into_iter().map(|word| WORDS[word]).collect();
        let _ = front().describe(&text.join(" "));
    }

    #[test]
    fn answers_do_not_depend_on_the_cache(table in "[a-z]{1,8}") {
        let front = front();
        let text = format!("SELECT * FROM {table}_t");
        prop_assert_eq!(front.describe(&text).unwrap(), front.describe(&text).unwrap());
    }
}

/// Prints what an answer costs; asserts nothing about time.
#[test]
fn cost() {
    let front = front();
    let text = |n: usize| {
        format!(
            "SELECT a.x, count(*) FROM a JOIN b ON a.id = b.id WHERE a.y = {n} AND b.z IN (1, 2) GROUP BY a.x ORDER BY 2"
        )
    };
    let start = Instant::now();
    for n in 0..2000 {
        front.describe(&text(n)).unwrap();
    }
    let cold = start.elapsed() / 2000;
    let start = Instant::now();
    for _ in 0..20_000 {
        front.describe(&text(7)).unwrap();
    }
    println!("uncached {cold:?}, cached {:?}", start.elapsed() / 20_000);
}
