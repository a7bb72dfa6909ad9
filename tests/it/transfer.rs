//! Images between sites: archives, and pushes to a running service.

use crate::{
    api::{Dir, TOKEN, TestApi},
    images::{Site, path, text},
};
use pristine::{
    client::{Client, ClientError},
    lab::{Host, Net, Running},
    store::ImageStore,
};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A debug build on a busy machine.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// Bytes without pattern, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}

/// `web:1` with a root of some 4 MiB, and `web:2`, whose root has a few bytes more in the middle.
fn two_versions(site: &Site) {
    let old = noise(1, 4 << 20);
    let mut new = old.clone();
    new.splice(2_000_000..2_000_000, *b"a few bytes more");
    image(site, "web", "1", &old);
    image(site, "web", "2", &new);
}

pub(crate) fn image(site: &Site, name: &str, version: &str, contents: &[u8]) {
    let file = format!("{name}-{version}.squashfs");
    crate::images::squashfs(&site.at(""), &file, contents);
    let out = site.import(name, &[("--version", version), ("--rootfs", path(&site.at(&file)))]);
    assert!(out.status.success(), "{}", text(&out.stderr));
}

pub(crate) fn done(out: &Output) -> String {
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout)
}

fn refused(out: &Output, words: &str) {
    let said = text(&out.stderr);
    assert!(!out.status.success() && said.contains(words), "{words}: {said}");
}

pub(crate) fn digest(site: &Site, image: &str) -> String {
    site.json(&["show", image])["digest"].as_str().unwrap().to_owned()
}

#[test]
fn an_archive_carries_an_image_and_its_signatures_to_another_site() {
    let (here, there) = (Site::new(), Site::new());
    two_versions(&here);
    let key = path(&here.at("k.key")).to_owned();
    let pristine =
        |words: &[&str]| Command::new(env!("CARGO_BIN_EXE_pristine")).args(words).output().unwrap();
    done(&pristine(&["key", "generate", "--no-password", "--out", &key]));
    done(&here.image(&["sign", "web:1", "--key", &key]));
    let archive = path(&here.at("web-1.pristine-archive")).to_owned();
    done(&here.image(&["export", "web:1", "-o", &archive]));
    // The same by standard output.
    let piped = here.image(&["export", "web:1"]);
    assert!(piped.status.success() && piped.stdout == fs::read(&archive).unwrap());

    let said = done(&there.image(&["import", &archive]));
    assert!(said.contains(", with 1 signature\n"), "{said}");
    assert_eq!(digest(&there, "web:1"), digest(&here, "web:1"));
    done(&there.image(&["verify"]));
    let state = path(&there.at("state")).to_owned();
    done(&pristine(&["--state-dir", &state, "key", "trust", path(&here.at("k.pub"))]));
    done(&there.image(&["verify", "--signature"]));

    let before = there.files();
    assert!(done(&there.image(&["import", &archive])).contains("already"));
    assert_eq!(there.files(), before);
    // A tag isn't taken from another image unless that is said.
    let other = Site::new();
    image(&other, "web", "1", &noise(9, 100_000));
    refused(&other.image(&["import", &archive]), "--move-tag");
    assert!(done(&other.image(&["import", &archive, "--move-tag"])).contains("(was "));
}

#[test]
fn since_leaves_out_what_the_other_site_has_and_needs_it_there() {
    let (here, there) = (Site::new(), Site::new());
    two_versions(&here);
    let at = |name: &str| path(&here.at(name)).to_owned();
    done(&here.image(&["export", "web:1", "-o", &at("full")]));
    done(&here.image(&["export", "web:2", "--since", "web:1", "-o", &at("delta")]));
    let size = |name: &str| fs::metadata(here.at(name)).unwrap().len();
    assert!(size("delta") * 5 < size("full"), "{} of {}", size("delta"), size("full"));

    image(&there, "other", "1", &noise(5, 9000));
    let before = there.files();
    refused(&there.image(&["import", &at("delta")]), "import web:1 first");
    assert_eq!(there.files(), before);
    done(&there.image(&["import", &at("full")]));
    done(&there.image(&["import", &at("delta")]));
    done(&there.image(&["verify"]));
    assert_eq!(digest(&there, "web:2"), digest(&here, "web:2"));
}

#[test]
fn an_archive_that_is_damaged_anywhere_is_refused_and_nothing_is_stored() {
    let (here, there) = (Site::new(), Site::new());
    image(&here, "web", "1", &noise(1, 300_000));
    image(&there, "old", "1", &noise(2, 100_000));
    let archive = here.at("archive");
    done(&here.image(&["export", "web:1", "-o", path(&archive)]));
    let good = fs::read(&archive).unwrap();
    let before = there.files();
    let check = |bytes: &[u8], what: String| {
        fs::write(&archive, bytes).unwrap();
        let out = there.image(&["import", path(&archive)]);
        assert_eq!(out.status.code(), Some(1), "{what}: {}", text(&out.stdout));
        assert_eq!(there.files(), before, "{what}: {}", text(&out.stderr));
    };
    // Every part of it: head, list, chunks, end.
    let places = (0..24).map(|n| n * good.len() / 24).chain([15, 16, 20, 200, 5000, good.len() - 1]);
    for at in places {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        check(&bad, format!("byte {at}"));
    }
    for len in [0, 10, 16, 20, 1000, good.len() / 2, good.len() - 1] {
        check(&good[..len], format!("cut to {len}"));
    }
    check(&[&good[..], b"x"].concat(), "a byte more".into());
    fs::write(&archive, &good).unwrap();
    done(&there.image(&["import", path(&archive)]));
    refused(&there.image(&["import", path(&there.at("kernel"))]), "no archive of an image");
}

