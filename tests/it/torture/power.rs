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

/// Bytes as `strace -xx` prints them.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("\\x{b:02x}")).collect()
}

/// What of a trace counts, each with its line.
#[derive(Default)]
struct Trace {
    /// When the request of a client was taken from the socket.
    asked: HashMap<u32, usize>,
    /// When its ACK was handed to the kernel.
    acked: BTreeMap<u32, usize>,
    /// From when to when the log of the database was on its way to the disk.
    synced: Vec<(usize, usize)>,
}

fn read(text: &str, clients: u32) -> Trace {
    let mut trace = Trace::default();
    let mut under_way: HashMap<&str, usize> = HashMap::new();
    for (n, line) in text.lines().enumerate() {
        let pid = line.split(' ').next().unwrap_or_default();
        if line.contains("sync(") && line.contains(&hex(b"pristine.db-wal")) {
            match line.ends_with("= 0") {
                true => trace.synced.push((n, n)),
                false => drop(under_way.insert(pid, n)),
            }
        } else if line.contains("sync resumed") && line.ends_with("= 0") {
            trace.synced.extend(under_way.remove(pid).map(|begun| (begun, n)));
        }
        for client in 1..=clients {
            let xid = hex(&client.to_be_bytes());
            let is = |op: u8, kind: u8| {
                line.contains(&format!("{}{xid}", hex(&[op, 1, 6, 0]))) && line.contains(&hex(&[53, 1, kind]))
            };
            if is(1, 3) {
                trace.asked.entry(client).or_insert(n);
            } else if is(2, 5) {
                trace.acked.entry(client).or_insert(n);
            }
        }
    }
    trace
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
    let calls = "trace=fsync,fdatasync,recvfrom,recvmsg,recvmmsg,sendto,sendmsg,sendmmsg";
    // A tracer that is the parent of nobody: it ends with the service.
    let strace =
        ["strace", "-D", "-f", "-qq", "-y", "-xx", "-s", "700", "-e", calls, "-o", trace.to_str().unwrap()];
    let mut service = Service::within(&server, &state.0, &strace).unwrap();
    let mut buf = [0; 1500];
    // Eight at once: they share transactions, as in a rack that powers on.
    for first in (1..=clients).step_by(8) {
        let group: Vec<u32> = (first..(first + 8).min(clients + 1)).collect();
        for n in &group {
            socket.send_to(&packet(1, *n, &[]), SERVICE).unwrap();
        }
        let mut left = group.len();
        while left > 0 {
            let (len, _) = socket.recv_from(&mut buf).expect("every request is answered");
            match read_reply(&buf[..len]) {
                Some((2, n, addr)) => {
                    let more: [(u8, &[u8]); 2] = [(54, &OURS.octets()), (50, &addr.octets())];
                    socket.send_to(&packet(3, n, &more), SERVICE).unwrap();
                }
                Some((5, ..)) => left -= 1,
                _ => {}
            }
        }
    }
    service.0.kill();
    let until = Instant::now() + BOUND;
    let text = loop {
        let text = fs::read_to_string(&trace).unwrap();
        let seen = read(&text, clients);
        if seen.acked.len() == clients as usize || Instant::now() > until {
            break seen;
        }
    };
    row.holds(text.acked.len() == clients as usize, || {
        format!("only {} ACKs in the trace", text.acked.len())
    });
    for (client, sent) in &text.acked {
        let asked = text.asked.get(client).copied().unwrap_or(usize::MAX);
        let durable = text.synced.iter().any(|(begun, done)| *begun > asked && done < sent);
        row.holds(durable, || {
            format!("client {client}: asked in line {asked}, acknowledged in line {sent}, with nothing saved between")
        });
        row.made(1);
    }
    row.end();
}
