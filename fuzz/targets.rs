//! What is fuzzed: each function takes bytes that somebody else chose, and panics where a promise doesn't hold.
//!
//! libFuzzer calls them (`fuzz_targets/`), and so does a normal test with the inputs of `corpus/`
//! (`tests/it/fuzz.rs`).

mod commands;

pub use commands::{commands, is_plain, loads, loads_with};
use dhcproto::{Decodable as _, Decoder, v4};
use pristine::{
    dhcp::{self, Action, Bounds, Leases, Link, Mode, Port, Probed, Reply, Site, Subnet},
    fleet::Selector,
    image::{
        progress::Silent,
        source,
        squash_read::{Kind, Squashfs},
    },
    model::{Arch, AttemptId, BlobRef, Digest, Facts, Image, LeaseState, Mac, Machine, Manifest},
    netboot::{NbpAnswer, Roots, ScriptInput, ScriptTarget, ServerAddr, boot_script},
    provisioner::{ConfigQuery, Report},
    tftpd::{
        packet,
        transfer::{Step, Transfer},
    },
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Cursor, Write as _, sink},
    net::Ipv4Addr,
    time::Duration,
};

/// Panics where a promise doesn't hold for these bytes.
type Target = fn(&[u8]);

/// Name and function of each target.
pub const ALL: [(&str, Target); 9] = [
    ("dhcp", dhcp),
    ("relay", relay),
    ("tftp", tftp),
    ("report", report),
    ("selector", selector),
    ("manifest", manifest),
    ("squashfs", squashfs),
    ("oci", oci),
    ("template", template),
];

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const NOW: i64 = 1_800_000_000_000;

fn server() -> ServerAddr {
    ServerAddr { ip: SERVER, http_port: 8080 }
}

/// A service on one link, and what it remembers.
struct Served {
    site: Site,
    leases: Leases,
    link: Link,
    now: i64,
}

impl Served {
    fn new(mode: Mode) -> Served {
        let site = Site { subnets: vec![Subnet::flat(SERVER, 24)], ..Site::default() };
        let link = Link {
            name: "eth0".into(),
            index: 2,
            server: server(),
            prefix_len: 24,
            mode,
            port: Port::Server67,
        };
        Served { site, leases: Leases::new(Bounds::default()), link, now: NOW }
    }

    /// The answer to one datagram; what must hold of any answer is looked at.
    fn answers(&mut self, datagram: &[u8]) -> Option<Reply> {
        let request = dhcp::parse(datagram).ok()?;
        let boot = NbpAnswer::Tftp { file: "snponly.efi".into() };
        let ask = |this: &mut Served, probed| {
            this.now += 100;
            dhcp::respond(&this.site, &mut this.leases, &this.link, &request, &boot, false, probed, this.now)
        };
        let mut outcome = ask(self, None);
        if let Action::Probe(addr) = outcome.action {
            outcome = ask(self, Some(Probed::Free(addr)));
        }
        let Action::Reply(mut reply) = outcome.action else { return None };
        assert!((300..=1_500).contains(&reply.bytes.len()), "{} bytes", reply.bytes.len());
        assert_eq!(reply.bytes.first(), Some(&2), "a reply");
        assert_eq!(reply.bytes.get(4..8), datagram.get(4..8), "to this request");
        assert_eq!(reply.bytes.get(28..34), datagram.get(28..34), "of this client");
        let read = v4::Message::decode(&mut Decoder::new(&reply.bytes)).unwrap();
        assert_eq!(read.yiaddr(), reply.yiaddr);
        if !reply.yiaddr.is_unspecified() {
            assert!(reply.yiaddr.octets().starts_with(&SERVER.octets()[..3]) && reply.yiaddr != SERVER);
        }
        let whole = reply.bytes.len();
        reply.shorten(60);
        assert_eq!(reply.bytes.len(), whole);
        v4::Message::decode(&mut Decoder::new(&reply.bytes)).unwrap();
        Some(reply)
    }
}

/// Datagrams one after the other, each behind its length in two bytes, to a server that remembers.
pub fn dhcp(data: &[u8]) {
    let (mode, mut rest) = match data.split_first() {
        Some((first, rest)) if first % 4 == 3 => (Mode::Proxy, rest),
        Some((_, rest)) => (Mode::Full, rest),
        None => return,
    };
    let mut served = Served::new(mode);
    while let Some((len, more)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(more.len());
        let (datagram, after) = more.split_at(len);
        served.answers(datagram);
        rest = after;
    }
    // One address, one machine.
    let bound = served.leases.iter().filter(|l| l.state == LeaseState::Bound);
    let mut owners: BTreeMap<Ipv4Addr, Mac> = BTreeMap::new();
    for lease in bound {
        assert!(owners.insert(lease.addr, lease.mac).is_none_or(|before| before == lease.mac));
    }
}

