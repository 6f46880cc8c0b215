//! Streams of a client, mutated at random after login: the proxy stays alive, bounded, and policy holds.
//! The generator is small and seeded, so that a failure can be had again; twenty seconds of it, or as long as is asked for, spread over sessions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod wire;

use std::time::{Duration, Instant};

use sallyport_conformance::{Guarded, policy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::{
    Wire, bind, close, describe, execute, execute_some, flush, log_all, message, parse, query, serves, state, sync,
};

/// `SALLYPORT_FUZZ_SECONDS` makes it longer.
const FOR: Duration = Duration::from_secs(20);
const SESSIONS: u64 = 8;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }
}

/// Messages that a stream is put together from: what clients send, and what policy must not let pass.
fn messages() -> Vec<Vec<u8>> {
    let texts = [
        "select id from orders where id < 5",
        "select 1",
        "",
        "begin",
        "commit",
        "rollback",
        "table secrets",
        "delete from orders",
        "update secrets set value = 'leaked'",
        "update orders set note = note where id = 3",
        "prepare a as select 2",
        "execute a",
        "declare b cursor for select id from orders",
        "fetch 2 from b",
        "close b",
        "deallocate a",
        "select 1; select 2",
        "select 1; table secrets",
        "selec",
        "select 1/0",
    ];
    let mut all = Vec::new();
    for text in texts {
        all.push(query(text));
        for name in ["", "a", "b"] {
            all.push(parse(name, text));
        }
    }
    for name in ["", "a", "b"] {
        for portal in ["", "b", "c"] {
            all.push(bind(portal, name));
            all.push([bind(portal, name), describe(b'P', portal), execute_some(portal, 1), sync()].concat());
        }
        all.extend([execute(name), execute_some(name, 2), close(b'S', name), close(b'P', name), describe(b'S', name)]);
        all.push([parse(name, "select $1::int"), describe(b'S', name), flush()].concat());
    }
    all.extend([
        sync(),
        sync(),
        sync(),
        flush(),
        message(b'd', &[b"1\n"]),
        message(b'c', &[]),
        message(b'f', &[b"x\0"]),
    ]);
    all.push(message(b'F', &[&[0; 10]]));
    all
}

fn stream(dice: &mut Dice, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..dice.below(40) {
        bytes.extend_from_slice(&messages[dice.below(messages.len())]);
    }
    bytes.extend_from_slice(&sync());
    // One in three streams is left as it is: only its order is wild.
    if dice.below(3) > 0 {
        for _ in 0..=dice.below(6) {
            let at = dice.below(bytes.len());
            match dice.below(6) {
                0 => bytes[at] = dice.roll() as u8,
                1 => bytes[at] ^= 1 << dice.below(8),
                2 => bytes.truncate(at + 1),
                3 => drop(bytes.remove(at)),
                4 => bytes.insert(at, dice.roll() as u8),
                _ => {
                    let piece = bytes[at..(at + dice.below(64)).min(bytes.len())].to_vec();
                    let to = dice.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'S');
            }
        }
    }
    bytes
}

#[tokio::test]
async fn wild_streams_neither_harm_the_proxy_nor_get_past_policy() {
    let guarded = Guarded::start(policy::readme()).await.unwrap();
    log_all(&guarded).await;
    let before = state(&guarded).await;
    let seed = std::env::var("SALLYPORT_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_123_u64);
    let messages = messages();
    let asked = std::env::var("SALLYPORT_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = Instant::now() + asked.map_or(FOR, Duration::from_secs);
    let rss = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", guarded.proxy_pid().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let worker = async |worker: u64| {
        let mut streams = 0;
        while Instant::now() < until {
            let seed = seed ^ (worker << 48) ^ streams;
            let mut dice = Dice(seed);
            let mut wire = Wire::open(&guarded).await;
            let bytes = stream(&mut dice, &messages);
            let (mut reading, mut writing) = tokio::io::split(&mut wire.stream);
            let write = async {
                for piece in bytes.chunks(1 + dice.below(400)) {
                    if writing.write_all(piece).await.is_err() {
                        break;
                    }
                }
                let _closed = writing.flush().await;
                // What is left half said is given up soon, not at the deadline.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _closed = writing.shutdown().await;
            };
            let mut answer = Vec::new();
            let read = tokio::time::timeout(wire::PATIENCE, reading.read_to_end(&mut answer));
            let (read, ()) = tokio::join!(read, write);
            assert!(read.is_ok(), "seed {seed}: the proxy keeps a session open whose client has left");
            let text = String::from_utf8_lossy(&answer);
            assert!(!text.contains("do not show"), "seed {seed}: a secret got out");
            streams += 1;
        }
        streams
    };
    let first = rss();
    let workers = (0..SESSIONS).map(worker);
    let streams: u64 = futures_join(workers).await.into_iter().sum();
    assert!(streams > 200, "{streams} streams");
    serves(&guarded).await;
    let last = rss();
    assert!(last < first + 64 * 1024, "{first} kB became {last} kB over {streams} streams");
    assert_eq!(state(&guarded).await, before);
    let log = guarded.server.log();
    for line in log.lines().filter(|line| line.contains("statement: ") || line.contains("execute ")) {
        assert!(!line.contains("secrets") || line.contains("select md5") || line.contains("string_agg"), "{line}");
    }
    println!("{streams} streams, {first} kB to {last} kB");
}

/// Runs them all at once in this task.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in futures.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(cx) {
                *done = Some(output);
            }
        }
        if futures.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, done)| done).collect()
}
