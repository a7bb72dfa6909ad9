//! HTTP as the fleet's machines speak it: one request a connection, from the machine's own address.

use crate::model::Digest;
use sha2::{Digest as _, Sha256};
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
/// Most of a body that is kept; the rest is read, counted and hashed.
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
    /// False where it is a whole blob, and not the one that the path names.
    pub intact: bool,
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
        read(&mut stream, self.blob()).await
    }

    /// The blob that the path names.
    fn blob(&self) -> Option<Digest> {
        let rest = self.path.strip_prefix("/blobs/")?;
        rest.split(['/', '?']).next()?.parse().ok()
    }
}

async fn read(stream: &mut TcpStream, blob: Option<Digest>) -> io::Result<Answer> {
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
    let mut hash = Sha256::new_with_prefix(&body);
    while have < length {
        let n = some(stream, &mut piece).await?;
        have += n as u64;
        let got = piece.get(..n).unwrap_or_default();
        hash.update(got);
        let room = MAX_KEPT.saturating_sub(body.len()).min(n);
        body.extend_from_slice(got.get(..room).unwrap_or_default());
    }
    let intact = status != 200 || blob.is_none_or(|blob| hash.finalize()[..] == blob.0);
    Ok(Answer { status, retry_after, body, bytes: have, intact })
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// What a machine makes of this body for a path.
    async fn got(path: &str, body: &[u8]) -> Answer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let SocketAddr::V4(server) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
            // Until the machine has it all.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let from = Ipv4Addr::LOCALHOST;
        let request = Request { from, server, method: "GET", path, headers: "", body: "" };
        let (answer, ()) = tokio::join!(request.send(), serve);
        answer.unwrap()
    }

    #[tokio::test]
    async fn a_whole_blob_is_held_against_its_name() {
        let body: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let path = format!("/blobs/{}?boot=7", Digest::of(&body));
        let answer = got(&path, &body).await;
        assert_eq!((answer.intact, answer.bytes), (true, 300_000));
        let mut other = body.clone();
        other[290_000] ^= 1;
        assert!(!got(&path, &other).await.intact);
        assert!(got("/boot/script", &other).await.intact, "no blob");
    }
}
