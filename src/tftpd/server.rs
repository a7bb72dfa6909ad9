use super::{
    Files,
    live::{Admission, Live},
    packet::{self, Code, MAX_REQUEST, Opening},
    session,
};
use crate::{netboot::ServerAddr, sys};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as StdUdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Transfers that run at the stop of the service may go on for this long.
const GRACE: Duration = Duration::from_secs(5);

/// Bytes of requests that may wait, of which the kernel takes twice as many: some five thousand machines that ask
/// within the same moment.
const QUEUE: usize = 2 << 20;

/// What the TFTP server serves on, and its bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses of ours, one per link: a client must be answered from the address that it asked.
    /// `http_port` is only handed on, for the URLs in what is served.
    pub servers: Vec<ServerAddr>,
    /// UDP port; 69 for firmware, 0 for any (tests).
    pub port: u16,
    /// Most transfers at once. Each has a socket: the file limit must allow them.
    pub max_transfers: usize,
    /// Most transfers at once of one client address.
    pub max_per_peer: usize,
    /// Largest block that is agreed to. `None`: what the link carries without fragments.
    pub max_blksize: Option<u16>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { servers: Vec::new(), port: 69, max_transfers: 512, max_per_peer: 8, max_blksize: None }
    }
}

/// What did not become a transfer.
#[derive(Debug, Default)]
pub struct Counters {
    /// Datagrams that are no TFTP.
    pub malformed: AtomicU64,
    /// Requests answered with an error: writes, bad names, no such file.
    pub refused: AtomicU64,
    /// Requests dropped because a bound was reached; the client asks again.
    pub over_bound: AtomicU64,
    /// Requests of a transfer that runs already.
    pub repeated: AtomicU64,
}

/// A TFTP server could not take its address.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't serve TFTP on {addr}: {source}; where another TFTP server (dnsmasq, tftpd-hpa, atftpd) has the port, stop it, and ports below 1024 need root or CAP_NET_BIND_SERVICE"
)]
pub struct BindError {
    /// Which address and port.
    pub addr: SocketAddrV4,
    /// Why.
    pub source: io::Error,
}

/// A TFTP server whose sockets are bound; [`Server::run`] serves.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<(StdUdpSocket, ServerAddr)>,
    settings: Settings,
    counters: Arc<Counters>,
}

/// What every listener and every transfer shares.
pub(super) struct Shared<F> {
    pub(super) files: F,
    pub(super) settings: Settings,
    pub(super) counters: Arc<Counters>,
    pub(super) live: Arc<Live>,
}

impl Server {
    /// Binds a socket to each address. An address may be one that the machine does not have yet
    /// (a link that comes up later).
    pub fn bind(settings: Settings) -> Result<Server, BindError> {
        let mut sockets = Vec::new();
        for server in &settings.servers {
            let addr = SocketAddrV4::new(server.ip, settings.port);
            let socket = bind(addr).map_err(|source| BindError { addr, source })?;
            sockets.push((socket, *server));
        }
        Ok(Server { sockets, settings, counters: Arc::default() })
    }

    /// Where it listens.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(socket, _)| socket.local_addr().ok()).collect()
    }

    /// What it counts; stays valid while it runs.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Serves until `shutdown` becomes true. Transfers that run then may end within 5 s.
    ///
    /// # Errors
    /// Only where a socket can't be handed to the runtime.
    pub async fn run<F: Files>(self, files: F, mut shutdown: watch::Receiver<bool>) -> io::Result<()> {
        let live = Live::new(self.settings.max_transfers, self.settings.max_per_peer);
        let shared = Arc::new(Shared {
            files,
            settings: self.settings,
            counters: self.counters,
            live: Arc::clone(&live),
        });
        let mut listeners = JoinSet::new();
        for (socket, server) in self.sockets {
            let socket = UdpSocket::from_std(socket)?;
            listeners.spawn(listen(socket, server, Arc::clone(&shared)));
        }
        // An error means that the sender is gone: then nobody can ask for a stop any more, or the
        // stop has come.
        let _ = shutdown.wait_for(|stop| *stop).await;
        listeners.shutdown().await;
        if timeout(GRACE, live.drained()).await.is_err() {
            live.cancel_all();
            let _ = timeout(GRACE, live.drained()).await;
        }
        Ok(())
    }
}

fn bind(addr: SocketAddrV4) -> io::Result<StdUdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_freebind_v4(true)?;
    sys::set_receive_queue(&socket, QUEUE);
    socket.bind(&SocketAddr::V4(addr).into())?;
    Ok(socket.into())
}

async fn listen<F: Files>(socket: UdpSocket, server: ServerAddr, shared: Arc<Shared<F>>) {
    let mut buffer = vec![0; MAX_REQUEST + 1];
    loop {
        let (len, peer) = match socket.recv_from(&mut buffer).await {
            Ok((len, SocketAddr::V4(peer))) => (len, peer),
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(server = %server.ip, %error, "TFTP socket failed to receive; trying on");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let datagram = buffer.get(..len).unwrap_or_default();
        if !is_answerable(peer) {
            shared.counters.malformed.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        match packet::parse_opening(datagram) {
            Ok(Opening::Read(request)) => {
                let count = match shared.live.admit(server.ip, peer, datagram) {
                    Admission::Go(ticket) => {
                        tokio::spawn(session::run(Arc::clone(&shared), server, peer, request, ticket));
                        continue;
                    }
                    Admission::Repeated => &shared.counters.repeated,
                    Admission::Full => {
                        let dropped = shared.counters.over_bound.load(Ordering::Relaxed) + 1;
                        // A flood must not become one of the log.
                        if dropped.is_power_of_two() {
                            tracing::warn!(%peer, dropped, "TFTP request dropped: too many transfers run; the client will ask again");
                        }
                        &shared.counters.over_bound
                    }
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Opening::Write(name)) => {
                shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%peer, name, "TFTP write refused: this server only reads");
                let refusal =
                    packet::error(Code::AccessViolation, "read-only server: writing is not allowed");
                // A lost refusal is asked for again.
                let _ = socket.send_to(&refusal, SocketAddr::V4(peer)).await;
            }
            // A late packet of a transfer that has ended. Not worth an answer, which could be
            // turned on somebody else.
            Ok(Opening::Stray) => {}
            Err(error) => {
                shared.counters.malformed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%peer, %error, "not TFTP");
            }
        }
    }
}

fn is_answerable(peer: SocketAddrV4) -> bool {
    let ip = *peer.ip();
    peer.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST
}
