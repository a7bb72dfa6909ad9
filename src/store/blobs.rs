//! Content-addressed blobs: `<store>/blobs/sha256/ab/<hex>`, read-only, named by their SHA-256. What
//! is being written lies in `<store>/tmp` under a lock of its own, so that the leftovers of a killed
//! import can be told from an import that is under way.

use super::durable;
use crate::model::{BlobRef, Digest};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Why the image store can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("can't {what} {path}: {source}{}", hint(source))]
    Io {
        /// As in "read".
        what: &'static str,
        /// Of which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A blob isn't the bytes that its name promises.
    #[error(
        "blob {digest} is damaged: {what} ({path}){}; import the same image again to repair it",
        hurts(images)
    )]
    Corrupt {
        /// Its name.
        digest: Digest,
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The images that need it.
        images: Vec<String>,
    },
    /// A file in `tags/` doesn't hold a digest.
    #[error("{path} should hold the digest of an image, but doesn't: remove it, then import the image again")]
    BadTagFile {
        /// Which file.
        path: PathBuf,
    },
    /// The tag points to another image.
    #[error(
        "{tag} is already image {old}, and this would be {new}: choose another version, or move the tag with --move-tag (pins keep the old image)"
    )]
    TagTaken {
        /// The tag.
        tag: String,
        /// What it points to.
        old: Digest,
        /// What it would point to.
        new: Digest,
    },
    /// Known beforehand not to fit.
    #[error(
        "there is no room: {path} has {} MiB free and {} MiB are needed; `pristine image rm` what no machine uses. Nothing was changed",
        free >> 20,
        (needs >> 20) + 1
    )]
    NoRoom {
        /// The store.
        path: PathBuf,
        /// Bytes.
        needs: u64,
        /// Bytes.
        free: u64,
    },
    /// A manifest that can't be written as JSON.
    #[error("the manifest can't be written: {0}")]
    Manifest(#[from] serde_json::Error),
}

fn hint(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::StorageFull => {
            ": make room (`pristine image rm`), then try again; nothing was changed"
        }
        io::ErrorKind::QuotaExceeded => ": the quota is used up; nothing was changed",
        io::ErrorKind::FileTooLarge => ": the file size limit (ulimit -f) is too low; nothing was changed",
        io::ErrorKind::PermissionDenied => ": run it as the user that owns the state folder",
        _ => "",
    }
}

fn hurts(images: &[String]) -> String {
    if images.is_empty() { String::new() } else { format!("; it belongs to {}", images.join(", ")) }
}

/// Adds what was done to which path to an I/O error.
pub(crate) fn io_at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}

/// The folder of blobs, and the one of unfinished blobs.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
    tmp: PathBuf,
}

impl Blobs {
    /// The blobs of the store at `store`; makes nothing.
    pub fn at(store: &Path) -> Blobs {
        Blobs { root: store.join("blobs").join("sha256"), tmp: store.join("tmp") }
    }

    /// Makes the folders where they are missing.
    pub fn create(&self) -> Result<(), StoreError> {
        for dir in [&self.root, &self.tmp] {
            durable::create_dir_all(dir).map_err(io_at("make folder", dir))?;
        }
        Ok(())
    }

    /// Where the blob lies, if it is there.
    pub fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_string();
        let fan: String = hex.chars().take(2).collect();
        self.root.join(fan).join(hex)
    }

    /// Opens a blob; `None` where there is no such one.
    pub fn open(&self, digest: Digest) -> Result<Option<(File, u64)>, StoreError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => {
                let len = file.metadata().map_err(io_at("look at", &path))?.len();
                Ok(Some((file, len)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_at("open", &path)(e)),
        }
    }

    /// A blob's bytes for a program that reads here and there, as one of a squashfs does; `None` where
    /// there is no such blob.
    pub fn reader(&self, digest: Digest) -> Result<Option<BlobReader>, StoreError> {
        Ok(self.open(digest)?.map(|(file, size)| BlobReader { file, size }))
    }

    /// Starts a blob. Whoever drops the writer without [`BlobWriter::seal`] and
    /// [`Blobs::publish`] leaves nothing behind.
    pub fn begin(&self) -> Result<BlobWriter, StoreError> {
        loop {
            let path = durable::tmp_name(&self.tmp);
            let file = File::create_new(&path).map_err(io_at("make", &path))?;
            // A sweep may come between making and locking: then the file is gone, and another is made.
            flock(&file, FlockOperation::LockExclusive).map_err(|e| io_at("lock", &path)(e.into()))?;
            let links = file.metadata().map_err(io_at("look at", &path))?.nlink();
            if links > 0 {
                return Ok(BlobWriter { tmp: TmpFile { file, path }, len: 0 });
            }
        }
    }

    /// Gives a sealed blob its name. Replaces a blob of that name: the bytes are the same unless the
    /// old ones were damaged, and then this repairs them. The caller holds the store's shared lock
    /// until an image refers to the blob.
    pub fn publish(&self, blob: SealedBlob) -> Result<BlobRef, StoreError> {
        let to = self.path(blob.name.digest);
        if let Some(dir) = to.parent() {
            durable::create_dir_all(dir).map_err(io_at("make folder", dir))?;
        }
        durable::rename(&blob.tmp.path, &to).map_err(io_at("put in place", &to))?;
        Ok(blob.name)
    }

    /// Removes what killed imports left in `tmp`. An import that is under way holds a lock on each of
    /// its files and is left alone.
    pub fn sweep_tmp(&self) -> Result<u64, StoreError> {
        let mut swept = 0;
        for entry in fs::read_dir(&self.tmp).map_err(io_at("read folder", &self.tmp))? {
            let path = entry.map_err(io_at("read folder", &self.tmp))?.path();
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_file(&path).map_err(io_at("remove", &path))?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Every blob there is.
    pub fn list(&self) -> Result<BTreeSet<Digest>, StoreError> {
        let mut out = BTreeSet::new();
        for fan in dir_entries(&self.root)? {
            if !fan.is_dir() {
                continue;
            }
            for path in dir_entries(&fan)? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
                out.extend(name.parse::<Digest>().ok());
            }
        }
        Ok(out)
    }

    /// Removes a blob; true if there was one.
    pub fn remove(&self, digest: Digest) -> Result<bool, StoreError> {
        let path = self.path(digest);
        durable::remove_file(&path).map_err(io_at("remove", &path))
    }

    /// Reads a whole blob again and says its true digest and length; `None` where it is missing.
    /// `seen` is told how many bytes were read, for a progress bar.
    pub fn rehash(&self, digest: Digest, seen: &dyn Fn(u64)) -> Result<Option<BlobRef>, StoreError> {
        let Some((file, _)) = self.open(digest)? else { return Ok(None) };
        hash_file(&file, seen).map(Some).map_err(io_at("read", &self.path(digest)))
    }
}

