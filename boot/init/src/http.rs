//! A small HTTP/1.1 client: one request a connection, time limits on everything, Content-Length and
//! Content-Range checked, nothing followed elsewhere.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

/// Longest answer head that is read.
const MAX_HEAD: usize = 16 << 10;
/// Longest time that a head may take to come.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Seconds that the server may keep us waiting for an answer: less than [`Limits::idle`] of any request.
const PATIENCE: u32 = 5;
/// In each of these a body must bring [`Pace::LEAST`] bytes.
const PACE: Duration = Duration::from_secs(60);

/// How long to wait for a connection, and for the next byte.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the TCP handshake.
    pub connect: Duration,
    /// Without a byte, in either direction.
    pub idle: Duration,
}

/// Why there is no answer, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// May pass: a broken connection, a busy or restarting server.
    Passing {
        /// What happened.
        why: String,
        /// Retry-After of the server.
        after: Option<Duration>,
    },
    /// The server means it: a status in the 400s, or an answer that breaks the protocol.
    Final {
        /// What it said.
        why: String,
    },
}

impl Trouble {
    fn passing(why: impl Into<String>) -> Trouble {
        Trouble::Passing { why: why.into(), after: None }
    }

    /// What happened.
    pub fn why(&self) -> &str {
        match self {
            Trouble::Passing { why, .. } | Trouble::Final { why } => why,
        }
    }
}

/// What the head of an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// 200, 206, …
    pub status: u16,
    /// Content-Length.
    pub length: Option<u64>,
    /// Content-Range: first byte, last byte, whole length.
    pub range: Option<(u64, u64, u64)>,
    /// Retry-After in seconds (a date counts as none).
    pub retry_after: Option<u64>,
}

/// Reads a whole head, status line to last header, without the empty line (RFC 9112).
pub fn parse_head(head: &[u8]) -> Result<Head, String> {
    let text = std::str::from_utf8(head).map_err(|_| "the answer's head is not text")?;
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| format!("`{}` is no HTTP answer", status_line.chars().take(60).collect::<String>()))?;
    let mut out = Head { status, length: None, range: None, retry_after: None };
    for line in lines.filter(|l| !l.is_empty()) {
        let (name, value) = line.split_once(':').ok_or("a header has no colon")?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = number(value).ok_or("Content-Length is no number")?;
                if out.length.is_some_and(|before| before != length) {
                    return Err("two different Content-Lengths".into());
                }
                out.length = Some(length);
            }
            "content-range" => out.range = content_range(value),
            "retry-after" => out.retry_after = number(value),
            "transfer-encoding" if !value.eq_ignore_ascii_case("identity") => {
                return Err("the answer is chunked, so its length is unknown".into());
            }
            _ => {}
        }
    }
    Ok(out)
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn content_range(value: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (number(first)?, number(last)?, number(total)?);
    (first <= last && last < total).then_some((first, last, total))
}

/// What to get.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Path and query.
    pub path: &'a str,
    /// From this byte on.
    pub from: u64,
    /// Up to this byte; `None`: to the end, whose place need not be known.
    pub to: Option<u64>,
    /// Bytes of the whole resource, where known.
    pub size: Option<u64>,
    /// Where many boot at once, roots are sent to some at a time: it waits for its turn (RFC 7240).
    pub in_turn: bool,
}

/// Where the body begins in the resource: 0 for a whole answer, the asked offset for a part. Checks
/// that the answer is what was asked.
pub fn check_answer(head: &Head, wanted: &Wanted<'_>) -> Result<u64, Trouble> {
    let (from, size) = (wanted.from, wanted.size);
    let wrong = |why: String| Trouble::Final { why };
    match head.status {
        200 => {
            let length = head.length.ok_or_else(|| wrong("the answer has no Content-Length".into()))?;
            match size {
                Some(size) if size != length => {
                    Err(wrong(format!("the server has {length} bytes where {size} are expected")))
                }
                _ => Ok(0),
            }
        }
        206 => {
            let fits = match (head.range, size) {
                (Some((first, last, total)), Some(size)) => {
                    let to = wanted.to.unwrap_or(size);
                    first == from && last + 1 == to && total == size && head.length == to.checked_sub(from)
                }
                _ => false,
            };
            if fits { Ok(from) } else { Err(wrong("the server sent another part than asked".into())) }
        }
        status @ (408 | 425 | 429 | 500..=599) => Err(Trouble::Passing {
            why: format!("the server answers {status}"),
            after: head.retry_after.map(Duration::from_secs),
        }),
        404 => Err(wrong("the server does not have it (404)".into())),
        status => Err(wrong(format!("the server answers {status}"))),
    }
}

