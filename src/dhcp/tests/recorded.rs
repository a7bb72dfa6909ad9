//! Packets of real clients (`tests/fixtures/dhcp`), and those packets damaged.

use super::*;
use crate::{
    dhcp::client::is_os_id,
    model::{BootMethod, ClientArch, ClientKind, IpxeFeatures},
};
use dhcproto::{Decodable, Decoder, v4};
use proptest::prelude::*;

macro_rules! hex {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dhcp/", $name, ".hex"))
    };
}

const ALL: [(&str, &str); 16] = [
    ("ipxe-rom-discover", hex!("ipxe-rom-discover")),
    ("ipxe-rom-request", hex!("ipxe-rom-request")),
    ("ovmf-pxe-discover", hex!("ovmf-pxe-discover")),
    ("ovmf-pxe-request", hex!("ovmf-pxe-request")),
    ("ovmf-pxe-boot-server", hex!("ovmf-pxe-boot-server")),
    ("ovmf-http-discover", hex!("ovmf-http-discover")),
    ("ovmf-http-request", hex!("ovmf-http-request")),
    ("dhclient-discover", hex!("dhclient-discover")),
    ("dhclient-request", hex!("dhclient-request")),
    ("dhclient-release", hex!("dhclient-release")),
    ("udhcpc-discover", hex!("udhcpc-discover")),
    ("udhcpc-request", hex!("udhcpc-request")),
    ("udhcpc-renew", hex!("udhcpc-renew")),
    ("udhcpc-release", hex!("udhcpc-release")),
    ("dhcpcd-discover", hex!("dhcpcd-discover")),
    ("dhcpcd-request", hex!("dhcpcd-request")),
];

fn recorded(name: &str) -> Vec<u8> {
    let (_, text) = ALL.iter().find(|(n, _)| *n == name).expect("a recorded packet");
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

/// A service whose pool is that of the recording, which answers for what the boot server part would.
fn kit() -> Kit {
    let mut subnet = Subnet::new("198.18.0.0/24".parse().unwrap());
    subnet.pools = vec!["198.18.0.100-198.18.0.200".parse().unwrap()];
    let site = Site { subnets: vec![subnet], probe: false, ..Site::default() };
    Kit { boot: NbpAnswer::Tftp { file: "snponly.efi".into() }, ..Kit::with(site) }
}

fn answer(kit: &mut Kit, bytes: &[u8]) -> Action {
    let Ok(req) = parse(bytes) else { return Action::Silent(Reason::Unexpected) };
    respond(&kit.site, &mut kit.leases, &kit.link, &req, &kit.boot, true, None, kit.now).action
}

#[test]
fn real_clients_are_told_apart() {
    let rom = IpxeFeatures { http: true, efi: false, ours: false };
    for (name, kind, arch, os_id) in [
        ("ipxe-rom-discover", ClientKind::Ipxe(rom), Some(ClientArch::Bios), false),
        ("ovmf-pxe-discover", ClientKind::Firmware(BootMethod::Pxe), Some(ClientArch::UefiX64), false),
        ("ovmf-pxe-boot-server", ClientKind::Firmware(BootMethod::Pxe), Some(ClientArch::UefiX64), false),
        ("ovmf-http-discover", ClientKind::Firmware(BootMethod::Http), Some(ClientArch::HttpX64), false),
        ("dhclient-discover", ClientKind::Other, None, false),
        ("udhcpc-discover", ClientKind::Other, None, false),
        ("dhcpcd-discover", ClientKind::Other, None, true),
    ] {
        let req = parse(&recorded(name)).unwrap();
        let client = req.boot_client();
        assert_eq!((client.kind, client.arch), (kind, arch), "{name}");
        assert_eq!(is_os_id(&req.client_key(), req.mac()), os_id, "{name}");
        assert_eq!(client.uuid, None, "{name}: a UUID of zeros names nobody");
    }
    let udhcpc = parse(&recorded("udhcpc-discover")).unwrap().boot_client();
    assert_eq!(udhcpc.hostname.as_deref(), Some("node1"));
}

#[test]
fn real_clients_go_from_discover_to_ack() {
    for (client, asked) in [
        ("ipxe-rom", ip(151)),
        ("ovmf-pxe", ip(153)),
        ("ovmf-http", ip(154)),
        ("dhclient", ip(150)),
        ("udhcpc", ip(150)),
        ("dhcpcd", ip(152)),
    ] {
        let mut kit = kit();
        let discover = recorded(&format!("{client}-discover"));
        let Action::Reply(offer) = answer(&mut kit, &discover) else { panic!("{client}: no offer") };
        let offer = Read::new(offer);
        assert_eq!((offer.reply.kind, &offer.bytes[4..8]), (ReplyKind::Offer, &discover[4..8]), "{client}");
        let Action::Reply(ack) = answer(&mut kit, &recorded(&format!("{client}-request"))) else {
            panic!("{client}: no ack")
        };
        assert_eq!((ack.kind, ack.yiaddr), (ReplyKind::Ack, asked), "{client}");
        // UEFI sets the broadcast flag; the others take frames to their MAC.
        assert_eq!(ack.to == Destination::Broadcast { port: 68 }, client.starts_with("ovmf"), "{client}");
    }
}

#[test]
fn a_real_renewal_and_release_work() {
    let mut kit = kit();
    answer(&mut kit, &recorded("udhcpc-discover"));
    answer(&mut kit, &recorded("udhcpc-request"));
    let Action::Reply(ack) = answer(&mut kit, &recorded("udhcpc-renew")) else { panic!("no renewal") };
    assert_eq!(ack.to, Destination::Unicast("198.18.0.150:68".parse().unwrap()));
    assert_eq!(answer(&mut kit, &recorded("udhcpc-release")), Action::Silent(Reason::Released));
    answer(&mut kit, &recorded("dhclient-discover"));
    assert_eq!(kit.leases.offers().map(|l| l.addr).collect::<Vec<_>>(), [ip(150)], "the same machine");
}

#[test]
fn ovmf_asks_port_4011_from_port_4011_and_is_answered_there() {
    let mut kit = kit();
    kit.link.mode = Mode::Proxy;
    kit.link.port = Port::BootServer4011;
    let req = parse(&recorded("ovmf-pxe-boot-server")).unwrap();
    let from = "198.18.0.153:4011".parse().unwrap();
    for req in [req.clone(), req.with_source(from)] {
        let out = respond(&kit.site, &mut kit.leases, &kit.link, &req, &kit.boot, true, None, kit.now);
        let Action::Reply(reply) = out.action else { panic!("no answer") };
        assert_eq!(reply.to, Destination::Unicast(from));
        assert_eq!(Read::new(reply).file(), "snponly.efi");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_packets_are_survived(
        which in 0..ALL.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..24),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        proxy: bool,
    ) {
        let mut bytes = recorded(ALL[which].0);
        for (at, value) in changes {
            // Mostly in the options, where the lengths are.
            let at = if value % 4 == 0 { at.index(bytes.len()) } else { 240 + at.index(bytes.len() - 240) };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut kit = kit();
        if proxy {
            kit.link.mode = Mode::Proxy;
        }
        if let Action::Reply(reply) = answer(&mut kit, &bytes) {
            let message = v4::Message::decode(&mut Decoder::new(&reply.bytes)).unwrap();
            prop_assert!(message.opts().msg_type().is_some());
        }
    }
}
