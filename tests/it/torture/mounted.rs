//! A small disk of its own for the state folder, in a mount namespace that ends with the test, and the real service
//! on it: a disk that can be full, broken or stuck.

use super::{
    super::api::Dir,
    leases::{OURS, RELAY, SERVICE, lease_time, mac, packet, read_reply},
};
use pristine::{
    client::{Client, ClientError},
    lab::{Host, Mode, Net, Running, Service, Settings, tethered},
    model::{Digest, Millis},
    store::ImageStore,
};
use std::{
    cell::Cell,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A debug build on a busy machine.
pub const BOUND: Duration = Duration::from_secs(60);

/// An ext4 file system in a file. Goes back to normal when it is dropped, and with its holder out of the world.
pub struct Disk {
    holder: Running,
    folder: PathBuf,
}

impl Disk {
    /// Of so many MiB, mounted at `mnt` in a namespace of its own.
    pub fn new(folder: &Path, mib: u64) -> Disk {
        let image = folder.join("disk");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let mkfs = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).status().unwrap();
        assert!(mkfs.success());
        fs::create_dir(folder.join("mnt")).unwrap();
        let mut command = tethered("unshare");
        // Our end of its standard input closes with us: whoever waits for a frozen disk then can't be killed.
        let script = "mount -o loop,errors=remount-ro \"$0/disk\" \"$0/mnt\" && exec 3<&0 && echo up && \
                      { (cat; fsfreeze --unfreeze \"$0/mnt\") <&3 >/dev/null 2>&1 & exec sleep infinity; }";
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = Running::start(command, "the disk").unwrap();
        let mut line = String::new();
        BufReader::new(holder.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n", "the disk is mounted");
        Disk { holder, folder: folder.to_owned() }
    }

    /// Where its files are, for this process.
    pub fn path(&self) -> PathBuf {
        let inside = self.folder.join("mnt");
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.pid()));
        root.join(inside.strip_prefix("/").unwrap())
    }

    fn inside(&self, program: &str, words: &[&str]) {
        let pid = self.holder.pid().to_string();
        let mnt = self.folder.join("mnt");
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", program]).args(words).arg(mnt);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Not a byte is left.
    fn fill(&self) {
        let ballast = self.path().join("ballast");
        let ballast = fs::File::options().create(true).append(true).open(ballast).unwrap();
        for part in [1 << 20, 4096] {
            let some = vec![0x5a; part];
            while (&ballast).write_all(&some).and_then(|()| ballast.sync_data()).is_ok() {}
        }
    }

    /// There is room again.
    pub fn make_room(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }

    /// Whoever writes waits.
    pub fn freeze(&self) {
        self.inside("fsfreeze", &["--freeze"]);
    }

    /// And goes on.
    pub fn thaw(&self) {
        self.inside("fsfreeze", &["--unfreeze"]);
    }

    /// The kernel finds an error in it, and takes nothing more.
    pub fn breaks(&self) {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.holder.pid())).unwrap();
        let mnt = self.folder.join("mnt");
        let line = mounts.lines().find(|l| l.split(' ').nth(1).is_some_and(|m| Path::new(m) == mnt)).unwrap();
        let device = line.split(' ').next().unwrap().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }

    /// What an operator does about that, with nothing running on it.
    pub fn repaired(&self) {
        let folder = path(&self.folder);
        let script = "umount \"$0/mnt\" && e2fsck -p -f \"$0/disk\" >&2; [ $? -le 1 ] && \
                      mount -o loop,errors=remount-ro \"$0/disk\" \"$0/mnt\" && : ";
        self.inside("sh", &["-c", script, folder]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What waits for it could not be killed.
        let pid = self.holder.pid().to_string();
        let mut thaw = Command::new("nsenter");
        thaw.args(["-t", &pid, "-m", "fsfreeze", "--unfreeze"]).arg(self.folder.join("mnt"));
        let _ = thaw.stderr(Stdio::null()).status();
    }
}

