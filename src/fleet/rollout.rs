//! What a rollout does next. Pure: the rollout, what is known of its machines and the time go in, steps come out.
//!
//! ```text
//!                    limits, window                 first script with the image
//! Waiting ───────────────────────────► Moved ───────────────────────────────────► Booting
//!                            reboot it   │ no boot, however               healthy  │  │ deadline over,
//!                                        │ often it was ordered                    │  │ another image booted
//!                                        ▼                                         │  │
//!                                      Failed       ┌──── Soaking ◄───────────────┘  │
//!                                     stayed healthy│        │ restarted: Booting,   │
//!                                                   ▼        │ the third time ───────┼──► Failed
//!                                                  Done      └───────────────────────┘    (has back what it had)
//! ```
//!
//! `reboot` of a step says that the machine is to boot anew, where its BMC can make it: when it is moved, and
//! when it has back what it had and runs the image. How that is ordered is `super::reboot`'s.
//!
//! A machine that is pinned leaves. More failed than may: no step moves a machine any more.

use super::window;
use crate::model::{Digest, Limits, Mac, Membership, Millis, OnFailure, Phase, Rollout, RolloutState};
use std::collections::{BTreeMap, HashMap};

#[cfg(test)]
mod tests;

/// Boots that a machine may begin while it is watched.
const RESTARTS: u8 = 2;

/// Size of a wave, as an operator says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wave {
    /// So many machines.
    Count(u32),
    /// So many of a hundred of all, at least one.
    Percent(u8),
    /// All that are left.
    Rest,
}

impl std::str::FromStr for Wave {
    type Err = String;

    fn from_str(text: &str) -> Result<Wave, String> {
        let wave = match (text, text.strip_suffix('%')) {
            ("rest", _) => Some(Wave::Rest),
            (_, Some(percent)) => percent.parse().ok().filter(|p| (1..=100).contains(p)).map(Wave::Percent),
            (count, None) => count.parse().ok().filter(|c| *c > 0).map(Wave::Count),
        };
        wave.ok_or_else(|| {
            let text: String = text.chars().take(40).collect();
            format!("`{text}` is no wave: write a number of machines as in `1`, a part of all as in `10%`, or `rest`")
        })
    }
}

/// Sizes of the waves for so many machines. Waves that nobody is left for are left out.
///
/// # Errors
/// The waves end before all machines are in one.
pub fn sizes(waves: &[Wave], machines: u32) -> Result<Vec<u32>, String> {
    let mut left = machines;
    let mut sizes = Vec::new();
    for wave in waves {
        let wanted = match wave {
            Wave::Count(n) => *n,
            Wave::Percent(p) => {
                u32::try_from((u64::from(machines) * u64::from(*p)).div_ceil(100)).unwrap_or(u32::MAX)
            }
            Wave::Rest => left,
        };
        let size = wanted.min(left);
        left -= size;
        if size > 0 {
            sizes.push(size);
        }
    }
    match left {
        0 => Ok(sizes),
        _ => Err(format!("the waves have {} of {machines} machines: end with --wave rest", machines - left)),
    }
}

/// The order in which machines are taken: one of each rack in turn, so that no wave is one rack's.
pub fn spread(mut machines: Vec<(Mac, Option<&str>)>) -> Vec<Mac> {
    machines.sort_by_key(|(mac, rack)| (*rack, *mac));
    let mut nth: HashMap<Option<&str>, u32> = HashMap::new();
    let mut order: Vec<(u32, Option<&str>, Mac)> = machines
        .into_iter()
        .map(|(mac, rack)| {
            let n = nth.entry(rack).or_default();
            *n += 1;
            (*n, rack, mac)
        })
        .collect();
    order.sort();
    order.into_iter().map(|(_, _, mac)| mac).collect()
}

/// What is known of a member.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub mac: Mac,
    /// Its failure domain.
    pub rack: Option<&'a str>,
    /// Its part, as on record.
    pub part: &'a Membership,
    /// It has a pin, which goes before every rollout.
    pub pinned: bool,
    /// Its latest boot that has a script.
    pub boot: Option<Boot>,
    /// It can be made to boot anew; else people do that.
    pub remote: bool,
    /// Why it is not ordered to boot anew any more.
    pub gave_up: Option<&'a str>,
}

