//! Operators' commands. Each one is on disk when it returns `Ok`; one that could not be written is
//! undone before it returns its error.

use super::{
    CommandError, Explanation, MachinePatch, Pinned, Provisioner,
    state::{Effects, State},
};
use crate::{
    model::{BootTarget, Change, Image, Mac, Machine, Tag, audit::By, distance, nearest},
    netboot::is_nbp_name,
    store::{ImageStore, StoreLock, db::DbError},
};

/// Names that an error lists.
const NEAREST: usize = 3;
/// Longest label, rack name, in characters.
const MAX_WORD: usize = 64;
/// Labels of one machine, other MACs of one machine.
const MAX_MANY: usize = 64;

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
            let mac = this.change(&key, true, move |state, machine| apply(state, machine, patch)).await?;
            this.machine(&mac.to_string())
        })
        .await
    }

    /// A boot program that a machine can be given.
    fn check_nbp(&self, name: &str) -> Result<(), CommandError> {
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
            Ok(commit.await?)
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
            if let Err(e) = commit.await {
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
            digest.and_then(|d| self.0.images.get(d).ok().flatten()).map(|i| i.manifest.tag);
        Pinned { target, image, digest }
    }

    /// What a reference means now. For an image with the guard that holds off its removal: keep it
    /// until the target is on disk.
    pub(super) async fn target(
        &self,
        reference: String,
    ) -> Result<(BootTarget, Option<Image>, Option<StoreLock>), CommandError> {
        match reference.as_str() {
            "local" => return Ok((BootTarget::Local, None, None)),
            "discover" => return Ok((BootTarget::Discover, None, None)),
            "ignore" => return Ok((BootTarget::Ignore, None, None)),
            _ => {}
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
        if let Err(e) = commit.await {
            self.undo(before, after);
            return Err(e.into());
        }
        Ok(mac)
    }

    /// Takes back what an operator was told did not happen: of the machine as it is now, only what
    /// the command had changed.
    fn undo(&self, before: Option<Machine>, after: Machine) {
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        match (before, state.machines.get(after.mac).cloned()) {
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
                state.put(now, &mut fx);
            }
            (None, Some(_)) => state.forget(after.mac, &mut fx),
            (_, None) => {}
        }
        drop(self.by(By::undoing()).hand_on(&locked, fx));
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

fn apply(state: &State, machine: &mut Machine, patch: MachinePatch) -> Result<(), CommandError> {
    if let Some(hostname) = patch.hostname {
        if let Some(name) = &hostname {
            check_hostname(name)?;
            if let Some(other) = state.machines.by_hostname(name).filter(|m| m.mac != machine.mac) {
                return Err(CommandError::Taken { what: format!("hostname {name}"), by: other.mac });
            }
        }
        machine.hostname = hostname;
    }
    if let Some(rack) = patch.rack {
        rack.iter().try_for_each(|r| check_word("rack", r))?;
        machine.rack = rack;
    }
    if let Some(nbp) = patch.nbp.filter(|nbp| machine.nbp != *nbp) {
        machine.nbp = nbp;
        machine.generation += 1;
    }
    if let Some(macs) = patch.other_macs {
        for mac in &macs {
            if !mac.is_usable() || *mac == machine.mac {
                return Err(CommandError::Bad(format!("{mac} can't be another MAC of {}", machine.mac)));
            }
            // A stranger of that MAC becomes this machine; one on record must be forgotten first.
            let owner = state.machines.get(*mac).filter(|m| m.mac != machine.mac);
            if let Some(owner) = owner.filter(|m| state.machines.is_known(m.mac)) {
                return Err(CommandError::Taken { what: mac.to_string(), by: owner.mac });
            }
        }
        machine.other_macs = macs;
        machine.other_macs.sort_unstable();
        machine.other_macs.dedup();
    }
    for (label, value) in patch.labels {
        match value {
            Some(value) => {
                check_word("label", &label)?;
                check_word("label value", &value)?;
                machine.labels.insert(label, value);
            }
            None => {
                machine.labels.remove(&label);
            }
        }
    }
    if machine.labels.len() > MAX_MANY || machine.other_macs.len() > MAX_MANY {
        return Err(CommandError::Bad(format!("a machine has at most {MAX_MANY} labels and other MACs")));
    }
    Ok(())
}

/// RFC 1123 section 2.1, and nothing that could be taken for a MAC.
fn check_hostname(name: &str) -> Result<(), CommandError> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) && name.parse::<Mac>().is_err() {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    Err(CommandError::Bad(format!(
        "`{name}` can't be a hostname: write letters, digits and `-`, in parts of 1 to 63 with `.` between, and not a MAC"
    )))
}

fn check_word(what: &str, word: &str) -> Result<(), CommandError> {
    let fits = (1..=MAX_WORD).contains(&word.chars().count())
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@+".contains(&b));
    if fits {
        return Ok(());
    }
    let word: String = word.chars().take(80).collect();
    Err(CommandError::Bad(format!(
        "`{word}` can't be a {what}: write 1 to {MAX_WORD} of a-z, A-Z, 0-9 and `._-/:@+`"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn hostnames_are_what_dns_allows_and_never_look_like_a_mac() {
        for good in ["web-1", "a", "db1.rack2.example.org", "1web"] {
            assert!(check_hostname(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a_b", "a b", "525400123456", "ä", &"a".repeat(64)] {
            assert!(check_hostname(bad).is_err(), "{bad}");
        }
    }
}
