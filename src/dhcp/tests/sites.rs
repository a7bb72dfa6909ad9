//! Subnets, reservations, relays, and what `Site::check` says.

use super::*;
use crate::dhcp::HexBytes;

fn reserved(who: Option<Mac>, id: Option<&str>, address: Ipv4Addr) -> Reservation {
    Reservation {
        mac: who,
        client_id: id.map(|i| i.parse().unwrap()),
        address,
        hostname: Some("node7".into()),
    }
}

#[test]
fn a_reservation_is_its_machines_and_nobody_elses() {
    let mut kit = Kit::new();
    kit.site.reservations =
        vec![reserved(Some(mac(7)), None, ip(10)), reserved(None, Some("ff:01:02:03"), ip(200))];
    let mut kit = Kit::with(kit.site.clone());
    assert_eq!(kit.obtain(&Packet::discover(mac(1)).with(50, &ip(10).octets())), ip(11));
    assert_eq!(kit.reply(&Packet::init_reboot(mac(1), ip(10))).reply.kind, ReplyKind::Nak);
    assert_eq!(kit.reply(&Packet::selecting(mac(1), SERVER, ip(200))).reply.kind, ReplyKind::Nak);
    assert_eq!(kit.obtain(&Packet::discover(mac(7))), ip(10));
    assert_eq!(kit.obtain(&Packet::discover(mac(8)).with(61, &[0xff, 1, 2, 3])), ip(200));
    let offer = kit.reply(&Packet::discover(mac(7)).with(55, &[12]));
    assert_eq!(offer.opt(12), Some(&b"node7"[..]));
    for n in 2..7 {
        kit.obtain(&Packet::discover(mac(n)));
    }
    assert_eq!(kit.reply(&Packet::discover(mac(7))).yiaddr(), ip(10));
}

#[test]
fn our_own_address_goes_to_nobody_not_even_by_a_reservation() {
    let mut kit = Kit::new();
    kit.site.reservations = vec![reserved(Some(mac(7)), None, SERVER)];
    let mut kit = Kit::with(kit.site.clone());
    let other = kit.obtain(&Packet::discover(mac(7)));
    assert_ne!(other, SERVER);
    assert_eq!(kit.reply(&Packet::renewing(mac(7), other)).reply.kind, ReplyKind::Ack, "and may be kept");
    assert_eq!(kit.reply(&Packet::init_reboot(mac(7), SERVER)).reply.kind, ReplyKind::Nak);
}

#[test]
fn a_new_reservation_moves_its_machine_once_the_address_is_free() {
    let mut kit = Kit::new();
    assert_eq!(kit.obtain(&Packet::discover(mac(1))), ip(10));
    assert_eq!(kit.obtain(&Packet::discover(mac(2))), ip(11));
    kit.site.reservations = vec![reserved(Some(mac(2)), None, ip(10))];
    kit.site = kit.site.clone();
    assert_eq!(kit.reply(&Packet::renewing(mac(2), ip(11))).reply.kind, ReplyKind::Ack, "still taken: stay");
    assert_eq!(
        kit.reply(&Packet::renewing(mac(1), ip(10))).reply.kind,
        ReplyKind::Nak,
        "the other has to leave"
    );
    kit.silence(&Packet::release(mac(1), ip(10)));
    assert_eq!(kit.reply(&Packet::renewing(mac(2), ip(11))).reply.kind, ReplyKind::Nak, "free: move");
    assert_eq!(kit.obtain(&Packet::discover(mac(2))), ip(10));
    assert_eq!(kit.disk[&ip(11)].state, LeaseState::Released, "one machine, one address");
}

