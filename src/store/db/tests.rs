#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
use super::*;
use crate::{
    model::{
        AttemptId, ClientKey, Digest, LeaseState, Mac, ProfileRecord, SealedSecret, SelectorRule, Stage,
        StageEvent, Verdict,
        audit::{About, AuditRecord, Deed, Who},
    },
    store::testing::TempDir,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, net::Ipv4Addr, time::Instant};

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

fn addr(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, n)
}

fn lease(n: u8, expires: i64) -> Lease {
    Lease {
        addr: addr(n),
        client: ClientKey::Id(vec![1, n]),
        mac: mac(n),
        state: LeaseState::Bound,
        expires,
        hostname: Some(format!("h{n}")),
    }
}

fn machine(n: u8) -> Machine {
    let mut m = Machine::new(mac(n), 5);
    m.pin = Some(BootTarget::Image { digest: Digest::of(&[n]) });
    m.labels = BTreeMap::from([("a".into(), "b".into())]);
    m
}

fn attempt(n: u8) -> BootAttempt {
    let mut a = BootAttempt::new(AttemptId(n.into()), mac(n));
    a.stages = vec![StageEvent { stage: Stage::Discover, at: n.into(), detail: None }];
    a.verdict = Verdict::Failed { reason: "no".into() };
    a.token_hash = Some(Digest::of(b"t"));
    a
}

fn rule(name: &str) -> SelectorRule {
    SelectorRule { name: name.into(), selector: "rack=a1".into(), target: BootTarget::Local, created: 7 }
}

fn secret(name: &str) -> SealedSecret {
    SealedSecret { name: name.into(), bytes: 3, changed: 7, key: "k".into(), sealed: "c2U=".into() }
}

fn profile(name: &str) -> ProfileRecord {
    let (selector, document) = ("all".into(), "hostname = 'x'".into());
    ProfileRecord { name: name.into(), selector, document, created: 7, changed: 8 }
}

fn open(dir: &TempDir) -> (Db, Loaded) {
    Db::open(dir.path()).unwrap()
}

#[test]
fn everything_comes_back_after_a_restart() {
    let dir = TempDir::new();
    let (db, loaded) = open(&dir);
    assert_eq!(loaded, Loaded::default());
    let default = Some(BootTarget::Local);
    let all = vec![
        Change::Lease(lease(1, 10)),
        Change::Lease(lease(2, 10)),
        Change::Machine(machine(1).into()),
        Change::Machine(machine(2).into()),
        Change::Attempt(attempt(2)),
        Change::Attempt(attempt(1)),
        Change::Default(default.clone()),
        Change::Rule(rule("b")),
        Change::Rule(rule("a")),
        Change::Secret(secret("b")),
        Change::Secret(secret("a")),
        Change::Profile(profile("p").into()),
        Change::Profile(profile("q").into()),
        Change::ProfileGone("q".into()),
    ];
    db.enqueue(all).wait().unwrap();
    drop(db);
    let (db, loaded) = open(&dir);
    let expected = Loaded {
        machines: vec![machine(1), machine(2)],
        leases: vec![lease(1, 10), lease(2, 10)],
        attempts: vec![attempt(1), attempt(2)],
        default,
        rules: vec![rule("a"), rule("b")],
        rollouts: Vec::new(),
        secrets: vec![secret("a"), secret("b")],
        log_head: None,
        profiles: vec![profile("p")],
    };
    assert_eq!(loaded, expected);
    assert_eq!(Db::open_read_only(dir.path()).unwrap(), Some(expected), "beside the running service");
    let gone = vec![
        Change::LeaseGone(addr(1)),
        Change::MachineGone(mac(1)),
        Change::AttemptGone(AttemptId(1)),
        Change::Default(None),
        Change::RuleGone("a".into()),
        Change::SecretGone("a".into()),
        Change::Lease(lease(2, 11)),
    ];
    db.enqueue(gone).wait().unwrap();
    drop(db);
    let loaded = open(&dir).1;
    assert_eq!(loaded.leases, vec![lease(2, 11)]);
    assert_eq!((loaded.rules, loaded.secrets), (vec![rule("b")], vec![secret("b")]));
    assert_eq!(
        (loaded.machines, loaded.attempts, loaded.default),
        (vec![machine(2)], vec![attempt(2)], None)
    );
}

#[test]
fn offline_commands_find_no_database_where_there_is_none() {
    let dir = TempDir::new();
    assert_eq!(Db::open_read_only(dir.path()).unwrap(), None);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "and make none");
}

