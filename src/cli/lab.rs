//! `pristine lab`: a network of its own on this host, with the real service and virtual servers on
//! real firmware.

use super::{Context, Failure, Outcome, context::print};
use crate::lab::{
    Firmware, Folder, Lab as Site, Mode, Nic, Settings, Spec, Vm, copy_images,
    demo::{self, BOOT},
    fleet,
    follow::table,
    interrupt,
    qemu::accel,
    rollout,
    show::Timeline,
};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Virtual servers on real firmware.
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Bring up switch, server and service, power machines on, and stay until Ctrl-C
    Up(Boot),
    /// Power machines on, wait until all are healthy, show the timelines, remove everything
    Boot(Boot),
    /// A rollout to a broken image stops and heals by itself; a good one reaches every server
    Rollout(Demo),
    /// Thousands of simulated machines: a power return, and a rollout
    Fleet(Fleet),
    /// Two servers boot a real Debian, forget what was written, are upgraded and rolled back
    Demo(Demo),
}

/// What every lab has.
#[derive(Debug, Args)]
pub struct Common {
    /// Folder of boot programs
    #[arg(long, value_name = "DIR", default_value = "target/nbp")]
    nbp_dir: PathBuf,
    /// State folder whose images the site begins with
    #[arg(long, value_name = "DIR", default_value = "target/images/state")]
    images: PathBuf,
    /// Folder that gets consoles and the service's log
    #[arg(long, value_name = "DIR", default_value = "target/lab")]
    logs: PathBuf,
}

/// Machines, and what they boot.
#[derive(Debug, Args)]
pub struct Boot {
    #[command(flatten)]
    common: Common,
    /// Firmware of the machines, in turn
    #[arg(long, value_delimiter = ',', default_value = "bios,undionly,uefi-pxe,uefi-http")]
    firmware: Vec<Firmware>,
    /// Number of machines [default: one of each firmware named]
    #[arg(long)]
    machines: Option<u8>,
    /// Image that they boot, the site's default
    #[arg(long, value_name = "NAME:VERSION", default_value = "tiny:1")]
    image: crate::model::Tag,
    /// Memory of each machine in MiB
    #[arg(long, default_value_t = 1024)]
    memory: u32,
    /// Model of their NICs
    #[arg(long, value_enum, default_value_t)]
    nic: Nic,
    /// Leave everything running when all are healthy, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// The demonstration.
#[derive(Debug, Args)]
pub struct Demo {
    #[command(flatten)]
    common: Common,
}

/// A simulated fleet. Every delay, failure and lost packet is drawn from the seed.
#[derive(Debug, Args)]
pub struct Fleet {
    #[command(flatten)]
    common: Common,
    /// Number of machines
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(fleet::MOST)))]
    machines: u32,
    /// Racks that they are spread over
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    racks: u32,
    /// What chance is drawn from: the same seed is the same fleet
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Machines in a hundred that the new image fails on
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    failures: f64,
    /// Packets in a hundred that are lost
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    loss: f64,
    /// How much faster than real the machines' own delays pass
    #[arg(long, value_name = "FACTOR", default_value_t = 60.0, value_parser = factor)]
    speed: f64,
    /// Seconds over which they power on
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    storm: u32,
    /// Fetch kernel, initramfs, tree and root whole, not only their end, and hash them
    #[arg(long)]
    whole_blobs: bool,
    /// Image that all begin with
    #[arg(long, value_name = "NAME:VERSION", default_value = "tiny:1")]
    image: crate::model::Tag,
    /// Image that a rollout then moves them to
    #[arg(long, value_name = "NAME:VERSION")]
    to: Option<crate::model::Tag>,
    /// Machines in flight in the rollout
    #[arg(long, default_value_t = 200)]
    in_flight: u32,
    /// Of those, machines of one rack
    #[arg(long, default_value_t = 20)]
    in_flight_per_rack: u32,
    /// Seconds that a machine of the rollout has to become healthy
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    deadline: u32,
    /// Times that the service is killed and started again, spread over the rollout, or over the storm where there is none
    #[arg(long, default_value_t = 0)]
    kills: u32,
    /// Seconds after which it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    bound: u32,
}

/// From 0 to 100, as a part of one.
fn percent(text: &str) -> Result<f64, String> {
    let percent = text.trim_end_matches('%').parse::<f64>().ok().filter(|p| (0.0..=100.0).contains(p));
    percent.map(|p| p / 100.0).ok_or_else(|| format!("`{text}` is not from 0 to 100"))
}

