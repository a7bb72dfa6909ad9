use super::{
    super::{
        blobs::{StoreError, io_at},
        chunk::ChunkRef,
        tmp::TmpFile,
    },
    format::{Entry, Index},
};
use crate::sys;
use std::{
    io::{self, Write as _},
    path::Path,
};

/// Bytes after which the disk begins to write them, while others are being hashed: a large image would be all in memory
/// when it is sealed, and whoever else syncs meanwhile would wait for it too.
const AT_ONCE: u64 = 32 << 20;

/// A pack that is being written.
#[derive(Debug)]
pub struct PackWriter {
    tmp: TmpFile,
    /// For the copy of the index: made now, so that it is known early whether that can be done.
    copy: TmpFile,
    entries: Vec<Entry>,
    size: u64,
    /// Of those, what the disk was told to write.
    told: u64,
}

impl PackWriter {
    pub(super) fn begin(dir: &Path) -> Result<PackWriter, StoreError> {
        let (tmp, copy) = (TmpFile::create(dir)?, TmpFile::create(dir)?);
        Ok(PackWriter { tmp, copy, entries: Vec::new(), size: 0, told: 0 })
    }

    /// Where it is being written.
    pub fn path(&self) -> &Path {
        &self.tmp.path
    }

    /// Bytes of chunks.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a chunk, which isn't in it yet. After an error the pack is of no use.
    pub fn add(&mut self, chunk: ChunkRef, bytes: &[u8]) -> io::Result<()> {
        self.tmp.file.write_all(bytes)?;
        self.entries.push(Entry { chunk, offset: self.size });
        self.size += bytes.len() as u64;
        if self.size - self.told >= AT_ONCE {
            sys::begin_to_write(&self.tmp.file, self.told..self.size);
            self.told = self.size;
        }
        Ok(())
    }

    /// Makes it durable.
    pub fn seal(mut self) -> Result<SealedPack, StoreError> {
        let index = Index::write(self.entries);
        for tmp in [&mut self.tmp, &mut self.copy] {
            tmp.file.write_all(&index).map_err(io_at("write", &tmp.path))?;
            tmp.seal()?;
        }
        let mut name = [0; 16];
        getrandom::fill(&mut name)
            .map_err(|_| io_at("name", &self.tmp.path)(io::Error::other("no randomness from the system")))?;
        let id = name.iter().map(|b| format!("{b:02x}")).collect();
        Ok(SealedPack { id, pack: self.tmp, copy: self.copy })
    }
}

/// A pack that is whole and durable but not in place yet.
#[derive(Debug)]
pub struct SealedPack {
    id: String,
    pack: TmpFile,
    copy: TmpFile,
}

impl SealedPack {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn publish(&self, dir: &Path) -> Result<(), StoreError> {
        self.pack.rename(&dir.join(format!("{}.pack", self.id)))
    }

    pub(super) fn publish_copy(&self, dir: &Path) -> Result<(), StoreError> {
        self.copy.rename(&dir.join(format!("{}.idx", self.id)))
    }
}
