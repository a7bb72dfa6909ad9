//! From files to an image. Everything is checked, copied and durable before any of it is visible; a
//! kill at any time leaves the store as it was.

use super::{
    copy::{self, Copied, CopyError, Verity},
    initramfs::{self, InitramfsError, Recipe},
    input::{Input, Opened},
    kernel::{self, Kernel, KernelError},
    progress::Progress,
    squashfs::{self, SquashfsError},
};
use crate::{
    model::{self, Arch, BlobRef, Digest, Manifest, RootFs, Tag},
    netboot::{CmdlineError, cmdline},
    store::{
        ImageStore, StoreError,
        blobs::{BlobWriter, SealedBlob},
        images::Published,
    },
};
use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

/// What to import.
#[derive(Clone, Debug)]
pub struct Import {
    /// What to call it.
    pub tag: Tag,
    /// What it must run on; by the kernel where it is `None`.
    pub arch: Option<Arch>,
    /// Kernel file.
    pub kernel: Input,
    /// Initramfs files, in the order in which the loader joins them.
    pub initramfs: Vec<Input>,
    /// The native initramfs to build, put before the files.
    pub build_initramfs: Option<Recipe>,
    /// A squashfs. A foreign image may have what else its own initramfs fetches and reads.
    pub rootfs: Option<Input>,
    /// Command line template, see `netboot::cmdline`.
    pub cmdline: String,
    /// Operators' labels.
    pub labels: BTreeMap<String, String>,
    /// Where it came from, beside what the import itself finds out.
    pub provenance: BTreeMap<String, String>,
    /// It brings an initramfs of its own (live-boot, dracut), which neither verifies nor reports.
    pub foreign: bool,
    /// Take the tag from the image that has it.
    pub move_tag: bool,
}

/// What was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What the store did.
    pub published: Published,
    /// The image's manifest.
    pub manifest: Manifest,
}

/// Why an import was refused. The store is as before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a file.
    #[error("{0} is not a plain file")]
    NotAFile(PathBuf),
    /// Someone writes to it.
    #[error("{0} was changed while it was read: import it when nothing writes to it")]
    Changed(PathBuf),
    /// Not a kernel.
    #[error("kernel {path}: {source}")]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: KernelError,
    },
    /// A kernel for something else.
    #[error(
        "kernel {path} is for {found}, but {wanted} was asked for: check --arch, or take the other kernel"
    )]
    WrongArch {
        /// Which file.
        path: PathBuf,
        /// What it is for.
        found: Arch,
        /// What was wanted.
        wanted: Arch,
    },
    /// Not an initramfs.
    #[error("initramfs {path}: {what}")]
    Initramfs {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The native initramfs can't be built.
    #[error(transparent)]
    Build(#[from] InitramfsError),
    /// Kernel and modules don't fit.
    #[error("the modules are for kernel {modules}, but {path} is {kernel}: give lib/modules/{kernel}")]
    WrongModules {
        /// The kernel file.
        path: PathBuf,
        /// Its release.
        kernel: String,
        /// The modules' release.
        modules: String,
    },
    /// Kernel and init don't fit.
    #[error(
        "pristine-init is built for {init}, but {path} is a kernel for {kernel}: name the other build with --init"
    )]
    WrongInit {
        /// The kernel file.
        path: PathBuf,
        /// What it runs on.
        kernel: Arch,
        /// What init runs on.
        init: String,
    },
    /// Not a squashfs.
    #[error("rootfs {path}: {source}")]
    Rootfs {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: SquashfsError,
    },
    /// A command line that no machine could be given.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// Arguments that don't fit together.
    #[error("{0}")]
    Incomplete(&'static str),
    /// A label that can't be shown.
    #[error(
        "label `{0}` can't be used: keys have 1 to 64 of a-z, A-Z, 0-9, `.`, `_`, `/` and `-`, values at most 256 printable characters"
    )]
    Label(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Imports an image. Takes one pass over each file.
pub fn import(store: &ImageStore, what: &Import, progress: &dyn Progress) -> Result<Imported, ImportError> {
    check_arguments(what)?;
    let mut sources = Sources::open(what)?;
    let kernel = sources.check(what)?;
    cmdline::check(&what.cmdline, kernel.arch, !what.foreign, what.rootfs.is_some())?;
    sources.require_room(store)?;

    let mut sealed = Vec::new();
    let mut provenance = what.provenance.clone();
    provenance.insert("pristine".into(), env!("CARGO_PKG_VERSION").into());
    provenance.insert("kernel_format".into(), kernel.format.to_string());
    provenance.extend(kernel.version.clone().map(|v| ("kernel_version".into(), v)));

    let kernel_blob = sources.kernel.store(store, progress, Verity::No, &mut sealed)?.blob;
    let mut initramfs = Vec::new();
    if let Some(recipe) = &what.build_initramfs {
        initramfs.push(store_built(store, recipe, (&what.kernel.shown(), &kernel), &mut sealed, progress)?);
    }
    for source in sources.initramfs {
        initramfs.push(source.store(store, progress, Verity::No, &mut sealed)?.blob);
    }
    let mut rootfs = None;
    if let Some(source) = sources.rootfs {
        let path = source.path.clone();
        let copied = source.store(store, progress, Verity::Derived, &mut sealed)?;
        let read = rootfs_kind(&copied.head, copied.blob.size, what.foreign);
        let kind = read.map_err(|source| ImportError::Rootfs { path: path.clone(), source })?;
        let tree = copied.tree.ok_or(ImportError::Changed(path))?;
        let blob = store_bytes(store, &tree.bytes, &mut sealed)?;
        let (root_hash, salt, data_blocks) = (tree.root_hash, tree.salt, tree.data_blocks);
        rootfs = Some(RootFs {
            blob: copied.blob,
            verity: model::Verity { root_hash, salt, data_blocks, tree: blob },
        });
        provenance.insert("rootfs".into(), kind);
    }
    let manifest = Manifest {
        schema: 1,
        tag: what.tag.clone(),
        arch: kernel.arch,
        kernel: kernel_blob,
        initramfs,
        rootfs,
        cmdline: what.cmdline.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
        native: !what.foreign,
        labels: what.labels.clone(),
        provenance,
    };
    let published = store.publish(sealed, &manifest, what.move_tag)?;
    Ok(Imported { published, manifest })
}

fn check_arguments(what: &Import) -> Result<(), ImportError> {
    let no_initramfs = what.initramfs.is_empty() && what.build_initramfs.is_none();
    let wrong = if what.foreign && what.build_initramfs.is_some() {
        "--modules builds Pristine's own initramfs, and --foreign says that the image brings another: give one of them"
    } else if !what.foreign && what.rootfs.is_none() {
        "an image needs --rootfs; an installer or a live system without one is imported with --foreign"
    } else if !what.foreign && no_initramfs {
        "give --modules (to build the initramfs) or --initramfs (one made by `pristine image initramfs`)"
    } else {
        ""
    };
    if !wrong.is_empty() {
        return Err(ImportError::Incomplete(wrong));
    }
    for (key, value) in &what.labels {
        let key_ok = (1..=64).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b));
        if !key_ok || value.chars().count() > 256 || value.chars().any(char::is_control) {
            return Err(ImportError::Label(format!("{key}={value}").escape_default().take(80).collect()));
        }
    }
    Ok(())
}

