//! Operators' commands. Each one is on disk when it returns `Ok`; one that could not be written is
//! undone before it returns its error.

use super::{
    CommandError, Explanation, MachinePatch, Pinned, Provisioner,
    state::{Effects, State},
};
use crate::{
    fleet::{Edit, Fault, Wrong, edited},
    model::{BootTarget, Change, Image, Mac, Machine, Tag, audit::By, distance, nearest},
    netboot::is_nbp_name,
    store::{ImageStore, StoreLock, db::DbError},
};

/// Names that an error lists.
const NEAREST: usize = 3;

impl Provisioner {
    /// A machine by MAC (any of its MACs, in any usual spelling) or hostname.
    pub fn machine(&self, key: &str) -> Result<Machine, CommandError> {
        let state = self.state();
        let mac = find(&state, key)?;
        state.machines.get(mac).cloned().ok_or_else(|| no_machine(&state, key))
    }

    /// The first-seen MAC of what an operator named, be it on record or not.
    pub fn mac_of(&self, key: &str) -> Result<Mac, CommandError> {
        find(&self.state(), key)
    }

    /// Pins a machine to what `reference` means now: an image (`name:version` or a digest), `local`,
    /// `discover` or `ignore`. A MAC that was never seen may be pinned before it is.
    pub async fn pin(&self, key: &str, reference: &str) -> Result<Explanation, CommandError> {
        let (this, key, reference) = (self.clone(), key.to_owned(), reference.to_owned());
        whole(async move {
            let (target, image, _guard) = this.target(reference).await?;
            let mac = this
                .change(&key, true, move |state, machine| {
                    if let (Some(image), Some(arch)) = (&image, machine.arch)
                        && image.manifest.arch != arch
                    {
                        return Err(CommandError::WrongArch {
                            image: image.manifest.tag.clone(),
                            image_arch: image.manifest.arch,
                            machine: machine.mac,
                            machine_arch: arch,
                        });
                    }
                    let _ = state;
                    machine.pin = Some(target);
                    Ok(())
                })
                .await?;
            this.explain(&mac.to_string())
        })
        .await
    }

    /// Takes a machine's pin away.
    pub async fn unpin(&self, key: &str) -> Result<Explanation, CommandError> {
        let (this, key) = (self.clone(), key.to_owned());
        whole(async move {
            let mac = this
                .change(&key, false, |_, machine| {
                    machine.pin = None;
                    Ok(())
                })
                .await?;
            this.explain(&mac.to_string())
        })
        .await
    }

    /// Names or describes a machine.
    pub async fn set_machine(&self, key: &str, patch: MachinePatch) -> Result<Machine, CommandError> {
        let (this, key) = (self.clone(), key.to_owned());
        if let Some(Some(nbp)) = &patch.nbp {
            self.check_nbp(nbp)?;
        }
        whole(async move {
            let describe = |state: &State, machine: &mut Machine| {
                let edit = Edit { mac: machine.mac, patch, pin: None };
                let edited = edited(state, vec![edit]).map_err(|faults| match faults.into_iter().next() {
                    Some(Fault { what: Wrong::Taken { what, by }, .. }) => CommandError::Taken { what, by },
                    fault => CommandError::Bad(fault.map_or_else(String::new, |f| f.what.to_string())),
                })?;
                *machine = edited.into_iter().next().map_or_else(|| machine.clone(), |e| e.after);
                Ok(())
            };
            let mac = this.change(&key, true, describe).await?;
            this.machine(&mac.to_string())
        })
        .await
    }

    /// A boot program that a machine can be given.
    pub(super) fn check_nbp(&self, name: &str) -> Result<(), CommandError> {
        let shown: String = name.chars().take(80).collect();
        if !is_nbp_name(name) {
            return Err(CommandError::Bad(format!(
                "`{shown}` is no name of a boot program: write a file name as `pristine nbp list` shows it"
            )));
        }
        if self.0.nbps.get(name).is_some() {
            return Ok(());
        }
        let there = self.0.nbps.list();
        let near = nearest(name, there.iter().map(|nbp| nbp.name.as_str()));
        let near = near.map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        Err(CommandError::Bad(format!(
            "there is no boot program `{shown}`{near}: see `pristine nbp list`; of a file that was added since it started, the service knows after a SIGHUP"
        )))
    }

