//! The life of a lease, state by state (RFC 2131 figure 5 and section 4.3).

use super::*;
use crate::dhcp::client::is_os_id;
use crate::model::ClientKey;

const DUID_A: &[u8] = b"\xff\x01\x02\x03\x04\x00\x02\x00\x00\xab\x11aaaaaaaa";
const DUID_B: &[u8] = b"\xff\x01\x02\x03\x04\x00\x02\x00\x00\xab\x11bbbbbbbb";

#[test]
fn a_new_client_is_probed_offered_and_bound_durably() {
    let mut kit = Kit::new();
    let offer = kit.reply(&Packet::discover(mac(1)).with(12, b"node1"));
    assert_eq!((offer.yiaddr(), &kit.probes[..]), (ip(10), &[ip(10)][..]));
    assert_eq!(kit.changes, 0, "an offer needs no disk");
    assert_eq!(
        kit.leases.offers().map(|l| (l.addr, l.state)).collect::<Vec<_>>(),
        [(ip(10), LeaseState::Offered)]
    );
    let ack = kit.reply(&Packet::selecting(mac(1), SERVER, ip(10)).with(12, b"node1"));
    assert_eq!(ack.reply.kind, ReplyKind::Ack);
    let lease = kit.disk.get(&ip(10)).unwrap();
    assert_eq!((lease.state, lease.mac), (LeaseState::Bound, mac(1)));
    assert_eq!(lease.expires, kit.now + 3_600_000);
    assert_eq!(lease.hostname.as_deref(), Some("node1"));
    assert_eq!(kit.leases.offers().count(), 0);
    for (code, seconds) in [(51, 3_600_u32), (58, 1_800), (59, 3_150)] {
        assert_eq!(ack.opt(code), Some(&seconds.to_be_bytes()[..]), "option {code}");
    }
}

#[test]
fn a_returning_client_costs_no_probe_and_keeps_its_address_for_ever() {
    let mut kit = Kit::new();
    let addr = kit.obtain(&Packet::discover(mac(1)));
    kit.probes.clear();
    kit.pass(600);
    assert_eq!(kit.obtain(&Packet::discover(mac(1))), addr);
    kit.pass(3_601);
    assert_eq!(kit.obtain(&Packet::discover(mac(2))), ip(11), "others get addresses that nobody had");
    assert_eq!(kit.obtain(&Packet::discover(mac(1))), addr, "after its end");
    assert_eq!(kit.probes, [ip(11)], "only the newcomer is probed for");
    kit.pass(30 * 86_400);
    assert_eq!(kit.obtain(&Packet::discover(mac(1))), addr, "after a month");
    assert_eq!(kit.probes, [ip(11), addr], "in which somebody else may have taken it by hand");
}

#[test]
fn a_retransmitted_discover_gets_the_same_offer_without_a_second_probe() {
    let mut kit = Kit::new();
    let packet = Packet::discover(mac(1));
    assert_eq!(kit.once(&packet, None), Action::Probe(ip(10)));
    kit.now += 100;
    assert_eq!(kit.once(&packet, None), Action::Silent(Reason::ProbePending));
    kit.now += 1_000;
    assert_eq!(kit.once(&packet, None), Action::Probe(ip(10)), "the first report never came");
    let Action::Reply(first) = kit.once(&packet, Some(Probed::Free(ip(10)))) else { panic!() };
    kit.pass(20);
    let Action::Reply(second) = kit.once(&packet, None) else { panic!() };
    assert_eq!(first, second);
    kit.pass(29);
    assert!(matches!(kit.once(&packet, None), Action::Reply(_)), "the hold is renewed by asking");
}

