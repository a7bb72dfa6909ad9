//! The per-machine boot script: the moment when a boot's target is fixed.

use super::{
    BootAnswer, Provisioner, ScriptError, ScriptQuery,
    attempts::{self, Seen},
    promises::{Soon, soon},
    random,
    state::{Effects, State},
};
use crate::{
    model::{
        AttemptConfig, AttemptId, BootClient, BootTarget, ClientArch, ClientKind, Digest, Image,
        IpxeFeatures, Lease, LeaseState, Mac, Millis, Stage, Verdict,
    },
    netboot::{ScriptInput, ScriptTarget, ServerAddr, boot_script},
    profile::Configured,
    store::db::DbError,
};
use std::net::Ipv4Addr;

const MINUTE: Millis = 60_000;

impl Provisioner {
    /// The script for the machine that asks from `peer`. It carries this boot's attempt and a new
    /// one-time token, of which only the SHA-256 is kept; attempt, target and generation are on disk
    /// before it is given out, unless the disk takes nothing. A machine that can't be booted gets a script that says why.
    pub async fn script(
        &self,
        server: ServerAddr,
        peer: Ipv4Addr,
        query: ScriptQuery,
    ) -> Result<String, ScriptError> {
        let mac: Mac = match query.mac.parse::<Mac>() {
            Ok(mac) if mac.is_usable() => mac,
            _ => return Err(ScriptError::BadMac(query.mac.chars().take(40).collect())),
        };
        let no_random = |e: getrandom::Error| ScriptError::NoRandomness(e.to_string());
        let token = Digest(random().map_err(no_random)?).to_string();
        let fresh = AttemptId(u64::from_ne_bytes(random().map_err(no_random)?));
        let client = BootClient {
            mac,
            kind: ClientKind::Ipxe(IpxeFeatures { http: true, efi: query.platform == "efi", ours: false }),
            arch: firmware(&query),
            uuid: query.uuid(),
            hostname: None,
        };
        // A kernel that was not looked at yet is hashed before the lock, not under it.
        self.look(&client, &server).await;
        let (script, mut commit) = self.script_locked(server, peer, &query, &client, &token, fresh)?;
        if let Soon::Waits(error) = soon(&mut commit, self.patience()).await {
            if let Some(error @ DbError::Closed) = error {
                return Err(error.into());
            }
            // Better boot by what only memory knows than not at all. After a kill the token is unknown: then reports
            // are refused, which no boot hangs on, and a machine that gets a configuration boots again.
            self.state().stats.scripts_unsaved += 1;
        }
        Ok(script)
    }

    /// Hashes what a machine is about to be given, where it was not looked at yet. What is found is asked for
    /// again under the lock.
    pub(super) async fn look(&self, client: &BootClient, server: &ServerAddr) {
        let answer = self.state().answer(&self.0.images, client, server, &self.voucher());
        if let Some(image) = answer.image.or(answer.waits_with) {
            let this = self.clone();
            drop(tokio::task::spawn_blocking(move || drop(this.missing_blob(&image))).await);
        }
    }

