//! Whether the service's ports are free, and who has them.

use super::Check;
use crate::{
    config::Config,
    dhcp::Mode,
    sys::links::{self, Interface},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
};

pub fn checks(config: &Config, service: Option<u32>) -> Vec<Check> {
    let mut out = Vec::new();
    let links = links::interfaces().unwrap_or_default();
    for interface in config.interfaces.iter().filter(|i| i.mode != Mode::Off) {
        let Some(link) = links.iter().find(|l| l.name == interface.name) else { continue };
        for (port, what) in [(67, "DHCP"), (4011, "PXE boot server")] {
            let tried = try_udp_on(link, port);
            out.push(judge(&format!("UDP {port} on {} ({what})", link.name), "udp", port, tried, service));
        }
        if let (true, Some((ip, _))) = (config.tftp.enabled, link.address()) {
            let port = config.tftp.port;
            let tried = try_at("udp", SocketAddr::new(ip.into(), port));
            out.push(judge(&format!("UDP {port} on {} (TFTP)", link.name), "udp", port, tried, service));
        }
    }
    for (at, what) in [
        (SocketAddr::new(config.http.listen.into(), config.http.port), "HTTP for machines"),
        (config.api.listen, "API"),
    ] {
        let name = format!("TCP {} ({what})", at.port());
        out.push(judge(&name, "tcp", at.port(), try_at("tcp", at), service));
    }
    out
}

/// Binds as the DHCP server does: to the interface, so that servers of other links don't matter.
fn try_udp_on(link: &Interface, port: u16) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(link.name.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())
}

fn try_at(proto: &str, at: SocketAddr) -> io::Result<()> {
    let (kind, protocol) = match proto {
        "tcp" => (Type::STREAM, Protocol::TCP),
        _ => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    if proto == "tcp" {
        // Connections that linger after a stop are no obstacle; a listener is.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&at.into())?;
    if proto == "tcp" { socket.listen(1) } else { Ok(()) }
}

fn judge(name: &str, proto: &str, port: u16, tried: io::Result<()>, service: Option<u32>) -> Check {
    let Err(error) = tried else { return Check::ok(name, "free") };
    match error.kind() {
        ErrorKind::AddrInUse => {
            let holders = holders(proto, port);
            if let Some(pid) = service
                && holders.iter().any(|h| h.pid == pid)
            {
                return Check::ok(name, format!("held by the running service (process {pid})"));
            }
            let who: Vec<String> =
                holders.iter().map(|h| format!("{} (process {})", h.name, h.pid)).collect();
            if who.is_empty() {
                let letters = if proto == "udp" { "un" } else { "tn" };
                return Check::fail(
                    name,
                    "taken by a process that this user can't see",
                    format!(
                        "`ss -lp{letters} 'sport = :{port}'` names it (as root); stop it, or have it leave this link alone"
                    ),
                );
            }
            Check::fail(
                name,
                format!("taken by {}", who.join(", ")),
                "stop it, have it leave this link alone, or set another port or mode here",
            )
        }
        ErrorKind::PermissionDenied => Check::warn(
            name,
            "can't be tried by this user",
            "run this as root, or as the service's user with its capabilities",
        ),
        _ => Check::fail(name, error.to_string(), "set an address of this host in the configuration"),
    }
}

/// A process that has a port.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    name: String,
}

/// Who listens on that port, as far as this user may look into /proc.
fn holders(proto: &str, port: u16) -> Vec<Holder> {
    let tables = [proto.to_owned(), format!("{proto}6")];
    let inodes: Vec<u64> = tables
        .iter()
        .flat_map(|t| {
            let table = fs::read_to_string(format!("/proc/self/net/{t}")).unwrap_or_default();
            listening(&table, port, proto == "tcp")
        })
        .collect();
    let wanted: Vec<String> = inodes.iter().map(|i| format!("socket:[{i}]")).collect();
    let mut found = Vec::new();
    if wanted.is_empty() {
        return found;
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let fds = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let has = fds
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| wanted.iter().any(|w| link.as_os_str() == w.as_str()));
        if has {
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(Holder { pid, name: comm.trim().to_owned() });
        }
    }
    found
}

/// Inodes of the sockets of that local port in a table like /proc/net/tcp; of TCP those that listen.
fn listening(table: &str, port: u16, tcp: bool) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local) = words.get(1)?.rsplit_once(':')?;
        let ours = u16::from_str_radix(local, 16).ok()? == port;
        let state = *words.get(3)?;
        (ours && (!tcp || state == LISTEN)).then(|| words.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn a_taken_port_is_reported_with_its_holder() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let check = judge("TCP", "tcp", at.port(), try_at("tcp", at), None);
        assert_eq!(check.level, super::super::Level::Fail);
        let me = std::process::id();
        assert!(check.found.contains(&format!("(process {me})")), "{}", check.found);
        let ours = judge("TCP", "tcp", at.port(), try_at("tcp", at), Some(me));
        assert_eq!(ours.level, super::super::Level::Ok);
        drop(listener);
        assert_eq!(judge("TCP", "tcp", at.port(), try_at("tcp", at), None).found, "free");
    }
}
