//! Blobs for serving: which ones, and proven first where no machine does it.

use super::{ImageStore, MAX_CACHED, lock};
use crate::{
    model::{BlobRef, Digest, Image},
    store::{
        blobs::{self, StoreError, io_at},
        content::Content,
        durable::Stamp,
        mapped::is_damage,
    },
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// What hashing a blob gave, for as long as its files are those that were hashed.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    stamps: Vec<Option<Stamp>>,
    wrong: Option<String>,
}

/// What the images say about a blob.
#[derive(Clone, Debug, Default)]
pub(super) struct Referenced {
    size: u64,
    images: Vec<String>,
    /// No machine proves it: a kernel, an initramfs, all of an image with an initramfs of its own.
    unproven: bool,
}

/// A blob that may be served: open, and of the size that the manifest states.
#[derive(Clone, Debug)]
pub struct BlobFile {
    /// Its name.
    pub digest: Digest,
    /// Its bytes, shared by all who read the blob now.
    pub content: Arc<Content>,
}

impl ImageStore {
    /// A blob for serving: only the manifests of images and what they refer to. A boot loader runs a
    /// kernel and its initramfs as they come, so these are hashed here, once for as long as no file that
    /// they lie in is touched. `init` proves each block of its root, which may begin to be sent before it was
    /// hashed; see [`ImageStore::proof`].
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where the blob is missing, known to be damaged, not as long as its manifest
    /// says, or not the bytes that its digest names.
    pub fn blob(&self, digest: Digest) -> Result<Option<BlobFile>, StoreError> {
        let mut known = lock(&self.0.referenced).get(&digest).cloned();
        let mut opened = self.0.blobs.open(digest);
        // Look again where memory and disk differ: another process imports and removes.
        if known.is_some() == matches!(opened, Ok(None)) {
            known = self.reindex()?.remove(&digest);
            opened = self.0.blobs.open(digest);
        }
        let Some(known) = known else { return Ok(None) };
        let corrupt = |what| StoreError::Corrupt {
            digest,
            path: self.0.blobs.place(digest),
            what,
            images: known.images,
        };
        let content = match opened {
            Ok(Some(content)) => content,
            Ok(None) => return Err(corrupt("it is missing".into())),
            Err(StoreError::Corrupt { what, .. }) => return Err(corrupt(what)),
            Err(e) => return Err(e),
        };
        if content.size() != known.size {
            let (found, said) = (content.size(), known.size);
            return Err(corrupt(format!("it has {found} bytes where the image says {said}")));
        }
        let wrong = match known.unproven {
            true => self.hash_once(digest, &content, &self.0.proving)?,
            false => self.known(digest, &content)?.and_then(|proof| proof.wrong),
        };
        match wrong {
            Some(wrong) => Err(corrupt(wrong)),
            None => Ok(Some(BlobFile { digest, content })),
        }
    }

    /// What is left to do before all of a blob may be sent as what it is called: `None` where it was hashed
    /// since its files were touched last, else something that does so, to be called where reading may block.
    /// It gives what is wrong.
    pub fn proof(
        &self,
        blob: &BlobFile,
    ) -> Option<impl FnOnce() -> Result<Option<String>, StoreError> + Send + 'static> {
        if matches!(self.known(blob.digest, &blob.content), Ok(Some(_))) {
            return None;
        }
        let (store, blob) = (self.clone(), blob.clone());
        Some(move || store.hash_once(blob.digest, &blob.content, &store.0.proving_roots))
    }

    /// What hashing it gave, where its files were not touched since.
    fn known(&self, digest: Digest, content: &Content) -> Result<Option<Proof>, StoreError> {
        let now = content.stamps().map_err(io_at("look at", &self.0.blobs.place(digest)))?;
        Ok(lock(&self.0.proven).get(&digest).filter(|p| p.stamps == now).cloned())
    }

    /// What is wrong with the bytes of a blob; by memory where its files were not touched since. What is found
    /// wrong is put aside.
    fn hash_once(
        &self,
        digest: Digest,
        content: &Content,
        one_at_a_time: &Mutex<()>,
    ) -> Result<Option<String>, StoreError> {
        let path = self.0.blobs.place(digest);
        let now = || content.stamps().map_err(io_at("look at", &path));
        let known = |stamps: &[_]| lock(&self.0.proven).get(&digest).filter(|p| p.stamps == stamps).cloned();
        if let Some(proof) = known(&now()?) {
            return Ok(proof.wrong);
        }
        let _one_at_a_time = lock(one_at_a_time);
        // Taken before the first byte is read: a write in between shows.
        let before = now()?;
        if let Some(proof) = known(&before) {
            return Ok(proof.wrong);
        }
        let found = match blobs::hash(content) {
            Ok(found) => Some(found.digest),
            Err(e) if is_damage(&e) => None,
            Err(e) => return Err(io_at("read", &path)(e)),
        };
        let wrong = match found {
            Some(found) if found == digest => None,
            Some(found) => Some(format!("its bytes hash to {}", found.short())),
            None => Some("it can't be read to its end".to_owned()),
        };
        if wrong.is_some() {
            match self.quarantine(digest) {
                // The disk has it whole: it could not be read just then, or is another file by now.
                Ok(0) => return Ok(wrong),
                Ok(_) => {}
                // It isn't served as it is; a scrub will try again.
                Err(error) => tracing::error!(%digest, %error, "a damaged blob could not be marked"),
            }
        }
        // Of a file touched just now, a later write might not show.
        if !before.iter().flatten().all(Stamp::is_settled) {
            return Ok(wrong);
        }
        let mut proven = lock(&self.0.proven);
        if proven.len() >= MAX_CACHED {
            proven.clear();
        }
        proven.insert(digest, Proof { stamps: before, wrong: wrong.clone() });
        Ok(wrong)
    }

    /// Reads anew which blobs the images refer to.
    fn reindex(&self) -> Result<HashMap<Digest, Referenced>, StoreError> {
        let mut out: HashMap<Digest, Referenced> = HashMap::new();
        let mut images: Vec<(String, Image)> = Vec::new();
        for entry in self.entries()? {
            let label = entry.label();
            images.extend(entry.image.ok().map(|image| (label, image)));
        }
        // One whose tag can't be read any more is known by its digest to whoever is pinned to it.
        let asked: Vec<_> = lock(&self.0.manifests).values().map(|known| Arc::clone(&known.image)).collect();
        for image in asked {
            if images.iter().all(|(_, i)| i.digest != image.digest) && self.is_image(&image)? {
                images.push((image.manifest.tag.to_string(), Image::clone(&image)));
            }
        }
        for (label, image) in images {
            let own = lock(&self.0.manifests)
                .get(&image.digest)
                .map(|known| BlobRef { digest: image.digest, size: known.file.size() });
            for blob in image.manifest.blobs().chain(own) {
                let known = out.entry(blob.digest).or_default();
                known.size = blob.size;
                if !known.images.contains(&label) {
                    known.images.push(label.clone());
                }
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
}
