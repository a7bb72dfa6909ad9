//! Kill -9 in the middle of a stream of leases: whoever got an ACK keeps its address, and nobody else
//! gets it. The real `pristine serve` in a network namespace; the test is a relay in another one and
//! all clients behind it, and so the only witness of what was acknowledged.

use super::{super::api::Dir, Row, long, times};
use pristine::{
    client::{Client, ClientError},
    lab::{Host, Net, Running, output_within},
    model::{LeaseState, Mac, Millis},
    store::db::Db,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub const OURS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub const RELAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
pub const SERVICE: (Ipv4Addr, u16) = (OURS, 67);
/// A debug build on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// Seconds of the shortest lease that a client here asks for: it may have any from two minutes to an hour.
const SHORTEST: u32 = 600;

/// From the start to the first answer after a kill, of a machine that does nothing else.
const UP_AGAIN: Duration = Duration::from_secs(2);

/// The first answer has come of a service that was started at `begun`. The short form runs beside other tests.
#[track_caller]
pub fn is_up_again(row: &mut Row, begun: Instant) {
    let (took, most) = (begun.elapsed(), if long() { UP_AGAIN } else { BOUND });
    row.holds(took < most, || format!("first answer {took:?} after the start"));
}

/// SIGKILL.
pub fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    let _ = kill_process(pid, Signal::KILL);
}

/// Files under a folder that only a killed write leaves.
pub fn temporary(folder: &Path) -> Vec<PathBuf> {
    let (mut out, mut todo) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(path) = todo.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(".tmp-") || name.contains(".db.new") {
            out.push(path.clone());
        }
        todo.extend(std::fs::read_dir(&path).into_iter().flatten().map(|entry| entry.unwrap().path()));
    }
    out
}

/// The service, killed when dropped; it never panicked. Its log lies beside its state, over all its lives.
pub struct Service(pub Running, PathBuf);

impl Drop for Service {
    fn drop(&mut self) {
        let log = std::fs::read_to_string(&self.1).unwrap_or_default();
        assert!(std::thread::panicking() || !log.contains("panicked at"), "{log}");
    }
}

impl Service {
    /// Starts it, and waits until it says that it is ready.
    pub fn start(host: &Host, state: &Path) -> Service {
        Service::within(host, state, &[]).unwrap_or_else(|said| panic!("the service starts: {said}"))
    }

    /// The same with something before the command; `Err` with what it said where it ends instead.
    pub fn within(host: &Host, state: &Path, wrap: &[&str]) -> Result<Service, String> {
        let (path, log) = (state.join("notify"), state.join("log"));
        let _ = std::fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let all: Vec<&str> = [wrap, &[env!("CARGO_BIN_EXE_pristine")]].concat();
        let mut command = host.command(all[0]);
        command.args(&all[1..]).args(["--config", "/dev/null", "--state-dir"]).arg(state);
        command.args(["serve", "--interface", "eth0"]).env("NOTIFY_SOCKET", &path);
        let stderr = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let before = usize::try_from(stderr.metadata().unwrap().len()).unwrap();
        command.stderr(stderr);
        let mut service = Service(host.spawn(command, "pristine serve").unwrap(), log.clone());
        let until = Instant::now() + BOUND;
        let mut buf = [0; 64];
        loop {
            if let Ok(n) = notify.recv(&mut buf) {
                assert_eq!(&buf[..n], b"READY=1");
                return Ok(service);
            }
            if service.0.ended().is_some() || Instant::now() > until {
                return Err(std::fs::read_to_string(&log).unwrap().split_off(before));
            }
        }
    }
}

pub fn mac(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    Mac([0x52, 0x54, a, b, c, d])
}

/// Lease time of a reply, in seconds.
pub fn lease_time(bytes: &[u8]) -> u32 {
    let time = bytes[240..].windows(6).find(|w| w[..2] == [51, 4]);
    time.map_or(0, |w| u32::from_be_bytes(w[2..].try_into().unwrap()))
}

/// A request of client `n` behind [`RELAY`].
pub fn packet(kind: u8, n: u32, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = vec![1, 1, 6, 0];
    out.extend(n.to_be_bytes());
    out.extend([0; 16]);
    out.extend(RELAY.octets());
    out.extend(mac(n).0);
    out.resize(236, 0);
    out.extend([99, 130, 83, 99, 53, 1, kind, 60, 9]);
    out.extend(b"PXEClient");
    out.extend([93, 2, 0, 7]);
    for (code, value) in options {
        out.extend([*code, value.len() as u8]);
        out.extend(*value);
    }
    out.push(255);
    out
}

