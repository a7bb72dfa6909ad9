//! From what a document wants and what is to what changes. Pure: the same twice changes nothing.
//!
//! What the document names is owned by it: a machine that it names has the hostname, rack, labels, other
//! MACs, boot program and pin that it says, and none where it says none; other MACs alone stay where it
//! doesn't say which, since the service finds some by itself. What it doesn't name is left alone; with
//! `prune` it is taken away: rules are removed, the default is cleared, machines lose what an operator said
//! of them and stay on record.

use super::{
    Selector,
    document::MachineEntry,
    edit::{Edit, Edited, Fault, Known, edited},
};
use crate::model::{BootTarget, Machine, MachinePatch, Millis, SelectorRule, wire::Problem};
use std::collections::{BTreeMap, HashSet};

/// What a document wants, with its references looked up.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// The default.
    pub default: Option<BootTarget>,
    /// Rules, in the order in which equally specific ones are asked.
    pub rules: Vec<(String, Selector, BootTarget)>,
    /// Machines, with their pins.
    pub machines: Vec<(MachineEntry, Option<BootTarget>)>,
}

/// What is.
pub trait Site: Known {
    /// The default.
    fn default_target(&self) -> Option<&BootTarget>;
    /// Every rule.
    fn rules(&self) -> Vec<&SelectorRule>;
    /// The machines on record of which an operator said something.
    fn described(&self) -> Vec<&Machine>;
}

/// What changes, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Machines.
    pub machines: Vec<Edited>,
    /// Rules by name; `None` where one is removed.
    pub rules: Vec<(String, Option<(Selector, SelectorRule)>)>,
    /// The default, where it changes.
    pub default: Option<Option<BootTarget>>,
}

impl Batch {
    /// Edits of machines alone. What they leave as it is is not in it.
    pub fn of_edits(known: &impl Known, edits: Vec<Edit>) -> Result<Batch, Vec<Fault>> {
        let mut machines = edited(known, edits)?;
        machines.retain(|e| match &e.before {
            Some(before) => *before != e.after,
            // One that was only heard of stays so as long as nothing is said of it.
            None => known.machine(e.after.mac).is_none_or(|heard_of| *heard_of != e.after),
        });
        Ok(Batch { machines, ..Batch::default() })
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Batch::default()
    }
}

/// What is to change so that the site is what is wanted.
///
/// # Errors
/// Everything that stands against it, with its place in the document.
pub fn declare(wanted: Declared, site: &impl Site, prune: bool, now: Millis) -> Result<Batch, Vec<Problem>> {
    let mut edits: Vec<Edit> = wanted
        .machines
        .iter()
        .map(|(entry, pin)| owned(site.machine(entry.mac), entry, pin.clone()))
        .collect();
    if prune {
        let named: HashSet<_> = edits.iter().map(|e| site.machine(e.mac).map_or(e.mac, |m| m.mac)).collect();
        let others = site.described().into_iter().filter(|m| !named.contains(&m.mac));
        let mut others: Vec<Edit> =
            others.map(|m| owned(Some(m), &MachineEntry::bare(m.mac), None)).collect();
        others.sort_by_key(|e| e.mac);
        edits.extend(others);
    }
    let mut batch = Batch::of_edits(site, edits)
        .map_err(|faults| faults.into_iter().map(|f| problem(&f)).collect::<Vec<_>>())?;
    batch.rules = rules(wanted.rules, &site.rules(), prune, now);
    let default = wanted.default.or_else(|| site.default_target().cloned().filter(|_| !prune));
    if default.as_ref() != site.default_target() {
        batch.default = Some(default);
    }
    Ok(batch)
}

/// A fault in terms of the document, or of rows of machines.
pub fn problem(fault: &Fault) -> Problem {
    let field = match fault.field.strip_prefix("label.") {
        Some(label) => format!("labels.{}", super::document::quoted(label)),
        None => fault.field.clone(),
    };
    Problem::new(format!("machine[{}].{field}", fault.edit), fault.what.to_string())
}

/// The edit that makes a machine what a document says.
fn owned(now: Option<&Machine>, entry: &MachineEntry, pin: Option<BootTarget>) -> Edit {
    let mut labels: BTreeMap<String, Option<String>> =
        now.into_iter().flat_map(|m| m.labels.keys().cloned()).map(|label| (label, None)).collect();
    // A machine keeps the MAC that it is on record by, whichever of its MACs the document names it by.
    let primary = now.map_or(entry.mac, |m| m.mac);
    let other_macs = entry.other_macs.as_ref().map(|others| {
        std::iter::once(&entry.mac).chain(others).copied().filter(|mac| *mac != primary).collect()
    });
    labels.extend(entry.labels.iter().map(|(label, value)| (label.clone(), Some(value.clone()))));
    let patch = MachinePatch {
        hostname: Some(entry.hostname.clone()),
        rack: Some(entry.rack.clone()),
        nbp: Some(entry.nbp.clone()),
        other_macs,
        labels,
    };
    Edit { mac: entry.mac, patch, pin: Some(pin) }
}

/// Rules that change. A rule keeps its age, which breaks ties, unless it stands in the document behind one
/// that is younger: then it becomes younger still.
fn rules(
    wanted: Vec<(String, Selector, BootTarget)>,
    now: &[&SelectorRule],
    prune: bool,
    at: Millis,
) -> Vec<(String, Option<(Selector, SelectorRule)>)> {
    let mut changes = Vec::new();
    let named: HashSet<String> = wanted.iter().map(|(name, ..)| name.clone()).collect();
    let gone = now.iter().filter(|rule| prune && !named.contains(&rule.name));
    changes.extend(gone.map(|rule| (rule.name.clone(), None)));
    let mut last: Option<(Millis, String)> = None;
    for (name, selector, target) in wanted {
        let before = now.iter().find(|rule| rule.name == name);
        let created = before.map_or(at, |rule| rule.created);
        let created = match &last {
            Some((age, earlier)) if (created, &name) < (*age, earlier) => age + 1,
            _ => created,
        };
        last = Some((created, name.clone()));
        let rule = SelectorRule { name: name.clone(), selector: selector.to_string(), target, created };
        if before.is_none_or(|before| **before != rule) {
            changes.push((name, Some((selector, rule))));
        }
    }
    changes
}

#[cfg(test)]
mod tests;
