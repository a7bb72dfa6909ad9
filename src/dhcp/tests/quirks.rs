//! What real firmware needs, each as a test on the bytes (see docs on the boot on the wire).

use super::*;
use crate::model::{BootMethod, ClientKind};
use dhcproto::{Decodable, Decoder, v4};

fn tftp(file: &str) -> NbpAnswer {
    NbpAnswer::Tftp { file: file.into() }
}

fn url(url: &str) -> NbpAnswer {
    NbpAnswer::Url { url: url.into() }
}

fn kit(boot: NbpAnswer) -> Kit {
    Kit { boot, ..Kit::new() }
}

fn proxy(boot: NbpAnswer) -> Kit {
    let mut kit = kit(boot);
    kit.link.mode = Mode::Proxy;
    kit.site.subnets.clear();
    kit.site = kit.site.clone();
    kit
}

#[test]
fn a_pxe_client_is_told_where_and_what_in_every_place_it_may_look() {
    let mut kit = kit(tftp("snponly.efi"));
    let offer = kit.reply(&Packet::discover(mac(1)).pxe(7));
    assert_eq!((offer.siaddr(), offer.file()), (SERVER, "snponly.efi"));
    assert_eq!(offer.opt(66), Some(&b"198.18.0.1"[..]));
    assert_eq!(
        offer.opt(67),
        Some(&b"snponly.efi\0"[..]),
        "the NUL is inside: some firmware reads past the end"
    );
    assert_eq!(offer.opt(54), Some(&SERVER.octets()[..]));
}

#[test]
fn alone_on_the_link_no_option_60_or_43_sends_a_pxe_client_to_port_4011() {
    let mut kit = kit(tftp("undionly.kpxe"));
    kit.site.subnets[0].options = vec![
        RawOption { code: 43, text: None, hex: Some("01:02".parse().unwrap()), always: true },
        RawOption { code: 60, text: Some("Vendor".into()), hex: None, always: true },
    ];
    for arch in [0, 7, 11] {
        let offer = kit.reply(&Packet::discover(mac(1)).pxe(arch));
        assert_eq!((offer.opt(60), offer.opt(43)), (None, None), "arch {arch}: not even a vendor's");
    }
    let other = kit.reply(&Packet::discover(mac(2)).with(60, b"Vendor"));
    assert_eq!((other.opt(60), other.opt(43)), (Some(&b"Vendor"[..]), Some(&[1, 2][..])));
}

#[test]
fn uefi_http_boot_gets_its_class_back_and_a_url() {
    let there = "http://198.18.0.1:8080/nbp/snponly.efi";
    for mut kit in [kit(url(there)), proxy(url(there)), kit(tftp("snponly.efi"))] {
        let offer = kit.reply(&Packet::discover(mac(1)).http(16));
        assert_eq!(offer.opt(60), Some(&b"HTTPClient"[..]));
        assert_eq!(offer.opt(67), Some([there.as_bytes(), &[0]].concat().as_slice()));
        assert_eq!(offer.file(), there);
        assert_eq!((offer.opt(43), offer.opt(66)), (None, None));
    }
}

#[test]
fn beside_another_server_the_offer_has_no_address_and_says_pxeclient_and_discovery_off() {
    let mut kit = proxy(tftp("snponly.efi"));
    let offer = kit.reply(&Packet::discover(mac(1)).pxe(7).broadcast());
    assert_eq!((offer.reply.kind, offer.yiaddr()), (ReplyKind::Offer, Ipv4Addr::UNSPECIFIED));
    assert_eq!(offer.reply.to, Destination::Broadcast { port: 68 });
    assert_eq!(offer.opt(60), Some(&b"PXEClient"[..]));
    assert_eq!(offer.opt(43), Some(&[6, 1, 8, 255][..]));
    assert_eq!((offer.siaddr(), offer.file()), (SERVER, "snponly.efi"));
    assert_eq!((offer.opt(1), offer.opt(51)), (None, None), "nothing that is the other server's to say");
    kit.site.no_discovery_control = vec!["52:54:00".parse().unwrap()];
    let offer = kit.reply(&Packet::discover(mac(1)).pxe(7));
    assert_eq!(offer.opt(43), None, "firmware that rejects discovery control asks 4011 instead");
    assert_eq!(kit.leases.offers().count() + kit.leases.iter().count(), 0);
}

