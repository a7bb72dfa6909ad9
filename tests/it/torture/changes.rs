//! Kill -9 amid operators' changes: what was answered is on record, what is on record is what is, an import of
//! machines is there as a whole or not at all, and the chain of the audit log is whole.

use super::{
    super::{api::Dir, images::noise, store::publish},
    Row,
    leases::{OURS, Service, is_up_again, temporary},
    times,
};
use pristine::{
    client::{Client, ClientError},
    fleet::{ImportOrder, MachineRow},
    lab::Net,
    model::{
        Mac, RolloutState,
        audit::{About, AuditEntry, FromTo, LogHead},
        wire::{RolloutOrder, StartRollout},
    },
    provisioner::MachinePatch,
    store::{
        ImageStore,
        db::{AuditLog, Db, LogQuery},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Machines of one import.
const HALL: u8 = 40;
const TARGETS: [&str; 3] = ["local", "ignore", "discover"];

/// A change that was answered: of what, what about it, and to what.
type Change = (String, &'static str, String);

/// Changes in a stream until the service dies, each to another value.
fn change_on(client: &Client, from: u32, answered: &mpsc::Sender<Change>) {
    // What an earlier life of the service left would be in the way.
    for rollout in client.rollouts().unwrap_or_default() {
        let _ = client.order_rollout(&rollout.rollout.name, RolloutOrder::Abort);
    }
    for n in from.. {
        let (machine, rack) = (format!("52:54:00:00:01:{:02x}", n % 7), format!("r{n}"));
        let patch = MachinePatch { rack: Some(Some(rack.clone())), ..MachinePatch::default() };
        if client.set_machine(&machine, &patch).is_err()
            || answered.send((machine.clone(), "rack", rack.clone())).is_err()
        {
            return;
        }
        if n % 3 == 0
            && (client.import_machines(&hall(&rack)).is_err()
                || answered.send(("the hall".to_owned(), "import", rack.clone())).is_err())
        {
            return;
        }
        let target = TARGETS[(n / 21 % 3) as usize];
        if n % 3 == 1
            && (client.pin(&machine, target).is_err()
                || answered.send((machine, "pin", target.to_owned())).is_err())
        {
            return;
        }
        if n % 6 == 0 {
            let order = StartRollout {
                name: Some(rack.clone()),
                selector: format!("rack={rack}"),
                to: "web:1".into(),
                waves: vec!["1".into(), "rest".into()],
                ..StartRollout::default()
            };
            let started = client.start_rollout(&order);
            let over = client.order_rollout(&rack, RolloutOrder::Abort);
            match (&started, over) {
                (Ok(_), Ok(_)) if answered.send((rack.clone(), "rollout", String::new())).is_ok() => {}
                // Rollouts before moved the whole hall.
                (Err(ClientError::Refused { body, .. }), _)
                    if body.error.contains("none of which can be moved") => {}
                (Ok(_), Err(ClientError::Refused { .. })) | (Err(ClientError::Refused { .. }), _) => {
                    panic!("rollout {rack}: {started:?}, {:?}", client.rollout(&rack))
                }
                _ => return,
            }
        }
    }
}

/// Forty machines in that rack, at once.
fn hall(rack: &str) -> ImportOrder {
    let row = |n: u8| MachineRow {
        rack: Some(Some(rack.to_owned())),
        ..MachineRow::new(Mac([0x52, 0x54, 0, 0, 2, n]))
    };
    ImportOrder { machines: (0..HALL).map(row).collect(), dry_run: false }
}

#[test]
fn kill_9_amid_changes_leaves_a_whole_chain_that_tells_what_is() {
    let mut row = Row::new("kill -9 under pins, machine imports and rollouts");
    let state = Dir::new("changes");
    publish(&ImageStore::open(&state.0.join("store")).unwrap(), "web:1", &noise(100_000));
    let net = Net::new().unwrap();
    let server = net.host("server", &format!("{OURS}/16")).unwrap();
    let token = state.0.join("api-token");
    let mut noted: Option<LogHead> = None;
    let mut answered: Vec<Change> = Vec::new();
    for round in 0..times(6, 100) {
        let begun = Instant::now();
        let mut service = Service::start(&server, &state.0);
        let client = Client::new("http://127.0.0.1:8081", &token).unwrap();
        server.enter(|| client.status()).unwrap().unwrap();
        is_up_again(&mut row, begun);
        // No more than 64 fit.
        let rollouts = server.enter(|| client.rollouts()).unwrap().unwrap();
        if rollouts.len() > 40 {
            for rollout in rollouts {
                let name = rollout.rollout.name;
                let _ = server.enter(|| client.order_rollout(&name, RolloutOrder::Abort)).unwrap();
                server.enter(|| client.remove_rollout(&name)).unwrap().unwrap();
            }
            answered.retain(|change| change.1 != "rollout");
        }
        let (send, answers) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let client = Client::new("http://127.0.0.1:8081", &token).unwrap();
                server.enter(|| change_on(&client, round * 10_002, &send)).unwrap();
                drop(send);
            });
            for _ in 0..6 + (round * 5) % 23 {
                answered.push(answers.recv_timeout(Duration::from_secs(60)).expect("changes are answered"));
            }
            service.0.kill();
        });
        answered.extend(answers.try_iter());

        let log = AuditLog::of_folder(&state.0);
        let found = log.verify(noted).unwrap();
        assert_eq!(found.broken, None, "round {round}");
        noted = found.head;
        let all = LogQuery { after: Some(0), limit: 1_000_000, ..LogQuery::default() };
        let mut now: BTreeMap<(String, &str), Option<String>> = BTreeMap::new();
        let mut told: BTreeSet<Change> = BTreeSet::new();
        for AuditEntry { record, .. } in log.page(&all).unwrap() {
            let About::Machine(mac) = record.about else { continue };
            for what in ["rack", "pin"] {
                let Some(FromTo { from, to }) = record.changes.get(what).cloned() else { continue };
                let before = now.insert((mac.to_string(), what), to.clone()).flatten();
                assert_eq!(before, from, "round {round}: {record:?}");
                told.extend(to.map(|to| (mac.to_string(), what, to)));
            }
        }
        let on_disk = Db::open_read_only(&state.0).unwrap().unwrap();
        for machine in &on_disk.machines {
            let said = |what| now.get(&(machine.mac.to_string(), what)).cloned().flatten();
            assert_eq!(machine.rack, said("rack"), "round {round}: the log tells what is");
            assert_eq!(machine.pin.as_ref().map(ToString::to_string), said("pin"), "round {round}");
        }
        let racks: Vec<_> =
            on_disk.machines.iter().filter(|m| m.mac.0[4] == 2).map(|m| m.rack.clone()).collect();
        let whole = racks.len() == usize::from(HALL) && racks.iter().all(|r| r.is_some() && *r == racks[0]);
        row.holds(racks.is_empty() || whole, || {
            format!("round {round}: all of an import or none of it: {racks:?}")
        });
        for change in &answered {
            let kept = match change.1 {
                "rollout" => {
                    let ended = |state| matches!(state, RolloutState::Aborted);
                    on_disk.rollouts.iter().any(|r| r.name == change.0 && ended(r.state))
                }
                // Each machine of it, once.
                "import" => (0..HALL).all(|n| {
                    let mac = Mac([0x52, 0x54, 0, 0, 2, n]).to_string();
                    told.contains(&(mac, "rack", change.2.clone()))
                }),
                _ => told.contains(change),
            };
            row.holds(kept, || format!("round {round}: {change:?} was answered, and is lost"));
        }
        let left = temporary(&state.0);
        row.holds(left.is_empty(), || format!("round {round}: {left:?} stays"));
        row.made(1);
    }
    row.end();
}
