//! The root: its proven tree, dm-verity, squashfs and overlay over it, and its init. Where its blocks come from is
//! told by [`crate::whole`] and [`crate::stream`].

use crate::{
    blocks::{self, Table},
    failure::{Doing, Result, failed},
    fetch,
    manifest::RootFs,
    verity::Tree,
};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags},
    mount::MountFlags,
};
use std::{
    ffi::CStr,
    fs::{self, File},
    net::SocketAddrV4,
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

/// Where the new root is put together.
pub const NEW_ROOT: &str = "/newroot";
const LOWER: &str = "/lower";
const WRITABLE: &str = "/writable";
/// Memory that stays for the kernel and the first processes of the image.
const SPARE: u64 = 48 << 20;

/// Available memory in bytes (/proc/meminfo).
pub fn memory(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Fails, with figures, where so many bytes for `what` would not fit.
pub fn check_memory(bytes: u64, what: &str) -> Result<()> {
    let (Some(available), Some(total)) = (memory("MemAvailable"), memory("MemTotal")) else { return Ok(()) };
    let need = bytes.saturating_add(SPARE);
    if need > available {
        return failed(format!(
            "too little memory: {what} needs {} MiB and {} of {} MiB are free. Give the machine {} MiB or more, or \
             make the image smaller",
            mib(need),
            mib(available),
            mib(total),
            mib(total.saturating_add(need - available)).next_multiple_of(256)
        ));
    }
    Ok(())
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// A file in memory that can later be sealed.
pub fn memory_file(name: &str, size: u64) -> Result<File> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .doing("make a memory file")?;
    let file = File::from(fd);
    file.set_len(size).doing("size a memory file")?;
    Ok(file)
}

/// Nothing, not even we, may change it from here on.
pub fn seal(file: &File) -> Result<()> {
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    // One that was streamed may have been sealed by a process that died right after.
    if rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(all)) {
        return Ok(());
    }
    rustix::fs::fcntl_add_seals(file, all).doing("seal a memory file")
}

/// The rootfs's tree: proven, and in a sealed file in memory, which becomes the kernel's hash device.
#[derive(Debug)]
pub struct Proven {
    /// To check blocks against.
    pub tree: Tree,
    /// The same bytes.
    pub file: File,
}

/// Fetches the tree and proves it by the root hash.
pub fn fetch_tree(server: SocketAddrV4, attempt: &str, rootfs: &RootFs) -> Result<Proven> {
    let wanted = rootfs.verity.tree;
    let path = format!("/blobs/{}?boot={attempt}", wanted.digest);
    let bytes = fetch::whole(server, &path, Some(wanted.size), 0, "the verity tree")?;
    let tree = rootfs.tree(bytes)?;
    let file = memory_file("pristine-verity", wanted.size)?;
    file.write_all_at(tree.bytes(), 0).doing("keep the verity tree in memory")?;
    seal(&file)?;
    Ok(Proven { tree, file })
}

/// Mounts the rootfs on the device `data` read-only, each block proven by `tree` as it is read, under a writable
/// layer in memory, at [`NEW_ROOT`]. So many bytes of the rootfs will still come into memory.
pub fn mount(data: &str, tree: &File, rootfs: &RootFs, to_come: u64) -> Result<()> {
    let verity = &rootfs.verity;
    let tree = blocks::attach(tree, "pristine-verity")?;
    let parameters = format!(
        "1 {data} {tree} 4096 4096 {} 0 sha256 {} {}",
        verity.data_blocks, verity.root_hash, verity.salt
    );
    let table = Table { sectors: rootfs.sectors(), kind: "verity", parameters: &parameters };
    let device = blocks::make_mapped("pristine-root", &table).or_else(|why| {
        failed(format!(
            "{why} (does the image's initramfs have the dm-verity and sha256 modules for its kernel?)"
        ))
    })?;
    for dir in [LOWER, WRITABLE, NEW_ROOT] {
        fs::create_dir_all(dir).doing(format!("make {dir}"))?;
    }
    rustix::mount::mount(&device, LOWER, "squashfs", MountFlags::RDONLY | MountFlags::NODEV, None)
        .doing("mount the rootfs (does this kernel have squashfs with this compression?)")?;
    // Half of what is left: the rest is for processes.
    let size = memory("MemAvailable").unwrap_or(256 << 20).saturating_sub(to_come) / 2;
    mount_with(c"tmpfs", WRITABLE, "tmpfs", MountFlags::empty(), &format!("mode=0755,size={size}"))?;
    for dir in ["upper", "work"] {
        let dir = Path::new(WRITABLE).join(dir);
        fs::create_dir(&dir).doing("prepare the writable layer")?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).doing("prepare the writable layer")?;
    }
    let layers = format!("lowerdir={LOWER},upperdir={WRITABLE}/upper,workdir={WRITABLE}/work");
    mount_with(c"overlay", NEW_ROOT, "overlay", MountFlags::empty(), &layers)?;
    for dir in ["dev", "proc", "sys", "run"] {
        fs::create_dir_all(Path::new(NEW_ROOT).join(dir)).doing(format!("make /{dir} in the new root"))?;
    }
    Ok(())
}

/// mount(2) with data; says what and where when it fails.
pub fn mount_with(source: &CStr, target: &str, kind: &str, flags: MountFlags, data: &str) -> Result<()> {
    let data = std::ffi::CString::new(data).doing("write mount options")?;
    rustix::mount::mount(source, target, kind, flags, Some(data.as_c_str()))
        .doing(format!("mount {kind} at {target}"))
}

/// The image's init: `wanted` (init= of the command line) or the usual places; must be there and
/// executable, links followed within the new root.
pub fn find_init(wanted: Option<&str>) -> Result<String> {
    let root = File::open(NEW_ROOT).doing("open the new root")?;
    let runs = |path: &str| {
        rustix::fs::openat2(
            &root,
            path.trim_start_matches('/'),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
        .and_then(rustix::fs::fstat)
        .is_ok_and(|stat| {
            let mode = stat.st_mode;
            mode & libc::S_IFMT == libc::S_IFREG && mode & 0o111 != 0
        })
    };
    let usual = ["/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/etc/init", "/bin/init"];
    let candidates: Vec<&str> = wanted.map_or(usual.to_vec(), |w| vec![w]);
    match candidates.iter().find(|path| runs(path)) {
        Some(path) => Ok((*path).to_owned()),
        None => failed(format!(
            "the image has no init: {} not there or not executable in its rootfs",
            candidates.join(", ")
        )),
    }
}