/// Carries bytes between clients and a service, counts those that go up, and does something when so
/// many went.
pub(crate) struct Wire {
    addr: SocketAddr,
    up: Arc<AtomicU64>,
    pub(crate) at: Arc<Mutex<Option<Trigger>>>,
}

pub(crate) type Trigger = (When, Box<dyn FnOnce() + Send>);

pub(crate) enum When {
    /// So many bytes went up.
    Bytes(u64),
    /// The client asks for the image, and this much later.
    Commit(Duration),
}

impl Wire {
    /// `connect` reaches the service; `listener` is where clients come.
    pub(crate) fn new(
        listener: TcpListener,
        connect: impl Fn() -> std::io::Result<TcpStream> + Send + Sync + 'static,
    ) -> Wire {
        let addr = listener.local_addr().unwrap();
        let (up, at) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None::<Trigger>)));
        let (counted, trigger, connect) = (Arc::clone(&up), Arc::clone(&at), Arc::new(connect));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (counted, trigger, connect) =
                    (Arc::clone(&counted), Arc::clone(&trigger), Arc::clone(&connect));
                thread::spawn(move || {
                    // Nobody there: the client sees its connection end.
                    let Ok(server) = connect() else { return };
                    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                    let (mut client, mut server, mut buf) = (client, server, vec![0; 16 << 10]);
                    while let Ok(n @ 1..) = client.read(&mut buf) {
                        let sum = counted.fetch_add(n as u64, Ordering::SeqCst) + n as u64;
                        let commit = buf[..n].windows(8).any(|w| w == b"/commit?");
                        let due = trigger.lock().unwrap().take_if(|(when, _)| match when {
                            When::Bytes(at) => *at <= sum,
                            When::Commit(_) => commit,
                        });
                        match due {
                            Some((When::Commit(later), act)) => {
                                let _ = server.write_all(&buf[..n]);
                                thread::park_timeout(later);
                                act();
                                continue;
                            }
                            Some((_, act)) => act(),
                            None => {}
                        }
                        if server.write_all(&buf[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = server.shutdown(Shutdown::Both);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Wire { addr, up, at }
    }

    /// Bytes that went up since this was last asked.
    pub(crate) fn taken(&self) -> u64 {
        self.up.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

pub(crate) fn push(site: &Site, url: &str, token: &str, words: &[&str]) -> Output {
    let file = site.at("token");
    fs::write(&file, token).unwrap();
    site.image(&[&["push"], words, &["--api", url, "--token-file", path(&file)]].concat())
}

#[test]
fn a_push_sends_what_the_service_lacks_and_nothing_else() {
    let site = Site::new();
    two_versions(&site);
    let api = TestApi::start();
    let addr = api.url().trim_start_matches("http://").to_owned();
    let wire = Wire::new(TcpListener::bind("127.0.0.1:0").unwrap(), move || TcpStream::connect(&addr));

    refused(&push(&site, &wire.url(), &"0".repeat(64), &["web:1"]), "wrong API token");
    assert!(api.client().images().unwrap().is_empty());
    assert!(wire.taken() < 100_000, "a wrong token is noticed before chunks are sent");

    let said = done(&push(&site, &wire.url(), TOKEN, &["web:1"]));
    assert!(said.contains("sent "), "{said}");
    let full = wire.taken();
    assert!(full > 4 << 20, "{full}");
    let images = api.client().images().unwrap();
    assert_eq!(images[0].digest.to_string(), digest(&site, "web:1"));

    let said = done(&push(&site, &wire.url(), TOKEN, &["web:1"]));
    assert!(said.contains("is there already"), "{said}");
    assert!(wire.taken() < 100_000, "nothing to send");

    done(&push(&site, &wire.url(), TOKEN, &["web:2"]));
    let delta = wire.taken();
    assert!(delta * 5 < full, "{delta} of {full}");

    // Another image of the name: only if that is said.
    let other = Site::new();
    image(&other, "web", "1", &noise(7, 100_000));
    refused(&push(&other, &wire.url(), TOKEN, &["web:1"]), "web:1 is already image");
    done(&push(&other, &wire.url(), TOKEN, &["web:1", "--move-tag"]));
}

#[test]
fn two_pushes_of_one_image_at_once_both_end_well() {
    let site = Site::new();
    image(&site, "web", "1", &noise(3, 3 << 20));
    let api = TestApi::start();
    thread::scope(|scope| {
        let one = || done(&push(&site, &api.url(), TOKEN, &["web:1"]));
        let pushes = [scope.spawn(one), scope.spawn(one)];
        pushes.into_iter().for_each(|p| drop(p.join().unwrap()));
    });
    assert_eq!(api.client().images().unwrap().len(), 1);
}

/// `pristine serve` in a network of its own, with its API on loopback there.
pub(crate) struct Server {
    host: Arc<Host>,
    pub(crate) state: PathBuf,
    wrap: Vec<String>,
    pub(crate) running: Option<Running>,
    _net: Net,
    _dir: Dir,
}

const API: &str = "127.0.0.1:8081";

impl Server {
    /// Not started yet. `wrap` goes before the command.
    pub(crate) fn new(wrap: &[&str]) -> Server {
        let net = Net::new().unwrap();
        let host = Arc::new(net.host("server", "198.18.0.1/24").unwrap());
        let dir = Dir::new("transfer");
        let state = dir.0.join("state");
        fs::create_dir(&state).unwrap();
        let wrap = wrap.iter().map(|w| w.replace("STATE", path(&state))).collect();
        Server { host, state, wrap, running: None, _net: net, _dir: dir }
    }

    pub(crate) fn start(&mut self) {
        let words = self.wrap.clone();
        let binary = env!("CARGO_BIN_EXE_pristine").to_owned();
        let all: Vec<String> = words.into_iter().chain([binary]).collect();
        let mut command = self.host.command(&all[0]);
        command.args(&all[1..]).args(["--config", "/dev/null", "--state-dir"]).arg(&self.state);
        command.args(["serve", "--interface", "eth0"]);
        command.stderr(fs::File::options().create(true).append(true).open(self._dir.0.join("log")).unwrap());
        let mut running = self.host.spawn(command, "pristine serve").unwrap();
        let end = Instant::now() + BOUND;
        while !self.host.enter(|| TcpStream::connect(API).is_ok()).unwrap() {
            let ended = running.wait_within(Duration::from_millis(20)).is_ok();
            assert!(
                !ended && Instant::now() < end,
                "{}",
                fs::read_to_string(self._dir.0.join("log")).unwrap()
            );
        }
        self.running = Some(running);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().pid()
    }

    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.state.join("api-token")).unwrap().trim().to_owned()
    }

    /// What the API answers, asked on the server's loopback.
    pub(crate) fn api<T: Send>(&self, ask: impl FnOnce(&Client) -> Result<T, ClientError> + Send) -> T {
        let client = Client::with_token(&format!("http://{API}"), &self.token()).unwrap();
        self.host.enter(|| ask(&client)).unwrap().unwrap()
    }

    pub(crate) fn wire(&self) -> Wire {
        let host = Arc::clone(&self.host);
        let connect = move || host.enter(|| TcpStream::connect(API)).unwrap();
        Wire::new(TcpListener::bind("127.0.0.1:0").unwrap(), connect)
    }

    pub(crate) fn image(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pristine"));
        command.args(["--state-dir", path(&self.state), "image"]).args(words).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let log = fs::read_to_string(self._dir.0.join("log")).unwrap_or_default();
        assert!(thread::panicking() || !log.contains("panicked at"), "{log}");
    }
}

#[test]
fn a_push_to_a_full_disk_is_refused_and_changes_nothing() {
    let site = Site::new();
    image(&site, "small", "1", &noise(1, 100_000));
    image(&site, "large", "1", &noise(2, 24 << 20));
    let mount = "mount -t tmpfs -o size=32m tmpfs STATE && exec \"$@\"";
    let mut server = Server::new(&["unshare", "--mount", "sh", "-c", mount, "sh"]);
    server.start();
    // Its state is in a mount namespace of its own.
    let inside = |file: &str| format!("/proc/{}/root{}/{file}", server.pid(), path(&server.state));
    let token = fs::read_to_string(inside("api-token")).unwrap().trim().to_owned();
    let wire = server.wire();
    done(&push(&site, &wire.url(), &token, &["small:1"]));
    refused(&push(&site, &wire.url(), &token, &["large:1"]), "there is no room");
    assert_eq!(fs::read_dir(inside("store/uploads")).unwrap().count(), 0);
    wire.taken();
    // Filled by somebody else while chunks come.
    let filler = inside("filler");
    *wire.at.lock().unwrap() = Some((
        When::Bytes(1 << 20),
        Box::new(move || {
            let mut file = fs::File::create(filler).unwrap();
            while file.write_all(&[1; 65536]).is_ok() {}
        }),
    ));
    image(&site, "middle", "1", &noise(3, 6 << 20));
    refused(&push(&site, &wire.url(), &token, &["middle:1"]), "make room");
    fs::remove_file(inside("filler")).unwrap();
    done(&push(&site, &wire.url(), &token, &["middle:1"]));
    let store = ImageStore::open_read_only(std::path::Path::new(&inside("store")));
    assert_eq!(store.list().unwrap().len(), 2);
}
