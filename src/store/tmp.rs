//! Files that are being written: in `<store>/tmp`, each under a lock of its own, so that what a killed
//! command left can be told from what is under way.

use super::{
    blobs::{StoreError, io_at},
    durable,
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Bytes that are written at once, at a multiple of as many: then the page cache holds them in pages as large, and what is
/// sent from there takes a quarter less processor time than what was written by chunks.
const BLOCK: usize = 2 << 20;

/// A file in `tmp`, removed when dropped. After a rename the name is gone, and so nothing happens. After an error of
/// writing it is of no use.
#[derive(Debug)]
pub struct TmpFile {
    /// Open for writing; what is written goes through the block.
    pub file: File,
    /// Where it is.
    pub path: PathBuf,
    /// What the file doesn't have yet.
    block: Vec<u8>,
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
                return Ok(TmpFile { file, path, block: Vec::new() });
            }
        }
    }

    /// Bytes of what was written that the file doesn't have yet.
    pub fn held(&self) -> u64 {
        self.block.len() as u64
    }

    /// Makes the bytes durable and read-only.
    pub fn seal(&mut self) -> Result<(), StoreError> {
        self.flush().map_err(io_at("write", &self.path))?;
        let TmpFile { file, path, .. } = self;
        file.set_permissions(Permissions::from_mode(0o444)).map_err(io_at("set the mode of", path))?;
        file.sync_all().map_err(io_at("make durable", path))
    }

    /// Gives it its name, durably.
    pub fn rename(&self, to: &Path) -> Result<(), StoreError> {
        durable::rename(&self.path, to).map_err(io_at("put in place", to))
    }
}

impl Write for TmpFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let (now, _) = buf.split_at_checked(BLOCK - self.block.len()).unwrap_or((buf, &[]));
        self.block.extend_from_slice(now);
        if self.block.len() >= BLOCK {
            self.flush()?;
        }
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.block)?;
        self.block.clear();
        Ok(())
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
