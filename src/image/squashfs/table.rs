//! Metadata: records one after another, cut into blocks of 8 KiB, each compressed behind a length of
//! two bytes. A record is found by the place of its block and its offset in that, unpacked.

use super::block::Compressor;
use std::io;

/// Bytes of a metadata block, unpacked.
const BLOCK: usize = 8192;
/// In the length of a block: it is not compressed.
const PLAIN: u16 = 1 << 15;

/// Where a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct At {
    /// Of the block, from the start of the table.
    pub block: u32,
    /// In the block, unpacked.
    pub offset: u16,
}

impl At {
    /// As inode references and the like are written.
    pub fn packed(self) -> u64 {
        u64::from(self.block) << 16 | u64::from(self.offset)
    }
}

/// A table that is being written.
pub(super) struct Table {
    compressor: Compressor,
    stored: Vec<u8>,
    /// Where each block begins.
    starts: Vec<u64>,
    pending: Vec<u8>,
}

impl Table {
    pub fn new() -> io::Result<Table> {
        let compressor = Compressor::new()?;
        Ok(Table { compressor, stored: Vec::new(), starts: Vec::new(), pending: Vec::new() })
    }

    /// Where the next record will be.
    pub fn at(&self) -> io::Result<At> {
        let block = u32::try_from(self.stored.len());
        let block = block.map_err(|_| io::Error::other("a table of it has 4 GiB or more"))?;
        Ok(At { block, offset: self.pending.len() as u16 })
    }

    pub fn put(&mut self, record: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(record);
        while self.pending.len() >= BLOCK {
            let rest = self.pending.split_off(BLOCK);
            self.flush()?;
            self.pending = rest;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let packed = self.compressor.pack(std::mem::take(&mut self.pending))?;
        self.starts.push(self.stored.len() as u64);
        let len = packed.bytes.len() as u16;
        let head = if packed.compressed { len } else { len | PLAIN };
        self.stored.extend_from_slice(&head.to_le_bytes());
        self.stored.extend_from_slice(&packed.bytes);
        Ok(())
    }

    /// The table as it is stored, and where in it each block begins.
    pub fn finish(mut self) -> io::Result<(Vec<u8>, Vec<u64>)> {
        if !self.pending.is_empty() {
            self.flush()?;
        }
        Ok((self.stored, self.starts))
    }

    /// The table to be put at `position`, with the list of its blocks' places behind it, and the place
    /// of that list.
    pub fn finish_indexed(self, position: u64) -> io::Result<(Vec<u8>, u64)> {
        let (mut bytes, starts) = self.finish()?;
        let index = position + bytes.len() as u64;
        bytes.extend(starts.iter().flat_map(|start| (position + start).to_le_bytes()));
        Ok((bytes, index))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn blocks_are_cut_at_8_kib_and_found_again() {
        let mut t = Table::new().unwrap();
        assert_eq!(t.at().unwrap().packed(), 0);
        t.put(&[7; BLOCK - 1]).unwrap();
        assert_eq!(t.at().unwrap(), At { block: 0, offset: 8191 });
        t.put(&[1, 2, 3]).unwrap();
        let at = t.at().unwrap();
        assert!(at.block > 2 && at.offset == 2, "{at:?}");
        let (bytes, starts) = t.finish().unwrap();
        assert_eq!(starts, [0, u64::from(at.block)]);
        // Two bytes can't be made smaller.
        assert!(bytes.ends_with(&[2, 0x80, 2, 3]));
    }
}
