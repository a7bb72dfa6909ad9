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
/// Where several callers came with changes meanwhile, a transaction begins no sooner than this after the one before: more share
/// it. It costs far more processor time than a change in it does, and each is a sync of the disk.
pub(super) const APART: Duration = Duration::from_millis(2);
/// Twice that where so many came.
const CROWD: usize = 64;
/// How long after a failure changes that nobody waits for are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// A transaction that is under way for so long waits for a disk that hangs.
const HANGS: Duration = Duration::from_secs(5);
/// A disk that stays full is said this often.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// What became of a transaction.
pub(super) type Outcome = Result<(), DbError>;
/// Transactions are counted from 1.
pub(super) type Number = u64;

/// What goes into one transaction.
struct Batch {
    number: Number,
    changes: HashMap<Row, Change>,
    callers: usize,
}

#[derive(Default)]
struct Pending {
    changes: HashMap<Row, Change>,
    /// Calls since the last transaction began that ask for another one.
    callers: usize,
    /// Who waits for which transaction.
    waiters: Vec<(Number, oneshot::Sender<Outcome>)>,
    /// The last transaction that began.
    began: Number,
    /// The last one that is on the disk, and all before it with it.
    committed: Number,
    /// The last one that failed.
    refused: Number,
    /// The thread sleeps until it is woken.
    idle: bool,
    /// True while `changes` holds some that a transaction failed to write.
    failed: bool,
    /// Since when a transaction is under way, and how many changes are in it.
    writing: Option<(SystemTime, usize)>,
    /// Since when no transaction succeeded, and why the last one failed.
    trouble: Option<(SystemTime, DbError)>,
    closed: bool,
    /// The thread is gone.
    ended: bool,
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
    path: PathBuf,
}

impl Shared {
    pub(super) fn new(path: PathBuf) -> Shared {
        Shared { pending: Mutex::default(), wake: Condvar::new(), path }
    }

    /// A panic elsewhere while this was held can't have left it half changed: every critical section
    /// below is a few moves.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the transaction that has these changes and all that came before.
    pub(super) fn enqueue(&self, changes: Vec<Change>) -> Number {
        let mut pending = self.lock();
        if changes.is_empty() && pending.changes.is_empty() {
            return pending.began;
        }
        let number = pending.began + 1;
        if pending.closed {
            return number;
        }
        for change in changes {
            pending.changes.insert(rows::row_of(&change), change);
        }
        pending.callers += 1;
        let sleeps = std::mem::take(&mut pending.idle);
        drop(pending);
        if sleeps {
            self.wake.notify_one();
        }
        number
    }

    /// What became of a transaction; before that, who will tell. Where one failed and a later one, which had its changes too, did
    /// not, all is well.
    pub(super) fn outcome(&self, number: Number) -> Result<Outcome, oneshot::Receiver<Outcome>> {
        let mut pending = self.lock();
        if pending.committed >= number {
            return Ok(Ok(()));
        }
        if let Some((_, error)) = pending.trouble.as_ref().filter(|_| pending.refused >= number) {
            return Ok(Err(error.clone()));
        }
        if pending.ended {
            return Ok(Err(DbError::Closed));
        }
        let waiting = pending.waiters.len();
        if waiting >= MAX_WAITERS {
            return Ok(Err(DbError::Overloaded { path: self.path.clone(), waiting }));
        }
        let (waiter, outcome) = oneshot::channel();
        pending.waiters.push((number, waiter));
        Err(outcome)
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
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let pending = self.lock();
        let waiting = pending.waiting();
        if let Some((since, error)) = &pending.trouble {
            return Some(Trouble { since: *since, error: error.clone(), waiting });
        }
        let (since, _) = pending.writing?;
        let long = since.elapsed().is_ok_and(|lasts| lasts >= HANGS);
        let error = DbError::Overloaded { path: self.path.clone(), waiting };
        long.then_some(Trouble { since, error, waiting })
    }

    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        self.lock().max_pages = Some(pages);
    }

    /// The next batch; `None` when closed and there is nothing left to try.
    fn next(&self) -> Option<Batch> {
        let mut pending = self.lock();
        while pending.callers == 0 {
            if pending.closed {
                pending.ended = true;
                // They learn by this that nobody will tell them anything.
                pending.waiters.clear();
                return None;
            }
            pending.idle = true;
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
        pending.idle = false;
        pending.failed = false;
        pending.began += 1;
        pending.writing = Some((SystemTime::now(), pending.changes.len()));
        let (changes, callers) = (std::mem::take(&mut pending.changes), std::mem::take(&mut pending.callers));
        Some(Batch { number: pending.began, changes, callers })
    }

    fn done(&self, batch: Batch, outcome: &Outcome) {
        let mut pending = self.lock();
        pending.writing = None;
        if let Err(error) = outcome {
            let since = pending.trouble.take().map_or_else(SystemTime::now, |(since, _)| since);
            pending.trouble = Some((since, error.clone()));
            pending.refused = batch.number;
            pending.failures += 1;
            pending.failed = true;
            // Newer changes of the same rows came in meanwhile and win.
            for (row, change) in batch.changes {
                pending.changes.entry(row).or_insert(change);
            }
        } else {
            pending.committed = batch.number;
            pending.commits += 1;
            pending.trouble = None;
        }
        let (told, waiting) =
            std::mem::take(&mut pending.waiters).into_iter().partition(|(number, _)| *number <= batch.number);
        pending.waiters = waiting;
        drop(pending);
        let told: Vec<(Number, oneshot::Sender<Outcome>)> = told;
        for (_, waiter) in told {
            // Gone where nobody waits for it.
            let _ = waiter.send(outcome.clone());
        }
    }
}

pub(super) fn start(shared: Arc<Shared>, conn: Connection) -> Result<JoinHandle<()>, DbError> {
    let path = shared.path.clone();
    std::thread::Builder::new()
        .name("pristine-db".into())
        .spawn(move || run(&shared, conn))
        .map_err(|e| DbError::Open { path, why: e.to_string() })
}

fn run(shared: &Shared, conn: Connection) {
    let mut conn = Some(conn);
    let mut failing: Option<Instant> = None;
    while let Some(batch) = shared.next() {
        let (began, callers) = (Instant::now(), batch.callers);
        let outcome = write(shared, &mut conn, &batch.changes);
        if let Err(e) = &outcome {
            // A new connection remembers nothing of it, and writes over what came after the last transaction that
            // is on disk: after a failed fsync nobody knows what the kernel dropped of that.
            conn = None;
            if failing.is_none_or(|said| said.elapsed() >= LOG_EVERY) {
                failing = Some(Instant::now());
                tracing::error!(error = %e, changes = batch.changes.len(), "state not saved");
            }
        } else if failing.take().is_some() {
            tracing::info!("state is saved again, with all that could not be before");
        }
        shared.done(batch, &outcome);
        // One who comes again when the disk has answered is held up by nothing else.
        let apart = match callers {
            0 | 1 => continue,
            2..=CROWD => APART,
            _ => 2 * APART,
        };
        std::thread::sleep(apart.saturating_sub(began.elapsed()));
    }
}

fn write(shared: &Shared, conn: &mut Option<Connection>, batch: &HashMap<Row, Change>) -> Outcome {
    if batch.is_empty() {
        return Ok(());
    }
    let path = shared.path.as_path();
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
