//! The root mounted before it is here. A process of our own serves it to the kernel as an nbd device: it fetches what
//! is read, proves each block before it keeps it and before the kernel gets it, and once the image runs, all the
//! rest. When the whole root is in memory, that takes the device's place, and the process ends.
//!
//! ```text
//! reads of the image ─► overlay ─► squashfs ─► dm-verity ─► dm-linear ─┬─► nbd ─► our process ─► HTTP
//!                                                                      └─► loop device over sealed memory, in the end
//! ```
//!
//! [`keeper`] starts the process and starts it again where it dies; [`server`] is its work, with [`pieces`] (what is
//! here, what to ask next), [`nbd`] (the kernel's questions) and [`netlink`] (how the kernel gets its socket). None of
//! them needs anything that lies on the root: they live in [`HOME`], and the kernel keeps the program itself.

pub mod keeper;
mod nbd;
mod netlink;
mod pieces;
pub mod server;

use crate::{
    blocks::{self, Table},
    failure::{Doing, Failure, Result, failed},
    manifest::RootFs,
    report::Reporter,
    root::{self, Proven},
};
use rustix::{
    fs::MemfdFlags,
    io::FdFlags,
    mount::{MountFlags, UnmountFlags},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::{FileExt, MetadataExt},
            net::UnixStream,
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// The device below dm-verity.
const DATA: &str = "pristine-data";
/// The root directory of the process: /dev, /proc and /sys, whatever becomes of the initramfs's.
const HOME: &str = "/streamer";
/// How the process is called: systemd ends no process whose name begins so, not even when all others have ended.
const NAME: &str = "@pristine-root";
/// How long it may take until the device is there.
const READY: Duration = Duration::from_secs(20);

/// What the process says to process 1, a line each.
const IS_READY: &str = "ready";
const CAN_NOT: &str = "cannot ";
const FAILED: &str = "failed ";

/// What the process has to do. Files are those that it inherits.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    reporter: Reporter,
    rootfs: RootFs,
    /// The memory that gets to hold the rootfs.
    data: i32,
    /// The tree, proven.
    tree: i32,
}

impl Job {
    fn read(number: &str) -> Result<Job> {
        let text = fs::read(inherited(number)).doing("read what to stream")?;
        serde_json::from_slice(&text).doing("read what to stream")
    }

    /// dm-linear over another device, by its number.
    fn table<'a>(rootfs: &RootFs, parameters: &'a str) -> Table<'a> {
        Table { sectors: rootfs.sectors(), kind: "linear", parameters }
    }
}

/// Opens a file anew that was inherited under this number.
fn inherited(number: impl std::fmt::Display) -> String {
    format!("/proc/self/fd/{number}")
}

/// A root that comes as it is read.
#[derive(Debug)]
pub struct Streamed {
    /// The device that has all of it.
    pub device: String,
    control: UnixStream,
    data: File,
    size: u64,
}

/// Makes a device of the rootfs of which nothing is here yet. Fails, with nothing left in use, where this kernel can't.
pub fn start(reporter: &Reporter, rootfs: &RootFs, proven: &Proven) -> Result<Streamed> {
    if !Path::new("/sys/block/nbd0").exists() {
        return failed("this kernel, or the image's initramfs, has no nbd");
    }
    blocks::open_soon(netlink::DEVICE)?;
    make_home()?;
    let data = root::memory_file("pristine-rootfs", rootfs.bytes())?;
    let (data_fd, tree_fd) = (data.as_raw_fd(), proven.file.as_raw_fd());
    let job = Job { reporter: reporter.clone(), rootfs: *rootfs, data: data_fd, tree: tree_fd };
    let text = serde_json::to_vec(&job).doing("say what to stream")?;
    let job = rustix::fs::memfd_create("pristine-job", MemfdFlags::CLOEXEC).doing("make a memory file")?;
    let job = File::from(job);
    job.write_all_at(&text, 0).doing("say what to stream")?;

    let (control, theirs) = UnixStream::pair().doing("make a socket")?;
    let files = [job.as_fd(), data.as_fd(), proven.file.as_fd()];
    let inherit = |flags| files.iter().try_for_each(|file| rustix::io::fcntl_setfd(file, flags));
    inherit(FdFlags::empty()).doing("hand files on")?;
    let child = Command::new("/proc/self/exe")
        .arg0(NAME)
        .args([keeper::ARGUMENT, &job.as_raw_fd().to_string()])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    inherit(FdFlags::CLOEXEC).doing("keep files")?;
    child.doing("start what serves the root")?;

    let mut streamed = Streamed { device: String::new(), control, data, size: rootfs.blob.size };
    let made = streamed
        .wait_until_ready()
        .and_then(|()| blocks::number(netlink::DEVICE))
        .and_then(|nbd| blocks::make_mapped(DATA, &Job::table(rootfs, &format!("{nbd} 0"))));
    streamed.device = made.inspect_err(|_| {
        let _ = rustix::mount::unmount(HOME, UnmountFlags::DETACH);
    })?;
    Ok(streamed)
}

