use crate::netboot::ServerAddr;
use serde::{Deserialize, Serialize};

/// What is answered on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Addresses and boot programs: the only DHCP server of the link.
    #[default]
    Full,
    /// Boot programs only, beside the site's own DHCP server (PXE 2.1, proxyDHCP).
    Proxy,
    /// Nothing.
    Off,
}

/// The socket that a packet came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// UDP 67: DHCP.
    Server67,
    /// UDP 4011: the PXE boot server port, asked by unicast once the client has an address.
    BootServer4011,
}

/// Where a packet came in, and so where its answer goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface name, for people.
    pub name: String,
    /// Kernel's interface index: the link's identity in bounds.
    pub index: u32,
    /// Our address on it: the server identifier (option 54) and the host in every URL.
    pub server: ServerAddr,
    /// Length of that address' network prefix.
    pub prefix_len: u8,
    /// What is answered here.
    pub mode: Mode,
    /// Which socket.
    pub port: Port,
}
