//! Asks by ARP whether an address is taken before it is given to somebody (RFC 5227 section 2.1, in
//! the tenth of a second that a new client will wait). Any number of questions share one socket.

use super::arp;
use crate::{
    dhcp::Probed,
    model::Mac,
    sys::{ETH_ARP, PacketSocket, registered},
};
use std::{
    collections::HashMap,
    io,
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time::{Instant, timeout_at},
};

/// Claimants of one address that are kept apart; more than the asking client's own and one other
/// tell nothing new.
const CLAIMANTS: usize = 4;

#[derive(Debug)]
struct Asked {
    waiting: usize,
    claims: watch::Sender<Vec<Mac>>,
}

/// The ARP side of one link. Questions end when their time is over, so there are never more entries
/// than requests in work.
#[derive(Debug)]
pub struct Prober {
    socket: AsyncFd<PacketSocket>,
    mac: Mac,
    asked: Mutex<HashMap<Ipv4Addr, Asked>>,
}

impl Prober {
    /// On the interface with this index and MAC.
    pub fn open(index: u32, mac: Mac) -> io::Result<Prober> {
        let socket = registered(PacketSocket::open(index, Some(ETH_ARP))?)?;
        Ok(Prober { socket, mac, asked: Mutex::default() })
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens for answers until the socket fails. Must run beside every [`Prober::probe`].
    pub async fn listen(&self) -> io::Result<()> {
        let mut buffer = [0u8; 128];
        loop {
            let len = self.socket.async_io(Interest::READABLE, |s| s.recv(&mut buffer)).await?;
            let Some(heard) = buffer.get(..len).and_then(arp::read) else { continue };
            let (ip, by) = heard.claims();
            if by == self.mac {
                continue;
            }
            if let Some(asked) = self.asked().get(&ip) {
                asked.claims.send_if_modified(|macs| {
                    let new = macs.len() < CLAIMANTS && !macs.contains(&by);
                    if new {
                        macs.push(by);
                    }
                    new
                });
            }
        }
    }

    /// Asks twice within `time` who has `ip`. An answer of `client` itself doesn't count: a machine
    /// that kept its address over our loss of memory shall get it again.
    ///
    /// Errors: the interface is down or gone.
    pub async fn probe(&self, ip: Ipv4Addr, client: Mac, time: Duration) -> io::Result<Probed> {
        let question = self.ask(ip);
        let mut claims = question.claims.clone();
        let start = Instant::now();
        for until in [start + time.mul_f64(0.4), start + time] {
            let frame = arp::probe_frame(self.mac, ip);
            self.socket.async_io(Interest::WRITABLE, |s| s.send(&frame)).await?;
            let taken = claims.wait_for(|macs| macs.iter().any(|m| *m != client));
            if let Ok(Ok(_)) = timeout_at(until, taken).await {
                return Ok(Probed::InUse(ip));
            }
        }
        Ok(Probed::Free(ip))
    }

    fn ask(&self, ip: Ipv4Addr) -> Question<'_> {
        let mut asked = self.asked();
        let entry =
            asked.entry(ip).or_insert_with(|| Asked { waiting: 0, claims: watch::channel(Vec::new()).0 });
        entry.waiting += 1;
        Question { prober: self, ip, claims: entry.claims.subscribe() }
    }
}

/// A question that is asked; forgotten on drop, also when its task is cancelled.
struct Question<'a> {
    prober: &'a Prober,
    ip: Ipv4Addr,
    claims: watch::Receiver<Vec<Mac>>,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut asked = self.prober.asked();
        if let Some(entry) = asked.get_mut(&self.ip) {
            entry.waiting -= 1;
            if entry.waiting == 0 {
                asked.remove(&self.ip);
            }
        }
    }
}