#[test]
fn relays_choose_the_subnet_and_the_name_we_go_by() {
    let mut far = Subnet::new("198.19.4.0/22".parse().unwrap());
    far.pools = vec!["198.19.4.100-198.19.4.200".parse().unwrap()];
    far.routers = vec![Ipv4Addr::new(198, 19, 4, 1)];
    let mut kit = Kit::new();
    kit.site.subnets.push(far);
    kit.site = kit.site.clone();
    let relay = Ipv4Addr::new(198, 19, 4, 1);
    let info = [&[1, 4][..], b"ge-1"].concat();
    let packet = Packet::discover(mac(1)).relayed(relay).broadcast().with(82, &info);
    let offer = kit.reply(&packet);
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(198, 19, 4, 100));
    assert_eq!(offer.reply.to, Destination::Relay("198.19.4.1:67".parse().unwrap()));
    assert_eq!(
        (offer.addr_at(24), &offer.bytes[10..12]),
        (relay, &[0x80, 0][..]),
        "giaddr and flags as sent"
    );
    assert_eq!(offer.opt(1), Some(&[255, 255, 252, 0][..]));
    assert_eq!(offer.opt(82), Some(&info[..]));
    assert!(kit.probes.is_empty(), "ARP does not pass a router");
    let tail = [&[82, 6][..], &info, &[255]].concat();
    assert!(ends_with_then_zeros(&offer.bytes, &tail), "option 82 goes last");

    // RFC 3527: giaddr is where the relay is, 82.5 which link the client is on.
    let selection = [&[5, 4][..], &[198, 18, 0, 0]].concat();
    let chosen = kit.reply(&Packet::discover(mac(2)).relayed(relay).with(82, &selection));
    assert_eq!(chosen.yiaddr(), ip(10));
    let nowhere = [5, 4, 10, 9, 8, 0];
    assert_eq!(kit.silence(&Packet::discover(mac(2)).relayed(relay).with(82, &nowhere)), Reason::NoSubnet);
    assert_eq!(kit.silence(&Packet::discover(mac(3)).relayed(Ipv4Addr::new(10, 0, 0, 1))), Reason::NoSubnet);

    // RFC 5107: the client talks to the relay, and names it when it asks.
    let over = [&[11, 4][..], &relay.octets()].concat();
    let offer = kit.reply(&Packet::discover(mac(4)).relayed(relay).with(82, &over));
    assert_eq!(offer.opt(54), Some(&relay.octets()[..]));
    let ask = Packet::selecting(mac(4), relay, offer.yiaddr()).relayed(relay).with(82, &over);
    assert_eq!(kit.reply(&ask).reply.kind, ReplyKind::Ack);
    // Without a relay, these sub-options are a client's invention; but switches that snoop want theirs back.
    let offer = kit.reply(&Packet::discover(mac(5)).with(82, &over));
    assert_eq!((offer.opt(54), offer.opt(82)), (Some(&SERVER.octets()[..]), Some(&over[..])));

    let nak = kit.reply(&Packet::init_reboot(mac(6), ip(10)).relayed(relay));
    assert_eq!(nak.reply.to, Destination::Relay("198.19.4.1:67".parse().unwrap()));
    assert_eq!(nak.bytes[10] & 0x80, 0x80, "a NAK is broadcast by the relay");
    // A lease obtained through the relay is renewed by unicast, straight to us.
    let addr = Ipv4Addr::new(198, 19, 4, 100);
    let ask = Packet::selecting(mac(1), SERVER, addr).relayed(relay);
    assert_eq!(kit.reply(&ask).reply.kind, ReplyKind::Ack);
    let renewed = kit.reply(&Packet::renewing(mac(1), addr));
    assert_eq!(renewed.reply.to, Destination::Unicast("198.19.4.100:68".parse().unwrap()));
}

/// Makes one thing wrong in a good site.
type Spoil<'a> = &'a dyn Fn(&mut Site);

fn ends_with_then_zeros(bytes: &[u8], tail: &[u8]) -> bool {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    bytes[..end].ends_with(tail)
}

#[test]
fn the_flat_subnet_gives_out_the_upper_half_and_never_the_server() {
    let flat = Subnet::flat(ip(1), 24);
    assert_eq!(flat.pools, ["198.18.0.128-198.18.0.254".parse().unwrap()]);
    let flat = Subnet::flat(ip(200), 24);
    let mut kit = Kit::with(Site { subnets: vec![flat], ..Site::default() });
    kit.link.server.ip = ip(200);
    let got: Vec<_> = (0..126).map(|n| kit.reply(&Packet::discover(mac(n))).yiaddr()).collect();
    assert!(!got.contains(&ip(200)) && !got.contains(&ip(255)));
    for (addr, len) in [(ip(1), 30), (ip(0), 31), (ip(1), 32), (ip(9), 16), (ip(9), 8)] {
        let site = Site { subnets: vec![Subnet::flat(addr, len)], ..Site::default() };
        assert_eq!(site.check(), [], "/{len}");
    }
}

#[test]
fn lease_times_are_asked_for_within_bounds() {
    let mut kit = Kit::new();
    let offered = |kit: &mut Kit, wanted: u32| {
        let offer = kit.reply(&Packet::discover(mac(1)).with(51, &wanted.to_be_bytes()));
        u32::from_be_bytes(offer.opt(51).unwrap().try_into().unwrap())
    };
    for (wanted, given) in [(0, 120), (600, 600), (u32::MAX, 3_600)] {
        assert_eq!(offered(&mut kit, wanted), given);
    }
    kit.site.subnets[0].lease = Some(Seconds(60));
    assert_eq!(offered(&mut kit, 5), 60);
}

