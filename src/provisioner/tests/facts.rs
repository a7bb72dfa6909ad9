//! What machines say of themselves: kept, counted for selectors, and believed no further than it is safe.
use super::*;
use crate::model::Facts;

const UUID: [u8; 16] =
    [0x4c, 0x4c, 0x45, 0x44, 0, 0x44, 0x48, 0x10, 0x80, 0x35, 0x4a, 0xc0, 0x4f, 0x51, 0x50, 0x32];
/// As another firmware of the same machine says it.
const TURNED: [u8; 16] =
    [0x44, 0x45, 0x4c, 0x4c, 0x44, 0, 0x10, 0x48, 0x80, 0x35, 0x4a, 0xc0, 0x4f, 0x51, 0x50, 0x32];

fn facts(nics: &[u32]) -> Facts {
    let nics: Vec<String> =
        nics.iter().map(|n| format!(r#"{{"mac":"{}","driver":"tg3"}}"#, mac(*n))).collect();
    let text = format!(
        r#"{{"vendor":"Dell Inc.","product":"R640","serial":"S7","memory":68719476736,"nics":[{}]}}"#,
        nics.join(",")
    );
    serde_json::from_str(&text).unwrap()
}

/// A DISCOVER of iPXE on NIC `n` of the machine with this UUID.
async fn discovers(w: &World, n: u32, uuid: [u8; 16]) {
    w.clock.advance(120_000);
    let id = [&[0][..], &uuid].concat();
    w.lease(n, &[IPXE, &[(97, &id)]].concat()).await.unwrap();
}

/// A power-on up to the script; the boot's token.
async fn boots(w: &World, n: u32, uuid: [u8; 16]) -> String {
    discovers(w, n, uuid).await;
    let addr = w.lease(n, IPXE).await.unwrap();
    token_of(&w.script(n, addr).await.unwrap())
}

#[tokio::test]
async fn facts_come_with_the_token_of_a_boot_last_over_a_restart_and_count_for_rules() {
    let w = World::new(Options::default());
    let (web, big) = (w.import("web:1", Arch::X86_64, true), w.import("big:1", Arch::X86_64, true));
    w.prov.set_default(Some("web:1")).await.unwrap();
    w.prov.set_rule("big", "memory >= 64G and driver = tg3", "big:1").await.unwrap();
    let token = boots(&w, 1, UUID).await;
    assert_eq!(w.last().image, Some(web));
    let unknown = w.prov.facts("nonsense", facts(&[1])).await;
    assert_eq!(unknown, Err(ReportError::UnknownToken));
    let generation = w.prov.machine(M).unwrap().generation;
    w.prov.facts(&token, facts(&[1])).await.unwrap();
    w.prov.facts(&token, facts(&[1])).await.unwrap();

    let w = w.restart();
    let m = w.prov.machine(M).unwrap();
    assert_eq!((m.product.as_deref(), m.serial.as_deref()), (Some("Dell Inc. R640"), Some("S7")));
    assert_eq!(m.facts.as_ref().unwrap().memory, Some(64 << 30));
    assert_eq!(m.generation, generation + 1, "another rule picks it from now on, and that is said once");
    assert_eq!(w.prov.explain(M).unwrap().target, BootTarget::Image { digest: big });
    w.prov.report(&token, stage(Stage::Healthy)).await.unwrap();
    let late = w.prov.facts(&token, facts(&[1])).await;
    assert!(matches!(late, Err(ReportError::DeadToken(_))), "{late:?}");
}

#[tokio::test]
async fn a_machine_is_known_by_its_other_nic_where_both_sides_say_so_and_takes_nobody_elses() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true);
    w.prov.set_default(Some("web:1")).await.unwrap();
    w.prov.pin(M, "web:1").await.unwrap();
    w.prov.pin(&mac(3).to_string(), "local").await.unwrap();
    let token = boots(&w, 1, UUID).await;
    // NIC 3 is on record as another machine, and NIC 4 is another machine's that was never seen.
    w.prov.facts(&token, facts(&[1, 2, 3, 4])).await.unwrap();

    let w = w.restart();
    discovers(&w, 4, [7; 16]).await;
    assert_eq!(w.prov.machine(&mac(4).to_string()).unwrap().mac, mac(4), "its UUID is not that of the claim");
    discovers(&w, 3, UUID).await;
    let third = w.prov.machine(&mac(3).to_string()).unwrap();
    assert_eq!((third.mac, third.pin), (mac(3), Some(BootTarget::Local)), "it was there before");
    discovers(&w, 5, UUID).await;
    assert_eq!(w.prov.machine(&mac(5).to_string()).unwrap().mac, mac(5), "nobody said that it has this NIC");

    boots(&w, 2, TURNED).await;
    let second = w.prov.machine(&mac(2).to_string()).unwrap();
    assert_eq!((second.mac, second.other_macs), (mac(1), vec![mac(2)]));
    assert_eq!((w.last().mac, w.last().image), (mac(1), Some(web)));
    let w = w.restart();
    assert_eq!(w.prov.machine(&mac(2).to_string()).unwrap().mac, mac(1));

    // Two that claim one NIC, with the UUID that their boards have in common: then nobody has it.
    let token = boots(&w, 6, UUID).await;
    w.prov.facts(&token, facts(&[6, 8])).await.unwrap();
    let token = boots(&w, 7, UUID).await;
    w.prov.facts(&token, facts(&[7, 8])).await.unwrap();
    discovers(&w, 8, UUID).await;
    assert_eq!(w.prov.machine(&mac(8).to_string()).unwrap().mac, mac(8));
}
