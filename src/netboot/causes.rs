use crate::model::{BootAttempt, ClientArch, Stage};

/// Why a boot that stopped moving has likely stopped: one or two sentences for an operator, by the
/// furthest stage and the firmware, the most likely cause first. `native`: its image has Pristine's `init`.
pub fn likely_cause(attempt: &BootAttempt, native: bool) -> String {
    let before_nbp = attempt.reached().is_none_or(|stage| stage <= Stage::Ack);
    if let Some(trouble) = attempt.file_trouble.as_ref().filter(|_| before_nbp) {
        // Seen, not guessed.
        return trouble.clone();
    }
    let firmware = Firmware::of(attempt.firmware);
    match attempt.reached() {
        Some(Stage::Initramfs) if attempt.kexec_from.is_some() => {
            "the kernel was started by kexec and its init never reported: a device that its drivers find as the last \
             kernel left it; turn the machine off and on, and it boots through its firmware"
        }
        None | Some(Stage::Discover) => after_discover(),
        Some(Stage::Offer) => after_offer(firmware),
        Some(Stage::Ack) => after_ack(firmware),
        Some(Stage::Nbp) => after_nbp(firmware),
        Some(Stage::Script) => {
            "it has its boot script but did not fetch the kernel: a firewall lets the script through but not the \
             download, or iPXE shows an error on the console and retries"
        }
        Some(Stage::Kernel) => {
            "it has the kernel but not the whole initramfs: the download broke off (look for a retry screen on the \
             console), or the machine has too little memory for it"
        }
        Some(Stage::Initramfs) if !native => {
            "the kernel was started but its own initramfs did not ask for the root that its command line names: no \
             driver for the NIC, no address by DHCP, an initramfs without network support (live-boot, casper, dracut's \
             livenet), or a panic that only shows on another console (check console= of the command line)"
        }
        Some(Stage::Initramfs) => after_initramfs(firmware),
        Some(Stage::Init) => {
            "its init runs but has no network: the image's initramfs has no driver for the NIC that booted, the cable \
             or switch port is down under Linux (a switch that waits with spanning tree: turn on portfast), or DHCP \
             does not answer it"
        }
        Some(Stage::Network) => {
            "it has a network but not its rootfs: the download is slow or keeps breaking off, or the rootfs is larger \
             than its memory; the console shows how far it is"
        }
        Some(Stage::Rootfs) => {
            "it has the rootfs but could not mount it: the image's kernel or initramfs lacks dm-verity, loop, \
             squashfs or overlay"
        }
        Some(Stage::Verified) => {
            "its root is verified but the image's init was not started: the rootfs has no /sbin/init (or none at the \
             init= of its command line) for this processor"
        }
        Some(Stage::Configured) => {
            "its configuration is applied but the image's init was not started: the rootfs has no /sbin/init (or none at \
             the init= of its command line) for this processor"
        }
        Some(Stage::SwitchRoot) => {
            "the image's own init runs but did not say that it is healthy: a service hangs at its start (see the \
             console), it lost its address, or an image without systemd does not call /run/pristine/agent healthy"
        }
        Some(Stage::Healthy) => "nothing is wrong: it reported healthy",
    }
    .to_owned()
}

#[derive(Clone, Copy)]
enum Firmware {
    Bios,
    Uefi,
    UefiHttp,
    Unknown,
}

impl Firmware {
    fn of(arch: Option<ClientArch>) -> Firmware {
        match arch {
            None | Some(ClientArch::Other(_)) => Firmware::Unknown,
            Some(arch) if arch.is_bios() => Firmware::Bios,
            Some(arch) if arch.is_http() => Firmware::UefiHttp,
            Some(_) => Firmware::Uefi,
        }
    }
}

fn after_discover() -> &'static str {
    "it asks for an address and got no offer from us: no pool or reservation of this link has a free address for it, \
     or the answer does not reach it (relay without a route back, VLAN, DHCP snooping on the switch)"
}

fn after_offer(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::UefiHttp => {
            "it did not take our offer: another DHCP server won, or the switch drops our answers (DHCP snooping); \
             UEFI HTTP Boot also ignores an offer without option 60 `HTTPClient` and a URL"
        }
        _ => {
            "it did not take our offer: another DHCP server on this link won (stop it, or set this interface to \
             mode = \"proxy\"), or the switch drops our answers (DHCP snooping)"
        }
    }
}

fn after_ack(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::Bios => {
            "it has an address but did not fetch its boot program: TFTP (UDP port 69 and the high ports of its \
             answers) is blocked by a firewall, or the NIC's boot ROM asks on UDP port 4011 and gets no answer"
        }
        Firmware::Uefi => {
            "it has an address but did not fetch its boot program: TFTP (UDP 69 and high ports) is blocked, port 4011 \
             is blocked (UEFI asks there after an offer with PXEClient and gives up after 10 s), or this firmware \
             rejects the option 43 of our offer (in proxy mode: name its MAC prefix in no_discovery_control of [dhcp])"
        }
        Firmware::UefiHttp => {
            "it has an address but did not fetch its boot program: the HTTP port is blocked by a firewall, or its \
             firmware allows only HTTPS (a setup option, often called `allow HTTP connections`)"
        }
        Firmware::Unknown => {
            "it has an address but asked for nothing more: its firmware did not say what it is (option 93), so it was \
             offered no boot program, or TFTP (UDP port 69) is blocked"
        }
    }
}

