//! Finds other DHCP servers of a link, by asking as a client that doesn't exist.

use super::frame::{self, read_udp};
use crate::{
    dhcp::PROBE_CLASS,
    model::Mac,
    sys::{ETH_IPV4, PacketSocket, links, registered},
};
use socket2::SockFilter;
use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};
use tokio::{
    io::Interest,
    time::{Instant, timeout_at},
};

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const CLIENT_PORT: u16 = 68;
/// DISCOVERs sent within the timeout, plain and as PXE firmware in turn: a proxy answers only the latter.
const ASKS: u32 = 4;

/// The DHCP and proxyDHCP servers that answer on an interface within `timeout`, by server identifier,
/// in order. Sends a few DISCOVERs with a made-up MAC and takes none of the offers, so that nothing is
/// leased. A server on this same host is not seen: its port 67 is taken then.
///
/// Errors: no such interface, no Ethernet, down, or no CAP_NET_RAW.
pub async fn detect_other_servers(interface: &str, timeout: Duration) -> io::Result<Vec<Ipv4Addr>> {
    let none = |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("interface {interface} {what}"));
    let it = links::interface(interface)?.ok_or_else(|| none("does not exist"))?;
    let own = it.mac.ok_or_else(|| none("is not Ethernet"))?;
    let socket = registered(PacketSocket::open_filtered(it.index, Some(ETH_IPV4), &filter())?)?;
    let question = Question::new(own)?;
    let mut found = BTreeSet::new();
    let mut buffer = vec![0u8; 4_096];
    let start = Instant::now();
    for ask in 0..ASKS {
        let Some(frame) = question.frame(ask % 2 == 1) else { break };
        socket.async_io(Interest::WRITABLE, |s| s.send(&frame)).await?;
        let until = start + timeout * (ask + 1) / ASKS;
        while let Ok(len) =
            timeout_at(until, socket.async_io(Interest::READABLE, |s| s.recv(&mut buffer))).await
        {
            let seen = buffer.get(..len?).and_then(read_udp).filter(|udp| udp.to.port() == CLIENT_PORT);
            found.extend(seen.and_then(|udp| offered_by(udp.data, question.xid, *udp.from.ip())));
        }
    }
    Ok(found.into_iter().collect())
}

/// A question for servers, by a client that doesn't exist.
pub(super) struct Question {
    own: Mac,
    xid: u32,
}

impl Question {
    /// A new one, from the interface with that MAC. Errors: the system has no randomness.
    pub(super) fn new(own: Mac) -> io::Result<Question> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|_| io::Error::other("no randomness from the system"))?;
        Ok(Question { own, xid: u32::from_be_bytes(random) })
    }

    /// A whole frame; as PXE firmware, or as a plain host.
    pub(super) fn frame(&self, pxe: bool) -> Option<Vec<u8>> {
        let discover = discover(made_up(self.own), self.xid, pxe);
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
        frame::udp_frame(self.own, Mac([0xff; 6]), from, to, &discover)
    }
}

/// Always the same one for an interface, so that asking again takes no second address of anybody's pool.
fn made_up(own: Mac) -> Mac {
    let [a, b, c, d, e, f] = own.0;
    // Locally administered, and not ours even where ours is as well.
    Mac([(a | 2) & !1, b ^ 0x50, c ^ 0x78, d, e, f ^ 0x01])
}

/// A DISCOVER that asks for broadcast answers (RFC 2131 section 4.1), as PXE firmware or as a plain
/// host.
fn discover(client: Mac, xid: u32, pxe: bool) -> Vec<u8> {
    let mut out = vec![1, 1, 6, 0];
    out.extend(xid.to_be_bytes());
    out.extend([0, 4, 0x80, 0]);
    out.extend([0; 16]);
    out.extend(client.0);
    out.resize(236, 0);
    out.extend(MAGIC);
    out.extend([53, 1, 1]);
    out.extend([55, 6, 1, 3, 51, 54, 66, 67]);
    // A pristine that hears this answers, but puts no machine and no boot on record (RFC 3004).
    out.extend([77, PROBE_CLASS.len() as u8 + 1, PROBE_CLASS.len() as u8]);
    out.extend(PROBE_CLASS);
    if pxe {
        let class = b"PXEClient:Arch:00007:UNDI:003016";
        out.extend([60, class.len() as u8]);
        out.extend(class);
        out.extend([93, 2, 0, 7, 94, 3, 1, 3, 16]);
        out.extend([97, 17, 0]);
        out.extend([0xfe; 16]);
    }
    out.push(255);
    // Old relays and servers drop what is shorter than a BOOTP packet.
    out.resize(out.len().max(300), 0);
    out
}

