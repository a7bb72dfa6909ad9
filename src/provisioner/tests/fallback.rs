//! The last good image takes the place of one that fails boot after boot, and gives it back when told to.
use super::*;

fn options() -> Options {
    Options { fallback_after: 2, ..Options::default() }
}

/// A power-on up to the script; the boot's token.
async fn boots(w: &World) -> String {
    w.clock.advance(120_000);
    let addr = w.lease(1, IPXE).await.unwrap();
    token_of(&w.script(1, addr).await.unwrap())
}

/// What a machine has fetched that runs `init`.
async fn loads(w: &World, image: Digest) {
    let attempt = w.last();
    assert_eq!(attempt.image, Some(image));
    let manifest = w.prov.images().get(image).unwrap().unwrap().manifest.clone();
    for blob in [manifest.kernel, manifest.initramfs[0]] {
        w.prov.blob_fetched(attempt.id, blob.digest, true).await;
    }
}

async fn boots_healthy(w: &World, image: Digest) {
    let token = boots(w).await;
    loads(w, image).await;
    w.prov.report(&token, stage(Stage::Healthy)).await.unwrap();
}

async fn fails(w: &World, image: Digest) {
    let token = boots(w).await;
    loads(w, image).await;
    w.prov.report(&token, Report::Failed { failed: "no database".into() }).await.unwrap();
}

#[tokio::test]
async fn a_machine_comes_back_by_itself_and_tries_again_when_told_to() {
    let w = World::new(options());
    let (good, bad) = (w.import("web:1", Arch::X86_64, true), w.import("web:2", Arch::X86_64, true));
    w.prov.pin(M, "web:1").await.unwrap();
    boots_healthy(&w, good).await;
    w.prov.pin(M, "web:2").await.unwrap();
    fails(&w, bad).await;
    assert!(w.prov.alarms().is_empty(), "once is no rule");
    let generation = w.prov.machine(M).unwrap().generation;
    fails(&w, bad).await;
    assert_eq!(w.prov.machine(M).unwrap().generation, generation + 1);

    let w = w.restart();
    let e = w.prov.explain(M).unwrap();
    assert_eq!((&e.target, &e.rule), (&BootTarget::Image { digest: good }, &Rule::Fallback));
    assert_eq!(e.instead_of, Some(InsteadOf { image: bad, rule: Rule::Pin }));
    assert_eq!(
        e.why,
        format!(
            "boots web:1 ({}): it was the last one that was healthy here, and web:2 failed 2 boots in a row \
             (the last one failed: no database)",
            good.short()
        )
    );
    let alarms = w.prov.alarms();
    assert_eq!((alarms.len(), alarms[0].about.as_str()), (1, "image web:2"));
    assert!(alarms[0].text.contains(&format!("`pristine retry {M}`")), "{}", alarms[0].text);
    boots_healthy(&w, good).await;
    assert_eq!(w.last().rule, Some(Rule::Fallback), "the record says so");
    assert_eq!(w.prov.explain(M).unwrap().rule, Rule::Fallback, "and stays, however healthy that is");

    assert_eq!(w.prov.retry(M).await.unwrap().target, BootTarget::Image { digest: bad });
    boots_healthy(&w, bad).await;
    assert!(w.prov.alarms().is_empty());
    assert_eq!(w.prov.machine(M).unwrap().last_healthy, Some(bad));
}

#[tokio::test]
async fn power_cycles_before_healthy_count_and_the_very_next_script_is_the_good_one() {
    let w = World::new(options());
    let (good, bad) = (w.import("web:1", Arch::X86_64, true), w.import("web:2", Arch::X86_64, true));
    w.prov.pin(M, "web:1").await.unwrap();
    boots_healthy(&w, good).await;
    w.prov.pin(M, "web:2").await.unwrap();
    let addr = w.prov.leases()[0].addr;
    for _ in 0..2 {
        // As beside another DHCP server: nothing but scripts is seen.
        let token = token_of(&w.script(1, addr).await.unwrap());
        loads(&w, bad).await;
        w.prov.report(&token, stage(Stage::Init)).await.unwrap();
    }
    w.script(1, addr).await.unwrap();
    assert_eq!((w.last().image, w.last().rule), (Some(good), Some(Rule::Fallback)));
}

#[tokio::test]
async fn re_pointing_ends_it_and_a_good_image_that_is_gone_is_said() {
    let w = World::new(options());
    let (good, bad) = (w.import("web:1", Arch::X86_64, true), w.import("web:2", Arch::X86_64, true));
    w.prov.pin(M, "web:1").await.unwrap();
    boots_healthy(&w, good).await;
    w.prov.pin(M, "web:2").await.unwrap();
    fails(&w, bad).await;
    fails(&w, bad).await;
    assert_eq!(w.prov.pin(M, "local").await.unwrap().target, BootTarget::Local);
    w.prov.pin(M, "web:2").await.unwrap();
    w.prov.images().remove("web:1", |_| Ok(Vec::new())).unwrap();
    let e = w.prov.explain(M).unwrap();
    assert_eq!((e.target, e.rule), (BootTarget::Image { digest: bad }, Rule::Pin));
    assert!(e.why.contains("there is no way back") && e.why.contains("not in the store"), "{}", e.why);
}
