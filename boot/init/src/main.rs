//! Process 1 of the initramfs: gets the machine's pinned root over the network, proves it block by
//! block, mounts it and becomes its init. What can't be proven is never run, and there is no shell:
//! a boot that can't go on says why on every console and to the service, waits, and restarts.
//!
//! The same file is `agent healthy` and `agent run` in the running image (see [`report`] and [`agent`]), the kernel's module loader
//! while it is in the initramfs (see [`devices::as_modprobe`]), tells the service there what the machine
//! is made of (see [`facts`]), starts the image's programs for volumes (see [`volumes::in_root`]), and serves a
//! root that comes as it is read (see [`stream`]).

mod accounts;
mod agent;
mod apply;
mod assignment;
mod blocks;
mod candidates;
mod cmdline;
mod config;
mod console;
mod devices;
mod dhcp;
mod digest;
mod discover;
mod disks;
mod facts;
mod failure;
mod fetch;
mod http;
mod kexec;
mod lldp;
mod manifest;
mod modules;
mod net;
mod orders;
mod place;
mod random;
mod report;
mod root;
mod signature;
mod source;
mod stream;
mod switch;
mod sys;
mod trust;
mod verity;
mod volumes;
mod whole;

use cmdline::{Boot, Way, Words};
use console::say;
use failure::{Doing, Failure, Result};
use report::Reporter;
use root::Proven;
use rustix::mount::MountFlags;
use source::Source;
use std::{convert::Infallible, fs, process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if std::process::id() == 1 {
        first_process();
    }
    match args.as_slice() {
        ["healthy"] => ended(report::left().and_then(|left| report::report_healthy(&left))),
        ["run"] => ended(agent::run().map(|never| match never {})),
        [facts::ARGUMENT] => {
            let text = std::io::read_to_string(std::io::stdin()).unwrap_or_default();
            match serde_json::from_str(&text) {
                Ok(reporter) => {
                    facts::tell(&reporter);
                    ExitCode::SUCCESS
                }
                Err(_) => ExitCode::FAILURE,
            }
        }
        [stream::keeper::ARGUMENT, job] => stream::keeper::run(job),
        [stream::server::ARGUMENT, job, nth] => stream::server::run(job, *nth != "first"),
        ["-q", "--", module] if devices::as_modprobe(module) => ExitCode::SUCCESS,
        ["-q", "--", _] => ExitCode::FAILURE,
        ["in-root", root, program, args @ ..] => {
            eprintln!("{}", volumes::in_root(root, program, args));
            ExitCode::FAILURE
        }
        _ => {
            eprintln!(
                "usage: agent healthy|run\n(without arguments it is process 1 of Pristine's initramfs)"
            );
            ExitCode::from(2)
        }
    }
}

