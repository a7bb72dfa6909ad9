use std::path::PathBuf;

/// Why the state database can't be used, and what to do about it. Cheap to clone: one failed
/// transaction has many waiters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DbError {
    /// The state folder can't be made or used.
    #[error("state folder {dir}: {why}. Make it writable for this user, or name another one")]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        why: String,
    },
    /// A service already runs on this state folder.
    #[error("state folder {dir} is in use by process {pid}: stop that one first, or name another folder")]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// Who holds it, as it wrote into the lock file.
        pid: String,
    },
    /// The file is cut, overwritten or not ours.
    #[error(
        "{path} is damaged ({why}). Stop here: leases and pins in it are not served, and nothing in it was changed. Move it and its -wal and -shm away, which belong to no other database. Put back a backup of it then, or start empty"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// Written by a later version.
    #[error(
        "{path} has format {found}, this version of pristine knows {known} and older: run the version that wrote it, or a newer one"
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// A record of the audit log is no record.
    #[error(
        "record {seq} of the audit log in {path} can't be read: {why}. `pristine log --verify` looks at all of them"
    )]
    Log {
        /// The database.
        path: PathBuf,
        /// Which record.
        seq: i64,
        /// What is wrong.
        why: String,
    },
    /// It can't be opened or read now.
    #[error("{path} can't be opened: {why}")]
    Open {
        /// The database.
        path: PathBuf,
        /// What SQLite or the system said.
        why: String,
    },
    /// A transaction failed: the disk is full or broken. The changes stay pending and are tried
    /// again with the next ones.
    #[error(
        "{path} could not be written ({why}): nothing was acknowledged. Free space on its disk or check it; no restart is needed"
    )]
    Write {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// SQLite met a page that can't be one, amid a transaction. The service goes on with what it knows.
    #[error(
        "{path} is damaged ({why}): nothing can be saved any more, and what runs goes on with what is in memory. Check its disk, end the service, move it and its -wal and -shm away, and put back a backup of it"
    )]
    Rotten {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// More changes wait for the disk than is sane.
    #[error("{path}: {waiting} changes already wait for the disk: it is too slow or hangs")]
    Overloaded {
        /// The database.
        path: PathBuf,
        /// How many.
        waiting: usize,
    },
    /// The service is stopping.
    #[error("the state database is closed: the service is stopping")]
    Closed,
}
