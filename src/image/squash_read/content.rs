//! The contents of files.

use super::{File, ReadError, Squashfs, block::Stored, damaged, metadata::Place, u32_at};
use std::io::{Read, Seek};

/// The parts of a file, in order: whole blocks, then its end, which may lie in a fragment.
#[derive(Debug)]
pub(super) struct Parts {
    file: File,
    /// Where the length of the next block is listed.
    lengths: Place,
    /// Where the next block is stored.
    at: u64,
    /// Bytes of the file that come before the next part.
    pub done: u64,
}

/// A part of a file, by where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A block of its own.
    Block(Stored),
    /// Bytes of a fragment block, from `offset` on.
    Fragment { index: u32, offset: u32 },
}

impl Parts {
    pub fn of(file: &File) -> Parts {
        Parts { file: *file, lengths: file.lengths, at: file.start, done: 0 }
    }

    /// The next part and how many bytes of the file it stands for; `None` at the end.
    pub fn next<R: Read + Seek>(&mut self, sq: &mut Squashfs<R>) -> Result<Option<(Part, usize)>, ReadError> {
        let block_size = u64::from(sq.from.block_size);
        let len = (self.file.size - self.done).min(block_size);
        if len == 0 {
            return Ok(None);
        }
        self.done += len;
        let part = match self.file.fragment {
            Some((index, offset)) if len < block_size => Part::Fragment { index, offset },
            _ => {
                let word = u32_at(&sq.metadata.take(&mut sq.from, &mut self.lengths, 4)?, 0);
                let stored = Stored::new(self.at, word);
                self.at =
                    self.at.checked_add(stored.len.into()).ok_or_else(|| damaged("a block lies nowhere"))?;
                Part::Block(stored)
            }
        };
        Ok(Some((part, len as usize)))
    }
}

impl<R: Read + Seek> Squashfs<R> {
    /// The `len` bytes of a part.
    pub(super) fn part(&mut self, part: Part, len: usize) -> Result<Vec<u8>, ReadError> {
        let wrong = || damaged("a block doesn't hold what its file says");
        match part {
            Part::Block(stored) if stored.is_sparse() => Ok(vec![0; len]),
            Part::Block(stored) => {
                let bytes = self.from.unpacked(stored)?;
                if bytes.len() == len { Ok(bytes) } else { Err(wrong()) }
            }
            Part::Fragment { index, offset } => {
                let stored = self.tables.fragment(index, &mut self.from, &mut self.metadata)?;
                let block = self.blocks.unpacked(&mut self.from, stored)?;
                let bytes = block.get(offset as usize..).and_then(|rest| rest.get(..len));
                bytes.map(<[u8]>::to_vec).ok_or_else(wrong)
            }
        }
    }

    /// All of a file.
    ///
    /// # Errors
    /// It has more than `limit` bytes.
    pub fn read(&mut self, file: &File, limit: u64) -> Result<Vec<u8>, ReadError> {
        if file.size > limit {
            return Err(ReadError::TooMuch { what: "bytes in a file that is read whole", limit });
        }
        let (mut parts, mut out) = (Parts::of(file), Vec::new());
        while let Some((part, len)) = parts.next(self)? {
            out.extend(self.part(part, len)?);
        }
        Ok(out)
    }
}
