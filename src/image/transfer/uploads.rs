//! Images that are being pushed to this site: `<store>/uploads/<image>/`, in it the `inventory`, and each
//! chunk that came as a file named by its digest.
//!
//! Chunks are not made durable: each is proven again when the image is committed, and one that isn't whole is
//! asked for again. What nobody goes on with for a day is cleared away.

use super::{
    TransferError,
    assemble::{self, Stored},
    here::Here,
    inventory::Inventory,
    io_at,
};
use crate::{
    image::progress::Progress,
    model::Digest,
    store::{ImageStore, StoreError, chunk::ChunkRef, durable},
};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// Most uploads at once.
pub const MAX_UPLOADS: usize = 16;
/// After so long without a chunk an upload is cleared away.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);
const INVENTORY: &str = "inventory";

/// The uploads of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: ImageStore,
    dir: PathBuf,
    /// Inventories that were read, by image, and what they were read from.
    known: Mutex<HashMap<Digest, (Digest, Arc<Known>)>>,
}

#[derive(Debug)]
struct Known {
    inventory: Inventory,
    chunks: HashSet<ChunkRef>,
}

/// What the sender has to do.
#[derive(Debug)]
pub struct Begun {
    /// The image.
    pub image: Digest,
    /// It is here already, whole as far as is known: nothing is to be sent.
    pub existed: bool,
    /// Numbers of the chunks that are to be sent: a hint, for they may come from elsewhere, or go.
    pub missing: Vec<usize>,
    /// Their bytes.
    pub bytes: u64,
}

/// An upload whose folder stays while this lives.
struct Held {
    dir: PathBuf,
    inventory: File,
}

impl Uploads {
    /// The uploads of `store`. Clears away what nobody went on with.
    pub fn new(store: ImageStore) -> Uploads {
        let dir = store.uploads_dir();
        let uploads = Uploads(Arc::new(Inner { store, dir, known: Mutex::default() }));
        // Tried again whenever an upload begins.
        let _ = uploads.clear(SystemTime::now());
        uploads
    }

    /// Begins an upload, or goes on with it.
    pub fn begin(&self, bytes: &[u8], move_tag: bool, now: SystemTime) -> Result<Begun, TransferError> {
        let inventory = Inventory::parse(bytes)?;
        if inventory.since.is_some() {
            return Err(TransferError::Inventory(
                "an upload builds on nothing but what the receiver says that it has",
            ));
        }
        let store = &self.0.store;
        assemble::check(store, &inventory, move_tag)?;
        let image = inventory.image.digest;
        if self.is_here(&inventory)? {
            assemble::keep_signatures(store, &inventory)?;
            self.remove(image)?;
            return Ok(Begun { image, existed: true, missing: Vec::new(), bytes: 0 });
        }
        self.clear(now)?;
        let dir = self.folder(image);
        let fresh = !dir.exists();
        if fresh && self.folders()?.len() >= MAX_UPLOADS {
            return Err(TransferError::Busy(MAX_UPLOADS));
        }
        let (missing, bytes_missing, pending) = {
            let here = Here::open(store, &inventory, &dir)?;
            let missing = here.missing();
            let size = |n: &usize| inventory.chunks.get(*n).map_or(0, |c| u64::from(c.chunk.len));
            let bytes = missing.iter().map(size).sum::<u64>();
            (missing, bytes, here.pending_bytes())
        };
        // Once as files, and once more in their place.
        store.require_free(bytes_missing.saturating_mul(2).saturating_add(pending))?;
        self.write_inventory(&dir, bytes).inspect_err(|_| {
            if fresh {
                let _ = self.forget(&dir, image);
            }
        })?;
        Ok(Begun { image, existed: false, missing, bytes: bytes_missing })
    }

