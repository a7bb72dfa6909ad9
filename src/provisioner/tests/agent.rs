//! The agent of a running machine is told to restart, or what to start.
use super::*;

async fn healthy(w: &World) -> String {
    w.clock.advance(120_000);
    let addr = w.lease(1, IPXE).await.unwrap();
    let token = token_of(&w.script(1, addr).await.unwrap());
    w.prov.report(&token, stage(Stage::Healthy)).await.unwrap();
    token
}

async fn orders(w: &World, token: &str) -> Result<Order, ReportError> {
    w.prov.orders(server(), Ipv4Addr::new(198, 18, 0, 130), token, None).await
}

fn waits(order: &Result<Order, ReportError>) -> bool {
    matches!(order, Ok(Order::Wait { .. }))
}

#[tokio::test]
async fn an_agent_is_told_once_what_an_operator_orders_and_its_token_is_good_for_nothing_else() {
    let w = World::new(Options::default());
    w.import("web:1", Arch::X86_64, true);
    let two = w.import("web:2", Arch::X86_64, true);
    w.prov.pin(M, "web:1").await.unwrap();
    let token = healthy(&w).await;
    use crate::model::{Power, PowerAction::Cycle};
    w.prov.set_power(M, Power::Agent { kexec: false }).await.unwrap();
    let said = w.prov.power_act(M, Cycle).await.unwrap_err().to_string();
    assert!(said.contains("no agent of") && said.contains("agent run"), "{said}");
    assert!(waits(&orders(&w, &token).await));
    w.clock.advance(200_000);
    assert!(w.prov.power_act(M, Cycle).await.is_err(), "it asked long ago");
    assert!(waits(&orders(&w, &token).await));
    w.prov.power_act(M, Cycle).await.unwrap();

    let w = w.restart();
    assert!(w.prov.machine(M).unwrap().order.is_some());
    let order = orders(&w, &token).await;
    assert!(matches!(order, Ok(Order::Restart { .. })), "{order:?}");
    let used = w.prov.facts(&token, crate::model::Facts::default()).await;
    assert!(matches!(used, Err(ReportError::DeadToken(_))), "{used:?}");
    let later = healthy(&w).await;
    assert_eq!(w.prov.machine(M).unwrap().order, None, "it was for the boot before");
    assert!(waits(&orders(&w, &later).await));
    assert!(matches!(orders(&w, &token).await, Err(ReportError::DeadToken(_))));

    // Another image, without the firmware.
    w.prov.pin(M, "web:2").await.unwrap();
    assert!(waits(&orders(&w, &later).await), "a new assignment alone restarts nobody");
    w.prov.set_power(M, Power::Agent { kexec: true }).await.unwrap();
    w.prov.power_act(M, Cycle).await.unwrap();
    let healthy = w.last().id;
    let order = orders(&w, &later).await;
    let Ok(Order::Boot { boot, token: next, image, .. }) = order else { panic!("{order:?}") };
    assert_eq!((image, w.last().id, w.last().kexec_from), (two, boot, Some(healthy)));
    assert_eq!(w.prov.attempts(None, 9)[1].verdict, Verdict::Healthy, "that boot went well");
    let order = orders(&w, &later).await;
    assert!(
        matches!(&order, Ok(Order::Boot { boot: same, .. }) if *same == boot),
        "a lost answer: {order:?}"
    );
    assert_eq!(w.prov.report(&next, stage(Stage::Init)).await, Err(ReportError::UnknownToken), "replaced");
}