/// Kind, client and address of a reply.
pub fn read_reply(bytes: &[u8]) -> Option<(u8, u32, Ipv4Addr)> {
    let client = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    let yiaddr: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
    let mut at = 240;
    loop {
        match (*bytes.get(at)?, *bytes.get(at + 1)?) {
            (53, 1) => return Some((*bytes.get(at + 2)?, client, yiaddr.into())),
            (0, _) => at += 1,
            (255, _) => return None,
            (_, len) => at += 2 + usize::from(len),
        }
    }
}

/// What a client was promised last.
#[derive(Clone, Copy, Debug)]
struct Held {
    addr: Ipv4Addr,
    seconds: u32,
    /// Counted from when it asked.
    until: Millis,
}

#[derive(Default)]
struct Witness {
    acked: BTreeMap<u32, Held>,
    /// When each asked last, and for how many seconds.
    asked: HashMap<u32, (Millis, u32)>,
    owner: HashMap<Ipv4Addr, u32>,
    /// Those who gave theirs back for good: an ACK that was on its way then counts no more.
    gone: HashSet<u32>,
    acks: usize,
}

impl Witness {
    /// Asks for an address for so long.
    fn ask(
        &mut self,
        client: u32,
        seconds: u32,
        options: &[(u8, &[u8])],
        clients: &UdpSocket,
        service: (Ipv4Addr, u16),
    ) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        self.asked.insert(client, (now.try_into().unwrap(), seconds));
        let time = seconds.to_be_bytes();
        let options = [options, &[(51, &time[..])]].concat();
        clients.send_to(&packet(3, client, &options), service).unwrap();
    }

    /// Takes one reply; goes on with the exchange where it is an offer.
    fn hear(&mut self, clients: &UdpSocket, bytes: &[u8], service: Option<(Ipv4Addr, u16)>) {
        let Some((kind, client, addr)) = read_reply(bytes) else { return };
        match (kind, service) {
            (2, Some(service)) => {
                let more: [(u8, &[u8]); 2] = [(54, &OURS.octets()), (50, &addr.octets())];
                self.ask(client, SHORTEST + client % 600, &more, clients, service);
            }
            (5, _) if self.gone.contains(&client) => {}
            (5, _) => {
                self.acks += 1;
                let (asked, wanted) = self.asked[&client];
                let seconds = lease_time(bytes);
                assert_eq!(seconds, wanted, "client {client} may have what it asks for");
                let until = asked + Millis::from(seconds) * 1_000;
                let before = self.acked.insert(client, Held { addr, seconds, until });
                assert!(
                    before.is_none_or(|b| b.addr == addr),
                    "client {client} had {before:?} and was given {addr}"
                );
                let other = self.owner.insert(addr, client);
                assert!(other.is_none_or(|o| o == client), "{addr} was given to {other:?} and to {client}");
            }
            (6, _) if !self.gone.contains(&client) => panic!("client {client} was refused what it holds"),
            _ => {}
        }
    }

    fn gives_back(&mut self, client: u32, clients: &UdpSocket, service: (Ipv4Addr, u16)) {
        if let Some(Held { addr, .. }) = self.acked.remove(&client) {
            self.owner.remove(&addr);
            self.gone.insert(client);
            let mut release = packet(7, client, &[(54, &OURS.octets())]);
            release[12..16].copy_from_slice(&addr.octets());
            clients.send_to(&release, service).unwrap();
        }
    }
}

/// Commands that read the database open and close it, beside the service that has it open and writes.
#[test]
fn commands_that_read_the_database_end_no_service() {
    let state = Dir::new("readers");
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/16").unwrap();
    let mut service = Service::start(&server, &state.0);
    let over = AtomicBool::new(false);
    let client = Client::new("http://127.0.0.1:8081", &state.0.join("api-token")).unwrap();
    let orders = thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let write = || {
                let mut orders = 0;
                while !over.load(Ordering::Relaxed) {
                    let machine = format!("52:54:00:00:04:{:02x}", orders % 200);
                    client.pin(&machine, ["local", "ignore"][orders / 200 % 2])?;
                    orders += 1;
                }
                Ok::<_, ClientError>(orders)
            };
            server.enter(write).unwrap()
        });
        for round in 0..times(100, 500) {
            for words in [&["log", "--verify", "--offline"][..], &["image", "rm", "nothing:1"], &["doctor"]] {
                if words[0] == "doctor" && round % 10 > 0 {
                    continue;
                }
                let mut command = Command::new(env!("CARGO_BIN_EXE_pristine"));
                command.arg("--state-dir").arg(&state.0).args(words);
                // What they say is other tests' matter.
                output_within(command, BOUND).unwrap();
            }
            if service.0.ended().is_some() {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        writes.join().unwrap()
    });
    assert!(service.0.ended().is_none(), "it ended: {:?}", service.0.ended());
    assert!(orders.unwrap() > 20);
}

