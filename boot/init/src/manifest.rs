use crate::{
    digest::Digest,
    failure::{Doing, Result, failed},
    verity::{self, BLOCK, Tree},
};
use serde::{Deserialize, Serialize};

/// What `init` needs of an image's manifest. Other fields are the service's business.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    /// Format; 1.
    pub schema: u32,
    /// `name:version`.
    pub tag: String,
    /// The kernel.
    pub kernel: Blob,
    /// Initramfs files, in the order in which they are put behind each other.
    #[serde(default)]
    pub initramfs: Vec<Blob>,
    /// The kernel command line, without what is put in for one boot.
    #[serde(default)]
    pub cmdline: String,
    /// Its initramfs is ours.
    #[serde(default)]
    pub native: bool,
    /// The root file system.
    pub rootfs: Option<RootFs>,
}

/// A squashfs and what proves it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RootFs {
    /// The squashfs.
    pub blob: Blob,
    /// Its dm-verity tree.
    pub verity: Verity,
}

/// A blob by digest and length.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Blob {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// dm-verity parameters.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Verity {
    /// What everything hangs on.
    pub root_hash: Digest,
    /// In front of each hashed block.
    pub salt: Digest,
    /// 4,096-byte blocks of the rootfs.
    pub data_blocks: u64,
    /// The tree, top level first.
    pub tree: Blob,
}

/// Longest manifest that is read.
pub const MAX_MANIFEST: u64 = 1 << 20;

/// Reads a manifest whose digest must be `identity`; with its tag, fit for a console.
pub fn read(bytes: &[u8], identity: Digest) -> Result<(String, Manifest)> {
    if Digest::of(bytes) != identity {
        return failed(format!("the manifest from the server is not image {identity}: it was changed"));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).doing("read the image's manifest")?;
    let tag: String = manifest.tag.chars().filter(char::is_ascii_graphic).take(140).collect();
    if manifest.schema != 1 {
        return failed(format!("image {tag} has manifest format {}; this init reads 1", manifest.schema));
    }
    Ok((tag, manifest))
}

impl RootFs {
    /// Bytes of the device that it lies on: whole blocks.
    pub fn bytes(&self) -> u64 {
        self.verity.data_blocks * BLOCK as u64
    }

    /// The same in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.bytes() / 512
    }

    /// The tree in these bytes, proven by the root hash.
    pub fn tree(&self, bytes: Vec<u8>) -> Result<Tree> {
        let verity = &self.verity;
        Tree::check(bytes, verity.root_hash, verity.salt, verity.data_blocks).or_else(|why| {
            failed(format!(
                "the verity tree of the rootfs is damaged: {why}. Nothing was run. On the server: pristine image verify"
            ))
        })
    }
}

impl Manifest {
    /// The root file system of image `tag`. Its figures must fit each other.
    pub fn rootfs(&self, tag: &str) -> Result<RootFs> {
        let Some(rootfs) = self.rootfs else {
            return failed(format!("image {tag} has no rootfs: import it with --rootfs"));
        };
        let blocks = rootfs.blob.size.div_ceil(BLOCK as u64);
        // 1 TiB: far above any memory, far below what could overflow.
        let fits = (2..=1 << 28).contains(&blocks)
            && rootfs.verity.data_blocks == blocks
            && rootfs.verity.tree.size == verity::tree_len(blocks);
        if !fits {
            return failed(format!("the figures in the manifest of image {tag} do not fit each other"));
        }
        Ok(rootfs)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn manifest(size: u64, blocks: u64, tree: u64) -> String {
        let hex = "ab".repeat(32);
        format!(
            r#"{{"schema":1,"tag":"web:2","arch":"x86_64","kernel":{{"digest":"{hex}","size":1}},"native":true,
            "rootfs":{{"blob":{{"digest":"{hex}","size":{size}}},"verity":{{"root_hash":"{hex}","salt":"{hex}",
            "data_blocks":{blocks},"tree":{{"digest":"{hex}","size":{tree}}}}}}}}}"#
        )
    }

    #[test]
    fn takes_only_the_pinned_manifest_with_figures_that_fit() {
        let good = manifest(4096 * 129 - 5, 129, 3 * 4096);
        let (tag, whole) = read(good.as_bytes(), Digest::of(good.as_bytes())).unwrap();
        let rootfs = whole.rootfs(&tag).unwrap();
        assert_eq!((tag.as_str(), rootfs.verity.data_blocks), ("web:2", 129));
        assert!(read(good.as_bytes(), Digest([0; 32])).unwrap_err().0.contains("changed"));
        for (size, blocks, tree) in
            [(4096 * 129, 128, 4096), (4096 * 129, 129, 4096), (1, 1, 0), (u64::MAX, 1 << 52, 4096)]
        {
            let lying = manifest(size, blocks, tree);
            let (tag, whole) = read(lying.as_bytes(), Digest::of(lying.as_bytes())).unwrap();
            assert!(whole.rootfs(&tag).is_err(), "{size}");
        }
    }
}
