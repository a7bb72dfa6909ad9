//! The whole provisioner over a real store, with packets in and a clock that stands still.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod agent;
mod audit;
mod configure;
mod declared;
mod discover;
mod facts;
mod fallback;
mod links;
mod reboot;
mod rollout;

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
        self.prov.dhcp_saved(self.prov.dhcp(&link(), &req, None)).await
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

#[tokio::test]
async fn one_boot_is_one_attempt_from_first_packet_to_healthy_and_survives_a_restart() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.pin(M, "web:1").await.unwrap();
    let addr = w.lease(1, PXE).await.unwrap();
    let file = w.prov.tftp_file(server(), addr, "/snponly.efi\u{ff}").await;
    assert_eq!(file, FileAnswer::Found(bytes::Bytes::from_static(b"MZ")));
    w.prov.file_done(addr, "snponly.efi", TransferOutcome::Probe).await;
    w.prov.file_done(addr, "snponly.efi", TransferOutcome::Complete { bytes: 2 }).await;
    assert_eq!(w.lease(1, IPXE).await, Some(addr), "iPXE keeps the firmware's address");
    let script = w.script(1, addr).await.unwrap();
    let token = token_of(&script);
    let boot = w.last().id;
    assert!(script.contains(&web.to_string()) && script.contains(&boot.to_string()), "{script}");
    w.prov.blob_fetched(boot, w.kernel(web), true).await;
    w.prov.blob_fetched(boot, Digest::of(b"initramfs"), true).await;
    w.lease(1, INIT).await.unwrap();

    let w = w.restart();
    assert_eq!(w.prov.leases()[0].addr, addr);
    use Stage::*;
    for s in [Init, Network, Rootfs, Verified, SwitchRoot] {
        w.prov.report(&token, stage(s)).await.unwrap();
        assert_eq!(w.prov.report(&token, stage(s)).await, Err(ReportError::Already));
    }
    w.prov.report(&token, stage(Healthy)).await.unwrap();
    assert_eq!(w.prov.report(&token, stage(Healthy)).await, Err(ReportError::Already), "a lost answer");
    let dead = w.prov.report(&token, Report::Failed { failed: "x".into() }).await;
    assert!(matches!(dead, Err(ReportError::DeadToken(_))), "{dead:?}");

    let w = w.restart();
    assert_eq!(w.prov.attempts(None, 10).len(), 1);
    let a = w.last();
    let stages: Vec<Stage> = a.stages.iter().map(|s| s.stage).collect();
    let all = [
        Discover, Offer, Ack, Nbp, Script, Kernel, Initramfs, Init, Network, Rootfs, Verified, SwitchRoot,
        Healthy,
    ];
    assert_eq!(stages, all);
    assert_eq!(
        (a.verdict, a.image, a.rule, a.addr),
        (Verdict::Healthy, Some(web), Some(Rule::Pin), Some(addr))
    );
    assert_eq!(a.token_hash, None, "not even the token's hash is shown");
    let m = w.prov.machine(M).unwrap();
    assert_eq!((m.running, m.last_healthy, m.arch), (Some(web), Some(web), Some(Arch::X86_64)));
    assert_eq!(m.serial.as_deref(), Some("S1"));
}

#[tokio::test]
async fn a_boot_keeps_its_image_across_a_repointing_and_the_next_one_gets_the_new() {
    let w = World::new(Options::default());
    let (one, two) = (w.import("web:1", Arch::X86_64, true), w.import("web:2", Arch::X86_64, true));
    w.prov.pin(M, "web:1").await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    let first = w.script(1, addr).await.unwrap();
    let boot = w.last().id;
    w.prov.blob_fetched(boot, w.kernel(one), true).await;
    w.prov.pin(M, "web:2").await.unwrap();
    w.prov.report(&token_of(&first), stage(Stage::Init)).await.unwrap();
    assert_eq!((w.last().id, w.last().image), (boot, Some(one)), "it goes on with what it began");

    // Its iPXE asks again (or the machine was reset without DHCP): another boot, and another token.
    let second = w.script(1, addr).await.unwrap();
    assert!(second.contains(&two.to_string()) && !second.contains(&one.to_string()), "{second}");
    assert_ne!(w.last().id, boot);
    assert!(w.last().generation > w.prov.attempts(None, 2)[1].generation);
    assert_eq!(w.prov.attempts(None, 2)[1].verdict, Verdict::Superseded);
    let straddling = w.prov.report(&token_of(&first), stage(Stage::Network)).await;
    assert!(matches!(straddling, Err(ReportError::DeadToken(_))), "{straddling:?}");
    w.prov.report(&token_of(&second), stage(Stage::Init)).await.unwrap();
}

