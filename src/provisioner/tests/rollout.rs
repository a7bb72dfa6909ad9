//! Rollouts over the whole provisioner: real boots move them, a restart loses nothing.
use super::*;
use crate::model::{
    OnFailure, Phase, RolloutState,
    wire::{RolloutOrder, StartRollout},
};

pub(super) const MACHINES: u32 = 4;

pub(super) async fn world() -> (World, Digest, Digest) {
    let w = World::new(Options { fallback_after: 2, ..Options::default() });
    let (old, new) = (w.import("web:1", Arch::X86_64, true), w.import("web:2", Arch::X86_64, true));
    w.prov.set_default(Some("web:1")).await.unwrap();
    for n in 1..=MACHINES {
        let rack = Some(Some(format!("r{}", n % 2)));
        let patch = MachinePatch { rack, ..MachinePatch::default() };
        w.prov.set_machine(&mac(n).to_string(), patch).await.unwrap();
        boot(&w, n, true).await;
    }
    (w, old, new)
}

/// A power-on of machine `n`, healthy or failing after its kernel runs; the image that it booted.
pub(super) async fn boot(w: &World, n: u32, healthy: bool) -> Digest {
    w.clock.advance(120_000);
    let addr = w.lease(n, IPXE).await.unwrap();
    let token = token_of(&w.script(n, addr).await.unwrap());
    let attempt = w.last();
    let image = attempt.image.unwrap();
    let manifest = w.prov.images().get(image).unwrap().unwrap().manifest.clone();
    for blob in [manifest.kernel, manifest.initramfs[0]] {
        w.prov.blob_fetched(attempt.id, blob.digest, true).await;
    }
    w.prov.tick();
    let report = match healthy {
        true => stage(Stage::Healthy),
        false => Report::Failed { failed: "no database".into() },
    };
    w.prov.report(&token, report).await.unwrap();
    w.prov.tick();
    image
}

pub(super) fn order(waves: &[&str]) -> StartRollout {
    StartRollout {
        selector: "all".into(),
        to: "web:2".into(),
        waves: waves.iter().map(|w| w.to_string()).collect(),
        ..StartRollout::default()
    }
}

pub(super) fn soaked(w: &World) {
    w.clock.advance(301_000);
    w.prov.tick();
    w.prov.tick();
}

pub(super) fn phases(w: &World) -> Vec<Phase> {
    let all = (1..=MACHINES).map(|n| w.prov.machine(&mac(n).to_string()).unwrap());
    all.map(|m| m.part.unwrap().phase).collect()
}

#[tokio::test]
async fn a_good_version_reaches_everybody_wave_by_wave_over_restarts() {
    let (mut w, old, new) = world().await;
    let view = w.prov.start_rollout(order(&["1", "rest"])).await.unwrap();
    assert_eq!((view.rollout.name.as_str(), view.rollout.waves.as_slice()), ("web-2", &[1, 3][..]));
    assert_eq!(phases(&w).iter().filter(|p| **p == Phase::Moved).count(), 1);
    let first = phases(&w).iter().position(|p| *p == Phase::Moved).unwrap() as u32 + 1;
    w = w.restart();
    let other = if first == 1 { 2 } else { 1 };
    assert_eq!(boot(&w, other, true).await, old, "its wave has not come");
    assert_eq!(boot(&w, first, true).await, new);
    assert_eq!(w.last().rule, Some(Rule::Rollout));
    w = w.restart();
    soaked(&w);
    assert_eq!(w.prov.rollout("web-2").unwrap().rollout.wave, 1);
    for n in (1..=MACHINES).filter(|n| *n != first) {
        assert_eq!(boot(&w, n, true).await, new);
        w = w.restart();
    }
    soaked(&w);
    let done = w.prov.rollout("web-2").unwrap();
    assert_eq!(
        (done.rollout.state, done.rollout.why.as_str()),
        (RolloutState::Done, "4 machines run the image")
    );
    assert_eq!(boot(&w, 2, true).await, new, "it stays");

    let e = w.prov.start_rollout(order(&["rest"])).await.unwrap_err().to_string();
    assert!(e.contains("none of which can be moved; left out: 4 boot it already"), "{e}");
    w.prov.remove_rollout("web-2").await.unwrap();
    let w = w.restart();
    assert!(w.prov.rollouts().is_empty());
    assert_eq!(boot(&w, 2, true).await, old, "what the rules say counts again");
}

