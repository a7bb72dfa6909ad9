//! Power loss: what was promised is on the disk, as the kernel saw it, before the promise leaves.

use super::{
    super::api::Dir,
    Row,
    leases::{OURS, RELAY, SERVICE, Service, packet, read_reply},
    times,
};
use pristine::lab::Net;
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::UdpSocket,
    time::{Duration, Instant},
};

const BOUND: Duration = Duration::from_secs(60);

/// Seconds of a lease, where nothing else is configured.
const HOUR: u32 = 3_600;
/// In the transaction number of a renewal.
const AGAIN: u32 = 1 << 31;

/// Bytes as `strace -xx` prints them.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("\\x{b:02x}")).collect()
}

/// A call, from its line to the one in which it returned.
type Call = (usize, usize);

/// An ACK on its way.
#[derive(Clone, Copy)]
struct Acked {
    /// The line in which it was handed to the kernel.
    line: usize,
    /// The lease time that it promises, in seconds.
    time: u32,
    /// By the clock, in seconds.
    at: f64,
}

/// What of a trace counts. Requests and ACKs by transaction number.
#[derive(Default)]
struct Trace {
    /// The line in which a request was taken from the socket.
    asked: HashMap<u32, usize>,
    acked: BTreeMap<u32, Acked>,
    /// Writes to the log of the database.
    written: Vec<Call>,
    /// The log on its way to the disk.
    synced: Vec<Call>,
}

/// The number that four bytes are, as `strace -xx` prints them.
fn number(text: &str) -> Option<u32> {
    u32::from_str_radix(&text.get(..16)?.replace("\\x", ""), 16).ok()
}

/// The DHCP packets of that kind in a line: transaction numbers and lease times.
fn packets(line: &str, op: u8, kind: u8) -> Vec<(u32, u32)> {
    let (begin, kind, time) = (hex(&[op, 1, 6, 0]), hex(&[53, 1, kind]), hex(&[51, 4]));
    // Many may come in one call.
    let parts = line.split(&begin).skip(1).filter(|part| part.contains(&kind));
    let time = |part: &str| part.split_once(&time).and_then(|(_, rest)| number(rest)).unwrap_or(0);
    parts.filter_map(|part| Some((number(part)?, time(part)))).collect()
}

fn read(text: &str) -> Trace {
    let mut trace = Trace::default();
    let mut under_way: HashMap<&str, usize> = HashMap::new();
    let log = hex(b"pristine.db-wal");
    for (n, line) in text.lines().enumerate() {
        let at = line.split_whitespace().nth(1).and_then(|clock| clock.parse().ok()).unwrap_or(f64::NAN);
        // Their last words say how many bytes of how many: a write that was cut short is none.
        let pid = line.split(' ').next().unwrap_or_default();
        let done = line.rsplit_once(" = ").is_some_and(|(_, got)| got.parse::<u32>().is_ok());
        let (syncs, writes) =
            (line.contains("sync(") || line.contains("sync resumed"), line.contains("write"));
        let call = match line.contains(" resumed") {
            true => under_way.remove(pid).filter(|_| done).map(|begun| (begun, n)),
            false if line.contains(&log) && !done => {
                under_way.insert(pid, n);
                None
            }
            false => (line.contains(&log) && done).then_some((n, n)),
        };
        if let Some(call) = call {
            if syncs {
                trace.synced.push(call);
            } else if writes {
                trace.written.push(call);
            }
        }
        for (client, _) in packets(line, 1, 3) {
            trace.asked.entry(client).or_insert(n);
        }
        for (client, time) in packets(line, 2, 5) {
            trace.acked.entry(client).or_insert(Acked { line: n, time, at });
        }
    }
    trace
}

impl Trace {
    /// Whether something was written after the request came in, and then synced, before the ACK left.
    fn is_saved(&self, asked: usize, acked: usize) -> bool {
        let written = self.written.iter().filter(|(begun, _)| *begun > asked).map(|(_, done)| *done).min();
        let Some(written) = written else { return false };
        self.synced.iter().any(|(begun, done)| *begun > written && *done < acked)
    }

