//! `pristine log`: what changed of what machines boot, by whom and why.

use super::{Context, Failure, Outcome, changes, context::print, text};
use crate::{
    model::{
        Millis,
        audit::{AuditEntry, LogHead, LogVerified, Who},
    },
    store::db::{AuditLog, LogQuery},
};
use clap::Args;

/// The audit log, newest first: every change of what machines boot, by whom, when, from what to what, and why.
#[derive(Debug, Args)]
pub struct Log {
    /// Only of this machine (MAC or hostname; one that was forgotten, by its MAC)
    #[arg(long, value_name = "MACHINE")]
    machine: Option<String>,
    /// Only from this time on, as in 2027-01-31 or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = text::parse_time)]
    since: Option<Millis>,
    /// Only records before this number: the next page
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Check the whole chain of records instead; exit code 1 where it is broken
    #[arg(long, conflicts_with_all = ["machine", "since", "before"])]
    verify: bool,
    /// The end of the log as an earlier --verify printed it: it must still be in the log
    #[arg(long, requires = "verify", value_name = "NUMBER:HASH")]
    head: Option<LogHead>,
    /// Read the state folder on this host instead of asking the service
    #[arg(long, requires = "verify")]
    offline: bool,
}

impl Log {
    pub(super) fn run(self, context: &Context) -> Outcome {
        if self.verify {
            let verified = match self.offline {
                true => AuditLog::of_folder(&context.config()?.state_dir).verify(self.head)?,
                false => context.client()?.verify_log(self.head)?,
            };
            return said(context, &verified);
        }
        let client = context.client()?;
        let limit = usize::try_from(self.limit).map_err(|e| Failure::Usage(e.to_string()))?;
        let query = LogQuery { since: self.since, before: self.before, limit, ..LogQuery::default() };
        let entries = client.log(self.machine.as_deref(), &query)?;
        context.show(&entries, || match entries.as_slice() {
            [] => "nothing is on record\n".to_owned(),
            entries => {
                let tags = text::Tags::fetch(&client);
                let shown: Vec<String> = entries.iter().map(|e| one(e, &tags)).collect();
                shown.join("\n")
            }
        })
    }
}

fn said(context: &Context, verified: &LogVerified) -> Outcome {
    if let Some(broken) = &verified.broken {
        if context.json {
            context.show(verified, String::new)?;
            return Err(Failure::Said);
        }
        return Err(Failure::text(format!(
            "the audit log is broken at record {}: {}\n  {} before it are right",
            broken.seq,
            text::clean(&broken.why),
            verified.records
        )));
    }
    if context.json {
        return context.show(verified, String::new);
    }
    match verified.head {
        None => print("the audit log is empty\n"),
        Some(head) => print(&format!(
            "the audit log is whole: {} records. Its end, to be noted elsewhere and checked later with --head:\n{head}\n",
            verified.records
        )),
    }
}

/// One record, a line for each thing that it says.
fn one(entry: &AuditEntry, tags: &text::Tags) -> String {
    let record = &entry.record;
    let who = match (record.who, &record.claim) {
        (Who::Service, _) => "the service".to_owned(),
        (Who::Operator, Some(claim)) => format!("an operator, who says to be {claim}"),
        (Who::Operator, None) => "an operator".to_owned(),
    };
    let about = changes::about(&record.about, record.name.as_deref());
    let head = format!("{}  {}  {about}: {} by {who}", record.seq, text::time(record.at), record.what);
    let mut more: Vec<(&str, String)> = Vec::new();
    if let Some(why) = &record.why {
        more.push(("why", why.clone()));
    }
    if record.order != record.seq {
        more.push(("with", record.order.to_string()));
    }
    format!("{}\n{}", text::clean(&head), changes::lines(&record.changes, &more, tags))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::model::Digest;

    #[test]
    fn a_record_reads_as_who_did_what_from_what_to_what_and_why() {
        let digest = Digest::of(b"web");
        let entry: AuditEntry = serde_json::from_value(serde_json::json!({
            "about": {"machine": "52:54:00:00:00:01"}, "at": 1_764_000_000_000i64, "claim": "alice@adm1", "name": "db7",
            "changes": {"pin": {"to": digest}, "boots": {"from": "local", "to": digest}},
            "order": 7, "seq": 7, "what": "pinned", "who": "operator", "why": "the fix",
            "prev": "0".repeat(64), "hash": "0".repeat(64),
        }))
        .unwrap();
        assert_eq!(
            one(&entry, &text::Tags::default()),
            format!(
                "7  2025-11-24 16:00:00Z  machine db7 (52:54:00:00:00:01): pinned by an operator, who says to be alice@adm1\n    \
                 boots  local -> {0}\n    pin    - -> {0}\n    why    the fix\n",
                digest.short()
            )
        );
    }
}
