//! Operators' commands about profiles. Durable like every other command, see `command`.

use super::{
    CommandError, Provisioner,
    command::whole,
    configure::Inputs,
    rule::check_name,
    state::{Effects, State},
};
use crate::{
    model::{
        BootTarget, Digest, Image, Machine, ProfileRecord,
        audit::By,
        nearest,
        wire::{ConfigView, ProfileView},
    },
    profile::{MAX_PROFILES, Profile, Profiles},
    store::db::Commit,
};
use std::{collections::HashMap, sync::Arc};

/// Machines for which a new profile is tried before it is taken.
const TRIED: usize = 2_000;

impl Provisioner {
    /// The profiles, the one that counts most first, without their documents.
    pub fn profiles(&self) -> Vec<ProfileView> {
        let state = self.state();
        state.profiles.iter().map(|p| ProfileView { document: None, ..view(&state, p) }).collect()
    }

    /// One profile with its document.
    pub fn profile(&self, name: &str) -> Result<ProfileView, CommandError> {
        let state = self.state();
        let profile = state.profiles.get(name).ok_or_else(|| no_profile(&state, name))?;
        Ok(view(&state, profile))
    }

    /// Sets what the machines that `selector` picks get besides their image. A profile of that name is replaced, and keeps its age.
    ///
    /// # Errors
    /// The document makes no sense, or can't be made into the configuration of one of those machines that were seen (the first
    /// 2,000 are tried); nothing is changed then.
    pub async fn set_profile(
        &self,
        name: &str,
        selector: &str,
        document: &str,
    ) -> Result<ProfileView, CommandError> {
        check_name("a profile", name)?;
        let now = self.now();
        let created = self.state().profiles.get(name).map_or(now, |p| p.record.created);
        let record = ProfileRecord {
            name: name.to_owned(),
            selector: selector.to_owned(),
            document: document.to_owned(),
            created,
            changed: now,
        };
        let this = self.clone();
        whole(async move {
            let name = record.name.clone();
            let tried = this.clone();
            let checked = tokio::task::spawn_blocking(move || {
                let profile = Arc::new(Profile::new(record).map_err(CommandError::Bad)?);
                tried.try_on(&profile)?;
                Ok::<_, CommandError>(profile)
            });
            let profile = checked.await.map_err(|e| CommandError::Store(e.to_string()))??;
            let (before, commit) = {
                let mut locked = this.state();
                if locked.profiles.get(&name).is_none() && locked.profiles.len() >= MAX_PROFILES {
                    return Err(CommandError::Bad(format!(
                        "there are {MAX_PROFILES} profiles, and no more fit: remove one, or let one selector stand for several"
                    )));
                }
                let mut fx = Effects::default();
                let before = locked.put_profile(&name, Some(profile.clone()), &mut fx);
                (before, this.hand_on(&locked, fx))
            };
            this.settle_profile(&name, Some(&profile), before, commit).await?;
            this.profile(&name)
        })
        .await
    }

    /// Removes a profile.
    pub async fn remove_profile(&self, name: &str) -> Result<(), CommandError> {
        let (this, name) = (self.clone(), name.to_owned());
        whole(async move {
            let (before, commit) = {
                let mut locked = this.state();
                if locked.profiles.get(&name).is_none() {
                    return Err(no_profile(&locked, &name));
                }
                let mut fx = Effects::default();
                let before = locked.put_profile(&name, None, &mut fx);
                (before, this.hand_on(&locked, fx))
            };
            this.settle_profile(&name, None, before, commit).await
        })
        .await
    }

