//! Notices other DHCP servers on a link in full mode while it is served, and when they are gone.
//!
//! Two ways: every server's answer that reaches this host counts, whoever it is for; and a client that
//! doesn't exist asks now and then, since a switch shows us no answer that is sent to one machine
//! alone. It asks at once when machines ask (that is when another server would answer them), at a
//! bounded rate, and seldom while nobody does.

use super::{
    detect::{self, Question},
    frame::read_udp,
    links::Interface,
};
use crate::{
    model::Mac,
    sys::{ETH_IPV4, PacketSocket, registered},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, watch},
};

/// Other servers of one link that are told apart; whoever invents more tells nothing new.
const MOST: usize = 8;

/// How often is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchPace {
    /// While nobody asks for an address.
    pub quiet: Duration,
    /// At most so often while machines ask.
    pub busy: Duration,
    /// While another server is known.
    pub alarmed: Duration,
    /// A server that was not heard for this long is gone.
    pub gone: Duration,
}

impl Default for WatchPace {
    fn default() -> WatchPace {
        WatchPace {
            quiet: Duration::from_secs(60),
            busy: Duration::from_secs(5),
            alarmed: Duration::from_secs(10),
            gone: Duration::from_secs(35),
        }
    }
}

/// Another DHCP server on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherServer {
    /// What it calls itself (option 54), else the address that it sends from.
    pub server: Ipv4Addr,
    /// Whose frames its answers come in; `None` where only a client's choice told of it.
    pub mac: Option<Mac>,
    /// Seconds since it was first heard.
    pub since_seconds: u64,
    /// Seconds since it was last heard.
    pub silent_seconds: u64,
}

/// The other servers of one link, as far as they were heard.
#[derive(Debug, Default)]
pub(super) struct Others {
    heard: Mutex<BTreeMap<Ipv4Addr, Entry>>,
    /// Machines ask for addresses, and nobody asked after them who answers.
    stirred: AtomicBool,
    stir: Notify,
}

#[derive(Debug)]
struct Entry {
    mac: Option<Mac>,
    first: Instant,
    last: Instant,
}

impl Others {
    fn heard(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, Entry>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server was heard; true where that is news.
    pub fn note(&self, server: Ipv4Addr, mac: Option<Mac>, now: Instant) -> bool {
        let mut heard = self.heard();
        if let Some(entry) = heard.get_mut(&server) {
            entry.last = now;
            entry.mac = mac.or(entry.mac);
            return false;
        }
        let room = heard.len() < MOST;
        if room {
            heard.insert(server, Entry { mac, first: now, last: now });
        }
        room
    }

    /// Takes out those that were not heard for so long.
    fn expire(&self, gone: Duration, now: Instant) -> Vec<Ipv4Addr> {
        let mut heard = self.heard();
        let over = |e: &Entry| now.saturating_duration_since(e.last) >= gone;
        let out: Vec<Ipv4Addr> = heard.iter().filter(|(_, e)| over(e)).map(|(ip, _)| *ip).collect();
        heard.retain(|_, e| !over(e));
        out
    }

    /// Those that are there now.
    pub fn list(&self, now: Instant) -> Vec<OtherServer> {
        let seconds = |at| now.saturating_duration_since(at).as_secs();
        let one = |(ip, e): (&Ipv4Addr, &Entry)| OtherServer {
            server: *ip,
            mac: e.mac,
            since_seconds: seconds(e.first),
            silent_seconds: seconds(e.last),
        };
        self.heard().iter().map(one).collect()
    }

    /// A machine asks for an address: a good time to look who else answers.
    pub fn stir(&self) {
        if !self.stirred.swap(true, Ordering::AcqRel) {
            self.stir.notify_one();
        }
    }

    fn any(&self) -> bool {
        !self.heard().is_empty()
    }
}

/// When to ask next. `None`: it was never asked.
fn next(asked: Option<Instant>, stirred: bool, alarmed: bool, pace: &WatchPace, now: Instant) -> Instant {
    let Some(asked) = asked else { return now };
    let mut wait = pace.quiet;
    if stirred {
        wait = wait.min(pace.busy);
    }
    if alarmed {
        wait = wait.min(pace.alarmed);
    }
    asked + wait
}

/// Listens and asks on one open link.
#[derive(Debug)]
pub(super) struct Watcher {
    socket: AsyncFd<PacketSocket>,
    mac: Mac,
    pace: WatchPace,
}

impl Watcher {
    /// On the interface with this index and MAC.
    pub fn open(index: u32, mac: Mac, pace: WatchPace) -> io::Result<Watcher> {
        let socket = PacketSocket::open_filtered(index, Some(ETH_IPV4), &detect::filter())?;
        Ok(Watcher { socket: registered(socket)?, mac, pace })
    }

