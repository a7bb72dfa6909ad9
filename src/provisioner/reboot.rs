//! Machines are made to boot anew: what the pure plan says is carried out off the lock, so many at once.
//!
//! An order is on disk before the BMC hears of it, so that a service that is killed over and over orders no
//! more often than the plan allows.

use super::{
    Provisioner,
    state::{Effects, State},
};
use crate::{
    fleet::{Next, Wanted, reboots},
    model::{Machine, Millis, PowerAction, Stage},
    power::PowerError,
};

/// BMCs that are asked at once.
const AT_ONCE: usize = 16;

impl Provisioner {
    /// Orders the reboots that are due. Returns when their BMCs have answered; what they said is on record
    /// then.
    pub async fn order_reboots(self) {
        let (orders, commit) = {
            let now = self.now();
            let mut fx = Effects::default();
            let mut locked = self.state();
            let orders = locked.orders(now, &mut fx);
            (orders, self.hand_on(&locked, fx))
        };
        if orders.is_empty() {
            return;
        }
        let saved = commit.await.map_err(|e| PowerError::Settings(e.to_string()));
        let mut tasks = tokio::task::JoinSet::new();
        for machine in orders {
            let (this, saved) = (self.clone(), saved.clone());
            tasks.spawn(async move {
                let outcome = match saved {
                    Ok(()) => this.act(&machine, PowerAction::Cycle).await,
                    Err(error) => Err(error),
                };
                this.ordered(&machine, outcome);
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// What came of an order.
    fn ordered(&self, machine: &Machine, outcome: Result<(), PowerError>) {
        let why = outcome.err().map(|e| e.to_string());
        match &why {
            None => tracing::info!(machine = %machine.name(), "reboot: its BMC took the order"),
            Some(error) => tracing::warn!(machine = %machine.name(), %error, "reboot: its BMC did not"),
        }
        self.note_power(machine.mac, why.clone());
        let mut fx = Effects::default();
        let mut locked = self.state();
        locked.asking.remove(&machine.mac);
        match why {
            None => locked.stats.reboots += 1,
            Some(_) => locked.stats.reboots_failed += 1,
        }
        let now = locked.machines.get(machine.mac).cloned();
        // It may be wanted no more, or anew.
        let last = machine.reboot.as_ref().and_then(|r| r.last);
        if let (Some(mut now), Some(error)) = (now, why)
            && let Some(reboot) = now.reboot.as_mut().filter(|r| r.last == last)
        {
            reboot.taken = reboot.taken.saturating_sub(1);
            reboot.failed = reboot.failed.saturating_add(1);
            reboot.error = Some(error);
            locked.put(now, &mut fx);
        }
        drop(self.hand_on(&locked, fx));
    }
}

impl State {
    /// Does what the plan says of all machines that are to boot anew. Returns those whose BMCs are to be
    /// asked, as they are on record now.
    fn orders(&mut self, now: Millis, fx: &mut Effects) -> Vec<Machine> {
        let todo = {
            let wanted: Vec<Wanted<'_>> = self.wanted.iter().filter_map(|mac| self.want(*mac)).collect();
            reboots(&wanted, now)
        };
        let mut orders = Vec::new();
        for (mac, next) in todo {
            let Some(mut machine) = self.machines.get(mac).cloned() else { continue };
            let name = machine.name();
            let Some(reboot) = machine.reboot.as_mut() else { continue };
            match next {
                Next::Met => machine.reboot = None,
                // Its method was changed: people reboot it.
                Next::Order if !machine.power.is_remote() => machine.reboot = None,
                Next::Order if self.asking.len() >= AT_ONCE => continue,
                Next::Order => {
                    // Until its BMC says otherwise.
                    reboot.taken = reboot.taken.saturating_add(1);
                    (reboot.last, reboot.error) = (Some(now), None);
                    self.asking.insert(mac);
                    orders.push(machine.clone());
                }
                Next::GiveUp(why) => {
                    tracing::warn!(machine = %name, %why, "reboot: given up");
                    match machine.part.as_mut().filter(|p| p.phase.is_over()) {
                        // The rollout asks no more: it is for people to know.
                        Some(part) => {
                            let before = part.reason.take().map_or_else(String::new, |r| format!("{r}; "));
                            part.reason = Some(format!("{before}not rebooted: {why}"));
                            machine.reboot = None;
                        }
                        None => reboot.gave_up = Some(why),
                    }
                }
            }
            self.put(machine, fx);
        }
        orders
    }

    fn want(&self, mac: crate::model::Mac) -> Option<Wanted<'_>> {
        let machine = self.machines.get(mac)?;
        let latest = self.attempts.latest(mac).map(|t| &t.attempt);
        let rollout = machine.part.as_ref().and_then(|p| self.rollouts.get(&p.rollout));
        Some(Wanted {
            mac,
            rack: machine.rack.as_deref(),
            reboot: machine.reboot.as_ref()?,
            rollout: rollout.map(|r| (r.name.as_str(), &r.limits)),
            began: latest.and_then(|a| a.began()),
            script: latest.and_then(|a| a.stages.iter().find(|s| s.stage == Stage::Script)).map(|s| s.at),
            asking: self.asking.contains(&mac),
        })
    }
}
