//! A simulated fleet: thousands of machines that speak the real DHCP, TFTP and HTTP with the real service,
//! over a network namespace of their own, with boot times, failures and lost packets drawn from a seed.
//!
//! | file | idea |
//! |---|---|
//! | `dice` | chance from a seed |
//! | `fate` | which images fail on which machines |
//! | `relay` | DHCP of all machines through one relay agent |
//! | `http` | a request from a machine's own address |
//! | `machine` | one boot, step by step |
//! | `crew` | the machines' lives: power, restarts, what became of each boot |
//! | `tally` | what happened, in figures |
//! | `record` | whether limits were kept, by the audit log |
//!
//! Firmware, kernel and initramfs are not run: a machine asks for what they would ask for, and takes the
//! last bytes of a blob for all of it. Reports, scripts and downloads are those of a boot.

mod crew;
mod dice;
mod fate;
mod http;
mod machine;
mod record;
mod relay;
mod tally;

use super::{
    LabError, Net, Service, Settings, copy_images, interrupt, net::Host, process::succeed,
    service::SERVER_CIDR, show::Timeline,
};
use crate::{
    client::Client,
    model::{
        BootAttempt, Digest, Limits, Mac, Machine, Phase, RolloutState, Tag,
        audit::AuditRecord,
        wire::{RolloutView, StartRollout},
    },
    provisioner::MachinePatch,
    store::db::LogQuery,
};
use crew::Crew;
use dice::Dice;
use fate::Fates;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};
pub use tally::{Outcome, Tally};

/// The fleet's own address on the switch, its network, and the relay agent's address in that.
const GATEWAY_CIDR: &str = "198.18.0.2/24";
const GATEWAY: &str = "198.18.0.2";
const FLEET: &str = "198.19.0.0/16";
const RELAY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PORT: u16 = 8080;
const API: &str = "http://127.0.0.1:8081";
const ROLLOUT: &str = "fleet";
/// Boots of a machine that are looked at: more than the service keeps.
const ATTEMPTS: usize = 1_000;
/// Bound of one tool.
const TOOL: Duration = Duration::from_secs(30);
/// Most machines: what its network has addresses for, with room for a pool.
pub const MOST: u32 = 50_000;

/// What kind of fleet, and what it does.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to run the service.
    pub settings: Settings,
    /// State folder with the images.
    pub images: PathBuf,
    /// Machines; at most [`MOST`].
    pub machines: u32,
    /// Racks that they are spread over.
    pub racks: u32,
    /// What chance is drawn from.
    pub seed: u64,
    /// Part of the machines that the new image fails on.
    pub failures: f64,
    /// Part of the packets that are lost.
    pub loss: f64,
    /// How much faster than real delays pass.
    pub speed: f64,
    /// Time over which machines power on.
    pub storm: Duration,
    /// Fetch kernel, initramfs, tree and root whole, and hash them.
    pub whole_blobs: bool,
    /// Image that all begin with.
    pub from: Tag,
    /// Image that a rollout moves them to; none: only the storm.
    pub to: Option<Tag>,
    /// Machines in flight, in all and of one rack.
    pub in_flight: (u32, u32),
    /// Deadline of a machine's boot in a rollout.
    pub deadline: Duration,
    /// Times that the service is killed and started again in the middle: of the rollout, or of the storm
    /// where there is none.
    pub kills: u32,
    /// Longest time for the whole.
    pub bound: Duration,
}

