//! The DHCP server's sockets in real network namespaces: frames on the wire, links that come and go,
//! address conflicts, router advertisements, other servers, and real clients.

mod clients;
pub(crate) mod harness;
mod links;
mod neighbours;
mod wire;
