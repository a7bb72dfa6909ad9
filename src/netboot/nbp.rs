use std::net::Ipv4Addr;

/// Where a machine reaches this service, as seen from its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerAddr {
    /// Address that it asked, and that every URL names (an IP literal: firmware has no DNS yet).
    pub ip: Ipv4Addr,
    /// Port of the machine-facing HTTP listener.
    pub http_port: u16,
}

impl ServerAddr {
    /// `http://ip:port`, without a slash at the end.
    pub fn base_url(&self) -> String {
        if self.http_port == 80 {
            format!("http://{}", self.ip)
        } else {
            format!("http://{}:{}", self.ip, self.http_port)
        }
    }
}

/// What the DHCP answer says about booting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbpAnswer {
    /// Nothing: an address at most; in proxy mode no answer at all.
    AddressOnly,
    /// A file by TFTP from [`ServerAddr::ip`].
    Tftp {
        /// Its name, without a leading slash.
        file: String,
    },
    /// A whole URL (HTTP for UEFI HTTP Boot and for iPXE scripts, TFTP for an iPXE without HTTP).
    Url {
        /// IP literal inside, no `//` in its path.
        url: String,
    },
}
