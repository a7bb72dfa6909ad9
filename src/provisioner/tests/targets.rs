//! What a machine is to boot, and what keeps it from that.
use super::*;

#[tokio::test]
async fn pins_store_digests_outlive_restarts_and_name_the_nearest_image() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.import("arm:1", Arch::Aarch64, true);
    let e = w.prov.pin(M, "wev:1").await.unwrap_err().to_string();
    assert!(e.contains("web:1"), "{e}");
    assert!(w.prov.machine(M).is_err(), "a failed pin makes no machine");
    let got = w.prov.pin(M, "web:1").await.unwrap();
    assert_eq!((got.seen, got.target), (false, BootTarget::Image { digest: web }), "pinned, not heard of");
    let patch = MachinePatch { hostname: Some(Some("Node-1".into())), ..MachinePatch::default() };
    w.prov.set_machine(M, patch.clone()).await.unwrap();
    let taken = w.prov.set_machine("52:54:00:00:00:02", patch).await;
    assert!(matches!(taken, Err(CommandError::Taken { .. })), "{taken:?}");
    w.prov.set_default(Some("local")).await.unwrap();

    let w = w.restart();
    assert_eq!(w.prov.machine("node-1").unwrap().pin, Some(BootTarget::Image { digest: web }));
    let e = w.prov.machine("node-2").unwrap_err().to_string();
    assert!(e.contains("near it: node-1"), "{e}");
    assert_eq!(w.prov.default_target().unwrap().target, BootTarget::Local);
    let got = w.prov.unpin("node-1").await.unwrap();
    assert_eq!((got.target, got.rule), (BootTarget::Local, Rule::Default));
    w.lease(1, PXE).await.unwrap();
    assert_eq!(w.last().verdict, Verdict::Local);
    let e = w.prov.pin(M, "arm:1").await.unwrap_err().to_string();
    assert!(e.contains("arm:1 is for aarch64, but 52:54:00:00:00:01 is x86_64"), "{e}");
    w.prov.forget("node-1").await.unwrap();
    let w = w.restart();
    assert_eq!((w.prov.machines().len(), w.prov.attempts(None, 9).len()), (0, 0));
    assert_eq!(w.prov.leases().len(), 1, "a lease is a promise");
}

#[tokio::test]
async fn explain_says_which_rule_and_what_is_wrong() {
    let w = World::new(Options::default());
    let never = w.prov.explain(M).unwrap();
    assert!(!never.seen);
    assert_eq!(
        never.why,
        "waits at the discover screen: it has no pin, no rule picks it, and the site has no default"
    );
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    w.lease(1, PXE).await.unwrap();
    let got = w.prov.explain(M).unwrap();
    assert_eq!(
        got.why,
        format!(
            "boots web:1 ({}): it has no pin, no rule picks it, and this is the site's default",
            web.short()
        )
    );
    assert_eq!((got.nbp.as_deref(), got.leases.len()), (Some("snponly.efi"), 1));
    std::fs::remove_file(w.prov.images().blobs().path(web)).unwrap();
    let got = w.prov.explain(M).unwrap();
    assert!(got.refused.as_deref().unwrap().contains("not in the store"), "{got:?}");
}

#[tokio::test]
async fn a_damaged_image_is_not_booted_and_console_and_attempt_say_why() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    std::fs::remove_file(w.prov.images().blobs().path(w.kernel(web))).unwrap();
    let script = w.script(1, addr).await.unwrap();
    assert!(!script.contains("pristine.token") && script.contains("web:1"), "{script}");
    let Verdict::Failed { reason } = w.last().verdict else { panic!("{:?}", w.last()) };
    assert!(reason.contains("web:1") && reason.contains("missing"), "{reason}");
    assert_eq!(w.prov.machine(M).unwrap().running, None);
    w.script(1, addr).await.unwrap();
    assert_eq!(w.prov.attempts(None, 9).len(), 1, "its screen asks again: still the same boot");
}

#[tokio::test]
async fn a_kernel_with_one_changed_byte_is_never_named_to_a_machine() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    let path = w.prov.images().blobs().path(w.kernel(web));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "kernel of web;1").unwrap();
    let script = w.script(1, addr).await.unwrap();
    assert!(!script.contains("/blobs/") && script.contains("damaged"), "{script}");
    assert!(matches!(w.last().verdict, Verdict::Failed { .. }), "{:?}", w.last());
}

#[tokio::test]
async fn a_machine_that_boots_something_else_has_left_its_image() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.pin(M, "web:1").await.unwrap();
    let addr = w.lease(1, IPXE).await.unwrap();
    w.script(1, addr).await.unwrap();
    w.prov.pin(M, "local").await.unwrap();
    assert_eq!(w.prov.machine(M).unwrap().running, Some(web), "it runs until it restarts");
    w.script(1, addr).await.unwrap();
    assert_eq!(w.prov.machine(M).unwrap().running, None, "`image rm` may take it now");
}

#[tokio::test]
async fn a_raspberry_pi_that_says_pc_bios_runs_images_for_its_own_processor() {
    let w = World::new(Options::default());
    w.import("web:1", Arch::X86_64, true);
    w.import("arm:1", Arch::Aarch64, true);
    let pi = Mac([0xdc, 0xa6, 0x32, 0, 0, 1]);
    let mut discover = packet(1, 1, &[(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, &[0, 0])]);
    discover[28..34].copy_from_slice(&pi.0);
    w.dhcp(&discover).await;
    assert_eq!(w.prov.machine(&pi.to_string()).unwrap().arch, Some(Arch::Aarch64));
    let got = w.prov.pin(&pi.to_string(), "arm:1").await.unwrap();
    assert_eq!(got.refused, None, "explain says what the boot is told");
    assert!(matches!(w.prov.pin(&pi.to_string(), "web:1").await, Err(CommandError::WrongArch { .. })));
}