/// Puts the image of the site into its store, or heals it there.
fn publish(disk: &Disk) -> Digest {
    let store = ImageStore::open(&disk.path().join("state/store")).unwrap();
    super::super::store::publish(&store, "web:1", &root())
}

/// The root of that image.
pub fn root() -> Vec<u8> {
    super::super::images::noise(2 << 20)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a client was given, and when it asked for it and heard of it.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub n: u32,
    pub addr: Ipv4Addr,
    pub seconds: u32,
    pub asked: SystemTime,
    pub heard: Instant,
}

impl Ack {
    /// It was promised the address until then, at least.
    pub fn until(&self) -> Millis {
        let asked = self.asked.duration_since(UNIX_EPOCH).unwrap().as_millis();
        Millis::try_from(asked).unwrap() + Millis::from(self.seconds) * 1_000
    }
}

/// What the fields are dropped in is the order in which they need one another.
pub struct Site {
    pub service: Service,
    /// A relay and all clients behind it; the addresses that they are given are its own.
    pub clients: UdpSocket,
    pub relay: Host,
    pub server: Host,
    pub disk: Disk,
    pub image: Digest,
    /// What the machines of that image fetch first.
    pub kernel: Digest,
    /// And last.
    pub root: Digest,
    /// Number of the last exchange.
    asked: Cell<u32>,
    _net: Net,
    folder: Dir,
}

impl Drop for Site {
    fn drop(&mut self) {
        let log = self.log();
        assert!(std::thread::panicking() || !log.contains("panicked at"), "{log}");
    }
}

impl Site {
    /// On a disk of so many MiB, with an image that is everybody's.
    pub fn up(mib: u64) -> Site {
        let folder = Dir::new("disk");
        let disk = Disk::new(&folder.0, mib);
        let state = folder.0.join("mnt/state");
        let image = publish(&disk);
        let (kernel, root) = (Digest::of(b"kernel"), Digest::of(&root()));
        let net = Net::new().unwrap();
        let server = net.host("server", "198.18.0.1/16").unwrap();
        let relay = net.host("relay", "198.18.0.2/16").unwrap();
        let binary = folder.0.join("pristine");
        let program = env!("CARGO_BIN_EXE_pristine");
        let pid = disk.holder.pid();
        fs::write(&binary, format!("#!/bin/sh\nexec nsenter -t {pid} -m {program} \"$@\"\n")).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        let nbps = folder.0.join("nbp");
        fs::create_dir(&nbps).unwrap();
        // One machine asks for all scripts.
        let extra = "[bounds]\nscripts_per_minute = 100000\n";
        let settings = Settings {
            binary,
            nbps,
            state,
            dir: folder.0.clone(),
            mode: Mode::Full,
            extra: extra.to_owned(),
        };
        let service = Service::start(&server, settings).unwrap();
        let clients = relay.enter(|| UdpSocket::bind((RELAY, 67)).unwrap()).unwrap();
        let asked = Cell::new(0);
        let site =
            Site { service, clients, relay, server, disk, image, kernel, root, asked, _net: net, folder };
        site.api(|client| client.set_default("web:1").map(drop)).unwrap();
        site
    }

    /// The same files are imported again.
    pub fn import_again(&self) {
        publish(&self.disk);
    }

    /// Asks the API, on the server's loopback.
    pub fn api<T: Send>(
        &self,
        ask: impl FnOnce(&Client) -> Result<T, ClientError> + Send,
    ) -> Result<T, ClientError> {
        let client = Client::new("http://127.0.0.1:8081", &self.disk.path().join("state/api-token")).unwrap();
        self.server.enter(|| ask(&client)).unwrap()
    }

    /// Fills the disk until the database finds no room in what it has allocated already either.
    pub fn fill(&self) {
        let order = || self.api(|client| client.pin("52:54:00:00:00:79", "local").map(drop)).is_err();
        let until = Instant::now() + BOUND;
        loop {
            self.disk.fill();
            let refused = order();
            // A transaction that failed may have given some back.
            self.disk.fill();
            if refused && order() {
                return;
            }
            assert!(Instant::now() < until, "it never becomes full: {:?}", self.alarms());
            let _ = self.api(|client| client.unpin("52:54:00:00:00:79").map(drop));
        }
    }

