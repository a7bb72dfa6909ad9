//! `pristine boots`: boot attempts, with the time each stage took.

use super::{Context, Failure, Outcome, table::Table, text};
use crate::model::{BootAttempt, Stage};
use clap::Args;

/// Boot attempts, newest first: seconds since the first packet at each stage, and how it ended.
#[derive(Debug, Args)]
pub struct Boots {
    /// Only of this machine (MAC or hostname), or one boot by its 16 hex digits
    which: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

impl Boots {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let client = context.client()?;
        let is_boot = |w: &str| w.len() == 16 && w.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(id) = self.which.as_deref().filter(|w| is_boot(w)) {
            let attempt = client.attempt(id)?;
            return context.show(&attempt, || one(&attempt, &text::Tags::fetch(&client)));
        }
        let limit = usize::try_from(self.limit).map_err(|e| Failure::Usage(e.to_string()))?;
        let attempts = client.attempts(self.which.as_deref(), limit)?;
        context.show(&attempts, || {
            if attempts.is_empty() {
                return "no boots on record: power a machine on, and follow it with `pristine watch`\n"
                    .into();
            }
            table(&attempts, &text::Tags::fetch(&client))
        })
    }
}

/// One row a boot; what is to be said of failed and stuck ones follows in full below the table.
pub(super) fn table(attempts: &[BootAttempt], tags: &text::Tags) -> String {
    let mut heads = ["BOOT", "MACHINE", "IMAGE", "BEGAN"].map(str::to_owned).to_vec();
    heads.extend(Stage::COLUMNS.map(|(_, head)| format!(">{head}")));
    heads.push("VERDICT".into());
    let mut table = Table::new(&heads);
    let mut notes = String::new();
    for a in attempts {
        let mut row = vec![
            a.id.to_string(),
            a.mac.to_string(),
            a.image.map_or_else(|| "-".into(), |d| tags.image(d)),
            text::time(a.began().unwrap_or_default()),
        ];
        row.extend(Stage::COLUMNS.map(|(stage, _)| a.until(stage).map_or_else(|| "-".into(), text::seconds)));
        let verdict = a.outcome();
        match verdict.split_once(':') {
            Some((short, _)) => {
                row.push(short.to_owned());
                notes.push_str(&format!("{} ({}): {}\n", a.id, a.mac, text::clean(&verdict)));
            }
            None => row.push(verdict),
        }
        table.row(row);
    }
    let gap = if notes.is_empty() { "" } else { "\n" };
    format!("{}{gap}{notes}", table.render())
}

/// One boot in full.
fn one(a: &BootAttempt, tags: &text::Tags) -> String {
    let began = a.began().unwrap_or_default();
    let head = text::pairs(&[
        ("boot", a.id.to_string()),
        ("machine", a.mac.to_string()),
        ("address", a.addr.map_or_else(|| "-".into(), |ip| ip.to_string())),
        ("firmware", a.firmware.map_or_else(|| "-".into(), text::firmware)),
        (
            "started by",
            a.kexec_from.map_or_else(|| "its firmware".into(), |id| format!("kexec, from boot {id}")),
        ),
        ("image", a.image.map_or_else(|| "-".into(), |d| format!("{} ({})", tags.image(d), d.short()))),
        ("rule", a.rule.as_ref().map_or("-", super::explain::rule_name).to_owned()),
        ("began", text::time(began)),
        ("verdict", a.outcome()),
    ]);
    let mut table = Table::new(&["STAGE", ">SECONDS", ">STEP", "DETAIL"]);
    let mut before = began;
    for s in &a.stages {
        table.row([
            s.stage.to_string(),
            text::seconds(s.at - began),
            text::seconds(s.at - before),
            s.detail.clone().unwrap_or_default(),
        ]);
        before = s.at;
    }
    format!("{head}\n{}", table.render())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn a_stuck_boot_says_where_and_why_below_the_table() {
        let attempt: BootAttempt = serde_json::from_value(serde_json::json!({
            "id": "00000000000000aa", "mac": "52:54:00:00:00:01", "verdict": "stuck",
            "cause": "Secure Boot refuses the NBP", "generation": 0,
            "stages": [{"stage": "discover", "at": 1_764_000_000_000i64}, {"stage": "ack", "at": 1_764_000_003_720i64}],
        }))
        .unwrap();
        let text = table(&[attempt], &text::Tags::default());
        assert_eq!(
            text,
            "BOOT              MACHINE            IMAGE  BEGAN                 ACK  NBP  SCRIPT  KERNEL  INITRD  INIT  NET  ROOTFS  VERIFIED  SWITCH  HEALTHY  VERDICT\n\
             00000000000000aa  52:54:00:00:00:01  -      2025-11-24 16:00:00Z  3.7    -       -       -       -     -    -       -         -       -        -  stuck after ack\n\
             \n\
             00000000000000aa (52:54:00:00:00:01): stuck after ack: Secure Boot refuses the NBP\n"
        );
    }
}
