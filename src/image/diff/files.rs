//! What became of the files from one root to another.

use crate::image::{
    progress::Step,
    squash_read::{
        Kind, Node, Squashfs,
        same::{Comparer, Side, Unread},
        walk::Listing,
    },
};
use serde::Serialize;
use std::io::{Read, Seek};

/// Files, folders and all else that differ, by path.
#[derive(Debug, Default, Serialize)]
pub struct Files {
    /// In the new root only.
    pub added: Vec<Named>,
    /// In the old root only.
    pub removed: Vec<Named>,
    /// In both, not the same.
    pub changed: Vec<ChangedFile>,
}

/// Something with its name.
#[derive(Debug, Serialize)]
pub struct Named {
    /// From the root on, as in `/etc/hosts`. Bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What it is.
    #[serde(flatten)]
    pub facts: Facts,
}

/// What is compared of a file beside its content and its extended attributes. Times are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// What it is.
    pub kind: KindName,
    /// Permissions in octal, as in `0755`.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a plain file.
    pub size: Option<u64>,
    /// Where a symbolic link leads.
    pub target: Option<String>,
    /// Number of a device, as major:minor.
    pub device: Option<String>,
}

/// Kinds by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum KindName {
    Folder,
    File,
    Link,
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
}

/// Something that changed.
#[derive(Debug, Serialize)]
pub struct ChangedFile {
    /// From the root on.
    pub path: String,
    /// What of it.
    pub what: Vec<What>,
    /// Extended attributes that came, went or changed, by name.
    pub xattrs: Vec<String>,
    /// What it was.
    pub old: Facts,
    /// What it is.
    pub new: Facts,
}

/// What can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum What {
    Kind,
    Content,
    Size,
    Target,
    Device,
    Mode,
    Owner,
    Xattr,
}

impl KindName {
    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            KindName::Folder => "folder",
            KindName::File => "file",
            KindName::Link => "symbolic link",
            KindName::BlockDevice => "block device",
            KindName::CharDevice => "character device",
            KindName::Fifo => "named pipe",
            KindName::Socket => "socket",
        }
    }
}

fn facts(node: &Node) -> Facts {
    // As the kernel's new_decode_dev.
    let number = |n: &u32| Some(format!("{}:{}", n >> 8 & 0xfff, n & 0xff | n >> 12 & 0xf_ff00));
    let (kind, size, target, device) = match &node.kind {
        Kind::Folder(_) => (KindName::Folder, None, None, None),
        Kind::File(file) => (KindName::File, Some(file.size), None, None),
        Kind::Link(to) => (KindName::Link, None, Some(String::from_utf8_lossy(to).into_owned()), None),
        Kind::BlockDevice(n) => (KindName::BlockDevice, None, None, number(n)),
        Kind::CharDevice(n) => (KindName::CharDevice, None, None, number(n)),
        Kind::Fifo => (KindName::Fifo, None, None, None),
        Kind::Socket => (KindName::Socket, None, None, None),
    };
    let mode = format!("{:04o}", node.mode);
    Facts { kind, mode, uid: node.uid, gid: node.gid, size, target, device }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

/// A root, open, with all its names.
#[derive(Debug)]
pub struct Root<R> {
    /// The squashfs.
    pub sq: Squashfs<R>,
    /// What it holds.
    pub listing: Listing,
}

/// Bytes that [`compare`] may have to read: those of the old root's files.
pub fn bytes(listing: &Listing) -> u64 {
    listing.values().map(size).fold(0, u64::saturating_add)
}

fn size(node: &Node) -> u64 {
    if let Kind::File(file) = &node.kind { file.size } else { 0 }
}

/// Compares two roots. Contents are read only where sizes are the same.
pub fn compare<A: Read + Seek, B: Read + Seek>(
    old: &mut Root<A>,
    new: &mut Root<B>,
    step: &dyn Step,
) -> Result<Files, Unread> {
    let mut out = Files::default();
    let mut comparer = Comparer::default();
    for (path, node) in &new.listing {
        if !old.listing.contains_key(path) {
            out.added.push(Named { path: shown(path), facts: facts(node) });
        }
    }
    for (path, was) in &old.listing {
        let Some(is) = new.listing.get(path) else {
            out.removed.push(Named { path: shown(path), facts: facts(was) });
            step.advance(size(was));
            continue;
        };
        let (before, after) = (facts(was), facts(is));
        let mut what = Vec::new();
        let mut differ = |differ: bool, name: What| {
            if differ {
                what.push(name)
            }
        };
        differ(before.kind != after.kind, What::Kind);
        if before.kind == after.kind {
            differ(before.size != after.size, What::Size);
            differ(before.target != after.target, What::Target);
            differ(before.device != after.device, What::Device);
        }
        if let (Kind::File(x), Kind::File(y)) = (&was.kind, &is.kind) {
            let same =
                comparer.same(&mut old.sq, x, &mut new.sq, y).map_err(|(side, e)| (side, e.at(path)))?;
            differ(!same, What::Content);
        }
        step.advance(size(was));
        differ(before.mode != after.mode, What::Mode);
        differ((before.uid, before.gid) != (after.uid, after.gid), What::Owner);
        let had = old.sq.xattrs(was).map_err(|e| (Side::Old, e.at(path)))?;
        let has = new.sq.xattrs(is).map_err(|e| (Side::New, e.at(path)))?;
        let gone = had.iter().filter(|x| !has.contains(x));
        let come = has.iter().filter(|x| !had.contains(x));
        let mut xattrs: Vec<String> =
            gone.chain(come).map(|x| String::from_utf8_lossy(&x.name).into_owned()).collect();
        xattrs.sort();
        xattrs.dedup();
        differ(!xattrs.is_empty(), What::Xattr);
        if !what.is_empty() {
            out.changed.push(ChangedFile { path: shown(path), what, xattrs, old: before, new: after });
        }
    }
    Ok(out)
}
