//! An image as one file.
//!
//! ```text
//! "pristine arch 1\n" | u32 length of the inventory | inventory | its SHA-256
//! the chunks that travel, in the inventory's order, nothing between them
//! SHA-256 of all before
//! ```

use super::{
    TransferError,
    assemble::{self, Chunks, Stored},
    inventory::{Inventory, MAX_INVENTORY, Since},
    io_at,
    pack::Packed,
};
use crate::{
    image::progress::Progress,
    model::Digest,
    store::{ImageStore, chunk::ChunkRef, content::BlobReader},
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{BufReader, Read, Seek as _, SeekFrom, Write},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 16] = b"pristine arch 1\n";
/// Bytes of a SHA-256.
const SUM: u64 = 32;

/// What an export wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the archive.
    pub bytes: u64,
    /// Chunks in it.
    pub chunks: usize,
    /// Chunks of the image that are not in it, since the old image has them.
    pub left_out: usize,
}

/// Writes the archive of an image to `to`, which is called `path` in errors.
pub fn write(
    packed: &mut Packed,
    to: &mut dyn Write,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Written, TransferError> {
    let mut out = Hashed { to, hasher: Sha256::new(), bytes: 0, path };
    let inventory = packed.inventory.to_bytes();
    if inventory.len() as u64 > MAX_INVENTORY {
        return Err(TransferError::Inventory("it is longer than any receiver takes"));
    }
    out.write(MAGIC)?;
    out.write(&u32::try_from(inventory.len()).unwrap_or(u32::MAX).to_le_bytes())?;
    out.write(&inventory)?;
    out.write(&Digest::of(&inventory).0)?;
    let step = progress.begin("writing", packed.inventory.travelling());
    let all = packed.inventory.chunks.len();
    let travelling: Vec<usize> =
        packed.inventory.chunks.iter().enumerate().filter(|(_, c)| c.old.is_none()).map(|(n, _)| n).collect();
    for n in &travelling {
        let bytes = packed.chunk(*n)?;
        out.write(&bytes)?;
        step.advance(bytes.len() as u64);
    }
    let sum = out.hasher.clone().finalize();
    out.write(&sum)?;
    out.to.flush().map_err(io_at("write", path))?;
    step.done();
    Ok(Written { bytes: out.bytes, chunks: travelling.len(), left_out: all - travelling.len() })
}

struct Hashed<'a> {
    to: &'a mut dyn Write,
    hasher: Sha256,
    bytes: u64,
    path: &'a Path,
}

impl Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.to.write_all(bytes).map_err(io_at("write", self.path))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// An archive that was read from end to end and found right.
#[derive(Debug)]
pub struct Archive {
    /// What the image is made of.
    pub inventory: Inventory,
    path: PathBuf,
    file: File,
    /// Where each chunk that travels lies in the file; 0 for the others.
    offsets: Vec<u64>,
    /// The blobs of the image that it builds on.
    old: Vec<Option<BlobReader>>,
}

impl Archive {
    /// Opens the archive at `path` and proves all of it, and that `store` has what it builds on.
    pub fn open(path: &Path, store: &ImageStore, progress: &dyn Progress) -> Result<Archive, TransferError> {
        let read = || io_at("read", path);
        let file = File::open(path).map_err(io_at("open", path))?;
        let meta = file.metadata().map_err(read())?;
        let not = |hint| TransferError::NotArchive { path: path.to_owned(), hint };
        if !meta.is_file() {
            return Err(not(", as one file"));
        }
        let mut from = Summed { from: BufReader::new(&file), hasher: Sha256::new(), left: meta.len(), path };
        match from.array::<16>() {
            Ok(magic) if magic == *MAGIC => {}
            Ok(magic) if magic.starts_with(b"pristine arch ") => {
                return Err(not("; this one is of a newer format: upgrade Pristine"));
            }
            Ok(_) | Err(TransferError::Damaged { .. }) => return Err(not("")),
            Err(e) => return Err(e),
        }
        let len = u64::from(u32::from_le_bytes(from.array()?));
        if len > MAX_INVENTORY {
            return Err(TransferError::Inventory("it is longer than any image needs"));
        }
        let inventory = from.bytes(len)?;
        if from.array::<32>()? != Digest::of(&inventory).0 {
            return Err(damaged("the archive's list is not what was written"));
        }
        let inventory = Inventory::parse(&inventory)?;
        let begin = MAGIC.len() as u64 + 4 + len + SUM;
        let needs = begin + inventory.travelling() + SUM;
        if needs != meta.len() {
            return Err(TransferError::Length { path: path.to_owned(), needs, has: meta.len() });
        }
        let step = progress.begin("checking", inventory.travelling());
        let (mut at, mut offsets) = (begin, Vec::with_capacity(inventory.chunks.len()));
        for listed in &inventory.chunks {
            let len = u64::from(listed.chunk.len);
            offsets.push(at);
            if listed.old.is_none() {
                let bytes = from.bytes(len)?;
                if ChunkRef::of(&bytes) != listed.chunk {
                    return Err(damaged(format!(
                        "chunk {} in the archive is damaged",
                        listed.chunk.digest.short()
                    )));
                }
                step.advance(len);
                at += len;
            }
        }
        let sum: [u8; 32] = from.hasher.clone().finalize().into();
        if from.array::<32>()? != sum {
            return Err(damaged("the archive's end is not what was written"));
        }
        step.done();
        let old = inventory.since.as_ref().map(|s| open_old(s, store)).transpose()?.unwrap_or_default();
        let mut archive = Archive { inventory, path: path.to_owned(), file, offsets, old };
        archive.prove_old(progress)?;
        Ok(archive)
    }

