//! Whether a [`Site`] makes sense: what the types can't say.

use super::{
    Cidr, Range, Site, Subnet,
    pool::MAX_POOL,
    site::{RawOption, Reservation},
};
use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

/// What is wrong with a site's addresses: the thing, what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// Two subnets share addresses.
    #[error("subnets {0} and {1} overlap: every address may be in one subnet only")]
    SubnetsOverlap(Cidr, Cidr),
    /// A pool leaves its subnet.
    #[error("subnet {network}: pool {pool} is not inside the subnet's host addresses {hosts}")]
    PoolOutside {
        /// The subnet.
        network: Cidr,
        /// The pool.
        pool: Range,
        /// What a pool may hold.
        hosts: Range,
    },
    /// Two pools of one subnet share addresses.
    #[error("subnet {0}: pools {1} and {2} overlap: write each address once")]
    PoolsOverlap(Cidr, Range, Range),
    /// More addresses than the table is made for.
    #[error("subnet {0}: its pools have {1} addresses: at most 1,048,576 can be given out in one subnet")]
    PoolTooLarge(Cidr, u64),
    /// An exclusion that excludes nothing.
    #[error("subnet {0}: exclusion {1} touches none of its pools: correct or remove it")]
    ExcludesNothing(Cidr, Range),
    /// A next hop that clients can't reach.
    #[error("subnet {0}: router {1} is not one of its host addresses, so clients could not reach it")]
    RouterOutside(Cidr, Ipv4Addr),
    /// A value of a subnet that no client could use.
    #[error("subnet {network}: {key} = {value} {problem}")]
    BadValue {
        /// The subnet.
        network: Cidr,
        /// Its key.
        key: &'static str,
        /// As written.
        value: String,
        /// What is wrong, and what is allowed.
        problem: &'static str,
    },
    /// A raw option that can't be sent.
    #[error("subnet {network}: option {code} {problem}")]
    BadOption {
        /// The subnet.
        network: Cidr,
        /// Its number.
        code: u8,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// A reservation that nobody can use.
    #[error("reservation of {address}: {problem}")]
    BadReservation {
        /// Its address.
        address: Ipv4Addr,
        /// The key that is wrong.
        key: &'static str,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// Two reservations of one address.
    #[error(
        "reservation of {0}: another reservation has the same address: an address belongs to one machine"
    )]
    ReservedTwice(Ipv4Addr),
    /// Two addresses for one machine in one subnet.
    #[error("reservations of {0} and {1} are both for {2} in the same subnet: remove one")]
    TwoForOne(Ipv4Addr, Ipv4Addr, String),
    /// A site-wide value.
    #[error("{key} = {value} is out of range: {allowed}")]
    OutOfRange {
        /// Its key.
        key: &'static str,
        /// As written.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl Site {
    /// Everything that is wrong, most basic first; empty when the site can be served.
    pub fn check(&self) -> Vec<SiteError> {
        let mut wrong = Vec::new();
        for (key, seconds, low, high, allowed) in [
            ("lease", self.lease, 10, u32::MAX - 1, "10 seconds or more"),
            ("min_lease", self.min_lease, 1, u32::MAX - 1, "1 second or more"),
            ("offer_hold", self.offer_hold, 1, 60, "1 to 60 seconds"),
            ("quarantine", self.quarantine, 1, 86_400 * 7, "1 second to 7 days"),
        ] {
            if !(low..=high).contains(&seconds.0) {
                wrong.push(SiteError::OutOfRange { key, value: seconds.0.into(), allowed });
            }
        }
        let (offers, percent) = (self.bounds.offers_per_link, self.bounds.known_reserve_percent);
        if !(1..=1_000_000).contains(&offers) {
            let allowed = "1 to 1,000,000";
            wrong.push(SiteError::OutOfRange {
                key: "bounds.offers_per_link",
                value: offers as u64,
                allowed,
            });
        }
        if percent > 50 {
            let allowed = "0 to 50 percent";
            wrong.push(SiteError::OutOfRange {
                key: "bounds.known_reserve_percent",
                value: percent.into(),
                allowed,
            });
        }
        let mut sorted: Vec<&Subnet> = self.subnets.iter().collect();
        sorted.sort_by_key(|s| s.network);
        for pair in sorted.windows(2) {
            if let [a, b] = pair
                && a.network.overlaps(b.network)
            {
                wrong.push(SiteError::SubnetsOverlap(a.network, b.network));
            }
        }
        self.subnets.iter().for_each(|s| subnet(s, &mut wrong));
        self.reservations(&mut wrong);
        wrong
    }

    fn reservations(&self, wrong: &mut Vec<SiteError>) {
        let mut addresses = HashSet::new();
        let mut owners: HashMap<(Cidr, String), Ipv4Addr> = HashMap::new();
        for r in &self.reservations {
            let address = r.address;
            if !addresses.insert(address) {
                wrong.push(SiteError::ReservedTwice(address));
            }
            if let Some((key, problem)) = self.reservation_problem(r) {
                wrong.push(SiteError::BadReservation { address, key, problem });
                continue;
            }
            let Some(subnet) = self.subnets.iter().find(|s| s.network.contains(address)) else { continue };
            let mac = r.mac.map(|m| m.to_string());
            let id = r.client_id.as_ref().map(|i| format!("client id {i}"));
            for owner in mac.into_iter().chain(id) {
                if let Some(other) = owners.insert((subnet.network, owner.clone()), address) {
                    wrong.push(SiteError::TwoForOne(other, address, owner));
                }
            }
        }
    }

    fn reservation_problem(&self, r: &Reservation) -> Option<(&'static str, &'static str)> {
        let Some(subnet) = self.subnets.iter().find(|s| s.network.contains(r.address)) else {
            let words = "the address is in none of the configured subnets: write a [[subnet]] that has it";
            return Some(("address", words));
        };
        let id_is_short = r.client_id.as_ref().is_some_and(|i| i.0.len() < 2);
        let checks = [
            (
                !subnet.network.hosts().contains(r.address),
                "address",
                "it is the subnet's network or broadcast address, which no machine can have",
            ),
            (subnet.routers.contains(&r.address), "address", "the address is the subnet's router's"),
            (
                r.mac.is_none() && r.client_id.is_none(),
                "address",
                "it names no machine: set mac or client_id",
            ),
            (
                r.mac.is_some_and(|m| !m.is_usable()),
                "mac",
                "its mac is zero or a group address, which no machine has",
            ),
            (
                id_is_short,
                "client_id",
                "its client_id is too short: it has 2 bytes or more, the type byte first",
            ),
            (
                r.hostname.as_deref().is_some_and(|h| !is_name(h)),
                "hostname",
                "its hostname is not a host name: letters, digits, hyphens and dots",
            ),
        ];
        checks.into_iter().find(|(wrong, ..)| *wrong).map(|(_, key, words)| (key, words))
    }
}

