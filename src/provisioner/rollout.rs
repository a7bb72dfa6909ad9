//! Operators' commands about rollouts. Durable like every other command, see `command`.

use super::{
    CommandError, Provisioner,
    command::whole,
    rule::{check_name, parse},
    state::{Effects, State},
};
use crate::{
    fleet::{self, Wave},
    model::{
        Arch, BootTarget, Digest, Mac, Machine, Membership, Millis, Phase, Rollout, RolloutState,
        audit::By,
        nearest,
        wire::{RolloutOrder, RolloutTrouble, RolloutView, StartRollout},
    },
};
use std::collections::BTreeMap;

/// Rollouts on record.
const MAX_ROLLOUTS: usize = 64;
/// Waves of one rollout, windows of one rollout.
const MAX_PARTS: usize = 32;
/// Machines in trouble that a view names.
const TROUBLES: usize = 20;

/// A machine and its rack.
type InRack = (Mac, Option<String>);

/// What a command changed, to be taken back where it can't be written.
struct Undo {
    name: String,
    rollout: Option<Rollout>,
    machines: Vec<Machine>,
}

impl Provisioner {
    /// Every rollout, the newest first.
    pub fn rollouts(&self) -> Vec<RolloutView> {
        let mut all: Vec<Rollout> = self.state().rollouts.values().cloned().collect();
        all.sort_by_key(|r| std::cmp::Reverse(r.created));
        all.into_iter().map(|r| self.rollout_view(r)).collect()
    }

    /// One rollout.
    pub fn rollout(&self, name: &str) -> Result<RolloutView, CommandError> {
        let rollout = find(&self.state(), name)?;
        Ok(self.rollout_view(rollout))
    }

    /// Starts a rollout. Nothing moves before all is known to be right: the image is there, signed where
    /// that is needed and of the machines' arch, and no machine is in another open rollout.
    pub async fn start_rollout(&self, order: StartRollout) -> Result<RolloutView, CommandError> {
        let selector = parse(&order.selector)?;
        let waves = read_all(&order.waves, "waves", |w| w.parse::<Wave>())?;
        let windows = read_all(&order.windows, "windows", fleet::parse_window)?;
        if let Some(name) = &order.name {
            check_name("a rollout", name)?;
        }
        let this = self.clone();
        whole(async move {
            let (target, image, _guard) = this.target(order.to.clone()).await?;
            let (BootTarget::Image { digest: to }, Some(image)) = (target, image) else {
                return Err(CommandError::Bad(format!(
                    "a rollout moves machines to an image, not to `{}`",
                    order.to
                )));
            };
            let manifest = &image.manifest;
            let base = order
                .name
                .clone()
                .unwrap_or_else(|| format!("{}-{}", manifest.tag.name, manifest.tag.version));
            let (name, undo, commit) = {
                let now = this.now();
                let mut fx = Effects::default();
                let mut locked = this.state();
                let state = &mut *locked;
                let name = free_name(state, &base, order.name.is_some())?;
                let mut picked: Vec<&Machine> =
                    state.machines.iter_known().filter(|m| selector.picks(m)).collect();
                picked.sort_by_key(|m| m.mac);
                let (members, left_out) = members(state, &picked, to, manifest.arch)?;
                let sizes = fleet::sizes(&waves, u32::try_from(members.len()).unwrap_or(u32::MAX));
                let sizes = sizes.map_err(CommandError::Bad)?;
                let rollout = Rollout {
                    name: name.clone(),
                    to,
                    selector: selector.to_string(),
                    limits: order.limits,
                    windows,
                    hold: order.hold,
                    on_failure: order.on_failure,
                    state: RolloutState::Running,
                    why: format!("started for {} machines{left_out}", members.len()),
                    wave: 0,
                    created: now,
                    changed: now,
                    waves: sizes,
                };
                let before = join(state, &rollout, members, now, &mut fx);
                state.put_rollout(rollout, &mut fx);
                let undo = Undo { name: name.clone(), rollout: None, machines: before };
                (name, undo, this.hand_on(&locked, fx))
            };
            this.settled(undo, commit).await?;
            // The first wave moves now, not in a second.
            this.tick();
            this.rollout(&name)
        })
        .await
    }

