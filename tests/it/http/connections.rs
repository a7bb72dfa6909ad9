//! Connections: slow ones, too many, and their end.

use super::harness::*;
use pristine::{
    httpd::{Pace, Settings},
    model::AttemptId,
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

#[test]
fn a_reader_that_stands_still_is_ended() {
    let pace = Pace { bytes: 64 << 20, time: Duration::from_millis(300) };
    let served = serve_image(Settings { pace, ..Settings::default() }, true);
    let digest = kernel().1;
    let mut stream = served.connect();
    write!(stream, "GET /blobs/{digest}?boot=0000000000000003 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(served.told(), Told::Blob(AttemptId(3), digest, false));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < KERNEL, "it was cut off, and the client sees that by Content-Length");
}

#[test]
fn more_readers_that_stand_still_than_threads_keep_no_blob_from_others_and_have_theirs_when_they_go_on() {
    let served = serve_image(Settings { max_per_peer: 200, ..Settings::default() }, true);
    let (bytes, digest) = kernel();
    let ask = || {
        let mut stream = served.connect();
        write!(stream, "GET /blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        stream
    };
    let still: Vec<TcpStream> = std::iter::repeat_with(ask).take(100).collect();
    for stream in std::iter::once(ask()).chain(still.into_iter().take(2)) {
        let mut answer = Vec::new();
        (&stream).read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(bytes));
    }
}

#[test]
fn who_fetches_a_blob_stays_where_there_is_no_room_and_who_waits_longest_goes() {
    let served = serve_image(Settings { max_connections: 3, ..Settings::default() }, true);
    let (bytes, digest) = kernel();
    let ask = |path: &str| {
        let mut stream = served.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=1-\r\n\r\n")
            .unwrap();
        stream
    };
    // Not the whole blob, whose end would wait for its proof: all of this is handed over at once.
    let mut fetching = ask(&format!("/blobs/{digest}"));
    let mut answer = vec![0; 100_000];
    fetching.read_exact(&mut answer).unwrap();
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut small = String::new();
        ask("/healthz").read_to_string(&mut small).unwrap();
        assert!(small.ends_with("ok\n"));
        // Another that waits, so that there is no room for the next.
        idle.push(served.connect());
    }
    drop(idle);
    fetching.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&bytes[1..]));
}

#[test]
fn a_header_that_never_ends_and_an_idle_connection_are_ended() {
    let served = serve_with(Settings { header_time: Duration::from_millis(200), ..Settings::default() });
    let mut slow = served.connect();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost:").unwrap();
    let mut rest = Vec::new();
    // Ended with or without an answer; that it ends is what counts.
    let _ = slow.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    let mut idle = served.connect();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    idle.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(b"ok\n"), "answered, then idle until ended");
}

#[test]
fn connections_are_bounded_for_one_peer_and_for_all() {
    let served = serve_with(Settings { max_per_peer: 2, ..Settings::default() });
    let ask = |stream: &mut TcpStream| {
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).is_ok()
    };
    let mut held: Vec<TcpStream> = (0..2).map(|_| served.connect()).collect();
    assert!(held.iter_mut().all(ask));
    assert!(!ask(&mut served.connect()), "a third is closed");
    held.clear();
    let again = std::iter::repeat_with(|| ask(&mut served.connect())).take(1000).any(|answered| answered);
    assert!(again, "places are given back");

    let served = serve_with(Settings { max_connections: 1, ..Settings::default() });
    let mut first = served.connect();
    assert!(ask(&mut first));
    let mut second = served.connect();
    second.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    drop(first);
    let mut answer = [0; 8];
    second.read_exact(&mut answer).expect("it waited for its turn");
}

#[test]
fn headers_without_end_are_refused() {
    let served = serve();
    let mut stream = served.connect();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").unwrap();
    let line = format!("x-filler: {}\r\n", "y".repeat(1000));
    for _ in 0..40 {
        if stream.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    let mut answer = [0; 12];
    // The server may close with our bytes unread, which resets the connection.
    if stream.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
}

#[test]
fn a_stop_lets_what_runs_end_and_then_cuts_it_off() {
    let grace = Duration::from_millis(100);
    let served = serve_image(Settings { grace, ..Settings::default() }, true);
    let mut idle = served.connect();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0; 8];
    idle.read_exact(&mut answer).unwrap();
    let digest = kernel().1;
    let mut stuck = served.connect();
    write!(stuck, "GET /blobs/{digest}?boot=0000000000000004 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stuck.read_exact(&mut answer).unwrap();
    served.stop.send(true).unwrap();
    let Served { running, runtime, told, .. } = served;
    runtime.block_on(async { tokio::time::timeout(BOUND, running).await }).unwrap().unwrap().unwrap();
    let fetched = told.recv_timeout(BOUND).unwrap();
    assert_eq!(fetched, Told::Blob(AttemptId(4), digest, false), "cut off is not whole");
    idle.read_to_end(&mut Vec::new()).expect("the idle connection was closed in order");
}