#[test]
fn beside_another_server_only_clients_that_boot_are_answered() {
    let mut kit = proxy(tftp("snponly.efi"));
    assert_eq!(kit.silence(&Packet::discover(mac(1))), Reason::NothingToBoot);
    assert_eq!(kit.silence(&Packet::discover(mac(1)).with(60, b"pristine-init")), Reason::NothingToBoot);
    let request = Packet::selecting(mac(1), ip(2), ip(50)).pxe(7);
    assert_eq!(kit.silence(&request), Reason::OtherServer);
    let inform = Packet { ciaddr: ip(50), ..Packet::new(8, mac(1)).pxe(7) };
    let ack = kit.reply(&inform);
    assert_eq!((ack.reply.kind, ack.file()), (ReplyKind::Ack, "snponly.efi"));
    assert_eq!(ack.reply.to, Destination::Unicast("198.18.0.50:68".parse().unwrap()));
    kit.boot = NbpAnswer::AddressOnly;
    assert_eq!(kit.silence(&Packet::discover(mac(1)).pxe(7)), Reason::NothingToBoot);
}

#[test]
fn port_4011_answers_in_both_modes_and_echoes_the_boot_item() {
    for mut kit in [kit(tftp("snponly.efi")), proxy(tftp("snponly.efi"))] {
        kit.link.port = Port::BootServer4011;
        let ask =
            Packet { ciaddr: ip(50), ..Packet::new(3, mac(1)).pxe(7).with(43, &[71, 4, 0, 0, 0, 0, 255]) };
        let ack = kit.reply(&ask);
        assert_eq!(
            (ack.reply.kind, ack.yiaddr(), ack.addr_at(12)),
            (ReplyKind::Ack, Ipv4Addr::UNSPECIFIED, ip(50))
        );
        assert_eq!(ack.opt(60), Some(&b"PXEClient"[..]));
        assert_eq!(ack.opt(43), Some(&[71, 4, 0, 0, 0, 0, 255][..]));
        assert_eq!((ack.siaddr(), ack.file()), (SERVER, "snponly.efi"));
        assert_eq!(ack.reply.to, Destination::Unicast("198.18.0.50:4011".parse().unwrap()));
        let req = ask.request().with_source("198.18.0.50:68".parse().unwrap());
        let (leases, link) = (&mut kit.leases, &kit.link);
        let out = respond(&kit.site, leases, link, &req, &kit.boot, true, None, kit.now);
        let Action::Reply(reply) = out.action else { panic!() };
        assert_eq!(reply.to, Destination::Unicast("198.18.0.50:68".parse().unwrap()), "where it asked from");
        assert_eq!(kit.silence(&Packet::discover(mac(1)).pxe(7)), Reason::Unexpected);
        assert_eq!(kit.changes, 0);
    }
}

#[test]
fn ipxe_is_spared_its_proxy_wait_and_given_whole_urls() {
    let script = "http://198.18.0.1:8080/boot/script?mac=52:54:00:00:00:01";
    let mut kit = kit(url(script));
    let offer = kit.reply(&Packet::discover(mac(1)).ipxe());
    assert_eq!(offer.opt(175), Some(&[176, 1, 1][..]), "no-pxedhcp, encapsulated");
    assert_eq!(offer.opt(67), Some([script.as_bytes(), &[0]].concat().as_slice()));
    assert_eq!((offer.opt(43), offer.opt(60)), (None, None));
    kit.boot = tftp("/ipxe.efi");
    let offer = kit.reply(&Packet::discover(mac(1)).ipxe());
    assert_eq!(offer.file(), "tftp://198.18.0.1/ipxe.efi", "a bare name beside option 43 would be misread");
    assert_eq!(offer.siaddr(), SERVER);
    kit.boot = NbpAnswer::AddressOnly;
    let offer = kit.reply(&Packet::discover(mac(1)).ipxe());
    assert_eq!((offer.opt(67), offer.file(), offer.siaddr()), (None, "", Ipv4Addr::UNSPECIFIED));
}