/// Reads a blob from anywhere within.
#[derive(Debug)]
pub struct BlobReader {
    file: File,
    size: u64,
}

impl BlobReader {
    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Seek for BlobReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Digest and length of all of `file`; `seen` is told how many bytes were read.
pub(super) fn hash_file(file: &File, seen: &dyn Fn(u64)) -> io::Result<BlobRef> {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    let mut buf = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let n = file.read_at(&mut buf, size)?;
        let Some(part) = buf.get(..n).filter(|p| !p.is_empty()) else { break };
        hasher.update(part);
        size += n as u64;
        seen(n as u64);
    }
    Ok(BlobRef { digest: Digest(hasher.finalize().into()), size })
}

/// The paths in a folder, sorted; none where the folder is missing.
pub(crate) fn dir_entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(io_at("read folder", dir)(e)),
    };
    let mut out = Vec::new();
    for entry in entries {
        out.push(entry.map_err(io_at("read folder", dir))?.path());
    }
    out.sort();
    Ok(out)
}

/// A file in `tmp`, removed when dropped. After a rename the name is gone, and so nothing happens.
#[derive(Debug)]
struct TmpFile {
    file: File,
    path: PathBuf,
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        // Best effort: what stays is swept at the next opening of the store.
        let _ = fs::remove_file(&self.path);
    }
}

/// A blob that is being written. It doesn't hash: whoever writes also hashes, on a thread of its own
/// choice, and tells the digest to [`BlobWriter::seal`].
#[derive(Debug)]
pub struct BlobWriter {
    tmp: TmpFile,
    len: u64,
}

impl BlobWriter {
    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it is being written.
    pub fn path(&self) -> &Path {
        &self.tmp.path
    }

    /// Makes the bytes durable and read-only. `digest` is their SHA-256.
    pub fn seal(self, digest: Digest) -> Result<SealedBlob, StoreError> {
        let TmpFile { file, path } = &self.tmp;
        file.set_permissions(Permissions::from_mode(0o444)).map_err(io_at("set the mode of", path))?;
        file.sync_all().map_err(io_at("make durable", path))?;
        Ok(SealedBlob { name: BlobRef { digest, size: self.len }, tmp: self.tmp })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.tmp.file.write(buf)?;
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tmp.file.flush()
    }
}

/// A blob that is whole and durable but has no name yet.
#[derive(Debug)]
pub struct SealedBlob {
    name: BlobRef,
    tmp: TmpFile,
}

impl SealedBlob {
    /// What it will be called.
    pub fn name(&self) -> BlobRef {
        self.name
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::testing::TempDir;

    fn put(blobs: &Blobs, bytes: &[u8]) -> BlobRef {
        let mut w = blobs.begin().unwrap();
        w.write_all(bytes).unwrap();
        blobs.publish(w.seal(Digest::of(bytes)).unwrap()).unwrap()
    }

    #[test]
    fn the_same_bytes_are_stored_once_and_read_only() {
        let dir = TempDir::new();
        let blobs = Blobs::at(dir.path());
        blobs.create().unwrap();
        let a = put(&blobs, b"kernel");
        assert_eq!(put(&blobs, b"kernel"), a);
        assert_eq!(blobs.list().unwrap(), BTreeSet::from([a.digest]));
        let mode = fs::metadata(blobs.path(a.digest)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
        assert_eq!(blobs.rehash(a.digest, &|_| ()).unwrap(), Some(a));
        assert_eq!(fs::read_dir(&blobs.tmp).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_takes_leftovers_and_leaves_a_live_import_alone() {
        let dir = TempDir::new();
        let blobs = Blobs::at(dir.path());
        blobs.create().unwrap();
        fs::write(blobs.tmp.join(".tmp-1-0-dead"), b"half").unwrap();
        let live = blobs.begin().unwrap();
        assert_eq!(blobs.sweep_tmp().unwrap(), 1);
        assert!(live.path().exists());
        drop(live);
        assert_eq!(fs::read_dir(&blobs.tmp).unwrap().count(), 0);
    }

    #[test]
    fn publishing_again_repairs_a_damaged_blob() {
        let dir = TempDir::new();
        let blobs = Blobs::at(dir.path());
        blobs.create().unwrap();
        let a = put(&blobs, b"rootfs");
        fs::remove_file(blobs.path(a.digest)).unwrap();
        fs::write(blobs.path(a.digest), b"rooT").unwrap();
        put(&blobs, b"rootfs");
        assert_eq!(blobs.rehash(a.digest, &|_| ()).unwrap(), Some(a));
    }
}
