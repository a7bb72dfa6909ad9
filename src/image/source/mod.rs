//! Reading a root filesystem from what people have: a folder, a tar archive (plain, gzip, zstd, xz), an
//! OCI image (a folder in OCI layout, the same as an archive, or what `docker save` writes).
//!
//! ```text
//! open ─ what is it? ─┬─ folder                          folder.rs
//!                     ├─ archive ─ unpack.rs ─ tar_read.rs ─ apply.rs
//!                     └─ OCI image ─ oci/ ─ each layer likewise, in order
//! ```
//!
//! A [`Tree`] holds names, owners, modes and attributes; contents stay where they are until
//! [`Tree::write_tar`] or [`Tree::read`] reads them. Nothing is unpacked with its owners, so nobody needs
//! to be root. What comes in is someone else's: all of it is bounded ([`Bounds`]), no name and no link
//! leads out of the tree, and what is out of order is refused with the entry's name.

mod apply;
mod bounds;
mod content;
mod error;
mod facts;
mod folder;
mod node;
mod oci;
mod path;
mod pax;
mod sparse;
mod tar_read;
mod tar_write;
#[cfg(test)]
pub(super) mod tests;
mod tree;
mod unpack;

pub use bounds::{Bounds, Exceeded};
pub use content::{Content, FileReader};
pub use error::{ArchiveFault, EntryFault, SourceError};
pub use facts::{ConfigFacts, Facts, LayerFact, SourceKind};
pub use node::{Kind, Meta, Node, Xattrs};
pub use oci::{OciFault, Platform};
pub use path::{PathFault, Show};
pub use tar_write::WriteError;
pub use tree::{Entry, Tree, TreeError};

use super::progress::Progress;
use bounds::Used;
use content::Backing;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// What to do with device nodes. `/dev` of a running system is the kernel's own (devtmpfs), so that a
/// node anywhere else is at best of no use, and at worst a way around a disk's permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// Kept below `/dev`, refused elsewhere.
    #[default]
    InDev,
    /// Kept wherever they are.
    Keep,
    /// Left out wherever they are.
    Skip,
    /// Refused wherever they are.
    Refuse,
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(s: &str) -> Result<Devices, String> {
        match s {
            "in-dev" => Ok(Devices::InDev),
            "keep" => Ok(Devices::Keep),
            "skip" => Ok(Devices::Skip),
            "refuse" => Ok(Devices::Refuse),
            _ => Err("write in-dev (kept below /dev, refused elsewhere), keep, skip or refuse".into()),
        }
    }
}

impl Devices {
    /// True where this goes into the tree.
    fn admits(self, path: &[u8], kind: &Kind) -> Result<bool, EntryFault> {
        if !matches!(kind, Kind::Char(..) | Kind::Block(..)) {
            return Ok(true);
        }
        let what = kind.word();
        match self {
            Devices::Keep => Ok(true),
            Devices::Skip => Ok(false),
            Devices::InDev if path.starts_with(b"dev/") => Ok(true),
            Devices::InDev => Err(EntryFault::DeviceOutsideDev { what }),
            Devices::Refuse => Err(EntryFault::Device { what }),
        }
    }
}

/// Who owns what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// As the source says.
    #[default]
    AsIs,
    /// Root owns all: for a folder that a user unpacked or made.
    AllRoot,
}

impl Owners {
    fn of(self, uid: u32, gid: u32) -> (u32, u32) {
        match self {
            Owners::AsIs => (uid, gid),
            Owners::AllRoot => (0, 0),
        }
    }
}

/// How to read a source.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which of an OCI image's platforms.
    pub platform: Platform,
    /// Which image, by its name, where an OCI source holds several.
    pub reference: Option<String>,
    /// Who owns what.
    pub owners: Owners,
    /// What to do with device nodes.
    pub devices: Devices,
    /// How much it may hold.
    pub bounds: Bounds,
    /// Where packed archives are unpacked.
    pub spool: PathBuf,
}

impl Default for Options {
    /// This machine's platform, owners as they are, devices below /dev, unpacking in `TMPDIR`.
    fn default() -> Options {
        Options {
            platform: Platform::of_this_machine(),
            reference: None,
            owners: Owners::default(),
            devices: Devices::default(),
            bounds: Bounds::default(),
            spool: std::env::temp_dir(),
        }
    }
}

