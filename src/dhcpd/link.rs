//! One served interface: opened when it can be, followed through down and up, another address,
//! removal and return, with no restart.

use super::{
    Answer, InterfaceSettings,
    counters::{Counters, LinkStatus},
    gate::{Gate, Permit, Refused, RequestKey},
    links::{Interface, Usable},
    others::{self, Others},
    replies::{Asker, keep_promises, send_all, settle},
    sockets::{OpenError, Sockets},
};
use crate::{
    dhcp::{self, Action, Link, MessageType, Mode, Port, Probed, Reason, Request},
    model::Mac,
    netboot::ServerAddr,
    provisioner::{Answered, Seldom},
};
use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Longest datagram that is read; [`dhcp::parse`] has the same bound. One more byte tells a longer one.
const DATAGRAM: usize = 4_096 + 1;
/// Datagrams that are read one after the other before other tasks get their turn.
const BATCH: usize = 128;
/// Strangers that are answered before the socket is looked at again.
const STRANGERS: usize = 64;
/// Replies for which the first of them waits.
const AT_ONCE: usize = 64;
/// Addresses probed for one request, whatever the pure part asks for.
const PROBES: usize = 8;
/// Before a link that failed is opened again.
const AGAIN: Duration = Duration::from_millis(500);
/// Between warnings of one kind on one link.
const QUIET: Duration = Duration::from_secs(60);

/// What lives as long as the service does, however often the interface comes and goes.
#[derive(Debug)]
pub(super) struct Served {
    pub settings: InterfaceSettings,
    pub counters: Counters,
    pub others: Others,
    interfaces: watch::Receiver<Arc<Vec<Interface>>>,
    pub(super) gate: Arc<Gate>,
    state: Mutex<Result<Ipv4Addr, String>>,
    warn_bound: Seldom,
    pub(super) warn_send: Seldom,
    warn_open: Seldom,
    warn_conflict: Seldom,
}

impl Served {
    pub fn new(settings: InterfaceSettings, interfaces: watch::Receiver<Arc<Vec<Interface>>>) -> Served {
        Served {
            gate: Gate::new(settings.bounds, Instant::now()),
            settings,
            interfaces,
            counters: Counters::default(),
            others: Others::default(),
            state: Mutex::new(Err("is not open yet".to_owned())),
            warn_bound: Seldom::new(QUIET),
            warn_send: Seldom::new(QUIET),
            warn_open: Seldom::new(QUIET),
            warn_conflict: Seldom::new(QUIET),
        }
    }

    pub fn status(&self) -> LinkStatus {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut status = LinkStatus::new(
            &self.settings.name,
            self.settings.mode,
            state,
            self.gate.in_flight(),
            &self.counters,
        );
        status.other_servers = self.others.list(Instant::now());
        status
    }

