//! Gets the machine onto the network: finds the NIC that booted, brings it up, asks by DHCP.

use crate::{
    console::say,
    devices::Modules,
    dhcp::{self, Answer, Exchange, Kind},
    failure::{Doing, Failure, Result, failed},
    fetch::backoff,
    random, sys,
};
use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

/// How long a NIC may take to appear (USB and firmware-loading ones are slow).
const NIC_WAIT: Duration = Duration::from_secs(30);
/// How long a NIC and its link are looked for often.
const SOON: Duration = Duration::from_secs(1);
/// How long a link may take: a switch port with spanning tree forwards after 30 s, some after 50.
const CARRIER_WAIT: Duration = Duration::from_secs(75);
/// DHCP exchanges before giving up: with the waits between them, about two minutes.
const DHCP_TRIES: u32 = 20;

/// The network as it was set up.
#[derive(Debug, Clone)]
pub struct Network {
    /// `eth0`.
    pub interface: String,
    /// Its MAC.
    pub mac: [u8; 6],
    /// What the DHCP server said.
    pub lease: Answer,
}

/// Brings the network up on the NIC with this MAC, or on the first one that has a link.
pub fn bring_up(modules: &mut Modules, mac: Option<[u8; 6]>) -> Result<Network> {
    let socket = UdpSocket::bind("0.0.0.0:68").doing("make a DHCP socket")?;
    let _ = sys::set_up(&socket, "lo");
    let (interface, mac) = find_nic(&socket, modules, mac)?;
    say(format!("{interface} ({}) has a link, asking for an address", mac_text(mac)));
    socket.set_broadcast(true).doing("prepare the DHCP socket")?;
    sys::bind_to_device(&socket, &interface).doing(format!("bind to {interface}"))?;
    let lease = lease(&socket, mac)?;
    configure(&socket, &interface, &lease)?;
    Ok(Network { interface, mac, lease })
}

/// Asks once for the address that we have, so that it stays ours. False where nobody answered: it is asked for
/// again later.
pub fn renew(network: &mut Network) -> bool {
    let again = || -> Result<Answer> {
        let socket = UdpSocket::bind("0.0.0.0:68").doing("make a DHCP socket")?;
        socket.set_broadcast(true).doing("prepare the DHCP socket")?;
        sys::bind_to_device(&socket, &network.interface).doing("bind to the NIC")?;
        let x = Exchange { xid: random::bits(), mac: network.mac, secs: 0 };
        let lease = one_exchange(&socket, &x, Duration::from_secs(4)).map_err(Failure)?;
        if lease.addr != network.lease.addr {
            configure(&socket, &network.interface, &lease)?;
        }
        Ok(lease)
    };
    match again() {
        Ok(lease) => {
            network.lease = lease;
            true
        }
        Err(why) => {
            say(format!("the lease of {} was not renewed: {why}", network.lease.addr));
            false
        }
    }
}

/// NICs by name and MAC; none of the virtual kinds (loopback, tunnels), which have no device.
pub fn nics() -> Vec<(String, [u8; 6])> {
    let mut out: Vec<_> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().join("device").exists())
        .filter_map(|e| {
            let mac = parse_mac(&fs::read_to_string(e.path().join("address")).ok()?)?;
            Some((e.file_name().into_string().ok()?, mac))
        })
        .collect();
    out.sort();
    out
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.trim().split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// As in `52:54:00:12:34:56`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Whether there is something at the other end of the cable.
pub fn has_link(interface: &str) -> bool {
    let file = Path::new("/sys/class/net").join(interface).join("carrier");
    fs::read_to_string(file).is_ok_and(|c| c.trim() == "1")
}

/// Turns all NICs on, so that they tell of their links; their names and the kernel's numbers.
pub fn wake() -> Vec<(String, u32)> {
    let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return Vec::new() };
    let on = |(name, _): (String, _)| {
        sys::set_up(&socket, &name).ok()?;
        let index = fs::read_to_string(Path::new("/sys/class/net").join(&name).join("ifindex")).ok()?;
        Some((name, index.trim().parse().ok()?))
    };
    nics().into_iter().filter_map(on).collect()
}

