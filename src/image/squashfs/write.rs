//! Writes a tree as a squashfs 4.0 (kernel `Documentation/filesystems/squashfs.rst`, `fs/squashfs/squashfs_fs.h`):
//! zstd, blocks of 128 KiB, and nothing of this machine in it. The same tree gives the same bytes on
//! every machine, with any number of cores. Owners, modes, times, attributes, hard links and devices
//! are those of the tree, so that nobody needs to be root.
//!
//! ```text
//! superblock │ contents, fragments │ inodes │ folders' entries │ fragments' places │ owners │ attributes
//!              data.rs, pool.rs      inodes.rs                   write.rs            ids.rs
//! ```
//!
//! Left out is the table for NFS export, for which a machine's root has no use.

#[cfg(test)]
mod tests;

use super::{
    block::LEVEL,
    data::{BLOCK, Data},
    ids::{Ids, XattrSets},
    inodes::{self, Inodes},
    pool::{self, Pool},
    table::Table,
};
use crate::image::{
    progress::Progress,
    source::{Kind, Tree},
};
use std::{
    collections::HashMap,
    io::{self, Seek, SeekFrom, Write},
    num::NonZero,
    thread,
};

/// What a loop device and dm-verity take: the end is padded to a whole one.
const PAD: u64 = 4096;
/// zstd, in a superblock.
const ZSTD: u16 = 6;
/// Flags: contents that are the same are stored once; there are no attributes; options of the compressor follow.
const DUPLICATES: u16 = 0x40;
const NO_XATTRS: u16 = 0x200;
const OPTIONS: u16 = 0x400;
/// The place of a table that isn't there.
const ABSENT: u64 = u64::MAX;

/// How to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// No later time is written: seconds since 1970.
    pub clamp_mtime: Option<i64>,
    /// Threads that compress; one a core where it is `None`. Makes no difference to the bytes.
    pub threads: Option<NonZero<usize>>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file, a multiple of 4,096.
    pub bytes: u64,
    /// Inodes in it.
    pub inodes: u32,
}

/// Why a squashfs wasn't written to its end.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file of the tree can't be read.
    #[error("can't read `{path}` of the root: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The squashfs can't be written.
    #[error("can't write the root file system: {0}")]
    Write(#[from] io::Error),
    /// Too many owners.
    #[error(
        "it has more than {0} owners and groups, which is what a squashfs holds: give files fewer owners"
    )]
    Ids(usize),
    /// An attribute of a kind that a squashfs doesn't hold.
    #[error(
        "the extended attribute `{0}` is none of user., trusted. and security., which are what a squashfs holds"
    )]
    Xattr(String),
    /// A device whose number no kernel has.
    #[error(
        "`{path}` is device {major}:{minor}, and numbers end at 4095:1048575: leave it out with --devices skip"
    )]
    Device {
        /// Which.
        path: String,
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
}

/// The end of what is written, and its position.
pub(super) struct Place<W> {
    out: W,
    at: u64,
}

impl<W: Write> Place<W> {
    pub fn at(&self) -> u64 {
        self.at
    }

    pub fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Writes `tree` to `out`, which is empty. Memory grows with the number of names, not with what is in them.
pub fn write(
    tree: &Tree,
    out: impl Write + Seek,
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<Written, WriteError> {
    let mut out = Place { out, at: 0 };
    out.put(&[0; super::SUPERBLOCK])?;
    // The compressor's options: a metadata block that isn't compressed.
    out.put(&[4, 0x80])?;
    out.put(&LEVEL.to_le_bytes())?;

    let inodes = inodes::collect(tree);
    let count = inodes.len() as u32;
    let clamped = |time: i64| options.clamp_mtime.map_or(time, |clamp| time.min(clamp));
    let times = |time: i64| u32::try_from(clamped(time).max(0)).unwrap_or(u32::MAX);
    let newest = inodes.iter().map(|inode| times(inode.node.meta.mtime)).max().unwrap_or(0);

    let mut sizes: HashMap<u64, u32> = HashMap::new();
    inodes.iter().for_each(|inode| *sizes.entry(inode.node.size()).or_default() += 1);
    let step = progress.begin("root file system", tree.content_bytes());
    let written = thread::scope(|scope| {
        let pool = Pool::start(scope, options.threads.unwrap_or_else(pool::cores));
        let mut data = Data::new(&mut out, pool, &*step, inodes.len());
        for (index, inode) in inodes.iter().enumerate() {
            if let Kind::File { size, content } = &inode.node.kind {
                let has_twin = sizes.get(size).is_some_and(|files| *files > 1);
                data.add(index, inode.path, has_twin, &|| content.open(*size))?;
            }
        }
        data.finish()
    })?;

    let (mut ids, mut xattrs) = (Ids::default(), XattrSets::new()?);
    let tables = Inodes::new(inodes, &written.stored, &times, &mut ids, &mut xattrs)?.write()?;
    let inode_table = out.at();
    out.put(&tables.inodes)?;
    let list_table = out.at();
    out.put(&tables.lists)?;
    let fragment_table = put_fragments(&mut out, &written.fragments)?;
    let (bytes, id_table) = ids.table(out.at())?;
    out.put(&bytes)?;
    let flags = DUPLICATES | OPTIONS | if xattrs.is_empty() { NO_XATTRS } else { 0 };
    let xattr_table = if xattrs.is_empty() {
        ABSENT
    } else {
        let (bytes, header) = xattrs.tables(out.at())?;
        out.put(&bytes)?;
        header
    };
    let used = out.at();
    let padding = vec![0; (used.next_multiple_of(PAD) - used) as usize];
    out.put(&padding)?;
    step.done();

    let mut head = Vec::with_capacity(super::SUPERBLOCK);
    head.extend(b"hsqs");
    let words = [count, newest, BLOCK as u32, written.fragments.len() as u32];
    words.iter().for_each(|word| head.extend(word.to_le_bytes()));
    let halves = [ZSTD, BLOCK.trailing_zeros() as u16, flags, ids.len(), 4, 0];
    halves.iter().for_each(|half| head.extend(half.to_le_bytes()));
    let places =
        [tables.root.packed(), used, id_table, xattr_table, inode_table, list_table, fragment_table, ABSENT];
    places.iter().for_each(|place| head.extend(place.to_le_bytes()));
    let bytes = out.at();
    out.out.seek(SeekFrom::Start(0))?;
    out.out.write_all(&head)?;
    out.out.seek(SeekFrom::Start(bytes))?;
    out.out.flush()?;
    Ok(Written { bytes, inodes: count })
}

/// Where each fragment is; the place of that table's index.
fn put_fragments<W: Write>(out: &mut Place<W>, fragments: &[(u64, u32)]) -> io::Result<u64> {
    if fragments.is_empty() {
        return Ok(ABSENT);
    }
    let mut table = Table::new()?;
    for (start, size) in fragments {
        table.put(&start.to_le_bytes())?;
        table.put(&size.to_le_bytes())?;
        table.put(&[0; 4])?;
    }
    let (bytes, index) = table.finish_indexed(out.at())?;
    out.put(&bytes)?;
    Ok(index)
}
