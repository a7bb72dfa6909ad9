//! Who has which address: leases, offers, and the addresses that are free.

use super::{
    Cidr, Site,
    pool::{Pool, Slot},
};
use crate::model::{Change, ClientKey, Lease, LeaseState, Mac, Millis};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

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

/// How long the knowledge that nobody answers on an address is good for.
const FREE_IS_GOOD_FOR: Millis = 60_000;
/// Threads that read the clock and then wait for one another differ by less than this.
const SMALL_STEP_BACK: Millis = 5_000;
/// Addresses of which it is remembered.
const FREE_REMEMBERED: usize = 4_096;

/// An address held for a client until it asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) addr: Ipv4Addr,
    pub(super) mac: Mac,
    pub(super) key: ClientKey,
    pub(super) expires: Millis,
    /// The link on which it counts as a stranger's.
    pub(super) stranger_on: Option<u32>,
    /// When the probe for it was last asked for; `None` when none is needed any more.
    pub(super) probing: Option<Millis>,
    /// Addresses found in use for this client before this one.
    pub(super) tries: u8,
}

/// The table of leases and offers. In memory; the leases that must survive a crash leave it as
/// [`Change`]s and come back by [`Leases::restore`].
///
/// Invariants: an address has at most one lease on record and one offer; an offer stands beside a
/// lease only if that lease ended or is the same machine's; every address of a pool is free exactly
/// when it has no offer and no lease that still runs.
///
/// All are trees, which grow by a node at a time: a hash table of a million leases moves all of them when it is full,
/// and everybody waits.
#[derive(Debug)]
pub struct Leases {
    bounds: Bounds,
    leases: BTreeMap<Ipv4Addr, Lease>,
    by_mac: BTreeMap<Mac, Vec<Ipv4Addr>>,
    /// Ends of the leases that may still run.
    ends: BTreeSet<(Millis, Ipv4Addr)>,
    offers: BTreeMap<Ipv4Addr, Offer>,
    offers_by_mac: BTreeMap<Mac, Vec<Ipv4Addr>>,
    offer_ends: BTreeSet<(Millis, Ipv4Addr)>,
    strangers: BTreeMap<u32, usize>,
    /// By lowest address of the network.
    pools: BTreeMap<Ipv4Addr, Pool>,
    /// Of the site that the pools were made for.
    fingerprint: Option<u64>,
    /// When a probe last found an address free.
    found_free: BTreeMap<Ipv4Addr, Millis>,
    /// Latest time that was handed in.
    latest: Millis,
}

/// True while the lease keeps its address from others.
pub(super) fn runs(lease: &Lease, now: Millis) -> bool {
    matches!(lease.state, LeaseState::Bound | LeaseState::Declined) && lease.expires > now
}

impl Leases {
    /// An empty table.
    pub fn new(bounds: Bounds) -> Leases {
        Leases {
            bounds,
            leases: BTreeMap::new(),
            by_mac: BTreeMap::new(),
            ends: BTreeSet::new(),
            offers: BTreeMap::new(),
            offers_by_mac: BTreeMap::new(),
            offer_ends: BTreeSet::new(),
            strangers: BTreeMap::new(),
            pools: BTreeMap::new(),
            fingerprint: None,
            found_free: BTreeMap::new(),
            latest: Millis::MIN,
        }
    }

    /// Puts back what the store remembers. Offers are not stored: a client that was offered an
    /// address before a restart gets it when it asks.
    pub fn restore(&mut self, leases: Vec<Lease>) {
        for lease in leases.into_iter().filter(|l| l.state != LeaseState::Offered) {
            self.record(lease);
        }
        self.fingerprint = None;
    }

