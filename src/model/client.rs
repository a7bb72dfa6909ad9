use super::{ClientArch, Mac};
use serde::{Deserialize, Serialize};

/// Who asks, as far as its DHCP packet (or, later in the boot, its script request) tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootClient {
    /// Hardware address from `chaddr`.
    pub mac: Mac,
    /// What program speaks.
    pub kind: ClientKind,
    /// First architecture of option 93 that is known; `None` without option 93.
    pub arch: Option<ClientArch>,
    /// Option 97 without its type byte, as sent (byte order differs among vendors). Never trusted
    /// as identity: the MAC is.
    pub uuid: Option<[u8; 16]>,
    /// Option 12, where it is a plain host name.
    pub hostname: Option<String>,
}

/// What program sent the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKind {
    /// Firmware that boots: option 60 begins with `PXEClient` or `HTTPClient`.
    Firmware(BootMethod),
    /// iPXE, in a ROM or chainloaded: option 175, or user class `iPXE`.
    Ipxe(IpxeFeatures),
    /// The initramfs' `init`: vendor class `pristine-init`.
    Init,
    /// A Raspberry Pi's boot ROM (arch 0, MAC prefix of the Raspberry Pi foundation).
    RaspberryPi,
    /// Anything else: an operating system that wants an address.
    Other,
}

/// How firmware fetches its NBP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootMethod {
    /// TFTP, by PXE 2.1.
    Pxe,
    /// HTTP, by UEFI HTTP Boot.
    Http,
}

/// What an iPXE says of itself in option 175 (iPXE `dhcp.h`, encapsulated feature options).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpxeFeatures {
    /// 175.19: can fetch by HTTP. Without it a script URL is useless: it gets an NBP of ours.
    pub http: bool,
    /// 175.17 (`pxeext`), 175.33 (`bzimage`), 175.36 (`efi`): an EFI build.
    pub efi: bool,
    /// User class (option 77) `pristine`: a build of ours that already ran our script.
    pub ours: bool,
}
