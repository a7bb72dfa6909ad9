//! The links: are they there, and does another DHCP server answer on them?

use super::Check;
use crate::{
    config::{self, Config},
    dhcp::Mode,
    dhcpd,
    sys::links::{self, Interface},
};
use std::{net::Ipv4Addr, time::Duration};

/// How long other servers have to answer.
const LISTEN: Duration = Duration::from_secs(3);

pub async fn checks(config: &Config, service: Option<u32>) -> Vec<Check> {
    let links = match links::interfaces() {
        Ok(links) => links,
        Err(e) => return vec![Check::fail("interfaces", e.to_string(), "run this on the provisioning host")],
    };
    if config.interfaces.is_empty() {
        let names: Vec<&str> = links.iter().filter(|l| !l.loopback).map(|l| l.name.as_str()).collect();
        return vec![Check::warn(
            "interfaces",
            "none is configured",
            format!("name one with --interface or in the configuration; there are: {}", names.join(", ")),
        )];
    }
    let mut out = Vec::new();
    for interface in config.interfaces.iter().filter(|i| i.mode != Mode::Off) {
        let link = links.iter().find(|l| l.name == interface.name);
        out.push(state(config, interface, link));
        if link.is_some_and(|l| l.up && l.carrier) {
            // By another cable to the same network our own service answers as well.
            let ours: Vec<Ipv4Addr> = match service {
                Some(_) => links.iter().flat_map(|l| &l.ipv4).map(|(ip, _)| *ip).collect(),
                None => Vec::new(),
            };
            out.push(others(interface, &ours).await);
        }
    }
    out
}

fn state(config: &Config, interface: &config::Interface, link: Option<&Interface>) -> Check {
    let name = format!("interface {}", interface.name);
    let Some(link) = link else {
        return Check::fail(
            name,
            "does not exist",
            "`ip -br link` lists the names; the service waits for it",
        );
    };
    if !link.up {
        return Check::fail(name, "is down", format!("ip link set {} up", link.name));
    }
    let Some((ip, len)) = link.address() else {
        return Check::fail(
            name,
            "has no IPv4 address",
            format!("give it a fixed one, as in: ip addr add 192.168.7.1/24 dev {}", link.name),
        );
    };
    if !link.carrier {
        return Check::warn(name, format!("{ip}/{len}, but no carrier"), "look at cable and switch port");
    }
    let in_subnet =
        config.subnets.is_empty() || config.subnets.iter().any(|s| s.get_ref().network.contains(ip));
    if interface.mode == Mode::Full && !in_subnet {
        return Check::warn(
            name,
            format!("{ip}/{len} lies in no [[subnet]]"),
            "machines on this link get no address: add a [[subnet]] of it, unless all clients are relayed",
        );
    }
    Check::ok(name, format!("up, {ip}/{len}"))
}

async fn others(interface: &config::Interface, ours: &[Ipv4Addr]) -> Check {
    let name = format!("other DHCP servers on {}", interface.name);
    let found = match dhcpd::detect_other_servers(&interface.name, LISTEN).await {
        Ok(found) => found,
        Err(e) => return Check::warn(name, format!("can't be looked for: {e}"), "run this as root"),
    };
    let found = found.iter().filter(|ip| !ours.contains(ip));
    let list: Vec<String> = found.map(ToString::to_string).collect();
    match (interface.mode, list.is_empty()) {
        (Mode::Full, false) => Check::fail(
            name,
            format!("{} answer{}", list.join(", "), if list.len() == 1 { "s" } else { "" }),
            "machines take whichever answers first: stop it, or set mode = \"proxy\" for this interface",
        ),
        (Mode::Proxy, true) => Check::warn(
            name,
            "none answers",
            "in proxy mode another server must give the addresses: look for it, or set mode = \"full\"",
        ),
        (_, true) => Check::ok(name, "none answers"),
        (_, false) => Check::ok(name, format!("{} gives the addresses", list.join(", "))),
    }
}
