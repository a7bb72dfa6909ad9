//! Operators' commands about many things at once: machines from rows (`machine import`), a site from a
//! document (`apply`), and the document of what is (`export`). Carried out by `batch`.

use super::{CommandError, Provisioner, batch::Targets, command::whole, rules::MAX_RULES, state::State};
use crate::{
    fleet::{
        ApplyOrder, Batch, Declared, Document, Edit, Exported, ImportOrder, Known, MAX_MACHINES,
        MachineEntry, RuleEntry, Site, declare, problem,
    },
    model::{
        BootTarget, Digest, Mac, Machine, SelectorRule, Tag,
        wire::{Changes, Problem},
    },
};
use std::collections::{BTreeMap, BTreeSet};

impl Provisioner {
    /// Names, describes and pins many machines, all or none.
    pub async fn import_machines(&self, order: ImportOrder) -> Result<Changes, CommandError> {
        let this = self.clone();
        whole(async move {
            let ImportOrder { machines, dry_run } = order;
            if machines.len() > MAX_MACHINES {
                let words = format!(
                    "there are {} machines, and at most {MAX_MACHINES} are taken at once",
                    machines.len()
                );
                return Err(CommandError::Bad(words));
            }
            let pins = machines.iter().filter_map(|row| row.pin.clone().flatten());
            let targets = this.targets(pins.collect()).await?;
            let mut problems = this.nbp_problems(machines.iter().map(|row| row.nbp.as_ref()?.as_deref()));
            let mut edits = Vec::with_capacity(machines.len());
            for (n, row) in machines.into_iter().enumerate() {
                let pin = match &row.pin {
                    Some(Some(reference)) => match targets.get(reference) {
                        Ok(target) => Some(Some(target)),
                        Err(words) => {
                            problems.push(Problem::new(format!("machine[{n}].pin"), words));
                            continue;
                        }
                    },
                    Some(None) => Some(None),
                    None => None,
                };
                edits.push(Edit { mac: row.mac, patch: row.patch(), pin });
            }
            if !problems.is_empty() {
                return Err(CommandError::Problems(problems));
            }
            let make = |state: &State, _| {
                misfits(state, &targets, edits.iter().map(|e| (e.mac, e.pin.clone().flatten())))?;
                Batch::of_edits(state, edits).map_err(|faults| faults.iter().map(problem).collect::<Vec<_>>())
            };
            this.change_all(None, dry_run, make).await
        })
        .await
    }

    /// Makes the site what a document says, all of it or nothing.
    pub async fn apply(&self, order: ApplyOrder) -> Result<Changes, CommandError> {
        let this = self.clone();
        whole(async move {
            let ApplyOrder { document, prune, dry_run, revision } = order;
            let selectors = document.check().map_err(CommandError::Problems)?;
            let references = document.references();
            let targets = this.targets(references.iter().map(|(_, r)| (*r).to_owned()).collect()).await?;
            let mut problems = this.nbp_problems(document.machines.iter().map(|m| m.nbp.as_deref()));
            let missing = references
                .into_iter()
                .filter_map(|(path, r)| Some(Problem::new(path, targets.get(r).err()?)));
            problems.extend(missing);
            if !problems.is_empty() {
                return Err(CommandError::Problems(problems));
            }
            let target = |name: &str| targets.get(document.reference(name)).ok();
            let rules = document.rules.iter().zip(selectors);
            let wanted = Declared {
                default: document.default.as_deref().and_then(target),
                rules: rules.filter_map(|(r, s)| Some((r.name.clone(), s, target(&r.target)?))).collect(),
                machines: document
                    .machines
                    .iter()
                    .map(|m| (m.clone(), m.pin.as_deref().and_then(target)))
                    .collect(),
            };
            let make = |state: &State, now| {
                misfits(state, &targets, wanted.machines.iter().map(|(m, pin)| (m.mac, pin.clone())))?;
                let batch = declare(wanted, state, prune, now)?;
                let (new, gone) = batch.rules.iter().fold((0, 0), |(new, gone), (name, rule)| match rule {
                    Some(_) => (new + usize::from(state.rules.get(name).is_none()), gone),
                    None => (new, gone + 1),
                });
                match state.rules.len() + new - gone {
                    0..=MAX_RULES => Ok(batch),
                    n => Err(vec![Problem::new(
                        "rule",
                        format!("there would be {n} rules, and {MAX_RULES} fit"),
                    )]),
                }
            };
            this.change_all(revision, dry_run, make).await
        })
        .await
    }

    /// The document that says what is. Applied, it changes nothing.
    pub async fn export(&self) -> Result<Exported, CommandError> {
        let images = self.0.images.clone();
        let entries = tokio::task::spawn_blocking(move || images.entries()).await;
        let entries = entries.map_err(|e| CommandError::Store(e.to_string()))?;
        let entries = entries.map_err(|e| CommandError::Store(e.to_string()))?;
        // A tag stands for the image that it points to now, written beside its digest.
        let mut tags: BTreeMap<Digest, Tag> = BTreeMap::new();
        for entry in entries {
            if let Some(tag) = entry.tags.into_iter().min() {
                tags.insert(entry.digest, tag);
            }
        }
        let state = self.state();
        let mut used = BTreeMap::new();
        let mut name = |target: &BootTarget| match target {
            BootTarget::Image { digest } => match tags.get(digest) {
                Some(tag) => {
                    used.insert(tag.to_string(), digest.to_string());
                    tag.to_string()
                }
                None => digest.to_string(),
            },
            other => other.to_string(),
        };
        let default = state.default.as_ref().map(&mut name);
        let mut rules: Vec<&SelectorRule> = state.rules.iter().collect();
        rules.sort_by_key(|r| (r.created, &r.name));
        let rules = rules.into_iter().map(|r| RuleEntry {
            name: r.name.clone(),
            select: r.selector.clone(),
            target: name(&r.target),
        });
        let rules: Vec<RuleEntry> = rules.collect();
        let mut machines: Vec<&Machine> = state.described();
        machines.sort_unstable_by_key(|m| m.mac);
        let machines = machines.into_iter().map(|m| MachineEntry::of(m, &mut name)).collect();
        let document = Document { default, images: used, rules, machines };
        Ok(Exported { revision: self.revision(), document })
    }

    /// Boot programs that are not there; each is looked at once.
    fn nbp_problems<'a>(&self, nbps: impl Iterator<Item = Option<&'a str>>) -> Vec<Problem> {
        let mut seen = BTreeSet::new();
        let named = nbps.enumerate().filter_map(|(n, nbp)| Some((n, nbp?)));
        let fresh = named.filter(|(_, nbp)| seen.insert(*nbp));
        let wrong = fresh.filter_map(|(n, nbp)| Some((n, self.check_nbp(nbp).err()?)));
        wrong.map(|(n, e)| Problem::new(format!("machine[{n}].nbp"), e.to_string())).collect()
    }
}

/// Pins to images that their machines can't boot.
fn misfits(
    state: &State,
    targets: &Targets,
    pins: impl Iterator<Item = (Mac, Option<BootTarget>)>,
) -> Result<(), Vec<Problem>> {
    let pins = pins.enumerate().filter_map(|(n, (mac, pin))| Some((n, mac, pin?)));
    let misfits = pins.filter_map(|(n, mac, pin)| Some((n, targets.misfit(state.machine(mac), &pin)?)));
    let problems: Vec<Problem> =
        misfits.take(20).map(|(n, words)| Problem::new(format!("machine[{n}].pin"), words)).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