#[test]
fn a_toml_site_is_read_with_defaults_and_unknown_keys_are_refused() {
    let text = r#"
        authoritative = false
        lease = "12h"
        [[subnet]]
        network = "198.18.0.0/24"
        pools = ["198.18.0.10-198.18.0.99", "198.18.0.150-198.18.0.199"]
        exclude = ["198.18.0.50"]
        routers = ["198.18.0.254"]
        search = ["lab.example", "example"]
        routes = [{ to = "198.19.0.0/16", via = "198.18.0.253" }]
        options = [{ code = 224, text = "hello" }, { code = 43, hex = "01:02" }]
        [[reservation]]
        mac = "52-54-00-00-00-07"
        address = "198.18.0.7"
    "#;
    let site: Site = toml::from_str(text).unwrap();
    assert_eq!(site.check(), []);
    assert_eq!((site.lease, site.min_lease, site.authoritative), (Seconds(43_200), Seconds(120), false));
    assert_eq!(site.subnets[0].options[1].value(), [1, 2]);
    for (bad, says) in [
        ("leese = 3", "unknown field `leese`"),
        ("lease = \"soon\"", "12h"),
        ("[[subnet]]\nnetwork = \"198.18.0.1/24\"", "did you mean 198.18.0.0/24?"),
    ] {
        let err = toml::from_str::<Site>(bad).unwrap_err().to_string();
        assert!(err.contains(says), "{err}");
    }
}

#[test]
fn check_names_what_is_wrong() {
    let complain = |change: &dyn Fn(&mut Site)| {
        let mut site = Kit::new().site;
        change(&mut site);
        site.check().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let pool = |s: &mut Site, text: &str| s.subnets[0].pools.push(text.parse().unwrap());
    let option = |code, text: Option<&str>, hex: Option<&str>| RawOption {
        code,
        text: text.map(Into::into),
        hex: hex.map(|h| HexBytes(h.bytes().collect())),
        always: false,
    };
    let cases: &[(Spoil<'_>, &str)] = &[
        (
            &|s| s.subnets.push(Subnet::new("198.18.0.0/16".parse().unwrap())),
            "198.18.0.0/16 and 198.18.0.0/24 overlap",
        ),
        (&|s| pool(s, "198.18.1.1-198.18.1.9"), "pool 198.18.1.1-198.18.1.9 is not inside"),
        (&|s| pool(s, "198.18.0.19-198.18.0.30"), "overlap: write each address once"),
        (&|s| s.subnets[0].exclude.push("198.18.0.99".parse().unwrap()), "touches none of its pools"),
        (&|s| s.subnets[0].routers.push(Ipv4Addr::new(10, 0, 0, 1)), "could not reach it"),
        (&|s| s.subnets[0].mtu = Some(60), "576 or more"),
        (&|s| s.subnets[0].domain = Some("a b".into()), "not a domain name"),
        (&|s| s.subnets[0].options.push(option(6, Some("x"), None)), "has a key of its own: dns"),
        (&|s| s.subnets[0].options.push(option(67, Some("x"), None)), "about booting"),
        (&|s| s.subnets[0].options.push(option(224, None, None)), "set text or hex"),
        (&|s| s.subnets[0].options.push(option(224, Some("x"), Some("x"))), "not both"),
        (
            &|s| s.reservations.push(reserved(Some(mac(1)), None, Ipv4Addr::new(10, 0, 0, 1))),
            "none of the configured subnets",
        ),
        (&|s| s.reservations.push(reserved(None, None, ip(5))), "set mac or client_id"),
        (&|s| s.reservations.push(reserved(Some(mac(1)), None, ip(255))), "broadcast address"),
        (
            &|s| {
                s.reservations.push(reserved(Some(mac(1)), None, ip(5)));
                s.reservations.push(reserved(Some(mac(2)), None, ip(5)));
            },
            "belongs to one machine",
        ),
        (
            &|s| {
                s.reservations.push(reserved(Some(mac(1)), None, ip(5)));
                s.reservations.push(reserved(Some(mac(1)), None, ip(6)));
            },
            "both for 52:54:00:00:00:01",
        ),
        (&|s| s.offer_hold = Seconds(90), "1 to 60 seconds"),
        (&|s| s.bounds.known_reserve_percent = 80, "0 to 50 percent"),
    ];
    for (change, says) in cases {
        let text = complain(change);
        assert!(text.contains(says), "expected {says:?} in:\n{text}");
    }
}