#[test]
fn a_second_service_on_the_same_folder_is_told_who_holds_it() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    let e = Db::open(dir.path()).err().unwrap();
    let DbError::InUse { pid, .. } = &e else { panic!("{e}") };
    assert_eq!(*pid, std::process::id().to_string());
    assert!(e.to_string().contains(pid.as_str()));
    drop(db);
    assert!(Db::open(dir.path()).is_ok());
}

#[test]
fn many_callers_share_transactions_and_the_last_word_wins() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    let commits: Vec<Commit> =
        (0..1_000).map(|n| db.enqueue(vec![Change::Lease(lease((n % 10) as u8, n))])).collect();
    for commit in commits {
        commit.wait().unwrap();
    }
    let (commits, failures) = db.counts();
    assert!(commits < 1_000 && failures == 0, "{commits} transactions for 1,000 callers");
    drop(db);
    let leases = open(&dir).1.leases;
    assert_eq!(leases, (0..10).map(|n| lease(n, 990 + i64::from(n))).collect::<Vec<_>>());
}

#[test]
fn callers_who_come_together_wait_for_one_another_and_one_alone_for_none() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    let began = Instant::now();
    let mut last = db.enqueue(Vec::new());
    while began.elapsed() < 20 * writer::APART {
        last = db.enqueue(vec![Change::Lease(lease(1, 1))]);
    }
    last.wait().unwrap();
    let shared = db.counts().0;
    // One that has only the first of many is followed at once by one that has the others.
    let most = began.elapsed().as_micros() / writer::APART.as_micros() + 2;
    assert!(
        u128::from(shared) <= most,
        "{shared} transactions, and {most} would be one every two milliseconds"
    );
    for n in 0..4 {
        db.enqueue(vec![Change::Lease(lease(n, 2))]).wait().unwrap();
    }
    assert_eq!(db.counts().0, shared + 4, "each has its own");
}

#[test]
fn who_asks_late_is_told_what_became_of_it_in_the_end() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    db.limit_pages(0);
    let (asked, not_asked) = (db.enqueue(vec![Change::Lease(lease(1, 1))]), db.enqueue(Vec::new()));
    assert!(matches!(asked.wait(), Err(DbError::Write { .. })));
    let still = db.enqueue(vec![Change::Lease(lease(2, 2))]);
    db.limit_pages(1_000_000);
    let last = db.enqueue(vec![Change::Lease(lease(3, 3))]);
    last.wait().unwrap();
    not_asked.wait().expect("it failed, and went along with a later one");
    still.wait().unwrap();
    db.limit_pages(0);
    let lost = db.enqueue(vec![Change::Lease(lease(4, 4))]);
    drop(db);
    assert!(lost.wait().is_err());
    assert_eq!(open(&dir).1.leases, vec![lease(1, 1), lease(2, 2), lease(3, 3)]);
}

#[test]
fn a_full_disk_acknowledges_nothing_and_heals_without_a_restart() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    db.enqueue(vec![Change::Lease(lease(1, 1))]).wait().unwrap();
    db.limit_pages(1);
    let mut refused = 0;
    for n in 0..200 {
        let mut m = machine(n);
        m.hostname = Some("x".repeat(4_000));
        if let Err(e) = db.enqueue(vec![Change::Machine(m.into())]).wait() {
            assert!(matches!(e, DbError::Write { .. }), "{e:?}");
            assert!(e.to_string().contains("pristine.db") && e.to_string().contains("full"), "{e}");
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");
    let barrier = db.enqueue(Vec::new()).wait();
    assert!(barrier.is_err(), "what came before is not on disk: {barrier:?}");
    db.limit_pages(1_000_000);
    db.enqueue(vec![Change::Lease(lease(2, 2))]).wait().unwrap();
    drop(db);
    let loaded = open(&dir).1;
    assert_eq!(loaded.leases, vec![lease(1, 1), lease(2, 2)]);
    assert_eq!(loaded.machines.len(), 200, "changes that failed went along with the next that worked");
}

#[test]
fn damage_is_an_error_that_names_the_file_and_the_next_step() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    db.enqueue((0..200).map(|n| Change::Machine(machine(n).into())).collect()).wait().unwrap();
    drop(db);
    let path = dir.path().join(DB_FILE);
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let e = Db::open(dir.path()).err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(matches!(e, DbError::Damaged { .. }), "{what}: {e:?}");
        let text = e.to_string();
        assert!(text.contains("pristine.db") && text.contains("backup"), "{what}: {text}");
        assert!(Db::open_read_only(dir.path()).is_err(), "{what}");
    };
    for cut in [0, 1, 100, 511, 512, 4_096, 5_000, good.len() / 2, good.len() - 4_096, good.len() - 1] {
        refused(&good[..cut], &format!("cut to {cut}"));
    }
    refused(b"not a database, but some text that is longer than a header".repeat(20).as_slice(), "text");
    let mut bad = good.clone();
    bad[4_096..12_288].fill(0xaa);
    refused(&bad, "overwritten pages");

    std::fs::write(&path, &good).unwrap();
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute("UPDATE machines SET body = '{' WHERE mac = ?1", [mac(7).to_string()]).unwrap();
    drop(conn);
    let e = Db::open(dir.path()).err().unwrap().to_string();
    assert!(e.contains("row 8 of table machines"), "{e}");

    std::fs::write(&path, &good).unwrap();
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    assert!(matches!(Db::open(dir.path()).err().unwrap(), DbError::TooNew { found: 99, .. }));

    std::fs::write(&path, &good).unwrap();
    assert_eq!(open(&dir).1.machines.len(), 200, "and what is whole is read again");
}