/// A file to import: open, its length and its first bytes known.
struct Source {
    what: &'static str,
    path: PathBuf,
    file: Opened,
    size: u64,
    head: Vec<u8>,
}

impl Source {
    fn open(what: &'static str, input: &Input) -> Result<Source, ImportError> {
        let path = input.shown();
        let read = |source| ImportError::Read { path: path.clone(), source };
        let mut file = input.open().map_err(|e| match e.kind() {
            io::ErrorKind::InvalidInput => ImportError::NotAFile(path.clone()),
            _ => read(e),
        })?;
        let mut head = Vec::new();
        (&mut file).take(kernel::HEAD as u64).read_to_end(&mut head).map_err(read)?;
        file.rewind();
        let size = file.size();
        Ok(Source { what, path, file, size, head })
    }

    /// Copies it into the store, where it waits for its name.
    fn store(
        mut self,
        store: &ImageStore,
        progress: &dyn Progress,
        verity: Verity,
        sealed: &mut Vec<SealedBlob>,
    ) -> Result<Copied, ImportError> {
        // Kernels and initramfs are packed anew for each version, and have nothing in common with the last.
        let mut to = match verity {
            Verity::No => store.blobs().begin()?,
            _ => store.blobs().begin_shared(self.size)?,
        };
        let step = progress.begin(self.what, self.size);
        let copied = copy::copy(&mut self.file, &mut to, verity, self.head.len(), &|n| step.advance(n));
        let copied = copied.map_err(|e| match e {
            CopyError::Read(source) => ImportError::Read { path: self.path.clone(), source },
            CopyError::Write(source) => write_error(&to, source),
        })?;
        // What was checked must be what was copied.
        if copied.blob.size != self.size || copied.head != self.head {
            return Err(ImportError::Changed(self.path));
        }
        sealed.push(to.seal(copied.blob.digest)?);
        step.done();
        Ok(copied)
    }
}

fn write_error(to: &BlobWriter, source: io::Error) -> ImportError {
    StoreError::Io { what: "write", path: to.path().to_owned(), source }.into()
}

struct Sources {
    kernel: Source,
    initramfs: Vec<Source>,
    rootfs: Option<Source>,
}

impl Sources {
    fn open(what: &Import) -> Result<Sources, ImportError> {
        Ok(Sources {
            kernel: Source::open("kernel", &what.kernel)?,
            initramfs: what
                .initramfs
                .iter()
                .map(|p| Source::open("initramfs", p))
                .collect::<Result<_, _>>()?,
            rootfs: what.rootfs.as_ref().map(|p| Source::open("rootfs", p)).transpose()?,
        })
    }

