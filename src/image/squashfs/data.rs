//! The contents of files, written as they are read: large ones in blocks of 128 KiB, small ones
//! together in fragments.
//!
//! Where a fragment ends is told by the name of its last file, so that a file more or less changes one
//! fragment or two, not all that follow: images that differ little share most of their blocks. Files
//! with the same contents are stored once; blocks of zeros not at all.

use super::{
    block::Packed,
    pool::Pool,
    write::{Place, WriteError},
};
use crate::{
    image::{
        progress::Step,
        source::{FileReader, Show},
    },
    model::Digest,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    io::{self, Read as _, Write},
};

/// Bytes of a block of data, and the most in a fragment.
pub(super) const BLOCK: usize = 128 << 10;
/// Mean bytes of a fragment, or nearly. Fragments of 128 KiB would be smaller by 1.6 %, and one more
/// package would cost three times the new bytes.
const FRAGMENT: u64 = 64 << 10;
/// In the length of a block: it is not compressed.
const PLAIN: u32 = 1 << 24;

/// Where a file's contents are.
#[derive(Clone, Debug, Default)]
pub(super) enum Stored {
    /// It has none.
    #[default]
    Nothing,
    /// In blocks of their own.
    Blocks(Blocks),
    /// In a fragment.
    Fragment { index: u32, offset: u32 },
    /// Where those of this file are.
    Same(usize),
}

/// The blocks of one file, one after another.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    /// Where the first one is that is stored.
    pub start: Option<u64>,
    /// Their lengths as they are stored; 0 for one of zeros, which isn't.
    pub sizes: Vec<u32>,
    /// Bytes of zeros that aren't stored.
    pub sparse: u64,
}

/// What a block in work is for.
pub(super) enum For {
    Block { file: usize, nth: usize },
    Fragment,
}

/// Writes contents.
pub(super) struct Data<'a, W> {
    out: &'a mut Place<W>,
    pool: Pool<For>,
    step: &'a dyn Step,
    stored: Vec<Stored>,
    /// Places and lengths of the fragments that are written.
    fragments: Vec<(u64, u32)>,
    begun: u32,
    fragment: Vec<u8>,
    known: HashMap<Digest, usize>,
}

/// What was written.
pub(super) struct Written {
    /// By the file's number.
    pub stored: Vec<Stored>,
    /// The place and length of each fragment.
    pub fragments: Vec<(u64, u32)>,
}

impl<'a, W: Write> Data<'a, W> {
    /// For so many files.
    pub fn new(out: &'a mut Place<W>, pool: Pool<For>, step: &'a dyn Step, files: usize) -> Data<'a, W> {
        let stored = vec![Stored::Nothing; files];
        let (fragments, fragment, known) = (Vec::new(), Vec::new(), HashMap::new());
        Data { out, pool, step, stored, fragments, begun: 0, fragment, known }
    }

    /// Writes the file number `file`. `open` opens its contents; `has_twin` says that another file may
    /// have the same.
    pub fn add(
        &mut self,
        file: usize,
        path: &[u8],
        has_twin: bool,
        open: &dyn Fn() -> io::Result<FileReader>,
    ) -> Result<(), WriteError> {
        let fail = |source| WriteError::Read { path: Show(path).to_string(), source };
        let mut reader = open().map_err(fail)?;
        if reader.size() < BLOCK as u64 {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(fail)?;
            self.step.advance(bytes.len() as u64);
            if bytes.is_empty() || (has_twin && self.is_known(file, Digest::of(&bytes))) {
                return Ok(());
            }
            return self.add_small(file, path, &bytes);
        }
        if has_twin {
            let digest = hash(open().map_err(fail)?).map_err(fail)?;
            if self.is_known(file, digest) {
                self.step.advance(reader.size());
                return Ok(());
            }
        }
        self.set(file, Stored::Blocks(Blocks::default()));
        for nth in 0.. {
            let mut block = Vec::with_capacity(BLOCK);
            reader.by_ref().take(BLOCK as u64).read_to_end(&mut block).map_err(fail)?;
            if block.is_empty() {
                break;
            }
            self.step.advance(block.len() as u64);
            let Some(Stored::Blocks(blocks)) = self.stored.get_mut(file) else { break };
            blocks.sizes.push(0);
            if block.iter().all(|b| *b == 0) {
                blocks.sparse += block.len() as u64;
            } else {
                let done = self.pool.put(For::Block { file, nth }, block)?;
                self.write(done)?;
            }
        }
        Ok(())
    }

    /// True where an earlier file has these contents; then this one shares them.
    fn is_known(&mut self, file: usize, digest: Digest) -> bool {
        let first = *self.known.entry(digest).or_insert(file);
        if first != file {
            self.set(file, Stored::Same(first));
        }
        first != file
    }

    fn add_small(&mut self, file: usize, path: &[u8], bytes: &[u8]) -> Result<(), WriteError> {
        if self.fragment.len() + bytes.len() > BLOCK {
            self.end_fragment()?;
        }
        self.set(file, Stored::Fragment { index: self.begun, offset: self.fragment.len() as u32 });
        self.fragment.extend_from_slice(bytes);
        if ends_fragment(path, bytes.len()) {
            self.end_fragment()?;
        }
        Ok(())
    }

    fn end_fragment(&mut self) -> Result<(), WriteError> {
        if self.fragment.is_empty() {
            return Ok(());
        }
        self.begun += 1;
        let done = self.pool.put(For::Fragment, std::mem::take(&mut self.fragment))?;
        self.write(done)
    }

    fn set(&mut self, file: usize, stored: Stored) {
        if let Some(of) = self.stored.get_mut(file) {
            *of = stored;
        }
    }

    fn write(&mut self, done: Option<(For, Packed)>) -> Result<(), WriteError> {
        let Some((what, packed)) = done else { return Ok(()) };
        let start = self.out.at();
        self.out.put(&packed.bytes)?;
        let len = packed.bytes.len() as u32;
        let size = if packed.compressed { len } else { len | PLAIN };
        match what {
            For::Fragment => self.fragments.push((start, size)),
            For::Block { file, nth } => {
                if let Some(Stored::Blocks(blocks)) = self.stored.get_mut(file) {
                    blocks.start.get_or_insert(start);
                    blocks.sizes.iter_mut().skip(nth).take(1).for_each(|of| *of = size);
                }
            }
        }
        Ok(())
    }

    /// Writes all that is still in work.
    pub fn finish(mut self) -> Result<Written, WriteError> {
        self.end_fragment()?;
        while let Some(done) = self.pool.next()? {
            self.write(Some(done))?;
        }
        Ok(Written { stored: self.stored, fragments: self.fragments })
    }
}

/// One file in so many, by its name, the more likely the more it adds.
fn ends_fragment(path: &[u8], len: usize) -> bool {
    let [a, b, c, d, ..] = Digest::of(path).0;
    u64::from(u32::from_le_bytes([a, b, c, d])) % FRAGMENT < len as u64
}

fn hash(mut from: FileReader) -> io::Result<Digest> {
    let (mut hasher, mut part) = (Sha256::new(), vec![0; BLOCK]);
    loop {
        let n = from.read(&mut part)?;
        if n == 0 {
            return Ok(Digest(hasher.finalize().into()));
        }
        hasher.update(part.get(..n).unwrap_or_default());
    }
}