#[test]
fn a_refused_start_changes_neither_the_database_nor_its_log() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    db.enqueue((0..200).map(|n| Change::Machine(machine(n).into())).collect()).wait().unwrap();
    drop(db);
    let (db, _) = open(&dir);
    db.enqueue(vec![Change::Lease(lease(1, 1))]).wait().unwrap();
    // What a kill leaves: machines in the database, the lease in its log.
    let killed = TempDir::new();
    copy(dir.path(), killed.path());
    let refused = |what: &str, spoil: &dyn Fn(&Path)| {
        let spoilt = TempDir::new();
        copy(killed.path(), spoilt.path());
        spoil(&spoilt.path().join(DB_FILE));
        let files = || [DB_FILE, "pristine.db-wal"].map(|name| std::fs::read(spoilt.path().join(name)).ok());
        let before = files();
        assert!(Db::open(spoilt.path()).is_err(), "{what} was taken");
        assert!(Db::open_read_only(spoilt.path()).is_err(), "{what} was read");
        assert!(files() == before, "{what}: a refused start changed it");
    };
    refused("pages overwritten", &|path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[4_096..].iter_mut().for_each(|b| *b ^= 0xa5);
        std::fs::write(path, bytes).unwrap();
    });
    let by_sql = |path: &Path, sql: &str| {
        let conn = rusqlite::Connection::open(path).unwrap();
        conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        conn.execute_batch(sql).unwrap();
    };
    refused("a row that is none", &|path| {
        by_sql(path, "UPDATE machines SET body = '{' WHERE mac = (SELECT max(mac) FROM machines)")
    });
    refused("an older format with a row that is none", &|path| {
        by_sql(path, "UPDATE leases SET body = '{'; DROP TABLE profiles; PRAGMA user_version = 5");
    });
    refused("another program's", &|path| {
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(path.with_extension("db-wal")).unwrap();
        by_sql(path, "CREATE TABLE theirs (n); INSERT INTO theirs VALUES (1)");
    });
    let (_db, loaded) = Db::open(killed.path()).unwrap();
    assert_eq!((loaded.machines.len(), loaded.leases.len()), (200, 1), "it was the damage");
}

#[test]
fn a_lost_database_beside_its_log_is_damage_not_a_first_start() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    db.enqueue(vec![Change::Lease(lease(1, 1))]).wait().unwrap();
    let crashed = TempDir::new();
    copy(dir.path(), crashed.path());
    drop(db);
    std::fs::remove_file(crashed.path().join(DB_FILE)).unwrap();
    assert!(matches!(Db::open(crashed.path()).err().unwrap(), DbError::Damaged { .. }));
}

fn record(seq: u64, n: u8) -> Change {
    Change::Audit(Box::new(AuditRecord {
        about: About::Machine(mac(n)),
        at: seq as i64 * 10,
        changes: BTreeMap::new(),
        claim: None,
        name: None,
        order: seq,
        seq,
        what: Deed::Pinned,
        who: Who::Service,
        why: None,
    }))
}

