//! Who may fetch a root now. Pure: who asks, who ends and the time go in, who goes comes out.
//!
//! When a hall gets its power back, everybody wants everything at once, and who shares a link with
//! everybody is served last, like everybody. With some at a time the link is as full, the last one ends as
//! early, and the one in the middle in half the time. Nobody is refused for good: who comes too early
//! keeps its place in the line while it waits elsewhere.
//!
//! ```text
//! ask ──► in line, present ──admit──► going ──done──► out
//!           │ ▲ leave │ ask again
//!           ▼ │
//!         in line, away ──expire──► out
//! ```

use crate::model::{AttemptId, Millis};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a download is taken to last before any was seen.
const GUESS: Millis = 5_000;
/// Retry-After, in seconds: shortest and longest.
const SHORTEST: u32 = 1;
const LONGEST: u32 = 30;
/// A place is kept for twice the time after which to ask again, and this.
const GRACE: Millis = 15_000;
/// How often those who never came back are looked for.
const SWEEP: Millis = 1_000;

/// Downloads at a time. 0: as many as come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Of all machines.
    pub in_all: u32,
    /// Of the machines of one rack. Those without a rack are in none.
    pub per_rack: u32,
    /// Machines in line; those beyond have no place, and ask again.
    pub waiting: usize,
}

/// What becomes of one who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is going already: another connection of the same boot.
    Going,
    /// In line: so many are before it.
    InLine(usize),
    /// The line is full.
    Full,
}

/// Its place: those who come back in the middle of a download go before others, and each comes once.
type Place = (bool, u64);

#[derive(Debug)]
struct Waiter {
    place: Place,
    rack: Option<String>,
    /// Connections that wait now; none: it is away.
    connections: u32,
    /// Its place is kept until then while it is away.
    until: Millis,
}

#[derive(Debug)]
struct Going {
    rack: Option<String>,
    connections: u32,
    since: Millis,
}

/// Of one rack: how many are going, and who is present.
#[derive(Debug, Default)]
struct Rack {
    going: u32,
    present: BTreeSet<Place>,
}

/// The line, and those who are going.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    going: HashMap<AttemptId, Going>,
    waiting: HashMap<AttemptId, Waiter>,
    line: BTreeMap<Place, AttemptId>,
    racks: BTreeMap<Option<String>, Rack>,
    came: u64,
    /// Milliseconds that a download lasts, smoothed; none was seen yet.
    lasts: Option<Millis>,
    swept: Millis,
}

impl Admission {
    /// Nobody is going or waiting.
    pub fn new(limits: AdmissionLimits) -> Admission {
        Admission {
            limits,
            going: HashMap::new(),
            waiting: HashMap::new(),
            line: BTreeMap::new(),
            racks: BTreeMap::new(),
            came: 0,
            lasts: None,
            swept: 0,
        }
    }

    /// A connection of this boot asks; to be followed by [`Admission::admit`], and later by one
    /// [`Admission::end`] unless the line is full.
    pub fn ask(&mut self, boot: AttemptId, rack: Option<&str>, resumes: bool, now: Millis) -> Asked {
        self.expire(now);
        if let Some(going) = self.going.get_mut(&boot) {
            going.connections += 1;
            return Asked::Going;
        }
        if !self.waiting.contains_key(&boot) {
            if self.waiting.len() >= self.limits.waiting {
                return Asked::Full;
            }
            self.came += 1;
            let place = (!resumes, self.came);
            let waiter = Waiter { place, rack: rack.map(str::to_owned), connections: 0, until: now };
            self.line.insert(place, boot);
            self.waiting.insert(boot, waiter);
        }
        let first = self.line.first_key_value().map_or(0, |((_, first), _)| *first);
        let Some(waiter) = self.waiting.get_mut(&boot) else { return Asked::Full };
        waiter.connections += 1;
        let place = waiter.place;
        self.racks.entry(waiter.rack.clone()).or_default().present.insert(place);
        let ahead = usize::try_from(place.1.saturating_sub(first)).unwrap_or(usize::MAX);
        Asked::InLine(ahead.min(self.line.len().saturating_sub(1)))
    }

