//! Who has which address.

use crate::model::{Lease, Mac};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, net::Ipv4Addr};

/// Bounds that keep a million made-up MACs from using up memory and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Offers to unknown machines that may be outstanding on one link.
    pub offers_per_link: usize,
    /// Addresses that one MAC may hold in one subnet, by several client ids.
    pub leases_per_mac: usize,
    /// Part of each pool that only known machines get, in percent.
    pub known_reserve_percent: u8,
    /// Addresses that are found in use before one client's DISCOVER is given up.
    pub probe_tries: u8,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { offers_per_link: 1_024, leases_per_mac: 16, known_reserve_percent: 10, probe_tries: 4 }
    }
}

/// The table of leases and offers. In memory; the leases that must survive a crash leave it as
/// [`Change`](crate::model::Change)s and come back by [`Leases::restore`].
#[derive(Debug)]
pub struct Leases {
    #[allow(dead_code)]
    bounds: Bounds,
    leases: HashMap<Ipv4Addr, Lease>,
}

impl Leases {
    /// An empty table.
    pub fn new(bounds: Bounds) -> Leases {
        Leases { bounds, leases: HashMap::new() }
    }

    /// Puts back what the store remembers.
    pub fn restore(&mut self, leases: Vec<Lease>) {
        self.leases.extend(leases.into_iter().map(|l| (l.addr, l)));
    }

    /// Every lease that is on record, also those that ended; no offers.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The lease on record of an address.
    pub fn by_addr(&self, addr: Ipv4Addr) -> Option<&Lease> {
        self.leases.get(&addr)
    }

    /// The leases on record of a MAC.
    pub fn by_mac(&self, mac: Mac) -> impl Iterator<Item = &Lease> {
        self.leases.values().filter(move |l| l.mac == mac)
    }
}