    fn bytes(&self) -> u64 {
        let rootfs = self.rootfs.as_ref().map_or(0, |r| r.size + r.size / 127 + 4096);
        self.kernel.size + rootfs + self.initramfs.iter().map(|i| i.size).sum::<u64>()
    }

    /// That all of it fits. Where all of it wouldn't, the rootfs is read to tell how much of it is new.
    fn require_room(&mut self, store: &ImageStore) -> Result<(), ImportError> {
        let bytes = self.bytes();
        match (store.require_free(bytes), &mut self.rootfs) {
            (Err(StoreError::NoRoom { .. }), Some(rootfs)) => {
                let new = store.blobs().new_bytes(&mut rootfs.file);
                rootfs.file.rewind();
                let new = new.map_err(|source| ImportError::Read { path: rootfs.path.clone(), source })?;
                Ok(store.require_free(bytes.saturating_sub(rootfs.size) + new)?)
            }
            (fits, _) => Ok(fits?),
        }
    }

    /// All that can be told before a byte is copied.
    fn check(&self, what: &Import) -> Result<Kernel, ImportError> {
        let path = &self.kernel.path;
        let kernel = kernel::identify(&self.kernel.head)
            .map_err(|source| ImportError::Kernel { path: path.clone(), source })?;
        if let Some(wanted) = what.arch.filter(|wanted| *wanted != kernel.arch) {
            return Err(ImportError::WrongArch { path: path.clone(), found: kernel.arch, wanted });
        }
        for i in &self.initramfs {
            kernel::check_initramfs(&i.head)
                .map_err(|what| ImportError::Initramfs { path: i.path.clone(), what })?;
        }
        // Debian's or dracut's would find no root and end in a shell on the console.
        if let (false, None, [first, ..]) = (what.foreign, &what.build_initramfs, self.initramfs.as_slice()) {
            let found = self.initramfs.iter().map(|i| initramfs::holds_our_init(i.file.file()));
            let found = found.collect::<io::Result<Vec<bool>>>();
            let found = found.map_err(|source| ImportError::Read { path: first.path.clone(), source })?;
            if !found.contains(&true) {
                let what = "it does not hold Pristine's init (plain, gzip, zstd or xz): make it with --modules or \
                            `pristine image initramfs`, or import the image with --foreign";
                return Err(ImportError::Initramfs { path: first.path.clone(), what: what.into() });
            }
        }
        if let Some(r) = &self.rootfs {
            // One block has no tree to hang on; `init` takes two or more.
            let small = !what.foreign && r.size <= super::verity::BLOCK as u64;
            rootfs_kind(&r.head, r.size, what.foreign)
                .and_then(|read| if small { Err(SquashfsError::TooSmall) } else { Ok(read) })
                .map_err(|source| ImportError::Rootfs { path: r.path.clone(), source })?;
        }
        Ok(kernel)
    }
}

/// What a root is, in words. Pristine's `init` mounts a squashfs; what a foreign initramfs fetches may also
/// be an EROFS, an ISO or a cpio archive.
fn rootfs_kind(head: &[u8], size: u64, foreign: bool) -> Result<String, SquashfsError> {
    match squashfs::check(head, size) {
        Ok(superblock) => Ok(format!("squashfs {}, {} inodes", superblock.compressor, superblock.inodes)),
        Err(e @ SquashfsError::NotSquashfs { .. }) if foreign => {
            squashfs::other_root(head).map(str::to_owned).ok_or(e)
        }
        Err(e) => Err(e),
    }
}

fn store_built(
    store: &ImageStore,
    recipe: &Recipe,
    (kernel_path, kernel): (&Path, &Kernel),
    sealed: &mut Vec<SealedBlob>,
    progress: &dyn Progress,
) -> Result<BlobRef, ImportError> {
    let mut bytes = Vec::new();
    let built = initramfs::build(recipe, &mut bytes)?;
    let path = kernel_path.to_owned();
    if let Some(release) = kernel.release().filter(|r| *r != built.kernel_version) {
        let (kernel, modules) = (release.to_owned(), built.kernel_version);
        return Err(ImportError::WrongModules { path, kernel, modules });
    }
    if built.arch != Some(kernel.arch) {
        let init = built.arch.map_or_else(|| "another machine".into(), |a| a.to_string());
        return Err(ImportError::WrongInit { path, kernel: kernel.arch, init });
    }
    let step = progress.begin("initramfs", bytes.len() as u64);
    let blob = store_bytes(store, &bytes, sealed)?;
    step.done();
    Ok(blob)
}

fn store_bytes(
    store: &ImageStore,
    bytes: &[u8],
    sealed: &mut Vec<SealedBlob>,
) -> Result<BlobRef, ImportError> {
    let mut to = store.blobs().begin()?;
    to.write_all(bytes).map_err(|e| write_error(&to, e))?;
    let blob = to.seal(Digest::of(bytes))?;
    let name = blob.name();
    sealed.push(blob);
    Ok(name)
}
