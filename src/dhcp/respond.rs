//! The answer to one request: which subnet, which rules, and the DISCOVER half of the lease life.
//! `request` has the other half, `proxy` the answers beside another server.

use super::{
    Action, Leases, Link, MessageType, Mode, Outcome, Port, Probed, Reason, ReplyKind, Request, Site, Subnet,
    choose::Asker,
    client::is_os_id,
    leases::{Offer, runs},
    proxy, reply, request,
};
use crate::{
    model::{Change, ClientKey, ClientKind, Lease, LeaseState, Mac, Millis},
    netboot::NbpAnswer,
};
use std::net::Ipv4Addr;

/// A probe that was not reported after this time is asked for again.
const PROBE_PATIENCE: Millis = 1_000;
/// Longest time that an address is held for a client which doesn't come back.
const MAX_HOLD: Millis = 60_000;
/// On record for an address that a probe found in use: no machine has this MAC.
const NOBODY: Mac = Mac([0; 6]);

/// Everything that a rule may look at, apart from the table.
pub(super) struct Ctx<'a> {
    pub(super) site: &'a Site,
    pub(super) link: &'a Link,
    pub(super) req: &'a Request,
    pub(super) boot: &'a NbpAnswer,
    pub(super) kind: ClientKind,
    pub(super) now: Millis,
}

impl Ctx<'_> {
    /// What we call ourselves in option 54: the address that was asked, or what the relay wants the
    /// client to see (RFC 5107).
    pub(super) fn server_id(&self) -> Ipv4Addr {
        self.req.server_id_override().unwrap_or(self.link.server.ip)
    }

    /// Where the client is: what its relay says (RFC 3527, RFC 2131 section 4.3.1), else the address
    /// that it uses, else the link that it asked on.
    pub(super) fn subnet(&self) -> Option<&Subnet> {
        let req = self.req;
        let of = |addr| self.site.subnets.iter().find(|s| s.network.contains(addr));
        if let Some(addr) = req.link_selection() {
            of(addr)
        } else if !req.giaddr().is_unspecified() {
            of(req.giaddr())
        } else if !req.ciaddr().is_unspecified() {
            of(req.ciaddr()).or_else(|| of(self.link.server.ip))
        } else {
            of(self.link.server.ip)
        }
    }

    /// Seconds of lease time for this client.
    pub(super) fn lease_seconds(&self, subnet: &Subnet) -> u32 {
        let longest = subnet.lease.unwrap_or(self.site.lease).0.max(1);
        let wanted = self.req.lease_wanted().unwrap_or(longest);
        wanted.clamp(self.site.min_lease.0.min(longest), longest)
    }
}

/// Answers one request. `boot` is what the provisioner wants this client to boot, `known` says that
/// the machine is known (strangers never get the pool's last addresses), `probed` what the ARP probe
/// asked for by an earlier [`Action::Probe`] found.
///
/// While a probe runs, the same client's retransmissions are met with silence; if nothing was
/// reported after a second, the probe is asked for again.
#[allow(clippy::too_many_arguments)]
pub fn respond(
    site: &Site,
    leases: &mut Leases,
    link: &Link,
    req: &Request,
    boot: &NbpAnswer,
    known: bool,
    probed: Option<Probed>,
    now: Millis,
) -> Outcome {
    if link.mode == Mode::Off {
        return Outcome::silent(Reason::Off);
    }
    let Some(message) = req.message_type() else { return Outcome::silent(Reason::NotDhcp) };
    let ctx = Ctx { site, link, req, boot, kind: req.client_kind(), now };
    match (link.port, link.mode) {
        (Port::BootServer4011, _) => return proxy::boot_server(&ctx, message),
        (Port::Server67, Mode::Proxy) => return proxy::beside_another_server(&ctx, message),
        (Port::Server67, _) => {}
    }
    let ctx = Ctx { now: leases.advance(site, link.server.ip, now), ..ctx };
    let Some(subnet) = ctx.subnet() else { return Outcome::silent(Reason::NoSubnet) };
    let key = req.client_key();
    let os = ctx.kind == ClientKind::Other && is_os_id(&key, req.mac());
    let asker = Asker {
        mac: req.mac(),
        key,
        os,
        known,
        link: link.index,
        ours: link.server.ip,
        wanted: req.requested_ip(),
    };
    match message {
        MessageType::Discover => discover(&ctx, leases, subnet, &asker, probed),
        MessageType::Request => request::request(&ctx, leases, subnet, &asker),
        MessageType::Release => request::release(&ctx, leases, subnet, &asker),
        MessageType::Decline => request::decline(&ctx, leases, subnet, &asker),
        MessageType::Inform => request::inform(&ctx, subnet),
        MessageType::Other(_) => Outcome::silent(Reason::Unexpected),
    }
}

