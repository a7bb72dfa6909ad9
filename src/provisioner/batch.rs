//! Many changes at once, all or none. What they do is known before they are done: the plan that an
//! operator is shown is what the audit log is told.

use super::{
    CommandError, Provisioner,
    answer::{Policy, is_known},
    audit,
    state::{Effects, State, booted},
};
use crate::{
    fleet::{Batch, Known, MachineEntry, Selector, Site},
    model::{
        BootTarget, Change, Digest, Image, Mac, Machine, Millis, SelectorRule,
        audit::{By, Note},
        wire::{Changes, Problem},
    },
    store::StoreLock,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

impl Known for State {
    fn machine(&self, mac: Mac) -> Option<&Machine> {
        self.machines.get(mac)
    }

    fn on_record(&self, mac: Mac) -> bool {
        self.machines.is_known(mac)
    }

    fn named(&self, hostname: &str) -> Option<&Machine> {
        self.machines.by_hostname(hostname)
    }
}

impl Site for State {
    fn default_target(&self) -> Option<&BootTarget> {
        self.default.as_ref()
    }

    fn rules(&self) -> Vec<&SelectorRule> {
        self.rules.iter().collect()
    }

    fn described(&self) -> Vec<&Machine> {
        let says = |m: &&Machine| !MachineEntry::of(m, ToString::to_string).is_empty();
        self.machines.iter_known().filter(says).collect()
    }
}

/// What a batch does.
struct Planned {
    notes: Vec<Note>,
    /// Machines as they are to be stored, those that only boot something else among them.
    machines: Vec<Machine>,
}

/// What is needed to take a batch back.
struct Undo {
    machines: Vec<(Option<Machine>, Mac)>,
    /// Before, and what took its place.
    rules: Vec<(String, Option<SelectorRule>, Option<SelectorRule>)>,
    default: Option<(Option<BootTarget>, Option<BootTarget>)>,
}

impl State {
    fn planned(&self, batch: &Batch) -> Planned {
        let mut notes = Vec::new();
        let mut rules = self.rules.clone();
        for (name, rule) in &batch.rules {
            notes.push(audit::of_rule(name, self.rules.get(name), rule.as_ref().map(|(_, rule)| rule)));
            match rule {
                Some((selector, rule)) => rules.put(selector.clone(), rule.clone()),
                None => drop(rules.remove(name)),
            }
        }
        let default = batch.default.as_ref().unwrap_or(&self.default);
        if batch.default.is_some() {
            notes.push(audit::of_default(self.default.as_ref(), default.as_ref()));
        }
        let policy = Policy { rules: &rules, default: default.as_ref(), ..self.policy() };
        let mut machines = Vec::new();
        for edited in &batch.machines {
            let (mut after, mac) = (edited.after.clone(), edited.after.mac);
            let before = self.machines.get(mac).cloned().unwrap_or_else(|| Machine::new(mac, 0));
            let (from, to) = (self.target_of(&before), booted(&after, policy));
            notes.extend(audit::of_machine(&before, &after, &from, &to));
            after.generation += u64::from(from != to);
            machines.push(after);
        }
        if batch.default.is_some() || !batch.rules.is_empty() {
            let edited: HashSet<Mac> = batch.machines.iter().map(|e| e.after.mac).collect();
            let others = self.machines.iter_known().filter(|m| m.pin.is_none() && !edited.contains(&m.mac));
            let mut others: Vec<&Machine> = others.collect();
            others.sort_unstable_by_key(|m| m.mac);
            for machine in others {
                let (from, to) = (self.target_of(machine), booted(machine, policy));
                if from != to {
                    notes.push(audit::of_repointed(machine, &from, &to));
                    machines.push(Machine { generation: machine.generation + 1, ..machine.clone() });
                }
            }
        }
        Planned { notes, machines }
    }

    /// Does it, in memory and for the store. Changes nothing where the table of machines is too full.
    fn carry_out(&mut self, batch: Batch, planned: Planned, fx: &mut Effects) -> Result<Undo, CommandError> {
        self.make_room_for(&planned.machines, fx)?;
        let mut undo = Undo { machines: Vec::new(), rules: Vec::new(), default: None };
        for (name, rule) in batch.rules {
            let (before, after) =
                (self.rules.get(&name).cloned(), rule.as_ref().map(|(_, rule)| rule.clone()));
            undo.rules.push((name.clone(), before, after.clone()));
            fx.changes.push(after.map_or_else(|| Change::RuleGone(name.clone()), Change::Rule));
            match rule {
                Some((selector, rule)) => self.rules.put(selector, rule),
                None => drop(self.rules.remove(&name)),
            }
        }
        if let Some(default) = batch.default {
            undo.default = Some((self.default.clone(), default.clone()));
            fx.changes.push(Change::Default(default.clone()));
            self.default = default;
        }
        undo.machines.extend(batch.machines.into_iter().map(|e| (e.before, e.after.mac)));
        for machine in planned.machines {
            let (mac, new) = (machine.mac, !self.machines.is_known(machine.mac));
            self.store(machine, fx);
            if new {
                fx.changes.extend(self.attempts.keep(mac));
            }
        }
        fx.notes.extend(planned.notes);
        Ok(undo)
    }

    /// Room for those that come on record; see [`State::make_room`].
    fn make_room_for(&mut self, machines: &[Machine], fx: &mut Effects) -> Result<(), CommandError> {
        let on_record = self.machines.counts().0;
        let new = machines.iter().filter(|m| !self.machines.is_known(m.mac)).count();
        let lacking = new.saturating_sub(self.bounds.machines.saturating_sub(on_record));
        if lacking == 0 {
            return Ok(());
        }
        let kept: HashSet<Mac> = machines.iter().map(|m| m.mac).collect();
        let visitors = self.machines.iter_known().filter(|m| !is_known(m) && !kept.contains(&m.mac));
        let mut visitors: Vec<(Millis, Mac)> = visitors.map(|m| (m.last_seen, m.mac)).collect();
        if visitors.len() < lacking {
            return Err(CommandError::TableFull(on_record));
        }
        visitors.sort_unstable();
        visitors.into_iter().take(lacking).for_each(|(_, mac)| self.forget(mac, fx));
        Ok(())
    }

    /// Takes back what has not changed since.
    fn take_back(&mut self, undo: Undo, fx: &mut Effects) {
        for (name, before, after) in undo.rules {
            if self.rules.get(&name) != after.as_ref() {
                continue;
            }
            match before.map(|rule| (rule.selector.parse::<Selector>(), rule)) {
                Some((Ok(selector), rule)) => {
                    self.repoint(Change::Rule(rule.clone()), fx, |state| state.rules.put(selector, rule));
                }
                _ => {
                    self.repoint(Change::RuleGone(name.clone()), fx, |state| drop(state.rules.remove(&name)))
                }
            }
        }
        if let Some((before, after)) = undo.default
            && self.default == after
        {
            self.repoint(Change::Default(before.clone()), fx, |state| state.default = before);
        }
        for (before, mac) in undo.machines {
            self.undo(before, mac, fx);
        }
    }
}

/// What references mean now. For images with the guard that holds off their removal.
pub(super) struct Targets {
    found: BTreeMap<String, Result<BootTarget, String>>,
    images: BTreeMap<Digest, Arc<Image>>,
    _guard: Option<StoreLock>,
}

impl Targets {
    /// What a reference means, or why it means nothing.
    pub fn get(&self, reference: &str) -> Result<BootTarget, String> {
        self.found.get(reference).cloned().unwrap_or_else(|| Err(format!("`{reference}` was not looked up")))
    }

    /// Why a machine can't boot that, as far as its arch is known.
    pub fn misfit(&self, machine: Option<&Machine>, target: &BootTarget) -> Option<String> {
        let BootTarget::Image { digest } = target else { return None };
        let machine = machine.filter(|m| m.pin.as_ref() != Some(target))?;
        let (image, arch) = (self.images.get(digest)?, machine.arch?);
        let wrong = CommandError::WrongArch {
            image: image.manifest.tag.clone(),
            image_arch: image.manifest.arch,
            machine: machine.mac,
            machine_arch: arch,
        };
        (image.manifest.arch != arch).then(|| wrong.to_string())
    }
}

impl Provisioner {
    /// Looks references up. A whole digest that something is assigned already needs no image: what is may
    /// stay as it is.
    pub(super) async fn targets(&self, references: BTreeSet<String>) -> Result<Targets, CommandError> {
        let mut targets = Targets { found: BTreeMap::new(), images: BTreeMap::new(), _guard: None };
        let assigned: HashSet<Digest> = {
            let state = self.state();
            let pins = state.machines.iter_known().filter_map(|m| m.pin.as_ref());
            let all = pins.chain(state.rules.iter().map(|r| &r.target)).chain(&state.default);
            let digest = |target: &BootTarget| match target {
                BootTarget::Image { digest } => Some(*digest),
                _ => None,
            };
            all.filter_map(digest).collect()
        };
        let this = self.clone();
        // It reads files, and may wait for another process' import.
        let found = tokio::task::spawn_blocking(move || {
            if references.iter().any(|name| BootTarget::of_word(name).is_none()) {
                let guard = this.0.images.pin_guard().map_err(|e| CommandError::Store(e.to_string()))?;
                targets._guard = Some(guard);
            }
            for reference in references {
                let assigned = reference.parse::<Digest>().ok().filter(|d| assigned.contains(d));
                let target = if let Some(target) = BootTarget::of_word(&reference) {
                    Ok(target)
                } else if let Some(digest) = assigned {
                    targets.images.extend(this.0.images.get(digest).ok().flatten().map(|i| (digest, i)));
                    Ok(BootTarget::Image { digest })
                } else {
                    let found = this.0.images.resolve(&reference).map_err(|e| e.to_string());
                    found.and_then(|image| {
                        this.voucher()(&image)?;
                        let digest = image.digest;
                        targets.images.insert(digest, Arc::new(image));
                        Ok(BootTarget::Image { digest })
                    })
                };
                targets.found.insert(reference, target);
            }
            Ok(targets)
        });
        found.await.map_err(|e| CommandError::Store(e.to_string()))?
    }

    /// Makes a batch of what is, and does it where that is wanted: at the revision `at`, or not at all.
    pub(super) async fn change_all(
        &self,
        at: Option<u64>,
        dry_run: bool,
        make: impl FnOnce(&State, Millis) -> Result<Batch, Vec<Problem>>,
    ) -> Result<Changes, CommandError> {
        let (changes, undo, commit) = {
            let now = self.now();
            let mut fx = Effects::default();
            let mut locked = self.state();
            let revision = self.revision();
            if let Some(at) = at.filter(|at| *at != revision) {
                return Err(CommandError::Conflict(format!(
                    "something was changed since revision {at} (it is {revision} now): nothing was applied. See `pristine log`, and run it again"
                )));
            }
            let batch = make(&locked, now).map_err(CommandError::Problems)?;
            let planned = locked.planned(&batch);
            let changes = Changes { revision, applied: !dry_run, changes: planned.notes.clone() };
            if dry_run {
                return Ok(changes);
            }
            let undo = locked.carry_out(batch, planned, &mut fx)?;
            (changes, undo, self.hand_on(&locked, fx))
        };
        if let Err(e) = self.order_saved(commit).await {
            let mut fx = Effects::default();
            let mut locked = self.state();
            locked.take_back(undo, &mut fx);
            drop(self.by(By::undoing()).hand_on(&locked, fx));
            return Err(e.into());
        }
        Ok(Changes { revision: self.revision(), ..changes })
    }
}
