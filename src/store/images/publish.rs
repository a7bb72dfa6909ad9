//! Images come and go: what is written in which order, and under which lock.

use super::{ImageStore, lock};
use crate::{
    model::{Digest, Manifest, Tag},
    store::{
        blobs::{SealedBlob, StoreError, dir_entries, io_at},
        durable,
        resolve::{self, ResolveError},
    },
};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
};

/// While it lives no image is removed and none comes: see [`ImageStore::pin_guard`].
#[derive(Debug)]
#[must_use = "the lock ends when this is dropped"]
pub struct StoreLock(#[allow(dead_code, reason = "closing it ends the lock")] File);

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The image's identity.
    pub digest: Digest,
    /// The tag pointed here before: nothing changed but damaged blobs, which are now whole.
    pub existed: bool,
    /// What the tag pointed to before.
    pub moved_from: Option<Digest>,
}

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The image.
    pub digest: Digest,
    /// The tags that pointed to it.
    pub tags: Vec<Tag>,
    /// Blobs that no other image needed, the manifest among them.
    pub blobs: u64,
    /// Bytes that are free now. What other images need parts of stays until `image gc`.
    pub bytes: u64,
}

/// Why an image can't be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No such image.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Machines hang on it.
    #[error(
        "image {reference} is in use: {}; point them elsewhere (`pristine pin`, `pristine default`) and reboot them first",
        by.join(", ")
    )]
    InUse {
        /// What was to be removed.
        reference: String,
        /// Which machines, and how.
        by: Vec<String>,
    },
    /// Whether it is in use can't be told.
    #[error("can't tell whether image {reference} is in use, so it stays: {why}")]
    Unknown {
        /// What was to be removed.
        reference: String,
        /// The error.
        why: String,
    },
    /// The store can't be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageStore {
    /// Holds off removals until it is dropped: take it before resolving what is to be pinned, and keep
    /// it until the pin is durable. Waits while another process removes or publishes (milliseconds).
    pub fn pin_guard(&self) -> Result<StoreLock, StoreError> {
        self.wait_lock(FlockOperation::LockShared)
    }

    pub(super) fn wait_lock(&self, how: FlockOperation) -> Result<StoreLock, StoreError> {
        loop {
            if let Some(lock) = self.lock(how)? {
                return Ok(lock);
            }
        }
    }

    pub(super) fn lock(&self, how: FlockOperation) -> Result<Option<StoreLock>, StoreError> {
        let path = self.0.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io_at("open", &path))?;
        match flock(&file, how) {
            Ok(()) => Ok(Some(StoreLock(file))),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(None),
            Err(e) => Err(io_at("lock", &path)(e.into())),
        }
    }

    /// Makes an image of sealed blobs visible: blobs, manifest, tag, in this order. Killed in between,
    /// the store shows what it showed before.
    pub fn publish(
        &self,
        blobs: Vec<SealedBlob>,
        manifest: &Manifest,
        move_tag: bool,
    ) -> Result<Published, StoreError> {
        let bytes = manifest.to_bytes()?;
        let new = Digest::of(&bytes);
        let _lock = self.wait_lock(FlockOperation::LockExclusive)?;
        let old = self.tag_target(&manifest.tag)?;
        let moved_from = old.filter(|old| *old != new);
        if let Some(old) = moved_from.filter(|_| !move_tag) {
            return Err(StoreError::TagTaken { tag: manifest.tag.to_string(), old, new });
        }
        for blob in blobs {
            self.0.blobs.publish(blob)?;
        }
        let mut w = self.0.blobs.begin()?;
        let at = w.path().to_owned();
        w.write_all(&bytes).map_err(io_at("write", &at))?;
        self.0.blobs.publish(w.seal(new)?)?;
        if let Some(old) = moved_from {
            let kept = self.kept_path(old);
            durable::write_atomic(&kept, b"", 0o444).map_err(io_at("write", &kept))?;
        }
        if old != Some(new) {
            let path = self.tag_path(&manifest.tag);
            if let Some(dir) = path.parent() {
                durable::create_dir_all(dir).map_err(io_at("make folder", dir))?;
            }
            durable::write_atomic(&path, format!("{new}\n").as_bytes(), 0o644)
                .map_err(io_at("write", &path))?;
        }
        Ok(Published { digest: new, existed: old == Some(new), moved_from })
    }

    /// Removes an image: its tags, its manifest, and the blobs that no other image needs. `in_use`
    /// names the machines that hang on it; it is asked while no pin can be made.
    pub fn remove(
        &self,
        reference: &str,
        in_use: impl FnOnce(Digest) -> Result<Vec<String>, String>,
    ) -> Result<Removed, RemoveError> {
        let _lock = self.wait_lock(FlockOperation::LockExclusive)?;
        let mut index = self.index()?;
        // Not `resolve`: an image with a damaged manifest can be removed too.
        let digest = resolve::digest(reference, |tag| self.tag_target(tag), || Ok(index.clone()))?;
        let Some(tags) = index.remove(&digest) else {
            let nearest = resolve::nearest(reference, &index);
            return Err(ResolveError::NotFound { reference: reference.to_owned(), nearest }.into());
        };
        let by = in_use(digest).map_err(|why| RemoveError::Unknown { reference: reference.into(), why })?;
        if !by.is_empty() {
            return Err(RemoveError::InUse { reference: reference.to_owned(), by });
        }
        for tag in &tags {
            let path = self.tag_path(tag);
            durable::remove_file(&path).map_err(io_at("remove", &path))?;
            // Fails while it holds other versions, as it should.
            let _ = path.parent().map(fs::remove_dir);
        }
        let kept = self.kept_path(digest);
        durable::remove_file(&kept).map_err(io_at("remove", &kept))?;
        self.remove_signatures(digest)?;
        lock(&self.0.manifests).remove(&digest);
        let (blobs, bytes) = self.sweep_blobs()?;
        lock(&self.0.referenced).clear();
        Ok(Removed { digest, tags, blobs, bytes })
    }

    /// Removes leftovers. The caller holds the exclusive lock.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        match self.index() {
            Ok(index) => self.sweep_signatures(&index)?,
            Err(e @ StoreError::BadTagFile { .. }) => tracing::error!(error = %e, "nothing is cleared away"),
            Err(e) => return Err(e),
        }
        self.0.blobs.sweep_tmp()?;
        self.0.blobs.packs().sweep()?;
        for dir in dir_entries(&self.0.dir.join("tags"))?.into_iter().chain([self.0.dir.join("kept")]) {
            for path in dir_entries(&dir)? {
                if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-")) {
                    durable::remove_file(&path).map_err(io_at("remove", &path))?;
                }
            }
        }
        self.sweep_blobs()?;
        self.sweep_packs()
    }

    /// Removes blobs that no image needs; none where an image can't be read, for then nobody knows what
    /// it needs. Says how many, and their bytes. The caller holds the exclusive lock.
    fn sweep_blobs(&self) -> Result<(u64, u64), StoreError> {
        let mut live = BTreeSet::new();
        let index = match self.index() {
            Err(StoreError::BadTagFile { .. }) => return Ok((0, 0)),
            index => index?,
        };
        for digest in index.into_keys() {
            let Ok(Some(image)) = self.read_manifest(digest) else { return Ok((0, 0)) };
            live.insert(digest);
            live.extend(image.manifest.blobs().map(|b| b.digest));
        }
        let (mut count, mut bytes) = (0, 0);
        for dead in self.0.blobs.list()?.difference(&live) {
            bytes += self.0.blobs.remove(*dead)?;
            count += 1;
        }
        // Packs of which no chunk is needed go at once; what others still need of a pack, `image gc` moves.
        if count > 0 {
            bytes += self.remove_dead_packs()?;
        }
        Ok((count, bytes))
    }
}