    /// Those who go now: of the racks with the fewest that are going, who came first.
    pub fn admit(&mut self, now: Millis) -> Vec<AttemptId> {
        let mut admitted = Vec::new();
        while is_below(self.going.len(), self.limits.in_all) {
            let most = self.limits.per_rack;
            let next = self
                .racks
                .iter()
                .filter(|(name, rack)| name.is_none() || is_below(rack.going as usize, most))
                .filter_map(|(name, rack)| {
                    // Who is in no rack is taken for one that has none going: in turn by arrival.
                    let going = if name.is_some() { rack.going } else { 0 };
                    rack.present.first().map(|place| (place.0, going, *place))
                })
                .min();
            let Some((_, _, place)) = next else { break };
            let Some(boot) = self.line.remove(&place) else { break };
            let Some(waiter) = self.waiting.remove(&boot) else { break };
            let rack = self.racks.entry(waiter.rack.clone()).or_default();
            rack.present.remove(&place);
            rack.going += 1;
            let going = Going { rack: waiter.rack, connections: waiter.connections, since: now };
            self.going.insert(boot, going);
            admitted.push(boot);
        }
        admitted
    }

    /// A connection of this boot is over, in line or going; its place in line is kept for a while.
    /// To be followed by [`Admission::admit`].
    pub fn end(&mut self, boot: AttemptId, now: Millis) {
        if let Some(going) = self.going.get_mut(&boot) {
            going.connections = going.connections.saturating_sub(1);
            if going.connections > 0 {
                return;
            }
            let Some(going) = self.going.remove(&boot) else { return };
            let lasted = now.saturating_sub(going.since).max(0);
            self.lasts = Some(self.lasts.map_or(lasted, |lasts| (lasts * 7 + lasted) / 8));
            if let Some(rack) = self.racks.get_mut(&going.rack) {
                rack.going = rack.going.saturating_sub(1);
            }
            self.tidy(&going.rack);
            return;
        }
        let keep = Millis::from(self.retry_after(boot)) * 2_000 + GRACE;
        let Some(waiter) = self.waiting.get_mut(&boot) else { return };
        waiter.connections = waiter.connections.saturating_sub(1);
        if waiter.connections == 0 {
            waiter.until = now.saturating_add(keep);
            let (rack, place) = (waiter.rack.clone(), waiter.place);
            if let Some(rack) = self.racks.get_mut(&rack) {
                rack.present.remove(&place);
            }
            self.tidy(&rack);
        }
    }

    /// Seconds after which this boot should ask again: halfway to its turn. Who comes early waits here; a slot
    /// that is free before the next one comes is lost.
    pub fn retry_after(&self, boot: AttemptId) -> u32 {
        let first = self.line.first_key_value().map_or(0, |((_, first), _)| *first);
        let ahead = match self.waiting.get(&boot) {
            Some(waiter) => waiter.place.1.saturating_sub(first).min(self.line.len() as u64),
            None => self.line.len() as u64,
        };
        let lasts = u64::try_from(self.lasts()).unwrap_or_default();
        let turn = ahead.saturating_mul(lasts) / u64::from(self.limits.in_all.max(1));
        let wait = turn / 2 / 1_000;
        u32::try_from(wait).unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)
    }

    /// Going and waiting.
    pub fn counts(&self) -> (usize, usize) {
        (self.going.len(), self.waiting.len())
    }

    /// Milliseconds that a download lasts, smoothed over the last ones.
    pub fn lasts(&self) -> Millis {
        self.lasts.unwrap_or(GUESS)
    }

    fn expire(&mut self, now: Millis) {
        if now.saturating_sub(self.swept).abs() < SWEEP {
            return;
        }
        self.swept = now;
        let line = &mut self.line;
        self.waiting.retain(|_, waiter| {
            let stays = waiter.connections > 0 || waiter.until >= now;
            if !stays {
                line.remove(&waiter.place);
            }
            stays
        });
    }

    /// Forgets a rack of which nobody is here.
    fn tidy(&mut self, rack: &Option<String>) {
        if self.racks.get(rack).is_some_and(|r| r.going == 0 && r.present.is_empty()) {
            self.racks.remove(rack);
        }
    }
}

