//! Boot attempts as rules: what begins one, what continues it, when it is stuck. Pure.
//!
//! An attempt is one power-on. The wire doesn't say "power-on", so it is told from the order of
//! packets: firmware asks for an address first thing, and asks again for nothing once it runs an NBP.

use crate::{
    model::{BootAttempt, ClientKind, Manifest, Millis, Stage, StageEvent, Verdict},
    netboot::cmdline,
};

/// Retransmissions of one DISCOVER come within this; later ones are a new try of the firmware.
const RETRANSMIT: Millis = 60_000;

/// What a packet means for the machine's latest attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It begins a new one.
    Begin,
    /// It belongs to the latest one.
    Continue,
    /// It belongs to none.
    Nothing,
}

/// The latest attempt of a machine, as far as [`step`] needs it.
#[derive(Clone, Copy, Debug)]
pub struct Latest<'a> {
    /// Its record.
    pub attempt: &'a BootAttempt,
    /// When its machine was last heard of.
    pub heard: Millis,
    /// True where firmware (not an iPXE ROM) began it.
    pub by_firmware: bool,
}

/// How far the boot of an image can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its `init` reports each stage.
    Reports,
    /// Foreign; its own initramfs fetches its root from here.
    Fetches,
    /// Foreign; nothing after what the boot loader gets.
    Loads,
}

impl Seen {
    /// By an image's manifest.
    pub fn of(manifest: &Manifest) -> Seen {
        match manifest.native {
            true => Seen::Reports,
            false if manifest.rootfs.is_some() && cmdline::fetches_root(&manifest.cmdline) => Seen::Fetches,
            false => Seen::Loads,
        }
    }
}

/// The last stage that is seen of a foreign image.
pub fn last_seen(manifest: &Manifest) -> Option<Stage> {
    match Seen::of(manifest) {
        Seen::Reports => None,
        Seen::Fetches => Some(Stage::Rootfs),
        Seen::Loads if manifest.initramfs.is_empty() => Some(Stage::Kernel),
        Seen::Loads => Some(Stage::Initramfs),
    }
}

/// Where a DHCP packet of this kind of client belongs. `discover` tells DHCPDISCOVER from the others.
pub fn step(latest: Option<Latest<'_>>, kind: ClientKind, discover: bool, now: Millis) -> Step {
    let Some(latest) = latest else {
        return match kind {
            ClientKind::Init | ClientKind::Other => Step::Nothing,
            _ => Step::Begin,
        };
    };
    let reached = latest.attempt.reached().unwrap_or(Stage::Discover);
    let fresh = now.saturating_sub(latest.heard) <= RETRANSMIT;
    match kind {
        ClientKind::Init | ClientKind::Other => match latest.attempt.verdict {
            Verdict::Running | Verdict::Stuck { .. } => Step::Continue,
            _ => Step::Nothing,
        },
        // A REQUEST follows its DISCOVER. Alone it is seen only where the service was down meanwhile.
        _ if !discover => match reached < Stage::Script || fresh {
            true => Step::Continue,
            false => Step::Begin,
        },
        ClientKind::Firmware(_) | ClientKind::RaspberryPi => match reached < Stage::Ack && fresh {
            true => Step::Continue,
            false => Step::Begin,
        },
        ClientKind::Ipxe(features) => match reached {
            // At a screen of ours (discover, refused), which asks anew.
            Stage::Script if latest.attempt.image.is_none() => Step::Continue,
            // The NBP that firmware, or an iPXE ROM without HTTP, has fetched now runs.
            Stage::Nbp if features.http => Step::Continue,
            // Beside another DHCP server we may never see the firmware's REQUEST nor its NBP's fetch.
            Stage::Discover | Stage::Offer if latest.by_firmware => Step::Continue,
            Stage::Discover | Stage::Offer if fresh => Step::Continue,
            _ => Step::Begin,
        },
    }
}

/// Records that a stage is reached. False, and nothing changed, where it was reached before. A stuck
/// attempt that moves again is running again.
pub fn record(attempt: &mut BootAttempt, stage: Stage, now: Millis, detail: Option<String>) -> bool {
    if attempt.stages.iter().any(|s| s.stage == stage) {
        return false;
    }
    attempt.stages.push(StageEvent { stage, at: now, detail });
    if matches!(attempt.verdict, Verdict::Stuck { .. }) {
        attempt.verdict = Verdict::Running;
    }
    if stage == Stage::Healthy {
        attempt.verdict = Verdict::Healthy;
    }
    true
}

