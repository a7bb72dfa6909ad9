//! DHCP: the answer to a packet, given back when what it promises is on disk.

use super::{
    Provisioner,
    answer::is_known,
    promises::{LONGEST, PATIENCE, Soon, Ticket, soon},
    random,
    state::Effects,
};
use crate::{
    dhcp::{self, Action, MessageType, ReplyKind},
    model::{AttemptId, BootTarget, Change, ClientKey, ClientKind, Lease, LeaseState, Mac, Stage, Verdict},
    netboot::NbpAnswer,
    store::db::Commit,
};
use std::time::Duration;
use tokio::time::timeout;

/// The answer to a DHCP packet, and what must be on disk before it may leave.
pub struct Answered {
    /// What is to be done, once [`Provisioner::dhcp_saved`] says so where something is promised.
    pub action: Action,
    /// Of an ACK: what it promises is on its way to the disk (RFC 2131 section 3.1, point 4: the server commits
    /// the binding first). An offer promises nothing and does not wait.
    pub promise: Option<Promised>,
}

/// What an ACK promises, on its way to the disk.
pub struct Promised {
    commit: Commit,
    /// Of a lease; an ACK without an address promises none.
    ticket: Option<Ticket>,
}

impl Answered {
    /// One that need not wait.
    pub fn at_once(action: Action) -> Answered {
        Answered { action, promise: None }
    }
}

impl Provisioner {
    /// Answers a DHCP packet, from memory.
    pub fn dhcp(&self, link: &dhcp::Link, req: &dhcp::Request, probed: Option<dhcp::Probed>) -> Answered {
        let client = req.boot_client();
        let now = self.now();
        // An operating system begins no attempt, and asks most often.
        let fresh_id = match client.kind {
            ClientKind::Other => Ok(0),
            _ => random().map(u64::from_ne_bytes),
        };
        let mut fx = Effects::default();
        let mut locked = self.state();
        let state = &mut *locked;

        let clashes = state.flat.as_ref().is_some_and(|f| !f.serves(&link.name));
        if clashes && link.mode == dhcp::Mode::Full && req.giaddr().is_unspecified() {
            let reason = dhcp::Reason::NoSubnet;
            *state.stats.silent.entry(reason.to_string()).or_default() += 1;
            return Answered::at_once(Action::Silent(reason));
        }
        let on_record = link.mode != dhcp::Mode::Off && !req.is_probe();
        if on_record {
            state.seen(&client, now, &mut fx);
        }
        let answer = state.answer(&self.0.images, &client, &link.server, &self.voucher());
        let known = state.machines.get(client.mac).is_some_and(is_known);
        // What it holds so far, of the addresses that it may be asking for.
        let held = [Some(req.ciaddr()), req.requested_ip()].map(|addr| {
            let lease = addr.and_then(|addr| state.leases.by_addr(addr))?;
            let its = lease.state == LeaseState::Bound && lease.mac == client.mac && lease.expires > now;
            its.then_some((lease.addr, lease.expires))
        });
        let outcome =
            dhcp::respond(&state.site, &mut state.leases, link, req, &answer.nbp, known, probed, now);
        let ends = |change: &Change| match change {
            Change::Lease(lease) if lease.state != LeaseState::Bound => Some(lease.addr),
            Change::LeaseGone(addr) => Some(*addr),
            _ => None,
        };
        outcome.changes.iter().filter_map(ends).for_each(|addr| state.promises.end(addr));
        let promised = outcome.changes.iter().find_map(|change| match change {
            Change::Lease(lease) if lease.state == LeaseState::Bound => {
                Some((lease.addr, lease.mac, lease.expires))
            }
            _ => None,
        });
        let ticket = promised.map(|(addr, mac, until)| {
            let before = held.into_iter().flatten().find(|(a, _)| *a == addr).map(|(_, expires)| expires);
            state.promises.make(addr, mac, until, before)
        });
        fx.changes.extend(outcome.changes);

        let boots =
            !matches!(client.kind, ClientKind::Other) && on_record && answer.target != BootTarget::Ignore;
        let discover = req.message_type() == Some(MessageType::Discover);
        let asks = discover || req.message_type() == Some(MessageType::Request);
        let attempt = match fresh_id {
            Ok(id) if asks && on_record && (boots || client.kind == ClientKind::Other) => {
                state.attempt_of(&client, discover, AttemptId(id), now, &mut fx)
            }
            _ => None,
        };
        if let Action::Reply(reply) = &outcome.action {
            let stage = match reply.kind {
                ReplyKind::Offer => Some(Stage::Offer),
                ReplyKind::Ack => Some(Stage::Ack),
                ReplyKind::Nak => None,
            };
            // On port 4011 the client already has an address, from another server.
            let addr = [reply.yiaddr, req.ciaddr()].into_iter().find(|a| !a.is_unspecified());
            if boots && stage == Some(Stage::Ack) && !reply.yiaddr.is_unspecified() {
                state.keep(client.mac, &mut fx);
            }
            if let (true, Some(id), Some(stage)) = (boots, attempt, stage) {
                state.record(id, stage, addr.map(|a| a.to_string()), now, &mut fx);
                state.update(id, &mut fx, |t| {
                    let changed = stage == Stage::Ack && addr.is_some() && t.attempt.addr != addr;
                    if changed {
                        t.attempt.addr = addr;
                    }
                    changed
                });
            }
            match reply.kind {
                ReplyKind::Offer => state.stats.offers += 1,
                ReplyKind::Ack => state.stats.acks += 1,
                ReplyKind::Nak => state.stats.naks += 1,
            }
        }
        if let Action::Silent(reason) = outcome.action {
            *state.stats.silent.entry(reason.to_string()).or_default() += 1;
        }
        // Nothing more will be seen of a machine that is told no boot program. `init` never is told one:
        // it runs what its script fixed, whatever the machine is assigned by now.
        let told_nothing = boots && client.kind != ClientKind::Init && answer.nbp == NbpAnswer::AddressOnly;
        if let Some(id) = attempt.filter(|_| told_nothing) {
            let verdict = match (&answer.target, &answer.refused) {
                (BootTarget::Local, _) => Some(Verdict::Local),
                (_, Some(reason)) => Some(Verdict::Failed { reason: reason.clone() }),
                _ => None,
            };
            state.update(id, &mut fx, |t| {
                t.attempt.rule = Some(answer.rule.clone());
                match verdict {
                    Some(v) if t.attempt.verdict == Verdict::Running => {
                        t.attempt.verdict = v;
                        true
                    }
                    _ => false,
                }
            });
        }
        let promises = matches!(&outcome.action, Action::Reply(reply) if reply.kind == ReplyKind::Ack);
        // Most offers change nothing that is kept.
        if !promises && fx.is_empty() {
            return Answered::at_once(outcome.action);
        }
        let commit = self.hand_on(&locked, fx);
        Answered { action: outcome.action, promise: promises.then_some(Promised { commit, ticket }) }
    }

