//! Tests of the whole of `dhcp`: packets in, bytes and leases out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod bounds;
mod life;
mod props;
mod quirks;
mod recorded;
mod sites;
mod wire;

use super::{options::Options, *};
use crate::{
    model::{Change, Lease, LeaseState, Mac, Millis},
    netboot::{NbpAnswer, ServerAddr},
};
use std::net::Ipv4Addr;

pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

pub(super) fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, last)
}

pub(super) fn mac(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    Mac([0x52, 0x54, a, b, c, d])
}

/// A request that is put together option by option.
#[derive(Clone)]
pub(super) struct Packet {
    pub(super) mac: Mac,
    pub(super) flags: u16,
    pub(super) ciaddr: Ipv4Addr,
    pub(super) giaddr: Ipv4Addr,
    pub(super) options: Vec<(u8, Vec<u8>)>,
}

impl Packet {
    pub(super) fn new(kind: u8, mac: Mac) -> Packet {
        let none = Ipv4Addr::UNSPECIFIED;
        Packet { mac, flags: 0, ciaddr: none, giaddr: none, options: vec![(53, vec![kind])] }
    }

    pub(super) fn discover(mac: Mac) -> Packet {
        Packet::new(1, mac)
    }

    pub(super) fn selecting(mac: Mac, server: Ipv4Addr, addr: Ipv4Addr) -> Packet {
        Packet::new(3, mac).with(54, &server.octets()).with(50, &addr.octets())
    }

    pub(super) fn init_reboot(mac: Mac, addr: Ipv4Addr) -> Packet {
        Packet::new(3, mac).with(50, &addr.octets())
    }

    pub(super) fn renewing(mac: Mac, addr: Ipv4Addr) -> Packet {
        Packet { ciaddr: addr, ..Packet::new(3, mac) }
    }

    pub(super) fn release(mac: Mac, addr: Ipv4Addr) -> Packet {
        Packet { ciaddr: addr, ..Packet::new(7, mac).with(54, &SERVER.octets()) }
    }

    pub(super) fn decline(mac: Mac, addr: Ipv4Addr) -> Packet {
        Packet::new(4, mac).with(54, &SERVER.octets()).with(50, &addr.octets())
    }

    pub(super) fn with(mut self, code: u8, value: &[u8]) -> Packet {
        self.options.push((code, value.to_vec()));
        self
    }

    /// PXE firmware of that architecture.
    pub(super) fn pxe(self, arch: u16) -> Packet {
        let class = format!("PXEClient:Arch:{arch:05}:UNDI:003016");
        self.with(60, class.as_bytes()).with(93, &arch.to_be_bytes()).with(94, &[1, 3, 16])
    }

    /// UEFI HTTP Boot of that architecture.
    pub(super) fn http(self, arch: u16) -> Packet {
        let class = format!("HTTPClient:Arch:{arch:05}:UNDI:003016");
        self.with(60, class.as_bytes()).with(93, &arch.to_be_bytes())
    }

    pub(super) fn ipxe(self) -> Packet {
        self.pxe(7).with(77, b"iPXE").with(175, &[19, 1, 1, 36, 1, 1])
    }

    /// Through a relay.
    pub(super) fn relayed(mut self, giaddr: Ipv4Addr) -> Packet {
        self.giaddr = giaddr;
        self
    }

    pub(super) fn broadcast(mut self) -> Packet {
        self.flags = 0x8000;
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![1, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe, 0, 0];
        out.extend(self.flags.to_be_bytes());
        out.extend(self.ciaddr.octets());
        out.extend([0; 8]);
        out.extend(self.giaddr.octets());
        out.extend(self.mac.0);
        out.resize(236, 0);
        out.extend([99, 130, 83, 99]);
        for (code, value) in &self.options {
            out.extend([*code, value.len() as u8]);
            out.extend(value);
        }
        out.push(255);
        out.resize(out.len().max(300), 0);
        out
    }

    pub(super) fn request(&self) -> Request {
        parse(&self.bytes()).expect("a good packet")
    }
}

/// A reply, read back.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) bytes: Vec<u8>,
    pub(super) options: Options,
    pub(super) reply: Reply,
}

impl Read {
    pub(super) fn new(reply: Reply) -> Read {
        let mut options = Options::default();
        options.walk(&reply.bytes[240..]);
        Read { bytes: reply.bytes.clone(), options, reply }
    }

    pub(super) fn opt(&self, code: u8) -> Option<&[u8]> {
        self.options.get(code)
    }

    pub(super) fn yiaddr(&self) -> Ipv4Addr {
        self.addr_at(16)
    }

    pub(super) fn siaddr(&self) -> Ipv4Addr {
        self.addr_at(20)
    }

