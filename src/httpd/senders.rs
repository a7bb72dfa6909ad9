//! Threads that send blobs and may block: on the disk that a blob comes from, and a little on the client that takes it.
//!
//! A thread for each that is being sent takes less processor time, of both ends, than a few that go from one connection to the
//! next: buffers stay full, so that the kernel sends on by itself. And nobody who asks for something small waits behind it. Those
//! whose blobs come from the disk take turns at it ([`disk_turns`](super::disk_turns)).

use super::disk_turns::{DiskTurn, DiskTurns};
use crate::store::mapped::Place;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::sendfile,
    io::Errno,
};
use std::{
    io,
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
};

/// Most that send at once; others wait for a thread. Clients that read slowly have none ([`PATIENCE`]).
const THREADS: usize = 64;
/// Bytes of one call: it ends early only where the client takes no more, and not where the disk is slow.
const AT_ONCE: usize = 4 << 20;
/// After so long a thread looks for whose turn it is besides.
const TURN: Duration = Duration::from_millis(250);
/// For so long a thread waits for a client to take more: then there is time enough to begin anew when it does.
const PATIENCE: Duration = Duration::from_millis(20);

/// The threads.
#[derive(Debug)]
pub(super) struct Senders {
    /// There until this is dropped.
    runtime: Option<Runtime>,
    turns: Arc<DiskTurns>,
}

/// Who has them send.
#[derive(Clone, Debug)]
pub(super) struct Threads {
    runtime: Handle,
    turns: Arc<DiskTurns>,
}

impl Senders {
    /// # Errors
    /// Where there can be no runtime.
    pub(super) fn new() -> io::Result<Senders> {
        let runtime = Builder::new_current_thread()
            .thread_name("pristine-blobs")
            .max_blocking_threads(THREADS)
            .build()?;
        Ok(Senders { runtime: Some(runtime), turns: Arc::new(DiskTurns::new()) })
    }

    /// For [`send`].
    pub(super) fn threads(&self) -> io::Result<Threads> {
        let runtime = self.runtime.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Threads { runtime: runtime.handle().clone(), turns: Arc::clone(&self.turns) })
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        // Also within another runtime, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How far a thread came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Bytes that the kernel has taken.
    pub(super) count: usize,
    /// The client takes no more for now.
    pub(super) full: bool,
}

/// Has `places` sent through a socket that doesn't block, in order, until the client takes no more for now, or for a turn. Who
/// waits for a thread and is gone meanwhile keeps no socket open.
pub(super) fn send(
    threads: &Threads,
    socket: &Arc<TcpStream>,
    places: Vec<Place>,
) -> JoinHandle<io::Result<Sent>> {
    let socket = Arc::downgrade(socket);
    let Threads { runtime, turns } = threads.clone();
    let handle = runtime.clone();
    runtime.spawn_blocking(move || {
        let socket = socket.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let began = Instant::now();
        let (mut count, mut turn) = (0, None);
        for Place { file, mut offset, mut len } in places {
            while len > 0 {
                let stretch = len.min(AT_ONCE);
                turn = turn.filter(|turn: &DiskTurn<'_>| !turn.is_over(Instant::now()));
                if turn.is_none() && !file.is_in_memory(offset + (stretch as u64 - 1)) {
                    turn = Some(turns.next(&handle));
                }
                match sendfile(&*socket, file.file(), Some(&mut offset), stretch) {
                    // The file has become shorter.
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(taken) => {
                        len = len.saturating_sub(taken);
                        count += taken;
                        if began.elapsed() > TURN {
                            return Ok(Sent { count, full: false });
                        }
                    }
                    Err(Errno::AGAIN) => {
                        turn = match turn.take() {
                            Some(turn) => {
                                turn.kept_while(|patience| has_room(&socket, patience.min(PATIENCE)))?
                            }
                            None => None,
                        };
                        if turn.is_none() && !has_room(&socket, PATIENCE)? {
                            return Ok(Sent { count, full: true });
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(Sent { count, full: false })
    })
}

/// Waits until the client takes more; false where it takes none for so long.
fn has_room(socket: &TcpStream, patience: Duration) -> io::Result<bool> {
    let patience = Timespec { tv_sec: 0, tv_nsec: patience.subsec_nanos().into() };
    match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&patience)) {
        Ok(0) => Ok(false),
        Ok(_) | Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
