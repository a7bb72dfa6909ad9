//! HTTP: clients that mean no good, and one that does.

use super::junk::Junk;
use super::{
    Row,
    boots::{curl, token},
    replies::{Answer, answer, answers},
    site::{Asker, BOUND, HTTP, Site, made_up, p99},
    smuggling, times,
};
use crate::dhcpd::harness::until;
use pristine::{client::Client, lab::Host, model::Digest};
use socket2::{Domain, Socket, Type};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

const CROWD: &str = "198.19.0.0/16";

/// A host that has a whole network of addresses of its own.
fn crowd(site: &Site) -> Host {
    let host = site.net.host("crowd", "198.18.0.66/16").unwrap();
    host.run(&["ip", "route", "add", "local", CROWD, "dev", "lo"]).unwrap();
    site.server.run(&["ip", "route", "add", CROWD, "via", "198.18.0.66"]).unwrap();
    host
}

/// Begins to connect from one of the crowd's addresses; must be called on that host.
fn begin(n: usize) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.set_nonblocking(true).ok()?;
    let [.., hi, lo] = (n as u32 % 400 + 256).to_be_bytes();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(198, 19, hi, lo), 0)).into()).ok()?;
    match socket.connect(&SocketAddr::V4(HTTP).into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(_) => return None,
    }
    Some(socket.into())
}

/// What comes back for these bytes until the server closes, at most `most` bytes.
fn exchange(host: &Host, to: SocketAddrV4, request: &[u8], most: u64) -> std::io::Result<Vec<u8>> {
    host.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to.into(), BOUND)?;
        stream.set_read_timeout(Some(BOUND))?;
        stream.set_write_timeout(Some(BOUND))?;
        // A refusal may come before all is written.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        match stream.take(most).read_to_end(&mut answer) {
            Ok(_) => Ok(answer),
            Err(_) if !answer.is_empty() => Ok(answer),
            Err(error) => Err(error),
        }
    })
    .unwrap()
}

/// The body of an answer 200.
pub fn fetch(host: &Host, to: SocketAddrV4, path: &str) -> Option<Vec<u8>> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut answer = exchange(host, to, request.as_bytes(), 1 << 30).ok()?;
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    answer.starts_with(b"HTTP/1.1 200 ").then(|| answer.split_off(head))
}

/// The good client: fetches a blob over a connection of its own.
struct Good<'a> {
    host: &'a Host,
    path: String,
    size: u64,
    digest: Digest,
}

