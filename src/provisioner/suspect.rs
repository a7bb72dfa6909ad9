//! Images that machines fell back from: what an operator is told, and the way to try one again.

use super::{CommandError, Explanation, Provisioner, command::whole};
use crate::model::{Digest, Mac, Machine, Millis, wire::Alarm};
use std::collections::BTreeMap;

/// Machines that one alarm names.
const NAMED: usize = 5;

/// An image that failed on one kind of hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Which.
    pub image: Digest,
    /// SMBIOS manufacturer and product of the machines; `None` where they never told it.
    pub product: Option<String>,
    /// Machines that boot their last good image instead, by MAC.
    pub machines: Vec<Mac>,
    /// When the first of them failed with it.
    pub since: Millis,
    /// What the last boot of one of them said.
    pub reason: String,
}

impl Provisioner {
    /// Images that machines fell back from, by image and kind of hardware.
    pub fn suspects(&self) -> Vec<Suspect> {
        let state = self.state();
        let mut by_kind: BTreeMap<(Digest, Option<&str>), Suspect> = BTreeMap::new();
        for (machine, failing) in state.fallen_back() {
            let kind = (failing.image, machine.product.as_deref());
            let suspect = by_kind.entry(kind).or_insert_with(|| Suspect {
                image: failing.image,
                product: machine.product.clone(),
                machines: Vec::new(),
                since: failing.since,
                reason: failing.reason.clone(),
            });
            suspect.machines.push(machine.mac);
            suspect.since = suspect.since.min(failing.since);
        }
        let mut all: Vec<Suspect> = by_kind.into_values().collect();
        all.iter_mut().for_each(|s| s.machines.sort_unstable());
        all
    }

    /// What an operator should look at, of all that the provisioner knows.
    pub fn alarms(&self) -> Vec<Alarm> {
        let halted = self.halted().into_iter().map(|(name, why, since)| Alarm {
            text: format!(
                "halted: {why}. See `pristine rollout show {name}`; then `pristine rollout rollback {name}`, `abort`, or \
                 `resume --max-failed`"
            ),
            about: format!("rollout {name}"),
            since,
        });
        let suspects = self.suspects().into_iter().map(|suspect| self.alarm(suspect));
        self.disk_alarm()
            .into_iter()
            .chain(halted)
            .chain(suspects)
            .chain(self.secrets_alarm())
            .chain(self.config_alarms())
            .collect()
    }

    fn alarm(&self, suspect: Suspect) -> Alarm {
        let tag = self.0.images.get(suspect.image).ok().flatten().map(|i| i.manifest.tag.to_string());
        let state = self.state();
        let name = |mac: &Mac| state.machines.get(*mac).map_or_else(|| mac.to_string(), Machine::name);
        let mut names: Vec<String> = suspect.machines.iter().take(NAMED).map(name).collect();
        let first = names.first().cloned().unwrap_or_default();
        if suspect.machines.len() > NAMED {
            names.push(format!("{} more", suspect.machines.len() - NAMED));
        }
        let kind = suspect.product.map_or_else(String::new, |p| format!(" ({p})"));
        Alarm {
            about: format!("image {}", tag.unwrap_or_else(|| suspect.image.short())),
            text: format!(
                "suspect{kind}: {} boot their last good image instead; the last boot {}. See `pristine boots {first}`; \
                 re-point them, or try it again with `pristine retry {first}`",
                names.join(", "),
                suspect.reason
            ),
            since: suspect.since,
        }
    }

    /// Wipes what a machine's record says of images that failed on it: it boots what the rules say again,
    /// from its next power-on.
    pub async fn retry(&self, key: &str) -> Result<Explanation, CommandError> {
        let (this, key) = (self.clone(), key.to_owned());
        whole(async move {
            let mac = this
                .change(&key, false, |_, machine: &mut Machine| {
                    machine.failing.clear();
                    Ok(())
                })
                .await?;
            this.explain(&mac.to_string())
        })
        .await
    }
}
