//! Rollouts go on: what the pure plan says is carried out, once a second, each step on its machine's record.

use super::{
    audit,
    state::{Effects, State},
};
use crate::{
    fleet::{self, Boot, Member, Step},
    model::{
        BootTarget, Change, Digest, Mac, Machine, Millis, Moved, Phase, Reboot, Rollout, Stage, Verdict,
    },
};
impl State {
    /// Looks at every open rollout and does what is to be done.
    pub fn roll(&mut self, now: Millis, fx: &mut Effects) {
        let open: Vec<Rollout> = self.rollouts.values().filter(|r| r.state.is_open()).cloned().collect();
        for mut rollout in open {
            let plan = fleet::plan(&rollout, &self.facts(&rollout.name), now);
            for step in plan.steps {
                self.take(&rollout, step, now, fx);
            }
            if let Some(turn) = plan.turn {
                tracing::info!(rollout = %rollout.name, state = %turn.state, why = %turn.why, "rollout");
                (rollout.state, rollout.wave, rollout.why) = (turn.state, turn.wave, turn.why);
                rollout.changed = now;
                self.put_rollout(rollout, fx);
            }
        }
    }

    /// Gives back what they had to all that a rollout moved.
    pub fn give_back(&mut self, rollout: &Rollout, now: Millis, fx: &mut Effects) {
        let members = self.facts(&rollout.name);
        let phases: Vec<Phase> = members.iter().map(|m| m.part.phase).collect();
        let steps = fleet::give_back(rollout.to, &members, &phases);
        for step in steps {
            self.take(rollout, step, now, fx);
        }
    }

    /// Changes a rollout, in memory, for the store and for the audit log.
    pub fn put_rollout(&mut self, rollout: Rollout, fx: &mut Effects) {
        fx.notes.push(audit::of_rollout(&rollout.name, self.rollouts.get(&rollout.name), Some(&rollout)));
        fx.changes.push(Change::Rollout(rollout.clone()));
        self.rollouts.insert(rollout.name.clone(), rollout);
    }

    /// Removes a rollout in the same places.
    pub fn drop_rollout(&mut self, name: &str, fx: &mut Effects) {
        if let Some(rollout) = self.rollouts.remove(name) {
            fx.notes.push(audit::of_rollout(name, Some(&rollout), None));
        }
        fx.changes.push(Change::RolloutGone(name.to_owned()));
    }

    /// The members of a rollout, in the order in which they are taken.
    pub fn members(&self, rollout: &str) -> Vec<&Machine> {
        let of = |m: &&Machine| m.part.as_ref().is_some_and(|p| p.rollout == rollout);
        let all = self.machines.iter_known().filter(of).map(|m| (m.mac, m.rack.as_deref())).collect();
        fleet::spread(all).into_iter().filter_map(|mac| self.machines.get(mac)).collect()
    }

    fn facts(&self, rollout: &str) -> Vec<Member<'_>> {
        let fact = |m| {
            let m: &Machine = m;
            let rack = m.rack.as_deref();
            let part = m.part.as_ref()?;
            Some(Member {
                mac: m.mac,
                rack,
                part,
                pinned: m.pin.is_some(),
                boot: self.boot_of(m.mac),
                remote: m.power.is_remote(),
                gave_up: m.reboot.as_ref().and_then(|r| r.gave_up.as_deref()),
            })
        };
        self.members(rollout).into_iter().filter_map(fact).collect()
    }

    /// A machine's latest boot, if it has a script.
    fn boot_of(&self, mac: Mac) -> Option<Boot> {
        let attempt = &self.attempts.latest(mac)?.attempt;
        let at = attempt.stages.iter().find(|s| s.stage == Stage::Script)?.at;
        let healthy = attempt.verdict == Verdict::Healthy;
        Some(Boot { image: attempt.image, at, healthy, outcome: attempt.outcome() })
    }

    fn take(&mut self, rollout: &Rollout, step: Step, now: Millis, fx: &mut Effects) {
        let Some(mut machine) = self.machines.get(step.mac).cloned() else { return };
        let before = self.target_of(&machine);
        let Some(part) = machine.part.as_mut() else { return };
        match (part.phase.is_moved(), step.phase.is_moved()) {
            (false, true) => {
                part.before = machine.moved.replace(moved(&rollout.name, rollout.to));
            }
            (true, false) => machine.moved = part.before.take(),
            _ => {}
        }
        part.phase = step.phase;
        part.since = now;
        part.restarts = step.restarts;
        // What was wanted before this step is met, or is no use any more.
        machine.reboot = step.reboot.then(|| Reboot::wanted(now));
        let failing = machine.failing.iter().find(|f| f.image == rollout.to && step.phase == Phase::Failed);
        part.reason = match (step.reason, failing) {
            (Some(why), Some(f)) => {
                Some(format!("{why}; {} boots in a row failed, the last one: {}", f.boots, f.reason))
            }
            (why, _) => why,
        };
        machine.generation += u64::from(self.target_of(&machine) != before);
        self.put(machine, fx);
    }
}

fn moved(rollout: &str, to: Digest) -> Moved {
    Moved { rollout: rollout.to_owned(), target: BootTarget::Image { digest: to } }
}
