//! The DHCP server's sockets: a thin shell around `dhcp` and the provisioner.

pub mod arp;
pub mod frame;
pub mod ra;

pub use crate::sys::links::{Interface, interface, interface_addr, interfaces};