/// From 1 to 10,000.
fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse::<f64>().ok().filter(|f| (1.0..=10_000.0).contains(f));
    factor.ok_or_else(|| format!("`{text}` is not from 1 to 10000"))
}

impl Fleet {
    fn run(self) -> Outcome {
        let (_state, settings) = self.common.settings()?;
        let seconds = |n: u32| std::time::Duration::from_secs(n.into());
        let options = fleet::Options {
            settings,
            images: self.common.images,
            machines: self.machines,
            racks: self.racks,
            seed: self.seed,
            failures: self.failures,
            loss: self.loss,
            speed: self.speed,
            storm: seconds(self.storm),
            whole_blobs: self.whole_blobs,
            from: self.image,
            to: self.to,
            in_flight: (self.in_flight, self.in_flight_per_rack),
            deadline: seconds(self.deadline),
            kills: self.kills,
            bound: seconds(self.bound),
        };
        fleet::run(&options, &Timeline::default())?;
        Ok(())
    }
}

impl Lab {
    pub(super) fn run(self, _context: &Context) -> Outcome {
        interrupt::heed()?;
        match self {
            Lab::Up(boot) => Ok(boot.run(true)?),
            Lab::Boot(boot) => Ok(boot.run(false)?),
            Lab::Rollout(demo) => {
                let (_state, settings) = demo.common.settings()?;
                Ok(rollout::run(&rollout::Options { settings, images: demo.common.images })?)
            }
            Lab::Fleet(fleet) => fleet.run(),
            Lab::Demo(demo) => {
                let (_state, settings) = demo.common.settings()?;
                let options = demo::Options { settings, images: demo.common.images };
                Ok(demo::run(&options)?)
            }
        }
    }
}

impl Common {
    /// How to run the service: this very binary, its state in a folder that lasts as long as the
    /// lab.
    fn settings(&self) -> Result<(Folder, Settings), Failure> {
        std::fs::create_dir_all(&self.logs)?;
        let state = Folder::temporary("lab")?;
        let settings = Settings {
            binary: std::env::current_exe()?,
            nbps: std::path::absolute(&self.nbp_dir)?,
            state: state.path().to_owned(),
            dir: std::path::absolute(&self.logs)?,
            mode: Mode::Full,
            extra: String::new(),
        };
        Ok((state, settings))
    }
}

impl Boot {
    fn run(self, up: bool) -> Outcome {
        let timeline = Timeline::default();
        let (_state, settings) = self.common.settings()?;
        timeline.say(&format!("Machines run under {}.", accel()));
        copy_images(&self.common.images, &settings.state)?;
        let site = Site::up(settings, timeline.printer())?;
        timeline
            .say(&format!("The service is up; its log and the consoles are in {}.", site.logs().display()));
        site.cli(&["default", &self.image.to_string()])?;
        let count = self.machines.unwrap_or(u8::try_from(self.firmware.len()).unwrap_or(u8::MAX));
        let mut vms = Vec::new();
        for (n, firmware) in (1..=count).zip(self.firmware.iter().cycle()) {
            let spec = Spec { memory: self.memory, nic: self.nic, ..Spec::new(n, *firmware) };
            timeline.name(spec.mac, &spec.name);
            timeline.say(&format!("{} powers on: {}", spec.name, spec.mac));
            vms.push(site.power_on(spec)?);
        }
        if up {
            timeline.say(&format!("Ctrl-C removes everything. Until then: {}", site.hint()));
            interrupt::wait();
        } else {
            let rows = vms.iter().map(|vm| healthy(&site, vm)).collect::<Result<Vec<_>, Failure>>()?;
            print(&format!("\nSeconds since the first packet of each boot:\n\n{}", table(&rows)))?;
            if self.keep {
                timeline.say(&format!("Ctrl-C removes everything. Until then: {}", site.hint()));
                interrupt::wait();
            }
        }
        drop(vms);
        Ok(site.down()?)
    }
}

fn healthy(site: &Site, vm: &Vm) -> Result<(String, crate::model::BootAttempt), Failure> {
    let spec = vm.spec();
    match site.follow().healthy(spec.mac, &[].into(), BOOT) {
        Ok(attempt) => Ok((spec.name.clone(), attempt)),
        Err(e) => Err(Failure::text(format!("{e}\nIts console ends with:\n{}", vm.console().tail(40)))),
    }
}
