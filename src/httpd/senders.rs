//! Threads that send blobs and may block: on the disk that a blob comes from, and a little on the client that takes it.
//!
//! A thread for each that is being sent takes less processor time, of both ends, than a few that go from one connection to the
//! next: buffers stay full, so that the kernel sends on by itself. And nobody who asks for something small waits behind it.

use super::guard::ConnState;
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
/// After so long a thread looks for whose turn it is besides.
const TURN: Duration = Duration::from_millis(250);
/// For so long a thread waits for a client to take more: then there is time enough to begin anew when it does.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// The threads.
#[derive(Debug)]
pub(super) struct Senders {
    /// There until this is dropped.
    runtime: Option<Runtime>,
}

impl Senders {
    /// # Errors
    /// Where there can be no runtime.
    pub(super) fn new() -> io::Result<Senders> {
        let runtime = Builder::new_current_thread()
            .thread_name("pristine-blobs")
            .max_blocking_threads(THREADS)
            .build()?;
        Ok(Senders { runtime: Some(runtime) })
    }

    /// For [`send`].
    pub(super) fn handle(&self) -> io::Result<Handle> {
        let runtime = self.runtime.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        Ok(runtime.handle().clone())
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

/// Has `places` sent through a socket that doesn't block, in order: how many bytes the kernel has taken when the client takes no
/// more for now, or of all of them. They are counted in `state` as they go; it ends when the connection is dead.
pub(super) fn send(
    senders: &Handle,
    socket: &Arc<TcpStream>,
    places: Vec<Place>,
    state: &Arc<ConnState>,
) -> JoinHandle<io::Result<usize>> {
    let (socket, state) = (Arc::clone(socket), Arc::clone(state));
    senders.spawn_blocking(move || {
        let began = Instant::now();
        let mut sent = 0;
        for Place { file, mut offset, mut len } in places {
            while len > 0 {
                if state.is_dead() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                match sendfile(&*socket, file.file(), Some(&mut offset), len) {
                    // The file has become shorter.
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => {
                        state.took(count);
                        len = len.saturating_sub(count);
                        sent += count;
                        if began.elapsed() > TURN {
                            return Ok(sent);
                        }
                    }
                    Err(Errno::AGAIN) => {
                        if poll(&mut [PollFd::new(&*socket, PollFlags::OUT)], Some(&PATIENCE))? == 0 {
                            return Ok(sent);
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(sent)
    })
}
