//! Chunks: pieces of blobs whose ends are found in the bytes themselves, so that two versions of a file
//! have most of them in common wherever they differ.

use crate::model::Digest;
use fastcdc::v2020::FastCDC;

/// Shortest chunk, but for the last one of a blob.
const MIN: usize = 16 << 10;
/// What chunks are around: see the choices in ARCHITECTURE.md for what other sizes cost.
const AVERAGE: usize = 64 << 10;
/// Longest chunk that is cut here.
const MAX: usize = 256 << 10;
/// Longest chunk that is taken from elsewhere: another version may cut another way.
pub const MAX_CHUNK: u32 = 4 << 20;
/// Shortest one, but for the last of a blob: bounds how many a blob may have.
pub const MIN_CHUNK: u32 = 4 << 10;

/// A chunk as a blob's list names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkRef {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub len: u32,
}

impl ChunkRef {
    /// The name of these bytes. Longer ones than a chunk can be are nobody's.
    pub fn of(bytes: &[u8]) -> ChunkRef {
        ChunkRef { digest: Digest::of(bytes), len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) }
    }
}

/// Whether chunks of these lengths can be a blob of `size` bytes: none is empty or too long, none but the
/// last too short, and together they are as long as the blob.
pub fn fits(chunks: &[ChunkRef], size: u64) -> bool {
    let enough = |(n, c): (usize, &ChunkRef)| {
        let last = n + 1 == chunks.len();
        (if last { 1 } else { MIN_CHUNK }..=MAX_CHUNK).contains(&c.len)
    };
    chunks.iter().enumerate().all(enough) && chunks.iter().map(|c| u64::from(c.len)).sum::<u64>() == size
}

/// Most chunks that a blob of `size` bytes can have.
pub fn most(size: u64) -> u64 {
    size / u64::from(MIN_CHUNK) + 1
}

/// Cuts a stream of bytes into chunks.
#[derive(Debug, Default)]
pub struct Cutter {
    buffer: Vec<u8>,
}

impl Cutter {
    /// Takes more bytes, and gives every chunk that is certain by now to `take`.
    ///
    /// # Errors
    /// The first one of `take`.
    pub fn push<E>(&mut self, bytes: &[u8], take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.buffer.extend_from_slice(bytes);
        self.cut(MAX, take)
    }

    /// Gives what is left, and begins anew.
    ///
    /// # Errors
    /// The first one of `take`.
    pub fn finish<E>(&mut self, take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.cut(1, take)
    }

    /// Cuts while `needs` or more bytes are there.
    fn cut<E>(&mut self, needs: usize, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut start = 0;
        let end = self.buffer.len();
        let cutter = FastCDC::new(&self.buffer, MIN, AVERAGE, MAX);
        while end - start >= needs {
            let (_, at) = cutter.cut(start, end - start);
            let Some(chunk) = self.buffer.get(start..at).filter(|c| !c.is_empty()) else { break };
            take(chunk)?;
            start = at;
        }
        self.buffer.drain(..start);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    /// Bytes without pattern, the same for the same seed.
    pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut out: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
        out.truncate(len);
        out
    }

    fn cut(bytes: &[u8], part: usize) -> Vec<Vec<u8>> {
        let (mut cutter, mut out) = (Cutter::default(), Vec::new());
        let mut take = |chunk: &[u8]| {
            out.push(chunk.to_vec());
            Ok::<(), Infallible>(())
        };
        for part in bytes.chunks(part) {
            cutter.push(part, &mut take).unwrap();
        }
        cutter.finish(&mut take).unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn chunks_are_the_bytes_however_they_come(seed: u64, len in 0usize..2_000_000, part in 1usize..700_000, dull: bool) {
            let bytes = if dull { vec![seed as u8; len] } else { noise(seed, len) };
            let chunks = cut(&bytes, part.max(len / 50 + 1));
            prop_assert!(chunks.concat() == bytes);
            prop_assert_eq!(&chunks, &cut(&bytes, len.max(1)));
            let refs: Vec<ChunkRef> = chunks.iter().map(|c| ChunkRef::of(c)).collect();
            prop_assert!(fits(&refs, len as u64) && refs.len() as u64 <= most(len as u64));
        }
    }

    #[test]
    fn an_insertion_changes_the_chunks_around_it_only() {
        let old = noise(1, 8 << 20);
        let mut new = old.clone();
        new.splice(1_000_000..1_000_000, *b"a few bytes more");
        let (old, new) = (cut(&old, 1 << 20), cut(&new, 1 << 20));
        let fresh = new.iter().filter(|c| !old.contains(c)).count();
        assert!(new.len() > 60 && fresh <= 3, "{fresh} of {} are new", new.len());
    }

    #[test]
    fn lists_that_can_not_be_a_blob_do_not_fit() {
        let chunk = |len| ChunkRef { digest: Digest([0; 32]), len };
        assert!(fits(&[], 0) && fits(&[chunk(1)], 1) && fits(&[chunk(MIN_CHUNK), chunk(1)], 4097));
        assert!(!fits(&[], 1) && !fits(&[chunk(1)], 2) && !fits(&[chunk(0)], 0));
        assert!(!fits(&[chunk(1), chunk(1)], 2), "a list far longer than the blob is worth");
        assert!(!fits(&[chunk(MAX_CHUNK + 1)], u64::from(MAX_CHUNK) + 1));
    }
}