#[test]
fn ipxe_beside_another_server_sees_a_proxy_offer() {
    let mut kit = proxy(url("http://198.18.0.1/boot/script"));
    let offer = kit.reply(&Packet::discover(mac(1)).ipxe());
    assert_eq!(offer.opt(60), Some(&b"PXEClient"[..]), "else it takes the offer for a broken DHCP server's");
    assert_eq!(offer.file(), "http://198.18.0.1/boot/script");
    assert_eq!(offer.opt(43), None);
    assert_eq!(offer.siaddr(), SERVER, "iPXE counts a proxy offer only with siaddr and a file name");
}

#[test]
fn a_raspberry_pi_gets_the_words_that_it_looks_for() {
    let pi = Mac([0xdc, 0xa6, 0x32, 1, 2, 3]);
    let packet = Packet::discover(pi).pxe(0);
    assert_eq!(packet.request().boot_client().kind, ClientKind::RaspberryPi);
    let not_pi = Packet::discover(mac(1)).pxe(0).request().boot_client();
    assert_eq!(not_pi.kind, ClientKind::Firmware(BootMethod::Pxe));
    for mut kit in [kit(tftp("boot")), proxy(tftp("boot"))] {
        let offer = kit.reply(&packet);
        assert_eq!(offer.opt(60), Some(&b"PXEClient"[..]));
        let vendor = offer.opt(43).unwrap();
        assert!(vendor.windows(17).any(|w| w == b"Raspberry Pi Boot"));
        let expected =
            [&[6, 1, 3, 10, 4, 0][..], b"PXE", &[9, 20, 0, 0, 17], b"Raspberry Pi Boot", &[255]].concat();
        assert_eq!(vendor, expected);
        assert_eq!(offer.siaddr(), SERVER);
    }
}

#[test]
fn the_machine_id_is_echoed_in_its_one_right_form_only() {
    let mut kit = kit(tftp("x"));
    let right = [&[0][..], &[0xab; 16]].concat();
    assert_eq!(kit.reply(&Packet::discover(mac(1)).pxe(7).with(97, &right)).opt(97), Some(&right[..]));
    for wrong in [&[1; 17][..], &[0; 16], &[0; 18], &[]] {
        assert_eq!(kit.reply(&Packet::discover(mac(1)).pxe(7).with(97, wrong)).opt(97), None);
    }
}

#[test]
fn the_broadcast_flag_is_honoured() {
    let mut kit = kit(NbpAnswer::AddressOnly);
    let plain = kit.reply(&Packet::discover(mac(1)));
    assert_eq!(plain.reply.to, Destination::Hardware { mac: mac(1), ip: ip(10), port: 68 });
    let flagged = kit.reply(&Packet::discover(mac(1)).broadcast());
    assert_eq!(flagged.reply.to, Destination::Broadcast { port: 68 });
    assert_eq!(flagged.bytes[10..12], [0x80, 0], "and given back");
}

