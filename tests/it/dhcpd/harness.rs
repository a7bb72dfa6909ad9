//! A DHCP server on a thread inside a namespace, and a raw wire to speak to it from another.

use pristine::{
    dhcp::{Action, Destination, Link, Probed, Reply, ReplyKind, Request},
    dhcpd::{Answer, InterfaceSettings, LinkStatus, Monitor, Server, Settings, frame},
    lab::{Host, Running},
    model::Mac,
    provisioner::Answered,
    sys::PacketSocket,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::watch};

/// How long anything may take before a test gives up on it.
pub const BOUND: Duration = Duration::from_secs(90);

type Rule = dyn Fn(&Link, &Request, Option<Probed>) -> Action + Send + Sync;

/// Answers by a closure of the test.
#[derive(Clone)]
pub struct Script {
    pub rule: Arc<Rule>,
    pub known: Option<Mac>,
}

impl Script {
    pub fn new(rule: impl Fn(&Link, &Request, Option<Probed>) -> Action + Send + Sync + 'static) -> Script {
        Script { rule: Arc::new(rule), known: None }
    }

    /// Offers `ip` to everybody, the way that `to` says.
    pub fn offers(ip: Ipv4Addr, to: impl Fn(&Request) -> Destination + Send + Sync + 'static) -> Script {
        Script::new(move |link, req, _| reply(link, req, ip, to(req)))
    }
}

impl Answer for Script {
    fn dhcp(&self, link: &Link, req: &Request, probed: Option<Probed>) -> Answered {
        Answered::at_once((self.rule)(link, req, probed))
    }

    fn known(&self, mac: Mac) -> bool {
        self.known == Some(mac)
    }
}

/// An OFFER just good enough to be told from others.
pub fn reply(link: &Link, req: &Request, ip: Ipv4Addr, to: Destination) -> Action {
    let mut bytes = vec![2, 1, 6, 0];
    bytes.extend(req.xid().to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend(ip.octets());
    bytes.extend([0; 8]);
    bytes.extend(req.mac().0);
    bytes.resize(236, 0);
    bytes.extend([99, 130, 83, 99, 53, 1, 2, 54, 4]);
    bytes.extend(link.server.ip.octets());
    bytes.push(255);
    Action::Reply(Reply { bytes, to, kind: ReplyKind::Offer, yiaddr: ip })
}

pub fn hardware(req: &Request, ip: Ipv4Addr) -> Destination {
    Destination::Hardware { mac: req.mac(), ip, port: 68 }
}

/// A running server. Dropping it ends it.
pub struct Service {
    pub monitor: Monitor,
    shutdown: watch::Sender<bool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Service {
    /// Waits for the port: a program that another test starts at the moment that a service ends has
    /// copies of its sockets until the program itself runs.
    pub fn start(host: &Host, interfaces: Vec<InterfaceSettings>, answer: impl Answer) -> Service {
        Service::start_within(BOUND, host, interfaces, answer).unwrap()
    }

    pub fn try_start(
        host: &Host,
        interfaces: Vec<InterfaceSettings>,
        answer: impl Answer,
    ) -> io::Result<Service> {
        Service::start_within(Duration::ZERO, host, interfaces, answer)
    }

    fn start_within(
        bound: Duration,
        host: &Host,
        interfaces: Vec<InterfaceSettings>,
        answer: impl Answer,
    ) -> io::Result<Service> {
        let (shutdown, stop) = watch::channel(false);
        let (started, wait) = mpsc::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                match bind_within(bound, Settings { interfaces }) {
                    Ok(server) => {
                        started.send(Ok(server.monitor())).unwrap();
                        server.run(answer, Handle::current(), stop).await
                    }
                    Err(error) => {
                        started.send(Err(error)).unwrap();
                        Ok(())
                    }
                }
            })
        };
        let thread = host.enter(|| std::thread::spawn(serve)).unwrap();
        let monitor = wait.recv_timeout(BOUND).expect("the server starts or says why not")?;
        Ok(Service { monitor, shutdown, thread: Some(thread) })
    }

    pub fn status(&self) -> LinkStatus {
        self.monitor.status().remove(0)
    }

    pub fn count(&self, name: &str) -> u64 {
        self.status().counts[name]
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.shutdown.send(true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the server does not panic").expect("the server ends well");
            }
        }
    }
}

