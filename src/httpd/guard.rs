use super::senders;
use crate::{
    store::{content::Content, mapped::Place},
    sys::registered_for,
};
use rustix::net::sockopt::set_tcp_cork;
use std::{
    collections::VecDeque,
    future::Future as _,
    io::{self, IoSlice, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    runtime::Handle,
    task::JoinHandle,
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
    /// Responses of which the kernel has not taken all, in order, each with the blob that it sends.
    open: Mutex<VecDeque<Option<Arc<Content>>>>,
}

impl ConnState {
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// The kernel has taken `count` bytes more.
    pub(super) fn took(&self, count: usize) {
        self.written.fetch_add(count as u64, Ordering::AcqRel);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// A response begins. Slices of its blob are sent by the kernel from where they lie; all others are copied.
    pub(super) fn response_begins(&self, blob: Option<Arc<Content>>) {
        self.open().push_back(blob);
    }

    /// The kernel has taken all of the first response that is open, or it is over.
    pub(super) fn response_ends(&self) {
        self.open().pop_front();
    }

    fn place_of(&self, slice: &[u8]) -> Option<Place> {
        self.open().iter().flatten().find_map(|blob| blob.place_of(slice))
    }

    fn open(&self) -> MutexGuard<'_, VecDeque<Option<Arc<Content>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a write waits for.
enum Waits {
    /// A thread sends.
    Sending(JoinHandle<io::Result<usize>>),
    /// The client takes no more for now.
    Full(AsyncFd<Arc<TcpStream>>),
}

/// A stream whose reader is held to a pace: a write that waits too long for too little ends the
/// connection. Waiting is all that counts: a client that pauses between requests owes nothing. What is of a blob is sent
/// by threads that may block ([`senders`]).
pub(super) struct Guarded {
    /// Looked at for what the client sends; for room to send only where there is none.
    socket: AsyncFd<Arc<TcpStream>>,
    senders: Handle,
    waits: Option<Waits>,
    pace: Pace,
    state: Arc<ConnState>,
    /// Since when the write that waits now waits, and the timer that ends it.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Waited in vain since the last time that `pace.bytes` were taken.
    waited: Duration,
    /// What was written at that time.
    mark: u64,
    corked: bool,
}

impl Guarded {
    /// Of a socket that doesn't block.
    pub(super) fn new(
        socket: TcpStream,
        senders: &Handle,
        pace: Pace,
        state: Arc<ConnState>,
    ) -> io::Result<Guarded> {
        Ok(Guarded {
            socket: registered_for(Arc::new(socket), Interest::READABLE)?,
            senders: senders.clone(),
            waits: None,
            pace,
            state,
            waiting: None,
            waited: Duration::ZERO,
            mark: 0,
            corked: false,
        })
    }

    /// Where `pace.bytes` were taken, a new count begins.
    fn count_anew(&mut self) -> bool {
        let written = self.state.written();
        let enough = written.saturating_sub(self.mark) >= self.pace.bytes;
        if enough {
            (self.mark, self.waited) = (written, Duration::ZERO);
        }
        enough
    }

    fn judge(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Ready(Ok(count)) => {
                if let Some((since, _)) = self.waiting.take() {
                    self.waited += since.elapsed();
                }
                self.count_anew();
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => {
                self.state.dead.store(true, Ordering::Release);
                Poll::Ready(Err(error))
            }
            Poll::Pending => loop {
                let left = self.pace.time.saturating_sub(self.waited);
                let (_, timer) = self.waiting.get_or_insert_with(|| {
                    let now = Instant::now();
                    (now, Box::pin(sleep_until(now + left)))
                });
                ready!(timer.as_mut().poll(cx));
                self.waiting = None;
                if !self.count_anew() {
                    self.state.dead.store(true, Ordering::Release);
                    let slow = io::Error::new(
                        io::ErrorKind::TimedOut,
                        "too little left for too long: the client reads too slowly, or the disk hangs",
                    );
                    return Poll::Ready(Err(slow));
                }
            },
        }
    }

    /// Slices of a mapped blob never pass through this process: `sendfile` takes their pages as they lie in the
    /// page cache. What is before and after them is copied. All of it leaves in full frames, whichever way it comes:
    /// that takes a third off the processor time of a root. The same bytes are asked for until they are sent.
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let sent = match &mut self.waits {
                Some(Waits::Full(socket)) => {
                    let _room = ready!(socket.poll_write_ready(cx))?;
                    self.waits = None;
                    continue;
                }
                Some(Waits::Sending(sending)) => {
                    let sent = ready!(Pin::new(sending).poll(cx));
                    self.waits = None;
                    sent.map_err(io::Error::other)?
                }
                None => match self.begin(bufs) {
                    Some(sent) => sent,
                    None => continue,
                },
            };
            match sent {
                Ok(0) if bufs.iter().any(|buf| !buf.is_empty()) => self.full()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.full()?,
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Writes what is to be copied; `None` where a thread sends what isn't.
    fn begin(&mut self, bufs: &[IoSlice<'_>]) -> Option<io::Result<usize>> {
        let state = Arc::clone(&self.state);
        let place = |buf: &IoSlice<'_>| state.place_of(buf);
        let copied = bufs.iter().take_while(|buf| buf.is_empty() || place(buf).is_none()).count();
        let (copied, of_blob) = bufs.split_at_checked(copied).unwrap_or((bufs, &[]));
        if !of_blob.is_empty() {
            self.cork(true);
        }
        if of_blob.is_empty() || copied.iter().any(|buf| !buf.is_empty()) {
            let mut socket: &TcpStream = self.socket.get_ref();
            return Some(socket.write_vectored(copied).inspect(|count| state.took(*count)));
        }
        let places: Vec<Place> = of_blob.iter().map_while(place).collect();
        let sending = senders::send(&self.senders, self.socket.get_ref(), places, &state);
        self.waits = Some(Waits::Sending(sending));
        None
    }

    /// Has the runtime look for room. Not so while threads send: it would be woken for each stretch that the client takes.
    fn full(&mut self) -> io::Result<()> {
        // A descriptor can't be looked at twice.
        let socket = Arc::new(self.socket.get_ref().try_clone()?);
        self.waits = Some(Waits::Full(registered_for(socket, Interest::WRITABLE)?));
        Ok(())
    }

    fn cork(&mut self, on: bool) {
        if self.corked != on {
            // Where it can't, frames are shorter.
            let _ = set_tcp_cork(self.socket.get_ref(), on);
            self.corked = on;
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.state.dead.store(true, Ordering::Release);
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut some = ready!(self.socket.poll_read_ready(cx))?;
            if let Ok(read) = some.try_io(|socket| (&**socket.get_ref()).read(buf.initialize_unfilled())) {
                return Poll::Ready(read.map(|count| buf.advance(count)));
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = self.poll_send(cx, bufs);
        self.judge(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // More follows while a response is open.
        if self.state.open().is_empty() {
            self.cork(false);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.get_ref().shutdown(Shutdown::Write))
    }
}
