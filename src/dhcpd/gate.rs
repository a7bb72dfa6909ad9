//! Which requests of a link are worked on. A million made-up MACs cost a fixed amount of memory and
//! never keep out the machines that we know.

use super::LinkBounds;
use crate::{dhcp::MessageType, model::Mac};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Requests of one MAC in work at once: a client retries after a second, never in parallel.
const PER_MAC: usize = 4;

/// Tokens that refill with time. No clock of its own.
#[derive(Clone, Debug)]
pub struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Bucket {
        let burst = f64::from(burst.max(1));
        Bucket { per_second: per_second.into(), burst, tokens: burst, filled: now }
    }

    /// Takes one token; false when there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let some = self.has_any(now);
        if some {
            self.tokens -= 1.0;
        }
        some
    }

    /// Whether there is a token.
    pub fn has_any(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.tokens >= 1.0
    }
}

/// The MACs seen last, about `bound` of them: two sets, the older of which is forgotten when the
/// newer is full.
#[derive(Debug, Default)]
struct Recent {
    bound: usize,
    new: HashSet<Mac>,
    old: HashSet<Mac>,
}

impl Recent {
    fn insert(&mut self, mac: Mac) {
        if self.new.len() >= self.bound.div_ceil(2) {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(mac);
    }

    fn contains(&self, mac: Mac) -> bool {
        self.new.contains(&mac) || self.old.contains(&mac)
    }
}

/// A request as far as telling repetitions goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Who.
    pub mac: Mac,
    /// Its transaction.
    pub xid: u32,
    /// Which step.
    pub kind: Option<MessageType>,
}

/// Why a request is not worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many unknown MACs.
    Rate,
    /// Too much in work.
    Busy,
    /// In work already.
    Repeated,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    recent: Recent,
    in_work: HashMap<Mac, [Option<RequestKey>; PER_MAC]>,
    count: usize,
}

/// The bounds of one link, applied.
#[derive(Debug)]
pub struct Gate {
    bounds: LinkBounds,
    state: Mutex<State>,
}