impl<'a> Good<'a> {
    fn new(site: &Site, host: &'a Host) -> Good<'a> {
        let image = site.api(|client| client.image("tiny:1")).unwrap();
        let kernel = image.manifest.expect("its manifest").kernel;
        Good { host, path: format!("/blobs/{}", kernel.digest), size: kernel.size, digest: kernel.digest }
    }

    /// Nothing where it had all of the blob.
    fn fails(&self) -> Option<String> {
        let began = Instant::now();
        let request = format!("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", self.path);
        let answer = match exchange(self.host, HTTP, request.as_bytes(), self.size * 2) {
            Ok(answer) => answer,
            Err(error) => return Some(format!("{error} after {:?}", began.elapsed())),
        };
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
        let whole = answer.starts_with(b"HTTP/1.1 200 ") && Digest::of(&answer[head..]) == self.digest;
        (!whole).then(|| format!("{} bytes after {:?}", answer.len(), began.elapsed()))
    }

    fn fetches(&self) -> bool {
        self.fails().is_none()
    }
}

#[test]
fn ten_thousand_slow_clients_keep_no_good_one_out() {
    let mut row = Row::new("10,000 connections of a byte a second");
    pristine::sys::limits::raise_file_limit();
    let count = times(1_500, 10_000);
    // More than there are places for: who waits longest makes room.
    let site = Site::with_image(times(HASTE, ""));
    press(&mut row, &site, count);
    a_request_never_gets_whole(&mut row, &site);
    // A place for each: all are there at once.
    let site = Site::with_image("[bounds]\nhttp_connections = 11000\nhttp_connections_per_client = 64\n");
    let peak = press(&mut row, &site, count);
    row.holds(peak >= count, || format!("no more than {peak} were connected at once"));
    row.made(peak);
    row.end();
}

/// A crowd that presses while a good client fetches; gives how many of it were connected at once.
fn press(row: &mut Row, site: &Site, count: usize) -> usize {
    let pid = site.service.pid();
    let crowd = crowd(site);
    let client = site.net.host("client", "198.18.0.9/16").unwrap();
    let good = Good::new(site, &client);
    let (over, begun, peak) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let drip = || {
        let mut slow: Vec<Option<TcpStream>> = Vec::new();
        slow.resize_with(count, || None);
        let mut next = 0;
        while !over.load(Relaxed) {
            let began = Instant::now();
            let (first, mut back, mut up) = (next, 0, 0);
            // Whoever was closed comes back, in turn, a thousand in a second.
            for n in (first..count).chain(0..first) {
                let one = &mut slow[n];
                let mut gone = |mut s: &TcpStream| match s.write(b"G") {
                    // It is not connected yet.
                    Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
                    Ok(_) => {
                        up += 1;
                        false
                    }
                };
                let closed = one.as_ref().is_none_or(&mut gone);
                if closed && back < 1_000 {
                    *one = begin(n);
                    back += 1;
                    next = (n + 1) % count;
                    begun.fetch_add(1, Relaxed);
                }
            }
            peak.fetch_max(up, Relaxed);
            std::thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
        }
    };
    std::thread::scope(|scope| {
        let dripping = scope.spawn(|| crowd.enter(drip).unwrap());
        let end = Instant::now() + BOUND;
        while begun.load(Relaxed) < count && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        row.holds(begun.load(Relaxed) >= count, || "the crowd never came".into());
        // A look of theirs later all who could be are connected.
        let pressing = Instant::now() + Duration::from_millis(2_500);
        let mut n = 0;
        while n < times(10, 100) || Instant::now() < pressing {
            let failed = good.fails();
            row.holds(failed.is_none(), || format!("good fetch {n}: {failed:?}"));
            n += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Relaxed);
        dripping.join().unwrap();
    });
    row.holds(site.is_sound(pid), || "the service is not the one that was started".into());
    eprintln!("{peak:?} of {count} were connected at once; {begun:?} connections in all");
    peak.into_inner()
}

/// Requests have little time in the short form, and the usual one in the long form.
const HASTE: &str = "[http]\nhead_time = \"2s\"\nbody_time = \"2s\"\n";

/// Nobody presses: half a request has its time, and no more, even where a byte of it comes now and then.
fn a_request_never_gets_whole(row: &mut Row, site: &Site) {
    let host = site.net.client().unwrap();
    let mut asker = Asker::on(&host);
    let addr = asker.lease(BOUND).expect("an address");
    host.address("eth0", &format!("{addr}/16")).unwrap();
    let (code, script) = curl(&host, &[&format!("http://{HTTP}/boot/script?mac={}", asker.mac())]);
    let token = token(&script).unwrap_or_else(|| panic!("{code}: {script}"));
    let head = "GET /healthz HTTP/1.1\r\nX: ";
    let body = format!(
        "POST /boot/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: 900\r\n\r\n{{\"stage\":\"init\",\"detail\":\""
    );
    let kinds = [
        ("half a head", head, false),
        ("a head of a byte a second", head, true),
        ("half a body", &body, false),
        ("a body of a byte a second", &body, true),
    ];
    let bound = times(Duration::from_secs(20), Duration::from_secs(90));
    std::thread::scope(|scope| {
        let ends = kinds.map(|(what, begin, drips)| {
            let host = &host;
            (what, scope.spawn(move || ends_after(host, begin.as_bytes(), drips)))
        });
        for (what, end) in ends {
            let took = end.join().unwrap();
            eprintln!("{what}: ended after {took:?}");
            row.holds(took.is_some_and(|t| t < bound), || format!("{what} stood: {took:?}"));
        }
    });
}

/// How long it is until the server closes a connection on which a request was begun; `drips`: a byte more comes
/// each second. Nothing where it stands for longer than anybody may.
fn ends_after(host: &Host, begin: &[u8], drips: bool) -> Option<Duration> {
    const PATIENCE: Duration = Duration::from_secs(95);
    let wait = || {
        let mut stream = TcpStream::connect_timeout(&HTTP.into(), BOUND).unwrap();
        stream.set_read_timeout(Some(if drips { Duration::from_secs(1) } else { PATIENCE })).unwrap();
        stream.write_all(begin).unwrap();
        let began = Instant::now();
        let mut buffer = [0; 4_096];
        while began.elapsed() < PATIENCE {
            match stream.read(&mut buffer) {
                // The end, after an answer or without one.
                Ok(0) => return Some(began.elapsed()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if drips && stream.write_all(b"a").is_err() {
                        return Some(began.elapsed());
                    }
                }
                Err(_) => return Some(began.elapsed()),
            }
        }
        None
    };
    host.enter(wait).unwrap()
}

#[test]
fn huge_heads_overlapping_ranges_and_two_lengths_get_little_and_smuggle_nothing() {
    let mut row = Row::new("huge headers, 1,300 overlapping ranges, Content-Length with Transfer-Encoding");
    let site = Site::with_image("");
    let client = site.net.host("client", "198.18.0.9/16").unwrap();
    let bad = site.net.host("bad", "198.18.0.66/16").unwrap();
    let good = Good::new(&site, &client);
    for n in 0..times(3, 50) {
        let head = format!("GET {} HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", good.path, "a".repeat(1 << 20));
        let answer = exchange(&bad, HTTP, head.as_bytes(), 1 << 20);
        // Refused with words, or by the end of the connection.
        let refusal = |all: Vec<Answer>| all.iter().all(|a| (400..500).contains(&a.status)) && all.len() <= 1;
        let refused = answer.is_ok_and(|a| answers(&a).is_ok_and(refusal));
        row.holds(refused, || format!("a huge head in round {n}"));
        let overlapping: [&dyn Fn(u64) -> String; 4] =
            [&|_| "0-".into(), &|n| format!("{n}-"), &|n| format!("-{}", good.size - n), &|n| {
                format!("0-{n}")
            }];
        for range in overlapping {
            let ranges = (0..1_300).map(range).collect::<Vec<_>>().join(",");
            let ask = format!(
                "GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes={ranges}\r\n\r\n",
                good.path
            );
            let got = exchange(&bad, HTTP, ask.as_bytes(), good.size * 4).unwrap_or_default();
            let all = answers(&got);
            let little = |all: &Vec<Answer>| all.len() == 1 && all[0].body.len() as u64 <= good.size;
            row.holds(all.as_ref().is_ok_and(little), || {
                format!("{} bytes of a file of {}: {:?}", got.len(), good.size, all.err())
            });
        }
        smuggling::tries(&mut row, &site, &bad, n);
        row.holds(good.fetches(), || "a good fetch".into());
        row.made(1 + 4);
    }
    row.end();
}

#[test]
fn a_thousand_bad_tokens_a_second_slow_nobody_else() {
    let mut row = Row::new("1,000 bad tokens a second");
    let site = Site::up("");
    let mut machine = Asker::on(&site.net.client().unwrap());
    let over = AtomicBool::new(false);
    let (refused, told) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    // Each of four says every fourth of 1,250 in a second. One that gets no whole answer doesn't count.
    let guess = |nth: u32| {
        let mut guesser = Guesser::new(66);
        for n in (nth..).step_by(4) {
            if over.load(Relaxed) {
                return;
            }
            match guesser.says(&format!("{n:064x}")) {
                Some(status @ (401 | 429)) => {
                    told.fetch_add(1, Relaxed);
                    refused.fetch_add(usize::from(status == 429), Relaxed);
                }
                _ => guesser = Guesser::new(66),
            }
            let due = began + n * Duration::from_micros(800);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    };
    std::thread::scope(|scope| {
        let guessing = [0, 1, 2, 3].map(|nth| {
            let guess = &guess;
            let server = &site.server;
            scope.spawn(move || server.enter(move || guess(nth)).unwrap())
        });
        let serving = scope.spawn(|| {
            let mut offers = Vec::new();
            while !over.load(Relaxed) {
                offers.push(machine.discover(BOUND).map(|(_, took)| took));
                std::thread::sleep(Duration::from_millis(20));
            }
            offers
        });
        let took: Vec<Option<Duration>> = site.api(|client| {
            (0..times(40, 2_000))
                .map(|_| {
                    let began = Instant::now();
                    let answered = client.status().is_ok();
                    let took = answered.then(|| began.elapsed());
                    std::thread::sleep(Duration::from_millis(10));
                    took
                })
                .collect()
        });
        let rate = told.load(Relaxed) as f64 / began.elapsed().as_secs_f64();
        over.store(true, Relaxed);
        guessing.into_iter().for_each(|g| g.join().unwrap());
        let offers = serving.join().unwrap();
        // Whoever has the right token is never told to wait, nor refused.
        let refusals = took.iter().filter(|t| t.is_none()).count();
        row.holds(refusals == 0, || {
            format!("{refusals} of {} with the right token were refused", took.len())
        });
        let (worst, offered) = (p99(took), p99(offers));
        eprintln!("{rate:.0} a second; p99 of the right token {worst:?}, of an OFFER {offered:?}");
        let bound = times(Duration::from_secs(3), Duration::from_millis(100));
        row.holds(worst.is_some_and(|t| t < bound), || format!("p99 of the right token: {worst:?}"));
        let bound = times(Duration::from_secs(5), Duration::from_secs(1));
        row.holds(offered.is_some_and(|t| t < bound), || format!("p99 of an OFFER: {offered:?}"));
        row.holds(rate >= times(100.0, 1_000.0), || format!("only {rate:.0} bad tokens a second"));
    });
    site.server.enter(|| a_guesser_waits(&mut row, &site)).unwrap();
    let (refused, told) = (refused.into_inner(), told.into_inner());
    row.made(told);
    row.holds(refused * 2 > told, || format!("only {refused} of {told} were told to wait"));
    row.holds(site.api(Client::status).is_ok(), || "the token is refused".into());
    row.end();
}

/// A connection to the API from an address of one's own on the loopback; must be made on the server.
struct Guesser(TcpStream);

impl Guesser {
    fn new(from: u8) -> Guesser {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, from], 0)).into()).unwrap();
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], 8081)).into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(BOUND)).unwrap();
        Guesser(stream)
    }

    /// The status of the answer to this token; nothing where it doesn't come whole.
    fn says(&mut self, token: &str) -> Option<u16> {
        let ask = format!("GET /api/v1/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
        self.0.write_all(ask.as_bytes()).ok()?;
        let (mut got, mut buffer) = (Vec::new(), [0; 4_096]);
        loop {
            let len = self.0.read(&mut buffer).ok().filter(|len| *len > 0)?;
            got.extend(&buffer[..len]);
            if let Some((Answer { status, .. }, len)) = answer(&got).ok()? {
                return (len == got.len()).then_some(status);
            }
        }
    }
}

