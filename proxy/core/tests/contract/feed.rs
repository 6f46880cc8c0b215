//! The policy feed: readers never see half of a change, and are told of every one.
//!
//! Owns nothing else. Touches threads of its own. Invariant: every world seen was published as it was seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sallyport_core::PolicyFeed;
use sallyport_policy::{Bundle, Member};

use crate::support::stage::{bundle, member, roster};

/// Two facts that stand far apart in the bundle and always agree.
fn numbered(number: usize) -> Bundle {
    let mut bundle = bundle();
    bundle.revision = format!("{number}");
    bundle.policies[0].name = format!("{number}");
    bundle
}

#[test]
fn readers_never_see_half_of_a_change_nor_time_run_backwards() {
    const CHANGES: usize = 5000;
    let feed = Arc::new(PolicyFeed::default());
    feed.publish_bundle(numbered(0));
    feed.publish_roster(roster(member()));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (feed, done) = (Arc::clone(&feed), Arc::clone(&done));
            std::thread::spawn(move || {
                let (mut generation, mut revision, mut since, mut seen) = (0, 0, 0, 0);
                loop {
                    let last = done.load(Ordering::SeqCst);
                    let told = *feed.subscribe().borrow();
                    let world = feed.current().unwrap();
                    assert!(world.generation >= told, "told of {told}, read {}", world.generation);
                    assert_eq!(world.bundle.revision, world.bundle.policies[0].name);
                    let now: usize = world.bundle.revision.parse().unwrap();
                    let not_before = world.roster.member("ci", "bot").unwrap().min_not_before;
                    assert!(world.generation >= generation && now >= revision && not_before >= since);
                    // One writer publishes bundle and roster in turn: they are never further apart than one.
                    assert!((0..=1).contains(&(i64::try_from(now).unwrap() - not_before)), "{now} with {not_before}");
                    seen += usize::from(world.generation > generation);
                    (generation, revision, since) = (world.generation, now, not_before);
                    if last {
                        return (seen, generation);
                    }
                }
            })
        })
        .collect();
    for number in 1..=CHANGES {
        feed.publish_bundle(numbered(number));
        feed.publish_roster(roster(Member { min_not_before: i64::try_from(number).unwrap(), ..member() }));
        if number % 64 == 0 {
            std::thread::yield_now();
        }
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        let (seen, last) = reader.join().unwrap();
        assert!(seen > 0);
        assert_eq!(last, 1 + 2 * u64::try_from(CHANGES).unwrap());
    }
}

#[test]
fn there_is_no_world_until_both_halves_have_come() {
    let feed = PolicyFeed::default();
    feed.publish_bundle(bundle());
    assert!(feed.current().is_none());
    feed.publish_roster(roster(member()));
    assert_eq!(feed.current().unwrap().generation, 1);
}

#[test]
fn publishing_the_same_again_wakes_nobody() {
    let feed = PolicyFeed::default();
    feed.publish_bundle(bundle());
    feed.publish_roster(roster(member()));
    let changes = feed.subscribe();
    feed.publish_bundle(bundle());
    feed.publish_roster(roster(member()));
    assert!(!changes.has_changed().unwrap());
    feed.publish_roster(roster(Member { suspended: true, ..member() }));
    assert!(changes.has_changed().unwrap());
}
