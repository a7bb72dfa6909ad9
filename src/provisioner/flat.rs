//! Links that come up while the service runs: where the configuration names no subnet, the network of
//! a link's own address is what is given out on it, from its first request on.

use super::{Provisioner, state::State};
use crate::dhcp::{self, FlatLinks, Mode, Site};

impl Provisioner {
    /// A link is about to be served from this address: for the first time, after it came back, or
    /// since it has another one. Its requests come after this call.
    ///
    /// Leases of a network that is served no more stay on record until they run out, and are good
    /// again if it comes back meanwhile; a client that asks to keep one is told NAK at once, and gets
    /// an address of the new network within a second.
    pub fn link_opened(&self, link: &dhcp::Link) {
        if link.mode != Mode::Full {
            return;
        }
        let mut locked = self.state();
        let State { site, flat, .. } = &mut *locked;
        match flat {
            Some(links) => follow(site, links, link),
            None if !site.subnets.iter().any(|s| s.network.contains(link.server.ip)) => {
                tracing::warn!(
                    "{}: its address {} lies in no [[subnet]]: only relayed clients get addresses there",
                    link.name,
                    link.server.ip
                );
            }
            None => {}
        }
    }
}

fn follow(site: &mut Site, links: &mut FlatLinks, link: &dhcp::Link) {
    if !links.set(&link.name, link.server.ip, link.prefix_len) {
        return;
    }
    let (subnets, clashes) = links.subnets();
    for clash in clashes.iter().filter(|c| c.link == link.name) {
        tracing::error!(
            "{}: its network {} has addresses of {}, which another interface serves: nothing is given out there. \
             Give it another network, or write one [[subnet]] each into the configuration",
            clash.link,
            clash.network,
            clash.other
        );
    }
    if let Some(own) = subnets.iter().find(|s| s.network.contains(link.server.ip))
        && !clashes.iter().any(|c| c.link == link.name)
    {
        let pool = own.pools.first().map_or_else(|| "no address".to_owned(), ToString::to_string);
        tracing::info!("{}: serves {} by itself, giving out {pool}", link.name, own.network);
    }
    // A copy makes its own look-up tables; the lease table sees that it changed, and files anew.
    *site = Site { subnets, ..site.clone() };
}
