//! Blobs chunk by chunk, for those who carry them between sites: what a blob consists of, what of it is
//! missing here, and putting it together from what is here.

use super::{
    blobs::{Blobs, SealedBlob, StoreError, io_at},
    chunk::{self, ChunkRef, Cutter},
    mapped::is_damage,
    packs::{PackWriter, SealedPack},
};
use crate::model::{BlobRef, Digest};
use bytes::Bytes;
use std::{
    collections::HashSet,
    convert::Infallible,
    io::{self, Read},
};

/// Why a blob can't be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The list is wrong.
    #[error("the list of chunks of blob {} is not one of {} bytes", blob.digest.short(), blob.size)]
    Unfit {
        /// Which blob.
        blob: BlobRef,
    },
    /// Not all chunks are here.
    #[error("blob {} needs {} chunks that are not here", blob.digest.short(), chunks.len())]
    Missing {
        /// Which blob.
        blob: BlobRef,
        /// What is missing, each once.
        chunks: Vec<ChunkRef>,
    },
    /// Each chunk is right, but together they are something else.
    #[error("the chunks that were listed for blob {} are blob {}", blob.digest.short(), found.short())]
    Differs {
        /// Which blob.
        blob: BlobRef,
        /// What they are.
        found: Digest,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a chunk isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// Other bytes than the name says, or longer than a chunk can be.
    #[error("a chunk is not the {} bytes that its name {} says", .0.len, .0.digest.short())]
    Differs(ChunkRef),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Blobs {
    /// What a blob consists of, in order; `None` where there is no such blob. One that isn't stored in chunks
    /// is read and cut for that. The bytes of the n-th chunk are those of [`Blobs::reader`] behind the ones
    /// before it.
    pub fn chunks(&self, digest: Digest) -> Result<Option<Vec<ChunkRef>>, StoreError> {
        if let Some(chunks) = self.list_of(digest)? {
            return Ok(Some(chunks));
        }
        let Some(reader) = self.reader(digest)? else { return Ok(None) };
        let mut chunks = Vec::new();
        let read = cut(reader, |bytes| chunks.push(ChunkRef::of(bytes)));
        read.map_err(io_at("read", &self.path(digest)))?;
        Ok(Some(chunks))
    }

    /// Those of `chunks` that are not in the store, each once, in their order. What is here by the packs'
    /// indexes counts as being here.
    pub fn missing(&self, chunks: &[ChunkRef]) -> Result<Vec<ChunkRef>, StoreError> {
        let view = self.packs().view()?;
        let mut seen = HashSet::new();
        let gone = |c: &&ChunkRef| view.find(c.digest, None).is_none_or(|(_, e)| e.chunk != **c);
        Ok(chunks.iter().filter(|c| seen.insert(**c)).filter(gone).copied().collect())
    }

    /// A chunk's bytes, proven; `None` where they are not in any pack. One that is found to be damaged is
    /// marked as such and missing from then on.
    pub fn chunk(&self, chunk: ChunkRef) -> Result<Option<Bytes>, StoreError> {
        loop {
            let view = self.packs().view()?;
            let Some((pack, entry)) = view.find(chunk.digest, None).filter(|(_, e)| e.chunk == chunk) else {
                return Ok(None);
            };
            let range = entry.offset..entry.offset + u64::from(chunk.len);
            match pack.bytes().and_then(|bytes| bytes.load(range)) {
                Ok(bytes) if ChunkRef::of(&bytes) == chunk => return Ok(Some(bytes)),
                // Moved to another pack meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.packs().forget(),
                Err(e) if !is_damage(&e) => return Err(io_at("read", &pack.path)(e)),
                // Maybe there is another copy.
                Ok(_) | Err(_) => self.packs().mark_damaged(pack, entry.offset)?,
            }
        }
    }

    /// Bytes that writing this would add to the store, but for lists and indexes.
    pub fn new_bytes(&self, from: impl Read) -> io::Result<u64> {
        let view = self.packs().view().map_err(StoreError::into_io)?;
        let (mut own, mut new) = (HashSet::new(), 0);
        cut(from, |bytes| {
            let chunk = ChunkRef::of(bytes);
            if view.find(chunk.digest, None).is_none() && own.insert(chunk) {
                new += u64::from(chunk.len);
            }
        })?;
        Ok(new)
    }

    /// Starts to take chunks that are to be parts of blobs.
    pub fn begin_chunks(&self) -> Result<ChunkBatch, StoreError> {
        Ok(ChunkBatch { blobs: self.clone(), pack: self.packs().begin()?, own: HashSet::new() })
    }

    /// Puts a blob together from chunks that are here, each proven, and the whole too.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub fn assemble(&self, blob: BlobRef, chunks: &[ChunkRef]) -> Result<SealedBlob, AssembleError> {
        use sha2::Digest as _;
        if !chunk::fits(chunks, blob.size) {
            return Err(AssembleError::Unfit { blob });
        }
        let missing = || match self.missing(chunks) {
            Ok(chunks) => AssembleError::Missing { blob, chunks },
            Err(e) => e.into(),
        };
        if !self.missing(chunks)?.is_empty() {
            return Err(missing());
        }
        let mut to = self.begin_shared(blob.size)?;
        let mut hasher = sha2::Sha256::new();
        for chunk in chunks {
            let bytes = self.chunk(*chunk)?.ok_or_else(missing)?;
            hasher.update(&bytes);
            let written = to.write_chunk(*chunk, &bytes);
            written.map_err(|e| io_at("write", to.path())(e))?;
        }
        let found = Digest(hasher.finalize().into());
        if found != blob.digest {
            return Err(AssembleError::Differs { blob, found });
        }
        Ok(to.seal(found)?)
    }
}

