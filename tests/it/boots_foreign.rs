//! Real boots of foreign images: Debian's installer for network boot, and a live ISO with live-boot, each
//! to the first thing that it shows. `make images` makes both.

use super::boots::{Slot, built, settings};
use pristine::{
    lab::{Firmware, Folder, Lab, LabError, Mark, Mode, Net, Spec, Vm},
    model::{BootAttempt, Stage, Verdict},
};
use std::{collections::BTreeSet, time::Duration};

/// From power-on to the first screen. Under TCG 45 s (installer) and 75 s (live); on a machine that is busy with
/// more, five minutes were seen.
const BOOT: Duration = Duration::from_secs(600);

struct Site {
    lab: Lab,
    _folder: Folder,
}

impl Site {
    /// A site with one image, its default.
    fn with(import: &[&str]) -> Site {
        let net = Net::new().unwrap();
        let server = net.host("server", "198.18.0.1/24").unwrap();
        let folder = Folder::temporary("foreign").unwrap();
        let lab = Lab::on(net, server, settings(&folder, Mode::Full), Box::new(|_, _| {})).unwrap();
        let names = ["image", "import", "--name", "foreign", "--version", "1"];
        lab.cli(&[&names[..], import, &["--cmdline-extra", "console=ttyS0,115200"]].concat()).unwrap();
        lab.cli(&["default", "foreign:1"]).unwrap();
        Site { lab, _folder: folder }
    }

    /// The result, or a panic that shows what the machine and the service said.
    fn show<T>(&self, vm: &Vm, result: Result<T, LabError>) -> T {
        result.unwrap_or_else(|e| {
            let log = std::fs::read_to_string(self.lab.service().log_path()).unwrap_or_default();
            let log = log.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>();
            panic!("{e}\n--- console\n{}\n--- service\n{}", vm.console().tail(80), log.join("\n"))
        })
    }

    /// Boots it until the console shows `screen`; the attempt as it is then.
    fn boots(&self, firmware: Firmware, screen: &str) -> BootAttempt {
        let vm = self.lab.power_on(Spec::new(1, firmware)).unwrap();
        self.show(&vm, vm.console().wait_for(Mark::default(), screen, BOOT));
        let over = |a: &BootAttempt| (a.verdict == Verdict::HandedOver).then(|| a.clone());
        let mac = vm.spec().mac;
        self.show(&vm, self.lab.follow().wait(mac, &BTreeSet::new(), "a boot handed over", BOOT, over))
    }
}

#[test]
fn the_debian_installer_boots_to_its_first_question() {
    let dir = built("images/debian-installer");
    let _slot = Slot::take();
    let site = Site::with(&["--preset", "debian-installer", "--dir", dir.to_str().unwrap()]);
    let attempt = site.boots(Firmware::Bios, "Select a language");
    assert_eq!(attempt.reached(), Some(Stage::Initramfs));
}

#[test]
fn a_debian_live_iso_boots_to_its_login() {
    live(Firmware::Bios);
}

#[test]
#[ignore = "costs a minute and runs the same initramfs: by hand, with --ignored"]
fn a_debian_live_iso_boots_to_its_login_on_uefi() {
    live(Firmware::UefiPxe);
}

fn live(firmware: Firmware) {
    let iso = built("images/debian-live.iso");
    let _slot = Slot::take();
    let site = Site::with(&["--live", iso.to_str().unwrap()]);
    let attempt = site.boots(firmware, "live login:");
    let reached: Vec<Stage> = attempt.stages.iter().map(|s| s.stage).collect();
    assert!(reached.ends_with(&[Stage::Initramfs, Stage::Network, Stage::Rootfs]), "{reached:?}");
    let boots = site.lab.cli(&["boots"]).unwrap();
    assert!(boots.contains("handed over") && !boots.contains("stuck"), "{boots}");
}
