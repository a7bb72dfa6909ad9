//! The addresses that a subnet gives out, sorted by whether they may be given now. No request ever
//! scans them: each change of one address is one or two steps in a tree.

use super::{Cidr, Range, Site, Subnet};
use crate::model::Millis;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// Most addresses that one subnet may give out: a /12. `Site::check` says so to the operator.
pub(super) const MAX_POOL: u64 = 1 << 20;

/// Whether an address may be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nobody had it.
    Fresh,
    /// Its last lease ended then.
    Idle(Millis),
    /// Offered, leased or quarantined.
    Busy,
}

#[derive(Debug)]
pub(super) struct Pool {
    network: Cidr,
    /// Sorted, disjoint.
    ranges: Vec<(u32, u32)>,
    size: usize,
    fresh: BTreeSet<u32>,
    idle: BTreeSet<(Millis, u32)>,
    idle_since: BTreeMap<u32, Millis>,
    forbidden: BTreeSet<u32>,
}

impl Pool {
    pub(super) fn new(site: &Site, subnet: &Subnet) -> Pool {
        let ranges = addresses(site, subnet);
        let fresh: BTreeSet<u32> = ranges.iter().flat_map(|(a, b)| *a..=*b).collect();
        Pool {
            network: subnet.network,
            size: fresh.len(),
            ranges,
            fresh,
            idle: BTreeSet::new(),
            idle_since: BTreeMap::new(),
            forbidden: BTreeSet::new(),
        }
    }

    /// The subnet's network.
    pub(super) fn network(&self) -> Cidr {
        self.network
    }

    /// Whether the address is one to give out at all.
    pub(super) fn contains(&self, addr: Ipv4Addr) -> bool {
        let a = addr.to_bits();
        let after = self.ranges.partition_point(|(first, _)| *first <= a);
        let within =
            after.checked_sub(1).and_then(|i| self.ranges.get(i)).is_some_and(|(_, last)| a <= *last);
        within && !self.forbidden.contains(&a)
    }

    /// How many addresses there are.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// How many may be given out now.
    pub(super) fn free(&self) -> usize {
        self.fresh.len() + self.idle.len()
    }

    /// Files an address anew.
    pub(super) fn set(&mut self, addr: Ipv4Addr, slot: Slot) {
        let a = addr.to_bits();
        self.fresh.remove(&a);
        if let Some(since) = self.idle_since.remove(&a) {
            self.idle.remove(&(since, a));
        }
        if slot == Slot::Busy || !self.contains(addr) {
            return;
        }
        match slot {
            Slot::Fresh => {
                self.fresh.insert(a);
            }
            Slot::Idle(since) => {
                self.idle_since.insert(a, since);
                self.idle.insert((since, a));
            }
            Slot::Busy => {}
        }
    }

    /// Never gives out this address: it is ours.
    pub(super) fn forbid(&mut self, addr: Ipv4Addr) {
        if self.contains(addr) {
            self.set(addr, Slot::Busy);
            self.forbidden.insert(addr.to_bits());
            self.size = self.size.saturating_sub(1);
        }
    }

    /// The address to give out next: one that nobody had, else the one whose lease ended first.
    pub(super) fn next(&self) -> Option<Ipv4Addr> {
        let idle = || self.idle.first().map(|(_, a)| *a);
        self.fresh.first().copied().or_else(idle).map(Ipv4Addr::from_bits)
    }

    /// Whether nobody ever had this address of the pool.
    pub(super) fn is_fresh(&self, addr: Ipv4Addr) -> bool {
        self.fresh.contains(&addr.to_bits())
    }
}

/// Pools less exclusions, reservations, routers, network and broadcast address.
fn addresses(site: &Site, subnet: &Subnet) -> Vec<(u32, u32)> {
    let bits = |r: &Range| (r.first.to_bits(), r.last.to_bits());
    let one = |a: Ipv4Addr| (a.to_bits(), a.to_bits());
    let mut holes: Vec<(u32, u32)> = subnet.exclude.iter().map(bits).collect();
    holes.extend(subnet.routers.iter().map(|a| one(*a)));
    holes.extend(
        site.reservations.iter().filter(|r| subnet.network.contains(r.address)).map(|r| one(r.address)),
    );
    let hosts = bits(&subnet.network.hosts());
    let mut left = Vec::new();
    for (first, last) in merged(subnet.pools.iter().map(bits).collect()) {
        let mut next = u64::from(first.max(hosts.0));
        let last = u64::from(last.min(hosts.1));
        for (hole_first, hole_last) in merged(holes.clone()) {
            let (hole_first, hole_last) = (u64::from(hole_first), u64::from(hole_last));
            if hole_last < next || hole_first > last {
                continue;
            }
            if hole_first > next {
                left.push((next, hole_first - 1));
            }
            next = hole_last + 1;
        }
        if next <= last {
            left.push((next, last));
        }
    }
    let mut room = MAX_POOL;
    let mut out = Vec::new();
    for (first, last) in left {
        let take = (last - first + 1).min(room);
        room -= take;
        if let (true, Ok(first), Ok(last)) = (take > 0, u32::try_from(first), u32::try_from(first + take - 1))
        {
            out.push((first, last));
        }
    }
    out
}

fn merged(mut ranges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    ranges.sort_unstable();
    let mut out: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::dhcp::Reservation;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, last)
    }

    #[test]
    fn gives_out_what_the_operator_left_and_the_longest_idle_last() {
        let mut subnet = Subnet::new("198.18.0.0/24".parse().unwrap());
        subnet.pools = ["198.18.0.0-198.18.0.5", "198.18.0.4-198.18.0.9", "198.18.0.254-198.18.0.255"]
            .map(|r| r.parse().unwrap())
            .to_vec();
        subnet.exclude = vec!["198.18.0.3".parse().unwrap()];
        subnet.routers = vec![ip(1)];
        let reservation = Reservation { mac: None, client_id: None, address: ip(6), hostname: None };
        let site = Site { reservations: vec![reservation], ..Site::default() };
        let mut pool = Pool::new(&site, &subnet);
        let expected = [2, 4, 5, 7, 8, 9, 254];
        for n in 0..=255 {
            assert_eq!(pool.contains(ip(n)), expected.contains(&n), "{n}");
        }
        assert_eq!((pool.size(), pool.free()), (7, 7));
        pool.forbid(ip(2));
        for n in [4, 5] {
            assert_eq!(pool.next(), Some(ip(n)));
            pool.set(ip(n), Slot::Busy);
        }
        pool.set(ip(5), Slot::Idle(10));
        pool.set(ip(4), Slot::Idle(20));
        pool.set(ip(2), Slot::Fresh);
        assert_eq!((pool.size(), pool.free()), (6, 6));
        for n in [7, 8, 9, 254, 5, 4] {
            assert_eq!(pool.next(), Some(ip(n)));
            pool.set(ip(n), Slot::Busy);
        }
        assert_eq!((pool.next(), pool.free()), (None, 0));
    }
}
