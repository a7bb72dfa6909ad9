//! `pristine status`.

use super::{Context, Outcome, text};
use crate::model::wire::Status as Body;
use clap::Args;
use serde_json::Value;

/// How the service is: version, uptime, alarms, counters.
#[derive(Debug, Args)]
pub struct Status {}

impl Status {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let status = context.client()?.status()?;
        context.show(&status, || words(&status))
    }
}

fn words(status: &Body) -> String {
    let mut out = text::pairs(&[
        ("version", status.version.clone()),
        ("started", text::time(status.started)),
        ("uptime", text::ago(i64::try_from(status.uptime_seconds).unwrap_or(0).saturating_mul(1_000))),
    ]);
    for alarm in &status.alarms {
        let since = text::ago(text::now() - alarm.since);
        out.push_str(&format!(
            "ALARM {}: {} (for {since})\n",
            text::clean(&alarm.about),
            text::clean(&alarm.text)
        ));
    }
    for (part, counters) in &status.counters {
        let mut lines = Vec::new();
        flatten("", counters, &mut lines);
        out.push_str(&format!("\n{part}\n"));
        let width = lines.iter().map(|(k, _)| k.chars().count()).max().unwrap_or(0);
        for (k, v) in lines {
            out.push_str(&format!("  {:<width$}  {}\n", text::clean(&k), text::clean(&v)));
        }
    }
    out
}

/// Nested counters as dotted names; what is not there (`null`) is left out.
fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    let named = |k: &str| if prefix.is_empty() { k.to_owned() } else { format!("{prefix}.{k}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&named(k), v, out)),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                let name = item.get("interface").and_then(Value::as_str);
                flatten(&named(name.unwrap_or(&i.to_string())), item, out);
            }
        }
        Value::Null => {}
        Value::String(s) => out.push((prefix.to_owned(), s.clone())),
        other => out.push((prefix.to_owned(), other.to_string())),
    }
}
