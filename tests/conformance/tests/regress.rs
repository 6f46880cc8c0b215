//! The server's own regression suite, direct and through a proxy that allows everything: the same output, file by
//! file, but for the list in `regress/differs.txt`, which says why. `make regress` runs all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;

use sallyport_conformance::regress::{SEARCH_PATH, Said, Suite};
use sallyport_conformance::{Guarded, Way, policy};

/// Files whose output differs, each with its reason.
const DIFFERS: &str = include_str!("../regress/differs.txt");

/// Files that are quick, and that stand for what drivers and applications do most.
const QUICK: &str = include_str!("../regress/quick.txt");

fn differs() -> BTreeMap<&'static str, &'static str> {
    let lines = DIFFERS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').expect("a name and a reason")).collect()
}

/// Runs these files on both ways and says how many are equal; fails for one that differs without a reason.
async fn the_same(wanted: impl Fn(&str) -> bool) {
    let direct = Guarded::start(policy::allow_all()).await.unwrap();
    let proxied = Guarded::start(policy::allow_all()).await.unwrap();
    let suite = Suite::get(&direct.server).unwrap();
    suite.prepare(&direct.server).await.unwrap();
    let other = Suite::get(&proxied.server).unwrap();
    other.prepare(&proxied.server).await.unwrap();
    let names: Vec<_> = suite.schedule().unwrap().into_iter().filter(|name| wanted(name)).collect();
    let run = |suite: &Suite, guarded: &Guarded, way: Way| -> Vec<Said> {
        let conninfo = guarded.conninfo(way).replace("dbname=postgres", "dbname=regression");
        let conninfo = conninfo.replace("/postgres?", "/regression?");
        let options = (way == Way::Direct).then_some(SEARCH_PATH);
        names.iter().map(|name| suite.run(&guarded.server, &conninfo, options, name).unwrap()).collect()
    };
    let (direct, proxied) = std::thread::scope(|scope| {
        let direct = scope.spawn(|| run(&suite, &direct, Way::Direct));
        let proxied = scope.spawn(|| run(&other, &proxied, Way::Proxied));
        (direct.join().unwrap(), proxied.join().unwrap())
    });
    let kept = std::env::var_os("SALLYPORT_REGRESS_OUT").map(std::path::PathBuf::from);
    let (mut equal, mut as_expected, mut wrong) = (0, 0, Vec::new());
    let reasons = differs();
    let plain = |suite: &Suite, said: &Said| suite.plain(said);
    for ((name, direct), proxied) in names.iter().zip(&direct).zip(&proxied) {
        if let Some(folder) = &kept {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join(format!("{name}.direct")), &direct.text).unwrap();
            std::fs::write(folder.join(format!("{name}.proxied")), &proxied.text).unwrap();
        }
        as_expected += usize::from(suite.expects(name, direct));
        if plain(&suite, direct) == plain(&other, proxied) {
            equal += 1;
        } else if !reasons.contains_key(name.as_str()) {
            wrong.push(format!("{name}: {}", first_difference(&plain(&suite, direct), &plain(&other, proxied))));
        }
    }
    println!("{} files: {equal} equal, {as_expected} direct as the suite expects", names.len());
    assert!(wrong.is_empty(), "{} differ without a reason:\n{}", wrong.len(), wrong.join("\n"));
    assert!(as_expected * 2 > names.len(), "the suite is not run as it is meant to be: {as_expected}");
}

fn first_difference(direct: &str, proxied: &str) -> String {
    let (mut direct, mut proxied) = (direct.lines(), proxied.lines());
    loop {
        match (direct.next(), proxied.next()) {
            (None, None) => return "only in how lines end".to_owned(),
            (left, right) if left == right => {}
            (left, right) => return format!("direct {left:?}, proxied {right:?}"),
        }
    }
}

#[tokio::test]
async fn quick_files_say_the_same_through_the_proxy() {
    let quick: Vec<_> = QUICK.split_whitespace().collect();
    the_same(|name| quick.contains(&name)).await;
}

#[tokio::test]
#[ignore = "minutes: make regress"]
async fn the_whole_suite_says_the_same_through_the_proxy() {
    the_same(|_| true).await;
}