/// Runs it, and tells what happened.
///
/// # Errors
/// The site can't be made, the service fails, a limit was exceeded, or it doesn't end in time.
pub fn run(options: &Options, timeline: &Timeline) -> Result<Tally, LabError> {
    crate::sys::limits::raise_file_limit();
    copy_images(&options.images, &options.settings.state)?;
    let mut site = Site::up(options)?;
    let machines = options.machines;
    timeline.say(&format!("{machines} machines in {} racks; seed {}.", options.racks, options.seed));
    let fleet: Vec<Mac> = (0..machines).map(mac_of).collect();
    site.register(options, &fleet)?;
    site.cli(&["default", &options.from.to_string()])?;
    let dice = Dice::new(options.seed);
    let fates = Fates { dice, failures: options.failures, good: site.digest(&options.from)? };
    let mut tally = Tally::default();

    let crew = site.fleet.enter(|| Crew::start(options, fates, &fleet))??;
    timeline.say(&format!("Power on, over {} s.", options.storm.as_secs()));
    let bound = Bound::from_now(options.bound);
    let began = Instant::now();
    crew.power_on_over(options.storm, &dice);
    let mut kills = Kills::new(if options.to.is_none() { options.kills } else { 0 }, machines, timeline);
    while crew.running() > 0 || crew.settled() < fleet.len() {
        bound.step(|| "all machines to be up".to_owned())?;
        kills.where_due(crew.settled(), &crew, &mut site)?;
    }
    tally.storm(began.elapsed(), &crew.take());
    tally.killed(kills.made, kills.amid, kills.last.elapsed());
    timeline.say(&tally.to_string());
    if let Some(to) = &options.to {
        site.roll(options, to, &crew, timeline, bound, &mut tally)?;
        tally.rollout_boots(&crew.take());
        let (machines, to) = (site.machines()?, site.digest(to)?);
        tally.outcome = Some(Outcome::of(&machines, |mac| fates.of(mac, to).is_some()));
        let most = record::most_in_flight(&site.log()?, &site.boots(&machines)?, &machines, to);
        tally.by_record(most, options.in_flight)?;
        timeline.say(&tally.to_string());
    }
    Ok(tally)
}

/// How many machines of a rollout are how far, and one of each that is not over.
fn phases(machines: &[Machine]) -> String {
    let mut of: BTreeMap<Phase, (u32, Option<&Machine>)> = BTreeMap::new();
    for machine in machines {
        if let Some(part) = &machine.part {
            let (count, one) = of.entry(part.phase).or_default();
            *count += 1;
            *one = one.or((!part.phase.is_over()).then_some(machine));
        }
    }
    let shown = of.iter().map(|(phase, (count, one))| match one {
        Some(machine) => format!("{count} {phase}, as {}", machine.mac),
        None => format!("{count} {phase}"),
    });
    shown.collect::<Vec<_>>().join("; ")
}

/// The service is killed and started again so often, spread over what machines do: the n-th time where n of all
/// parts of them are through.
struct Kills<'a> {
    wanted: u32,
    machines: u32,
    made: u32,
    /// Machines that were booting at a kill: the fewest.
    amid: usize,
    /// When it was started last.
    last: Instant,
    timeline: &'a Timeline,
}

impl Kills<'_> {
    fn new(wanted: u32, machines: u32, timeline: &Timeline) -> Kills<'_> {
        Kills { wanted, machines, made: 0, amid: usize::MAX, last: Instant::now(), timeline }
    }

    /// One kill where it is due with so many machines through; true where it was.
    fn where_due(&mut self, through: usize, crew: &Crew, site: &mut Site) -> Result<bool, LabError> {
        let due = through as u64 * (u64::from(self.wanted) + 1) / u64::from(self.machines.max(1));
        let is_due = u64::from(self.made) < due.min(self.wanted.into());
        if is_due {
            self.amid = self.amid.min(crew.running());
            site.service.kill();
            site.service.run(&site.server)?;
            (self.made, self.last) = (self.made + 1, Instant::now());
            self.timeline.say(&format!(
                "The service was killed and started again ({} of {}).",
                self.made, self.wanted
            ));
        }
        Ok(is_due)
    }
}

/// How long the whole may take.
#[derive(Clone, Copy)]
struct Bound {
    end: Instant,
    of: Duration,
}

impl Bound {
    fn from_now(of: Duration) -> Bound {
        Bound { end: Instant::now() + of, of }
    }

    /// Waits a moment; an error that says what for, once the time is up.
    fn step(self, what: impl FnOnce() -> String) -> Result<(), LabError> {
        interrupt::check()?;
        if Instant::now() > self.end {
            return Err(LabError::Late { what: what(), bound: self.of });
        }
        // Not parked: threads that end in between would wake it.
        std::thread::sleep(interrupt::STEP);
        Ok(())
    }
}