    /// The clock was stepped by `step`: what ran before goes on for as long as it had left. Returns what is to be
    /// stored. `now` is the time after the step.
    pub fn move_with_clock(&mut self, step: Millis, now: Millis) -> Vec<Change> {
        let before = now.saturating_sub(step);
        let ran: Vec<Lease> = self.leases.values().filter(|l| runs(l, before)).cloned().collect();
        self.fingerprint = None;
        let moved = ran.into_iter().map(|lease| {
            let lease = Lease { expires: lease.expires.saturating_add(step), ..lease };
            self.record(lease.clone());
            Change::Lease(lease)
        });
        moved.collect()
    }

    /// Every lease on record, also those that ended (kept so that their clients get the same
    /// address again); no offers.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// Every address that is held for a client but not acknowledged yet.
    pub fn offers(&self) -> impl Iterator<Item = Lease> + '_ {
        self.offers.values().map(|o| Lease {
            addr: o.addr,
            client: o.key.clone(),
            mac: o.mac,
            state: LeaseState::Offered,
            expires: o.expires,
            hostname: None,
        })
    }

    /// The lease on record of an address.
    pub fn by_addr(&self, addr: Ipv4Addr) -> Option<&Lease> {
        self.leases.get(&addr)
    }

    /// The leases on record of a MAC.
    pub fn by_mac(&self, mac: Mac) -> impl Iterator<Item = &Lease> {
        self.by_mac.get(&mac).into_iter().flatten().filter_map(|a| self.leases.get(a))
    }

    /// Of each subnet that was used: network, addresses to give out, addresses that are free.
    pub fn usage(&self) -> impl Iterator<Item = (Cidr, usize, usize)> + '_ {
        self.pools.values().map(|p| (p.network(), p.size(), p.free()))
    }

    /// Forgets an address: its lease and its offer. For operators.
    pub fn forget(&mut self, addr: Ipv4Addr, now: Millis) -> Option<Change> {
        self.drop_offer(addr, now);
        let lease = self.leases.remove(&addr)?;
        self.ends.remove(&(lease.expires, addr));
        unlist(&mut self.by_mac, lease.mac, addr);
        self.refile(addr, now);
        Some(Change::LeaseGone(addr))
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Ends what is due, and takes over a changed site. Returns the time to go by: callers read the
    /// clock before they get here, so it may step back a little, which must not wake an ended lease.
    /// When it was set back for good, everything is filed anew.
    pub(super) fn advance(&mut self, site: &Site, ours: Ipv4Addr, now: Millis) -> Millis {
        let step_back = self.latest.saturating_sub(now);
        let now = if (0..SMALL_STEP_BACK).contains(&step_back) { self.latest } else { now };
        self.latest = now;
        if step_back >= SMALL_STEP_BACK {
            self.fingerprint = None;
        }
        if self.fingerprint != Some(site.fingerprint()) {
            self.fingerprint = Some(site.fingerprint());
            self.pools = site.subnets.iter().map(|s| (s.network.network, Pool::new(site, s))).collect();
            let known: Vec<Ipv4Addr> = self.leases.keys().chain(self.offers.keys()).copied().collect();
            known.into_iter().for_each(|a| self.refile(a, now));
        }
        if let Some(pool) = self.pool_mut(ours) {
            pool.forbid(ours);
        }
        while let Some(&(_, addr)) = self.offer_ends.first().filter(|(end, _)| *end <= now) {
            self.drop_offer(addr, now);
        }
        while let Some(due) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            self.ends.remove(&due);
            self.refile(due.1, now);
        }
        now
    }

    fn pool_mut(&mut self, addr: Ipv4Addr) -> Option<&mut Pool> {
        self.pools.range_mut(..=addr).next_back().map(|(_, p)| p).filter(|p| p.network().contains(addr))
    }

    /// The pool of the subnet that the address lies in.
    pub(super) fn pool(&self, addr: Ipv4Addr) -> Option<&Pool> {
        self.pools.range(..=addr).next_back().map(|(_, p)| p).filter(|p| p.network().contains(addr))
    }

    /// Tells the pool where an address stands now.
    pub(super) fn refile(&mut self, addr: Ipv4Addr, now: Millis) {
        let slot = match (self.offers.get(&addr), self.leases.get(&addr)) {
            (Some(_), _) => Slot::Busy,
            (None, Some(lease)) if runs(lease, now) => {
                // Also after the clock went back: the end comes again.
                self.ends.insert((lease.expires, addr));
                Slot::Busy
            }
            (None, Some(lease)) => Slot::Idle(lease.expires),
            (None, None) => Slot::Fresh,
        };
        if let Some(pool) = self.pool_mut(addr) {
            pool.set(addr, slot);
        }
    }

    fn record(&mut self, lease: Lease) {
        let (addr, mac) = (lease.addr, lease.mac);
        self.ends.insert((lease.expires, addr));
        if let Some(old) = self.leases.insert(addr, lease) {
            let still = self.leases.get(&addr).map(|l| l.expires);
            if still != Some(old.expires) {
                self.ends.remove(&(old.expires, addr));
            }
            unlist(&mut self.by_mac, old.mac, addr);
        }
        self.by_mac.entry(mac).or_default().push(addr);
    }

    /// Sets the lease of an address, and says what the store must know.
    pub(super) fn put(&mut self, lease: Lease, now: Millis) -> Change {
        let addr = lease.addr;
        self.record(lease.clone());
        self.refile(addr, now);
        Change::Lease(lease)
    }

    pub(super) fn offer_at(&self, addr: Ipv4Addr) -> Option<&Offer> {
        self.offers.get(&addr)
    }

    pub(super) fn offers_of(&self, mac: Mac) -> impl Iterator<Item = &Offer> {
        self.offers_by_mac.get(&mac).into_iter().flatten().filter_map(|a| self.offers.get(a))
    }

    /// Offers to unknown machines outstanding on a link.
    pub(super) fn strangers(&self, link: u32) -> usize {
        self.strangers.get(&link).copied().unwrap_or(0)
    }

    /// Holds an address, in place of what was held there.
    pub(super) fn hold(&mut self, offer: Offer, now: Millis) {
        self.drop_offer(offer.addr, now);
        let (addr, mac) = (offer.addr, offer.mac);
        if let Some(link) = offer.stranger_on {
            *self.strangers.entry(link).or_default() += 1;
        }
        self.offer_ends.insert((offer.expires, addr));
        self.offers_by_mac.entry(mac).or_default().push(addr);
        self.offers.insert(addr, offer);
        self.refile(addr, now);
    }

    /// Lets go of a held address.
    pub(super) fn drop_offer(&mut self, addr: Ipv4Addr, now: Millis) {
        let Some(offer) = self.offers.remove(&addr) else { return };
        self.offer_ends.remove(&(offer.expires, addr));
        unlist(&mut self.offers_by_mac, offer.mac, addr);
        if let Some(count) = offer.stranger_on.and_then(|link| self.strangers.get_mut(&link)) {
            *count = count.saturating_sub(1);
        }
        self.refile(addr, now);
    }

    pub(super) fn remember_free(&mut self, addr: Ipv4Addr, now: Millis) {
        if self.found_free.len() >= FREE_REMEMBERED {
            self.found_free.retain(|_, at| (0..FREE_IS_GOOD_FOR).contains(&(now - *at)));
            if self.found_free.len() >= FREE_REMEMBERED {
                self.found_free.clear();
            }
        }
        self.found_free.insert(addr, now);
    }

    pub(super) fn found_free(&self, addr: Ipv4Addr, now: Millis) -> bool {
        self.found_free.get(&addr).is_some_and(|at| (0..FREE_IS_GOOD_FOR).contains(&(now - at)))
    }

    pub(super) fn forget_free(&mut self, addr: Ipv4Addr) {
        self.found_free.remove(&addr);
    }
}

fn unlist(index: &mut BTreeMap<Mac, Vec<Ipv4Addr>>, mac: Mac, addr: Ipv4Addr) {
    if let Some(list) = index.get_mut(&mac) {
        list.retain(|a| *a != addr);
        if list.is_empty() {
            index.remove(&mac);
        }
    }
}