/// A bound server; a port that is taken is waited for until `bound`.
fn bind_within(bound: Duration, settings: Settings) -> io::Result<Server> {
    let end = Instant::now() + bound;
    loop {
        match Server::bind(settings.clone()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            bound => return bound,
        }
    }
}

/// Waits until `met` gives something.
pub fn until<T>(what: &str, mut met: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(found) = met() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {BOUND:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Raw frames of one ethertype on a host's `eth0`.
pub struct Wire {
    socket: PacketSocket,
    pub mac: Mac,
}

impl Wire {
    pub fn open(host: &Host, ethertype: u16) -> Wire {
        let open = || {
            let interface = pristine::sys::links::interface("eth0").unwrap().expect("there is eth0");
            PacketSocket::open(interface.index, Some(ethertype)).unwrap()
        };
        Wire { socket: host.enter(open).unwrap(), mac: host.mac("eth0").unwrap() }
    }

    pub fn send(&self, frame: &[u8]) {
        self.socket.send(frame).unwrap();
    }

    /// The first frame that `wanted` likes, within `bound`.
    pub fn recv_within<T>(&self, bound: Duration, wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + bound;
        let mut buffer = vec![0; 4096];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(len) => match wanted(&buffer[..len]) {
                    Some(found) => return Some(found),
                    None => continue,
                },
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
            let left = end.checked_duration_since(Instant::now())?;
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)).unwrap();
        }
    }

    pub fn recv<T>(&self, what: &str, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
        self.recv_within(BOUND, wanted).unwrap_or_else(|| panic!("{what}: not within {BOUND:?}"))
    }

    /// Broadcasts a DISCOVER of `mac`.
    pub fn discover(&self, mac: Mac, xid: u32) {
        let (from, to) = (at([0, 0, 0, 0], 68), at([255, 255, 255, 255], 67));
        let data = discover(mac, xid, Ipv4Addr::UNSPECIFIED);
        self.send(&frame::udp_frame(self.mac, Mac([0xff; 6]), from, to, &data).unwrap());
    }

    /// The reply to `xid`, and the frame that it came in.
    pub fn reply(&self, xid: u32) -> Vec<u8> {
        self.recv(&format!("a reply to {xid:#x}"), |frame| is_reply(frame, xid))
    }
}

pub fn is_reply(frame: &[u8], xid: u32) -> Option<Vec<u8>> {
    let udp = frame::read_udp(frame)?;
    let ours = udp.data.first() == Some(&2) && udp.data.get(4..8) == Some(&xid.to_be_bytes()[..]);
    ours.then(|| frame.to_vec())
}

pub fn at(ip: [u8; 4], port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip.into(), port)
}

pub fn discover(mac: Mac, xid: u32, giaddr: Ipv4Addr) -> Vec<u8> {
    let mut data = vec![1, 1, 6, 0];
    data.extend(xid.to_be_bytes());
    data.extend([0; 16]);
    data.extend(giaddr.octets());
    data.extend(mac.0);
    data.resize(236, 0);
    data.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    data.resize(300, 0);
    data
}

/// A real server of another make, as a colleague starts it by mistake.
pub struct Dnsmasq {
    dir: std::path::PathBuf,
    _running: Running,
}

impl Dnsmasq {
    pub fn start(host: &Host) -> Dnsmasq {
        let dir = std::env::temp_dir().join(host.namespace());
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = host.command("dnsmasq");
        command.args(["--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--interface=eth0"]);
        command.args([
            "--bind-interfaces",
            "--no-ping",
            "--dhcp-range=198.18.0.20,198.18.0.99",
            "--user=root",
        ]);
        command.arg(format!("--dhcp-leasefile={}", dir.join("leases").display()));
        command.arg(format!("--pid-file={}", dir.join("pid").display()));
        let running = host.spawn(command, "dnsmasq").unwrap();
        until("dnsmasq listens", || {
            host.run(&["ss", "-Hlun", "sport = :67"]).unwrap().contains(":67").then_some(())
        });
        Dnsmasq { dir, _running: running }
    }

    pub fn leases(&self) -> std::path::PathBuf {
        self.dir.join("leases")
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
