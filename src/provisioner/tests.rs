//! The whole provisioner over a real store, with packets in and a clock that stands still.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod agent;
mod audit;
mod boots;
mod bounds;
mod configure;
mod declared;
mod discover;
mod facts;
mod fallback;
mod foreign;
mod links;
mod reboot;
mod rollout;
mod targets;

use super::{testing::server, *};
use crate::{
    dhcp::{self, Action, Link, Mode, Port, ReplyKind},
    model::{Arch, BootTarget, Digest, Manifest, RootFs, Rule, Stage, Verdict, Verity},
    store::testing::TempDir,
};
use std::{collections::BTreeMap, io::Write as _, net::Ipv4Addr};

pub(super) struct World {
    state: TempDir,
    images: TempDir,
    clock: Arc<TestClock>,
    options: Options,
    pub prov: Provisioner,
}

const M: &str = "52:54:00:00:00:01";

fn mac(n: u32) -> Mac {
    let [a, b, c, d] = n.to_be_bytes();
    Mac([0x52, 0x54, a, b, c, d])
}

fn open(state: &TempDir, images: &TempDir, clock: &Arc<TestClock>, options: &Options) -> Provisioner {
    let nbp = state.path().join("nbp");
    std::fs::create_dir_all(&nbp).unwrap();
    std::fs::write(nbp.join("snponly.efi"), b"MZ").unwrap();
    let store = ImageStore::open(images.path()).unwrap();
    let nbps = Nbps::load(&nbp).unwrap();
    Provisioner::open(options.clone(), state.path(), store, nbps, clock.clone()).unwrap()
}

impl World {
    pub fn new(options: Options) -> World {
        let (state, images) = (TempDir::new(), TempDir::new());
        let clock = Arc::new(TestClock::at(1_000_000));
        let mut options = options;
        options.site.subnets = vec![dhcp::Subnet::flat(server().ip, 24)];
        options.site.probe = false;
        let prov = open(&state, &images, &clock, &options);
        World { state, images, clock, options, prov }
    }

    /// Ends the service and starts it again on the same folder.
    pub fn restart(self) -> World {
        let World { state, images, clock, options, prov } = self;
        drop(prov);
        let prov = open(&state, &images, &clock, &options);
        World { state, images, clock, options, prov }
    }

    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    pub fn import(&self, tag: &str, arch: Arch, native: bool) -> Digest {
        let store = self.prov.images();
        let sealed = |bytes: &str| {
            let mut w = store.blobs().begin().unwrap();
            w.write_all(bytes.as_bytes()).unwrap();
            w.seal(Digest::of(bytes.as_bytes())).unwrap()
        };
        let blobs = vec![sealed(&format!("kernel of {tag}")), sealed("initramfs")];
        let manifest = Manifest {
            schema: 1,
            tag: tag.parse().unwrap(),
            arch,
            kernel: blobs[0].name(),
            initramfs: vec![blobs[1].name()],
            rootfs: None,
            cmdline: "quiet".into(),
            native,
            labels: BTreeMap::new(),
            provenance: BTreeMap::new(),
        };
        store.publish(blobs, &manifest, false).unwrap().digest
    }

    /// A foreign image whose initramfs fetches its root.
    fn import_live(&self, tag: &str) -> (Digest, Manifest) {
        let store = self.prov.images();
        let sealed = |bytes: &str| {
            let mut w = store.blobs().begin().unwrap();
            w.write_all(bytes.as_bytes()).unwrap();
            w.seal(Digest::of(bytes.as_bytes())).unwrap()
        };
        let blobs = ["kernel", "initramfs", "root", "tree"].map(|what| sealed(&format!("{what} of {tag}")));
        let [kernel, initramfs, root, tree] = [0, 1, 2, 3].map(|n: usize| blobs[n].name());
        let verity = Verity { root_hash: tree.digest, salt: tree.digest, data_blocks: 1, tree };
        let manifest = Manifest {
            schema: 1,
            tag: tag.parse().unwrap(),
            arch: Arch::X86_64,
            kernel,
            initramfs: vec![initramfs],
            rootfs: Some(RootFs { blob: root, verity }),
            cmdline: "boot=live fetch={rootfs_url}".into(),
            native: false,
            labels: BTreeMap::new(),
            provenance: BTreeMap::new(),
        };
        (store.publish(blobs.into(), &manifest, false).unwrap().digest, manifest)
    }

    fn kernel(&self, image: Digest) -> Digest {
        self.prov.images().get(image).unwrap().unwrap().manifest.kernel.digest
    }

    async fn dhcp(&self, packet: &[u8]) -> Action {
        let req = dhcp::parse(packet).unwrap();
        saved(&self.prov, self.prov.dhcp(&link(), &req, None)).await
    }

    /// DISCOVER and REQUEST; the address.
    async fn lease(&self, n: u32, more: &[(u8, &[u8])]) -> Option<Ipv4Addr> {
        let Action::Reply(offer) = self.dhcp(&packet(1, n, more)).await else { return None };
        assert_eq!(offer.kind, ReplyKind::Offer);
        let ours = server().ip.octets();
        let wanted = offer.yiaddr.octets();
        let more = [more, &[(54, &ours), (50, &wanted)]].concat();
        match self.dhcp(&packet(3, n, &more)).await {
            Action::Reply(ack) if ack.kind == ReplyKind::Ack => Some(ack.yiaddr),
            _ => None,
        }
    }

    async fn script(&self, n: u32, peer: Ipv4Addr) -> Result<String, ScriptError> {
        let query = ScriptQuery {
            mac: mac(n).to_string(),
            serial: "S1".into(),
            platform: "efi".into(),
            buildarch: "x86_64".into(),
            ..ScriptQuery::default()
        };
        self.prov.script(server(), peer, query).await
    }

    fn last(&self) -> BootAttempt {
        self.prov.attempts(None, 1).remove(0)
    }
}

/// What the link does with an answer.
async fn saved(prov: &Provisioner, answered: Answered) -> Action {
    let mut turn = vec![answered];
    let soon = prov.dhcp_saved(&mut turn).await;
    let answered = turn.remove(0);
    if soon { answered.action } else { prov.dhcp_late(answered).await }
}

fn link() -> Link {
    Link {
        name: "eth1".into(),
        index: 2,
        server: server(),
        prefix_len: 24,
        mode: Mode::Full,
        port: Port::Server67,
    }
}

fn packet(kind: u8, n: u32, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    out.extend([0; 16]);
    out.extend(mac(n).0);
    out.resize(236, 0);
    out.extend([99, 130, 83, 99, 53, 1, kind]);
    for (code, value) in options {
        out.extend([*code, value.len() as u8]);
        out.extend(*value);
    }
    out.push(255);
    out
}

const PXE: &[(u8, &[u8])] = &[(60, b"PXEClient:Arch:00007:UNDI:003016"), (93, &[0, 7])];
const IPXE: &[(u8, &[u8])] =
    &[(60, b"PXEClient:Arch:00007:UNDI:003016"), (93, &[0, 7]), (77, b"iPXE"), (175, &[19, 1, 1, 36, 1, 1])];
const INIT: &[(u8, &[u8])] = &[(60, b"pristine-init")];

fn token_of(script: &str) -> String {
    let at = script.find("pristine.token=").expect("a token") + "pristine.token=".len();
    script[at..].chars().take_while(char::is_ascii_hexdigit).collect()
}

fn stage(stage: Stage) -> Report {
    Report::Stage { stage, detail: None }
}
