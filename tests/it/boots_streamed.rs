//! Real boots of a root that comes as it is read: over an end of the service and of what serves the root, and from a
//! store that is damaged.

use super::boots::{BOOT, LINE, Site, Slot, flip_a_byte, tiny_root};
use pristine::{
    lab::{Firmware, Mark, Mode, Net, Shell, Vm},
    model::{BootAttempt, Digest, Stage, Verdict},
};
use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

/// Bytes of `/big` in the root, which nothing reads by itself; twelve seconds of the slow link below.
const BIG: usize = 24 << 20;

/// A server that is gone is given up after one to three minutes.
const GONE: Duration = Duration::from_secs(300);

/// A site whose roots are streamed.
fn site() -> Site {
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    Site::with(net, server, Mode::Full, "[http]\nroots = \"stream\"")
}

/// Makes an image of this root the site's default.
fn image(site: &Site, root: &Path, name: &str) {
    let from = root.to_string_lossy();
    let cmdline = "console=ttyS0,115200 loglevel=4 panic=2";
    let words = ["--name", name, "--version", "1", "--cmdline", cmdline, "--nics", "virtual", "--all-root"];
    site.lab.cli(&[&["image", "build", &*from][..], &words].concat()).unwrap();
    site.lab.cli(&["default", &format!("{name}:1")]).unwrap();
}

/// The same with `big:1`, its default; what `/big` should be.
fn site_with_big() -> (Site, Digest) {
    let site = site();
    let root = site.folder.path().join("root");
    tiny_root(&root, "big");
    // Nothing that could be packed.
    let big: Vec<u8> =
        (0..BIG as u32 / 4).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    std::fs::write(root.join("big"), &big).unwrap();
    image(&site, &root, "big");
    (site, Digest::of(&big))
}

