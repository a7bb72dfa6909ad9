//! How an answer looks on the wire, and where it goes.

use super::{
    Action, Destination, Outcome, Port, Reason, Reply, ReplyKind, Request, Subnet, boot_options::boot_part,
    respond::Ctx,
};
use crate::model::ClientKind;
use dhcproto::{
    Encodable,
    v4::{HType, Message, Opcode},
};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
};

/// Smallest BOOTP packet that every client takes (RFC 951).
const SMALLEST: usize = 300;
/// IP and UDP headers, which option 57 counts in.
const HEADERS: u16 = 28;

/// One option of a reply.
struct Opt {
    code: u8,
    /// Where its value lies.
    value: Range<usize>,
    /// Left out first when the client takes short messages only.
    spare: bool,
}

/// A reply that is being put together.
struct Draft {
    kind: ReplyKind,
    ciaddr: Ipv4Addr,
    yiaddr: Ipv4Addr,
    siaddr: Ipv4Addr,
    file: Vec<u8>,
    options: Vec<Opt>,
    /// Values of the options, one after the other.
    values: Vec<u8>,
}

impl Draft {
    fn new(ctx: &Ctx<'_>, kind: ReplyKind) -> Draft {
        let message = match kind {
            ReplyKind::Offer => 2,
            ReplyKind::Ack => 5,
            ReplyKind::Nak => 6,
        };
        let mut draft = Draft {
            kind,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            file: Vec::new(),
            options: Vec::with_capacity(16),
            values: Vec::with_capacity(256),
        };
        draft.must(53, [message]);
        draft.must(54, ctx.server_id().octets());
        draft
    }

    fn must(&mut self, code: u8, value: impl AsRef<[u8]>) {
        self.put(code, value.as_ref(), false);
    }

    fn spare(&mut self, code: u8, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        if !value.is_empty() && !self.options.iter().any(|o| o.code == code) {
            self.put(code, value, true);
        }
    }

    fn put(&mut self, code: u8, value: &[u8], spare: bool) {
        let at = self.values.len();
        self.values.extend_from_slice(value);
        self.options.push(Opt { code, value: at..self.values.len(), spare });
    }

    fn boot(&mut self, ctx: &Ctx<'_>) {
        let Some(part) = boot_part(ctx) else { return };
        self.siaddr = part.siaddr;
        self.file = part.file;
        part.options.into_iter().for_each(|(code, value)| self.must(code, value));
    }

    fn send(mut self, ctx: &Ctx<'_>, to: Destination) -> Action {
        // RFC 4578 section 2.3: the machine id comes back, but only in the one form that it knows.
        let machine_id = ctx.req.option(97).filter(|id| id.len() == 17 && id.first() == Some(&0));
        if let Some(id) = machine_id.filter(|_| self.kind != ReplyKind::Nak) {
            self.must(97, id);
        }
        // RFC 6842: so does the client id; RFC 3046 section 2.2: and what a relay or a snooping switch
        // added, last. Put together of several options (RFC 3396) neither has a meaning, and the reply would have no bound.
        for code in [61, 82] {
            if let Some(value) = ctx.req.option(code).filter(|value| value.len() <= 255) {
                self.must(code, value);
            }
        }
        let yiaddr = self.yiaddr;
        let kind = self.kind;
        match encode(ctx.req, self) {
            Some(bytes) => Action::Reply(Reply { bytes, to, kind, yiaddr }),
            None => Action::Silent(Reason::Unexpected),
        }
    }
}

/// OFFER and ACK with an address.
pub(super) fn lease(ctx: &Ctx<'_>, subnet: &Subnet, kind: ReplyKind, addr: Ipv4Addr) -> Action {
    let mut draft = Draft::new(ctx, kind);
    draft.yiaddr = addr;
    if kind == ReplyKind::Ack {
        draft.ciaddr = ctx.req.ciaddr();
    }
    let seconds = ctx.lease_seconds(subnet);
    draft.must(51, seconds.to_be_bytes());
    draft.must(58, (seconds / 2).to_be_bytes());
    draft.must(59, u32::try_from(u64::from(seconds) * 7 / 8).unwrap_or(seconds).to_be_bytes());
    configuration(&mut draft, ctx, subnet, Some(addr));
    let to = destination(ctx, addr);
    draft.send(ctx, to)
}

