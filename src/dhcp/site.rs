use super::{Bounds, Cidr, HexBytes, MacPrefix, Range, Seconds, index::IndexCell};
use crate::model::Mac;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// What the operator says about addresses: read from the configuration, checked by
/// [`Site::check`], then never changed (a reload makes a new one).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// Networks that are served, on links of ours or behind relays. No two overlap.
    #[serde(rename = "subnet")]
    pub subnets: Vec<Subnet>,
    /// Addresses that belong to one machine each.
    #[serde(rename = "reservation")]
    pub reservations: Vec<Reservation>,
    /// True: this is the only DHCP server of its subnets. It then says NAK to a client that asks for
    /// an address it can't have, which saves that client a minute, and takes over leases that it
    /// doesn't know, if their addresses are free. False: it is silent in both cases (RFC 2131
    /// section 4.3.2).
    pub authoritative: bool,
    /// Lease time where the subnet says nothing.
    pub lease: Seconds,
    /// Shortest lease that a client can ask for (option 51); the longest is the subnet's own.
    pub min_lease: Seconds,
    /// How long an address is held for a client that was offered it; 60 s at most.
    pub offer_hold: Seconds,
    /// How long an address rests after somebody else answered on it (DECLINE or probe).
    pub quarantine: Seconds,
    /// Ask by ARP before an address goes to a client that did not have it before.
    pub probe: bool,
    /// Bounds that keep strangers from using up memory and addresses.
    pub bounds: Bounds,
    /// Machines whose PXE firmware rejects PXE discovery control 8 (option 43.6, "use the boot file
    /// of this offer"), by the beginning of their MACs: in proxy mode these are sent to port 4011.
    pub no_discovery_control: Vec<MacPrefix>,
    /// Look-up tables made from the above at first use.
    #[doc(hidden)]
    #[serde(skip)]
    pub index: IndexCell,
}

impl Default for Site {
    fn default() -> Site {
        Site {
            subnets: Vec::new(),
            reservations: Vec::new(),
            authoritative: true,
            lease: Seconds(3_600),
            min_lease: Seconds(120),
            offer_hold: Seconds(30),
            quarantine: Seconds(600),
            probe: true,
            bounds: Bounds::default(),
            no_discovery_control: Vec::new(),
            index: IndexCell::default(),
        }
    }
}

/// One network and what its clients are told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// As in `198.18.0.0/24`.
    pub network: Cidr,
    /// Addresses to give out. None: reservations only.
    #[serde(default)]
    pub pools: Vec<Range>,
    /// Addresses in pools that are not given out.
    #[serde(default)]
    pub exclude: Vec<Range>,
    /// Option 3; also the default route in option 121, which makes clients ignore option 3.
    #[serde(default)]
    pub routers: Vec<Ipv4Addr>,
    /// Option 6.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Option 15.
    #[serde(default)]
    pub domain: Option<String>,
    /// Option 119 (RFC 3397).
    #[serde(default)]
    pub search: Vec<String>,
    /// Option 42.
    #[serde(default)]
    pub ntp: Vec<Ipv4Addr>,
    /// Option 26.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Option 121 (RFC 3442).
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Anything else, by number.
    #[serde(default)]
    pub options: Vec<RawOption>,
    /// Lease time of this subnet.
    #[serde(default)]
    pub lease: Option<Seconds>,
}

impl Subnet {
    /// A subnet that gives out nothing and tells nothing but its mask.
    pub fn new(network: Cidr) -> Subnet {
        Subnet {
            network,
            pools: Vec::new(),
            exclude: Vec::new(),
            routers: Vec::new(),
            dns: Vec::new(),
            domain: None,
            search: Vec::new(),
            ntp: Vec::new(),
            mtu: None,
            routes: Vec::new(),
            options: Vec::new(),
            lease: None,
        }
    }

    /// The subnet of `pristine serve --interface eth1` alone. The pool is the upper half of the
    /// network (people put routers and fixed addresses at its bottom), at most 32,768 addresses; a
    /// network of 32 addresses or fewer is given out whole. Never the server's own address.
    pub fn flat(server_ip: Ipv4Addr, prefix_len: u8) -> Subnet {
        let network = Cidr::containing(server_ip, prefix_len);
        let hosts = network.hosts();
        let mut pool = hosts;
        if network.prefix_len < 27 {
            let half = (hosts.len() / 2).min(32_768) - 1;
            let first = hosts.last.to_bits().saturating_sub(u32::try_from(half).unwrap_or(u32::MAX));
            pool.first = Ipv4Addr::from_bits(first);
        }
        let mut subnet = Subnet::new(network);
        let own = Range { first: server_ip, last: server_ip };
        if pool != own {
            subnet.pools.push(pool);
            if pool.contains(server_ip) {
                subnet.exclude.push(own);
            }
        }
        subnet
    }
}

/// An address that belongs to one machine. It is never given to another, and may lie in a pool or
/// beside it, but in a subnet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Whose, by MAC.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Whose, by client id (option 61, with its type byte). Goes before `mac` of another reservation.
    #[serde(default)]
    pub client_id: Option<HexBytes>,
    /// The address.
    pub address: Ipv4Addr,
    /// Option 12 for the machine.
    #[serde(default)]
    pub hostname: Option<String>,
}

/// A route for clients (option 121).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination network.
    pub to: Cidr,
    /// Next hop; 0.0.0.0 means on this link.
    pub via: Ipv4Addr,
}

/// An option by number, as text or as hex.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawOption {
    /// 1 to 254; not one that the service decides itself.
    pub code: u8,
    /// Value as text.
    #[serde(default)]
    pub text: Option<String>,
    /// Value as hex bytes.
    #[serde(default)]
    pub hex: Option<HexBytes>,
    /// Send it also to clients that did not ask for it (option 55).
    #[serde(default)]
    pub always: bool,
}

impl RawOption {
    /// The bytes of the value.
    pub fn value(&self) -> &[u8] {
        match (&self.hex, &self.text) {
            (Some(hex), _) => &hex.0,
            (None, Some(text)) => text.as_bytes(),
            (None, None) => &[],
        }
    }
}
