//! Machines as rows: what `machine import` reads and `machine export` writes, over the API and as files.

use crate::model::{BootTarget, Mac, Machine, MachinePatch};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// A machine as a row. What is left out stays as it is; null clears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineRow {
    /// Any of its MACs.
    pub mac: Mac,
    /// Operator's name for it.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Option<String>>,
    /// Its rack.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub rack: Option<Option<String>>,
    /// Its NBP instead of the firmware's usual one.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub nbp: Option<Option<String>>,
    /// Its boot target: an image (a tag or a digest), `local`, `ignore` or `discover`.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub pin: Option<Option<String>>,
    /// All its other MACs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_macs: Option<Vec<Mac>>,
    /// Labels to set, or with null to take away; others stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
}

/// Tells null (clear) from a missing field (leave).
fn some<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// Body of a request that imports machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportOrder {
    /// The machines.
    pub machines: Vec<MachineRow>,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

impl MachineRow {
    /// A row that names a machine and says nothing of it.
    pub fn new(mac: Mac) -> MachineRow {
        MachineRow {
            mac,
            hostname: None,
            rack: None,
            nbp: None,
            pin: None,
            other_macs: None,
            labels: BTreeMap::new(),
        }
    }

    /// All that an operator may say of a machine, as it is. Imported, it changes nothing.
    pub fn of(machine: &Machine) -> MachineRow {
        let word = |target: &BootTarget| match target {
            BootTarget::Image { digest } => digest.to_string(),
            other => other.to_string(),
        };
        MachineRow {
            mac: machine.mac,
            hostname: Some(machine.hostname.clone()),
            rack: Some(machine.rack.clone()),
            nbp: Some(machine.nbp.clone()),
            pin: Some(machine.pin.as_ref().map(word)),
            other_macs: Some(machine.other_macs.clone()),
            labels: machine
                .labels
                .iter()
                .map(|(label, value)| (label.clone(), Some(value.clone())))
                .collect(),
        }
    }

    /// Without its pin.
    pub fn patch(self) -> MachinePatch {
        let MachineRow { hostname, rack, nbp, other_macs, labels, .. } = self;
        MachinePatch { hostname, rack, nbp, other_macs, labels }
    }
}
