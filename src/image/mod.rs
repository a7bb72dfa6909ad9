//! Making images: squashfs checks, dm-verity trees, initramfs archives, import.
