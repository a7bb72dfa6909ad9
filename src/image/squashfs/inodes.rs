//! The table of inodes and that of folders' entries. An entry says where its inode is, so that what is
//! in a folder comes before the folder itself, and the root last.

use super::{
    data::{BLOCK, Blocks, Stored},
    ids::{Ids, NO_XATTRS, XattrSets},
    table::{At, Table},
    write::WriteError,
};
use crate::image::source::{Kind, Node, Show, Tree};
use std::collections::HashMap;

/// The number of no fragment.
const NO_FRAGMENT: u32 = u32::MAX;
/// What is added to a type for the form of an inode that has room for more.
const EXTENDED: u16 = 7;
/// Entries behind one header in a folder's list.
const RUN: usize = 256;
/// Bytes of a list from one entry of its index to the next, at least: a block of metadata.
const INDEXED: u32 = 8192;
/// A list has three bytes more in its inode than on disk: `.` and `..`.
const DOTS: u32 = 3;

/// An inode before it is written.
pub(super) struct Inode<'a> {
    pub node: &'a Node,
    /// Its first name.
    pub path: &'a [u8],
    /// Names that it has; of a folder, the folders in it and two more.
    links: u32,
    /// Of a folder.
    entries: Vec<Child<'a>>,
    /// Of the folder that it is in.
    parent: usize,
    /// Where it is, once it is written.
    at: Option<At>,
}

struct Child<'a> {
    name: &'a [u8],
    inode: usize,
}

/// A folder's list of entries, written.
#[derive(Default)]
struct List {
    at: At,
    /// Bytes, as the inode says.
    size: u32,
    /// Names in it and where they are, so that a name in a long list is found without reading all.
    index: Vec<u8>,
    indexes: u16,
}

/// Every inode in the order of the tree, the root first: its number is one more than its index.
pub(super) fn collect(tree: &Tree) -> Vec<Inode<'_>> {
    let mut inodes: Vec<Inode<'_>> = Vec::new();
    let mut by_path: HashMap<&[u8], usize> = HashMap::new();
    for entry in tree.walk() {
        let cut = entry.path.iter().rposition(|b| *b == b'/');
        let (dir, name) = match cut {
            Some(at) => {
                (entry.path.get(..at).unwrap_or_default(), entry.path.get(at + 1..).unwrap_or_default())
            }
            None => (&b""[..], entry.path),
        };
        // The root is its own parent: it comes first.
        let parent = by_path.get(dir).copied().unwrap_or(0);
        let known = entry.link_to.and_then(|first| by_path.get(first)).copied();
        let index = known.unwrap_or(inodes.len());
        match known.and_then(|known| inodes.get_mut(known)) {
            Some(inode) => inode.links += 1,
            None => {
                let links = if entry.node.is_dir() { 2 } else { 1 };
                let (node, path, entries) = (entry.node, entry.path, Vec::new());
                inodes.push(Inode { node, path, links, entries, parent, at: None });
                by_path.insert(entry.path, index);
            }
        }
        if let (false, Some(dir)) = (entry.path.is_empty(), inodes.get_mut(parent)) {
            dir.entries.push(Child { name, inode: index });
            dir.links += u32::from(entry.node.is_dir());
        }
    }
    inodes
}

/// Writes both tables.
pub(super) struct Inodes<'a> {
    inodes: Vec<Inode<'a>>,
    stored: &'a [Stored],
    times: &'a dyn Fn(i64) -> u32,
    ids: &'a mut Ids,
    xattrs: &'a mut XattrSets,
    table: Table,
    lists: Table,
}

/// Both tables, and where in the first one the root is.
pub(super) struct Tables {
    pub inodes: Vec<u8>,
    pub lists: Vec<u8>,
    pub root: At,
}

