use crate::store::content::Content;
use rustix::{fs::sendfile, net::sockopt::set_tcp_cork};
use std::{
    fs::File,
    future::Future as _,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
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
    /// The blob whose slices are handed over to be sent.
    blob: Mutex<Option<Arc<Content>>>,
    /// Responses of which the kernel has not taken all.
    open: AtomicUsize,
}

impl ConnState {
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// From now on slices of this blob are sent by the kernel from its file. One that is not of it, as of a
    /// response before, is copied as any bytes are.
    pub(super) fn sends(&self, blob: Option<&Arc<Content>>) {
        *self.blob.lock().unwrap_or_else(PoisonError::into_inner) = blob.cloned();
    }

    /// A response begins.
    pub(super) fn response_begins(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    /// The kernel has taken all of a response, or it is over.
    pub(super) fn response_ends(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    fn blob(&self) -> Option<Arc<Content>> {
        self.blob.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A stream that the kernel can send files on.
pub(super) trait SendFile: AsyncWrite {
    /// Sends the beginning of `len` bytes at `offset`; how many.
    fn poll_send_file(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>>;

    /// Whether the kernel keeps back what doesn't fill a frame yet.
    fn cork(&self, on: bool);
}

impl SendFile for TcpStream {
    fn poll_send_file(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        file: &File,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            let mut at = offset;
            let sent = self.try_io(Interest::WRITABLE, || Ok(sendfile(&*self, file, Some(&mut at), len)?));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The file has become shorter.
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                other => return Poll::Ready(other),
            }
        }
    }

    fn cork(&self, on: bool) {
        // Where it can't, frames are shorter.
        let _ = set_tcp_cork(self, on);
    }
}

/// Bytes after which a connection gives way to others. A client that takes as fast as the kernel sends never makes us
/// wait, and would keep its thread for the whole of a root, while small answers stand behind it.
const BURST: usize = 1 << 20;

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
    /// Bytes taken since it last gave way or had to wait.
    burst: usize,
    corked: bool,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, pace: Pace, state: Arc<ConnState>) -> Guarded<S> {
        Guarded {
            stream,
            pace,
            state,
            waiting: None,
            waited: Duration::ZERO,
            taken: 0,
            burst: 0,
            corked: false,
        }
    }

    /// True where it is the others' turn; ours comes again behind theirs.
    fn gives_way(&mut self, cx: &Context<'_>) -> bool {
        let enough = self.burst >= BURST;
        if enough {
            self.burst = 0;
            cx.waker().wake_by_ref();
        }
        enough
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
                self.burst = self.burst.saturating_add(count);
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
                self.burst = 0;
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

impl<S: SendFile + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gives_way(cx) {
            return Poll::Pending;
        }
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, outcome)
    }

    /// Slices of a mapped blob never pass through this process: `sendfile` takes their pages as they lie in the
    /// page cache. What is before and after them is copied. All of it leaves in full frames, whichever way it comes:
    /// that takes a third off the processor time of a root.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gives_way(cx) {
            return Poll::Pending;
        }
        let blob = self.state.blob();
        let place = |buf: &IoSlice<'_>| blob.as_ref().and_then(|blob| blob.place_of(buf));
        let first = bufs.iter().position(|buf| !buf.is_empty()).unwrap_or(0);
        let bufs = bufs.get(first..).unwrap_or_default();
        if !self.corked && bufs.iter().any(|buf| place(buf).is_some()) {
            self.stream.cork(true);
            self.corked = true;
        }
        let outcome = match bufs.first().and_then(|buf| Some((place(buf)?, buf.len()))) {
            Some(((file, offset), len)) => Pin::new(&mut self.stream).poll_send_file(cx, file, offset, len),
            None => {
                let copied = bufs.iter().take_while(|buf| place(buf).is_none()).count();
                let bufs = bufs.get(..copied).unwrap_or_default();
                Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
            }
        };
        self.judge(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // More follows while a response is open.
        if self.corked && self.state.open.load(Ordering::Acquire) == 0 {
            self.stream.cork(false);
            self.corked = false;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