fn ended(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pristine agent: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Boots or restarts; never returns, since the kernel panics when its first process ends.
fn first_process() -> ! {
    let prepared = prepare();
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let words = Words::parse(&line);
    let mut reporter = None;
    let boot = std::panic::AssertUnwindSafe(|| prepared.and_then(|()| boot(&words, &mut reporter)));
    let failure = match std::panic::catch_unwind(boot) {
        Ok(Ok(never)) => match never {},
        Ok(Err(failure)) => failure,
        Err(_) => Failure("init itself is at fault: it panicked (see the lines above)".into()),
    };
    give_up(&failure, &words, reporter.as_ref())
}

/// The kernel's file systems.
fn prepare() -> Result<()> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let mounts = [
        (c"proc", "/proc", plain, ""),
        (c"sysfs", "/sys", plain, ""),
        (c"devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
        // Not NOEXEC: the agent is run from here.
        (c"tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, "mode=0755"),
    ];
    for (kind, dir, flags, data) in mounts {
        fs::create_dir_all(dir).doing(format!("make {dir}"))?;
        match root::mount_with(kind, dir, &kind.to_string_lossy(), flags, data) {
            // The kernel mounts devtmpfs itself where it was built to.
            Err(_) if kind == c"devtmpfs" && fs::metadata("/dev/null").is_ok() => {}
            other => other?,
        }
    }
    Ok(())
}

fn boot(words: &Words, reporter: &mut Option<Reporter>) -> Result<Infallible> {
    say(format!("init {} of Pristine", env!("CARGO_PKG_VERSION")));
    // A kernel that panics must come back by itself too.
    let panic_was = fs::read_to_string("/proc/sys/kernel/panic").unwrap_or_default();
    if panic_was.trim() == "0" {
        let _ = fs::write("/proc/sys/kernel/panic", "30");
    }
    let carried = trust::carried()?;
    // An initramfs with keys of its own may come from elsewhere, and then asks which image it is to be.
    let asks = carried.is_some() && words.get("pristine.boot").is_none();
    let Way { server, mac } = Way::from_words(words)?;
    let said = if asks { None } else { Some(Boot::from_words(words)?) };
    // The kernel's own wishes for modules (the driver of a NIC's PHY) come to us.
    let _ = fs::create_dir_all("/sbin");
    let _ = std::os::unix::fs::symlink("/init", "/sbin/modprobe");
    let mut modules = devices::Modules::open();
    let began = uptime();
    let mut network = net::bring_up(&mut modules, mac)?;
    let boot = match said {
        Some(boot) => boot,
        None => {
            let takes = words.has("pristine.config");
            Boot::from_words(&words.and(assignment::ask(server, network.mac, takes)?))?
        }
    };
    let said_to = |attempt: &str, token: &str| Reporter {
        server: boot.server,
        attempt: attempt.to_owned(),
        token: token.to_owned(),
    };
    let told = reporter.insert(said_to(&boot.attempt, &boot.token));
    told.stage("init", Some(&format!("{began:.1} s after the kernel")));
    let lease = &network.lease;
    say(format!("{} has {}, the server is http://{}", network.interface, lease.addr, boot.server));
    told.stage("network", Some(&format!("{} {}", network.interface, lease.addr)));
    let teller = facts::Teller::start(told, &network.interface);

    let Some(image) = boot.image else {
        let next = discover::wait(told, &mut network)?;
        teller.stop();
        // What goes wrong from here on is that boot's.
        let told = reporter.insert(said_to(&next.boot, &next.token));
        return kexec::boot(told, &next, carried.as_ref());
    };
    let reporter = &*told;
    let path = format!("/blobs/{image}?boot={}", boot.attempt);
    let bytes = fetch::whole(boot.server, &path, None, manifest::MAX_MANIFEST, "the image's manifest")?;
    let (tag, manifest) = manifest::read(&bytes, image)?;
    let rootfs = manifest.rootfs(&tag)?;
    say(format!("image {tag}, sha256:{image}"));
    if let Some(carried) = &carried {
        say(trust::check(carried, boot.server, &bytes, image, &tag)?);
    }
    // The tree is held twice for a moment: as bytes to check against and as the kernel's hash device.
    root::check_memory(rootfs.blob.size + 2 * rootfs.verity.tree.size, "the root")?;
    modules.load_for_the_root();
    let proven = root::fetch_tree(boot.server, &boot.attempt, &rootfs)?;
    let source = Source::get(&boot, reporter, &rootfs, &proven, &mut modules)?;
    let Proven { file: tree, tree: checked } = proven;
    drop(checked);
    let go_on = || {
        root::mount(&source.device, &tree, &rootfs, source.to_come())?;
        let init = root::find_init(boot.init.as_deref())?;
        let verified = format!("root hash {}{}", rootfs.verity.root_hash, source.so_far());
        reporter.stage("verified", Some(&verified));
        if let Err(failure) = reporter.leave_agent(network.mac) {
            say(format!("{failure} (the boot goes on; the image can't report healthy)"));
        }
        teller.stop();
        if let Some(promised) = &boot.config {
            let config = config::ask(&boot, promised)?;
            let done = apply::apply(&config, root::NEW_ROOT)?;
            say(format!("configuration {}: {done}", config.digest));
            reporter.stage("configured", Some(&done));
        }
        if let Some(fault) = source.fault() {
            return Err(fault);
        }
        say(format!("over to {init} of {tag}"));
        reporter.stage("switch_root", Some(&init));
        let _ = fs::write("/proc/sys/kernel/panic", panic_was.trim());
        Err(switch::switch_root(&init))
    };
    // What fails on a root that is still coming fails for what is wrong with its coming.
    go_on().map_err(|failure| source.fault().unwrap_or(failure))
}

/// Seconds since the kernel started.
fn uptime() -> f32 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or_default()
}

/// Says why, to everyone who may look, waits, restarts.
fn give_up(failure: &Failure, words: &Words, reporter: Option<&Reporter>) -> ! {
    let (shortest, longest) = words.wait_before_reboot();
    let spread = (longest - shortest).as_millis() as u64;
    let wait = shortest + Duration::from_millis(random::below(spread.max(1)));
    let value = |key| words.get(key).unwrap_or("unknown").to_owned();
    let mut lines = wrap(&failure.0, 76);
    lines.extend([
        String::new(),
        format!("Image:   sha256:{}", value("pristine.image")),
        format!("Server:  {}", value("pristine.server")),
        format!("Machine: BOOTIF {}", value("BOOTIF")),
        format!("Boot:    {}", value("pristine.boot")),
        String::new(),
        format!("Restarting in {} seconds.", wait.as_secs()),
    ]);
    console::screen("PRISTINE: THIS MACHINE DID NOT BOOT", &lines);
    if let Some(reporter) = reporter {
        reporter.failed(&failure.0);
    }
    std::thread::sleep(wait);
    restart()
}

/// Through the firmware.
fn restart() -> ! {
    loop {
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Breaks at blanks, so that a screen of 80 columns shows whole words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
