//! The TFTP server through real sockets and with real clients (atftp, tftp-hpa, curl).

use bytes::Bytes;
use pristine::{
    lab::{
        Net,
        process::{output_within, tethered},
    },
    netboot::ServerAddr,
    provisioner::{FileAnswer, TransferOutcome},
    tftpd::{Files, Server, Settings},
};
use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    path::PathBuf,
    sync::{Arc, atomic::Ordering, mpsc},
    time::Duration,
};
use tokio::{runtime::Runtime, sync::watch};

const BOUND: Duration = Duration::from_secs(30);

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let mut raw = [0; 8];
        getrandom::fill(&mut raw).unwrap();
        let path = std::env::temp_dir().join(format!("pristine-tftp-{:016x}", u64::from_ne_bytes(raw)));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Files by name, and every outcome as it is told.
#[derive(Clone)]
struct Shelf {
    files: Arc<BTreeMap<String, Bytes>>,
    told: mpsc::Sender<(String, TransferOutcome)>,
}

impl Files for Shelf {
    async fn open(&self, server: ServerAddr, peer: SocketAddrV4, name: &str) -> FileAnswer {
        match name {
            "autoexec.ipxe" => FileAnswer::Found(format!("#!ipxe\n# {} {}\n", server.ip, peer.ip()).into()),
            "forbidden" => FileAnswer::Refused("not for this machine".into()),
            name => self.files.get(name).cloned().map_or(FileAnswer::NotFound, FileAnswer::Found),
        }
    }

    async fn done(&self, _: Ipv4Addr, name: &str, outcome: TransferOutcome) {
        let _ = self.told.send((name.to_owned(), outcome));
    }
}

struct Served {
    addr: SocketAddr,
    told: mpsc::Receiver<(String, TransferOutcome)>,
    counters: Arc<pristine::tftpd::Counters>,
    _stop: watch::Sender<bool>,
    _runtime: Runtime,
}

fn program(len: usize) -> Bytes {
    (0..len as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).take(len).collect()
}

fn serve_with(settings: Settings) -> Served {
    serve_at(Ipv4Addr::LOCALHOST, settings)
}

/// In the network namespace of this thread.
fn serve_at(ip: Ipv4Addr, settings: Settings) -> Served {
    let files = [("snponly.efi", 270_001), ("whole.bin", 512 * 64), ("empty", 0), ("grub/grub.cfg", 100)];
    let files = files.into_iter().map(|(name, len)| (name.to_owned(), program(len))).collect();
    let (sender, told) = mpsc::channel();
    let shelf = Shelf { files: Arc::new(files), told: sender };
    let here = ServerAddr { ip, http_port: 8080 };
    let server = Server::bind(Settings { servers: vec![here], port: 0, ..settings }).unwrap();
    let (addr, counters) = (server.local_addrs()[0], server.counters());
    let runtime = Runtime::new().unwrap();
    let (stop, stopped) = watch::channel(false);
    runtime.spawn(server.run(shelf, stopped));
    Served { addr, told, counters, _stop: stop, _runtime: runtime }
}

fn serve() -> Served {
    serve_with(Settings::default())
}

impl Served {
    fn outcome(&self) -> (String, TransferOutcome) {
        self.told.recv_timeout(BOUND).expect("an outcome is told for each transfer")
    }

    fn completed(&self, name: &str, bytes: usize) {
        assert_eq!(self.outcome(), (name.to_owned(), TransferOutcome::Complete { bytes: bytes as u64 }));
    }

    /// A client socket of our own, for the order of packets that a firmware has.
    fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket
    }
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 65_535];
    let (len, from) = socket.recv_from(&mut buffer).expect("an answer");
    (buffer[..len].to_vec(), from)
}

fn rrq(name: &str, options: &str) -> Vec<u8> {
    [b"\0\x01", name.as_bytes(), b"\0octet\0", options.as_bytes()].concat()
}

/// Runs the client to its end in `folder` and returns all that it said.
fn run(folder: &Folder, program: &str, args: &[&str]) -> String {
    let mut command = tethered(program);
    command.args(args).current_dir(&folder.0);
    let out = output_within(command, BOUND).unwrap();
    [out.stdout, out.stderr].concat().iter().map(|b| char::from(*b)).collect()
}

