//! Which interfaces there are, with their addresses, by rtnetlink: once ([`interfaces`]) or followed
//! as they change ([`follow`]).

use super::{netlink_route, registered};
use crate::model::Mac;
use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::{io::unix::AsyncFd, sync::watch, time::Instant};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
/// The kernel's list changed while it was being read.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// RTMGRP_LINK | RTMGRP_IPV4_IFADDR.
const GROUPS: u32 = 0x1 | 0x10;
const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_LOWER_UP: u32 = 0x1_0000;
const ARPHRD_ETHER: u16 = 1;

/// A network interface as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it; a recreated interface gets another.
    pub index: u32,
    /// Its name, as in `eth1`.
    pub name: String,
    /// Its Ethernet address; `None` for loopback, tunnels and the like.
    pub mac: Option<Mac>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Set up by the administrator.
    pub up: bool,
    /// A cable (or a running peer) is there.
    pub carrier: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// Index of the bridge, bond or VRF that it is a part of.
    pub master: Option<u32>,
    /// IPv4 addresses with their prefix lengths, the kernel's primary one first.
    pub ipv4: Vec<(Ipv4Addr, u8)>,
}

impl Interface {
    /// The address that a service on this link is known by: the first that is routable, else the
    /// first (169.254/16) one.
    pub fn address(&self) -> Option<(Ipv4Addr, u8)> {
        self.ipv4.iter().find(|(ip, _)| !ip.is_link_local()).or(self.ipv4.first()).copied()
    }
}

/// The IPv4 address and prefix length of an interface; `None` without such an interface or address.
pub fn interface_addr(name: &str) -> Option<(Ipv4Addr, u8)> {
    interface(name).ok()??.address()
}

/// One interface by name; `Ok(None)` where there is none.
pub fn interface(name: &str) -> io::Result<Option<Interface>> {
    Ok(interfaces()?.into_iter().find(|i| i.name == name))
}

/// All interfaces of this network namespace, in the kernel's order.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    for _ in 0..5 {
        let mut found = Vec::new();
        if dump(RTM_GETLINK, 16, &mut found)? && dump(RTM_GETADDR, 8, &mut found)? {
            return Ok(found);
        }
    }
    Err(io::Error::other("the kernel's list of interfaces changed while it was read, five times in a row"))
}

/// Asks for one list. False when it changed underway and must be asked for again.
fn dump(kind: u16, body: u32, found: &mut Vec<Interface>) -> io::Result<bool> {
    let socket = netlink_route(0)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut ask = Vec::with_capacity(32);
    ask.extend((16 + body).to_ne_bytes());
    ask.extend(kind.to_ne_bytes());
    ask.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    ask.extend([0; 8]);
    ask.resize(16 + body as usize, 0);
    socket.send(&ask)?;
    let mut buffer = vec![0u8; 64 * 1024];
    let mut whole = true;
    loop {
        let len = io::Read::read(&mut &socket, &mut buffer)?;
        match read_messages(buffer.get(..len).unwrap_or_default(), found)? {
            Read::More { interrupted } => whole &= !interrupted,
            Read::Done { interrupted } => return Ok(whole && !interrupted),
        }
    }
}

enum Read {
    More { interrupted: bool },
    Done { interrupted: bool },
}

