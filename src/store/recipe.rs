//! What a blob is made of: the list of its chunks, as a file `<hex>.chunks` where else the blob would lie.
//!
//! ```text
//! "pristine blob 1\n" | (SHA-256 of the chunk | length u32, little-endian)* | SHA-256 of all before
//! ```

use super::chunk::{self, ChunkRef};
use crate::model::Digest;
use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

const MAGIC: &[u8; 16] = b"pristine blob 1\n";
const RECORD: usize = 36;
/// Longest list that is read: 7 million chunks.
const MAX: u64 = 256 << 20;

/// The bytes of a list.
pub fn write(chunks: &[ChunkRef]) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunks.len() * RECORD + 48);
    out.extend(MAGIC);
    for chunk in chunks {
        out.extend(chunk.digest.0);
        out.extend(chunk.len.to_le_bytes());
    }
    let sum = Digest::of(&out);
    out.extend(sum.0);
    out
}

/// The list in these bytes; `None` where they are none.
pub fn parse(bytes: &[u8]) -> Option<Vec<ChunkRef>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    let (records, rest) = body.strip_prefix(MAGIC)?.as_chunks::<RECORD>();
    if !rest.is_empty() || Digest::of(body).0 != *sum {
        return None;
    }
    let read = |record: &[u8; RECORD]| {
        let (digest, len) = record.split_first_chunk()?;
        Some(ChunkRef { digest: Digest(*digest), len: u32::from_le_bytes(*len.first_chunk()?) })
    };
    let chunks = records.iter().map(read).collect::<Option<Vec<_>>>()?;
    chunk::fits(&chunks, size(&chunks)).then_some(chunks)
}

/// Bytes of the blob.
pub fn size(chunks: &[ChunkRef]) -> u64 {
    chunks.iter().map(|c| u64::from(c.len)).sum()
}

/// Reads the list at `path`; `Ok(None)` where there is no such file.
///
/// # Errors
/// `InvalidData` where the file is no list.
pub fn read(path: &Path) -> io::Result<Option<Vec<ChunkRef>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(MAX).read_to_end(&mut bytes)?;
    parse(&bytes).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let one = ChunkRef::of(&[1; 5000]);
        for chunks in [vec![], vec![one], vec![one, one, ChunkRef::of(b"end")]] {
            assert_eq!(parse(&write(&chunks)), Some(chunks));
        }
        assert_eq!(parse(&write(&[ChunkRef::of(b"short"), one])), None);
    }

    proptest! {
        #[test]
        fn any_damage_is_noticed(at in 0usize..1000, bit in 0u8..8, cut in 0usize..1000, bytes: Vec<u8>) {
            let good = write(&[ChunkRef::of(&[1; 5000]), ChunkRef::of(&[2; 5000])]);
            let mut bad = good.clone();
            bad[at % good.len()] ^= 1 << bit;
            prop_assert_eq!(parse(&bad), None);
            prop_assert_eq!(parse(&good[..cut % good.len()]), None);
            prop_assert_eq!(parse(&bytes), None);
        }
    }
}
