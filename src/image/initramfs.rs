//! The native initramfs: Pristine's `init` and the modules of the image's own kernel.
//!
//! What `boot/init` finds in it:
//! - `/init`: itself;
//! - `/lib/modules/VERSION/` with the modules unpacked at the paths that `modules.dep` names, and depmod's
//!   text lists `modules.dep`, `modules.alias` and `modules.softdep`, reduced to what is there, and
//!   `modules.builtin` whole;
//! - `/lib/firmware/` with what those modules may ask for, where they come from a root that has it;
//! - `/etc/pristine/trusted-keys` and `trusted-images`, where it carries keys;
//! - `/dev/console` and empty folders `/dev`, `/proc`, `/sys`, `/run`, `/tmp`, `/root`.

use super::{
    cpio::Cpio,
    firmware::Firmware,
    modules::{
        HELPFUL, Modules, ModulesError, ModulesFrom, REQUIRED, SERVER_NICS, STORAGE, VIRTUAL_NICS, name_of,
        plain_path,
    },
    packing::{Packer, Packing},
};
use crate::model::Arch;
use flate2::read::MultiGzDecoder;
use pristine_signature::{Carried, CarriedError};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Seek as _, Write},
    path::{Path, PathBuf},
};

/// Where a packaged `init` lies.
const PACKAGED_INIT: &str = "/usr/lib/pristine/pristine-init";

/// What goes in.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Where the kernel's modules are.
    pub modules: ModulesFrom,
    /// The `pristine-init` binary, statically linked.
    pub init: PathBuf,
    /// Which NIC drivers.
    pub nics: Nics,
    /// Drivers of disks too.
    pub storage: bool,
    /// More modules, by name.
    pub extra: Vec<String>,
    /// Keys without whose signature it boots nothing.
    pub carried: Option<Carried>,
    /// How it is packed. Costs the machine some CPU and saves the link two thirds.
    pub packing: Packing,
}

/// Which NIC drivers an initramfs gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Nics {
    /// Those of servers and of virtual machines.
    #[default]
    All,
    /// Those of virtual machines only: smaller, boots faster.
    Virtual,
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The kernel that it fits.
    pub kernel_version: String,
    /// What init runs on, where Pristine knows that.
    pub arch: Option<Arch>,
    /// Modules in it.
    pub modules: usize,
    /// Firmware files in it.
    pub firmware: usize,
    /// Modules in it that name firmware of which the root has none.
    pub lacking: Vec<String>,
    /// Bytes before compression.
    pub unpacked: u64,
}

/// Why an initramfs can't be built.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// The modules.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// No init anywhere.
    #[error("there is no pristine-init at {}: build it (`make init`), or name it with --init", tried.join(", "))]
    NoInit {
        /// Where it was looked for.
        tried: Vec<String>,
    },
    /// A file that isn't one to start with.
    #[error("{path} can't be the init of an image: {why}")]
    BadInit {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Keys to carry that init would refuse.
    #[error("can't carry these keys: {0}")]
    Carried(#[from] CarriedError),
    /// Reading or writing failed.
    #[error("can't build the initramfs: {0}")]
    Io(#[from] io::Error),
}

/// The `pristine-init` to use where none is named: beside this program, else the packaged one.
pub fn default_init() -> Result<PathBuf, InitramfsError> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("pristine-init")));
    let tried: Vec<PathBuf> = beside.into_iter().chain([PathBuf::from(PACKAGED_INIT)]).collect();
    let names = || tried.iter().map(|p| p.display().to_string()).collect();
    tried.iter().find(|p| p.is_file()).cloned().ok_or_else(|| InitramfsError::NoInit { tried: names() })
}

