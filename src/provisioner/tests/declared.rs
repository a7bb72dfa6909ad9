//! Many changes at once over the whole provisioner: all or none, whatever happens to the disk.
use super::*;
use crate::fleet::{ApplyOrder, Document, ImportOrder, MachineRow};

fn order(text: &str) -> ApplyOrder {
    let document: Document = toml::from_str(text).unwrap();
    ApplyOrder { document, prune: false, dry_run: false, revision: None }
}

const FLEET: &str = r#"
    default = "web:1"
    [[rule]]
    name = "dbs"
    select = "label.role=db"
    target = "web:2"
    [[machine]]
    mac = "52:54:00:00:00:01"
    hostname = "db7"
    labels = { role = "db" }
    [[machine]]
    mac = "52:54:00:00:00:02"
    pin = "local"
"#;

async fn world() -> World {
    let w = World::new(Options::default());
    w.import("web:1", Arch::X86_64, true);
    w.import("web:2", Arch::X86_64, true);
    w
}

#[tokio::test]
async fn a_document_is_carried_out_whole_survives_a_restart_and_re_points_only_what_boots_something_else() {
    let w = world().await;
    w.prov
        .set_machine(
            &mac(3).to_string(),
            MachinePatch { rack: Some(Some("a1".into())), ..MachinePatch::default() },
        )
        .await
        .unwrap();
    let before = w.prov.machine(&mac(3).to_string()).unwrap().generation;
    let planned = w.prov.apply(ApplyOrder { dry_run: true, ..order(FLEET) }).await.unwrap();
    assert_eq!((planned.applied, w.prov.revision(), w.prov.rules().len()), (false, 1, 0));
    let done = w.prov.apply(order(FLEET)).await.unwrap();
    assert_eq!(done.changes, planned.changes, "what was shown is what was done");
    assert_eq!(w.prov.machine(&mac(3).to_string()).unwrap().generation, before + 1, "by the new default");
    let w = w.restart();
    for (n, rule) in [(1, Rule::Selector), (2, Rule::Pin), (3, Rule::Default)] {
        assert_eq!(w.prov.explain(&mac(n).to_string()).unwrap().rule, rule);
    }
    let exported = w.prov.export().await.unwrap();
    let again = ApplyOrder {
        document: exported.document,
        prune: true,
        dry_run: false,
        revision: Some(exported.revision),
    };
    assert_eq!(w.prov.apply(again).await.unwrap().changes, []);
}

#[tokio::test]
async fn what_can_not_be_written_is_taken_back_all_of_it() {
    let w = world().await;
    let rack = |n: u32, rack: &str| MachineRow { rack: Some(Some(rack.into())), ..MachineRow::new(mac(n)) };
    w.prov.import_machines(ImportOrder { machines: vec![rack(1, "old")], dry_run: false }).await.unwrap();
    let before = (w.prov.export().await.unwrap().document, w.prov.machines().len());
    w.prov.db().limit_pages(0);
    assert!(matches!(w.prov.apply(order(FLEET)).await, Err(CommandError::NotSaved(_))));
    let rows = ImportOrder { machines: (1..9).map(|n| rack(n, "new")).collect(), dry_run: false };
    assert!(matches!(w.prov.import_machines(rows).await, Err(CommandError::NotSaved(_))));
    let now = (w.prov.export().await.unwrap().document, w.prov.machines().len());
    assert_eq!(now, before);
    w.prov.db().limit_pages(1_000_000);
    w.prov.pin(M, "local").await.unwrap();
    let w = w.restart();
    assert_eq!(w.prov.audit_log().verify(None).unwrap().broken, None);
    w.prov.unpin(M).await.unwrap();
    assert_eq!((w.prov.export().await.unwrap().document, w.prov.machines().len()), before);
}

#[tokio::test]
async fn what_a_machine_can_not_boot_and_what_does_not_fit_is_refused_whole() {
    let mut options = Options::default();
    options.bounds.machines = 3;
    let w = World::new(options);
    w.import("arm:1", Arch::Aarch64, true);
    w.lease(1, PXE).await.unwrap();
    let fails = async |text: &str| w.prov.apply(order(text)).await.unwrap_err();
    let pinned =
        "[[machine]]\nmac = '52:54:00:00:00:09'\n[[machine]]\nmac = '52:54:00:00:00:01'\npin = 'arm:1'";
    let CommandError::Problems(problems) = fails(pinned).await else { panic!() };
    assert_eq!(problems[0].path, "machine[1].pin");
    assert!(problems[0].message.contains("is for aarch64"), "{problems:?}");
    let rows = |n: u32| {
        (1..=n).map(|n| MachineRow { rack: Some(Some("a".into())), ..MachineRow::new(mac(n)) }).collect()
    };
    let e = w.prov.import_machines(ImportOrder { machines: rows(4), dry_run: false }).await.unwrap_err();
    assert!(matches!(e, CommandError::TableFull(_)), "{e}");
    assert_eq!((w.prov.revision(), w.prov.machines().len()), (0, 1));
    w.prov.import_machines(ImportOrder { machines: rows(3), dry_run: false }).await.unwrap();
    let rules: String =
        (0..257).map(|n| format!("[[rule]]\nname='r{n}'\nselect='all'\ntarget='local'\n")).collect();
    assert!(fails(&rules).await.to_string().contains("there would be 257 rules, and 256 fit"));
}