    /// Pauses, resumes, promotes, ends or rolls back a rollout.
    pub async fn order_rollout(&self, name: &str, order: RolloutOrder) -> Result<RolloutView, CommandError> {
        let (this, name) = (self.clone(), name.to_owned());
        whole(async move {
            let (undo, commit) = {
                let now = this.now();
                let mut fx = Effects::default();
                let mut locked = this.state();
                let state = &mut *locked;
                let before = find(state, &name)?;
                let mut rollout = before.clone();
                obey(&mut rollout, order)?;
                rollout.changed = now;
                let mut machines = Vec::new();
                if rollout.state == RolloutState::RolledBack {
                    machines = state.members(&name).into_iter().cloned().collect();
                    state.give_back(&before, now, &mut fx);
                }
                state.put_rollout(rollout, &mut fx);
                let undo = Undo { name: name.clone(), rollout: Some(before), machines };
                (undo, this.hand_on(&locked, fx))
            };
            this.settled(undo, commit).await?;
            this.tick();
            this.rollout(&name)
        })
        .await
    }

    /// Removes a rollout that is over, with all that it says of its machines: those that it moved boot what
    /// the rules say again.
    pub async fn remove_rollout(&self, name: &str) -> Result<(), CommandError> {
        let (this, name) = (self.clone(), name.to_owned());
        whole(async move {
            let (undo, commit) = {
                let mut fx = Effects::default();
                let mut locked = this.state();
                let state = &mut *locked;
                let rollout = find(state, &name)?;
                if rollout.state.is_open() {
                    return Err(CommandError::Conflict(format!(
                        "rollout {name} is {}: end it first with `pristine rollout abort {name}` or `pristine rollout rollback {name}`",
                        rollout.state
                    )));
                }
                let machines = leave(state, &name, &mut fx);
                state.drop_rollout(&name, &mut fx);
                let undo = Undo { name, rollout: Some(rollout), machines };
                (undo, this.hand_on(&locked, fx))
            };
            this.settled(undo, commit).await
        })
        .await
    }

    /// Waits for the disk. What could not be written is taken back.
    async fn settled(&self, undo: Undo, commit: crate::store::db::Commit) -> Result<(), CommandError> {
        let Err(error) = self.order_saved(commit).await else { return Ok(()) };
        let mut fx = Effects::default();
        let mut locked = self.state();
        for old in undo.machines {
            if let Some(mut machine) = locked.machines.get(old.mac).cloned() {
                machine.part = old.part;
                machine.moved = old.moved;
                machine.reboot = old.reboot;
                machine.generation += 1;
                locked.put(machine, &mut fx);
            }
        }
        match undo.rollout {
            Some(rollout) => locked.put_rollout(rollout, &mut fx),
            None => locked.drop_rollout(&undo.name, &mut fx),
        }
        drop(self.by(By::undoing()).hand_on(&locked, fx));
        Err(error.into())
    }

    fn rollout_view(&self, rollout: Rollout) -> RolloutView {
        let image = self.described(BootTarget::Image { digest: rollout.to }).image;
        let state = self.state();
        let mut phases: Vec<BTreeMap<Phase, u32>> = vec![BTreeMap::new(); rollout.waves.len()];
        let mut troubles = Vec::new();
        for machine in state.members(&rollout.name) {
            let Some(part) = &machine.part else { continue };
            if let Some(wave) = usize::try_from(part.wave).ok().and_then(|n| phases.get_mut(n)) {
                *wave.entry(part.phase).or_default() += 1;
            }
            if let Some(reason) = part.reason.clone().filter(|_| troubles.len() < TROUBLES) {
                let (mac, hostname, phase) = (machine.mac, machine.hostname.clone(), part.phase);
                troubles.push(RolloutTrouble { mac, hostname, phase, reason });
            }
        }
        RolloutView { rollout, image, phases, troubles }
    }
}

