//! Floods: made-up MACs exhaust neither memory nor the addresses of known machines.

use super::*;

fn big() -> Kit {
    let mut subnet = Subnet::new("198.18.0.0/16".parse().unwrap());
    subnet.pools = vec!["198.18.1.0-198.18.255.254".parse().unwrap()];
    Kit::with(Site { subnets: vec![subnet], probe: false, ..Site::default() })
}

#[test]
fn a_flood_of_discovers_holds_a_bounded_number_of_offers() {
    let mut kit = big();
    kit.known = false;
    let mut refused = 0;
    for n in 0..20_000 {
        match kit.send(&Packet::discover(mac(n))) {
            Action::Reply(_) => {}
            Action::Silent(Reason::TooManyOffers) => refused += 1,
            other => panic!("{other:?}"),
        }
        kit.now += 1;
    }
    assert!(refused > 15_000);
    assert!(kit.leases.offers().count() <= 1_024);
    assert_eq!((kit.leases.iter().count(), kit.changes), (0, 0), "nothing is written for them");
    kit.known = true;
    assert!(
        matches!(kit.send(&Packet::discover(mac(1_000_000))), Action::Reply(_)),
        "a known machine is served"
    );
    kit.known = false;
    kit.link.index = 9;
    assert!(
        matches!(kit.send(&Packet::discover(mac(1_000_001))), Action::Reply(_)),
        "other links are not hurt"
    );
}

#[test]
fn strangers_that_bind_leave_the_last_addresses_to_known_machines() {
    let mut kit = Kit::new();
    kit.known = false;
    for n in 0..9 {
        kit.obtain(&Packet::discover(mac(n)));
    }
    assert_eq!(kit.silence(&Packet::discover(mac(9))), Reason::KeptForKnown);
    let direct = kit.reply(&Packet::selecting(mac(9), SERVER, ip(19)));
    assert_eq!(direct.reply.kind, ReplyKind::Nak, "nor by asking for one that was never offered");
    assert_eq!(kit.reply(&Packet::init_reboot(mac(9), ip(19))).reply.kind, ReplyKind::Nak);
    assert_eq!(kit.obtain(&Packet::discover(mac(3))), ip(13), "a stranger keeps what it has");
    kit.known = true;
    assert_eq!(kit.obtain(&Packet::discover(mac(9))), ip(19));
    // A stranger whose lease ended comes late to a pool that is full but for the reserve.
    kit.known = false;
    kit.silence(&Packet::release(mac(3), ip(13)));
    assert_eq!(kit.reply(&Packet::renewing(mac(3), ip(13))).reply.kind, ReplyKind::Nak);
    kit.known = true;
    assert_eq!(kit.reply(&Packet::renewing(mac(3), ip(13))).reply.kind, ReplyKind::Ack);
}

#[test]
fn one_mac_with_ever_new_client_ids_holds_a_bounded_number_of_addresses() {
    let mut kit = big();
    for n in 0..100_u32 {
        let id = [&[0xff][..], &n.to_be_bytes()].concat();
        if n < 16 {
            kit.obtain(&Packet::discover(mac(1)).with(61, &id));
        } else {
            assert_eq!(kit.silence(&Packet::discover(mac(1)).with(61, &id)), Reason::TooManyForMac);
        }
    }
    // Its next power-on is served all the same.
    kit.obtain(&Packet::discover(mac(1)).pxe(7));
}

#[test]
fn a_full_pool_says_so_also_after_a_restart_and_then_gives_the_longest_idle() {
    let mut subnet = Subnet::new("198.18.0.0/16".parse().unwrap());
    subnet.pools = vec!["198.18.1.0-198.18.8.255".parse().unwrap()];
    let mut kit = Kit::with(Site { subnets: vec![subnet], probe: false, ..Site::default() });
    for n in 0..2_048 {
        kit.obtain(&Packet::discover(mac(n)));
        kit.now += 1;
    }
    assert_eq!(kit.silence(&Packet::discover(mac(9_999))), Reason::PoolExhausted);
    assert_eq!(kit.leases.usage().map(|(_, size, free)| (size, free)).collect::<Vec<_>>(), [(2_048, 0)]);
    kit.restart();
    assert_eq!(kit.silence(&Packet::discover(mac(9_999))), Reason::PoolExhausted);
    kit.pass(3_601);
    let longest_idle = Ipv4Addr::new(198, 18, 1, 0);
    assert_eq!(kit.reply(&Packet::discover(mac(9_999))).yiaddr(), longest_idle);
}

#[test]
fn operators_can_forget_an_address() {
    let mut kit = Kit::new();
    let addr = kit.obtain(&Packet::discover(mac(1)));
    assert_eq!(kit.leases.forget(addr, kit.now), Some(Change::LeaseGone(addr)));
    assert_eq!(kit.leases.forget(addr, kit.now), None);
    assert_eq!((kit.leases.by_addr(addr), kit.leases.by_mac(mac(1)).count()), (None, 0));
    assert_eq!(kit.obtain(&Packet::discover(mac(2))), addr);
}

#[test]
fn addresses_that_others_use_do_not_count_as_the_clients_own() {
    let mut subnet = Subnet::new("198.18.0.0/24".parse().unwrap());
    subnet.pools = vec!["198.18.0.100-198.18.0.199".parse().unwrap()];
    let mut kit = Kit::with(Site { subnets: vec![subnet], ..Site::default() });
    kit.occupied = (100..120).map(ip).collect();
    // A client asks again after each round of addresses that were all in use.
    let offered = (0..6).find_map(|_| match kit.send(&Packet::discover(mac(1))) {
        Action::Reply(reply) => Some(reply.yiaddr),
        _ => None,
    });
    assert_eq!(offered, Some(ip(120)));
}
