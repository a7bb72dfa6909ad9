//! The audit log over the whole provisioner: nothing changes without its record, and the records tell all.
use super::*;
use crate::{
    model::{
        Ipmi, Power, Secret,
        audit::{About, AuditEntry, Deed, FromTo, Who},
        wire::{RolloutOrder, StartRollout},
    },
    store::db::LogQuery,
};
use proptest::prelude::*;

/// The whole log, the oldest first; its chain is whole.
fn log(w: &World) -> Vec<AuditEntry> {
    let log = w.prov.audit_log();
    let found = log.verify(None).unwrap();
    assert_eq!(found.broken, None);
    let all = log.page(&LogQuery { after: Some(0), limit: 100_000, ..LogQuery::default() }).unwrap();
    assert_eq!([found.records, w.prov.revision()], [all.len() as u64; 2]);
    all
}

fn last(w: &World) -> AuditEntry {
    log(w).pop().unwrap()
}

fn change(from: Option<&str>, to: Option<&str>) -> FromTo {
    FromTo { from: from.map(str::to_owned), to: to.map(str::to_owned) }
}

fn alice(w: &World, why: &str) -> Provisioner {
    w.prov.by(By::operator(Some("alice@adm1".into()), Some(why.into())).unwrap())
}

#[tokio::test]
async fn a_record_says_who_what_from_what_to_what_and_why() {
    let w = World::new(Options::default());
    let web = w.import("web:1", Arch::X86_64, true).to_string();
    alice(&w, "the fix").pin(M, "web:1").await.unwrap();
    let AuditEntry { record, .. } = last(&w);
    assert_eq!((record.who, record.what), (Who::Operator, Deed::Pinned));
    assert_eq!((record.claim.as_deref(), record.why.as_deref()), (Some("alice@adm1"), Some("the fix")));
    assert_eq!((record.about, record.at), (About::Machine(mac(1)), 1_000_000));
    assert_eq!(record.changes["pin"], change(None, Some(&web)));
    assert_eq!(record.changes["boots"], change(Some("discover"), Some(&web)));

    alice(&w, "").pin(M, "web:1").await.unwrap();
    assert_eq!(log(&w).len(), 1, "what changes nothing leaves none");
    let rack = MachinePatch { rack: Some(Some("a1".into())), ..MachinePatch::default() };
    alice(&w, "").set_machine(M, rack).await.unwrap();
    assert_eq!(last(&w).record.changes, BTreeMap::from([("rack".to_owned(), change(None, Some("a1")))]));

    let w = w.restart();
    alice(&w, "").unpin(M).await.unwrap();
    assert_eq!((last(&w).record.seq, last(&w).record.what), (3, Deed::Unpinned), "the chain goes on");
}

#[tokio::test]
async fn a_rule_re_points_its_machines_and_each_has_a_record_of_that() {
    let w = World::new(Options::default());
    for n in 1..=3 {
        let rack = Some(Some(if n < 3 { "a1" } else { "b1" }.to_owned()));
        w.prov
            .set_machine(&mac(n).to_string(), MachinePatch { rack, ..MachinePatch::default() })
            .await
            .unwrap();
    }
    alice(&w, "maintenance").set_rule("racks", "rack=a1", "local").await.unwrap();
    let all = log(&w).split_off(3);
    assert_eq!(all[0].record.about, About::Rule("racks".into()));
    assert_eq!(all[0].record.changes["selector"], change(None, Some("rack=a1")));
    let repointed: Vec<&AuditEntry> = all[1..].iter().collect();
    assert_eq!(repointed.len(), 2, "and the third is not its");
    for entry in repointed {
        let record = &entry.record;
        assert_eq!((record.what, record.order), (Deed::Repointed, all[0].record.seq));
        assert_eq!(record.changes["boots"], change(Some("discover"), Some("local")));
        assert_eq!(record.why.as_deref(), Some("maintenance"));
    }
    alice(&w, "").remove_rule("racks").await.unwrap();
    alice(&w, "").set_default(Some("local")).await.unwrap();
    let whats: Vec<Deed> = log(&w).split_off(6).iter().map(|e| e.record.what).collect();
    use Deed::*;
    assert_eq!(whats, [RuleRemoved, Repointed, Repointed, Default, Repointed, Repointed, Repointed]);

    let of = |machine| LogQuery { machine: Some(mac(machine)), limit: 9, ..LogQuery::default() };
    let page = w.prov.audit_log().page(&of(3)).unwrap();
    assert_eq!(page.iter().map(|e| e.record.what).collect::<Vec<_>>(), [Repointed, Set], "the newest first");
}

