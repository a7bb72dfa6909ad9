//! Router advertisements as pure bytes (RFC 4861). iPXE waits 4 to 17 s for a router before it goes on
//! by IPv4; an advertisement of lifetime 0 says "no router here" and ends the wait. It carries no
//! prefix and its sender is never anybody's default router.

use super::frame::{checksum, ethernet};
use crate::model::Mac;
use crate::sys::ETH_IPV6;
use socket2::SockFilter;
use std::net::Ipv6Addr;

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Link-local scope, so always 255: a packet that passed a router is forged (RFC 4861 section 6.1).
const HOPS: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
/// All routers, ff02::2: where solicitations go.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// The Ethernet form of [`ALL_ROUTERS`].
pub const ALL_ROUTERS_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 2]);

/// A station as a frame names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IPv6 address; may be unspecified.
    pub ip: Ipv6Addr,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Somebody looks for a router.
    Solicitation(Station),
    /// Somebody says that it is one (or, with lifetime 0 s, that it isn't).
    Advertisement {
        /// The sender.
        from: Station,
        /// For how long, in seconds.
        lifetime: u16,
    },
}

/// The link-local address that our advertisements come from: made from the MAC, but not the usual
/// EUI-64 one. Where this host is itself an IPv6 router, "lifetime 0" from its real address would
/// take the default route from everybody on the link.
pub fn source(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, b'p', b'x', a, b, c, d, e, f])
}

/// An advertisement of lifetime 0 to one station, or to all where it can't be answered by itself.
pub fn advertisement(from: Mac, to: Option<Station>) -> Vec<u8> {
    let answerable = |s: &Station| s.ip.is_unicast_link_local() && s.mac.is_usable();
    let to = to.filter(answerable).unwrap_or(Station { mac: ALL_NODES_MAC, ip: ALL_NODES });
    let source = source(from);
    // Type, code, checksum; hop limit, flags (no DHCPv6), lifetime; reachable and retransmission
    // time unspecified.
    let mut icmp = vec![ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let length = (icmp.len() as u32).to_be_bytes();
    let sum = checksum(&[&source.octets(), &to.ip.octets(), &length, &[0, 0, 0, ICMPV6], &icmp]);
    if let Some(field) = icmp.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let mut frame = ethernet(to.mac, from, ETH_IPV6, 40 + icmp.len());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, HOPS]);
    frame.extend(source.octets());
    frame.extend(to.ip.octets());
    frame.extend(icmp);
    frame
}

/// Reads a solicitation or advertisement; `None` for anything else. The checksum is not looked at: a
/// virtual interface hands over frames whose checksum the sender left to its hardware.
pub fn read(frame: &[u8]) -> Option<Heard> {
    let (ether, packet) = frame.split_at_checked(14)?;
    let (ip, icmp) = packet.split_at_checked(40)?;
    let ipv6 = ether.get(12..14)? == ETH_IPV6.to_be_bytes() && ip.first()? >> 4 == 6;
    // Extension headers are allowed before these by no sender that there is.
    if !ipv6 || *ip.get(6)? != ICMPV6 || *ip.get(7)? != HOPS || *icmp.get(1)? != 0 {
        return None;
    }
    let octets: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
    let from = Station { mac: Mac(ether.get(6..12)?.try_into().ok()?), ip: octets.into() };
    match *icmp.first()? {
        SOLICITATION if icmp.len() >= 8 => Some(Heard::Solicitation(from)),
        ADVERTISEMENT if icmp.len() >= 16 => {
            let lifetime = u16::from_be_bytes(icmp.get(6..8)?.try_into().ok()?);
            Some(Heard::Advertisement { from, lifetime })
        }
        _ => None,
    }
}

/// Classic BPF for a packet socket of ETH_IPV6: only ICMPv6 133 and 134, so that a busy link's IPv6
/// traffic never wakes us.
pub fn filter() -> [SockFilter; 7] {
    const LOAD_BYTE: u16 = 0x30;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(IF_EQUAL, 0, 4, ICMPV6 as u32),
        SockFilter::new(LOAD_BYTE, 0, 0, 54),
        SockFilter::new(IF_EQUAL, 1, 0, SOLICITATION as u32),
        SockFilter::new(IF_EQUAL, 0, 1, ADVERTISEMENT as u32),
        SockFilter::new(RETURN, 0, 0, 0x4_0000),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    const US: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const CLIENT: Station =
        Station { mac: Mac([0x52, 0x54, 0, 0, 0, 2]), ip: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2) };

    fn icmp_sum(frame: &[u8]) -> u16 {
        let len = (frame.len() - 54) as u32;
        checksum(&[&frame[22..54], &len.to_be_bytes(), &[0, 0, 0, 58], &frame[54..]])
    }

    #[test]
    fn says_no_router_and_no_prefix_with_a_right_checksum() {
        let frame = advertisement(US, None);
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(icmp_sum(&frame), 0);
        assert_eq!(frame.len(), 14 + 40 + 16, "no option, so no prefix");
        assert_eq!(frame[59], 0, "no DHCPv6");
        let Some(Heard::Advertisement { from, lifetime }) = read(&frame) else { panic!("not read back") };
        assert_eq!((from.mac, lifetime), (US, 0));
        assert!(from.ip.is_unicast_link_local());
        // Where this host is a router, its own routes stay.
        let usual: Ipv6Addr = "fe80::5054:ff:fe00:1".parse().unwrap();
        assert_ne!(from.ip, usual);
    }

    #[test]
    fn a_solicitor_with_an_address_is_answered_alone_and_one_without_by_all() {
        let frame = advertisement(US, Some(CLIENT));
        assert_eq!(frame[..6], CLIENT.mac.0);
        assert_eq!(frame[38..54], CLIENT.ip.octets());
        assert_eq!(icmp_sum(&frame), 0);
        let nobody = Station { ip: Ipv6Addr::UNSPECIFIED, ..CLIENT };
        assert_eq!(advertisement(US, Some(nobody)), advertisement(US, None));
        let far = Station { ip: "2001:db8::1".parse().unwrap(), ..CLIENT };
        assert_eq!(advertisement(US, Some(far)), advertisement(US, None));
    }

    #[test]
    fn what_passed_a_router_or_is_cut_is_nothing() {
        let mut frame = ethernet(ALL_ROUTERS_MAC, CLIENT.mac, ETH_IPV6, 48);
        frame.extend([0x60, 0, 0, 0, 0, 8, 58, 255]);
        frame.extend(CLIENT.ip.octets());
        frame.extend(ALL_ROUTERS.octets());
        frame.extend([133, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(&frame), Some(Heard::Solicitation(CLIENT)));
        for cut in 0..frame.len() {
            assert_eq!(read(&frame[..cut]), None, "cut at {cut}");
        }
        frame[21] = 64;
        assert_eq!(read(&frame), None);
    }
}
