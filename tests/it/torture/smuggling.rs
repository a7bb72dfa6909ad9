//! Requests that hide another one: by two lengths, by one that isn't plain, by a body in chunks that end where they
//! don't. Whoever stands before the service and counts in another way would take the hidden one for a body.

use super::{
    Row,
    replies::{Answer, answers},
    site::{HTTP, Site, made_up},
};
use pristine::lab::Host;
use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::Duration,
};

const API: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8081);
/// Longest until an answer, or the end of a connection. Less than one may stand without a request.
const PROMPT: Duration = Duration::from_secs(10);

/// The ways to say that a body is in chunks, to some or to all.
const CODINGS: [&str; 15] = [
    "Transfer-Encoding: chunked",
    "transfer-encoding: CHUNKED",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\0: chunked",
    "Transfer-Encoding:\r\n chunked",
    "X: y\r\n Transfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "X: y\nTransfer-Encoding: chunked",
];

/// Lengths that are none, `N` being the true one.
const LENGTHS: [&str; 15] = [
    "Content-Length: 0\r\nContent-Length: N",
    "Content-Length: N\r\nContent-Length: 0",
    "Content-Length: 0, N",
    "Content-Length: N, 0",
    "Content-Length: 0 N",
    "Content-Length: +N",
    "Content-Length: -0",
    "Content-Length: 0x0",
    "Content-Length: 0.0",
    "Content-Length:",
    "Content-Length: 18446744073709551616",
    "Content-Length : 0",
    "Content-Length:\r\n 0",
    "Content-Length: 0\r\n N",
    "X: y\rContent-Length: 0",
];

/// Bodies in chunks that end here to some, and to others don't or are none.
const CHUNKS: [&str; 14] = [
    "0\n\n",
    "0\r\r\n\r\n",
    "0x0\r\n\r\n",
    "+0\r\n\r\n",
    "-0\r\n\r\n",
    " 0\r\n\r\n",
    "0 0\r\n\r\n",
    "\r\n0\r\n\r\n",
    "0;a\n\r\n\r\n",
    "g\r\n\r\n",
    // Nothing, where a number has 64 bits.
    "10000000000000000\r\n\r\n",
    "1\r\na0\r\n\r\n",
    "1\r\na\n0\r\n\r\n",
    "1\r\nab\r\n0\r\n\r\n",
];

/// One of the service's HTTP ports.
struct Port<'a> {
    name: &'static str,
    host: &'a Host,
    to: SocketAddrV4,
    /// A request with a body, up to its length, and a body that it takes.
    outer: String,
    body: &'static str,
    /// One without.
    plain: String,
    /// What is hidden: it puts a machine on record.
    hidden: String,
    mac: String,
    /// Bodies in chunks are taken.
    chunks: bool,
}

/// Tries all of it on both ports, each request on a connection of its own.
pub fn tries(row: &mut Row, site: &Site, bad: &Host, round: u32) {
    for port in [machines(bad, round), operators(site, round)] {
        pairs(row, site, &port);
        for (what, request) in messages(&port) {
            let (got, closed) = exchange(&port, &request);
            // Refused, and whatever follows is read by nobody.
            let refused = |all: Vec<Answer>| matches!(all[..], [Answer { status: 400..=499, .. }]);
            let held = answers(&got).is_ok_and(refused) && closed;
            row.holds(held, || format!("{}, {what}: closed {closed}, {:?}", port.name, text(&got)));
            if is_done(site, &port) {
                row.holds(false, || format!("{}, {what}: carried out", port.name));
                site.api(|client| client.forget(&port.mac)).unwrap();
            }
            row.made(1);
        }
        // A body where none is looked for: the one behind it is a request, and it is none.
        let (plain, len, hidden) = (&port.plain, port.hidden.len(), &port.hidden);
        let last = format!("{plain}Connection: close\r\n\r\n");
        let (got, closed) = exchange(&port, &format!("{plain}Content-Length: {len}\r\n\r\n{hidden}{last}"));
        let fine = |all: Vec<Answer>| (1..=2).contains(&all.len()) && all.iter().all(|a| a.status == 200);
        let held = answers(&got).is_ok_and(fine) && closed && !is_done(site, &port);
        row.holds(held, || format!("{}, a body of GET: closed {closed}, {:?}", port.name, text(&got)));
        row.made(1);
    }
}

