//! Which pieces of the root are here, and which one to ask for next: those that a read waits for before all
//! others. Pure.

use crate::fetch::STEP;
use std::{collections::VecDeque, ops::Range};

/// Bytes of a piece; the last one may be shorter.
pub const PIECE: u64 = STEP as u64;
/// Pieces that are fetched along with one that is waited for: what lies behind it is mostly read next.
const AHEAD: usize = 1;
/// Most pieces of one request that a read waits for, so that long reads use several connections.
const RUN: usize = 4;
/// Pieces in a row that are here already, for which a request of the rest ends; fewer are fetched once more, which
/// is less than another request, and another turn.
const SKIP: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has asked for it.
    Absent,
    /// A read waits for it.
    Wanted,
    /// It is being fetched for a read.
    Asked,
    /// In memory, proven.
    Here,
    /// The server has no right one.
    Refused,
}

/// What becomes of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is here.
    Now,
    /// A part of it is to be waited for.
    Later,
    /// A part of it is not to be had.
    Never,
}

/// The pieces of a root.
#[derive(Debug)]
pub struct Pieces {
    states: Vec<State>,
    /// In the order in which they were wanted; some may have come since.
    wanted: VecDeque<usize>,
    here: usize,
}

impl Pieces {
    /// None of a root of so many bytes is here.
    pub fn new(bytes: u64) -> Pieces {
        let count = usize::try_from(bytes.div_ceil(PIECE)).unwrap_or(usize::MAX);
        Pieces { states: vec![State::Absent; count], wanted: VecDeque::new(), here: 0 }
    }

    /// The pieces that these bytes lie in.
    pub fn of(bytes: &Range<u64>) -> Range<usize> {
        let piece = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        piece(bytes.start / PIECE)..piece(bytes.end.div_ceil(PIECE))
    }

    /// A read of these begins.
    pub fn want(&mut self, pieces: Range<usize>) -> Outcome {
        let outcome = self.outcome(pieces.clone());
        if outcome == Outcome::Later {
            for n in pieces {
                if self.is(n, State::Absent) {
                    self.set(n, State::Wanted);
                    self.wanted.push_back(n);
                }
            }
        }
        outcome
    }

    /// How a read of these stands.
    pub fn outcome(&self, pieces: Range<usize>) -> Outcome {
        let states = self.states.get(pieces).unwrap_or_default();
        if states.contains(&State::Refused) {
            Outcome::Never
        } else if states.iter().all(|state| *state == State::Here) {
            Outcome::Now
        } else {
            Outcome::Later
        }
    }

    /// What to ask for next for a read: from the piece that is waited for longest on.
    pub fn next_wanted(&mut self) -> Option<Range<usize>> {
        let first = loop {
            let n = self.wanted.pop_front()?;
            // It may have come with others meanwhile.
            if self.is(n, State::Wanted) {
                break n;
            }
        };
        let mut end = first + 1;
        while end - first < RUN && self.is(end, State::Wanted) {
            end += 1;
        }
        let ahead = end + AHEAD;
        while end < ahead && self.is(end, State::Absent) {
            end += 1;
        }
        (first..end).for_each(|n| self.set(n, State::Asked));
        Some(first..end)
    }

    /// What to ask for next of the rest, which nobody waits for.
    pub fn next_rest(&self) -> Option<Range<usize>> {
        let missing = |state: &State| matches!(state, State::Absent | State::Wanted);
        let first = self.states.iter().position(missing)?;
        let (mut end, mut there) = (first, 0);
        for (n, state) in self.states.iter().enumerate().skip(first) {
            if missing(state) {
                (end, there) = (n + 1, 0);
            } else {
                there += 1;
                // What the server has no right one of would come wrong again.
                if there >= SKIP || *state == State::Refused {
                    break;
                }
            }
        }
        Some(first..end)
    }

    /// This piece came and is proven. False where it was here.
    pub fn came(&mut self, n: usize) -> bool {
        let new = self.states.get(n).is_some_and(|state| *state != State::Here);
        if new {
            self.set(n, State::Here);
            self.here += 1;
        }
        new
    }

    /// True where this piece is here.
    pub fn has(&self, n: usize) -> bool {
        self.is(n, State::Here)
    }

    /// Those of these that were asked for did not come: they are wanted still.
    pub fn again(&mut self, pieces: Range<usize>) {
        for n in pieces.rev() {
            if self.is(n, State::Asked) {
                self.set(n, State::Wanted);
                self.wanted.push_front(n);
            }
        }
    }

    /// Those of these that are not here are not to be had.
    pub fn refuse(&mut self, pieces: Range<usize>) {
        for n in pieces {
            if !self.has(n) {
                self.set(n, State::Refused);
            }
        }
    }

    /// What was not to be had may be asked for again.
    pub fn forgive(&mut self) {
        let refused = self.states.iter_mut().filter(|state| **state == State::Refused);
        refused.for_each(|state| *state = State::Absent);
    }