/// Builds the archive into `out`. The same input gives the same bytes.
pub fn build(recipe: &Recipe, out: impl Write) -> Result<Built, InitramfsError> {
    recipe.carried.as_ref().map_or(Ok(()), Carried::check)?;
    let init = read_init(&recipe.init)?;
    let modules = Modules::open(&recipe.modules)?;
    modules.require(REQUIRED)?;
    let nics = if recipe.nics == Nics::All { SERVER_NICS } else { &[] };
    let disks = if recipe.storage { STORAGE } else { &[] };
    let wanted = REQUIRED.iter().chain(HELPFUL).chain(VIRTUAL_NICS).chain(nics).chain(disks).copied();
    let paths = modules.closure(wanted.chain(recipe.extra.iter().map(String::as_str)));

    let mut out = Packer::new(recipe.packing, out)?;
    let mut cpio = Cpio::new(Counted { out: &mut out, bytes: 0 });
    for dir in ["dev", "proc", "root", "run", "sys", "tmp"] {
        cpio.dir(dir)?;
    }
    cpio.char_device("dev/console", 5, 1)?;
    cpio.file("init", 0o755, &init)?;
    if let Some(carried) = &recipe.carried {
        cpio.dir("etc")?;
        cpio.dir("etc/pristine")?;
        cpio.file("etc/pristine/trusted-keys", 0o644, carried.keys_file().as_bytes())?;
        if let Some(images) = carried.images_file() {
            cpio.file("etc/pristine/trusted-images", 0o644, images.as_bytes())?;
        }
    }
    let base = format!("lib/modules/{}", modules.version());
    let full: Vec<String> = paths.iter().map(|path| format!("{base}/{}", plain_path(path))).collect();
    for dir in dirs_of(full.iter().map(String::as_str).chain([format!("{base}/x").as_str()])) {
        cpio.dir(&dir)?;
    }
    let mut firmware = Firmware::default();
    for (path, to) in paths.iter().zip(&full) {
        let module = modules.read(path)?;
        cpio.file(to, 0o644, &module)?;
        if let ModulesFrom::Root(root, release) = &recipe.modules {
            firmware.add(root, release, &name_of(path), &module).map_err(ModulesError::from)?;
        }
    }
    let lists = [
        ("modules.alias", modules.reduced_list("modules.alias", &paths)?),
        ("modules.builtin", modules.list("modules.builtin")?.unwrap_or_default()),
        ("modules.dep", modules.reduced_dep(&paths)),
        ("modules.softdep", modules.reduced_list("modules.softdep", &paths)?),
    ];
    for (name, text) in lists {
        cpio.file(&format!("{base}/{name}"), 0o644, text.as_bytes())?;
    }
    let dirs = dirs_of(firmware.files.keys().map(String::as_str));
    for dir in dirs.iter().filter(|dir| dir.as_str() != "lib") {
        cpio.dir(dir)?;
    }
    for (path, bytes) in &firmware.files {
        cpio.file(path, 0o644, bytes)?;
    }
    let unpacked = cpio.finish()?.bytes;
    out.finish()?;
    Ok(Built {
        kernel_version: modules.version().to_owned(),
        arch: elf_arch(&init),
        modules: paths.len(),
        firmware: firmware.files.len(),
        lacking: firmware.lacking,
        unpacked,
    })
}

/// What Pristine's init calls itself on the wire, and so has in its bytes.
const INIT_MARK: &[u8] = b"pristine-init";
/// Init is near the front of what [`build`] makes.
const LOOKED_AT: u64 = 64 << 20;

/// True where an archive (plain, or packed with gzip, zstd or xz) has Pristine's init in it.
pub fn holds_our_init(mut file: &fs::File) -> io::Result<bool> {
    file.rewind()?;
    let mut magic = Vec::new();
    file.take(4).read_to_end(&mut magic)?;
    file.rewind()?;
    // What can't be unpacked here holds no init that a kernel could find.
    let found = match magic.as_slice() {
        [0x1f, 0x8b, ..] => find_mark(MultiGzDecoder::new(file)).unwrap_or(false),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            zstd::stream::read::Decoder::new(file).and_then(find_mark).unwrap_or(false)
        }
        [0xfd, b'7', b'z', b'X'] => find_mark(liblzma::read::XzDecoder::new(file)).unwrap_or(false),
        _ => find_mark(file)?,
    };
    file.rewind()?;
    Ok(found)
}

fn find_mark(from: impl Read) -> io::Result<bool> {
    let mut from = from.take(LOOKED_AT);
    let mut seen = Vec::new();
    loop {
        // What a mark across two parts needs of the one before.
        seen.drain(..seen.len().saturating_sub(INIT_MARK.len()));
        if (&mut from).take(1 << 20).read_to_end(&mut seen)? == 0 {
            return Ok(false);
        }
        if seen.windows(INIT_MARK.len()).any(|part| part == INIT_MARK) {
            return Ok(true);
        }
    }
}

/// Every folder on the way to `paths`, parents first.
fn dirs_of<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let ways = paths.flat_map(|path| path.match_indices('/').filter_map(|(at, _)| path.get(..at)));
    ways.map(str::to_owned).collect()
}

/// An init that needs a dynamic loader would panic the kernel with a riddle: say it here.
fn read_init(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    let bad = |why: &str| InitramfsError::BadInit { path: path.to_owned(), why: why.to_owned() };
    let bytes = fs::read(path).map_err(|e| bad(&e.to_string()))?;
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Err(bad("it is not a 64-bit ELF program"));
    }
    let u16_at = |at: usize| bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
    let u64_at = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let table = u64_at(32).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let (size, count) = (u16_at(54).unwrap_or(0), u16_at(56).unwrap_or(0));
    for i in 0..count {
        let at = table.saturating_add(usize::from(i) * usize::from(size));
        let kind = at.checked_add(4).and_then(|end| bytes.get(at..end));
        // PT_INTERP = 3: asks for a dynamic loader.
        if kind == Some(&[3, 0, 0, 0]) {
            return Err(bad(
                "it is dynamically linked; build it with RUSTFLAGS=-Ctarget-feature=+crt-static",
            ));
        }
    }
    Ok(bytes)
}

