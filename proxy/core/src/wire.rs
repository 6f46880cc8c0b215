//! A connection with its buffers, driven by polls from the one task of a session.
//!
//! Owns buffered reading and writing of one peer. Touches the socket it is given. Invariant: it never reads
//! more than its caller has room for, and written bytes are flushed before it reports itself drained.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use crate::ports::Io;

/// Read at once at most; also what a buffer is made with.
const CHUNK: usize = 16 * 1024;

/// One peer of a session.
pub(crate) struct Line<S> {
    io: S,
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
    unflushed: bool,
    pub(crate) eof: bool,
    /// Since when the peer has taken none of what it is owed.
    owed_since: Option<Instant>,
}

impl<S: Io> Line<S> {
    pub(crate) fn new(io: S, input: BytesMut) -> Self {
        Self { io, input, output: BytesMut::new(), unflushed: false, eof: false, owed_since: None }
    }

    /// Reads once; `Ready` when there are more bytes or the end has come.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.eof {
            return Poll::Pending;
        }
        if self.input.capacity() - self.input.len() < CHUNK / 4 {
            self.input.reserve(CHUNK);
        }
        // The buffer may have grown for a long message: it is still read in pieces.
        let mut room = (&mut self.input).limit(CHUNK);
        let read = ready!(pin!(self.io.read_buf(&mut room)).poll(cx))?;
        self.eof = read == 0;
        Poll::Ready(Ok(()))
    }

    /// Writes what there is; `Ready(true)` when something was written.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wrote = false;
        while !self.output.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.output.advance(written);
                    self.unflushed = true;
                    self.owed_since = None;
                    wrote = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    self.owed_since = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        if wrote { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Whether bytes wait to be written.
    pub(crate) fn owes(&self) -> bool {
        self.unflushed || !self.output.is_empty()
    }

    /// Since when the peer takes nothing, if it is owed something. Asked after each attempt to write.
    pub(crate) fn stuck_since(&mut self) -> Option<Instant> {
        if !self.owes() {
            self.owed_since = None;
            return None;
        }
        Some(*self.owed_since.get_or_insert_with(Instant::now))
    }

    /// Writes all there is, ends our side and waits for the peer to end its own; the caller sets the deadline.
    pub(crate) async fn hang_up(&mut self) -> io::Result<()> {
        self.finish().await?;
        hang_up(&mut self.io).await
    }

    /// Writes all there is and ends the stream; the caller sets the deadline.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        while self.owes() {
            poll_fn(|cx| match self.poll_drain(cx) {
                Poll::Pending if !self.owes() => Poll::Ready(Ok(())),
                other => other,
            })
            .await?;
        }
        poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await
    }
}

/// Ends our side and reads on until the peer has ended its own: bytes of its that were never read would
/// turn our close into a reset, and it might lose our last words. The caller sets the deadline.
pub(crate) async fn hang_up<S: Io>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    let mut sink = [0; 1024];
    // As much as may lie on the way; who sends on after that does not listen.
    for _ in 0..1024 {
        if stream.read(&mut sink).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// A connection of which some bytes have been read already.
pub(crate) struct Rewound<S> {
    read: Bytes,
    io: S,
}

impl<S> Rewound<S> {
    pub(crate) const fn new(read: Bytes, io: S) -> Self {
        Self { read, io }
    }
}

impl<S: Io> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let take = self.read.len().min(buf.remaining());
        let head = self.read.split_to(take);
        buf.put_slice(&head);
        Poll::Ready(Ok(()))
    }
}

impl<S: Io> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
