use super::{Arch, Digest, Tag};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A blob as a manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

/// An image, as an immutable manifest. The SHA-256 of its [`Manifest::to_bytes`] is the image's
/// identity: whoever checked that digest may trust every digest within.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this document; 1.
    pub schema: u32,
    /// The tag it was imported as. Part of the identity.
    pub tag: Tag,
    /// What the kernel and the userland run on.
    pub arch: Arch,
    /// Linux kernel (bzImage, EFI stub or Image).
    pub kernel: BlobRef,
    /// Initramfs, in the order the loader concatenates them.
    pub initramfs: Vec<BlobRef>,
    /// Root filesystem; an installer or a rescue system may have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<RootFs>,
    /// Kernel command line template; see `netboot::cmdline` for what is put in.
    pub cmdline: String,
    /// True where the initramfs is Pristine's own `init`, which verifies the root and reports its
    /// stages. False for foreign ones (live-boot, dracut), which do neither.
    pub native: bool,
    /// Free text for operators.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where it came from: tool versions, source file names, build log digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provenance: BTreeMap<String, String>,
}

/// A squashfs and what proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFs {
    /// The squashfs itself.
    pub blob: BlobRef,
    /// Its dm-verity tree.
    pub verity: Verity,
}

/// dm-verity parameters (kernel `Documentation/admin-guide/device-mapper/verity.rst`): format 1,
/// SHA-256, 4,096-byte data and hash blocks, no superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verity {
    /// Digest of the tree's root block: what the whole file system hangs on.
    pub root_hash: Digest,
    /// 32 bytes that go in front of each hashed block.
    pub salt: Digest,
    /// 4,096-byte blocks of the rootfs, the last one padded with zeros.
    pub data_blocks: u64,
    /// The hash tree, top level first, as the kernel reads it from block 0 of the hash device.
    pub tree: BlobRef,
}

impl Manifest {
    /// The one encoding that is hashed and stored: JSON with fields in declaration order.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }

    /// Every blob that this image needs, kernel first.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> + '_ {
        let rootfs = self.rootfs.iter().flat_map(|r| [r.blob, r.verity.tree]);
        std::iter::once(self.kernel).chain(self.initramfs.iter().copied()).chain(rootfs)
    }
}

/// A manifest together with its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// SHA-256 of the stored manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
}
