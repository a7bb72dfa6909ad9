//! Scrubbing: everything in the store is read from the disk again, at a bounded rate, and compared with its
//! digest. What is damaged is marked: it isn't served any more, and storing the same bytes again heals it.

use super::ImageStore;
use crate::{
    model::{Digest, Millis},
    store::{
        blobs::{StoreError, io_at},
        chunk::ChunkRef,
        durable::{self, Stamp},
        mapped::is_damage,
        packs::{Pack, View, format::Entry},
    },
};
use rustix::fs::{Advice, FlockOperation, fadvise};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Bytes that are read at once of a plain file.
const PART: usize = 1 << 20;

/// An image that can't be booted as it should, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedImage {
    /// Which one.
    pub digest: Digest,
    /// Its tags, or its digest where it has none.
    pub label: String,
    /// What is wrong, one line a blob.
    pub what: Vec<String>,
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// When it ended.
    pub ended: Millis,
    /// Chunks read.
    pub chunks: u64,
    /// Plain blobs and lists read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Chunks and files that were found damaged this time, as paths with offsets.
    pub found: Vec<String>,
    /// Images that are damaged now, whenever that was found.
    pub images: Vec<DamagedImage>,
}

/// Keeps to a rate.
#[derive(Debug)]
pub struct Paced<S> {
    /// Bytes a second; 0: no bound.
    rate: u64,
    spent: u64,
    began: Instant,
    stop: S,
}

impl<S: Fn() -> bool> Paced<S> {
    /// From now on. `stop` is asked whether to stop.
    pub fn new(rate: u64, stop: S) -> Paced<S> {
        Paced { rate, spent: 0, began: Instant::now(), stop }
    }

    /// Accounts for bytes, and waits until they are due. False: stop.
    pub fn spend(&mut self, bytes: u64) -> bool {
        self.spent += bytes;
        let due = match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(self.spent as f64 / rate as f64),
        };
        while !(self.stop)() {
            let left = due.saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(Duration::from_millis(200)));
        }
        false
    }
}

/// Told of bytes that were read; waits as long as the rate wants. False: stop.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> bool;

impl ImageStore {
    /// Reads everything; `None` where `pace` stopped it. Safe beside everything else.
    ///
    /// # Errors
    /// The store's folders can't be read, or damage can't be marked. A file that can't be read is damage.
    pub fn scrub(&self, now: impl Fn() -> Millis, pace: Pace<'_>) -> Result<Option<Scrubbed>, StoreError> {
        let mut done = Scrubbed::default();
        let blobs = &self.0.blobs;
        let view = blobs.packs().view()?;
        done.found.extend(view.unreadable.iter().map(|(path, what)| format!("{}: {what}", path.display())));
        self.mark_lost(&view)?;
        for pack in &view.packs {
            if !self.scrub_pack(pack, &mut done, pace)? {
                return Ok(None);
            }
            if self.heal_copy(pack)? {
                done.found.push(format!("{}: made anew", pack.copy().0.display()));
            }
        }
        for digest in blobs.list()? {
            let (list, plain) = (blobs.list_path(digest), blobs.path(digest));
            done.files += 1;
            if list.exists() {
                if let Err(StoreError::Corrupt { .. }) = blobs.list_of(digest) {
                    done.found.push(list.display().to_string());
                }
                continue;
            }
            let before = Stamp::of(&plain).map_err(io_at("look at", &plain))?;
            match is_digest_of(&plain, digest, pace) {
                Ok(Some(true)) => {}
                Ok(None) => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if !is_damage(&e) => return Err(io_at("read", &plain)(e)),
                Ok(Some(false)) | Err(_) => {
                    if self.mark_plain(digest, before)? {
                        done.found.push(plain.display().to_string());
                    }
                }
            }
            done.bytes += fs::metadata(&plain).map_or(0, |m| m.len());
        }
        done.images = self.damaged_images()?;
        done.ended = now();
        let path = self.scrubbed_path();
        let text = serde_json::to_vec_pretty(&done)?;
        durable::write_atomic(&path, &text, 0o644).map_err(io_at("write", &path))?;
        Ok(Some(done))
    }

