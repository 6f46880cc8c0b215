//! Recordings on a disk that forgets: what was not synced is gone when the power is cut.
//!
//! Owns that disk and the claims made on it. Touches memory only. Invariant under test: what was promised to be on
//! disk is there after a cut, whenever it comes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, UNIX_EPOCH};

use sallyport_core::ports::{Pending, RecordFault, RecordSink as _};
use sallyport_core::record::{Event, Record};

use super::Recordings;
use super::disk::{Disk, RecordFile};
use crate::chain::Sealed;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A disk in memory.
#[derive(Debug, Default)]
struct Power {
    files: Mutex<BTreeMap<PathBuf, Arc<Content>>>,
    /// Names that outlive a cut.
    named: Mutex<Vec<PathBuf>>,
    /// A sync waits while this is held shut.
    shut: Mutex<()>,
    begun: AtomicUsize,
    /// Syncs fail, or succeed and bring nothing to the disk.
    broken: AtomicBool,
    lying: AtomicBool,
}

#[derive(Debug)]
struct Content {
    power: Arc<Power>,
    path: PathBuf,
    /// What the kernel has, and how much of that the disk has.
    bytes: Mutex<(Vec<u8>, usize)>,
}

#[derive(Debug)]
struct Handle(Arc<Power>);

impl Disk for Handle {
    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn RecordFile>> {
        let content = Content { power: Arc::clone(&self.0), path: path.to_owned(), bytes: Mutex::default() };
        let content = Arc::new(content);
        self.0.files.lock().unwrap().insert(path.to_owned(), Arc::clone(&content));
        Ok(content)
    }

    fn sync_names(&self, _: &Path) -> io::Result<()> {
        let names = self.0.files.lock().unwrap().keys().cloned().collect();
        *self.0.named.lock().unwrap() = names;
        Ok(())
    }
}

impl RecordFile for Content {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.lock().unwrap().0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn sync(&self) -> io::Result<()> {
        let reached = self.bytes.lock().unwrap().0.len();
        self.power.begun.fetch_add(1, Ordering::SeqCst);
        drop(self.power.shut.lock().unwrap());
        if self.power.broken.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        if !self.power.lying.load(Ordering::SeqCst) {
            self.bytes.lock().unwrap().1 = reached;
        }
        Ok(())
    }

    fn is_at(&self, path: &Path) -> bool {
        self.path == path
    }
}

impl Power {
    fn recordings(self: &Arc<Self>, rotate_at: u64) -> Recordings {
        Recordings::on(
            Box::new(Handle(Arc::clone(self))),
            Path::new("/records"),
            "pod",
            UNIX_EPOCH,
            (rotate_at, u64::MAX),
        )
    }

    /// The numbers of the records that are there after the power was cut now.
    fn cut(&self) -> Vec<u64> {
        let (named, files) = (self.named.lock().unwrap(), self.files.lock().unwrap());
        let mut left = Vec::new();
        for path in named.iter() {
            let (bytes, reached) = &*files[path].bytes.lock().unwrap();
            left.extend(
                bytes[..*reached].split(|byte| *byte == b'\n').filter_map(Sealed::read).map(|line| line.number),
            );
        }
        // Paths are not in the order of their numbers.
        left.sort_unstable();
        left
    }
}

fn record(sequence: u64) -> Record<'static> {
    let (session, agent, serial, target) = ("00000000000000000000000000000001", "spiffe://t/a", "01", "shop/db");
    let event = Event::Close { reason: "the client left" };
    Record { time: UNIX_EPOCH, session, sequence, agent, serial, target, event }
}

fn now(pending: &mut Pending) -> Option<Result<(), RecordFault>> {
    match std::pin::Pin::new(pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

fn wait(mut pending: Pending) -> Result<(), RecordFault> {
    let until = Instant::now() + LONG;
    loop {
        if let Some(outcome) = now(&mut pending) {
            return outcome;
        }
        assert!(Instant::now() < until, "nobody syncs");
        std::thread::yield_now();
    }
}

fn becomes(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

/// Many sessions record; the power is cut again and again while they do. Whether all that was promised was there.
fn nothing_promised_is_lost(power: &Arc<Power>) -> bool {
    // Small files: the cut falls between the end of one and the name of the next as well.
    let recordings = power.recordings(2000);
    let promised = Mutex::new(Vec::new());
    let left = AtomicUsize::new(4);
    let mut sound = true;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for sequence in 0..150 {
                    let pending = recordings.append_durably(&record(sequence)).unwrap();
                    wait(pending).unwrap();
                    promised.lock().unwrap().push(());
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while left.load(Ordering::SeqCst) > 0 {
            // In this order: a promise that is kept in between is not counted.
            let promised = promised.lock().unwrap().len();
            let there = power.cut();
            let whole = there.iter().copied().eq(1..=there.len() as u64);
            sound &= whole && there.len() >= promised;
        }
    });
    sound
}

#[test]
fn what_was_promised_is_there_after_the_power_was_cut() {
    assert!(nothing_promised_is_lost(&Arc::default()));
}

#[test]
fn the_claim_above_finds_a_disk_that_lies() {
    let power = Arc::<Power>::default();
    power.lying.store(true, Ordering::SeqCst);
    assert!(!nothing_promised_is_lost(&power));
}

#[test]
fn all_who_wait_share_the_next_sync() {
    let power = Arc::<Power>::default();
    let recordings = power.recordings(u64::MAX);
    let shut = power.shut.lock().unwrap();
    let first = recordings.append_durably(&record(0)).unwrap();
    becomes("the first sync never began", || power.begun.load(Ordering::SeqCst) == 1);
    // While the disk is busy, appending goes on.
    let mut others: Vec<_> = (1..100).map(|number| recordings.append_durably(&record(number)).unwrap()).collect();
    assert!(
        others.iter_mut().all(|pending| now(pending).is_none()),
        "the sync that runs began before they were written"
    );
    drop(shut);
    wait(first).unwrap();
    others.into_iter().for_each(|pending| wait(pending).unwrap());
    assert_eq!((power.begun.load(Ordering::SeqCst), power.cut().len()), (2, 100));
}

#[test]
fn a_failed_sync_is_told_and_its_file_never_trusted_again() {
    let power = Arc::<Power>::default();
    let recordings = power.recordings(u64::MAX);
    wait(recordings.append_durably(&record(0)).unwrap()).unwrap();
    power.broken.store(true, Ordering::SeqCst);
    let fault = wait(recordings.append_durably(&record(1)).unwrap()).unwrap_err();
    assert!(fault.to_string().contains("records cannot be written in /records"), "{fault}");
    power.broken.store(false, Ordering::SeqCst);
    wait(recordings.append_durably(&record(2)).unwrap()).unwrap();
    let files = power.files.lock().unwrap();
    let reached: Vec<_> = files.values().map(|file| file.bytes.lock().unwrap().clone()).collect();
    assert_eq!(reached.len(), 2, "the next record went to a new file");
    assert!(reached[0].1 < reached[0].0.len() && reached[1].1 == reached[1].0.len());
}

#[test]
fn what_nobody_waits_for_is_on_disk_soon_as_well() {
    let power = Arc::<Power>::default();
    let recordings = power.recordings(u64::MAX);
    wait(recordings.append_durably(&record(0)).unwrap()).unwrap();
    recordings.append(&record(1)).unwrap();
    becomes("the outcome is never synced", || power.cut().len() == 2);
    recordings.append(&record(2)).unwrap();
    drop(recordings);
    becomes("the last words are never synced", || power.cut().len() == 3);
}