impl<'a> Inodes<'a> {
    /// `stored` says where contents are, by index; `times` what of a time is written.
    pub fn new(
        inodes: Vec<Inode<'a>>,
        stored: &'a [Stored],
        times: &'a dyn Fn(i64) -> u32,
        ids: &'a mut Ids,
        xattrs: &'a mut XattrSets,
    ) -> Result<Inodes<'a>, WriteError> {
        let (table, lists) = (Table::new()?, Table::new()?);
        Ok(Inodes { inodes, stored, times, ids, xattrs, table, lists })
    }

    pub fn write(mut self) -> Result<Tables, WriteError> {
        self.folder(0)?;
        let root = self.inodes.first().and_then(|root| root.at).unwrap_or_default();
        Ok(Tables { inodes: self.table.finish()?.0, lists: self.lists.finish()?.0, root })
    }

    /// A folder and all in it. Names lie at most as deep as a source's bounds allow.
    fn folder(&mut self, index: usize) -> Result<(), WriteError> {
        let Some(inode) = self.inodes.get_mut(index) else { return Ok(()) };
        let entries = std::mem::take(&mut inode.entries);
        for child in &entries {
            match self.inodes.get(child.inode) {
                Some(inode) if inode.node.is_dir() => self.folder(child.inode)?,
                // Another name of it was there before.
                Some(inode) if inode.at.is_some() => {}
                _ => self.inode(child.inode, None)?,
            }
        }
        let list = self.list(&entries)?;
        self.inode(index, Some(list))
    }

    /// The list of a folder's entries.
    fn list(&mut self, entries: &[Child<'a>]) -> Result<List, WriteError> {
        let at = self.lists.at()?;
        let (mut size, mut rest) = (0, entries);
        let (mut index, mut indexes, mut indexed) = (Vec::new(), 0, 0);
        while let Some(first) = rest.first() {
            let (block, base) = (self.place(first).block, first.inode as i64);
            let fits = |child: &&Child<'_>| {
                self.place(child).block == block && i16::try_from(child.inode as i64 - base).is_ok()
            };
            let run = rest.iter().take(RUN).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(run);
            rest = later;
            if size - indexed >= INDEXED {
                let place = [size, self.lists.at()?.block, first.name.len().saturating_sub(1) as u32];
                place.iter().for_each(|n| index.extend(n.to_le_bytes()));
                index.extend(first.name);
                indexes += 1;
                indexed = size;
            }
            let mut out = Vec::new();
            out.extend((run as u32 - 1).to_le_bytes());
            out.extend(block.to_le_bytes());
            out.extend((base as u32 + 1).to_le_bytes());
            for child in now {
                let Some(inode) = self.inodes.get(child.inode) else { continue };
                out.extend(self.place(child).offset.to_le_bytes());
                out.extend(((child.inode as i64 - base) as i16).to_le_bytes());
                out.extend(kind(inode.node).to_le_bytes());
                // A name has 1 to 255 bytes.
                out.extend((child.name.len().saturating_sub(1) as u16).to_le_bytes());
                out.extend(child.name);
            }
            self.lists.put(&out)?;
            size += out.len() as u32;
        }
        Ok(List { at, size: size + DOTS, index, indexes })
    }

    /// Where the inode of an entry is: it was written before.
    fn place(&self, child: &Child<'_>) -> At {
        self.inodes.get(child.inode).and_then(|inode| inode.at).unwrap_or_default()
    }

    /// One inode; `list` is of a folder's entries.
    fn inode(&mut self, index: usize, list: Option<List>) -> Result<(), WriteError> {
        let at = self.table.at()?;
        let Some(inode) = self.inodes.get_mut(index) else { return Ok(()) };
        inode.at = Some(at);
        let (node, links, parent) = (inode.node, inode.links, inode.parent);
        let xattrs = self.xattrs.number(&node.meta.xattrs)?;
        let body = match &node.kind {
            Kind::Dir => {
                // The root's parent is a number that no inode has.
                let above = if index == 0 { self.inodes.len() } else { parent } as u32 + 1;
                folder(links, list.unwrap_or_default(), above, xattrs)
            }
            Kind::File { size, .. } => file(*size, links, self.contents(index), xattrs),
            Kind::Symlink(target) => {
                let words = [links.to_le_bytes(), (target.len() as u32).to_le_bytes()].concat();
                with_xattrs([words, target.clone()].concat(), xattrs)
            }
            Kind::Char(major, minor) | Kind::Block(major, minor) => {
                let (path, major, minor) = (Show(inode.path).to_string(), *major, *minor);
                let number = device(major, minor).ok_or(WriteError::Device { path, major, minor })?;
                with_xattrs([links.to_le_bytes(), number.to_le_bytes()].concat(), xattrs)
            }
            Kind::Fifo => with_xattrs(links.to_le_bytes().to_vec(), xattrs),
        };
        let kind = if body.extended { kind(node) + EXTENDED } else { kind(node) };
        let mut head = Vec::new();
        head.extend(kind.to_le_bytes());
        head.extend((node.meta.mode as u16).to_le_bytes());
        head.extend(self.ids.number(node.meta.uid)?.to_le_bytes());
        head.extend(self.ids.number(node.meta.gid)?.to_le_bytes());
        head.extend((self.times)(node.meta.mtime).to_le_bytes());
        head.extend((index as u32 + 1).to_le_bytes());
        self.table.put(&head)?;
        self.table.put(&body.bytes)?;
        Ok(())
    }

    fn contents(&self, index: usize) -> &'a Stored {
        match self.stored.get(index) {
            Some(Stored::Same(first)) => self.stored.get(*first).unwrap_or(&Stored::Nothing),
            Some(stored) => stored,
            None => &Stored::Nothing,
        }
    }
}