    /// False where `pace` stopped it.
    fn scrub_pack(&self, pack: &Pack, done: &mut Scrubbed, pace: Pace<'_>) -> Result<bool, StoreError> {
        let file = match File::open(&pack.path) {
            Ok(file) => file,
            // Collected meanwhile: what was needed of it is in another.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(io_at("open", &pack.path)(e)),
        };
        let mut entries: Vec<_> = pack.unmarked().collect();
        entries.sort_by_key(|e| e.offset);
        let mut buffer = Vec::new();
        for entry in entries {
            if !is_chunk(&file, &entry, &mut buffer) {
                self.0.blobs.packs().mark_damaged(pack, entry.offset)?;
                done.found.push(format!("{} at {}", pack.path.display(), entry.offset));
            }
            done.chunks += 1;
            done.bytes += u64::from(entry.chunk.len);
            if !pace(entry.chunk.len.into()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the copy of a pack's index anew where that is not what it should be; whether it was so. One that is
    /// missing says that a command was killed, see [`Packs::unconfirmed`].
    ///
    /// [`Packs::unconfirmed`]: crate::store::packs::Packs::unconfirmed
    pub(super) fn heal_copy(&self, pack: &Pack) -> Result<bool, StoreError> {
        let (path, whole) = pack.copy();
        let is_whole = || {
            let file = File::open(&path)?;
            let mut found = vec![0; whole.len()];
            let as_long = file.metadata()?.len() == whole.len() as u64;
            io::Result::Ok(as_long && read_from_disk(&file, &mut found, 0).is_ok() && found == whole)
        };
        match is_whole() {
            Ok(true) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Ok(false) | Err(_) => {}
        }
        // Whoever removes packs holds it exclusively.
        let _lock = self.wait_lock(FlockOperation::LockShared)?;
        if !pack.path.exists() {
            return Ok(false);
        }
        self.0.blobs.packs().restore_copy(pack).map(|()| true)
    }

    fn mark_lost(&self, view: &View) -> Result<(), StoreError> {
        view.unreadable.iter().try_for_each(|(path, _)| self.0.blobs.packs().mark_lost(path))
    }

    /// Looks at a blob whose bytes were found wrong, on the disk, and marks what is damaged of it; how much that
    /// is. As after a scrub, that isn't served any more, and storing the same bytes again heals it.
    pub fn quarantine(&self, digest: Digest) -> Result<usize, StoreError> {
        let blobs = &self.0.blobs;
        let Some(chunks) = blobs.list_of(digest)? else {
            let path = blobs.path(digest);
            let before = Stamp::of(&path).map_err(io_at("look at", &path))?;
            return match is_digest_of(&path, digest, &mut |_| true) {
                Ok(Some(true)) => Ok(0),
                // It is missing: there is nothing to mark.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
                Err(e) if !is_damage(&e) => Err(io_at("read", &path)(e)),
                Ok(_) | Err(_) => Ok(usize::from(self.mark_plain(digest, before)?)),
            };
        };
        let view = blobs.packs().view()?;
        self.mark_lost(&view)?;
        let mut open: Option<(&str, File)> = None;
        let (mut found, mut buffer) = (0, Vec::new());
        // In every pack: which of them the blob was laid out over isn't known here.
        let places = |chunk: &ChunkRef| {
            let digest = chunk.digest;
            view.packs.iter().filter_map(move |pack| Some((pack, pack.find_unmarked(digest)?)))
        };
        for (pack, entry) in chunks.iter().flat_map(places) {
            let file = match open.take().filter(|(id, _)| *id == pack.id) {
                Some((_, file)) => file,
                None => File::open(&pack.path).map_err(io_at("open", &pack.path))?,
            };
            if !is_chunk(&file, &entry, &mut buffer) {
                blobs.packs().mark_damaged(pack, entry.offset)?;
                found += 1;
            }
            open = Some((&pack.id, file));
        }
        Ok(found)
    }

    /// Marks a blob that is a plain file as damaged, unless somebody put it there anew since it was looked at.
    fn mark_plain(&self, digest: Digest, seen: Option<Stamp>) -> Result<bool, StoreError> {
        let path = self.0.blobs.path(digest);
        // Whoever publishes holds it exclusively.
        let _lock = self.wait_lock(FlockOperation::LockShared)?;
        if Stamp::of(&path).map_err(io_at("look at", &path))? != seen {
            return Ok(false);
        }
        self.0.blobs.mark_damaged(digest).map(|()| true)
    }

    /// Bytes of all packs and plain blobs.
    pub fn stored_bytes(&self) -> Result<u64, StoreError> {
        let blobs = &self.0.blobs;
        let packs: u64 = blobs.packs().view()?.packs.iter().map(|p| p.size).sum();
        let plain = |digest| fs::metadata(blobs.path(digest)).map_or(0, |m| m.len());
        Ok(packs + blobs.list()?.into_iter().map(plain).sum::<u64>())
    }

    /// The images that are known to be damaged now. Costs a look at each blob, not its bytes.
    pub fn damaged_images(&self) -> Result<Vec<DamagedImage>, StoreError> {
        let mut out = Vec::new();
        for entry in self.entries()? {
            let label = entry.label();
            let what = match entry.image {
                Ok(image) => {
                    let wrong = |blob: &crate::model::BlobRef| match self.0.blobs.look(blob.digest) {
                        Ok(Some(content)) if content.size() == blob.size => None,
                        Ok(Some(_)) => Some(format!("blob {} has another length", blob.digest.short())),
                        Ok(None) => Some(format!("blob {} is missing", blob.digest.short())),
                        Err(StoreError::Corrupt { what, .. }) => {
                            Some(format!("blob {}: {what}", blob.digest.short()))
                        }
                        Err(e) => Some(e.to_string()),
                    };
                    image.manifest.blobs().filter_map(|b| wrong(&b)).collect()
                }
                Err(StoreError::Corrupt { what, .. }) => vec![format!("manifest: {what}")],
                Err(e) => vec![e.to_string()],
            };
            if !what.is_empty() {
                out.push(DamagedImage { digest: entry.digest, label, what });
            }
        }
        Ok(out)
    }

    /// What the last scrub that ended found, whichever process ran it; `None` where none did.
    pub fn last_scrub(&self) -> Option<Scrubbed> {
        serde_json::from_slice(&fs::read(self.scrubbed_path()).ok()?).ok()
    }

    fn scrubbed_path(&self) -> PathBuf {
        self.0.dir.join("scrubbed.json")
    }
}

/// Whether a chunk lies there whole. Looks twice: what is wrong may be the memory.
fn is_chunk(file: &File, entry: &Entry, buffer: &mut Vec<u8>) -> bool {
    buffer.resize(usize::try_from(entry.chunk.len).unwrap_or(0), 0);
    let mut good =
        || read_from_disk(file, buffer, entry.offset).is_ok_and(|()| ChunkRef::of(buffer) == entry.chunk);
    good() || good()
}

/// Reads past the page cache, as far as the kernel can: what lies there says nothing about the disk.
fn read_from_disk(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let len = std::num::NonZeroU64::new(buffer.len() as u64);
    let _ = fadvise(file, offset, len, Advice::DontNeed);
    let read = file.read_exact_at(buffer, offset);
    let _ = fadvise(file, offset, len, Advice::DontNeed);
    read
}

/// Whether the file is what it is called; `None` where `pace` stopped it.
fn is_digest_of(path: &Path, digest: Digest, pace: Pace<'_>) -> io::Result<Option<bool>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut hasher = sha2::Sha256::new();
    let (mut at, mut buffer) = (0, vec![0; PART]);
    while at < size {
        let len = usize::try_from(size - at).unwrap_or(PART).min(PART);
        let Some(part) = buffer.get_mut(..len) else { break };
        read_from_disk(&file, part, at)?;
        hasher.update(&*part);
        at += len as u64;
        if !pace(len as u64) {
            return Ok(None);
        }
    }
    Ok(Some(Digest(hasher.finalize().into()) == digest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::images::gc::tests::{import, whole as whole_root};
    use crate::store::{chunk::tests::noise, testing::TempDir};
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn scrub(store: &ImageStore) -> Scrubbed {
        store.scrub(|| 7, &mut |_| true).unwrap().unwrap()
    }

    fn flip(path: &Path, at: u64) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut bytes = fs::read(path).unwrap();
        let at = usize::try_from(at).unwrap() % bytes.len();
        *bytes.get_mut(at).unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_whole_store_is_read_to_the_end_and_a_stopped_scrub_says_nothing() {
        let dir = TempDir::new();
        let store = ImageStore::open(dir.path()).unwrap();
        import(&store, "web:1", &noise(1, 2 << 20));
        let (mut read, mut stop) = (0, 1 << 20);
        assert_eq!(
            store
                .scrub(|| 7, &mut |n| {
                    read += n;
                    read < stop
                })
                .unwrap(),
            None
        );
        assert_eq!(store.last_scrub(), None);
        stop = u64::MAX;
        read = 0;
        let done = store
            .scrub(|| 7, &mut |n| {
                read += n;
                read < stop
            })
            .unwrap()
            .unwrap();
        assert!(done.bytes == read && read > 2 << 20 && done.chunks > 10 && done.files == 3);
        assert!(done.found.is_empty() && done.images.is_empty());
        assert_eq!(store.last_scrub(), Some(done));
    }

    fn pack_of(store: &ImageStore) -> std::sync::Arc<Pack> {
        let view = store.blobs().packs().view().unwrap();
        view.packs.iter().max_by_key(|p| p.size).unwrap().clone()
    }

    #[test]
    fn a_pack_has_two_whole_indices_again_after_a_scrub_or_a_collection() {
        let dir = TempDir::new();
        let store = ImageStore::open(dir.path()).unwrap();
        let root = noise(3, 2 << 20);
        import(&store, "web:1", &root);
        let (copy, whole) = pack_of(&store).copy();
        let is_whole = || fs::read(&copy).unwrap() == whole;
        flip(&copy, 60);
        let done = scrub(&store);
        assert!(is_whole() && done.images.is_empty());
        assert!(matches!(&*done.found, [one] if one.contains(".idx: made anew")), "{done:?}");
        assert!(scrub(&store).found.is_empty());
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
        File::options().write(true).open(&copy).unwrap().set_len(20).unwrap();
        store.collect(false, &|_| ()).unwrap();
        assert!(!is_whole(), "it was only asked what would be done");
        store.collect(true, &|_| ()).unwrap();
        assert!(is_whole());

        let old = pack_of(&store);
        flip(&old.path, old.size - 1);
        let store = ImageStore::open(dir.path()).unwrap();
        assert_eq!(store.collect(true, &|_| ()).unwrap().removed, 1);
        fs::remove_file(pack_of(&store).copy().0).unwrap();
        let store = ImageStore::open_read_only(dir.path());
        assert!(pack_of(&store).id != old.id && whole_root(&store, &root), "by its own index");
    }

    #[test]
    fn what_others_can_t_read_is_not_served_by_who_has_it_in_memory() {
        let dir = TempDir::new();
        let store = ImageStore::open(dir.path()).unwrap();
        let root = noise(4, 2 << 20);
        import(&store, "web:1", &root);
        let service = ImageStore::open(dir.path()).unwrap();
        assert!(service.blob(Digest::of(&root)).unwrap().is_some());
        let pack = pack_of(&store);
        fs::remove_file(pack.copy().0).unwrap();
        fs::set_permissions(&pack.path, fs::Permissions::from_mode(0o644)).unwrap();
        File::options().write(true).open(&pack.path).unwrap().set_len(pack.size / 2).unwrap();
        let looker = ImageStore::open_read_only(dir.path());
        looker.quarantine(Digest::of(&root)).unwrap();
        assert!(matches!(service.blob(Digest::of(&root)), Err(StoreError::Corrupt { .. })));
        import(&store, "web:1", &root);
        assert!(service.blob(Digest::of(&root)).unwrap().is_some() && whole_root(&service, &root));
    }

    #[test]
    fn a_plain_blob_with_a_flipped_bit_is_quarantined_and_healed() {
        let dir = TempDir::new();
        let store = ImageStore::open(dir.path()).unwrap();
        let root = noise(2, 2 << 20);
        import(&store, "web:1", &root);
        let kernel = Digest::of(b"web:1");
        flip(&store.blobs().path(kernel), 2);
        let done = scrub(&store);
        assert_eq!((done.found.len(), done.images.len()), (1, 1), "{done:?}");
        assert!(matches!(store.blobs().open(kernel), Err(StoreError::Corrupt { .. })));
        assert!(matches!(store.blob(kernel), Err(StoreError::Corrupt { images, .. }) if images == ["web:1"]));
        import(&store, "web:1", &root);
        assert!(store.blob(kernel).unwrap().is_some());
        assert!(scrub(&store).images.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn damage_anywhere_in_a_pack_is_found_kept_from_machines_and_healed(seed: u64, at: u64) {
            let dir = TempDir::new();
            let store = ImageStore::open(dir.path()).unwrap();
            let root = noise(seed, 2 << 20);
            import(&store, "web:1", &root);
            import(&store, "db:1", &root);
            import(&store, "safe:1", &noise(seed ^ 1, 1 << 20));
            let pack = store.blobs().packs().view().unwrap().packs.iter().max_by_key(|p| p.size).unwrap().clone();
            flip(&pack.path, at % (2 << 20));
            let done = scrub(&store);
            let hurt: Vec<&str> = done.images.iter().map(|i| i.label.as_str()).collect();
            prop_assert_eq!(hurt, ["db:1", "web:1"]);
            prop_assert_eq!(done.found.len(), 1);
            let refused = matches!(store.blob(Digest::of(&root)), Err(StoreError::Corrupt { .. }));
            prop_assert!(refused);
            prop_assert_eq!(scrub(&store).found.len(), 0, "known by now");
            import(&store, "web:1", &root);
            prop_assert!(whole_root(&store, &root) && scrub(&store).images.is_empty());
        }
    }
}