fn subnet(s: &Subnet, wrong: &mut Vec<SiteError>) {
    let network = s.network;
    let hosts = network.hosts();
    for (i, pool) in s.pools.iter().enumerate() {
        if !hosts.contains(pool.first) || !hosts.contains(pool.last) {
            wrong.push(SiteError::PoolOutside { network, pool: *pool, hosts });
        }
        for other in s.pools.iter().skip(i + 1).filter(|o| o.overlaps(*pool)) {
            wrong.push(SiteError::PoolsOverlap(network, *pool, *other));
        }
    }
    let total: u64 = s.pools.iter().map(|p| p.len()).sum();
    if total > MAX_POOL {
        wrong.push(SiteError::PoolTooLarge(network, total));
    }
    for e in s.exclude.iter().filter(|e| !s.pools.iter().any(|p| p.overlaps(**e))) {
        wrong.push(SiteError::ExcludesNothing(network, *e));
    }
    for router in s.routers.iter().filter(|r| !hosts.contains(**r)) {
        wrong.push(SiteError::RouterOutside(network, *router));
    }
    let mut bad = |key, value: String, problem| {
        wrong.push(SiteError::BadValue { network, key, value, problem });
    };
    for (key, list) in [("routers", &s.routers), ("dns", &s.dns), ("ntp", &s.ntp)] {
        if list.len() > 16 {
            bad(key, format!("{} addresses", list.len()), "is too long a list: at most 16 fit");
        }
        for a in list.iter().filter(|a| a.is_unspecified() || a.is_broadcast() || a.is_multicast()) {
            bad(key, a.to_string(), "is no host's address");
        }
    }
    if let Some(domain) = s.domain.iter().find(|d| !is_name(d)) {
        bad("domain", format!("\"{domain}\""), "is not a domain name: letters, digits, hyphens and dots");
    }
    for name in s.search.iter().filter(|d| !is_name(d)) {
        bad("search", format!("\"{name}\""), "is not a domain name: letters, digits, hyphens and dots");
    }
    if s.search.iter().map(|d| d.len() + 2).sum::<usize>() > 255 {
        bad(
            "search",
            format!("{} names", s.search.len()),
            "is too long: the names have at most 255 bytes in all",
        );
    }
    if let Some(mtu) = s.mtu.filter(|m| *m < 576) {
        bad("mtu", mtu.to_string(), "is too small: IPv4 needs 576 or more");
    }
    if s.routes.len() > 28 {
        bad("routes", format!("{} routes", s.routes.len()), "is too long a list: at most 28 fit");
    }
    for route in s.routes.iter().filter(|r| !r.via.is_unspecified() && !hosts.contains(r.via)) {
        bad(
            "routes",
            format!("{} via {}", route.to, route.via),
            "has a next hop that is not one of the subnet's host addresses: clients could not reach it",
        );
    }
    if let Some(lease) = s.lease.filter(|l| l.0 < 10 || l.0 == u32::MAX) {
        bad("lease", lease.0.to_string(), "is out of range: 10 seconds or more");
    }
    let mut codes = HashSet::new();
    for option in &s.options {
        let code = option.code;
        let twice = (!codes.insert(code)).then_some("is set twice");
        if let Some(problem) = option_problem(option).or(twice) {
            wrong.push(SiteError::BadOption { network, code, problem });
        }
    }
}

