//! Last-known-good: a machine that an image fails again and again gets the last one that was healthy on
//! it, without anyone acting. Pure.
//!
//! A boot counts against its image only once the machine had all that a boot loader fetches, kernel and
//! initramfs, and then failed, fell silent or began anew before it was healthy: what keeps a machine from
//! fetching is no fault of the image. Only images whose `init` reports are judged, since of the others
//! nobody knows whether they came up. Nor is it its fault where the machine's own configuration can't be applied.

use super::attempts::Seen;
use crate::model::{BootAttempt, BootTarget, Digest, FailingImage, Machine, Millis, Stage, Verdict};

/// Images that one machine's record names as failing; the one that failed longest ago makes room.
const MAX_FAILING: usize = 8;

/// Why this boot counts against its image; `None` where it doesn't.
fn failure(attempt: &BootAttempt, seen: Seen) -> Option<String> {
    // Until its init runs, a start by kexec hangs on the kernel before.
    let from = if attempt.kexec_from.is_some() { Stage::Init } else { Stage::Initramfs };
    let loaded = attempt.stages.iter().any(|s| s.stage >= from);
    // What failed then is the machine's configuration or its volumes: with another image it would fail as well.
    let configuring = attempt.config.is_some() && attempt.reached() == Some(Stage::Verified);
    if attempt.image.is_none() || seen != Seen::Reports || !loaded || configuring {
        return None;
    }
    match attempt.verdict {
        Verdict::Failed { .. } | Verdict::Stuck { .. } => Some(attempt.outcome()),
        Verdict::Superseded => {
            let at = attempt.reached().map_or_else(String::new, |s| format!(" after {s}"));
            Some(format!("started over{at}, before it was healthy"))
        }
        Verdict::Running | Verdict::Healthy | Verdict::Local | Verdict::HandedOver => None,
    }
}

/// Notes on the machine's record how a boot ended, once a boot. True if that changed the record.
pub fn note(machine: &mut Machine, attempt: &BootAttempt, seen: Seen, now: Millis) -> bool {
    let Some(image) = attempt.image else { return false };
    let at = machine.failing.iter().position(|f| f.image == image);
    if attempt.verdict == Verdict::Healthy {
        machine.failing.retain(|f| f.image != image);
        return at.is_some();
    }
    let Some(reason) = failure(attempt, seen) else { return false };
    let known = at.map(|at| machine.failing.remove(at));
    let mut failing =
        known.unwrap_or(FailingImage { image, boots: 0, since: now, last: None, reason: String::new() });
    // One that was stuck and moves again may end a second time.
    let counted = failing.last == Some(attempt.id);
    if !counted {
        failing.boots = failing.boots.saturating_add(1);
        failing.last = Some(attempt.id);
    }
    let changed = !counted || failing.reason != reason;
    failing.reason = reason;
    machine.failing.push(failing);
    if machine.failing.len() > MAX_FAILING {
        machine.failing.remove(0);
    }
    changed
}

