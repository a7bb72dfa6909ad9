//! Files that are being written: in `<store>/tmp`, each under a lock of its own, so that what a killed
//! command left can be told from what is under way.

use super::{
    blobs::{StoreError, io_at},
    durable,
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// A file in `tmp`, removed when dropped. After a rename the name is gone, and so nothing happens.
#[derive(Debug)]
pub struct TmpFile {
    /// Open for writing.
    pub file: File,
    /// Where it is.
    pub path: PathBuf,
}

impl TmpFile {
    /// Makes one in `dir`.
    pub fn create(dir: &Path) -> Result<TmpFile, StoreError> {
        loop {
            let path = durable::tmp_name(dir);
            let file = File::create_new(&path).map_err(io_at("make", &path))?;
            // A sweep may come between making and locking: then the file is gone, and another is made.
            flock(&file, FlockOperation::LockExclusive).map_err(|e| io_at("lock", &path)(e.into()))?;
            if file.metadata().map_err(io_at("look at", &path))?.nlink() > 0 {
                return Ok(TmpFile { file, path });
            }
        }
    }

    /// Makes the bytes durable and read-only.
    pub fn seal(&self) -> Result<(), StoreError> {
        let TmpFile { file, path } = self;
        file.set_permissions(Permissions::from_mode(0o444)).map_err(io_at("set the mode of", path))?;
        file.sync_all().map_err(io_at("make durable", path))
    }

    /// Gives it its name, durably.
    pub fn rename(&self, to: &Path) -> Result<(), StoreError> {
        durable::rename(&self.path, to).map_err(io_at("put in place", to))
    }
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        // Best effort: what stays is swept at the next opening of the store.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what killed commands left in `dir`. One that is under way holds a lock on each of its files
/// and is left alone.
pub fn sweep(dir: &Path) -> Result<u64, StoreError> {
    let mut swept = 0;
    for entry in fs::read_dir(dir).map_err(io_at("read folder", dir))? {
        let path = entry.map_err(io_at("read folder", dir))?.path();
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_file(&path).map_err(io_at("remove", &path))?;
            swept += 1;
        }
    }
    Ok(swept)
}