#[tokio::test]
async fn the_same_script_asked_twice_is_one_boot_and_only_the_latest_token_counts() {
    let w = World::new(Options::default());
    w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    let first = token_of(&w.script(1, addr).await.unwrap());
    let second = token_of(&w.script(1, addr).await.unwrap());
    assert_eq!(w.prov.attempts(None, 10).len(), 1);
    assert_eq!(w.prov.report(&first, stage(Stage::Init)).await, Err(ReportError::UnknownToken));
    assert_eq!(w.prov.report("", stage(Stage::Init)).await, Err(ReportError::UnknownToken));
    let early = w.prov.report(&second, stage(Stage::Kernel)).await;
    assert_eq!(early, Err(ReportError::NotReportable(Stage::Kernel)));
    w.clock.advance(24 * 3_600_000);
    let late = w.prov.report(&second, stage(Stage::Init)).await;
    assert!(matches!(late, Err(ReportError::DeadToken(_))), "{late:?}");
}

#[tokio::test]
async fn another_host_that_names_a_booting_machine_gets_no_script_and_takes_no_boot_over() {
    let w = World::new(Options::default());
    w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    let (addr, other) = (w.lease(1, IPXE).await.unwrap(), w.lease(2, IPXE).await.unwrap());
    let before = w.script(1, other).await;
    assert_eq!(before, Err(ScriptError::NotItsAddress { mac: mac(1), holds: addr, peer: other }));
    let token = token_of(&w.script(1, addr).await.unwrap());
    assert!(w.script(1, other).await.is_err());
    w.prov.report(&token, stage(Stage::Init)).await.unwrap();

    // Nor when its boot is over, nor with a DISCOVER in its name, which anybody can send.
    w.prov.report(&token, stage(Stage::Healthy)).await.unwrap();
    assert!(w.script(1, other).await.is_err());
    w.dhcp(&packet(1, 1, IPXE)).await;
    assert!(w.script(1, other).await.is_err());
    w.script(1, addr).await.unwrap();

    // A lease that ended, and a machine with another server's address, say nothing of who asks.
    w.clock.advance(2 * 3_600_000);
    w.script(1, other).await.unwrap();
    w.script(7, other).await.unwrap();
}

#[tokio::test]
async fn a_machine_with_two_nics_asks_from_either_address() {
    let w = World::new(Options::default());
    let both = MachinePatch { other_macs: Some(vec![mac(2)]), ..MachinePatch::default() };
    w.prov.set_machine(M, both).await.unwrap();
    let (one, two) = (w.lease(1, IPXE).await.unwrap(), w.lease(2, IPXE).await.unwrap());
    w.script(1, two).await.unwrap();
    w.script(2, one).await.unwrap();
    assert!(w.script(1, "198.18.0.77".parse().unwrap()).await.is_err());
}