/// The machine began another attempt. True if that changes this one.
pub fn supersede(attempt: &mut BootAttempt) -> bool {
    let running = attempt.verdict == Verdict::Running;
    if running {
        attempt.verdict = Verdict::Superseded;
    }
    running
}

/// How long an attempt may stay where it is before it counts as stuck; `None` where nothing more is
/// expected.
pub fn deadline(attempt: &BootAttempt, seen: Seen) -> Option<Millis> {
    let seconds = match attempt.reached()? {
        // It waits at a screen for an operator.
        Stage::Script if attempt.image.is_none() && attempt.waits_with.is_none() => return None,
        // The same, in memory.
        Stage::Network if attempt.waits_with.is_some() => return None,
        // Its last stage; a foreign image that fetches its root has a slow initramfs (udev settles, DHCP is
        // tried on each NIC in turn).
        Stage::Initramfs if seen == Seen::Loads => return None,
        Stage::Initramfs if seen == Seen::Fetches => 600,
        // It fetches its root: gigabytes, and nobody tells how far it is.
        Stage::Network if seen != Seen::Reports => return None,
        // Firmware collects offers for some seconds and then asks; with nobody's ACK it is over soon.
        Stage::Discover | Stage::Offer => 60,
        Stage::Ack => 90,
        // A first iPXE may wait 65 s for an IPv6 that isn't there.
        Stage::Nbp => 120,
        // Kernel and initramfs are known only when whole; TFTP-speed links take minutes.
        Stage::Script | Stage::Kernel => 180,
        // The kernel starts; drivers of big servers take a minute.
        Stage::Initramfs => 180,
        Stage::Init => 120,
        // The rootfs comes. Progress of the download moves this on.
        Stage::Network => 180,
        Stage::Rootfs => 300,
        // Checks of volumes take their time.
        Stage::Verified => 600,
        Stage::Configured => 120,
        // The image's own start-up.
        Stage::SwitchRoot => 600,
        Stage::Healthy => return None,
    };
    Some(seconds * 1_000)
}

/// Marks an attempt that moved last at `moved` as stuck, if its time is over. `cause` puts the likely
/// cause in words. True if that changed it.
pub fn check(
    attempt: &mut BootAttempt,
    moved: Millis,
    seen: Seen,
    now: Millis,
    cause: &dyn Fn(&BootAttempt) -> String,
) -> bool {
    let over = deadline(attempt, seen).is_some_and(|d| now.saturating_sub(moved) >= d);
    let stuck = over && attempt.verdict == Verdict::Running;
    if stuck {
        attempt.verdict = Verdict::Stuck { cause: cause(attempt) };
    }
    stuck
}