/// An answer whose body is being read.
#[derive(Debug)]
pub struct Answer {
    /// Where the body begins in the resource.
    pub at: u64,
    /// Body bytes still to come.
    pub left: u64,
    early: std::io::Cursor<Vec<u8>>,
    stream: TcpStream,
    pace: Pace,
}

/// Ends what trickles: a byte now and then satisfies every limit on silence, and a boot would hang on
/// it for ever, where another connection may be as fast as ever.
#[derive(Debug)]
struct Pace {
    since: Instant,
    bytes: u64,
    every: Duration,
}

impl Pace {
    /// Fewest bytes in each `every`.
    const LEAST: u64 = 16 << 10;

    fn new(every: Duration) -> Pace {
        Pace { since: Instant::now(), bytes: 0, every }
    }

    /// `n` more bytes came; false where too few did.
    fn keeps_up(&mut self, n: u64) -> bool {
        self.bytes += n;
        if self.since.elapsed() < self.every {
            return true;
        }
        let enough = self.bytes >= Pace::LEAST;
        *self = Pace::new(self.every);
        enough
    }
}

impl Answer {
    /// Fills `buffer` as far as the body goes. An end of the connection before the end of the body is
    /// trouble; what was read before it is lost to this call, so callers ask for little at a time.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..most).filter(|b| !b.is_empty()) else { return Ok(0) };
        let n = match self.early.read(buffer) {
            Ok(0) | Err(_) => loop {
                match self.stream.read(buffer) {
                    Ok(0) => return Err(Trouble::passing("the connection ended too early")),
                    Ok(n) => break n,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(Trouble::passing(describe(&e))),
                }
            },
            Ok(n) => n,
        };
        self.left -= n as u64;
        if self.left > 0 && !self.pace.keeps_up(n as u64) {
            return Err(Trouble::passing("the server sends next to nothing"));
        }
        Ok(n)
    }
}

fn describe(e: &std::io::Error) -> String {
    match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "the server is silent".into(),
        _ => e.to_string(),
    }
}

