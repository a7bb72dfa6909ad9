//! What a machine is made of, as its `init` told at its latest boot. Believed for what it is: the words of
//! that machine about itself.

use super::{Mac, Millis};
use serde::{Deserialize, Serialize};

/// Most NICs that are kept of one machine.
pub const MAX_NICS: usize = 64;
/// Most disks that are kept of one machine.
pub const MAX_DISKS: usize = 256;
/// Longest text of a fact, in characters.
const MAX_TEXT: usize = 128;

/// The facts of one machine. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// When it told them; set by the service.
    pub at: Millis,
    /// SMBIOS manufacturer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// SMBIOS product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// SMBIOS serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// SMBIOS UUID as Linux reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its firmware.
    pub firmware: FirmwareFacts,
    /// Its processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Bytes of memory, as far as the kernel has it: a little less than is plugged in on some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Its disks; `None` where their drivers were not loaded, so that nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<Disk>>,
    /// Its network cards.
    pub nics: Vec<Nic>,
}

/// What the firmware calls itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FirmwareFacts {
    /// True for UEFI, false for BIOS.
    pub uefi: bool,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its date, as it is written there (mostly month/day/year).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

/// All processors together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Model of the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Cores of all sockets.
    pub cores: u32,
    /// Threads of all cores.
    pub threads: u32,
}

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// As in `sda`. May be another one at the next boot.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Where it is plugged in, as udev names it under `/dev/disk/by-path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its address.
    pub mac: Mac,
    /// As the initramfs names it (`eth0`); the image may name it otherwise.
    #[serde(default)]
    pub name: String,
    /// The kernel's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// It has a link.
    #[serde(default)]
    pub link: bool,
    /// Speed of the link in Mbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<u32>,
    /// What is at the other end of its cable, as last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbour: Option<Neighbour>,
}

/// A switch port, in the words of the switch (LLDP, IEEE 802.1AB).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Neighbour {
    /// When it was heard; set by the service.
    pub at: Millis,
    /// Identity of the switch, mostly a MAC.
    pub chassis: String,
    /// Name of the switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Its port.
    pub port: String,
    /// What an operator wrote about the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Facts {
    /// Facts as they are kept: told `now`, texts short and without control characters, no more parts
    /// than a machine has, NICs with MACs that a machine can own, each once.
    pub fn tidied(mut self, now: Millis) -> Facts {
        self.at = now;
        let firmware = &mut self.firmware;
        let texts = [&mut self.vendor, &mut self.product, &mut self.serial, &mut self.uuid];
        texts
            .into_iter()
            .chain([&mut firmware.vendor, &mut firmware.version, &mut firmware.date])
            .for_each(tidy);
        if let Some(cpu) = &mut self.cpu {
            tidy(&mut cpu.model);
        }
        for disk in self.disks.iter_mut().flatten() {
            disk.name = tidied(&disk.name);
            [&mut disk.model, &mut disk.serial, &mut disk.path].into_iter().for_each(tidy);
        }
        if let Some(disks) = &mut self.disks {
            disks.truncate(MAX_DISKS);
        }
        let mut macs = std::collections::BTreeSet::new();
        self.nics.retain(|nic| nic.mac.is_usable() && macs.insert(nic.mac));
        self.nics.truncate(MAX_NICS);
        for nic in &mut self.nics {
            nic.name = tidied(&nic.name);
            tidy(&mut nic.driver);
            if let Some(neighbour) = &mut nic.neighbour {
                neighbour.at = now;
                neighbour.chassis = tidied(&neighbour.chassis);
                neighbour.port = tidied(&neighbour.port);
                tidy(&mut neighbour.system);
                tidy(&mut neighbour.description);
            }
        }
        self
    }

    /// Adds what was learnt before and not looked at this time: a switch speaks every half minute and a boot
    /// is over sooner, and disks need their drivers.
    pub fn and_before(mut self, before: &Facts) -> Facts {
        if self.disks.is_none() {
            self.disks.clone_from(&before.disks);
        }
        for nic in self.nics.iter_mut().filter(|nic| nic.neighbour.is_none()) {
            let known = before.nics.iter().find(|known| known.mac == nic.mac);
            nic.neighbour = known.and_then(|known| known.neighbour.clone());
        }
        self
    }
}

fn tidied(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(MAX_TEXT).collect::<String>().trim().to_owned()
}

fn tidy(text: &mut Option<String>) {
    *text = text.take().map(|t| tidied(&t)).filter(|t| !t.is_empty());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn what_a_machine_says_is_bounded_and_harmless_and_what_nobody_knows_yet_is_passed_over() {
        let nic = |n: usize| {
            format!(r#"{{"mac":"02:00:00:00:{:02x}:{:02x}","name":"e\u001b[2J"}}"#, n / 256, n % 256)
        };
        let nics: Vec<String> = (0..200).chain([0]).map(nic).collect();
        let disks = vec![r#"{"name":"sda","bytes":1}"#; 1000].join(",");
        let text = format!(
            r#"{{"at":77,"colour":"red","vendor":"{}","product":" \n ","disks":[{disks}],
                "nics":[{{"mac":"ff:ff:ff:ff:ff:ff"}},{}]}}"#,
            "x".repeat(5000),
            nics.join(",")
        );
        let facts = serde_json::from_str::<Facts>(&text).unwrap().tidied(5);
        assert_eq!((facts.at, facts.vendor.unwrap().len(), facts.product), (5, MAX_TEXT, None));
        assert_eq!((facts.disks.unwrap().len(), facts.nics.len()), (MAX_DISKS, MAX_NICS));
        assert_eq!(facts.nics[0].name, "e [2J");
        for wrong in [r#"{"nics":[{}]}"#, r#"{"memory":-1}"#, r#"{"cpu":"fast"}"#, "7"] {
            assert!(serde_json::from_str::<Facts>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_neighbour_and_disks_that_were_not_looked_for_stay_as_last_known() {
        let read = |text: &str, at| serde_json::from_str::<Facts>(text).unwrap().tidied(at);
        let heard =
            r#"{"disks":[],"nics":[{"mac":"02:00:00:00:00:01","neighbour":{"chassis":"c","port":"7"}}]}"#;
        let (before, deaf) = (read(heard, 1), read(r#"{"nics":[{"mac":"02:00:00:00:00:01"}]}"#, 9));
        let now = deaf.clone().and_before(&before);
        assert_eq!((now.at, now.disks.as_deref()), (9, Some(&[][..])));
        assert_eq!(now.nics[0].neighbour.as_ref().map(|n| (n.at, n.port.as_str())), Some((1, "7")));
        assert_eq!(read(heard, 9).and_before(&before).nics[0].neighbour.as_ref().unwrap().at, 9);
    }
}
