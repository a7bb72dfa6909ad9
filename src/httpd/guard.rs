use std::{
    future::Future as _,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// How slow a reader may be: `bytes` within `time` of waiting for it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes that the kernel must take over (it takes them when the client acknowledges others).
    pub bytes: u64,
    /// Time in which we had something to send and could not.
    pub time: Duration,
}

/// What is known of a connection while its response is on its way.
#[derive(Debug, Default)]
pub(super) struct ConnState {
    /// Bytes that the kernel has taken for sending.
    written: AtomicU64,
    /// No byte goes out any more.
    dead: AtomicBool,
}

impl ConnState {
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
}

/// A stream whose reader is held to a pace: a write that waits too long for too little ends the
/// connection. Waiting is all that counts: a client that pauses between requests, or that waits
/// for our disk, owes nothing.
pub(super) struct Guarded<S> {
    stream: S,
    pace: Pace,
    state: Arc<ConnState>,
    /// Since when the write that waits now waits, and the timer that ends it.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Waited in vain since the last time that `pace.bytes` were taken.
    waited: Duration,
    /// Bytes taken in that time.
    taken: u64,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, pace: Pace, state: Arc<ConnState>) -> Guarded<S> {
        Guarded { stream, pace, state, waiting: None, waited: Duration::ZERO, taken: 0 }
    }

    fn judge(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Ok(count)) => {
                let count64 = count as u64;
                self.state.written.fetch_add(count64, Ordering::AcqRel);
                if let Some((since, _)) = self.waiting.take() {
                    self.waited += since.elapsed();
                }
                self.taken += count64;
                if self.taken >= self.pace.bytes {
                    (self.taken, self.waited) = (0, Duration::ZERO);
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => {
                self.state.dead.store(true, Ordering::Release);
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                let left = self.pace.time.saturating_sub(self.waited);
                let (_, timer) = self.waiting.get_or_insert_with(|| {
                    let now = Instant::now();
                    (now, Box::pin(sleep_until(now + left)))
                });
                ready!(timer.as_mut().poll(cx));
                self.state.dead.store(true, Ordering::Release);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly")))
            }
        }
    }
}

impl<S> Drop for Guarded<S> {
    fn drop(&mut self) {
        self.state.dead.store(true, Ordering::Release);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
