//! Writing a blob as chunks: what the store has already is shared, the rest goes into a new pack.
//!
//! A chunk is shared only where the bytes on disk are the same: writing a blob again finds what is damaged
//! in it, and repairs it.

use super::{
    blobs::{StoreError, io_at},
    chunk::{ChunkRef, Cutter},
    mapped::is_damage,
    packs::{Hold, Pack, PackWriter, Packs, SealedPack, View},
    recipe,
    tmp::TmpFile,
};
use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

/// Most packs that one blob builds on: each is an open file. Chunks of others are stored again.
const MAX_HELD: usize = 256;

/// A blob that is being written as chunks.
#[derive(Debug)]
pub struct ChunkWriter {
    packs: Packs,
    /// What there was at the beginning.
    view: Arc<View>,
    cutter: Cutter,
    list: Lister,
    recipe: TmpFile,
}

/// Chunks that are being written: shared where the store has them, in a pack of their own else.
#[derive(Debug)]
pub(super) struct Lister {
    /// All, in order.
    chunks: Vec<ChunkRef>,
    new: PackWriter,
    own: HashSet<ChunkRef>,
    near: Option<Arc<Pack>>,
    holds: Holds,
}

/// The packs that a blob builds on, by name; `None` where one can't be held.
#[derive(Debug, Default)]
pub struct Holds(BTreeMap<String, Option<Hold>>);

impl Holds {
    /// Holds the pack, if that can be.
    pub fn hold(&mut self, pack: &Pack) -> bool {
        if let Some(held) = self.0.get(&pack.id) {
            return held.is_some();
        }
        let held = if self.0.len() < MAX_HELD { pack.hold() } else { None };
        let is_held = held.is_some();
        self.0.insert(pack.id.clone(), held);
        is_held
    }
}

impl ChunkWriter {
    pub(super) fn begin(packs: &Packs, tmp: &Path) -> Result<ChunkWriter, StoreError> {
        let list = Lister::begin(packs)?;
        let (view, recipe) = (packs.view()?, TmpFile::create(tmp)?);
        Ok(ChunkWriter { packs: packs.clone(), view, cutter: Cutter::default(), list, recipe })
    }

    /// Where new chunks are written.
    pub(super) fn path(&self) -> &Path {
        self.list.path()
    }

    /// Takes a chunk that was cut elsewhere.
    pub(super) fn add(&mut self, chunk: ChunkRef, bytes: &[u8]) -> io::Result<()> {
        self.list.take(chunk, bytes, &self.packs, &self.view)
    }

    /// Makes it durable.
    pub(super) fn seal(mut self) -> Result<SealedChunks, StoreError> {
        let ChunkWriter { packs, view, cutter, list, .. } = &mut self;
        let ended = cutter.finish(|cut| list.take(ChunkRef::of(cut), cut, packs, view));
        let path = self.list.path().to_owned();
        ended.map_err(io_at("write", &path))?;
        self.recipe.file.write_all(&recipe::write(&self.list.chunks)).map_err(io_at("write", &path))?;
        self.recipe.seal()?;
        let (pack, holds) = self.list.seal()?;
        Ok(SealedChunks { pack, recipe: self.recipe, _holds: holds })
    }
}

impl Lister {
    pub(super) fn begin(packs: &Packs) -> Result<Lister, StoreError> {
        let (chunks, own, holds) = (Vec::new(), HashSet::new(), Holds::default());
        Ok(Lister { chunks, new: packs.begin()?, own, near: None, holds })
    }

    /// Where new chunks are written.
    pub(super) fn path(&self) -> &Path {
        self.new.path()
    }

    /// Bytes of what was new.
    pub(super) fn size(&self) -> u64 {
        self.new.size()
    }

    /// The pack of what was new, if anything was, and what keeps the rest.
    pub(super) fn seal(self) -> Result<(Option<SealedPack>, Holds), StoreError> {
        let pack = (self.new.size() > 0).then(|| self.new.seal()).transpose()?;
        Ok((pack, self.holds))
    }

    /// Takes a chunk. It is shared with packs of `view` only.
    pub(super) fn take(
        &mut self,
        chunk: ChunkRef,
        bytes: &[u8],
        packs: &Packs,
        view: &View,
    ) -> io::Result<()> {
        self.chunks.push(chunk);
        if self.own.contains(&chunk) || self.shares(chunk, bytes, packs, view)? {
            return Ok(());
        }
        self.new.add(chunk, bytes)?;
        self.own.insert(chunk);
        Ok(())
    }

    /// Whether the store has the chunk, in a pack that stays.
    fn shares(&mut self, chunk: ChunkRef, bytes: &[u8], packs: &Packs, view: &View) -> io::Result<bool> {
        let Some((pack, entry)) = view.find(chunk.digest, self.near.as_ref()) else { return Ok(false) };
        if entry.chunk != chunk || !self.holds.hold(pack) {
            return Ok(false);
        }
        let stored = pack.bytes().and_then(|b| b.load(entry.offset..entry.offset + u64::from(chunk.len)));
        let same = match stored {
            Ok(stored) => stored == bytes,
            // Whether it is there can't be told: it is stored once more.
            Err(e) if !is_damage(&e) => return Ok(false),
            Err(_) => false,
        };
        if same {
            if !self.near.as_ref().is_some_and(|near| Arc::ptr_eq(near, pack)) {
                self.near = Some(Arc::clone(pack));
            }
            return Ok(true);
        }
        packs.mark_damaged(pack, entry.offset).map_err(StoreError::into_io)?;
        Ok(false)
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let ChunkWriter { packs, view, cutter, list, .. } = self;
        cutter.push(buf, |cut| list.take(ChunkRef::of(cut), cut, packs, view))?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A blob as chunks, whole and durable but not in place yet. While it lives, the packs that it builds on
/// stay.
#[derive(Debug)]
pub struct SealedChunks {
    pack: Option<SealedPack>,
    recipe: TmpFile,
    _holds: Holds,
}

impl SealedChunks {
    /// Puts the pack in place, then the list of chunks at `to`.
    pub(super) fn publish(&self, packs: &Packs, to: &Path) -> Result<(), StoreError> {
        let Some(pack) = &self.pack else { return self.recipe.rename(to) };
        packs.publish(pack)?;
        self.recipe.rename(to)?;
        packs.confirm(pack)
    }
}