#[test]
fn records_go_with_their_changes_in_order_and_none_is_lost_or_doubled_by_a_full_disk() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    let of = |seqs: std::ops::RangeInclusive<u64>| seqs.map(|seq| record(seq, (seq % 2) as u8)).collect();
    db.enqueue(of(1..=5)).wait().unwrap();
    db.limit_pages(0);
    assert!(db.enqueue(of(6..=8)).wait().is_err());
    assert!(db.enqueue(of(9..=9)).wait().is_err());
    assert_eq!(db.audit_log().verify(None).unwrap().records, 5);
    assert_eq!((db.has_room(), db.shared.stuck()), (Ok(()), 4), "they wait");
    db.limit_pages(1_000_000);
    db.enqueue(of(10..=10)).wait().unwrap();
    let found = db.audit_log().verify(None).unwrap();
    assert_eq!((found.records, found.broken), (10, None));
    drop(db);
    let (db, loaded) = open(&dir);
    assert_eq!(loaded.log_head, found.head);

    let seqs = |query: LogQuery| -> Vec<u64> {
        let query = LogQuery { limit: 3, ..query };
        db.audit_log().page(&query).unwrap().iter().map(|e| e.record.seq).collect()
    };
    let all = LogQuery::default();
    assert_eq!(seqs(all), [10, 9, 8]);
    assert_eq!(seqs(LogQuery { before: Some(8), ..all }), [7, 6, 5]);
    assert_eq!(seqs(LogQuery { after: Some(4), ..all }), [5, 6, 7]);
    assert_eq!(seqs(LogQuery { since: Some(90), ..all }), [10, 9]);
    assert_eq!(seqs(LogQuery { machine: Some(mac(1)), before: Some(9), ..all }), [7, 5, 3]);
    assert_eq!(seqs(LogQuery { machine: Some(mac(7)), ..all }), [0; 0]);
}

#[test]
fn the_database_itself_refuses_to_change_the_log_and_a_change_past_that_is_found() {
    let dir = TempDir::new();
    let (db, _) = open(&dir);
    db.enqueue((1..=5).map(|seq| record(seq, 1)).collect()).wait().unwrap();
    drop(db);
    let conn = rusqlite::Connection::open(dir.path().join(DB_FILE)).unwrap();
    for sql in ["UPDATE audit SET at = 1", "DELETE FROM audit WHERE seq = 5"] {
        assert!(conn.execute(sql, []).unwrap_err().to_string().contains("append-only"), "{sql}");
    }
    let verify = || AuditLog::of_folder(dir.path()).verify(None).unwrap().broken.map(|b| b.seq);
    assert_eq!(verify(), None);
    conn.execute_batch("DROP TRIGGER audit_is_never_changed; DROP TRIGGER audit_is_never_cut").unwrap();
    conn.execute("UPDATE audit SET body = replace(body, 'service', 'operator') WHERE seq = 3", []).unwrap();
    assert_eq!(verify(), Some(3));
    conn.execute("DELETE FROM audit WHERE seq = 2", []).unwrap();
    assert_eq!(verify(), Some(2));
    conn.execute("UPDATE audit SET body = 'x' WHERE seq = 5", []).unwrap();
    let log = AuditLog::of_folder(dir.path());
    let e = log.page(&LogQuery { limit: 9, ..LogQuery::default() }).unwrap_err().to_string();
    assert!(e.contains("record 5 of the audit log"), "{e}");
}

/// What a power cut would leave: the files as they are, without the service ending.
fn copy(from: &Path, to: &Path) {
    for name in [DB_FILE, "pristine.db-wal"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever the sequence, a copy of the files at any commit holds exactly what was acknowledged.
    #[test]
    fn a_crash_at_any_commit_loses_nothing_acknowledged(
        steps in prop::collection::vec((0_u8..6, 0_i64..1_000, any::<bool>()), 1..25),
        crash_every in 1_usize..6,
    ) {
        let mut dir = TempDir::new();
        let mut db = open(&dir).0;
        let mut expected: BTreeMap<Ipv4Addr, Lease> = BTreeMap::new();
        for (i, (n, expires, gone)) in steps.into_iter().enumerate() {
            let change = if gone {
                expected.remove(&addr(n));
                Change::LeaseGone(addr(n))
            } else {
                expected.insert(addr(n), lease(n, expires));
                Change::Lease(lease(n, expires))
            };
            db.enqueue(vec![change]).wait().unwrap();
            if i % crash_every == 0 {
                let next = TempDir::new();
                copy(dir.path(), next.path());
                drop(db);
                let (reopened, loaded) = Db::open(next.path()).unwrap();
                prop_assert_eq!(&loaded.leases, &expected.values().cloned().collect::<Vec<_>>());
                db = reopened;
                dir = next;
            }
        }
    }
}
