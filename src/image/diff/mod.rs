//! What differs between two images: what an operator reads before re-pointing a rack.

pub mod database;
pub mod files;
pub mod packages;
mod rpm;
pub mod versions;

use super::{
    progress::Progress,
    squash_read::{ReadError, Squashfs, same::Side},
    squashfs::SquashfsError,
};
use crate::{
    model::{BlobRef, Digest, Image, Tag},
    store::{ImageStore, chunk::ChunkRef, content::BlobReader},
};
use files::{Files, Root};
use packages::Packages;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// What differs between two images.
#[derive(Debug, Serialize)]
pub struct Diff {
    /// The image that machines come from.
    pub old: Name,
    /// The image that they go to.
    pub new: Name,
    /// Bytes.
    pub sizes: Sizes,
    /// The kernels.
    pub kernel: Pair<Kernel>,
    /// The initramfs archives, in order.
    pub initramfs: Pair<Vec<BlobRef>>,
    /// Which instruction set.
    pub arch: Pair<crate::model::Arch>,
    /// Whether the initramfs is Pristine's own.
    pub native: Pair<bool>,
    /// The command lines.
    pub cmdline: Pair<String>,
    /// The labels.
    pub labels: Pair<BTreeMap<String, String>>,
    /// The root filesystems.
    pub root: RootDiff,
}

/// An image by its names.
#[derive(Debug, Serialize)]
pub struct Name {
    /// Its identity.
    pub digest: Digest,
    /// What it was imported as.
    pub tag: Tag,
}

/// What the old image has and what the new one has.
#[derive(Debug, Serialize)]
pub struct Pair<T> {
    /// In the old image.
    pub old: T,
    /// In the new image.
    pub new: T,
    /// Whether they differ.
    pub changed: bool,
}

impl<T: PartialEq> Pair<T> {
    fn new(old: T, new: T) -> Pair<T> {
        Pair { changed: old != new, old, new }
    }
}

/// A kernel.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// What it says of itself, as in `6.1.0-49-amd64 (…)`.
    pub version: Option<String>,
    /// Its bytes.
    pub blob: BlobRef,
}

/// Bytes of both images.
#[derive(Debug, Serialize)]
pub struct Sizes {
    /// The root filesystems; none where an image has none.
    pub rootfs: Pair<Option<u64>>,
    /// All that an image needs.
    pub total: Pair<u64>,
    /// Of the new image's total: bytes that the old one lacks. That much more is stored or sent.
    pub new_bytes: u64,
}

/// How the root filesystems differ.
#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum RootDiff {
    /// They are the same bytes, or neither image has one.
    Same,
    /// They were compared.
    Compared {
        /// What is installed.
        packages: Packages,
        /// What lies in them.
        files: Files,
    },
    /// They differ, and how can't be told.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Compares two images of `store`. What can't be compared is said in the result, and the rest is
/// compared.
pub fn diff(store: &ImageStore, old: &Image, new: &Image, progress: &dyn Progress) -> Diff {
    let (a, b) = (&old.manifest, &new.manifest);
    let name = |image: &Image| Name { digest: image.digest, tag: image.manifest.tag.clone() };
    let kernel = |image: &Image| Kernel {
        version: image.manifest.provenance.get("kernel_version").cloned(),
        blob: image.manifest.kernel,
    };
    Diff {
        old: name(old),
        new: name(new),
        sizes: sizes(store, old, new),
        kernel: Pair::new(kernel(old), kernel(new)),
        initramfs: Pair::new(a.initramfs.clone(), b.initramfs.clone()),
        arch: Pair::new(a.arch, b.arch),
        native: Pair::new(a.native, b.native),
        cmdline: Pair::new(a.cmdline.clone(), b.cmdline.clone()),
        labels: Pair::new(a.labels.clone(), b.labels.clone()),
        root: root(store, old, new, progress).unwrap_or_else(|why| RootDiff::Unknown { why }),
    }
}

