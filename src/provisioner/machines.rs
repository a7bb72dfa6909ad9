//! The machines in memory, found by any of their MACs and by hostname.
//!
//! Two kinds: those on record, and strangers. A stranger is a MAC that was heard of but holds no
//! lease, got no script and was touched by no operator; strangers live in memory only, the one
//! longest unheard of makes room, so that a flood of made-up MACs costs a bounded amount of memory
//! and not one write. All tables are trees, as those of the leases are.

use super::Bounds;
use crate::model::{Mac, Machine};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct Machines {
    bounds: Bounds,
    known: BTreeMap<Mac, Machine>,
    /// Other MACs of known machines.
    aliases: BTreeMap<Mac, Mac>,
    hostnames: BTreeMap<String, Mac>,
    /// NICs that machines said they have, with the machine.
    nics: BTreeSet<(Mac, Mac)>,
    strangers: BTreeMap<Mac, (u64, Machine)>,
    /// Strangers by when they were last heard of.
    order: BTreeMap<u64, Mac>,
    clock: u64,
}

impl Machines {
    pub fn new(bounds: Bounds, known: Vec<Machine>) -> Machines {
        let mut table = Machines {
            bounds,
            known: BTreeMap::new(),
            aliases: BTreeMap::new(),
            hostnames: BTreeMap::new(),
            nics: BTreeSet::new(),
            strangers: BTreeMap::new(),
            order: BTreeMap::new(),
            clock: 0,
        };
        known.into_iter().for_each(|m| table.put(m));
        table
    }

    /// On record, strangers.
    pub fn counts(&self) -> (usize, usize) {
        (self.known.len(), self.strangers.len())
    }

    /// The machine's first-seen MAC, which everything else goes by.
    pub fn primary(&self, mac: Mac) -> Mac {
        self.aliases.get(&mac).copied().unwrap_or(mac)
    }

    /// A machine on record or a stranger, by any of its MACs.
    pub fn get(&self, mac: Mac) -> Option<&Machine> {
        let mac = self.primary(mac);
        self.known.get(&mac).or_else(|| self.strangers.get(&mac).map(|(_, m)| m))
    }

    pub fn is_known(&self, mac: Mac) -> bool {
        self.known.contains_key(&self.primary(mac))
    }

    pub fn by_hostname(&self, hostname: &str) -> Option<&Machine> {
        self.hostnames.get(&hostname.to_ascii_lowercase()).and_then(|mac| self.known.get(mac))
    }

    /// The machine on record that says it has this NIC, and has this UUID; none where several do.
    pub fn with_nic(&self, nic: Mac, uuid: &[u8; 16]) -> Option<&Machine> {
        let all = self.nics.range((nic, Mac([0; 6]))..=(nic, Mac([0xff; 6])));
        let mut fit = all.filter_map(|(_, mac)| self.known.get(mac)).filter(|m| m.has_uuid(uuid));
        fit.next().filter(|_| fit.next().is_none())
    }

    pub fn hostnames(&self) -> impl Iterator<Item = &str> {
        self.hostnames.keys().map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Machine> {
        self.known.values().chain(self.strangers.values().map(|(_, m)| m))
    }

    pub fn iter_known(&self) -> impl Iterator<Item = &Machine> {
        self.known.values()
    }

    /// True where one more fits.
    pub fn has_room(&self) -> bool {
        self.known.len() < self.bounds.machines
    }

    /// Inserts or replaces a machine on record.
    pub fn put(&mut self, machine: Machine) {
        self.take_stranger(machine.mac);
        self.unindex(machine.mac);
        for other in &machine.other_macs {
            self.take_stranger(*other);
            self.aliases.insert(*other, machine.mac);
        }
        if let Some(hostname) = &machine.hostname {
            self.hostnames.insert(hostname.to_ascii_lowercase(), machine.mac);
        }
        for nic in machine.facts.iter().flat_map(|f| &f.nics) {
            self.nics.insert((nic.mac, machine.mac));
        }
        self.known.insert(machine.mac, machine);
    }

    /// Remembers a stranger as just heard of. Returns the one that it pushed out.
    pub fn put_stranger(&mut self, machine: Machine) -> Option<Mac> {
        let mac = machine.mac;
        self.take_stranger(mac);
        self.clock += 1;
        self.order.insert(self.clock, mac);
        self.strangers.insert(mac, (self.clock, machine));
        if self.strangers.len() <= self.bounds.strangers.max(1) {
            return None;
        }
        let oldest = self.order.first_key_value().map(|(_, mac)| *mac)?;
        self.take_stranger(oldest);
        Some(oldest)
    }

    pub fn remove(&mut self, mac: Mac) -> bool {
        self.unindex(mac);
        let known = self.known.remove(&mac).is_some();
        self.take_stranger(mac).is_some() || known
    }

    fn take_stranger(&mut self, mac: Mac) -> Option<Machine> {
        let (at, machine) = self.strangers.remove(&mac)?;
        self.order.remove(&at);
        Some(machine)
    }

    fn unindex(&mut self, mac: Mac) {
        let Some(old) = self.known.get(&mac) else { return };
        for nic in old.facts.iter().flat_map(|f| &f.nics) {
            self.nics.remove(&(nic.mac, mac));
        }
        for other in &old.other_macs {
            if self.aliases.get(other) == Some(&mac) {
                self.aliases.remove(other);
            }
        }
        if let Some(hostname) = old.hostname.as_ref().map(|h| h.to_ascii_lowercase())
            && self.hostnames.get(&hostname) == Some(&mac)
        {
            self.hostnames.remove(&hostname);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    #[test]
    fn a_flood_of_strangers_pushes_out_strangers_and_never_a_machine_on_record() {
        let bounds = Bounds { strangers: 3, ..Bounds::default() };
        let mut table = Machines::new(bounds, vec![Machine::new(mac(200), 0)]);
        assert_eq!(table.put_stranger(Machine::new(mac(0), 0)), None);
        table.put_stranger(Machine::new(mac(1), 0));
        table.put_stranger(Machine::new(mac(2), 0));
        table.put_stranger(Machine::new(mac(0), 5));
        assert_eq!(table.put_stranger(Machine::new(mac(3), 0)), Some(mac(1)), "longest unheard of");
        for n in 4..100 {
            table.put_stranger(Machine::new(mac(n), 0));
        }
        assert_eq!(table.counts(), (1, 3));
        assert_eq!(table.order.len(), 3);
        assert!(table.is_known(mac(200)));
    }

    #[test]
    fn a_machine_is_found_by_each_mac_and_by_its_latest_hostname_only() {
        let mut table = Machines::new(Bounds::default(), Vec::new());
        let mut m = Machine::new(mac(1), 0);
        m.other_macs = vec![mac(2)];
        m.hostname = Some("Web-1".into());
        table.put_stranger(Machine::new(mac(1), 0));
        table.put(m.clone());
        assert_eq!(table.counts(), (1, 0));
        assert_eq!(table.get(mac(2)), Some(&m));
        assert_eq!(table.by_hostname("wEB-1"), Some(&m));
        m.hostname = Some("db-1".into());
        m.other_macs.clear();
        table.put(m.clone());
        assert_eq!((table.by_hostname("web-1"), table.get(mac(2))), (None, None));
        assert!(table.remove(mac(1)));
        assert_eq!((table.by_hostname("db-1"), table.counts()), (None, (0, 0)));
    }
}