impl Gate {
    /// Nothing in work.
    pub fn new(bounds: LinkBounds, now: Instant) -> Arc<Gate> {
        let bucket = Bucket::new(bounds.unknown_per_second, bounds.unknown_burst, now);
        let recent = Recent { bound: bounds.remembered, ..Recent::default() };
        let state = State { bucket, recent, in_work: HashMap::new(), count: 0 };
        Arc::new(Gate { bounds, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request of this MAC would be refused for [`Refused::Rate`]: told before the request is read, so
    /// that the packets of a flood cost next to nothing.
    pub fn is_flooded_by(&self, mac: Mac, known: impl FnOnce(Mac) -> bool, now: Instant) -> bool {
        let familiar = {
            let mut state = self.state();
            state.bucket.has_any(now) || state.recent.contains(mac)
        };
        !familiar && !known(mac)
    }

    /// Lets a request in until the permit is dropped.
    pub fn enter(
        self: &Arc<Gate>,
        key: RequestKey,
        known: impl FnOnce(Mac) -> bool,
        now: Instant,
    ) -> Result<Permit, Refused> {
        // Not under the lock: the caller's tables have locks of their own.
        let known = known(key.mac);
        let mut state = self.state();
        let of_mac = state.in_work.get(&key.mac).copied().unwrap_or_default();
        if of_mac.contains(&Some(key)) {
            return Err(Refused::Repeated);
        }
        if !of_mac.contains(&None) || state.count >= self.bounds.in_flight {
            return Err(Refused::Busy);
        }
        if !known {
            if state.count >= self.bounds.in_flight - self.bounds.in_flight / 4 {
                return Err(Refused::Busy);
            }
            if !state.recent.contains(key.mac) && !state.bucket.take(now) {
                return Err(Refused::Rate);
            }
        }
        let of_mac = state.in_work.entry(key.mac).or_default();
        if let Some(free) = of_mac.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(key);
        }
        state.count += 1;
        Ok(Permit { gate: Arc::clone(self), key, known })
    }

    /// We answered it: what follows (a REQUEST after our OFFER) is no stranger's.
    pub fn answered(&self, mac: Mac) {
        self.state().recent.insert(mac);
    }

    /// Requests in work.
    pub fn in_flight(&self) -> usize {
        self.state().count
    }
}

/// Room for one request in work.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    key: RequestKey,
    known: bool,
}

impl Permit {
    /// Of a machine that is known: its turn comes before strangers'.
    pub fn is_known(&self) -> bool {
        self.known
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.count = state.count.saturating_sub(1);
        if let Some(of_mac) = state.in_work.get_mut(&self.key.mac) {
            let its = of_mac.iter_mut().filter(|slot| **slot == Some(self.key));
            its.for_each(|slot| *slot = None);
            if of_mac.iter().all(Option::is_none) {
                state.in_work.remove(&self.key.mac);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use std::time::Duration;

    fn key(n: u32) -> RequestKey {
        let [a, b, c, d] = n.to_be_bytes();
        RequestKey { mac: Mac([2, 0, a, b, c, d]), xid: n, kind: Some(MessageType::Discover) }
    }

    fn bounds() -> LinkBounds {
        LinkBounds { in_flight: 8, unknown_per_second: 10, unknown_burst: 5, remembered: 16 }
    }

    #[test]
    fn a_million_made_up_macs_neither_fill_memory_nor_keep_a_known_machine_out() {
        let start = Instant::now();
        let gate = Gate::new(bounds(), start);
        let mut let_in = 0;
        for n in 0..1_000_000u32 {
            // 100,000 in a second.
            let now = start + Duration::from_micros(u64::from(n) * 10);
            match gate.enter(key(n), |_| false, now) {
                Ok(permit) => {
                    gate.answered(permit.key.mac);
                    let_in += 1;
                }
                Err(refused) => assert_eq!(refused, Refused::Rate),
            }
            if n % 10_000 == 0 {
                assert!(!gate.is_flooded_by(key(u32::MAX).mac, |_| true, now));
                assert!(gate.enter(key(u32::MAX), |_| true, now).is_ok(), "a known machine is let in");
            }
        }
        assert!((100..=106).contains(&let_in), "5 at once and 10 a second for 10 s, not {let_in}");
        let state = gate.state();
        assert!(state.recent.new.len() + state.recent.old.len() <= 16);
        assert!(state.in_work.is_empty());
    }

    #[test]
    fn strangers_leave_a_quarter_of_the_room_to_known_machines() {
        let now = Instant::now();
        let gate = Gate::new(LinkBounds { unknown_burst: 100, ..bounds() }, now);
        let held: Vec<_> = (0..6).map(|n| gate.enter(key(n), |_| false, now).unwrap()).collect();
        assert_eq!(gate.enter(key(6), |_| false, now).unwrap_err(), Refused::Busy);
        let known: Vec<_> = (7..9).map(|n| gate.enter(key(n), |_| true, now).unwrap()).collect();
        assert_eq!(gate.enter(key(9), |_| true, now).unwrap_err(), Refused::Busy);
        drop(held);
        drop(known);
        assert_eq!(gate.in_flight(), 0);
        assert!(gate.enter(key(6), |_| false, now).is_ok());
    }

    #[test]
    fn a_repeated_request_is_worked_on_once() {
        let now = Instant::now();
        let gate = Gate::new(bounds(), now);
        let first = gate.enter(key(1), |_| true, now).unwrap();
        assert_eq!(gate.enter(key(1), |_| true, now).unwrap_err(), Refused::Repeated);
        let request = RequestKey { kind: Some(MessageType::Request), ..key(1) };
        assert!(gate.enter(request, |_| true, now).is_ok(), "its next step is another request");
        drop(first);
        assert!(gate.enter(key(1), |_| true, now).is_ok());
    }

    #[test]
    fn the_request_after_our_offer_passes_however_many_strangers_there_are() {
        let now = Instant::now();
        let gate = Gate::new(bounds(), now);
        drop(gate.enter(key(1), |_| false, now).unwrap());
        gate.answered(key(1).mac);
        for n in 2..6 {
            drop(gate.enter(key(n), |_| false, now).unwrap());
        }
        assert!(gate.is_flooded_by(key(7).mac, |_| false, now));
        assert_eq!(gate.enter(key(7), |_| false, now).unwrap_err(), Refused::Rate);
        assert!(!gate.is_flooded_by(key(1).mac, |_| false, now));
        assert!(gate.enter(key(1), |_| false, now).is_ok());
    }
}
