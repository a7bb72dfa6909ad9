//! HTTP for machines, through real sockets and with curl.

use bytes::Bytes;
use pristine::{
    httpd::{Machines, Pace, Server, Settings, Turns},
    lab::process::{output_within, tethered},
    model::{Arch, AttemptId, Digest, Facts, Mac, Manifest},
    netboot::ServerAddr,
    provisioner::{
        ConfigError, ConfigQuery, FileAnswer, Order, Report, ReportError, ScriptError, ScriptQuery,
        TransferOutcome,
    },
    store::ImageStore,
};
use pristine_signature::{SecretKey, Zeroizing};
use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{OnceLock, mpsc},
    time::Duration,
};
use tokio::{runtime::Runtime, sync::watch};

const BOUND: Duration = Duration::from_secs(30);
/// More than the socket buffers of both ends.
const KERNEL: usize = 24 << 20;

/// A folder that goes with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        let mut raw = [0; 8];
        getrandom::fill(&mut raw).unwrap();
        let path = std::env::temp_dir().join(format!("pristine-http-{:016x}", u64::from_ne_bytes(raw)));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug, PartialEq)]
enum Told {
    Blob(AttemptId, Digest, bool),
    File(String, TransferOutcome),
    Report(Report),
    Facts(Box<Facts>),
}

/// Stands in for the provisioner, and tells what it is told.
#[derive(Clone)]
struct Stand(mpsc::Sender<Told>);

impl Machines for Stand {
    async fn file(&self, _: ServerAddr, _: Ipv4Addr, name: &str) -> FileAnswer {
        match name {
            "snponly.efi" => FileAnswer::Found(Bytes::from_static(b"an EFI program")),
            "forbidden.efi" => FileAnswer::Refused("not for this machine".into()),
            _ => FileAnswer::NotFound,
        }
    }

    async fn file_done(&self, _: Ipv4Addr, name: &str, outcome: TransferOutcome) {
        let _ = self.0.send(Told::File(name.to_owned(), outcome));
    }

    async fn script(
        &self,
        server: ServerAddr,
        _: Ipv4Addr,
        query: ScriptQuery,
    ) -> Result<String, ScriptError> {
        match query.mac.parse::<pristine::model::Mac>() {
            Ok(mac) => Ok(format!("#!ipxe\n# {mac} {} {}\n", query.manufacturer, server.base_url())),
            Err(_) => Err(ScriptError::BadMac(query.mac)),
        }
    }

    fn takes_turns(&self, boot: AttemptId, digest: Digest) -> Option<Option<String>> {
        (boot.0 < 0x100 && digest == kernel().1).then(|| Some(format!("rack {}", boot.0 / 0x10)))
    }

    async fn blob_begun(&self, _: AttemptId, _: Digest) {}

    async fn blob_fetched(&self, boot: AttemptId, digest: Digest, complete: bool) {
        let _ = self.0.send(Told::Blob(boot, digest, complete));
    }

