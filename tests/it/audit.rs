//! The audit log as operators meet it, and under kill -9: what was answered is on record, what is on record
//! is what is, and the chain is whole.
//!
//! 60 kills with `PRISTINE_FULL=1`, else 6.

use super::{
    api::{Dir, TestApi},
    cli::{Cli, token_file},
    state::{OURS, Service},
};
use pristine::{
    client::Client,
    fleet::{ImportOrder, MachineRow},
    lab::Net,
    model::{
        Mac,
        audit::{About, AuditEntry, FromTo, LogHead},
    },
    provisioner::MachinePatch,
    store::db::{AuditLog, Db, LogQuery},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
    time::Duration,
};

const MAC: &str = "52:54:00:00:00:01";

#[test]
fn the_log_says_who_changed_what_and_why_and_that_it_is_whole() {
    let dir = Dir::new("audit");
    let api = TestApi::start();
    let cli = Cli { api: &api, token: token_file(&dir.0) };
    assert_eq!(cli.ok(&["log"]), "nothing is on record\n");
    assert_eq!(cli.ok(&["log", "--verify"]), "the audit log is empty\n");
    cli.ok(&["machine", "set", MAC, "--hostname", "db7", "--rack", "a1"]);
    cli.ok(&["pin", "db7", "local", "-m", "bis zum Umbau"]);
    cli.ok(&["rule", "set", "racks", "--select", "rack=a1", "ignore", "--message", "rack is dark"]);
    cli.ok(&["unpin", "db7"]);
    cli.ok(&["default", "local"]);

    let said = cli.ok(&["log", "--machine", "db7"]);
    let heads: Vec<&str> = said.lines().filter(|l| !l.starts_with(' ') && !l.is_empty()).collect();
    let claim = format!("an operator, who says to be {}", super::cli::OPERATOR);
    assert_eq!(heads.len(), 3, "{said}");
    for (head, what) in heads.iter().zip(["unpinned", "pinned", "set"]) {
        assert!(head.ends_with(&format!("machine db7 ({MAC}): {what} by {claim}")), "{head}");
    }
    assert!(said.contains("    pin    local -> -\n"), "{said}");
    assert!(said.contains("    boots  local -> ignore\n"), "{said}");
    assert!(said.contains("    why    bis zum Umbau\n"), "{said}");

    let json: Vec<AuditEntry> = serde_json::from_str(&cli.ok(&["log", "--json", "--limit", "2"])).unwrap();
    assert_eq!(json.iter().map(|e| e.record.seq).collect::<Vec<_>>(), [5, 4]);
    let page: Vec<AuditEntry> = serde_json::from_str(&cli.ok(&["log", "--json", "--before", "2"])).unwrap();
    assert_eq!(page.iter().map(|e| e.record.seq).collect::<Vec<_>>(), [1]);
    assert_eq!(cli.ok(&["log", "--since", "2999-01-01"]), "nothing is on record\n");
    let whole = cli.ok(&["log", "--verify"]);
    let head = whole.lines().last().unwrap();
    assert_eq!(head, format!("5:{}", json[0].hash), "{whole}");
    cli.ok(&["default", "--clear"]);
    cli.ok(&["log", "--verify", "--head", head]);
    let other = format!("4:{}", json[0].hash);
    let said = cli.err(&["log", "--verify", "--head", &other], 1);
    assert!(said.contains("broken at record 4: another one was noted"), "{said}");
    let said = cli.err(&["pin", MAC, "local", "-m", &"x".repeat(501)], 2);
    assert!(said.contains("the message is longer than 500 characters"), "{said}");
    assert!(cli.err(&["pin", MAC, "local", "-m", "a\u{1b}[2J"], 2).contains("can't be in it"));
}

/// Changes in a stream until the service dies, each to another value; what was answered comes out as
/// (machine, rack).
fn change_on(client: &Client, from: u32, answered: &mpsc::Sender<(String, String)>) {
    for n in from.. {
        let (machine, rack) = (format!("52:54:00:00:01:{:02x}", n % 7), format!("r{n}"));
        let patch = MachinePatch { rack: Some(Some(rack.clone())), ..MachinePatch::default() };
        if client.set_machine(&machine, &patch).is_err() || answered.send((machine, rack.clone())).is_err() {
            return;
        }
        if n % 3 == 0 && client.import_machines(&hall(&rack)).is_err() {
            return;
        }
    }
}

/// Forty machines in that rack, at once.
fn hall(rack: &str) -> ImportOrder {
    let row = |n: u8| MachineRow {
        rack: Some(Some(rack.to_owned())),
        ..MachineRow::new(Mac([0x52, 0x54, 0, 0, 2, n]))
    };
    ImportOrder { machines: (0..40).map(row).collect(), dry_run: false }
}

#[test]
fn kill_9_amid_changes_leaves_a_whole_chain_that_tells_what_is() {
    let kills = if std::env::var_os("PRISTINE_FULL").is_some() { 60 } else { 6 };
    let state = Dir::new("audit-kill");
    let net = Net::new().unwrap();
    let server = net.host("server", &format!("{OURS}/16")).unwrap();
    let token = state.0.join("api-token");
    let mut noted: Option<LogHead> = None;
    let mut answered: Vec<(String, String)> = Vec::new();
    for round in 0..kills {
        let mut service = Service::start(&server, &state);
        let (send, answers) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let client = Client::new("http://127.0.0.1:8081", &token).unwrap();
                server.enter(|| change_on(&client, round * 10_000, &send)).unwrap();
                drop(send);
            });
            for _ in 0..4 + (round * 5) % 17 {
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
        let mut racks: BTreeMap<String, String> = BTreeMap::new();
        let mut told = BTreeSet::new();
        for AuditEntry { record, .. } in log.page(&all).unwrap() {
            let About::Machine(mac) = record.about else { panic!("round {round}: {record:?}") };
            let FromTo { from, to: Some(to) } = record.changes["rack"].clone() else { panic!("{record:?}") };
            assert_eq!(racks.insert(mac.to_string(), to.clone()), from, "round {round}: {record:?}");
            told.insert((mac.to_string(), to));
        }
        let on_disk = Db::open_read_only(&state.0).unwrap().unwrap();
        let theirs: BTreeMap<String, String> =
            on_disk.machines.into_iter().map(|m| (m.mac.to_string(), m.rack.unwrap_or_default())).collect();
        assert_eq!(theirs, racks, "round {round}: the log tells what is");
        let hall: BTreeSet<&String> = theirs
            .iter()
            .filter(|(mac, _)| mac.starts_with("52:54:00:00:02:"))
            .map(|(_, rack)| rack)
            .collect();
        assert!(hall.len() <= 1, "round {round}: all of an import or none of it: {hall:?}");
        let lost: Vec<_> = answered.iter().filter(|change| !told.contains(*change)).collect();
        assert!(lost.is_empty(), "round {round}: answered, and not in the log: {lost:?}");
    }
}