#[tokio::test]
async fn pins_store_digests_outlive_restarts_and_name_the_nearest_image() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.import("arm:1", Arch::Aarch64, true);
    let e = w.prov.pin(M, "wev:1").await.unwrap_err().to_string();
    assert!(e.contains("web:1"), "{e}");
    assert!(w.prov.machine(M).is_err(), "a failed pin makes no machine");
    let got = w.prov.pin(M, "web:1").await.unwrap();
    assert_eq!((got.seen, got.target), (false, BootTarget::Image { digest: web }), "pinned, not heard of");
    let patch = MachinePatch { hostname: Some(Some("Node-1".into())), ..MachinePatch::default() };
    w.prov.set_machine(M, patch.clone()).await.unwrap();
    let taken = w.prov.set_machine("52:54:00:00:00:02", patch).await;
    assert!(matches!(taken, Err(CommandError::Taken { .. })), "{taken:?}");
    w.prov.set_default(Some("local")).await.unwrap();

    let w = w.restart();
    assert_eq!(w.prov.machine("node-1").unwrap().pin, Some(BootTarget::Image { digest: web }));
    let e = w.prov.machine("node-2").unwrap_err().to_string();
    assert!(e.contains("near it: node-1"), "{e}");
    assert_eq!(w.prov.default_target().unwrap().target, BootTarget::Local);
    let got = w.prov.unpin("node-1").await.unwrap();
    assert_eq!((got.target, got.rule), (BootTarget::Local, Rule::Default));
    w.lease(1, PXE).await.unwrap();
    assert_eq!(w.last().verdict, Verdict::Local);
    let e = w.prov.pin(M, "arm:1").await.unwrap_err().to_string();
    assert!(e.contains("arm:1 is for aarch64, but 52:54:00:00:00:01 is x86_64"), "{e}");
    w.prov.forget("node-1").await.unwrap();
    let w = w.restart();
    assert_eq!((w.prov.machines().len(), w.prov.attempts(None, 9).len()), (0, 0));
    assert_eq!(w.prov.leases().len(), 1, "a lease is a promise");
}

#[tokio::test]
async fn explain_says_which_rule_and_what_is_wrong() {
    let w = World::new(Options::default());
    let never = w.prov.explain(M).unwrap();
    assert!(!never.seen);
    assert_eq!(
        never.why,
        "waits at the discover screen: it has no pin, no rule picks it, and the site has no default"
    );
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    w.lease(1, PXE).await.unwrap();
    let got = w.prov.explain(M).unwrap();
    assert_eq!(
        got.why,
        format!(
            "boots web:1 ({}): it has no pin, no rule picks it, and this is the site's default",
            web.short()
        )
    );
    assert_eq!((got.nbp.as_deref(), got.leases.len()), (Some("snponly.efi"), 1));
    std::fs::remove_file(w.prov.images().blobs().path(web)).unwrap();
    let got = w.prov.explain(M).unwrap();
    assert!(got.refused.as_deref().unwrap().contains("not in the store"), "{got:?}");
}

#[tokio::test]
async fn a_damaged_image_is_not_booted_and_console_and_attempt_say_why() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    std::fs::remove_file(w.prov.images().blobs().path(w.kernel(web))).unwrap();
    let script = w.script(1, addr).await.unwrap();
    assert!(!script.contains("pristine.token") && script.contains("web:1"), "{script}");
    let Verdict::Failed { reason } = w.last().verdict else { panic!("{:?}", w.last()) };
    assert!(reason.contains("web:1") && reason.contains("missing"), "{reason}");
    assert_eq!(w.prov.machine(M).unwrap().running, None);
    w.script(1, addr).await.unwrap();
    assert_eq!(w.prov.attempts(None, 9).len(), 1, "its screen asks again: still the same boot");
}

#[tokio::test]
async fn a_kernel_with_one_changed_byte_is_never_named_to_a_machine() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    let path = w.prov.images().blobs().path(w.kernel(web));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "kernel of web;1").unwrap();
    let script = w.script(1, addr).await.unwrap();
    assert!(!script.contains("/blobs/") && script.contains("damaged"), "{script}");
    assert!(matches!(w.last().verdict, Verdict::Failed { .. }), "{:?}", w.last());
}

#[tokio::test]
async fn a_machine_that_boots_something_else_has_left_its_image() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.pin(M, "web:1").await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    w.script(1, addr).await.unwrap();
    w.prov.pin(M, "local").await.unwrap();
    assert_eq!(w.prov.machine(M).unwrap().running, Some(web), "it runs until it restarts");
    w.script(1, addr).await.unwrap();
    assert_eq!(w.prov.machine(M).unwrap().running, None, "`image rm` may take it now");
}

