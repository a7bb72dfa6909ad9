#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
use super::*;
use crate::{
    fleet::{Next, Wanted, reboots},
    model::Reboot,
};
use proptest::prelude::*;

const START: Millis = 1_000_000_000;

fn to() -> Digest {
    Digest::of(b"new")
}

/// A machine of the world that a rollout is tried on.
#[derive(Clone, Debug)]
struct Server {
    mac: Mac,
    rack: Option<String>,
    part: Membership,
    pinned: bool,
    boot: Option<Boot>,
    remote: bool,
    reboot: Option<Reboot>,
}

struct World {
    rollout: Rollout,
    servers: Vec<Server>,
    now: Millis,
}

impl World {
    fn new(racks: &[u8], waves: &[Wave], limits: Limits) -> World {
        let machines = racks
            .iter()
            .zip(0_u8..)
            .map(|(rack, n)| (Mac([2, 0, 0, 0, *rack, n]), (*rack > 0).then(|| format!("r{rack}"))));
        let machines: Vec<_> = machines.collect();
        let waves = sizes(waves, u32::try_from(machines.len()).unwrap()).unwrap();
        let of_wave = waves.iter().zip(0_u32..).flat_map(|(size, wave)| (0..*size).map(move |_| wave));
        let rack_of: HashMap<Mac, Option<String>> = machines.iter().cloned().collect();
        let order = spread(machines.iter().map(|(mac, rack)| (*mac, rack.as_deref())).collect());
        let servers = order.into_iter().zip(of_wave).map(|(mac, wave)| Server {
            mac,
            rack: rack_of[&mac].clone(),
            part: Membership {
                rollout: "web-2".into(),
                wave,
                phase: Phase::Waiting,
                since: START,
                restarts: 0,
                before: None,
                reason: None,
            },
            pinned: false,
            boot: None,
            remote: false,
            reboot: None,
        });
        let servers: Vec<_> = servers.collect();
        let rollout = Rollout {
            name: "web-2".into(),
            to: to(),
            selector: "all".into(),
            waves,
            limits,
            windows: Vec::new(),
            hold: false,
            on_failure: OnFailure::Halt,
            state: RolloutState::Running,
            why: String::new(),
            wave: 0,
            created: START,
            changed: START,
        };
        World { rollout, servers, now: START }
    }

    fn step(&mut self) -> Plan {
        let members: Vec<Member<'_>> = self
            .servers
            .iter()
            .map(|s| Member {
                mac: s.mac,
                rack: s.rack.as_deref(),
                part: &s.part,
                pinned: s.pinned,
                boot: s.boot.clone(),
                remote: s.remote,
                gave_up: s.reboot.as_ref().and_then(|r| r.gave_up.as_deref()),
            })
            .collect();
        let plan = plan(&self.rollout, &members, self.now);
        for step in &plan.steps {
            let server = self.servers.iter_mut().find(|s| s.mac == step.mac).unwrap();
            server.part.phase = step.phase;
            server.part.restarts = step.restarts;
            server.part.since = self.now;
            server.part.reason = step.reason.clone();
            server.reboot = step.reboot.then(|| Reboot::wanted(self.now));
        }
        if let Some(turn) = &plan.turn {
            (self.rollout.state, self.rollout.wave) = (turn.state, turn.wave);
            self.rollout.why = turn.why.clone();
        }
        plan
    }

    fn boot(&mut self, n: usize, image: Digest, healthy: bool) {
        self.now += 1_000;
        let outcome = if healthy { "healthy" } else { "stuck after init" };
        self.servers[n].boot =
            Some(Boot { image: Some(image), at: self.now, healthy, outcome: outcome.into() });
    }

    /// Machines whose BMCs are to be asked now.
    fn orders(&mut self) -> Vec<usize> {
        let wanted: Vec<Wanted<'_>> = self
            .servers
            .iter()
            .filter_map(|s| {
                let reboot = s.reboot.as_ref()?;
                let rollout = Some(("web-2", &self.rollout.limits));
                let script = s.boot.as_ref().map(|b| b.at);
                let (mac, rack) = (s.mac, s.rack.as_deref());
                Some(Wanted { mac, rack, reboot, rollout, began: script, script, asking: false })
            })
            .collect();
        let todo = reboots(&wanted, self.now);
        let mut orders = Vec::new();
        for (mac, next) in todo {
            let n = self.servers.iter().position(|s| s.mac == mac).unwrap();
            let reboot = &mut self.servers[n].reboot;
            match next {
                Next::Met => *reboot = None,
                Next::GiveUp(why) => reboot.as_mut().unwrap().gave_up = Some(why),
                Next::Order => {
                    let reboot = reboot.as_mut().unwrap();
                    (reboot.last, reboot.error, reboot.taken) = (Some(self.now), None, reboot.taken + 1);
                    orders.push(n);
                }
            }
        }
        orders
    }

