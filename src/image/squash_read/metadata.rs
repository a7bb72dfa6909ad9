//! Metadata: a stream of blocks of at most 8 KiB once unpacked, named by the block's position and an
//! offset within it.

use super::{ReadError, Source, block::unpack, damaged};
use std::{
    collections::HashMap,
    io::{Read, Seek},
    rc::Rc,
};

/// Bytes of a metadata block once unpacked.
const BLOCK: usize = 8192;
/// Blocks kept unpacked: 32 MiB. Past it the cache starts anew.
const KEPT: usize = 4096;
/// In a block's header: it is not packed.
const PLAIN: u16 = 1 << 15;

/// A place in the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where its block begins in the image.
    pub block: u64,
    /// Bytes into the unpacked block.
    pub offset: usize,
}

impl Place {
    /// A reference as inodes and folders hold it, into the table at `table`.
    pub fn new(table: u64, block: u64, offset: u16) -> Result<Place, ReadError> {
        let block = table.checked_add(block).ok_or_else(|| damaged("a reference leads nowhere"))?;
        Ok(Place { block, offset: usize::from(offset) })
    }

    /// A reference in one number: the block's place in its table, 16 bits of offset.
    pub fn of_reference(table: u64, reference: u64) -> Result<Place, ReadError> {
        let [low, high, ..] = reference.to_le_bytes();
        Place::new(table, reference >> 16, u16::from_le_bytes([low, high]))
    }
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    next: u64,
}

/// Metadata blocks, unpacked when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Metadata(HashMap<u64, Rc<Block>>);

impl Metadata {
    fn block<R: Read + Seek>(&mut self, from: &mut Source<R>, at: u64) -> Result<Rc<Block>, ReadError> {
        if let Some(known) = self.0.get(&at) {
            return Ok(Rc::clone(known));
        }
        let header = super::u16_at(&from.bytes(at, 2)?, 0);
        let len = usize::from(header & !PLAIN);
        if len == 0 || len > BLOCK {
            return Err(damaged("a metadata block has an impossible length"));
        }
        let stored = from.bytes(at + 2, len)?;
        let bytes = if header & PLAIN != 0 { stored } else { unpack(&stored, from.compressor, BLOCK)? };
        let block = Rc::new(Block { bytes, next: at + 2 + len as u64 });
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0.insert(at, Rc::clone(&block));
        Ok(block)
    }

    /// The next `len` bytes from `place` on, which moves behind them. The caller bounds `len`.
    pub fn take<R: Read + Seek>(
        &mut self,
        from: &mut Source<R>,
        place: &mut Place,
        len: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let mut out = Vec::new();
        loop {
            let block = self.block(from, place.block)?;
            let rest = block
                .bytes
                .get(place.offset..)
                .ok_or_else(|| damaged("a reference leads behind its metadata block"))?;
            let part = rest.get(..len - out.len()).unwrap_or(rest);
            out.extend_from_slice(part);
            place.offset += part.len();
            if out.len() == len {
                return Ok(out);
            }
            if block.bytes.is_empty() {
                return Err(damaged("a metadata block is empty"));
            }
            *place = Place { block: block.next, offset: 0 };
        }
    }
}