/// Reads to the end, and gives each chunk to `take`.
fn cut(mut from: impl Read, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut take = |bytes: &[u8]| {
        take(bytes);
        Ok::<(), Infallible>(())
    };
    let (mut cutter, mut part) = (Cutter::default(), vec![0; 1 << 20]);
    loop {
        let n = from.read(&mut part)?;
        let Some(bytes) = part.get(..n).filter(|bytes| !bytes.is_empty()) else { break };
        let Ok(()) = cutter.push(bytes, &mut take);
    }
    let Ok(()) = cutter.finish(&mut take);
    Ok(())
}

/// Chunks that come before the blobs that they are parts of. `ImageStore::keep_chunks` makes them durable;
/// whoever drops the batch leaves nothing.
#[derive(Debug)]
pub struct ChunkBatch {
    blobs: Blobs,
    pack: PackWriter,
    own: HashSet<ChunkRef>,
}

impl ChunkBatch {
    /// Takes a chunk, unless it is here already; true if it was taken.
    pub fn put(&mut self, chunk: ChunkRef, bytes: &[u8]) -> Result<bool, ChunkError> {
        if ChunkRef::of(bytes) != chunk || !(1..=chunk::MAX_CHUNK).contains(&chunk.len) {
            return Err(ChunkError::Differs(chunk));
        }
        if self.own.contains(&chunk) || self.blobs.missing(&[chunk])?.is_empty() {
            return Ok(false);
        }
        let at = self.pack.path().to_owned();
        self.pack.add(chunk, bytes).map_err(io_at("write", &at))?;
        self.own.insert(chunk);
        Ok(true)
    }

    /// Bytes taken.
    pub fn size(&self) -> u64 {
        self.pack.size()
    }