    /// Until the socket fails. Says once when a server appears, and once when it is gone.
    pub async fn run(
        &self,
        link: &str,
        others: &Others,
        interfaces: &watch::Receiver<Arc<Vec<Interface>>>,
    ) -> io::Result<()> {
        let mut asked: Option<Instant> = None;
        let mut buffer = vec![0u8; 4_096];
        loop {
            let stirred = others.stirred.load(Ordering::Acquire);
            let at = next(asked, stirred, others.any(), &self.pace, Instant::now());
            tokio::select! {
                len = self.socket.async_io(Interest::READABLE, |s| s.recv(&mut buffer)) => {
                    let seen = buffer.get(..len?).and_then(read_udp);
                    let said = seen.and_then(|udp| Some((detect::read_reply(udp.data, *udp.from.ip())?, udp.from_mac)));
                    if let Some((said, mac)) = said
                        && !is_ours(said.server, Some(mac), &interfaces.borrow())
                        && others.note(said.server, Some(mac), Instant::now())
                    {
                        tracing::warn!(interface = link, "{}", alarm(said.server, Some(mac), link));
                    }
                }
                () = tokio::time::sleep_until(at.into()) => {
                    others.stirred.store(false, Ordering::Release);
                    asked = Some(Instant::now());
                    self.ask().await?;
                }
                () = others.stir.notified() => {}
            }
            for server in others.expire(self.pace.gone, Instant::now()) {
                tracing::info!(interface = link, %server, "the other DHCP server is gone");
            }
        }
    }

    /// As a plain host, and as PXE firmware: a server of boot programs alone answers only the latter.
    async fn ask(&self) -> io::Result<()> {
        let question = Question::new(self.mac)?;
        for pxe in [false, true] {
            let Some(frame) = question.frame(pxe) else { continue };
            match self.socket.async_io(Interest::WRITABLE, |s| s.send(&frame)).await {
                Ok(()) => {}
                // No cable: nobody to hear it, and no reason to close the link.
                Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                    tracing::debug!(%error, "can't ask for other DHCP servers");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A server of this host, by this link or by another cable to the same network.
pub(super) fn is_ours(server: Ipv4Addr, mac: Option<Mac>, interfaces: &[Interface]) -> bool {
    interfaces.iter().any(|i| (mac.is_some() && i.mac == mac) || i.ipv4.iter().any(|(ip, _)| *ip == server))
}

/// The alarm in words, with what to do.
pub(super) fn alarm(server: Ipv4Addr, mac: Option<Mac>, link: &str) -> String {
    let mac = mac.map(|m| format!(" (MAC {m})")).unwrap_or_default();
    format!(
        "another DHCP server, {server}{mac}, answers on {link}: machines take whichever answers first. Stop it, or \
         serve this link with mode = \"proxy\""
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    const THEM: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, last)
    }

    #[test]
    fn a_server_is_news_once_and_again_after_it_was_gone() {
        let (others, start) = (Others::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert!(others.note(ip(9), None, at(0)));
        assert!(!others.note(ip(9), Some(THEM), at(30)));
        let gone = Duration::from_secs(35);
        assert_eq!(others.expire(gone, at(64)), [] as [Ipv4Addr; 0]);
        let seen = others.list(at(64)).remove(0);
        assert_eq!((seen.mac, seen.since_seconds, seen.silent_seconds), (Some(THEM), 64, 34));
        assert_eq!(others.expire(gone, at(65)), [ip(9)]);
        assert!(others.list(at(65)).is_empty());
        assert!(others.note(ip(9), Some(THEM), at(70)));
    }

    #[test]
    fn invented_servers_fill_no_memory() {
        let others = Others::default();
        let news = (0..=255).filter(|n| others.note(ip(*n), Some(THEM), Instant::now())).count();
        assert_eq!((news, others.list(Instant::now()).len()), (MOST, MOST));
    }

    #[test]
    fn it_is_asked_at_once_then_seldom_and_soon_where_machines_ask_or_a_server_is_known() {
        let (pace, now) = (WatchPace::default(), Instant::now());
        assert_eq!(next(None, false, false, &pace, now), now);
        let after = |stirred, alarmed| next(Some(now), stirred, alarmed, &pace, now) - now;
        assert_eq!(after(false, false), pace.quiet);
        assert_eq!(after(true, false), pace.busy);
        assert_eq!(after(true, true), pace.busy);
        assert_eq!(after(false, true), pace.alarmed);
        assert!(pace.gone > pace.alarmed * 3, "three questions stay unanswered before a server is gone");
        assert!(pace.busy < Duration::from_secs(10), "an alarm is raised within 10 s of its first answer");
    }

    #[test]
    fn our_own_answers_by_another_cable_are_nobody_elses() {
        let link = Interface {
            index: 3,
            name: "eth1".to_owned(),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: 1500,
            up: true,
            carrier: true,
            loopback: false,
            master: None,
            ipv4: vec![(ip(1), 24)],
        };
        let ours = |server, mac| is_ours(server, Some(mac), std::slice::from_ref(&link));
        assert!(ours(ip(1), THEM), "as a relay passes it on");
        assert!(ours(ip(7), Mac([2, 0, 0, 0, 0, 1])));
        assert!(!ours(ip(7), THEM));
    }
}
