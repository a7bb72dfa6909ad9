//! Opening the file: pragmas, format and migrations, and telling damage from a first start.

use super::DbError;
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};
use rustix::fs::{FallocateFlags, fallocate};
use std::{fs::File, io::ErrorKind, path::Path, sync::Mutex, time::Duration};

/// Steps from format n to n + 1. Never edit one that was released: add another.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE leases   (addr INTEGER PRIMARY KEY, mac TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE machines (mac TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE attempts (id TEXT PRIMARY KEY, mac TEXT NOT NULL, began INTEGER NOT NULL,
                           body TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE settings (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX attempts_began ON attempts (began);
",
    "
    CREATE TABLE rules    (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE rollouts (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE secrets  (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE audit    (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, mac TEXT, body TEXT NOT NULL,
                           hash TEXT NOT NULL) STRICT;
    CREATE INDEX audit_at ON audit (at);
    CREATE INDEX audit_mac ON audit (mac) WHERE mac IS NOT NULL;
    CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
    CREATE TRIGGER audit_is_never_cut BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
",
    "
    CREATE TABLE profiles (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
",
];

/// `PRST` in `application_id`, so that another program's database is not taken for ours.
const APPLICATION_ID: i64 = 0x5052_5354;

/// Bytes of a page: SQLite's default, written down so that the length of a whole file is known.
const PAGE: u64 = 4096;

/// Opens the database, or makes it. It is made under another name and renamed when it is whole, so
/// that an empty or cut file under its own name is always damage and never taken for a first start,
/// which would forget every lease.
///
/// Nothing in an existing one is changed before [`take`], also where it is refused.
pub(super) fn open(state_dir: &Path, path: &Path) -> Result<Connection, DbError> {
    if !path.try_exists().map_err(|e| open_error(path, &e))? {
        create(state_dir, path)?;
    }
    let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Its log, put into a damaged database when that is closed, would be gone for whoever wants to save what is left.
    checkpoints_at_close(&conn, false).map_err(|e| sql_error(path, &e))?;
    check(&conn, path)?;
    Ok(conn)
}

/// Brings a database that was found whole to today's format and settings. It puts its log into itself when it is closed.
pub(super) fn take(conn: &mut Connection, path: &Path) -> Result<(), DbError> {
    set_up(conn).map_err(|e| sql_error(path, &e))?;
    migrate(conn, path)?;
    checkpoints_at_close(conn, true).map_err(|e| sql_error(path, &e))
}

/// Opens an existing database for writing, without looking at what is in it.
pub(super) fn open_again(path: &Path) -> Result<Connection, DbError> {
    let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    set_up(&conn).map_err(|e| sql_error(path, &e))?;
    Ok(conn)
}

/// Keeps the database's log and the index of it in place, whatever becomes of the connection that writes: made anew
/// on a disk that just became full, the index would lie in memory that can't be written, and SQLite would be
/// ended by the kernel (SIGBUS).
pub(super) struct Anchor {
    conn: Option<Mutex<Connection>>,
    /// Open until no connection of this process is: closing any file of it drops the locks that SQLite has on it,
    /// and then another process that reads the database would cut the index away under us.
    _index: File,
}

impl Anchor {
    /// Of a database that is open for writing.
    pub(super) fn hold(path: &Path) -> Result<Anchor, DbError> {
        let sql = |e: rusqlite::Error| sql_error(path, &e);
        let conn = connect_read_only(path)?.ok_or_else(|| open_error(path, &ErrorKind::NotFound.into()))?;
        // Before the first read there is no index.
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0)).map_err(sql)?;
        let index = path.with_extension("db-shm");
        let file = File::options().write(true).open(&index).map_err(|e| open_error(&index, &e))?;
        let size = file.metadata().map_err(|e| open_error(&index, &e))?.len();
        // Where blocks are smaller than pages, SQLite leaves holes in it. A file system that can't say: SQLite's own
        // way must do.
        let full = fallocate(&file, FallocateFlags::empty(), 0, size).err().map(std::io::Error::from);
        let anchor = Anchor { conn: Some(Mutex::new(conn)), _index: file };
        match full.filter(|e| e.kind() == ErrorKind::StorageFull) {
            Some(e) => Err(open_error(&index, &e)),
            None => Ok(anchor),
        }
    }

    /// Whoever writes closes the database last, and puts the log into it.
    pub(super) fn let_go(&mut self) {
        self.conn = None;
    }
}

/// Opens for reading, with a look at the whole file; `None` where there is nothing.
pub(super) fn open_read_only(path: &Path) -> Result<Option<Connection>, DbError> {
    let Some(conn) = connect_read_only(path)? else { return Ok(None) };
    check(&conn, path)?;
    Ok(Some(conn))
}

/// Opens for reading, without looking at what is in it; `None` where there is nothing.
pub(super) fn connect_read_only(path: &Path) -> Result<Option<Connection>, DbError> {
    if !path.try_exists().map_err(|e| open_error(path, &e))? {
        return Ok(None);
    }
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map(Some)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, DbError> {
    not_cut(path)?;
    let sql = |e: rusqlite::Error| sql_error(path, &e);
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(sql)?;
    // Before anything else: it makes even the first read wait for another process' checkpoint.
    conn.busy_timeout(Duration::from_secs(5)).map_err(sql)?;
    Ok(conn)
}

fn checkpoints_at_close(conn: &Connection, does: bool) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !does).map(drop)
}

fn create(state_dir: &Path, path: &Path) -> Result<(), DbError> {
    let new = path.with_extension("db.new");
    for leftover in ["db.new", "db.new-journal", "db.new-wal", "db.new-shm"] {
        let _ = std::fs::remove_file(path.with_extension(leftover));
    }
    // A -wal that outlived its database belongs to no database: SQLite would play it into the new one.
    for stray in ["db-wal", "db-shm"] {
        let stray = path.with_extension(stray);
        if stray.exists() {
            let why = format!("{} is there without it", stray.display());
            return Err(DbError::Damaged { path: path.into(), why });
        }
    }
    let mut conn = Connection::open(&new).map_err(|e| sql_error(&new, &e))?;
    conn.pragma_update(None, "page_size", PAGE as i64).map_err(|e| sql_error(&new, &e))?;
    conn.pragma_update(None, "application_id", APPLICATION_ID).map_err(|e| sql_error(&new, &e))?;
    migrate(&mut conn, &new)?;
    conn.close().map_err(|(_, e)| sql_error(&new, &e))?;
    let durable = || {
        File::open(&new)?.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(state_dir)?.sync_all()
    };
    durable().map_err(|e| open_error(path, &e))
}

fn set_up(conn: &Connection) -> rusqlite::Result<()> {
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(rusqlite::Error::InvalidQuery);
    }
    // FULL: COMMIT returns after the log is on the disk. NORMAL would forget the last ACKs.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// SQLite takes a file of 0 bytes for a new database, and reads what is missing of its last page as
/// zeros.
fn not_cut(path: &Path) -> Result<(), DbError> {
    let size = std::fs::metadata(path).map_err(|e| open_error(path, &e))?.len();
    let damaged = |why| Err(DbError::Damaged { path: path.into(), why });
    if size < 512 {
        return damaged(format!("it has only {size} bytes"));
    }
    // Beside a log it may have been cut by a crash amid a checkpoint: the log has its pages whole.
    let log = std::fs::metadata(path.with_extension("db-wal")).map_or(0, |m| m.len());
    if log == 0 && !size.is_multiple_of(PAGE) {
        return damaged(format!("its {size} bytes end in the middle of a page"));
    }
    Ok(())
}

fn check(conn: &Connection, path: &Path) -> Result<(), DbError> {
    let damaged = |why: String| DbError::Damaged { path: path.into(), why };
    let number = |pragma: &str| conn.pragma_query_value(None, pragma, |r| r.get::<_, i64>(0));
    let id = number("application_id").map_err(|e| sql_error(path, &e))?;
    if id != APPLICATION_ID {
        return Err(damaged("it is no database of pristine".into()));
    }
    let found: i64 = number("user_version").map_err(|e| sql_error(path, &e))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(DbError::TooNew { path: path.into(), found, known });
    }
    let verdict: String =
        conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(|e| sql_error(path, &e))?;
    if verdict != "ok" {
        return Err(damaged(verdict.replace('\n', " ")));
    }
    Ok(())
}

fn migrate(conn: &mut Connection, path: &Path) -> Result<(), DbError> {
    let sql = |e: rusqlite::Error| sql_error(path, &e);
    let from: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(sql)?;
    let tx = conn.transaction().map_err(sql)?;
    for (n, step) in (1_i64..).zip(MIGRATIONS).filter(|(n, _)| *n > from) {
        tx.execute_batch(step).map_err(sql)?;
        tx.pragma_update(None, "user_version", n).map_err(sql)?;
    }
    tx.commit().map_err(sql)
}

/// What SQLite says, with damage told apart from trouble that passes.
pub(super) fn sql_error(path: &Path, e: &rusqlite::Error) -> DbError {
    let why = e.to_string();
    match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            DbError::Damaged { path: path.into(), why }
        }
        _ => DbError::Open { path: path.into(), why },
    }
}

fn open_error(path: &Path, e: &std::io::Error) -> DbError {
    DbError::Open { path: path.into(), why: e.to_string() }
}