/// What follows an inode's head.
struct Body {
    bytes: Vec<u8>,
    extended: bool,
}

/// The number of the number of attributes stands last in all forms but a file's and a folder's.
fn with_xattrs(mut bytes: Vec<u8>, xattrs: u32) -> Body {
    let extended = xattrs != NO_XATTRS;
    if extended {
        bytes.extend(xattrs.to_le_bytes());
    }
    Body { bytes, extended }
}

fn folder(links: u32, list: List, parent: u32, xattrs: u32) -> Body {
    let mut bytes = Vec::new();
    match u16::try_from(list.size) {
        Ok(short) if xattrs == NO_XATTRS && list.indexes == 0 => {
            bytes.extend(list.at.block.to_le_bytes());
            bytes.extend(links.to_le_bytes());
            bytes.extend(short.to_le_bytes());
            bytes.extend(list.at.offset.to_le_bytes());
            bytes.extend(parent.to_le_bytes());
            Body { bytes, extended: false }
        }
        _ => {
            [links, list.size, list.at.block, parent].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            bytes.extend(list.indexes.to_le_bytes());
            bytes.extend(list.at.offset.to_le_bytes());
            bytes.extend(xattrs.to_le_bytes());
            bytes.extend(list.index);
            Body { bytes, extended: true }
        }
    }
}

fn file(size: u64, links: u32, stored: &Stored, xattrs: u32) -> Body {
    let none = Blocks::default();
    let (blocks, fragment, offset) = match stored {
        Stored::Blocks(blocks) => (blocks, NO_FRAGMENT, 0),
        Stored::Fragment { index, offset } => (&none, *index, *offset),
        Stored::Nothing | Stored::Same(_) => (&none, NO_FRAGMENT, 0),
    };
    let start = blocks.start.unwrap_or(0);
    let mut bytes = Vec::new();
    let short = (u32::try_from(start), u32::try_from(size));
    let extended = match short {
        (Ok(start), Ok(size)) if links == 1 && blocks.sparse == 0 && xattrs == NO_XATTRS => {
            [start, fragment, offset, size].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            false
        }
        _ => {
            [start, size, blocks.sparse].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            [links, fragment, offset, xattrs].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            true
        }
    };
    debug_assert!(
        matches!(stored, Stored::Fragment { .. }) || blocks.sizes.len() as u64 == size.div_ceil(BLOCK as u64)
    );
    blocks.sizes.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    Body { bytes, extended }
}

/// The numbers of types, as in a folder's entries.
fn kind(node: &Node) -> u16 {
    match node.kind {
        Kind::Dir => 1,
        Kind::File { .. } => 2,
        Kind::Symlink(_) => 3,
        Kind::Block(..) => 4,
        Kind::Char(..) => 5,
        Kind::Fifo => 6,
    }
}

/// As the kernel keeps device numbers in 32 bits: 12 of the major, 20 of the minor.
fn device(major: u32, minor: u32) -> Option<u32> {
    let fits = major < 1 << 12 && minor < 1 << 20;
    fits.then_some((minor & 0xff) | major << 8 | (minor & !0xff) << 12)
}