/// Reads one datagram of netlink messages (linux/netlink.h) into `found`. What it doesn't know it
/// skips.
fn read_messages(mut bytes: &[u8], found: &mut Vec<Interface>) -> io::Result<Read> {
    let mut interrupted = false;
    while let (Some(len), Some(kind), Some(flags)) = (u32_at(bytes, 0), u16_at(bytes, 4), u16_at(bytes, 6)) {
        let len = len as usize;
        let Some(body) = bytes.get(16..len) else { break };
        interrupted |= flags & NLM_F_DUMP_INTR != 0;
        match kind {
            NLMSG_DONE => return Ok(Read::Done { interrupted }),
            NLMSG_ERROR => {
                let code = u32_at(body, 0).unwrap_or(0).cast_signed();
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            RTM_NEWLINK => found.extend(link(body)),
            RTM_NEWADDR => address(body, found),
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Read::More { interrupted })
}

/// An `ifinfomsg` with its attributes (linux/rtnetlink.h, if_link.h).
fn link(body: &[u8]) -> Option<Interface> {
    let (hardware, index, flags) = (u16_at(body, 2)?, u32_at(body, 4)?, u32_at(body, 8)?);
    let mut it = Interface {
        index,
        name: String::new(),
        mac: None,
        mtu: 1500,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        master: None,
        ipv4: Vec::new(),
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            1 if hardware == ARPHRD_ETHER => it.mac = value.try_into().ok().map(Mac),
            3 => it.name = String::from_utf8_lossy(value.split(|b| *b == 0).next()?).into_owned(),
            4 => it.mtu = u32_at(value, 0)?,
            10 => it.master = u32_at(value, 0),
            _ => {}
        }
    }
    (!it.name.is_empty()).then_some(it)
}

/// An `ifaddrmsg` with its attributes (linux/if_addr.h), put to its interface.
fn address(body: &[u8], found: &mut [Interface]) {
    let (Some([family, prefix_len, ..]), Some(index)) = (body.get(..4), u32_at(body, 4)) else { return };
    let Some(interface) = found.iter_mut().find(|i| i.index == index) else { return };
    if i32::from(*family) != libc::AF_INET {
        return;
    }
    let all: Vec<_> = attributes(body.get(8..).unwrap_or_default()).collect();
    // IFA_LOCAL is our own address; IFA_ADDRESS is the peer's on a point-to-point link.
    let own = all.iter().find(|(kind, _)| *kind == 2).or(all.iter().find(|(kind, _)| *kind == 1));
    if let Some(Ok(ip)) = own.map(|(_, value)| <[u8; 4]>::try_from(*value)) {
        interface.ipv4.push((Ipv4Addr::from(ip), *prefix_len));
    }
}

/// `rtattr`s: length, kind, value, padded to 4.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

/// All interfaces, and then again after every change, for as long as a receiver lives. Changes that
/// come together are told together. Where the kernel tells of no change (no netlink multicast in some
/// containers), the list is read every second instead.
///
/// Must be called within a tokio runtime.
pub fn follow() -> io::Result<watch::Receiver<Arc<Vec<Interface>>>> {
    // Subscribe first, read second: a change in between is then seen, not missed.
    let events = netlink_route(GROUPS).and_then(|socket| {
        socket.set_nonblocking(true)?;
        registered(socket)
    });
    let (sender, receiver) = watch::channel(Arc::new(interfaces()?));
    tokio::spawn(async move {
        let (events, idle) = match events {
            Ok(socket) => (Some(socket), Duration::from_secs(15)),
            Err(error) => {
                tracing::warn!(%error, "no link events from the kernel: interfaces are read every second instead");
                (None, Duration::from_secs(1))
            }
        };
        loop {
            tokio::select! {
                () = next_event(events.as_ref()) => {}
                () = tokio::time::sleep(idle) => {}
                () = sender.closed() => return,
            }
            match interfaces() {
                Ok(now) => drop(sender.send_if_modified(|old| {
                    let changed = **old != now;
                    if changed {
                        *old = Arc::new(now);
                    }
                    changed
                })),
                Err(error) => tracing::warn!(%error, "can't read the list of interfaces"),
            }
        }
    });
    Ok(receiver)
}

/// Returns soon after something changed. Never without a socket.
async fn next_event(events: Option<&AsyncFd<socket2::Socket>>) {
    let Some(events) = events else { return std::future::pending().await };
    let mut buffer = [0u8; 16 * 1024];
    let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
    // A burst (a bridge with a hundred ports) is one reading, not a hundred; an overrun (ENOBUFS)
    // is an event as well.
    let until = Instant::now() + Duration::from_millis(50);
    tokio::time::sleep_until(until).await;
    for _ in 0..10_000 {
        if let Err(error) = io::Read::read(&mut events.get_ref(), &mut buffer)
            && error.kind() == io::ErrorKind::WouldBlock
        {
            ready.clear_ready();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend((4 + value.len() as u16).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend((16 + body.len() as u32).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(body);
        out
    }

    fn new_link(index: u32, flags: u32) -> Vec<u8> {
        let mut body = vec![0, 0];
        body.extend(ARPHRD_ETHER.to_ne_bytes());
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attribute(1, &[2, 0, 0, 0, 0, 7]));
        body.extend(attribute(3, b"eth7\0"));
        body.extend(attribute(4, &9000u32.to_ne_bytes()));
        message(RTM_NEWLINK, &body)
    }

    fn new_addr(index: u32, ip: [u8; 4]) -> Vec<u8> {
        let mut body = vec![2, 24, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(attribute(1, &ip));
        body.extend(attribute(2, &ip));
        message(RTM_NEWADDR, &body)
    }

    #[test]
    fn an_interface_is_read_with_its_addresses_in_order() {
        let mut bytes = new_link(7, IFF_UP | IFF_LOWER_UP);
        bytes.extend(new_addr(7, [169, 254, 0, 9]));
        bytes.extend(new_addr(7, [198, 18, 0, 1]));
        bytes.extend(new_addr(8, [198, 18, 9, 9]));
        let mut found = Vec::new();
        assert!(matches!(read_messages(&bytes, &mut found), Ok(Read::More { .. })));
        assert_eq!(found.len(), 1);
        let it = &found[0];
        assert_eq!((it.index, it.name.as_str(), it.mtu, it.up, it.carrier), (7, "eth7", 9000, true, true));
        assert_eq!(it.mac, Some(Mac([2, 0, 0, 0, 0, 7])));
        // The routable address is the one to be known by, whatever came first.
        assert_eq!(it.address(), Some((Ipv4Addr::new(198, 18, 0, 1), 24)));
    }

    #[test]
    fn cut_and_lying_messages_are_skipped_without_a_panic() {
        let mut bytes = new_link(7, IFF_UP);
        bytes.extend(new_addr(7, [198, 18, 0, 1]));
        for cut in 0..bytes.len() {
            let mut found = Vec::new();
            let _ = read_messages(&bytes[..cut], &mut found);
        }
        for at in 0..bytes.len() {
            let mut lie = bytes.clone();
            lie[at] = 0xff;
            let _ = read_messages(&lie, &mut Vec::new());
            lie[at] = 0;
            let _ = read_messages(&lie, &mut Vec::new());
        }
    }

    #[test]
    fn the_loopback_interface_of_this_host_is_found() {
        let lo = interface("lo").unwrap().expect("every namespace has lo");
        assert!(lo.loopback && lo.mac.is_none());
        assert_eq!(interface("no-such-if0").unwrap(), None);
    }
}
