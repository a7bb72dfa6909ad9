//! `pristine watch`: what machines do, as they do it.

use super::{Context, Failure, Outcome, context::print, text};
use crate::model::{AttemptId, BootAttempt, Verdict};
use clap::Args;
use std::collections::BTreeMap;

/// Boots that are remembered to tell new steps from old ones.
const REMEMBERED: usize = 20_000;

/// Follow boots live, one line a step, until Ctrl-C. With --json one whole boot a line.
#[derive(Debug, Args)]
pub struct Watch {
    /// Only this machine (MAC or hostname)
    machine: Option<String>,
}

impl Watch {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let client = context.client()?;
        let only = self.machine.map(|key| client.machine(&key)).transpose()?.map(|m| m.mac);
        let tags = if context.json { text::Tags::default() } else { text::Tags::fetch(&client) };
        let mut told = Told::default();
        for attempt in client.watch()? {
            let attempt = attempt?;
            if only.is_some_and(|mac| mac != attempt.mac) {
                continue;
            }
            if context.json {
                print(&(serde_json::to_string(&attempt)? + "\n"))?;
            } else {
                print(&told.news(&attempt, &tags))?;
            }
        }
        Err(Failure::text("the service ended, and the live view with it"))
    }
}

/// What was printed of each boot.
#[derive(Default)]
struct Told {
    boots: BTreeMap<AttemptId, (usize, bool)>,
}

impl Told {
    /// Lines about what is new of this boot.
    fn news(&mut self, a: &BootAttempt, tags: &text::Tags) -> String {
        if self.boots.len() >= REMEMBERED && !self.boots.contains_key(&a.id) {
            self.boots.retain(|_, (_, ended)| !*ended);
            if self.boots.len() >= REMEMBERED {
                self.boots.clear();
            }
        }
        let (steps, ended) = self.boots.entry(a.id).or_insert((0, false));
        let began = a.began().unwrap_or_default();
        let mut out = String::new();
        let mut line = |at: i64, what: &str, detail: &str| {
            let since = text::seconds(at - began);
            let line =
                format!("{}  {}  +{since:<6}  {what:<11}  {}", text::clock(at), a.mac, text::clean(detail));
            out.push_str(line.trim_end());
            out.push('\n');
        };
        for step in a.stages.iter().skip(*steps) {
            let mut detail = step.detail.clone().unwrap_or_default();
            if step.stage == crate::model::Stage::Script && detail.is_empty() {
                detail = a.image.map(|d| tags.image(d)).unwrap_or_default();
            }
            line(step.at, &step.stage.to_string(), &detail);
        }
        *steps = a.stages.len();
        let over = !matches!(a.verdict, Verdict::Running);
        if over && !*ended && a.verdict != Verdict::Healthy {
            let last = a.stages.last().map_or(began, |s| s.at);
            let (what, detail) = match &a.verdict {
                Verdict::Failed { reason } => ("FAILED", reason.clone()),
                Verdict::Stuck { .. } => ("STUCK", a.outcome()),
                _ => ("ended", a.outcome()),
            };
            line(last, what, &detail);
        }
        *ended = over;
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn tells_each_step_once_and_how_it_ended() {
        let mut value = serde_json::json!({
            "id": "00000000000000aa", "mac": "52:54:00:00:00:01", "verdict": "running", "generation": 0,
            "stages": [{"stage": "discover", "at": 1_764_000_000_000i64}, {"stage": "ack", "at": 1_764_000_000_020i64, "detail": "198.18.0.20"}],
        });
        let mut told = Told::default();
        let tags = text::Tags::default();
        let mut news = |v: &serde_json::Value| told.news(&serde_json::from_value(v.clone()).unwrap(), &tags);
        assert_eq!(
            news(&value),
            "16:00:00.000  52:54:00:00:00:01  +0.0     discover\n16:00:00.020  52:54:00:00:00:01  +0.0     ack          198.18.0.20\n"
        );
        assert_eq!(news(&value), "");
        value["verdict"] = "failed".into();
        value["reason"] = "no such\nluck".into();
        assert_eq!(news(&value), "16:00:00.020  52:54:00:00:00:01  +0.0     FAILED       no such?luck\n");
        assert_eq!(news(&value), "");
    }
}
