//! What a booting machine says, and what is seen of its downloads.

use super::{
    Provisioner, Report, ReportError,
    attempts::{self, tidy},
    state::Effects,
};
use crate::model::{AttemptId, BootAttempt, Digest, Millis, Stage, Verdict};

/// A token is dead this long after its script, whatever became of the boot.
const TOKEN_LIFE: Millis = 24 * 3_600 * 1_000;
/// A boot that began later than now by less is one of a clock that was set right a little.
const CLOCK_SLACK: Millis = 5 * 60 * 1_000;

impl Provisioner {
    /// A machine reports, with its boot's token. Each stage is taken once; what is said again is
    /// refused as [`ReportError::Already`] and changes nothing, so that a lost answer can be retried.
    /// The token dies with `healthy` or a failure.
    pub async fn report(&self, token: &str, report: Report) -> Result<(), ReportError> {
        let done = self.report_locked(token, report);
        let commit = match done {
            Ok(commit) => commit,
            Err(e) => {
                self.state().stats.reports_refused += 1;
                // To the machine this means that it was heard: then it must be on disk as well.
                if e == ReportError::Already {
                    self.saved().await?;
                }
                return Err(e);
            }
        };
        commit.await?;
        self.state().stats.reports += 1;
        Ok(())
    }

    fn report_locked(&self, token: &str, report: Report) -> Result<crate::store::db::Commit, ReportError> {
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        let tracked = state.attempts.by_token(token).ok_or(ReportError::UnknownToken)?;
        let (id, mac, image) = (tracked.attempt.id, tracked.attempt.mac, tracked.attempt.image);
        accepts(&tracked.attempt, &report, now)?;
        match report {
            Report::Stage { stage, detail } => {
                let detail = detail.map(|d| tidy(&d)).filter(|d| !d.is_empty());
                state.record(id, stage, detail, now, &mut fx);
                if stage == Stage::Healthy
                    && let Some(machine) = state.machines.get(mac)
                {
                    let mut machine = machine.clone();
                    machine.last_healthy = image;
                    machine.last_seen = now;
                    state.put(machine, &mut fx);
                }
            }
            Report::Failed { failed } => {
                let reason = match tidy(&failed) {
                    empty if empty.is_empty() => "it gave no reason".to_owned(),
                    reason => reason,
                };
                state.update(id, &mut fx, |t| {
                    t.attempt.verdict = Verdict::Failed { reason };
                    t.heard = now;
                    true
                });
            }
        }
        Ok(self.hand_on(&locked, fx))
    }

    /// The rack of the machine in this boot, where the blob is the root that the `init` of its image
    /// fetches; `None` where it is another. That it asks is progress: it may have to wait for its turn.
    pub fn root_asked(&self, boot: AttemptId, digest: Digest) -> Option<Option<String>> {
        let image = self.state().attempts.get(boot)?.attempt.image?;
        let image = self.0.images.get(image).ok().flatten()?;
        if !image.manifest.native || image.manifest.rootfs.is_none_or(|root| root.blob.digest != digest) {
            return None;
        }
        let now = self.now();
        let mut locked = self.state();
        let mut fx = Effects::default();
        locked.goes_on(boot, now, &mut fx);
        let mac = locked.attempts.get(boot)?.attempt.mac;
        let rack = locked.machines.get(mac).and_then(|machine| machine.rack.clone());
        drop(self.hand_on(&locked, fx));
        Some(rack)
    }

    /// A machine in this boot began to fetch a blob. Of a foreign image's root this tells that its own
    /// initramfs runs and has a network.
    pub async fn blob_begun(&self, boot: AttemptId, digest: Digest) {
        let Some(image) = self.state().attempts.get(boot).and_then(|t| t.attempt.image) else { return };
        let Ok(Some(image)) = self.0.images.get(image) else { return };
        let manifest = &image.manifest;
        if manifest.native || manifest.rootfs.is_none_or(|root| root.blob.digest != digest) {
            return;
        }
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        locked.record(boot, Stage::Network, Some("fetches its root".to_owned()), now, &mut fx);
        drop(self.hand_on(&locked, fx));
    }

    /// A blob was sent to a machine in this boot, whole or a part of it.
    pub async fn blob_fetched(&self, boot: AttemptId, digest: Digest, complete: bool) {
        let loads = |a: &BootAttempt| a.image.or(a.waits_with);
        let Some(image) = self.state().attempts.get(boot).and_then(|t| loads(&t.attempt)) else { return };
        let Ok(Some(image)) = self.0.images.get(image) else { return };
        let stage = match &image.manifest {
            m if m.kernel.digest == digest => Some(Stage::Kernel),
            // Loaders fetch them in order: the last one is all of them.
            m if m.initramfs.last().is_some_and(|b| b.digest == digest) => Some(Stage::Initramfs),
            // A native image's `init` says so itself.
            m if !m.native && m.rootfs.is_some_and(|root| root.blob.digest == digest) => Some(Stage::Rootfs),
            _ => None,
        };
        let now = self.now();
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;
        state.goes_on(boot, now, &mut fx);
        if let Some(stage) = stage.filter(|_| complete) {
            state.record(boot, stage, None, now, &mut fx);
            let last = attempts::last_seen(&image.manifest);
            state.update(boot, &mut fx, |t| {
                let over = last.is_some_and(|last| stage >= last) && t.attempt.verdict == Verdict::Running;
                if over {
                    t.attempt.verdict = Verdict::HandedOver;
                }
                over
            });
        }
        drop(self.hand_on(&locked, fx));
    }
}

fn accepts(attempt: &BootAttempt, report: &Report, now: Millis) -> Result<(), ReportError> {
    match report {
        Report::Stage { stage, .. } if *stage < Stage::Init => {
            return Err(ReportError::NotReportable(*stage));
        }
        Report::Stage { stage, .. } if attempt.stages.iter().any(|s| s.stage == *stage) => {
            return Err(ReportError::Already);
        }
        Report::Failed { .. } if matches!(attempt.verdict, Verdict::Failed { .. }) => {
            return Err(ReportError::Already);
        }
        Report::Stage { .. } | Report::Failed { .. } => {}
    }
    alive(attempt, now).map_err(ReportError::DeadToken)
}

/// Whether a boot's token still counts; what the boot has done where it doesn't.
pub(super) fn alive(attempt: &BootAttempt, now: Millis) -> Result<(), &'static str> {
    let given = attempt.stages.iter().find(|s| s.stage == Stage::Script).map_or(now, |s| s.at);
    match attempt.verdict {
        Verdict::Healthy => Err("reported healthy"),
        Verdict::Failed { .. } => Err("failed"),
        Verdict::Superseded => Err("been followed by another one"),
        _ if now.saturating_sub(given) >= TOKEN_LIFE => Err("begun more than a day ago"),
        // The clock was set back while the service was down: how old it is can't be told.
        _ if given.saturating_sub(now) >= CLOCK_SLACK => Err("begun at a time that has not come yet"),
        Verdict::Running | Verdict::Stuck { .. } | Verdict::Local | Verdict::HandedOver => Ok(()),
    }
}
