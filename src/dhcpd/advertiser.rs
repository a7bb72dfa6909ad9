//! Tells a link that there is no IPv6 router here, so that iPXE stops waiting for one.

use super::{
    counters::Counters,
    gate::Bucket,
    ra::{self, Heard, Station},
};
use crate::{
    model::Mac,
    sys::{ETH_IPV6, PacketSocket, registered},
};
use std::{
    io,
    net::Ipv6Addr,
    time::{Duration, Instant},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Between unasked advertisements.
const EVERY: Duration = Duration::from_secs(60);
/// Answers to solicitations in a second, and at once: a rack that boots together asks together.
const ANSWERS: (u32, u32) = (100, 1_000);

/// The advertiser of one link.
#[derive(Debug)]
pub struct Advertiser {
    socket: AsyncFd<PacketSocket>,
    mac: Mac,
    /// Joined to all routers by IPv6's own means, so that switches that watch memberships pass
    /// solicitations on. `None` where IPv6 is off on this host: frames work all the same.
    _membership: Option<std::net::UdpSocket>,
}

impl Advertiser {
    /// On the interface with this index and MAC.
    pub fn open(index: u32, mac: Mac) -> io::Result<Advertiser> {
        let socket = PacketSocket::open_filtered(index, Some(ETH_IPV6), &ra::filter())?;
        socket.join(ra::ALL_ROUTERS_MAC)?;
        let membership = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
            .and_then(|s| s.join_multicast_v6(&ra::ALL_ROUTERS, index).map(|()| s))
            .ok();
        Ok(Advertiser { socket: registered(socket)?, mac, _membership: membership })
    }

    /// Advertises at once, now and then, and whenever asked, until the socket fails. Where a real
    /// router is heard, it is silent for as long as that one says to last.
    pub async fn run(&self, link: &str, counters: &Counters) -> io::Result<()> {
        let mut bucket = Bucket::new(ANSWERS.0, ANSWERS.1, Instant::now());
        let mut router_until: Option<Instant> = None;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut buffer = [0u8; 256];
        loop {
            let heard = tokio::select! {
                _ = ticks.tick() => None,
                len = self.socket.async_io(Interest::READABLE, |s| s.recv(&mut buffer)) => {
                    let Some(heard) = buffer.get(..len?).and_then(ra::read) else { continue };
                    Some(heard)
                }
            };
            let now = Instant::now();
            let to = match heard {
                None => None,
                Some(Heard::Solicitation(from)) => {
                    counters.solicitations.add();
                    if !bucket.take(now) {
                        continue;
                    }
                    Some(from)
                }
                Some(Heard::Advertisement { from, lifetime }) => {
                    if from.mac != self.mac && lifetime > 0 {
                        if router_until.is_none() {
                            tracing::info!(link, router = %from.ip, "an IPv6 router is on this link: no router advertisements of ours");
                        }
                        router_until = Some(now + Duration::from_secs(lifetime.into()));
                    }
                    continue;
                }
            };
            if router_until.is_some_and(|until| now < until) {
                continue;
            }
            router_until = None;
            match self.advertise(to).await {
                Ok(()) => counters.advertisements.add(),
                // A full queue, or a link that goes down: the next one may do.
                Err(error) => tracing::debug!(link, %error, "a router advertisement could not be sent"),
            }
        }
    }

    async fn advertise(&self, to: Option<Station>) -> io::Result<()> {
        let frame = ra::advertisement(self.mac, to);
        self.socket.async_io(Interest::WRITABLE, |s| s.send(&frame)).await
    }
}
