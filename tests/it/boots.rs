//! Real boots: real firmware, the real binary, the tiny image. `make test` builds what they need.

use pristine::lab::{
    self, Firmware, Folder, Lab, LabError, Mark, Mode, Net, Settings, Shell, Spec, Stick, Vm, copy_images,
    process::Running,
};
use pristine::model::{BootAttempt, Stage, Verdict};
use pristine::store::ImageStore;
use std::{
    collections::BTreeSet,
    io::Read as _,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex},
    time::Duration,
};

/// From power-on to healthy. Under TCG on a busy machine of two cores: 20 to 60 s.
pub(super) const BOOT: Duration = Duration::from_secs(240);
/// One line in the machine's shell.
pub(super) const LINE: Duration = Duration::from_secs(60);

/// A virtual server keeps one core busy: so many run at once.
pub(super) struct Slot;

static FREE: (Mutex<Option<usize>>, Condvar) = (Mutex::new(None), Condvar::new());

impl Slot {
    pub(super) fn take() -> Slot {
        let cores = || std::thread::available_parallelism().map_or(2, |n| n.get()).max(2);
        let mut free = FREE.0.lock().unwrap();
        while *free.get_or_insert_with(cores) == 0 {
            free = FREE.1.wait(free).unwrap();
        }
        *free.as_mut().unwrap() -= 1;
        Slot
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *FREE.0.lock().unwrap().as_mut().unwrap() += 1;
        FREE.1.notify_one();
    }
}

pub(super) fn built(what: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(what);
    assert!(path.exists(), "{} is not there: `make test` builds it", path.display());
    path
}

/// Makes the root of the tiny image in a folder; the release of its kernel.
pub(super) fn tiny_root(root: &Path, version: &str) -> String {
    std::fs::create_dir_all(root).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/tiny/root");
    let out = std::process::Command::new(script).arg(root).arg(version).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut releases = std::fs::read_dir(root.join("lib/modules")).unwrap();
    releases.next().unwrap().unwrap().file_name().into_string().unwrap()
}

/// The service with the test's binary and boot programs, all that it keeps in `folder`.
pub(super) fn settings(folder: &Folder, mode: Mode) -> Settings {
    Settings {
        binary: env!("CARGO_BIN_EXE_pristine").into(),
        nbps: built("nbp"),
        state: folder.path().join("state"),
        dir: folder.path().to_owned(),
        mode,
        extra: String::new(),
    }
}

/// A site with tiny:1 as its default and tiny:2 in the store.
pub(super) struct Site {
    pub(super) lab: Lab,
    pub(super) folder: Folder,
}

impl Site {
    pub(super) fn up() -> Site {
        let net = Net::new().unwrap();
        let server = net.host("server", "198.18.0.1/24").unwrap();
        Site::on(net, server, Mode::Full)
    }

    fn on(net: Net, server: pristine::lab::Host, mode: Mode) -> Site {
        Site::with(net, server, mode, "")
    }

    /// With more lines of configuration.
    pub(super) fn with(net: Net, server: pristine::lab::Host, mode: Mode, extra: &str) -> Site {
        let folder = Folder::temporary("boots").unwrap();
        let settings = Settings { extra: extra.to_owned(), ..settings(&folder, mode) };
        copy_images(&built("images/state"), &settings.state).unwrap();
        let lab = Lab::on(net, server, settings, Box::new(|_, _| {})).unwrap();
        lab.cli(&["default", "tiny:1"]).unwrap();
        Site { lab, folder }
    }

    /// A machine that is powered on, and its name for messages.
    pub(super) fn power_on(&self, n: u8, firmware: Firmware) -> Vm {
        self.lab.power_on(Spec::new(n, firmware)).unwrap()
    }

