//! One machine of the fleet: from power-on to healthy, with every request that a real one makes, and the
//! delays and failures that its seed has for it.

use super::{
    fate::Fates,
    http::{Answer, Request},
    relay::{Client, Relay},
};
use crate::{
    model::{Digest, Mac, Manifest, Stage},
    provisioner::Report,
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep, timeout},
};

/// From power-on to the first DHCP packet of a real server, and the rest of its boot that is no download.
const FIRMWARE: Duration = Duration::from_secs(90);
const KERNEL: Duration = Duration::from_secs(8);
const USERLAND: Duration = Duration::from_secs(20);
/// Times that a machine asks again for what it did not get.
const TRIES: u32 = 8;
/// Bytes of the end of a blob that stand for all of it.
const TAIL: u64 = 4_096;

/// What all machines share.
#[derive(Debug)]
pub struct World {
    /// Way to the DHCP server.
    pub relay: Relay,
    /// Address of the service.
    pub server: Ipv4Addr,
    /// Its port for machines.
    pub port: u16,
    /// Their chance, and which images fail on which of them.
    pub fates: Fates,
    /// How much faster than real its delays pass.
    pub speed: f64,
    /// Fetch kernel, initramfs, tree and root whole, not only their end, and hash them.
    pub whole_blobs: bool,
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It reported healthy.
    Healthy,
    /// It said that it can't go on.
    Failed,
    /// It hung after its init took over.
    Hung,
    /// It got no answer, or one that was no use.
    Unanswered(Step),
}

/// What a machine was about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Get an address, as firmware, iPXE or `init`.
    Dhcp,
    /// Ask for its boot program.
    Nbp,
    /// Get its boot script.
    Script,
    /// Fetch kernel or initramfs.
    Kernel,
    /// Fetch manifest, tree or root.
    Root,
    /// Find that a blob is the one that it asked for.
    Hash,
    /// Report.
    Report,
}

/// A boot that is over.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// How.
    pub end: End,
    /// From its first DHCP packet to its end.
    pub took: Duration,
    /// From its first request for the root to its last byte.
    pub root: Duration,
}

/// A boot that goes on.
struct Boot<'a> {
    world: &'a World,
    mac: Mac,
    /// Number of this boot of the machine: what it draws hangs on it.
    nth: u64,
    addr: Ipv4Addr,
    root: Duration,
}

/// Boots it once.
pub async fn boot(world: &World, mac: Mac, nth: u64) -> Outcome {
    let mut boot = Boot { world, mac, nth, addr: Ipv4Addr::UNSPECIFIED, root: Duration::ZERO };
    boot.pause("firmware", FIRMWARE).await;
    let began = Instant::now();
    let end = match boot.run().await {
        Ok(end) => end,
        Err(step) => End::Unanswered(step),
    };
    Outcome { end, took: began.elapsed(), root: boot.root }
}

