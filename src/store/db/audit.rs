//! The audit log on disk: appended in order within the transaction of what it tells, read page by page by
//! connections of its own. It is never held in memory.

use super::{
    DB_FILE, DbError,
    schema::{self, sql_error},
};
use crate::model::{
    Change, Mac, Millis,
    audit::{About, AuditEntry, AuditRecord, LogHead, LogVerified, NO_RECORD, Walk},
};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};

/// Appends the records among some changes.
pub(super) fn append<'a>(
    conn: &Connection,
    changes: impl Iterator<Item = &'a Change>,
) -> rusqlite::Result<()> {
    let mut records: Vec<&AuditRecord> = changes
        .filter_map(|c| match c {
            Change::Audit(record) => Some(&**record),
            _ => None,
        })
        .collect();
    if records.is_empty() {
        return Ok(());
    }
    records.sort_unstable_by_key(|r| r.seq);
    let mut prev = head(conn)?.map_or(NO_RECORD, |head| head.hash);
    let mut insert =
        conn.prepare_cached("INSERT INTO audit (seq, at, mac, body, hash) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for record in records {
        let mac = match record.about {
            About::Machine(mac) => Some(mac.to_string()),
            _ => None,
        };
        let (body, hash) =
            record.chained(prev).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        let seq = i64::try_from(record.seq).unwrap_or(i64::MAX);
        insert.execute(params![seq, record.at, mac, body, hash.to_string()])?;
        prev = hash;
    }
    Ok(())
}

/// The newest record.
pub(super) fn head(conn: &Connection) -> rusqlite::Result<Option<LogHead>> {
    let newest =
        conn.prepare_cached("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")?.query_row([], |row| {
            let hash: String = row.get(1)?;
            let hash = hash.parse().map_err(|e| {
                rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(e))
            })?;
            Ok(LogHead { seq: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0), hash })
        });
    newest.optional()
}

/// Which records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Of this machine only.
    pub machine: Option<Mac>,
    /// From this time on only.
    pub since: Option<Millis>,
    /// With lower numbers only.
    pub before: Option<u64>,
    /// With higher numbers only, and the oldest first.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// Reads the audit log, beside a running service or without one.
#[derive(Clone, Debug)]
pub struct AuditLog(PathBuf);

impl AuditLog {
    pub(super) fn at(path: PathBuf) -> AuditLog {
        AuditLog(path)
    }

    /// The log of a state folder.
    pub fn of_folder(state_dir: &Path) -> AuditLog {
        AuditLog(state_dir.join(DB_FILE))
    }

    /// Records, the newest first unless `after` is given.
    pub fn page(&self, query: &LogQuery) -> Result<Vec<AuditEntry>, DbError> {
        let Some(conn) = schema::connect_read_only(&self.0)? else { return Ok(Vec::new()) };
        let sql = |e: rusqlite::Error| sql_error(&self.0, &e);
        let number = |n: Option<u64>, none: i64| n.map_or(none, |n| i64::try_from(n).unwrap_or(i64::MAX));
        let order = if query.after.is_some() { "ASC" } else { "DESC" };
        // Each part is left out where it says nothing, so that an index is used for what remains.
        let mut text = "SELECT seq, body, hash FROM audit WHERE seq < ?1 AND seq > ?2".to_owned();
        if query.since.is_some() {
            text.push_str(" AND at >= ?3 AND seq >= (SELECT min(seq) FROM audit WHERE at >= ?3)");
        } else {
            text.push_str(" AND ?3 IS NULL");
        }
        text.push_str(if query.machine.is_some() { " AND mac = ?4" } else { " AND ?4 IS NULL" });
        text.push_str(&format!(" ORDER BY seq {order} LIMIT ?5"));
        let mut found = conn.prepare(&text).map_err(sql)?;
        let mut rows = found
            .query(params![
                number(query.before, i64::MAX),
                number(query.after, 0),
                query.since,
                query.machine.map(|m| m.to_string()),
                i64::try_from(query.limit).unwrap_or(i64::MAX)
            ])
            .map_err(sql)?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().map_err(sql)? {
            let seq: i64 = row.get(0).map_err(sql)?;
            let (body, hash): (String, String) = (row.get(1).map_err(sql)?, row.get(2).map_err(sql)?);
            out.push(entry(&body, &hash).map_err(|why| DbError::Log { path: self.0.clone(), seq, why })?);
        }
        Ok(out)
    }

    /// Walks along the whole chain.
    pub fn verify(&self, noted: Option<LogHead>) -> Result<LogVerified, DbError> {
        let mut walk = Walk::new(noted);
        let Some(conn) = schema::connect_read_only(&self.0)? else { return Ok(walk.end()) };
        let sql = |e: rusqlite::Error| sql_error(&self.0, &e);
        if !conn.table_exists(None, "audit").map_err(sql)? {
            return Ok(walk.end());
        }
        let mut all = conn.prepare("SELECT seq, body, hash FROM audit ORDER BY seq").map_err(sql)?;
        let mut rows = all.query([]).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            let seq = u64::try_from(row.get::<_, i64>(0).map_err(sql)?).unwrap_or(0);
            let text = |n: usize| row.get_ref(n).map_err(sql).map(|v| v.as_str().unwrap_or_default());
            if !walk.step(seq, text(1)?, text(2)?) {
                break;
            }
        }
        Ok(walk.end())
    }
}

fn entry(body: &str, hash: &str) -> Result<AuditEntry, String> {
    let mut value: serde_json::Value = serde_json::from_str(body).map_err(|e| e.to_string())?;
    if let Some(map) = value.as_object_mut() {
        map.insert("hash".to_owned(), hash.into());
    }
    serde_json::from_value(value).map_err(|e| e.to_string())
}