/// Turns all NICs off but this one.
pub fn rest(except: &str) {
    let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return };
    for (name, _) in nics().into_iter().filter(|(name, _)| name != except) {
        let _ = sys::set_down(&socket, &name);
    }
}

fn find_nic(socket: &UdpSocket, modules: &mut Modules, wanted: Option<[u8; 6]>) -> Result<(String, [u8; 6])> {
    let began = Instant::now();
    let mut seen_at: Option<Instant> = None;
    let mut next_word = Duration::from_secs(5);
    loop {
        modules.load_for_devices();
        let candidates: Vec<_> =
            nics().into_iter().filter(|(_, mac)| wanted.is_none_or(|wanted| wanted == *mac)).collect();
        for (name, mac) in &candidates {
            // Again each time: setting a flag that is set costs nothing, and a NIC may have come anew.
            let up = sys::set_up(socket, name);
            if let (Err(e), None) = (&up, seen_at) {
                say(format!("could not bring up {name}: {e}"));
            }
            if has_link(name) {
                return Ok((name.clone(), *mac));
            }
        }
        if seen_at.is_none() && !candidates.is_empty() {
            seen_at = Some(Instant::now());
        }
        let waited = began.elapsed();
        let names = |list: &[(String, [u8; 6])]| {
            let list: Vec<_> = list.iter().map(|(n, mac)| format!("{n} {}", mac_text(*mac))).collect();
            if list.is_empty() { "none".to_owned() } else { list.join(", ") }
        };
        match seen_at {
            None if waited > NIC_WAIT => {
                let which = wanted.map_or(String::new(), |mac| format!(" with the MAC {}", mac_text(mac)));
                return failed(format!(
                    "found no network card{which}. Cards found: {}. Drivers loaded: {}. The image's initramfs may lack \
                     this card's driver or its firmware",
                    names(&nics()),
                    modules.loaded()
                ));
            }
            Some(at) if at.elapsed() > CARRIER_WAIT => {
                return failed(format!(
                    "{} has no link after {} s: check the cable and the switch port",
                    names(&candidates),
                    CARRIER_WAIT.as_secs()
                ));
            }
            _ => {}
        }
        if waited > next_word {
            say(match seen_at {
                None => "waiting for a network card".to_owned(),
                Some(_) => format!("waiting for a link on {}", names(&candidates)),
            });
            next_word += Duration::from_secs(10);
        }
        // Most links are there within some hundredths of a second.
        std::thread::sleep(Duration::from_millis(if waited < SOON { 5 } else { 50 }));
    }
}

/// DISCOVER, OFFER, REQUEST, ACK, as often as it takes within bounds.
fn lease(socket: &UdpSocket, mac: [u8; 6]) -> Result<Answer> {
    let began = Instant::now();
    let mut heard = "no DHCP server answered".to_owned();
    for tries in 1..=DHCP_TRIES {
        let secs = began.elapsed().as_secs().min(u64::from(u16::MAX)) as u16;
        let x = Exchange { xid: random::bits(), mac, secs };
        // 1, 2, 4, 8 s, and then 8 s each.
        let patience = Duration::from_secs(1 << (tries - 1).min(3));
        match one_exchange(socket, &x, patience) {
            Ok(lease) => return Ok(lease),
            Err(why) => {
                say(format!("DHCP: {why} (try {tries} of {DHCP_TRIES})"));
                heard = why;
            }
        }
        std::thread::sleep(backoff(1, random::below(1000)));
    }
    failed(format!("got no address by DHCP in {} s: {heard}", began.elapsed().as_secs()))
}

fn one_exchange(socket: &UdpSocket, x: &Exchange, patience: Duration) -> std::result::Result<Answer, String> {
    send(socket, &dhcp::discover(x))?;
    let offer = receive(socket, x, patience, |a| a.kind == Kind::Offer && a.server.is_some())
        .ok_or("no DHCP server answered")?;
    let server = offer.server.ok_or("an offer names no server")?;
    send(socket, &dhcp::request(x, offer.addr, server))?;
    let answer = receive(socket, x, patience, |a| a.kind != Kind::Offer && a.server == Some(server))
        .ok_or_else(|| format!("{server} offered {} and then fell silent", offer.addr))?;
    match answer.kind {
        Kind::Ack => Ok(answer),
        _ => Err(format!("{server} offered {} and then refused it", offer.addr)),
    }
}

