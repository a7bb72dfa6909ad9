//! What an answer says about booting. Every line here is a quirk of some firmware.

use super::{Mode, Port, options::sub_option, respond::Ctx};
use crate::{
    model::{BootMethod, ClientKind},
    netboot::NbpAnswer,
};
use std::net::Ipv4Addr;

/// PXE discovery control (43.6) 8: use the boot file of this offer, ask no boot server.
const DISCOVERY_OFF: [u8; 4] = [6, 1, 8, 255];
/// What a Raspberry Pi looks for: 43.6 = 3, 43.10 = "\0PXE", 43.9 = "Raspberry Pi Boot" for server type 0.
const RASPBERRY: &[u8] = b"\x06\x01\x03\x0a\x04\0PXE\x09\x14\0\0\x11Raspberry Pi Boot\xff";
/// iPXE's no-pxedhcp (175.176): don't wait for a proxyDHCP server.
const NO_PXEDHCP: [u8; 3] = [176, 1, 1];

/// The boot part of an answer.
pub(super) struct BootPart {
    pub(super) siaddr: Ipv4Addr,
    /// For the BOOTP `file` field, NUL not included; empty where it is too long for it.
    pub(super) file: Vec<u8>,
    pub(super) options: Vec<(u8, Vec<u8>)>,
}

/// `None` where there is nothing to boot.
pub(super) fn boot_part(ctx: &Ctx<'_>) -> Option<BootPart> {
    let server = ctx.link.server;
    let kind = ctx.kind;
    let plain = |file: &str| file.trim_start_matches(['/', '\\']).to_owned();
    let (text, by_tftp) = match (kind, ctx.boot) {
        (_, NbpAnswer::AddressOnly) => return None,
        // A native iPXE that is given option 43 takes a bare name for a PXE menu's; a URL is always right.
        (ClientKind::Ipxe(_), NbpAnswer::Tftp { file }) => {
            (format!("tftp://{}/{}", server.ip, plain(file)), true)
        }
        // UEFI HTTP Boot drops an offer without a URL.
        (ClientKind::Firmware(BootMethod::Http), NbpAnswer::Tftp { file }) => {
            (format!("{}/nbp/{}", server.base_url(), plain(file)), false)
        }
        (_, NbpAnswer::Tftp { file }) => (plain(file), true),
        (_, NbpAnswer::Url { url }) => (url.clone(), url.starts_with("tftp://")),
    };

    let mut options = Vec::new();
    // A PXEClient that is shown option 60 asks port 4011 next, which costs OVMF a second. Without it,
    // it goes straight to TFTP. Beside another server it is how the offer is known as ours.
    let alone = ctx.link.mode == Mode::Full && ctx.link.port == Port::Server67;
    match kind {
        ClientKind::Firmware(BootMethod::Http) => options.push((60, b"HTTPClient".to_vec())),
        ClientKind::RaspberryPi => options.push((60, b"PXEClient".to_vec())),
        ClientKind::Firmware(BootMethod::Pxe) | ClientKind::Ipxe(_) if !alone => {
            options.push((60, b"PXEClient".to_vec()));
        }
        _ => {}
    }
    if let Some(value) = vendor_options(ctx, kind, alone) {
        options.push((43, value));
    }
    if by_tftp {
        // Text, as PXE ROMs read it; many ignore it and read siaddr.
        options.push((66, server.ip.to_string().into_bytes()));
    }
    // The NUL belongs inside: some firmware reads on until it finds one, into the next option.
    let mut name = text.clone().into_bytes();
    name.push(0);
    options.push((67, name));
    if matches!(kind, ClientKind::Ipxe(_)) {
        options.push((175, NO_PXEDHCP.to_vec()));
    }
    let file = if text.len() <= 127 { text.into_bytes() } else { Vec::new() };
    Some(BootPart { siaddr: server.ip, file, options })
}

fn vendor_options(ctx: &Ctx<'_>, kind: ClientKind, alone: bool) -> Option<Vec<u8>> {
    match kind {
        ClientKind::RaspberryPi => Some(RASPBERRY.to_vec()),
        ClientKind::Firmware(BootMethod::Pxe) if ctx.link.port == Port::BootServer4011 => {
            // The boot item that was asked for (43.71) is the one that is answered.
            let item = sub_option(ctx.req.option(43)?, 71).filter(|v| v.len() == 4)?;
            let mut value = vec![71, 4];
            value.extend_from_slice(item);
            value.push(255);
            Some(value)
        }
        ClientKind::Firmware(BootMethod::Pxe) if !alone => {
            let rejects = ctx.site.no_discovery_control.iter().any(|p| p.matches(ctx.req.mac()));
            (!rejects).then(|| DISCOVERY_OFF.to_vec())
        }
        _ => None,
    }
}
