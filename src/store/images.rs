//! The image store: manifests (themselves blobs) and the tags that point to them.
//!
//! An image exists from the moment that a tag points to it; a tag is written last, so a killed import
//! leaves no image. An image that lost its tag to another (`--move-tag`) stays, by a marker in
//! `kept/`, until it is removed: pins name digests, and re-tagging never changes what they mean.
//!
//! `lock` is held shared while a pin is made durable and exclusively while images come and go.

use super::{
    blobs::{self, Blobs, SealedBlob, StoreError, dir_entries, io_at},
    durable,
    resolve::{self, ResolveError},
};
use crate::model::{BlobRef, Digest, Image, Manifest, Tag};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
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
}

/// What hashing a file gave, for as long as the file is the one that was hashed.
#[derive(Clone, Debug)]
struct Proof {
    stamp: Stamp,
    wrong: Option<String>,
}

/// Device, inode, length, and when the bytes and the inode last changed: whoever writes to a file
/// changes the last one, and can't set it back.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

fn stamp(file: &File) -> io::Result<Stamp> {
    let m = file.metadata()?;
    Ok((m.dev(), m.ino(), m.len(), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())))
}

/// A manifest that was read and found right, and its length then.
#[derive(Clone, Debug)]
struct Cached {
    image: Arc<Image>,
    size: u64,
}