#[tokio::test]
async fn what_the_service_does_by_itself_is_its_own() {
    let w = World::new(Options { fallback_after: 2, ..Options::default() });
    let (old, new) = (w.import("web:1", Arch::X86_64, true), w.import("web:2", Arch::X86_64, true));
    w.prov.set_default(Some("web:1")).await.unwrap();
    super::rollout::boot(&w, 1, true).await;
    let order = StartRollout {
        selector: "all".into(),
        to: "web:2".into(),
        waves: vec!["rest".into()],
        ..StartRollout::default()
    };
    alice(&w, "new web").start_rollout(order).await.unwrap();
    w.prov.saved().await.unwrap();
    let all = log(&w);
    let [start, moved] = &all[all.len() - 2..] else { panic!() };
    assert_eq!((start.record.who, start.record.what), (Who::Operator, Deed::RolloutStarted));
    assert_eq!((moved.record.who, moved.record.what), (Who::Service, Deed::Moved), "whoever made it tick");
    assert_eq!(moved.record.why.as_deref(), Some("rollout web-2, wave 1"));
    assert_eq!(moved.record.changes["boots"], change(Some(&old.to_string()), Some(&new.to_string())));

    for _ in 0..2 {
        super::rollout::boot(&w, 1, false).await;
    }
    super::rollout::boot(&w, 1, true).await;
    w.prov.saved().await.unwrap();
    let all: Vec<_> = log(&w).split_off(all.len()).into_iter().map(|e| e.record).collect();
    let whats: Vec<Deed> = all.iter().map(|r| r.what).collect();
    assert_eq!(whats, [Deed::FellBack, Deed::Returned, Deed::RolloutChanged], "{all:?}");
    assert!(all.iter().all(|r| r.who == Who::Service && r.claim.is_none()));
    assert!(
        all[0].why.as_ref().unwrap().starts_with("2 boots in a row failed, the last one failed: no database")
    );
    assert_eq!(all[2].changes["state"], change(Some("running"), Some("halted")));

    alice(&w, "it was the switch").order_rollout("web-2", RolloutOrder::RollBack).await.unwrap();
    alice(&w, "").remove_rollout("web-2").await.unwrap();
    alice(&w, "").forget(&mac(1).to_string()).await.unwrap();
    assert_eq!(last(&w).record.what, Deed::Forgotten);
}

#[tokio::test]
async fn what_could_not_be_written_is_on_record_with_its_undoing_when_the_disk_is_back() {
    let w = World::new(Options::default());
    w.prov.pin(M, "ignore").await.unwrap();
    w.prov.db().limit_pages(0);
    assert!(alice(&w, "too early").pin(M, "local").await.is_err());
    assert!(alice(&w, "too early").set_default(Some("local")).await.is_err());
    w.prov.db().limit_pages(1_000_000);
    alice(&w, "now").set_rule("r", "rack=a1", "local").await.unwrap();
    let all: Vec<_> = log(&w).into_iter().map(|e| e.record).collect();
    let told: Vec<_> = all.iter().map(|r| (r.who, r.what, r.why.as_deref())).collect();
    let back = Some("taken back: it could not be written");
    assert_eq!(
        told,
        [
            (Who::Service, Deed::Pinned, None),
            (Who::Operator, Deed::Pinned, Some("too early")),
            (Who::Service, Deed::Pinned, back),
            (Who::Operator, Deed::Default, Some("too early")),
            (Who::Service, Deed::Default, back),
            (Who::Operator, Deed::RuleSet, Some("now")),
        ]
    );
    assert_eq!(w.prov.machine(M).unwrap().pin, Some(BootTarget::Ignore));
}

