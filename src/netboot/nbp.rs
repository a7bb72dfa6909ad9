use crate::model::{BootClient, BootMethod, BootTarget, ClientArch, ClientKind, IpxeFeatures};
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

/// What a Raspberry Pi's ROM asks first. It ignores the bootfile name: naming one makes the DHCP
/// answer carry the server address and its option 43.
const RASPBERRY_PI: &str = "bootcode.bin";

/// Which NBP, or which script URL, a client is given.
///
/// One answer for every way to ask (DHCP, port 4011, TFTP): firmware gets an NBP that fits it, an
/// iPXE that speaks HTTP gets a script, anything else gets no more than an address.
/// `machine_nbp` is an operator's override of the firmware's usual NBP ([`is_nbp_name`]; a name that
/// isn't one is passed over).
pub fn choose_nbp(
    client: &BootClient,
    target: &BootTarget,
    machine_nbp: Option<&str>,
    server: &ServerAddr,
) -> NbpAnswer {
    let wanted = machine_nbp.filter(|name| is_nbp_name(name));
    let boots_from_us = match target {
        BootTarget::Ignore => return NbpAnswer::AddressOnly,
        // Firmware without a bootfile goes on to its next boot entry; an iPXE that already runs is
        // told to by a script, since it would otherwise try its other NICs first.
        BootTarget::Local => false,
        BootTarget::Image { .. } | BootTarget::Discover => true,
    };
    match client.kind {
        ClientKind::Ipxe(features) if features.http => script_url(server),
        _ if !boots_from_us => NbpAnswer::AddressOnly,
        ClientKind::Ipxe(features) => ipxe_without_http(client.arch, features, wanted, server),
        ClientKind::Firmware(method) => firmware(client.arch, method, wanted, server),
        ClientKind::RaspberryPi => NbpAnswer::Tftp { file: wanted.unwrap_or(RASPBERRY_PI).to_owned() },
        ClientKind::Init | ClientKind::Other => NbpAnswer::AddressOnly,
    }
}

/// True for the name of an NBP file: 1 to 64 of a-z, A-Z, 0-9, `.`, `_` and `-`, the first a letter
/// or digit. So it needs no escaping in a URL and can't leave its folder.
pub fn is_nbp_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The script that asks for the script: it has a retry screen, and it can say more of the machine
/// than the 128 bytes of a BOOTP `file` field let a URL say.
fn script_url(server: &ServerAddr) -> NbpAnswer {
    NbpAnswer::Url { url: format!("{}/nbp/autoexec.ipxe", server.base_url()) }
}

/// The NBP of a firmware, by the names that Debian's `ipxe` package has. `snponly.efi` and
/// `undionly.kpxe` use the firmware's own driver of the NIC that booted: `ipxe.efi` hangs
/// initialising other NICs on many machines.
fn nbp_of(arch: ClientArch) -> Option<&'static str> {
    match arch {
        ClientArch::Bios => Some("undionly.kpxe"),
        ClientArch::UefiX64 | ClientArch::HttpX64 => Some("snponly.efi"),
        ClientArch::UefiArm64 | ClientArch::HttpArm64 => Some("ipxe-arm64.efi"),
        ClientArch::UefiRiscv64 => Some("ipxe-riscv64.efi"),
        ClientArch::UefiLoong64 => Some("ipxe-loong64.efi"),
        // No build of ours, and no image would run.
        ClientArch::UefiIa32
        | ClientArch::HttpIa32
        | ClientArch::UefiArm32
        | ClientArch::HttpArm32
        | ClientArch::BiosHttp
        | ClientArch::Other(_) => None,
    }
}

fn firmware(
    arch: Option<ClientArch>,
    method: BootMethod,
    wanted: Option<&str>,
    server: &ServerAddr,
) -> NbpAnswer {
    let usual = match (arch, method) {
        (Some(arch), _) => nbp_of(arch),
        // Every UEFI sends option 93; a PXE ROM without it is a BIOS older than RFC 4578.
        (None, BootMethod::Pxe) => nbp_of(ClientArch::Bios),
        (None, BootMethod::Http) => None,
    };
    match (wanted.or(usual), method) {
        (None, _) => NbpAnswer::AddressOnly,
        (Some(file), BootMethod::Pxe) => NbpAnswer::Tftp { file: file.to_owned() },
        (Some(file), BootMethod::Http) => NbpAnswer::Url { url: format!("{}/nbp/{file}", server.base_url()) },
    }
}

/// An iPXE in a ROM that was built without HTTP chains to one of ours. It needs a whole URL: with
/// option 43 in the answer it takes a bare file name for something else.
fn ipxe_without_http(
    arch: Option<ClientArch>,
    features: IpxeFeatures,
    wanted: Option<&str>,
    server: &ServerAddr,
) -> NbpAnswer {
    let usual = match arch {
        Some(arch) => nbp_of(arch),
        None if features.efi => nbp_of(ClientArch::UefiX64),
        None => nbp_of(ClientArch::Bios),
    };
    match wanted.or(usual) {
        // One of ours without HTTP would chain to itself for ever.
        _ if features.ours => NbpAnswer::AddressOnly,
        None => NbpAnswer::AddressOnly,
        Some(file) => NbpAnswer::Url { url: format!("tftp://{}/{file}", server.ip) },
    }
}
