//! The bytes of a blob, wherever they lie: a plain file, or stretches of packs.

use super::{
    durable::Stamp,
    mapped::{Mapped, Place},
};
use bytes::Bytes;
use std::{
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

/// Bytes that are loaded at once.
const WINDOW: u64 = 4 << 20;

/// A stretch of a blob.
#[derive(Debug)]
pub struct Part {
    /// The file it lies in.
    pub file: Arc<Mapped>,
    /// Where there.
    pub range: Range<u64>,
}

/// An open blob. Whoever holds it can read all of it, whatever is removed meanwhile.
#[derive(Debug)]
pub struct Content {
    /// With where each begins in the blob.
    parts: Vec<(u64, Part)>,
    size: u64,
    files: Vec<PathBuf>,
    /// What they lie in, each once.
    mapped: Vec<Arc<Mapped>>,
}

impl Content {
    /// A blob of these parts, in order. `files` are those that it lies in.
    pub fn new(parts: impl IntoIterator<Item = Part>, files: Vec<PathBuf>) -> Content {
        let mut size = 0;
        let mut placed = Vec::new();
        let mut mapped: Vec<Arc<Mapped>> = Vec::new();
        for part in parts {
            let len = part.range.end.saturating_sub(part.range.start);
            if len > 0 {
                if !mapped.iter().any(|file| Arc::ptr_eq(file, &part.file)) {
                    mapped.push(Arc::clone(&part.file));
                }
                placed.push((size, part));
                size += len;
            }
        }
        Content { parts: placed, size, files, mapped }
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Loads the beginning of `range`: what of it lies in one place, at most a window; nothing only where the range is
    /// empty. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's; also where a file has become shorter, or the range begins beyond the end.
    pub fn load(&self, range: Range<u64>) -> io::Result<Bytes> {
        let end = range.end.min(range.start.saturating_add(WINDOW));
        match self.stretch(range.start..end)? {
            Some((file, stretch)) => file.load(stretch),
            None => Ok(Bytes::new()),
        }
    }

    /// The beginning of `range`, as far as it lies in one place, as it is mapped ([`Mapped::unread`]); `None` where it must be loaded.
    pub fn unread(&self, range: Range<u64>) -> Option<Bytes> {
        let (file, stretch) = self.stretch(range).ok()??;
        file.unread(&stretch)
    }

    /// Where the beginning of `range` lies; `None` where it is empty.
    fn stretch(&self, range: Range<u64>) -> io::Result<Option<(&Mapped, Range<u64>)>> {
        if range.is_empty() {
            return Ok(None);
        }
        let at = self.parts.partition_point(|(start, _)| *start <= range.start).saturating_sub(1);
        let (start, part) = self.parts.get(at).ok_or(io::ErrorKind::UnexpectedEof)?;
        let from = part.range.start.saturating_add(range.start.saturating_sub(*start));
        let to = part.range.end.min(from.saturating_add(range.end - range.start));
        if from < to { Ok(Some((&part.file, from..to))) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// The file that a slice is of, and where it lies there; `None` where it is a copy.
    pub fn place_of(&self, slice: &[u8]) -> Option<Place> {
        self.mapped.iter().find_map(|file| {
            Some(Place { file: Arc::clone(file), offset: file.offset_of(slice)?, len: slice.len() })
        })
    }

    /// Fills the beginning of `buf` from `offset` on; 0 at the end.
    ///
    /// # Errors
    /// As [`Content::load`].
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = self.size.saturating_sub(offset).min(buf.len() as u64);
        let slice = self.load(offset..offset.saturating_add(len))?;
        if let Some(to) = buf.get_mut(..slice.len()) {
            to.copy_from_slice(&slice);
        }
        Ok(slice.len())
    }

    /// What tells whether the files are still those that they were, byte for byte; in a set order. A file
    /// that is gone has none.
    ///
    /// # Errors
    /// A file that can't be looked at.
    pub fn stamps(&self) -> io::Result<Vec<Option<Stamp>>> {
        self.files.iter().map(|path| Stamp::of(path)).collect()
    }
}

/// Reads a blob from anywhere within.
#[derive(Clone, Debug)]
pub struct BlobReader {
    content: Arc<Content>,
    at: u64,
}

impl BlobReader {
    /// Stands at the beginning.
    pub fn new(content: Arc<Content>) -> BlobReader {
        BlobReader { content, at: 0 }
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.content.size
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for BlobReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.content.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::store::{chunk::tests::noise, testing::TempDir};
    use proptest::prelude::*;
    use std::fs::{self, File};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_range_is_the_bytes(
            lens in proptest::collection::vec(0usize..1_000_000, 0..6), from: u64, len in 0u64..6_000_000, plain: bool,
        ) {
            let dir = TempDir::new();
            let path = dir.path().join("pack");
            let bytes = noise(from, 1_800_000);
            fs::write(&path, &bytes).unwrap();
            let open = || File::open(&path).unwrap();
            let file = Arc::new(if plain { Mapped::File(open()) } else { Mapped::new(open(), 1_800_000) });
            let mut whole = Vec::new();
            let parts: Vec<Part> = lens.iter().enumerate().map(|(n, len)| {
                let at = n * 150_000;
                whole.extend_from_slice(&bytes[at..at + len]);
                Part { file: Arc::clone(&file), range: at as u64..(at + len) as u64 }
            }).collect();
            let content = Arc::new(Content::new(parts, vec![path]));
            prop_assert_eq!(content.size(), whole.len() as u64);
            let from = from % (whole.len() as u64 + 1);
            let end = (from + len).min(whole.len() as u64);
            let (mut at, mut got) = (from, Vec::new());
            while at < end {
                let slice = content.load(at..end).unwrap();
                prop_assert!(!slice.is_empty());
                let unread = content.unread(at..end);
                prop_assert!(unread.is_none_or(|unread| !plain && unread == slice));
                at += slice.len() as u64;
                got.extend_from_slice(&slice);
            }
            prop_assert!(got == whole[from as usize..end as usize]);
            prop_assert!(content.load(whole.len() as u64..whole.len() as u64 + 1).is_err());
            let mut reader = BlobReader::new(content);
            reader.seek(SeekFrom::End(-((whole.len() as u64 - from) as i64))).unwrap();
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            prop_assert!(rest == whole[from as usize..]);
        }
    }
}