/// Locally administered addresses.
fn mac_of(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    Mac([0x02, 0xf1, a, b, c, d])
}

/// Server and fleet, each in its namespace.
struct Site {
    service: Service,
    server: Host,
    fleet: Host,
    client: Client,
}

impl Site {
    fn up(options: &Options) -> Result<Site, LabError> {
        let net = Net::new()?;
        let server = net.host("server", SERVER_CIDR)?;
        let fleet = net.host("fleet", GATEWAY_CIDR)?;
        // Every address of the fleet is this host's own; the server reaches all by one route, and so
        // needs no table of ten thousand neighbours.
        let route = |host: &Host, words: &[&str]| {
            let mut command = host.command("ip");
            command.args(["route", "add"]).args(words);
            succeed(command, TOOL).map(drop)
        };
        route(&fleet, &["local", FLEET, "dev", "lo"])?;
        route(&server, &[FLEET, "via", GATEWAY])?;
        let extra = format!(
            "fallback_after = 2\n[dhcp]\nprobe = false\n[bounds]\nhttp_connections = 8192\nscripts_per_minute = 600\n\
             dhcp_in_work = 4096\n[[subnet]]\nnetwork = \"{FLEET}\"\npools = [\"198.19.1.0-198.19.255.250\"]\nrouters = [\"{RELAY}\"]\n"
        );
        let settings = Settings { extra, ..options.settings.clone() };
        let service = Service::start(&server, settings)?;
        let token = options.settings.state.join("api-token");
        let client = Client::new(API, &token).map_err(|e| LabError::Other(e.to_string()))?;
        Ok(Site { service, server, fleet, client })
    }

    fn cli(&self, words: &[&str]) -> Result<String, LabError> {
        self.service.cli(&self.server, words)
    }

    /// Asks the API, which listens on the server's loopback; again where the service was just killed.
    fn ask<T: Send>(
        &self,
        ask: impl Fn(&Client) -> Result<T, crate::client::ClientError> + Sync,
    ) -> Result<T, LabError> {
        let asked = self.server.enter(|| ask(&self.client))?;
        asked.map_err(|e| LabError::Other(e.to_string()))
    }

    fn machines(&self) -> Result<Vec<Machine>, LabError> {
        self.ask(|client| client.machines(None))
    }