#[tokio::test]
async fn no_new_lease_and_no_pin_without_the_disk_boots_go_on_and_all_is_saved_when_it_is_back() {
    let w = World::new(Options::default());
    w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    w.prov.db().limit_pages(0);
    let e = w.prov.pin(M, "local").await.unwrap_err();
    assert!(e.to_string().contains("nothing was changed"), "{e}");
    assert_eq!(w.prov.machine(M).unwrap().pin, None, "undone");
    assert_eq!(w.lease(2, PXE).await, None);
    w.clock.advance(600_000);
    let Action::Reply(ack) = w.dhcp(&packet(3, 1, &[IPXE, &[(50, &addr.octets())]].concat())).await else {
        panic!("its lease is on disk")
    };
    let times =
        |bytes: &[u8]| bytes.windows(2).position(|w| w == [51, 4]).map(|at| bytes[at + 2..at + 6].to_vec());
    assert_eq!(times(&ack.bytes), Some(3_000u32.to_be_bytes().to_vec()), "what is left of an hour");
    let script = w.script(1, addr).await.unwrap();
    assert!(script.contains("/blobs/"), "{script}");
    let alarm = w.prov.alarms().remove(0);
    assert!(alarm.about == "disk" && alarm.text.contains("the test says"), "{alarm:?}");
    assert!(w.prov.set_default(Some("local")).await.is_err());
    assert_ne!(w.prov.default_target().unwrap().target, BootTarget::Local);
    let stats = w.prov.stats();
    assert!(stats.not_saved == 1 && stats.acks_shortened == 1 && stats.scripts_unsaved == 1, "{stats:?}");
    assert!(stats.unsaved > 0);

    w.prov.db().limit_pages(1_000_000);
    let second = w.lease(2, PXE).await.unwrap();
    assert_eq!((w.prov.stats().unsaved, w.prov.alarms().len()), (0, 0));
    w.script(1, addr).await.unwrap();
    let w = w.restart();
    let mut leased: Vec<Ipv4Addr> = w.prov.leases().iter().map(|l| l.addr).collect();
    leased.sort_unstable();
    let mut expected = vec![addr, second];
    expected.sort_unstable();
    assert_eq!(leased, expected);
    assert_eq!(w.prov.machine(M).unwrap().pin, None);
    assert_ne!(w.prov.default_target().unwrap().target, BootTarget::Local);
}

#[tokio::test]
async fn strangers_cost_no_write_and_bounded_memory() {
    let bounds = Bounds { strangers: 8, attempts_per_machine: 3, ..Bounds::default() };
    let w = World::new(Options { bounds, ..Options::default() });
    let before = w.prov.stats().commits;
    for n in 0..500 {
        let _ = w.dhcp(&packet(1, n, PXE)).await;
    }
    w.prov.saved().await.unwrap();
    let stats = w.prov.stats();
    assert_eq!((stats.machines, stats.strangers, stats.attempts, stats.commits), (0, 8, 8, before));
    assert_eq!(w.prov.machines().len(), 8, "the latest are shown");
    w.clock.advance(61_000);
    w.lease(499, PXE).await.unwrap();
    assert_eq!(w.prov.stats().machines, 1, "an address brings it on record");
    let w = w.restart();
    assert_eq!(w.prov.machines().len(), 1);
    assert_eq!(w.last().mac, mac(499));
    for _ in 0..10 {
        w.lease(499, PXE).await.unwrap();
    }
    assert_eq!(w.prov.attempts(Some(mac(499)), 99).len(), 3);
    let w = w.restart();
    assert_eq!(w.prov.attempts(None, 99).len(), 3);
    let _ = w.dhcp(&packet(1, 7, &[])).await;
    assert_eq!(w.prov.machines().len(), 1, "an operating system's DHCP makes no machine appear");
}