    /// What a machine would get besides its image, if it powered on now.
    ///
    /// # Errors
    /// [`CommandError::Conflict`] where it can't be made for this machine: its boot would be refused.
    pub fn rendered(&self, key: &str) -> Result<ConfigView, CommandError> {
        let state = self.state();
        let (machine, _, answer) = self.asked(&state, key)?;
        let Some(image) = &answer.image else {
            let why = answer.refused.clone().unwrap_or_else(|| answer.why());
            let name = machine.name();
            return Err(CommandError::Conflict(format!(
                "{name} boots no image, and so has no configuration: {why}"
            )));
        };
        let inputs = inputs(&state, state.profiles.of(&machine), &machine, image);
        let whole = inputs.whole().map_err(|problem| CommandError::Conflict(problem.to_string()))?;
        let tag = image.manifest.tag.clone();
        let Some(configured) = whole else { return Ok(ConfigView::none(machine.mac, tag)) };
        if let Some(missing) = state.lacks_secret(&configured) {
            return Err(CommandError::Conflict(missing));
        }
        let own = !image.manifest.native && !configured.config.is_empty();
        let left_out = own.then(|| {
            format!("{tag} brings its own initramfs, which takes no configuration: of this only the kernel arguments reach the machine")
        });
        Ok(ConfigView {
            mac: machine.mac,
            image: tag,
            profiles: configured.profiles,
            digest: Some(configured.digest),
            left_out,
            config: configured.config,
        })
    }

    /// Makes the configuration of each machine that a profile picks and that was seen.
    fn try_on(&self, profile: &Arc<Profile>) -> Result<(), CommandError> {
        let mut candidates = Profiles::default();
        let machines: Vec<(Machine, Digest)> = {
            let state = self.state();
            state.profiles.iter().for_each(|p| candidates.put(p.clone()));
            candidates.put(profile.clone());
            let picked = state.machines.iter_known().filter(|m| m.was_seen() && profile.picks(m));
            let image_of = |m: &Machine| match state.target_of(m) {
                BootTarget::Image { digest } => Some((m.clone(), digest)),
                _ => None,
            };
            picked.filter_map(image_of).take(TRIED).collect()
        };
        let mut images: HashMap<Digest, Option<Arc<Image>>> = HashMap::new();
        for (machine, digest) in machines {
            let image = images.entry(digest).or_insert_with(|| self.0.images.get(digest).ok().flatten());
            let Some(image) = image else { continue };
            let inputs = Inputs::new(candidates.of(&machine), &machine, image, None);
            let whole = inputs.whole().map_err(|problem| problem.to_string());
            let whole = whole.and_then(|whole| match whole.and_then(|c| self.state().lacks_secret(&c)) {
                Some(missing) => Err(format!("profile {}: {missing}", profile.name())),
                None => Ok(()),
            });
            whole.map_err(|why| {
                let name = machine.name();
                CommandError::Bad(format!(
                    "{why}\n  This is so for machine {name}, which would not boot any more: nothing was changed"
                ))
            })?;
        }
        Ok(())
    }

    /// Waits for the disk. What could not be written is taken back, unless the profile has changed since.
    async fn settle_profile(
        &self,
        name: &str,
        after: Option<&Arc<Profile>>,
        before: Option<Arc<Profile>>,
        commit: Commit,
    ) -> Result<(), CommandError> {
        let Err(error) = self.order_saved(commit).await else { return Ok(()) };
        let mut locked = self.state();
        if locked.profiles.get(name) == after {
            let mut fx = Effects::default();
            locked.put_profile(name, before, &mut fx);
            drop(self.by(By::undoing()).hand_on(&locked, fx));
        }
        Err(error.into())
    }
}

fn inputs(state: &State, profiles: Vec<Arc<Profile>>, machine: &Machine, image: &Image) -> Inputs {
    let latest = state.attempts.latest(machine.mac).and_then(|t| t.attempt.addr);
    let address = latest.or_else(|| state.leases.by_mac(machine.mac).map(|l| l.addr).next());
    Inputs::new(profiles, machine, image, address)
}

fn view(state: &State, profile: &Profile) -> ProfileView {
    let record = &profile.record;
    ProfileView {
        name: record.name.clone(),
        selector: record.selector.clone(),
        created: record.created,
        changed: record.changed,
        machines: state.machines.iter().filter(|m| profile.picks(m)).count(),
        bytes: record.document.len(),
        document: Some(record.document.clone()),
    }
}

fn no_profile(state: &State, name: &str) -> CommandError {
    let near = nearest(name, state.profiles.iter().map(|p| p.name()));
    CommandError::NoProfile {
        nearest: near.map(str::to_owned).into_iter().collect(),
        name: name.chars().take(80).collect(),
    }
}