    /// Forgets a machine and its boot attempts; if it is still there, it appears again. Its leases
    /// stay: they are promises.
    pub async fn forget(&self, key: &str) -> Result<(), CommandError> {
        let (this, key) = (self.clone(), key.to_owned());
        whole(async move {
            let commit = {
                let mut fx = Effects::default();
                let mut locked = this.state();
                let mac = find(&locked, &key)?;
                let mac = locked.machines.primary(mac);
                if locked.machines.get(mac).is_none() {
                    return Err(no_machine(&locked, &key));
                }
                locked.forget(mac, &mut fx);
                this.hand_on(&locked, fx)
            };
            // Undoing would have to bring back the attempts: it is done, and goes to disk when the
            // disk takes anything again.
            Ok(this.order_saved(commit).await?)
        })
        .await
    }

    /// The site's default.
    pub fn default_target(&self) -> Option<Pinned> {
        let target = self.state().default.clone()?;
        Some(self.described(target))
    }

    /// Sets the site's default to what `reference` means now (see [`Provisioner::pin`]), or clears it.
    pub async fn set_default(&self, reference: Option<&str>) -> Result<Option<Pinned>, CommandError> {
        let (this, reference) = (self.clone(), reference.map(str::to_owned));
        whole(async move {
            let (target, _guard) = match reference {
                Some(reference) => {
                    let (target, _, guard) = this.target(reference).await?;
                    (Some(target), guard)
                }
                None => (None, None),
            };
            let before = this.state().default.clone();
            let commit = this.put_default(target.clone());
            if let Err(e) = this.order_saved(commit).await {
                if this.state().default == target {
                    drop(this.by(By::undoing()).put_default(before));
                }
                return Err(e.into());
            }
            Ok(this.default_target())
        })
        .await
    }

    fn put_default(&self, target: Option<BootTarget>) -> crate::store::db::Commit {
        let mut fx = Effects::default();
        let mut locked = self.state();
        if locked.default != target {
            locked.repoint(Change::Default(target.clone()), &mut fx, |state| state.default = target);
        }
        self.hand_on(&locked, fx)
    }

    /// A target with the tag of its image, for people.
    pub(super) fn described(&self, target: BootTarget) -> Pinned {
        let digest = match &target {
            BootTarget::Image { digest } => Some(*digest),
            _ => None,
        };
        let image: Option<Tag> =
            digest.and_then(|d| self.0.images.get(d).ok().flatten()).map(|i| i.manifest.tag.clone());
        Pinned { target, image, digest }
    }

    /// What a reference means now. For an image with the guard that holds off its removal: keep it
    /// until the target is on disk.
    pub(super) async fn target(
        &self,
        reference: String,
    ) -> Result<(BootTarget, Option<Image>, Option<StoreLock>), CommandError> {
        if let Some(target) = BootTarget::of_word(&reference) {
            return Ok((target, None, None));
        }
        let (this, images): (Provisioner, ImageStore) = (self.clone(), self.0.images.clone());
        // It may wait for another process' import.
        let found = tokio::task::spawn_blocking(move || {
            let guard = images.pin_guard().map_err(|e| CommandError::Store(e.to_string()))?;
            let image = images.resolve(&reference).map_err(|e| CommandError::NoImage(e.to_string()))?;
            this.voucher()(&image).map_err(CommandError::NotSigned)?;
            Ok((BootTarget::Image { digest: image.digest }, Some(image), Some(guard)))
        });
        found.await.map_err(|e| CommandError::Store(e.to_string()))?
    }

