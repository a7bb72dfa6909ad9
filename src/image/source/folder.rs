//! Reads a folder as a root. It is gone through by open folders, never by whole paths, so that no link
//! in it, not even one that appears while it is read, leads out of it.

use super::{
    Options,
    bounds::Used,
    content::{Content, Place, Stamp},
    error::{EntryFault, SourceError},
    facts::SourceKind,
    node::{Kind, Meta, Node, Xattrs, keeps},
    path::{join, normalise, show},
    tree::Tree,
};
use crate::image::progress::Step;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

const OPEN_DIR: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// `NONBLOCK`: a pipe that took a file's place must not hold the reader up.
const OPEN_FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// The folder that a root is read from.
#[derive(Debug)]
pub(super) struct FolderRoot {
    dir: File,
}

impl FolderRoot {
    /// Opens a file below it; no part of `path` may be a link.
    pub fn open(&self, path: &[u8]) -> io::Result<File> {
        let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let last = parts.pop().unwrap_or_default();
        let mut dir: Option<File> = None;
        for part in parts {
            let at = dir.as_ref().unwrap_or(&self.dir);
            dir = Some(rustix::fs::openat(at, part, OPEN_DIR, Mode::empty())?.into());
        }
        let at = dir.as_ref().unwrap_or(&self.dir);
        Ok(rustix::fs::openat(at, last, OPEN_FILE, Mode::empty())?.into())
    }
}

/// Reads the folder `path`.
pub(super) fn read(
    path: &Path,
    options: &Options,
    used: &mut Used,
    step: &dyn Step,
) -> Result<Tree, SourceError> {
    let fail = |source: Errno| SourceError::Read { path: path.to_owned(), source: source.into() };
    // The folder itself may be named by a link.
    let dir = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    let stat = rustix::fs::fstat(&dir).map_err(fail)?;
    let root = Arc::new(FolderRoot { dir: dir.into() });
    let mut tree = Tree::new(options.bounds.clone());
    tree.facts.kind = SourceKind::Folder;
    let mut reader = Reader {
        top: path,
        device: stat.st_dev as u64,
        root: Arc::clone(&root),
        options,
        used,
        step,
        tree,
        inodes: HashMap::new(),
        dropped: 0,
    };
    let meta = reader.meta(root.dir.as_fd(), c".", &stat).map_err(|fault| reader.fault(b"", fault))?;
    reader.place(Vec::new(), Arc::new(Node { meta, kind: Kind::Dir }))?;
    reader.folder(&root.dir, b"")?;
    if reader.dropped > 0 {
        let text = format!(
            "{} entries have access control lists or attributes that no image holds: those are left out",
            reader.dropped
        );
        reader.tree.note(text);
    }
    Ok(reader.tree)
}

struct Reader<'a> {
    top: &'a Path,
    /// The file system of the root; others that are mounted in it are left out.
    device: u64,
    root: Arc<FolderRoot>,
    options: &'a Options,
    used: &'a mut Used,
    step: &'a dyn Step,
    tree: Tree,
    /// Inodes with several names.
    inodes: HashMap<u64, Arc<Node>>,
    dropped: u64,
}