/// What a relay or a snooping switch adds (option 82): it comes back as it was, in every answer.
pub fn relay(data: &[u8]) {
    let (giaddr, info) = match data.split_first_chunk::<1>() {
        Some(([first], info)) if info.len() <= 255 => ([198, 18, 0, first & 3], info),
        _ => return,
    };
    let mut packet = vec![1, 1, 6, 0, 1, 2, 3, 4];
    packet.resize(24, 0);
    packet.extend(if giaddr[3] == 0 { [0; 4] } else { giaddr });
    packet.extend([0x52, 0x54, 0, 0, 0, 1]);
    packet.resize(236, 0);
    packet.extend([99, 130, 83, 99, 53, 1, 1, 82, info.len() as u8]);
    packet.extend(info);
    packet.push(255);
    if let Some(reply) = Served::new(Mode::Full).answers(&packet) {
        let mut option = vec![82, info.len() as u8];
        option.extend(info);
        assert!(reply.bytes.windows(option.len()).any(|w| w == option), "option 82 as it was");
    }
}

/// A first packet, then packets of a transfer.
pub fn tftp(data: &[u8]) {
    let (first, mut rest) =
        data.split_at(data.len().min(usize::from(data.first().copied().unwrap_or(0)) * 4));
    let Ok(packet::Opening::Read(request)) = packet::parse_opening(first.get(1..).unwrap_or_default()) else {
        let _ = packet::parse_reply(rest);
        return;
    };
    let file: Vec<u8> = (0..40_000u32).map(|n| n as u8).collect();
    let mut transfer = Transfer::new(file.into(), &request.options, 1_468);
    let mut out = Vec::new();
    let mut step = Some(transfer.start());
    let mut now = Duration::ZERO;
    while let Some((len, more)) = rest.split_first() {
        if let Some(Step::Send(blocks)) = &step {
            for block in blocks.clone().take(64) {
                out.clear();
                transfer.packet(block, &mut out);
                assert!(out.len() <= 1_472 && !out.is_empty(), "{} bytes", out.len());
            }
        }
        let (datagram, after) = more.split_at(more.len().min(usize::from(*len) % 64));
        rest = after;
        now += Duration::from_millis(u64::from(*len) * 10);
        step = match packet::parse_reply(datagram) {
            Ok(reply) => Some(transfer.receive(&reply, now)),
            Err(_) => Some(transfer.timeout(now)),
        };
        if matches!(step, Some(Step::Done(_))) {
            return;
        }
    }
}

/// What a machine says in its boot: reports, facts, and the question for its configuration.
pub fn report(data: &[u8]) {
    let _ = serde_json::from_slice::<Report>(data);
    let _ = serde_json::from_slice::<ConfigQuery>(data);
    if let Ok(facts) = serde_json::from_slice::<Facts>(data) {
        let tidy = facts.tidied(NOW);
        let again = serde_json::to_vec(&tidy).unwrap();
        let read: Facts = serde_json::from_slice(&again).unwrap();
        assert_eq!(read.clone().tidied(NOW), tidy, "tidied once is tidied");
        let _ = read.and_before(&tidy);
    }
}