    fn script_locked(
        &self,
        server: ServerAddr,
        peer: Ipv4Addr,
        query: &ScriptQuery,
        client: &BootClient,
        token: &str,
        fresh: AttemptId,
    ) -> Result<(String, crate::store::db::Commit), ScriptError> {
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        // First, so that what others ask in its name doesn't use up its rate.
        from_its_own_address(state, client.mac, peer, now)?;
        rate(state, client.mac, now)?;
        state.seen(client, now, &mut fx);
        let mut answer = self.checked(state, client, &server);
        let primary = state.machines.primary(client.mac);
        let latest = state.attempts.latest(primary).map(|t| &t.attempt);
        let same = latest.filter(|a| belongs(a, answer.image.as_deref())).map(|a| a.id);
        if let (None, Some(old)) = (same, latest.map(|a| a.id)) {
            // A boot that ends here may be the one with which its image failed too often.
            state.update(old, &mut fx, |t| attempts::supersede(&mut t.attempt));
            answer = self.checked(state, client, &server);
        }
        if answer.target != BootTarget::Ignore && !state.keep(client.mac, &mut fx) {
            return Err(ScriptError::TableFull(state.machines.counts().0));
        }
        let Some(mut machine) = state.machines.get(primary).cloned() else {
            return Err(ScriptError::BadMac(client.mac.to_string()));
        };
        let before = machine.clone();
        State::describe(&mut machine, query);

        let id = same.unwrap_or(fresh);
        let configured = state.configure(&mut answer, &machine, Some(peer));
        let (inputs, configured) = configured.unzip();
        let args = configured.as_ref().map_or(&[][..], |c| &c.config.kernel_args);
        let for_init = configured.as_ref().and_then(Configured::for_init);
        let input = |target| ScriptInput {
            server,
            machine: &machine,
            mac: client.mac,
            target,
            attempt: id,
            token,
            generation: answer.generation,
            args,
            config: for_init,
            roots: state.roots,
        };
        let script = match (&answer.image, &answer.refused, &answer.target) {
            (Some(image), ..) => match boot_script(&input(ScriptTarget::Image(image))) {
                Ok(script) => script,
                Err(e) => {
                    // Not ours to hide: the machine's console says it, and the attempt.
                    let reason = e.to_string();
                    let script = boot_script(&input(ScriptTarget::Refused { reason: &reason }))?;
                    answer.refused = Some(reason);
                    answer.image = None;
                    script
                }
            },
            (None, Some(reason), _) => boot_script(&input(ScriptTarget::Refused { reason }))?,
            (None, None, BootTarget::Local) => boot_script(&input(ScriptTarget::Local))?,
            (None, None, BootTarget::Discover) => match &answer.waits_with {
                Some(image) => boot_script(&input(ScriptTarget::Wait(image)))?,
                None => boot_script(&input(ScriptTarget::Discover))?,
            },
            (None, None, BootTarget::Ignore | BootTarget::Image { .. }) => {
                boot_script(&input(ScriptTarget::Ignore))?
            }
        };
        state.stats.scripts += 1;
        // Whoever asks for a script has left what it ran.
        machine.running = answer.image.as_ref().map(|image| image.digest);
        if answer.target == BootTarget::Ignore {
            if machine != before && state.machines.is_known(machine.mac) {
                state.put(machine, &mut fx);
            }
            let commit = self.hand_on(&locked, fx);
            return Ok((script, commit));
        }

        if same.is_none() {
            state.begin(primary, id, Stage::Script, client.arch, false, now, &mut fx);
        }
        let detail = match (&answer.image, &answer.refused, &answer.waits_with) {
            (Some(image), ..) => image.manifest.tag.to_string(),
            (None, Some(_), _) => "refused".to_owned(),
            (None, None, Some(image)) => format!("{} with {}", answer.target, image.manifest.tag),
            (None, None, None) => answer.target.to_string(),
        };
        state.record(id, Stage::Script, Some(detail), now, &mut fx);
        if let Some(inputs) = inputs {
            state.configs.keep(id, inputs);
        }
        let config = configured.map(Configured::into_record);
        state.fix(id, &answer, config, token, peer, client.arch, now, &mut fx);
        if machine != before {
            state.put(machine, &mut fx);
        }
        let commit = self.hand_on(&locked, fx);
        Ok((script, commit))
    }

    /// The one answer, with a look at the image's blobs: without one that is damaged.
    pub(super) fn checked(&self, state: &State, client: &BootClient, server: &ServerAddr) -> BootAnswer {
        let mut answer = state.answer(&self.0.images, client, server, &self.voucher());
        if let Some(reason) = answer.image.as_ref().and_then(|image| self.missing_blob(image)) {
            answer.refused = Some(reason);
            answer.image = None;
        }
        if answer.waits_with.as_ref().is_some_and(|image| self.missing_blob(image).is_some()) {
            answer.waits_with = None;
        }
        answer
    }

    /// Why an image's blobs are not all there, as far as the store looks before it serves them.
    fn missing_blob(&self, image: &Image) -> Option<String> {
        let broken = |digest| match self.0.images.blob(digest) {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("blob {} is missing", digest.short())),
            Err(e) => Some(e.to_string()),
        };
        let why = image.manifest.blobs().find_map(|b| broken(b.digest))?;
        Some(format!("image {} is damaged in the store: {why}", image.manifest.tag))
    }
}

