//! The root: memory files, loop devices, dm-verity, squashfs, overlay, and the step into it.

use crate::{
    console::say,
    failure::{Doing, Result, failed},
    fetch::{self, Problem, Wrong},
    manifest::RootFs,
    sys::{self, Dm},
    verity::{BLOCK, Tree},
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
    time::{Duration, Instant},
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
fn seal(file: &File) -> Result<()> {
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(file, all).doing("seal a memory file")
}

/// The rootfs and its tree, in memory and proven.
#[derive(Debug)]
pub struct Fetched {
    data: File,
    tree: File,
    /// Seconds that the rootfs took, from its first block on.
    pub seconds: f32,
    /// Seconds until its first block came: others went before.
    pub waited: f32,
}

/// Fetches tree and rootfs; every block is proven before it is kept.
pub fn fetch(server: SocketAddrV4, attempt: &str, rootfs: &RootFs) -> Result<Fetched> {
    let verity = &rootfs.verity;
    let path = |digest| format!("/blobs/{digest}?boot={attempt}");
    let bytes =
        fetch::whole(server, &path(verity.tree.digest), Some(verity.tree.size), 0, "the verity tree")?;
    let tree = match Tree::check(bytes, verity.root_hash, verity.salt, verity.data_blocks) {
        Ok(tree) => tree,
        Err(why) => {
            return failed(format!(
                "the verity tree of the rootfs is damaged: {why}. Nothing was run. On the server: pristine image verify"
            ));
        }
    };
    let tree_file = memory_file("pristine-verity", verity.tree.size)?;
    tree_file.write_all_at(tree.bytes(), 0).doing("keep the verity tree in memory")?;
    seal(&tree_file)?;
    let data = memory_file("pristine-rootfs", verity.data_blocks * BLOCK as u64)?;
    let asked = Instant::now();
    let mut progress = None;
    fetch::stream(server, &path(rootfs.blob.digest), rootfs.blob.size, "the rootfs", &mut |at, bytes| {
        let good = bytes
            .chunks(BLOCK)
            .enumerate()
            .find(|(nth, block)| !tree.proves(at / BLOCK as u64 + *nth as u64, block));
        let wrong = good.map(|(nth, _)| nth * BLOCK);
        let proven = bytes.get(..wrong.unwrap_or(bytes.len())).unwrap_or_default();
        data.write_all_at(proven, at).doing("keep the rootfs in memory").map_err(Problem::Fatal)?;
        match wrong {
            Some(offset) => Err(Problem::Wrong(Wrong { at: at + offset as u64 })),
            None => {
                let progress = progress.get_or_insert_with(|| Progress::new(rootfs.blob.size));
                progress.show(at + bytes.len() as u64);
                Ok(())
            }
        }
    })?;
    seal(&data)?;
    let began = progress.map_or(asked, |progress| progress.began);
    let (seconds, waited) = (began.elapsed().as_secs_f32(), began.duration_since(asked).as_secs_f32());
    Ok(Fetched { data, tree: tree_file, seconds, waited })
}

/// A line each tenth, and at least every five seconds.
struct Progress {
    size: u64,
    began: Instant,
    told_tenths: u64,
    told_at: Instant,
}

impl Progress {
    fn new(size: u64) -> Progress {
        let now = Instant::now();
        Progress { size, began: now, told_tenths: 0, told_at: now }
    }

    fn show(&mut self, done: u64) {
        let tenths = done * 10 / self.size.max(1);
        // Tenths of a small image would be many lines within a second.
        let quiet = self.told_at.elapsed() < Duration::from_millis(500) && done < self.size;
        if quiet || (tenths == self.told_tenths && self.told_at.elapsed() < Duration::from_secs(5)) {
            return;
        }
        (self.told_tenths, self.told_at) = (tenths, Instant::now());
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let rate = mb(done) / self.began.elapsed().as_secs_f64().max(0.001);
        say(format!(
            "rootfs {:.0} of {:.0} MB ({} %), {rate:.0} MB/s",
            mb(done),
            mb(self.size),
            done * 100 / self.size.max(1)
        ));
    }
}

/// Mounts the proven rootfs read-only under a writable layer in memory, at [`NEW_ROOT`].
pub fn mount(fetched: Fetched, rootfs: &RootFs) -> Result<()> {
    let verity = &rootfs.verity;
    let data = attach(&fetched.data, "pristine-rootfs")?;
    let tree = attach(&fetched.tree, "pristine-verity")?;
    let parameters = format!(
        "1 {data} {tree} 4096 4096 {} 0 sha256 {} {}",
        verity.data_blocks, verity.root_hash, verity.salt
    );
    let device = make_verity(verity.data_blocks * (BLOCK as u64 / 512), &parameters)?;
    for dir in [LOWER, WRITABLE, NEW_ROOT] {
        fs::create_dir_all(dir).doing(format!("make {dir}"))?;
    }
    rustix::mount::mount(&device, LOWER, "squashfs", MountFlags::RDONLY | MountFlags::NODEV, None)
        .doing("mount the rootfs (does this kernel have squashfs with this compression?)")?;
    // Half of what is left: the rest is for processes.
    let size = memory("MemAvailable").unwrap_or(256 << 20) / 2;
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

/// A read-only loop device over a memory file.
fn attach(file: &File, name: &str) -> Result<String> {
    let control =
        File::options().read(true).write(true).open("/dev/loop-control").doing(
            "open /dev/loop-control (does the image's initramfs have the loop module for its kernel?)",
        )?;
    // Somebody else may take the free one first; nobody does here, but the kernel's contract is this.
    let mut last = None;
    for _ in 0..8 {
        let number = sys::loop_free(&control).doing("find a free loop device")?;
        let path = format!("/dev/loop{number}");
        let device = open_soon(&path)?;
        match sys::loop_configure(&device, file, name) {
            // The device keeps the file; dm-verity, which opens the device next, keeps the device.
            Ok(()) => return Ok(path),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => last = Some(e),
            Err(e) => return Err(e).doing(format!("make {path} show {name}")),
        }
    }
    failed(format!(
        "could not get a loop device for {name}: {}",
        last.map_or("busy".into(), |e| e.to_string())
    ))
}

/// devtmpfs makes nodes a moment after the kernel makes devices.
fn open_soon(path: &str) -> Result<File> {
    let mut result = File::options().read(true).write(true).open(path);
    for _ in 0..100 {
        if result.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        result = File::options().read(true).write(true).open(path);
    }
    result.doing(format!("open {path}"))
}

fn make_verity(sectors: u64, parameters: &str) -> Result<String> {
    const NAME: &str = "pristine-root";
    let control = File::options().read(true).write(true).open("/dev/mapper/control").doing(
        "open /dev/mapper/control (does the image's initramfs have the dm-mod module for its kernel?)",
    )?;
    let number = sys::device_mapper(&control, NAME, Dm::Create).doing("make the dm-verity device")?;
    sys::device_mapper(&control, NAME, Dm::Load(sectors, "verity", parameters)).doing(
        "set up dm-verity (does the image's initramfs have the dm-verity and sha256 modules for its kernel?)",
    )?;
    sys::device_mapper(&control, NAME, Dm::Resume).doing("start dm-verity")?;
    let path = format!("/dev/dm-{}", rustix::fs::minor(number));
    for _ in 0..100 {
        if Path::new(&path).exists() {
            return Ok(path);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    failed(format!("{path} did not appear"))
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