/// A boot that ends here wants no root any more: any word tells its process so. An image's init that takes our place
/// runs no such code, and its end of the line closes without a word.
impl Drop for Streamed {
    fn drop(&mut self) {
        let _ = self.control.write_all(b"end\n");
    }
}

impl Streamed {
    /// Bytes of the rootfs that are here.
    pub fn here(&self) -> u64 {
        self.data.metadata().map_or(0, |data| data.blocks() * 512).min(self.size)
    }

    /// Bytes that will come.
    pub fn to_come(&self) -> u64 {
        self.size - self.here()
    }

    /// Why a boot from it must end, where it must: what is not right on the server, or a server that is gone.
    pub fn fault(&self) -> Option<Failure> {
        let mut said = Vec::new();
        // As much as was said until now.
        let ended = (&self.control).read_to_end(&mut said).is_ok();
        let said = String::from_utf8_lossy(&said).into_owned();
        let fault = said.lines().find_map(|line| line.strip_prefix(FAILED));
        let ended = || ended.then(|| "what serves the root ended (see the lines above)".to_owned());
        fault.map(str::to_owned).or_else(ended).map(Failure)
    }

    fn wait_until_ready(&self) -> Result<()> {
        self.control.set_read_timeout(Some(READY)).doing("wait for the root's device")?;
        // Byte by byte: what is said after this line is for later.
        let (mut line, mut byte) = (Vec::new(), [0]);
        while (&self.control).read(&mut byte).doing("wait for the root's device")? > 0 && byte != *b"\n" {
            line.extend(byte);
        }
        let line = String::from_utf8_lossy(&line);
        self.control.set_nonblocking(true).doing("go on without waiting")?;
        match (&*line, line.strip_prefix(CAN_NOT)) {
            (IS_READY, _) => Ok(()),
            (_, Some(why)) => failed(why),
            _ => failed("what serves the root ended before it was ready"),
        }
    }
}

fn make_home() -> Result<()> {
    fs::create_dir_all(HOME).doing(format!("make {HOME}"))?;
    root::mount_with(c"tmpfs", HOME, "tmpfs", MountFlags::NOSUID, "mode=0755,size=64k")?;
    for dir in ["dev", "proc", "sys"] {
        let target = Path::new(HOME).join(dir);
        fs::create_dir(&target).doing(format!("make {}", target.display()))?;
        rustix::mount::mount_bind(format!("/{dir}"), &target).doing(format!("show /{dir} in {HOME}"))?;
    }
    Ok(())
}

/// In the running image: how a root that was streamed stands.
pub fn standing() -> Option<&'static str> {
    let devices = fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.path());
    let mut data = devices
        .filter(|device| fs::read_to_string(device.join("dm/name")).is_ok_and(|name| name.trim() == DATA));
    let below = fs::read_dir(data.next()?.join("slaves")).ok()?.flatten().next()?;
    match below.file_name().to_string_lossy().starts_with("loop") {
        true => Some("all of its root is in memory"),
        false => Some("the rest of its root is still being fetched"),
    }
}
