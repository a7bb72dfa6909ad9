//! Follows the service's boot attempts as they happen (`pristine watch --json`), so that a test or
//! a demonstration waits for what it wants to see, never for a while.

use super::{LabError, interrupt, process::Running};
use crate::model::{AttemptId, BootAttempt, Digest, Mac, Stage, StageEvent, Verdict};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

/// Called with each new stage, and with `None` when an attempt ends.
pub type OnEvent = Box<dyn Fn(&BootAttempt, Option<&StageEvent>) + Send>;

/// The attempts seen so far. Dropping it ends the following.
#[derive(Debug)]
pub struct Follow {
    shared: Arc<Shared>,
    _watch: Running,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    attempts: BTreeMap<AttemptId, BootAttempt>,
    ended: bool,
    /// Lines that were no attempt: shown when a wait fails.
    odd: Vec<String>,
}

impl Follow {
    /// Starts `watch`, a command that writes one attempt a line, as JSON. What it says of its own end
    /// is of no interest: a wait tells that it ended.
    pub fn start(mut watch: Command, on_event: OnEvent) -> Result<Follow, LabError> {
        watch.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut watch = Running::start(watch, "pristine watch")?;
        let shared = Arc::new(Shared::default());
        if let Some(stdout) = watch.child().stdout.take() {
            let writer = Arc::clone(&shared);
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    writer.take(&line, &on_event);
                }
                writer.state().ended = true;
                writer.changed.notify_all();
            });
        }
        Ok(Follow { shared, _watch: watch })
    }

    /// Every attempt of a machine, oldest first.
    pub fn attempts(&self, mac: Mac) -> Vec<BootAttempt> {
        let state = self.shared.state();
        let mut out: Vec<_> = state.attempts.values().filter(|a| a.mac == mac).cloned().collect();
        out.sort_by_key(BootAttempt::began);
        out
    }

    /// Every attempt of every machine, oldest first.
    pub fn all(&self) -> Vec<BootAttempt> {
        let mut out: Vec<_> = self.shared.state().attempts.values().cloned().collect();
        out.sort_by_key(BootAttempt::began);
        out
    }

    /// The attempts of a machine up to now, so that a wait can ask for a later one.
    pub fn so_far(&self, mac: Mac) -> BTreeSet<AttemptId> {
        self.attempts(mac).into_iter().map(|a| a.id).collect()
    }

    /// Waits until `wanted` finds what it looks for in an attempt of `mac` that is not in `before`.
    /// `what` says it in words, for the error.
    pub fn wait<T>(
        &self,
        mac: Mac,
        before: &BTreeSet<AttemptId>,
        what: &str,
        bound: Duration,
        mut wanted: impl FnMut(&BootAttempt) -> Option<T>,
    ) -> Result<T, LabError> {
        let end = Instant::now() + bound;
        let mut state = self.shared.state();
        loop {
            let new = state.attempts.values().filter(|a| a.mac == mac && !before.contains(&a.id));
            if let Some(found) = new.into_iter().find_map(&mut wanted) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                let seen: Vec<String> =
                    state.attempts.values().filter(|a| a.mac == mac).map(describe).collect();
                let odd = state.odd.join("\n");
                let gone = if state.ended { "; `pristine watch` has ended" } else { "" };
                let what = format!("{mac}: {what}{gone}. Its attempts: [{}] {odd}", seen.join("; "));
                return Err(LabError::Late { what, bound });
            }
            interrupt::check()?;
            let step = left.min(interrupt::STEP);
            state = self.shared.changed.wait_timeout(state, step).map_or_else(|e| e.into_inner().0, |r| r.0);
        }
    }

    /// Waits until a new attempt of `mac` is healthy; a failed one ends the wait as an error.
    pub fn healthy(
        &self,
        mac: Mac,
        before: &BTreeSet<AttemptId>,
        bound: Duration,
    ) -> Result<BootAttempt, LabError> {
        self.wait(mac, before, "a healthy boot", bound, |attempt| match &attempt.verdict {
            Verdict::Healthy => Some(Ok(attempt.clone())),
            Verdict::Failed { .. } => Some(Err(LabError::Other(describe(attempt)))),
            _ => None,
        })?
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn take(&self, line: &str, on_event: &OnEvent) {
        let Ok(attempt) = serde_json::from_str::<BootAttempt>(line) else {
            let mut state = self.state();
            if state.odd.len() < 20 {
                state.odd.push(line.chars().take(400).collect());
            }
            return;
        };
        let old = self.state().attempts.get(&attempt.id).cloned();
        let known =
            |s: &StageEvent| old.as_ref().is_some_and(|o| o.stages.iter().any(|k| k.stage == s.stage));
        for stage in attempt.stages.iter().filter(|s| !known(s)) {
            on_event(&attempt, Some(stage));
        }
        let was = old.map_or(Verdict::Running, |o| o.verdict);
        if attempt.verdict != was && attempt.verdict != Verdict::Running {
            on_event(&attempt, None);
        }
        self.state().attempts.insert(attempt.id, attempt);
        self.changed.notify_all();
    }
}