/// A boot of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// What its script named.
    pub image: Option<Digest>,
    /// When its script was given.
    pub at: Millis,
    /// It reported healthy.
    pub healthy: bool,
    /// How it is, in words.
    pub outcome: String,
}

/// What becomes of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub mac: Mac,
    /// Its phase from now on.
    pub phase: Phase,
    /// Boots that it began while it was watched.
    pub restarts: u8,
    /// Why it failed or left.
    pub reason: Option<String>,
    /// It is to boot anew.
    pub reboot: bool,
}

/// What becomes of the rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its state from now on.
    pub state: RolloutState,
    /// Its wave.
    pub wave: u32,
    /// Why, in words.
    pub why: String,
}

/// What is to be done now: steps of members, and a turn of the rollout. Nothing where both are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the members.
    pub steps: Vec<Step>,
    /// At most one.
    pub turn: Option<Turn>,
}

/// What is to be done now. `members` are all of the rollout, in the order in which they are taken.
pub fn plan(rollout: &Rollout, members: &[Member<'_>], now: Millis) -> Plan {
    let mut plan = Plan::default();
    if !rollout.state.is_open() {
        return plan;
    }
    // Phases as they are after the steps.
    let mut phases: Vec<Phase> = Vec::with_capacity(members.len());
    for member in members {
        let step = judge(rollout.to, &rollout.limits, member, now);
        phases.push(step.as_ref().map_or(member.part.phase, |s| s.phase));
        plan.steps.extend(step);
    }
    let failed = phases.iter().filter(|p| **p == Phase::Failed).count();
    if failed > usize::try_from(rollout.limits.max_failed).unwrap_or(usize::MAX) {
        too_many_failed(rollout, members, &phases, failed, &mut plan);
        return plan;
    }
    if rollout.state != RolloutState::Running {
        return plan;
    }
    let here = |m: &Member<'_>| m.part.wave <= rollout.wave;
    if members.iter().zip(&phases).filter(|(m, _)| here(m)).all(|(_, p)| p.is_over()) {
        plan.turn = Some(after_wave(rollout, &phases));
        return plan;
    }
    if rollout.windows.is_empty() || rollout.windows.iter().any(|w| window::is_open(*w, now)) {
        move_more(rollout, members, &mut phases, &mut plan);
    }
    plan
}

/// What the facts say of a member that was moved.
fn judge(to: Digest, limits: &Limits, member: &Member<'_>, now: Millis) -> Option<Step> {
    let part = member.part;
    if part.phase.is_over() {
        return None;
    }
    let step = |phase, reason| {
        let reboot = phase == Phase::Failed && runs(member, to);
        Some(Step { mac: member.mac, phase, restarts: part.restarts, reason, reboot })
    };
    let fail = |why: String| step(Phase::Failed, Some(why));
    if member.pinned {
        return step(Phase::Left, Some("it was pinned, which goes before a rollout".to_owned()));
    }
    // What was booted before it came to this phase tells nothing new.
    let fresh = |at: Millis| at > part.since || (at == part.since && part.phase == Phase::Moved);
    let boot = member.boot.as_ref().filter(|b| fresh(b.at));
    let other = boot.filter(|b| b.image != Some(to));
    match (part.phase, boot) {
        (Phase::Moved, Some(boot)) if boot.image == Some(to) => step(Phase::Booting, None),
        (Phase::Moved, _) if member.gave_up.is_some() => fail(member.gave_up.unwrap_or_default().to_owned()),
        // A script that was on its way when it was moved.
        (Phase::Moved, _) => None,
        (Phase::Booting | Phase::Soaking, _) if other.is_some() => {
            let image = other.and_then(|b| b.image);
            let what = image.map_or_else(|| "no image".to_owned(), |i| format!("image {}", i.short()));
            fail(format!("it booted {what} instead"))
        }
        // The boot that made it Booting may have begun before: look at it as it is.
        (Phase::Booting, _) if member.boot.as_ref().is_some_and(|b| b.image == Some(to) && b.healthy) => {
            step(Phase::Soaking, None)
        }
        (Phase::Booting, _) if now - part.since >= Millis::from(limits.deadline_seconds) * 1_000 => {
            let outcome = member.boot.as_ref().map_or_else(String::new, |b| format!(": {}", b.outcome));
            fail(format!("not healthy within {} s of its first boot{outcome}", limits.deadline_seconds))
        }
        // A boot that began after it was healthy.
        (Phase::Soaking, Some(_)) if part.restarts >= RESTARTS => {
            fail(format!("it restarted {} times while it was watched", part.restarts + 1))
        }
        (Phase::Soaking, Some(_)) => {
            let restarts = part.restarts + 1;
            Some(Step { mac: member.mac, phase: Phase::Booting, restarts, reason: None, reboot: false })
        }
        (Phase::Soaking, None) if now - part.since >= Millis::from(limits.soak_seconds) * 1_000 => {
            step(Phase::Done, None)
        }
        _ => None,
    }
}

/// Whether it booted the image last, and can be made to boot what it gets back.
fn runs(member: &Member<'_>, image: Digest) -> bool {
    member.remote && member.boot.as_ref().is_some_and(|b| b.image == Some(image))
}

fn too_many_failed(
    rollout: &Rollout,
    members: &[Member<'_>],
    phases: &[Phase],
    failed: usize,
    plan: &mut Plan,
) {
    let may = rollout.limits.max_failed;
    let machines = if failed == 1 { "machine" } else { "machines" };
    let why = format!("{failed} {machines} failed, and {may} may");
    let (state, back) = match rollout.on_failure {
        OnFailure::Halt => (RolloutState::Halted, false),
        OnFailure::RollBack => (RolloutState::RolledBack, true),
    };
    if back {
        plan.steps.extend(give_back(rollout.to, members, phases));
    }
    if rollout.state != state {
        plan.turn = Some(Turn { state, wave: rollout.wave, why });
    }
}

/// Gives back what they had to all that are moved to the image `to`. `phases` are those that count.
pub fn give_back(to: Digest, members: &[Member<'_>], phases: &[Phase]) -> Vec<Step> {
    let moved = members.iter().zip(phases).filter(|(_, p)| p.is_moved());
    let step = |m: &Member<'_>| {
        let (phase, reboot) = (Phase::Returned, runs(m, to));
        Step { mac: m.mac, phase, restarts: m.part.restarts, reason: None, reboot }
    };
    moved.map(|(m, _)| step(m)).collect()
}

fn after_wave(rollout: &Rollout, phases: &[Phase]) -> Turn {
    let wave = rollout.wave + 1;
    let last = usize::try_from(wave).unwrap_or(usize::MAX) >= rollout.waves.len();
    let good = phases.iter().filter(|p| **p == Phase::Done).count();
    let (state, wave, why) = match (last, rollout.hold) {
        (true, _) => (RolloutState::Done, rollout.wave, format!("{good} machines run the image")),
        (false, true) => {
            (RolloutState::Paused, rollout.wave, format!("wave {wave} is through: promote it, or abort"))
        }
        (false, false) => (RolloutState::Running, wave, format!("wave {wave} is through")),
    };
    Turn { state, wave, why }
}

/// Moves waiting members of the waves so far, as many as the limits allow.
fn move_more(rollout: &Rollout, members: &[Member<'_>], phases: &mut [Phase], plan: &mut Plan) {
    let limit = |n: u32| if n == 0 { usize::MAX } else { usize::try_from(n).unwrap_or(usize::MAX) };
    let (all, per_rack) = (limit(rollout.limits.in_flight), limit(rollout.limits.in_flight_per_rack));
    let mut in_flight = 0;
    let mut racks: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    for (member, _) in members.iter().zip(phases.iter()).filter(|(_, p)| p.is_in_flight()) {
        in_flight += 1;
        *racks.entry(member.rack).or_default() += 1;
    }
    for (member, phase) in members.iter().zip(phases.iter_mut()) {
        if in_flight >= all {
            return;
        }
        if *phase != Phase::Waiting || member.part.wave > rollout.wave {
            continue;
        }
        let here = racks.entry(member.rack).or_default();
        if *here >= per_rack {
            continue;
        }
        *here += 1;
        in_flight += 1;
        *phase = Phase::Moved;
        let restarts = member.part.restarts;
        let (mac, phase, reboot) = (member.mac, Phase::Moved, member.remote);
        plan.steps.push(Step { mac, phase, restarts, reason: None, reboot });
    }
}