fn option_problem(option: &RawOption) -> Option<&'static str> {
    let own = match option.code {
        0 | 255 => Some("is not an option: it marks padding or the end"),
        1 => Some("follows from the subnet's network"),
        3 => Some("has a key of its own: routers"),
        6 => Some("has a key of its own: dns"),
        12 => Some("has a key of its own: hostname, in a reservation"),
        15 => Some("has a key of its own: domain"),
        26 => Some("has a key of its own: mtu"),
        42 => Some("has a key of its own: ntp"),
        51 | 58 | 59 => Some("follows from the key lease"),
        119 => Some("has a key of its own: search"),
        121 => Some("has a key of its own: routes"),
        50 | 52..=57 | 61 | 82 => Some("belongs to the protocol and is set by the service"),
        66 | 67 | 93 | 94 | 97 | 175 => Some("is about booting and is set by the service: see pins and NBPs"),
        _ => None,
    };
    own.or(match (&option.text, &option.hex) {
        (None, None) => Some("has no value: set text or hex"),
        (Some(_), Some(_)) => Some("has two values: set text or hex, not both"),
        (Some(text), None) if text.is_empty() || text.len() > 255 => {
            Some("has a text that is empty or over 255 bytes")
        }
        (None, Some(hex)) if hex.0.is_empty() => Some("has an empty value"),
        _ => None,
    })
}

fn is_name(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253 && name.trim_end_matches('.').split('.').all(label)
}