    /// Stores the image.
    pub fn import(
        mut self,
        store: &ImageStore,
        move_tag: bool,
        progress: &dyn Progress,
    ) -> Result<Stored, TransferError> {
        store.require_free(self.inventory.travelling())?;
        let inventory = self.inventory.clone();
        assemble::assemble(store, &inventory, &mut self, move_tag, progress)
    }

    fn prove_old(&mut self, progress: &dyn Progress) -> Result<(), TransferError> {
        let from_old: Vec<usize> = (0..self.inventory.chunks.len())
            .filter(|n| self.inventory.chunks.get(*n).is_some_and(|c| c.old.is_some()))
            .collect();
        let chunks: Vec<ChunkRef> =
            from_old.iter().filter_map(|n| self.inventory.chunks.get(*n)).map(|c| c.chunk).collect();
        let step = progress.begin("reading the old image", chunks.iter().map(|c| u64::from(c.len)).sum());
        let mut missing = 0;
        for (n, chunk) in from_old.iter().zip(&chunks) {
            let found = self.chunk(*n).is_ok_and(|bytes| ChunkRef::of(&bytes) == *chunk);
            missing += usize::from(!found);
            step.advance(chunk.len.into());
        }
        step.done();
        match &self.inventory.since {
            Some(since) if missing > 0 => {
                Err(lacks(since, format!("{missing} chunks of it are missing or damaged here")))
            }
            _ => Ok(()),
        }
    }
}

fn damaged(what: impl Into<String>) -> TransferError {
    TransferError::Damaged { what: what.into() }
}

fn lacks(since: &Since, what: String) -> TransferError {
    TransferError::Lacks { tag: since.tag.clone(), digest: since.digest, what }
}

fn open_old(since: &Since, store: &ImageStore) -> Result<Vec<Option<BlobReader>>, TransferError> {
    if store.get(since.digest)?.is_none() {
        return Err(lacks(since, "this store doesn't have that image".into()));
    }
    // One that is damaged may still hold what is needed elsewhere: each chunk is looked at.
    let open = |blob: &crate::model::BlobRef| {
        store.blobs().reader(blob.digest).ok().flatten().filter(|reader| reader.size() == blob.size)
    };
    Ok(since.blobs.iter().map(open).collect())
}

impl Chunks for Archive {
    fn chunk(&mut self, n: usize) -> Result<Vec<u8>, TransferError> {
        let place = self.inventory.chunks.get(n).copied().zip(self.offsets.get(n));
        let Some((listed, offset)) = place else { return Ok(Vec::new()) };
        let mut bytes = vec![0; listed.chunk.len as usize];
        match listed.old {
            None => self.file.read_exact_at(&mut bytes, *offset).map_err(io_at("read", &self.path))?,
            Some((blob, at)) => {
                let Some(Some(reader)) = self.old.get_mut(blob) else { return Ok(Vec::new()) };
                let read = reader.seek(SeekFrom::Start(at)).and_then(|_| reader.read_exact(&mut bytes));
                read.map_err(io_at("read a chunk of the old image for", &self.path))?;
            }
        }
        Ok(bytes)
    }

    fn not_that(&mut self, _n: usize) -> TransferError {
        damaged("the archive, or the image that it builds on, changed while it was read")
    }
}

/// Reads and hashes.
struct Summed<'a> {
    from: BufReader<&'a File>,
    hasher: Sha256,
    left: u64,
    path: &'a Path,
}

impl Summed<'_> {
    fn bytes(&mut self, len: u64) -> Result<Vec<u8>, TransferError> {
        // Before anything is made ready for it.
        self.left = self.left.checked_sub(len).ok_or_else(|| damaged("the archive is cut short"))?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.from.read_exact(&mut bytes).map_err(io_at("read", self.path))?;
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TransferError> {
        let bytes = self.bytes(N as u64)?;
        bytes.first_chunk().copied().ok_or_else(|| damaged("the archive is cut short"))
    }
}
