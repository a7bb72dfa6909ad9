//! Making images: squashfs checks, dm-verity trees, initramfs archives, import.

pub mod build;
pub mod copy;
pub mod cpio;
pub mod diff;
pub mod firmware;
pub mod import;
pub mod initramfs;
pub mod input;
pub mod iso;
pub mod kernel;
pub mod live;
pub mod modules;
pub mod packing;
pub mod preset;
pub mod progress;
pub mod signing;
pub mod source;
pub mod spool;
pub mod squash_read;
pub mod squashfs;
pub mod transfer;
pub mod verify;
pub mod verity;
