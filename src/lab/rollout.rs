//! What `make demo-rollout` shows, and proves: a rollout to a broken image stops after its first wave, the
//! machine that it hit comes back by itself, and a good version then reaches every machine.

use super::{Firmware, Lab, LabError, Settings, Spec, Vm, copy_images, qemu::accel, show::Timeline};
use crate::model::{BootAttempt, Digest, Phase, Rule, Verdict, wire::RolloutView};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

/// From power-on to healthy; three machines share the processor. A broken image restarts twice first.
const BOOT: Duration = Duration::from_secs(600);
/// Until the service, which looks once a second, has seen what happened.
const SEEN: Duration = Duration::from_secs(60);
const MACHINES: u8 = 3;

/// What the demonstration needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to run the service.
    pub settings: Settings,
    /// State folder with the images tiny:1, tiny:2 and tiny:broken.
    pub images: PathBuf,
}

/// Runs it all. The first claim that doesn't hold is an error.
pub fn run(options: &Options) -> Result<(), LabError> {
    let timeline = Timeline::default();
    timeline.say(&format!("Machines run under {}.", accel()));
    let settings = Settings { extra: "fallback_after = 2".into(), ..options.settings.clone() };
    copy_images(&options.images, &settings.state)?;
    let lab = Lab::up(settings, timeline.printer())?;
    timeline
        .say("The images are tiny:1, tiny:2, and tiny:broken, whose userland restarts before it is healthy.");
    lab.cli(&["default", "tiny:1"])?;
    let demo = Demo { lab: &lab, timeline };

    demo.step(&format!("{MACHINES} servers in {MACHINES} racks power on. The site's default is tiny:1."));
    let mut servers = Vec::new();
    for n in 1..=MACHINES {
        let spec = Spec { name: format!("web-{n}"), ..Spec::new(n, Firmware::Bios) };
        demo.timeline.name(spec.mac, &spec.name);
        let (mac, rack) = (spec.mac.to_string(), format!("a{n}"));
        lab.cli(&["machine", "set", &mac, "--hostname", &spec.name, "--rack", &rack])?;
        servers.push(lab.power_on(spec)?);
    }
    for server in &servers {
        demo.healthy(server, &BTreeSet::new(), "tiny:1")?;
    }

    demo.step("A rollout to tiny:broken begins: one server, then the rest. The first one is power-cycled.");
    demo.start("tiny:broken", "bad")?;
    let first = demo.moved(&servers, "bad")?;
    let before = demo.reset(&mut servers, &first)?;
    demo.step("It restarts, again and again, until the service gives it its last good image by itself.");
    for n in &first {
        let Some(server) = servers.get(*n) else { continue };
        let back = demo.healthy(server, &before, "tiny:1")?;
        if back.rule != Some(Rule::Fallback) {
            return Err(LabError::Other(format!(
                "it should have come back by itself, not by {:?}",
                back.rule
            )));
        }
    }
    let halted = demo.until("bad", "halted", |r| r.rollout.state.to_string() == "halted")?;
    if count(&halted, Phase::Waiting) != u32::from(MACHINES) - 1 {
        return Err(LabError::Other("a server was moved after the first one failed".into()));
    }
    println!("\n{}", lab.cli(&["rollout", "show", "bad"])?);
    println!(
        "{}",
        lab.cli(&["status"])?.lines().filter(|l| l.starts_with("ALARM")).collect::<Vec<_>>().join("\n")
    );
    lab.cli(&["rollout", "abort", "bad"])?;

    demo.step("A good version, tiny:2, passes through both waves.");
    demo.start("tiny:2", "good")?;
    for wave in 1..=2 {
        let moved = demo.moved(&servers, "good")?;
        let before = demo.reset(&mut servers, &moved)?;
        for n in &moved {
            let Some(server) = servers.get(*n) else { continue };
            demo.healthy(server, &before, "tiny:2")?;
        }
        demo.until("good", "through its wave", |r| {
            r.rollout.state.to_string() == "done" || r.rollout.wave >= wave
        })?;
    }
    let done = demo.until("good", "done", |r| r.rollout.state.to_string() == "done")?;
    if count(&done, Phase::Done) != u32::from(MACHINES) {
        return Err(LabError::Other("not every server runs tiny:2".into()));
    }
    println!("\n{}", lab.cli(&["rollout", "show", "good"])?);
    println!("Every claim above was checked on the machines. Consoles: {}", lab.logs().display());
    drop(servers);
    lab.down()
}

