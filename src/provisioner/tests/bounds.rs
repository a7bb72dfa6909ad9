//! Disks that take nothing, strangers, and more than there is room for.
use super::*;

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
async fn answers_that_wait_together_promise_what_the_disk_has_of_each() {
    let w = World::new(Options::default());
    let renews = |n, addr: Ipv4Addr| packet(3, n, &[(50, &addr.octets()[..])]);
    let decide = |packet: &[u8]| w.prov.dhcp(&link(), &dhcp::parse(packet).unwrap(), None);
    let first = w.lease(1, &[]).await.unwrap();
    let Action::Reply(offer) = w.dhcp(&packet(1, 2, &[])).await else { panic!("an offer") };
    w.clock.advance(600_000);
    w.prov.db().limit_pages(0);
    // What promises nothing stands behind what does.
    let ask =
        || vec![decide(&renews(1, first)), decide(&renews(2, offer.yiaddr)), decide(&packet(1, 3, &[]))];
    let mut turn = ask();
    assert!(!w.prov.dhcp_saved(&mut turn).await);
    let mut done = Vec::new();
    for answered in turn {
        done.push(w.prov.dhcp_late(answered).await);
    }
    assert!(
        matches!(&done[0], Action::Reply(ack) if ack.kind == ReplyKind::Ack),
        "what is left of its lease"
    );
    assert!(
        matches!(done[1], Action::Silent(dhcp::Reason::NotSaved)),
        "nothing of it is on disk: {:?}",
        done[1]
    );
    assert!(matches!(&done[2], Action::Reply(offer) if offer.kind == ReplyKind::Offer));
    let stats = w.prov.stats();
    assert_eq!((stats.not_saved, stats.acks_shortened), (1, 1));

    w.prov.db().limit_pages(1_000_000);
    let mut turn = ask();
    assert!(w.prov.dhcp_saved(&mut turn).await);
    let w = w.restart();
    let mut leased: Vec<Ipv4Addr> = w.prov.leases().iter().map(|l| l.addr).collect();
    leased.sort_unstable();
    let mut expected = vec![first, offer.yiaddr];
    expected.sort_unstable();
    assert_eq!(leased, expected);
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