#[tokio::test]
async fn secrets_and_power_settings_are_on_record_and_no_value_is() {
    let w = World::new(Options::default());
    let value = || Secret::new(b"root:hunter2".to_vec());
    alice(&w, "the BMCs").set_secret("bmc", value()).await.unwrap();
    let bmc = Ipmi { address: "10.0.7.1".into(), secret: "bmc".into() };
    alice(&w, "").set_power(M, Power::Ipmi(bmc)).await.unwrap();
    let power = r#"{"method":"ipmi","address":"10.0.7.1","secret":"bmc"}"#;
    assert_eq!(last(&w).record.changes, BTreeMap::from([("power".to_owned(), change(None, Some(power)))]));
    alice(&w, "rotated").set_secret("bmc", value()).await.unwrap();
    alice(&w, "").set_power(M, Power::Manual).await.unwrap();
    assert_eq!(last(&w).record.changes["power"], change(Some(power), None));
    alice(&w, "").remove_secret("bmc").await.unwrap();

    let all = log(&w);
    let about = About::Secret("bmc".into());
    let secrets: Vec<_> = all.iter().map(|e| &e.record).filter(|r| r.about == about).collect();
    let told: Vec<_> = secrets.iter().map(|r| (r.what, r.why.as_deref())).collect();
    let [set, removed] = [Deed::SecretSet, Deed::SecretRemoved];
    assert_eq!(told, [(set, Some("the BMCs")), (set, Some("rotated")), (removed, None)]);
    let seals: Vec<_> = secrets.iter().map(|r| r.changes["seal"].clone()).collect();
    assert!(
        seals[1].from == seals[0].to && seals[1].to != seals[0].to,
        "the same value, sealed anew: {seals:?}"
    );
    let hash = Digest::of(value().expose()).to_string();
    let text = serde_json::to_string(&all).unwrap();
    assert!(!text.contains("hunter2") && !text.contains(&hash), "{text}");
}

#[tokio::test]
async fn strangers_and_their_packets_leave_no_record() {
    let w = World::new(Options::default());
    w.prov.set_rule("uefi", "firmware=uefi", "local").await.unwrap();
    for n in 1..20 {
        w.lease(n, PXE).await.unwrap();
    }
    w.clock.advance(8 * 24 * 3_600_000);
    w.prov.forget_visitors();
    w.prov.saved().await.unwrap();
    assert_eq!(log(&w).len(), 1, "whoever is on the link can't make the log grow");
}

/// The log, told from its beginning.
#[derive(Default, Debug, PartialEq)]
struct Told {
    machines: BTreeMap<Mac, BTreeMap<String, String>>,
    rules: BTreeMap<String, BTreeMap<String, String>>,
    default: Option<String>,
}

fn tell(log: &[AuditEntry]) -> Told {
    let mut told = Told::default();
    for AuditEntry { record, .. } in log {
        let fields = match &record.about {
            About::Machine(mac) => told.machines.entry(*mac).or_default(),
            About::Rule(name) => told.rules.entry(name.clone()).or_default(),
            About::Default => {
                assert_eq!(record.changes["target"].from, told.default);
                told.default = record.changes["target"].to.clone();
                continue;
            }
            About::Rollout(_) | About::Profile(_) | About::Secret(_) => continue,
        };
        for (key, change) in &record.changes {
            if key != "boots" {
                assert_eq!(fields.get(key), change.from.as_ref(), "{key} of {record:?}");
            }
            match &change.to {
                Some(to) => fields.insert(key.clone(), to.clone()),
                None => fields.remove(key),
            };
        }
        if record.what == Deed::Forgotten {
            fields.remove("boots");
        }
        told.rules.retain(|_, fields| !fields.is_empty());
    }
    told
}