#[test]
fn an_address_in_use_is_quarantined_and_another_is_tried_but_not_for_ever() {
    let mut kit = Kit::new();
    kit.occupied = vec![ip(10), ip(11)];
    assert_eq!(kit.obtain(&Packet::discover(mac(1))), ip(12));
    assert_eq!(kit.disk[&ip(10)].state, LeaseState::Declined);
    assert_eq!(kit.disk[&ip(11)].expires, kit.now + 600_000);
    kit.occupied = (10..20).map(ip).collect();
    assert_eq!(kit.silence(&Packet::discover(mac(2))), Reason::AllInUse);
    assert_eq!(kit.probes.len(), 3 + 5);
    kit.restart();
    kit.occupied.clear();
    kit.probes.clear();
    assert_eq!(kit.obtain(&Packet::discover(mac(2))), ip(18), "quarantine outlives a restart");
    kit.pass(601);
    for n in [19, 10, 11, 13] {
        assert_eq!(kit.obtain(&Packet::discover(mac(u32::from(n)))), ip(n), "and ends");
    }
}

#[test]
fn an_offer_lapses_and_another_client_gets_the_address() {
    let mut kit = Kit::new();
    kit.site.subnets[0].pools = vec!["198.18.0.10".parse().unwrap()];
    assert_eq!(kit.reply(&Packet::discover(mac(1))).yiaddr(), ip(10));
    assert_eq!(kit.silence(&Packet::discover(mac(2))), Reason::PoolExhausted);
    kit.pass(31);
    assert_eq!(kit.reply(&Packet::discover(mac(2))).yiaddr(), ip(10));
    let late = kit.reply(&Packet::selecting(mac(1), SERVER, ip(10)));
    assert_eq!(late.reply.kind, ReplyKind::Nak, "the first one asks too late");
}

#[test]
fn a_client_that_chose_another_server_frees_our_offer_and_hears_nothing() {
    let mut kit = Kit::new();
    kit.reply(&Packet::discover(mac(1)));
    let other = Ipv4Addr::new(198, 18, 0, 2);
    assert_eq!(kit.silence(&Packet::selecting(mac(1), other, ip(99))), Reason::OtherServer);
    assert_eq!(kit.leases.offers().count(), 0);
    assert_eq!(kit.changes, 0);
}

#[test]
fn renewing_and_rebinding_extend_the_lease() {
    let mut kit = Kit::new();
    let addr = kit.obtain(&Packet::discover(mac(1)));
    kit.pass(1_800);
    let ack = kit.reply(&Packet::renewing(mac(1), addr));
    assert_eq!((ack.reply.kind, ack.addr_at(12), ack.yiaddr()), (ReplyKind::Ack, addr, addr));
    assert_eq!(ack.reply.to, Destination::Unicast("198.18.0.10:68".parse().unwrap()));
    assert_eq!(kit.disk[&addr].expires, kit.now + 3_600_000);
    kit.pass(3_300);
    let rebinding = Packet::renewing(mac(1), addr).broadcast();
    assert_eq!(kit.reply(&rebinding).reply.kind, ReplyKind::Ack);
    let thief = kit.reply(&Packet::renewing(mac(2), addr));
    assert_eq!(thief.reply.kind, ReplyKind::Nak);
    assert_eq!(thief.reply.to, Destination::Broadcast { port: 68 });
    assert_eq!(kit.disk[&addr].mac, mac(1));
}

#[test]
fn init_reboot_is_acknowledged_or_refused_by_what_is_on_record() {
    let mut kit = Kit::new();
    let addr = kit.obtain(&Packet::discover(mac(1)));
    assert_eq!(kit.reply(&Packet::init_reboot(mac(1), addr)).reply.kind, ReplyKind::Ack);
    let wrong_net = kit.reply(&Packet::init_reboot(mac(1), Ipv4Addr::new(10, 0, 0, 9)));
    assert_eq!((wrong_net.reply.kind, wrong_net.yiaddr()), (ReplyKind::Nak, Ipv4Addr::UNSPECIFIED));
    assert_eq!(kit.reply(&Packet::init_reboot(mac(1), ip(15))).reply.kind, ReplyKind::Nak, "it has another");
    assert_eq!(kit.reply(&Packet::init_reboot(mac(2), addr)).reply.kind, ReplyKind::Nak, "another has it");
    assert_eq!(kit.reply(&Packet::init_reboot(mac(2), ip(200))).reply.kind, ReplyKind::Nak, "not in a pool");
    // A lease table that was lost is rebuilt by its clients.
    assert_eq!(kit.reply(&Packet::init_reboot(mac(2), ip(15))).reply.kind, ReplyKind::Ack);

    kit.site.authoritative = false;
    for (packet, reason) in [
        (Packet::init_reboot(mac(3), ip(16)), Reason::UnknownLease),
        (Packet::renewing(mac(3), ip(16)), Reason::UnknownLease),
        (Packet::init_reboot(mac(3), addr), Reason::NotAuthoritative),
        (Packet::init_reboot(mac(1), Ipv4Addr::new(10, 0, 0, 9)), Reason::NotAuthoritative),
    ] {
        assert_eq!(kit.silence(&packet), reason);
    }
    assert_eq!(kit.reply(&Packet::init_reboot(mac(1), addr)).reply.kind, ReplyKind::Ack);
}

