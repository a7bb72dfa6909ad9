//! An image from a root: its own kernel, an initramfs for that, and all of it as a squashfs.
//!
//! ```text
//! recipe.rs: mmdebstrap
//!    │ tar
//! source::open ─ Tree ─┬─ kernel.rs: which kernel ──────────── kernel ─────┐
//!                      ├─ initramfs.rs: init, modules, firmware ─ initramfs ┼─ import::import
//!                      └─ squashfs/write.rs ────────────────── rootfs ─────┘
//! ```
//!
//! The same source and the same versions of Pristine and of its init give the same bytes everywhere: no clock,
//! no name of this machine and no path of it is in them.

pub mod check;
pub mod kernel;
pub mod recipe;

use super::{
    initramfs::{self, InitramfsError, Nics},
    input::Input,
    modules::ModulesFrom,
    packing::Packing,
    progress::Progress,
    source::{self, Kind, Options, Show, SourceError, Tree, TreeError},
    spool,
    squashfs::write::{self, WriteError, WriteOptions},
};
use crate::model::{Arch, Tag};
use kernel::{Found, RootKernelError};
use pristine_signature::Carried;
use recipe::{Recipe, RecipeError};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
};

/// Where a machine looks for what it runs first, in this order (`boot/init/src/root.rs`).
const INITS: [&str; 5] = ["/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/etc/init", "/bin/init"];

/// Bytes of a kernel: the largest have a tenth.
const MAX_KERNEL: u64 = 256 << 20;

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What of.
    pub source: Source,
    /// Which image it will be: recipes may differ by version.
    pub tag: Tag,
    /// How to read it.
    pub options: Options,
    /// The release of the kernel to boot; the newest where it is `None`.
    pub kernel_version: Option<String>,
    /// What goes into the initramfs.
    pub native: Native,
    /// Kernel command line template.
    pub cmdline: String,
    /// No later time is kept: seconds since 1970.
    pub clamp_mtime: Option<i64>,
    /// Keep what boot loaders read in /boot. A machine has its kernel and initramfs from the server, and the
    /// root in its memory: kernels, initramfs and symbol tables there would only fill it.
    pub keep_boot: bool,
}

/// Names in /boot that only boot loaders and debuggers read.
const BOOT_FILES: [&[u8]; 7] =
    [b"vmlinuz", b"vmlinux", b"initrd", b"initramfs", b"System.map", b"Image", b"kernel"];

/// What an image is built of.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder, an archive or an OCI image.
    Path(PathBuf),
    /// A recipe.
    Recipe(Box<Recipe>),
}

impl Source {
    /// How messages name it.
    fn shown(&self) -> PathBuf {
        match self {
            Source::Path(path) => path.clone(),
            Source::Recipe(recipe) => recipe.shown(),
        }
    }
}

/// What goes into the initramfs, beside what the root says.
#[derive(Clone, Debug)]
pub struct Native {
    /// The `pristine-init` binary, statically linked.
    pub init: PathBuf,
    /// Which NIC drivers.
    pub nics: Nics,
    /// More modules, by name.
    pub extra: Vec<String>,
    /// Keys without whose signature it boots nothing.
    pub carried: Option<Carried>,
    /// How it is packed; as the kernel's configuration says where it is `None`.
    pub packing: Option<Packing>,
}

