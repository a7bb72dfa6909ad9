//! Rows to values and back. A row is its JSON; the columns beside it are only for finding and
//! ordering.

use super::{
    DbError, Loaded, audit,
    schema::{self, sql_error},
};
use crate::model::{AttemptId, BootAttempt, BootTarget, Change, Mac};
use rusqlite::{Connection, params};
use serde::{Serialize, de::DeserializeOwned};
use std::{net::Ipv4Addr, path::Path, thread};

/// The row that a change is about: changes of the same row replace each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Row {
    Lease(Ipv4Addr),
    Machine(Mac),
    Attempt(AttemptId),
    Default,
    Rule(String),
    Rollout(String),
    Secret(String),
    Audit(u64),
    Profile(String),
}

pub(super) fn row_of(change: &Change) -> Row {
    match change {
        Change::Lease(lease) => Row::Lease(lease.addr),
        Change::LeaseGone(addr) => Row::Lease(*addr),
        Change::Machine(machine) => Row::Machine(machine.mac),
        Change::MachineGone(mac) => Row::Machine(*mac),
        Change::Attempt(attempt) => Row::Attempt(attempt.id),
        Change::AttemptGone(id) => Row::Attempt(*id),
        Change::Default(_) => Row::Default,
        Change::Rule(rule) => Row::Rule(rule.name.clone()),
        Change::RuleGone(name) => Row::Rule(name.clone()),
        Change::Rollout(rollout) => Row::Rollout(rollout.name.clone()),
        Change::RolloutGone(name) => Row::Rollout(name.clone()),
        Change::Secret(secret) => Row::Secret(secret.name.clone()),
        Change::SecretGone(name) => Row::Secret(name.clone()),
        Change::Audit(record) => Row::Audit(record.seq),
        Change::Profile(profile) => Row::Profile(profile.name.clone()),
        Change::ProfileGone(name) => Row::Profile(name.clone()),
    }
}

pub(super) fn apply(conn: &Connection, change: &Change) -> rusqlite::Result<()> {
    let run =
        |sql: &str, params: &[&dyn rusqlite::ToSql]| conn.prepare_cached(sql)?.execute(params).map(|_| ());
    match change {
        Change::Lease(lease) => run(
            "INSERT OR REPLACE INTO leases (addr, mac, body) VALUES (?1, ?2, ?3)",
            params![lease.addr.to_bits(), lease.mac.to_string(), json(lease)?],
        ),
        Change::LeaseGone(addr) => run("DELETE FROM leases WHERE addr = ?1", params![addr.to_bits()]),
        Change::Machine(machine) => run(
            "INSERT OR REPLACE INTO machines (mac, body) VALUES (?1, ?2)",
            params![machine.mac.to_string(), json(machine)?],
        ),
        Change::MachineGone(mac) => run("DELETE FROM machines WHERE mac = ?1", params![mac.to_string()]),
        Change::Attempt(attempt) => run(
            "INSERT OR REPLACE INTO attempts (id, mac, began, body) VALUES (?1, ?2, ?3, ?4)",
            params![
                attempt.id.to_string(),
                attempt.mac.to_string(),
                attempt.began().unwrap_or(0),
                json(attempt)?
            ],
        ),
        Change::AttemptGone(id) => run("DELETE FROM attempts WHERE id = ?1", params![id.to_string()]),
        Change::Default(Some(target)) => {
            run("INSERT OR REPLACE INTO settings (name, body) VALUES ('default', ?1)", params![json(target)?])
        }
        Change::Default(None) => run("DELETE FROM settings WHERE name = 'default'", params![]),
        Change::Rule(rule) => {
            run("INSERT OR REPLACE INTO rules (name, body) VALUES (?1, ?2)", params![rule.name, json(rule)?])
        }
        Change::RuleGone(name) => run("DELETE FROM rules WHERE name = ?1", params![name]),
        Change::Rollout(rollout) => run(
            "INSERT OR REPLACE INTO rollouts (name, body) VALUES (?1, ?2)",
            params![rollout.name, json(rollout)?],
        ),
        Change::RolloutGone(name) => run("DELETE FROM rollouts WHERE name = ?1", params![name]),
        Change::Secret(secret) => run(
            "INSERT OR REPLACE INTO secrets (name, body) VALUES (?1, ?2)",
            params![secret.name, json(secret)?],
        ),
        Change::SecretGone(name) => run("DELETE FROM secrets WHERE name = ?1", params![name]),
        // Each hangs on the one before: `audit::append` writes all of a batch in order.
        Change::Audit(_) => Ok(()),
        Change::Profile(profile) => run(
            "INSERT OR REPLACE INTO profiles (name, body) VALUES (?1, ?2)",
            params![profile.name, json(profile)?],
        ),
        Change::ProfileGone(name) => run("DELETE FROM profiles WHERE name = ?1", params![name]),
    }
}

/// All there is. Leases are most of it: they are read on a thread of their own, beside the rest.
pub(super) fn load(conn: &Connection, path: &Path) -> Result<Loaded, DbError> {
    thread::scope(|scope| {
        let leases = scope.spawn(|| match schema::connect_read_only(path)? {
            Some(conn) => all(&conn, path, "leases", "true", "addr"),
            None => Err(DbError::Open { path: path.into(), why: "it was just removed".into() }),
        });
        let loaded = load_others(conn, path)?;
        let died =
            |_| DbError::Open { path: path.into(), why: "the thread that read the leases died".into() };
        Ok(Loaded { leases: leases.join().map_err(died)??, ..loaded })
    })
}

fn load_others(conn: &Connection, path: &Path) -> Result<Loaded, DbError> {
    let default: Vec<BootTarget> = all(conn, path, "settings", "name = 'default'", "name")?;
    let mut attempts: Vec<BootAttempt> = all(conn, path, "attempts", "true", "began, id")?;
    attempts.sort_by_key(|a| a.began());
    // A database that only reading commands have opened since the program was upgraded lacks the newest.
    let has = |table: &str| conn.table_exists(None, table).map_err(|e| sql_error(path, &e));
    let secrets = if has("secrets")? { all(conn, path, "secrets", "true", "name")? } else { Vec::new() };
    Ok(Loaded {
        machines: all(conn, path, "machines", "true", "mac")?,
        leases: Vec::new(),
        attempts,
        default: default.into_iter().next(),
        rules: if has("rules")? { all(conn, path, "rules", "true", "name")? } else { Vec::new() },
        rollouts: if has("rollouts")? { all(conn, path, "rollouts", "true", "name")? } else { Vec::new() },
        secrets,
        log_head: if has("audit")? { audit::head(conn).map_err(|e| sql_error(path, &e))? } else { None },
        profiles: if has("profiles")? { all(conn, path, "profiles", "true", "name")? } else { Vec::new() },
    })
}

fn all<T: DeserializeOwned>(
    conn: &Connection,
    path: &Path,
    table: &str,
    which: &str,
    order: &str,
) -> Result<Vec<T>, DbError> {
    let sql = |e: rusqlite::Error| sql_error(path, &e);
    let mut found =
        conn.prepare(&format!("SELECT body FROM {table} WHERE {which} ORDER BY {order}")).map_err(sql)?;
    let mut rows = found.query([]).map_err(sql)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(sql)? {
        let body: String = row.get(0).map_err(sql)?;
        out.push(serde_json::from_str(&body).map_err(|e| DbError::Damaged {
            path: path.into(),
            why: format!("row {} of table {table}: {e}", out.len() + 1),
        })?);
    }
    Ok(out)
}

fn json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}