    /// Sends a request of client `n`, and waits so long for the reply: its kind, address and lease time.
    pub fn ask(
        &self,
        asked: u8,
        n: u32,
        options: &[(u8, &[u8])],
        bound: Duration,
    ) -> Option<(u8, Ipv4Addr, u32)> {
        // An answer to what it asked before may be late.
        self.asked.set(self.asked.get() + 1);
        let mut request = packet(asked, n, options);
        request[4..8].copy_from_slice(&self.asked.get().to_be_bytes());
        self.clients.send_to(&request, SERVICE).unwrap();
        let until = Instant::now() + bound;
        let mut buf = [0; 1500];
        loop {
            let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.clients.set_read_timeout(Some(left)).unwrap();
            let Ok((len, _)) = self.clients.recv_from(&mut buf) else { continue };
            let Some((kind, number, addr)) = read_reply(&buf[..len]) else { continue };
            if number == self.asked.get() {
                return Some((kind, addr, lease_time(&buf[..len])));
            }
        }
    }

    /// DISCOVER and REQUEST, once each: the ACK.
    pub fn lease(&self, n: u32, bound: Duration) -> Option<Ack> {
        let (_, addr, _) = self.ask(1, n, &[], bound)?;
        self.request(n, &[(54, &OURS.octets()), (50, &addr.octets())], bound)
    }

    /// The same until there is one.
    pub fn lease_at_last(&self, n: u32) -> Ack {
        let began = Instant::now();
        loop {
            if let Some(ack) = self.lease(n, Duration::from_millis(300)) {
                return ack;
            }
            assert!(began.elapsed() < BOUND, "no lease for {n}");
        }
    }

    /// A client that has an address asks for it again.
    pub fn renew(&self, n: u32, addr: Ipv4Addr) -> Option<Ack> {
        let ack = self.request(n, &[(50, &addr.octets())], Duration::from_secs(20));
        ack.filter(|ack| ack.addr == addr)
    }

    fn request(&self, n: u32, options: &[(u8, &[u8])], bound: Duration) -> Option<Ack> {
        let asked = SystemTime::now();
        let (kind, addr, seconds) = self.ask(3, n, options, bound)?;
        (kind == 5).then(|| Ack { n, addr, seconds, asked, heard: Instant::now() })
    }

    /// From a client's own address: status and body; 0 where the answer broke off.
    pub fn http(&self, from: Ipv4Addr, words: &[&str], url: &str) -> (u16, Vec<u8>) {
        let address = format!("{from}/16");
        let _ = self.relay.run(&["ip", "address", "add", &address, "dev", "eth0"]);
        let mut curl = self.relay.command("curl");
        curl.args(["-s", "--max-time", "30", "--interface", &from.to_string(), "-w", "\n%{http_code}"]);
        let out = curl.args(words).arg(format!("http://{OURS}:8080{url}")).output().unwrap();
        let at = out.stdout.iter().rposition(|b| *b == b'\n').unwrap();
        let code = String::from_utf8_lossy(&out.stdout[at + 1..]).parse().unwrap();
        (if out.status.success() { code } else { 0 }, out.stdout[..at].to_vec())
    }

    /// The boot script of client `n`: status and text.
    pub fn script(&self, n: u32, from: Ipv4Addr) -> (u16, String) {
        let url = format!("/boot/script?mac={}&platform=efi&buildarch=x86_64", mac(n));
        let (code, body) = self.http(from, &[], &url);
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    /// Texts of the alarms.
    pub fn alarms(&self) -> Vec<String> {
        let status = self.api(Client::status).unwrap_or_else(|e| panic!("{e}: {}", self.log()));
        status.alarms.into_iter().map(|alarm| format!("{}: {}", alarm.about, alarm.text)).collect()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("serve.log")).unwrap()
    }
}