impl Reader<'_> {
    fn folder(&mut self, dir: &File, path: &[u8]) -> Result<(), SourceError> {
        for name in self.names(dir, path)? {
            let path = join(path, name.as_bytes());
            let below = self.entry(dir, &name, &path).map_err(|fault| self.fault(&path, fault))?;
            if let Some(below) = below {
                self.folder(&below, &path)?;
            }
        }
        Ok(())
    }

    fn names(&mut self, dir: &File, path: &[u8]) -> Result<Vec<CString>, SourceError> {
        let mut names = Vec::new();
        let read = (|| {
            for entry in Dir::read_from(dir).map_err(read_fault)? {
                let entry = entry.map_err(read_fault)?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    self.used.entry(&self.options.bounds, (path.len() + 255) as u64)?;
                    names.push(entry.file_name().to_owned());
                }
            }
            Ok(())
        })();
        read.map_err(|fault| self.fault(path, fault))?;
        names.sort();
        Ok(names)
    }

    /// Takes one entry in; gives a folder back that is to be gone through.
    fn entry(&mut self, dir: &File, name: &CStr, path: &[u8]) -> Result<Option<File>, EntryFault> {
        normalise(path, &self.options.bounds)?;
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(read_fault)?;
        let known = self.inodes.get(&(stat.st_ino as u64)).filter(|_| stat.st_nlink > 1);
        if let Some(node) = known.map(Arc::clone) {
            self.put(path, node)?;
            return Ok(None);
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Dir,
            FileType::RegularFile => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                self.used.content(&self.options.bounds, size)?;
                let stamp = Stamp::of_stat(&stat);
                let content = Place::InFolder { root: Arc::clone(&self.root), path: path.into(), stamp };
                Kind::File { size, content: Content(content) }
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(read_fault)?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::CharacterDevice => Kind::Char(major(&stat), minor(&stat)),
            FileType::BlockDevice => Kind::Block(major(&stat), minor(&stat)),
            FileType::Fifo => Kind::Fifo,
            // What it was made for is not running; tar leaves them out as well.
            _ => {
                self.tree.note(format!("`{}` is a socket: left out", show(path)));
                return Ok(None);
            }
        };
        if !self.options.devices.admits(path, &kind)? {
            return Ok(None);
        }
        let other = stat.st_dev as u64 != self.device;
        if other && !matches!(kind, Kind::Dir) {
            self.tree.note(format!("`{}` is on another file system: left out", show(path)));
            return Ok(None);
        }
        let meta = self.meta(dir.as_fd(), name, &stat)?;
        let is_dir = matches!(kind, Kind::Dir);
        let node = Arc::new(Node { meta, kind });
        if stat.st_nlink > 1 && !is_dir {
            self.inodes.insert(stat.st_ino as u64, Arc::clone(&node));
        }
        self.put(path, node)?;
        self.step.advance(1);
        if other {
            self.tree.note(format!(
                "another file system is mounted on `{}`: what is in it is left out",
                show(path)
            ));
        }
        if !is_dir || other {
            return Ok(None);
        }
        Ok(Some(rustix::fs::openat(dir, name, OPEN_DIR, Mode::empty()).map_err(read_fault)?.into()))
    }

    fn put(&mut self, path: &[u8], node: Arc<Node>) -> Result<(), EntryFault> {
        Ok(self.tree.put(path.to_vec(), node)?)
    }

    fn place(&mut self, path: Vec<u8>, node: Arc<Node>) -> Result<(), SourceError> {
        let shown = path.clone();
        self.tree.put(path, node).map_err(|e| self.fault(&shown, e.into()))
    }

    fn meta(&mut self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<Meta, EntryFault> {
        let (uid, gid) = self.options.owners.of(stat.st_uid, stat.st_gid);
        let all = xattrs(dir, name).map_err(EntryFault::Read)?;
        let size: usize = all.iter().map(|(k, v)| k.len() + v.len() + 64).sum();
        self.used.metadata(&self.options.bounds, size as u64)?;
        let before = all.len();
        let xattrs: Xattrs = all.into_iter().filter(|(name, _)| keeps(name)).collect();
        self.dropped += u64::from(xattrs.len() < before);
        // The type of this field differs between architectures.
        #[allow(clippy::unnecessary_cast)]
        let mtime = stat.st_mtime as i64;
        Ok(Meta { mode: stat.st_mode & 0o7777, uid, gid, mtime, xattrs })
    }

    fn fault(&self, path: &[u8], fault: EntryFault) -> SourceError {
        SourceError::Entry { archive: self.top.display().to_string(), entry: show(path), fault }
    }
}

fn read_fault(e: Errno) -> EntryFault {
    EntryFault::Read(e.into())
}

fn major(stat: &Stat) -> u32 {
    rustix::fs::major(stat.st_rdev)
}

fn minor(stat: &Stat) -> u32 {
    rustix::fs::minor(stat.st_rdev)
}

/// The extended attributes of an entry, a link's own where it is one. There is no call for "this name
/// in that open folder", so the folder is named by its number under /proc.
fn xattrs(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Xattrs> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
    let mut out = Xattrs::new();
    // What the kernel gives at most: XATTR_LIST_MAX, XATTR_SIZE_MAX.
    let mut list = Vec::with_capacity(256);
    let names = loop {
        match rustix::fs::llistxattr(&path, rustix::buffer::spare_capacity(&mut list)) {
            Ok(_) => break list,
            Err(Errno::RANGE) if list.capacity() < 64 << 10 => list = Vec::with_capacity(64 << 10),
            // A file system without attributes.
            Err(Errno::OPNOTSUPP) => return Ok(out),
            Err(e) => return Err(e.into()),
        }
    };
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = Vec::with_capacity(64 << 10);
        match rustix::fs::lgetxattr(&path, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => {
                value.shrink_to_fit();
                out.insert(name.to_vec(), value);
            }
            // Taken away meanwhile, or a kind that only its owner reads.
            Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(out)
}