#[test]
fn a_restart_between_offer_and_request_loses_nothing() {
    let mut kit = Kit::new();
    kit.site.authoritative = false;
    let first = kit.obtain(&Packet::discover(mac(1)));
    let offered = kit.reply(&Packet::discover(mac(2))).yiaddr();
    kit.restart();
    assert_eq!(kit.reply(&Packet::selecting(mac(2), SERVER, offered)).reply.kind, ReplyKind::Ack);
    assert_eq!(kit.obtain(&Packet::discover(mac(1))), first);
    assert_eq!(kit.reply(&Packet::selecting(mac(3), SERVER, first)).reply.kind, ReplyKind::Nak);
}

#[test]
fn release_frees_the_address_but_its_client_comes_back_to_it() {
    let mut kit = Kit::new();
    let addr = kit.obtain(&Packet::discover(mac(1)));
    assert_eq!(kit.silence(&Packet::release(mac(2), addr)), Reason::UnknownLease, "not theirs to give");
    assert_eq!(kit.silence(&Packet::release(mac(1), addr)), Reason::Released);
    assert_eq!(kit.disk[&addr].state, LeaseState::Released);
    assert_eq!(kit.obtain(&Packet::discover(mac(2))), ip(11));
    assert_eq!(kit.obtain(&Packet::discover(mac(1))), addr);
    kit.silence(&Packet::release(mac(1), addr));
    for n in 3..11 {
        kit.obtain(&Packet::discover(mac(n)));
    }
    assert_eq!(kit.obtain(&Packet::discover(mac(11))), addr, "when nothing else is left");
    assert_eq!(kit.disk[&addr].mac, mac(11));
    assert_eq!(kit.silence(&Packet::discover(mac(1))), Reason::PoolExhausted);
}

#[test]
fn decline_quarantines_and_the_client_gets_another() {
    let mut kit = Kit::new();
    let addr = kit.obtain(&Packet::discover(mac(1)));
    assert_eq!(kit.silence(&Packet::decline(mac(2), addr)), Reason::UnknownLease, "only its holder can");
    assert_eq!(kit.silence(&Packet::decline(mac(1), addr)), Reason::Declined);
    assert_eq!(kit.disk[&addr].state, LeaseState::Declined);
    assert_eq!(kit.obtain(&Packet::discover(mac(1))), ip(11));
    assert_eq!(kit.reply(&Packet::init_reboot(mac(1), addr)).reply.kind, ReplyKind::Nak);
}

#[test]
fn inform_is_told_everything_but_an_address() {
    let mut kit = Kit::new();
    kit.site.subnets[0].dns = vec![ip(2)];
    let ack = kit.reply(&Packet { ciaddr: ip(77), ..Packet::new(8, mac(1)) });
    assert_eq!(
        (ack.reply.kind, ack.yiaddr(), ack.addr_at(12)),
        (ReplyKind::Ack, Ipv4Addr::UNSPECIFIED, ip(77))
    );
    assert_eq!(ack.reply.to, Destination::Unicast("198.18.0.77:68".parse().unwrap()));
    assert_eq!(ack.opt(6), Some(&ip(2).octets()[..]));
    assert_eq!((ack.opt(51), ack.opt(58), ack.opt(59)), (None, None, None));
    assert_eq!(kit.changes, 0);
}

