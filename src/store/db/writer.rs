//! The one thread that writes, and what waits for it.

use super::{
    DbError, Trouble, audit,
    rows::{self, Row},
    schema,
};
use crate::{
    model::Change,
    store::durable::{NO_ROOM, free_bytes},
};
use rusqlite::Connection;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::oneshot;

/// Callers that may wait at once. Changes themselves are bounded by the tables that they come from,
/// since a newer change of a row replaces the pending one.
const MAX_WAITERS: usize = 8_192;
/// How long after a failure changes that nobody waits for are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// A transaction that is under way for so long waits for a disk that hangs.
const HANGS: Duration = Duration::from_secs(5);
/// A disk that stays full is said this often.
const LOG_EVERY: Duration = Duration::from_secs(30);

type Waiter = oneshot::Sender<Result<(), DbError>>;

#[derive(Default)]
struct Pending {
    changes: HashMap<Row, Change>,
    waiters: Vec<Waiter>,
    /// True while `changes` holds some that a transaction failed to write.
    failed: bool,
    /// Since when a transaction is under way, and how many changes are in it.
    writing: Option<(SystemTime, usize)>,
    /// Since when no transaction succeeded, and why the last one failed.
    trouble: Option<(SystemTime, DbError)>,
    closed: bool,
    commits: u64,
    failures: u64,
    #[cfg(test)]
    max_pages: Option<u32>,
}

impl Pending {
    /// Changes that are not on disk.
    fn waiting(&self) -> usize {
        self.changes.len() + self.writing.map_or(0, |(_, changes)| changes)
    }
}

/// What callers and the thread share.
pub(super) struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared { pending: Mutex::default(), wake: Condvar::new() }
    }

    /// A panic elsewhere while this was held can't have left it half changed: every critical section
    /// below is a few moves.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enqueue(
        &self,
        changes: Vec<Change>,
        path: &Path,
    ) -> oneshot::Receiver<Result<(), DbError>> {
        let (waiter, commit) = oneshot::channel();
        let mut pending = self.lock();
        if pending.closed {
            let _ = waiter.send(Err(DbError::Closed));
            return commit;
        }
        if changes.is_empty() && pending.changes.is_empty() && pending.writing.is_none() {
            let _ = waiter.send(Ok(()));
            return commit;
        }
        for change in changes {
            pending.changes.insert(rows::row_of(&change), change);
        }
        if pending.waiters.len() < MAX_WAITERS {
            pending.waiters.push(waiter);
        } else {
            let waiting = pending.waiters.len();
            let _ = waiter.send(Err(DbError::Overloaded { path: path.into(), waiting }));
        }
        drop(pending);
        self.wake.notify_one();
        commit
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        let pending = self.lock();
        (pending.commits, pending.failures)
    }

    /// Changes that wait after a transaction that failed; 0 while all is well.
    pub(super) fn stuck(&self) -> usize {
        let pending = self.lock();
        if pending.trouble.is_some() { pending.waiting() } else { 0 }
    }

    /// What keeps changes from the disk now.
    pub(super) fn trouble(&self, path: &Path) -> Option<Trouble> {
        let pending = self.lock();
        let waiting = pending.waiting();
        if let Some((since, error)) = &pending.trouble {
            return Some(Trouble { since: *since, error: error.clone(), waiting });
        }
        let (since, _) = pending.writing?;
        let long = since.elapsed().is_ok_and(|lasts| lasts >= HANGS);
        let error = DbError::Overloaded { path: path.into(), waiting };
        long.then_some(Trouble { since, error, waiting })
    }

    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        self.lock().max_pages = Some(pages);
    }

    /// The next batch; `None` when closed and there is nothing left to try.
    fn next(&self) -> Option<(HashMap<Row, Change>, Vec<Waiter>)> {
        let mut pending = self.lock();
        loop {
            if pending.closed && (pending.changes.is_empty() || pending.failed) && pending.waiters.is_empty()
            {
                return None;
            }
            if !pending.waiters.is_empty() || (!pending.failed && !pending.changes.is_empty()) {
                break;
            }
            if pending.failed {
                let (next, timeout) =
                    self.wake.wait_timeout(pending, RETRY).unwrap_or_else(PoisonError::into_inner);
                pending = next;
                if timeout.timed_out() {
                    break;
                }
            } else {
                pending = self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
            }
        }
        pending.writing = Some((SystemTime::now(), pending.changes.len()));
        pending.failed = false;
        Some((std::mem::take(&mut pending.changes), std::mem::take(&mut pending.waiters)))
    }

    fn done(&self, batch: HashMap<Row, Change>, waiters: Vec<Waiter>, result: Result<(), DbError>) {
        let mut pending = self.lock();
        pending.writing = None;
        if let Err(error) = &result {
            let since = pending.trouble.take().map_or_else(SystemTime::now, |(since, _)| since);
            pending.trouble = Some((since, error.clone()));
            pending.failures += 1;
            pending.failed = true;
            // Newer changes of the same rows came in meanwhile and win.
            for (row, change) in batch {
                pending.changes.entry(row).or_insert(change);
            }
        } else {
            pending.commits += 1;
            pending.trouble = None;
        }
        drop(pending);
        for waiter in waiters {
            // Gone where nobody waits for it.
            let _ = waiter.send(result.clone());
        }
    }
}