/// What a 64-bit ELF program runs on (ELF header, e_machine).
fn elf_arch(program: &[u8]) -> Option<Arch> {
    match program.get(18..20)? {
        [62, 0] => Some(Arch::X86_64),
        [183, 0] => Some(Arch::Aarch64),
        [243, 0] => Some(Arch::Riscv64),
        [2, 1] => Some(Arch::Loongarch64),
        _ => None,
    }
}

struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::testing::TempDir;
    use pristine_signature::{Allowed, PublicKey};
    use std::process::Command;

    fn kernel_modules(dir: &Path, names: &[&str]) -> PathBuf {
        let m = dir.join("6.1.0-9-test");
        fs::create_dir_all(m.join("kernel")).unwrap();
        let dep: String = names.iter().map(|n| format!("kernel/{n}.ko:\n")).collect();
        fs::write(m.join("modules.dep"), dep).unwrap();
        fs::write(m.join("modules.builtin"), "kernel/overlay.ko\nkernel/loop.ko\n").unwrap();
        for name in names {
            fs::write(m.join(format!("kernel/{name}.ko")), name.repeat(1000)).unwrap();
        }
        m
    }

    fn recipe(modules: PathBuf) -> Recipe {
        let init = PathBuf::from("/bin/busybox");
        Recipe {
            modules: ModulesFrom::Folder(modules),
            init,
            nics: Nics::Virtual,
            storage: false,
            extra: vec!["wanted".into()],
            carried: None,
            packing: Packing::Gzip,
        }
    }

    #[test]
    fn holds_init_and_the_modules_of_a_boot_and_builds_alike_twice() {
        let dir = TempDir::new();
        let all = ["squashfs", "dm_mod", "dm-verity", "virtio_net", "wanted", "snd_hda", "igb"];
        let recipe = recipe(kernel_modules(dir.path(), &all));
        let build = || {
            let mut out = Vec::new();
            (super::build(&recipe, &mut out).unwrap(), out)
        };
        let (built, bytes) = build();
        assert_eq!((built.kernel_version.as_str(), built.modules), ("6.1.0-9-test", 5));
        assert_eq!(build().1, bytes);
        fs::write(dir.path().join("i.gz"), bytes).unwrap();
        let out = Command::new("sh")
            .current_dir(dir.path())
            .args(["-c", "zcat i.gz | cpio -idm --quiet && find . -name '*.ko' -path './lib/*' | sort && cat lib/modules/6.1.0-9-test/modules.dep"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert_eq!(text.matches("kernel/dm-verity.ko").count(), 2, "{text}");
        assert!(
            text.contains("virtio_net.ko") && !text.contains("snd_hda") && !text.contains("igb"),
            "{text}"
        );
        assert_eq!(fs::read(dir.path().join("init")).unwrap(), fs::read("/bin/busybox").unwrap());
    }

    #[test]
    fn carries_keys_where_init_looks_for_them_and_none_that_it_would_refuse() {
        let dir = TempDir::new();
        let key = PublicKey::parse("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3").unwrap();
        let web = Allowed { name: "web".into(), not_before: 5 };
        let carried = Carried { keys: vec![key], images: vec![web.clone()] };
        let all = ["squashfs", "dm_mod", "dm-verity"];
        let recipe = Recipe {
            carried: Some(carried.clone()),
            packing: Packing::Plain,
            ..recipe(kernel_modules(dir.path(), &all))
        };
        let mut out = Vec::new();
        super::build(&recipe, &mut out).unwrap();
        fs::write(dir.path().join("i"), out).unwrap();
        let unpack = ["-c", "cpio -idm --quiet < i"];
        assert!(Command::new("sh").current_dir(dir.path()).args(unpack).status().unwrap().success());
        let read = |name: &str| fs::read_to_string(dir.path().join("etc/pristine").join(name)).unwrap();
        let (keys, images) = (read("trusted-keys"), read("trusted-images"));
        assert_eq!(Carried::parse(&keys, Some(&images)), Ok(carried.clone()));

        let twice = Carried { images: vec![web.clone(), web], ..carried };
        let refused = super::build(&Recipe { carried: Some(twice), ..recipe }, io::sink()).unwrap_err();
        assert!(refused.to_string().contains("web is there twice"), "{refused}");
    }

    #[test]
    fn says_what_is_wrong_before_a_kernel_would_panic() {
        let dir = TempDir::new();
        let modules = kernel_modules(dir.path(), &["squashfs", "dm_mod"]);
        let said = |r: Recipe| super::build(&r, io::sink()).unwrap_err().to_string();
        assert!(said(recipe(modules.clone())).contains("dm_verity"));
        let dynamic = Recipe { init: "/bin/sh".into(), ..recipe(modules.clone()) };
        assert!(said(dynamic).contains("dynamically linked"));
        let script = Recipe { init: modules.join("modules.dep"), ..recipe(modules) };
        assert!(said(script).contains("not a 64-bit ELF"));
        let nowhere = recipe(dir.path().into());
        assert!(said(nowhere).contains("modules.dep"));
    }
}
