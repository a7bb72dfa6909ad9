//! The receiver's side: from an inventory and a source of chunks to an image in the store.

use super::{TransferError, inventory::Inventory};
use crate::{
    image::{
        copy::{self, CopyError, Verity},
        progress::Progress,
    },
    netboot::cmdline,
    store::{ImageStore, StoreError, chunk::ChunkRef, images::Published, signatures::KeepError},
};
use pristine_signature::Signature;
use std::io::{self, Read};

/// Gives chunks by their number in an inventory.
pub trait Chunks {
    /// The bytes; who asks proves them.
    fn chunk(&mut self, n: usize) -> Result<Vec<u8>, TransferError>;
    /// What it means that the bytes were not those of the chunk.
    fn not_that(&mut self, n: usize) -> TransferError;
}

/// What was stored.
#[derive(Debug)]
pub struct Stored {
    /// What the store did.
    pub published: Published,
    /// Signatures that came along and that it had not.
    pub signatures: usize,
}

/// What can be said against an image before its bytes are there.
pub fn check(store: &ImageStore, inventory: &Inventory, move_tag: bool) -> Result<(), TransferError> {
    let manifest = &inventory.image.manifest;
    cmdline::check(&manifest.cmdline, manifest.arch, manifest.native, manifest.rootfs.is_some())?;
    let tag = manifest.tag.to_string();
    if let Ok(old) = store.resolve(&tag)
        && old.digest != inventory.image.digest
        && !move_tag
    {
        return Err(StoreError::TagTaken { tag, old: old.digest, new: inventory.image.digest }.into());
    }
    Ok(())
}

/// Writes the blobs of an image from their chunks, proves each, publishes the image and keeps its
/// signatures. Nothing of it is visible before all is proven.
pub fn assemble(
    store: &ImageStore,
    inventory: &Inventory,
    chunks: &mut dyn Chunks,
    move_tag: bool,
    progress: &dyn Progress,
) -> Result<Stored, TransferError> {
    check(store, inventory, move_tag)?;
    let manifest = &inventory.image.manifest;
    let step = progress.begin("storing", inventory.bytes());
    let mut sealed = Vec::new();
    for parts in &inventory.blobs {
        let rootfs = manifest.rootfs.filter(|r| r.blob.digest == parts.blob.digest);
        let verity = rootfs.map_or(Verity::No, |r| Verity::Salted(r.verity.salt));
        let mut to = store.blobs().begin_shared(parts.blob.size)?;
        let mut stream =
            Stream { inventory, chunks, numbers: &parts.chunks, part: io::Cursor::default(), failed: None };
        let copied = copy::copy(&mut stream, &mut to, verity, 0, &|n| step.advance(n));
        let failed = stream.failed.take();
        let copied = copied.map_err(|e| match (e, failed) {
            (CopyError::Read(_), Some(why)) => why,
            (e, _) => {
                StoreError::Io { what: "write", path: to.path().to_owned(), source: e.into_io() }.into()
            }
        })?;
        let digest = parts.blob.digest;
        if copied.blob != parts.blob {
            return Err(TransferError::Unproven {
                what: format!("blob {} isn't what its chunks make", digest.short()),
            });
        }
        if let (Some(rootfs), Some(tree)) = (rootfs, copied.tree) {
            let named = (rootfs.verity.root_hash, rootfs.verity.data_blocks);
            if named != (tree.root_hash, tree.data_blocks) {
                return Err(TransferError::Unproven {
                    what: "the root filesystem has another root hash".into(),
                });
            }
        }
        sealed.push(to.seal(digest)?);
    }
    let published = store.publish(sealed, manifest, move_tag)?;
    step.done();
    let signatures = keep_signatures(store, inventory)?;
    Ok(Stored { published, signatures })
}

/// Keeps the signatures of keys that have none here yet: one that is here stays, or else whoever sends an
/// image could put a worse one in its place.
pub fn keep_signatures(store: &ImageStore, inventory: &Inventory) -> Result<usize, TransferError> {
    let image = inventory.image.digest;
    let mut kept = 0;
    for text in &inventory.signatures {
        let Ok(signature) = Signature::parse(text) else { continue };
        let known = store.signatures(image)?.iter().any(|s| s.key_id() == signature.key_id());
        if known {
            continue;
        }
        match store.keep_signature(image, &signature) {
            Ok(_) => kept += 1,
            Err(KeepError::Full(..)) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(kept)
}

/// A blob's chunks as one stream of proven bytes.
struct Stream<'a> {
    inventory: &'a Inventory,
    chunks: &'a mut dyn Chunks,
    numbers: &'a [usize],
    part: io::Cursor<Vec<u8>>,
    failed: Option<TransferError>,
}

impl Stream<'_> {
    fn next(&mut self, n: usize) -> Result<Vec<u8>, TransferError> {
        let bytes = self.chunks.chunk(n)?;
        match self.inventory.chunks.get(n) {
            Some(listed) if ChunkRef::of(&bytes) == listed.chunk => Ok(bytes),
            _ => Err(self.chunks.not_that(n)),
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.part.read(buf)? {
                0 => {}
                n => return Ok(n),
            }
            let Some((first, rest)) = self.numbers.split_first() else { return Ok(0) };
            self.numbers = rest;
            match self.next(*first) {
                Ok(bytes) => self.part = io::Cursor::new(bytes),
                Err(why) => {
                    self.failed = Some(why);
                    return Err(io::Error::other("a chunk can't be had"));
                }
            }
        }
    }
}