#[tokio::test]
async fn a_bad_version_stops_in_the_first_wave_and_its_machine_comes_back_by_itself() {
    let (w, old, new) = world().await;
    w.prov.start_rollout(order(&["1", "rest"])).await.unwrap();
    let first = phases(&w).iter().position(|p| *p == Phase::Moved).unwrap() as u32 + 1;
    assert_eq!(boot(&w, first, false).await, new);
    assert_eq!(boot(&w, first, false).await, new);
    assert_eq!(boot(&w, first, true).await, old, "the last good one");
    let view = w.prov.rollout("web-2").unwrap();
    assert_eq!(
        (view.rollout.state, view.rollout.why.as_str()),
        (RolloutState::Halted, "1 machine failed, and 0 may")
    );
    let reason = &view.troubles[0].reason;
    assert!(
        reason.contains("instead; 2 boots in a row failed, the last one: failed: no database"),
        "{reason}"
    );
    assert_eq!(phases(&w).iter().filter(|p| **p == Phase::Waiting).count(), 3);
    let alarms = w.prov.alarms();
    assert_eq!((alarms.len(), alarms[0].about.as_str()), (1, "rollout web-2"));
    assert_eq!(
        w.prov.explain(&mac(first).to_string()).unwrap().rule,
        Rule::Default,
        "nothing moves it any more"
    );
    let e = w.prov.remove_rollout("web-2").await.unwrap_err().to_string();
    assert!(e.contains("web-2 is halted: end it first"), "{e}");
    w.prov.order_rollout("web-2", RolloutOrder::Abort).await.unwrap();
    assert!(w.prov.alarms().is_empty());
}

#[tokio::test]
async fn a_roll_back_gives_everybody_what_they_had_be_it_another_rollouts() {
    let (w, _, new) = world().await;
    w.prov.start_rollout(order(&["rest"])).await.unwrap();
    for n in 1..=MACHINES {
        boot(&w, n, true).await;
    }
    soaked(&w);
    let third = w.import("web:3", Arch::X86_64, true);
    let next = StartRollout { to: "web:3".into(), on_failure: OnFailure::RollBack, ..order(&["rest"]) };
    w.prov.start_rollout(next).await.unwrap();
    assert_eq!(boot(&w, 1, true).await, third);
    boot(&w, 2, false).await;
    boot(&w, 2, false).await;
    assert_eq!(boot(&w, 2, true).await, new);
    assert_eq!(w.prov.rollout("web-3").unwrap().rollout.state, RolloutState::RolledBack);
    for n in 1..=MACHINES {
        assert_eq!(boot(&w, n, true).await, new, "{n}");
    }
}

#[tokio::test]
async fn nothing_moves_where_something_is_wrong() {
    let (w, _, _) = world().await;
    w.import("arm:1", Arch::Aarch64, true);
    let said = async |order: StartRollout| w.prov.start_rollout(order).await.unwrap_err().to_string();
    let with = |to: &str| StartRollout { to: to.into(), ..order(&["rest"]) };
    assert!(said(with("web:9")).await.contains("web:9"));
    assert!(said(with("local")).await.contains("not to `local`"));
    assert!(said(with("arm:1")).await.contains("the image is for aarch64, and 52:54:00:00:00:01 is x86_64"));
    assert!(said(order(&["1"])).await.contains("the waves have 1 of 4 machines"));
    assert!(said(order(&["many"])).await.contains("`many` is no wave"));
    let rack = StartRollout { selector: "rak=r1".into(), ..order(&["rest"]) };
    assert!(said(rack).await.contains("did you mean rack?"));
    let window = StartRollout { windows: vec!["night".into()], ..order(&["rest"]) };
    assert!(said(window).await.contains("no maintenance window"));
    assert!(w.prov.rollouts().is_empty() && w.prov.machines().iter().all(|m| m.part.is_none()));

    w.prov.pin(M, "web:1").await.unwrap();
    let view = w.prov.start_rollout(order(&["rest"])).await.unwrap();
    assert_eq!(view.rollout.why, "started for 3 machines; left out: 1 pinned");
    let e = said(StartRollout { name: Some("other".into()), to: "web:1".into(), ..order(&["rest"]) }).await;
    assert!(e.contains("is in rollout web-2, which is running"), "{e}");
    let e = w.prov.rollout("wbe-2").unwrap_err().to_string();
    assert!(e.contains("near it: web-2"), "{e}");
}

#[tokio::test]
async fn a_start_that_is_not_on_disk_did_not_happen() {
    let (w, _, _) = world().await;
    w.prov.db().limit_pages(0);
    let e = w.prov.start_rollout(order(&["rest"])).await.unwrap_err();
    assert!(matches!(e, CommandError::NotSaved(_)), "{e}");
    assert!(w.prov.rollouts().is_empty() && w.prov.machines().iter().all(|m| m.part.is_none()));
}