    fn set_state(&self, state: Result<Ipv4Addr, String>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Opens the interface as it is now. `Ok(None)`: it can't be served yet; that is said once for
    /// each reason.
    pub fn open(&self, interfaces: &[Interface]) -> Result<Option<Sockets>, OpenError> {
        let name = self.settings.name.as_str();
        let usable = match Usable::of(name, interfaces) {
            Ok(usable) => usable,
            Err(why) => {
                let said = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // What stands in brackets (which others there are) changes with every other interface.
                let gist = |why: &str| why.split(" (").next().map(str::to_owned);
                if said.err().and_then(|said| gist(&said)) != gist(&why) {
                    tracing::warn!("interface {name} {why}: DHCP is not served on it until that changes");
                }
                self.set_state(Err(why));
                return Ok(None);
            }
        };
        let sockets = Sockets::open(&self.settings, usable).inspect_err(|error| {
            self.set_state(Err(error.to_string()));
        })?;
        self.counters.opened.add();
        self.set_state(Ok(sockets.usable.address));
        tracing::info!(
            interface = name,
            address = %sockets.usable.address,
            mode = ?self.settings.mode,
            router_advertisement = sockets.advertiser.is_some(),
            "DHCP is served"
        );
        Ok(Some(sockets))
    }

    /// Serves until the task is dropped. `sockets` are those that were opened at the start, if any.
    pub async fn serve<A: Answer>(self: Arc<Served>, mut sockets: Option<Sockets>, answer: A, acks: Handle) {
        let mut interfaces = self.interfaces.clone();
        loop {
            match sockets.take() {
                Some(open) => {
                    let open = Arc::new(open);
                    let (name, usable) = (&self.settings.name, &open.usable);
                    let changed = async {
                        let different =
                            |now: &Arc<Vec<Interface>>| Usable::of(name, now).as_ref() != Ok(usable);
                        interfaces.wait_for(different).await.map(drop)
                    };
                    tokio::select! {
                        gone = changed => if gone.is_err() { return },
                        failed = self.run(Arc::clone(&open), &answer, &acks) => {
                            if let (Err(error), Some(_)) = (failed, self.warn_open.due(Instant::now())) {
                                tracing::warn!(interface = name, %error, "a socket failed: opening anew");
                            }
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                }
                None => tokio::select! {
                    change = interfaces.changed() => if change.is_err() { return },
                    () = tokio::time::sleep(AGAIN) => {}
                },
            }
            let now = Arc::clone(&interfaces.borrow_and_update());
            sockets = self.open(&now).unwrap_or_else(|error| {
                if self.warn_open.due(Instant::now()).is_some() {
                    tracing::warn!("{error}; trying again");
                }
                None
            });
        }
    }

    /// Everything that goes on on an open link. Ends when a socket fails.
    async fn run<A: Answer>(
        self: &Arc<Served>,
        sockets: Arc<Sockets>,
        answer: &A,
        acks: &Handle,
    ) -> io::Result<()> {
        answer.opened(&self.link(&sockets, Port::Server67));
        let listen = async {
            match &sockets.prober {
                Some(prober) => prober.listen().await,
                None => std::future::pending().await,
            }
        };
        let advertise = async {
            match &sockets.advertiser {
                Some(advertiser) => advertiser.run(&self.settings.name, &self.counters).await,
                None => std::future::pending().await,
            }
        };
        let watch = async {
            match &sockets.watcher {
                Some(watcher) => watcher.run(&self.settings.name, &self.others, &self.interfaces).await,
                None => std::future::pending().await,
            }
        };
        tokio::try_join!(
            self.receive(&sockets, Port::Server67, answer, acks),
            self.receive(&sockets, Port::BootServer4011, answer, acks),
            listen,
            advertise,
            watch,
        )
        .map(|_: ((), (), (), (), ())| ())
    }

    fn link(&self, sockets: &Sockets, port: Port) -> Link {
        let usable = &sockets.usable;
        Link {
            name: self.settings.name.clone(),
            index: usable.interface.index,
            server: ServerAddr { ip: usable.address, http_port: self.settings.http_port },
            prefix_len: usable.prefix_len,
            mode: self.settings.mode,
            port,
        }
    }

    /// Reads requests of one port and answers them: those of machines that are known as they come, strangers' some
    /// at a time between them, so that the socket is looked at all along. What must wait holds up no other: an ACK
    /// goes to a task that waits for the disk, a request whose address is asked for by ARP becomes one of its own.
    async fn receive<A: Answer>(
        self: &Arc<Served>,
        sockets: &Arc<Sockets>,
        port: Port,
        answer: &A,
        acks: &Handle,
    ) -> io::Result<()> {
        let socket = sockets.of(port);
        let link = Arc::new(self.link(sockets, port));
        let mut buffer = vec![0u8; DATAGRAM];
        let mut tasks = JoinSet::new();
        // As long as the gate lets in.
        let (promised, promises) = mpsc::unbounded_channel();
        tasks.spawn_on(keep_promises(promises, answer.clone()), acks);
        // As many as the gate lets in.
        let mut strangers = VecDeque::new();
        loop {
            if strangers.is_empty() {
                socket.readable().await?;
            }
            while tasks.try_join_next().is_some() {}
            let mut turn = Vec::new();
            // One after the other, for as long as some wait: a flood must not fill the kernel's queue, which
            // would lose the requests of those that we know.
            for _ in 0..BATCH {
                let (len, from) = match socket.try_recv_from(&mut buffer) {
                    Ok(got) => got,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                self.counters.received.add();
                let Some((request, permit)) = self.admit(buffer.get(..len).unwrap_or_default(), from, answer)
                else {
                    continue;
                };
                let asker = Asker {
                    served: Arc::clone(self),
                    sockets: Arc::clone(sockets),
                    link: Arc::clone(&link),
                    mac: request.mac(),
                    permit,
                };
                let work = Work { asker, request };
                match work.asker.permit.is_known() {
                    true => turn.push(work),
                    false => strangers.push_back(work),
                }
            }
            turn.extend(strangers.drain(..strangers.len().min(STRANGERS)));
            let (mut now, mut later) = (Vec::new(), Vec::new());
            for work in turn {
                match answer.dhcp(&link, &work.request, None) {
                    Answered { action: Action::Probe(ip), .. } => {
                        let answer = answer.clone();
                        tasks.spawn(async move { work.answer_probed(ip, &answer).await });
                    }
                    Answered { action: Action::Reply(reply), promise: None } => now.push((work.asker, reply)),
                    Answered { action, promise: None } => work.act(action).await,
                    answered => later.push((work.asker, answered)),
                }
                if now.len() >= AT_ONCE {
                    send_all(std::mem::take(&mut now)).await;
                }
            }
            send_all(now).await;
            if !later.is_empty() {
                // Ends with the tasks.
                let _ = promised.send(later);
            }
            tokio::task::yield_now().await;
        }
    }

    /// What of a datagram is worth any work.
    fn admit<A: Answer>(&self, bytes: &[u8], from: SocketAddr, answer: &A) -> Option<(Request, Permit)> {
        let now = Instant::now();
        if let Some(mac) = dhcp::peek_mac(bytes)
            && self.gate.is_flooded_by(mac, |mac| answer.known(mac), now)
        {
            self.refused(mac, Refused::Rate, now);
            return None;
        }
        let request = match dhcp::parse(bytes) {
            Ok(request) => request,
            Err(why) => {
                self.counters.malformed(why);
                return None;
            }
        };
        let request = match from {
            SocketAddr::V4(from) => request.with_source(from),
            SocketAddr::V6(_) => request,
        };
        if matches!(request.message_type(), Some(MessageType::Discover | MessageType::Request)) {
            self.others.stir();
        }
        let key = RequestKey { mac: request.mac(), xid: request.xid(), kind: request.message_type() };
        match self.gate.enter(key, |mac| answer.known(mac), now) {
            Ok(permit) => Some((request, permit)),
            Err(refused) => {
                self.refused(request.mac(), refused, now);
                None
            }
        }
    }

    fn refused(&self, mac: Mac, refused: Refused, now: Instant) {
        match refused {
            Refused::Rate => self.counters.dropped_rate.add(),
            Refused::Busy => self.counters.dropped_busy.add(),
            Refused::Repeated => self.counters.dropped_repeated.add(),
        }
        if refused != Refused::Repeated && self.warn_bound.due(now).is_some() {
            let interface = &self.settings.name;
            tracing::warn!(interface, %mac, ?refused,
                "more DHCP requests than are worked on: some are dropped (dhcp_in_work and dhcp_strangers_per_second of [bounds] say how many)");
        }
    }

    fn note_other_server(&self, link: &Link, request: &Request) {
        self.counters.other_server.add();
        if link.mode == Mode::Full
            && self.settings.watch_others.is_some()
            && let Some(server) = request.server_id().filter(|ip| !ip.is_unspecified())
            && !others::is_ours(server, None, &self.interfaces.borrow())
            && self.others.note(server, None, Instant::now())
        {
            tracing::warn!(interface = link.name, client = %request.mac(), "{} (a client chose it)",
                others::alarm(server, None, &link.name));
        }
    }
}

/// One request in work.
struct Work {
    asker: Asker,
    request: Request,
}

impl Work {
    /// Answers when ARP has told whether `ip` is free, or whatever address the answer names instead.
    async fn answer_probed<A: Answer>(self, mut ip: Ipv4Addr, answer: &A) {
        for _ in 0..PROBES {
            let Some(found) = self.probe(ip).await else { return };
            match answer.dhcp(&self.asker.link, &self.request, Some(found)) {
                Answered { action: Action::Probe(next), .. } => ip = next,
                Answered { action, promise: None } => return self.act(action).await,
                answered => return settle(vec![(self.asker, answered)], answer).await,
            }
        }
    }

    async fn act(&self, action: Action) {
        let Asker { served, link, .. } = &self.asker;
        if matches!(action, Action::Silent(Reason::OtherServer)) {
            served.note_other_server(link, &self.request);
        }
        self.asker.act(action).await;
    }

    async fn probe(&self, ip: Ipv4Addr) -> Option<Probed> {
        let Asker { served, sockets, link, mac, .. } = &self.asker;
        let counters = &served.counters;
        // Behind a relay nobody would hear the question.
        if served.settings.probe().is_none() || !self.request.giaddr().is_unspecified() {
            return Some(Probed::Free(ip));
        }
        counters.probes.add();
        match sockets.probe(ip, *mac, served.settings.probe()).await {
            Ok(Probed::InUse(ip)) => {
                counters.probes_in_use.add();
                if let Some(more) = served.warn_conflict.due(Instant::now()) {
                    tracing::warn!(interface = link.name, %ip, more,
                        "an address of the pool is in use by a host that didn't get it here: exclude it from the pool, or have that host use DHCP");
                }
                Some(Probed::InUse(ip))
            }
            Ok(free) => Some(free),
            Err(error) => {
                // The interface went down: the reply could not be sent either.
                tracing::debug!(interface = link.name, %ip, %error, "can't ask by ARP");
                None
            }
        }
    }
}
