//! Chunks that a receiver has: sent before, in a blob of the same name, or in any other.

use super::{TransferError, assemble::Chunks, inventory::Inventory};
use crate::store::{ImageStore, chunk::ChunkRef, content::BlobReader};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

/// Finds the chunks of one inventory.
#[derive(Debug)]
pub struct Here<'a> {
    store: &'a ImageStore,
    inventory: &'a Inventory,
    dir: PathBuf,
    /// Blobs that are here whole, and where chunks lie in them.
    blobs: Vec<BlobReader>,
    places: HashMap<usize, (usize, u64)>,
    /// Chunks that no blob of this store shares.
    unknown: HashSet<ChunkRef>,
}

impl<'a> Here<'a> {
    /// Chunks of `inventory` in `store` and in the folder `dir` of an upload.
    pub fn open(
        store: &'a ImageStore,
        inventory: &'a Inventory,
        dir: &Path,
    ) -> Result<Here<'a>, TransferError> {
        let all: Vec<ChunkRef> = inventory.chunks.iter().map(|c| c.chunk).collect();
        let unknown = store.blobs().missing(&all)?.into_iter().collect();
        let (mut blobs, mut places) = (Vec::new(), HashMap::new());
        for parts in &inventory.blobs {
            let Some(reader) = store.blobs().reader(parts.blob.digest).ok().flatten() else { continue };
            if reader.size() != parts.blob.size {
                continue;
            }
            let mut at = 0;
            for n in &parts.chunks {
                places.entry(*n).or_insert((blobs.len(), at));
                at += inventory.chunks.get(*n).map_or(0, |c| u64::from(c.chunk.len));
            }
            blobs.push(reader);
        }
        Ok(Here { store, inventory, dir: dir.to_owned(), blobs, places, unknown })
    }

    fn name(&self, n: usize) -> Option<ChunkRef> {
        self.inventory.chunks.get(n).map(|c| c.chunk)
    }

    fn pending(&self, chunk: ChunkRef) -> PathBuf {
        self.dir.join(chunk.digest.to_string())
    }

    fn is_pending(&self, chunk: ChunkRef) -> bool {
        fs::metadata(self.pending(chunk)).is_ok_and(|m| m.len() == u64::from(chunk.len))
    }

    /// Whether chunk `n` is here, as far as can be told without reading it.
    fn has(&self, n: usize, chunk: ChunkRef) -> bool {
        !self.unknown.contains(&chunk) || self.places.contains_key(&n) || self.is_pending(chunk)
    }

    /// The numbers of the chunks that are not here.
    pub fn missing(&self) -> Vec<usize> {
        let all = self.inventory.chunks.iter().enumerate();
        all.filter(|(n, c)| !self.has(*n, c.chunk)).map(|(n, _)| n).collect()
    }

    /// Bytes of the chunks that were sent.
    pub fn pending_bytes(&self) -> u64 {
        let sent = self.inventory.chunks.iter().filter(|c| self.is_pending(c.chunk));
        sent.map(|c| u64::from(c.chunk.len)).sum()
    }

    fn sent(&self, chunk: ChunkRef) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.pending(chunk)).ok()?.take(u64::from(chunk.len) + 1).read_to_end(&mut bytes).ok()?;
        (ChunkRef::of(&bytes) == chunk).then_some(bytes)
    }

    fn in_blob(&mut self, n: usize, chunk: ChunkRef) -> Option<Vec<u8>> {
        let (blob, at) = *self.places.get(&n)?;
        let reader = self.blobs.get_mut(blob)?;
        let mut bytes = vec![0; chunk.len as usize];
        reader.seek(SeekFrom::Start(at)).ok()?;
        reader.read_exact(&mut bytes).ok()?;
        (ChunkRef::of(&bytes) == chunk).then_some(bytes)
    }
}

impl Chunks for Here<'_> {
    fn chunk(&mut self, n: usize) -> Result<Vec<u8>, TransferError> {
        let Some(chunk) = self.name(n) else { return Ok(Vec::new()) };
        if let Some(bytes) = self.sent(chunk) {
            return Ok(bytes);
        }
        if let Some(bytes) = self.in_blob(n, chunk) {
            return Ok(bytes);
        }
        Ok(self.store.blobs().chunk(chunk)?.map(Vec::from).unwrap_or_default())
    }

    fn not_that(&mut self, n: usize) -> TransferError {
        // What was sent and isn't whole must be sent again.
        if let Some(chunk) = self.name(n) {
            let _ = fs::remove_file(self.pending(chunk));
        }
        TransferError::Missing(vec![n])
    }
}
