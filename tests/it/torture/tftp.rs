//! TFTP: clients that acknowledge too much, or nothing, or ask for what is not theirs.

use super::{
    Row,
    junk::Junk,
    replies::{Packet, packet},
    site::{BOUND, SERVER, Site, nbps},
    times,
};
use crate::dhcpd::harness::until;
use pristine::{client::Client, lab::Host};
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

const FILE: &str = "snponly.efi";

fn request(kind: u8, name: &str) -> Vec<u8> {
    [&[0, kind], name.as_bytes(), b"\0octet\0blksize\x001024\0"].concat()
}

fn ack(block: u16) -> [u8; 4] {
    let [hi, lo] = block.to_be_bytes();
    [0, 4, hi, lo]
}

/// Reads the file as firmware does, which repeats what it sent last after a second; each ACK is sent `acks` times.
/// Gives its bytes, and how many came in DATA packets.
pub fn read(host: &Host, acks: usize) -> Option<(Vec<u8>, usize)> {
    read_from(host, SERVER, acks)
}

/// The same, of a server at this address.
pub fn read_from(host: &Host, server: Ipv4Addr, acks: usize) -> Option<(Vec<u8>, usize)> {
    let socket = host.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut file, mut came, mut block, mut tries) = (Vec::new(), 0, 0u16, 0);
    let (mut last, mut to) = (request(1, FILE), SocketAddr::from((server, 69)));
    let mut again = 1;
    let mut buffer = [0; 2_048];
    loop {
        (0..again).for_each(|_| drop(socket.send_to(&last, to)));
        again = acks;
        let Ok((len, from)) = socket.recv_from(&mut buffer) else {
            tries += 1;
            again = 1;
            if tries > 30 {
                return None;
            }
            continue;
        };
        to = from;
        let mut short = false;
        match buffer[..len] {
            [0, 6, ..] => {}
            [0, 3, hi, lo, ref data @ ..] => {
                came += data.len();
                if u16::from_be_bytes([hi, lo]) == block.wrapping_add(1) {
                    file.extend(data);
                    block = block.wrapping_add(1);
                    short = data.len() < 1_024;
                }
            }
            _ => return None,
        }
        last = ack(block).to_vec();
        if short {
            (0..acks).for_each(|_| drop(socket.send_to(&last, to)));
            // What was sent twice is on its way yet.
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            while let Ok(len) = socket.recv(&mut buffer) {
                came += len.saturating_sub(4);
            }
            return Some((file, came));
        }
    }
}

/// The file, as it lies in its folder.
fn file() -> Vec<u8> {
    std::fs::read(nbps().join(FILE)).unwrap()
}

/// Begins to read the file: a socket, and the port of the transfer, which waits for an ACK of its OACK.
fn open_transfer(host: &Host) -> (UdpSocket, SocketAddr) {
    let socket = host.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = [0; 2_048];
    let port = until("a transfer", || {
        socket.send_to(&request(1, FILE), (SERVER, 69)).unwrap();
        let (len, from) = socket.recv_from(&mut buffer).ok()?;
        let agreed = packet(&buffer[..len], &file(), 1_024);
        matches!(agreed, Ok(Packet::Oack(options)) if options == [("blksize", 1_024)]).then_some(from)
    });
    (socket, port)
}

/// ACKs to a transfer while `work` goes on, as fast as they go out, from its own client and from another's port.
/// Gives how many, and how many bytes of the file came.
fn ack_storm<T>(host: &Host, work: impl FnOnce() -> T) -> (T, usize, usize) {
    let (own, port) = open_transfer(host);
    let foreign = host.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    own.set_nonblocking(true).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let (mut sent, mut came, mut buffer) = (0, 0, [0; 2_048]);
            while !over.load(Relaxed) {
                for block in 0..200 {
                    sent += usize::from(own.send_to(&ack(block), port).is_ok());
                    sent += usize::from(foreign.send_to(&ack(block), port).is_ok());
                    while let Ok(len) = own.recv(&mut buffer) {
                        came += len.saturating_sub(4);
                    }
                }
            }
            (sent, came)
        });
        let done = work();
        over.store(true, Relaxed);
        let (sent, came) = storm.join().unwrap();
        (done, sent, came)
    })
}

