//! Rollouts that reboot machines by their BMCs, which are a small server of these tests.
use super::{
    rollout::{MACHINES, boot, order, phases, soaked, world},
    *,
};
use crate::model::{BootOnce, OnFailure, Phase, Power, Redfish, RolloutState, Secret, wire::StartRollout};
use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

const SYSTEM: &str = r##"{"PowerState":"On","Actions":{"#ComputerSystem.Reset":{"target":"/reset"}}}"##;

/// One BMC for all: takes every order or refuses every one, and counts the resets.
struct Bmcs {
    refuse: Arc<AtomicBool>,
    resets: Arc<AtomicUsize>,
    url: String,
}

impl Bmcs {
    fn start() -> Bmcs {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (refuse, resets) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let bmcs = Bmcs { refuse: refuse.clone(), resets: resets.clone(), url };
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                // A request of this client comes in one piece or two, its body last.
                while !(request.ends_with(b"}")
                    || request.ends_with(b"\r\n\r\n") && request.starts_with(b"GET"))
                {
                    match stream.read(&mut buffer) {
                        Ok(n @ 1..) => request.extend(&buffer[..n]),
                        _ => break,
                    }
                }
                let refused = refuse.load(Ordering::SeqCst);
                if request.starts_with(b"POST /reset") && !refused {
                    resets.fetch_add(1, Ordering::SeqCst);
                }
                let answer = match (refused, request.starts_with(b"GET")) {
                    (true, _) => "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_owned(),
                    (false, true) => {
                        format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{SYSTEM}", SYSTEM.len())
                    }
                    (false, false) => "HTTP/1.1 204 X\r\n\r\n".to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        bmcs
    }

    fn resets(&self) -> usize {
        self.resets.load(Ordering::SeqCst)
    }

    async fn govern(&self, w: &World) {
        w.prov.set_secret("bmc", Secret::new(b"root:calvin".to_vec())).await.unwrap();
        for n in 1..=MACHINES {
            let bmc = Redfish {
                url: self.url.clone(),
                system: Some("1".into()),
                secret: "bmc".into(),
                certificate: None,
                boot: BootOnce::Pxe,
            };
            w.prov.set_power(&mac(n).to_string(), Power::Redfish(bmc)).await.unwrap();
        }
    }
}

async fn second(w: &World) {
    w.clock.advance(1_000);
    w.prov.tick();
    w.prov.clone().order_reboots().await;
}

#[tokio::test]
async fn moved_machines_are_rebooted_once_each_over_restarts() {
    let (mut w, _, new) = world().await;
    let bmcs = Bmcs::start();
    bmcs.govern(&w).await;
    w.prov.start_rollout(order(&["1", "rest"])).await.unwrap();
    second(&w).await;
    assert_eq!(bmcs.resets(), 1, "only the first wave");
    w = w.restart();
    for _ in 0..10 {
        second(&w).await;
    }
    assert_eq!(bmcs.resets(), 1, "the order is on record");
    let first = phases(&w).iter().position(|p| *p == Phase::Moved).unwrap() as u32 + 1;
    assert_eq!(boot(&w, first, true).await, new);
    soaked(&w);
    second(&w).await;
    assert_eq!(bmcs.resets(), 4);
    for n in (1..=MACHINES).filter(|n| *n != first) {
        assert_eq!(boot(&w, n, true).await, new);
    }
    soaked(&w);
    second(&w).await;
    assert_eq!((w.prov.rollout("web-2").unwrap().rollout.state, bmcs.resets()), (RolloutState::Done, 4));
    assert!(w.prov.machines().iter().all(|m| m.reboot.is_none() && m.power_fault.is_none()));
    assert_eq!(w.prov.stats().reboots, 3, "since the restart");
}

#[tokio::test]
async fn a_bmc_that_refuses_is_its_machines_failure_with_its_words() {
    let (w, old, _) = world().await;
    let bmcs = Bmcs::start();
    bmcs.govern(&w).await;
    bmcs.refuse.store(true, Ordering::SeqCst);
    w.prov.start_rollout(order(&["1", "rest"])).await.unwrap();
    let mut seconds = 0;
    while !phases(&w).contains(&Phase::Failed) {
        second(&w).await;
        seconds += 1;
        assert!(seconds < 2_000, "{:?}", w.prov.machines());
    }
    let view = w.prov.rollout("web-2").unwrap();
    assert_eq!(view.rollout.state, RolloutState::Halted);
    let reason = &view.troubles[0].reason;
    assert!(reason.starts_with("its reboot was ordered 6 times in vain: http://127.0.0.1:"), "{reason}");
    assert!(reason.ends_with("said 503 to GET /redfish/v1/Systems/1"), "{reason}");
    let failed = w.prov.machine(&view.troubles[0].mac.to_string()).unwrap();
    assert_eq!((failed.power_fault.unwrap().times, failed.reboot, failed.moved), (6, None, None));
    assert_eq!((w.prov.stats().reboots_failed, bmcs.resets()), (6, 0));
    assert_eq!(boot(&w, 1, true).await, old);
}

#[tokio::test]
async fn what_is_rolled_back_is_rebooted_too_within_the_limits() {
    let (w, old, new) = world().await;
    let bmcs = Bmcs::start();
    bmcs.govern(&w).await;
    let mut start = StartRollout { on_failure: OnFailure::RollBack, ..order(&["rest"]) };
    start.limits.in_flight = 2;
    w.prov.start_rollout(start).await.unwrap();
    let mut booted = 0;
    while booted < 3 {
        second(&w).await;
        let moved = phases(&w).iter().position(|p| *p == Phase::Moved).unwrap() as u32 + 1;
        assert_eq!(boot(&w, moved, true).await, new);
        booted += 1;
    }
    second(&w).await;
    let before = bmcs.resets();
    assert_eq!(before, 4);
    let last = phases(&w).iter().position(|p| *p == Phase::Moved).unwrap() as u32 + 1;
    assert_eq!(boot(&w, last, false).await, new);
    w.clock.advance(1_900_000);
    second(&w).await;
    assert_eq!(w.prov.rollout("web-2").unwrap().rollout.state, RolloutState::RolledBack);
    second(&w).await;
    assert_eq!(bmcs.resets() - before, 2, "two at once, as the rollout's limit says");
    let mut back = 0;
    while back < MACHINES {
        let out = w.prov.machines().into_iter().find(|m| m.reboot.as_ref().is_some_and(|r| r.last.is_some()));
        let n = (1..=MACHINES).find(|n| mac(*n) == out.as_ref().unwrap().mac).unwrap();
        assert_eq!(boot(&w, n, true).await, old, "{n}");
        second(&w).await;
        back += 1;
    }
    assert_eq!(bmcs.resets() - before, 4);
    assert!(w.prov.machines().iter().all(|m| m.reboot.is_none()));
}