#[test]
fn atftp_fetches_whole_files_with_each_option() {
    let served = serve();
    let port = served.addr.port().to_string();
    let folder = Folder::new();
    for options in [
        &[][..],
        &["--option", "blksize 1428"],
        &["--option", "blksize 65464", "--option", "windowsize 4"],
        &["--option", "blksize 512", "--option", "windowsize 64"],
        &["--option", "windowsize 16", "--option", "tsize 0", "--option", "timeout 3"],
    ] {
        let _ = fs::remove_file(folder.0.join("got"));
        let get = ["-g", "-r", "snponly.efi", "-l", "got", "127.0.0.1", &port];
        let said = run(&folder, "atftp", &[options, &get].concat());
        let got = fs::read(folder.0.join("got")).unwrap_or_else(|e| panic!("{options:?}: {e}; {said}"));
        assert!(got == program(270_001), "{options:?}: {} bytes; {said}", got.len());
        served.completed("snponly.efi", 270_001);
    }
}

#[test]
fn tftp_hpa_and_curl_fetch_files_of_every_awkward_length() {
    let served = serve();
    let port = served.addr.port().to_string();
    let folder = Folder::new();
    for (name, len) in
        [("snponly.efi", 270_001), ("whole.bin", 512 * 64), ("empty", 0), ("grub/grub.cfg", 100)]
    {
        let said = run(&folder, "tftp", &["-m", "binary", "127.0.0.1", &port, "-c", "get", name, "hpa"]);
        assert!(fs::read(folder.0.join("hpa")).unwrap() == program(len), "tftp-hpa {name}: {said}");
        served.completed(name, len);
        if len == 0 {
            // curl closes its port on learning that the size is 0: it has all it wants.
            continue;
        }
        let url = format!("tftp://{}/{name}", served.addr);
        let said = run(&folder, "curl", &["-sS", "--tftp-blksize", "1400", "-o", "curl", &url]);
        assert!(fs::read(folder.0.join("curl")).unwrap() == program(len), "curl {name}: {said}");
        served.completed(name, len);
    }
}

#[test]
fn each_machine_gets_its_own_autoexec() {
    let served = serve();
    let folder = Folder::new();
    run(&folder, "curl", &["-sS", "-o", "got", &format!("tftp://{}//autoexec.ipxe", served.addr)]);
    assert_eq!(fs::read_to_string(folder.0.join("got")).unwrap(), "#!ipxe\n# 127.0.0.1 127.0.0.1\n");
}

#[test]
fn writing_is_refused_and_so_is_what_does_not_exist_or_leaves_the_folder() {
    let served = serve();
    let port = served.addr.port().to_string();
    let folder = Folder::new();
    fs::write(folder.0.join("mine"), b"x").unwrap();
    let said =
        run(&folder, "tftp", &["-m", "binary", "127.0.0.1", &port, "-c", "put", "mine", "snponly.efi"]);
    assert!(said.contains("read-only server"), "{said}");
    let said = run(&folder, "atftp", &["-p", "-l", "mine", "-r", "mine", "127.0.0.1", &port]);
    assert!(said.contains("read-only server"), "{said}");
    for (name, mode, code, words) in [
        ("absent", "octet", 1, "not found"),
        ("../../etc/passwd", "octet", 2, "no name"),
        ("forbidden", "octet", 2, "not for this machine"),
        ("snponly.efi", "netascii", 0, "octet"),
        ("snponly.efi", "mail", 4, "octet"),
    ] {
        let client = served.client();
        let request = [b"\0\x01", name.as_bytes(), b"\0", mode.as_bytes(), b"\0"].concat();
        client.send_to(&request, served.addr).unwrap();
        let (packet, _) = receive(&client);
        assert_eq!(packet[..4], [0, 5, 0, code], "{name}");
        let text = String::from_utf8_lossy(&packet[4..]).into_owned();
        assert!(text.contains(words), "{name}: {text}");
    }
    assert!(served.told.try_recv().is_err(), "a refusal is no transfer");
    assert_eq!(served.counters.refused.load(Ordering::Relaxed), 7);
}

/// What EDK2's PXE does: ask for the size, decline with ERROR 8, ask again from the same port.
fn edk2(client: &UdpSocket, server: SocketAddr) -> SocketAddr {
    client.send_to(&rrq("snponly.efi", "tsize\x000\0blksize\x001468\0windowsize\x004\0"), server).unwrap();
    let (oack, transfer) = receive(client);
    assert_eq!(oack[..2], [0, 6]);
    client.send_to(b"\0\x05\0\x08User aborted the transfer\0", transfer).unwrap();
    transfer
}