fn after_nbp(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::Bios => {
            "it fetched its boot program but did not ask for its script: iPXE hangs initialising the NIC (set the \
             machine's nbp to ipxe.pxe), it got no second DHCP answer, or the HTTP port is blocked by a firewall"
        }
        Firmware::Uefi | Firmware::UefiHttp => {
            "it fetched its boot program but did not ask for its script: Secure Boot refuses an unsigned one (the \
             console says Access Denied or Security Violation: boot a signed shim, or turn it off), iPXE hangs \
             initialising devices (set the machine's nbp to another file, ipxe.efi or snponly.efi), or the HTTP port \
             is blocked by a firewall"
        }
        Firmware::Unknown => {
            "it fetched its boot program but did not ask for its script: the boot program does not fit its firmware, \
             or the HTTP port is blocked by a firewall"
        }
    }
}

fn after_initramfs(firmware: Firmware) -> &'static str {
    match firmware {
        Firmware::Bios => {
            "the kernel was started but its init never reported: a kernel for another processor, too little memory \
             to unpack the initramfs, or a panic that only shows on another console (check console= of the command \
             line)"
        }
        _ => {
            "the kernel was started but its init never reported: Secure Boot refuses an unsigned kernel, a kernel for \
             another processor, too little memory to unpack the initramfs, or a panic that only shows on another \
             console (check console= of the command line)"
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::model::{AttemptId, Mac, StageEvent};

    fn stuck(stage: Option<Stage>, firmware: Option<ClientArch>) -> String {
        let stages = stage.into_iter().map(|stage| StageEvent { stage, at: 0, detail: None }).collect();
        likely_cause(&BootAttempt { firmware, stages, ..BootAttempt::new(AttemptId(1), Mac([2; 6])) }, true)
    }

    #[test]
    fn what_was_seen_of_its_boot_file_goes_before_a_guess_until_it_has_one() {
        let seen = Some("x.efi broke off".to_owned());
        let at = |stage| BootAttempt {
            file_trouble: seen.clone(),
            stages: vec![StageEvent { stage, at: 0, detail: None }],
            ..BootAttempt::new(AttemptId(1), Mac([2; 6]))
        };
        assert_eq!(likely_cause(&at(Stage::Ack), true), "x.efi broke off");
        assert!(!likely_cause(&at(Stage::Nbp), true).contains("x.efi"));
    }

    #[test]
    fn each_stage_has_a_cause_that_names_what_to_look_at() {
        use ClientArch::{Bios, HttpX64, UefiX64};
        use Stage::*;
        let cases = [
            (None, None, "no offer"),
            (Some(Discover), Some(Bios), "pool"),
            (Some(Offer), Some(UefiX64), "another DHCP server"),
            (Some(Offer), Some(HttpX64), "HTTPClient"),
            (Some(Ack), Some(Bios), "TFTP"),
            (Some(Ack), Some(UefiX64), "4011"),
            (Some(Ack), Some(HttpX64), "HTTP port"),
            (Some(Ack), None, "option 93"),
            (Some(Nbp), Some(UefiX64), "Secure Boot"),
            (Some(Nbp), Some(HttpX64), "Secure Boot"),
            (Some(Nbp), Some(Bios), "initialising"),
            (Some(Nbp), Some(ClientArch::Other(77)), "does not fit"),
            (Some(Script), Some(Bios), "kernel"),
            (Some(Kernel), Some(Bios), "initramfs"),
            (Some(Initramfs), Some(Bios), "console="),
            (Some(Initramfs), Some(UefiX64), "unsigned kernel"),
            (Some(Init), Some(Bios), "driver"),
            (Some(Network), Some(Bios), "memory"),
            (Some(Rootfs), Some(Bios), "dm-verity"),
            (Some(Verified), Some(Bios), "/sbin/init"),
            (Some(SwitchRoot), Some(Bios), "healthy"),
            (Some(Healthy), Some(Bios), "nothing is wrong"),
        ];
        for (stage, firmware, words) in cases {
            let cause = stuck(stage, firmware);
            assert!(cause.contains(words), "{stage:?} {firmware:?}: {cause}");
            assert!(!cause.contains("  ") && cause.len() < 500, "{stage:?}: {cause}");
        }
    }

    #[test]
    fn a_foreign_image_is_told_about_its_own_initramfs() {
        let stages = vec![StageEvent { stage: Stage::Initramfs, at: 0, detail: None }];
        let attempt = BootAttempt { stages, ..BootAttempt::new(AttemptId(1), Mac([2; 6])) };
        let cause = likely_cause(&attempt, false);
        assert!(cause.contains("its own initramfs") && !cause.contains("its init never reported"), "{cause}");
    }

    #[test]
    fn a_bios_is_never_told_about_secure_boot() {
        for stage in [Stage::Nbp, Stage::Initramfs] {
            assert!(!stuck(Some(stage), Some(ClientArch::Bios)).contains("Secure Boot"));
        }
    }
}