    /// Makes them durable, but not yet seen; `None` where nothing was taken.
    pub(super) fn seal(self) -> Result<Option<SealedPack>, StoreError> {
        if self.own.is_empty() { Ok(None) } else { self.pack.seal().map(Some) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::store::{ImageStore, chunk::tests::noise, testing::TempDir};
    use std::io::Write as _;

    fn store() -> (TempDir, ImageStore) {
        let dir = TempDir::new();
        let store = ImageStore::open(dir.path()).unwrap();
        (dir, store)
    }

    /// Carries a blob's missing chunks from one store to another.
    fn carry(from: &Blobs, blob: BlobRef, to: &ImageStore) -> (Vec<ChunkRef>, u64) {
        let chunks = from.chunks(blob.digest).unwrap().unwrap();
        let mut batch = to.blobs().begin_chunks().unwrap();
        let mut whole = Vec::new();
        from.reader(blob.digest).unwrap().unwrap().read_to_end(&mut whole).unwrap();
        let missing = to.blobs().missing(&chunks).unwrap();
        let mut at = 0;
        for chunk in &chunks {
            let end = at + chunk.len as usize;
            if missing.contains(chunk) {
                batch.put(*chunk, &whole[at..end]).unwrap();
            }
            at = end;
        }
        let sent = batch.size();
        to.keep_chunks(batch).unwrap();
        (chunks, sent)
    }

    fn put(blobs: &Blobs, bytes: &[u8], shared: bool) -> BlobRef {
        let mut w = if shared { blobs.begin_shared(2 << 20) } else { blobs.begin() }.unwrap();
        w.write_all(bytes).unwrap();
        blobs.publish(w.seal(Digest::of(bytes)).unwrap()).unwrap()
    }

    #[test]
    fn a_blob_travels_by_what_is_missing() {
        let ((_a, a), (_b, b)) = (store(), store());
        let one = noise(1, 3 << 20);
        let mut two = one.clone();
        two.splice(1_000_000..1_000_000, *b"more");
        let half = noise(2, 1 << 20);
        let twice = [&half[..], &half].concat();
        for (bytes, shared, most) in [
            (&one[..], true, 3 << 20),
            (&two, false, 1 << 20),
            (&twice, true, 3 << 19),
            (&[], false, 0),
            (b"small", false, 5),
        ] {
            let blob = put(a.blobs(), bytes, shared);
            let (chunks, sent) = carry(a.blobs(), blob, &b);
            assert!(sent <= most, "{sent}");
            let made = b.blobs().assemble(blob, &chunks).unwrap();
            b.blobs().publish(made).unwrap();
            let mut got = Vec::new();
            b.blobs().reader(blob.digest).unwrap().unwrap().read_to_end(&mut got).unwrap();
            assert!(got == bytes);
            assert_eq!(carry(a.blobs(), blob, &b).1, 0, "what is here doesn't travel again");
        }
        // Nobody removes what was sent and isn't part of a blob yet.
        let blob = put(a.blobs(), &noise(3, 2 << 20), true);
        let (chunks, _) = carry(a.blobs(), blob, &b);
        let b = ImageStore::open(_b.path()).unwrap();
        assert_eq!(b.blobs().missing(&chunks).unwrap(), []);
    }

    #[test]
    fn lists_and_chunks_that_lie_are_refused() {
        let ((_a, a), (_b, b)) = (store(), store());
        let blob = put(a.blobs(), &noise(4, 2 << 20), true);
        let (mut chunks, _) = carry(a.blobs(), blob, &b);
        let mut batch = b.blobs().begin_chunks().unwrap();
        assert!(matches!(batch.put(chunks[0], b"other"), Err(ChunkError::Differs(_))));
        let good = chunks.clone();
        chunks.swap(0, 1);
        assert!(matches!(b.blobs().assemble(blob, &chunks), Err(AssembleError::Differs { .. })));
        chunks.pop();
        assert!(matches!(b.blobs().assemble(blob, &chunks), Err(AssembleError::Unfit { .. })));
        let strange = ChunkRef::of(&noise(5, good[0].len as usize));
        let list: Vec<ChunkRef> = [strange].into_iter().chain(good[1..].iter().copied()).collect();
        let missing = b.blobs().assemble(blob, &list).unwrap_err();
        assert!(matches!(missing, AssembleError::Missing { chunks, .. } if chunks == [strange]));
        assert!(b.blobs().assemble(blob, &good).is_ok());
    }

    #[test]
    fn a_damaged_chunk_is_missing_until_it_comes_again() {
        let (dir, store) = store();
        let bytes = noise(6, 2 << 20);
        let blob = put(store.blobs(), &bytes, true);
        let chunks = store.blobs().chunks(blob.digest).unwrap().unwrap();
        let pack = store.blobs().packs().view().unwrap().packs[0].path.clone();
        let mut damaged = std::fs::read(&pack).unwrap();
        damaged[chunks[0].len as usize] ^= 1;
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, damaged).unwrap();
        let store = ImageStore::open_read_only(dir.path());
        let blobs = store.blobs();
        assert!(blobs.chunk(chunks[0]).unwrap().is_some());
        assert!(blobs.chunk(chunks[1]).unwrap().is_none());
        assert_eq!(blobs.missing(&chunks).unwrap(), [chunks[1]]);
        assert!(matches!(blobs.open(blob.digest), Err(StoreError::Corrupt { .. })), "not served");
        let from = chunks[0].len as usize;
        let mut batch = blobs.begin_chunks().unwrap();
        batch.put(chunks[1], &bytes[from..from + chunks[1].len as usize]).unwrap();
        store.keep_chunks(batch).unwrap();
        let mut got = Vec::new();
        blobs.reader(blob.digest).unwrap().unwrap().read_to_end(&mut got).unwrap();
        assert!(got == bytes);
    }
}