#[test]
fn edk2s_size_probe_and_its_second_request_from_the_same_port() {
    let served = serve();
    let client = served.client();
    edk2(&client, served.addr);
    client.send_to(&rrq("snponly.efi", "blksize\x001468\0windowsize\x004\0"), served.addr).unwrap();
    let (oack, transfer) = receive(&client);
    assert_eq!(oack, b"\0\x06blksize\x001468\0windowsize\x004\0", "tsize was not asked for again");
    client.send_to(b"\0\x04\0\0", transfer).unwrap();
    let mut got = Vec::new();
    loop {
        let (packet, from) = receive(&client);
        assert_eq!((&packet[..2], from), (&[0, 3][..], transfer), "nothing of the first request comes");
        got.extend_from_slice(&packet[4..]);
        let number = u16::from_be_bytes([packet[2], packet[3]]);
        let last = packet.len() < 1472;
        if last || number.is_multiple_of(4) {
            client.send_to(&[0, 4, packet[2], packet[3]], transfer).unwrap();
        }
        if last {
            break;
        }
    }
    assert!(got == program(270_001));
    assert_eq!(served.outcome(), ("snponly.efi".to_owned(), TransferOutcome::Probe));
    served.completed("snponly.efi", 270_001);
}

/// Why the engine is our own: async-tftp 0.4 knows nothing of a client's ERROR, and sends its OACK
/// to a client that has refused it, by default every 3 s for 5 minutes. If this test fails, it has
/// been mended: think again.
#[test]
fn async_tftp_resends_the_oack_that_edk2_has_refused_and_we_do_not() {
    let folder = Folder::new();
    fs::write(folder.0.join("snponly.efi"), program(270_001)).unwrap();
    let path = folder.0.clone();
    let (sender, addr) = mpsc::channel();
    // Its thread ends with the test's process: it has no way to be stopped.
    std::thread::spawn(move || {
        let builder = async_tftp::server::TftpServerBuilder::with_dir_ro(path).unwrap();
        let builder = builder.bind("127.0.0.1:0".parse().unwrap()).timeout(Duration::from_millis(200));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let server = runtime.block_on(builder.max_send_retries(3).build()).unwrap();
        sender.send(server.listen_addr().unwrap()).unwrap();
        let _ = runtime.block_on(server.serve());
    });
    let theirs = addr.recv_timeout(BOUND).unwrap();
    let served = serve();
    let (asks_them, asks_us) = (served.client(), served.client());
    edk2(&asks_them, theirs);
    let transfer = edk2(&asks_us, served.addr);
    let (again, _) = receive(&asks_them);
    assert_eq!(again[..2], [0, 6], "async-tftp sends its OACK again");
    assert_eq!(served.outcome().1, TransferOutcome::Probe);
    // Our transfer's port is closed: nothing can come from it any more.
    let SocketAddr::V4(transfer) = transfer else { panic!() };
    UdpSocket::bind(transfer).expect("the port of the transfer is free again");
}

#[test]
fn a_request_sent_twice_is_one_transfer() {
    let served = serve();
    let client = served.client();
    let request = rrq("whole.bin", "windowsize\x002\0");
    client.send_to(&request, served.addr).unwrap();
    let (_, transfer) = receive(&client);
    client.send_to(&request, served.addr).unwrap();
    // Another client is served after it: by then the repeated one has been looked at.
    let other = served.client();
    other.send_to(&rrq("empty", ""), served.addr).unwrap();
    assert_eq!(receive(&other).0, [0, 3, 0, 1]);
    assert_eq!(served.counters.repeated.load(Ordering::Relaxed), 1);
    client.send_to(b"\0\x04\0\0", transfer).unwrap();
    loop {
        let (packet, from) = receive(&client);
        if packet[1] == 3 {
            assert_eq!((packet[3], from), (1, transfer));
            break;
        }
        assert_eq!((packet[1], from), (6, transfer), "one OACK, perhaps sent again by its timer");
    }
}