/// Who sent an OFFER for our question.
fn offered_by(data: &[u8], xid: u32, source: Ipv4Addr) -> Option<Ipv4Addr> {
    read_reply(data, source).filter(|said| said.xid == xid && said.kind == OFFER).map(|said| said.server)
}

const OFFER: u8 = 2;

/// What a server says to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    xid: u32,
    /// Option 53: OFFER, ACK or NAK.
    kind: u8,
    /// Its option 54, else the packet's source.
    pub(super) server: Ipv4Addr,
}

/// Reads an OFFER, ACK or NAK of whatever server.
pub(super) fn read_reply(data: &[u8], source: Ipv4Addr) -> Option<Said> {
    let xid = u32::from_be_bytes(data.get(4..8)?.try_into().ok()?);
    if data.first()? != &2 || data.get(236..240)? != MAGIC {
        return None;
    }
    let mut rest = data.get(240..)?;
    let (mut kind, mut server) = (None, source);
    loop {
        match *rest {
            [0, ref more @ ..] => rest = more,
            [255, ..] | [_] | [] => break,
            [code, len, ref more @ ..] => {
                let Some((value, more)) = more.split_at_checked(len.into()) else { break };
                match (code, value) {
                    (53, [it @ (2 | 5 | 6)]) => kind = Some(*it),
                    (54, [a, b, c, d]) => server = Ipv4Addr::new(*a, *b, *c, *d),
                    _ => {}
                }
                rest = more;
            }
        }
    }
    let plausible = !server.is_unspecified() && !server.is_broadcast() && !server.is_multicast();
    kind.filter(|_| plausible).map(|kind| Said { xid, kind, server })
}

/// Classic BPF for a packet socket of ETH_IPV4: whole UDP packets to port 68.
pub(super) fn filter() -> [SockFilter; 9] {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_X: u16 = 0x48;
    const X_IP_HEADER: u16 = 0xb1;
    const IF_EQUAL: u16 = 0x15;
    const IF_BITS: u16 = 0x45;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 23),
        SockFilter::new(IF_EQUAL, 0, 6, 17),
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(IF_BITS, 4, 0, 0x1fff),
        SockFilter::new(X_IP_HEADER, 0, 0, 14),
        SockFilter::new(LOAD_HALF_X, 0, 0, 16),
        SockFilter::new(IF_EQUAL, 0, 1, CLIENT_PORT as u32),
        SockFilter::new(RETURN, 0, 0, 0x4_0000),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::dhcp::{self, MessageType};

    const OWN: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    #[test]
    fn asks_as_a_client_that_can_exist_but_does_not() {
        for pxe in [false, true] {
            let request = dhcp::parse(&discover(made_up(OWN), 7, pxe)).unwrap();
            assert_eq!(request.message_type(), Some(MessageType::Discover));
            assert!(request.broadcast());
            assert!(request.mac().is_usable());
            assert_ne!(request.mac(), OWN);
            assert_eq!(request.option(60).is_some(), pxe);
            assert!(request.is_probe());
        }
        assert_ne!(made_up(made_up(OWN)), made_up(OWN));
    }

    #[test]
    fn an_offer_is_told_by_its_server_identifier() {
        let source = Ipv4Addr::new(198, 18, 0, 250);
        let mut offer = discover(made_up(OWN), 7, false);
        offer[0] = 2;
        offer.truncate(240);
        offer.extend([0, 53, 1, 2]);
        let bare = offer.clone();
        offer.extend([54, 4, 198, 18, 0, 9, 255]);
        assert_eq!(offered_by(&offer, 7, source), Some(Ipv4Addr::new(198, 18, 0, 9)));
        assert_eq!(offered_by(&bare, 7, source), Some(source));
        assert_eq!(offered_by(&offer, 8, source), None, "of another question");
        for cut in 0..240 {
            assert_eq!(offered_by(&offer[..cut], 7, source), None);
        }
        offer[243] = 5;
        assert_eq!(offered_by(&offer, 7, source), None, "an ACK is no offer");
        let said = read_reply(&offer, source).unwrap();
        assert_eq!(said.server, Ipv4Addr::new(198, 18, 0, 9), "but it tells of a server");
        offer[243] = 1;
        assert_eq!(read_reply(&offer, source), None, "a client's message");
    }
}
