//! A machine's configuration: fixed when its boot script is rendered, given out once for that boot.
//!
//! What it is made of stays in memory from script to delivery. Where that is gone (the service was restarted in between) it is made
//! again of what there is now, and given out only if it is the same: a boot can't straddle a change.

use super::{
    BootAnswer, Provisioner,
    promises::{Soon, soon},
    report::alive,
    script::from_its_own_address,
    state::{Effects, State},
    types::{ConfigError, ConfigQuery},
};
use crate::{
    model::{
        AttemptConfig, AttemptId, BootAttempt, Digest, Image, Mac, Machine, MachineConfig, Millis,
        SealedSecret, Secret, Stage, wire::Alarm,
    },
    profile::{self, Configured, Problem, Profile, Secrets, Values},
    store::{
        db::{Commit, DbError},
        vault::VaultError,
    },
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
};

/// Boots whose inputs are kept; of older ones the configuration is made again.
const KEPT: usize = 4_096;
/// How long a second request for a configuration is an alarm.
const ALARM: Millis = 24 * 3_600 * 1_000;
/// Machines that alarms name.
const ALARMS: usize = 64;

/// What a configuration is made of.
pub(super) struct Inputs {
    profiles: Vec<Arc<Profile>>,
    values: Values,
    native: bool,
}

impl Inputs {
    pub fn new(
        profiles: Vec<Arc<Profile>>,
        machine: &Machine,
        image: &Image,
        address: Option<Ipv4Addr>,
    ) -> Inputs {
        // A template may count on it: a machine that boots has one.
        let address = address.or(Some(Ipv4Addr::UNSPECIFIED));
        Inputs { profiles, values: Values::new(machine, Some(image), address), native: image.manifest.native }
    }

    /// The whole configuration, whatever of it the image can take.
    pub fn whole(&self) -> Result<Option<Configured>, Problem> {
        profile::render(&self.profiles, &self.values, &Secrets::Hidden)
    }

    fn has_volumes(&self) -> bool {
        self.whole().is_ok_and(|whole| whole.is_some_and(|c| !c.config.volumes.is_empty()))
    }

    /// With the values of its secrets: for the machine alone.
    fn opened(&self, secrets: BTreeMap<String, Secret>) -> Result<Option<Configured>, Problem> {
        profile::render(&self.profiles, &self.values, &Secrets::Known(Arc::new(secrets)))
    }

    /// What reaches the machine: an initramfs of the image's own takes kernel arguments alone.
    fn render(&self) -> Result<Option<Configured>, Problem> {
        let whole = self.whole()?;
        Ok(if self.native { whole } else { whole.map(Configured::only_kernel_args) })
    }
}

/// The inputs of boots under way, and who asked a second time.
#[derive(Default)]
pub(super) struct Configs {
    by_boot: HashMap<AttemptId, Arc<Inputs>>,
    order: VecDeque<AttemptId>,
    twice: BTreeMap<Mac, (Ipv4Addr, Millis)>,
}

impl Configs {
    pub fn keep(&mut self, boot: AttemptId, inputs: Inputs) {
        if self.by_boot.insert(boot, Arc::new(inputs)).is_none() {
            self.order.push_back(boot);
        }
        while self.order.len() > KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.by_boot.remove(&oldest);
            }
        }
    }
}

/// A configuration that is to be given out, and the secrets that are still to be put into it.
struct Ready {
    digest: Digest,
    config: MachineConfig,
    inputs: Arc<Inputs>,
    secrets: Vec<SealedSecret>,
}

/// What a machine is sent.
#[derive(Serialize)]
struct Sent<'a> {
    digest: Digest,
    #[serde(flatten)]
    config: &'a MachineConfig,
}

impl State {
    /// Makes the configuration that goes with an answer. One that can't be made refuses the boot.
    pub fn configure(
        &self,
        answer: &mut BootAnswer,
        machine: &Machine,
        address: Option<Ipv4Addr>,
    ) -> Option<(Inputs, Configured)> {
        let inputs = Inputs::new(self.profiles.of(machine), machine, answer.image.as_ref()?, address);
        let refused = match inputs.render() {
            // Without its volumes it would write where nothing stays.
            Ok(_) if !inputs.native && inputs.has_volumes() => {
                let tag = answer.image.as_ref()?.manifest.tag.to_string();
                format!(
                    "its configuration has volumes, and {tag} brings its own initramfs, which mounts none"
                )
            }
            Ok(Some(configured)) if self.lacks_secret(&configured).is_some() => {
                format!(
                    "its configuration can't be made: {}",
                    self.lacks_secret(&configured).unwrap_or_default()
                )
            }
            Ok(configured) => return configured.map(|c| (inputs, c)),
            Err(problem) => format!("its configuration can't be made: {problem}"),
        };
        answer.refused = Some(refused);
        answer.image = None;
        None
    }
}

impl State {
    /// The secret that a configuration names and that isn't there, in words.
    pub fn lacks_secret(&self, configured: &Configured) -> Option<String> {
        let missing = configured.secrets.iter().find(|name| !self.secrets.contains_key(*name))?;
        Some(format!("there is no secret {missing} (`pristine secret set {missing}`)"))
    }
}