/// ACK to an INFORM: no address, no lease time.
pub(super) fn inform(ctx: &Ctx<'_>, subnet: &Subnet) -> Action {
    let mut draft = Draft::new(ctx, ReplyKind::Ack);
    draft.ciaddr = ctx.req.ciaddr();
    configuration(&mut draft, ctx, subnet, None);
    let to = destination(ctx, Ipv4Addr::UNSPECIFIED);
    draft.send(ctx, to)
}

/// NAK: by broadcast, since the client's address is wrong (RFC 2131 section 4.1).
pub(super) fn nak(ctx: &Ctx<'_>, why: &str) -> Action {
    let mut draft = Draft::new(ctx, ReplyKind::Nak);
    draft.spare(56, why);
    let to = match ctx.req.giaddr() {
        relay if relay.is_unspecified() => Destination::Broadcast { port: 68 },
        relay => Destination::Relay(SocketAddrV4::new(relay, 67)),
    };
    draft.send(ctx, to)
}

/// An answer with a boot file and no address; silence where there is nothing to boot.
pub(super) fn boot_only(ctx: &Ctx<'_>, kind: ReplyKind) -> Outcome {
    let mut draft = Draft::new(ctx, kind);
    draft.boot(ctx);
    if draft.file.is_empty() && !draft.options.iter().any(|o| o.code == 67) {
        return Outcome::silent(Reason::NothingToBoot);
    }
    if kind == ReplyKind::Ack {
        draft.ciaddr = ctx.req.ciaddr();
    }
    let to = destination(ctx, Ipv4Addr::UNSPECIFIED);
    Outcome { action: draft.send(ctx, to), changes: Vec::new() }
}

/// RFC 2131 section 4.1: to the relay; else to the address that the client uses; else by broadcast if
/// it asks for that or is given no address; else to its hardware address.
fn destination(ctx: &Ctx<'_>, yiaddr: Ipv4Addr) -> Destination {
    let req = ctx.req;
    if !req.giaddr().is_unspecified() {
        return Destination::Relay(SocketAddrV4::new(req.giaddr(), 67));
    }
    // A client that asks port 4011 or says INFORM has an address; its source address is the truest.
    let source = req.source.filter(|s| !s.ip().is_unspecified() && yiaddr.is_unspecified());
    if ctx.link.port == Port::BootServer4011 && (source.is_some() || !req.ciaddr().is_unspecified()) {
        // EDK2 asks from port 4011, iPXE from 68.
        return Destination::Unicast(source.unwrap_or_else(|| SocketAddrV4::new(req.ciaddr(), 4011)));
    }
    if !req.ciaddr().is_unspecified() {
        return Destination::Unicast(SocketAddrV4::new(req.ciaddr(), 68));
    }
    if let Some(source) = source {
        return Destination::Unicast(SocketAddrV4::new(*source.ip(), 68));
    }
    if req.broadcast() || yiaddr.is_unspecified() {
        return Destination::Broadcast { port: 68 };
    }
    Destination::Hardware { mac: req.mac(), ip: yiaddr, port: 68 }
}

