//! The line of those who wait for a root: a slot for each download, given back when its response ends.

use crate::{
    fleet::{Admission, AdmissionLimits, Asked},
    model::{AttemptId, Millis},
};
use serde::Serialize;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, time::timeout};

/// Requests that are held until their turn comes; those further behind are told when to ask again.
const HELD: usize = 64;
/// Machines in line, at most.
const WAITING: usize = 100_000;

/// How many downloads run at a time, and how long a request waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// Of all machines; 0: no limit.
    pub in_all: u32,
    /// Of the machines of one rack; 0: no limit.
    pub per_rack: u32,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { in_all: 12, per_rack: 8 }
    }
}

/// For metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TurnCounters {
    /// Roots that are being sent.
    pub going: usize,
    /// Machines in line.
    pub waiting: usize,
    /// Downloads that got their turn, since the start.
    pub admitted: u64,
    /// Requests that were told to ask again.
    pub deferred: u64,
    /// Milliseconds that a download lasts, smoothed.
    pub download_ms: Millis,
}

/// What a request gets.
#[derive(Debug)]
pub(super) enum Turn {
    /// Its turn, for as long as the slot is held.
    Now(Slot),
    /// Nothing yet: ask again after so many seconds.
    Later(u32),
}

/// The line. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Line(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    admission: Admission,
    /// Who is told when its turn comes.
    held: HashMap<AttemptId, Vec<oneshot::Sender<()>>>,
    admitted: u64,
    deferred: u64,
}

/// A connection in the line, or a download that runs; over on drop.
#[derive(Debug)]
pub(super) struct Slot {
    line: Line,
    boot: AttemptId,
}

impl Line {
    /// Nobody is in it.
    pub fn new(turns: Turns) -> Line {
        let Turns { in_all, per_rack } = turns;
        let admission = Admission::new(AdmissionLimits { in_all, per_rack, waiting: WAITING });
        let state = State { admission, held: HashMap::new(), admitted: 0, deferred: 0 };
        Line(Arc::new(Inner { began: Instant::now(), state: Mutex::new(state) }))
    }

    /// Waits for the turn of this boot, at most for `hold`.
    pub(super) async fn turn(
        &self,
        boot: AttemptId,
        rack: Option<&str>,
        resumes: bool,
        hold: Duration,
    ) -> Turn {
        let (mine, slot) = {
            let mut state = self.state();
            let asked = state.admission.ask(boot, rack, resumes, self.now());
            let ahead = match asked {
                Asked::Full => {
                    state.deferred += 1;
                    return Turn::Later(state.admission.retry_after(boot));
                }
                Asked::Going => 0,
                Asked::InLine(ahead) => ahead,
            };
            // From here on its drop says that this connection is over.
            let slot = Slot { line: self.clone(), boot };
            let mine = (asked != Asked::Going).then(|| {
                let (tell, mine) = oneshot::channel();
                state.held.entry(boot).or_default().push(tell);
                mine
            });
            self.admit(&mut state);
            (mine.map(|mine| (mine, ahead)), slot)
        };
        let Some((mut mine, ahead)) = mine else { return Turn::Now(slot) };
        let hold = if ahead < HELD { hold } else { Duration::ZERO };
        if timeout(hold, &mut mine).await.is_ok_and(|told| told.is_ok()) {
            return Turn::Now(slot);
        }
        let mut state = self.state();
        // It may have come in the last moment.
        if mine.try_recv().is_ok() {
            drop(state);
            return Turn::Now(slot);
        }
        state.deferred += 1;
        let later = state.admission.retry_after(boot);
        drop(state);
        drop(slot);
        Turn::Later(later)
    }

    /// How it stands.
    pub fn counters(&self) -> TurnCounters {
        let state = self.state();
        let (going, waiting) = state.admission.counts();
        let (admitted, deferred, download_ms) = (state.admitted, state.deferred, state.admission.lasts());
        TurnCounters { going, waiting, admitted, deferred, download_ms }
    }

    fn admit(&self, state: &mut State) {
        for boot in state.admission.admit(self.now()) {
            state.admitted += 1;
            for tell in state.held.remove(&boot).unwrap_or_default() {
                // One that just gave up ends its part by its slot.
                let _ = tell.send(());
            }
        }
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.0.began.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.admission.end(self.boot, self.line.now());
        if let Some(held) = state.held.get_mut(&self.boot) {
            held.retain(|tell| !tell.is_closed());
            if held.is_empty() {
                state.held.remove(&self.boot);
            }
        }
        self.line.admit(&mut state);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    const HOLD: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(20);

    fn slot(turn: Turn) -> Slot {
        match turn {
            Turn::Now(slot) => slot,
            Turn::Later(seconds) => panic!("told to ask again after {seconds} s"),
        }
    }

    #[tokio::test]
    async fn a_slot_goes_to_the_next_in_line_when_its_download_ends() {
        let line = Line::new(Turns { in_all: 1, per_rack: 1 });
        let first = slot(line.turn(AttemptId(1), None, false, HOLD).await);
        let waiting = tokio::spawn({
            let line = line.clone();
            async move { slot(line.turn(AttemptId(2), None, false, HOLD).await) }
        });
        while line.counters().waiting == 0 {
            tokio::task::yield_now().await;
        }
        drop(first);
        let second = waiting.await.unwrap();
        assert_eq!(line.counters().going, 1);
        drop(second);
        let counters = line.counters();
        assert_eq!((counters.going, counters.waiting, counters.admitted, counters.deferred), (0, 0, 2, 0));
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_when_to_ask_again_and_keeps_its_place() {
        let line = Line::new(Turns { in_all: 1, per_rack: 1 });
        let first = slot(line.turn(AttemptId(1), None, false, HOLD).await);
        assert!(matches!(line.turn(AttemptId(2), None, false, SHORT).await, Turn::Later(1..)));
        assert_eq!(line.counters().waiting, 1);
        // One that hangs up while it waits is away as well.
        tokio::select! {
            _ = line.turn(AttemptId(3), None, false, HOLD) => panic!("its turn hasn't come"),
            () = tokio::time::sleep(SHORT) => {}
        }
        drop(first);
        assert_eq!(line.counters().going, 0, "nobody is there to be admitted");
        let third = slot(line.turn(AttemptId(3), None, false, HOLD).await);
        drop(third);
        drop(slot(line.turn(AttemptId(2), None, false, HOLD).await));
        assert!(line.state().held.is_empty());
    }
}