/// The parts of an image, not in the store yet: in temporary files without names.
#[derive(Clone, Debug)]
pub struct Made {
    /// What the squashfs has in it.
    pub tree: Arc<Tree>,
    /// The kernel.
    pub kernel: Input,
    /// The initramfs.
    pub initramfs: Input,
    /// The squashfs.
    pub rootfs: Input,
    /// Where it came from, with the build's log.
    pub provenance: BTreeMap<String, String>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// Why an image can't be built. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Its kernel.
    #[error("{source_path}: {source}")]
    Kernel {
        /// The source.
        source_path: PathBuf,
        /// What is wrong.
        source: RootKernelError,
    },
    /// Something in it can't be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// It would not run.
    #[error(
        "{source_path}: there is no init in it ({places}: none is a program): a container's root often lacks what a server starts first; install one (Debian: systemd-sysv), or name it by init= on the command line"
    )]
    NoInit {
        /// The source.
        source_path: PathBuf,
        /// Where it was looked for.
        places: String,
    },
    /// The initramfs.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// Kernel and init don't fit.
    #[error(
        "pristine-init is built for {init}, but the root's kernel `{path}` is for {kernel}: name the other build with --init, or choose with --platform"
    )]
    WrongInit {
        /// The kernel.
        path: String,
        /// What it runs on.
        kernel: Arch,
        /// What init runs on.
        init: String,
    },
    /// The squashfs.
    #[error(transparent)]
    Rootfs(#[from] WriteError),
    /// No room for what is made.
    #[error(
        "can't write a temporary file in {dir}: {source}: kernel, initramfs and root are made there, name a folder with more room in TMPDIR"
    )]
    Spool {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads the source and makes the parts.
pub fn make(plan: &Plan, progress: &dyn Progress) -> Result<Made, BuildError> {
    let (tree, mut provenance) = open(plan, progress)?;
    let found = kernel::find(&tree, plan.kernel_version.as_deref())
        .map_err(|source| BuildError::Kernel { source_path: plan.source.shown(), source })?;
    check_init(plan, &tree)?;

    let kernel = copy_kernel(plan, &tree, &found)?;
    let packing = plan.native.packing;
    let packing = packing.unwrap_or_else(|| Packing::best(found.config.as_deref().unwrap_or_default()));
    let (initramfs, built) = make_initramfs(plan, &tree, &found, packing, progress)?;
    let (tree, left_out) = if plan.keep_boot { (tree, Vec::new()) } else { without_boot_files(&tree)? };
    let file = spool(plan)?;
    let options = WriteOptions { clamp_mtime: plan.clamp_mtime, threads: None };
    let written = write::write(&tree, BufWriter::new(&file), &options, progress)
        .map_err(|e| full(plan, e, |e| if let WriteError::Write(e) = e { Ok(e) } else { Err(e) }))?;

    let mut notes = tree.notes().to_vec();
    if !built.lacking.is_empty() {
        let drivers = built.lacking.join(", ");
        notes.push(format!("the root has no firmware for {drivers}: NICs that need it stay silent"));
    }
    let mut log = vec![
        format!("{} names, {} bytes of contents", tree.len(), tree.content_bytes()),
        format!("kernel {} is {}", found.path, found.release),
        format!(
            "initramfs: {} modules, {} firmware files, {} bytes, packed with {}",
            built.modules,
            built.firmware,
            built.unpacked,
            packing.word()
        ),
        format!("root: squashfs of {} inodes, {} bytes", written.inodes, written.bytes),
    ];
    log.extend(left_out.iter().map(|path| format!("left out: {path}")));
    log.extend(plan.clamp_mtime.map(|time| format!("no time is later than {time}")));
    log.extend(notes.iter().map(|note| format!("note: {note}")));
    provenance.insert("zstd".into(), zstd::zstd_safe::version_string().into());
    provenance.insert("build_log".into(), log.join("\n"));
    let rootfs = Input::temporary(file, "the built root");
    Ok(Made { tree, kernel, initramfs, rootfs, provenance, notes })
}

/// The root, and where it came from.
fn open(plan: &Plan, progress: &dyn Progress) -> Result<(Arc<Tree>, BTreeMap<String, String>), BuildError> {
    Ok(match &plan.source {
        Source::Path(path) => {
            let tree = source::open(path, &plan.options, progress)?;
            let provenance = tree.facts().provenance();
            (Arc::new(tree), provenance)
        }
        Source::Recipe(recipe) => {
            let provenance = recipe.provenance()?;
            let clamp = plan.clamp_mtime.unwrap_or(recipe.epoch());
            let archive = recipe.run(&plan.tag, &plan.options.spool, clamp, progress)?;
            let tree = source::open_file(&recipe.shown(), archive, &plan.options, progress)?;
            (Arc::new(tree), provenance)
        }
    })
}

/// Is there what `boot/init` will hand over to?
fn check_init(plan: &Plan, tree: &Tree) -> Result<(), BuildError> {
    let named =
        plan.cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix("init=")).next_back();
    let places = named.map_or(INITS.to_vec(), |named| vec![named]);
    let runs =
        |path: &&str| tree.lookup(path).is_ok_and(|node| node.is_file() && node.meta.mode & 0o111 != 0);
    if places.iter().any(runs) {
        return Ok(());
    }
    Err(BuildError::NoInit { source_path: plan.source.shown(), places: places.join(", ") })
}

