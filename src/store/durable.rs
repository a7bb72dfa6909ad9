//! Writes that survive a crash: a file is either the old one or the new one, whole, and once a call
//! returns a power cut can't undo it.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Bytes free on a disk below which hardly anything can be saved.
pub const NO_ROOM: u64 = 64 << 20;

/// Bytes that are free where `dir` lies, for whoever is not root; `None` where the system doesn't say.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let fs = rustix::fs::statvfs(dir).ok()?;
    Some(fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Makes the entries of folder `dir` durable: what was made, renamed or removed in it.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes `dir` and its missing parents, durably.
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = parent_of(dir);
    create_dir_all(parent)?;
    match fs::create_dir(dir) {
        Ok(()) => sync_dir(parent),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Replaces `path` by a file with `bytes` and permission bits `mode`. A reader sees the old bytes or
/// the new ones, never a part; a temporary file beside it is left behind only by a kill, and starts
/// with `.tmp-`.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let tmp = tmp_name(parent_of(path));
    let made = write_synced(&tmp, bytes, mode).and_then(|()| rename(&tmp, path));
    if made.is_err() {
        // The first error is the one that tells; a leftover is swept at the next opening.
        let _ = fs::remove_file(&tmp);
    }
    made
}

/// The same where there is nothing at `path` yet; false, with what is there left as it is, where there
/// is. Of two that make it at once one wins.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    let tmp = tmp_name(parent_of(path));
    let linked = write_synced(&tmp, bytes, mode).and_then(|()| fs::hard_link(&tmp, path));
    let _ = fs::remove_file(&tmp);
    match linked {
        Ok(()) => sync_dir(parent_of(path)).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // For its owner alone until it is what it should be: it may be a secret.
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Moves a synced file over `to`, durably. Both in one file system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(parent_of(to))
}

/// Removes a file, durably; true if there was one.
pub fn remove_file(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent_of(path)).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// What tells whether a file, or the list of files in a folder, is the one that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64, u64),
    modified: (i64, i64),
    /// Set by whoever writes, and can't be set back.
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of what lies at `path`; `None` where nothing does. Take it before reading.
    pub fn of(path: &Path) -> io::Result<Option<Stamp>> {
        match fs::metadata(path) {
            Ok(m) => Ok(Some(Stamp::from(&m))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Length of the file, in bytes.
    pub fn size(&self) -> u64 {
        self.file.2
    }

    /// False for two seconds after a change: file times move in steps, and a second change within one
    /// would not show.
    pub fn is_settled(&self) -> bool {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let age = now.map_or(0, |now| now.as_secs()).abs_diff(u64::try_from(self.changed.0).unwrap_or(0));
        age > 2
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(m: &fs::Metadata) -> Stamp {
        Stamp {
            file: (m.dev(), m.ino(), m.len()),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        }
    }
}

/// A name in `dir` that no other process and no other call of this one uses.
pub(crate) fn tmp_name(dir: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!(".tmp-{}-{n}-{nanos:x}", std::process::id()))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::testing::TempDir;

    #[test]
    fn replaces_a_file_whole_and_leaves_no_temporary() {
        let dir = TempDir::new();
        let deep = dir.path().join("a/b");
        create_dir_all(&deep).unwrap();
        let path = deep.join("token");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1);
        assert!(!write_new(&path, b"three", 0o600).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two", "what is there stays");
        assert!(remove_file(&path).unwrap());
        assert!(!remove_file(&path).unwrap());
        assert!(write_new(&path, b"three", 0o600).unwrap());
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1);
    }
}