    /// Takes chunks: each its length in 4 bytes, little-endian, and then its bytes. Says how many came.
    pub fn take(&self, image: Digest, body: &[u8], now: SystemTime) -> Result<usize, TransferError> {
        let held = self.hold(image, FlockOperation::LockShared)?;
        let known = self.known(image, &held)?;
        let (mut rest, mut count) = (body, 0);
        while let Some((len, behind)) = rest.split_first_chunk::<4>() {
            let cut = || TransferError::Damaged { what: "a chunk was cut short on its way".into() };
            let len = u32::from_le_bytes(*len) as usize;
            let (chunk, behind) = behind.split_at_checked(len).ok_or_else(cut)?;
            let name = ChunkRef::of(chunk);
            if !known.chunks.contains(&name) {
                return Err(TransferError::Unasked(name.digest));
            }
            write_chunk(&held.dir, name, chunk).map_err(|e| match e {
                // Ended by another one meanwhile.
                StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    TransferError::NoUpload(image)
                }
                e => e.into(),
            })?;
            rest = behind;
            count += 1;
        }
        if !rest.is_empty() {
            return Err(TransferError::Damaged { what: "a chunk was cut short on its way".into() });
        }
        held.inventory.set_modified(now).map_err(io_at("touch", &held.dir))?;
        Ok(count)
    }

    /// Makes an image of the chunks, and ends the upload.
    pub fn commit(
        &self,
        image: Digest,
        move_tag: bool,
        progress: &dyn Progress,
    ) -> Result<Stored, TransferError> {
        let held = self.hold(image, FlockOperation::LockExclusive)?;
        let known = self.known(image, &held)?;
        let store = &self.0.store;
        let mut here = Here::open(store, &known.inventory, &held.dir)?;
        let missing = here.missing();
        if !missing.is_empty() {
            return Err(TransferError::Missing(missing));
        }
        let stored = assemble::assemble(store, &known.inventory, &mut here, move_tag, progress)?;
        self.forget(&held.dir, image)?;
        Ok(stored)
    }

    /// Another one may end this upload at the same time: then its folder is made anew.
    fn write_inventory(&self, dir: &Path, bytes: &[u8]) -> Result<(), TransferError> {
        let path = dir.join(INVENTORY);
        let mut tries = 3;
        loop {
            tries -= 1;
            durable::create_dir_all(dir).map_err(io_at("make folder", dir))?;
            match durable::write_atomic(&path, bytes, 0o600) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries > 0 => {}
                written => return written.map_err(io_at("write", &path)),
            }
        }
    }

    /// Its tag points to it, and each of its blobs can be opened.
    fn is_here(&self, inventory: &Inventory) -> Result<bool, TransferError> {
        let tag = inventory.image.manifest.tag.to_string();
        let is_it = self.0.store.resolve(&tag).is_ok_and(|found| found.digest == inventory.image.digest);
        let open = |b: &super::inventory::Parts| {
            let reader = self.0.store.blobs().reader(b.blob.digest);
            reader.is_ok_and(|r| r.is_some_and(|r| r.size() == b.blob.size))
        };
        Ok(is_it && inventory.blobs.iter().all(open))
    }

    fn folder(&self, image: Digest) -> PathBuf {
        self.0.dir.join(image.to_string())
    }

    fn entries(&self) -> Result<Vec<PathBuf>, TransferError> {
        match fs::read_dir(&self.0.dir) {
            Ok(entries) => Ok(entries.filter_map(|e| Some(e.ok()?.path())).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(io_at("read folder", &self.0.dir)(e)),
        }
    }

    /// The folders of uploads, by image.
    fn folders(&self) -> Result<Vec<(Digest, PathBuf)>, TransferError> {
        Ok(self.entries()?.into_iter().filter_map(|p| Some((image_of(&p)?, p))).collect())
    }

    fn hold(&self, image: Digest, how: FlockOperation) -> Result<Held, TransferError> {
        let dir = self.folder(image);
        let path = dir.join(INVENTORY);
        loop {
            let inventory = File::open(&path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => TransferError::NoUpload(image),
                _ => io_at("open", &path)(e),
            })?;
            match flock(&inventory, how) {
                Err(rustix::io::Errno::INTR) => continue,
                locked => locked.map_err(|e| io_at("lock", &path)(e.into()))?,
            }
            // Replaced or removed while this waited: look again.
            if inventory.metadata().is_ok_and(|m| m.nlink() > 0) {
                return Ok(Held { dir, inventory });
            }
        }
    }

    fn known(&self, image: Digest, held: &Held) -> Result<Arc<Known>, TransferError> {
        let mut bytes = Vec::new();
        let path = held.dir.join(INVENTORY);
        (&held.inventory)
            .take(super::inventory::MAX_INVENTORY)
            .read_to_end(&mut bytes)
            .map_err(io_at("read", &path))?;
        let name = Digest::of(&bytes);
        let mut all = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = all.get(&image).filter(|(from, _)| *from == name) {
            return Ok(Arc::clone(known));
        }
        let inventory = Inventory::parse(&bytes)?;
        let chunks = inventory.chunks.iter().map(|c| c.chunk).collect();
        let known = Arc::new(Known { inventory, chunks });
        if all.len() >= MAX_UPLOADS {
            all.clear();
        }
        all.insert(image, (name, Arc::clone(&known)));
        Ok(known)
    }

    /// Ends an upload, if there is one and nobody is at work on it.
    fn remove(&self, image: Digest) -> Result<(), TransferError> {
        match self.hold(image, FlockOperation::NonBlockingLockExclusive) {
            Ok(held) => self.forget(&held.dir, image),
            Err(_) => Ok(()),
        }
    }

    /// Removes an upload's folder, at one moment for all who look.
    fn forget(&self, dir: &Path, image: Digest) -> Result<(), TransferError> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&image);
        let gone = durable::tmp_name(&self.0.dir);
        match fs::rename(dir, &gone).and_then(|()| fs::remove_dir_all(&gone)) {
            // Two pushes of one image, and the other was first.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(io_at("remove", dir)),
        }
    }

    /// Clears away what nobody went on with since [`KEPT`] before `now`.
    pub fn clear(&self, now: SystemTime) -> Result<(), TransferError> {
        for path in self.entries()?.iter().filter(|p| image_of(p).is_none()) {
            // Being removed, or left so by a kill.
            let _ = fs::remove_dir_all(path);
        }
        for (image, dir) in self.folders()? {
            // One without an inventory was cut off at its beginning, or within its end.
            let touched = [dir.join(INVENTORY), dir.clone()];
            let touched = touched.iter().find_map(|p| fs::metadata(p).and_then(|m| m.modified()).ok());
            let old = touched.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > KEPT));
            let cut_off = !dir.join(INVENTORY).exists();
            if old && cut_off {
                self.forget(&dir, image)?;
            } else if old {
                self.remove(image)?;
            }
        }
        Ok(())
    }
}

/// The image that is uploaded to the folder `path`.
fn image_of(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Writes a chunk under its name, unless it is there.
fn write_chunk(dir: &Path, name: ChunkRef, bytes: &[u8]) -> Result<(), StoreError> {
    let path = dir.join(name.digest.to_string());
    if fs::metadata(&path).is_ok_and(|m| m.len() == u64::from(name.len)) {
        return Ok(());
    }
    let tmp = durable::tmp_name(dir);
    let written =
        File::create_new(&tmp).and_then(|mut f| f.write_all(bytes)).and_then(|()| fs::rename(&tmp, &path));
    written.map_err(|source| {
        let _ = fs::remove_file(&tmp);
        StoreError::Io { what: "write", path, source }
    })
}