/// A selector: what can be read means the same after it was written and read again, and picks or doesn't.
pub fn selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Selector>() {
        Ok(selector) => {
            let mut machine = Machine::new(Mac([0x52, 0x54, 0, 0, 0, 1]), 0);
            machine.rack = Some("a1".into());
            machine.labels.insert("role".into(), "db".into());
            let picks = selector.picks(&machine);
            let again: Selector = selector.to_string().parse().unwrap();
            assert_eq!((again.picks(&machine), again.specificity()), (picks, selector.specificity()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A manifest: its bytes are its identity, and no command line in it becomes a command.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(data) else { return };
    let bytes = manifest.to_bytes().unwrap();
    let again: Manifest = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(again.to_bytes().unwrap(), bytes);
    let image = Image { digest: Digest::of(&bytes), manifest };
    let machine = Machine::new(Mac([0x52, 0x54, 0, 0, 0, 1]), 0);
    if let Ok(script) = boot_script(&input(&machine, ScriptTarget::Image(&image), &[])) {
        assert!(script.starts_with("#!ipxe\n") && script.bytes().all(is_plain), "{script:?}");
    }
}

/// A squashfs: all that it holds is read, within bounds.
pub fn squashfs(data: &[u8]) {
    let Ok(mut image) = Squashfs::open(Cursor::new(data), data.len() as u64) else { return };
    let Ok(listing) = image.walk() else { return };
    for node in listing.values() {
        let _ = image.xattrs(node);
        if let Kind::File(file) = &node.kind {
            let _ = image.read(file, 1 << 20).map(|bytes| assert!(bytes.len() as u64 <= file.size));
        }
    }
}

/// An archive, as a layer or as a whole OCI image: what can be read can be written, and is the same then.
pub fn oci(data: &[u8]) {
    let Some(tree) = tree(data) else { return };
    let mut out = Vec::new();
    if tree.write_tar(&mut out, None).is_err() {
        return;
    }
    let again = self::tree(&out).expect("what was written can be read");
    assert_eq!(again.len(), tree.len());
    again.write_tar(&mut sink(), None).unwrap();
}

fn tree(data: &[u8]) -> Option<source::Tree> {
    let name = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(name);
    file.write_all(data).unwrap();
    let bounds = source::Bounds {
        entries: 10_000,
        content_bytes: 64 << 20,
        unpacked_bytes: 64 << 20,
        metadata_bytes: 16 << 20,
        ..source::Bounds::default()
    };
    let options = source::Options { bounds, devices: source::Devices::Keep, ..source::Options::default() };
    source::open_file("an archive".as_ref(), file, &options, &Silent).ok()
}

/// Whatever a machine or an operator calls itself, a script stays the same commands, on a console that shows
/// plain characters.
pub fn template(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parts: Vec<&str> = text.split('\u{1}').collect();
    let part = |n: usize| parts.get(n).copied().unwrap_or_default().to_owned();
    let good = Machine::new(Mac([0x52, 0x54, 0, 0, 0, 1]), 0);
    let named = |hostname: &str, serial: &str, product: &str| {
        let mut machine = good.clone();
        machine.hostname = Some(hostname.to_owned());
        machine.serial = Some(serial.to_owned());
        machine.product = Some(product.to_owned());
        machine
    };
    let evil = named(&part(0), &part(1), &part(2));
    let good = named("web1", "S1", "P1");
    let reason = part(3);
    let image = image("quiet");
    let pairs = [
        (ScriptTarget::Image(&image), ScriptTarget::Image(&image)),
        (ScriptTarget::Discover, ScriptTarget::Discover),
        (ScriptTarget::Wait(&image), ScriptTarget::Wait(&image)),
        (ScriptTarget::Local, ScriptTarget::Local),
        (ScriptTarget::Refused { reason: &reason }, ScriptTarget::Refused { reason: "a reason" }),
    ];
    for (theirs, ours) in pairs {
        let (theirs, ours) = (boot_script(&input(&evil, theirs, &[])), boot_script(&input(&good, ours, &[])));
        if let (Ok(theirs), Ok(ours)) = (theirs, ours) {
            same(&theirs, &ours);
        }
    }
    // An operator's command line and arguments are checked, and refused where they could be more than that.
    let line = self::image(&part(4));
    let args = [part(5)];
    if let Ok(script) = boot_script(&input(&good, ScriptTarget::Image(&line), &args)) {
        let plain = boot_script(&input(&good, ScriptTarget::Image(&image), &[])).unwrap();
        same_commands(&script, &plain);
    }
    // An argument is one word of the kernel's, whatever is in it.
    if let Ok(script) = boot_script(&input(&good, ScriptTarget::Image(&image), &args)) {
        // Ours stays away where the operator says something of panics.
        let plain = if args[0].starts_with("panic=") { "panic=1" } else { "one=word" };
        let with_plain =
            boot_script(&input(&good, ScriptTarget::Image(&image), &[plain.to_owned()])).unwrap();
        assert_eq!(loads(&script), loads_with(&with_plain, plain, &args[0]), "{script}");
    }
}

/// A machine's words are on no line that loads anything.
fn same(one: &str, other: &str) {
    same_commands(one, other);
    assert_eq!(loads(one), loads(other), "{one}");
}

fn same_commands(one: &str, other: &str) {
    assert!(one.bytes().all(is_plain), "{one:?}");
    assert_eq!(commands(one), commands(other), "{one}");
}

fn input<'a>(machine: &'a Machine, target: ScriptTarget<'a>, args: &'a [String]) -> ScriptInput<'a> {
    ScriptInput {
        server: server(),
        machine,
        mac: machine.mac,
        target,
        attempt: AttemptId(7),
        token: "00112233",
        generation: 3,
        args,
        config: None,
        roots: Roots::Stream,
    }
}

fn image(cmdline: &str) -> Image {
    let blob = BlobRef { digest: Digest::of(b"kernel"), size: 6 };
    let manifest = Manifest {
        schema: 1,
        tag: "web:1".parse().unwrap(),
        arch: Arch::X86_64,
        kernel: blob,
        initramfs: vec![blob],
        rootfs: None,
        cmdline: cmdline.to_owned(),
        native: false,
        labels: BTreeMap::new(),
        provenance: BTreeMap::new(),
    };
    Image { digest: Digest::of(b"image"), manifest }
}
