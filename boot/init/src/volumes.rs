//! Volumes: disks whose contents outlive a boot. Each is found, made if and only if its disk is blank and that is wanted, checked, and
//! mounted into the new root before the image starts; one that can't be fails the boot, so that nothing is written elsewhere.

use crate::{
    candidates::{self, Candidate, Choice, Unfit},
    config::Volume,
    console::say,
    devices::Modules,
    failure::{Doing, Failure, Result, failed},
    place::Root,
    root::NEW_ROOT,
};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, ResolveFlags},
    mount::{MountFlags, UnmountFlags},
};
use std::{
    ffi::CString,
    fs::File,
    io::{Read, Seek},
    os::fd::AsRawFd,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How long disks may take to appear: controllers that spin them up one by one are slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// No more disks must have appeared for so long before one is taken for the one that is meant; before one is formatted, longer.
const SETTLED: Duration = Duration::from_millis(500);
const SETTLED_TO_FORMAT: Duration = Duration::from_secs(5);
/// Longest time that a check or the making of a file system may take.
const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// How often the console hears that it goes on.
const STILL: Duration = Duration::from_secs(10);
/// How much of a program's output a failure shows.
const SHOWN: usize = 400;

/// A file system that a volume can be: what makes and what checks it, with their arguments before the device's.
struct Kind {
    name: &'static str,
    make: (&'static str, &'static [&'static str]),
    /// XFS plays its log back when it is mounted, and has no other check.
    check: Option<(&'static str, &'static [&'static str])>,
    package: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "ext4",
        make: ("mke2fs", &["-q", "-t", "ext4", "-L"]),
        check: Some(("e2fsck", &["-p"])),
        package: "e2fsprogs",
    },
    Kind { name: "xfs", make: ("mkfs.xfs", &["-q", "-L"]), check: None, package: "xfsprogs" },
];

/// Mounts all of them; in words what was done.
pub fn mount(volumes: &[Volume]) -> Result<Vec<String>> {
    let mut volumes: Vec<&Volume> = volumes.iter().collect();
    if volumes.is_empty() {
        return Ok(Vec::new());
    }
    // What lies above comes first.
    volumes.sort_by_key(|v| &v.mount);
    let root = Root::open(NEW_ROOT)?;
    // Before anything is touched: the image can do it.
    for volume in &volumes {
        let kind = kind(volume)?;
        let make = volume.format.then_some(kind.make.0);
        for name in kind.check.iter().map(|(name, _)| *name).chain(make) {
            program(name, volume, kind)?;
        }
    }
    let mut modules = Modules::of_the_root();
    let mut taken = Vec::new();
    let mut done = Vec::new();
    for volume in volumes {
        let about = |failure: Failure| {
            Failure(format!("volume {} (label {}): {failure}", volume.mount, volume.label))
        };
        let (disk, made) = ready(volume, &mut modules, &taken).map_err(about)?;
        attach(volume, &disk, &root).map_err(about)?;
        let how = if made { "made and mounted" } else { "mounted" };
        say(format!("volume {} {how} from {}", volume.mount, disk.node()));
        done.push(format!("volume {} {how}", volume.mount));
        taken.push(disk.name);
    }
    Ok(done)
}

fn kind(volume: &Volume) -> Result<&'static Kind> {
    let found = KINDS.iter().find(|kind| kind.name == volume.filesystem);
    found.ok_or_else(|| {
        Failure(format!("volume {}: this init knows no file system {}", volume.mount, volume.filesystem))
    })
}

/// Where the image has a program.
fn program(name: &str, volume: &Volume, kind: &Kind) -> Result<String> {
    let root = File::open(NEW_ROOT).doing("open the new root")?;
    let is_there = |path: &String| {
        let path = path.trim_start_matches('/');
        rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
            .is_ok()
    };
    let found = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"]
        .map(|dir| format!("{dir}/{name}"))
        .into_iter()
        .find(is_there);
    found.ok_or_else(|| {
        Failure(format!(
            "volume {} needs {name}, which the image does not have: add the package {} to it",
            volume.mount, kind.package
        ))
    })
}

/// The disk of a volume, with a file system that was checked; and whether that was made now.
fn ready(volume: &Volume, modules: &mut Modules, taken: &[String]) -> Result<(Candidate, bool)> {
    let (disk, format) = find(volume, modules, taken)?;
    let kind = kind(volume)?;
    if format {
        let node = disk.node();
        say(format!("volume {}: {node} is blank, making {} on it", volume.mount, kind.name));
        let (name, args) = kind.make;
        let args = [args, &[volume.label.as_str(), node.as_str()]].concat();
        let (status, output) = run(&program(name, volume, kind)?, &args, &format!("{name} of {node}"))?;
        if !status.success() {
            return failed(format!("{name} could not make a file system on {node} ({status}): {output}"));
        }
        return Ok((disk, true));
    }
    if let Some((name, args)) = kind.check {
        let node = disk.node();
        let args = [args, &[node.as_str()]].concat();
        let (status, output) = run(&program(name, volume, kind)?, &args, &format!("{name} of {node}"))?;
        // 1: errors were corrected; 2: and a mounted one would need a reboot, which this is not (e2fsck(8)).
        match status.code() {
            Some(0) => {}
            Some(1..=3) => say(format!("volume {}: {name} corrected errors: {output}", volume.mount)),
            _ => {
                return failed(format!(
                    "{name} can't repair {node} by itself ({status}): {output}. Repair it by hand: nothing was mounted"
                ));
            }
        }
    }
    Ok((disk, false))
}

/// Waits for the disk that the volume means; with whether it is to be formatted.
fn find(volume: &Volume, modules: &mut Modules, taken: &[String]) -> Result<(Candidate, bool)> {
    let began = Instant::now();
    let mut names = Vec::new();
    let mut changed = Instant::now();
    let mut seen: Vec<Candidate> = Vec::new();
    loop {
        modules.load_for_disks();
        let now = candidates::names();
        if now != names {
            (names, changed) = (now, Instant::now());
            seen = names
                .iter()
                .map(|n| candidates::look(n))
                .filter_map(std::result::Result::transpose)
                .collect::<Result<_>>()?;
        }
        let choice = candidates::choose(volume, &seen, taken);
        let enough = if matches!(choice, Ok(Choice::Mount(_))) { SETTLED } else { SETTLED_TO_FORMAT };
        let settled = changed.elapsed() >= enough;
        match choice {
            Ok(Choice::Mount(disk)) if settled => return Ok((disk.clone(), false)),
            Ok(Choice::Format(disk)) if settled => {
                // Once more, right before: what was blank a moment ago must be so now.
                let again = candidates::look(&disk.name)?;
                if again.as_ref() != Some(disk) {
                    return failed(format!("{} changed while it was looked at", disk.node()));
                }
                return Ok((disk.clone(), true));
            }
            Err(unfit) => {
                let over = match &unfit {
                    Unfit::Wrong(_) => settled,
                    Unfit::Missing(_) => began.elapsed() >= PATIENCE,
                };
                if over {
                    return failed(unfit.why());
                }
            }
            Ok(_) => {}
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a program of the image, in the new root, and waits for it; what it said, shortened.
fn run(program: &str, args: &[&str], what: &str) -> Result<(ExitStatus, String)> {
    let fd = rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC).doing("make a memory file")?;
    let mut output = File::from(fd);
    let mounted = Borrowed::mount()?;
    // Programs can be run in another root only by who is there already: this one again (see `main`).
    let mut command = Command::new("/proc/self/exe");
    command.arg("in-root").arg(NEW_ROOT).arg(program).args(args).stdin(Stdio::null());
    command.stdout(output.try_clone().doing("copy a descriptor")?);
    command.stderr(output.try_clone().doing("copy a descriptor")?);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut child = command.spawn().doing(format!("start {what}"))?;
    let began = Instant::now();
    let mut said = Duration::ZERO;
    let status = loop {
        if let Some(status) = child.try_wait().doing(format!("wait for {what}"))? {
            break status;
        }
        let since = began.elapsed();
        if since >= LONGEST {
            let _ = child.kill();
            return failed(format!("{what} did not end in {} hours", LONGEST.as_secs() / 3600));
        }
        if since >= said + STILL {
            said = since;
            say(format!("{what}: {} s", since.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    drop(mounted);
    let mut text = Vec::new();
    output
        .rewind()
        .and_then(|()| output.take(1 << 20).read_to_end(&mut text))
        .doing(format!("read what {what} says"))?;
    let text: String = String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = text.chars().count().saturating_sub(SHOWN);
    Ok((status, text.chars().skip(skip).collect()))
}

/// The kernel's file systems, in the new root as well for as long as a program runs there.
struct Borrowed;

impl Borrowed {
    fn mount() -> Result<Borrowed> {
        for dir in ["dev", "proc", "sys"] {
            rustix::mount::mount_bind(format!("/{dir}"), format!("{NEW_ROOT}/{dir}"))
                .doing(format!("show /{dir} to the image's programs"))?;
        }
        Ok(Borrowed)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        for dir in ["dev", "proc", "sys"] {
            let _ = rustix::mount::unmount(format!("{NEW_ROOT}/{dir}"), UnmountFlags::DETACH);
        }
    }
}

/// Mounts a checked file system at its place.
fn attach(volume: &Volume, disk: &Candidate, root: &Root) -> Result<()> {
    let place = root.folder(&volume.mount)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mut data = Vec::new();
    for option in &volume.options {
        match option.as_str() {
            "noatime" => flags |= MountFlags::NOATIME,
            "noexec" => flags |= MountFlags::NOEXEC,
            "ro" => flags |= MountFlags::RDONLY,
            other => data.push(other),
        }
    }
    let data = CString::new(data.join(",")).doing("write mount options")?;
    // By the folder's descriptor: no link can lead elsewhere in between.
    let target = format!("/proc/self/fd/{}", place.as_raw_fd());
    rustix::mount::mount(disk.node(), &target, &volume.filesystem, flags, Some(data.as_c_str()))
        .doing(format!("mount {} ({})", disk.node(), volume.filesystem))
}

/// As the program `in-root`: becomes another program in another root. Returns only when it can't.
pub fn in_root(root: &str, program: &str, args: &[&str]) -> Failure {
    use std::os::unix::process::CommandExt;
    let enter = || -> Result<()> {
        rustix::process::chroot(root).doing(format!("change to {root}"))?;
        std::env::set_current_dir("/").doing(format!("change to {root}"))
    };
    match enter() {
        Ok(()) => Failure(format!("could not start {program}: {}", Command::new(program).args(args).exec())),
        Err(failure) => failure,
    }
}
