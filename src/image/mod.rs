//! Making images: squashfs checks, dm-verity trees, initramfs archives, import.

pub mod cpio;
pub mod initramfs;
pub mod modules;
