//! Whether a rollout's limits were kept at every moment, by what is on record: the audit log has each move of
//! a machine, its boots when it was healthy again.

use crate::model::{
    BootAttempt, Digest, Mac, Machine, Millis, Stage,
    audit::{About, AuditRecord, Deed},
};
use std::collections::{BTreeMap, HashMap};

/// Most machines that were moved and not yet healthy at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    /// Of all.
    pub in_all: u32,
    /// Of one rack.
    pub of_rack: u32,
    /// Moves that were looked at.
    pub moves: u32,
}

/// Walks along the record. A machine is in flight from its move until it is healthy with the image, or has
/// back what it had. The service sees a machine's health up to a second later: it counts no fewer.
pub fn most_in_flight(
    records: &[AuditRecord],
    boots: &[BootAttempt],
    machines: &[Machine],
    to: Digest,
) -> Most {
    let racks: HashMap<Mac, &str> =
        machines.iter().map(|m| (m.mac, m.rack.as_deref().unwrap_or_default())).collect();
    let mut healthy: HashMap<Mac, Vec<Millis>> = HashMap::new();
    for boot in boots.iter().filter(|boot| boot.image == Some(to)) {
        let at = boot.stages.iter().find(|s| s.stage == Stage::Healthy).map(|s| s.at);
        healthy.entry(boot.mac).or_default().extend(at);
    }
    // Ends go before moves of the same millisecond.
    let mut events: Vec<(Millis, bool, Mac)> = Vec::new();
    for record in records {
        let About::Machine(mac) = record.about else { continue };
        match record.what {
            Deed::Moved => {
                events.push((record.at, true, mac));
                let all = healthy.get(&mac).into_iter().flatten();
                events.extend(all.filter(|at| **at >= record.at).min().map(|at| (*at, false, mac)));
            }
            Deed::Returned | Deed::FellBack => events.push((record.at, false, mac)),
            _ => {}
        }
    }
    events.sort();
    let mut most = Most::default();
    let mut in_flight: BTreeMap<&str, Vec<Mac>> = BTreeMap::new();
    let mut count = 0u32;
    for (_, moves, mac) in events {
        let rack = in_flight.entry(racks.get(&mac).copied().unwrap_or_default()).or_default();
        let found = rack.iter().position(|other| *other == mac);
        match (moves, found) {
            (true, None) => {
                rack.push(mac);
                count += 1;
                let of_rack = u32::try_from(rack.len()).unwrap_or(u32::MAX);
                most.of_rack = most.of_rack.max(of_rack);
                most.in_all = most.in_all.max(count);
                most.moves += 1;
            }
            (false, Some(at)) => {
                rack.swap_remove(at);
                count -= 1;
            }
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AttemptId, StageEvent, Verdict, audit::Who};

    #[test]
    fn a_machine_is_in_flight_from_its_move_until_it_is_healthy_or_goes_back() {
        let (to, mac) = (Digest::of(b"2"), |n| Mac([2, 0, 0, 0, 0, n]));
        let record = |at, what, n| AuditRecord {
            about: About::Machine(mac(n)),
            at,
            changes: BTreeMap::new(),
            claim: None,
            name: None,
            order: 1,
            seq: 1,
            what,
            who: Who::Service,
            why: None,
        };
        let healthy = |at, n| {
            let mut boot = BootAttempt::new(AttemptId(u64::from(n)), mac(n));
            boot.image = Some(to);
            boot.verdict = Verdict::Healthy;
            boot.stages.push(StageEvent { stage: Stage::Healthy, at, detail: None });
            boot
        };
        let machines: Vec<Machine> = [1, 2, 3]
            .map(|n| Machine { rack: Some(format!("r{}", n % 2)), ..Machine::new(mac(n), 0) })
            .to_vec();
        let records = [
            record(10, Deed::Moved, 1),
            record(11, Deed::Moved, 2),
            record(20, Deed::Moved, 3),
            record(25, Deed::Returned, 2),
            record(30, Deed::Moved, 2),
        ];
        let most = |boots: &[BootAttempt]| most_in_flight(&records, boots, &machines, to);
        assert_eq!(most(&[healthy(20, 1)]), Most { in_all: 2, of_rack: 1, moves: 4 });
        assert_eq!(most(&[]), Most { in_all: 3, of_rack: 2, moves: 4 });
        // Healthy before it was moved tells nothing.
        assert_eq!(most(&[healthy(9, 1)]).in_all, 3);
    }
}