/// Reads what is at `path`: a folder or a file, told by its content and not by its name.
pub fn open(path: &Path, options: &Options, progress: &dyn Progress) -> Result<Tree, SourceError> {
    let read = |source| SourceError::Read { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(read)?;
    let mut used = Used::default();
    if meta.is_dir() {
        let is_layout = path.join("oci-layout").is_file() && path.join("index.json").is_file();
        let step = progress.begin("root folder", 0);
        let tree = folder::read(path, options, &mut used, &*step)?;
        step.done();
        return if is_layout {
            oci::read(&tree, path, SourceKind::OciLayout, options, &mut used, progress)
        } else {
            Ok(tree)
        };
    }
    if !meta.is_file() {
        let what = "is neither a folder nor a file: give a root folder, a tar archive or an OCI image".into();
        return Err(SourceError::NotASource { path: path.to_owned(), what });
    }
    open_archive(path, File::open(path).map_err(read)?, options, &mut used, progress)
}

/// Reads an archive that is open already, as messages call `path`.
pub fn open_file(
    path: &Path,
    file: File,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Tree, SourceError> {
    open_archive(path, file, options, &mut Used::default(), progress)
}

fn open_archive(
    path: &Path,
    file: File,
    options: &Options,
    used: &mut Used,
    progress: &dyn Progress,
) -> Result<Tree, SourceError> {
    let read = |source| SourceError::Read { path: path.to_owned(), source };
    let backing = Backing::whole(file).map_err(read)?;
    if let Some(what) = other_format(&backing).map_err(read)? {
        return Err(SourceError::NotASource { path: path.to_owned(), what: what.into() });
    }
    let label = path.display().to_string();
    let step = progress.begin("archive", backing.len());
    let unpacked = unpack::unpack(&backing, &label, options, used, &*step)?;
    step.done();
    let mut tree = Tree::new(options.bounds.clone());
    apply::archive(&mut tree, &unpacked.plain, &label, options, used)?;
    tree.facts.archive = Some(unpacked.stored);
    let has = |name: &str| tree.get(name).is_some_and(Node::is_file);
    if has("oci-layout") && has("index.json") {
        return oci::read(&tree, path, SourceKind::OciArchive, options, used, progress);
    }
    if has("manifest.json") && oci::is_docker(&tree) {
        return oci::read(&tree, path, SourceKind::DockerArchive, options, used, progress);
    }
    if tree.is_empty() {
        let what = "is an archive with nothing in it".into();
        return Err(SourceError::NotASource { path: path.to_owned(), what });
    }
    tree.facts.kind = SourceKind::Tar;
    Ok(tree)
}

/// What people give by mistake, and what to do with it instead.
fn other_format(file: &Backing) -> io::Result<Option<&'static str>> {
    let mut head = [0; 8];
    let got = file.read_at(&mut head, 0)?;
    // An ISO's volume descriptor.
    let mut iso = [0; 5];
    let iso_got = file.read_at(&mut iso, 0x8001)?;
    Ok(match head.get(..got).unwrap_or_default() {
        [] => Some("is empty"),
        [b'h', b's', b'q', b's', ..] => {
            Some("is a squashfs already: import it with `pristine image import --rootfs`")
        }
        [b'P', b'K', 3, 4, ..] => Some("is a zip archive: unpack it into a folder, or pack it as tar"),
        [b'Q', b'F', b'I', 0xfb, ..] => {
            Some("is a disk image (qcow2): copy the files of its root into a folder or a tar archive")
        }
        [0x7f, b'E', b'L', b'F', ..] => Some("is a program, not a root filesystem"),
        [b'0', b'7', b'0', b'7', b'0', ..] => Some("is a cpio archive: pack the root as tar"),
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', b'\n'] => {
            Some("is a package, not a root filesystem: list it in a recipe")
        }
        _ if iso.get(..iso_got) == Some(b"CD001") => {
            Some("is an ISO image: `pristine image import --live` takes live systems")
        }
        _ => None,
    })
}