/// What the images say about a blob.
#[derive(Clone, Debug, Default)]
struct Referenced {
    size: u64,
    images: Vec<String>,
    /// No machine proves it: a kernel, an initramfs, all of an image with an initramfs of its own.
    unproven: bool,
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

/// A blob that may be served: open, and of the size that the manifest states.
#[derive(Debug)]
pub struct BlobFile {
    /// Its name.
    pub digest: Digest,
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Open for reading, at 0.
    pub file: File,
}

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
    /// Their bytes.
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
        }))
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
    pub fn get(&self, digest: Digest) -> Result<Option<Image>, StoreError> {
        Ok(self.get_shared(digest)?.map(|image| Image::clone(&image)))
    }

    fn get_shared(&self, digest: Digest) -> Result<Option<Arc<Image>>, StoreError> {
        let known = lock(&self.0.manifests).get(&digest).cloned();
        if let Some(known) = known {
            // Another process may have removed or damaged it.
            if fs::metadata(self.0.blobs.path(digest)).is_ok_and(|m| m.len() == known.size) {
                return Ok(Some(known.image));
            }
            lock(&self.0.manifests).remove(&digest);
        }
        let Some((image, size)) = self.read_manifest(digest)? else { return Ok(None) };
        if !self.is_image(&image)? {
            return Ok(None);
        }
        let image = Arc::new(image);
        let mut cache = lock(&self.0.manifests);
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(digest, Cached { image: Arc::clone(&image), size });
        Ok(Some(image))
    }

    /// True where its tag points to it, or it is kept although its tag was moved.
    fn is_image(&self, image: &Image) -> Result<bool, StoreError> {
        let digest = image.digest;
        Ok(self.kept_path(digest).exists() || self.tag_target(&image.manifest.tag)? == Some(digest))
    }

    fn read_manifest(&self, digest: Digest) -> Result<Option<(Image, u64)>, StoreError> {
        let path = self.0.blobs.path(digest);
        let corrupt = |what: String| StoreError::Corrupt {
            digest,
            path: path.clone(),
            what,
            images: vec![digest.short()],
        };
        let Some((file, _)) = self.0.blobs.open(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(io_at("read", &path))?;
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
        Ok(Some((Image { digest, manifest }, bytes.len() as u64)))
    }

    /// What `reference` means now: `name:version`, a digest, or the first 8 or more of its digits.
    ///
    /// # Errors
    /// Nothing fits (the error names the nearest tags), or more than one does.
    pub fn resolve(&self, reference: &str) -> Result<Image, ResolveError> {
        let digest = resolve::digest(reference, |tag| self.tag_target(tag), || self.index())?;
        let missing = || -> Result<ResolveError, StoreError> {
            Ok(ResolveError::NotFound {
                reference: reference.to_owned(),
                nearest: resolve::nearest(reference, &self.index()?),
            })
        };
        match self.get(digest)? {
            // Not from memory alone: an image that is half removed must not be pinned.
            Some(image) if self.is_image(&image)? => Ok(image),
            _ => Err(missing()?),
        }
    }

    /// The images that can be read, by tag. One whose manifest is damaged is left out; see
    /// [`ImageStore::entries`].
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        Ok(self.entries()?.into_iter().filter_map(|e| e.image.ok()).collect())
    }

    /// Every image, damaged ones too: the tagged ones by tag, then those whose tag was moved.
    pub fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries: Vec<Entry> = Vec::new();
        for (digest, tags) in self.index()? {
            let image = match self.get(digest) {
                Ok(Some(image)) => Ok(image),
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

    /// Every image with the tags that point to it.
    fn index(&self) -> Result<BTreeMap<Digest, Vec<Tag>>, StoreError> {
        let mut out: BTreeMap<Digest, Vec<Tag>> = BTreeMap::new();
        for name_dir in dir_entries(&self.0.dir.join("tags"))? {
            for path in dir_entries(&name_dir)? {
                let part = |p: &Path| p.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
                // Names that are no tag are the leftovers of a killed write.
                let Ok(tag) = Tag::new(&part(&name_dir), &part(&path)) else { continue };
                if let Some(digest) = self.tag_target(&tag)? {
                    out.entry(digest).or_default().push(tag);
                }
            }
        }
        for path in dir_entries(&self.0.dir.join("kept"))? {
            if let Some(Ok(digest)) = path.file_name().and_then(|n| n.to_str()).map(str::parse) {
                out.entry(digest).or_default();
            }
        }
        Ok(out)
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

    /// A blob for serving: only the manifests of images and what they refer to. A boot loader runs a
    /// kernel and its initramfs as they come, so these are hashed here, once for as long as the file
    /// isn't touched; the rootfs of a native image is left to `init`, which proves each block.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where the blob is missing, not as long as its manifest says, or not the
    /// bytes that its digest names.
    pub fn blob(&self, digest: Digest) -> Result<Option<BlobFile>, StoreError> {
        let path = self.0.blobs.path(digest);
        let mut known = lock(&self.0.referenced).get(&digest).cloned();
        let mut opened = self.0.blobs.open(digest)?;
        // Look again where memory and disk differ: another process imports and removes.
        if known.is_some() != opened.is_some() {
            known = self.reindex()?.remove(&digest);
            opened = self.0.blobs.open(digest)?;
        }
        let Some(known) = known else { return Ok(None) };
        let corrupt = |what| StoreError::Corrupt { digest, path: path.clone(), what, images: known.images };
        match opened {
            Some((file, size)) if size == known.size => {
                let wrong = if known.unproven { self.hash_once(digest, &path, &file)? } else { None };
                match wrong {
                    Some(wrong) => Err(corrupt(wrong)),
                    None => Ok(Some(BlobFile { digest, path, size, file })),
                }
            }
            Some((_, size)) => {
                Err(corrupt(format!("it has {size} bytes where the image says {}", known.size)))
            }
            None => Err(corrupt("it is missing".into())),
        }
    }

    /// What is wrong with the bytes of a blob; by memory where the file was not touched since.
    fn hash_once(&self, digest: Digest, path: &Path, file: &File) -> Result<Option<String>, StoreError> {
        let now = || stamp(file).map_err(io_at("look at", path));
        let known = |stamp| lock(&self.0.proven).get(&digest).filter(|p| p.stamp == stamp).cloned();
        if let Some(proof) = known(now()?) {
            return Ok(proof.wrong);
        }
        let _one_at_a_time = lock(&self.0.proving);
        // Taken before the first byte is read: a write in between shows.
        let before = now()?;
        if let Some(proof) = known(before) {
            return Ok(proof.wrong);
        }
        let found = blobs::hash_file(file, &|_| ()).map_err(io_at("read", path))?;
        let wrong = (found.digest != digest).then(|| format!("its bytes hash to {}", found.digest.short()));
        // File times move in steps: of a file touched just now, a later write might not show.
        let ctime = Duration::from_secs(u64::try_from(before.4.0).unwrap_or(0));
        let age = UNIX_EPOCH.elapsed().unwrap_or_default().abs_diff(ctime);
        if age < Duration::from_secs(3) {
            return Ok(wrong);
        }
        let mut proven = lock(&self.0.proven);
        if proven.len() >= MAX_CACHED {
            proven.clear();
        }
        proven.insert(digest, Proof { stamp: before, wrong: wrong.clone() });
        Ok(wrong)
    }

    /// Reads anew which blobs the images refer to.
    fn reindex(&self) -> Result<HashMap<Digest, Referenced>, StoreError> {
        let mut out: HashMap<Digest, Referenced> = HashMap::new();
        for entry in self.entries()? {
            let label = entry.label();
            let Ok(image) = entry.image else { continue };
            let own = lock(&self.0.manifests)
                .get(&image.digest)
                .map(|known| BlobRef { digest: image.digest, size: known.size });
            for blob in image.manifest.blobs().chain(own) {
                let known = out.entry(blob.digest).or_default();
                known.size = blob.size;
                known.images.push(label.clone());
            }
            let manifest = &image.manifest;
            let loaded = std::iter::once(&manifest.kernel).chain(&manifest.initramfs);
            for blob in loaded.chain(manifest.rootfs.iter().map(|r| &r.blob).filter(|_| !manifest.native)) {
                out.entry(blob.digest).or_default().unproven = true;
            }
        }
        lock(&self.0.referenced).clone_from(&out);
        Ok(out)
    }

    /// Holds off removals until it is dropped: take it before resolving what is to be pinned, and keep
    /// it until the pin is durable. Waits while another process removes or publishes (milliseconds).
    pub fn pin_guard(&self) -> Result<StoreLock, StoreError> {
        self.wait_lock(FlockOperation::LockShared)
    }

    fn wait_lock(&self, how: FlockOperation) -> Result<StoreLock, StoreError> {
        loop {
            if let Some(lock) = self.lock(how)? {
                return Ok(lock);
            }
        }
    }

    fn lock(&self, how: FlockOperation) -> Result<Option<StoreLock>, StoreError> {
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

    /// The folder of the store.
    pub(super) fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Removes leftovers. The caller holds the exclusive lock.
    fn sweep(&self) -> Result<(), StoreError> {
        self.sweep_signatures(&self.index()?)?;
        self.0.blobs.sweep_tmp()?;
        for dir in dir_entries(&self.0.dir.join("tags"))?.into_iter().chain([self.0.dir.join("kept")]) {
            for path in dir_entries(&dir)? {
                if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-")) {
                    durable::remove_file(&path).map_err(io_at("remove", &path))?;
                }
            }
        }
        self.sweep_blobs().map(drop)
    }

    /// Removes blobs that no image needs; none where an image can't be read, for then nobody knows what
    /// it needs. Says how many, and their bytes. The caller holds the exclusive lock.
    fn sweep_blobs(&self) -> Result<(u64, u64), StoreError> {
        let mut live = BTreeSet::new();
        for digest in self.index()?.into_keys() {
            let Ok(Some((image, _))) = self.read_manifest(digest) else { return Ok((0, 0)) };
            live.insert(digest);
            live.extend(image.manifest.blobs().map(|b| b.digest));
        }
        let (mut count, mut bytes) = (0, 0);
        for dead in self.0.blobs.list()?.difference(&live) {
            bytes += fs::metadata(self.0.blobs.path(*dead)).map_or(0, |m| m.len());
            count += u64::from(self.0.blobs.remove(*dead)?);
        }
        Ok((count, bytes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::{model::Arch, store::testing::TempDir};
    use std::os::unix::fs::PermissionsExt as _;

    fn sealed(store: &ImageStore, bytes: &[u8]) -> SealedBlob {
        let mut w = store.blobs().begin().unwrap();
        w.write_all(bytes).unwrap();
        w.seal(Digest::of(bytes)).unwrap()
    }

    /// An image with a kernel and an initramfs of the given bytes.
    fn try_import(
        store: &ImageStore,
        tag: &str,
        kernel: &str,
        initramfs: &str,
        move_tag: bool,
    ) -> Result<Published, StoreError> {
        let blobs = vec![sealed(store, kernel.as_bytes()), sealed(store, initramfs.as_bytes())];
        let manifest = Manifest {
            schema: 1,
            tag: tag.parse().unwrap(),
            arch: Arch::X86_64,
            kernel: blobs.first().unwrap().name(),
            initramfs: vec![blobs.last().unwrap().name()],
            rootfs: None,
            cmdline: String::new(),
            native: false,
            labels: BTreeMap::new(),
            provenance: BTreeMap::new(),
        };
        store.publish(blobs, &manifest, move_tag)
    }

    fn import(store: &ImageStore, tag: &str, kernel: &str, initramfs: &str) -> Digest {
        try_import(store, tag, kernel, initramfs, false).unwrap().digest
    }

    fn store() -> (TempDir, ImageStore) {
        let dir = TempDir::new();
        let store = ImageStore::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn what_one_process_imports_another_serves() {
        let (dir, store) = store();
        let service = ImageStore::open(dir.path()).unwrap();
        assert!(service.blob(Digest::of(b"k")).unwrap().is_none());
        let web = import(&store, "web:1", "k", "i");
        assert_eq!(service.resolve("web:1").unwrap().digest, web);
        assert_eq!(service.blob(Digest::of(b"k")).unwrap().unwrap().size, 1);
        assert!(service.blob(web).unwrap().is_some(), "init fetches the manifest as a blob");
        assert_eq!(service.list().unwrap().len(), 1);
    }

    #[test]
    fn a_moved_tag_leaves_the_old_image_to_its_pins() {
        let (_dir, store) = store();
        let old = import(&store, "web:1", "k", "i");
        let refused = try_import(&store, "web:1", "k2", "i", false).unwrap_err().to_string();
        assert!(refused.contains("--move-tag"), "{refused}");
        assert_eq!(store.resolve("web:1").unwrap().digest, old);
        let moved = try_import(&store, "web:1", "k2", "i", true).unwrap();
        assert_eq!(moved.moved_from, Some(old));
        assert_eq!(store.resolve("web:1").unwrap().digest, moved.digest);
        assert!(store.get(old).unwrap().is_some());
        assert!(store.blob(Digest::of(b"k")).unwrap().is_some());
        // A new process sees the same, and its sweep takes nothing.
        let again = ImageStore::open(&store.0.dir).unwrap();
        assert!(again.get(old).unwrap().is_some());
        store.remove(&old.to_string(), |_| Ok(vec![])).unwrap();
        assert!(again.get(old).unwrap().is_none());
        assert!(again.get(moved.digest).unwrap().is_some());
    }

    #[test]
    fn importing_the_same_again_changes_nothing() {
        let (_dir, store) = store();
        let first = import(&store, "web:1", "k", "i");
        let again = try_import(&store, "web:1", "k", "i", false).unwrap();
        assert_eq!(again, Published { digest: first, existed: true, moved_from: None });
    }

    #[test]
    fn removal_spares_what_others_need_and_what_machines_run() {
        let (_dir, store) = store();
        let one = import(&store, "web:1", "kernel", "one");
        import(&store, "web:2", "kernel", "two");
        let used = store.remove("web:1", |d| {
            assert_eq!(d, one);
            Ok(vec!["r1 (52:54:00:00:00:01) is pinned to it".into()])
        });
        assert!(used.unwrap_err().to_string().contains("52:54:00:00:00:01"));
        assert!(store.get(one).unwrap().is_some());
        assert!(matches!(
            store.remove("web:1", |_| Err("db locked".into())),
            Err(RemoveError::Unknown { .. })
        ));
        let removed = store.remove("web:1", |_| Ok(vec![])).unwrap();
        assert_eq!(removed.blobs, 2, "its manifest and its initramfs");
        assert!(store.blob(Digest::of(b"kernel")).unwrap().is_some());
        assert!(store.blob(Digest::of(b"one")).unwrap().is_none());
        assert!(store.resolve("web:1").unwrap_err().to_string().contains("did you mean web:2?"));
    }

    #[test]
    fn a_blob_of_the_wrong_size_is_named_and_not_served() {
        let (_dir, store) = store();
        import(&store, "web:1", "kernel", "i");
        let digest = Digest::of(b"kernel");
        assert!(store.blob(digest).unwrap().is_some());
        let path = store.blobs().path(digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"kerne").unwrap();
        let said = store.blob(digest).unwrap_err().to_string();
        assert!(said.contains(&digest.to_string()) && said.contains("web:1"), "{said}");
        fs::remove_file(&path).unwrap();
        assert!(store.blob(digest).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn a_changed_kernel_or_initramfs_of_the_right_size_is_not_served() {
        let (_dir, store) = store();
        import(&store, "web:1", "kernel", "initramfs");
        for good in [&b"kernel"[..], b"initramfs"] {
            let digest = Digest::of(good);
            assert!(store.blob(digest).unwrap().is_some());
            // In place, as a flipped bit would be: the same file, the same length.
            let path = store.blobs().path(digest);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let mut bytes = good.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(&path, bytes).unwrap();
            for _ in 0..2 {
                let said = store.blob(digest).unwrap_err().to_string();
                assert!(said.contains("hash to") && said.contains("web:1"), "{said}");
            }
        }
        import(&store, "web:1", "kernel", "initramfs");
        assert!(store.blob(Digest::of(b"kernel")).unwrap().is_some(), "importing again repairs it");
        assert!(store.blob(Digest::of(b"initramfs")).unwrap().is_some());
    }

    #[test]
    fn an_image_whose_removal_was_killed_can_not_be_pinned_from_memory() {
        let (_dir, store) = store();
        let web = import(&store, "web:1", "kernel", "i");
        assert!(store.resolve(&web.to_string()).is_ok());
        // What `remove` does first; its blobs go at the next opening.
        fs::remove_file(store.tag_path(&"web:1".parse().unwrap())).unwrap();
        assert!(store.resolve(&web.to_string()).is_err());
    }

    #[test]
    fn a_changed_manifest_is_never_believed() {
        let (dir, store) = store();
        let web = import(&store, "web:1", "kernel", "i");
        let path = store.blobs().path(web);
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, text.replace("\"cmdline\": \"\"", "\"cmdline\": \"init=/bin/sh\"")).unwrap();
        assert!(matches!(store.get(web), Err(StoreError::Corrupt { .. })));
        assert!(store.resolve("web:1").is_err());
        // Opening must not take the blobs of an image that it can't read.
        let again = ImageStore::open(dir.path()).unwrap();
        assert!(again.blobs().path(Digest::of(b"kernel")).exists());
        assert!(again.entries().unwrap().first().unwrap().image.is_err());
        assert!(again.remove("web:1", |_| Ok(vec![])).is_ok());
        assert!(!again.blobs().path(Digest::of(b"kernel")).exists());
    }

    #[test]
    fn opening_clears_what_a_killed_import_left() {
        let (dir, store) = store();
        let web = import(&store, "web:1", "kernel", "i");
        store.blobs().publish(sealed(&store, b"orphan")).unwrap();
        fs::write(dir.path().join("tags/web/.tmp-1-1-1"), b"half").unwrap();
        let again = ImageStore::open(dir.path()).unwrap();
        assert!(!again.blobs().path(Digest::of(b"orphan")).exists());
        assert!(!dir.path().join("tags/web/.tmp-1-1-1").exists());
        assert_eq!(again.resolve("web:1").unwrap().digest, web);
    }

    #[test]
    fn a_pin_guard_holds_off_a_removal() {
        let (dir, store) = store();
        import(&store, "web:1", "kernel", "i");
        let guard = store.pin_guard().unwrap();
        let other = ImageStore::open(dir.path()).unwrap();
        let (tx, rx) = std::sync::mpsc::channel();
        let remover = std::thread::spawn(move || {
            tx.send(()).unwrap();
            other.remove("web:1", |_| Ok(vec![]))
        });
        rx.recv().unwrap();
        assert!(store.resolve("web:1").is_ok(), "nothing goes while the guard lives");
        drop(guard);
        remover.join().unwrap().unwrap();
        assert!(store.resolve("web:1").is_err());
    }
}
