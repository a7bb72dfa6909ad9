//! A dm-verity tree, checked in userspace (kernel `Documentation/admin-guide/device-mapper/verity.rst`:
//! format 1, SHA-256, 4,096-byte blocks, salt in front, no superblock). The kernel checks every block
//! again when it is read; checking here finds a wrong block while the network can still bring the right
//! one, and lets nothing unproven into memory.

use crate::digest::Digest;
use sha2::{Digest as _, Sha256};

/// Bytes of a data block and of a hash block.
pub const BLOCK: usize = 4096;
const HASH: usize = 32;
const PER_BLOCK: u64 = (BLOCK / HASH) as u64;

/// Blocks of each level, leaves first. No level for a single data block: the root hash is its hash.
fn levels(data_blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut n = data_blocks;
    while n > 1 {
        n = n.div_ceil(PER_BLOCK);
        levels.push(n);
    }
    levels
}

/// Length in bytes of the tree over so many data blocks.
pub fn tree_len(data_blocks: u64) -> u64 {
    levels(data_blocks).iter().sum::<u64>() * BLOCK as u64
}

/// A tree of which every block is proven by the root hash.
#[derive(Debug)]
pub struct Tree {
    bytes: Vec<u8>,
    salted: Sha256,
    leaves_at: usize,
    data_blocks: u64,
}

impl Tree {
    /// Checks `bytes` (top level first) against `root`, level by level.
    pub fn check(bytes: Vec<u8>, root: Digest, salt: Digest, data_blocks: u64) -> Result<Tree, String> {
        if !(2..=1 << 40).contains(&data_blocks) || tree_len(data_blocks) != bytes.len() as u64 {
            return Err(format!("{} bytes can't be the tree over {data_blocks} blocks", bytes.len()));
        }
        let mut salted = Sha256::new();
        salted.update(salt.0);
        let mut parents: Vec<u8> = root.0.to_vec();
        let mut at = 0;
        let mut leaves_at = 0;
        for (depth, blocks) in levels(data_blocks).into_iter().rev().enumerate() {
            let len = usize::try_from(blocks).map_err(|e| e.to_string())? * BLOCK;
            let level = bytes.get(at..at + len).ok_or("the tree is too short")?;
            for (nth, (block, want)) in level.chunks(BLOCK).zip(parents.chunks(HASH)).enumerate() {
                if hash(&salted, block) != want {
                    return Err(format!("block {nth} of level {depth} does not hang on the root hash"));
                }
            }
            if (parents.len() / HASH) < level.len() / BLOCK {
                return Err(format!("level {depth} has blocks that no hash covers"));
            }
            parents = level.to_vec();
            leaves_at = at;
            at += len;
        }
        Ok(Tree { bytes, salted, leaves_at, data_blocks })
    }

    /// True where `block` is data block `n`. A block shorter than [`BLOCK`] counts as padded with zeros.
    pub fn proves(&self, n: u64, block: &[u8]) -> bool {
        let wanted = || {
            let at = self.leaves_at + usize::try_from(n).ok()?.checked_mul(HASH)?;
            self.bytes.get(at..at + HASH)
        };
        if n >= self.data_blocks || block.len() > BLOCK {
            return false;
        }
        let full = |padded: &[u8]| wanted().is_some_and(|want| hash(&self.salted, padded) == want);
        if block.len() == BLOCK {
            return full(block);
        }
        let mut padded = block.to_vec();
        padded.resize(BLOCK, 0);
        full(&padded)
    }

    /// Where in `bytes`, which begin with a block at byte `at` of the data, the first block begins that is not
    /// the right one.
    pub fn first_wrong(&self, at: u64, bytes: &[u8]) -> Option<usize> {
        let mut blocks = (at / BLOCK as u64..).zip(bytes.chunks(BLOCK));
        blocks.position(|(n, block)| !self.proves(n, block)).map(|nth| nth * BLOCK)
    }

    /// The tree, as the kernel reads it from its hash device.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn hash(salted: &Sha256, block: &[u8]) -> [u8; 32] {
    let mut hasher = salted.clone();
    hasher.update(block);
    hasher.finalize().into()
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    pub const SALT: Digest = Digest([7; 32]);

    /// Builds the way that the format's description says, not the way that `check` walks.
    pub fn build(data: &[u8]) -> (Vec<u8>, Digest) {
        let hash = |block: &[u8]| -> [u8; 32] { Sha256::digest([&SALT.0[..], block].concat()).into() };
        let mut level: Vec<u8> = data.chunks(BLOCK).flat_map(hash).collect();
        let mut out: Vec<Vec<u8>> = Vec::new();
        loop {
            level.resize(level.len().next_multiple_of(BLOCK), 0);
            out.insert(0, level.clone());
            let above: Vec<u8> = level.chunks(BLOCK).flat_map(hash).collect();
            if above.len() == 32 {
                return (out.concat(), Digest(above.try_into().unwrap()));
            }
            level = above;
        }
    }

    fn data(blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK).map(|i| (i / 7 % 251) as u8).collect()
    }

    #[test]
    fn proves_every_block_and_no_changed_one() {
        for blocks in [2, 127, 128, 129, 300, 128 * 128 + 1] {
            let data = data(blocks);
            let (bytes, root) = build(&data);
            assert_eq!(bytes.len() as u64, tree_len(blocks as u64), "{blocks}");
            let tree = Tree::check(bytes, root, SALT, blocks as u64).unwrap();
            for n in [0, 1, blocks / 2, blocks - 1] {
                let mut block = data[n * BLOCK..][..BLOCK].to_vec();
                assert!(tree.proves(n as u64, &block));
                block[n % BLOCK] ^= 1;
                assert!(!tree.proves(n as u64, &block));
            }
            assert!(!tree.proves(blocks as u64, &data[..BLOCK]));
        }
    }

    #[test]
    fn a_short_last_block_counts_as_padded() {
        let mut data = data(3);
        data[2 * BLOCK + 100..].fill(0);
        let (bytes, root) = build(&data);
        let tree = Tree::check(bytes, root, SALT, 3).unwrap();
        assert!(tree.proves(2, &data[2 * BLOCK..2 * BLOCK + 100]));
        assert!(!tree.proves(2, &data[2 * BLOCK..2 * BLOCK + 50]));
    }

    #[test]
    fn refuses_any_changed_byte_of_the_tree() {
        let (bytes, root) = build(&data(300));
        for at in [0, 31, 64, 4095, 4096, 9000, bytes.len() - 1] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x80;
            assert!(Tree::check(wrong, root, SALT, 300).is_err(), "byte {at}");
        }
        assert!(Tree::check(bytes.clone(), Digest([0; 32]), SALT, 300).is_err());
        assert!(Tree::check(bytes.clone(), root, Digest([0; 32]), 300).is_err());
        assert!(Tree::check(bytes[..BLOCK].to_vec(), root, SALT, 300).is_err());
        assert!(Tree::check(bytes, root, SALT, u64::MAX).is_err());
    }
}
