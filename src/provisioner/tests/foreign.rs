//! Images of other makers, which send no reports.
use super::*;

/// A day of seconds, at which the ticker looks in steps of ten minutes.
fn a_day(w: &World) {
    for _ in 0..144 {
        w.clock.advance(600_000);
        w.prov.tick();
    }
}

#[tokio::test]
async fn a_foreign_image_that_fetched_its_root_is_handed_over_and_never_stuck() {
    let w = World::new(Options::default());
    let (_, live) = w.import_live("live:1");
    w.prov.pin(M, "live:1").await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    w.script(1, addr).await.unwrap();
    let (boot, root) = (w.last().id, live.rootfs.unwrap().blob.digest);
    for (digest, stage) in [(live.kernel.digest, Stage::Kernel), (live.initramfs[0].digest, Stage::Initramfs)]
    {
        w.prov.blob_begun(boot, digest).await;
        w.prov.blob_fetched(boot, digest, true).await;
        assert_eq!((w.last().reached(), w.last().verdict), (Some(stage), Verdict::Running));
    }
    // Its own initramfs asks for an address, which begins no boot, and for its root, which takes hours.
    w.lease(1, &[]).await.unwrap();
    w.prov.blob_begun(boot, root).await;
    assert_eq!(w.last().reached(), Some(Stage::Network));
    a_day(&w);
    assert_eq!(w.last().verdict, Verdict::Running, "a long download");
    w.prov.blob_fetched(boot, root, false).await;
    assert_eq!(w.last().reached(), Some(Stage::Network), "not all of it");
    w.prov.blob_fetched(boot, root, true).await;
    assert_eq!((w.last().reached(), w.last().verdict), (Some(Stage::Rootfs), Verdict::HandedOver));
    a_day(&w);
    assert_eq!(w.last().verdict, Verdict::HandedOver);
    // It is a new boot when the machine comes again.
    let addr = w.lease(1, IPXE).await.unwrap();
    w.script(1, addr).await.unwrap();
    let both = w.prov.attempts(None, 9);
    assert_eq!((both.len(), &both[1].verdict), (2, &Verdict::HandedOver));
}

#[tokio::test]
async fn a_foreign_image_without_a_root_is_handed_over_with_its_initramfs() {
    let w = World::new(Options::default());
    let installer = w.import("installer:1", Arch::X86_64, false);
    w.prov.pin(M, "installer:1").await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    w.script(1, addr).await.unwrap();
    let boot = w.last().id;
    w.prov.blob_fetched(boot, w.kernel(installer), true).await;
    assert_eq!(w.last().verdict, Verdict::Running);
    w.prov.blob_fetched(boot, Digest::of(b"initramfs"), true).await;
    assert_eq!(w.last().verdict, Verdict::HandedOver);
    a_day(&w);
    assert_eq!(w.last().verdict, Verdict::HandedOver);
}

#[tokio::test]
async fn a_foreign_image_that_never_asks_for_its_root_or_its_initramfs_is_stuck_with_the_cause() {
    let w = World::new(Options::default());
    let (_, live) = w.import_live("live:1");
    w.prov.pin(M, "live:1").await.unwrap();
    for (fetched, words) in [
        (vec![live.kernel.digest], "not the whole initramfs"),
        (vec![live.kernel.digest, live.initramfs[0].digest], "its own initramfs did not ask for the root"),
    ] {
        let addr = w.lease(1, IPXE).await.unwrap();
        w.script(1, addr).await.unwrap();
        let boot = w.last().id;
        for digest in fetched {
            w.prov.blob_fetched(boot, digest, true).await;
        }
        a_day(&w);
        let Verdict::Stuck { cause } = w.last().verdict else { panic!("{:?}", w.last()) };
        assert!(cause.contains(words), "{cause}");
        // Late is better than never, and a restart of the service forgets nothing.
        w.prov.blob_begun(boot, live.rootfs.unwrap().blob.digest).await;
        assert_eq!(w.last().verdict, Verdict::Running);
    }
    let w = w.restart();
    a_day(&w);
    assert_eq!(w.last().verdict, Verdict::Running, "it fetches its root");
}