    fn phases(&self) -> Vec<Phase> {
        self.servers.iter().map(|s| s.part.phase).collect()
    }

    /// Every machine that was moved boots, well or not.
    fn all_boot(&mut self, healthy: bool) {
        for n in 0..self.servers.len() {
            if self.servers[n].part.phase == Phase::Moved {
                self.boot(n, to(), healthy);
            }
        }
    }
}

fn limits() -> Limits {
    Limits { deadline_seconds: 600, soak_seconds: 60, ..Limits::default() }
}

#[test]
fn waves_are_counted_and_must_take_everybody() {
    let waves = |text: &[&str]| text.iter().map(|w| w.parse::<Wave>().unwrap()).collect::<Vec<_>>();
    assert_eq!(sizes(&waves(&["1", "10%", "rest"]), 25).unwrap(), [1, 3, 21]);
    assert_eq!(sizes(&waves(&["5", "rest"]), 3).unwrap(), [3]);
    assert!(sizes(&waves(&["1", "10%"]), 25).unwrap_err().contains("4 of 25"));
    for bad in ["0", "0%", "101%", "-1", "some", "", "1.5"] {
        assert!(bad.parse::<Wave>().unwrap_err().contains("is no wave"), "{bad}");
    }
}

#[test]
fn a_wave_takes_one_of_each_rack_before_a_second_of_any() {
    let mac = |rack: u8, n: u8| Mac([2, 0, 0, 0, rack, n]);
    let all = [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2)];
    let names = ["r0", "r1", "r2", "r3"];
    let machines = all.iter().map(|(r, n)| (mac(*r, *n), Some(names[usize::from(*r)]))).collect();
    let order: Vec<u8> = spread(machines).iter().map(|m| m.0[4]).collect();
    assert_eq!(order, [1, 2, 3, 1, 3, 1]);
}

#[test]
fn a_good_version_passes_through_all_waves() {
    let mut w = World::new(&[1, 1, 2, 2], &[Wave::Count(1), Wave::Rest], limits());
    w.step();
    assert_eq!(w.phases(), [Phase::Moved, Phase::Waiting, Phase::Waiting, Phase::Waiting]);
    assert_eq!(w.step(), Plan::default(), "it waits for the power-on, however long");
    w.boot(0, to(), false);
    w.step();
    assert_eq!(w.phases()[0], Phase::Booting);
    w.servers[0].boot.as_mut().unwrap().healthy = true;
    w.step();
    assert_eq!(w.phases()[0], Phase::Soaking);
    w.now += 59_000;
    assert_eq!(w.step(), Plan::default());
    w.now += 1_000;
    w.step();
    assert_eq!((w.phases()[0], w.rollout.wave), (Phase::Done, 1));
    w.step();
    assert!(w.phases()[1..].iter().all(|p| *p == Phase::Moved));
    w.all_boot(true);
    for _ in 0..4 {
        w.step();
        w.now += 60_000;
    }
    assert_eq!(w.rollout.state, RolloutState::Done);
    assert_eq!(w.rollout.why, "4 machines run the image");
}

#[test]
fn a_bad_version_halts_after_the_first_wave_and_moves_nobody_else() {
    let mut w = World::new(&[1, 2, 3], &[Wave::Count(1), Wave::Rest], limits());
    w.step();
    w.boot(0, to(), false);
    w.step();
    w.now += 600_000;
    w.step();
    assert_eq!(w.phases(), [Phase::Failed, Phase::Waiting, Phase::Waiting]);
    assert_eq!(
        (w.rollout.state, w.rollout.why.as_str()),
        (RolloutState::Halted, "1 machine failed, and 0 may")
    );
    let reason = w.servers[0].part.reason.as_deref().unwrap();
    assert_eq!(reason, "not healthy within 600 s of its first boot: stuck after init");
    w.rollout.state = RolloutState::Running;
    w.step();
    assert_eq!(w.rollout.state, RolloutState::Halted, "going on needs another budget");
    w.rollout.limits.max_failed = 1;
    w.rollout.state = RolloutState::Running;
    w.step();
    assert_eq!((w.rollout.state, w.rollout.wave), (RolloutState::Running, 1));
}

