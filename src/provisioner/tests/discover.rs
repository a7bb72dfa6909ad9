//! A machine that nobody assigned an image to waits in memory, and boots by kexec what it is given.
use super::*;

fn options() -> Options {
    Options { discover_image: Some("wait:1".into()), fallback_after: 1, ..Options::default() }
}

/// A power-on up to the script; the boot's token.
async fn waits(w: &World) -> String {
    w.clock.advance(120_000);
    let addr = w.lease(1, IPXE).await.unwrap();
    let script = w.script(1, addr).await.unwrap();
    assert!(script.contains(" pristine.discover ") && !script.contains("pristine.image="), "{script}");
    token_of(&script)
}

async fn orders(w: &World, token: &str) -> Result<Order, ReportError> {
    w.prov.orders(server(), Ipv4Addr::new(198, 18, 0, 130), token, Some(mac(1))).await
}

fn booted(order: Result<Order, ReportError>) -> (crate::model::AttemptId, String, Digest, String) {
    match order {
        Ok(Order::Boot { boot, token, image, cmdline }) => (boot, token, image, cmdline),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_machine_waits_in_memory_and_boots_what_it_is_given_as_a_boot_of_its_own() {
    let w = World::new(options());
    let (wait, web) = (w.import("wait:1", Arch::X86_64, true), w.import("web:1", Arch::X86_64, true));
    let token = waits(&w).await;
    let first = w.last();
    assert_eq!((first.image, first.waits_with, &first.verdict), (None, Some(wait), &Verdict::Running));
    w.prov.blob_fetched(first.id, w.kernel(wait), true).await;
    w.prov.report(&token, stage(Stage::Init)).await.unwrap();
    w.prov.report(&token, stage(Stage::Network)).await.unwrap();
    let reached: Vec<Stage> = w.last().stages.iter().map(|s| s.stage).collect();
    assert!(reached.contains(&Stage::Kernel), "{reached:?}");

    let w = w.restart();
    w.clock.advance(3 * 3_600_000);
    w.prov.tick();
    assert_eq!(w.last().verdict, Verdict::Running, "it waits for an operator");
    assert!(matches!(orders(&w, &token).await, Ok(Order::Wait { .. })));
    assert_eq!(orders(&w, "nonsense").await, Err(ReportError::UnknownToken));

    w.prov.pin(M, "web:1").await.unwrap();
    let (boot, lost, image, cmdline) = booted(orders(&w, &token).await);
    assert_eq!(image, web);
    for word in
        [format!("pristine.image={web}"), format!("pristine.boot={boot}"), format!("pristine.token={lost}")]
    {
        assert!(cmdline.split(' ').any(|w| w == word), "{word} in {cmdline}");
    }

    // The answer got lost: the same boot, with another token.
    let w = w.restart();
    let (again, second, _, _) = booted(orders(&w, &token).await);
    assert!(again == boot && second != lost);
    assert_eq!(w.prov.report(&lost, stage(Stage::Init)).await, Err(ReportError::UnknownToken));
    let all = w.prov.attempts(None, 9);
    assert_eq!((all.len(), all[0].id, &all[1].verdict), (2, boot, &Verdict::Superseded));
    assert_eq!((all[0].kexec_from, all[0].rule.as_ref()), (Some(first.id), Some(&Rule::Pin)));
    assert_eq!(all[0].generation, w.prov.machine(M).unwrap().generation);
    assert_eq!(all[0].stages[0].detail.as_deref(), Some("web:1, by kexec"));
    assert_eq!(all[0].stages.len(), 1, "no firmware: {:?}", all[0].stages);

    w.prov.blob_fetched(boot, w.kernel(web), true).await;
    let over = orders(&w, &token).await;
    assert!(matches!(over, Err(ReportError::DeadToken(_))), "{over:?}");
    w.prov.blob_fetched(boot, Digest::of(b"initramfs"), true).await;
    w.prov.report(&second, stage(Stage::Healthy)).await.unwrap();
    assert_eq!(w.prov.machine(M).unwrap().last_healthy, Some(web));
    let agent = orders(&w, &second).await;
    assert!(matches!(agent, Ok(Order::Wait { .. })), "{agent:?}");
}

#[tokio::test]
async fn what_is_the_firmwares_is_a_restart_and_a_kexec_that_fails_is_no_fault_of_the_image() {
    let w = World::new(options());
    w.import("wait:1", Arch::X86_64, true);
    let web = w.import("web:1", Arch::X86_64, true);
    let token = waits(&w).await;
    w.prov.pin(M, "local").await.unwrap();
    let order = orders(&w, &token).await;
    assert!(matches!(&order, Ok(Order::Restart { why }) if why.contains("boots its own disk")), "{order:?}");
    w.prov.pin(M, "web:1").await.unwrap();
    let (boot, token, ..) = booted(orders(&w, &token).await);
    w.prov.blob_fetched(boot, w.kernel(web), true).await;
    w.prov.blob_fetched(boot, Digest::of(b"initramfs"), true).await;
    w.prov.report(&token, Report::Failed { failed: "lockdown".into() }).await.unwrap();
    assert!(w.prov.machine(M).unwrap().failing.is_empty());
    // Through the firmware, and a failure there counts.
    w.clock.advance(120_000);
    let addr = w.lease(1, IPXE).await.unwrap();
    let token = token_of(&w.script(1, addr).await.unwrap());
    let boot = w.last();
    assert_eq!((boot.image, boot.kexec_from), (Some(web), None));
    w.prov.blob_fetched(boot.id, w.kernel(web), true).await;
    w.prov.blob_fetched(boot.id, Digest::of(b"initramfs"), true).await;
    w.prov.report(&token, Report::Failed { failed: "no root".into() }).await.unwrap();
    assert_eq!(w.prov.machine(M).unwrap().failing.len(), 1);
}

#[tokio::test]
async fn a_site_without_such_an_image_shows_the_screen() {
    let w = World::new(options());
    let addr = w.lease(1, IPXE).await.unwrap();
    let script = w.script(1, addr).await.unwrap();
    assert!(script.contains("WAITING FOR AN ASSIGNMENT") && !script.contains("pristine.token"), "{script}");
    let why = w.prov.explain(M).unwrap().why;
    assert!(why.contains("there is no image `wait:1`"), "{why}");
}
