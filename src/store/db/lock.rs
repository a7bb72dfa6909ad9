//! One service a state folder: two would give the same address twice.

use super::DbError;
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::{Duration, Instant},
};

/// A service that was just killed may still be on its way out when the next one starts.
const PATIENCE: Duration = Duration::from_secs(1);

/// An advisory lock (flock) on `pristine.lock`, gone with the process however it ends. A file of its
/// own: SQLite's locks on the database are lost when any descriptor of that file is closed.
pub(super) struct StateLock {
    file: File,
}

impl Drop for StateLock {
    /// Closing it is not enough where a child was forked and did not get as far as its exec: it shares
    /// the lock.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl StateLock {
    pub(super) fn take(dir: &Path) -> Result<StateLock, DbError> {
        let folder = |e: std::io::Error| DbError::Folder { dir: dir.into(), why: e.to_string() };
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(folder)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(dir.join("pristine.lock"))
            .map_err(folder)?;
        let until = Instant::now() + PATIENCE;
        let mut locked = file.try_lock();
        while matches!(locked, Err(TryLockError::WouldBlock)) && Instant::now() < until {
            std::thread::sleep(PATIENCE / 20);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = (&mut file).take(20).read_to_string(&mut pid);
                let pid = match pid.trim() {
                    "" => "(unknown)".to_owned(),
                    pid => pid.to_owned(),
                };
                return Err(DbError::InUse { dir: dir.into(), pid });
            }
            Err(TryLockError::Error(e)) => return Err(folder(e)),
        }
        // The pid is for people; the lock itself is what counts, so a full disk is no reason to stop.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(StateLock { file })
    }
}
