//! The dm-verity tree of a rootfs (kernel `Documentation/admin-guide/device-mapper/verity.rst`): format 1,
//! SHA-256, 4,096-byte blocks, no superblock. Byte for byte what `veritysetup format --no-superblock` writes.
//!
//! The salt has to be known before the first block is hashed, and the same rootfs must give the same
//! manifest: it is derived from the squashfs superblock, which costs no second pass. It is no secret,
//! and two versions of an image may share it.

use crate::model::{Digest, Verity};
use sha2::{Digest as _, Sha256};

/// Bytes of a data block and of a hash block.
pub const BLOCK: usize = 4096;
/// Digests in a hash block.
const FAN: usize = BLOCK / 32;

/// The salt of the rootfs that starts with `superblock`.
pub fn salt(superblock: &[u8]) -> Digest {
    let mut hasher = Sha256::new_with_prefix(b"pristine dm-verity salt 1\0");
    hasher.update(superblock);
    Digest(hasher.finalize().into())
}

/// Hashes data blocks as they come by, in parts of any size.
#[derive(Debug)]
pub struct Leaves {
    salt: Digest,
    salted: Sha256,
    /// Start of a block that isn't whole yet.
    partial: Vec<u8>,
    digests: Vec<u8>,
}

/// A finished tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The root block's digest.
    pub root_hash: Digest,
    /// The salt that went in front of each block.
    pub salt: Digest,
    /// 4,096-byte blocks of data.
    pub data_blocks: u64,
    /// The hash blocks, top level first.
    pub bytes: Vec<u8>,
}

impl Leaves {
    /// Before the first byte. `expected` bytes will come; only a hint.
    pub fn new(salt: Digest, expected: u64) -> Leaves {
        let digests =
            Vec::with_capacity(usize::try_from(expected / BLOCK as u64).unwrap_or(0).min(1 << 24) * 32);
        Leaves { salt, salted: Sha256::new_with_prefix(salt.0), partial: Vec::with_capacity(BLOCK), digests }
    }

    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let missing = (BLOCK - self.partial.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(missing);
            self.partial.extend_from_slice(head);
            bytes = rest;
            if self.partial.len() < BLOCK {
                return;
            }
            let block = std::mem::take(&mut self.partial);
            self.block(&block);
        }
        let blocks = bytes.chunks_exact(BLOCK);
        let rest = blocks.remainder();
        blocks.for_each(|block| self.block(block));
        self.partial.extend_from_slice(rest);
    }

    fn block(&mut self, block: &[u8]) {
        let mut hasher = self.salted.clone();
        hasher.update(block);
        self.digests.extend_from_slice(&hasher.finalize());
    }

    /// Pads the last block with zeros and builds the levels above.
    pub fn finish(mut self) -> Tree {
        if !self.partial.is_empty() {
            let mut block = std::mem::take(&mut self.partial);
            block.resize(BLOCK, 0);
            self.block(&block);
        }
        let data_blocks = (self.digests.len() / 32) as u64;
        let mut levels: Vec<Vec<u8>> = Vec::new();
        // A single data block has no tree: its digest is the root.
        while self.digests.len() > 32 {
            let mut level = std::mem::take(&mut self.digests);
            level.resize(level.len().next_multiple_of(FAN * 32), 0);
            level.chunks_exact(BLOCK).for_each(|block| self.block(block));
            levels.push(level);
        }
        let mut root_hash = Digest([0; 32]);
        for (to, from) in root_hash.0.iter_mut().zip(&self.digests) {
            *to = *from;
        }
        levels.reverse();
        Tree { root_hash, salt: self.salt, data_blocks, bytes: levels.concat() }
    }
}

impl Tree {
    /// True where the tree proves what `verity` names.
    pub fn fits(&self, verity: &Verity) -> bool {
        (self.root_hash, self.salt, self.data_blocks) == (verity.root_hash, verity.salt, verity.data_blocks)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::store::testing::TempDir;
    use std::{fs, process::Command};

    fn tree(data: &[u8], part: usize) -> Tree {
        let mut leaves = Leaves::new(salt(&data[..data.len().min(96)]), data.len() as u64);
        data.chunks(part).for_each(|p| leaves.update(p));
        leaves.finish()
    }

    /// Bytes without a pattern that a wrong tree could get right by chance.
    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        let words = std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        });
        let mut bytes: Vec<u8> = words.take(len.div_ceil(8)).flatten().collect();
        bytes.truncate(len);
        bytes
    }

    /// Sizes on both sides of every edge: one block, one hash block (128 blocks), two levels, three.
    #[test]
    fn is_byte_for_byte_what_veritysetup_writes() {
        let dir = TempDir::new();
        let (data, hash) = (dir.path().join("data"), dir.path().join("hash"));
        let full = 128 * 128;
        let sizes = [(1, 0), (1, 4095), (2, 1), (127, 0), (128, 0), (128, 9), (129, 0), (300, 7)];
        for (blocks, short) in sizes.into_iter().chain([(full, 0), (full + 1, 4095)]) {
            let mut bytes = noise(blocks * BLOCK - short);
            let ours = tree(&bytes, 1 << 20);
            bytes.resize(blocks * BLOCK, 0);
            fs::write(&data, &bytes).unwrap();
            fs::write(&hash, b"").unwrap();
            let out = Command::new("veritysetup")
                .args(["format", "--no-superblock", "--format=1", "--hash=sha256"])
                .args(["--data-block-size=4096", "--hash-block-size=4096", &format!("--salt={}", ours.salt)])
                .args([format!("--data-blocks={blocks}").as_ref(), data.as_os_str(), hash.as_os_str()])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success(), "{blocks} {text} {}", String::from_utf8_lossy(&out.stderr));
            assert!(text.contains(&ours.root_hash.to_string()), "{blocks} blocks less {short}: {text}");
            assert_eq!(ours.data_blocks, blocks as u64);
            let theirs = fs::read(&hash).unwrap();
            assert!(theirs == ours.bytes, "{blocks} blocks: {} and {}", theirs.len(), ours.bytes.len());
        }
    }

    #[test]
    fn the_parts_it_comes_in_make_no_difference() {
        let data = noise(300 * BLOCK + 77);
        let whole = tree(&data, data.len());
        for part in [1000, 4096, 4097, 65_536] {
            assert_eq!(tree(&data, part), whole);
        }
        let mut other = data;
        other[200 * BLOCK] ^= 1;
        assert_ne!(tree(&other, 4096).root_hash, whole.root_hash);
    }
}