    pub(super) fn addr_at(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::from(<[u8; 4]>::try_from(&self.bytes[at..at + 4]).unwrap())
    }

    pub(super) fn file(&self) -> &str {
        let field = &self.bytes[108..236];
        let end = field.iter().position(|b| *b == 0).expect("a NUL within `file`");
        std::str::from_utf8(&field[..end]).unwrap()
    }
}

/// A service with a site, a link and a clock that tests turn.
pub(super) struct Kit {
    pub(super) site: Site,
    pub(super) leases: Leases,
    pub(super) link: Link,
    pub(super) boot: NbpAnswer,
    pub(super) known: bool,
    pub(super) now: Millis,
    /// Addresses that foreign hosts answer on.
    pub(super) occupied: Vec<Ipv4Addr>,
    pub(super) probes: Vec<Ipv4Addr>,
    /// What the store would hold.
    pub(super) disk: std::collections::BTreeMap<Ipv4Addr, Lease>,
    pub(super) changes: usize,
}

impl Kit {
    /// Pool of 198.18.0.10 to 198.18.0.19.
    pub(super) fn new() -> Kit {
        let mut subnet = Subnet::new("198.18.0.0/24".parse().unwrap());
        subnet.pools = vec!["198.18.0.10-198.18.0.19".parse().unwrap()];
        Kit::with(Site { subnets: vec![subnet], ..Site::default() })
    }

    pub(super) fn with(site: Site) -> Kit {
        assert_eq!(site.check(), [], "a site for tests makes sense");
        let server = ServerAddr { ip: SERVER, http_port: 8080 };
        let (mode, port) = (Mode::Full, Port::Server67);
        Kit {
            leases: Leases::new(site.bounds),
            site,
            link: Link { name: "eth1".into(), index: 2, server, prefix_len: 24, mode, port },
            boot: NbpAnswer::AddressOnly,
            known: true,
            now: 1_000_000,
            occupied: Vec::new(),
            probes: Vec::new(),
            disk: Default::default(),
            changes: 0,
        }
    }

    pub(super) fn once(&mut self, packet: &Packet, probed: Option<Probed>) -> Action {
        let req = packet.request();
        let (site, link) = (&self.site, &self.link);
        let outcome = respond(site, &mut self.leases, link, &req, &self.boot, self.known, probed, self.now);
        for change in outcome.changes {
            self.changes += 1;
            match change {
                Change::Lease(lease) => {
                    assert_ne!(lease.state, LeaseState::Offered, "offers stay in memory");
                    self.disk.insert(lease.addr, lease);
                }
                Change::LeaseGone(addr) => {
                    self.disk.remove(&addr);
                }
                other => panic!("{other:?} is not ours to change"),
            }
        }
        outcome.action
    }

    /// One request with all the probes that it asks for.
    pub(super) fn send(&mut self, packet: &Packet) -> Action {
        let mut action = self.once(packet, None);
        while let Action::Probe(addr) = action {
            self.probes.push(addr);
            let used = self.occupied.contains(&addr);
            let probed = if used { Probed::InUse(addr) } else { Probed::Free(addr) };
            action = self.once(packet, Some(probed));
        }
        action
    }

    pub(super) fn reply(&mut self, packet: &Packet) -> Read {
        match self.send(packet) {
            Action::Reply(reply) => Read::new(reply),
            other => panic!("no reply but {other:?}"),
        }
    }

    pub(super) fn silence(&mut self, packet: &Packet) -> Reason {
        match self.send(packet) {
            Action::Silent(reason) => reason,
            other => panic!("not silent: {other:?}"),
        }
    }

    /// DISCOVER to ACK.
    pub(super) fn obtain(&mut self, packet: &Packet) -> Ipv4Addr {
        let offer = self.reply(packet);
        assert_eq!(offer.reply.kind, ReplyKind::Offer);
        let mut ask = packet.clone();
        ask.options.retain(|(code, _)| !matches!(code, 50 | 53 | 54));
        ask.options.insert(0, (53, vec![3]));
        let ask = ask.with(54, offer.opt(54).unwrap()).with(50, &offer.yiaddr().octets());
        let ack = self.reply(&ask);
        assert_eq!(ack.reply.kind, ReplyKind::Ack);
        assert_eq!(ack.yiaddr(), offer.yiaddr());
        ack.yiaddr()
    }

    /// What a crash leaves.
    pub(super) fn restart(&mut self) {
        self.leases = Leases::new(self.site.bounds);
        self.leases.restore(self.disk.values().cloned().collect());
    }

    pub(super) fn pass(&mut self, seconds: i64) {
        self.now += seconds * 1_000;
    }
}