fn count(view: &RolloutView, phase: Phase) -> u32 {
    view.phases.iter().filter_map(|wave| wave.get(&phase)).sum()
}

struct Demo<'a> {
    lab: &'a Lab,
    timeline: Timeline,
}

impl Demo<'_> {
    fn step(&self, text: &str) {
        println!();
        self.timeline.say(text);
    }

    fn start(&self, image: &str, name: &str) -> Result<(), LabError> {
        let words = ["rollout", "start", "--select", "rack=a*", "--to", image, "--name", name];
        let pace = ["--wave", "1", "--wave", "rest", "--deadline", "10m", "--soak", "2s"];
        self.lab.cli(&[&words[..], &pace].concat()).map(drop)
    }

    fn show(&self, name: &str) -> Result<RolloutView, LabError> {
        self.json(&["rollout", "show", name])
    }

    fn json<T: serde::de::DeserializeOwned>(&self, words: &[&str]) -> Result<T, LabError> {
        let text = self.lab.cli(&[words, &["--json"]].concat())?;
        serde_json::from_str(&text).map_err(|e| LabError::Other(format!("{}: {e}", words.join(" "))))
    }

    /// Waits until a rollout is as wanted.
    fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&RolloutView) -> bool,
    ) -> Result<RolloutView, LabError> {
        let end = Instant::now() + SEEN;
        loop {
            let view = self.show(name)?;
            if wanted(&view) {
                return Ok(view);
            }
            if Instant::now() > end {
                let what =
                    format!("rollout {name} is not {what}: {} ({})", view.rollout.state, view.rollout.why);
                return Err(LabError::Late { what, bound: SEEN });
            }
            super::interrupt::check()?;
            std::thread::park_timeout(super::interrupt::STEP);
        }
    }

    /// The servers that a rollout has re-pointed and that were not rebooted since.
    fn moved(&self, servers: &[Vm], rollout: &str) -> Result<Vec<usize>, LabError> {
        self.until(rollout, "moving", |r| count(r, Phase::Moved) > 0)?;
        let machines: Vec<crate::model::Machine> = self.json(&["machine", "list"])?;
        let moved = |vm: &Vm| {
            let machine = machines.iter().find(|m| m.mac == vm.spec().mac);
            machine
                .and_then(|m| m.part.as_ref())
                .is_some_and(|p| p.rollout == rollout && p.phase == Phase::Moved)
        };
        Ok(servers.iter().enumerate().filter(|(_, vm)| moved(vm)).map(|(n, _)| n).collect())
    }

    /// Power-cycles these servers; the boots of all before that.
    fn reset(
        &self,
        servers: &mut [Vm],
        which: &[usize],
    ) -> Result<BTreeSet<crate::model::AttemptId>, LabError> {
        let before = self.lab.follow().all().into_iter().map(|a| a.id).collect();
        for n in which {
            if let Some(server) = servers.get_mut(*n) {
                self.timeline.say(&format!("  {:<12} is power-cycled", server.spec().name));
                server.reset()?;
            }
        }
        Ok(before)
    }

    /// Waits for a healthy boot of that image.
    fn healthy(
        &self,
        server: &Vm,
        before: &BTreeSet<crate::model::AttemptId>,
        tag: &str,
    ) -> Result<BootAttempt, LabError> {
        let image: serde_json::Value = self.json(&["image", "show", tag])?;
        let wanted: Option<Digest> =
            image.get("digest").and_then(|d| d.as_str()).and_then(|d| d.parse().ok());
        let found = self.lab.follow().wait(
            server.spec().mac,
            before,
            &format!("a healthy boot of {tag}"),
            BOOT,
            |a| (a.verdict == Verdict::Healthy && a.image == wanted).then(|| a.clone()),
        );
        found.map_err(|e| {
            LabError::Other(format!("{e}\nIts console ends with:\n{}", server.console().tail(40)))
        })
    }
}