/// Lines of the service's log about files that were not fetched whole.
fn broken_in_log(site: &Site) -> usize {
    std::fs::read_to_string(site.service.log_path()).unwrap().matches("transfer of a boot file").count()
}

/// The code of the ERROR that a request gets, and nothing behind it.
fn refusal(host: &Host, request: &[u8]) -> Option<u16> {
    let socket = host.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.set_read_timeout(Some(BOUND)).unwrap();
    socket.send_to(request, (SERVER, 69)).unwrap();
    let mut buffer = [0; 2_048];
    let len = socket.recv(&mut buffer).ok()?;
    match packet(&buffer[..len], &[], 1_024) {
        Ok(Packet::Error(code)) => Some(code),
        _ => None,
    }
}

#[test]
fn clients_that_misbehave_cost_little_and_a_good_read_is_quick() {
    let mut row = Row::new("TFTP: doubled ACKs, ACK storm, 300 half-open transfers, path traversal, writes");
    let file = file();
    let site = Site::up("");
    let pid = site.service.pid();
    let client = site.net.host("client", "198.18.0.9/16").unwrap();
    let bad = site.net.host("bad", "198.18.0.66/16").unwrap();
    bad.run(&["ip", "route", "add", "local", "198.19.0.0/16", "dev", "lo"]).unwrap();
    site.server.run(&["ip", "route", "add", "198.19.0.0/16", "via", "198.18.0.66"]).unwrap();
    let good = |row: &mut Row, what: &str| {
        let began = Instant::now();
        let got = read(&client, 1);
        let took = began.elapsed();
        row.holds(got.is_some_and(|(got, _)| got == file), || format!("{what}: a good read"));
        row.holds(took < times(Duration::from_secs(30), Duration::from_secs(5)), || {
            format!("{what}: {took:?}")
        });
    };
    for _ in 0..times(1, 10) {
        for acks in [2, 50] {
            let (got, came) = read(&bad, acks).expect("the file");
            row.holds(got == file, || "with doubled ACKs".into());
            row.holds(came * 10 <= file.len() * 12, || {
                format!("{came} bytes for {}, {acks} ACKs", file.len())
            });
        }
        let open = || {
            (0..300u16)
                .map(|n| {
                    let [hi, lo] = n.to_be_bytes();
                    let from = SocketAddr::from((Ipv4Addr::new(198, 19, hi, lo), 0));
                    let socket = UdpSocket::bind(from).unwrap();
                    socket.send_to(&request(1, FILE), (SERVER, 69)).unwrap();
                    socket
                })
                .collect::<Vec<_>>()
        };
        let broken =
            || site.api(Client::status).unwrap().counters["provisioner"]["files_broken"].as_u64().unwrap();
        let (before, said, began) = (broken(), broken_in_log(&site), Instant::now());
        let half_open = bad.enter(open).unwrap();
        good(&mut row, "300 half-open");
        drop(half_open);
        until("all of them are counted", || (broken() >= before + 300).then_some(()));
        let said = broken_in_log(&site) - said;
        // One a second; two lines may lie in the one that was begun.
        let most = 2 + usize::try_from(began.elapsed().as_secs()).unwrap();
        row.holds((1..=most).contains(&said), || {
            format!("{said} lines of the log about 300 that were given up")
        });
        let ((), sent, came) = ack_storm(&bad, || good(&mut row, "in a storm"));
        eprintln!("{sent} ACKs in a storm got {came} bytes");
        row.holds(sent > 1_000, || format!("no storm: {sent} ACKs"));
        // 200 blocks were acknowledged, each again and again; none is sent again for it.
        row.holds(came <= 201 * 1_024 * 12 / 10, || format!("{came} bytes for {sent} ACKs of 200 blocks"));
        for name in [
            "../state/api-token",
            "/../../etc/passwd",
            "..\\..\\etc\\passwd",
            "/etc/passwd",
            "a/../../b",
            "%2e%2e/etc/passwd",
        ] {
            let code = refusal(&bad, &request(1, name));
            row.holds(matches!(code, Some(1 | 2)), || format!("{name}: {code:?}"));
        }
        let code = refusal(&bad, &request(2, FILE));
        row.holds(code == Some(2), || format!("a write got {code:?}"));
        row.made(2 + 300 + 1 + 6 + 1);
    }
    row.holds(site.is_sound(pid), || "the service is not the one that was started".into());
    row.end();
}

