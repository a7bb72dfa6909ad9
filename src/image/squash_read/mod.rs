//! Reads a squashfs 4.0 without mounting it: names, metadata, extended attributes and contents, by
//! position (`Documentation/filesystems/squashfs.rst`, `fs/squashfs/squashfs_fs.h` of the kernel).
//!
//! Nothing that an image says is believed: every position must lie within it, every count, size and
//! depth is bounded, a folder can be reached once only, and a block unpacks to no more than its size.
//! [`walk`] lists what there is, [`content`] reads files, [`same`] compares two.

mod block;
pub mod content;
mod inode;
mod metadata;
pub mod same;
mod tables;
#[cfg(test)]
mod tests;
pub mod walk;
mod xattr;

use super::squashfs::{self, Compressor, SUPERBLOCK, SquashfsError};
use block::Blocks;
use metadata::Metadata;
use std::io::{self, Read, Seek, SeekFrom};
use tables::Tables;

pub use inode::{File, Kind, Node};
pub use xattr::Xattr;

/// Why a squashfs can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system said no.
    #[error("can't read it: {0}")]
    Io(#[from] io::Error),
    /// It is none, or one that no kernel mounts.
    #[error(transparent)]
    Superblock(#[from] SquashfsError),
    /// It is one, of a compressor that this reader lacks.
    #[error("it is compressed with {0}, which Pristine doesn't read (gzip, xz and zstd it does)")]
    Compressor(Compressor),
    /// It contradicts itself.
    #[error("it is damaged: {what}{}", at.as_ref().map(|p| format!(" (at /{p})")).unwrap_or_default())]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// The file or folder that was being read.
        at: Option<String>,
    },
    /// More than any system that boots.
    #[error("it holds more than {limit} {what}, which is the bound")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

impl ReadError {
    /// Says at which path it happened, where that isn't said already.
    pub fn at(self, path: &[u8]) -> ReadError {
        match self {
            ReadError::Damaged { what, at: None } => {
                ReadError::Damaged { what, at: Some(String::from_utf8_lossy(path).into_owned()) }
            }
            other => other,
        }
    }
}

/// An error without a path yet.
fn damaged(what: &'static str) -> ReadError {
    ReadError::Damaged { what, at: None }
}

/// A squashfs, open.
#[derive(Debug)]
pub struct Squashfs<R> {
    from: Source<R>,
    metadata: Metadata,
    tables: Tables,
    blocks: Blocks,
    root: u64,
}

/// Where the bytes come from, and what they were compressed with.
#[derive(Debug)]
struct Source<R> {
    from: R,
    /// Bytes that the file system takes: nothing it names lies behind them.
    size: u64,
    compressor: Compressor,
    block_size: u32,
}

impl<R: Read + Seek> Source<R> {
    /// `len` bytes from `at` on. The caller bounds `len`.
    fn bytes(&mut self, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let end = at.checked_add(len as u64).filter(|end| *end <= self.size);
        end.ok_or_else(|| damaged("it names bytes behind its end"))?;
        self.from.seek(SeekFrom::Start(at))?;
        let mut bytes = vec![0; len];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read + Seek> Squashfs<R> {
    /// Opens a squashfs in `from`, which has `size` bytes: reads the superblock and the tables of owners,
    /// fragments and extended attributes.
    pub fn open(mut from: R, size: u64) -> Result<Squashfs<R>, ReadError> {
        let mut head = Vec::new();
        from.seek(SeekFrom::Start(0))?;
        // More than the superblock, to say what else it is.
        from.by_ref().take(0x9000).read_to_end(&mut head)?;
        let superblock = squashfs::check(&head, size)?;
        if matches!(superblock.compressor, Compressor::Lz4 | Compressor::Lzo) {
            return Err(ReadError::Compressor(superblock.compressor));
        }
        let head = head.get(..SUPERBLOCK).unwrap_or_default();
        let mut from = Source {
            from,
            size: superblock.bytes_used,
            compressor: superblock.compressor,
            block_size: superblock.block_size,
        };
        let mut metadata = Metadata::default();
        let tables = Tables::read(head, &mut from, &mut metadata)?;
        Ok(Squashfs { from, metadata, tables, blocks: Blocks::default(), root: u64_at(head, 32) })
    }
}

/// A little-endian number at `at`; 0 behind the end.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}
