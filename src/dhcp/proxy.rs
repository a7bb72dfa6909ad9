//! Answers that give no address: beside the site's own DHCP server (proxyDHCP), and on port 4011,
//! where firmware that was shown a `PXEClient` offer asks for its boot file (PXE 2.1 sections 2.2, 2.3).

use super::{MessageType, Outcome, Reason, ReplyKind, reply, respond::Ctx};
use crate::model::ClientKind;

fn boots(ctx: &Ctx<'_>) -> bool {
    matches!(ctx.kind, ClientKind::Firmware(_) | ClientKind::Ipxe(_) | ClientKind::RaspberryPi)
}

/// Port 67 in proxy mode: an offer without an address to a client that boots, nothing to others.
/// Its REQUEST is for the server that has addresses.
pub(super) fn beside_another_server(ctx: &Ctx<'_>, message: MessageType) -> Outcome {
    if !boots(ctx) {
        return Outcome::silent(Reason::NothingToBoot);
    }
    match message {
        MessageType::Discover => reply::boot_only(ctx, ReplyKind::Offer),
        MessageType::Inform => reply::boot_only(ctx, ReplyKind::Ack),
        MessageType::Request => Outcome::silent(Reason::OtherServer),
        _ => Outcome::silent(Reason::Unexpected),
    }
}

/// Port 4011, in both modes: the boot file for a client that has its address.
pub(super) fn boot_server(ctx: &Ctx<'_>, message: MessageType) -> Outcome {
    if !boots(ctx) {
        return Outcome::silent(Reason::NothingToBoot);
    }
    match message {
        MessageType::Request | MessageType::Inform => reply::boot_only(ctx, ReplyKind::Ack),
        _ => Outcome::silent(Reason::Unexpected),
    }
}
