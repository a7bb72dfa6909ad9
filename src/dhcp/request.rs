//! REQUEST, RELEASE, DECLINE and INFORM (RFC 2131 sections 4.3.2 to 4.3.5).

use super::{
    Action, Leases, Outcome, Reason, ReplyKind, Subnet,
    choose::Asker,
    leases::runs,
    reply,
    respond::{Ctx, quarantine},
};
use crate::model::{Change, Lease, LeaseState};
use std::net::Ipv4Addr;

/// In which state the client is (RFC 2131 table 4). RENEWING and REBINDING are answered alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Selecting,
    InitReboot,
    Renewing,
}

/// Whether the client may have the address that it asks for.
enum Verdict {
    Ack,
    /// It can't, for the reason given to it.
    Nak(&'static str),
    /// Nothing is known of it.
    Unknown,
    /// It was this machine's, but the lease ended.
    Ended,
    Silent(Reason),
}

pub(super) fn request(ctx: &Ctx<'_>, leases: &mut Leases, subnet: &Subnet, asker: &Asker) -> Outcome {
    let req = ctx.req;
    let ciaddr = Some(req.ciaddr()).filter(|a| !a.is_unspecified());
    let (state, addr) = match (req.server_id(), asker.wanted, ciaddr) {
        (Some(id), ..) if id != ctx.server_id() && id != ctx.link.server.ip => {
            // It chose another server: what was held for it is free again.
            if let Some(addr) = leases.offer_to(subnet, asker).map(|o| o.addr) {
                leases.drop_offer(addr, ctx.now);
            }
            return Outcome::silent(Reason::OtherServer);
        }
        (Some(_), Some(addr), _) => (State::Selecting, addr),
        // Some clients name the server when they renew.
        (_, None, Some(addr)) => (State::Renewing, addr),
        (None, Some(addr), None) => (State::InitReboot, addr),
        (None, Some(_), Some(addr)) => (State::Renewing, addr),
        (_, None, None) => return Outcome::silent(Reason::Unexpected),
    };
    match judge(ctx, leases, subnet, asker, state, addr) {
        Verdict::Ack => acknowledge(ctx, leases, subnet, asker, addr),
        Verdict::Nak(why) if ctx.site.authoritative || state == State::Selecting => {
            Outcome { action: reply::nak(ctx, why), changes: Vec::new() }
        }
        Verdict::Nak(_) => Outcome::silent(Reason::NotAuthoritative),
        // An authoritative server that lost its leases takes them over as their holders renew.
        Verdict::Unknown if !(ctx.site.authoritative || state == State::Selecting) => {
            Outcome::silent(Reason::UnknownLease)
        }
        Verdict::Unknown | Verdict::Ended => match leases.may_take_another(subnet, asker, ctx.now) {
            Ok(()) => acknowledge(ctx, leases, subnet, asker, addr),
            Err(_) if ctx.site.authoritative || state == State::Selecting => {
                Outcome { action: reply::nak(ctx, "no address left for you"), changes: Vec::new() }
            }
            Err(reason) => Outcome::silent(reason),
        },
        Verdict::Silent(reason) => Outcome::silent(reason),
    }
}

fn judge(
    ctx: &Ctx<'_>,
    leases: &Leases,
    subnet: &Subnet,
    asker: &Asker,
    state: State,
    addr: Ipv4Addr,
) -> Verdict {
    let (site, now) = (ctx.site, ctx.now);
    if addr.is_unspecified() {
        return Verdict::Silent(Reason::Unexpected);
    }
    if !subnet.network.contains(addr) {
        return Verdict::Nak("address is of another network");
    }
    if !leases.permitted(site, subnet, asker, addr) {
        return Verdict::Nak("address is not given out to you");
    }
    if !leases.open_to(asker, addr, now) {
        return Verdict::Nak("address is in use");
    }
    let offered = leases.offer_to(subnet, asker).is_some_and(|o| o.addr == addr);
    if state == State::Selecting && offered {
        return Verdict::Ack;
    }
    // An operator who reserves another address for a machine wants it to move.
    let reserved = leases.reservation(site, subnet, asker).filter(|a| *a != addr && *a != asker.ours);
    if reserved.is_some_and(|a| leases.open_to(asker, a, now)) {
        return Verdict::Nak("another address is reserved for you");
    }
    match leases.by_addr(addr) {
        Some(lease) if runs(lease, now) => Verdict::Ack,
        Some(lease) if lease.mac == asker.mac => Verdict::Ended,
        Some(_) => Verdict::Nak("address was given to another"),
        None if leases.lease_of(subnet, asker, now).is_some_and(|l| runs(l, now)) => {
            Verdict::Nak("you have another address")
        }
        None => Verdict::Unknown,
    }
}

/// Every ACK renews the lease in full and hands out the change, also to a client that asks twice in a
/// row: an ACK that carries no change could leave before the first one's is on disk.
fn acknowledge(
    ctx: &Ctx<'_>,
    leases: &mut Leases,
    subnet: &Subnet,
    asker: &Asker,
    addr: Ipv4Addr,
) -> Outcome {
    let now = ctx.now;
    let mut changes = Vec::new();
    let held: Vec<Ipv4Addr> = leases
        .offers_of(asker.mac)
        .filter(|o| subnet.network.contains(o.addr) && asker.is_me(o.mac, &o.key))
        .map(|o| o.addr)
        .collect();
    held.into_iter().for_each(|a| leases.drop_offer(a, now));
    let moved: Vec<Lease> = leases
        .by_mac(asker.mac)
        .filter(|l| subnet.network.contains(l.addr) && l.addr != addr && runs(l, now) && asker.owns(l, now))
        .cloned()
        .collect();
    for old in moved {
        changes.push(release_lease(leases, old, now));
    }
    let lease = Lease {
        addr,
        client: asker.key.clone(),
        mac: asker.mac,
        state: LeaseState::Bound,
        expires: now + i64::from(ctx.lease_seconds(subnet)) * 1_000,
        hostname: ctx.req.hostname(),
    };
    changes.push(leases.put(lease, now));
    Outcome { action: reply::lease(ctx, subnet, ReplyKind::Ack, addr), changes }
}

fn release_lease(leases: &mut Leases, lease: Lease, now: i64) -> Change {
    leases.put(Lease { state: LeaseState::Released, expires: now, ..lease }, now)
}

/// The client gives its address back; it stays on record, so that the client gets the same one again.
pub(super) fn release(ctx: &Ctx<'_>, leases: &mut Leases, subnet: &Subnet, asker: &Asker) -> Outcome {
    if ctx.req.server_id().is_some_and(|id| id != ctx.server_id() && id != ctx.link.server.ip) {
        return Outcome::silent(Reason::OtherServer);
    }
    let addr = ctx.req.ciaddr();
    if leases.offer_to(subnet, asker).is_some_and(|o| o.addr == addr) {
        leases.drop_offer(addr, ctx.now);
    }
    match leases.by_addr(addr).filter(|l| runs(l, ctx.now) && asker.owns(l, ctx.now)).cloned() {
        Some(lease) => {
            let change = release_lease(leases, lease, ctx.now);
            Outcome { action: Action::Silent(Reason::Released), changes: vec![change] }
        }
        None => Outcome::silent(Reason::UnknownLease),
    }
}

/// The client found its new address in use by somebody else.
pub(super) fn decline(ctx: &Ctx<'_>, leases: &mut Leases, subnet: &Subnet, asker: &Asker) -> Outcome {
    if ctx.req.server_id().is_some_and(|id| id != ctx.server_id() && id != ctx.link.server.ip) {
        return Outcome::silent(Reason::OtherServer);
    }
    let Some(addr) = asker.wanted else { return Outcome::silent(Reason::Unexpected) };
    let offered = leases.offer_to(subnet, asker).is_some_and(|o| o.addr == addr);
    let leased = leases.by_addr(addr).is_some_and(|l| runs(l, ctx.now) && asker.owns(l, ctx.now));
    if !subnet.network.contains(addr) || !(offered || leased) {
        return Outcome::silent(Reason::UnknownLease);
    }
    let change = quarantine(ctx, leases, addr, asker.mac);
    Outcome { action: Action::Silent(Reason::Declined), changes: vec![change] }
}

/// The client has an address from elsewhere and wants to be told the rest.
pub(super) fn inform(ctx: &Ctx<'_>, subnet: &Subnet) -> Outcome {
    let addr = ctx.req.ciaddr();
    if !addr.is_unspecified() && !subnet.network.contains(addr) {
        return Outcome::silent(Reason::NoSubnet);
    }
    Outcome { action: reply::inform(ctx, subnet), changes: Vec::new() }
}
