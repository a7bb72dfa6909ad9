//! Boots, from the first packet to healthy or stuck.
use super::*;

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
