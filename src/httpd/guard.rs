use super::senders::{self, Sent, Threads};
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

/// Bytes of a request that are read at once.
const READ_AT_ONCE: usize = 16 << 10;

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
    fn took(&self, count: usize) {
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
    /// A thread sends, or waits for the disk.
    Sending {
        thread: JoinHandle<io::Result<Sent>>,
        /// Where the first of what it sends lies.
        first: usize,
    },
    /// The client takes no more for now.
    Full {
        room: AsyncFd<Arc<TcpStream>>,
        since: Instant,
        /// Ends the connection.
        timer: Pin<Box<Sleep>>,
    },
}

/// A stream whose reader is held to a pace: a write that waits too long for too little ends the
/// connection. Waiting is all that counts: a client that pauses between requests, or that waits
/// for our disk, owes nothing. What is of a blob is sent by threads that may block ([`senders`]).
pub(super) struct Guarded {
    /// Looked at for what the client sends; for room to send only where there is none.
    socket: AsyncFd<Arc<TcpStream>>,
    senders: Threads,
    waits: Option<Waits>,
    pace: Pace,
    state: Arc<ConnState>,
    /// Waited in vain since the last time that `pace.bytes` were taken.
    waited: Duration,
    /// Bytes taken in that time.
    taken: u64,
    corked: bool,
}

impl Guarded {
    /// Of a socket that doesn't block.
    pub(super) fn new(
        socket: TcpStream,
        senders: &Threads,
        pace: Pace,
        state: Arc<ConnState>,
    ) -> io::Result<Guarded> {
        Ok(Guarded {
            socket: registered_for(Arc::new(socket), Interest::READABLE)?,
            senders: senders.clone(),
            waits: None,
            pace,
            state,
            waited: Duration::ZERO,
            taken: 0,
            corked: false,
        })
    }

    /// Slices of a mapped blob never pass through this process: `sendfile` takes their pages as they lie in the
    /// page cache. What is before and after them is copied. All of it leaves in full frames, whichever way it comes:
    /// that takes a third off the processor time of a root. The same bytes are asked for until they are sent.
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let sent = match &mut self.waits {
                None => match self.begin(bufs) {
                    Some(copied) => copied,
                    None => continue,
                },
                Some(Waits::Sending { thread, first }) => {
                    let same =
                        bufs.iter().find(|buf| !buf.is_empty()).is_some_and(|buf| address(buf) == *first);
                    if !same {
                        return Poll::Ready(Err(io::Error::other(
                            "other bytes than those that are being sent",
                        )));
                    }
                    let sent = ready!(Pin::new(thread).poll(cx));
                    self.waits = None;
                    sent.map_err(io::Error::other)?
                }
                Some(Waits::Full { room, since, timer }) => {
                    if room.poll_write_ready(cx)?.is_pending() {
                        ready!(timer.as_mut().poll(cx));
                        return Poll::Ready(Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the client reads too slowly",
                        )));
                    }
                    self.waited += since.elapsed();
                    self.waits = None;
                    continue;
                }
            }?;
            if sent.full {
                self.waits = Some(self.full()?);
            }
            if sent.count > 0 || !sent.full {
                self.state.took(sent.count);
                self.taken += sent.count as u64;
                if self.taken >= self.pace.bytes {
                    (self.taken, self.waited) = (0, Duration::ZERO);
                }
                return Poll::Ready(Ok(sent.count));
            }
        }
    }

    /// Writes what is to be copied; `None` where a thread sends what isn't.
    fn begin(&mut self, bufs: &[IoSlice<'_>]) -> Option<io::Result<Sent>> {
        let state = Arc::clone(&self.state);
        let place = |buf: &IoSlice<'_>| state.place_of(buf);
        let copied = bufs.iter().take_while(|buf| buf.is_empty() || place(buf).is_none()).count();
        let (copied, of_blob) = bufs.split_at_checked(copied).unwrap_or((bufs, &[]));
        if !of_blob.is_empty() {
            self.cork(true);
        }
        match of_blob.first() {
            Some(first) if copied.iter().all(|buf| buf.is_empty()) => {
                let places: Vec<Place> = of_blob.iter().map_while(place).collect();
                let thread = senders::send(&self.senders, self.socket.get_ref(), places);
                self.waits = Some(Waits::Sending { thread, first: address(first) });
                None
            }
            _ => {
                let mut socket: &TcpStream = self.socket.get_ref();
                Some(match socket.write_vectored(copied) {
                    Ok(count) => Ok(Sent { count, full: false }),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        Ok(Sent { count: 0, full: true })
                    }
                    Err(error) => Err(error),
                })
            }
        }
    }

    /// Has the runtime look for room. Not so while threads send: it would be woken for each stretch that the client takes.
    fn full(&self) -> io::Result<Waits> {
        // A descriptor can't be looked at twice.
        let socket = Arc::new(self.socket.get_ref().try_clone()?);
        let (room, since) = (registered_for(socket, Interest::WRITABLE)?, Instant::now());
        let left = self.pace.time.saturating_sub(self.waited);
        Ok(Waits::Full { room, since, timer: Box::pin(sleep_until(since + left)) })
    }

    fn cork(&mut self, on: bool) {
        if self.corked != on {
            // Where it can't, frames are shorter.
            let _ = set_tcp_cork(self.socket.get_ref(), on);
            self.corked = on;
        }
    }
}

/// Where a slice lies in memory.
fn address(slice: &[u8]) -> usize {
    slice.as_ptr().addr()
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.state.dead.store(true, Ordering::Release);
        if let Some(Waits::Sending { .. }) = self.waits {
            // Ends what the thread is at, which has the socket too.
            let _ = self.socket.get_ref().shutdown(Shutdown::Both);
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut some = ready!(self.socket.poll_read_ready(cx))?;
            // All of what is free would be filled with zeros first, and hyper makes room for as much as it may write.
            let free = buf.remaining().min(READ_AT_ONCE);
            let read = some.try_io(|socket| (&**socket.get_ref()).read(buf.initialize_unfilled_to(free)));
            if let Ok(read) = read {
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
        if let Poll::Ready(Err(_)) = outcome {
            self.state.dead.store(true, Ordering::Release);
        }
        outcome
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