/// The image that takes the place of `target`, and what it failed with: where it failed `after` boots in
/// a row, and another one was healthy on this machine. With `after` 0 none ever does.
pub fn instead_of<'a>(
    machine: &'a Machine,
    target: &BootTarget,
    after: u32,
) -> Option<(Digest, &'a FailingImage)> {
    let BootTarget::Image { digest } = target else { return None };
    let failing = machine.failing.iter().find(|f| f.image == *digest)?;
    let good = machine.last_healthy.filter(|good| good != digest)?;
    (after > 0 && failing.boots >= after).then_some((good, failing))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::{
        model::{AttemptId, Mac},
        provisioner::attempts::record,
    };
    use Stage::*;

    const GOOD: &[u8] = b"good";

    fn machine() -> Machine {
        let mut m = Machine::new(Mac([2, 0, 0, 0, 0, 1]), 0);
        m.last_healthy = Some(Digest::of(GOOD));
        m
    }

    fn boot(id: u64, image: &[u8], stages: &[Stage], verdict: Verdict) -> BootAttempt {
        let mut a = BootAttempt::new(AttemptId(id), Mac([2, 0, 0, 0, 0, 1]));
        a.image = Some(Digest::of(image));
        for s in stages {
            record(&mut a, *s, 0, None);
        }
        a.verdict = verdict;
        a
    }

    fn failed() -> Verdict {
        Verdict::Failed { reason: "no root".into() }
    }

    fn image(bytes: &[u8]) -> BootTarget {
        BootTarget::Image { digest: Digest::of(bytes) }
    }

    fn falls_back(m: &Machine, after: u32) -> Option<u32> {
        let (good, failing) = instead_of(m, &image(b"new"), after)?;
        assert_eq!(good, Digest::of(GOOD));
        Some(failing.boots)
    }

    #[test]
    fn boots_count_once_each_and_the_policy_says_how_many_are_too_many() {
        let mut m = machine();
        let all = &[Script, Kernel, Initramfs, Init];
        assert!(note(&mut m, &boot(1, b"new", all, failed()), Seen::Reports, 5));
        assert!(!note(&mut m, &boot(1, b"new", all, failed()), Seen::Reports, 6), "the same boot");
        assert_eq!((falls_back(&m, 1), falls_back(&m, 2), falls_back(&m, 0)), (Some(1), None, None));
        let stuck = Verdict::Stuck { cause: "silent".into() };
        assert!(note(&mut m, &boot(2, b"new", all, stuck), Seen::Reports, 7));
        assert!(note(&mut m, &boot(3, b"new", all, Verdict::Superseded), Seen::Reports, 8));
        assert_eq!(falls_back(&m, 3), Some(3));
        let f = &m.failing[0];
        assert_eq!((f.since, f.reason.as_str()), (5, "started over after init, before it was healthy"));
        assert_eq!(instead_of(&m, &image(GOOD), 3), None);
        assert_eq!(instead_of(&m, &BootTarget::Local, 3), None);
    }

    #[test]
    fn what_is_no_fault_of_the_image_does_not_count() {
        let mut m = machine();
        let all = &[Script, Kernel, Initramfs, Init];
        for (stages, seen, verdict) in [
            (&[Script, Kernel][..], Seen::Reports, failed()),
            (all, Seen::Fetches, failed()),
            (all, Seen::Loads, Verdict::Superseded),
            (all, Seen::Reports, Verdict::Running),
            (all, Seen::Reports, Verdict::HandedOver),
        ] {
            assert!(!note(&mut m, &boot(1, b"new", stages, verdict), seen, 5));
        }
        let mut none = boot(1, b"new", all, failed());
        none.image = None;
        assert!(!note(&mut m, &none, Seen::Reports, 5));
        assert_eq!(m, machine());
    }

    #[test]
    fn a_healthy_boot_wipes_the_slate_and_without_a_good_image_there_is_no_way_back() {
        let mut m = machine();
        let all = &[Script, Kernel, Initramfs, Init];
        note(&mut m, &boot(1, b"new", all, failed()), Seen::Reports, 5);
        assert!(note(&mut m, &boot(2, b"new", all, Verdict::Healthy), Seen::Reports, 6));
        assert_eq!(falls_back(&m, 1), None);
        note(&mut m, &boot(3, b"new", all, failed()), Seen::Reports, 7);
        m.last_healthy = None;
        assert_eq!(falls_back(&m, 1), None);
        m.last_healthy = Some(Digest::of(b"new"));
        assert_eq!(falls_back(&m, 1), None, "no other one is known to be better");
    }

    #[test]
    fn the_record_is_bounded_and_keeps_what_failed_last() {
        let mut m = machine();
        for n in 0..20_u64 {
            let a = boot(n, &n.to_le_bytes(), &[Initramfs], failed());
            note(&mut m, &a, Seen::Reports, 0);
        }
        assert_eq!(m.failing.len(), MAX_FAILING);
        assert_eq!(m.failing.last().unwrap().image, Digest::of(&19_u64.to_le_bytes()));
    }
}
