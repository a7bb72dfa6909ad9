//! Who asks: options 12, 60, 61, 77, 93, 97 and 175 as a [`BootClient`].

use super::{Request, options::sub_option};
use crate::model::{BootClient, BootMethod, ClientArch, ClientKey, ClientKind, IpxeFeatures, Mac};

/// MAC prefixes that the Raspberry Pi foundation and Raspberry Pi (Trading) Ltd own.
const RASPBERRY: [[u8; 3]; 6] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0xd8, 0x3a, 0xdd],
    [0x28, 0xcd, 0xc1],
    [0x2c, 0xcf, 0x67],
];
/// Vendor class (option 60) of the initramfs' `init`.
const INIT_CLASS: &[u8] = b"pristine-init";
/// User class (option 77) of an iPXE that already ran our script.
const OUR_CLASS: &[u8] = b"pristine";
/// User class of a client that doesn't exist: `doctor` or another pristine looks for servers.
pub const PROBE_CLASS: &[u8] = b"pristine-probe";

impl Request {
    /// Who asks, as far as the packet tells.
    pub fn boot_client(&self) -> BootClient {
        BootClient {
            mac: self.mac,
            kind: self.client_kind(),
            arch: self.client_arch(),
            uuid: self.uuid(),
            hostname: self.hostname(),
        }
    }

    /// Option 61 where the client sent a usable one, else its MAC.
    pub fn client_key(&self) -> ClientKey {
        match self.options.get(61) {
            Some(id) if (2..=255).contains(&id.len()) => ClientKey::Id(id.to_vec()),
            _ => ClientKey::Mac(self.mac),
        }
    }

    /// Asked by nobody who wants an address: to be answered, and not to be kept on record.
    pub fn is_probe(&self) -> bool {
        self.has_user_class(PROBE_CLASS)
    }

    /// What program asks.
    pub(super) fn client_kind(&self) -> ClientKind {
        let vendor = self.options.get(60).unwrap_or_default();
        let features = self.options.get(175);
        let ours = self.has_user_class(OUR_CLASS);
        // iPXE calls itself PXEClient too, so it is looked for first.
        if features.is_some_and(|f| !f.is_empty()) || ours || self.has_user_class(b"iPXE") {
            let has = |code| {
                sub_option(features.unwrap_or_default(), code).is_some_and(|v| v.iter().any(|b| *b != 0))
            };
            return ClientKind::Ipxe(IpxeFeatures { http: has(19), efi: has(36), ours });
        }
        if vendor.starts_with(INIT_CLASS) {
            ClientKind::Init
        } else if vendor.starts_with(b"HTTPClient") {
            ClientKind::Firmware(BootMethod::Http)
        } else if vendor.starts_with(b"PXEClient") {
            let [a, b, c, ..] = self.mac.0;
            match self.client_arch() {
                Some(ClientArch::Bios) if RASPBERRY.contains(&[a, b, c]) => ClientKind::RaspberryPi,
                _ => ClientKind::Firmware(BootMethod::Pxe),
            }
        } else {
            ClientKind::Other
        }
    }

    /// Option 93 is a list: the first value that we know, else the first.
    fn client_arch(&self) -> Option<ClientArch> {
        let codes = self.options.get(93)?.chunks_exact(2).filter_map(|c| c.try_into().ok());
        let mut all = codes.map(u16::from_be_bytes).map(ClientArch::from_code);
        let first = all.next()?;
        let unknown = |a: &ClientArch| matches!(a, ClientArch::Other(_));
        if !unknown(&first) {
            return Some(first);
        }
        Some(all.find(|a| !unknown(a)).unwrap_or(first))
    }

    /// Option 97, unless it says that there is no UUID (SMBIOS 7.2.1: all zeros or all ones).
    fn uuid(&self) -> Option<[u8; 16]> {
        match self.options.get(97)?.split_first() {
            Some((0, uuid)) => uuid.try_into().ok().filter(|u| *u != [0; 16] && *u != [0xff; 16]),
            _ => None,
        }
    }

    /// Option 12, if it is letters, digits, `-`, `_` and dots only.
    pub(super) fn hostname(&self) -> Option<String> {
        let raw = self.options.get(12)?;
        let end = raw.iter().position(|b| *b == 0).unwrap_or(raw.len());
        let name = raw.get(..end).filter(|n| (1..=253).contains(&n.len()))?;
        let plain = name.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
        let name = std::str::from_utf8(name).ok().filter(|_| plain)?;
        name.starts_with(|c: char| c.is_ascii_alphanumeric()).then(|| name.to_owned())
    }

    /// Option 77 names this class: raw, as iPXE writes it, or as one of a list (RFC 3004).
    fn has_user_class(&self, class: &[u8]) -> bool {
        let Some(value) = self.options.get(77) else { return false };
        if value == class {
            return true;
        }
        let mut rest = value;
        while let Some((&len, tail)) = rest.split_first() {
            let Some((one, tail)) = tail.split_at_checked(usize::from(len)) else { return false };
            if one == class {
                return true;
            }
            rest = tail;
        }
        false
    }
}

/// Whether a client id says more than which machine it is: not the MAC (type 1) and not the SMBIOS
/// UUID (type 0), which firmware, iPXE and `init` send. Operating systems send DUIDs (RFC 4361) or
/// names here.
pub(super) fn is_os_id(key: &ClientKey, mac: Mac) -> bool {
    match key {
        ClientKey::Mac(_) => false,
        ClientKey::Id(id) => match id.split_first() {
            Some((1, rest)) => rest != mac.0,
            Some((0, rest)) => rest.len() != 16,
            _ => true,
        },
    }
}
