//! Look-up tables of a [`Site`], made once.

use super::{Reservation, Site};
use crate::model::{ClientKey, Mac};
use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    net::Ipv4Addr,
    sync::OnceLock,
};

/// Holds the tables; a clone starts empty, so that a changed copy of a site makes its own.
#[derive(Default)]
pub struct IndexCell(OnceLock<Index>);

impl Clone for IndexCell {
    fn clone(&self) -> Self {
        IndexCell::default()
    }
}

impl fmt::Debug for IndexCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexCell")
    }
}

pub(crate) struct Index {
    by_mac: HashMap<Mac, Vec<usize>>,
    by_id: HashMap<Vec<u8>, Vec<usize>>,
    by_addr: HashMap<Ipv4Addr, usize>,
    /// Changes whenever the set of addresses to give out changes.
    pub(crate) fingerprint: u64,
}

impl Site {
    fn tables(&self) -> &Index {
        self.index.0.get_or_init(|| {
            let mut index = Index {
                by_mac: HashMap::new(),
                by_id: HashMap::new(),
                by_addr: HashMap::new(),
                fingerprint: 0,
            };
            for (i, r) in self.reservations.iter().enumerate() {
                if let Some(mac) = r.mac {
                    index.by_mac.entry(mac).or_default().push(i);
                }
                if let Some(id) = &r.client_id {
                    index.by_id.entry(id.0.clone()).or_default().push(i);
                }
                index.by_addr.entry(r.address).or_insert(i);
            }
            let mut hasher = DefaultHasher::new();
            for s in &self.subnets {
                (s.network, &s.pools, &s.exclude).hash(&mut hasher);
            }
            self.reservations.iter().for_each(|r| r.address.hash(&mut hasher));
            index.fingerprint = hasher.finish();
            index
        })
    }

    /// Changes whenever the set of addresses to give out does.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.tables().fingerprint
    }

    /// The reservation of this client among those whose address `wanted` accepts: by client id, else
    /// by MAC.
    pub(crate) fn reservation(
        &self,
        mac: Mac,
        key: &ClientKey,
        wanted: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<&Reservation> {
        let tables = self.tables();
        let by_id = match key {
            ClientKey::Id(id) => tables.by_id.get(id),
            ClientKey::Mac(_) => None,
        };
        let of = |list: Option<&Vec<usize>>| {
            let mut found = list.into_iter().flatten().filter_map(|i| self.reservations.get(*i));
            found.find(|r| wanted(r.address))
        };
        of(by_id).or_else(|| of(tables.by_mac.get(&mac)))
    }

    /// The reservation that an address belongs to.
    pub(crate) fn reserved(&self, addr: Ipv4Addr) -> Option<&Reservation> {
        self.tables().by_addr.get(&addr).and_then(|i| self.reservations.get(*i))
    }
}