fn is_below(count: usize, limit: u32) -> bool {
    limit == 0 || u32::try_from(count).is_ok_and(|count| count < limit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    const LIMITS: AdmissionLimits = AdmissionLimits { in_all: 4, per_rack: 2, waiting: 40 };

    fn rack_of(boot: u64) -> Option<String> {
        (!boot.is_multiple_of(5)).then(|| format!("r{}", boot % 5))
    }

    impl Admission {
        /// What must be true whenever `admit` was called.
        fn check(&self) {
            let mut by_rack: BTreeMap<&str, u32> = BTreeMap::new();
            for going in self.going.values() {
                assert!(going.connections > 0, "going without a connection");
                if let Some(rack) = &going.rack {
                    *by_rack.entry(rack).or_default() += 1;
                }
            }
            assert!(self.going.len() <= LIMITS.in_all as usize);
            assert!(by_rack.values().all(|n| *n <= LIMITS.per_rack), "{by_rack:?}");
            assert!(self.waiting.len() <= LIMITS.waiting && self.line.len() == self.waiting.len());
            let free = self.going.len() < LIMITS.in_all as usize;
            for waiter in self.waiting.values().filter(|w| w.connections > 0) {
                let of_rack = waiter.rack.as_deref().and_then(|rack| by_rack.get(rack));
                let may = waiter.rack.is_none() || of_rack.is_none_or(|n| *n < LIMITS.per_rack);
                assert!(!(free && may), "one waits that could go");
            }
            for (name, rack) in &self.racks {
                assert!(rack.going > 0 || !rack.present.is_empty(), "{name:?} is empty");
            }
        }
    }

    proptest! {
        #[test]
        fn limits_hold_and_no_slot_is_idle(steps in proptest::collection::vec((0u64..30, 0u8..4, 0i64..4_000), 1..300)) {
            let mut admission = Admission::new(LIMITS);
            let mut now = 1_000_000;
            let mut open: Vec<u64> = Vec::new();
            for (boot, what, passes) in steps {
                now += passes;
                match what {
                    0 | 1 => {
                        let asked = admission.ask(AttemptId(boot), rack_of(boot).as_deref(), what == 1, now);
                        if asked != Asked::Full {
                            open.push(boot);
                        }
                    }
                    _ if open.is_empty() => {}
                    _ => admission.end(AttemptId(open.swap_remove(boot as usize % open.len())), now),
                }
                admission.admit(now);
                admission.check();
            }
            // Everybody who stays gets its turn.
            while let Some(boot) = admission.going.keys().next().copied() {
                admission.end(boot, now);
                admission.admit(now);
                admission.check();
            }
            prop_assert!(admission.waiting.values().all(|w| w.connections == 0));
            admission.expire(now + 3_600_000);
            prop_assert_eq!(admission.counts(), (0, 0));
        }
    }

    #[test]
    fn racks_take_turns_and_within_one_who_came_first_goes_first() {
        let mut admission = Admission::new(AdmissionLimits { in_all: 2, per_rack: 2, waiting: 100 });
        // Three of rack a before one of b.
        for (boot, rack) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b")] {
            admission.ask(AttemptId(boot), Some(rack), false, 0);
        }
        assert_eq!(admission.admit(0), [AttemptId(1), AttemptId(4)]);
        admission.end(AttemptId(1), 1_000);
        assert_eq!(admission.admit(1_000), [AttemptId(2)]);
        admission.end(AttemptId(4), 1_000);
        assert_eq!(admission.admit(1_000), [AttemptId(5)]);
    }

    #[test]
    fn a_place_is_kept_while_its_machine_waits_elsewhere_and_a_resumed_download_goes_first() {
        let mut admission = Admission::new(AdmissionLimits { in_all: 1, per_rack: 0, waiting: 100 });
        for boot in 1..=3 {
            admission.ask(AttemptId(boot), None, false, 0);
        }
        assert_eq!(admission.admit(0), [AttemptId(1)]);
        admission.end(AttemptId(2), 100);
        let again = Millis::from(admission.retry_after(AttemptId(2))) * 1_000 + 100;
        assert_eq!(admission.ask(AttemptId(2), None, false, again), Asked::InLine(0));
        // One whose connection broke in the middle.
        admission.end(AttemptId(1), again);
        admission.ask(AttemptId(1), None, true, again);
        assert_eq!(admission.admit(again), [AttemptId(1)]);
        admission.end(AttemptId(1), again);
        assert_eq!(admission.admit(again), [AttemptId(2)]);
    }

    /// A hall that comes back: a link that those who go share, machines that wait for 5 s in a connection and then
    /// stay away for as long as they were told to, and up to a quarter more. Milliseconds until each had its root.
    fn storm(machines: u64, in_all: u32, alone: Millis) -> Vec<Millis> {
        let mut admission = Admission::new(AdmissionLimits { in_all, per_rack: 0, waiting: 1_000 });
        let mut left: HashMap<u64, Millis> =
            (0..machines).map(|m| (m, alone * Millis::from(in_all))).collect();
        let mut comes: BTreeMap<u64, Millis> = (0..machines).map(|m| (m, 0)).collect();
        let mut gives_up: BTreeMap<u64, Millis> = BTreeMap::new();
        let mut ends = Vec::new();
        let (mut now, step) = (0, 10);
        while ends.len() < machines as usize {
            for (machine, _) in comes.extract_if(.., |_, at| *at <= now).collect::<Vec<_>>() {
                admission.ask(AttemptId(machine), None, false, now);
                gives_up.insert(machine, now + 5_000);
            }
            admission.admit(now);
            for (machine, _) in gives_up.extract_if(.., |_, at| *at <= now).collect::<Vec<_>>() {
                if !admission.going.contains_key(&AttemptId(machine)) {
                    let after = Millis::from(admission.retry_after(AttemptId(machine))) * 1_000;
                    admission.end(AttemptId(machine), now);
                    comes.insert(machine, now + after + after / 4 * (machine as Millis % 7) / 7);
                }
            }
            let going: Vec<u64> = admission.going.keys().map(|boot| boot.0).collect();
            for machine in &going {
                gives_up.remove(machine);
                let left = left.get_mut(machine).unwrap();
                *left -= step * Millis::from(in_all) / going.len() as Millis;
                if *left <= 0 {
                    admission.end(AttemptId(*machine), now);
                    ends.push(now);
                }
            }
            now += step;
            assert!(now < 3_600_000, "{} of {machines} ended", ends.len());
        }
        ends
    }

    #[test]
    fn a_storm_keeps_the_link_full_though_those_in_line_come_and_go() {
        // Roots that take 0.5, 6 and 30 s alone.
        for (machines, in_all, alone) in
            [(64, 4, 500), (64, 12, 500), (64, 4, 6_000), (200, 12, 500), (40, 12, 30_000)]
        {
            let ends = storm(machines, in_all, alone);
            let (last, ideal) = (*ends.last().unwrap(), alone * machines as Millis);
            assert!(
                last * 100 <= ideal * 104,
                "{machines} machines, {in_all} at a time: {last} of {ideal} ms"
            );
        }
    }

    #[test]
    fn who_is_far_behind_is_told_to_wait_longer() {
        let mut admission = Admission::new(AdmissionLimits { in_all: 1, per_rack: 0, waiting: 3 });
        for boot in 0..3 {
            assert_eq!(admission.ask(AttemptId(boot), None, false, 0), Asked::InLine(boot as usize));
        }
        assert_eq!(admission.ask(AttemptId(9), None, false, 0), Asked::Full);
        let waits: Vec<u32> = [0, 1, 2, 9].map(|boot| admission.retry_after(AttemptId(boot))).to_vec();
        assert_eq!(waits, [1, 2, 5, 7]);
    }
}
