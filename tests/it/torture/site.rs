//! The real service on a network of its own, for the rows: with images, boot programs and an API to ask.

use crate::{
    boots::{built, settings},
    dhcpd::harness::{Wire, at, is_reply},
};
use pristine::{
    client::Client,
    dhcpd::frame,
    lab::{Folder, Host, Mode, Net, Service, Settings, copy_images},
    model::Mac,
    provisioner::MachinePatch,
    sys::ETH_IPV4,
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub const HTTP: SocketAddrV4 = SocketAddrV4::new(SERVER, 8080);
/// Anything at all: a debug build on a busy machine.
pub const BOUND: Duration = Duration::from_secs(60);

/// A switch, a server, and whoever else a row plugs in.
pub struct Site {
    pub service: Service,
    pub server: Host,
    pub net: Net,
    _folder: Folder,
}

impl Site {
    /// On `198.18.0.1/16`, with more lines of `pristine.toml`.
    pub fn up(extra: &str) -> Site {
        Site::with(extra, |_| {})
    }

    /// The same; `prepare` does something to the state folder first.
    pub fn with(extra: &str, prepare: impl FnOnce(&Path)) -> Site {
        Site::by(env!("CARGO_BIN_EXE_pristine").into(), extra, prepare)
    }

    /// The same, by another binary.
    pub fn by(binary: PathBuf, extra: &str, prepare: impl FnOnce(&Path)) -> Site {
        let folder = Folder::temporary("torture").unwrap();
        let net = Net::new().unwrap();
        let server = net.host("server", "198.18.0.1/16").unwrap();
        let settings = Settings { binary, extra: extra.to_owned(), ..settings(&folder, Mode::Full) };
        prepare(&settings.state);
        let service = Service::start(&server, settings).unwrap();
        Site { service, server, net, _folder: folder }
    }

    /// With the tiny image, which every machine gets.
    pub fn with_image(extra: &str) -> Site {
        let site = Site::with(extra, |state| copy_images(&images(), state).unwrap());
        site.api(|client| client.set_default("tiny:1").map(drop)).unwrap();
        site
    }

    /// Asks the API, on the server's loopback.
    pub fn api<T: Send>(&self, ask: impl FnOnce(&Client) -> T + Send) -> T {
        let token = self.service.settings().state.join("api-token");
        let client = Client::new("http://127.0.0.1:8081", &token).unwrap();
        self.server.enter(|| ask(&client)).unwrap()
    }

    /// Puts a machine on record.
    pub fn register(&self, mac: Mac, hostname: &str) {
        let patch = MachinePatch { hostname: Some(Some(hostname.to_owned())), ..MachinePatch::default() };
        self.api(|client| client.set_machine(&mac.to_string(), &patch)).unwrap();
    }

    /// Texts of the alarms.
    pub fn alarms(&self) -> Vec<String> {
        let status = self.api(Client::status).unwrap();
        status.alarms.into_iter().map(|alarm| format!("{}: {}", alarm.about, alarm.text)).collect()
    }

    /// Memory of the service in KiB: `VmRSS`, what it has now; `VmHWM`, the most that it ever had.
    pub fn memory(&self, which: &str) -> u64 {
        let pid = self.service.pid().expect("it runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let value = |line: &str| line.strip_prefix(which)?.strip_prefix(':').map(str::to_owned);
        let line = status.lines().find_map(value).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Whether it is the process that was started, and never panicked.
    pub fn is_sound(&self, pid: Option<u32>) -> bool {
        let log = fs::read_to_string(self.service.log_path()).unwrap();
        let alive = pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}/exe")).exists());
        self.service.pid() == pid && alive && !log.contains("panicked at")
    }
}

/// A binary of the service whose wall clock a file moves: that file, as in `+1d`, and the binary.
pub fn with_clock(folder: &Folder) -> (PathBuf, PathBuf) {
    let (clock, wrapper) = (folder.path().join("clock"), folder.path().join("pristine"));
    fs::write(&clock, "+0").unwrap();
    let text = format!(
        "#!/bin/sh\nLD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1) FAKETIME_TIMESTAMP_FILE={} \
         FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 exec {} \"$@\"\n",
        clock.display(),
        env!("CARGO_BIN_EXE_pristine")
    );
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    (clock, wrapper)
}

pub fn nbps() -> PathBuf {
    built("nbp")
}

/// State folder with the images of the tests.
pub fn images() -> PathBuf {
    built("images/state")
}

/// A MAC of nobody.
pub fn made_up(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    Mac([0x06, 0x66, a, b, c, d])
}

/// A machine that does nothing but ask for an address, by frames, as firmware does.
pub struct Asker {
    wire: Wire,
    mac: Mac,
    xid: u32,
}

impl Asker {
    pub fn on(host: &Host) -> Asker {
        let wire = Wire::open(host, ETH_IPV4);
        Asker { mac: wire.mac, wire, xid: 0x1000_0000 }
    }

    /// Another machine's, on the same cable: it has its replies broadcast.
    pub fn named(host: &Host, mac: Mac) -> Asker {
        Asker {
            mac,
            xid: u32::from_be_bytes([mac.0[2], mac.0[3], mac.0[4], mac.0[5]]) << 16,
            ..Asker::on(host)
        }
    }

    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Broadcasts a request with these options, and waits for the reply: its DHCP bytes, and how long it took.
    pub fn ask(&mut self, options: &[&[u8]], bound: Duration) -> Option<(Vec<u8>, Duration)> {
        let sent = self.send(Ipv4Addr::UNSPECIFIED, options);
        let reply = self.wire.recv_within(bound, |frame| is_reply(frame, self.xid))?;
        Some((frame::read_udp(&reply)?.data.to_vec(), sent.elapsed()))
    }

    /// The same, and all the replies that come within `span`: whose each is, and its DHCP bytes.
    pub fn ask_all(&mut self, options: &[&[u8]], span: Duration) -> Vec<(Ipv4Addr, Vec<u8>)> {
        let end = self.send(Ipv4Addr::UNSPECIFIED, options) + span;
        let mut replies = Vec::new();
        let next = |frame: &[u8]| is_reply(frame, self.xid);
        while let Some(reply) = self.wire.recv_within(end.saturating_duration_since(Instant::now()), next) {
            let udp = frame::read_udp(&reply).unwrap();
            replies.push((*udp.from.ip(), udp.data.to_vec()));
        }
        replies
    }

    /// Gives an address back.
    pub fn release(&mut self, addr: Ipv4Addr) {
        self.send(addr, &[&[53, 1, 7], &option(54, &SERVER.octets())]);
    }

    fn send(&mut self, ciaddr: Ipv4Addr, options: &[&[u8]]) -> Instant {
        self.xid += 1;
        let mut data = vec![1, 1, 6, 0];
        data.extend(self.xid.to_be_bytes());
        data.extend([0, 0, if self.mac == self.wire.mac { 0 } else { 0x80 }]);
        data.push(0);
        data.extend(ciaddr.octets());
        data.resize(28, 0);
        data.extend(self.mac.0);
        data.resize(236, 0);
        data.extend([99, 130, 83, 99]);
        options.iter().for_each(|option| data.extend(*option));
        data.push(255);
        let sent = Instant::now();
        let (from, to) = (at([0; 4], 68), at([255; 4], 67));
        self.wire.send(&frame::udp_frame(self.wire.mac, Mac([0xff; 6]), from, to, &data).unwrap());
        sent
    }

    /// DISCOVER, then the offered address.
    pub fn discover(&mut self, bound: Duration) -> Option<(Ipv4Addr, Duration)> {
        let (reply, took) = self.ask(&[&[53, 1, 1]], bound)?;
        Some((yiaddr(&reply), took))
    }

    /// DISCOVER and REQUEST: the acknowledged address.
    pub fn lease(&mut self, bound: Duration) -> Option<Ipv4Addr> {
        let (addr, _) = self.discover(bound)?;
        self.request(addr, bound)
    }

    /// REQUEST of an offered address: the acknowledged one.
    pub fn request(&mut self, addr: Ipv4Addr, bound: Duration) -> Option<Ipv4Addr> {
        let (wish, server) = (option(50, &addr.octets()), option(54, &SERVER.octets()));
        let (reply, _) = self.ask(&[&[53, 1, 3], &wish, &server], bound)?;
        reply.windows(3).any(|w| w == [53, 1, 5]).then(|| yiaddr(&reply))
    }
}

pub fn option(code: u8, value: &[u8]) -> Vec<u8> {
    [&[code, value.len() as u8], value].concat()
}

pub fn yiaddr(reply: &[u8]) -> Ipv4Addr {
    let octets: [u8; 4] = reply[16..20].try_into().unwrap();
    octets.into()
}

/// The time within which all but one in a hundred lie; `None` counts as never.
pub fn p99(mut times: Vec<Option<Duration>>) -> Option<Duration> {
    times.sort_by_key(|t| t.unwrap_or(Duration::MAX));
    times[(times.len() * 99).div_ceil(100) - 1]
}
