//! Extended attributes: sets, shared between inodes; a value may lie with the set that had it first.

use super::{Node, ReadError, Squashfs, damaged, metadata::Place, u16_at, u32_at, u64_at};
use std::io::{Read, Seek};

/// Most attributes of one inode.
const MAX_ATTRIBUTES: u32 = 4096;
/// Longest value (`XATTR_SIZE_MAX`).
const MAX_VALUE: u32 = 1 << 16;
/// Most bytes of the attributes of one inode.
const MAX_BYTES: usize = 1 << 20;
/// In an attribute's kind: the value is a reference to another one's.
const ELSEWHERE: u16 = 0x100;

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// As in `security.capability`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

impl<R: Read + Seek> Squashfs<R> {
    /// The extended attributes of `node`, by name.
    pub fn xattrs(&mut self, node: &Node) -> Result<Vec<Xattr>, ReadError> {
        let Some(n) = node.xattrs else { return Ok(Vec::new()) };
        let row = self.tables.xattrs.row(n, &mut self.from, &mut self.metadata)?;
        let row = row.ok_or_else(|| damaged("a set of attributes isn't in its table"))?;
        let base = self.tables.xattr_base;
        let mut place = Place::of_reference(base, u64_at(&row, 0))?;
        let count = u32_at(&row, 8);
        if count > MAX_ATTRIBUTES {
            return Err(damaged("an inode has more attributes than there can be"));
        }
        let (mut out, mut bytes) = (Vec::new(), 0);
        for _ in 0..count {
            let mut take = |place: &mut Place, len| self.metadata.take(&mut self.from, place, len);
            let head = take(&mut place, 4)?;
            let prefix: &[u8] = match u16_at(&head, 0) & !ELSEWHERE {
                0 => b"user.",
                1 => b"trusted.",
                2 => b"security.",
                _ => return Err(damaged("an attribute is of no known kind")),
            };
            let name = [prefix, &take(&mut place, u16_at(&head, 2).into())?].concat();
            let mut len = u32_at(&take(&mut place, 4)?, 0);
            let mut value_at = place;
            if u16_at(&head, 0) & ELSEWHERE != 0 {
                value_at = Place::of_reference(base, u64_at(&take(&mut place, 8)?, 0))?;
                len = u32_at(&take(&mut value_at, 4)?, 0);
            }
            bytes += name.len() + len as usize;
            if len > MAX_VALUE || bytes > MAX_BYTES {
                return Err(damaged("an attribute is longer than it can be"));
            }
            let value = take(&mut value_at, len as usize)?;
            if u16_at(&head, 0) & ELSEWHERE == 0 {
                place = value_at;
            }
            out.push(Xattr { name, value });
        }
        out.sort();
        Ok(out)
    }
}