fn find(state: &State, name: &str) -> Result<Rollout, CommandError> {
    state.rollouts.get(name).cloned().ok_or_else(|| CommandError::NoRollout {
        nearest: nearest(name, state.rollouts.keys().map(String::as_str))
            .map(str::to_owned)
            .into_iter()
            .collect(),
        name: name.chars().take(80).collect(),
    })
}

fn read_all<T>(
    texts: &[String],
    what: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, CommandError> {
    if texts.len() > MAX_PARTS {
        return Err(CommandError::Bad(format!("a rollout has at most {MAX_PARTS} {what}")));
    }
    texts.iter().map(|t| read(t).map_err(CommandError::Bad)).collect()
}

/// The name that was asked for, or the image's with a number where that is taken.
fn free_name(state: &State, base: &str, asked: bool) -> Result<String, CommandError> {
    if state.rollouts.len() >= MAX_ROLLOUTS {
        return Err(CommandError::Bad(format!(
            "there are {MAX_ROLLOUTS} rollouts, and no more fit: remove what is over with `pristine rollout rm`"
        )));
    }
    if !state.rollouts.contains_key(base) {
        return Ok(base.to_owned());
    }
    if asked {
        return Err(CommandError::Conflict(format!(
            "there is a rollout {base}: give this one another name, or remove that one with `pristine rollout rm {base}`"
        )));
    }
    let numbered = (2..).map(|n: usize| format!("{base}.{n}")).find(|n| !state.rollouts.contains_key(n));
    Ok(numbered.unwrap_or_else(|| base.to_owned()))
}

/// Who of the picked machines takes part, and in words who doesn't.
fn members(
    state: &State,
    picked: &[&Machine],
    to: Digest,
    arch: Arch,
) -> Result<(Vec<InRack>, String), CommandError> {
    let target = BootTarget::Image { digest: to };
    let (mut pinned, mut already) = (0, 0);
    let mut members = Vec::new();
    for machine in picked {
        if machine.pin.is_some() {
            pinned += 1;
            continue;
        }
        if state.target_of(machine) == target {
            already += 1;
            continue;
        }
        if let Some(theirs) = machine.arch.filter(|a| *a != arch) {
            return Err(CommandError::Conflict(format!(
                "the image is for {arch}, and {} is {theirs}: nothing was moved. Add `and arch={arch}` to the selector",
                machine.name()
            )));
        }
        let open = machine.part.as_ref().and_then(|p| state.rollouts.get(&p.rollout));
        if let Some(other) = open.filter(|r| r.state.is_open()) {
            return Err(CommandError::Conflict(format!(
                "{} is in rollout {}, which is {}: nothing was moved. End that one first, or select other machines",
                machine.name(),
                other.name,
                other.state
            )));
        }
        members.push((machine.mac, machine.rack.clone()));
    }
    let mut left_out = String::new();
    for (count, why) in [(pinned, "pinned"), (already, "boot it already")] {
        if count > 0 {
            left_out.push_str(if left_out.is_empty() { "; left out: " } else { ", " });
            left_out.push_str(&format!("{count} {why}"));
        }
    }
    match members.is_empty() {
        true => Err(CommandError::Bad(format!(
            "the selector picks {} machines, none of which can be moved{left_out}; see `pristine machine list --select`",
            picked.len()
        ))),
        false => Ok((members, left_out)),
    }
}

/// Makes machines members. Gives back how they were.
fn join(
    state: &mut State,
    rollout: &Rollout,
    members: Vec<InRack>,
    now: Millis,
    fx: &mut Effects,
) -> Vec<Machine> {
    let waves = rollout.waves.iter().zip(0_u32..);
    let of_wave =
        waves.flat_map(|(size, wave)| std::iter::repeat_n(wave, usize::try_from(*size).unwrap_or(0)));
    let mut before = Vec::new();
    let order = fleet::spread(members.iter().map(|(mac, rack)| (*mac, rack.as_deref())).collect());
    for (mac, wave) in order.into_iter().zip(of_wave) {
        let Some(mut machine) = state.machines.get(mac).cloned() else { continue };
        before.push(machine.clone());
        machine.part = Some(Membership {
            rollout: rollout.name.clone(),
            wave,
            phase: Phase::Waiting,
            since: now,
            restarts: 0,
            before: None,
            reason: None,
        });
        state.put(machine, fx);
    }
    before
}

/// Wipes what a rollout says of machines. Gives back how they were.
fn leave(state: &mut State, name: &str, fx: &mut Effects) -> Vec<Machine> {
    let of = |m: &&Machine| {
        m.part.as_ref().is_some_and(|p| p.rollout == name)
            || m.moved.as_ref().is_some_and(|p| p.rollout == name)
    };
    let all: Vec<Machine> = state.machines.iter_known().filter(of).cloned().collect();
    for old in &all {
        let mut machine = old.clone();
        machine.part = machine.part.filter(|p| p.rollout != name);
        machine.moved = machine.moved.filter(|m| m.rollout != name);
        machine.generation += u64::from(state.target_of(&machine) != state.target_of(old));
        state.put(machine, fx);
    }
    all
}

fn obey(rollout: &mut Rollout, order: RolloutOrder) -> Result<(), CommandError> {
    use RolloutState::{Aborted, Halted, Paused, RolledBack, Running};
    let wrong = |what: &str| {
        Err(CommandError::Conflict(format!(
            "rollout {} is {}: it can't be {what}",
            rollout.name, rollout.state
        )))
    };
    let waves = u32::try_from(rollout.waves.len()).unwrap_or(u32::MAX);
    (rollout.state, rollout.why) = match (order, rollout.state) {
        (RolloutOrder::Pause, Running) => (Paused, "paused by an operator".to_owned()),
        (RolloutOrder::Pause, _) => return wrong("paused"),
        (RolloutOrder::Resume { max_failed }, Paused | Halted) => {
            rollout.limits.max_failed = max_failed.unwrap_or(rollout.limits.max_failed);
            (Running, "resumed by an operator".to_owned())
        }
        (RolloutOrder::Resume { .. }, _) => return wrong("resumed"),
        (RolloutOrder::Promote, Running | Paused) if rollout.wave + 1 < waves => {
            rollout.wave += 1;
            (Running, format!("wave {} was promoted by an operator", rollout.wave + 1))
        }
        (RolloutOrder::Promote, Running | Paused) => {
            return Err(CommandError::Conflict(format!(
                "rollout {} is at its last wave: there is none to promote",
                rollout.name
            )));
        }
        (RolloutOrder::Promote, _) => return wrong("promoted"),
        (RolloutOrder::Abort, Running | Paused | Halted) => {
            (Aborted, "ended by an operator; what was moved stays".to_owned())
        }
        (RolloutOrder::Abort, _) => return wrong("aborted"),
        (RolloutOrder::RollBack, RolledBack) => return wrong("rolled back again"),
        (RolloutOrder::RollBack, _) => (RolledBack, "rolled back by an operator".to_owned()),
    };
    Ok(())
}

impl Provisioner {
    /// Rollouts that wait for an operator, as name and reason.
    pub(super) fn halted(&self) -> Vec<(String, String, Millis)> {
        let state = self.state();
        let halted = state.rollouts.values().filter(|r| r.state == RolloutState::Halted);
        halted.map(|r| (r.name.clone(), r.why.clone(), r.changed)).collect()
    }
}
