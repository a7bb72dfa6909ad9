//! Whole Ethernet frames as pure bytes. A client that has no address yet can't answer ARP, so a reply
//! to it is addressed by hand: Ethernet, IPv4 and UDP headers of our own (RFC 2131 section 4.1).

use crate::model::Mac;
use crate::sys::ETH_IPV4;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const PROTOCOL_UDP: u8 = 17;

/// A UDP datagram as one unfragmented Ethernet frame with both checksums. `None` when it would be
/// longer than an IPv4 packet can be.
pub fn udp_frame(
    from_mac: Mac,
    to_mac: Mac,
    from: SocketAddrV4,
    to: SocketAddrV4,
    data: &[u8],
) -> Option<Vec<u8>> {
    let udp_len = u16::try_from(UDP + data.len()).ok()?;
    let total = u16::try_from(IPV4 + UDP + data.len()).ok()?;
    let mut header = Vec::with_capacity(IPV4);
    // Version 4, five words; class of service CS6, as routers use for the protocols that keep a
    // network running.
    header.extend([0x45, 0xc0]);
    header.extend(total.to_be_bytes());
    // Identification 0 with "don't fragment" (RFC 6864 section 4.1); 64 hops.
    header.extend([0, 0, 0x40, 0, 64, PROTOCOL_UDP, 0, 0]);
    header.extend(from.ip().octets());
    header.extend(to.ip().octets());
    let sum = checksum(&[&header]).to_be_bytes();
    if let Some(field) = header.get_mut(10..12) {
        field.copy_from_slice(&sum);
    }

    let mut udp = Vec::with_capacity(UDP);
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(udp_len.to_be_bytes());
    let pseudo = [0, PROTOCOL_UDP];
    let length = udp_len.to_be_bytes();
    let sum = checksum(&[&from.ip().octets(), &to.ip().octets(), &pseudo, &length, &udp, data]);
    // Zero means "no checksum" (RFC 768): its other form is sent instead.
    udp.extend(if sum == 0 { 0xffff } else { sum }.to_be_bytes());

    let mut frame = ethernet(to_mac, from_mac, ETH_IPV4, usize::from(total));
    frame.extend(header);
    frame.extend(udp);
    frame.extend(data);
    Some(frame)
}

/// The start of a frame, with room for `payload` bytes.
pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + payload);
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// A UDP datagram seen in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenUdp<'a> {
    /// MAC that sent it.
    pub from_mac: Mac,
    /// Address and port that sent it.
    pub from: SocketAddrV4,
    /// Where it goes.
    pub to: SocketAddrV4,
    /// What it carries.
    pub data: &'a [u8],
}

/// Reads an IPv4 UDP frame; `None` for anything else, fragments included. Checksums are not looked
/// at: a virtual interface hands over frames whose checksum the sender left to its hardware.
pub fn read_udp(frame: &[u8]) -> Option<SeenUdp<'_>> {
    if frame.get(12..14)? != ETH_IPV4.to_be_bytes() {
        return None;
    }
    let from_mac = Mac(frame.get(6..12)?.try_into().ok()?);
    let packet = frame.get(ETHERNET..)?;
    let first = *packet.first()?;
    let total = usize::from(u16_be(packet, 2)?);
    let fragment = u16_be(packet, 6)? & 0x3fff;
    if first >> 4 != 4 || fragment != 0 || *packet.get(9)? != PROTOCOL_UDP {
        return None;
    }
    // The Ethernet padding of a short frame is no part of the packet.
    let packet = packet.get(..total)?;
    let udp = packet.get(usize::from(first & 0x0f).max(5) * 4..)?;
    let len = usize::from(u16_be(udp, 4)?);
    Some(SeenUdp {
        from_mac,
        from: SocketAddrV4::new(ipv4(packet, 12)?, u16_be(udp, 0)?),
        to: SocketAddrV4::new(ipv4(packet, 16)?, u16_be(udp, 2)?),
        data: udp.get(UDP..len)?,
    })
}

/// The Internet checksum (RFC 1071) over the parts as if they were one; every part but the last must
/// have an even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        let (pairs, rest) = part.as_chunks::<2>();
        sum += pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>();
        sum += rest.first().map_or(0, |b| u32::from(*b) << 8);
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub(super) fn u16_be(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_be_bytes)
}

pub(super) fn ipv4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    const SERVER: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const CLIENT: Mac = Mac([0x52, 0x54, 0, 0, 0, 2]);

    fn at(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, last), port)
    }

    #[test]
    fn a_frame_is_addressed_and_summed_as_the_kernel_would() {
        let frame = udp_frame(SERVER, CLIENT, at(1, 67), at(9, 68), b"odd").unwrap();
        assert_eq!(frame.len(), 14 + 20 + 8 + 3);
        assert_eq!(frame[..14], [0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 8, 0]);
        // A receiver sums header and checksum to zero.
        assert_eq!(checksum(&[&frame[14..34]]), 0);
        let pseudo = [0, 17, 0, 11];
        assert_eq!(checksum(&[&frame[26..34], &pseudo, &frame[34..]]), 0);
        let seen = read_udp(&frame).unwrap();
        assert_eq!(seen, SeenUdp { from_mac: SERVER, from: at(1, 67), to: at(9, 68), data: b"odd" });
    }

    #[test]
    fn a_sum_of_zero_is_sent_as_ones() {
        // Searches the data word that makes the checksum come out as zero.
        let zero = (0..=u16::MAX)
            .map(|word| udp_frame(SERVER, CLIENT, at(1, 67), at(9, 68), &word.to_be_bytes()).unwrap())
            .filter(|frame| frame[40..42] == [0, 0])
            .count();
        assert_eq!(zero, 0);
        let ones = (0..=u16::MAX)
            .map(|word| udp_frame(SERVER, CLIENT, at(1, 67), at(9, 68), &word.to_be_bytes()).unwrap())
            .filter(|frame| frame[40..42] == [0xff, 0xff])
            .count();
        assert!(ones >= 1);
    }

    #[test]
    fn padding_is_cut_and_lies_are_refused() {
        let frame = udp_frame(SERVER, CLIENT, at(1, 67), at(9, 68), b"abcd").unwrap();
        let mut padded = frame.clone();
        padded.resize(60, 0xee);
        assert_eq!(read_udp(&padded).unwrap().data, b"abcd");
        for cut in 0..frame.len() {
            assert_eq!(read_udp(&frame[..cut]), None, "cut at {cut}");
        }
        for (at, byte, why) in
            [(39, 60, "UDP longer than the packet"), (39, 7, "UDP shorter than its header")]
        {
            let mut lie = frame.clone();
            lie[at] = byte;
            assert_eq!(read_udp(&lie), None, "{why}");
        }
        let mut fragment = frame;
        fragment[20] = 0x20;
        assert_eq!(read_udp(&fragment), None);
    }

    #[test]
    fn too_long_for_a_packet_is_refused() {
        assert_eq!(udp_frame(SERVER, CLIENT, at(1, 67), at(9, 68), &[0; 65508]), None);
    }
}
