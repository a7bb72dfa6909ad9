//! Turns at the disk: how many threads have it read what they send.
//!
//! What is in memory goes out fastest where each connection has a thread. What comes from the disk doesn't: dozens that read here
//! and there make the processor change from one to the next, and what was read has left its caches before it goes out. So those
//! take turns, as many at once as there are cores, and one who sends to a client that takes it keeps on for a while.

use std::{
    io,
    num::NonZero,
    thread::available_parallelism,
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
};

/// A turn ends after so long, and the next in line has one: a disk that is slow must be so to all.
const LONGEST: Duration = Duration::from_millis(50);
/// Threads that read at once where there is one core: while one waits for the disk, another sends.
const FEWEST: usize = 2;

/// Turns, given in the order in which they are asked for.
#[derive(Debug)]
pub(super) struct DiskTurns(Semaphore);

impl DiskTurns {
    /// As many at once as there are cores.
    pub(super) fn new() -> DiskTurns {
        let cores = available_parallelism().map_or(FEWEST, NonZero::get);
        DiskTurns(Semaphore::new(cores.max(FEWEST)))
    }

    /// Blocks until it is this thread's turn. Only where `runtime` may be waited for: on a thread that runs no futures.
    pub(super) fn next(&self, runtime: &Handle) -> DiskTurn<'_> {
        let permit = runtime.block_on(self.0.acquire());
        // Nobody closes it; without one there would only be more at once.
        DiskTurn { _permit: permit.ok(), began: Instant::now(), waited: Duration::ZERO }
    }
}

/// This thread's turn, until it is dropped.
pub(super) struct DiskTurn<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    began: Instant,
    /// For the client.
    waited: Duration,
}

impl DiskTurn<'_> {
    /// The same turn where `room` tells that the client takes more before the time that it is given is over.
    ///
    /// # Errors
    /// Those of `room`.
    pub(super) fn kept_while(
        mut self,
        room: impl FnOnce(Duration) -> io::Result<bool>,
    ) -> io::Result<Option<Self>> {
        let since = Instant::now();
        let room = room(self.patience(since))?;
        self.waited += since.elapsed();
        Ok(room.then_some(self))
    }

    /// How much longer it may wait for its client, in all no longer than it did anything else: clients that are slow keep no more
    /// than half of the disk's time from others.
    fn patience(&self, now: Instant) -> Duration {
        let lasts = now.saturating_duration_since(self.began);
        lasts.saturating_sub(self.waited).saturating_sub(self.waited)
    }

    /// Whether others' turn has come.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) > LONGEST
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{sync::mpsc, thread};
    use tokio::runtime::Builder;

    #[test]
    fn no_more_than_that_many_have_a_turn_and_the_next_has_one_when_one_ends() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let turns = DiskTurns(Semaphore::new(2));
        let (one, two) = (turns.next(runtime.handle()), turns.next(runtime.handle()));
        assert!(turns.0.try_acquire().is_err());
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _third = turns.next(runtime.handle());
                tell.send(()).unwrap();
            });
            assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
            drop(one);
            told.recv_timeout(Duration::from_secs(60)).unwrap();
        });
        drop(two);
        assert_eq!(turns.0.available_permits(), 2);
    }

    #[test]
    fn it_waits_for_its_client_no_longer_than_it_works() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let turns = DiskTurns::new();
        let mut turn = turns.next(runtime.handle());
        let (began, ms) = (turn.began, Duration::from_millis);
        assert_eq!(turn.patience(began + ms(3)), ms(3));
        turn.waited = ms(2);
        assert_eq!(turn.patience(began + ms(5)), ms(1));
        turn.waited = ms(3);
        assert_eq!(turn.patience(began + ms(6)), Duration::ZERO);
        assert!(!turn.is_over(began + ms(50)) && turn.is_over(began + ms(51)));
        let mut turn = turn.kept_while(|_| Ok(true)).unwrap().unwrap();
        turn.waited = Duration::ZERO;
        assert!(turn.kept_while(|patience| Ok(patience.is_zero())).unwrap().is_none());
    }
}