#[tokio::test]
async fn a_boot_that_stops_is_stuck_with_a_cause_and_told_to_those_who_watch() {
    let w = World::new(Options::default());
    let mut watch = w.prov.watch();
    w.lease(1, PXE).await.unwrap();
    w.clock.advance(89_000);
    w.prov.tick();
    assert_eq!(w.last().verdict, Verdict::Running);
    w.clock.advance(1_000);
    w.prov.tick();
    let Verdict::Stuck { cause } = w.last().verdict else { panic!("{:?}", w.last()) };
    assert!(!cause.is_empty());
    let mut seen = Vec::new();
    while let Ok(a) = watch.try_recv() {
        assert_eq!(a.token_hash, None);
        seen.push(a);
    }
    assert_eq!(seen.last(), Some(&w.last()));
    assert_eq!(seen.first().map(|a| a.stages.len()), Some(1));
    let addr = w.prov.leases()[0].addr;
    w.prov.file_done(addr, "snponly.efi", TransferOutcome::Complete { bytes: 2 }).await;
    assert_eq!((w.last().verdict, w.last().reached()), (Verdict::Running, Some(Stage::Nbp)));
    w.lease(1, PXE).await.unwrap();
    assert_eq!(w.prov.attempts(None, 9)[1].verdict, Verdict::Superseded);
}

#[tokio::test]
async fn ignored_machines_leave_no_attempt_and_too_many_scripts_are_refused() {
    let bounds = Bounds { scripts_per_minute: 2, ..Bounds::default() };
    let w = World::new(Options { unknown: Unknown::Ignore, bounds, ..Options::default() });
    let addr = w.lease(1, PXE).await.unwrap();
    assert_eq!(w.prov.attempts(None, 9), Vec::new());
    w.script(1, addr).await.unwrap();
    w.script(1, addr).await.unwrap();
    assert_eq!(w.script(1, addr).await, Err(ScriptError::TooMany(mac(1))));
    assert!(w.script(2, addr).await.is_ok(), "another machine is not held up");
    w.clock.advance(60_000);
    assert!(w.script(1, addr).await.is_ok());
    let bad = ScriptQuery { mac: "${net0/mac}".into(), ..ScriptQuery::default() };
    assert!(matches!(w.prov.script(server(), addr, bad).await, Err(ScriptError::BadMac(_))));
    assert!(w.prov.attempts(None, 9).is_empty());
}

#[tokio::test]
async fn autoexec_is_made_and_what_nobody_has_is_not_found() {
    let w = World::new(Options::default());
    let peer = Ipv4Addr::new(198, 18, 0, 9);
    let FileAnswer::Found(text) = w.prov.tftp_file(server(), peer, "autoexec.ipxe").await else { panic!() };
    assert!(text.starts_with(b"#!ipxe"));
    for name in ["revocations.efi", "../pristine.db", "", "/"] {
        assert_eq!(w.prov.tftp_file(server(), peer, name).await, FileAnswer::NotFound, "{name}");
    }
}

#[tokio::test]
async fn what_goes_wrong_with_a_boot_file_is_on_record_and_is_the_cause_when_the_boot_is_stuck() {
    let w = World::new(Options::default());
    let addr = w.lease(1, PXE).await.unwrap();
    w.prov.tftp_file(server(), addr, "gone.efi").await;
    let seen = w.last().file_trouble.unwrap();
    assert!(seen.contains("gone.efi") && seen.contains("pristine nbp fetch"), "{seen}");
    let outcome = TransferOutcome::Aborted { at: 512, why: "disk full\n".into() };
    w.prov.file_done(addr, "undionly.kpxe", outcome).await;
    let seen = w.last().file_trouble.unwrap();
    assert_eq!(seen, "it gave up its boot file undionly.kpxe after 512 bytes, saying: disk full");
    w.prov.file_done(addr, "undionly.kpxe", TransferOutcome::TimedOut { at: 1_024 }).await;
    w.clock.advance(600_000);
    w.prov.tick();
    let Verdict::Stuck { cause } = w.last().verdict else { panic!("{:?}", w.last()) };
    assert!(cause.contains("went silent after 1024 bytes"), "{cause}");
}

