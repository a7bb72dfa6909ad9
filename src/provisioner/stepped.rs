//! A wall clock that was set while the service was down. Times on record are wall times: without this a
//! step ahead would end leases that machines still use, and a step back would keep them for years.

use super::{Provisioner, state::Effects};
use crate::{
    model::Millis,
    store::{db::DbError, durable},
    sys,
};
use std::{fs, path::Path};

/// Where the last start left its clocks, in the state folder.
const CLOCKS: &str = "clocks";
/// Smaller differences are a clock that drifts.
const STEP: Millis = 60_000;

/// What two clocks showed at one moment, in one boot of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Clocks {
    /// The kernel's name of that boot.
    boot: String,
    /// Since that boot.
    running: Millis,
    /// Wall time.
    wall: Millis,
}

impl Clocks {
    fn at(wall: Millis) -> Option<Clocks> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let running = Millis::try_from(sys::since_boot()?.as_millis()).ok()?;
        Some(Clocks { boot, running, wall })
    }

    fn read(text: &str) -> Option<Clocks> {
        let mut words = text.split_whitespace();
        let boot = words.next()?.to_owned();
        Some(Clocks { boot, running: words.next()?.parse().ok()?, wall: words.next()?.parse().ok()? })
    }

    fn text(&self) -> String {
        format!("{} {} {}\n", self.boot, self.running, self.wall)
    }

    fn keep(&self, path: &Path) {
        if let Err(error) = durable::write_atomic(path, self.text().as_bytes(), 0o600) {
            let path = path.display();
            tracing::warn!(%error, "can't write {path}: a clock that is set before the next start will not be noticed");
        }
    }

    /// By how much the wall clock was set since `before`. `None`: it was not, or the host was started anew
    /// since then and nobody can tell.
    fn stepped_since(&self, before: &Clocks) -> Option<Millis> {
        let passed = self.running.checked_sub(before.running);
        let passed = passed.filter(|p| *p >= 0 && self.boot == before.boot)?;
        let step = self.wall.saturating_sub(before.wall.saturating_add(passed));
        (step.saturating_abs() >= STEP).then_some(step)
    }
}

impl Provisioner {
    /// To be called once, before anything is answered: leases that ran when the clock was set run on for
    /// as long as they had left. Returns when that is on disk.
    ///
    /// # Errors
    /// It could not be written down: nothing must be answered by these leases.
    pub async fn follow_clock(&self, state_dir: &Path) -> Result<(), DbError> {
        let path = state_dir.join(CLOCKS);
        let Some(clocks) = Clocks::at(self.now()) else { return Ok(()) };
        let before = fs::read_to_string(&path).ok().and_then(|text| Clocks::read(&text));
        let step = before.and_then(|before| clocks.stepped_since(&before)).unwrap_or(0);
        // A start that is killed between the two moves leases twice where they move ahead, never where they
        // move back: too long holds an address, too short gives it to another.
        if step <= 0 {
            clocks.keep(&path);
        }
        if step != 0 {
            self.move_leases(step, clocks.wall).await?;
        }
        if step > 0 {
            clocks.keep(&path);
        }
        Ok(())
    }

    async fn move_leases(&self, step: Millis, now: Millis) -> Result<(), DbError> {
        let commit = {
            let mut locked = self.state();
            let changes = locked.leases.move_with_clock(step, now);
            tracing::warn!(
                seconds = step / 1_000,
                leases = changes.len(),
                "the clock was set while the service was down: leases that ran go on for as long as they had left"
            );
            self.hand_on(&locked, Effects { changes, ..Effects::default() })
        };
        commit.await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn a_step_is_told_from_time_that_passed_and_from_another_boot() {
        let before = Clocks { boot: "a".into(), running: 1_000, wall: 1_000_000_000 };
        assert_eq!(Clocks::read(&before.text()), Some(before.clone()));
        assert_eq!(Clocks::read("junk"), None);
        let later = |wall| Clocks { running: 501_000, wall, ..before.clone() };
        assert_eq!(later(1_000_500_000).stepped_since(&before), None);
        assert_eq!(later(1_000_500_000 + STEP - 1).stepped_since(&before), None, "it drifts");
        assert_eq!(later(1_086_900_000).stepped_since(&before), Some(86_400_000));
        assert_eq!(later(914_100_000).stepped_since(&before), Some(-86_400_000));
        let rebooted = Clocks { boot: "b".into(), ..later(1_086_900_000) };
        assert_eq!(rebooted.stepped_since(&before), None);
    }
}
