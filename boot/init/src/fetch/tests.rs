#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc,
};

/// Answers each connection with the next of `answers`, then with 404; sends the requests back.
fn server(answers: Vec<Vec<u8>>) -> (SocketAddrV4, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(addr) = listener.local_addr().unwrap() else { unreachable!() };
    let (send, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(&answer).unwrap();
            send.send(String::from_utf8(request).unwrap()).unwrap();
        }
    });
    (addr, requests)
}

fn full(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn part(body: &[u8], from: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 206 P\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n\r\n",
        body.len() - from,
        body.len() - 1,
        body.len()
    );
    [head.as_bytes(), &body[from..]].concat()
}

fn body() -> Vec<u8> {
    (0..BLOCK * 3 + 100).map(|i| (i % 251) as u8).collect()
}

#[test]
fn a_connection_cut_in_the_middle_is_resumed_at_the_last_whole_block() {
    let body = body();
    let mut cut = full(&body);
    cut.truncate(cut.len() - BLOCK - 500);
    let (addr, requests) = server(vec![cut, part(&body, BLOCK)]);
    let mut got = Vec::new();
    stream(addr, "/b", body.len() as u64, "it", &mut |at, bytes| {
        assert_eq!(at, got.len() as u64);
        got.extend_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    assert!(got == body);
    assert!(!requests.recv().unwrap().contains("Range"));
    assert!(requests.recv().unwrap().contains("Range: bytes=4096-\r\n"));
}

/// Bytes of a part, fetched from `addr`.
fn get_part(addr: SocketAddrV4, size: usize, part: Range<u64>) -> Vec<u8> {
    let mut got = Vec::new();
    let one = Download {
        server: addr,
        path: "/b",
        size: size as u64,
        part: Some(part.clone()),
        what: "it",
        in_turn: false,
        endless: &|| false,
    };
    one.run(&mut |at, bytes| {
        assert_eq!(at, part.start + got.len() as u64);
        got.extend_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    got
}

#[test]
fn a_part_is_asked_for_by_both_its_ends_and_out_of_turn() {
    let body = body();
    let range = BLOCK..BLOCK * 2;
    let answer = [
        format!(
            "HTTP/1.1 206 P\r\nContent-Length: {BLOCK}\r\nContent-Range: bytes {BLOCK}-{}/{}\r\n\r\n",
            range.end - 1,
            body.len()
        )
        .as_bytes(),
        &body[range.clone()],
    ]
    .concat();
    let (addr, requests) = server(vec![answer]);
    assert!(get_part(addr, body.len(), 4096..8192) == body[range.clone()]);
    let request = requests.recv().unwrap();
    assert!(request.contains("Range: bytes=4096-8191\r\n") && !request.contains("Prefer"), "{request}");
    // From a server without ranges no more than the part is taken.
    let (addr, _requests) = server(vec![full(&body)]);
    assert!(get_part(addr, body.len(), 4096..8192) == body[range]);
}

#[test]
fn who_must_have_it_tries_without_end() {
    let gone = || b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (addr, _requests) = server((0..4).map(|_| gone()).chain([full(&body())]).collect());
    let size = body().len() as u64;
    let mut got = 0;
    let all =
        Download { server: addr, path: "/b", size, part: None, what: "it", in_turn: true, endless: &|| true };
    all.run(&mut |_, bytes| {
        got += bytes.len();
        Ok(())
    })
    .unwrap();
    assert_eq!(got as u64, size);
}

#[test]
fn a_server_without_ranges_is_read_past() {
    let body = body();
    let mut cut = full(&body);
    cut.truncate(cut.len() - BLOCK);
    let (addr, _requests) = server(vec![cut, full(&body)]);
    let got = whole(addr, "/b", Some(body.len() as u64), 0, "it").unwrap();
    assert!(got == body);
}

#[test]
fn a_wrong_block_is_asked_for_again_and_then_refused() {
    let body = body();
    let asked = std::cell::Cell::new(0);
    // The sink takes block 0, then finds block 1 wrong as often as it comes.
    let mut sink = |at: u64, bytes: &[u8]| {
        assert!(at <= BLOCK as u64 && !bytes.is_empty());
        asked.set(asked.get() + 1);
        Err(Problem::Wrong(Wrong { at: BLOCK as u64 }))
    };
    let again = part(&body, BLOCK);
    let (addr, _requests) = server(vec![full(&body), again.clone(), again]);
    let failure = stream(addr, "/b", body.len() as u64, "the rootfs", &mut sink).unwrap_err().0;
    assert_eq!(asked.get(), 3);
    assert!(failure.contains("the rootfs is damaged at byte 4096"), "{failure}");
}

#[test]
fn a_missing_blob_is_not_waited_for_long() {
    let gone = || b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (addr, requests) = server((0..4).map(|_| gone()).collect());
    let failure = whole(addr, "/b", None, 100, "the manifest").unwrap_err().0;
    assert!(failure.contains("does not have it"), "{failure}");
    assert_eq!(requests.iter().count(), 4);
}

#[test]
fn a_server_that_asks_for_patience_is_waited_for_without_giving_up() {
    let later = || b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n".to_vec();
    let answers = (0..TRIES + 3).map(|_| later()).chain([full(&body())]).collect();
    let (addr, requests) = server(answers);
    assert!(whole(addr, "/b", Some(body().len() as u64), 0, "it").unwrap() == body());
    assert!(requests.recv().unwrap().contains("\r\nPrefer: wait=5\r\n"));
}

#[test]
fn waits_grow_and_are_spread() {
    assert_eq!(backoff(1, 1000).as_millis(), 250);
    assert_eq!(backoff(1, 0).as_millis(), 125);
    assert_eq!(backoff(3, 1000).as_millis(), 1000);
    assert_eq!(backoff(60, 1000).as_secs(), 8);
    let eight = Duration::from_secs(8);
    assert_eq!((jittered(eight, 0).as_millis(), jittered(eight, 1000).as_millis()), (8_000, 10_250));
}