impl Boot<'_> {
    async fn run(&mut self) -> Result<End, Step> {
        let file = self.dhcp(Client::Firmware).await?;
        self.nbp(&file).await.ok_or(Step::Nbp)?;
        self.dhcp(Client::Ipxe).await?;
        let script = self.script().await?;
        // A screen that waits, or that says why there is nothing to boot.
        let kernel = script.url("kernel ").ok_or(Step::Script)?;
        let token = script.word("pristine.token=").ok_or(Step::Script)?;
        let attempt = script.word("pristine.boot=").ok_or(Step::Script)?;
        let image = script.word("pristine.image=").ok_or(Step::Script)?;
        let image: Digest = image.trim_start_matches("sha256:").parse().map_err(|_| Step::Script)?;
        let whole = self.world.whole_blobs;
        for path in std::iter::once(kernel).chain(script.urls("initrd ")) {
            self.get(path, (!whole).then_some(TAIL), None, Step::Kernel).await?;
        }
        self.pause("kernel", KERNEL).await;

        let fails = self.world.fates.of(self.mac, image);
        self.dhcp(Client::Init).await?;
        self.report(token, Stage::Init).await?;
        self.report(token, Stage::Network).await?;
        let query = format!("?boot={attempt}");
        let bytes = self.get(&format!("/blobs/{image}{query}"), None, None, Step::Root).await?.body;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|_| Step::Root)?;
        let root = manifest.rootfs.ok_or(Step::Root)?;
        let tail = |size: u64| (!whole).then_some(TAIL.min(size));
        let path = format!("/blobs/{}{query}", root.verity.tree.digest);
        self.get(&path, tail(root.verity.tree.size), None, Step::Root).await?;
        let asked = Instant::now();
        let path = format!("/blobs/{}{query}", root.blob.digest);
        self.get(&path, tail(root.blob.size), Some(5), Step::Root).await?;
        self.root = asked.elapsed();
        self.report(token, Stage::Rootfs).await?;
        if fails == Some(End::Failed) {
            let failed = Report::Failed { failed: "the fleet's seed has it fail".into() };
            self.say(token, &failed).await?;
            return Ok(End::Failed);
        }
        self.report(token, Stage::Verified).await?;
        self.report(token, Stage::SwitchRoot).await?;
        self.pause("userland", USERLAND).await;
        if fails == Some(End::Hung) {
            return Ok(End::Hung);
        }
        self.report(token, Stage::Healthy).await?;
        Ok(End::Healthy)
    }

    async fn pause(&self, what: &str, median: Duration) {
        let around = self.world.fates.dice.around(self.mac, what, self.nth, median);
        sleep(around.div_f64(self.world.speed)).await;
    }

    async fn dhcp(&mut self, client: Client) -> Result<String, Step> {
        let nth = self.nth * 3 + client as u64;
        let bound = self.world.relay.bind(self.mac, client, nth).await.ok_or(Step::Dhcp)?;
        self.addr = bound.addr;
        Ok(bound.file)
    }

    /// Asks for the size of its boot program, as edk2 does first, and takes the program as read: a
    /// megabyte in blocks of 1,428 bytes is not what a fleet is there for.
    async fn nbp(&self, file: &str) -> Option<()> {
        let socket = UdpSocket::bind((self.addr, 0)).await.ok()?;
        let mut request = vec![0, 1];
        for word in [file, "octet", "tsize", "0", "blksize", "1428"] {
            request.extend(word.bytes());
            request.push(0);
        }
        let mut answer = [0; 1_500];
        for _ in 0..TRIES {
            if !self.world.relay.lost() {
                socket.send_to(&request, (self.world.server, 69)).await.ok()?;
            }
            let Ok(Ok((len, from))) = timeout(Duration::from_secs(2), socket.recv_from(&mut answer)).await
            else {
                continue;
            };
            if self.world.relay.lost() {
                continue;
            }
            let offered = answer.get(..len).is_some_and(|a| a.starts_with(&[0, 6]));
            // User aborted the transfer: it has what it wants to know.
            let _ = socket.send_to(b"\0\x05\0\x08\0", from).await;
            return offered.then_some(());
        }
        None
    }

    async fn script(&self) -> Result<Script, Step> {
        let mac = self.mac;
        let path =
            format!("/boot/script?mac={mac}&platform=efi&buildarch=x86_64&manufacturer=Fleet&product=F1");
        let answer = self.get(&path, None, None, Step::Script).await?;
        Ok(Script(String::from_utf8_lossy(&answer.body).into_owned()))
    }

    async fn report(&self, token: &str, stage: Stage) -> Result<(), Step> {
        self.say(token, &Report::Stage { stage, detail: None }).await
    }

    async fn say(&self, token: &str, report: &Report) -> Result<(), Step> {
        let headers = format!("Authorization: Bearer {token}\r\n");
        let body = serde_json::to_string(report).map_err(|_| Step::Report)?;
        let answer = self.ask(|server, from| Request {
            from,
            server,
            method: "POST",
            path: "/boot/report",
            headers: &headers,
            body: &body,
        });
        match answer.await.ok_or(Step::Report)?.status {
            // 409: an earlier try was heard.
            200..=299 | 409 => Ok(()),
            _ => Err(Step::Report),
        }
    }

    /// A whole answer, or the end of one; waits for its turn for so many seconds at a time.
    async fn get(
        &self,
        path: &str,
        tail: Option<u64>,
        wait: Option<u32>,
        step: Step,
    ) -> Result<Answer, Step> {
        let mut headers = String::new();
        if let Some(tail) = tail {
            headers.push_str(&format!("Range: bytes=-{tail}\r\n"));
        }
        if let Some(wait) = wait {
            headers.push_str(&format!("Prefer: wait={wait}\r\n"));
        }
        let answer = self
            .ask(|server, from| Request { from, server, method: "GET", path, headers: &headers, body: "" })
            .await
            .filter(|answer| matches!(answer.status, 200 | 206))
            .ok_or(step)?;
        if answer.intact { Ok(answer) } else { Err(Step::Hash) }
    }

    /// Asks until there is an answer that is no trouble of the server's. Waits as the server says.
    async fn ask<'r>(&self, request: impl Fn(SocketAddrV4, Ipv4Addr) -> Request<'r>) -> Option<Answer> {
        let server = SocketAddrV4::new(self.world.server, self.world.port);
        let mut tries = 0;
        while tries < TRIES {
            let wait = match request(server, self.addr).send().await {
                Ok(Answer { status: 429 | 503, retry_after: Some(after), .. }) => Duration::from_secs(after),
                Ok(Answer { status: 500.., .. }) => {
                    tries += 1;
                    Duration::from_millis(250) * (1 << tries.min(5))
                }
                Ok(answer) => return Some(answer),
                Err(error) => {
                    if error.kind() == io::ErrorKind::AddrNotAvailable {
                        return None;
                    }
                    tries += 1;
                    Duration::from_millis(250) * (1 << tries.min(5))
                }
            };
            let part = self.world.fates.dice.part(self.mac, "jitter", self.nth + u64::from(tries));
            sleep(wait + wait.mul_f64(part) / 4).await;
        }
        None
    }
}

/// An iPXE script, as far as a machine without iPXE needs it.
struct Script(String);

impl Script {
    /// Paths of the lines that begin so.
    fn urls<'a>(&'a self, command: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.0.lines().filter(move |line| line.starts_with(command));
        lines.filter_map(|line| {
            let url = line.split_whitespace().find_map(|word| word.strip_prefix("http://"))?;
            url.find('/').and_then(|slash| url.get(slash..))
        })
    }

    fn url<'a>(&'a self, command: &'a str) -> Option<&'a str> {
        self.urls(command).next()
    }

    /// Value of a word of the command line.
    fn word(&self, key: &str) -> Option<&str> {
        self.0.split_whitespace().find_map(|word| word.strip_prefix(key))
    }
}