fn word(target: &BootTarget) -> String {
    match target {
        BootTarget::Image { digest } => digest.to_string(),
        other => other.to_string(),
    }
}

/// What the log should tell by now.
fn is(w: &World, told: &Told) {
    assert_eq!(told.default, w.prov.default_target().map(|p| word(&p.target)));
    let rules: BTreeMap<String, String> =
        w.prov.rules().into_iter().map(|r| (r.rule.name, r.rule.selector)).collect();
    let theirs: BTreeMap<String, String> =
        told.rules.iter().map(|(name, fields)| (name.clone(), fields["selector"].clone())).collect();
    assert_eq!(theirs, rules);
    for m in w.prov.machines() {
        let none = BTreeMap::new();
        let fields = told.machines.get(&m.mac).unwrap_or(&none);
        let field = |key: &str| fields.get(key).cloned();
        assert_eq!(field("pin"), m.pin.as_ref().map(word));
        assert_eq!((field("rack"), field("hostname")), (m.rack.clone(), m.hostname.clone()));
        assert_eq!(field("label.role"), m.labels.get("role").cloned());
        assert_eq!(field("moved"), m.moved.as_ref().map(|m| word(&m.target)));
        assert_eq!(field("rollout"), m.moved.as_ref().map(|m| m.rollout.clone()));
        if let Some(boots) = field("boots") {
            assert_eq!(boots, word(&w.prov.explain(&m.mac.to_string()).unwrap().target), "{m:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    /// Whatever operators do, the log told from its beginning gives what is.
    #[test]
    fn the_log_tells_all_that_is(steps in prop::collection::vec((0_u8..13, 1_u32..4, 0_usize..3), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let w = World::new(Options::default());
            w.import("web:1", Arch::X86_64, true);
            w.import("web:2", Arch::X86_64, true);
            for (what, n, which) in steps {
                let key = mac(n).to_string();
                let target = ["web:1", "web:2", "local"][which];
                let rack = Some(["a1", "b1"].get(which).map(|r| r.to_string()));
                let role = BTreeMap::from([("role".to_owned(), ["db", "web"].get(which).map(|r| r.to_string()))]);
                let prov = alice(&w, "");
                // Many of them are refused: nothing is to be seen of those either.
                match what {
                    0 => drop(prov.pin(&key, target).await),
                    1 | 2 => drop(prov.unpin(&key).await),
                    3 => drop(prov.set_machine(&key, MachinePatch { rack, ..MachinePatch::default() }).await),
                    4 => drop(prov.set_machine(&key, MachinePatch { labels: role, ..MachinePatch::default() }).await),
                    5 => drop(prov.forget(&key).await),
                    6 => drop(prov.set_default(Some(target)).await),
                    7 => drop(prov.set_default(None).await),
                    8 => drop(prov.set_rule(&format!("r{n}"), ["rack=a1", "label.role=db", "all"][which], target).await),
                    9 => drop(prov.remove_rule(&format!("r{n}")).await),
                    10 => {
                        let (selector, to) = (["all", "rack=a1", "rack=b1"][which].into(), target.into());
                        let order = StartRollout { selector, to, waves: vec!["1".into(), "rest".into()], ..StartRollout::default() };
                        drop(prov.start_rollout(order).await);
                    }
                    11 => for name in ["web-1", "web-2"] {
                        let orders = [RolloutOrder::Promote, RolloutOrder::Abort, RolloutOrder::RollBack];
                        drop(prov.order_rollout(name, orders[which]).await);
                    },
                    _ => for name in ["web-1", "web-2"] {
                        drop(prov.remove_rollout(name).await);
                    },
                }
                w.prov.saved().await.unwrap();
                is(&w, &tell(&log(&w)));
            }
        });
    }
}