/// How many packets came of each kind.
#[derive(Debug, Default)]
struct Replies {
    data: usize,
    errors: usize,
    oacks: usize,
}

impl Replies {
    /// Reads what came until nothing more does for so long, and judges each.
    fn read(&mut self, row: &mut Row, socket: &UdpSocket, file: &[u8], size: usize, quiet: Duration) {
        let mut buffer = [0; 2_048];
        socket.set_nonblocking(quiet.is_zero()).unwrap();
        socket.set_read_timeout(Some(quiet).filter(|quiet| !quiet.is_zero())).unwrap();
        while let Ok(len) = socket.recv(&mut buffer) {
            match packet(&buffer[..len], file, size) {
                Ok(Packet::Data(_)) => self.data += 1,
                Ok(Packet::Error(_)) => self.errors += 1,
                Ok(Packet::Oack(_)) => self.oacks += 1,
                Err(why) => row.holds(false, || why),
            }
        }
    }

    fn are_of_all_kinds(&self) -> bool {
        [self.data, self.errors, self.oacks].iter().all(|n| *n > 0)
    }
}

#[test]
fn requests_cut_at_every_byte_and_changed_at_random_hurt_nobody() {
    let mut row = Row::new("malformed, truncated, mutated TFTP");
    let file = file();
    let site = Site::up("");
    let pid = site.service.pid();
    let client = site.net.host("client", "198.18.0.9/16").unwrap();
    let bad = site.net.host("bad", "198.18.0.66/16").unwrap();
    let socket = bad.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    let mut replies = Replies::default();
    let whole = [&request(1, FILE)[..], b"tsize\x000\0windowsize\x0016\0timeout\x001\0"].concat();
    let mut all: Vec<Vec<u8>> = (0..whole.len()).map(|at| whole[..at].to_vec()).collect();
    let mut junk = Junk::new(13);
    all.extend((0..times(1_000, 100_000)).map(|_| junk.changed(&whole)));
    for (n, bytes) in all.iter().enumerate() {
        let _ = socket.send_to(bytes, (SERVER, 69));
        // What comes without options comes in blocks of 512 bytes.
        replies.read(&mut row, &socket, &file, 512, Duration::ZERO);
        if n % 500 == 0 {
            row.holds(read(&client, 1).is_some_and(|(got, _)| got == file), || format!("after {bytes:?}"));
        }
    }
    replies.read(&mut row, &socket, &file, 512, Duration::from_millis(300));
    row.made(all.len());
    eprintln!("to {} changed requests: {replies:?}", all.len());
    row.holds(replies.are_of_all_kinds(), || format!("to changed requests: {replies:?}"));
    // What is said in a transfer, to its port.
    let error = b"\0\x05\0\x08aborted\0".to_vec();
    let oack = b"\0\x06blksize\x001024\0tsize\x000\0".to_vec();
    let mut said = Replies::default();
    for whole in [ack(0).to_vec(), ack(1).to_vec(), error.clone(), oack] {
        let mut all: Vec<Vec<u8>> = (0..=whole.len()).map(|at| whole[..at].to_vec()).collect();
        all.extend((0..times(60, 10_000)).map(|_| junk.changed(&whole)));
        for some in all.chunks(20) {
            let (socket, port) = open_transfer(&bad);
            for bytes in some {
                let _ = socket.send_to(bytes, port);
                said.read(&mut row, &socket, &file, 1_024, Duration::ZERO);
            }
            let _ = socket.send_to(&error, port);
            said.read(&mut row, &socket, &file, 1_024, Duration::from_millis(5));
        }
        row.holds(read(&client, 1).is_some_and(|(got, _)| got == file), || format!("after {whole:?}"));
        row.made(all.len());
    }
    eprintln!("in transfers: {said:?}");
    row.holds(said.data > 0, || format!("in transfers: {said:?}"));
    row.holds(site.is_sound(pid), || "the service is not the one that was started".into());
    row.end();
}
