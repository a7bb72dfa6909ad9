//! What happened to a fleet, in figures, and whether limits were kept.

use super::{
    machine::{End, Outcome as Boot, Step},
    record::Most,
};
use crate::{
    lab::LabError,
    model::{Mac, Machine, Phase},
};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fmt, time::Duration};

/// Machines that are named one by one.
const SHOWN: usize = 10;

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    storm: Option<Boots>,
    rollout: Option<Boots>,
    rollout_took: Duration,
    kills: u32,
    amid: usize,
    after_kill: Duration,
    looks: u64,
    most: (u32, u32),
    recorded: Most,
    /// What became of each machine in the rollout.
    pub outcome: Option<Outcome>,
}

/// Many boots.
#[derive(Clone, Debug, Default)]
struct Boots {
    wall: Duration,
    ends: BTreeMap<End, u32>,
    /// Of those that got healthy, ascending.
    took: Vec<Duration>,
    roots: Vec<Duration>,
}

/// Where the machines of a rollout are at its end. What a seed decides, and no order or restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Machines by phase.
    pub phases: BTreeMap<Phase, u32>,
    /// SHA-256 over each machine's phase and last healthy image.
    pub digest: String,
    /// Machines that ended otherwise than the seed has it, and why: what lost packets and kills of the service
    /// did to the rollout, or a machine that is too slow for such a fleet.
    pub against_seed: Vec<String>,
}

impl Outcome {
    pub(super) fn of(machines: &[Machine], fails: impl Fn(Mac) -> bool) -> Outcome {
        let mut sorted: Vec<&Machine> = machines.iter().collect();
        sorted.sort_by_key(|m| m.mac);
        let mut hash = Sha256::new();
        let mut phases = BTreeMap::new();
        let mut against_seed = Vec::new();
        for machine in sorted {
            let phase = machine.part.as_ref().map(|part| part.phase);
            if let Some(phase) = phase {
                *phases.entry(phase).or_default() += 1;
            }
            let expected = if fails(machine.mac) { Phase::Failed } else { Phase::Done };
            if let Some(part) = machine.part.as_ref().filter(|part| part.phase != expected) {
                let why = part.reason.as_deref().unwrap_or("no reason");
                against_seed.push(format!("{} {}: {why}", machine.mac, part.phase));
            }
            hash.update(format!("{} {phase:?} {:?}\n", machine.mac, machine.last_healthy));
        }
        let digest = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Outcome { phases, digest, against_seed }
    }
}

impl Tally {
    pub(super) fn storm(&mut self, wall: Duration, boots: &[Boot]) {
        self.storm = Some(Boots::of(wall, boots));
    }

    pub(super) fn rollout(&mut self, wall: Duration) {
        self.rollout_took = wall;
    }

    /// The service was killed so often, amid so many boots at least; all was over so long after the last time that it was
    /// started again.
    pub(super) fn killed(&mut self, kills: u32, amid: usize, after: Duration) {
        (self.kills, self.amid, self.after_kill) = (kills, amid, after);
    }

    pub(super) fn rollout_boots(&mut self, boots: &[Boot]) {
        self.rollout = Some(Boots::of(self.rollout_took, boots));
    }

    /// Looks at all machines at one moment: more in flight than may be is an error. 0: no limit.
    pub(super) fn look(&mut self, machines: &[Machine], limits: (u32, u32)) -> Result<(), LabError> {
        self.looks += 1;
        let in_flight = machines.iter().filter(|m| m.part.as_ref().is_some_and(|p| p.phase.is_in_flight()));
        let mut racks: BTreeMap<&str, Vec<Mac>> = BTreeMap::new();
        for machine in in_flight {
            racks.entry(machine.rack.as_deref().unwrap_or_default()).or_default().push(machine.mac);
        }
        let count = |macs: &Vec<Mac>| u32::try_from(macs.len()).unwrap_or(u32::MAX);
        let all = racks.values().map(count).sum();
        let of_rack = racks.values().map(count).max().unwrap_or_default();
        self.most = (self.most.0.max(all), self.most.1.max(of_rack));
        within(all, of_rack, limits)
    }

    /// Takes what the record says of the whole rollout.
    pub(super) fn by_record(&mut self, most: Most, limits: (u32, u32)) -> Result<(), LabError> {
        self.recorded = most;
        within(most.in_all, most.of_rack, limits)
    }

    /// Times that the service was killed and started again.
    pub fn kills(&self) -> u32 {
        self.kills
    }

