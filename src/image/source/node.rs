//! What a name in a root stands for.

use super::content::Content;
use std::collections::BTreeMap;

/// Extended attributes, by name (`security.capability`).
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// True for attributes that an image holds: squashfs knows these three kinds, and what overlayfs keeps
/// for itself would hide files on a machine, whose root is the lower layer of one.
pub(super) fn keeps(xattr: &[u8]) -> bool {
    let kinds: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    kinds.iter().any(|kind| xattr.starts_with(kind)) && !xattr.starts_with(b"trusted.overlay.")
}

/// Owner, permissions and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the contents, in seconds since 1970.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl Meta {
    /// Root's, with this mode, of 1970, without attributes.
    pub fn root(mode: u32) -> Meta {
        Meta { mode: mode & 0o7777, uid: 0, gid: 0, mtime: 0, xattrs: Xattrs::new() }
    }
}

/// What kind of thing it is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A file.
    File {
        /// Its length in bytes, holes counted.
        size: u64,
        /// Where they are.
        content: Content,
    },
    /// A folder.
    Dir,
    /// A symbolic link to this target, as it is written.
    Symlink(Vec<u8>),
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

impl Kind {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Kind::File { .. } => "file",
            Kind::Dir => "folder",
            Kind::Symlink(_) => "symbolic link",
            Kind::Char(..) => "character device",
            Kind::Block(..) => "block device",
            Kind::Fifo => "named pipe",
        }
    }
}

/// One inode: several names may stand for it (hard links).
#[derive(Clone, Debug)]
pub struct Node {
    /// Owner, permissions and the like.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
}

impl Node {
    /// A folder of root's, mode 0755: what is made where an archive names only what is in it.
    pub fn implied_dir() -> Node {
        Node { meta: Meta::root(0o755), kind: Kind::Dir }
    }

    /// True for a folder.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Dir)
    }

    /// True for a file.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File { .. })
    }

    /// Bytes of a file; 0 for all else.
    pub fn size(&self) -> u64 {
        match self.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        }
    }
}