/// Ten wrong tokens of one address, and it waits, with the right one as well, which counts elsewhere; and then no more.
fn a_guesser_waits(row: &mut Row, site: &Site) {
    let token = std::fs::read_to_string(site.service.settings().state.join("api-token")).unwrap();
    let right = |guesser: &mut Guesser| guesser.says(token.trim());
    let (mut other, mut addresses) = (Guesser::new(67), 68..);
    // On a machine that is that busy, a second is over before all of it was said.
    let (mut guesser, said) = until("eleven wrong tokens within a second", || {
        let mut guesser = Guesser::new(addresses.next().expect("another"));
        let began = Instant::now();
        let wrong: Vec<_> = (0..11).map(|n| guesser.says(&format!("{n:064x}"))).collect();
        let said = (wrong, right(&mut guesser), right(&mut other));
        (began.elapsed() < Duration::from_secs(1)).then_some((guesser, said))
    });
    let wrong = [vec![Some(401); 10], vec![Some(429)]].concat();
    row.holds(said == (wrong, Some(429), Some(200)), || format!("one that guesses was answered {said:?}"));
    until("it waits no more", || (right(&mut guesser) == Some(200)).then_some(()));
}

#[test]
fn requests_cut_at_every_byte_and_changed_at_random_hurt_nobody() {
    let mut row = Row::new("malformed, truncated, mutated HTTP");
    let site = Site::with_image("");
    let pid = site.service.pid();
    let client = site.net.host("client", "198.18.0.9/16").unwrap();
    let bad = site.net.host("bad", "198.18.0.66/16").unwrap();
    let good = Good::new(&site, &client);
    let request = format!(
        "GET {}?boot=00000000000000ab HTTP/1.1\r\nHost: x\r\nRange: bytes=0-9\r\nIf-Range: \"a\"\r\n\
         Prefer: wait=1\r\nConnection: close\r\n\r\n",
        good.path
    );
    let script = format!("GET /boot/script?mac={}&serial=%00 HTTP/1.1\r\nHost: x\r\n\r\n", made_up(1));
    let report = "POST /boot/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer aa\r\nContent-Length: 16\r\n\r\n{\"stage\":\"init\"}";
    let mut junk = Junk::new(7);
    for whole in [request.as_str(), &script, report] {
        let whole = whole.as_bytes();
        let cuts = (0..whole.len()).step_by(times(7, 1)).map(|at| whole[..at].to_vec());
        let mut all: Vec<Vec<u8>> = cuts.collect();
        all.extend((0..times(60, 3_000)).map(|_| junk.changed(whole)));
        let mut answered = 0;
        for (n, bytes) in all.iter().enumerate() {
            let answer = bad.enter(|| {
                let mut stream = TcpStream::connect_timeout(&HTTP.into(), BOUND)?;
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                let _ = stream.write_all(bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let mut answer = Vec::new();
                // All that there is: a request that lost its range gets the whole file.
                stream.read_to_end(&mut answer)?;
                std::io::Result::Ok(answer)
            });
            let got = answer.unwrap().map_err(|error| error.to_string()).and_then(|got| answers(&got));
            let said = got.map(|all| all.iter().map(|a| a.status).collect::<Vec<_>>());
            // One that is cut may get none.
            let fine = said.as_ref().is_ok_and(|said| said.iter().all(|s| (200..500).contains(s)));
            row.holds(fine, || format!("{bytes:?}: {said:?}"));
            answered += said.map_or(0, |said| said.len());
            if n % 100 == 0 {
                row.holds(good.fetches(), || format!("a good fetch after {bytes:?}"));
            }
        }
        eprintln!("{answered} answers to {}", all.len());
        row.holds(answered * 4 > all.len(), || format!("only {answered} answers to {}", all.len()));
        row.made(all.len());
    }
    row.holds(site.is_sound(pid), || "the service is not the one that was started".into());
    row.end();
}
