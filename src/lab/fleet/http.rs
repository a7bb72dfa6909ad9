//! HTTP as the fleet's machines speak it: one request a connection, from the machine's own address.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

const CONNECT: Duration = Duration::from_secs(10);
/// Without a byte.
const SILENCE: Duration = Duration::from_secs(30);
const MAX_HEAD: usize = 16 << 10;
/// Most of a body that is kept; the rest is read and counted.
const MAX_KEPT: usize = 256 << 10;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As in 200.
    pub status: u16,
    /// Retry-After, in seconds.
    pub retry_after: Option<u64>,
    /// The beginning of the body.
    pub body: Vec<u8>,
    /// Bytes of the whole body.
    pub bytes: u64,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The machine's address.
    pub from: Ipv4Addr,
    /// Where to.
    pub server: SocketAddrV4,
    /// `GET` or `POST`.
    pub method: &'a str,
    /// With its query.
    pub path: &'a str,
    /// Header lines, each with its line end.
    pub headers: &'a str,
    /// Body.
    pub body: &'a str,
}

impl Request<'_> {
    /// Sends it and reads the answer to its end.
    pub async fn send(&self) -> io::Result<Answer> {
        let socket = TcpSocket::new_v4()?;
        // Thousands of machines share this host's ports: each has its own by its own address.
        socket.bind(SocketAddr::from((self.from, 0)))?;
        let connect = socket.connect(SocketAddr::V4(self.server));
        let mut stream = timeout(CONNECT, connect).await.map_err(|_| ErrorKind::TimedOut)??;
        let Request { server, method, path, headers, body, .. } = self;
        let length = if *method == "POST" {
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
        } else {
            String::new()
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n{headers}{length}\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        read(&mut stream).await
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut piece = vec![0; 64 << 10];
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > MAX_HEAD {
            return Err(io::Error::other("an answer's head without an end"));
        }
        let n = some(stream, &mut piece).await?;
        bytes.extend_from_slice(piece.get(..n).unwrap_or_default());
    };
    let mut body = bytes.split_off(end + 4);
    let (status, length, retry_after) =
        head(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("no HTTP answer"))?;
    let mut have = body.len() as u64;
    while have < length {
        let n = some(stream, &mut piece).await?;
        have += n as u64;
        let room = MAX_KEPT.saturating_sub(body.len()).min(n);
        body.extend_from_slice(piece.get(..room).unwrap_or_default());
    }
    Ok(Answer { status, retry_after, body, bytes: have })
}

async fn some(stream: &mut TcpStream, piece: &mut [u8]) -> io::Result<usize> {
    match timeout(SILENCE, stream.read(piece)).await {
        Ok(Ok(0)) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(read) => read,
        Err(_) => Err(ErrorKind::TimedOut.into()),
    }
}

/// Status, Content-Length, Retry-After.
fn head(text: &str) -> Option<(u16, u64, Option<u64>)> {
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let (mut length, mut retry_after) = (0, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim().parse::<u64>();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.ok()?,
            "retry-after" => retry_after = value.ok(),
            _ => {}
        }
    }
    Some((status, length, retry_after))
}