/// What a machine says, made fit for a record and a screen: no control characters, no novels.
pub fn tidy(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(400).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::model::{AttemptId, BootMethod, Digest, IpxeFeatures, Mac};

    const PXE: ClientKind = ClientKind::Firmware(BootMethod::Pxe);
    const OLD_ROM: ClientKind = ClientKind::Ipxe(IpxeFeatures { http: false, efi: false, ours: false });
    const IPXE: ClientKind = ClientKind::Ipxe(IpxeFeatures { http: true, efi: true, ours: false });

    fn at(stages: &[Stage]) -> BootAttempt {
        let mut a = BootAttempt::new(AttemptId(1), Mac([2, 0, 0, 0, 0, 1]));
        for stage in stages {
            record(&mut a, *stage, 1_000, None);
        }
        a
    }

    fn next(stages: &[Stage], by_firmware: bool, kind: ClientKind) -> Step {
        let mut attempt = at(stages);
        if stages.contains(&Stage::Kernel) {
            attempt.image = Some(Digest::of(b"x"));
        }
        step(Some(Latest { attempt: &attempt, heard: 1_000, by_firmware }), kind, true, 2_000)
    }

    use Stage::*;

    #[test]
    fn firmware_asking_after_an_ack_is_a_new_power_on_and_before_it_a_retransmission() {
        assert_eq!(step(None, PXE, true, 0), Step::Begin);
        assert_eq!(next(&[Discover], true, PXE), Step::Continue);
        assert_eq!(next(&[Discover, Offer], true, PXE), Step::Continue);
        assert_eq!(next(&[Discover, Offer, Ack], true, PXE), Step::Begin);
        assert_eq!(next(&[Discover, Ack, Nbp, Script, Kernel], true, PXE), Step::Begin);
        assert_eq!(next(&[Discover, Ack, Script, Kernel, Healthy], true, PXE), Step::Begin);
        let attempt = at(&[Discover, Offer]);
        let latest = Latest { attempt: &attempt, heard: 1_000, by_firmware: true };
        assert_eq!(step(Some(latest), PXE, true, 200_000), Step::Begin, "a minute of silence lies between");
    }

    #[test]
    fn ipxe_continues_the_firmware_that_fetched_it_and_begins_otherwise() {
        assert_eq!(step(None, IPXE, true, 0), Step::Begin);
        assert_eq!(next(&[Discover, Offer, Ack, Nbp], true, IPXE), Step::Continue);
        assert_eq!(next(&[Discover, Offer, Ack], true, IPXE), Step::Begin);
        assert_eq!(next(&[Discover, Offer, Ack, Nbp, Script, Kernel], true, IPXE), Step::Begin);
        assert_eq!(next(&[Discover, Offer, Ack], false, IPXE), Step::Begin);
        assert_eq!(next(&[Discover, Offer], false, IPXE), Step::Continue, "a retransmission");
        assert_eq!(next(&[Discover, Offer], true, IPXE), Step::Continue, "proxy: the ACK was another's");
        assert_eq!(next(&[Discover, Offer, Ack, Nbp], false, OLD_ROM), Step::Begin, "power-cycled");
        assert_eq!(next(&[Discover, Offer, Ack, Nbp, Script], true, IPXE), Step::Continue, "our screen");
    }

    #[test]
    fn init_and_the_system_never_begin_one() {
        for kind in [ClientKind::Init, ClientKind::Other] {
            assert_eq!(step(None, kind, true, 0), Step::Nothing);
            assert_eq!(next(&[Discover, Ack, Script, Kernel], true, kind), Step::Continue);
            assert_eq!(next(&[Discover, Ack, Script, Kernel, Healthy], true, kind), Step::Nothing);
        }
    }

    #[test]
    fn an_attempt_without_progress_is_stuck_and_one_that_moves_again_is_not() {
        let mut a = at(&[Discover, Offer, Ack]);
        let cause = |a: &BootAttempt| format!("after {:?}", a.reached().unwrap());
        assert!(!check(&mut a, 1_000, Seen::Reports, 90_999, &cause));
        assert!(check(&mut a, 1_000, Seen::Reports, 91_000, &cause));
        assert_eq!(a.verdict, Verdict::Stuck { cause: "after Ack".into() });
        assert!(!check(&mut a, 1_000, Seen::Reports, 99_000, &cause), "said once");
        assert!(!record(&mut a, Ack, 100_000, None), "a repeated stage is no progress");
        assert!(matches!(a.verdict, Verdict::Stuck { .. }));
        assert!(record(&mut a, Nbp, 101_000, None));
        assert_eq!(a.verdict, Verdict::Running);
    }

    #[test]
    fn nothing_more_is_expected_of_a_waiting_screen_nor_of_an_image_that_does_not_report() {
        let mut a = at(&[Discover, Ack, Script]);
        assert_eq!(deadline(&a, Seen::Reports), None);
        a.image = Some(Digest::of(b"x"));
        assert!(deadline(&a, Seen::Loads).is_some(), "its kernel must still be fetched");
        record(&mut a, Kernel, 2_000, None);
        assert!(deadline(&a, Seen::Loads).is_some(), "and its initramfs");
        record(&mut a, Initramfs, 2_000, None);
        assert_eq!(deadline(&a, Seen::Loads), None);
        assert!(deadline(&a, Seen::Fetches) > deadline(&a, Seen::Reports));
        record(&mut a, Network, 2_000, None);
        assert_eq!(deadline(&a, Seen::Fetches), None, "a long download is no fault");
        assert!(deadline(&a, Seen::Reports).is_some());
    }

    #[test]
    fn only_a_running_attempt_is_superseded() {
        let mut a = at(&[Discover, Ack]);
        assert!(supersede(&mut a));
        let mut failed = at(&[Discover]);
        failed.verdict = Verdict::Failed { reason: "x".into() };
        assert!(!supersede(&mut failed));
    }
}