    /// Machines that were booting at each kill, at least.
    pub fn amid(&self) -> usize {
        self.amid
    }

    /// From the last start after a kill until all was over.
    pub fn after_kill(&self) -> Duration {
        self.after_kill
    }

    /// Boots that ended with a blob whose hash was wrong.
    pub fn wrong_hashes(&self) -> u32 {
        let all = [&self.storm, &self.rollout].into_iter().flatten();
        all.filter_map(|boots| boots.ends.get(&End::Unanswered(Step::Hash))).sum()
    }

    /// Boots of the storm that ended otherwise than healthy.
    pub fn broken(&self) -> u32 {
        let ends = self.storm.iter().flat_map(|boots| &boots.ends);
        ends.filter(|(end, _)| **end != End::Healthy).map(|(_, count)| count).sum()
    }

    /// Machines that got healthy in the storm.
    pub fn up(&self) -> u32 {
        self.storm.as_ref().and_then(|s| s.ends.get(&End::Healthy)).copied().unwrap_or_default()
    }
}

fn within(all: u32, of_rack: u32, limits: (u32, u32)) -> Result<(), LabError> {
    let exceeds = |count, limit| limit > 0 && count > limit;
    if exceeds(all, limits.0) || exceeds(of_rack, limits.1) {
        return Err(LabError::Other(format!(
            "{all} machines were in flight, {of_rack} of one rack; at most {} and {} may be",
            limits.0, limits.1
        )));
    }
    Ok(())
}

impl Boots {
    fn of(wall: Duration, boots: &[Boot]) -> Boots {
        let mut all = Boots { wall, ..Boots::default() };
        for boot in boots {
            *all.ends.entry(boot.end).or_default() += 1;
            if boot.end == End::Healthy {
                all.took.push(boot.took);
                all.roots.push(boot.root);
            }
        }
        all.took.sort();
        all.roots.sort();
        all
    }
}

impl fmt::Display for Boots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends: Vec<String> =
            self.ends.iter().map(|(end, n)| format!("{n} {end:?}").to_lowercase()).collect();
        writeln!(f, "{:.1} s; boots: {}", self.wall.as_secs_f32(), ends.join(", "))?;
        writeln!(f, "  boot   {}", Spread(&self.took))?;
        write!(f, "  root   {}", Spread(&self.roots))
    }
}

/// Ascending times.
struct Spread<'a>(&'a [Duration]);

impl fmt::Display for Spread<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |part: usize| {
            let n = self.0.len().saturating_sub(1) * part / 100;
            self.0.get(n).copied().unwrap_or_default().as_secs_f32()
        };
        let sum: Duration = self.0.iter().sum();
        let mean = sum.as_secs_f32() / self.0.len().max(1) as f32;
        let (median, most, last) = (at(50), at(95), at(100));
        write!(f, "mean {mean:.2} s, median {median:.2} s, 95 % {most:.2} s, last {last:.2} s")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.storm, &self.rollout) {
            (_, Some(rollout)) => {
                writeln!(f, "Rollout: {rollout}")?;
                writeln!(
                    f,
                    "  in flight at most {} in all, {} of one rack, over {} looks; {} kills of the service",
                    self.most.0, self.most.1, self.looks, self.kills
                )?;
                writeln!(
                    f,
                    "  by the record of {} moves: at most {} in all, {} of one rack",
                    self.recorded.moves, self.recorded.in_all, self.recorded.of_rack
                )?;
                let Some(outcome) = &self.outcome else { return Ok(()) };
                let phases: Vec<String> =
                    outcome.phases.iter().map(|(phase, n)| format!("{n} {phase}")).collect();
                write!(
                    f,
                    "  outcome: {} ({})",
                    phases.join(", "),
                    outcome.digest.get(..16).unwrap_or_default()
                )?;
                let against = outcome.against_seed.len();
                write!(f, "\n  {against} machines ended otherwise than the seed has it")?;
                outcome.against_seed.iter().take(SHOWN).try_for_each(|line| write!(f, "\n    {line}"))
            }
            (Some(storm), None) => {
                write!(f, "Storm: {storm}")?;
                match self.kills {
                    0 => Ok(()),
                    kills => {
                        let after = self.after_kill.as_secs_f32();
                        write!(f, "\n  {kills} kills of the service; all were up {after:.1} s after the last")
                    }
                }
            }
            (None, None) => f.write_str("nothing yet"),
        }
    }
}
