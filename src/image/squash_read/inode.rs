//! Inodes, the seven kinds in their basic and their extended form.

use super::{ReadError, Squashfs, damaged, metadata::Place, u16_at, u32_at, u64_at};
use std::io::{Read, Seek};

/// A number that stands for none: no fragment, no extended attributes.
const NONE: u32 = u32::MAX;
/// Longest target of a symbolic link (`PATH_MAX`).
const MAX_TARGET: u32 = 4096;
/// Largest file, in bytes: 1 TiB.
const MAX_FILE: u64 = 1 << 40;

/// A file, folder or other thing, without its name.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permissions, with set-user-id and the like.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links have the same number.
    pub number: u32,
    /// Which set of extended attributes it has.
    pub(super) xattrs: Option<u32>,
}

/// Kinds of nodes.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A folder.
    Folder(Folder),
    /// A plain file.
    File(File),
    /// A symbolic link, with its target.
    Link(Vec<u8>),
    /// A block device, with its number as the kernel encodes it.
    BlockDevice(u32),
    /// A character device, with its number.
    CharDevice(u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Where the names in a folder are.
#[derive(Clone, Copy, Debug)]
pub struct Folder {
    pub(super) at: Place,
    /// Bytes of its listing.
    pub(super) size: u32,
}

/// Where the bytes of a file are.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Bytes.
    pub size: u64,
    /// Where its first block is stored.
    pub(super) start: u64,
    /// Where the lengths of its blocks are listed.
    pub(super) lengths: Place,
    /// The fragment block that holds its end, and from which byte on.
    pub(super) fragment: Option<(u32, u32)>,
}

impl<R: Read + Seek> Squashfs<R> {
    /// The inode that `reference` leads to.
    pub(super) fn node(&mut self, reference: u64) -> Result<Node, ReadError> {
        let mut place = Place::of_reference(self.tables.inodes, reference)?;
        let mut take = |len| self.metadata.take(&mut self.from, &mut place, len);
        let head = take(16)?;
        let kind = u16_at(&head, 0);
        let (mut xattrs, mut file) = (None, None);
        let kind = match kind {
            1 => {
                let b = take(16)?;
                folder(self.tables.folders, u32_at(&b, 0), u16_at(&b, 10), u16_at(&b, 8).into())?
            }
            8 => {
                let b = take(24)?;
                xattrs = some(u32_at(&b, 20));
                folder(self.tables.folders, u32_at(&b, 8), u16_at(&b, 18), u32_at(&b, 4))?
            }
            2 => {
                let b = take(16)?;
                let fragment = some(u32_at(&b, 4)).map(|n| (n, u32_at(&b, 8)));
                file = Some((u32_at(&b, 12).into(), u32_at(&b, 0).into(), fragment));
                Kind::Fifo
            }
            9 => {
                let b = take(40)?;
                xattrs = some(u32_at(&b, 36));
                let fragment = some(u32_at(&b, 28)).map(|n| (n, u32_at(&b, 32)));
                file = Some((u64_at(&b, 8), u64_at(&b, 0), fragment));
                Kind::Fifo
            }
            3 | 10 => {
                let len = u32_at(&take(8)?, 4);
                if len > MAX_TARGET {
                    return Err(damaged("the target of a symbolic link is too long"));
                }
                let target = take(len as usize)?;
                if kind == 10 {
                    xattrs = some(u32_at(&take(4)?, 0));
                }
                Kind::Link(target)
            }
            4 | 5 | 11 | 12 => {
                let device = u32_at(&take(8)?, 4);
                if kind > 7 {
                    xattrs = some(u32_at(&take(4)?, 0));
                }
                if matches!(kind, 4 | 11) { Kind::BlockDevice(device) } else { Kind::CharDevice(device) }
            }
            6 | 7 | 13 | 14 => {
                take(4)?;
                if kind > 7 {
                    xattrs = some(u32_at(&take(4)?, 0));
                }
                if matches!(kind, 6 | 13) { Kind::Fifo } else { Kind::Socket }
            }
            _ => return Err(damaged("an inode is of no known kind")),
        };
        let kind = match file {
            Some((size, _, _)) if size > MAX_FILE => {
                return Err(ReadError::TooMuch { what: "bytes in one file", limit: MAX_FILE });
            }
            Some((size, start, fragment)) => Kind::File(File { size, start, lengths: place, fragment }),
            None => kind,
        };
        Ok(Node {
            kind,
            mode: u16_at(&head, 2) & 0o7777,
            uid: self.tables.id(u16_at(&head, 4))?,
            gid: self.tables.id(u16_at(&head, 6))?,
            number: u32_at(&head, 12),
            xattrs,
        })
    }
}

fn some(n: u32) -> Option<u32> {
    (n != NONE).then_some(n)
}

/// A folder's stated size counts `.` and `..` as 3 bytes, which its listing doesn't have.
fn folder(table: u64, block: u32, offset: u16, size: u32) -> Result<Kind, ReadError> {
    let at = Place::new(table, block.into(), offset)?;
    Ok(Kind::Folder(Folder { at, size: size.saturating_sub(3) }))
}