fn sizes(store: &ImageStore, old: &Image, new: &Image) -> Sizes {
    let blobs =
        |image: &Image| image.manifest.blobs().map(|b| (b.digest, b.size)).collect::<BTreeMap<_, _>>();
    let (has, needs) = (blobs(old), blobs(new));
    let total =
        |blobs: &BTreeMap<Digest, u64>| blobs.values().fold(0, |sum: u64, size| sum.saturating_add(*size));
    let lacks =
        needs.iter().filter(|(digest, _)| !has.contains_key(digest)).map(|(digest, size)| (*digest, *size));
    let rootfs = |image: &Image| image.manifest.rootfs.map(|r| r.blob.size);
    Sizes {
        rootfs: Pair::new(rootfs(old), rootfs(new)),
        total: Pair::new(total(&has), total(&needs)),
        new_bytes: new_bytes(store, has.keys(), lacks.collect()),
    }
}

/// Bytes of the chunks of blobs that the old image lacks, and that no blob of it has.
fn new_bytes<'a>(
    store: &ImageStore,
    has: impl Iterator<Item = &'a Digest>,
    lacks: Vec<(Digest, u64)>,
) -> u64 {
    if lacks.is_empty() {
        return 0;
    }
    let chunks = |digest| store.blobs().chunks(digest).ok().flatten();
    let mut known: HashSet<ChunkRef> = has.filter_map(|digest| chunks(*digest)).flatten().collect();
    let mut sum: u64 = 0;
    for (digest, size) in lacks {
        sum = sum.saturating_add(match chunks(digest) {
            Some(list) => list.into_iter().filter(|c| known.insert(*c)).map(|c| u64::from(c.len)).sum(),
            // It can't be read: then all of it.
            None => size,
        });
    }
    sum
}

fn root(store: &ImageStore, old: &Image, new: &Image, progress: &dyn Progress) -> Result<RootDiff, String> {
    let blob = |image: &Image| image.manifest.rootfs.map(|r| r.blob);
    let (a, b) = match (blob(old), blob(new)) {
        (None, None) => return Ok(RootDiff::Same),
        (Some(a), Some(b)) if a.digest == b.digest => return Ok(RootDiff::Same),
        (Some(a), Some(b)) => (a, b),
        (None, Some(_)) => return Err(format!("{} has no root filesystem", old.manifest.tag)),
        (Some(_), None) => return Err(format!("{} has no root filesystem", new.manifest.tag)),
    };
    let (mut a, mut b) = (open(store, old, a)?, open(store, new, b)?);
    let step = progress.begin("comparing files", files::bytes(&a.listing));
    let installed = |root: &mut Root<BlobReader>, image: &Image| {
        database::read(&mut root.sq, &root.listing).map_err(|e| unread(image, &e))
    };
    let (was, is) = (installed(&mut a, old)?, installed(&mut b, new)?);
    let names = [old.manifest.tag.to_string(), new.manifest.tag.to_string()];
    let packages = packages::compare(was, is, [&names[0], &names[1]]);
    let files = files::compare(&mut a, &mut b, step.as_ref()).map_err(|(side, e)| match side {
        Side::Old => unread(old, &e),
        Side::New => unread(new, &e),
    })?;
    step.done();
    Ok(RootDiff::Compared { packages, files })
}

fn open(store: &ImageStore, image: &Image, blob: BlobRef) -> Result<Root<BlobReader>, String> {
    let damaged = "`pristine image verify` says what is damaged";
    let reader = store.blobs().reader(blob.digest).map_err(|e| format!("{}: {e}", image.manifest.tag))?;
    let reader = reader
        .ok_or_else(|| format!("the root filesystem of {} is missing: {damaged}", image.manifest.tag))?;
    let size = reader.size();
    let mut sq = Squashfs::open(reader, size).map_err(|e| unread(image, &e))?;
    let listing = sq.walk().map_err(|e| unread(image, &e))?;
    Ok(Root { sq, listing })
}

fn unread(image: &Image, why: &ReadError) -> String {
    let tag = &image.manifest.tag;
    match why {
        ReadError::Superblock(SquashfsError::NotSquashfs { .. }) => {
            format!(
                "the root of {tag} is no squashfs (a live ISO, an installer), and Pristine looks into no other"
            )
        }
        _ => format!("the root filesystem of {tag}: {why}"),
    }
}