fn spool(plan: &Plan) -> Result<File, BuildError> {
    let dir = &plan.options.spool;
    spool::file(dir).map_err(|source| BuildError::Spool { dir: dir.clone(), source })
}

/// What failed for want of room says where room is wanted.
fn full<E: Into<BuildError>>(plan: &Plan, e: E, io: impl Fn(E) -> Result<io::Error, E>) -> BuildError {
    match io(e) {
        Ok(source) => BuildError::Spool { dir: plan.options.spool.clone(), source },
        Err(e) => e.into(),
    }
}

/// The root without what only a boot loader reads, and the names of that.
fn without_boot_files(tree: &Tree) -> Result<(Arc<Tree>, Vec<String>), BuildError> {
    let (mut less, mut left_out) = (tree.clone(), Vec::new());
    let boot = tree.resolve("boot").unwrap_or_default();
    let names = if boot.is_empty() { Vec::new() } else { tree.children(&boot) };
    for (name, node) in names {
        let kind = matches!(node.kind, Kind::File { .. } | Kind::Symlink(_));
        if kind && BOOT_FILES.iter().any(|start| name.starts_with(start)) {
            let path = [&boot[..], b"/", name].concat();
            less.remove(&path)?;
            left_out.push(Show(&path).to_string());
        }
    }
    Ok((Arc::new(less), left_out))
}

fn copy_kernel(plan: &Plan, tree: &Tree, found: &Found) -> Result<Input, BuildError> {
    let file = spool(plan)?;
    let mut reader = tree.read(&found.path)?;
    let mut bytes = Vec::new();
    let read = |source| TreeError::Read { path: found.path.clone(), source };
    reader.by_ref().take(MAX_KERNEL).read_to_end(&mut bytes).map_err(read)?;
    if reader.size() > bytes.len() as u64 {
        return Err(read(io::Error::other(format!("it has more than {MAX_KERNEL} bytes"))).into());
    }
    (&file)
        .write_all(&bytes)
        .map_err(|source| BuildError::Spool { dir: plan.options.spool.clone(), source })?;
    Ok(Input::temporary(file, &found.path))
}

fn make_initramfs(
    plan: &Plan,
    tree: &Arc<Tree>,
    found: &Found,
    packing: Packing,
    progress: &dyn Progress,
) -> Result<(Input, initramfs::Built), BuildError> {
    let native = &plan.native;
    let recipe = initramfs::Recipe {
        modules: ModulesFrom::Root(Arc::clone(tree), found.release.clone()),
        init: native.init.clone(),
        nics: native.nics,
        storage: true,
        extra: native.extra.clone(),
        carried: native.carried.clone(),
        packing,
    };
    let file = spool(plan)?;
    let step = progress.begin("modules", 0);
    let built = initramfs::build(&recipe, BufWriter::new(&file))
        .map_err(|e| full(plan, e, |e| if let InitramfsError::Io(e) = e { Ok(e) } else { Err(e) }))?;
    step.done();
    if built.arch != Some(found.kernel.arch) {
        let init = built.arch.map_or_else(|| "another machine".into(), |a| a.to_string());
        return Err(BuildError::WrongInit { path: found.path.clone(), kernel: found.kernel.arch, init });
    }
    Ok((Input::temporary(file, "the built initramfs"), built))
}