pub(super) fn start(shared: Arc<Shared>, conn: Connection, path: PathBuf) -> Result<JoinHandle<()>, DbError> {
    let name = path.clone();
    std::thread::Builder::new()
        .name("pristine-db".into())
        .spawn(move || run(&shared, conn, &path))
        .map_err(|e| DbError::Open { path: name, why: e.to_string() })
}

fn run(shared: &Shared, conn: Connection, path: &Path) {
    let mut conn = Some(conn);
    let mut failing: Option<Instant> = None;
    while let Some((batch, waiters)) = shared.next() {
        let result = write(shared, &mut conn, path, &batch);
        if let Err(e) = &result {
            // A new connection remembers nothing of it, and writes over what came after the last transaction that
            // is on disk: after a failed fsync nobody knows what the kernel dropped of that.
            conn = None;
            if failing.is_none_or(|said| said.elapsed() >= LOG_EVERY) {
                failing = Some(Instant::now());
                tracing::error!(error = %e, changes = batch.len(), "state not saved");
            }
        } else if failing.take().is_some() {
            tracing::info!("state is saved again, with all that could not be before");
        }
        shared.done(batch, waiters, result);
    }
}

fn write(
    shared: &Shared,
    conn: &mut Option<Connection>,
    path: &Path,
    batch: &HashMap<Row, Change>,
) -> Result<(), DbError> {
    if batch.is_empty() {
        return Ok(());
    }
    let failed = |e: rusqlite::Error| failure(path, &e);
    let mut current = match conn.take() {
        Some(c) => c,
        // A full disk has no room for the log's index either.
        None => schema::open_again(path).map_err(|e| match e {
            DbError::Open { path, why } => DbError::Write { path, why },
            DbError::Damaged { path, why } => DbError::Rotten { path, why },
            other => other,
        })?,
    };
    #[cfg(test)]
    if let Some(pages) = shared.lock().max_pages {
        if pages == 0 {
            return Err(DbError::Write { path: path.into(), why: "the test says that it fails".into() });
        }
        current.pragma_update(None, "max_page_count", pages).map_err(failed)?;
    }
    #[cfg(not(test))]
    let _ = shared;
    let tx = current.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
    batch.values().try_for_each(|change| rows::apply(&tx, change)).map_err(failed)?;
    audit::append(&tx, batch.values()).map_err(failed)?;
    tx.commit().map_err(failed)?;
    *conn = Some(current);
    Ok(())
}

/// Why a transaction failed, with what SQLite doesn't tell: how much room the disk has.
fn failure(path: &Path, e: &rusqlite::Error) -> DbError {
    let why = match path.parent().and_then(free_bytes) {
        Some(free @ 0..NO_ROOM) => format!("{e}; its disk has {} kB free", free / 1_000),
        _ => e.to_string(),
    };
    match schema::sql_error(path, e) {
        DbError::Damaged { path, why } => DbError::Rotten { path, why },
        _ => DbError::Write { path: path.into(), why },
    }
}
