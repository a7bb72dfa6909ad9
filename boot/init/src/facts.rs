//! What this machine is made of, told to the service while the root is fetched. A process of its own does
//! it, so that a driver that hangs or a switch that is silent never holds the boot: it is killed before the
//! hand-over.

use crate::{
    devices::Modules,
    disks::{self, Disk},
    failure::{Doing, Result},
    lldp::{Ears, Neighbour},
    net,
    report::Reporter,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The name of the process, as process 1 starts it.
pub const ARGUMENT: &str = "facts";
/// Switches speak every half minute.
const LISTEN: Duration = Duration::from_secs(40);
/// Between two looks at what may have changed: links come, disks appear.
const LOOK: Duration = Duration::from_secs(1);
/// Most times that changed facts are told in one boot.
const TIMES: u32 = 8;

#[derive(Debug, PartialEq, Serialize)]
struct Facts {
    vendor: Option<String>,
    product: Option<String>,
    serial: Option<String>,
    uuid: Option<String>,
    firmware: Firmware,
    cpu: Cpu,
    memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disks: Option<Vec<Disk>>,
    nics: Vec<Nic>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Firmware {
    uefi: bool,
    vendor: Option<String>,
    version: Option<String>,
    date: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Cpu {
    model: Option<String>,
    cores: usize,
    threads: usize,
}

#[derive(Debug, PartialEq, Serialize)]
struct Nic {
    mac: String,
    name: String,
    driver: Option<String>,
    link: bool,
    speed: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    neighbour: Option<Neighbour>,
}

/// The process that looks around.
#[derive(Debug)]
pub struct Teller {
    child: Option<Child>,
    boots_by: String,
}

impl Teller {
    /// Starts it; the machine boots by this NIC, which is left alone. A boot never fails for want of facts.
    pub fn start(reporter: &Reporter, boots_by: &str) -> Teller {
        let started = || -> Result<Child> {
            let mut command = Command::new("/proc/self/exe");
            let mut child =
                command.arg(ARGUMENT).stdin(Stdio::piped()).spawn().doing("start looking around")?;
            let text = serde_json::to_vec(reporter).doing("say where to tell facts")?;
            // Shorter than a pipe: it waits for nobody.
            child
                .stdin
                .take()
                .map_or(Ok(()), |mut pipe| pipe.write_all(&text))
                .doing("say where to tell facts")?;
            Ok(child)
        };
        let child =
            started().inspect_err(|why| crate::console::say(format!("{why} (the boot goes on)"))).ok();
        Teller { child, boots_by: boots_by.to_owned() }
    }

    /// Ends it, and leaves the NICs as they were: the image may want to set them up anew.
    pub fn stop(mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            // One that hangs in a driver ends when the driver lets go, and is no longer waited for.
            for _ in 0..20 {
                if !matches!(child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        net::rest(&self.boots_by);
    }
}

/// Looks, listens and tells, for a while.
pub fn tell(reporter: &Reporter) {
    // The boot goes first where there is one processor.
    let _ = rustix::process::nice(19);
    let began = Instant::now();
    let mut ears = Ears::default();
    let mut heard: BTreeMap<String, Neighbour> = BTreeMap::new();
    let mut news: Vec<String> = Vec::new();
    let mut told = None;
    let mut times = 0;
    let mut modules: Option<Modules> = None;
    while began.elapsed() < LISTEN && times < TIMES {
        let facts = gather(&heard, modules.is_some());
        if told.as_ref() != Some(&facts) {
            if let Err(why) = reporter.facts(&facts) {
                return crate::console::say(format!(
                    "could not tell this machine's facts: {why} (the boot goes on)"
                ));
            }
            news.drain(..).for_each(crate::console::say);
            told = Some(facts);
            times += 1;
        }
        // After what is known at once was told: drivers of disks may take long.
        modules.get_or_insert_with(Modules::open).load_for_disks();
        for (name, index) in net::wake() {
            ears.add(&name, index);
        }
        for (interface, neighbour) in ears.listen(LOOK) {
            if heard.get(&interface) != Some(&neighbour) {
                let switch = neighbour.system.as_ref().unwrap_or(&neighbour.chassis);
                news.push(format!("{interface} is at port {} of {switch}", neighbour.port));
                heard.insert(interface, neighbour);
            }
        }
    }
}

fn gather(heard: &BTreeMap<String, Neighbour>, disks: bool) -> Facts {
    let dmi = |name: &str| read(&Path::new("/sys/class/dmi/id").join(name));
    let firmware = Firmware {
        uefi: Path::new("/sys/firmware/efi").exists(),
        vendor: dmi("bios_vendor"),
        version: dmi("bios_version"),
        date: dmi("bios_date"),
    };
    Facts {
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
        serial: dmi("product_serial"),
        uuid: dmi("product_uuid"),
        firmware,
        cpu: cpu(),
        memory: memory(),
        disks: disks.then(disks::list),
        nics: net::nics().into_iter().map(|(name, mac)| nic(name, mac, heard)).collect(),
    }
}

fn read(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

fn cpu() -> Cpu {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.trim_start().strip_prefix(':'));
    let cpus = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    let siblings: Vec<String> =
        cpus.filter_map(|cpu| read(&cpu.path().join("topology/thread_siblings_list"))).collect();
    Cpu {
        model: model.map(|m| m.split_whitespace().collect::<Vec<_>>().join(" ")),
        threads: siblings.len(),
        cores: siblings.into_iter().collect::<BTreeSet<_>>().len(),
    }
}

/// What is plugged in, by the kernel's blocks of it; else what it has left for itself.
fn memory() -> Option<u64> {
    let dir = Path::new("/sys/devices/system/memory");
    let block = read(&dir.join("block_size_bytes")).and_then(|size| u64::from_str_radix(&size, 16).ok());
    let blocks = fs::read_dir(dir).into_iter().flatten().flatten();
    let online = blocks.filter(|b| read(&b.path().join("online")).as_deref() == Some("1")).count() as u64;
    block
        .and_then(|size| size.checked_mul(online))
        .filter(|n| *n > 0)
        .or_else(|| crate::root::memory("MemTotal"))
}

fn nic(name: String, mac: [u8; 6], heard: &BTreeMap<String, Neighbour>) -> Nic {
    let dir = Path::new("/sys/class/net").join(&name);
    let driver = fs::read_link(dir.join("device/driver")).ok();
    Nic {
        mac: net::mac_text(mac),
        driver: driver.and_then(|d| Some(d.file_name()?.to_str()?.to_owned())),
        link: net::has_link(&name),
        // -1 where nobody knows.
        speed: read(&dir.join("speed")).and_then(|s| s.parse().ok()),
        neighbour: heard.get(&name).cloned(),
        name,
    }
}
