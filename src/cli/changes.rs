//! What changes, for people: as a plan, or as what was done.

use super::text;
use crate::model::{
    Digest,
    audit::{About, Deed, FromTo, Note},
    wire::Changes,
};
use std::collections::BTreeMap;

/// Changes that are shown one by one unless all are asked for.
const SHOWN: usize = 200;

/// A plan as a diff, or what was done.
pub fn shown(changes: &Changes, tags: &text::Tags, all: bool) -> String {
    let notes = &changes.changes;
    if notes.is_empty() {
        return format!("nothing to change: all is as it should be (revision {})\n", changes.revision);
    }
    let some = if all { notes.len() } else { SHOWN };
    let mut out: String = notes.iter().take(some).map(|note| one(note, tags)).collect();
    if let Some(more @ 1..) = notes.len().checked_sub(some) {
        out.push_str(&format!("… and {more} more: --all shows them\n"));
    }
    let count = if notes.len() == 1 { "1 change".to_owned() } else { format!("{} changes", notes.len()) };
    out.push_str(&match changes.applied {
        true => format!("\n{count} made (revision {})\n", changes.revision),
        false => {
            format!("\n{count} to make; nothing was changed (planned at revision {})\n", changes.revision)
        }
    });
    out
}

/// One change: `+` what is new, `-` what goes, `~` what becomes another.
fn one(note: &Note, tags: &text::Tags) -> String {
    let sign = match note.what {
        Deed::RuleRemoved | Deed::RolloutRemoved | Deed::Forgotten => '-',
        Deed::RuleSet if note.changes.values().all(|c| c.from.is_none()) => '+',
        _ => '~',
    };
    format!(
        "{sign} {}\n{}",
        text::clean(&about(&note.about, note.name.as_deref())),
        lines(&note.changes, &[], tags)
    )
}

/// What something is about.
pub fn about(about: &About, name: Option<&str>) -> String {
    match (about, name) {
        (About::Default, _) => "the default".to_owned(),
        (About::Machine(mac), Some(name)) => format!("machine {name} ({mac})"),
        (About::Machine(mac), None) => format!("machine {mac}"),
        (About::Rule(name), _) => format!("rule {name}"),
        (About::Profile(name), _) => format!("profile {name}"),
        (About::Secret(name), _) => format!("secret {name}"),
        (About::Rollout(name), _) => format!("rollout {name}"),
    }
}

/// Values before and after, a line each, and what else is to be said below them.
pub fn lines(changes: &BTreeMap<String, FromTo>, more: &[(&str, String)], tags: &text::Tags) -> String {
    let value = |value: &Option<String>| match value {
        None => "-".to_owned(),
        // An image by its tag.
        Some(text) => text.parse::<Digest>().map_or_else(|_| text.clone(), |digest| tags.image(digest)),
    };
    // When a rule was set breaks ties only: worth a line where nothing else changes.
    let changed = changes.iter().filter(|(key, _)| *key != "created" || changes.len() == 1);
    let mut pairs: Vec<(&str, String)> =
        changed.map(|(key, c)| (key.as_str(), format!("{} -> {}", value(&c.from), value(&c.to)))).collect();
    pairs.extend(more.iter().cloned());
    text::pairs(&pairs).lines().map(|line| format!("    {line}\n")).collect()
}