/// Bytes that the server has sent.
fn sent(site: &Site) -> u64 {
    let text = site.lab.server().run(&["ip", "-s", "-j", "link", "show", "dev", "eth0"]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
}

fn reached(site: &Site, vm: &Vm, stage: Stage) -> BootAttempt {
    let reached = |attempt: &BootAttempt| (attempt.reached() >= Some(stage)).then(|| attempt.clone());
    let what = format!("a boot that reaches {stage}");
    site.show(vm, site.lab.follow().wait(vm.spec().mac, &BTreeSet::new(), &what, BOOT, reached))
}

fn detail(attempt: &BootAttempt, stage: Stage) -> &str {
    let event = attempt.stages.iter().find(|s| s.stage == stage).unwrap();
    event.detail.as_deref().unwrap_or_default()
}

/// Everything but `/big`, from the device and not from the cache.
const READ_ALL: &str =
    "sync; echo 3 >/proc/sys/vm/drop_caches; find / -xdev -type f ! -name big -exec cat {} + >/dev/null";

#[test]
fn a_streamed_root_comes_over_ends_of_the_service_and_then_needs_it_no_longer() {
    let _slot = Slot::take();
    let (mut site, big) = site_with_big();
    let vm = site.power_on(1, Firmware::Bios);
    let mac = vm.spec().mac.to_string();
    reached(&site, &vm, Stage::Init);
    let slow = "tc qdisc add dev eth0 root tbf rate 16mbit burst 64kb latency 200ms";
    site.lab.server().run(&slow.split(' ').collect::<Vec<_>>()).unwrap();
    let before = sent(&site);
    let attempt = reached(&site, &vm, Stage::SwitchRoot);
    let sent = sent(&site) - before;
    assert!(sent < BIG as u64, "{sent} bytes were sent before the image ran");
    assert!(detail(&attempt, Stage::Rootfs).starts_with("streamed: 2"), "{attempt:?}");
    assert!(detail(&attempt, Stage::Verified).contains(", streamed: "), "{attempt:?}");

    let console = vm.console();
    site.lab.kill_service();
    let killed = console.mark();
    site.show(&vm, console.wait_for(killed, "the rootfs: ", LINE));
    site.lab.start_service().unwrap();
    site.show(&vm, console.wait_for(Mark::default(), "tiny:big reported healthy", BOOT));
    let mut shell = site.show(&vm, Shell::open(console, LINE));
    let pids =
        "for p in /proc/[0-9]*; do grep -q serve-root $p/cmdline 2>/dev/null && echo ${p#/proc/}; done";
    site.show(&vm, shell.run(&format!("kill -9 $({pids})"), LINE));
    site.show(&vm, console.wait_for(Mark::default(), "what serves the root ended (signal: 9", LINE));
    site.lab.server().run(&["tc", "qdisc", "del", "dev", "eth0", "root"]).unwrap();
    site.show(&vm, console.wait_for(Mark::default(), "all of the root is in memory", LINE));
    let boots: serde_json::Value =
        serde_json::from_str(&site.lab.cli(&["boots", &mac, "--json"]).unwrap()).unwrap();
    assert_eq!(boots[0]["verdict"], "healthy", "{boots}");
    assert!(boots[0].to_string().contains("its root "), "says how its root stands: {boots}");

    site.lab.kill_service();
    site.show(&vm, shell.run(READ_ALL, LINE));
    let sum = site.show(&vm, shell.run("sha256sum </big", LINE));
    assert!(sum.starts_with(&big.to_string()), "{sum}");
    let left = format!("cat /sys/block/nbd0/size; {pids}; ls /sys/block/dm-*/slaves");
    let left = site.show(&vm, shell.run(&left, LINE));
    assert!(left.starts_with("0\n") && !left.contains("nbd") && left.contains("loop"), "{left}");
}

#[test]
fn a_server_that_is_gone_before_the_image_runs_ends_the_boot() {
    let _slot = Slot::take();
    let (mut site, _) = site_with_big();
    let mut vm = site.power_on(1, Firmware::Bios);
    reached(&site, &vm, Stage::Init);
    // What is read before the image runs takes half a minute.
    let slow = "tc qdisc add dev eth0 root tbf rate 1mbit burst 16kb latency 2000ms";
    site.lab.server().run(&slow.split(' ').collect::<Vec<_>>()).unwrap();
    let attempt = reached(&site, &vm, Stage::Rootfs);
    assert!(detail(&attempt, Stage::Rootfs).starts_with("streamed: "), "{attempt:?}");
    site.lab.kill_service();
    let console = vm.console();
    site.show(&vm, console.wait_for(Mark::default(), "THIS MACHINE DID NOT BOOT", GONE));
    site.show(&vm, console.wait_for(Mark::default(), "Restarting in", LINE));
    assert!(!console.text().contains("tiny: tiny:big up"), "the image ran");

    site.lab.server().run(&["tc", "qdisc", "del", "dev", "eth0", "root"]).unwrap();
    site.lab.start_service().unwrap();
    vm.reset().unwrap();
    site.show(&vm, vm.console().wait_for(Mark::default(), "tiny:big reported healthy", BOOT));
}

#[test]
fn a_wrong_block_of_a_streamed_root_is_given_to_nobody() {
    let _slot = Slot::take();
    let (site, _) = site_with_big();
    let store = site.folder.path().join("state/store");
    let damage = |percent| {
        let image = site.image("big:1");
        let hex = image["manifest"]["rootfs"]["blob"]["digest"].as_str().unwrap();
        flip_a_byte(&store, hex, percent);
    };
    // In a file that nothing reads by itself: only that one can't be read.
    damage(50);
    let mut vm = site.power_on(1, Firmware::Bios);
    let mac = vm.spec().mac;
    site.show(&vm, vm.console().wait_for(Mark::default(), "the rootfs is damaged at byte 1", BOOT));
    let mut shell = site.show(&vm, Shell::open(vm.console(), LINE));
    site.show(&vm, shell.run(READ_ALL, LINE));
    let error = site.show(&vm, shell.run("cat /big 2>&1 >/dev/null || true", LINE));
    assert!(error.contains("Input/output error"), "{error}");

    // In the first block: nothing of the image runs, and the record says why.
    damage(0);
    let before = site.lab.follow().so_far(mac);
    vm.reset().unwrap();
    let failed =
        site.lab.follow().wait(mac, &before, "a refused boot", BOOT, |attempt| match &attempt.verdict {
            Verdict::Failed { reason } => Some((reason.clone(), attempt.clone())),
            _ => None,
        });
    let (reason, attempt) = site.show(&vm, failed);
    assert!(
        reason.contains("the rootfs is damaged at byte 0") && reason.contains("image verify"),
        "{reason}"
    );
    assert!(attempt.reached() <= Some(Stage::Rootfs), "{attempt:?}");
    site.show(&vm, vm.console().wait_for(Mark::default(), "Restarting in", LINE));
    assert_eq!(vm.console().text().matches("tiny: tiny:big up").count(), 1, "wrong bytes ran");
}

#[test]
fn a_kernel_without_nbd_has_its_root_come_whole_and_says_so() {
    let _slot = Slot::take();
    let site = site();
    let root = site.folder.path().join("root");
    let release = tiny_root(&root, "plain");
    std::fs::remove_file(root.join("lib/modules").join(&release).join("kernel/drivers/block/nbd.ko"))
        .unwrap();
    assert!(Command::new("depmod").arg("-b").arg(&root).arg(&release).status().unwrap().success());
    image(&site, &root, "plain");
    let vm = site.power_on(1, Firmware::Bios);
    let attempt = site.healthy(&vm, &BTreeSet::new());
    let said = detail(&attempt, Stage::Rootfs);
    assert!(
        said.contains(" MB in ") && said.contains("; not streamed: ") && said.contains("no nbd"),
        "{said}"
    );
    assert!(!detail(&attempt, Stage::Verified).contains("streamed"), "{attempt:?}");
}
