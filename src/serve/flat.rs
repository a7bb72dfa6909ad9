//! Subnets of links that the configuration gives none: `pristine serve --interface eth1` alone
//! serves the network of the interface's own address.

use super::ServeError;
use crate::{
    config::Config,
    dhcp::{Mode, Subnet},
    sys::links::{self, Interface},
};
use tokio::sync::watch;

/// A subnet for each link in full mode, where the configuration names no subnet at all. Waits, with a
/// warning, for links that have no address yet: nothing can be given out before. `None` when the
/// service is told to end meanwhile.
pub async fn subnets(
    config: &Config,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<Option<Vec<Subnet>>, ServeError> {
    let start = |source| ServeError::Start { what: "looking at the interfaces", source };
    let mut links = links::follow().map_err(start)?;
    let full: Vec<&str> =
        config.interfaces.iter().filter(|i| i.mode == Mode::Full).map(|i| i.name.as_str()).collect();
    if !config.subnets.is_empty() {
        warn_of_unserved(config, &full, &links.borrow());
        return Ok(Some(Vec::new()));
    }
    let mut warned = false;
    loop {
        let (found, missing) = derive(&full, &links.borrow_and_update());
        if missing.is_empty() {
            for (name, subnet) in &found {
                let pool = subnet.pools.first().map_or_else(|| "nothing".to_owned(), ToString::to_string);
                tracing::info!("{name}: serves {} by itself, giving out {pool}", subnet.network);
            }
            return Ok(Some(found.into_iter().map(|(_, subnet)| subnet).collect()));
        }
        if !warned {
            tracing::warn!(
                "waiting for an IPv4 address on {}: its network is what will be served. Set one \
                 (`ip addr add 192.168.7.1/24 dev {}`), or write a [[subnet]] into the configuration",
                missing.join(", "),
                missing.first().copied().unwrap_or_default(),
            );
            warned = true;
        }
        tokio::select! {
            changed = links.changed() => {
                changed.map_err(|_| start(std::io::Error::other("the list of interfaces is gone")))?;
            }
            _ = async { let _ = shutdown.wait_for(|stop| *stop).await; } => return Ok(None),
        }
    }
}

/// The flat subnet of each named link, and the links that have no address.
fn derive<'a>(full: &[&'a str], links: &[Interface]) -> (Vec<(&'a str, Subnet)>, Vec<&'a str>) {
    let mut found: Vec<(&str, Subnet)> = Vec::new();
    let mut missing = Vec::new();
    for name in full {
        match links.iter().find(|l| l.name == *name).and_then(Interface::address) {
            // Two links on one network (a second cable): one subnet.
            Some((ip, len)) => {
                let subnet = Subnet::flat(ip, len);
                if !found.iter().any(|(_, s)| s.network == subnet.network) {
                    found.push((name, subnet));
                }
            }
            None => missing.push(*name),
        }
    }
    (found, missing)
}

fn warn_of_unserved(config: &Config, full: &[&str], links: &[Interface]) {
    for link in links.iter().filter(|l| full.contains(&l.name.as_str())) {
        let Some((ip, _)) = link.address() else { continue };
        if !config.subnets.iter().any(|s| s.get_ref().network.contains(ip)) {
            tracing::warn!(
                "{}: its address {ip} lies in no [[subnet]]: only relayed clients get addresses there",
                link.name
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    #[test]
    fn a_link_without_an_address_is_waited_for_and_two_on_one_network_share_it() {
        let link = |name: &str, ipv4: &[(&str, u8)]| Interface {
            index: 1,
            name: name.to_owned(),
            mac: None,
            mtu: 1_500,
            up: true,
            carrier: true,
            loopback: false,
            master: None,
            ipv4: ipv4.iter().map(|(ip, len)| (ip.parse().unwrap(), *len)).collect(),
        };
        let links =
            [link("eth1", &[("198.18.0.1", 24)]), link("eth2", &[]), link("eth3", &[("198.18.0.2", 24)])];
        let (found, missing) = derive(&["eth1", "eth2", "eth3", "eth9"], &links);
        assert_eq!(missing, ["eth2", "eth9"]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.network.to_string(), "198.18.0.0/24");
    }
}