    async fn config(&self, token: &str, peer: Ipv4Addr, query: ConfigQuery) -> Result<Vec<u8>, ConfigError> {
        match token {
            "good" => Ok(format!(r#"{{"hostname":"{peer}-{}"}}"#, query.nonce).into_bytes()),
            _ => Err(ConfigError::Taken),
        }
    }

    async fn report(&self, token: &str, report: Report) -> Result<(), ReportError> {
        match (token, &report) {
            ("good", Report::Stage { detail: Some(detail), .. }) if detail == "again" => {
                Err(ReportError::Already)
            }
            ("good", _) => {
                let _ = self.0.send(Told::Report(report));
                Ok(())
            }
            _ => Err(ReportError::UnknownToken),
        }
    }

    async fn facts(&self, token: &str, facts: Facts) -> Result<(), ReportError> {
        match token {
            "good" => {
                let _ = self.0.send(Told::Facts(Box::new(facts)));
                Ok(())
            }
            _ => Err(ReportError::DeadToken("failed")),
        }
    }

    async fn orders(
        &self,
        _: ServerAddr,
        _: Ipv4Addr,
        token: &str,
        nic: Option<Mac>,
    ) -> Result<Order, ReportError> {
        match (token, nic) {
            ("wait", _) => Ok(Order::Wait { why: "nothing yet".into() }),
            ("go", Some(_)) => Ok(Order::Restart { why: "told to".into() }),
            _ => Err(ReportError::UnknownToken),
        }
    }
}

pub(crate) struct Served {
    addr: SocketAddr,
    told: mpsc::Receiver<Told>,
    images: ImageStore,
    image: Digest,
    folder: Folder,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<std::io::Result<()>>,
    runtime: Runtime,
}

/// A blob that no socket buffer holds, and its name. Made once: tests are not optimized.
fn kernel() -> &'static (Vec<u8>, Digest) {
    static MADE: OnceLock<(Vec<u8>, Digest)> = OnceLock::new();
    MADE.get_or_init(|| {
        let bytes: Vec<u8> =
            (0..KERNEL as u32 / 4).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let digest = Digest::of(&bytes);
        (bytes, digest)
    })
}

fn initramfs() -> &'static [u8] {
    b"0123456789abcdefghijklmnopqrstuvwxyz"
}

/// Serves an image; its kernel is [`kernel`] where `big`.
fn serve_image(settings: Settings, big: bool) -> Served {
    let folder = Folder::new();
    let images = ImageStore::open(&folder.0.join("store")).unwrap();
    let sealed = |bytes: &[u8], digest| {
        let mut blob = images.blobs().begin().unwrap();
        blob.write_all(bytes).unwrap();
        blob.seal(digest).unwrap()
    };
    let kernel = if big { sealed(&kernel().0, kernel().1) } else { sealed(b"tiny", Digest::of(b"tiny")) };
    let initramfs = sealed(initramfs(), Digest::of(initramfs()));
    let manifest = Manifest {
        schema: 1,
        tag: "web:1".parse().unwrap(),
        arch: Arch::X86_64,
        kernel: kernel.name(),
        initramfs: vec![initramfs.name()],
        rootfs: None,
        cmdline: String::new(),
        native: false,
        labels: BTreeMap::new(),
        provenance: BTreeMap::new(),
    };
    let image = images.publish(vec![kernel, initramfs], &manifest, false).unwrap().digest;
    serve_store(settings, folder, images, image)
}

/// Serves a store that lies in `folder`.
pub(crate) fn serve_store(settings: Settings, folder: Folder, images: ImageStore, image: Digest) -> Served {
    let (sender, told) = mpsc::channel();
    let server = Server::bind(Settings { listen: vec!["127.0.0.1:0".parse().unwrap()], ..settings }).unwrap();
    let addr = server.local_addrs()[0];
    let runtime = Runtime::new().unwrap();
    let (stop, stopped) = watch::channel(false);
    let running = runtime.spawn(server.run(Stand(sender), images.clone(), stopped));
    Served { addr, told, images, image, folder, stop, running, runtime }
}

fn serve_with(settings: Settings) -> Served {
    serve_image(settings, false)
}

fn serve() -> Served {
    serve_with(Settings::default())
}

fn serve_big() -> Served {
    serve_image(Settings::default(), true)
}