impl State {
    /// Fixes what a boot gets: from here on it is this target, and this token speaks for it.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn fix(
        &mut self,
        id: AttemptId,
        answer: &BootAnswer,
        config: Option<AttemptConfig>,
        token: &str,
        peer: Ipv4Addr,
        firmware: Option<ClientArch>,
        now: Millis,
        fx: &mut Effects,
    ) {
        self.update(id, fx, |t| {
            let a = &mut t.attempt;
            let old = a.clone();
            a.image = answer.image.as_ref().map(|i| i.digest);
            a.waits_with = answer.waits_with.as_ref().map(|i| i.digest);
            a.rule = Some(answer.rule.clone());
            a.generation = answer.generation;
            a.config = config.filter(|_| a.image.is_some());
            a.addr = Some(peer).filter(|p| !p.is_unspecified()).or(a.addr);
            a.firmware = a.firmware.or(firmware);
            a.token_hash = a.image.or(a.waits_with).map(|_| Digest::of(token.as_bytes()));
            a.verdict = match (&answer.refused, &answer.target) {
                (Some(reason), _) => Verdict::Failed { reason: reason.clone() },
                (None, BootTarget::Local) => Verdict::Local,
                (None, _) => Verdict::Running,
            };
            let loads = answer.image.as_ref().or(answer.waits_with.as_ref());
            t.seen = loads.map_or(Seen::Loads, |i| Seen::of(&i.manifest));
            t.heard = now;
            t.moved = now;
            *a != old
        });
    }
}

/// True where a script request goes on with the latest attempt: the first one of it, or the same
/// again. One that has gone further, or is over, or had another target, is another boot.
fn belongs(latest: &crate::model::BootAttempt, image: Option<&Image>) -> bool {
    let open = match latest.verdict {
        Verdict::Running | Verdict::Stuck { .. } => true,
        // Still at the screen that says why.
        Verdict::Failed { .. } => image.is_none(),
        Verdict::Local => image.is_none(),
        Verdict::Healthy | Verdict::Superseded | Verdict::HandedOver => false,
    };
    let same = match latest.reached() {
        Some(Stage::Script) => latest.image == image.map(|i| i.digest),
        Some(stage) => stage < Stage::Script,
        None => true,
    };
    open && same
}

/// Another host must not take over a machine's boot (its token, its place as the latest attempt), nor
/// report one as healthy, by naming its MAC. A machine that holds an address of ours asks from there: to
/// ask from another's, a host would have to take that over as well. Where its addresses are another
/// server's nothing is known of them: firmware and iPXE may well have two.
pub(super) fn from_its_own_address(
    state: &State,
    mac: Mac,
    peer: Ipv4Addr,
    now: Millis,
) -> Result<(), ScriptError> {
    let machine = state.machines.get(state.machines.primary(mac));
    let others = machine.into_iter().flat_map(|m| [m.mac].into_iter().chain(m.other_macs.iter().copied()));
    let macs = [mac].into_iter().chain(others);
    // A lease of a network that is no longer served here is from before a change of the configuration.
    let ours = |l: &&Lease| {
        l.state == LeaseState::Bound
            && l.expires > now
            && state.site.subnets.iter().any(|s| s.network.contains(l.addr))
    };
    let mut held = macs.flat_map(|mac| state.leases.by_mac(mac)).filter(ours).map(|l| l.addr).peekable();
    match held.peek().copied() {
        Some(holds) if held.all(|addr| addr != peer) => Err(ScriptError::NotItsAddress { mac, holds, peer }),
        _ => Ok(()),
    }
}

fn rate(state: &mut State, mac: Mac, now: Millis) -> Result<(), ScriptError> {
    let (since, given) = &mut state.script_rate;
    if now.saturating_sub(*since) >= MINUTE || given.len() > 100_000 {
        *since = now;
        given.clear();
    }
    let count = given.entry(mac).or_default();
    *count += 1;
    match *count > state.bounds.scripts_per_minute {
        true => Err(ScriptError::TooMany(mac)),
        false => Ok(()),
    }
}

/// The firmware under an iPXE, from its `${platform}` and `${buildarch}`.
fn firmware(query: &ScriptQuery) -> Option<ClientArch> {
    Some(match (query.platform.as_str(), query.buildarch.as_str()) {
        ("pcbios", _) => ClientArch::Bios,
        ("efi", "x86_64") => ClientArch::UefiX64,
        ("efi", "i386") => ClientArch::UefiIa32,
        ("efi", "arm64") => ClientArch::UefiArm64,
        ("efi", "arm32") => ClientArch::UefiArm32,
        ("efi", "riscv64") => ClientArch::UefiRiscv64,
        ("efi", "loong64") => ClientArch::UefiLoong64,
        _ => return None,
    })
}
