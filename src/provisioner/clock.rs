use crate::model::Millis;
use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Where the time comes from. Never runs backwards.
pub trait Clock: Send + Sync {
    /// Milliseconds since the epoch.
    fn now(&self) -> Millis;
}

/// Wall time when the service started, plus the monotonic time since. A wall clock that is stepped
/// (NTP, an operator, no battery) so can't end a lease early, which would give a live address to
/// another machine. Times on record are off by that step until the next start.
#[derive(Debug)]
pub struct SystemClock {
    wall: Millis,
    since: Instant,
}

impl SystemClock {
    /// Reads the wall clock, this once.
    pub fn new() -> SystemClock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        SystemClock { wall: Millis::try_from(wall).unwrap_or(0), since: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        let elapsed = Millis::try_from(self.since.elapsed().as_millis()).unwrap_or(Millis::MAX);
        self.wall.saturating_add(elapsed)
    }
}

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// Stands at `now`.
    pub fn at(now: Millis) -> TestClock {
        TestClock(AtomicI64::new(now))
    }

    /// Moves forward.
    pub fn advance(&self, millis: Millis) {
        self.0.fetch_add(millis.max(0), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        self.0.load(Ordering::SeqCst)
    }
}
