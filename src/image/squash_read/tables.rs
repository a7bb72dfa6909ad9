//! The tables that inodes refer to by number: owners, fragments, sets of extended attributes.

use super::{
    ReadError, Source,
    block::Stored,
    damaged,
    metadata::{Metadata, Place},
    u32_at, u64_at,
};
use std::io::{Read, Seek};

/// Most rows of a table: a fragment and a set of attributes for each of 4 million files.
const MAX_ROWS: u32 = 1 << 22;
/// A table that isn't there.
pub(super) const NONE: u64 = u64::MAX;

/// What inodes refer to.
#[derive(Debug)]
pub(super) struct Tables {
    pub inodes: u64,
    pub folders: u64,
    /// User and group ids, by the numbers that inodes hold.
    ids: Vec<u32>,
    fragments: Rows,
    /// Where sets of attributes are described, and what their references count from.
    pub xattrs: Rows,
    pub xattr_base: u64,
}

/// Rows of 16 bytes in metadata blocks, whose positions are known.
#[derive(Debug, Default)]
pub(super) struct Rows {
    blocks: Vec<u64>,
    count: u32,
}

impl Rows {
    /// Rows whose blocks' positions lie at `at`.
    fn at<R: Read + Seek>(from: &mut Source<R>, at: u64, count: u32) -> Result<Rows, ReadError> {
        Ok(Rows { blocks: positions(from, at, count, 512)?, count })
    }

    /// Row `n`.
    pub fn row<R: Read + Seek>(
        &self,
        n: u32,
        from: &mut Source<R>,
        metadata: &mut Metadata,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let Some(block) = self.blocks.get(n as usize / 512).filter(|_| n < self.count) else {
            return Ok(None);
        };
        let mut place = Place { block: *block, offset: n as usize % 512 * 16 };
        metadata.take(from, &mut place, 16).map(Some)
    }
}

/// Positions of the metadata blocks of a table of `count` rows, `per_block` of them in each.
fn positions<R: Read + Seek>(
    from: &mut Source<R>,
    at: u64,
    count: u32,
    per_block: u32,
) -> Result<Vec<u64>, ReadError> {
    if count > MAX_ROWS {
        return Err(ReadError::TooMuch { what: "rows in a table", limit: MAX_ROWS.into() });
    }
    let bytes = from.bytes(at, count.div_ceil(per_block) as usize * 8)?;
    Ok(bytes.chunks_exact(8).map(|b| u64_at(b, 0)).collect())
}

impl Tables {
    pub fn read<R: Read + Seek>(
        head: &[u8],
        from: &mut Source<R>,
        metadata: &mut Metadata,
    ) -> Result<Tables, ReadError> {
        let count = super::u16_at(head, 26);
        let mut ids = Vec::new();
        for block in positions(from, u64_at(head, 48), count.into(), 2048)? {
            let rows = (usize::from(count) - ids.len()).min(2048);
            let bytes = metadata.take(from, &mut Place { block, offset: 0 }, rows * 4)?;
            ids.extend(bytes.chunks_exact(4).map(|b| u32_at(b, 0)));
        }
        let fragments = match (u64_at(head, 80), u32_at(head, 16)) {
            (NONE, _) | (_, 0) => Rows::default(),
            (at, count) => Rows::at(from, at, count)?,
        };
        let (xattrs, xattr_base) = match u64_at(head, 56) {
            NONE => (Rows::default(), 0),
            at => {
                let header = from.bytes(at, 16)?;
                (Rows::at(from, at + 16, u32_at(&header, 8))?, u64_at(&header, 0))
            }
        };
        let (inodes, folders) = (u64_at(head, 64), u64_at(head, 72));
        Ok(Tables { inodes, folders, ids, fragments, xattrs, xattr_base })
    }

    /// The user or group with the number `n` in inodes.
    pub fn id(&self, n: u16) -> Result<u32, ReadError> {
        self.ids.get(usize::from(n)).copied().ok_or_else(|| damaged("an owner isn't in its table"))
    }

    /// Where fragment block `n` lies.
    pub fn fragment<R: Read + Seek>(
        &self,
        n: u32,
        from: &mut Source<R>,
        metadata: &mut Metadata,
    ) -> Result<Stored, ReadError> {
        let row = self.fragments.row(n, from, metadata)?;
        let row = row.ok_or_else(|| damaged("a fragment isn't in its table"))?;
        Ok(Stored::new(u64_at(&row, 0), u32_at(&row, 8)))
    }
}
