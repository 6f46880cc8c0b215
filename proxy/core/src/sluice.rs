//! The sluice: bytes for the target that wait until the records of their commands are on disk.
//!
//! Owns their order and the waiting. Touches the clock. Invariant: a byte leaves only when every record that was to
//! be durable before it is, and none overtakes another.
//!
//! Commands are not held one by one: a client that pipelines a hundred has them all judged, recorded and waiting
//! at once, and one sync lets all of them through.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use sallyport_policy::OnFailure;
use tokio::time::{Sleep, sleep};

use crate::ports::{Pending, RecordFault};

/// For one record: a disk that takes longer takes none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What a command counts beside its bytes, so that those of none are bounded as well.
const EACH: usize = 64;

/// A record that must be on disk before what hangs on it, and what happens when it cannot be.
#[derive(Debug)]
pub(crate) struct Debt {
    pub(crate) pending: Pending,
    pub(crate) on_failure: OnFailure,
}

/// What became of the record at the head.
#[derive(Debug)]
pub(crate) enum Passed {
    /// It is on disk: what hung on it alone has been let through.
    Durable,
    /// It is not, and what hung on it has been let through all the same, because the target says so.
    Regardless(RecordFault),
    /// It is not: nothing was let through, and nothing will be.
    Never(RecordFault),
}

/// Holds bytes back from a target.
#[derive(Debug, Default)]
pub(crate) struct Sluice {
    /// A record each, and the bytes that wait for it and for those before.
    held: VecDeque<(Debt, BytesMut)>,
    deadline: Option<Pin<Box<Sleep>>>,
    shut: bool,
}

impl Sluice {
    /// Where the next bytes for the target belong: behind what waits, and behind this debt if there is one.
    pub(crate) fn admit<'b>(&'b mut self, debt: Option<Debt>, output: &'b mut BytesMut) -> &'b mut BytesMut {
        if let Some(debt) = debt {
            self.held.push_back((debt, BytesMut::new()));
        }
        match self.held.back_mut() {
            Some((_, bytes)) => bytes,
            None => output,
        }
    }

    /// Nothing that waits is let through any more.
    pub(crate) const fn shut(&mut self) {
        self.shut = true;
    }

    /// How much waits, for whoever bounds it.
    pub(crate) fn len(&self) -> usize {
        self.held.iter().map(|(_, bytes)| bytes.len() + EACH).sum()
    }

    /// Lets through what may pass. Pending while the record at the head is on its way, or where nothing waits.
    pub(crate) fn poll_pass(&mut self, cx: &mut Context<'_>, output: &mut BytesMut) -> Poll<Passed> {
        let Some((debt, _)) = self.held.front_mut().filter(|_| !self.shut) else { return Poll::Pending };
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        let outcome = match Pin::new(&mut debt.pending).poll(cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending if deadline.as_mut().poll(cx).is_ready() => {
                Err(RecordFault(format!("it was not on disk within {PATIENCE:?}")))
            }
            Poll::Pending => return Poll::Pending,
        };
        self.deadline = None;
        let on_failure = debt.on_failure;
        let passed = match outcome {
            Ok(()) => Passed::Durable,
            Err(fault) if on_failure == OnFailure::Continue => Passed::Regardless(fault),
            Err(fault) => {
                self.shut = true;
                return Poll::Ready(Passed::Never(fault));
            }
        };
        if let Some((_, bytes)) = self.held.pop_front() {
            if output.is_empty() {
                *output = bytes;
            } else {
                output.extend_from_slice(&bytes);
            }
        }
        Poll::Ready(passed)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;
    use crate::ports::Promise;

    fn debt(on_failure: OnFailure) -> (Promise, Debt) {
        let (promise, pending) = Promise::new();
        (promise, Debt { pending, on_failure })
    }

    fn pass(sluice: &mut Sluice, output: &mut BytesMut) -> Option<Passed> {
        match sluice.poll_pass(&mut Context::from_waker(std::task::Waker::noop()), output) {
            Poll::Ready(passed) => Some(passed),
            Poll::Pending => None,
        }
    }

    #[test]
    fn without_a_debt_bytes_go_straight_to_the_target() {
        let (mut sluice, mut output) = (Sluice::default(), BytesMut::new());
        sluice.admit(None, &mut output).extend_from_slice(b"at once");
        assert_eq!((&output[..], sluice.len()), (&b"at once"[..], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_never_answers_lets_nothing_through_and_is_not_waited_for_without_end() {
        let (mut sluice, mut output) = (Sluice::default(), BytesMut::new());
        let (_promise, debt) = debt(OnFailure::Refuse);
        sluice.admit(Some(debt), &mut output).extend_from_slice(b"never");
        let passed = poll_fn(|cx| sluice.poll_pass(cx, &mut output)).await;
        assert!(matches!(&passed, Passed::Never(fault) if fault.0.contains("30s")), "{passed:?}");
        assert!(output.is_empty() && pass(&mut sluice, &mut output).is_none());
    }

    #[tokio::test]
    async fn what_failed_passes_only_where_the_target_says_so() {
        for (on_failure, passes) in [(OnFailure::Continue, true), (OnFailure::Refuse, false)] {
            let (mut sluice, mut output) = (Sluice::default(), BytesMut::new());
            let (promise, debt) = debt(on_failure);
            sluice.admit(Some(debt), &mut output).extend_from_slice(b"x");
            promise.resolve(Err(RecordFault("gone".into())));
            let passed = pass(&mut sluice, &mut output);
            assert_eq!(matches!(passed, Some(Passed::Regardless(_))), passes, "{passed:?}");
            assert_eq!(output.len(), usize::from(passes));
        }
    }

    proptest! {
        /// Whatever the order in which records reach the disk: what passes is a beginning of what was said, and
        /// reaches exactly to the first record that is not there yet.
        #[test]
        fn bytes_pass_in_order_and_up_to_the_first_record_that_is_missing(
            debts in prop::collection::vec(any::<bool>(), 1..12),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _inside = runtime.enter();
            let (mut sluice, mut output) = (Sluice::default(), BytesMut::new());
            let mut promises = Vec::new();
            for (number, owed) in debts.iter().enumerate() {
                let (promise, debt) = debt(OnFailure::Refuse);
                let debt = owed.then_some(debt);
                promises.push(debt.is_some().then_some(promise));
                sluice.admit(debt, &mut output).extend_from_slice(&[u8::try_from(number).unwrap()]);
            }
            for index in order {
                if let Some(promise) = promises[index.index(debts.len())].take() {
                    promise.resolve(Ok(()));
                }
                while pass(&mut sluice, &mut output).is_some() {}
                let first = promises.iter().position(Option::is_some).unwrap_or(debts.len());
                let whole: Vec<u8> = (0..u8::try_from(first).unwrap()).collect();
                prop_assert_eq!(&output[..], &whole[..]);
            }
        }
    }
}