/// The kernel cuts a window into packets no more then: it refuses what is longer than the link's frames.
#[test]
fn a_link_whose_frames_become_shorter_amid_a_window_gets_its_packets_one_by_one() {
    let (len, at_once) = (1_400, 8);
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/16").unwrap();
    let machine = net.host("machine", "198.18.0.2/16").unwrap();
    let ip = Ipv4Addr::new(198, 18, 0, 1);
    let served = server.enter(|| serve_at(ip, Settings::default())).unwrap();
    let client = machine.enter(|| UdpSocket::bind("198.18.0.2:0").unwrap()).unwrap();
    client.set_read_timeout(Some(BOUND)).unwrap();
    let options = format!("blksize\0{len}\0windowsize\0{at_once}\0");
    client.send_to(&rrq("whole.bin", &options), served.addr).unwrap();
    let (oack, transfer) = receive(&client);
    assert_eq!(oack, [b"\0\x06", options.as_bytes()].concat());
    client.send_to(b"\0\x04\0\0", transfer).unwrap();
    let (mut file, mut block, mut is_last) = (Vec::new(), 0, false);
    while !is_last {
        let (packet, _) = receive(&client);
        // Where this test is slow, the server's timer sends a window again.
        if packet[..4] != [0, 3, 0, block + 1] {
            continue;
        }
        block += 1;
        file.extend(&packet[4..]);
        is_last = packet.len() < 4 + len;
        if block == at_once {
            server.run(&["ip", "link", "set", "eth0", "mtu", "1000"]).unwrap();
        }
        if is_last || block % at_once == 0 {
            client.send_to(&[0, 4, 0, block], transfer).unwrap();
        }
    }
    assert_eq!(file, program(512 * 64));
    served.completed("whole.bin", file.len());
}

#[test]
fn a_client_that_closes_its_port_or_says_why_is_recorded_as_that() {
    let served = serve();
    let client = served.client();
    client.send_to(&rrq("snponly.efi", "blksize\x001024\0"), served.addr).unwrap();
    let (_, transfer) = receive(&client);
    client.send_to(b"\0\x04\0\0", transfer).unwrap();
    assert_eq!(receive(&client).0[..4], [0, 3, 0, 1]);
    client.send_to(b"\0\x04\0\x01", transfer).unwrap();
    client.send_to(b"\0\x05\0\x03out of memory\0", transfer).unwrap();
    let (_, TransferOutcome::Aborted { at: 1024, why }) = served.outcome() else { panic!() };
    assert!(why.contains("out of memory"), "{why}");

    let client = served.client();
    client.send_to(&rrq("snponly.efi", ""), served.addr).unwrap();
    receive(&client);
    drop(client);
    let (_, TransferOutcome::Aborted { at: 0, why }) = served.outcome() else { panic!() };
    assert!(why.contains("closed its port"), "{why}");
}

#[test]
fn more_transfers_than_allowed_wait_for_their_turn() {
    let served = serve_with(Settings { max_per_peer: 2, ..Settings::default() });
    let clients: Vec<UdpSocket> = (0..3).map(|_| served.client()).collect();
    let mut transfers = Vec::new();
    for client in &clients[..2] {
        client.send_to(&rrq("snponly.efi", ""), served.addr).unwrap();
        transfers.push(receive(client).1);
    }
    clients[2].send_to(&rrq("empty", ""), served.addr).unwrap();
    let dropped = || served.counters.over_bound.load(Ordering::Relaxed) == 1;
    wait_until("the third request is dropped", dropped);
    clients[0].send_to(b"\0\x05\0\0bye\0", transfers[0]).unwrap();
    served.outcome();
    clients[2].send_to(&rrq("empty", ""), served.addr).unwrap();
    assert_eq!(receive(&clients[2]).0, [0, 3, 0, 1], "it asked again and is served");
}

#[test]
fn junk_is_counted_and_changes_nothing() {
    let served = serve();
    let client = served.client();
    for junk in [&b""[..], b"\0", b"\0\x01snponly.efi", b"\0\x09\0\0", &[0xff; 600]] {
        client.send_to(junk, served.addr).unwrap();
    }
    wait_until("all junk is counted", || served.counters.malformed.load(Ordering::Relaxed) == 5);
    client.send_to(&rrq("empty\u{0}", ""), served.addr).unwrap();
    assert_eq!(receive(&client).0, [0, 3, 0, 1]);
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + BOUND;
    while !holds() {
        assert!(std::time::Instant::now() < end, "not within {BOUND:?}: {what}");
        std::thread::yield_now();
    }
}