    /// Whether an ACK left when the lease that it promises was on the disk.
    fn holds(&self, number: u32) -> bool {
        let Some(acked) = self.acked.get(&number) else { return false };
        self.is_saved(self.asked.get(&number).copied().unwrap_or(usize::MAX), acked.line)
    }

    /// Whether it promises no more than what is left of a lease that was on the disk before. A tracer slows the disk, and a
    /// renewal waits for it only so long.
    fn is_rest(&self, number: u32) -> bool {
        let (Some(first), Some(acked)) = (self.acked.get(&(number & !AGAIN)), self.acked.get(&number)) else {
            return false;
        };
        // Both are whole seconds, rounded down.
        let left = f64::from(first.time) - (acked.at - first.at) + 1.0;
        number & AGAIN != 0
            && acked.time < HOUR
            && f64::from(acked.time) <= left
            && self.holds(number & !AGAIN)
    }
}

#[test]
fn no_ack_leaves_before_its_lease_is_on_the_disk() {
    let mut row = Row::new("power loss: fdatasync before each ACK");
    let clients: u32 = times(40, 1_000);
    let state = Dir::new("power");
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/16").unwrap();
    let relay = net.host("relay", "198.18.0.2/16").unwrap();
    let socket = relay.enter(|| UdpSocket::bind((RELAY, 67)).unwrap()).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let trace = state.0.join("trace");
    let calls = "trace=fsync,fdatasync,write,writev,pwrite64,pwritev,pwritev2,recvfrom,recvmsg,recvmmsg,sendto,sendmsg,sendmmsg";
    // A tracer that is the parent of nobody: it ends with the service.
    // And ACKs that leave together are one call.
    let strace = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-y",
        "-xx",
        "-ttt",
        "-s",
        "65536",
        "-e",
        calls,
        "-o",
        trace.to_str().unwrap(),
    ];
    let mut service = Service::within(&server, &state.0, &strace).unwrap();
    let mut buf = [0; 1500];
    // A half in groups of eight, which share transactions, as in a rack that powers on; then each one alone, so that
    // what is written is its own. Each renews its lease.
    let half = clients / 2;
    let groups = (1..=half).step_by(8).map(|first| (first..(first + 8).min(half + 1)).collect());
    for group in groups.chain((half + 1..=clients).map(|n| vec![n])) {
        let group: Vec<u32> = group;
        for n in &group {
            socket.send_to(&packet(1, *n, &[]), SERVICE).unwrap();
        }
        let mut left = group.len() * 2;
        while left > 0 {
            let (len, _) = socket.recv_from(&mut buf).expect("every request is answered");
            match read_reply(&buf[..len]) {
                Some((2, n, addr)) => {
                    let more: [(u8, &[u8]); 2] = [(54, &OURS.octets()), (50, &addr.octets())];
                    socket.send_to(&packet(3, n, &more), SERVICE).unwrap();
                }
                Some((5, n, addr)) => {
                    left -= 1;
                    if n & AGAIN == 0 {
                        let mut again = packet(3, n, &[(50, &addr.octets())]);
                        again[4..8].copy_from_slice(&(n | AGAIN).to_be_bytes());
                        socket.send_to(&again, SERVICE).unwrap();
                    }
                }
                _ => {}
            }
        }
    }
    service.0.kill();
    let until = Instant::now() + BOUND;
    let text = loop {
        let text = fs::read_to_string(&trace).unwrap();
        let seen = read(&text);
        if seen.acked.len() == 2 * clients as usize || Instant::now() > until {
            break seen;
        }
    };
    row.holds(text.acked.len() == 2 * clients as usize, || {
        format!("only {} ACKs in the trace", text.acked.len())
    });
    let mut rests = 0;
    for (client, Acked { line, time, .. }) in &text.acked {
        let rest = text.is_rest(*client);
        rests += usize::from(rest);
        row.holds(rest || text.holds(*client), || {
            let asked = text.asked.get(client);
            format!("client {client:x}: asked in line {asked:?}, {time} s acknowledged in line {line}, with nothing saved between")
        });
        row.made(1);
    }
    row.holds(rests < clients as usize / 2, || {
        format!("{rests} of {clients} renewals were not saved in time")
    });
    row.end();
}
