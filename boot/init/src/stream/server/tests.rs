#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;
use crate::{
    digest::Digest,
    manifest::{Blob, RootFs, Verity},
    report::Reporter,
    verity::{BLOCK, tests as verity},
};
use std::{
    net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
};

/// Seven pieces and a short one that ends within a block.
const SIZE: usize = PIECE as usize * 7 + BLOCK + 100;

fn bytes() -> Vec<u8> {
    (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A server of ranges, of bytes that change under it; what was asked of it.
#[derive(Clone)]
struct Source {
    bytes: Arc<Mutex<Vec<u8>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Source {
    fn start() -> (Source, SocketAddrV4) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(addr) = listener.local_addr().unwrap() else { unreachable!() };
        let source = Source { bytes: Arc::new(Mutex::new(bytes())), asked: Arc::default() };
        let served = source.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                served.answer(stream.unwrap());
            }
        });
        (source, addr)
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let range = head.split("Range: bytes=").nth(1).and_then(|rest| rest.split("\r\n").next());
        self.asked.lock().unwrap().push(range.unwrap_or("a report").to_owned());
        let Some(range) = range else {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            return;
        };
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let head = format!(
            "HTTP/1.1 206 P\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{SIZE}\r\n\r\n",
            last + 1 - first
        );
        let body = self.bytes.lock().unwrap()[first..=last].to_vec();
        // Who has seen a wrong block goes.
        let _ = stream.write_all(&[head.as_bytes(), &body].concat());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// One that serves; the kernel's end, and process 1's.
fn serving(addr: SocketAddrV4) -> (Arc<Server>, UnixStream, UnixStream) {
    let mut padded = bytes();
    padded.resize(SIZE.next_multiple_of(BLOCK), 0);
    let (tree, root_hash) = verity::build(&padded);
    let digest = Digest([1; 32]);
    let blocks = (padded.len() / BLOCK) as u64;
    let tree_blob = Blob { digest, size: tree.len() as u64 };
    let verity = Verity { root_hash, salt: verity::SALT, data_blocks: blocks, tree: tree_blob };
    let rootfs = RootFs { blob: Blob { digest, size: SIZE as u64 }, verity };
    let reporter = Reporter { server: addr, attempt: "1".into(), token: "t".into() };
    let job = Job { reporter, rootfs, data: 0, tree: 0 };
    let data = root::memory_file("test", rootfs.bytes()).unwrap();
    let (kernel, ours) = UnixStream::pair().unwrap();
    let (control, process_1) = UnixStream::pair().unwrap();
    kernel.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let server = Server::new(job, tree, data, ours.try_clone().unwrap(), control).unwrap();
    let server = Arc::new(server);
    let (serves, fetches) = (Arc::clone(&server), Arc::clone(&server));
    thread::spawn(move || serves.serve(ours));
    thread::spawn(move || fetches.fetch_for_reads());
    (server, kernel, process_1)
}

/// Asks as the kernel does; the bytes, or the error's number.
fn read(kernel: &mut UnixStream, from: u64, len: u32) -> std::result::Result<Vec<u8>, u32> {
    let request =
        [&0x2560_9513u32.to_be_bytes()[..], &[0; 4], b"COOKIE!!", &from.to_be_bytes(), &len.to_be_bytes()];
    kernel.write_all(&request.concat()).unwrap();
    let mut head = [0; 16];
    kernel.read_exact(&mut head).unwrap();
    assert_eq!(&head[8..], b"COOKIE!!");
    match u32::from_be_bytes(head[4..8].try_into().unwrap()) {
        0 => {
            let mut out = vec![0; len as usize];
            kernel.read_exact(&mut out).unwrap();
            Ok(out)
        }
        error => Err(error),
    }
}

#[test]
fn a_read_has_its_pieces_fetched_and_no_others_and_only_once() {
    let (source, addr) = Source::start();
    let (server, mut kernel, _process_1) = serving(addr);
    let from = PIECE * 2 - 4096;
    let got = read(&mut kernel, from, 8192).unwrap();
    assert!(got == bytes()[from as usize..][..8192]);
    assert!(read(&mut kernel, from, 4096).unwrap() == got[..4096]);
    assert_eq!(source.asked(), [format!("{}-{}", PIECE, PIECE * 4 - 1)], "two pieces, and one ahead");
    assert!(server.data.metadata().unwrap().blocks() * 512 <= PIECE * 3);
    // The end, padded to a block.
    let end = (SIZE / BLOCK * BLOCK) as u64;
    let got = read(&mut kernel, end, 4096).unwrap();
    assert!(got[..100] == bytes()[end as usize..] && got[100..].iter().all(|b| *b == 0));
    assert_eq!(read(&mut kernel, end + 4096, 4096), Err(nbd::WRONG), "behind it");
}

#[test]
fn a_wrong_block_is_neither_kept_nor_given_and_its_piece_alone_is_lost() {
    let (source, addr) = Source::start();
    let (server, mut kernel, mut process_1) = serving(addr);
    let at = PIECE as usize * 3 + BLOCK * 5;
    source.bytes.lock().unwrap()[at + 77] ^= 1;
    assert_eq!(read(&mut kernel, PIECE * 3, 4096), Err(nbd::NOT_TO_BE_HAD));
    let mut kept = vec![0; BLOCK];
    server.data.read_exact_at(&mut kept, at as u64).unwrap();
    assert!(kept.iter().all(|b| *b == 0), "it is not in memory");
    let mut said = vec![0; 400];
    let n = process_1.read(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..n]).into_owned();
    assert!(said.starts_with(&format!("{FAILED}the rootfs is damaged at byte {at}")), "{said}");
    // All others come, after the report, and when the server has been put right this one, too.
    assert!(read(&mut kernel, PIECE * 4, 4096).unwrap() == bytes()[PIECE as usize * 4..][..4096]);
    assert!(source.asked().contains(&"a report".to_owned()));
    source.bytes.lock().unwrap()[at + 77] ^= 1;
    server.state().pieces.forgive();
    server.fetch_the_rest();
    let mut all = vec![0; SIZE];
    server.data.read_exact_at(&mut all, 0).unwrap();
    assert!(all == bytes());
    assert!(read(&mut kernel, at as u64, 4096).unwrap() == bytes()[at..][..4096]);
}

#[test]
fn who_takes_over_proves_what_the_one_before_has_left() {
    let (_source, addr) = Source::start();
    let (server, mut kernel, _process_1) = serving(addr);
    let all = bytes();
    let piece = |n: usize| &all[PIECE as usize * n..][..PIECE as usize];
    server.data.write_all_at(piece(1), PIECE).unwrap();
    // Died in the middle; and a byte that nobody wrote.
    server.data.write_all_at(&piece(2)[..BLOCK * 3], PIECE * 2).unwrap();
    server.data.write_all_at(piece(5), PIECE * 5).unwrap();
    server.data.write_all_at(&[!piece(5)[9]], PIECE * 5 + 9).unwrap();
    server.find_what_is_here();
    let here: Vec<usize> = (0..8).filter(|n| server.state().pieces.has(*n)).collect();
    assert_eq!(here, [1]);
    assert!(read(&mut kernel, PIECE * 5, 4096).unwrap() == piece(5)[..4096]);
}
