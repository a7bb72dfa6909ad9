//! The server on a store of its own, somebody in the place of the provisioner, and curl.

use bytes::Bytes;
use pristine::{
    httpd::{Machines, Server, Settings},
    lab::process::{output_within, tethered},
    model::{Arch, AttemptId, Digest, Facts, Mac, Manifest},
    netboot::ServerAddr,
    provisioner::{
        ConfigError, ConfigQuery, FileAnswer, Order, Report, ReportError, ScriptError, ScriptQuery,
        TransferOutcome,
    },
    store::ImageStore,
};
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{OnceLock, mpsc},
    time::Duration,
};
use tokio::{runtime::Runtime, sync::watch};

pub(super) const BOUND: Duration = Duration::from_secs(30);
/// More than the socket buffers of both ends.
pub(super) const KERNEL: usize = 24 << 20;

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
pub(super) enum Told {
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
    pub(super) addr: SocketAddr,
    pub(super) told: mpsc::Receiver<Told>,
    pub(super) images: ImageStore,
    pub(super) image: Digest,
    pub(super) folder: Folder,
    pub(super) stop: watch::Sender<bool>,
    pub(super) running: tokio::task::JoinHandle<std::io::Result<()>>,
    pub(super) runtime: Runtime,
}

/// A blob that no socket buffer holds, and its name. Made once: tests are not optimized.
pub(super) fn kernel() -> &'static (Vec<u8>, Digest) {
    static MADE: OnceLock<(Vec<u8>, Digest)> = OnceLock::new();
    MADE.get_or_init(|| {
        let bytes: Vec<u8> =
            (0..KERNEL as u32 / 4).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let digest = Digest::of(&bytes);
        (bytes, digest)
    })
}

pub(super) fn initramfs() -> &'static [u8] {
    b"0123456789abcdefghijklmnopqrstuvwxyz"
}

/// Serves an image; its kernel is [`kernel`] where `big`.
pub(super) fn serve_image(settings: Settings, big: bool) -> Served {
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

pub(super) fn serve_with(settings: Settings) -> Served {
    serve_image(settings, false)
}

pub(super) fn serve() -> Served {
    serve_with(Settings::default())
}

pub(super) fn serve_big() -> Served {
    serve_image(Settings::default(), true)
}

impl Served {
    pub(super) fn told(&self) -> Told {
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

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream
    }
}
