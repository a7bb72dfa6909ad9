//! Networks that the configuration does not name: each link in full mode serves that of its own
//! address, and goes with it where the link is given another one.

use super::{Cidr, Range, Subnet};
use std::net::Ipv4Addr;

/// The links that are served by the network of their own address. As many as the configuration has.
#[derive(Clone, Debug, Default)]
pub struct FlatLinks(Vec<FlatLink>);

#[derive(Clone, Debug)]
struct FlatLink {
    name: String,
    address: Ipv4Addr,
    network: Cidr,
}

/// A link that can't be served by its own network, since another link's has the same addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatClash {
    /// The link.
    pub link: String,
    /// Its network.
    pub network: Cidr,
    /// The network that is served already.
    pub other: Cidr,
}

impl FlatLinks {
    /// A link has this address now; false where it had it before. A link that loses its address
    /// keeps its network until it has another one: leases are promises.
    pub fn set(&mut self, link: &str, address: Ipv4Addr, prefix_len: u8) -> bool {
        let network = Cidr::containing(address, prefix_len);
        let now = FlatLink { name: link.to_owned(), address, network };
        match self.0.iter_mut().find(|l| l.name == link) {
            Some(l) if l.address == address && l.network == network => return false,
            Some(l) => *l = now,
            None => self.0.push(now),
        }
        true
    }

    /// False for a link whose network clashes with another link's: who asks there must not be given an
    /// address of that one.
    pub fn serves(&self, link: &str) -> bool {
        let Some(own) = self.0.iter().find(|l| l.name == link) else { return true };
        // As long a list as the configuration has interfaces in full mode: a handful.
        let before = self.0.iter().take_while(|l| l.name != link);
        !before
            .into_iter()
            .any(|l| l.network != own.network && l.network.overlaps(own.network) && self.serves(&l.name))
    }

    /// The subnets of all links, and the links that get none. Two links on one network (a second
    /// cable) share a subnet.
    pub fn subnets(&self) -> (Vec<Subnet>, Vec<FlatClash>) {
        let mut subnets: Vec<Subnet> = Vec::new();
        let mut clashes = Vec::new();
        for link in &self.0 {
            let network = link.network;
            if let Some(shared) = subnets.iter_mut().find(|s| s.network == network) {
                let own = Range { first: link.address, last: link.address };
                if shared.pools.iter().any(|p| p.contains(link.address)) {
                    shared.exclude.push(own);
                }
            } else if let Some(other) = subnets.iter().find(|s| s.network.overlaps(network)) {
                clashes.push(FlatClash { link: link.name.clone(), network, other: other.network });
            } else {
                subnets.push(Subnet::flat(link.address, network.prefix_len));
            }
        }
        (subnets, clashes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::dhcp::Site;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn networks(links: &FlatLinks) -> Vec<String> {
        links.subnets().0.iter().map(|s| s.network.to_string()).collect()
    }

    #[test]
    fn a_link_goes_with_its_address_and_two_on_one_network_share_it() {
        let mut links = FlatLinks::default();
        assert!(links.set("eth1", ip("198.18.0.1"), 24));
        assert!(!links.set("eth1", ip("198.18.0.1"), 24), "nothing new");
        assert!(links.set("eth2", ip("198.18.0.200"), 24));
        assert_eq!(networks(&links), ["198.18.0.0/24"]);
        let (subnets, _) = links.subnets();
        assert!(subnets[0].exclude.iter().any(|r| r.contains(ip("198.18.0.200"))), "{subnets:?}");
        assert!(links.set("eth2", ip("198.18.2.1"), 24));
        assert_eq!(networks(&links), ["198.18.0.0/24", "198.18.2.0/24"]);
        assert!(links.set("eth1", ip("198.18.0.1"), 25), "another prefix is another network");
        assert_eq!(networks(&links), ["198.18.0.0/25", "198.18.2.0/24"]);
    }

    #[test]
    fn a_link_whose_network_is_a_part_of_anothers_is_left_out_and_named() {
        let mut links = FlatLinks::default();
        links.set("eth1", ip("198.18.0.1"), 16);
        links.set("eth2", ip("198.18.7.1"), 24);
        let (subnets, clashes) = links.subnets();
        assert_eq!(subnets.len(), 1);
        let named = (clashes[0].link.as_str(), clashes[0].other.to_string());
        assert_eq!(named, ("eth2", "198.18.0.0/16".to_owned()));
        assert!(links.serves("eth1") && !links.serves("eth2"));
        links.set("eth3", ip("198.18.7.2"), 24);
        assert!(!links.serves("eth3"), "nor does its second cable");
        links.set("eth1", ip("198.19.0.1"), 16);
        assert!(links.serves("eth2") && links.serves("eth3"), "until the other one goes away");
        links.set("eth1", ip("198.18.0.1"), 16);
        assert!(Site { subnets, ..Site::default() }.check().is_empty());
    }

    #[test]
    fn whatever_its_prefix_a_flat_subnet_is_one_that_can_be_served() {
        for prefix_len in 1..=32 {
            for address in ["198.18.0.1", "198.18.0.2", "198.19.255.254"] {
                let mut links = FlatLinks::default();
                links.set("eth1", ip(address), prefix_len);
                let site = Site { subnets: links.subnets().0, ..Site::default() };
                assert_eq!(site.check(), [], "{address}/{prefix_len}");
            }
        }
    }
}
