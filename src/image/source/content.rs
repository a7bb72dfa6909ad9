//! Where the bytes of a file are. They stay there until they are read: a root has gigabytes.

use super::folder::FolderRoot;
use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::Arc,
};

/// What tells that a file's contents were changed, or another put in its place. The time of its last
/// status change isn't in it: who moves or unlinks an archive while it is read does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    dev: u64,
    ino: u64,
    len: u64,
    mtime: (i64, i64),
}

impl Stamp {
    pub fn of(file: &File) -> io::Result<Stamp> {
        let m = file.metadata()?;
        Ok(Stamp { dev: m.dev(), ino: m.ino(), len: m.len(), mtime: (m.mtime(), m.mtime_nsec()) })
    }

    pub fn of_stat(s: &rustix::fs::Stat) -> Stamp {
        // The types of these fields differ between architectures.
        #[allow(clippy::unnecessary_cast)]
        Stamp {
            dev: s.st_dev as u64,
            ino: s.st_ino as u64,
            len: s.st_size as u64,
            mtime: (s.st_mtime as i64, s.st_mtime_nsec as i64),
        }
    }
}

/// A stretch of an open file: an archive, a layer inside one, or a spool file.
#[derive(Clone, Debug)]
pub(super) struct Backing {
    file: Arc<File>,
    /// `None` for a spool file, which only this process sees.
    stamp: Option<Stamp>,
    offset: u64,
    len: u64,
}

impl Backing {
    /// All of a file that others may write to: it is looked at again whenever it was read.
    pub fn whole(file: File) -> io::Result<Backing> {
        let stamp = Stamp::of(&file)?;
        Ok(Backing { file: Arc::new(file), stamp: Some(stamp), offset: 0, len: stamp.len })
    }

    /// A file of our own with `len` bytes.
    pub fn spooled(file: File, len: u64) -> Backing {
        Backing { file: Arc::new(file), stamp: None, offset: 0, len }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// A stretch of this one; `None` where it would reach past the end.
    pub fn part(&self, offset: u64, len: u64) -> Option<Backing> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| Backing { offset: self.offset + offset, len, ..self.clone() })
    }

    /// Reads at `at` from the start of this stretch, at most to its end.
    pub fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let want = left.min(buf.len());
        match buf.get_mut(..want) {
            Some(buf) if !buf.is_empty() => self.file.read_at(buf, self.offset + at),
            _ => Ok(0),
        }
    }

    /// Fills `buf` from `at`, or says that the stretch ends before.
    pub fn read_exact_at(&self, mut buf: &mut [u8], mut at: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = buf.get_mut(n..).unwrap_or_default();
                    at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads from the start to the end.
    pub fn reader(&self) -> BackingReader {
        BackingReader { backing: self.clone(), at: 0 }
    }

    /// Fails where the file is not what it was when it was opened.
    pub fn check_unchanged(&self) -> io::Result<()> {
        match self.stamp {
            Some(stamp) if Stamp::of(&self.file)? != stamp => Err(changed()),
            _ => Ok(()),
        }
    }
}

/// Reads a [`Backing`] in order.
#[derive(Debug)]
pub(super) struct BackingReader {
    backing: Backing,
    at: u64,
}

impl Read for BackingReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.backing.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

pub(super) fn changed() -> io::Error {
    io::Error::other("it was changed while it was read: build when nothing writes to it")
}

/// A stretch of a sparse file that has data; the rest reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Where in the file.
    pub at: u64,
    /// Where in the backing.
    pub from: u64,
    /// Bytes.
    pub len: u64,
}

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub struct Content(pub(super) Place);

#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In memory: what a recipe inserts.
    Bytes(Arc<[u8]>),
    /// One stretch.
    Extent(Backing),
    /// Stretches with holes between, in order and apart from each other.
    Sparse { backing: Backing, parts: Arc<[Part]> },
    /// A file below a folder.
    InFolder { root: Arc<FolderRoot>, path: Arc<[u8]>, stamp: Stamp },
}

impl Content {
    /// These bytes.
    pub fn of(bytes: impl Into<Arc<[u8]>>) -> Content {
        Content(Place::Bytes(bytes.into()))
    }

    /// Opens it; `size` is what the file is known to have.
    pub fn open(&self, size: u64) -> io::Result<FileReader> {
        let from = match &self.0 {
            Place::Bytes(bytes) => From::Bytes(Arc::clone(bytes)),
            Place::Extent(backing) => From::Backing { backing: backing.clone(), parts: None },
            Place::Sparse { backing, parts } => {
                From::Backing { backing: backing.clone(), parts: Some((Arc::clone(parts), 0)) }
            }
            Place::InFolder { root, path, stamp } => {
                let file = root.open(path)?;
                if Stamp::of(&file)? != *stamp {
                    return Err(changed());
                }
                From::Backing { backing: Backing::whole(file)?, parts: None }
            }
        };
        Ok(FileReader { from, at: 0, size })
    }
}

#[derive(Debug)]
enum From {
    Bytes(Arc<[u8]>),
    /// With the parts of a sparse file, and which of them comes next.
    Backing {
        backing: Backing,
        parts: Option<(Arc<[Part]>, usize)>,
    },
}

/// Reads one file of a tree. Ends with an error where the bytes are not what the tree was made from.
#[derive(Debug)]
pub struct FileReader {
    from: From,
    at: u64,
    size: u64,
}

impl FileReader {
    /// The file's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let want = left.min(buf.len());
        let buf = buf.get_mut(..want).unwrap_or_default();
        if buf.is_empty() {
            if let (0, From::Backing { backing, .. }) = (left, &self.from) {
                backing.check_unchanged()?;
            }
            return Ok(0);
        }
        let n = match &mut self.from {
            From::Bytes(bytes) => {
                let at = usize::try_from(self.at).unwrap_or(usize::MAX);
                let mut rest = bytes.get(at..).unwrap_or_default();
                rest.read(buf)?
            }
            From::Backing { backing, parts: None } => backing.read_at(buf, self.at)?,
            From::Backing { backing, parts: Some((parts, next)) } => {
                while parts.get(*next).is_some_and(|p| p.at + p.len <= self.at) {
                    *next += 1;
                }
                match parts.get(*next) {
                    Some(p) if p.at <= self.at => {
                        let skip = self.at - p.at;
                        let want = usize::try_from(p.len - skip).unwrap_or(usize::MAX).min(buf.len());
                        backing.read_at(buf.get_mut(..want).unwrap_or_default(), p.from + skip)?
                    }
                    hole => {
                        let end = hole.map_or(self.size, |p| p.at.min(self.size));
                        let want = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(buf.len());
                        buf.iter_mut().take(want).for_each(|b| *b = 0);
                        want
                    }
                }
            }
        };
        if n == 0 {
            return Err(changed());
        }
        self.at += n as u64;
        Ok(n)
    }
}
