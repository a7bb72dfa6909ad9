//! Which address a client gets.
//!
//! **One MAC, one address per subnet.** A boot changes client id three or four times (firmware,
//! iPXE, `init`, the image's own DHCP client with a DUID that may be new at every boot), and a
//! read-only image may give the same DUID to a thousand machines. So the MAC says which machine it
//! is, and a client id never carries an address from one MAC to another. A lease passes from one
//! client id of a MAC to the next, with one exception: two operating systems behind one MAC (ipvlan
//! containers), each with an id of its own and a lease that runs, get an address each. A request by
//! firmware, iPXE or `init` means that the machine restarted, and takes over whatever its MAC has.

use super::{
    Leases, Reason, Site, Subnet,
    client::is_os_id,
    leases::{Offer, runs},
};
use crate::model::{ClientKey, Lease, LeaseState, Mac, Millis};
use std::net::Ipv4Addr;

/// A client that did not have the address in this time is a new one to it, and costs a probe.
const RECENT: Millis = 24 * 3_600_000;

/// Who asks, as far as addresses go.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) mac: Mac,
    pub(super) key: ClientKey,
    /// An operating system with a client id of its own (see above).
    pub(super) os: bool,
    pub(super) known: bool,
    pub(super) link: u32,
    /// Our address on that link: nobody gets it, not even by a reservation.
    pub(super) ours: Ipv4Addr,
    /// Option 50.
    pub(super) wanted: Option<Ipv4Addr>,
}

impl Asker {
    /// Whether what this MAC and key hold is the asker's to use.
    pub(super) fn is_me(&self, mac: Mac, key: &ClientKey) -> bool {
        mac == self.mac && (*key == self.key || !self.os || !is_os_id(key, mac))
    }

    /// The same, for a lease: once it ended, what another id of the MAC had is the asker's too.
    pub(super) fn owns(&self, lease: &Lease, now: Millis) -> bool {
        lease.state != LeaseState::Declined
            && (self.is_me(lease.mac, &lease.client) || (lease.mac == self.mac && !runs(lease, now)))
    }
}

impl Leases {
    /// Nobody else is offered the address or has it.
    pub(super) fn open_to(&self, asker: &Asker, addr: Ipv4Addr, now: Millis) -> bool {
        let offered = self.offer_at(addr).is_some_and(|o| !asker.is_me(o.mac, &o.key));
        let leased = self.by_addr(addr).is_some_and(|l| runs(l, now) && !asker.owns(l, now));
        !offered && !leased
    }

    /// The address is one that this client may have at all: in the pool, or reserved for it.
    pub(super) fn permitted(&self, site: &Site, subnet: &Subnet, asker: &Asker, addr: Ipv4Addr) -> bool {
        if !subnet.network.contains(addr) || addr == asker.ours {
            return false;
        }
        match site.reserved(addr) {
            Some(_) => self.reservation(site, subnet, asker) == Some(addr),
            None => self.pool(addr).is_some_and(|p| p.contains(addr)),
        }
    }

    /// The address reserved for this client in this subnet.
    pub(super) fn reservation(&self, site: &Site, subnet: &Subnet, asker: &Asker) -> Option<Ipv4Addr> {
        site.reservation(asker.mac, &asker.key, |a| subnet.network.contains(a)).map(|r| r.address)
    }

    /// The offer that this client has in this subnet.
    pub(super) fn offer_to(&self, subnet: &Subnet, asker: &Asker) -> Option<&Offer> {
        let mine = |o: &&Offer| subnet.network.contains(o.addr) && asker.is_me(o.mac, &o.key);
        self.offers_of(asker.mac).filter(mine).max_by_key(|o| (o.key == asker.key, o.expires))
    }

    /// The lease on record that this client continues in this subnet: its own id's, else the one of
    /// its MAC that runs, else the one that ended last.
    pub(super) fn lease_of(&self, subnet: &Subnet, asker: &Asker, now: Millis) -> Option<&Lease> {
        let mine = |l: &&Lease| subnet.network.contains(l.addr) && asker.owns(l, now);
        self.by_mac(asker.mac).filter(mine).max_by_key(|l| {
            (l.client == asker.key && runs(l, now), runs(l, now), l.client == asker.key, l.expires)
        })
    }

    /// Whether one more running lease or offer is within what this client may have. Strangers leave
    /// part of the pool to known machines.
    pub(super) fn may_take_another(&self, subnet: &Subnet, asker: &Asker, now: Millis) -> Result<(), Reason> {
        let bounds = self.bounds();
        let here = |a: &Ipv4Addr| subnet.network.contains(*a);
        let leased = self.by_mac(asker.mac).filter(|l| here(&l.addr) && runs(l, now)).count();
        let offered = self.offers_of(asker.mac).filter(|o| here(&o.addr)).count();
        if leased + offered >= bounds.leases_per_mac.max(1) {
            return Err(Reason::TooManyForMac);
        }
        if asker.known {
            return Ok(());
        }
        let pool = self.pool(subnet.network.network);
        let (size, free) = pool.map_or((0, 0), |p| (p.size(), p.free()));
        let percent = usize::from(bounds.known_reserve_percent.min(100));
        let kept = size.saturating_mul(percent).div_ceil(100).min(size / 2);
        if free == 0 {
            Err(Reason::PoolExhausted)
        } else if free <= kept {
            Err(Reason::KeptForKnown)
        } else {
            Ok(())
        }
    }

    /// The address to offer: reserved, else already offered, else on record, else wished for if
    /// nobody ever had it, else the next free one.
    pub(super) fn choose(
        &self,
        site: &Site,
        subnet: &Subnet,
        asker: &Asker,
        now: Millis,
    ) -> Result<Ipv4Addr, Reason> {
        let usable = |a: &Ipv4Addr| self.permitted(site, subnet, asker, *a) && self.open_to(asker, *a, now);
        if let Some(addr) = self.reservation(site, subnet, asker).filter(usable) {
            return Ok(addr);
        }
        if let Some(addr) = self.offer_to(subnet, asker).map(|o| o.addr).filter(usable) {
            return Ok(addr);
        }
        let lease = self.lease_of(subnet, asker, now).filter(|l| usable(&l.addr));
        if let Some(running) = lease.filter(|l| runs(l, now)) {
            return Ok(running.addr);
        }
        self.may_take_another(subnet, asker, now)?;
        if !asker.known && self.strangers(asker.link) >= self.bounds().offers_per_link {
            return Err(Reason::TooManyOffers);
        }
        if let Some(ended) = lease {
            return Ok(ended.addr);
        }
        let pool = self.pool(subnet.network.network).ok_or(Reason::PoolExhausted)?;
        let wish = asker.wanted.filter(|a| pool.is_fresh(*a) && usable(a));
        wish.or_else(|| pool.next()).ok_or(Reason::PoolExhausted)
    }

    /// Whether this client had the address not long ago, so that nobody else can be on it.
    pub(super) fn had_recently(&self, asker: &Asker, addr: Ipv4Addr, now: Millis) -> bool {
        self.by_addr(addr).is_some_and(|l| asker.owns(l, now) && l.expires.saturating_add(RECENT) > now)
    }
}
