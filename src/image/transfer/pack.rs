//! The sender's side: every blob is read once, proven, and cut into chunks.

use super::{
    TransferError,
    inventory::{Inventory, Listed, Parts, Since, distinct},
    missing,
};
use crate::{
    image::progress::{Progress, Step},
    model::{BlobRef, Digest, Image},
    store::{
        ImageStore, StoreError,
        chunk::{ChunkRef, Cutter},
        content::BlobReader,
    },
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    convert::Infallible,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

/// Bytes that are read at once.
const PART: u64 = 1 << 20;

/// An image, ready to be sent: its inventory, and its chunks by number.
#[derive(Debug)]
pub struct Packed {
    /// What it is made of.
    pub inventory: Inventory,
    /// Where each chunk lies: in which open blob, from which byte on.
    places: Vec<(usize, u64)>,
    open: Vec<Opened>,
}

#[derive(Debug)]
struct Opened {
    blob: BlobRef,
    path: PathBuf,
    reader: BlobReader,
}

impl Opened {
    fn new(store: &ImageStore, blob: BlobRef) -> Result<Opened, TransferError> {
        let path = store.blobs().place(blob.digest);
        let reader = store.blobs().reader(blob.digest)?.ok_or_else(|| missing(&blob, path.clone()))?;
        Ok(Opened { blob, path, reader })
    }

    fn damaged(&self, what: String) -> TransferError {
        let (digest, path) = (self.blob.digest, self.path.clone());
        StoreError::Corrupt { digest, path, what, images: Vec::new() }.into()
    }

    /// Cuts the blob into chunks, and gives each with its place to `take`.
    fn cut(&mut self, step: &dyn Step, mut take: impl FnMut(ChunkRef, u64)) -> Result<(), TransferError> {
        let (mut hasher, mut cutter, mut at) = (Sha256::new(), Cutter::default(), 0);
        let mut one = |chunk: &[u8]| {
            take(ChunkRef::of(chunk), at);
            at += chunk.len() as u64;
            Ok::<(), Infallible>(())
        };
        let read = super::io_at("read", &self.path);
        let mut copy = || {
            let mut part = Vec::new();
            loop {
                part.clear();
                self.reader.by_ref().take(PART).read_to_end(&mut part)?;
                if part.is_empty() {
                    let Ok(()) = cutter.finish(&mut one);
                    return Ok(());
                }
                hasher.update(&part);
                step.advance(part.len() as u64);
                let Ok(()) = cutter.push(&part, &mut one);
            }
        };
        copy().map_err(read)?;
        let found = Digest(hasher.finalize().into());
        if found != self.blob.digest {
            return Err(self.damaged(format!("its bytes hash to {}", found.short())));
        }
        Ok(())
    }

    fn read(&mut self, chunk: ChunkRef, at: u64) -> Result<Vec<u8>, TransferError> {
        let mut bytes = vec![0; chunk.len as usize];
        let got = self.reader.seek(SeekFrom::Start(at)).and_then(|_| self.reader.read_exact(&mut bytes));
        got.map_err(super::io_at("read", &self.path))?;
        if ChunkRef::of(&bytes) != chunk {
            return Err(self.damaged("it changed while it was read".into()));
        }
        Ok(bytes)
    }
}

/// Makes an image ready to be sent. Chunks that `since` has don't travel.
pub fn pack(
    store: &ImageStore,
    image: &Image,
    since: Option<&Image>,
    progress: &dyn Progress,
) -> Result<Packed, TransferError> {
    let manifest = store.manifest_bytes(image.digest)?;
    let manifest = manifest.ok_or_else(|| {
        missing(&BlobRef { digest: image.digest, size: 0 }, store.blobs().place(image.digest))
    })?;
    let signatures = store.signatures(image.digest)?.iter().map(ToString::to_string).collect();
    let open = |blob| Opened::new(store, blob);
    let mut new = distinct(&image.manifest).into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let old: Vec<BlobRef> = since.map(|image| distinct(&image.manifest)).unwrap_or_default();
    let had = places_in(&old, store)?;
    let step = progress.begin("reading", new.iter().fold(0u64, |sum, o| sum.saturating_add(o.blob.size)));
    let mut numbers: HashMap<ChunkRef, usize> = HashMap::new();
    let (mut chunks, mut places, mut blobs) = (Vec::new(), Vec::new(), Vec::new());
    for (n, opened) in new.iter_mut().enumerate() {
        let mut parts = Vec::new();
        opened.cut(step.as_ref(), |chunk, at| {
            let number = *numbers.entry(chunk).or_insert_with(|| {
                chunks.push(Listed { chunk, old: had.get(&chunk).copied() });
                places.push((n, at));
                chunks.len() - 1
            });
            parts.push(number);
        })?;
        blobs.push(Parts { blob: opened.blob, chunks: parts });
    }
    step.done();
    let since =
        since.map(|image| Since { digest: image.digest, tag: image.manifest.tag.clone(), blobs: old });
    let inventory = Inventory { image: image.clone(), manifest, signatures, since, chunks, blobs };
    Ok(Packed { inventory, places, open: new })
}

/// Where chunks lie in these blobs: in which one, from which byte on.
fn places_in(
    blobs: &[BlobRef],
    store: &ImageStore,
) -> Result<HashMap<ChunkRef, (usize, u64)>, TransferError> {
    let mut places = HashMap::new();
    for (n, blob) in blobs.iter().enumerate() {
        let gone = || missing(blob, store.blobs().place(blob.digest));
        let mut at = 0;
        for chunk in store.blobs().chunks(blob.digest)?.ok_or_else(gone)? {
            places.entry(chunk).or_insert((n, at));
            at += u64::from(chunk.len);
        }
    }
    Ok(places)
}

impl Packed {
    /// The bytes of chunk `n`, proven again.
    pub fn chunk(&mut self, n: usize) -> Result<Vec<u8>, TransferError> {
        let place = self.places.get(n).zip(self.inventory.chunks.get(n));
        let Some((&(blob, at), listed)) = place else { return Ok(Vec::new()) };
        let chunk = listed.chunk;
        match self.open.get_mut(blob) {
            Some(opened) => opened.read(chunk, at),
            None => Ok(Vec::new()),
        }
    }
}