#[tokio::test]
async fn a_raspberry_pi_that_says_pc_bios_runs_images_for_its_own_processor() {
    let w = World::new(Options::default());
    w.import("web:1", Arch::X86_64, true);
    w.import("arm:1", Arch::Aarch64, true);
    let pi = Mac([0xdc, 0xa6, 0x32, 0, 0, 1]);
    let mut discover = packet(1, 1, &[(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, &[0, 0])]);
    discover[28..34].copy_from_slice(&pi.0);
    w.dhcp(&discover).await;
    assert_eq!(w.prov.machine(&pi.to_string()).unwrap().arch, Some(Arch::Aarch64));
    let got = w.prov.pin(&pi.to_string(), "arm:1").await.unwrap();
    assert_eq!(got.refused, None, "explain says what the boot is told");
    assert!(matches!(w.prov.pin(&pi.to_string(), "web:1").await, Err(CommandError::WrongArch { .. })));
}

#[tokio::test]
async fn a_repointing_before_init_asks_for_its_address_does_not_end_the_boot_under_way() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.pin(M, "web:1").await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    let token = token_of(&w.script(1, addr).await.unwrap());
    w.prov.unpin(M).await.unwrap();
    w.prov.set_default(Some("local")).await.unwrap();
    w.lease(1, INIT).await.unwrap();
    assert_eq!((w.last().verdict, w.last().rule), (Verdict::Running, Some(Rule::Pin)));
    w.prov.pin(M, "web:1").await.unwrap();
    std::fs::remove_file(w.prov.images().blobs().path(web)).unwrap();
    w.lease(1, INIT).await.unwrap();
    assert_eq!(w.last().verdict, Verdict::Running, "what it runs was fetched and proven");
    w.prov.report(&token, stage(Stage::Init)).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_strangers_keeps_out_neither_reservations_nor_those_who_hold_an_address() {
    let mut options = Options::default();
    let reserved = dhcp::Reservation {
        mac: Some(mac(5)),
        client_id: None,
        address: Ipv4Addr::new(198, 18, 0, 9),
        hostname: None,
    };
    options.site.reservations = vec![reserved];
    let w = World::new(options);
    assert!(w.prov.knows(mac(5)) && !w.prov.knows(mac(6)));
    w.lease(6, &[]).await.unwrap();
    assert!(w.prov.knows(mac(6)), "it renews");
    w.clock.advance(3_601_000);
    assert!(!w.prov.knows(mac(6)), "its lease ended");
}

#[tokio::test]
async fn a_report_is_not_called_heard_before_it_is_on_disk() {
    let w = World::new(Options::default());
    w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    let token = token_of(&w.script(1, addr).await.unwrap());
    w.prov.db().limit_pages(0);
    for _ in 0..2 {
        let got = w.prov.report(&token, stage(Stage::Init)).await;
        assert!(matches!(got, Err(ReportError::NotSaved(_))), "{got:?}");
    }
    w.prov.db().limit_pages(1_000_000);
    assert_eq!(w.prov.report(&token, stage(Stage::Init)).await, Err(ReportError::Already));
}

#[tokio::test]
async fn visitors_that_fill_the_table_make_room_and_machines_that_booted_do_not() {
    let bounds = Bounds { machines: 2, ..Bounds::default() };
    let w = World::new(Options { bounds, ..Options::default() });
    w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    w.script(1, addr).await.unwrap();
    for n in 2..6 {
        w.clock.advance(61_000);
        w.lease(n, PXE).await.unwrap();
    }
    let w = w.restart();
    let macs: Vec<Mac> = w.prov.machines().iter().map(|m| m.mac).collect();
    assert_eq!(macs, [mac(1), mac(5)], "the one that booted, and the latest visitor");
    let addr = w.lease(7, IPXE).await.unwrap();
    w.script(7, addr).await.unwrap();
    let addr = w.lease(8, PXE).await.unwrap();
    assert!(matches!(w.script(8, addr).await, Err(ScriptError::TableFull(2))), "nobody to forget");
    assert!(matches!(w.prov.pin("52:54:00:00:00:09", "web:1").await, Err(CommandError::TableFull(2))));
}

