//! Data blocks: unpacked within bounds, the last few fragment blocks kept.

use super::{ReadError, Source, damaged};
use crate::image::squashfs::Compressor;
use std::{
    collections::VecDeque,
    io::{Read, Seek},
    rc::Rc,
};

/// Fragment blocks kept unpacked; each has at most 1 MiB.
const KEPT: usize = 16;
/// Memory that unpacking an xz block may take: its dictionary is the block's size.
const XZ_MEMORY: u64 = 64 << 20;
/// In a stored length: the block is not packed.
const PLAIN: u32 = 1 << 24;

/// The bytes of `packed`, at most `max` of them.
pub(super) fn unpack(packed: &[u8], with: Compressor, max: usize) -> Result<Vec<u8>, ReadError> {
    // A byte more, so that what is just full can end, and what is too long shows.
    let mut out = Vec::with_capacity(max.saturating_add(1));
    let whole = match with {
        Compressor::Gzip => {
            let mut zlib = flate2::Decompress::new(true);
            let end = zlib.decompress_vec(packed, &mut out, flate2::FlushDecompress::Finish);
            matches!(end, Ok(flate2::Status::StreamEnd))
        }
        Compressor::Xz => liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)
            .and_then(|mut xz| xz.process_vec(packed, &mut out, liblzma::stream::Action::Finish))
            .is_ok_and(|end| matches!(end, liblzma::stream::Status::StreamEnd)),
        Compressor::Zstd => zstd::bulk::Decompressor::new()?.decompress_to_buffer(packed, &mut out).is_ok(),
        other @ (Compressor::Lz4 | Compressor::Lzo) => return Err(ReadError::Compressor(other)),
    };
    if whole && out.len() <= max {
        Ok(out)
    } else {
        Err(damaged("a block can't be unpacked, or not within its size"))
    }
}

/// A data block as its stored length tells: `None` for one that is all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub at: u64,
    pub len: u32,
    pub plain: bool,
}

impl Stored {
    /// A block of the length `word` at `at`.
    pub fn new(at: u64, word: u32) -> Stored {
        Stored { at, len: word & (PLAIN - 1), plain: word & PLAIN != 0 }
    }

    pub fn is_sparse(self) -> bool {
        self.len == 0
    }
}

impl<R: Read + Seek> Source<R> {
    /// The bytes of a block as they are stored.
    pub(super) fn stored(&mut self, block: Stored) -> Result<Vec<u8>, ReadError> {
        if block.len > self.block_size {
            return Err(damaged("a block is longer than blocks may be"));
        }
        self.bytes(block.at, block.len as usize)
    }

    /// The bytes of a block, unpacked: at most a block's size.
    pub(super) fn unpacked(&mut self, block: Stored) -> Result<Vec<u8>, ReadError> {
        let stored = self.stored(block)?;
        if block.plain {
            return Ok(stored);
        }
        unpack(&stored, self.compressor, self.block_size as usize)
    }
}

/// The fragment blocks that were read last, unpacked.
#[derive(Debug, Default)]
pub(super) struct Blocks(VecDeque<(u64, Rc<Vec<u8>>)>);

impl Blocks {
    pub fn unpacked<R: Read + Seek>(
        &mut self,
        from: &mut Source<R>,
        block: Stored,
    ) -> Result<Rc<Vec<u8>>, ReadError> {
        if let Some((_, known)) = self.0.iter().find(|(at, _)| *at == block.at) {
            return Ok(Rc::clone(known));
        }
        let bytes = Rc::new(from.unpacked(block)?);
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back((block.at, Rc::clone(&bytes)));
        Ok(bytes)
    }
}