fn discover(
    ctx: &Ctx<'_>,
    leases: &mut Leases,
    subnet: &Subnet,
    asker: &Asker,
    probed: Option<Probed>,
) -> Outcome {
    let (site, now) = (ctx.site, ctx.now);
    let mut changes = Vec::new();
    let mut tries = 0;
    match probed {
        Some(Probed::Free(addr)) => leases.remember_free(addr, now),
        Some(Probed::InUse(addr)) => {
            let mine = leases.offer_to(subnet, asker).filter(|o| o.addr == addr);
            tries = mine.map_or(0, |o| o.tries.saturating_add(1));
            if mine.is_some() || !taken(leases, addr, now) {
                // By whoever has it: it must not count as one that the asker took.
                changes.push(quarantine(ctx, leases, addr, NOBODY));
            }
        }
        None => {}
    }
    let silent = |reason, changes| Outcome { action: Action::Silent(reason), changes };
    if tries > leases.bounds().probe_tries {
        return silent(Reason::AllInUse, changes);
    }
    let addr = match leases.choose(site, subnet, asker, now) {
        Ok(addr) => addr,
        Err(reason) => return silent(reason, changes),
    };

    let earlier = leases.offer_to(subnet, asker).cloned();
    let same = earlier.as_ref().filter(|o| o.addr == addr);
    let mut probing = same.and_then(|o| o.probing);
    let needs_probe = ctx.site.probe
        && ctx.req.giaddr().is_unspecified()
        && subnet.network.contains(ctx.link.server.ip)
        && !leases.had_recently(asker, addr, now)
        && !leases.found_free(addr, now)
        && same.is_none_or(|o| o.probing.is_some());
    let ask_now = needs_probe && probing.is_none_or(|since| !(0..PROBE_PATIENCE).contains(&(now - since)));
    let wait = needs_probe && !ask_now;
    if ask_now {
        probing = Some(now);
    } else if !needs_probe {
        probing = None;
    }
    let running = leases.by_addr(addr).is_some_and(|l| runs(l, now));
    let counts = !asker.known && !running && site.reserved(addr).is_none();
    let hold = site.offer_hold.millis().clamp(1_000, MAX_HOLD);
    if let Some(old) = &earlier {
        leases.drop_offer(old.addr, now);
    }
    let offer = Offer {
        addr,
        mac: asker.mac,
        key: asker.key.clone(),
        expires: now + hold,
        stranger_on: counts.then_some(asker.link),
        probing,
        tries: same.map_or(tries, |o| o.tries),
    };
    leases.hold(offer, now);
    if ask_now {
        return Outcome { action: Action::Probe(addr), changes };
    }
    if wait {
        return silent(Reason::ProbePending, changes);
    }
    let action = reply::lease(ctx, subnet, ReplyKind::Offer, addr);
    Outcome { action, changes }
}

/// Whether an address has a running lease or is offered.
fn taken(leases: &Leases, addr: Ipv4Addr, now: Millis) -> bool {
    leases.offer_at(addr).is_some() || leases.by_addr(addr).is_some_and(|l| runs(l, now))
}

/// Keeps an address from everybody, because somebody unknown answers on it. `mac` declined it.
pub(super) fn quarantine(ctx: &Ctx<'_>, leases: &mut Leases, addr: Ipv4Addr, mac: Mac) -> Change {
    leases.drop_offer(addr, ctx.now);
    leases.forget_free(addr);
    let lease = Lease {
        addr,
        client: ClientKey::Mac(mac),
        mac,
        state: LeaseState::Declined,
        expires: ctx.now + ctx.site.quarantine.millis(),
        hostname: None,
    };
    leases.put(lease, ctx.now)
}