    /// The result, or a panic that shows what the machine and the service said.
    pub(super) fn show<T>(&self, vm: &Vm, result: Result<T, LabError>) -> T {
        result.unwrap_or_else(|e| {
            let log = std::fs::read_to_string(self.lab.service().log_path()).unwrap_or_default();
            let log: Vec<&str> = log.lines().rev().take(60).collect();
            let log: Vec<&str> = log.into_iter().rev().collect();
            let console = vm.console().tail(60);
            let (name, log) = (&vm.spec().name, log.join("\n"));
            panic!("{e}\n--- console of {name}\n{console}\n--- service\n{log}")
        })
    }

    pub(super) fn healthy(&self, vm: &Vm, before: &BTreeSet<pristine::model::AttemptId>) -> BootAttempt {
        self.show(vm, self.lab.follow().healthy(vm.spec().mac, before, BOOT))
    }

    pub(super) fn image(&self, tag: &str) -> serde_json::Value {
        let text = self.lab.cli(&["image", "show", tag, "--json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(super) fn digest(&self, tag: &str) -> String {
        self.image(tag)["digest"].as_str().unwrap().to_owned()
    }
}

/// What was recorded of the boot program; none where the ROM runs the script itself.
fn nbp(attempt: &BootAttempt) -> Option<String> {
    let event = attempt.stages.iter().find(|s| s.stage == Stage::Nbp)?;
    Some(event.detail.clone().unwrap_or_default())
}

/// Boots the default image to `healthy`, and looks on the machine that it is what runs there.
fn boots(firmware: Firmware, boot_program: Option<&str>) {
    let _slot = Slot::take();
    let site = Site::up();
    let vm = site.power_on(1, firmware);
    let attempt = site.healthy(&vm, &BTreeSet::new());
    assert_eq!(attempt.image.unwrap().to_string(), site.digest("tiny:1"));
    match (boot_program, nbp(&attempt)) {
        (None, None) => {}
        (Some(wanted), Some(got)) if got.contains(wanted) => {}
        (wanted, got) => panic!("{firmware}: boot program should be {wanted:?}, recorded is {got:?}"),
    }
    let reached: Vec<Stage> = attempt.stages.iter().map(|s| s.stage).collect();
    for stage in [
        Stage::Discover,
        Stage::Ack,
        Stage::Script,
        Stage::Kernel,
        Stage::Initramfs,
        Stage::Init,
        Stage::Network,
        Stage::Rootfs,
        Stage::Verified,
        Stage::SwitchRoot,
    ] {
        assert!(reached.contains(&stage), "{firmware}: no {stage:?} in {reached:?}");
    }
    let up = "tiny: tiny:1 up, root is pristine";
    site.show(&vm, vm.console().wait_for(Mark::default(), up, LINE));
}

#[test]
fn a_bios_server_boots_by_its_ipxe_rom() {
    boots(Firmware::Bios, None);
}

#[test]
fn a_bios_server_with_a_plain_pxe_rom_boots_by_undionly() {
    boots(Firmware::Undionly, Some("undionly.kpxe"));
}

#[test]
fn a_uefi_server_boots_by_pxe() {
    boots(Firmware::UefiPxe, Some("snponly.efi"));
}

#[test]
fn a_uefi_server_boots_by_http() {
    boots(Firmware::UefiHttp, Some("snponly.efi"));
}

#[test]
fn a_reboot_forgets_and_a_repointing_upgrades_and_rolls_back() {
    let _slot = Slot::take();
    let site = Site::up();
    let mut vm = site.power_on(1, Firmware::Bios);
    let mac = vm.spec().mac;
    let mut before = BTreeSet::new();
    for (pin, wanted) in
        [(None, "tiny:1"), (None, "tiny:1"), (Some("tiny:2"), "tiny:2"), (Some("tiny:1"), "tiny:1")]
    {
        if let Some(tag) = pin {
            site.lab.cli(&["pin", &mac.to_string(), tag]).unwrap();
        }
        if !before.is_empty() {
            vm.reset().unwrap();
        }
        let attempt = site.healthy(&vm, &before);
        assert_eq!(attempt.image.unwrap().to_string(), site.digest(wanted));
        let mut shell = site.show(&vm, Shell::open(vm.console(), LINE));
        assert_eq!(site.show(&vm, shell.run("cat /etc/pristine-image", LINE)), wanted);
        let kept = shell.run("ls /precious 2>/dev/null || echo nothing; echo x > /precious", LINE);
        assert_eq!(site.show(&vm, kept), "nothing");
        before = site.lab.follow().so_far(mac);
    }
}

/// Flips one bit of a blob, so many parts of a hundred behind its beginning, in the pack that its chunk lies in.
pub(super) fn flip_a_byte(store: &Path, hex: &str, percent: usize) {
    let blobs = ImageStore::open_read_only(store).blobs().clone();
    let mut bytes = Vec::new();
    blobs.reader(hex.parse().unwrap()).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
    let part = &bytes[bytes.len() / 100 * percent..][..64];
    for pack in std::fs::read_dir(store.join("packs")).unwrap() {
        let path = pack.unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        if let Some(at) = whole.windows(part.len()).position(|w| w == part) {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[whole[at] ^ 1], at as u64).unwrap();
            return;
        }
    }
    panic!("blob {hex} lies in no pack");
}

#[test]
fn a_flipped_byte_in_the_rootfs_never_runs() {
    let _slot = Slot::take();
    let site = Site::up();
    let image = site.image("tiny:1");
    let hex = image["manifest"]["rootfs"]["blob"]["digest"].as_str().unwrap();
    flip_a_byte(&site.folder.path().join("state/store"), hex, 50);

    let vm = site.power_on(1, Firmware::Bios);
    let why = site.lab.follow().wait(vm.spec().mac, &BTreeSet::new(), "a refused boot", BOOT, |attempt| {
        match &attempt.verdict {
            Verdict::Failed { reason } => Some((reason.clone(), attempt.clone())),
            _ => None,
        }
    });
    let (reason, attempt) = site.show(&vm, why);
    assert!(reason.contains("rootfs") || reason.contains("root"), "says what is wrong: {reason}");
    for stage in [Stage::Verified, Stage::SwitchRoot, Stage::Healthy] {
        assert!(!attempt.stages.iter().any(|s| s.stage == stage), "{stage:?} with wrong bytes");
    }
    // The screen breaks its lines.
    site.show(&vm, vm.console().wait_for(Mark::default(), "Restarting in", LINE));
    let console: Vec<String> = vm.console().text().split_whitespace().map(str::to_owned).collect();
    assert!(console.join(" ").contains(reason.trim()), "{reason} is not on the console");
    assert!(!vm.console().text().contains("tiny: tiny:1 up"), "wrong bytes ran");
    // Whoever looks after the store finds the same blob.
    let verify = site.lab.cli(&["image", "verify", "tiny:1"]).unwrap_err().to_string();
    assert!(verify.contains(&hex[..12]), "{verify}");
}

/// A machine that brings kernel and initramfs with it: the server says which image, and the key in the initramfs
/// whether it may be.
#[test]
fn an_initramfs_with_a_key_boots_only_what_that_key_signed_whatever_the_server_says() {
    let _slot = Slot::take();
    let site = Site::up();
    let at = |name: &str| site.folder.path().join(name).to_string_lossy().into_owned();
    let cli = |words: &[&str]| site.lab.cli(words).unwrap();
    for name in ["ours", "theirs"] {
        cli(&["key", "generate", "--no-password", "--out", &at(&format!("{name}.key"))]);
    }
    let root = site.folder.path().join("root");
    let release = tiny_root(&root, "1");
    let (modules, initramfs) = (root.join("lib/modules").join(&release), at("stick.img"));
    let words = [
        "image",
        "initramfs",
        "--modules",
        modules.to_str().unwrap(),
        "--out",
        &initramfs,
        "--nics",
        "virtual",
    ];
    cli(&[&words[..], &["--trusted-key", &at("ours.pub"), "--trusted-image", "tiny=2024-01-01"]].concat());
    cli(&["image", "sign", "tiny:1", "--key", &at("theirs.key")]);

    let stick = Stick {
        kernel: root.join("boot").join(format!("vmlinuz-{release}")),
        initramfs: initramfs.into(),
        cmdline: "console=ttyS0,115200 panic=2 pristine.server=http://198.18.0.1:8080".into(),
    };
    let vm = site.lab.power_on(Spec { stick: Some(stick), ..Spec::new(1, Firmware::Bios) }).unwrap();
    let mac = vm.spec().mac;
    let why = site.lab.follow().wait(mac, &BTreeSet::new(), "a refused boot", BOOT, |attempt| match &attempt
        .verdict
    {
        Verdict::Failed { reason } => Some((reason.clone(), attempt.clone())),
        _ => None,
    });
    let (reason, attempt) = site.show(&vm, why);
    assert!(reason.contains("image tiny:1 is signed by none of the keys"), "{reason}");
    assert!(
        !attempt.stages.iter().any(|s| s.stage >= Stage::Rootfs),
        "something of it was fetched: {attempt:?}"
    );
    site.show(&vm, vm.console().wait_for(Mark::default(), "Restarting in", LINE));
    let console: Vec<String> = vm.console().text().split_whitespace().map(str::to_owned).collect();
    assert!(console.join(" ").contains(reason.trim()), "{reason} is not on the console");

    // It restarts by itself. Then somebody signs.
    cli(&["image", "sign", "tiny:1", "--key", &at("ours.key")]);
    let booted = site.lab.follow().wait(mac, &BTreeSet::new(), "a healthy boot", BOOT, |attempt| {
        (attempt.verdict == Verdict::Healthy).then(|| attempt.clone())
    });
    let booted = site.show(&vm, booted);
    assert_eq!(booted.image.unwrap().to_string(), site.digest("tiny:1"));
    assert!(vm.console().text().contains("vouches for it, since"), "the console says who vouches");
}

#[test]
fn machines_boot_beside_another_dhcp_server() {
    let _slots = [Slot::take()];
    let net = Net::new().unwrap();
    // Gives addresses, knows nothing of booting.
    let other = net.host("dnsmasq", "198.18.0.2/24").unwrap();
    let leases = Folder::temporary("dnsmasq").unwrap();
    let mut command = other.command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=eth0"]);
    command.args(["--dhcp-range=198.18.0.50,198.18.0.99,5m", "--log-facility=-", "--user=root"]);
    command.arg(format!("--dhcp-leasefile={}", leases.path().join("leases").display()));
    let log = std::fs::File::create(leases.path().join("log")).unwrap();
    command.stderr(log);
    let _dnsmasq = Running::start(command, "dnsmasq").unwrap();
    let server = net.host("server", "198.18.0.1/24").unwrap();
    let site = Site::on(net, server, Mode::Proxy);
    for (n, firmware) in (1..).zip([Firmware::Bios, Firmware::UefiPxe]) {
        let vm = site.power_on(n, firmware);
        let attempt = site.healthy(&vm, &BTreeSet::new());
        let offered = attempt.addr.map(|a| a.octets()[3]);
        assert!(offered.is_none_or(|last| (50..100).contains(&last)), "{firmware} got {:?}", attempt.addr);
    }
    let leased = std::fs::read_to_string(leases.path().join("leases")).unwrap();
    for n in 1..=2 {
        let mac = Spec::new(n, Firmware::Bios).mac.to_string();
        assert!(leased.contains(&mac), "dnsmasq gave {mac} no address:\n{leased}");
    }
}

/// Three servers: the rollout halts, the machine that it hit comes back, a good version passes.
#[test]
fn a_rollout_to_a_broken_image_stops_and_heals_and_a_good_one_reaches_everybody() {
    let _slots = [Slot::take(), Slot::take()];
    let folder = Folder::temporary("rollout").unwrap();
    let settings = settings(&folder, Mode::Full);
    if let Err(e) = lab::rollout::run(&lab::rollout::Options { settings, images: built("images/state") }) {
        panic!("{e}");
    }
}
