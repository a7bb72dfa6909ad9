//! What `make demo` shows, and proves: two real servers boot a real Debian, forget what was written,
//! are upgraded by one re-pointing and rolled back by another.

use super::{
    Firmware, Lab, LabError, Settings, Shell, Vm,
    follow::table,
    qemu::{Spec, accel},
    show::Timeline,
    site::copy_images,
};
use crate::model::BootAttempt;
use std::{path::PathBuf, time::Duration};

/// From power-on to healthy; a Debian under TCG takes two minutes, and machines share the processor.
pub const BOOT: Duration = Duration::from_secs(600);
/// A shell, once the machine is healthy.
const LOGIN: Duration = Duration::from_secs(180);
/// One short command.
const COMMAND: Duration = Duration::from_secs(60);
/// Memory of a machine that keeps a Debian root in it, in MiB.
const MEMORY: u32 = 2048;
/// The two versions: the second has one more package.
const V1: &str = "debian:1";
const V2: &str = "debian:2";
/// Says what runs: the image's own word for itself, and its package.
const WHAT_RUNS: &str =
    "cat /etc/pristine-image; command -v jq >/dev/null && echo with jq || echo without jq";
/// What is written, and must be gone.
const PRECIOUS: &str = "/root/precious";

/// What the demonstration needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to run the service.
    pub settings: Settings,
    /// State folder with the images debian:1 and debian:2.
    pub images: PathBuf,
}

/// A machine of the demonstration and its boots so far.
struct Server {
    vm: Vm,
    boots: Vec<BootAttempt>,
}

/// Runs it all. The first claim that doesn't hold is an error.
pub fn run(options: &Options) -> Result<(), LabError> {
    let timeline = Timeline::default();
    timeline.say(&format!("Machines run under {}.", accel()));
    copy_images(&options.images, &options.settings.state)?;
    let lab = Lab::up(options.settings.clone(), timeline.printer())?;
    lab.cli(&["default", V1])?;
    let mut demo = Demo { lab: &lab, timeline, rows: Vec::new() };

    demo.step(&format!("Two servers power on: one BIOS, one UEFI. The site's default is {V1}."));
    let specs = [Firmware::Bios, Firmware::UefiPxe].map(|f| Spec { memory: MEMORY, ..Spec::new(0, f) });
    let mut servers = Vec::new();
    for (n, spec) in (1u8..).zip(specs) {
        let mut spec = Spec { mac: Spec::new(n, spec.firmware).mac, ..spec };
        spec.name = if spec.firmware == Firmware::Bios { "bios".into() } else { "uefi".into() };
        demo.timeline.name(spec.mac, &spec.name);
        servers.push(Server { vm: lab.power_on(spec)?, boots: Vec::new() });
    }
    demo.up(&mut servers, &[V1, V1])?;

    demo.step(&format!("A file is written in each root: {PRECIOUS}"));
    for server in &servers {
        let mut shell = Shell::open(server.vm.console(), LOGIN)?;
        shell.run(&format!("echo kept? > {PRECIOUS} && sync && ls -l {PRECIOUS}"), COMMAND)?;
    }
    demo.step("Both reboot: whatever was written is gone.");
    demo.reboot(&mut servers, &[V1, V1])?;

    demo.step(&format!("The BIOS server is re-pointed to {V2}. The next reboot is the upgrade."));
    demo.pin(&servers, 0, V2)?;
    let (bios, _) = servers.split_at_mut(1);
    demo.reboot(bios, &[V2])?;

    demo.step(&format!("It is rolled back to {V1}: re-pointed again, rebooted again."));
    demo.pin(&servers, 0, V1)?;
    let (bios, _) = servers.split_at_mut(1);
    demo.reboot(bios, &[V1])?;

    let rows = demo.rows;
    lab.cli(&["machine", "list"]).map(|text| println!("\n{text}"))?;
    println!("Seconds since the first packet of each boot:\n\n{}", table(&rows));
    println!("Every claim above was checked on the machines. Consoles: {}", lab.logs().display());
    drop(servers);
    lab.down()
}

struct Demo<'a> {
    lab: &'a Lab,
    timeline: Timeline,
    rows: Vec<(String, BootAttempt)>,
}

impl Demo<'_> {
    fn step(&self, text: &str) {
        println!();
        self.timeline.say(text);
    }

    fn pin(&self, servers: &[Server], n: usize, tag: &str) -> Result<(), LabError> {
        let Some(server) = servers.get(n) else { return Ok(()) };
        let mac = server.vm.spec().mac.to_string();
        self.lab.cli(&["pin", &mac, tag]).map(drop)
    }

    /// Waits for each server's boot, then checks on the machine itself that it runs `tags` and that
    /// nothing written before is there.
    fn up(&mut self, servers: &mut [Server], tags: &[&str]) -> Result<(), LabError> {
        for (server, tag) in servers.iter_mut().zip(tags) {
            let spec = server.vm.spec().clone();
            let before = server.boots.iter().map(|b| b.id).collect();
            let attempt = self.lab.follow().healthy(spec.mac, &before, BOOT).map_err(|e| {
                LabError::Other(format!("{e}\nIts console ends with:\n{}", server.vm.console().tail(40)))
            })?;
            let mut shell = Shell::open(server.vm.console(), LOGIN)?;
            let runs = shell.run(WHAT_RUNS, COMMAND)?.lines().collect::<Vec<_>>().join(" ");
            let written = shell.run(&format!("ls {PRECIOUS} 2>/dev/null || echo nothing"), COMMAND)?;
            self.timeline.say(&format!("  {:<12} runs {runs}; of {PRECIOUS} there is {written}", spec.name));
            let wanted = format!("{tag} {}", if *tag == V2 { "with jq" } else { "without jq" });
            if runs != wanted || written != "nothing" {
                return Err(LabError::Other(format!(
                    "{} should run {wanted} with nothing kept, but runs {runs} and has {written}",
                    spec.name
                )));
            }
            self.rows.push((format!("{} {tag}", spec.name), attempt.clone()));
            server.boots.extend(self.lab.follow().attempts(spec.mac));
        }
        Ok(())
    }

    fn reboot(&mut self, servers: &mut [Server], tags: &[&str]) -> Result<(), LabError> {
        for server in servers.iter() {
            Shell::open(server.vm.console(), LOGIN)?.type_line("reboot")?;
        }
        self.up(servers, tags)
    }
}