#[test]
fn no_padding_stands_between_options_and_300_bytes_are_sent_at_least() {
    let mut kit = kit(tftp("snponly.efi"));
    let offer = kit.reply(&Packet::discover(mac(1)).pxe(7));
    assert!(offer.bytes.len() >= 300);
    let mut rest = &offer.bytes[240..];
    while rest[0] != 255 {
        assert_ne!(rest[0], 0, "some ROMs stop at padding");
        rest = &rest[2 + usize::from(rest[1])..];
    }
    assert!(rest[1..].iter().all(|b| *b == 0));
    let nak = kit.reply(&Packet::init_reboot(mac(1), Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!((nak.bytes.len(), nak.siaddr(), nak.file()), (300, Ipv4Addr::UNSPECIFIED, ""));
}

#[test]
fn the_client_id_comes_back() {
    let mut kit = kit(NbpAnswer::AddressOnly);
    let offer = kit.reply(&Packet::discover(mac(1)).with(61, &[0xff, 9, 9]));
    assert_eq!(offer.opt(61), Some(&[0xff, 9, 9][..]), "RFC 6842");
}

#[test]
fn every_option_of_a_subnet_is_as_its_rfc_says() {
    let mut kit = kit(NbpAnswer::AddressOnly);
    let subnet = &mut kit.site.subnets[0];
    subnet.routers = vec![ip(254)];
    subnet.dns = vec![ip(2), ip(3)];
    subnet.ntp = vec![ip(4)];
    subnet.domain = Some("lab.example".into());
    subnet.search = vec!["lab.example".into(), "example".into()];
    subnet.mtu = Some(9_000);
    let route = |to: &str, via| Route { to: to.parse().unwrap(), via };
    subnet.routes = vec![route("198.19.0.0/17", ip(253)), route("10.0.0.0/8", Ipv4Addr::UNSPECIFIED)];
    subnet.options = vec![RawOption { code: 224, text: Some("hi".into()), hex: None, always: false }];
    let offer = kit.reply(&Packet::discover(mac(1)));
    let message = v4::Message::decode(&mut Decoder::new(&offer.bytes)).unwrap();
    let opts = message.opts();
    assert_eq!(opts.get(v4::OptionCode::Router), Some(&v4::DhcpOption::Router(vec![ip(254)])));
    assert_eq!(
        opts.get(v4::OptionCode::DomainNameServer),
        Some(&v4::DhcpOption::DomainNameServer(vec![ip(2), ip(3)]))
    );
    assert_eq!(opts.get(v4::OptionCode::NtpServers), Some(&v4::DhcpOption::NtpServers(vec![ip(4)])));
    assert_eq!(opts.get(v4::OptionCode::InterfaceMtu), Some(&v4::DhcpOption::InterfaceMtu(9_000)));
    assert_eq!(opts.get(v4::OptionCode::BroadcastAddr), Some(&v4::DhcpOption::BroadcastAddr(ip(255))));
    assert_eq!(offer.opt(15), Some(&b"lab.example"[..]));
    assert_eq!(offer.opt(119), Some(&b"\x03lab\x07example\0\x07example\0"[..]), "RFC 3397");
    let routes =
        [&[17, 198, 19, 0][..], &ip(253).octets(), &[8, 10, 0, 0, 0, 0], &[0], &ip(254).octets()].concat();
    assert_eq!(
        offer.opt(121),
        Some(&routes[..]),
        "RFC 3442, with the default route that option 3 no longer gives"
    );
    assert_eq!(offer.opt(224), Some(&b"hi"[..]));
    let asked = kit.reply(&Packet::discover(mac(1)).with(55, &[1, 3, 6]));
    assert_eq!(
        (asked.opt(6).is_some(), asked.opt(119), asked.opt(224)),
        (true, None, None),
        "only what is asked for"
    );
}

#[test]
fn option_57_bounds_the_answer_and_the_boot_part_is_the_last_to_go() {
    let mut kit = kit(tftp("snponly.efi"));
    kit.site.subnets[0].search = vec!["a".repeat(60) + ".example", "b".repeat(60) + ".example"];
    kit.site.subnets[0].options =
        vec![RawOption { code: 224, text: Some("x".repeat(250)), hex: None, always: true }];
    let long_url = format!("http://198.18.0.1/{}", "p".repeat(240));
    for (size, limit) in [(None, 548), (Some(64_u16), 548), (Some(1_500), 1_472), (Some(65_535), 1_472)] {
        let mut packet = Packet::discover(mac(1)).pxe(7);
        if let Some(size) = size {
            packet = packet.with(57, &size.to_be_bytes());
        }
        kit.boot = tftp("snponly.efi");
        let offer = kit.reply(&packet);
        assert!(offer.bytes.len() <= limit, "{} over {limit}", offer.bytes.len());
        assert_eq!(offer.opt(224).is_some(), limit > 548);
        assert!(offer.opt(67).is_some() && offer.opt(1).is_some());
        kit.boot = url(&long_url);
        let offer = kit.reply(&packet);
        assert_eq!(offer.opt(67).map(<[u8]>::len), Some(long_url.len() + 1), "over two options (RFC 3396)");
        assert_eq!(offer.file(), "", "too long for the BOOTP field");
    }
}