#[test]
fn by_policy_all_that_was_moved_gets_back_what_it_had() {
    let mut w = World::new(&[1, 2, 3], &[Wave::Rest], limits());
    w.rollout.on_failure = OnFailure::RollBack;
    w.step();
    w.boot(0, to(), true);
    w.boot(1, to(), false);
    w.step();
    w.boot(1, Digest::of(b"old"), true);
    w.step();
    assert_eq!(w.phases(), [Phase::Returned, Phase::Failed, Phase::Returned]);
    assert_eq!(w.rollout.state, RolloutState::RolledBack);
    let reason = w.servers[1].part.reason.as_deref().unwrap();
    assert!(reason.starts_with("it booted image ") && reason.ends_with(" instead"), "{reason}");
    assert_eq!(w.step(), Plan::default());
}

#[test]
fn healthy_means_still_healthy_after_the_soak_time() {
    let mut w = World::new(&[1], &[Wave::Rest], limits());
    w.step();
    for restarts in 0..3 {
        w.boot(0, to(), true);
        for _ in 0..3 {
            w.now += 1_000;
            w.step();
        }
        assert_eq!((w.phases()[0], w.servers[0].part.restarts), (Phase::Soaking, restarts));
    }
    w.boot(0, to(), true);
    w.step();
    assert_eq!(w.phases(), [Phase::Failed]);
    assert_eq!(w.servers[0].part.reason.as_deref(), Some("it restarted 3 times while it was watched"));
}

#[test]
fn a_pinned_machine_leaves_and_nobody_waits_for_it() {
    let mut w = World::new(&[1, 1], &[Wave::Count(1), Wave::Rest], limits());
    w.step();
    w.servers[0].pinned = true;
    w.step();
    assert_eq!((w.phases()[0], w.rollout.wave), (Phase::Left, 1));
}

#[test]
fn it_waits_between_waves_where_it_is_told_to_and_moves_only_in_its_window() {
    let mut w = World::new(&[1, 1], &[Wave::Count(1), Wave::Rest], limits());
    w.rollout.hold = true;
    w.rollout.windows = vec![window::parse_window("00:00-01:00").unwrap()];
    w.now = 20_000 * 86_400_000 + 2 * 3_600_000;
    assert_eq!(w.step(), Plan::default());
    w.now += 22 * 3_600_000;
    w.step();
    w.boot(0, to(), true);
    for _ in 0..4 {
        w.step();
        w.now += 60_000;
    }
    assert_eq!((w.rollout.state, w.rollout.wave), (RolloutState::Paused, 0));
    assert_eq!(w.rollout.why, "wave 1 is through: promote it, or abort");
}

