//! Is this a squashfs that a kernel can mount? By its superblock (kernel
//! `fs/squashfs/squashfs_fs.h`, `Documentation/filesystems/squashfs.rst`).

mod block;
mod data;
mod ids;
mod inodes;
mod pool;
mod table;
pub mod write;

use std::fmt;

/// Bytes of a superblock.
pub const SUPERBLOCK: usize = 96;

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Compressor {
    Gzip,
    Lzo,
    Xz,
    Lz4,
    Zstd,
}

impl fmt::Display for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compressor::Gzip => "gzip",
            Compressor::Lzo => "lzo",
            Compressor::Xz => "xz",
            Compressor::Lz4 => "lz4",
            Compressor::Zstd => "zstd",
        })
    }
}

/// What a superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Files, folders and all else.
    pub inodes: u32,
    /// Bytes of a data block before compression.
    pub block_size: u32,
    /// How blocks are compressed.
    pub compressor: Compressor,
    /// Bytes that the file system takes; padding may follow.
    pub bytes_used: u64,
}

/// Why a file is no rootfs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SquashfsError {
    /// Something else.
    #[error("it is not a squashfs{}: make one with mksquashfs", looks_like.map(|l| format!(" but {l}")).unwrap_or_default())]
    NotSquashfs {
        /// What it is, where that can be told.
        looks_like: Option<&'static str>,
    },
    /// From before 2009, or for a machine of the other byte order.
    #[error("it is a big-endian squashfs, which no kernel since 2.6.29 mounts: make it anew with mksquashfs")]
    BigEndian,
    /// Another format version.
    #[error("it is squashfs version {0}.{1}, and kernels mount 4.0: make it anew with mksquashfs")]
    Version(u16, u16),
    /// The end is missing.
    #[error("it is cut short: its superblock says {needs} bytes, the file has {has}; copy it again")]
    Short {
        /// What the superblock says.
        needs: u64,
        /// What is there.
        has: u64,
    },
    /// A compressor that kernels don't have.
    #[error(
        "it is compressed with {0}, which kernels can't read: make it with -comp zstd, xz, lz4, lzo or gzip"
    )]
    Compressor(String),
    /// No root file system.
    #[error("it has 4,096 bytes or fewer, in which there is no system to boot: check what it was made of")]
    TooSmall,
    /// Numbers that contradict each other.
    #[error("its superblock is damaged ({0}); copy it again or make it anew")]
    Damaged(&'static str),
}

/// Reads the superblock at the start of `head` of a file with `file_size` bytes.
pub fn check(head: &[u8], file_size: u64) -> Result<Superblock, SquashfsError> {
    match head.get(..4) {
        Some(b"hsqs") => {}
        Some(b"sqsh") => return Err(SquashfsError::BigEndian),
        _ => return Err(SquashfsError::NotSquashfs { looks_like: guess(head) }),
    }
    let short = SquashfsError::Short { needs: SUPERBLOCK as u64, has: file_size };
    let sb: &[u8; SUPERBLOCK] = head.get(..SUPERBLOCK).and_then(|b| b.try_into().ok()).ok_or(short)?;
    let u16_at = |at: usize| u16::from_le_bytes([at, at + 1].map(|i| sb.get(i).copied().unwrap_or(0)));
    let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;

    let version = (u16_at(28), u16_at(30));
    if version != (4, 0) {
        return Err(SquashfsError::Version(version.0, version.1));
    }
    let (block_size, block_log) = (u32_at(12), u16_at(22));
    let sane = block_size.is_power_of_two() && (4096..=1 << 20).contains(&block_size);
    if !sane || block_size.trailing_zeros() != u32::from(block_log) {
        return Err(SquashfsError::Damaged("its block size makes no sense"));
    }
    let compressor = match u16_at(20) {
        1 => Compressor::Gzip,
        2 => return Err(SquashfsError::Compressor("lzma".into())),
        3 => Compressor::Lzo,
        4 => Compressor::Xz,
        5 => Compressor::Lz4,
        6 => Compressor::Zstd,
        other => return Err(SquashfsError::Compressor(format!("method {other}"))),
    };
    let bytes_used = u64_at(40);
    if bytes_used > file_size {
        return Err(SquashfsError::Short { needs: bytes_used, has: file_size });
    }
    // Id, inode and directory tables are always there, within what is used.
    let inside = |at: usize| (SUPERBLOCK as u64..bytes_used).contains(&u64_at(at));
    if !(inside(48) && inside(64) && inside(72)) {
        return Err(SquashfsError::Damaged("its tables lie outside of it"));
    }
    Ok(Superblock { inodes: u32_at(4), block_size, compressor, bytes_used })
}