/// A day of seconds, at which the ticker looks in steps of ten minutes.
fn a_day(w: &World) {
    for _ in 0..144 {
        w.clock.advance(600_000);
        w.prov.tick();
    }
}

#[tokio::test]
async fn a_foreign_image_that_fetched_its_root_is_handed_over_and_never_stuck() {
    let w = World::new(Options::default());
    let (_, live) = w.import_live("live:1");
    w.prov.pin(M, "live:1").await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    w.script(1, addr).await.unwrap();
    let (boot, root) = (w.last().id, live.rootfs.unwrap().blob.digest);
    for (digest, stage) in [(live.kernel.digest, Stage::Kernel), (live.initramfs[0].digest, Stage::Initramfs)]
    {
        w.prov.blob_begun(boot, digest).await;
        w.prov.blob_fetched(boot, digest, true).await;
        assert_eq!((w.last().reached(), w.last().verdict), (Some(stage), Verdict::Running));
    }
    // Its own initramfs asks for an address, which begins no boot, and for its root, which takes hours.
    w.lease(1, &[]).await.unwrap();
    w.prov.blob_begun(boot, root).await;
    assert_eq!(w.last().reached(), Some(Stage::Network));
    a_day(&w);
    assert_eq!(w.last().verdict, Verdict::Running, "a long download");
    w.prov.blob_fetched(boot, root, false).await;
    assert_eq!(w.last().reached(), Some(Stage::Network), "not all of it");
    w.prov.blob_fetched(boot, root, true).await;
    assert_eq!((w.last().reached(), w.last().verdict), (Some(Stage::Rootfs), Verdict::HandedOver));
    a_day(&w);
    assert_eq!(w.last().verdict, Verdict::HandedOver);
    // It is a new boot when the machine comes again.
    let addr = w.lease(1, IPXE).await.unwrap();
    w.script(1, addr).await.unwrap();
    let both = w.prov.attempts(None, 9);
    assert_eq!((both.len(), &both[1].verdict), (2, &Verdict::HandedOver));
}

#[tokio::test]
async fn a_foreign_image_without_a_root_is_handed_over_with_its_initramfs() {
    let w = World::new(Options::default());
    let installer = w.import("installer:1", Arch::X86_64, false);
    w.prov.pin(M, "installer:1").await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    w.script(1, addr).await.unwrap();
    let boot = w.last().id;
    w.prov.blob_fetched(boot, w.kernel(installer), true).await;
    assert_eq!(w.last().verdict, Verdict::Running);
    w.prov.blob_fetched(boot, Digest::of(b"initramfs"), true).await;
    assert_eq!(w.last().verdict, Verdict::HandedOver);
    a_day(&w);
    assert_eq!(w.last().verdict, Verdict::HandedOver);
}

#[tokio::test]
async fn a_foreign_image_that_never_asks_for_its_root_or_its_initramfs_is_stuck_with_the_cause() {
    let w = World::new(Options::default());
    let (_, live) = w.import_live("live:1");
    w.prov.pin(M, "live:1").await.unwrap();
    for (fetched, words) in [
        (vec![live.kernel.digest], "not the whole initramfs"),
        (vec![live.kernel.digest, live.initramfs[0].digest], "its own initramfs did not ask for the root"),
    ] {
        let addr = w.lease(1, IPXE).await.unwrap();
        w.script(1, addr).await.unwrap();
        let boot = w.last().id;
        for digest in fetched {
            w.prov.blob_fetched(boot, digest, true).await;
        }
        a_day(&w);
        let Verdict::Stuck { cause } = w.last().verdict else { panic!("{:?}", w.last()) };
        assert!(cause.contains(words), "{cause}");
        // Late is better than never, and a restart of the service forgets nothing.
        w.prov.blob_begun(boot, live.rootfs.unwrap().blob.digest).await;
        assert_eq!(w.last().verdict, Verdict::Running);
    }
    let w = w.restart();
    a_day(&w);
    assert_eq!(w.last().verdict, Verdict::Running, "it fetches its root");
}