    /// Changes a machine on record, brings a stranger on record, or, where `create` says so, one that
    /// was never seen.
    pub(super) async fn change(
        &self,
        key: &str,
        create: bool,
        change: impl FnOnce(&State, &mut Machine) -> Result<(), CommandError>,
    ) -> Result<Mac, CommandError> {
        let (before, after, commit) = {
            let mut fx = Effects::default();
            let mut locked = self.state();
            let state = &mut *locked;
            let mac = find(state, key)?;
            let seen = state.machines.get(mac).cloned();
            let mut machine = match seen {
                Some(machine) => machine,
                None if create => Machine::new(mac, 0),
                None => return Err(no_machine(state, key)),
            };
            let known = state.machines.is_known(machine.mac);
            let before = known.then(|| machine.clone());
            let target = state.target_of(&machine);
            change(state, &mut machine)?;
            // By its pin, or by a rule that its new rack or label brings it under.
            machine.generation += u64::from(state.target_of(&machine) != target);
            if !known && !state.make_room(&mut fx) {
                return Err(CommandError::TableFull(state.machines.counts().0));
            }
            if before.as_ref() != Some(&machine) {
                state.put(machine.clone(), &mut fx);
                fx.changes.extend(state.attempts.keep(machine.mac));
            }
            (before, machine, self.hand_on(&locked, fx))
        };
        let mac = after.mac;
        if let Err(e) = self.order_saved(commit).await {
            let mut fx = Effects::default();
            let mut locked = self.state();
            locked.undo(before, mac, &mut fx);
            drop(self.by(By::undoing()).hand_on(&locked, fx));
            return Err(e.into());
        }
        Ok(mac)
    }
}

impl State {
    /// Takes back what an operator was told did not happen: of the machine as it is now, only what the
    /// command had changed.
    pub fn undo(&mut self, before: Option<Machine>, mac: Mac, fx: &mut Effects) {
        match (before, self.machines.get(mac).cloned()) {
            (Some(before), Some(mut now)) => {
                now.pin = before.pin;
                now.order = before.order;
                now.failing = before.failing;
                now.hostname = before.hostname;
                now.rack = before.rack;
                now.nbp = before.nbp;
                now.power = before.power;
                now.power_fault = before.power_fault;
                now.labels = before.labels;
                now.other_macs = before.other_macs;
                now.generation += 1;
                self.put(now, fx);
            }
            (None, Some(_)) => self.forget(mac, fx),
            (_, None) => {}
        }
    }
}

/// Runs a command to its end even where the one who asked for it hangs up in between: half a command
/// would let go of the image's guard before the pin is on disk.
pub(super) async fn whole<T: Send + 'static>(
    command: impl Future<Output = Result<T, CommandError>> + Send + 'static,
) -> Result<T, CommandError> {
    tokio::spawn(command).await.unwrap_or(Err(CommandError::NotSaved(DbError::Closed)))
}

/// The first-seen MAC of what an operator named; for a MAC that nobody has, that MAC.
pub(super) fn find(state: &State, key: &str) -> Result<Mac, CommandError> {
    if let Ok(mac) = key.parse::<Mac>() {
        if !mac.is_usable() {
            return Err(CommandError::Bad(format!("{mac} can't be the MAC address of a machine")));
        }
        return Ok(state.machines.primary(mac));
    }
    state.machines.by_hostname(key).map(|m| m.mac).ok_or_else(|| no_machine(state, key))
}

pub(super) fn no_machine(state: &State, key: &str) -> CommandError {
    let name: String = key.chars().take(80).collect();
    let wanted = name.to_ascii_lowercase();
    let mut near: Vec<(usize, &str)> = state
        .machines
        .hostnames()
        .map(|h| (distance(&wanted, h), h))
        .filter(|(d, h)| *d <= 1 + h.len() / 4 || h.starts_with(&wanted))
        .collect();
    near.sort_unstable();
    CommandError::NoMachine {
        name,
        nearest: near.into_iter().take(NEAREST).map(|(_, h)| h.to_owned()).collect(),
    }
}