/// What hides nothing: the same two requests, one behind the other, are answered both and carried out.
fn pairs(row: &mut Row, site: &Site, port: &Port<'_>) {
    let Port { outer, body, hidden, .. } = port;
    let len = body.len();
    let mut pairs = vec![format!("{outer}Content-Length: {len}\r\n\r\n{body}{hidden}")];
    if port.chunks {
        let chunk = format!("{len:x}\r\n{body}\r\n0\r\n\r\n");
        pairs.push(format!("{outer}Transfer-Encoding: chunked\r\n\r\n{chunk}{hidden}"));
    }
    for pair in pairs {
        let (got, closed) = exchange(port, &pair);
        let both = answers(&got).is_ok_and(|all| all.len() == 2 && all[1].status == 200) && closed;
        row.holds(both, || format!("{}, two requests: closed {closed}, {:?}", port.name, text(&got)));
        row.holds(is_done(site, port), || format!("{}: the second of two isn't carried out", port.name));
        let forgotten = site.api(|client| client.forget(&port.mac));
        assert!(forgotten.is_ok() && !is_done(site, port), "{forgotten:?}");
    }
}

fn machines(bad: &Host, round: u32) -> Port<'_> {
    let mac = made_up(0x5000_0000 + round).to_string();
    Port {
        name: "machines",
        host: bad,
        to: HTTP,
        outer: "POST /boot/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer aa\r\n".into(),
        body: r#"{"stage":"init"}"#,
        plain: "GET /healthz HTTP/1.1\r\nHost: x\r\n".into(),
        hidden: format!("GET /boot/script?mac={mac} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        mac,
        chunks: false,
    }
}

/// With the right token in all that is said.
fn operators(site: &Site, round: u32) -> Port<'_> {
    let token = fs::read_to_string(site.service.settings().state.join("api-token")).unwrap();
    let begin =
        |what: &str| format!("{what} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", token.trim());
    let json = "Content-Type: application/json\r\n";
    let pin = |mac: &str| begin(&format!("PUT /api/v1/machines/{mac}/pin")) + json;
    let mac = made_up(0x6000_0000 + round).to_string();
    let body = r#"{"target":"local"}"#;
    let last = format!("Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    Port {
        name: "operators",
        host: &site.server,
        to: API,
        outer: pin(&made_up(0x7000_0000).to_string()),
        body,
        plain: begin("GET /api/v1/status"),
        hidden: pin(&mac) + &last,
        mac,
        chunks: true,
    }
}

/// Each with its name.
fn messages(port: &Port<'_>) -> Vec<(String, String)> {
    let Port { outer, hidden, .. } = port;
    let mut all = Vec::new();
    // By its length it is over before what is hidden, or behind it, and by its chunks the other way round.
    let ends = format!("0\r\n\r\n{hidden}");
    let begins = format!("{:x}\r\n", hidden.len());
    for (what, length, body) in [
        ("chunks end before the length does", ends.len(), ends.clone()),
        ("the length ends before chunks do", begins.len(), format!("{begins}{hidden}\r\n0\r\n\r\n")),
    ] {
        let length = format!("Content-Length: {length}");
        for coding in CODINGS {
            for fields in [format!("{length}\r\n{coding}"), format!("{coding}\r\n{length}")] {
                all.push((format!("{what}, {fields:?}"), format!("{outer}{fields}\r\n\r\n{body}")));
            }
        }
        let old = outer.replace("HTTP/1.1", "HTTP/1.0");
        let fields = format!("Connection: keep-alive\r\n{length}\r\n{}", CODINGS[0]);
        all.push((format!("{what}, HTTP/1.0"), format!("{old}{fields}\r\n\r\n{body}")));
    }
    for length in LENGTHS {
        let fields = length.replace('N', &hidden.len().to_string());
        all.push((format!("{fields:?}"), format!("{outer}{fields}\r\n\r\n{hidden}")));
    }
    for chunks in CHUNKS {
        let request = format!("{outer}Transfer-Encoding: chunked\r\n\r\n{chunks}{hidden}");
        all.push((format!("chunks {chunks:?}"), request));
    }
    all
}

/// What comes back until the end of the connection, and whether it came to its end.
fn exchange(port: &Port<'_>, request: &str) -> (Vec<u8>, bool) {
    let exchange = || {
        let mut stream = TcpStream::connect_timeout(&port.to.into(), super::site::BOUND).unwrap();
        stream.set_read_timeout(Some(PROMPT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let (mut got, mut buffer) = (Vec::new(), [0; 4_096]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return (got, true),
                Ok(len) => got.extend(&buffer[..len]),
                Err(error) => return (got, error.kind() == ErrorKind::ConnectionReset),
            }
        }
    };
    port.host.enter(exchange).unwrap()
}

fn is_done(site: &Site, port: &Port<'_>) -> bool {
    let machines = site.api(|client| client.machines(None)).unwrap();
    machines.iter().any(|machine| machine.mac.to_string() == port.mac)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
