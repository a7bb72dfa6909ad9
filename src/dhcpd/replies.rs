//! Replies on their way: at once, or when the disk has what they promise.

use super::{Answer, gate::Permit, link::Served, sockets::Sockets};
use crate::{
    dhcp::{Action, Destination, Link, Reply},
    model::Mac,
    provisioner::Answered,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use std::{io, net::SocketAddrV4, sync::Arc, time::Instant};
use tokio::sync::mpsc;

/// Fewer replies to one relay agent leave one by one: who captures packets here sees those that leave together as one.
const TOGETHER: usize = 8;
/// Most datagrams that the kernel cuts from one (UDP_MAX_SEGMENTS).
const MOST: usize = 64;
/// Most bytes of them: a datagram's, and its headers.
const BYTES: usize = 65_000;

/// Whoever asked, and what answers it.
pub(super) struct Asker {
    pub(super) served: Arc<Served>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) link: Arc<Link>,
    pub(super) mac: Mac,
    pub(super) permit: Permit,
}

/// ACKs of one turn, in the order in which they were decided.
pub(super) type Turn = Vec<(Asker, Answered)>;

/// Sends ACKs when their leases are on disk. Those that a slow disk holds up hold up no others.
pub(super) async fn keep_promises<A: Answer>(mut promises: mpsc::UnboundedReceiver<Turn>, answer: A) {
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            promised = promises.recv() => match promised {
                Some(turn) => waiting.push(settle(turn, &answer)),
                None => break,
            },
            Some(()) = waiting.next() => {}
        }
    }
}

/// Acts on answers of one turn when the disk has what they promise.
pub(super) async fn settle<A: Answer>(turn: Turn, answer: &A) {
    let (askers, mut answers): (Vec<_>, Vec<_>) = turn.into_iter().unzip();
    let saved = answer.saved(&mut answers).await;
    let turn = askers.into_iter().zip(answers);
    if saved {
        let mut replies = Vec::with_capacity(turn.len());
        for (asker, answered) in turn {
            match answered.action {
                Action::Reply(reply) => replies.push((asker, reply)),
                action => asker.act(action).await,
            }
        }
        return send_all(replies).await;
    }
    let late = async |(asker, answered): (Asker, Answered)| asker.act(answer.late(answered).await).await;
    turn.map(late).collect::<FuturesUnordered<_>>().collect::<()>().await;
}

/// Sends replies of one link. Where many go to one relay agent, those that are equally long leave together, which takes a third
/// of the processor time: a rack that is switched on asks through few relay agents.
pub(super) async fn send_all(mut replies: Vec<(Asker, Reply)>) {
    let key = |(_, reply): &(Asker, Reply)| (relay(reply), reply.bytes.len());
    replies.sort_by_key(key);
    for alike in replies.chunk_by(|one, other| key(one) == key(other)) {
        let most = alike.first().map_or(1, |(_, reply)| BYTES / reply.bytes.len().max(1));
        for some in alike.chunks(most.clamp(1, MOST)) {
            let together = some.len() >= TOGETHER && leave_together(some).await;
            for (asker, reply) in some {
                match together {
                    true => asker.sent(reply, Ok(())),
                    false => asker.send(reply).await,
                }
            }
        }
    }
}

/// The relay agent that a reply goes to.
fn relay(reply: &Reply) -> Option<SocketAddrV4> {
    match reply.to {
        Destination::Relay(to) => Some(to),
        _ => None,
    }
}

/// False where it can't be done, and none has left.
async fn leave_together(replies: &[(Asker, Reply)]) -> bool {
    let Some((asker, reply)) = replies.first() else { return false };
    let Some(to) = relay(reply) else { return false };
    let all: Vec<&[u8]> = replies.iter().map(|(_, reply)| reply.bytes.as_slice()).collect();
    asker.sockets.send_cut(asker.link.port, &all.concat(), reply.bytes.len(), to).await
}

impl Asker {
    pub(super) async fn act(&self, action: Action) {
        match action {
            Action::Reply(reply) => self.send(&reply).await,
            Action::Silent(reason) => {
                self.served.counters.silent(reason);
                tracing::debug!(interface = self.link.name, mac = %self.mac, %reason, "no reply");
            }
            // Whoever acts on an answer has probed.
            Action::Probe(_) => {}
        }
    }

    async fn send(&self, reply: &Reply) {
        self.sent(reply, self.sockets.send(self.link.port, &reply.bytes, reply.to).await);
    }

    fn sent(&self, reply: &Reply, sent: io::Result<()>) {
        let counters = &self.served.counters;
        let (interface, mac) = (&self.link.name, self.mac);
        match sent {
            Ok(()) => {
                counters.replied(reply.kind);
                self.served.gate.answered(mac);
                tracing::debug!(interface, %mac, kind = ?reply.kind, yiaddr = %reply.yiaddr, to = ?reply.to, "replied");
            }
            Err(error) => {
                counters.send_failed.add();
                if self.served.warn_send.due(Instant::now()).is_some() {
                    tracing::warn!(interface, %mac, to = ?reply.to, %error, "a DHCP reply could not be sent");
                }
            }
        }
    }
}
