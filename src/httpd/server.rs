use super::{
    Line, Machines, Turns,
    guard::{ConnState, Guarded, Pace},
    rate::Rate,
    router::{App, Conn, plain, router, tidy},
    seats::{Busy, Seat, Seats},
    senders::{Senders, Threads},
};
use crate::{netboot::ServerAddr, store::ImageStore};
use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener as StdTcpListener},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;

/// What the HTTP server for machines serves on, and its bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses and ports; an address may be one that the machine does not have yet.
    pub listen: Vec<SocketAddrV4>,
    /// Most connections at once. With the last place taken, the one that has waited longest for a request is
    /// closed; where all are being answered, more wait to be accepted. Each needs a file descriptor, and two
    /// more while it sends a blob.
    pub max_connections: usize,
    /// Most connections at once of one client address; more are closed at once.
    pub max_per_peer: usize,
    /// A request's header must be there within this time, and the next request too.
    pub header_time: Duration,
    /// A request's body must be there within this time.
    pub body_time: Duration,
    /// How slow a reader may be.
    pub pace: Pace,
    /// What runs when the service stops may go on for this long.
    pub grace: Duration,
    /// How many fetch their root at a time.
    pub turns: Turns,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: Vec::new(),
            max_connections: 1024,
            max_per_peer: 32,
            header_time: Duration::from_secs(30),
            body_time: Duration::from_secs(10),
            // The kernel takes more only when a third of its buffer (up to 4 MB) is free again:
            // with this, 35 kB/s are fast enough.
            pace: Pace { bytes: 256 << 10, time: Duration::from_secs(40) },
            grace: Duration::from_secs(5),
            turns: Turns::default(),
        }
    }
}

/// The HTTP server could not take its address.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't serve HTTP for machines on {addr}: {source}; where another service has the port, stop it or choose another port"
)]
pub struct BindError {
    /// Which address and port.
    pub addr: SocketAddrV4,
    /// Why.
    pub source: io::Error,
}

/// A server whose sockets are bound; [`Server::run`] serves.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<StdTcpListener>,
    settings: Settings,
    line: Line,
}

/// Connections by client address.
type Peers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// What every listener shares.
#[derive(Clone)]
struct Shared {
    settings: Arc<Settings>,
    router: Router,
    slots: Arc<Semaphore>,
    seats: Arc<Seats>,
    peers: Peers,
    senders: Threads,
    stop: watch::Receiver<bool>,
}

impl Shared {
    /// For the next connection: who has several goes sooner than who has one.
    fn make_room(&self) {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        self.seats.make_room(|peer| peers.get(&peer).is_some_and(|count| *count > 1));
    }
}

impl Server {
    /// Binds and listens.
    pub fn bind(settings: Settings) -> Result<Server, BindError> {
        let mut sockets = Vec::new();
        for addr in &settings.listen {
            sockets.push(listen(*addr).map_err(|source| BindError { addr: *addr, source })?);
        }
        let line = Line::new(settings.turns);
        Ok(Server { sockets, settings, line })
    }

    /// The line of those who wait for their root.
    pub fn line(&self) -> Line {
        self.line.clone()
    }

    /// Where it listens.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Serves until `shutdown` becomes true, then lets what runs end within the grace time.
    ///
    /// # Errors
    /// Only where a socket can't be handed to the runtime, or no thread can be had.
    pub async fn run<M: Machines>(
        self,
        machines: M,
        images: ImageStore,
        shutdown: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let app = App {
            machines,
            images,
            line: self.line,
            reports: Rate::new(60, Duration::from_millis(200)),
            body_time: self.settings.body_time,
            // The rest is for machines that boot.
            seats: Semaphore::new((self.settings.max_connections / 4).max(1)),
            proving: Semaphore::new(1),
            stop: shutdown.clone(),
        };
        let senders = Senders::new()?;
        let shared = Shared {
            slots: Arc::new(Semaphore::new(self.settings.max_connections)),
            settings: Arc::new(self.settings),
            router: router(Arc::new(app)),
            seats: Arc::default(),
            peers: Peers::default(),
            senders: senders.threads()?,
            stop: shutdown,
        };
        let mut listeners = JoinSet::new();
        for socket in self.sockets {
            listeners.spawn(accept(TcpListener::from_std(socket)?, shared.clone()));
        }
        while listeners.join_next().await.is_some() {}
        Ok(())
    }
}