proptest! {
    /// Machines that their BMCs reboot get there without anybody touching them, whatever a part of the BMCs
    /// does: refuse, lie, or reboot twice. None is ordered more often than may be, what is rolled back is
    /// rebooted too, and never are more on their way than the limit says.
    #[test]
    fn bmcs_bring_everybody_there_or_fail_their_own_machine(
        racks in prop::collection::vec(0_u8..4, 1..16),
        in_flight in 0_u32..4,
        max_failed in 0_u32..4,
        back in any::<bool>(),
        bmcs in prop::collection::vec(0_u8..8, 16),
        broken in any::<bool>(),
    ) {
        let limits = Limits { max_failed, in_flight, ..limits() };
        let mut w = World::new(&racks, &[Wave::Count(2), Wave::Rest], limits);
        if back {
            w.rollout.on_failure = OnFailure::RollBack;
        }
        w.servers.iter_mut().for_each(|s| s.remote = true);
        let bmcs: Vec<u8> = bmcs.into_iter().cycle().take(w.servers.len()).collect();
        let mut orders = vec![0; w.servers.len()];
        for _ in 0..1_500 {
            w.step();
            for n in w.orders() {
                orders[n] += 1;
                let reboot = w.servers[n].reboot.as_mut().unwrap();
                match bmcs[n] {
                    0 => {
                        reboot.taken -= 1;
                        reboot.failed += 1;
                        reboot.error = Some("503".into());
                    }
                    1 => {}
                    // The first order is lost.
                    2 if orders[n] == 1 => {}
                    _ => {
                        let image = if w.servers[n].part.phase.is_moved() { to() } else { Digest::of(b"old") };
                        w.boot(n, image, !broken || image != to());
                    }
                }
            }
            let out = w.servers.iter().filter(|s| s.reboot.as_ref().is_some_and(|r| r.last.is_some() && r.gave_up.is_none()));
            let out = out.filter(|s| s.boot.as_ref().is_none_or(|b| b.at <= s.reboot.as_ref().unwrap().since)).count();
            prop_assert!(in_flight == 0 || out <= in_flight as usize, "{out} on their way");
            w.now += 60_000;
        }
        for (server, (bmc, orders)) in w.servers.iter().zip(bmcs.iter().zip(&orders)) {
            let most = match bmc { 0 => 6, 1 => 3, 2 => 3, _ => 2 };
            prop_assert!(*orders <= most, "{orders} orders to BMC {bmc}");
            let waits = server.reboot.as_ref().is_some_and(|r| r.gave_up.is_none());
            prop_assert!(!waits, "it is still wanted: {server:?}");
            if server.part.phase == Phase::Returned {
                let runs = server.boot.as_ref().is_some_and(|b| b.image == Some(to()));
                prop_assert!(!runs, "it has back what it had, and runs the image: {server:?}");
            }
        }
        let bad = bmcs.iter().filter(|b| **b < 2).count();
        match w.rollout.state {
            RolloutState::Done => prop_assert!(bad <= max_failed as usize && !broken || w.servers.len() <= max_failed as usize),
            RolloutState::Halted | RolloutState::RolledBack => prop_assert!(broken || bad > max_failed as usize),
            other => prop_assert!(false, "it never ends: {other:?} {:?}", w.phases()),
        }
    }

    /// Whatever machines do, and whenever the service is killed and looks again: the limits hold, nobody is
    /// moved out of turn or after too many failures, and where nothing fails all get there.
    #[test]
    fn limits_hold_whatever_machines_do(
        racks in prop::collection::vec(0_u8..5, 1..40),
        in_flight in 0_u32..6,
        per_rack in 0_u32..4,
        max_failed in 0_u32..4,
        back in any::<bool>(),
        fates in prop::collection::vec(any::<u8>(), 400),
        bad in 0_u8..60,
    ) {
        let limits = Limits { max_failed, in_flight, in_flight_per_rack: per_rack, ..limits() };
        let mut w = World::new(&racks, &[Wave::Count(2), Wave::Percent(30), Wave::Rest], limits);
        if back {
            w.rollout.on_failure = OnFailure::RollBack;
        }
        let mut fates = fates.into_iter().cycle();
        for _ in 0..2_000 {
            let before: Vec<Membership> = w.servers.iter().map(|s| s.part.clone()).collect();
            let failed = before.iter().filter(|p| p.phase == Phase::Failed).count();
            let plan = w.step();
            let moving = plan.steps.iter().filter(|s| s.phase == Phase::Moved).count();
            prop_assert!(moving == 0 || failed <= max_failed as usize);
            let flying: Vec<&Server> = w.servers.iter().filter(|s| s.part.phase.is_in_flight()).collect();
            if in_flight > 0 {
                prop_assert!(flying.len() <= in_flight as usize || moving == 0);
            }
            for rack in 0..5_u8 {
                let rack = (rack > 0).then(|| format!("r{rack}"));
                let here = flying.iter().filter(|s| s.rack == rack).count();
                let more = plan.steps.iter().any(|s| {
                    s.phase == Phase::Moved && w.servers.iter().any(|m| m.mac == s.mac && m.rack == rack)
                });
                prop_assert!(per_rack == 0 || here <= per_rack as usize || !more);
            }
            for server in &w.servers {
                prop_assert!(server.part.phase == Phase::Waiting || server.part.wave <= w.rollout.wave);
            }
            if !w.rollout.state.is_open() || w.rollout.state == RolloutState::Halted {
                break;
            }
            w.now += 30_000;
            for n in 0..w.servers.len() {
                let fate = fates.next().unwrap();
                match w.servers[n].part.phase {
                    Phase::Moved if fate > 100 => {
                        let image = if fate % 60 < bad / 6 { Digest::of(b"old") } else { to() };
                        w.boot(n, image, fate % 60 >= bad);
                    }
                    Phase::Booting if fate % 60 >= bad => {
                        w.servers[n].boot.as_mut().unwrap().healthy = true;
                    }
                    Phase::Soaking if fate % 60 < bad / 10 => w.boot(n, to(), true),
                    _ => {}
                }
            }
        }
        let failed = w.phases().iter().filter(|p| **p == Phase::Failed).count();
        match w.rollout.state {
            RolloutState::Done => prop_assert!(failed <= max_failed as usize),
            RolloutState::Halted => prop_assert!(failed > max_failed as usize && !back),
            RolloutState::RolledBack => {
                prop_assert!(failed > max_failed as usize && !w.phases().iter().any(|p| p.is_moved()));
            }
            other => prop_assert!(false, "it never ends: {other:?} {:?}", w.phases()),
        }
        if bad == 0 {
            prop_assert!(w.phases().iter().all(|p| *p == Phase::Done));
        }
    }
}
