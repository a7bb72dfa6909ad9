//! The audit log as operators meet it.

use super::{
    api::{Dir, TestApi},
    cli::{Cli, token_file},
};
use pristine::model::audit::AuditEntry;

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
