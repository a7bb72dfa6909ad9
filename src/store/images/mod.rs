//! The image store: manifests (themselves blobs) and the tags that point to them.
//!
//! An image exists from the moment that a tag points to it; a tag is written last, so a killed import
//! leaves no image. An image that lost its tag to another (`--move-tag`) stays, by a marker in
//! `kept/`, until it is removed: pins name digests, and re-tagging never changes what they mean.
//!
//! `lock` is held shared while a pin is made durable and exclusively while images come and go.

mod collect;
mod gc;
mod publish;
mod scrub;
mod serving;

pub use gc::Collection;
pub use publish::{Published, RemoveError, Removed, StoreLock};
pub use scrub::{DamagedImage, Pace, Paced, Scrubbed};
pub use serving::BlobFile;

use super::{
    blobs::{Blobs, StoreError, dir_entries, io_at},
    durable::{self, Stamp},
    resolve::{self, Index, ResolveError},
};
use crate::model::{Digest, Image, Manifest, Tag};
use rustix::fs::FlockOperation;
use serving::{Proof, Referenced};
use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Longest manifest, in bytes.
pub(super) const MAX_MANIFEST: u64 = 1 << 20;
/// Most manifests kept in memory; past it the cache starts anew.
const MAX_CACHED: usize = 1024;

/// The images of this site. Cheap to clone; any number of processes may use one store.
#[derive(Clone, Debug)]
pub struct ImageStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    blobs: Blobs,
    manifests: Mutex<HashMap<Digest, Cached>>,
    referenced: Mutex<HashMap<Digest, Referenced>>,
    proven: Mutex<HashMap<Digest, Proof>>,
    /// Held while a blob is hashed, so that a rack that powers on has it hashed once.
    proving: Mutex<()>,
    /// The same for roots, which take longer: no boot script waits for them.
    proving_roots: Mutex<()>,
}

/// A manifest that was read and found right, and its file then.
#[derive(Clone, Debug)]
struct Cached {
    image: Arc<Image>,
    file: Stamp,
}

/// An image in the store, readable or not.
#[derive(Debug)]
pub struct Entry {
    /// Its identity.
    pub digest: Digest,
    /// The tags that point to it now; none after they were moved.
    pub tags: Vec<Tag>,
    /// Its manifest, or why that can't be read.
    pub image: Result<Image, StoreError>,
}