/// GET.
pub fn get(server: SocketAddrV4, wanted: &Wanted<'_>, limits: Limits) -> Result<Answer, Trouble> {
    let Wanted { path, from, to, .. } = *wanted;
    let range = match to {
        // The server tells by its open end who goes on with what broke off.
        None if from == 0 => String::new(),
        None => format!("Range: bytes={from}-\r\n"),
        Some(to) => format!("Range: bytes={from}-{}\r\n", to.saturating_sub(1)),
    };
    let turn = if wanted.in_turn { format!("Prefer: wait={PATIENCE}\r\n") } else { String::new() };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: pristine-init\r\nAccept: */*\r\n{turn}{range}\
         Connection: close\r\n\r\n"
    );
    let (head, early, stream) = exchange(server, request.as_bytes(), limits)?;
    let at = check_answer(&head, wanted)?;
    Ok(Answer {
        at,
        left: head.length.unwrap_or(0),
        early: std::io::Cursor::new(early),
        stream,
        pace: Pace::new(PACE),
    })
}

/// POST of a JSON body; gives the status and the answer's body, of at most `most` bytes.
pub fn post(
    server: SocketAddrV4,
    path: &str,
    token: &str,
    body: &str,
    most: u64,
    limits: Limits,
) -> Result<(u16, Vec<u8>), Trouble> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: pristine-init\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let (head, early, stream) = exchange(server, request.as_bytes(), limits)?;
    let left = head.length.unwrap_or(0);
    if left > most {
        return Err(Trouble::Final {
            why: format!("the server's answer has {left} bytes, more than any real one"),
        });
    }
    let early = std::io::Cursor::new(early);
    let mut answer = Answer { at: 0, left, early, stream, pace: Pace::new(PACE) };
    let mut out = Vec::new();
    let mut piece = [0; 4096];
    while answer.left > 0 {
        let n = answer.read(&mut piece)?;
        out.extend_from_slice(piece.get(..n).unwrap_or_default());
    }
    Ok((head.status, out))
}

/// Sends a request and reads the answer's head; gives also what came of the body with it.
fn exchange(
    server: SocketAddrV4,
    request: &[u8],
    limits: Limits,
) -> Result<(Head, Vec<u8>, TcpStream), Trouble> {
    let passing = |e: std::io::Error| Trouble::passing(describe(&e));
    let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(server), limits.connect)
        .map_err(|e| Trouble::passing(format!("no connection to {server}: {}", describe(&e))))?;
    stream.set_read_timeout(Some(limits.idle)).map_err(passing)?;
    stream.set_write_timeout(Some(limits.idle)).map_err(passing)?;
    stream.write_all(request).map_err(passing)?;
    let mut bytes = Vec::new();
    let mut piece = [0; 2048];
    let asked = Instant::now();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > MAX_HEAD {
            return Err(Trouble::Final { why: "the answer's head is too long".into() });
        }
        if asked.elapsed() > HEAD_TIME {
            return Err(Trouble::passing("the server does not come to the end of its answer's head"));
        }
        match stream.read(&mut piece) {
            Ok(0) => return Err(Trouble::passing("the connection ended before the answer")),
            Ok(n) => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(passing(e)),
        }
    };
    let early = bytes.split_off(end + 4);
    bytes.truncate(end);
    let head = parse_head(&bytes).map_err(|why| Trouble::Final { why })?;
    Ok((head, early, stream))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head(text: &str) -> Result<Head, String> {
        parse_head(text.replace('\n', "\r\n").as_bytes())
    }

    fn check(head: &Head, from: u64, to: Option<u64>, size: Option<u64>) -> Result<u64, Trouble> {
        check_answer(head, &Wanted { path: "/", from, to, size, in_turn: false })
    }

    #[test]
    fn reads_heads_of_real_servers() {
        let h = head(
            "HTTP/1.1 206 Partial Content\nserver: x\ncontent-length: 90\nContent-Range: bytes 10-99/100",
        )
        .unwrap();
        assert_eq!((h.status, h.length, h.range), (206, Some(90), Some((10, 99, 100))));
        assert_eq!(check(&h, 10, None, Some(100)), Ok(10));
        assert_eq!(check(&h, 10, Some(100), Some(100)), Ok(10));
        let h = head("HTTP/1.0 200 OK\nContent-Length:100").unwrap();
        assert_eq!(check(&h, 0, None, Some(100)), Ok(0));
        // A server without ranges starts over.
        assert_eq!(check(&h, 10, None, Some(100)), Ok(0));
        let h = head("HTTP/1.1 206 x\nContent-Length: 20\nContent-Range: bytes 10-29/100").unwrap();
        assert_eq!(check(&h, 10, Some(30), Some(100)), Ok(10));
        let h = head("HTTP/1.1 503 Busy\nRetry-After: 7\nContent-Length: 0").unwrap();
        assert_eq!(
            check(&h, 0, None, None),
            Err(Trouble::Passing {
                why: "the server answers 503".into(),
                after: Some(Duration::from_secs(7))
            })
        );
    }

    #[test]
    fn a_trickle_is_told_from_a_slow_line() {
        let now = Duration::ZERO;
        assert!(Pace::new(now).keeps_up(Pace::LEAST));
        assert!(!Pace::new(now).keeps_up(Pace::LEAST - 1));
        let mut pace = Pace::new(Duration::from_secs(3600));
        assert!((0..9).all(|_| pace.keeps_up(1)), "judged at the end of its time only");
    }

    #[test]
    fn refuses_lies() {
        for text in [
            "",
            "SSH-2.0-OpenSSH",
            "HTTP/1.1 2",
            "HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2",
            "HTTP/1.1 200 OK\nContent-Length: -1",
            "HTTP/1.1 200 OK\nContent-Length: 1x",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\nno colon",
        ] {
            assert!(head(text).is_err(), "{text}");
        }
        for (text, from) in [
            ("HTTP/1.1 200 OK\nContent-Length: 99", 0),
            ("HTTP/1.1 200 OK", 0),
            ("HTTP/1.1 206 x\nContent-Length: 90\nContent-Range: bytes 11-100/101", 10),
            ("HTTP/1.1 206 x\nContent-Length: 90\nContent-Range: bytes 0-89/100", 10),
            ("HTTP/1.1 206 x\nContent-Length: 91\nContent-Range: bytes 10-99/100", 10),
            ("HTTP/1.1 206 x\nContent-Length: 90", 10),
            ("HTTP/1.1 302 Found\nLocation: http://10.0.0.1/", 0),
            ("HTTP/1.1 404 x", 0),
        ] {
            let answer = check(&head(text).unwrap(), from, None, Some(100));
            assert!(matches!(answer, Err(Trouble::Final { .. })), "{text}: {answer:?}");
        }
        let more = head("HTTP/1.1 206 x\nContent-Length: 90\nContent-Range: bytes 10-99/100").unwrap();
        assert!(check(&more, 10, Some(30), Some(100)).is_err(), "a piece was asked");
    }
}
