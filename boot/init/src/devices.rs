//! Drivers: loads the image's kernel modules for the devices that are there, and for those that appear
//! while it looks.

use crate::{console::say, modules, root};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules that mounting the root needs; those built into the kernel have no file and are passed over.
const FOR_THE_ROOT: &[&str] = &[
    "sha256_ssse3",
    "sha256_generic",
    "sha2_ce",
    "sha256_arm64",
    "loop",
    "dm_mod",
    "dm_verity",
    "squashfs",
    "overlay",
];

/// The kernel's modules, and what of them is loaded.
#[derive(Debug)]
pub struct Modules {
    folder: PathBuf,
    index: modules::Index,
    seen_aliases: BTreeSet<String>,
    tried_files: BTreeSet<String>,
    loaded: Vec<String>,
}

impl Modules {
    /// Reads the indexes of the running kernel's modules.
    pub fn open() -> Modules {
        Modules::from(Path::new("/lib/modules"))
    }

    /// The same of the verified root, which has more than an initramfs carries; where it has none, of the initramfs.
    pub fn of_the_root() -> Modules {
        let folders = ["usr/lib/modules", "lib/modules"].map(|dir| Path::new(root::NEW_ROOT).join(dir));
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let found = folders.iter().find(|folder| folder.join(&release).join("modules.dep").exists());
        Modules::from(found.map_or(Path::new("/lib/modules"), PathBuf::as_path))
    }

    fn from(folder: &Path) -> Modules {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = folder.join(release);
        let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let index = modules::Index::parse(&read("modules.dep"), &read("modules.alias"));
        Modules {
            folder,
            index,
            seen_aliases: BTreeSet::new(),
            tried_files: BTreeSet::new(),
            loaded: Vec::new(),
        }
    }

    /// Loads what the root file system needs.
    pub fn load_for_the_root(&mut self) {
        for name in FOR_THE_ROOT {
            self.load(name);
        }
    }

    /// Loads what a root that comes by and by needs besides.
    pub fn load_for_a_streamed_root(&mut self) {
        self.load("nbd");
    }

    /// Loads drivers for devices that were not there at the last look. Loading a bus's driver makes
    /// more appear, so it looks until nothing is new.
    pub fn load_for_devices(&mut self) {
        self.load_those(modules::is_needed_to_boot);
    }

    /// The same for disks, which a boot from memory does without.
    pub fn load_for_disks(&mut self) {
        self.load_those(modules::is_of_a_disk);
    }

    fn load_those(&mut self, wanted: fn(&str) -> bool) {
        loop {
            let new: Vec<String> =
                device_aliases().into_iter().filter(|a| self.seen_aliases.insert(a.clone())).collect();
            if new.is_empty() {
                return;
            }
            for name in new.iter().flat_map(|alias| self.index.matching(alias)).collect::<BTreeSet<_>>() {
                if self.index.file(&name).is_some_and(wanted) {
                    self.load(&name);
                }
            }
        }
    }

    /// Loads whatever fits an alias or a name: the kernel's own wish (a PHY's driver, a hash).
    pub fn load_alias(&mut self, alias: &str) -> bool {
        let names = self.index.matching(alias);
        names.iter().for_each(|name| self.load(name));
        !names.is_empty()
    }

    /// Names of the drivers that were loaded, for messages.
    pub fn loaded(&self) -> String {
        if self.loaded.is_empty() { "none".to_owned() } else { self.loaded.join(", ") }
    }

    fn load(&mut self, name: &str) {
        let order: Vec<String> = self.index.load_order(name).into_iter().map(str::to_owned).collect();
        for file in order {
            if self.tried_files.insert(file.clone()) {
                match load_file(&self.folder.join(&file)) {
                    Ok(()) => self.loaded.push(modules::module_name(&file)),
                    // A driver for hardware that isn't here says ENODEV: normal for processor features.
                    Err(e) if e == rustix::io::Errno::NODEV => {}
                    Err(e) => say(format!("could not load {file}: {e}")),
                }
            }
        }
    }
}

fn load_file(path: &Path) -> rustix::io::Result<()> {
    // The kernel unpacks .ko.xz and .ko.zst itself (MODULE_INIT_COMPRESSED_FILE, Linux 5.17).
    const COMPRESSED: i32 = 4;
    let flags = if path.extension().is_some_and(|e| e == "ko") { 0 } else { COMPRESSED };
    let file = rustix::fs::open(path, rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    match rustix::system::finit_module(&file, c"", flags) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Every device's alias, on every bus.
fn device_aliases() -> Vec<String> {
    let entries = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
    };
    entries(Path::new("/sys/bus"))
        .iter()
        .flat_map(|bus| entries(&bus.join("devices")))
        .filter_map(|device| fs::read_to_string(device.join("modalias")).ok())
        .map(|alias| alias.trim().to_owned())
        .filter(|alias| !alias.is_empty())
        .collect()
}

/// As the kernel's module loader (`/sbin/modprobe -q -- NAME`): true where something was loaded.
pub fn as_modprobe(name: &str) -> bool {
    Modules::of_the_root().load_alias(name)
}