    /// True where all are here.
    pub fn whole(&self) -> bool {
        self.here == self.states.len()
    }

    fn is(&self, n: usize, state: State) -> bool {
        self.states.get(n) == Some(&state)
    }

    fn set(&mut self, n: usize, to: State) {
        if let Some(state) = self.states.get_mut(n) {
            *state = to;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn come(p: &mut Pieces, which: impl IntoIterator<Item = usize>) {
        for n in which {
            p.came(n);
        }
    }

    fn pieces(count: u64) -> Pieces {
        Pieces::new(count * PIECE - 100)
    }

    #[test]
    fn what_is_waited_for_is_asked_first_in_its_order_and_a_little_ahead() {
        let mut p = pieces(20);
        assert_eq!((p.next_wanted(), p.next_rest()), (None, Some(0..20)));
        assert_eq!(p.want(Pieces::of(&(9 * PIECE..9 * PIECE + 1))), Outcome::Later);
        assert_eq!(p.want(Pieces::of(&(3 * PIECE + 7..5 * PIECE + 1))), Outcome::Later);
        assert_eq!(p.next_wanted(), Some(9..11));
        assert_eq!(p.next_wanted(), Some(3..7), "all three that one read waits for, and one behind them");
        assert_eq!(p.next_wanted(), None);
        assert_eq!(p.want(4..5), Outcome::Later, "it is on its way and not asked for twice");
        assert_eq!(p.next_wanted(), None);
        (3..6).for_each(|n| assert!(p.came(n)));
        assert!(!p.came(3));
        assert_eq!((p.want(3..6), p.want(3..7)), (Outcome::Now, Outcome::Later));
    }

    #[test]
    fn a_long_read_is_asked_for_in_parts_and_what_came_otherwise_is_not() {
        let mut p = pieces(20);
        p.want(0..10);
        p.came(5);
        assert_eq!(p.next_wanted(), Some(0..4));
        assert_eq!(p.next_wanted(), Some(4..5), "the next is here");
        assert_eq!(p.next_wanted(), Some(6..11));
    }

    #[test]
    fn the_rest_is_asked_for_in_long_runs_around_what_is_here() {
        let mut p = pieces(20);
        [0, 4, 5, 6, 10, 11, 12, 13, 19].into_iter().for_each(|n| assert!(p.came(n)));
        // Three that are here are fetched once more; four are not, nor is what ends it.
        assert_eq!(p.next_rest(), Some(1..10));
        come(&mut p, 1..10);
        assert_eq!(p.next_rest(), Some(14..19));
        p.refuse(15..16);
        assert_eq!(p.next_rest(), Some(14..15));
    }

    #[test]
    fn what_is_not_to_be_had_fails_its_reads_and_no_other_until_it_is_forgiven() {
        let mut p = pieces(4);
        p.want(0..3);
        assert_eq!(p.next_wanted(), Some(0..4));
        p.came(0);
        p.refuse(1..2);
        p.again(0..4);
        assert_eq!(
            (p.outcome(0..1), p.outcome(1..2), p.outcome(2..3)),
            (Outcome::Now, Outcome::Never, Outcome::Later)
        );
        assert_eq!(p.want(0..2), Outcome::Never);
        assert_eq!(p.next_wanted(), Some(2..4), "the others are asked for again");
        p.came(2);
        p.came(3);
        assert!(!p.whole() && p.next_rest().is_none());
        p.forgive();
        assert_eq!(p.next_rest(), Some(1..2));
        p.came(1);
        assert!(p.whole() && p.next_rest().is_none() && p.outcome(0..4) == Outcome::Now);
    }

    /// Any order of reads, arrivals and losses, from a fixed sequence of numbers: everybody is served in the end.
    #[test]
    fn every_read_is_answered_and_the_root_gets_whole() {
        for seed in 1..200u64 {
            let mut x = seed;
            let mut next = |below: usize| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (x >> 33) as usize % below
            };
            let mut p = pieces(40);
            let mut waiting: Vec<Range<usize>> = Vec::new();
            for _ in 0..200 {
                let (from, len) = (next(40), next(9) + 1);
                let read = from..(from + len).min(40);
                if p.want(read.clone()) == Outcome::Later {
                    waiting.push(read);
                }
                if let Some(run) = p.next_wanted() {
                    let came = run.start..run.start + next(run.len() + 1);
                    come(&mut p, came);
                    p.again(run);
                }
                waiting.retain(|read| p.outcome(read.clone()) == Outcome::Later);
            }
            while let Some(run) = p.next_wanted() {
                come(&mut p, run);
            }
            assert!(waiting.iter().all(|read| p.outcome(read.clone()) == Outcome::Now), "seed {seed}");
            while let Some(run) = p.next_rest() {
                assert!(run.clone().any(|n| !p.has(n)));
                come(&mut p, run);
            }
            assert!(p.whole(), "seed {seed}");
        }
    }
}
