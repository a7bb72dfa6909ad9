//! ARP as pure bytes: the probe that asks whether an address is taken, and what others say
//! (RFC 826, RFC 5227 section 2.1).

use super::frame::{ethernet, ipv4, u16_be};
use crate::model::Mac;
use crate::sys::ETH_ARP;
use std::net::Ipv4Addr;

/// What an ARP packet says, be it a question or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Who sends it.
    pub sender_mac: Mac,
    /// The address that the sender has; unspecified in a probe.
    pub sender_ip: Ipv4Addr,
    /// The address that is asked about, or the asker's.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// The address that this packet proves to be in use, by whom. An ARP probe of somebody else
    /// counts: it is about to use the address (RFC 5227 section 2.1.1).
    pub fn claims(&self) -> (Ipv4Addr, Mac) {
        if self.sender_ip.is_unspecified() {
            (self.target_ip, self.sender_mac)
        } else {
            (self.sender_ip, self.sender_mac)
        }
    }
}

/// The broadcast question "who has `ip`?" with sender address 0, so that nobody's ARP cache learns
/// anything from it.
pub fn probe_frame(from: Mac, ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(Mac([0xff; 6]), from, ETH_ARP, 28);
    // Ethernet, IPv4, lengths 6 and 4, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(from.0);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(ip.octets());
    frame
}

/// Reads an ARP frame for IPv4 over Ethernet; `None` for anything else or with a sender that no
/// station can be.
pub fn read(frame: &[u8]) -> Option<Arp> {
    let arp = frame.get(14..)?;
    let kind = (frame.get(12..14)? == ETH_ARP.to_be_bytes()) && arp.get(..6)? == [0, 1, 8, 0, 6, 4];
    let known = matches!(u16_be(arp, 6)?, 1 | 2);
    let sender_mac = Mac(arp.get(8..14)?.try_into().ok()?);
    if !kind || !known || !sender_mac.is_usable() {
        return None;
    }
    Some(Arp { sender_mac, sender_ip: ipv4(arp, 14)?, target_ip: ipv4(arp, 24)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    const US: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const THEM: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);
    const IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 50);

    fn answer() -> Vec<u8> {
        let mut frame = ethernet(US, THEM, ETH_ARP, 28);
        frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(THEM.0);
        frame.extend(IP.octets());
        frame.extend(US.0);
        frame.extend([0; 4]);
        frame
    }

    #[test]
    fn a_probe_gives_away_no_address() {
        let frame = probe_frame(US, IP);
        assert_eq!(frame.len(), 42);
        let arp = read(&frame).unwrap();
        assert_eq!(arp.sender_ip, Ipv4Addr::UNSPECIFIED);
        assert_eq!(arp.claims(), (IP, US));
    }

    #[test]
    fn an_answer_claims_the_address() {
        assert_eq!(read(&answer()).unwrap().claims(), (IP, THEM));
    }

    #[test]
    fn anything_else_is_nothing() {
        for cut in 0..answer().len() {
            assert_eq!(read(&answer()[..cut]), None, "cut at {cut}");
        }
        for (at, what) in
            [(12, "ethertype"), (15, "hardware"), (16, "protocol"), (18, "length"), (21, "operation")]
        {
            let mut other = answer();
            other[at] = 0x77;
            assert_eq!(read(&other), None, "{what}");
        }
        let mut group = answer();
        group[22] = 0xff;
        assert_eq!(read(&group), None, "a group address sends nothing");
    }
}