fn listen(addr: SocketAddrV4) -> io::Result<StdTcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_freebind_v4(true)?;
    socket.bind(&SocketAddr::V4(addr).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn accept(listener: TcpListener, shared: Shared) {
    let mut stop = shared.stop.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = next(&listener, &shared.slots) => accepted,
        };
        match accepted {
            Ok((stream, peer, slot)) => match Place::take(&shared, peer.ip(), slot) {
                Some(place) => {
                    let seat = shared.seats.sit(peer.ip());
                    connections.spawn(serve(stream, peer, shared.clone(), place, seat));
                    if shared.slots.available_permits() == 0 {
                        shared.make_room();
                    }
                }
                None => tracing::debug!(%peer, "HTTP connection closed: too many of this client"),
            },
            Err(error) => {
                tracing::warn!(%error, "HTTP connection not accepted; trying on");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Each connection sees the stop by itself; what is left after the grace is cut off.
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(shared.settings.grace, drained).await;
}

/// A connection is accepted when there is a slot for it; until then it waits in the kernel.
async fn next(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

/// A connection's place within the bounds; given back on drop.
struct Place {
    peers: Peers,
    peer: IpAddr,
    _slot: OwnedSemaphorePermit,
}

impl Place {
    fn take(shared: &Shared, peer: IpAddr, slot: OwnedSemaphorePermit) -> Option<Place> {
        let mut peers = shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(peer).or_insert(0);
        if *count >= shared.settings.max_per_peer {
            return None;
        }
        *count += 1;
        Some(Place { peers: Arc::clone(&shared.peers), peer, _slot: slot })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, mut shared: Shared, _place: Place, seat: Arc<Seat>) {
    let Some((asks, server)) = prepare(&stream, peer, &shared.settings) else { return };
    let state: Arc<ConnState> = Arc::default();
    let guarded = |stream| Guarded::new(stream, &shared.senders, shared.settings.pace, Arc::clone(&state));
    let stream = match stream.into_std().and_then(guarded) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%peer, %error, "HTTP connection not served");
            return;
        }
    };
    let asked = Arc::clone(&seat);
    let router = TowerToHyperService::new(shared.router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        tidy(&mut request);
        let busy = Arc::new(seat.busy());
        let conn = Conn { peer: asks, server, state: Arc::clone(&state), busy: Arc::clone(&busy) };
        request.extensions_mut().insert(conn);
        // No machine sends its body in chunks; a request with two lengths is how one hides another.
        let two = request.headers().contains_key(header::TRANSFER_ENCODING);
        let response = (!two).then(|| hyper::service::Service::call(&router, request));
        async move {
            let response = match response {
                Some(response) => response.await?,
                None => no_chunks(),
            };
            Ok::<_, Infallible>(response.map(|body| Answering { body, _busy: busy }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.settings.header_time)
        .max_headers(64)
        .max_header_size(16 << 10)
        // Of what is to be sent, mostly addresses of mapped files: the pieces of a blob that one thread gets at once.
        .max_buf_size(16 << 20)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut shared.stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = asked.asked_to_go() => {
            tracing::debug!(%peer, "HTTP connection closed: others have requests, and this one has none");
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "HTTP connection ended");
    }
}

/// The connection ends with it: what follows may be meant as a body.
fn no_chunks() -> Response {
    let mut response = plain(StatusCode::LENGTH_REQUIRED, "send Content-Length, not Transfer-Encoding\n");
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

/// A response's body: its connection is busy until it is over, or longer (`body::Receipt`).
struct Answering {
    body: axum::body::Body,
    _busy: Arc<Busy>,
}

impl hyper::body::Body for Answering {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Resolves at the stop, or when nobody is left who could ask for it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Who asks, and where.
fn prepare(stream: &TcpStream, peer: SocketAddr, settings: &Settings) -> Option<(Ipv4Addr, ServerAddr)> {
    let (IpAddr::V4(peer), Ok(SocketAddr::V4(local))) = (peer.ip(), stream.local_addr()) else { return None };
    // Best effort: without them it is slower to answer and slower to notice a dead peer.
    let _ = stream.set_nodelay(true);
    let dead_after = u32::try_from(settings.pace.time.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, dead_after);
    Some((peer, server_addr(local)))
}

fn server_addr(local: SocketAddrV4) -> ServerAddr {
    let ip: Ipv4Addr = *local.ip();
    ServerAddr { ip, http_port: local.port() }
}