    /// The audit log from its first record on, after the service has walked along its chain.
    fn log(&self) -> Result<Vec<AuditRecord>, LabError> {
        let verified = self.ask(|client| client.verify_log(None))?;
        if let Some(broken) = verified.broken {
            return Err(LabError::Other(format!(
                "the audit log is broken at {}: {}",
                broken.seq, broken.why
            )));
        }
        let mut all: Vec<AuditRecord> = Vec::new();
        loop {
            let after = Some(all.last().map_or(0, |record| record.seq));
            let query = LogQuery { after, limit: 10_000, ..LogQuery::default() };
            let page = self.ask(|client| client.log(None, &query))?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page.into_iter().map(|entry| entry.record));
        }
    }

    /// Every boot that the service has on record of these machines. Asked for by machine: an answer about all has a limit.
    fn boots(&self, machines: &[Machine]) -> Result<Vec<BootAttempt>, LabError> {
        self.ask(|client| {
            let of = |m: &Machine| client.attempts(Some(&m.mac.to_string()), ATTEMPTS);
            let all: Vec<_> = machines.iter().map(of).collect::<Result<_, _>>()?;
            Ok(all.concat())
        })
    }

    fn digest(&self, tag: &Tag) -> Result<Digest, LabError> {
        let text = self.cli(&["image", "show", &tag.to_string(), "--json"])?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| LabError::Other(format!("image show: {e}")))?;
        let digest = value.get("digest").and_then(|d| d.as_str()).and_then(|d| d.parse().ok());
        digest.ok_or_else(|| LabError::Other(format!("image show {tag} names no digest")))
    }

    /// Names every machine and puts it into its rack. Several at once: each waits for the disk.
    fn register(&self, options: &Options, fleet: &[Mac]) -> Result<(), LabError> {
        let one = |mac: &Mac, n: usize| {
            let rack = n % options.racks.max(1) as usize;
            let patch = MachinePatch {
                hostname: Some(Some(format!("sim-{n}"))),
                rack: Some(Some(format!("r{rack}"))),
                ..MachinePatch::default()
            };
            self.client.set_machine(&mac.to_string(), &patch)
        };
        let numbered: Vec<(usize, &Mac)> = fleet.iter().enumerate().collect();
        let shares: Vec<&[(usize, &Mac)]> = numbered.chunks(numbered.len().div_ceil(16).max(1)).collect();
        self.server.enter(|| {
            std::thread::scope(|scope| {
                let workers: Vec<_> = shares
                    .into_iter()
                    .map(|share| {
                        scope.spawn(move || share.iter().try_for_each(|(n, mac)| one(mac, *n).map(drop)))
                    })
                    .collect();
                workers.into_iter().try_for_each(|worker| match worker.join() {
                    Ok(done) => done.map_err(|e| LabError::Other(e.to_string())),
                    Err(panic) => std::panic::resume_unwind(panic),
                })
            })
        })?
    }

    /// A rollout to `to`; its machines are power-cycled as an operator's script would, by what the API
    /// says. The service is killed in between.
    fn roll(
        &mut self,
        options: &Options,
        to: &Tag,
        crew: &Crew,
        timeline: &Timeline,
        bound: Bound,
        tally: &mut Tally,
    ) -> Result<(), LabError> {
        let (in_all, per_rack) = options.in_flight;
        let limits = Limits {
            in_flight: in_all,
            in_flight_per_rack: per_rack,
            max_failed: options.machines,
            deadline_seconds: u32::try_from(options.deadline.as_secs()).unwrap_or(u32::MAX),
            soak_seconds: 1,
        };
        let waves = ["1", "10%", "rest"].map(str::to_owned).to_vec();
        let start = StartRollout {
            name: Some(ROLLOUT.to_owned()),
            selector: "rack=r*".into(),
            to: to.to_string(),
            waves,
            limits,
            ..StartRollout::default()
        };
        self.ask(|client| client.start_rollout(&start))?;
        timeline.say(&format!("A rollout to {to}: 1, 10%, rest; {in_all} in flight, {per_rack} of a rack."));
        let began = Instant::now();
        let mut cycled: BTreeMap<Mac, (Phase, i64)> = BTreeMap::new();
        let mut kills = Kills::new(options.kills, options.machines, timeline);
        loop {
            let machines = self.machines()?;
            bound.step(|| {
                format!("the rollout to end ({} machines boot; {})", crew.running(), phases(&machines))
            })?;
            tally.look(&machines, options.in_flight)?;
            for machine in &machines {
                let Some(part) = &machine.part else { continue };
                let now = (part.phase, part.since);
                // Moved: to begin it. Failed: it hangs, and has its old image back.
                if matches!(part.phase, Phase::Moved | Phase::Failed)
                    && cycled.get(&machine.mac) != Some(&now)
                {
                    cycled.insert(machine.mac, now);
                    crew.power_cycle(machine.mac);
                }
            }
            let over = machines.iter().filter_map(|m| m.part.as_ref()).filter(|p| p.phase.is_over()).count();
            if kills.where_due(over, crew, self)? {
                continue;
            }
            let view: RolloutView = self.ask(|client| client.rollout(ROLLOUT))?;
            match view.rollout.state {
                RolloutState::Running => {}
                RolloutState::Done if crew.running() == 0 => {
                    tally.rollout(began.elapsed());
                    tally.killed(kills.made, kills.amid, kills.last.elapsed());
                    return Ok(());
                }
                RolloutState::Done => {}
                state => {
                    return Err(LabError::Other(format!("the rollout is {state}: {}", view.rollout.why)));
                }
            }
        }
    }
}