fn send(socket: &UdpSocket, packet: &[u8]) -> std::result::Result<(), String> {
    socket.send_to(packet, (Ipv4Addr::BROADCAST, 67)).map(drop).map_err(|e| format!("could not send: {e}"))
}

/// The first answer to `x` that is `wanted`, within `patience`.
fn receive(
    socket: &UdpSocket,
    x: &Exchange,
    patience: Duration,
    wanted: impl Fn(&Answer) -> bool,
) -> Option<Answer> {
    let until = Instant::now() + patience;
    let mut buffer = [0; 4096];
    loop {
        let left = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())?;
        socket.set_read_timeout(Some(left)).ok()?;
        match socket.recv_from(&mut buffer) {
            Ok((n, from)) if from.port() == 67 => {
                if let Some(answer) = dhcp::parse(buffer.get(..n)?, x).filter(&wanted) {
                    return Some(answer);
                }
            }
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => return None,
        }
    }
}

fn configure(socket: &UdpSocket, interface: &str, lease: &Answer) -> Result<()> {
    if let Some(mtu) = lease.mtu
        && let Err(e) = sys::set_mtu(socket, interface, mtu)
    {
        say(format!("could not set the MTU {mtu} of {interface}: {e}"));
    }
    sys::set_address(socket, interface, lease.addr, lease.mask)
        .doing(format!("give {interface} the address {}", lease.addr))?;
    // RFC 3442: where there are classless routes, the router option doesn't count.
    let default = lease.router.map(|router| (Ipv4Addr::UNSPECIFIED, 0, router));
    let routes = if lease.routes.is_empty() { default.into_iter().collect() } else { lease.routes.clone() };
    // Routes on the link first: a gateway may be reachable through one only.
    for on_link in [true, false] {
        for (destination, prefix, gateway) in &routes {
            if gateway.is_unspecified() == on_link {
                let via = (!on_link).then_some(*gateway);
                if let Err(e) = sys::add_route(socket, interface, (*destination, *prefix), via) {
                    say(format!("could not add the route {destination}/{prefix} by {gateway}: {e}"));
                }
            }
        }
    }
    write_for_the_image(interface, lease).or_else(|e: Failure| {
        say(e.to_string());
        Ok(())
    })
}

/// Leaves what was learnt where an image can find it: a resolv.conf, and klibc's file of the interface,
/// which initramfs-tools, ifupdown and cloud-init read.
fn write_for_the_image(interface: &str, lease: &Answer) -> Result<()> {
    let dir = Path::new("/run/pristine");
    fs::create_dir_all(dir).doing("make /run/pristine")?;
    let mut resolv = String::new();
    if let Some(domain) = &lease.domain {
        resolv.push_str(&format!("search {domain}\n"));
    }
    for dns in &lease.dns {
        resolv.push_str(&format!("nameserver {dns}\n"));
    }
    fs::write(dir.join("resolv.conf"), resolv).doing("write resolv.conf")?;
    let optional = |addr: Option<&Ipv4Addr>| addr.map_or("0.0.0.0".to_owned(), Ipv4Addr::to_string);
    let text = format!(
        "DEVICE='{interface}'\nPROTO='dhcp'\nIPV4ADDR='{}'\nIPV4NETMASK='{}'\nIPV4GATEWAY='{}'\nIPV4DNS0='{}'\n\
         IPV4DNS1='{}'\nDNSDOMAIN='{}'\nROOTSERVER='{}'\n",
        lease.addr,
        lease.mask,
        optional(lease.router.as_ref()),
        optional(lease.dns.first()),
        optional(lease.dns.get(1)),
        lease.domain.as_deref().unwrap_or_default(),
        optional(lease.server.as_ref()),
    );
    fs::write(format!("/run/net-{interface}.conf"), text).doing("write the interface's file")
}
