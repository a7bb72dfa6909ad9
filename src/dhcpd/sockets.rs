use super::{
    advertiser::Advertiser,
    frame,
    links::{Interface, Usable},
    others::Watcher,
    prober::Prober,
    settings::InterfaceSettings,
};
use crate::{
    dhcp::{Destination, Mode, Port, Probed},
    model::Mac,
    sys::{self, PacketSocket, registered},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UdpSocket,
};

/// Bytes that may wait on a socket, of which the kernel takes twice as many: some thirty thousand requests, so that
/// a burst of strangers pushes nobody out.
const QUEUE: usize = 16 << 20;

/// Why an interface can't be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else has the port.
    #[error(
        "UDP port {port} is taken on {interface}: another DHCP or PXE server (dnsmasq, isc-dhcp-server, kea, pxe) runs on this host; \
         stop it, have it leave {interface} alone, or set mode = \"off\" for {interface}"
    )]
    PortTaken {
        /// 67 or 4011.
        port: u16,
        /// Interface name.
        interface: String,
    },
    /// Capabilities are missing.
    #[error(
        "not allowed to open {what} on {interface}: run as root, or with the capabilities CAP_NET_RAW and CAP_NET_BIND_SERVICE"
    )]
    NotAllowed {
        /// Which socket.
        what: String,
        /// Interface name.
        interface: String,
    },
    /// Anything else.
    #[error("can't open {what} on {interface}: {source}")]
    Other {
        /// Which socket.
        what: String,
        /// Interface name.
        interface: String,
        /// The system's words.
        source: io::Error,
    },
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> io::Error {
        let kind = match &error {
            OpenError::PortTaken { .. } => io::ErrorKind::AddrInUse,
            OpenError::NotAllowed { .. } => io::ErrorKind::PermissionDenied,
            OpenError::Other { source, .. } => source.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// Everything that is open on one served link, for as long as the link stays as it is.
#[derive(Debug)]
pub struct Sockets {
    /// UDP 67.
    pub server: UdpSocket,
    /// UDP 4011.
    pub boot_server: UdpSocket,
    /// Which interface, and our address on it.
    pub usable: Usable,
    /// `None` where the interface is not Ethernet or advertising is off.
    pub advertiser: Option<Advertiser>,
    /// `None` where the interface is not Ethernet, and where no address is ever given.
    pub prober: Option<Prober>,
    /// `None` where the interface is not Ethernet, and where other servers are expected.
    pub(super) watcher: Option<Watcher>,
    /// For replies to clients that have no address yet; `None` where the interface is not Ethernet.
    frames: Option<(AsyncFd<PacketSocket>, Mac)>,
    /// Whether the kernel cuts one datagram into several.
    cuts: bool,
}

impl Sockets {
    /// Opens all of them. Must be called within a tokio runtime.
    pub fn open(settings: &InterfaceSettings, usable: Usable) -> Result<Sockets, OpenError> {
        let index = usable.interface.index;
        let name = usable.interface.name.as_str();
        let failed = |what: &str| {
            let (what, interface) = (what.to_owned(), name.to_owned());
            move |source: io::Error| match source.kind() {
                io::ErrorKind::PermissionDenied => OpenError::NotAllowed { what, interface },
                _ => OpenError::Other { what, interface, source },
            }
        };
        let asynchronous = |socket: Socket| UdpSocket::from_std(socket.into());
        let server = asynchronous(udp(name, 67)?).map_err(failed("UDP port 67"))?;
        let boot_server = asynchronous(udp(name, 4011)?).map_err(failed("UDP port 4011"))?;
        let (mut prober, mut frames, mut advertiser, mut watcher) = (None, None, None, None);
        if let Some(mac) = usable.interface.mac {
            if settings.mode == Mode::Full && settings.probe().is_some() {
                prober = Some(Prober::open(index, mac).map_err(failed("an ARP socket"))?);
            }
            let open = || registered(PacketSocket::open(index, None)?);
            frames = Some((open().map_err(failed("a packet socket"))?, mac));
            if settings.advertises() {
                advertiser = Some(Advertiser::open(index, mac).map_err(failed("an ICMPv6 packet socket"))?);
            }
            if let Some(pace) = settings.watch_others.filter(|_| settings.mode == Mode::Full) {
                watcher = Some(Watcher::open(index, mac, pace).map_err(failed("a packet socket"))?);
            }
        }
        let cuts = [&server, &boot_server].iter().all(|socket| sys::cut_datagrams(*socket, 0).is_ok());
        Ok(Sockets { server, boot_server, usable, advertiser, prober, watcher, frames, cuts })
    }

    /// The socket of a port.
    pub fn of(&self, port: Port) -> &UdpSocket {
        match port {
            Port::Server67 => &self.server,
            Port::BootServer4011 => &self.boot_server,
        }
    }

    /// Sends a reply out of this interface, from our address and the port that was asked.
    pub async fn send(&self, port: Port, bytes: &[u8], to: Destination) -> io::Result<()> {
        match to {
            Destination::Relay(to) | Destination::Unicast(to) => self.send_ip(port, bytes, to).await,
            Destination::Broadcast { port: client } => {
                self.send_ip(port, bytes, SocketAddrV4::new(Ipv4Addr::BROADCAST, client)).await
            }
            Destination::Hardware { mac, ip, port: client } => {
                let sent = self.send_frame(port, bytes, mac, SocketAddrV4::new(ip, client)).await;
                match sent {
                    Some(Ok(())) => Ok(()),
                    // No Ethernet here, or longer than a frame: a broadcast reaches it as well, and
                    // is fragmented where it must be (RFC 2131 section 4.1 allows it).
                    None => {
                        let all = SocketAddrV4::new(Ipv4Addr::BROADCAST, client);
                        self.send_ip(port, bytes, all).await
                    }
                    Some(Err(error)) => Err(error),
                }
            }
        }
    }

    async fn send_ip(&self, port: Port, bytes: &[u8], to: SocketAddrV4) -> io::Result<()> {
        let socket = self.of(port);
        let (from, index) = (self.usable.address, self.usable.interface.index);
        socket
            .async_io(Interest::WRITABLE, || sys::send_udp_from(socket, bytes, None, to, from, index))
            .await
            .map(|_| ())
    }

    /// Sends datagrams of `size` bytes that lie one behind the other. False where the kernel or the interface can't cut them
    /// (checksums, or one is longer than a frame), and where they can't be sent at all: none was then.
    pub async fn send_cut(&self, port: Port, datagrams: &[u8], size: usize, to: SocketAddrV4) -> bool {
        let (Ok(size), true) = (u16::try_from(size), self.cuts) else { return false };
        let (socket, from, index) = (self.of(port), self.usable.address, self.usable.interface.index);
        let send = || sys::send_udp_from(socket, datagrams, Some(size), to, from, index);
        socket.async_io(Interest::WRITABLE, send).await.is_ok()
    }

    /// `None` where it can't be sent as one frame.
    async fn send_frame(
        &self,
        port: Port,
        bytes: &[u8],
        mac: Mac,
        to: SocketAddrV4,
    ) -> Option<io::Result<()>> {
        let (socket, own) = self.frames.as_ref()?;
        let from = SocketAddrV4::new(self.usable.address, number(port));
        let frame = frame::udp_frame(*own, mac, from, to, bytes)?;
        if frame.len() - frame::ETHERNET > self.usable.interface.mtu as usize {
            return None;
        }
        Some(socket.async_io(Interest::WRITABLE, |s| s.send(&frame)).await)
    }

    /// Whether an address is taken on this link, as far as `time` allows to know.
    pub async fn probe(&self, ip: Ipv4Addr, client: Mac, time: Option<Duration>) -> io::Result<Probed> {
        // Nobody else would answer for our own.
        if self.usable.interface.ipv4.iter().any(|(own, _)| *own == ip) {
            return Ok(Probed::InUse(ip));
        }
        match (&self.prober, time) {
            (Some(prober), Some(time)) => prober.probe(ip, client, time).await,
            _ => Ok(Probed::Free(ip)),
        }
    }
}

fn number(port: Port) -> u16 {
    match port {
        Port::Server67 => 67,
        Port::BootServer4011 => 4011,
    }
}

/// A UDP socket that hears and speaks on one interface only. No SO_REUSEADDR: sockets of different
/// devices don't clash, and sharing a port with another server would hide it and lose it packets.
fn udp(interface: &str, port: u16) -> Result<Socket, OpenError> {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        sys::set_receive_queue(&socket, QUEUE);
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
        Ok(socket)
    };
    open().map_err(|source: io::Error| {
        let interface = interface.to_owned();
        match source.kind() {
            io::ErrorKind::AddrInUse => OpenError::PortTaken { port, interface },
            io::ErrorKind::PermissionDenied => {
                OpenError::NotAllowed { what: format!("UDP port {port}"), interface }
            }
            _ => OpenError::Other { what: format!("UDP port {port}"), interface, source },
        }
    })
}

impl Usable {
    /// The interface as it can be served, or what keeps it from being served, in words.
    pub fn of(name: &str, interfaces: &[Interface]) -> Result<Usable, String> {
        let Some(interface) = interfaces.iter().find(|i| i.name == name) else {
            let there: Vec<_> = interfaces.iter().filter(|i| !i.loopback).map(|i| i.name.as_str()).collect();
            return Err(format!("does not exist (there are: {})", there.join(", ")));
        };
        if !interface.up {
            return Err(format!("is down (`ip link set {name} up` brings it up)"));
        }
        let Some((address, prefix_len)) = interface.address() else {
            let above = |index| interfaces.iter().find(|i| Some(i.index) == index);
            if let Some(master) = above(interface.master) {
                let master = &master.name;
                return Err(format!("is a part of {master}: serve {master} instead"));
            }
            return Err(format!("has no IPv4 address (`ip addr add … dev {name}` gives it one)"));
        };
        // Whether a cable is in changes nothing about the sockets.
        let interface = Interface { carrier: true, ..interface.clone() };
        Ok(Usable { interface, address, prefix_len })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    fn eth1() -> Interface {
        Interface {
            index: 3,
            name: "eth1".to_owned(),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: 1500,
            up: true,
            carrier: true,
            loopback: false,
            master: None,
            ipv4: vec![(Ipv4Addr::new(198, 18, 0, 1), 24)],
        }
    }

    #[test]
    fn says_what_keeps_an_interface_from_being_served() {
        let down = Interface { up: false, ..eth1() };
        let bare = Interface { ipv4: Vec::new(), ..eth1() };
        assert_eq!(Usable::of("eth0", &[eth1()]).unwrap_err(), "does not exist (there are: eth1)");
        assert!(Usable::of("eth1", &[down]).unwrap_err().starts_with("is down"));
        assert!(
            Usable::of("eth1", std::slice::from_ref(&bare)).unwrap_err().starts_with("has no IPv4 address")
        );
        let port = Interface { master: Some(9), ..bare };
        let bridge = Interface { index: 9, name: "br0".to_owned(), ..eth1() };
        assert_eq!(Usable::of("eth1", &[port, bridge]).unwrap_err(), "is a part of br0: serve br0 instead");
        assert_eq!(Usable::of("eth1", &[eth1()]).unwrap().address, Ipv4Addr::new(198, 18, 0, 1));
    }

    #[test]
    fn a_pulled_cable_is_no_reason_to_open_anew_but_another_address_or_index_is() {
        let was = Usable::of("eth1", &[eth1()]).unwrap();
        assert_eq!(was, Usable::of("eth1", &[Interface { carrier: false, ..eth1() }]).unwrap());
        let readdressed = Interface { ipv4: vec![(Ipv4Addr::new(198, 18, 0, 2), 24)], ..eth1() };
        assert_ne!(was, Usable::of("eth1", &[readdressed]).unwrap());
        assert_ne!(was, Usable::of("eth1", &[Interface { index: 4, ..eth1() }]).unwrap());
    }
}