/// What else the initramfs of another system takes for its root, in words.
pub fn other_root(head: &[u8]) -> Option<&'static str> {
    let at = |from: usize, magic: &[u8]| head.get(from..).is_some_and(|rest| rest.starts_with(magic));
    if at(0x400, b"\xe2\xe1\xf5\xe0") {
        Some("EROFS")
    } else if at(0x8001, b"CD001") {
        Some("ISO 9660")
    } else if at(0, b"07070") {
        Some("cpio archive")
    } else {
        None
    }
}

/// What people give by mistake.
fn guess(head: &[u8]) -> Option<&'static str> {
    let at = |from: usize, magic: &[u8]| head.get(from..).is_some_and(|rest| rest.starts_with(magic));
    if head.is_empty() {
        Some("an empty file")
    } else if at(0, b"\x1f\x8b") {
        Some("gzip data")
    } else if at(0, b"\xfd7zXZ") {
        Some("xz data")
    } else if at(0, b"\x28\xb5\x2f\xfd") {
        Some("zstd data")
    } else if at(0x438, b"\x53\xef") {
        Some("an ext2/3/4 file system")
    } else if at(0x400, b"\xe2\xe1\xf5\xe0") {
        Some("an erofs file system")
    } else if at(257, b"ustar") {
        Some("a tar archive")
    } else if at(0x8001, b"CD001") {
        Some("an ISO 9660 image; the squashfs is a file in it")
    } else if head.iter().all(|b| *b == 0) {
        Some("nothing but zeros")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::store::testing::TempDir;
    use std::{fs, process::Command};

    fn real(comp: &str) -> Vec<u8> {
        let dir = TempDir::new();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "text").unwrap();
        let file = dir.path().join("sq");
        let out = Command::new("mksquashfs").arg(&root).arg(&file).args(["-comp", comp]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        fs::read(file).unwrap()
    }

    #[test]
    fn reads_what_mksquashfs_makes() {
        for (name, comp) in [
            ("gzip", Compressor::Gzip),
            ("lzo", Compressor::Lzo),
            ("xz", Compressor::Xz),
            ("lz4", Compressor::Lz4),
            ("zstd", Compressor::Zstd),
        ] {
            let bytes = real(name);
            let sb = check(&bytes, bytes.len() as u64).unwrap();
            assert_eq!((sb.compressor, sb.inodes, sb.block_size), (comp, 2, 131_072));
        }
    }

    #[test]
    fn names_what_is_wrong() {
        let good = real("gzip");
        let used = check(&good, good.len() as u64).unwrap().bytes_used;
        assert_eq!(check(&good, used - 1), Err(SquashfsError::Short { needs: used, has: used - 1 }));
        assert!(matches!(check(&good[..50], 50), Err(SquashfsError::Short { .. })));
        let change = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            check(&bad, bad.len() as u64).unwrap_err()
        };
        assert_eq!(change(28, 3), SquashfsError::Version(3, 0));
        assert!(matches!(change(20, 2), SquashfsError::Compressor(name) if name == "lzma"));
        assert!(matches!(change(20, 77), SquashfsError::Compressor(_)));
        assert!(matches!(change(12, 1), SquashfsError::Damaged(_)));
        assert!(matches!(change(22, 12), SquashfsError::Damaged(_)));
        assert!(matches!(change(67, 0xff), SquashfsError::Damaged(_)));
        assert_eq!(check(b"sqsh", 4), Err(SquashfsError::BigEndian));
        let said = |bytes: &[u8]| check(bytes, bytes.len() as u64).unwrap_err().to_string();
        assert!(said(b"").contains("an empty file"));
        assert!(said(b"\x1f\x8b\x08").contains("gzip data"));
        assert!(said(b"hello").starts_with("it is not a squashfs:"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(mut head in proptest::collection::vec(proptest::num::u8::ANY, 0..200), size: u64) {
            let _ = check(&head, size);
            if let Some(magic) = head.get_mut(..4) {
                magic.copy_from_slice(b"hsqs");
            }
            let _ = check(&head, size);
        }
    }
}
