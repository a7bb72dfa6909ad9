//! The DHCP server's sockets: a thin shell around `dhcp` and the provisioner. It decides nothing about
//! addresses or boot programs.
//!
//! | step | file |
//! |---|---|
//! | what is served how | `settings` |
//! | interfaces that come, go and change | `link` (with `sys::links`) |
//! | sockets of one link; where a reply goes | `sockets`, `frame` |
//! | replies that wait for the disk, and that leave together | `replies` |
//! | which requests are worked on | `gate` |
//! | is an address taken? | `prober`, `arp` |
//! | no IPv6 router here | `advertiser`, `ra` |
//! | what was seen | `counters` |
//! | is there another DHCP server? | `detect` (asked once), `others` (while serving) |

mod advertiser;
mod answer;
pub mod arp;
mod counters;
mod detect;
pub mod frame;
mod gate;
mod link;
mod others;
mod prober;
pub mod ra;
mod replies;
mod server;
mod settings;
mod sockets;

mod links {
    pub use crate::sys::links::Interface;
    use std::net::Ipv4Addr;

    /// An interface that can be served. Compared to tell whether its sockets must be opened anew.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Usable {
        /// As the kernel tells it.
        pub interface: Interface,
        /// Our address on it: server identifier and source of every reply.
        pub address: Ipv4Addr,
        /// Its prefix length.
        pub prefix_len: u8,
    }
}

pub use crate::sys::links::{Interface, interface, interface_addr, interfaces};
pub use answer::Answer;
pub use counters::{Counters, LinkStatus};
pub use detect::detect_other_servers;
pub use others::{OtherServer, WatchPace};
pub use server::{Monitor, Server};
pub use settings::{InterfaceSettings, LinkBounds, Settings};
pub use sockets::OpenError;
