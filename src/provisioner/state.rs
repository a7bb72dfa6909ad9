//! All state behind the provisioner's one lock, and the moves that several entries share.
//!
//! Nothing here waits. A move changes memory and notes what the store and the watchers must be told
//! in [`Effects`], which the entry hands on before it lets go of the lock: so the order on disk is the
//! order in memory.

use super::{
    Bounds, Options, ScriptQuery, Stats, Unknown,
    answer::{BootAnswer, Policy, assigned, boot_answer, is_known},
    attempt_table::{Attempts, Tracked},
    attempts::{self, Step},
    audit,
    configure::Configs,
    fallback,
    machines::Machines,
    promises::Promises,
    rules::Rules,
};
use crate::{
    dhcp,
    model::{
        Arch, AttemptId, BootAttempt, BootClient, BootTarget, Change, ClientArch, ClientKind, FailingImage,
        Image, Mac, Machine, Millis, Rollout, SealedSecret, Stage, Verdict, audit::Note, facts::MAX_NICS,
    },
    netboot::{Roots, ServerAddr},
    profile::{Profile, Profiles},
    store::ImageStore,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// A machine's `last_seen` is as coarse as this, so that a packet is not a write.
const SEEN_EVERY: Millis = 60_000;

/// Notes that a machine was heard of.
pub(super) fn heard_of(machine: &mut Machine, now: Millis) {
    if now.saturating_sub(machine.last_seen) >= SEEN_EVERY {
        machine.last_seen = now;
    }
}

pub(super) struct State {
    pub site: dhcp::Site,
    /// Where the configuration names no subnet: the links that are served by their own networks.
    pub flat: Option<dhcp::FlatLinks>,
    pub unknown: Unknown,
    pub fallback_after: u32,
    pub discover_image: Option<String>,
    pub roots: Roots,
    pub bounds: Bounds,
    pub machines: Machines,
    pub leases: dhcp::Leases,
    pub promises: Promises,
    pub attempts: Attempts,
    pub default: Option<BootTarget>,
    pub rules: Rules,
    /// By name.
    pub rollouts: BTreeMap<String, Rollout>,
    /// By name.
    pub secrets: BTreeMap<String, SealedSecret>,
    /// Machines on record that are to boot anew.
    pub wanted: BTreeSet<Mac>,
    /// Those of them whose BMC is being asked to.
    pub asking: BTreeSet<Mac>,
    pub profiles: Profiles,
    pub configs: Configs,
    pub stats: Stats,
    /// Scripts given within the minute that began at the first number.
    pub script_rate: (Millis, HashMap<Mac, u32>),
}

/// What a move changed.
#[derive(Default)]
pub(super) struct Effects {
    pub changes: Vec<Change>,
    /// What the audit log is told of them.
    pub notes: Vec<Note>,
    pub events: Vec<BootAttempt>,
}

impl Effects {
    /// Nothing to hand on.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.notes.is_empty() && self.events.is_empty()
    }
}

impl State {
    pub fn new(options: Options, machines: Vec<Machine>, rules: Rules, default: Option<BootTarget>) -> State {
        let wanted = machines.iter().filter(|m| m.reboot.is_some()).map(|m| m.mac).collect();
        State {
            leases: dhcp::Leases::new(options.site.bounds),
            promises: Promises::default(),
            machines: Machines::new(options.bounds, machines),
            attempts: Attempts::new(options.bounds),
            flat: options.site.subnets.is_empty().then(dhcp::FlatLinks::default),
            site: options.site,
            unknown: options.unknown,
            fallback_after: options.fallback_after,
            discover_image: options.discover_image,
            roots: options.roots,
            bounds: options.bounds,
            default,
            rules,
            rollouts: BTreeMap::new(),
            secrets: BTreeMap::new(),
            wanted,
            asking: BTreeSet::new(),
            profiles: Profiles::default(),
            configs: Configs::default(),
            stats: Stats::default(),
            script_rate: (0, HashMap::new()),
        }
    }

    /// The one answer.
    pub fn answer(
        &self,
        images: &ImageStore,
        client: &BootClient,
        server: &ServerAddr,
        vouch: &dyn Fn(&Image) -> Result<(), String>,
    ) -> BootAnswer {
        // One `stat` for an image that was asked for before: fit to be done under the lock.
        let find = |digest| images.get(digest).map_err(|e| e.to_string());
        let waiting = || match &self.discover_image {
            Some(reference) => {
                images.resolve(reference).map(|image| Some(Arc::new(image))).map_err(|e| e.to_string())
            }
            None => Ok(None),
        };
        boot_answer(client, self.machines.get(client.mac), self.policy(), server, &find, vouch, &waiting)
    }