impl Entry {
    /// Its tags, or its digest where it has none.
    pub fn label(&self) -> String {
        if self.tags.is_empty() {
            return self.digest.short();
        }
        self.tags.iter().map(Tag::to_string).collect::<Vec<_>>().join(", ")
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ImageStore {
    /// Opens the store at `dir` (`<state>/store`), makes it where it is missing, and clears away what
    /// killed imports left.
    pub fn open(dir: &Path) -> Result<ImageStore, StoreError> {
        let store = ImageStore::open_read_only(dir);
        store.0.blobs.create()?;
        for sub in ["tags", "kept", "signatures"] {
            let sub = dir.join(sub);
            durable::create_dir_all(&sub).map_err(io_at("make folder", &sub))?;
        }
        // Whoever holds the lock is at work on the store: then its next opening does the sweeping.
        if let Some(_lock) = store.lock(FlockOperation::NonBlockingLockExclusive)? {
            store.sweep()?;
        }
        Ok(store)
    }

    /// The store at `dir` as it is, for reading: makes and clears away nothing. A missing one is
    /// empty.
    pub fn open_read_only(dir: &Path) -> ImageStore {
        ImageStore(Arc::new(Inner {
            dir: dir.to_owned(),
            blobs: Blobs::at(dir),
            manifests: Mutex::default(),
            referenced: Mutex::default(),
            proven: Mutex::default(),
            proving: Mutex::default(),
            proving_roots: Mutex::default(),
        }))
    }

    /// The folder of the store.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Where images wait that are being pushed to this store, see `image::transfer::uploads`.
    pub fn uploads_dir(&self) -> PathBuf {
        self.0.dir.join("uploads")
    }

    /// The blobs, for importing and verifying.
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// Fails with the error of a full disk where `bytes` more don't fit: before an hour of copying, not
    /// after it.
    pub fn require_free(&self, bytes: u64) -> Result<(), StoreError> {
        let path = &self.0.dir;
        let stat = rustix::fs::statvfs(path).map_err(|e| io_at("look at", path)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if bytes <= free {
            return Ok(());
        }
        Err(StoreError::NoRoom { path: path.clone(), needs: bytes, free })
    }

    /// The image with this digest. One `stat` where it was asked before.
    ///
    /// # Errors
    /// The manifest on disk is not the bytes that its digest names.
    pub fn get(&self, digest: Digest) -> Result<Option<Arc<Image>>, StoreError> {
        let known = lock(&self.0.manifests).get(&digest).cloned();
        // Before it is read: a change in between shows.
        let path = self.0.blobs.path(digest);
        let now = Stamp::of(&path).map_err(io_at("look at", &path))?;
        if let Some(known) = known {
            // Another process may have removed it, or the disk have damaged it.
            if now == Some(known.file) {
                return Ok(Some(known.image));
            }
            lock(&self.0.manifests).remove(&digest);
        }
        let Some(image) = self.read_manifest(digest)? else { return Ok(None) };
        if !self.is_image(&image)? {
            return Ok(None);
        }
        let image = Arc::new(image);
        let mut cache = lock(&self.0.manifests);
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.extend(now.map(|file| (digest, Cached { image: Arc::clone(&image), file })));
        Ok(Some(image))
    }

    /// True where its tag points to it, or it is kept although its tag was moved.
    fn is_image(&self, image: &Image) -> Result<bool, StoreError> {
        let digest = image.digest;
        if self.kept_path(digest).exists() {
            return Ok(true);
        }
        match self.tag_target(&image.manifest.tag) {
            Ok(target) => Ok(target == Some(digest)),
            // Whoever is pinned to it goes on with it.
            Err(StoreError::BadTagFile { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    }

    fn read_manifest(&self, digest: Digest) -> Result<Option<Image>, StoreError> {
        let path = self.0.blobs.path(digest);
        let corrupt = |what: String| StoreError::Corrupt {
            digest,
            path: path.clone(),
            what,
            images: vec![digest.short()],
        };
        let Some(reader) = self.0.blobs.reader(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        reader.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(io_at("read", &path))?;
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(corrupt("too long for a manifest".into()));
        }
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(corrupt(format!("its bytes hash to {}", found.short())));
        }
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|e| corrupt(format!("not a manifest: {e}")))?;
        if manifest.schema != 1 {
            return Err(corrupt(format!("manifest schema {} is newer than this program", manifest.schema)));
        }
        Ok(Some(Image { digest, manifest }))
    }

    /// What `reference` means now: `name:version`, a digest, or the first 8 or more of its digits.
    ///
    /// # Errors
    /// Nothing fits (the error names the nearest tags), or more than one does.
    pub fn resolve(&self, reference: &str) -> Result<Image, ResolveError> {
        let digest = resolve::digest(reference, |tag| self.tag_target(tag), || Ok(self.readable_index()?.0))?;
        let missing = || -> Result<ResolveError, StoreError> {
            Ok(ResolveError::NotFound {
                reference: reference.to_owned(),
                nearest: resolve::nearest(reference, &self.readable_index()?.0),
            })
        };
        match self.get(digest)? {
            // Not from memory alone: an image that is half removed must not be pinned.
            Some(image) if self.is_image(&image)? => Ok(Image::clone(&image)),
            _ => Err(missing()?),
        }
    }

    /// The images that can be read, by tag. One whose manifest is damaged is left out; see
    /// [`ImageStore::entries`].
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        Ok(self.entries()?.into_iter().filter_map(|e| e.image.ok()).collect())
    }

    /// Every image, damaged ones too, but those of which only [`ImageStore::bad_tags`] know: the tagged ones by tag, then those whose tag was moved.
    pub fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries: Vec<Entry> = Vec::new();
        for (digest, tags) in self.readable_index()?.0 {
            let image = match self.get(digest) {
                Ok(Some(image)) => Ok(Image::clone(&image)),
                Ok(None) => Err(self.missing(digest, &tags)),
                Err(e) => Err(e),
            };
            entries.push(Entry { digest, tags, image });
        }
        entries.sort_by(|a, b| (a.tags.is_empty(), &a.tags).cmp(&(b.tags.is_empty(), &b.tags)));
        Ok(entries)
    }

    fn missing(&self, digest: Digest, tags: &[Tag]) -> StoreError {
        let images =
            if tags.is_empty() { vec![digest.short()] } else { tags.iter().map(Tag::to_string).collect() };
        StoreError::Corrupt { digest, path: self.0.blobs.path(digest), what: "it is missing".into(), images }
    }

    /// Files of tags that hold no digest: nobody knows what they pointed to. Other images, and pins of the one that
    /// it was, go on.
    pub fn bad_tags(&self) -> Result<Vec<StoreError>, StoreError> {
        Ok(self.readable_index()?.1)
    }

    /// Every image with the tags that point to it.
    ///
    /// # Errors
    /// One of the tags can't be read: then nobody knows whether an image more belongs here.
    fn index(&self) -> Result<Index, StoreError> {
        let (index, bad) = self.readable_index()?;
        bad.into_iter().next().map_or(Ok(index), Err)
    }

    /// And the tags that can't be read.
    fn readable_index(&self) -> Result<(Index, Vec<StoreError>), StoreError> {
        let mut out = Index::new();
        let mut bad = Vec::new();
        for name_dir in dir_entries(&self.0.dir.join("tags"))? {
            for path in dir_entries(&name_dir)? {
                let part = |p: &Path| p.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
                // Names that are no tag are the leftovers of a killed write.
                let Ok(tag) = Tag::new(&part(&name_dir), &part(&path)) else { continue };
                match self.tag_target(&tag) {
                    Ok(Some(digest)) => out.entry(digest).or_default().push(tag),
                    Ok(None) => {}
                    Err(e @ StoreError::BadTagFile { .. }) => bad.push(e),
                    Err(e) => return Err(e),
                }
            }
        }
        for path in dir_entries(&self.0.dir.join("kept"))? {
            if let Some(Ok(digest)) = path.file_name().and_then(|n| n.to_str()).map(str::parse) {
                out.entry(digest).or_default();
            }
        }
        Ok((out, bad))
    }

    fn tag_path(&self, tag: &Tag) -> PathBuf {
        self.0.dir.join("tags").join(&tag.name).join(&tag.version)
    }

    fn kept_path(&self, digest: Digest) -> PathBuf {
        self.0.dir.join("kept").join(digest.to_string())
    }

    fn tag_target(&self, tag: &Tag) -> Result<Option<Digest>, StoreError> {
        let path = self.tag_path(tag);
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim_end().parse() {
                Ok(digest) => Ok(Some(digest)),
                Err(_) => Err(StoreError::BadTagFile { path }),
            },
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(StoreError::BadTagFile { path }),
            Err(e) => Err(io_at("read", &path)(e)),
        }
    }
}

#[cfg(test)]
mod tests;
