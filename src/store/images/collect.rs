//! What of the packs is needed, and what isn't.
//!
//! A chunk is needed while a blob's list names it, whether an image needs that blob or not: blobs that no
//! image needs go first, see `publish.rs`.

use super::ImageStore;
use crate::{
    model::Digest,
    store::{blobs::StoreError, chunks::ChunkBatch},
};
use rustix::fs::FlockOperation;
use std::collections::HashSet;

impl ImageStore {
    /// The chunks that blobs consist of.
    ///
    /// # Errors
    /// A list of chunks that is damaged: then nobody knows what is needed.
    pub(super) fn needed_chunks(&self) -> Result<HashSet<Digest>, StoreError> {
        let mut needed = HashSet::new();
        for blob in self.0.blobs.list()? {
            let chunks = self.0.blobs.list_of(blob)?.unwrap_or_default();
            needed.extend(chunks.iter().map(|c| c.digest));
        }
        Ok(needed)
    }

    /// Makes chunks durable and seen, for the blobs that are to consist of them. Those of which none has
    /// become a part of a blob within a day may be removed.
    pub fn keep_chunks(&self, batch: ChunkBatch) -> Result<(), StoreError> {
        let Some(pack) = batch.seal()? else { return Ok(()) };
        let _lock = self.wait_lock(FlockOperation::LockExclusive)?;
        self.0.blobs.packs().publish_awaited(&pack)
    }

    /// Removes packs that a killed command left, and makes copies of indexes that are missing. The caller
    /// holds the exclusive lock.
    pub(super) fn sweep_packs(&self) -> Result<(), StoreError> {
        let packs = self.0.blobs.packs();
        if packs.unconfirmed()?.is_empty() {
            return Ok(());
        }
        self.remove_dead_packs()?;
        packs.unconfirmed()?.iter().try_for_each(|pack| packs.restore_copy(pack))
    }

    /// Removes the packs of which nothing is needed, none where that can't be told; says how many bytes
    /// that frees. The caller holds the exclusive lock.
    pub(super) fn remove_dead_packs(&self) -> Result<u64, StoreError> {
        let needed = match self.needed_chunks() {
            Ok(needed) => needed,
            Err(StoreError::Corrupt { .. }) => return Ok(0),
            Err(e) => return Err(e),
        };
        let packs = self.0.blobs.packs();
        let mut freed = 0;
        for pack in &packs.view()?.packs {
            let dead =
                !packs.is_awaited(&pack.path) && !pack.entries().any(|e| needed.contains(&e.chunk.digest));
            if dead && let Some(claim) = packs.claim(&pack.path) {
                packs.remove(&pack.path, claim)?;
                freed += pack.size;
            }
        }
        Ok(freed)
    }
}
