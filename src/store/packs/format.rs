//! Chunks back to back, then an index of them: a pack. The index lies a second time in a file of its own,
//! so that one bad sector doesn't cost the pack. Both carry a checksum.
//!
//! ```text
//! pack     chunks | index
//! index    record* | count u64 | SHA-256 of all before | "PRISTPK1"
//! record   SHA-256 of the chunk | offset u64 | length u32      sorted by digest; numbers little-endian
//! ```

use super::super::chunk::{ChunkRef, MAX_CHUNK};
use crate::model::Digest;
use std::{fs::File, io, os::unix::fs::FileExt as _};

const MAGIC: &[u8; 8] = b"PRISTPK1";
const RECORD: usize = 44;
/// Count, digest and magic.
const TRAILER: usize = 8 + 32 + 8;
/// Longest index that is read: 6 million chunks.
const MAX_INDEX: u64 = 256 << 20;

/// Where a chunk lies in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub chunk: ChunkRef,
    /// From the start of the pack, in bytes.
    pub offset: u64,
}

/// The index of one pack, found right.
#[derive(Debug)]
pub struct Index {
    records: Vec<u8>,
}

impl Index {
    /// The bytes of an index.
    pub fn write(mut entries: Vec<Entry>) -> Vec<u8> {
        entries.sort_by_key(|e| e.chunk.digest);
        let mut out = Vec::with_capacity(entries.len() * RECORD + TRAILER);
        for entry in &entries {
            out.extend(entry.chunk.digest.0);
            out.extend(entry.offset.to_le_bytes());
            out.extend(entry.chunk.len.to_le_bytes());
        }
        out.extend((entries.len() as u64).to_le_bytes());
        let sum = Digest::of(&out);
        out.extend(sum.0);
        out.extend(MAGIC);
        out
    }

    /// Reads the index that `file`, of `len` bytes, ends with. Also gives where it begins.
    ///
    /// # Errors
    /// The file can't be read, or doesn't end with an index; `InvalidData` then.
    pub fn read(file: &File, len: u64) -> io::Result<(Index, u64)> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("its index {what}"));
        let at = len.checked_sub(TRAILER as u64).ok_or_else(|| bad("is missing"))?;
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, at)?;
        let count = trailer.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
        let size = count.checked_mul(RECORD as u64).filter(|size| *size <= MAX_INDEX);
        let start = size.and_then(|size| at.checked_sub(size));
        let (Some(size), Some(start), true) = (size, start, trailer.ends_with(MAGIC)) else {
            return Err(bad("is damaged"));
        };
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)? + 8];
        file.read_exact_at(&mut bytes, start)?;
        if trailer.get(8..40) != Some(&Digest::of(&bytes).0) {
            return Err(bad("is damaged"));
        }
        bytes.truncate(bytes.len() - 8);
        let index = Index { records: bytes };
        // Whoever wrote it says so under a checksum; believed no further than this.
        let sound = |e: Entry| {
            (1..=MAX_CHUNK).contains(&e.chunk.len) && e.offset.checked_add(e.chunk.len.into()).is_some()
        };
        let sorted = index.entries().is_sorted_by(|a, b| a.chunk.digest < b.chunk.digest);
        if sorted && index.entries().all(sound) { Ok((index, start)) } else { Err(bad("is damaged")) }
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.records.len() / RECORD
    }

    /// Every chunk, by digest.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.records.chunks_exact(RECORD).filter_map(parse)
    }

    /// The chunk of that name.
    pub fn find(&self, digest: Digest) -> Option<Entry> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            let entry = parse(self.records.get(middle * RECORD..(middle + 1) * RECORD)?)?;
            match entry.chunk.digest.cmp(&digest) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(entry),
            }
        }
        None
    }
}

fn parse(record: &[u8]) -> Option<Entry> {
    let (digest, rest) = record.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let len = u32::from_le_bytes(*rest.first_chunk()?);
    Some(Entry { chunk: ChunkRef { digest: Digest(*digest), len }, offset: u64::from_le_bytes(*offset) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::store::testing::TempDir;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> io::Result<(Index, u64)> {
        let dir = TempDir::new();
        let path = dir.path().join("index");
        std::fs::write(&path, bytes).unwrap();
        Index::read(&File::open(path).unwrap(), bytes.len() as u64)
    }

    fn sample(count: u64) -> Vec<Entry> {
        let entry = |n: u64| Entry {
            chunk: ChunkRef { digest: Digest::of(&n.to_le_bytes()), len: n as u32 + 1 },
            offset: n * 7,
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn what_is_written_is_found() {
        for count in [0, 1, 2, 100] {
            let mut bytes = vec![9; 1000];
            bytes.extend(Index::write(sample(count)));
            let (index, start) = read(&bytes).unwrap();
            assert_eq!((index.len() as u64, start), (count, 1000));
            assert!(sample(count).iter().all(|e| index.find(e.chunk.digest) == Some(*e)));
            assert_eq!(index.find(Digest([7; 32])), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_damage_is_noticed(at in 0usize..1000, bit in 0u8..8, cut in 0usize..1000) {
            let good = Index::write(sample(20));
            let mut bad = good.clone();
            bad[at % good.len()] ^= 1 << bit;
            prop_assert!(read(&bad).is_err());
            prop_assert!(read(&good[..cut % good.len()]).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_no_index(bytes: Vec<u8>, count: u64) {
            prop_assert!(read(&bytes).is_err());
            let trailer = [&count.to_le_bytes()[..], &[0; 32], MAGIC].concat();
            prop_assert!(read(&[bytes, trailer].concat()).is_err());
        }
    }
}
