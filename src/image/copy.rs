//! One pass over a file: it is written, its SHA-256 is computed, and where wanted its dm-verity tree.
//! Reading and writing, the digest and the tree's leaves run on a thread each.

use super::verity::{Leaves, Tree, salt};
use crate::model::{BlobRef, Digest};
use sha2::{Digest as _, Sha256};
use std::{
    io::{self, Read, Write},
    sync::{Arc, mpsc},
    thread,
};

/// Bytes that are handed on at once.
const PART: usize = 1 << 20;
/// Parts that may wait for a thread; the memory that a pass takes is a few times this.
const WAITING: usize = 4;

/// Whether to compute a dm-verity tree, and how it is salted.
#[derive(Clone, Copy, Debug)]
pub enum Verity {
    /// No tree.
    No,
    /// Salted by the superblock that the data starts with.
    Derived,
    /// With this salt.
    Salted(Digest),
}

/// What a pass found.
#[derive(Debug)]
pub struct Copied {
    /// Digest and size of what was read.
    pub blob: BlobRef,
    /// The first bytes: as many as were asked for, or all.
    pub head: Vec<u8>,
    /// The tree, where one was wanted.
    pub tree: Option<Tree>,
}

/// Why a pass ended early.
#[derive(Debug)]
pub enum CopyError {
    /// The source can't be read.
    Read(io::Error),
    /// The destination can't be written.
    Write(io::Error),
}

impl CopyError {
    /// What the system said, whichever side it was.
    pub fn into_io(self) -> io::Error {
        match self {
            CopyError::Read(e) | CopyError::Write(e) => e,
        }
    }
}

/// Copies `from` to its end into `to`. Keeps the first `head` bytes; tells `seen` of every part.
pub fn copy(
    mut from: impl Read,
    mut to: impl Write,
    verity: Verity,
    head: usize,
    seen: &dyn Fn(u64),
) -> Result<Copied, CopyError> {
    thread::scope(|scope| {
        let (to_digest, parts) = mpsc::sync_channel::<Arc<Vec<u8>>>(WAITING);
        let digest = scope.spawn(move || {
            let mut hasher = Sha256::new();
            parts.iter().for_each(|part| hasher.update(part.as_slice()));
            Digest(hasher.finalize().into())
        });
        let (to_leaves, parts) = mpsc::sync_channel::<Arc<Vec<u8>>>(WAITING);
        let tree = scope.spawn(move || {
            let mut leaves = None;
            for part in &parts {
                let start = match verity {
                    Verity::No => return None,
                    Verity::Salted(salt) => salt,
                    Verity::Derived => salt(part.get(..96).unwrap_or(&part)),
                };
                leaves.get_or_insert_with(|| Leaves::new(start, 0)).update(&part);
            }
            leaves.map(Leaves::finish)
        });

        let (mut size, mut first) = (0, Vec::new());
        loop {
            let mut part = Vec::with_capacity(PART);
            let read = from.by_ref().take(PART as u64).read_to_end(&mut part).map_err(CopyError::Read)?;
            if read == 0 {
                break;
            }
            if first.len() < head {
                first.extend(part.iter().take(head - first.len()));
            }
            let part = Arc::new(part);
            // A thread that ended has no more use for parts.
            let _ = to_digest.send(Arc::clone(&part));
            if !matches!(verity, Verity::No) {
                let _ = to_leaves.send(Arc::clone(&part));
            }
            to.write_all(&part).map_err(CopyError::Write)?;
            size += read as u64;
            seen(read as u64);
        }
        to.flush().map_err(CopyError::Write)?;
        drop((to_digest, to_leaves));
        let died = |_| CopyError::Read(io::Error::other("a hashing thread died"));
        let blob = BlobRef { digest: digest.join().map_err(died)?, size };
        Ok(Copied { blob, head: first, tree: tree.join().map_err(died)? })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::cell::Cell;

    #[test]
    fn copies_hashes_and_grows_the_tree_in_one_pass() {
        let data: Vec<u8> = (0..5 * PART + 123).map(|i| (i * 7 / 3) as u8).collect();
        let (mut out, seen) = (Vec::new(), Cell::new(0));
        let got = copy(&data[..], &mut out, Verity::Derived, 10, &|n| seen.set(seen.get() + n)).unwrap();
        assert!(out == data && seen.get() == data.len() as u64);
        assert_eq!(got.blob, BlobRef { digest: Digest::of(&data), size: data.len() as u64 });
        assert_eq!(got.head, data.iter().take(10).copied().collect::<Vec<_>>());
        let tree = got.tree.unwrap();
        let again = copy(&data[..], io::sink(), Verity::Salted(tree.salt), 0, &|_| ()).unwrap();
        assert_eq!(again.tree.unwrap(), tree);
    }

    #[test]
    fn a_full_disk_ends_it_with_an_error() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let end = copy(&vec![1; 3 * PART][..], full, Verity::Derived, 0, &|_| ());
        assert!(matches!(end, Err(CopyError::Write(e)) if e.kind() == io::ErrorKind::StorageFull));
    }
}
