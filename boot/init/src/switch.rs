//! The step from the initramfs into the new root.

use crate::{
    failure::{Doing, Failure, Result, failed},
    root::NEW_ROOT,
};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// Moves the kernel's file systems into the new root, makes it the root, frees the initramfs's memory
/// and becomes the image's init. Returns only when it failed.
pub fn switch_root(init: &str) -> Failure {
    match go(init) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn go(init: &str) -> Result<std::convert::Infallible> {
    let old = open_dir(rustix::fs::CWD, "/").doing("open the initramfs")?;
    for dir in ["dev", "proc", "sys", "run"] {
        rustix::mount::mount_move(format!("/{dir}"), format!("{NEW_ROOT}/{dir}"))
            .doing(format!("move /{dir} into the new root"))?;
    }
    std::env::set_current_dir(NEW_ROOT).doing("enter the new root")?;
    rustix::mount::mount_move(".", "/").doing("put the new root in place")?;
    rustix::process::chroot(".").doing("change to the new root")?;
    std::env::set_current_dir("/").doing("change to the new root")?;
    empty(&old);
    drop(old);
    // The kernel's own words for init (`single`, for one) go on to it.
    let error = Command::new(init).args(std::env::args_os().skip(1)).exec();
    failed(format!("could not start {init} of the image: {error}"))
}

fn open_dir(at: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Deletes what is on the initramfs, which else takes memory for ever. Only ever on a file system in
/// memory, and never across into another one: the mounts of the new root hang below it.
fn empty(old: &OwnedFd) {
    let in_memory = rustix::fs::fstatfs(old).is_ok_and(|s| {
        let magic = s.f_type as u64 & 0xffff_ffff;
        magic == TMPFS_MAGIC || magic == RAMFS_MAGIC
    });
    let device = rustix::fs::fstat(old).map(|s| s.st_dev);
    if let (true, Ok(device)) = (in_memory, device) {
        delete_below(old, device, 0);
    }
}

fn delete_below(dir: &OwnedFd, device: u64, depth: u32) {
    let Ok(entries) = Dir::read_from(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if stat.st_dev != device {
            continue;
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if depth < 64
                && let Ok(sub) = open_dir(dir, name)
            {
                delete_below(&sub, device, depth + 1);
            }
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
        } else {
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
    }
}