#[test]
fn kill_9_amid_leases_forgets_no_ack_and_gives_no_address_twice() {
    let mut row = Row::new("kill -9 under leases");
    let kills = times(20, 200);
    let state = Dir::new("kill9");
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/16").unwrap();
    let relay = net.host("relay", "198.18.0.2/16").unwrap();
    let clients = relay.enter(|| UdpSocket::bind((RELAY, 67)).unwrap()).unwrap();
    clients.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut witness = Witness::default();
    let mut seed: u32 = 7;
    let mut next: u32 = 1;
    let mut buf = [0; 1500];
    // What comes within 20 ms.
    let mut hear = |witness: &mut Witness, service| match clients.recv_from(&mut buf) {
        Ok((n, _)) => witness.hear(&clients, &buf[..n], service),
        Err(e) => assert!(matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{e}"),
    };
    for round in 0..kills {
        let begun = Instant::now();
        let mut service = Service::start(&server, &state.0);
        let left = temporary(&state.0);
        row.holds(left.is_empty(), || format!("round {round}: {left:?} stays"));
        // Those who have an address come back for it, as after a power cut, and want it for longer.
        let returning: Vec<(u32, Held)> =
            witness.acked.iter().rev().take(10).map(|(c, held)| (*c, *held)).collect();
        let mut first = true;
        for (client, held) in returning {
            let longer = held.seconds + 60;
            witness.ask(client, longer, &[(50, &held.addr.octets())], &clients, SERVICE);
            let (heard, until) = (witness.acks, Instant::now() + BOUND);
            while witness.acks == heard {
                assert!(Instant::now() < until, "round {round}: no ACK for {client}, who has {held:?}");
                hear(&mut witness, None);
            }
            if std::mem::take(&mut first) {
                is_up_again(&mut row, begun);
            }
        }
        // And newcomers stream in until the service dies, at another point each time.
        let enough = witness.acks + 5 + (round * 7) % 31;
        let until = Instant::now() + BOUND;
        let pid = service.0.pid();
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let later = Duration::from_micros(u64::from(seed >> 8) % 50_000);
        // Not in step with what the clients do.
        let mut killer: Option<JoinHandle<()>> = None;
        while !killer.as_ref().is_some_and(JoinHandle::is_finished) {
            assert!(Instant::now() < until, "round {round}: only {} ACKs", witness.acks);
            for _ in 0..4 {
                clients.send_to(&packet(1, next, &[]), SERVICE).unwrap();
                next += 1;
            }
            if next.is_multiple_of(3) {
                witness.gives_back(next / 2, &clients, SERVICE);
            }
            hear(&mut witness, Some(SERVICE));
            if witness.acks >= enough && killer.is_none() {
                killer = Some(thread::spawn(move || {
                    thread::park_timeout(later);
                    kill(pid);
                }));
            }
        }
        service.0.kill();
        // What it had sent before it died counts, and lies in the socket.
        clients.set_nonblocking(true).unwrap();
        let mut buf = [0; 1500];
        while let Ok((n, _)) = clients.recv_from(&mut buf) {
            witness.hear(&clients, &buf[..n], None);
        }
        clients.set_nonblocking(false).unwrap();
        let on_disk = Db::open_read_only(&state.0).unwrap().expect("a database");
        let leases: HashMap<Ipv4Addr, _> = on_disk.leases.iter().map(|l| (l.addr, l)).collect();
        for (client, held) in &witness.acked {
            let addr = held.addr;
            let lease = leases.get(&addr).unwrap_or_else(|| panic!("round {round}: {addr} is forgotten"));
            assert_eq!((lease.mac, lease.state), (mac(*client), LeaseState::Bound), "round {round}: {addr}");
            // Its clock and ours are the same, but for how it is slewed.
            assert!(
                lease.expires + 1_000 >= held.until,
                "round {round}: promised {held:?}, and there is {lease:?}"
            );
        }
        row.made(1);
    }
    assert!(witness.acks > kills * 5);
    row.end();
}