impl Provisioner {
    /// The configuration of the boot with this token, as JSON: once, and again only to who knows the number that was named first.
    pub async fn config(
        &self,
        token: &str,
        peer: Ipv4Addr,
        query: ConfigQuery,
    ) -> Result<Vec<u8>, ConfigError> {
        let (ready, mut commit) = self.config_locked(token, peer, &query)?;
        // On disk before it leaves: after a restart it must not go to somebody else. Where it holds no secret,
        // a disk that takes nothing doesn't keep a machine from booting.
        let secret = ready.as_ref().is_some_and(|ready| !ready.secrets.is_empty());
        match soon(&mut commit, self.patience()).await {
            Soon::Saved => {}
            Soon::Waits(Some(error)) if secret || error == DbError::Closed => return Err(error.into()),
            Soon::Waits(None) if secret => commit.await?,
            Soon::Waits(_) => {}
        }
        let Some(Ready { digest, config, inputs, secrets }) = ready else {
            return json(&Sent { digest: Digest::of(b""), config: &MachineConfig::default() });
        };
        if secrets.is_empty() {
            return json(&Sent { digest, config: &config });
        }
        let vault = self.0.vault.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let open = |sealed: SealedSecret| Ok((sealed.name.clone(), vault.open(&sealed)?));
            let secrets = secrets.into_iter().map(open).collect::<Result<_, VaultError>>();
            let opened = inputs.opened(secrets.map_err(|e| ConfigError::Secrets(e.to_string()))?);
            let opened = opened.map_err(|problem| ConfigError::Secrets(problem.to_string()))?;
            json(&Sent { digest, config: &opened.map(|c| c.config).unwrap_or_default() })
        });
        opened.await.map_err(|e| ConfigError::Secrets(e.to_string()))?
    }

    fn config_locked(
        &self,
        token: &str,
        peer: Ipv4Addr,
        query: &ConfigQuery,
    ) -> Result<(Option<Ready>, Commit), ConfigError> {
        let fits = query.nonce.len() == 32 && query.nonce.bytes().all(|b| b.is_ascii_hexdigit());
        if !fits {
            return Err(ConfigError::BadNonce);
        }
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        let tracked = state.attempts.by_token(token).ok_or(ConfigError::UnknownToken)?;
        let attempt = tracked.attempt.clone();
        alive(&attempt, now).map_err(ConfigError::DeadToken)?;
        if attempt.reached().is_some_and(|stage| stage >= Stage::SwitchRoot) {
            return Err(ConfigError::DeadToken("left its initramfs"));
        }
        from_its_own_address(state, attempt.mac, peer, now)
            .map_err(|e| ConfigError::NotItsAddress(e.to_string()))?;
        let Some(promised) = &attempt.config else {
            return Ok((None, self.hand_on(&locked, fx)));
        };
        let nonce_hash = Digest::of(query.nonce.as_bytes());
        if promised.nonce_hash.is_some_and(|first| first != nonce_hash) {
            tracing::warn!(mac = %attempt.mac, %peer, boot = %attempt.id, "a boot's configuration was asked for a second time");
            if state.configs.twice.len() < ALARMS {
                state.configs.twice.insert(attempt.mac, (peer, now));
            }
            return Err(ConfigError::Taken);
        }
        let inputs = match state.configs.by_boot.get(&attempt.id) {
            Some(inputs) => inputs.clone(),
            None => Arc::new(self.inputs_again(state, &attempt)?),
        };
        let configured = inputs.render().map_err(|e| ConfigError::Changed(e.to_string()))?;
        let configured = configured
            .filter(|c| c.digest == promised.digest)
            .ok_or_else(|| ConfigError::Changed("it is another one now".to_owned()))?;
        if let Some(missing) = state.lacks_secret(&configured) {
            return Err(ConfigError::Secrets(missing));
        }
        let secrets = configured.secrets.iter().filter_map(|name| state.secrets.get(name).cloned()).collect();
        let ready = Ready { digest: configured.digest, config: configured.config, inputs, secrets };
        if promised.nonce_hash.is_none() {
            let taken =
                AttemptConfig { delivered: Some(now), nonce_hash: Some(nonce_hash), ..promised.clone() };
            state.update(attempt.id, &mut fx, |t| {
                t.heard = now;
                t.attempt.config = Some(taken);
                true
            });
        }
        Ok((Some(ready), self.hand_on(&locked, fx)))
    }

    /// What the configuration of a boot would be made of now.
    fn inputs_again(&self, state: &State, attempt: &BootAttempt) -> Result<Inputs, ConfigError> {
        let gone = |what: &str| ConfigError::Changed(format!("{what} is gone"));
        let machine = state.machines.get(attempt.mac).ok_or_else(|| gone("the machine"))?;
        let image = attempt.image.and_then(|digest| self.0.images.get(digest).ok().flatten());
        let image = image.ok_or_else(|| gone("its image"))?;
        Ok(Inputs::new(state.profiles.of(machine), machine, &image, attempt.addr))
    }

    /// Machines of whose boots somebody else asked for the configuration.
    pub(super) fn config_alarms(&self) -> Vec<Alarm> {
        let now = self.now();
        let mut state = self.state();
        state.configs.twice.retain(|_, (_, at)| now.saturating_sub(*at) < ALARM);
        let words = |(mac, (peer, at)): (&Mac, &(Ipv4Addr, Millis))| Alarm {
            about: format!("machine {mac}"),
            text: format!(
                "{peer} asked for the configuration of its boot after the machine had it, with that boot's token: who else can read \
                 its command line, or listens on its network? Nothing was given out"
            ),
            since: *at,
        };
        state.configs.twice.iter().map(words).collect()
    }
}

fn json(sent: &Sent<'_>) -> Result<Vec<u8>, ConfigError> {
    serde_json::to_vec(sent).map_err(|e| ConfigError::Changed(e.to_string()))
}
