//! What holds of all that has passed, whatever was sent.
//!
//! Owns those laws. Touches its arguments only. Invariant: a broken law panics, nothing else does.

use bytes::Buf as _;
use sallyport_core::shown::{Layout, Part};

use super::{Dry, FORBIDDEN};
use crate::codec::{backend, frontend};
use crate::mask::is_ours;
use crate::session::FLUSH;

impl Dry {
    /// The laws of what was seen on both sides at the end, whatever was sent.
    pub(super) fn assert_laws(&self) {
        let seen = count(&self.seen, |bytes| backend::frame(bytes).ok().flatten().map(|frame| frame.total));
        let said = count(&self.said, |bytes| frontend::frame(bytes).ok().flatten().map(|frame| frame.total));
        let passing = &self.session.passing;
        let half = if passing.replaced { 0 } else { passing.remaining };
        assert_eq!((seen.missing, seen.strange), (half, 0), "the client was told half a message");
        for kind in *b"RKvW" {
            assert_eq!(seen.of(kind), 0, "{} has no place in a session", char::from(kind));
        }
        if self.keeps {
            let of_results = self.kept.iter().filter(|part| !part.is_of(Layout::Sent));
            let kept: usize = of_results.map(Part::rows).sum();
            assert_eq!(kept, seen.of(b'D') + seen.of(b'd'), "what the client is shown and what is kept of it differ");
        }
        // No answer without its question.
        assert!(seen.of(b'Z') <= said.of(b'Q') + said.of(b'F') + said.of(b'S'), "ready more often than asked");
        for (answer, question) in [(b'1', b'P'), (b'2', b'B'), (b'3', b'C'), (b's', b'E')] {
            assert!(seen.of(answer) <= said.of(question), "{} without its question", char::from(answer));
        }
        let judged = usize::try_from(self.commands).unwrap_or(usize::MAX);
        if let Some(most) = self.allowance.as_ref().and_then(|allowance| allowance.rows.as_ref()) {
            let rows = u64::try_from(seen.of(b'D') + seen.of(b'd')).unwrap_or(u64::MAX);
            assert!(rows <= most.most * self.commands, "more rows than are allowed");
        }
        // Nothing of either side makes much more of itself.
        let messages = said.all + judged + self.heard / 5 + 2;
        assert!(self.seen.len() <= 16 * self.heard + 2048 * messages, "the client is told much more than there is");
        let ours = 8192 * (judged + self.remedies + 1);
        assert!(self.upstream.len() <= self.said.len() + ours, "the server is told much more than there is");
        assert_upstream(&self.upstream);
    }
}

/// Messages by their kind.
struct Count {
    kinds: [usize; 256],
    all: usize,
    /// How much of the last one has not come.
    missing: usize,
    /// Bytes behind the last one that are none.
    strange: usize,
}

impl Count {
    fn of(&self, kind: u8) -> usize {
        self.kinds.get(usize::from(kind)).copied().unwrap_or_default()
    }
}

fn count(mut bytes: &[u8], total: impl Fn(&[u8]) -> Option<usize>) -> Count {
    let mut count = Count { kinds: [0; 256], all: 0, missing: 0, strange: 0 };
    while let (Some(kind), Some(total)) = (bytes.first(), total(bytes)) {
        if let Some(kind) = count.kinds.get_mut(usize::from(*kind)) {
            *kind += 1;
        }
        count.all += 1;
        count.missing = total.saturating_sub(bytes.len());
        bytes = bytes.get(total..).unwrap_or_default();
    }
    count.strange = bytes.len();
    count
}

/// What went upstream for one allowed command: its own bytes as they came, and beside them only what is ours.
pub(super) fn assert_exact(sent: &[u8], raw: &[u8], masked: bool) {
    let body = raw.get(5..).unwrap_or_default();
    let text = match raw.first() {
        Some(b'Q') => frontend::query(body).ok(),
        Some(b'P') => frontend::parse(body).ok().map(|parse| parse.text),
        _ => None,
    };
    let forbidden = |text: &[u8]| text.windows(FORBIDDEN.len()).any(|part| part == FORBIDDEN.as_bytes());
    assert!(!text.is_some_and(forbidden), "a forbidden text goes upstream");
    let mut rest = sent;
    let mut found = false;
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix(raw).filter(|_| !found) {
            (found, rest) = (true, behind);
            continue;
        }
        let total = frontend::frame(rest).ok().flatten().map_or(rest.len(), |frame| frame.total);
        let (message, behind) = rest.split_at_checked(total).unwrap_or((rest, &[]));
        assert!(message == FLUSH || (masked && is_our_own(message, raw)), "what nobody judged goes upstream");
        rest = behind;
    }
    assert!(found, "an allowed command goes upstream changed");
}

/// Whether a message is one of our question, or asks what the portal of the Execute `raw` shows.
fn is_our_own(message: &[u8], raw: &[u8]) -> bool {
    let body = message.get(5..).unwrap_or_default();
    let names =
        body.split(|byte| *byte == 0).take(2).any(|name| is_ours(name.get(1..).unwrap_or(name)) || is_ours(name));
    let describes = || {
        let portal = raw.get(5..).and_then(|body| frontend::execute(body).ok());
        raw.first() == Some(&b'E') && frontend::named("Describe", body).ok().map(|(_, name)| name) == portal
    };
    match message.first() {
        Some(b'S') => true,
        Some(b'D') => describes(),
        Some(b'C' | b'P' | b'B' | b'E') => names,
        _ => false,
    }
}

/// What goes upstream is whole messages; only data goes in pieces.
fn assert_upstream(mut bytes: &[u8]) {
    while let Ok(Some(frame)) = frontend::frame(bytes) {
        if bytes.len() < frame.total {
            assert_eq!(frame.kind, frontend::Kind::CopyData, "only data goes in pieces");
            return;
        }
        bytes.advance(frame.total);
    }
    // The header of a CopyData may be cut as well.
    assert!(
        bytes.len() < 5 && bytes.first().is_none_or(|kind| *kind == b'd'),
        "bytes that are no message went upstream"
    );
}