    pub fn policy(&self) -> Policy<'_> {
        Policy {
            rules: &self.rules,
            default: self.default.as_ref(),
            unknown: self.unknown,
            fallback_after: self.fallback_after,
        }
    }

    /// What a machine is assigned now, or what takes the place of that.
    pub fn target_of(&self, machine: &Machine) -> BootTarget {
        booted(machine, self.policy())
    }

    /// Machines on record that boot their last good image in the place of another one, with that one.
    pub fn fallen_back(&self) -> impl Iterator<Item = (&Machine, &FailingImage)> {
        self.machines.iter_known().filter_map(|machine| {
            // Asked first, since hardly any machine has one.
            machine.failing.first()?;
            let target = assigned(Some(machine), self.policy()).target;
            let (_, failing) = fallback::instead_of(machine, &target, self.fallback_after)?;
            Some((machine, failing))
        })
    }

    /// Changes what the site says of machines without a pin: those on record that would boot something
    /// else from now on get a new generation, and no others.
    pub fn repoint(&mut self, change: Change, fx: &mut Effects, apply: impl FnOnce(&mut State)) {
        let unpinned = |state: &State| -> Vec<(Machine, BootTarget)> {
            let all = state.machines.iter_known().filter(|m| m.pin.is_none());
            all.map(|m| (m.clone(), state.target_of(m))).collect()
        };
        let before = unpinned(self);
        fx.notes.extend(match &change {
            Change::Default(target) => Some(audit::of_default(self.default.as_ref(), target.as_ref())),
            Change::Rule(rule) => Some(audit::of_rule(&rule.name, self.rules.get(&rule.name), Some(rule))),
            Change::RuleGone(name) => Some(audit::of_rule(name, self.rules.get(name), None)),
            _ => None,
        });
        fx.changes.push(change);
        apply(self);
        for (mut machine, target) in before {
            let now = self.target_of(&machine);
            if now != target {
                fx.notes.push(audit::of_repointed(&machine, &target, &now));
                machine.generation += 1;
                self.put(machine, fx);
            }
        }
    }

    /// Puts a profile in the place of the one of that name, or takes that away; the one that was there.
    pub fn put_profile(
        &mut self,
        name: &str,
        to: Option<Arc<Profile>>,
        fx: &mut Effects,
    ) -> Option<Arc<Profile>> {
        let before = self.profiles.remove(name);
        let record = |p: &Option<Arc<Profile>>| p.as_ref().map(|p| p.record.clone());
        fx.notes.push(audit::of_profile(name, record(&before).as_ref(), record(&to).as_ref()));
        fx.changes.push(match record(&to) {
            Some(record) => Change::Profile(record.into()),
            None => Change::ProfileGone(name.to_owned()),
        });
        self.profiles.extend(to);
        before
    }

    /// A machine was heard of: it appears, or what it says of itself is noted. An operating system's
    /// DHCP makes no machine appear.
    pub fn seen(&mut self, client: &BootClient, now: Millis, fx: &mut Effects) {
        let boots = !matches!(client.kind, ClientKind::Other);
        if boots {
            self.recognise(client, fx);
        }
        let known = self.machines.is_known(client.mac);
        let (mut machine, new) = match self.machines.get(client.mac) {
            Some(machine) => (machine.clone(), false),
            None if boots => (Machine::new(client.mac, now), true),
            None => return,
        };
        let before = machine.clone();
        heard_of(&mut machine, now);
        if machine.first_seen == 0 {
            machine.first_seen = now;
        }
        if boots {
            if let Some(uuid) = client.uuid.filter(|_| machine.uuid.is_none()) {
                machine.uuid = Some(uuid.iter().map(|b| format!("{b:02x}")).collect());
            }
            if client.kind == ClientKind::RaspberryPi {
                // Its ROM says 0 (PC BIOS) in option 93, which is no firmware of its own.
                machine.arch = Some(Arch::Aarch64);
            } else if let Some(firmware) = client.arch.filter(|_| client.kind != ClientKind::Init) {
                machine.firmware = Some(firmware);
                machine.arch = firmware.arch().or(machine.arch);
            }
        }
        if known {
            if machine != before {
                self.put(machine, fx);
            }
        } else if new || boots {
            let gone = self.machines.put_stranger(machine);
            if let Some(gone) = gone {
                self.attempts.forget(gone);
            }
        }
    }

    /// A NIC that nobody on record has becomes one of the machine's that said so, where what boots by it has
    /// that machine's UUID. Both must say so: a machine can't claim the NIC of another one, which has another
    /// UUID, and a UUID alone is what whole series of boards share.
    fn recognise(&mut self, client: &BootClient, fx: &mut Effects) {
        let Some(uuid) = client.uuid.filter(|_| !self.machines.is_known(client.mac)) else { return };
        let found = self.machines.with_nic(client.mac, &uuid);
        let Some(mut machine) = found.filter(|m| m.other_macs.len() < MAX_NICS).cloned() else { return };
        tracing::info!(machine = %machine.mac, nic = %client.mac, "a machine boots by another of its NICs");
        fx.changes.extend(self.attempts.forget(client.mac));
        machine.other_macs.push(client.mac);
        machine.other_macs.sort_unstable();
        self.put(machine, fx);
    }

    /// Changes a machine on record, in memory, for the store and for the audit log.
    pub fn put(&mut self, machine: Machine, fx: &mut Effects) {
        let blank;
        let before = match self.machines.get(machine.mac) {
            Some(before) => before,
            None => {
                blank = Machine::new(machine.mac, 0);
                &blank
            }
        };
        if audit::may_tell(before, &machine) {
            let (from, to) = (self.target_of(before), self.target_of(&machine));
            fx.notes.extend(audit::of_machine(before, &machine, &from, &to));
        }
        self.store(machine, fx);
    }

    /// The same without a word to the audit log, which knows already.
    pub fn store(&mut self, machine: Machine, fx: &mut Effects) {
        fx.changes.push(Change::Machine(machine.clone().into()));
        match machine.reboot {
            Some(_) => self.wanted.insert(machine.mac),
            None => self.wanted.remove(&machine.mac),
        };
        self.machines.put(machine);
    }

    /// A stranger comes on record, with its attempts: it got an address, or a script, or an operator
    /// touched it. False where the table is full.
    pub fn keep(&mut self, mac: Mac, fx: &mut Effects) -> bool {
        if self.machines.is_known(mac) {
            return true;
        }
        let Some(machine) = self.machines.get(mac).cloned() else { return false };
        if !self.make_room(fx) {
            self.stats.table_full += 1;
            return false;
        }
        let mac = machine.mac;
        self.put(machine, fx);
        fx.changes.extend(self.attempts.keep(mac));
        true
    }

    /// Room for one more machine on record. In a full table the visitor (no operator touched it, and it
    /// never got a script) longest unheard of makes it: made-up MACs that took an address each must not
    /// keep a new machine from booting. False where there is no visitor.
    pub fn make_room(&mut self, fx: &mut Effects) -> bool {
        if self.machines.has_room() {
            return true;
        }
        let visitors = self.machines.iter_known().filter(|m| !is_known(m));
        let Some(gone) = visitors.min_by_key(|m| m.last_seen).map(|m| m.mac) else { return false };
        self.forget(gone, fx);
        self.machines.has_room()
    }

    /// Forgets a machine and its attempts. Its leases stay: they are promises to whoever holds them.
    pub fn forget(&mut self, mac: Mac, fx: &mut Effects) {
        fx.changes.extend(self.attempts.forget(mac));
        // Visitors come and go without a trace: nobody said anything of them.
        if let Some(machine) = self.machines.get(mac).filter(|m| is_known(m)) {
            let blank = Machine::new(mac, 0);
            let (from, to) = (self.target_of(machine), self.target_of(&blank));
            fx.notes.push(audit::of_forgotten(machine, &blank, &from, &to));
        }
        self.wanted.remove(&mac);
        if self.machines.is_known(mac) {
            fx.changes.push(Change::MachineGone(mac));
        }
        self.machines.remove(mac);
    }

    /// The attempt that a DHCP packet belongs to, begun if it is the first one of a power-on.
    pub fn attempt_of(
        &mut self,
        client: &BootClient,
        discover: bool,
        id: AttemptId,
        now: Millis,
        fx: &mut Effects,
    ) -> Option<AttemptId> {
        let mac = self.machines.primary(client.mac);
        let latest = self.attempts.latest(mac);
        match attempts::step(latest.map(Tracked::latest), client.kind, discover, now) {
            Step::Nothing => None,
            Step::Continue => {
                let id = latest?.attempt.id;
                self.attempts.update(id, |t| {
                    t.heard = now;
                    false
                });
                Some(id)
            }
            Step::Begin => {
                let by_firmware = !matches!(client.kind, ClientKind::Ipxe(_));
                self.begin(mac, id, Stage::Discover, client.arch, by_firmware, now, fx);
                Some(id)
            }
        }
    }

    /// Begins an attempt at `stage`; one under way is superseded.
    #[allow(clippy::too_many_arguments)]
    pub fn begin(
        &mut self,
        mac: Mac,
        id: AttemptId,
        stage: Stage,
        firmware: Option<ClientArch>,
        by_firmware: bool,
        now: Millis,
        fx: &mut Effects,
    ) {
        if let Some(old) = self.attempts.latest(mac).map(|t| t.attempt.id) {
            self.update(old, fx, |t| attempts::supersede(&mut t.attempt));
        }
        // Whatever its agent was to do: the machine boots.
        if let Some(mut machine) = self.machines.get(mac).filter(|m| m.order.is_some()).cloned() {
            machine.order = None;
            self.put(machine, fx);
        }
        let mut attempt = BootAttempt::new(id, mac);
        attempt.firmware = firmware;
        attempts::record(&mut attempt, stage, now, None);
        let kept = self.machines.is_known(mac);
        if !kept {
            // One is enough of a stranger: attempts of machines on record must not make room for more.
            self.attempts.forget(mac);
        } else {
            fx.changes.push(Change::Attempt(attempt.clone()));
        }
        fx.events.push(attempt.clone());
        let seen = attempts::Seen::Reports;
        let tracked = Tracked {
            heard: now,
            moved: now,
            began: (now, 0),
            by_firmware,
            seen,
            asked: None,
            kept,
            attempt,
        };
        fx.changes.extend(self.attempts.add(tracked));
    }

    /// Changes an attempt, for memory, store and watchers; how it ended goes on its machine's record, too.
    pub fn update(&mut self, id: AttemptId, fx: &mut Effects, change: impl FnOnce(&mut Tracked) -> bool) {
        if let Some((kept, attempt)) = self.attempts.update(id, change) {
            if kept {
                fx.changes.push(Change::Attempt(attempt.clone()));
                self.judge(&attempt, fx);
            }
            fx.events.push(attempt);
        }
    }

    /// Notes on a machine's record whether its image failed it again, or no longer.
    fn judge(&mut self, attempt: &BootAttempt, fx: &mut Effects) {
        let Some((seen, at)) = self.attempts.get(attempt.id).map(|t| (t.seen, t.heard.max(t.moved))) else {
            return;
        };
        let Some(mut machine) = self.machines.get(attempt.mac).cloned() else { return };
        let before = self.target_of(&machine);
        if fallback::note(&mut machine, attempt, seen, at) {
            // What it boots next may be another one now.
            machine.generation += u64::from(self.target_of(&machine) != before);
            self.put(machine, fx);
        }
    }

    /// Records a stage.
    pub fn record(
        &mut self,
        id: AttemptId,
        stage: Stage,
        detail: Option<String>,
        now: Millis,
        fx: &mut Effects,
    ) {
        self.update(id, fx, |t| {
            t.heard = now;
            let new = attempts::record(&mut t.attempt, stage, now, detail);
            if new {
                t.moved = now;
            }
            new
        });
    }

    /// Notes that a boot goes on, though it reached no new stage; one taken for stuck is not.
    pub fn goes_on(&mut self, id: AttemptId, now: Millis, fx: &mut Effects) {
        self.update(id, fx, |t| {
            t.heard = now;
            t.moved = now;
            let revived = matches!(t.attempt.verdict, Verdict::Stuck { .. });
            if revived {
                t.attempt.verdict = Verdict::Running;
            }
            revived
        });
    }

    /// The machine that uses an address now.
    pub fn mac_at(&self, addr: std::net::Ipv4Addr) -> Option<Mac> {
        let by_lease = self.leases.by_addr(addr).map(|l| l.mac);
        let by_attempt = || self.attempts.by_addr(addr).map(|t| t.attempt.mac);
        by_lease.or_else(by_attempt).map(|mac| self.machines.primary(mac))
    }

    /// Notes what a machine's iPXE says of itself.
    pub fn describe(machine: &mut Machine, query: &ScriptQuery) {
        let set = |field: &mut Option<String>, said: &str| {
            let said: String = attempts::tidy(said).chars().take(128).collect();
            if !said.is_empty() {
                *field = Some(said);
            }
        };
        set(&mut machine.serial, &query.serial);
        set(&mut machine.product, &format!("{} {}", query.manufacturer, query.product));
        // It reads SMBIOS itself, where DHCP's option 97 is in this or that order of bytes.
        if let Some(uuid) = query.uuid() {
            machine.uuid = Some(uuid.iter().map(|b| format!("{b:02x}")).collect());
        }
    }
}

/// What a machine boots by this policy, or what takes the place of that.
pub(super) fn booted(machine: &Machine, policy: Policy<'_>) -> BootTarget {
    let target = assigned(Some(machine), policy).target;
    match fallback::instead_of(machine, &target, policy.fallback_after) {
        Some((digest, _)) => BootTarget::Image { digest },
        None => target,
    }
}
