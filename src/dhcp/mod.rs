//! DHCPv4 as pure functions: packet in, reply and changes out (RFC 2131, 2132, 3046, 4578).
//!
//! | step | file |
//! |---|---|
//! | bytes of a datagram to options, and back | `options`, `parse` |
//! | who asks: firmware, iPXE, `init`, an operating system | `client` |
//! | what an operator configures, and whether it makes sense | `values`, `site`, `check`, `index` |
//! | networks of links that have no configured one | `flat` |
//! | which address: offers, leases, the free ones | `pool`, `leases`, `choose` |
//! | what is answered | `respond`, `request`, `proxy` |
//! | how the answer looks on the wire | `reply`, `boot_options` |
//!
//! No socket, clock or randomness here: the caller hands in the time and the result of an ARP probe.

mod boot_options;
mod check;
mod choose;
mod client;
mod flat;
mod index;
mod leases;
mod link;
mod options;
mod outcome;
mod parse;
mod pool;
mod proxy;
mod reply;
mod request;
mod respond;
mod site;
#[cfg(test)]
mod tests;
mod values;

pub use check::SiteError;
pub use client::PROBE_CLASS;
pub use flat::{FlatClash, FlatLinks};
pub use leases::{Bounds, Leases};
pub use link::{Link, Mode, Port};
pub use outcome::{Action, Destination, Outcome, Probed, Reason, Reply, ReplyKind};
pub use parse::{Malformed, MessageType, Request, parse, peek_mac};
pub use respond::respond;
pub use site::{RawOption, Reservation, Route, Site, Subnet};
pub use values::{Cidr, HexBytes, MacPrefix, Range, Seconds, ValueError};