impl Served {
    fn told(&self) -> Told {
        self.told.recv_timeout(BOUND).expect("the provisioner is told")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// curl's standard output, with errors; fails only if curl can't be run.
    pub(crate) fn curl(&self, args: &[&str]) -> Vec<u8> {
        let mut command = tethered("curl");
        command.args(["-sS", "--max-time", "25"]).args(args).current_dir(&self.folder.0);
        let out = output_within(command, BOUND).unwrap();
        if out.stdout.is_empty() { out.stderr } else { out.stdout }
    }

    pub(crate) fn text(&self, args: &[&str]) -> String {
        String::from_utf8(self.curl(args)).unwrap().replace('\r', "")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream
    }
}

#[test]
fn an_image_s_signatures_come_one_behind_the_other_and_not_those_of_others() {
    let served = serve_image(Settings::default(), false);
    let ask = |image: &str| {
        served.text(&["-w", "%{http_code}", &served.url(&format!("/images/{image}/signatures"))])
    };
    assert_eq!(ask(&served.image.to_string()), "200");
    let mut all = String::new();
    for n in 1..=2 {
        let key = SecretKey::new(&Zeroizing::new([n; 32]), [n; 8]).unwrap();
        let signature = key.sign(b"manifest", "timestamp:1");
        served.images.keep_signature(served.image, &signature).unwrap();
        all += &signature.to_string();
    }
    assert_eq!(ask(&served.image.to_string()), all + "200");
    assert_eq!(ask(&Digest::of(b"no image").to_string()), "no such image\n404");
    assert!(ask("web:1").ends_with("404"));
}

#[test]
fn a_blob_is_fetched_whole_and_its_boot_is_told_when_the_last_byte_is_out() {
    let served = serve_big();
    let (kernel, digest) = kernel();
    let url = served.url(&format!("//blobs//{digest}/vmlinuz?boot=00000000000000ab"));
    let said = served.text(&["-o", "got", "-w", "%{http_code} %{size_download}", &url]);
    assert_eq!(said, format!("200 {KERNEL}"));
    assert!(fs::read(served.folder.0.join("got")).unwrap() == *kernel);
    assert_eq!(served.told(), Told::Blob(AttemptId(0xab), *digest, true));
    // Where the ending of the name counts, the boot is a part of the path.
    let url = served.url(&format!("/blobs/{digest}/00000000000000ac/rootfs.squashfs"));
    assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", &url]), "200");
    assert_eq!(served.told(), Told::Blob(AttemptId(0xac), *digest, true));
    let head = served.text(&["-I", &served.url(&format!("/blobs/{digest}?boot=00000000000000ab"))]);
    for field in [
        "HTTP/1.1 200 OK\n",
        &format!("etag: \"{digest}\"\n"),
        &format!("content-length: {KERNEL}\n"),
        "accept-ranges: bytes\n",
        "immutable\n",
        "content-type: application/octet-stream\n",
    ] {
        assert!(head.contains(field), "no {field:?} in {head}");
    }
    let image = served.image;
    let manifest = served.curl(&[&served.url(&format!("/blobs/{image}"))]);
    assert_eq!(Digest::of(&manifest), image, "init fetches the manifest as a blob");
    assert!(served.told.try_recv().is_err(), "a HEAD fetches nothing");
}

#[test]
fn roots_are_sent_to_some_at_a_time_and_the_others_wait_or_are_told_when_to_ask() {
    let served =
        serve_image(Settings { turns: Turns { in_all: 2, per_rack: 1 }, ..Settings::default() }, true);
    let path = |boot: u64| format!("/blobs/{}?boot={boot:016x}", kernel().1);
    let begin = |boot: u64| {
        let mut stream = served.connect();
        write!(stream, "GET {} HTTP/1.1\r\nHost: x\r\nPrefer: wait=20\r\n\r\n", path(boot)).unwrap();
        stream
    };
    let begun = |stream: &mut TcpStream| {
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
    };
    // More than the sockets hold: it goes on for as long as nobody reads on.
    let mut first = begin(0x11);
    begun(&mut first);
    let impatient = |boot: u64| {
        let url = served.url(&path(boot));
        served.text(&["-D", "-", "-o", "got", "-H", "Prefer: respond-async, wait=0", &url])
    };
    let said = impatient(0x12);
    assert!(
        said.starts_with("HTTP/1.1 503 ") && said.contains("\nretry-after: "),
        "its rack is full: {said}"
    );
    let mut other = begin(0x21);
    begun(&mut other);
    let mut third = begin(0x31);
    // Who knows nothing of turns, or fetches something else, is served at once.
    for url in [path(0x100), format!("/blobs/{}", kernel().1), path(0x12)] {
        assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", &served.url(&url)]), "200");
    }
    drop(other);
    begun(&mut third);
    drop((first, third));
    while !impatient(0x12).starts_with("HTTP/1.1 200 ") {}
}

#[test]
fn curl_resumes_a_blob_that_broke_off() {
    let served = serve_big();
    let (kernel, digest) = kernel();
    fs::write(served.folder.0.join("got"), &kernel[..5_000_001]).unwrap();
    let url = served.url(&format!("/blobs/{digest}?boot=0000000000000001"));
    let said = served.text(&["-C", "-", "-o", "got", "-w", "%{http_code} %{size_download}", &url]);
    assert_eq!(said, format!("206 {}", KERNEL - 5_000_001));
    assert!(fs::read(served.folder.0.join("got")).unwrap() == *kernel);
    assert_eq!(served.told(), Told::Blob(AttemptId(1), *digest, true), "its end is out: it is whole now");
}

#[test]
fn ranges_one_and_many_and_none() {
    let served = serve();
    let url = served.url(&format!("/blobs/{}", Digest::of(initramfs())));
    let part = served.text(&["-i", "-r", "10-15", &url]);
    assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\n\nabcdef"), "{part}");
    assert!(
        part.contains("content-range: bytes 10-15/36\n") && part.contains("content-length: 6\n"),
        "{part}"
    );
    assert_eq!(served.text(&["-r", "-4", &url]), "wxyz");

    let many = served.text(&["-i", "-r", "0-1,34-", &url]);
    let (head, body) = many.split_once("\n\n").unwrap();
    let boundary = head.split_once("multipart/byteranges; boundary=").unwrap().1.lines().next().unwrap();
    let part = |range: &str, bytes: &str| {
        format!(
            "\n--{boundary}\nContent-Type: application/octet-stream\nContent-Range: bytes {range}/36\n\n{bytes}"
        )
    };
    assert_eq!(body, format!("{}{}\n--{boundary}--\n", part("0-1", "01"), part("34-35", "yz")));

    let beyond = served.text(&["-i", "-r", "36-", &url]);
    assert!(
        beyond.starts_with("HTTP/1.1 416 ") && beyond.contains("content-range: bytes */36\n"),
        "{beyond}"
    );
    let flood = vec!["0-0"; 17].join(",");
    assert_eq!(served.curl(&["-r", &flood, &url]), initramfs());
    assert_eq!(served.curl(&["-r", "0-,0-,0-", &url]), initramfs());
}

#[test]
fn conditions_spare_the_transfer() {
    let served = serve();
    let digest = Digest::of(initramfs());
    let url = served.url(&format!("/blobs/{digest}"));
    let code = |args: &[&str]| served.text(&[args, &["-o", "got", "-w", "%{http_code}", &url]].concat());
    assert_eq!(code(&["-H", &format!("If-None-Match: \"{digest}\"")]), "304");
    assert_eq!(code(&["-H", "If-None-Match: \"other\""]), "200");
    assert_eq!(code(&["-H", "If-Match: \"other\""]), "412");
    assert_eq!(code(&["-r", "0-1", "-H", &format!("If-Range: \"{digest}\"")]), "206");
    assert_eq!(code(&["-r", "0-1", "-H", "If-Range: \"other\""]), "200");
}

#[test]
fn a_blob_of_the_wrong_size_or_an_unknown_one_is_never_a_200() {
    let served = serve();
    let digest = Digest::of(initramfs());
    let url = served.url(&format!("/blobs/{digest}"));
    let path = served.images.blobs().path(digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"short").unwrap();
    let said = served.text(&["-i", &url]);
    assert!(said.starts_with("HTTP/1.1 500 ") && said.contains(&digest.to_string()), "{said}");
    for path in [format!("/blobs/{}", Digest::of(b"x")), "/blobs/../../etc/passwd".into(), "/blobs/zz".into()]
    {
        let code = served.text(&["--path-as-is", "-o", "got", "-w", "%{http_code}", &served.url(&path)]);
        assert_eq!(code, "404", "{path}");
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_has_no_whole_blob() {
    let served = serve_big();
    let digest = kernel().1;
    let mut stream = served.connect();
    write!(stream, "GET /blobs/{digest}?boot=0000000000000002 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut some = vec![0; 100_000];
    stream.read_exact(&mut some).unwrap();
    drop(stream);
    assert_eq!(served.told(), Told::Blob(AttemptId(2), digest, false));
}

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
fn ovmfs_head_then_get_of_a_boot_program_on_one_connection() {
    let served = serve();
    let mut stream = served.connect();
    let mut ask = |method: &str, body: bool| {
        write!(stream, "{method} /nbp/snponly.efi HTTP/1.1\r\nHost: 198.18.0.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|w| w == b"\r\n\r\n") || (body && !answer.ends_with(b"an EFI program")) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    };
    for answer in [ask("HEAD", false), ask("GET", true)] {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-length: 14\r\n") && answer.contains("application/efi"), "{answer}");
        let empty =
            answer.split("\r\n\r\n").next().unwrap().lines().skip(1).any(|l| l.trim_end().ends_with(':'));
        assert!(!empty, "EDK2 chokes on a header without a value: {answer}");
    }
    assert_eq!(served.told(), Told::File("snponly.efi".into(), TransferOutcome::Probe));
    assert_eq!(served.told(), Told::File("snponly.efi".into(), TransferOutcome::Complete { bytes: 14 }));
    let code = |path| served.text(&["-o", "got", "-w", "%{http_code}", &served.url(path)]);
    assert_eq!(code("/nbp/shim_certificate_0.efi"), "404");
    assert_eq!(code("/nbp/forbidden.efi"), "403");
}

#[test]
fn a_script_is_made_per_machine_and_an_error_is_a_script_too() {
    let served = serve();
    let url = served.url("/boot/script?mac=52:54:00:00:00:01&manufacturer=A%20%26%20B&serial=&uuid=1");
    let script = served.text(&["-i", &url]);
    assert!(script.contains("cache-control: no-store\n") && script.contains("text/plain"), "{script}");
    let own = format!("#!ipxe\n# 52:54:00:00:00:01 A & B http://{}\n", served.addr);
    assert!(script.ends_with(&own), "{script}");
    for url in [served.url("/boot/script?mac=nonsense"), served.url("/boot/script?mac=a&mac=b")] {
        let script = served.text(&["-f", &url]);
        assert!(script.starts_with("#!ipxe\n") && script.contains("\necho Why: "), "{script}");
    }
}

#[test]
fn reports_need_a_token_and_sense_and_are_bounded() {
    let served = serve();
    let url = served.url("/boot/report");
    let post = |token: &str, body: &str| {
        let auth = format!("Authorization: Bearer {token}");
        served.text(&["-o", "got", "-w", "%{http_code}", "-H", &auth, "--data-binary", body, &url])
    };
    assert_eq!(post("good", r#"{"stage":"healthy"}"#), "204");
    assert_eq!(post("good", r#"{"failed":"no disk"}"#), "204");
    assert!(matches!(served.told(), Told::Report(Report::Stage { .. })));
    assert_eq!(served.told(), Told::Report(Report::Failed { failed: "no disk".into() }));
    assert_eq!(post("bad", r#"{"stage":"healthy"}"#), "401");
    assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", "-d", "{}", &url]), "401");
    assert_eq!(post("good", r#"{"stage":"rootfs","detail":"again"}"#), "409");
    assert_eq!(post("good", r#"{"stage":"flying"}"#), "400");
    assert_eq!(post("good", &format!(r#"{{"failed":"{}"}}"#, "x".repeat(5000))), "413");
    let mut stream = served.connect();
    let one =
        b"POST /boot/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bad\r\nContent-Length: 2\r\n\r\n{}";
    let flood: Vec<u8> = one.repeat(400);
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&flood));
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("HTTP/1.1 429 ") {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "no 429 among the answers");
        seen.extend_from_slice(&some[..count]);
    }
    drop(stream);
    let _ = writing.join();
}

#[test]
fn facts_need_a_token_and_are_bounded_and_what_is_not_known_is_passed_over() {
    let served = serve();
    let url = served.url("/boot/facts");
    let post = |token: &str, body: &str| {
        fs::write(served.folder.0.join("body"), body).unwrap();
        let auth = format!("Authorization: Bearer {token}");
        served.text(&["-o", "got", "-w", "%{http_code}", "-H", &auth, "--data-binary", "@body", &url])
    };
    assert_eq!(post("good", r#"{"vendor":"A","colour":"red","cpu":{"cores":2,"threads":4}}"#), "204");
    match served.told() {
        Told::Facts(facts) => {
            assert_eq!((facts.vendor.as_deref(), facts.cpu.unwrap().threads), (Some("A"), 4))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(post("dead", "{}"), "401");
    assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", "-d", "{}", &url]), "401");
    assert_eq!(post("good", r#"{"nics":[{"mac":"nonsense"}]}"#), "400");
    assert_eq!(post("good", &format!(r#"{{"vendor":"{}"}}"#, "x".repeat(200_000))), "413");
}

#[test]
fn a_question_for_orders_is_held_until_there_are_some_and_never_takes_the_places_of_those_that_boot() {
    let served = serve_with(Settings { max_connections: 8, ..Settings::default() });
    let url = served.url("/boot/orders");
    let ask = |token: &str, body: &str| {
        let auth = format!("Authorization: Bearer {token}");
        served.text(&["-w", " %{http_code}", "-H", &auth, "-d", body, &url])
    };
    assert_eq!(ask("go", r#"{"mac":"52:54:00:00:00:01"}"#), r#"{"order":"restart","why":"told to"} 200"#);
    assert!(ask("nobody", "{}").ends_with(" 401"));
    assert!(ask("go", r#"{"mac":7}"#).ends_with(" 400"));
    // A quarter of the places may be held.
    let waiting: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = served.connect();
            let request = "POST /boot/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wait\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    let mut full = ask("wait", "{}");
    while full.ends_with(" 200") {
        // Asked before one of the two came in: it was held as long as any.
        full = ask("wait", "{}");
    }
    assert!(full.contains("too many machines wait") && full.ends_with(" 503"), "{full}");
    assert_eq!(served.text(&["-o", "got", "-w", "%{http_code}", &served.url("/healthz")]), "200");
    // The service ends: nobody is left without an answer.
    served.stop.send(true).unwrap();
    let answers = waiting.into_iter().map(|mut stream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answers: Vec<String> = answers.collect();
    assert!(answers.iter().all(|a| a.starts_with("HTTP/1.1 503 ")), "{answers:?}");
    assert!(answers.iter().any(|a| a.contains("restarting")), "{answers:?}");
}

#[test]
fn other_methods_and_paths_are_refused() {
    let served = serve();
    let digest = Digest::of(initramfs());
    let code = |method: &str, path: &str| {
        served.text(&["-X", method, "-o", "got", "-w", "%{http_code}", &served.url(path)])
    };
    assert_eq!(code("GET", "/healthz"), "200");
    assert_eq!(code("PUT", &format!("/blobs/{digest}")), "405");
    assert_eq!(code("GET", "/boot/report"), "405");
    assert_eq!(code("POST", "/boot/script"), "405");
    assert_eq!(code("GET", "/"), "404");
    assert_eq!(code("GET", "/api/v1/machines"), "404");
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
