//! Compresses blocks on every core and gives them back in the order in which they came, so that the
//! file is the same however many cores there are.

use super::block::{self, Packed};
use std::{
    collections::VecDeque,
    io,
    num::NonZero,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, Scope},
};

/// Blocks in work for each core: the memory that a pass takes is a few times this.
const WAITING: usize = 4;

struct Job {
    bytes: Vec<u8>,
    done: mpsc::SyncSender<io::Result<Packed>>,
}

/// Blocks on their way, each with what it is for.
pub(super) struct Pool<T> {
    jobs: mpsc::Sender<Job>,
    waiting: VecDeque<(T, mpsc::Receiver<io::Result<Packed>>)>,
    most: usize,
}

impl<T> Pool<T> {
    /// Starts a thread for each of `cores` in `scope`; they end when the pool is dropped.
    pub fn start<'s>(scope: &'s Scope<'s, '_>, cores: NonZero<usize>) -> Pool<T> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..cores.get() {
            let queue = Arc::clone(&queue);
            scope.spawn(move || work(&queue));
        }
        Pool { jobs, waiting: VecDeque::new(), most: cores.get() * WAITING }
    }

    /// Gives a block to compress, not empty. Where enough are in work, waits for the oldest and gives
    /// that back.
    pub fn put(&mut self, what: T, bytes: Vec<u8>) -> io::Result<Option<(T, Packed)>> {
        let (done, result) = mpsc::sync_channel(1);
        self.jobs.send(Job { bytes, done }).map_err(|_| died())?;
        self.waiting.push_back((what, result));
        if self.waiting.len() > self.most { self.next() } else { Ok(None) }
    }

    /// Waits for the oldest block; `None` where there is none.
    pub fn next(&mut self) -> io::Result<Option<(T, Packed)>> {
        let Some((what, result)) = self.waiting.pop_front() else { return Ok(None) };
        Ok(Some((what, result.recv().map_err(|_| died())??)))
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Job>>) {
    let mut compressor = block::Compressor::new();
    loop {
        // The lock is held while it waits: who gets the next block makes no difference.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let packed = compressor.as_mut().map_err(|e| io::Error::other(e.to_string()));
        // Who asked may have given up.
        let _ = job.done.send(packed.and_then(|c| c.pack(job.bytes)));
    }
}

fn died() -> io::Error {
    io::Error::other("a compressing thread died")
}

/// As many as this process may use.
pub(super) fn cores() -> NonZero<usize> {
    thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)
}