/// Mask, boot part and what the operator configured for the subnet, the most needed first.
fn configuration(draft: &mut Draft, ctx: &Ctx<'_>, subnet: &Subnet, addr: Option<Ipv4Addr>) {
    let wants = |code| ctx.req.wants(code);
    let list = |addrs: &[Ipv4Addr]| addrs.iter().flat_map(|a| a.octets()).collect::<Vec<u8>>();
    draft.must(1, subnet.network.netmask().octets());
    if !subnet.routers.is_empty() {
        draft.must(3, list(&subnet.routers));
    }
    draft.boot(ctx);
    let hostname = addr.and_then(|a| ctx.site.reserved(a)).and_then(|r| r.hostname.as_deref());
    let mut spare = |code: u8, value: &[u8]| {
        if wants(code) {
            draft.spare(code, value);
        }
    };
    spare(6, &list(&subnet.dns));
    spare(12, hostname.unwrap_or_default().as_bytes());
    spare(15, subnet.domain.as_deref().unwrap_or_default().as_bytes());
    spare(121, &classless_routes(subnet));
    spare(26, &subnet.mtu.map(|m| m.to_be_bytes().to_vec()).unwrap_or_default());
    spare(42, &list(&subnet.ntp));
    spare(119, &subnet.search.iter().flat_map(|d| dns_name(d)).collect::<Vec<_>>());
    if subnet.network.prefix_len < 31 {
        spare(28, &subnet.network.last().octets());
    }
    for option in &subnet.options {
        // Firmware reads meaning into these; a vendor's options are for its own devices.
        let for_boot = matches!(option.code, 43 | 60) && ctx.kind != ClientKind::Other;
        if !for_boot && (option.always || wants(option.code)) {
            draft.spare(option.code, option.value());
        }
    }
}

/// RFC 3442: prefix length, the network's significant bytes, next hop. A client that reads this
/// ignores option 3, so the default route is repeated here.
fn classless_routes(subnet: &Subnet) -> Vec<u8> {
    let mut out = Vec::new();
    for route in &subnet.routes {
        out.push(route.to.prefix_len);
        let significant = usize::from(route.to.prefix_len).div_ceil(8);
        out.extend(route.to.network.octets().iter().take(significant));
        out.extend(route.via.octets());
    }
    let has_default = subnet.routes.iter().any(|r| r.to.prefix_len == 0);
    if let (false, false, Some(router)) = (out.is_empty(), has_default, subnet.routers.first()) {
        out.push(0);
        out.extend(router.octets());
    }
    out
}

/// RFC 1035 section 3.1, without compression. Labels were checked with the configuration.
fn dns_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|l| !l.is_empty() && l.len() <= 63) {
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out
}

/// The bytes: fixed part by dhcproto, options in our order, cut to what the client takes (option 57),
/// at least 300 bytes. No padding between options: some ROMs stop at it.
fn encode(req: &Request, mut draft: Draft) -> Option<Vec<u8>> {
    let limit = req.option(57).and_then(|v| v.try_into().ok()).map_or(576, u16::from_be_bytes);
    let limit = usize::from(limit.clamp(576, 1_500) - HEADERS);
    let mut message =
        Message::new_with_id(req.xid(), draft.ciaddr, draft.yiaddr, draft.siaddr, req.giaddr(), &req.mac().0);
    message.set_opcode(Opcode::BootReply).set_htype(HType::Eth).set_flags(req.flags.into());
    if !draft.file.is_empty() && draft.file.len() <= 127 {
        message.set_fname(&draft.file);
    }
    if draft.kind == ReplyKind::Nak && !req.giaddr().is_unspecified() {
        // The relay must not try the address that the client can't have (RFC 2131 section 4.3.2).
        message.set_flags((req.flags | 0x8000).into());
    }
    let mut bytes = message.to_vec().ok()?;
    let size = |options: &[Opt]| -> usize {
        options.iter().map(|o| o.value.len() + 2 * o.value.len().div_ceil(255).max(1)).sum()
    };
    while bytes.len() + size(&draft.options) + 1 > limit {
        let Some(last) = draft.options.iter().rposition(|o| o.spare) else { break };
        draft.options.remove(last);
    }
    for option in &draft.options {
        let mut parts = draft.values.get(option.value.clone())?.chunks(255).peekable();
        if parts.peek().is_none() {
            bytes.extend([option.code, 0]);
        }
        // RFC 3396: a long value goes over several options.
        for part in parts {
            bytes.extend([option.code, u8::try_from(part.len()).ok()?]);
            bytes.extend_from_slice(part);
        }
    }
    bytes.push(255);
    if bytes.len() < SMALLEST {
        bytes.resize(SMALLEST, 0);
    }
    Some(bytes)
}
