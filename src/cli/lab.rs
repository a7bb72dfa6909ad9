//! `pristine lab`: a network of its own on this host, with the real service and virtual servers on
//! real firmware.

use super::{Context, Failure, Outcome, context::print};
use crate::lab::{
    Firmware, Folder, Lab as Site, Mode, Nic, Settings, Spec, Vm, copy_images,
    demo::{self, BOOT},
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
