//! The state database: leases, machines, boot attempts, selector rules, rollouts, sealed secrets, the site's
//! default and the audit log, in SQLite.
//!
//! One thread writes. [`Db::enqueue`] merges changes into what is pending (the latest change of a
//! row wins) and the thread takes all that is pending into one transaction, so that a thousand
//! machines that boot at once share one fsync. Two promises follow, and callers lean on both:
//!
//! - a [`Commit`] resolves to `Ok` only when its changes *and all that was enqueued before* are on
//!   disk;
//! - a change whose transaction failed is not lost: it stays pending, goes into the next
//!   transaction, and until then no commit succeeds. So the database can't differ from memory for
//!   longer than the disk is full.

mod audit;
mod error;
mod lock;
mod rows;
mod schema;
mod writer;

pub use audit::{AuditLog, LogQuery};
pub use error::DbError;

use crate::model::{
    BootAttempt, BootTarget, Change, Lease, Machine, ProfileRecord, Rollout, SealedSecret, SelectorRule,
    audit::LogHead,
};
use lock::StateLock;
use rusqlite::Connection;
use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    thread::JoinHandle,
    time::SystemTime,
};
use tokio::sync::oneshot;
use writer::{Number, Outcome, Shared};

/// Name of the database in the state folder.
pub const DB_FILE: &str = "pristine.db";

/// Changes that may wait while nothing can be written, before commands are refused.
const MAX_STUCK: usize = 250_000;

/// Everything that the database holds, the audit log aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Every machine, by MAC.
    pub machines: Vec<Machine>,
    /// Every lease on record.
    pub leases: Vec<Lease>,
    /// Boot attempts, oldest first.
    pub attempts: Vec<BootAttempt>,
    /// The site's default boot target.
    pub default: Option<BootTarget>,
    /// Selector rules, by name.
    pub rules: Vec<SelectorRule>,
    /// Rollouts, by name.
    pub rollouts: Vec<Rollout>,
    /// Secrets, sealed, by name.
    pub secrets: Vec<SealedSecret>,
    /// The newest record of the audit log.
    pub log_head: Option<LogHead>,
    /// Profiles, by name.
    pub profiles: Vec<ProfileRecord>,
}

/// What keeps changes from the disk.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Since when nothing was saved.
    pub since: SystemTime,
    /// Why.
    pub error: DbError,
    /// Changes that wait.
    pub waiting: usize,
}

/// The open database of a running service. Dropping it writes what is pending and lets go of the
/// state folder.
pub struct Db {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    anchor: schema::Anchor,
    // After the thread in drop order (see `Drop`): the next service must find all of it written.
    _lock: StateLock,
}

impl Db {
    /// Takes the lock of a state folder, and reads or makes its database. Fails where another service holds the
    /// folder or where the database is damaged. An existing one is changed in nothing before [`Found::open`]: it and
    /// its log stay as they are, byte for byte.
    pub fn find(state_dir: &Path) -> Result<(Found, Loaded), DbError> {
        let lock = StateLock::take(state_dir)?;
        let path = state_dir.join(DB_FILE);
        let conn = schema::open(state_dir, &path)?;
        let loaded = rows::load(&conn, &path)?;
        Ok((Found { conn, path, lock }, loaded))
    }

    /// [`Db::find`] and [`Found::open`], where nobody looks at what was found in between.
    pub fn open(state_dir: &Path) -> Result<(Db, Loaded), DbError> {
        let (found, loaded) = Db::find(state_dir)?;
        Ok((found.open()?, loaded))
    }

    /// What the database holds, without taking the lock: for commands that work beside a running
    /// service, or without one. `None` where there is no database yet.
    pub fn open_read_only(state_dir: &Path) -> Result<Option<Loaded>, DbError> {
        let path = state_dir.join(DB_FILE);
        match schema::open_read_only(&path)? {
            Some(conn) => rows::load(&conn, &path).map(Some),
            None => Ok(None),
        }
    }

    /// Makes changes durable, in the order of the calls. Never blocks for the disk: await the
    /// [`Commit`] for that, or drop it where nobody is told of the change. With no changes the
    /// commit stands for everything that was enqueued before.
    pub fn enqueue(&self, changes: Vec<Change>) -> Commit {
        let number = self.shared.enqueue(changes);
        Commit { shared: Arc::clone(&self.shared), number, told: None, outcome: None }
    }

    /// The audit log, to be read beside the thread that writes.
    pub fn audit_log(&self) -> AuditLog {
        AuditLog::at(self.path.clone())
    }

    /// Whether a command may add to what waits for the disk: while nothing can be written, each one leaves
    /// records of it and of its undoing.
    pub fn has_room(&self) -> Result<(), DbError> {
        match self.shared.stuck() {
            0..=MAX_STUCK => Ok(()),
            waiting => Err(DbError::Overloaded { path: self.path.clone(), waiting }),
        }
    }

    /// The state folder.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// What keeps changes from the disk now; `None` while they get there.
    pub fn trouble(&self) -> Option<Trouble> {
        self.shared.trouble()
    }

    /// Transactions that reached the disk, and transactions that failed, since the start.
    pub fn counts(&self) -> (u64, u64) {
        self.shared.counts()
    }

    /// Lets tests fill the disk: at most this many pages of 4,096 bytes; with 0 every write fails.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        self.shared.limit_pages(pages);
    }
}

/// A database that can be read, and the lock of its folder. Dropped, both are let go of, and nothing was changed.
pub struct Found {
    conn: Connection,
    path: PathBuf,
    // After the connection in drop order.
    lock: StateLock,
}

impl Found {
    /// Damage, in the words of whoever can't make sense of what was read.
    pub fn damaged(&self, why: String) -> DbError {
        DbError::Damaged { path: self.path.clone(), why }
    }

    /// From now on it is written.
    pub fn open(self) -> Result<Db, DbError> {
        let Found { mut conn, path, lock } = self;
        schema::take(&mut conn, &path)?;
        let shared = Arc::new(Shared::new(path.clone()));
        let anchor = schema::Anchor::hold(&path)?;
        let thread = writer::start(shared.clone(), conn)?;
        Ok(Db { shared, thread: Some(thread), path, anchor, _lock: lock })
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.anchor.let_go();
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Resolves when the changes of one [`Db::enqueue`] are on disk, or when they could not be written; asked again, it says the same.
#[must_use = "nothing may be acknowledged before this resolved to Ok"]
pub struct Commit {
    shared: Arc<Shared>,
    number: Number,
    /// Who will tell, once somebody has asked.
    told: Option<oneshot::Receiver<Outcome>>,
    outcome: Option<Outcome>,
}

impl Commit {
    /// Blocks until it is resolved. Only for threads that run no futures.
    pub fn wait(self) -> Result<(), DbError> {
        let ask = || match self.shared.outcome(self.number) {
            Ok(outcome) => outcome,
            Err(told) => told.blocking_recv().unwrap_or(Err(DbError::Closed)),
        };
        self.outcome.unwrap_or_else(ask)
    }
}

impl Future for Commit {
    type Output = Result<(), DbError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Commit { shared, number, told, outcome } = &mut *self;
        if outcome.is_none() && told.is_none() {
            match shared.outcome(*number) {
                Ok(known) => *outcome = Some(known),
                Err(later) => *told = Some(later),
            }
        }
        if let (None, Some(told)) = (&outcome, told) {
            *outcome = Some(ready!(Pin::new(told).poll(cx)).unwrap_or(Err(DbError::Closed)));
        }
        Poll::Ready(outcome.clone().unwrap_or(Err(DbError::Closed)))
    }
}

#[cfg(test)]
mod tests;
