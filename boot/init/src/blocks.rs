//! Block devices: loop devices over memory files, and device-mapper's.

use crate::{
    failure::{Doing, Result, failed},
    sys::{self, Dm},
};
use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    time::Duration,
};

/// A read-only loop device over a memory file.
pub fn attach(file: &File, name: &str) -> Result<String> {
    let control =
        File::options().read(true).write(true).open("/dev/loop-control").doing(
            "open /dev/loop-control (does the image's initramfs have the loop module for its kernel?)",
        )?;
    // Somebody else may take the free one first; nobody does here, but the kernel's contract is this.
    let mut last = None;
    for _ in 0..8 {
        let number = sys::loop_free(&control).doing("find a free loop device")?;
        let path = format!("/dev/loop{number}");
        let device = open_soon(&path)?;
        match sys::loop_configure(&device, file, name) {
            // The device keeps the file; dm-verity, which opens the device next, keeps the device.
            Ok(()) => return Ok(path),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => last = Some(e),
            Err(e) => return Err(e).doing(format!("make {path} show {name}")),
        }
    }
    failed(format!(
        "could not get a loop device for {name}: {}",
        last.map_or("busy".into(), |e| e.to_string())
    ))
}

/// devtmpfs makes nodes a moment after the kernel makes devices.
pub fn open_soon(path: &str) -> Result<File> {
    let mut result = File::open(path);
    for _ in 0..100 {
        if result.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        result = File::open(path);
    }
    result.doing(format!("open {path}"))
}

/// What a device-mapper device is to be, read-only.
#[derive(Debug)]
pub struct Table<'a> {
    /// Its length in 512-byte sectors.
    pub sectors: u64,
    /// The target.
    pub kind: &'a str,
    /// The target's parameters.
    pub parameters: &'a str,
}

impl Table<'_> {
    fn load(&self) -> Dm<'_> {
        Dm::Load(self.sectors, self.kind, self.parameters)
    }
}

fn control() -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")
        .doing("open /dev/mapper/control (does the image's initramfs have the dm-mod module for its kernel?)")
}

/// Makes a device-mapper device; the path of its node.
pub fn make_mapped(name: &str, table: &Table<'_>) -> Result<String> {
    let control = control()?;
    let number = sys::device_mapper(&control, name, Dm::Create).doing(format!("make the device {name}"))?;
    sys::device_mapper(&control, name, table.load()).doing(format!("set up dm-{}", table.kind))?;
    sys::device_mapper(&control, name, Dm::Resume).doing(format!("start dm-{}", table.kind))?;
    let path = format!("/dev/dm-{}", rustix::fs::minor(number));
    open_soon(&path).map(|_| path)
}

/// Puts another table under a device that is in use: what reads it waits meanwhile, and sees nothing of it.
pub fn swap(name: &str, table: &Table<'_>) -> Result<()> {
    let control = control()?;
    sys::device_mapper(&control, name, table.load()).doing(format!("load the new table of {name}"))?;
    let suspended = sys::device_mapper(&control, name, Dm::Suspend);
    // Without the new table if it must be: a device that stays suspended is one that hangs.
    let resumed = sys::device_mapper(&control, name, Dm::Resume);
    suspended.and(resumed).map(drop).doing(format!("swap the table of {name}"))
}

/// `7:0`, by which device-mapper knows a device without its node.
pub fn number(path: &str) -> Result<String> {
    let number = fs::metadata(path).doing(format!("look at {path}"))?.rdev();
    Ok(format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
}