/// An attempt in one line.
pub fn describe(attempt: &BootAttempt) -> String {
    let image = attempt.image.map_or_else(|| "no image".to_owned(), |d: Digest| d.short());
    let reached = attempt.reached().map_or_else(|| "nothing".to_owned(), |s| s.to_string());
    format!("boot {} of {image} reached {reached}: {}", attempt.id, attempt.outcome())
}

/// Attempts as a table: one row each, seconds since its first packet in each column.
pub fn table(rows: &[(String, BootAttempt)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(4);
    let mut out = format!("{:width$}", "BOOT");
    for (_, title) in Stage::COLUMNS {
        out += &format!(" {title:>8}");
    }
    out += "  VERDICT\n";
    for (name, attempt) in rows {
        out += &format!("{name:width$}");
        for (stage, _) in Stage::COLUMNS {
            let seconds = |millis| format!("{:.1}", millis as f64 / 1_000.0);
            out += &format!(" {:>8}", attempt.until(stage).map_or_else(|| "-".to_owned(), seconds));
        }
        out += &format!("  {}\n", attempt.outcome());
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    fn line(id: u64, verdict: &str, stages: &[(&str, i64)]) -> String {
        let stages: Vec<_> =
            stages.iter().map(|(s, at)| serde_json::json!({ "stage": s, "at": at })).collect();
        serde_json::json!({
            "id": format!("{id:016x}"), "mac": "52:54:00:19:80:01", "generation": 0,
            "stages": stages, "verdict": verdict,
        })
        .to_string()
    }

    fn follow(lines: &[String]) -> Follow {
        let mut command = Command::new("sh");
        command.args(["-c", r#"printf '%s\n' "$@"; exec sleep 600"#, "sh"]).args(lines);
        Follow::start(command, Box::new(|_, _| {})).unwrap()
    }

    #[test]
    fn waits_for_a_later_attempt_and_not_for_an_old_one() {
        let old = line(1, "healthy", &[("discover", 1000), ("healthy", 9000)]);
        let new = line(2, "healthy", &[("discover", 20_000), ("ack", 20_150), ("healthy", 31_000)]);
        let follow = follow(&[old, new]);
        let mac = "52:54:00:19:80:01".parse().unwrap();
        let bound = Duration::from_secs(20);
        let before = BTreeSet::from([AttemptId(1)]);
        let attempt = follow.healthy(mac, &before, bound).unwrap();
        assert_eq!(attempt.id, AttemptId(2));
        let shown = table(&[("vm".to_owned(), attempt)]);
        assert!(shown.lines().nth(1).unwrap().contains("0.1"), "{shown}");
        assert!(shown.contains("11.0"), "{shown}");
        let before = BTreeSet::from([AttemptId(1), AttemptId(2)]);
        let error = follow.healthy(mac, &before, Duration::from_millis(5)).unwrap_err().to_string();
        assert!(error.contains("reached healthy"), "{error}");
    }
}