#[test]
fn one_boot_through_four_client_ids_keeps_one_address() {
    let mut kit = Kit::new();
    let own_mac = [&[1][..], &mac(1).0].concat();
    let uuid = [&[0][..], &[7; 16]].concat();
    let addr = kit.obtain(&Packet::discover(mac(1)).pxe(7).with(61, &uuid));
    for _power_on in 0..3 {
        for packet in [
            Packet::discover(mac(1)).pxe(7).with(61, &uuid),
            Packet::discover(mac(1)).ipxe().with(61, &own_mac),
            Packet::discover(mac(1)).with(60, b"pristine-init"),
            Packet::discover(mac(1)).with(61, DUID_A),
        ] {
            assert_eq!(kit.obtain(&packet), addr);
        }
        // A read-only image makes a new DUID at every boot.
        kit.pass(60);
        assert_eq!(kit.obtain(&Packet::discover(mac(1)).pxe(7)), addr);
        assert_eq!(kit.obtain(&Packet::discover(mac(1)).with(61, DUID_B)), addr);
    }
    assert_eq!(kit.disk.len(), 1);
    assert_eq!(kit.probes, [addr]);
}

#[test]
fn two_operating_systems_behind_one_mac_get_an_address_each() {
    let mut kit = Kit::new();
    let a = kit.obtain(&Packet::discover(mac(1)).with(61, DUID_A));
    let b = kit.obtain(&Packet::discover(mac(1)).with(61, DUID_B));
    assert_ne!(a, b);
    assert_eq!(kit.reply(&Packet::renewing(mac(1), a).with(61, DUID_A)).reply.kind, ReplyKind::Ack);
    assert_eq!(kit.reply(&Packet::renewing(mac(1), a).with(61, DUID_B)).reply.kind, ReplyKind::Nak);
    assert_eq!(kit.obtain(&Packet::discover(mac(1)).with(61, DUID_B)), b);
    // The machine restarts: firmware takes over one of the two.
    let firmware = kit.obtain(&Packet::discover(mac(1)).pxe(0));
    assert!(firmware == a || firmware == b);
}

#[test]
fn one_duid_baked_into_an_image_does_not_make_two_machines_one() {
    let mut kit = Kit::new();
    let a = kit.obtain(&Packet::discover(mac(1)).with(61, DUID_A));
    let b = kit.obtain(&Packet::discover(mac(2)).with(61, DUID_A));
    assert_ne!(a, b);
    assert_eq!(kit.reply(&Packet::renewing(mac(1), a).with(61, DUID_A)).reply.kind, ReplyKind::Ack);
    assert_eq!(kit.reply(&Packet::renewing(mac(2), b).with(61, DUID_A)).reply.kind, ReplyKind::Ack);
}

#[test]
fn ids_of_firmware_and_of_operating_systems_are_told_apart() {
    let own = ClientKey::Id([&[1][..], &mac(1).0].concat());
    assert!(!is_os_id(&own, mac(1)) && is_os_id(&own, mac(2)));
    assert!(!is_os_id(&ClientKey::Id([&[0][..], &[7; 16]].concat()), mac(1)));
    assert!(is_os_id(&ClientKey::Id(DUID_A.to_vec()), mac(1)) && !is_os_id(&ClientKey::Mac(mac(1)), mac(1)));
}

#[test]
fn a_short_step_back_of_the_clock_changes_nothing_and_a_long_one_frees_nothing_twice() {
    let mut kit = Kit::new();
    let addr = kit.obtain(&Packet::discover(mac(1)));
    kit.pass(3_601);
    assert_eq!(kit.obtain(&Packet::discover(mac(2))), ip(11));
    kit.pass(-3_000);
    for n in 3..11 {
        kit.obtain(&Packet::discover(mac(n)));
    }
    assert_eq!(
        kit.silence(&Packet::discover(mac(12))),
        Reason::PoolExhausted,
        "the lease of mac 1 runs again"
    );
    assert_eq!(kit.reply(&Packet::renewing(mac(1), addr)).reply.kind, ReplyKind::Ack);
}