    /// Waits for the disk, though not long: true where all that these answers, in the order in which they were decided, promise is
    /// there. Where not, [`Provisioner::dhcp_late`] says of each what is to be done.
    pub async fn dhcp_saved(&self, answers: &mut [Answered]) -> bool {
        // A commit stands for all that was handed on before it.
        let Some(last) = answers.iter_mut().rev().find_map(|a| a.promise.as_mut()) else { return true };
        if let Soon::Waits(_) = soon(&mut last.commit, PATIENCE).await {
            return false;
        }
        let tickets = answers.iter_mut().filter_map(|a| a.promise.take()?.ticket);
        let mut state = self.state();
        tickets.for_each(|ticket| state.promises.kept(ticket));
        true
    }

    /// Of an answer whose promise was not on disk soon. If a lease can't be written, the client is given
    /// the rest of the one that is on disk, or nothing where none is, and asks again.
    pub async fn dhcp_late(&self, answered: Answered) -> Action {
        let (mut reply, Promised { mut commit, ticket }) = match answered {
            Answered { action: Action::Reply(reply), promise: Some(promised) } => (reply, promised),
            Answered { action, .. } => return action,
        };
        let soon = soon(&mut commit, Duration::ZERO).await;
        let Some(ticket) = ticket else { return Action::Reply(reply) };
        if let Soon::Waits(error) = soon {
            let left = self.state().promises.left(&ticket, self.now());
            if let Some(seconds) = left {
                reply.shorten(seconds);
                self.state().stats.acks_shortened += 1;
                return Action::Reply(reply);
            }
            let saved = error.is_none() && matches!(timeout(LONGEST - PATIENCE, commit).await, Ok(Ok(())));
            if !saved {
                // The store logged it, at a bounded rate.
                self.state().stats.not_saved += 1;
                return Action::Silent(dhcp::Reason::NotSaved);
            }
            // It is as long ago that this was decided.
            reply.shorten(ticket.seconds_left(self.now()));
        }
        self.state().promises.kept(ticket);
        Action::Reply(reply)
    }

    /// Whether a machine's requests pass however many strangers ask: it is known, an address is reserved
    /// for it, or it holds one and may be about to renew.
    pub fn knows(&self, mac: Mac) -> bool {
        let now = self.now();
        let state = self.state();
        let holds = |l: &Lease| l.state == LeaseState::Bound && l.expires > now;
        state.machines.get(mac).is_some_and(is_known)
            || state.site.reservation(mac, &ClientKey::Mac(mac), |_| true).is_some()
            || state.leases.by_mac(mac).any(holds)
    }
}
