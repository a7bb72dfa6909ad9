//! ISO 9660 as far as an import needs it: what lies in which folder, by the names that its maker gave
//! (Rock Ridge, else Joliet, else the short ones), and where a file's bytes are. ECMA-119 (volume
//! descriptors 8, directory records 9.1), SUSP 1.12 and RRIP 1.12 (`NM`, `CE`, `SL`), Joliet.
//!
//! Nothing that an ISO says is believed: lengths, counts and depths are bounded, every extent must lie
//! within the file, and a folder that leads back to one above it is refused.

mod record;
#[cfg(test)]
mod tests;

use record::Record;
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, path::Path};

/// Bytes of a logical sector; every ISO in use has blocks of this size.
pub const SECTOR: u64 = 2048;
/// Where volume descriptors begin.
const FIRST_DESCRIPTOR: u64 = 16;
/// Most volume descriptors; real ISOs have three or four.
const MAX_DESCRIPTORS: u64 = 64;
/// Most bytes of one folder: some 50,000 names.
const MAX_FOLDER: u64 = 8 << 20;
/// Most folders within each other (ECMA-119 allows 8, Rock Ridge some more).
const MAX_DEPTH: usize = 16;

/// What is wrong with an ISO.
#[derive(Debug, thiserror::Error)]
pub enum IsoError {
    /// It can't be read.
    #[error("can't read it: {0}")]
    Read(#[from] io::Error),
    /// Something else.
    #[error("it is not an ISO 9660 image{}", looks_like.map(|l| format!(" but {l}")).unwrap_or_default())]
    NotIso {
        /// What it is, where that can be told.
        looks_like: Option<&'static str>,
    },
    /// The end is missing.
    #[error("it is cut short: it should have {needs} bytes and has {has}; copy it again")]
    Short {
        /// What its volume descriptor says.
        needs: u64,
        /// What is there.
        has: u64,
    },
    /// A file or folder that lies outside.
    #[error(
        "it is damaged: /{path} should lie in bytes {start} to {end}, but the image has {has}; copy it again"
    )]
    Outside {
        /// Which.
        path: String,
        /// Its first byte.
        start: u64,
        /// Behind its last byte.
        end: u64,
        /// Length of the image.
        has: u64,
    },
    /// A folder within itself.
    #[error("it is damaged: the folder /{0} leads back to one that it lies in")]
    Loop(String),
    /// Contradictions in one folder.
    #[error("it is damaged: the folder /{path} {what}; copy it again")]
    Folder {
        /// Which.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Contradictions elsewhere.
    #[error("it is damaged: {0}; copy it again")]
    Damaged(&'static str),
    /// What this reader doesn't know.
    #[error("it has {0}, which Pristine doesn't read: mount it, and import with --dir and --preset")]
    Unknown(&'static str),
}

/// Something in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where its bytes are; not yet compared with the length of the image.
    parts: Vec<Range<u64>>,
}

/// Kinds of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A plain file.
    File,
    /// Symbolic links, and folders that were moved elsewhere for their depth.
    Other,
}

/// Which names are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    RockRidge {
        /// Bytes in front of each system use field.
        skip: usize,
    },
    Joliet,
    Short,
}

/// An image, open.
#[derive(Debug)]
pub struct Iso<F = File> {
    from: F,
    size: u64,
    volume: String,
    root: Node,
    names: Names,
}

/// Bytes by their place.
pub trait ReadAt {
    /// Fills `buf` from `at` on; an error where there is less.
    fn read_exact_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, at)
    }
}

impl Iso {
    /// Opens the image at `path`.
    pub fn open(path: &Path) -> Result<Iso, IsoError> {
        // Before it is opened: opening a pipe waits for whoever writes to it.
        if !std::fs::metadata(path)?.is_file() {
            return Err(IsoError::NotIso { looks_like: Some("no plain file") });
        }
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut head = [0; 8];
        let read = file.read_at(&mut head, 0)?;
        Iso::read(file, size).map_err(|e| match e {
            IsoError::NotIso { looks_like: None } => {
                IsoError::NotIso { looks_like: guess(head.get(..read).unwrap_or_default()) }
            }
            other => other,
        })
    }
}

/// What people give by mistake.
fn guess(head: &[u8]) -> Option<&'static str> {
    match head {
        [] => Some("an empty file"),
        [b'h', b's', b'q', b's', ..] => Some("a squashfs; that is what --rootfs takes"),
        [0x1f, 0x8b, ..] => Some("gzip data: unpack it first"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("xz data: unpack it first"),
        [b'Q', b'F', b'I', 0xfb, ..] => Some("a qcow2 disk"),
        _ => None,
    }
}

impl<F: ReadAt> Iso<F> {
    /// Reads the descriptors of an image of `size` bytes.
    pub fn read(from: F, size: u64) -> Result<Iso<F>, IsoError> {
        let (mut primary, mut joliet) = (None, None);
        for n in 0.. {
            let at = (FIRST_DESCRIPTOR + n) * SECTOR;
            if at + SECTOR > size {
                let nothing_yet = primary.is_none() && joliet.is_none();
                return Err(match nothing_yet {
                    true => IsoError::NotIso { looks_like: None },
                    false => IsoError::Short { needs: at + SECTOR, has: size },
                });
            }
            if n == MAX_DESCRIPTORS {
                return Err(IsoError::Damaged("its volume descriptors have no end"));
            }
            let mut sector = [0; SECTOR as usize];
            from.read_exact_at(at, &mut sector)?;
            if sector.get(1..6) != Some(b"CD001") {
                return Err(match n {
                    0 => IsoError::NotIso { looks_like: None },
                    _ => IsoError::Damaged("a volume descriptor has no CD001"),
                });
            }
            match sector.first() {
                Some(255) => break,
                Some(1) if primary.is_none() => primary = Some(sector),
                // UCS-2 in one of three levels.
                Some(2) if matches!(sector.get(88..91), Some(b"%/@" | b"%/C" | b"%/E")) => {
                    joliet.get_or_insert(sector);
                }
                _ => {}
            }
        }
        let primary = primary.ok_or(IsoError::Damaged("it has no primary volume descriptor"))?;
        let u16_at =
            |at: usize| primary.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes);
        if u64::from(u16_at(128)) != SECTOR {
            return Err(IsoError::Unknown("blocks of another size than 2,048 bytes"));
        }
        let blocks = u64::from(u16_at(80)) | u64::from(u16_at(82)) << 16;
        if blocks * SECTOR > size {
            return Err(IsoError::Short { needs: blocks * SECTOR, has: size });
        }
        let volume = primary.get(40..72).unwrap_or_default();
        let volume: String =
            volume.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { ' ' }).collect();
        let root = |descriptor: &[u8; SECTOR as usize]| {
            let record = descriptor.get(156..190).and_then(Record::parse);
            let parts = record.map(|r| r.extent()).filter(|_| record.is_some_and(|r| r.is_folder()));
            let parts = vec![parts.ok_or(IsoError::Damaged("its top folder is nowhere"))?];
            Ok::<_, IsoError>(Node { name: String::new(), kind: Kind::Folder, parts })
        };
        let mut iso =
            Iso { from, size, volume: volume.trim().to_owned(), root: root(&primary)?, names: Names::Short };
        if let Some(skip) = iso.rock_ridge()? {
            iso.names = Names::RockRidge { skip };
        } else if let Some(joliet) = joliet {
            iso.root = root(&joliet)?;
            iso.names = Names::Joliet;
        }
        Ok(iso)
    }

    /// Its volume's name, as in `Debian 12.5.0 amd64 n`.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// What lies in the folder at `path` (names with `/` between; empty for the top), in the order of
    /// the image. `None` where there is no such folder. Letters count as the same, small or large.
    pub fn list(&self, path: &str) -> Result<Option<Vec<Node>>, IsoError> {
        let mut above = Vec::new();
        let (mut folder, mut so_far) = (self.root.clone(), String::new());
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let nodes = self.folder(&folder, &so_far)?;
            let found =
                nodes.into_iter().find(|n| n.kind == Kind::Folder && n.name.eq_ignore_ascii_case(name));
            let Some(found) = found else { return Ok(None) };
            above.extend(folder.parts.first().map(|part| part.start));
            so_far = if so_far.is_empty() { name.to_owned() } else { format!("{so_far}/{name}") };
            if found.parts.first().is_some_and(|part| above.contains(&part.start)) || above.len() > MAX_DEPTH
            {
                return Err(IsoError::Loop(so_far));
            }
            folder = found;
        }
        self.folder(&folder, &so_far).map(Some)
    }

    /// Where the bytes of a file are. `path` names it in errors.
    pub fn parts(&self, node: &Node, path: &str) -> Result<Vec<Range<u64>>, IsoError> {
        match node.parts.iter().find(|part| part.end > self.size) {
            None => Ok(node.parts.clone()),
            Some(part) => {
                let (start, end, has) = (part.start, part.end, self.size);
                Err(IsoError::Outside { path: path.to_owned(), start, end, has })
            }
        }
    }

    fn folder(&self, folder: &Node, path: &str) -> Result<Vec<Node>, IsoError> {
        let wrong = |what| IsoError::Folder { path: path.to_owned(), what };
        let bytes = self.folder_bytes(folder, path)?;
        let mut nodes: Vec<Node> = Vec::new();
        // The record before was not its file's last one.
        let mut goes_on = false;
        for record in record::all(&bytes) {
            let record = record.ok_or_else(|| wrong("has a record of an impossible length"))?;
            if record.is_self_or_parent() {
                continue;
            }
            if record.is_interleaved() {
                return Err(IsoError::Unknown("interleaved files"));
            }
            let (name, kind) = self.name(&record)?;
            match nodes.last_mut() {
                Some(last) if goes_on => {
                    if last.name != name || last.parts.len() >= record::MAX_PARTS {
                        return Err(wrong("has a file in parts that don't belong together"));
                    }
                    last.parts.push(record.extent());
                }
                _ => nodes.push(Node { name, kind, parts: vec![record.extent()] }),
            }
            goes_on = record.goes_on();
        }
        if goes_on {
            return Err(wrong("ends within a file in parts"));
        }
        // No path leads to these.
        nodes.retain(|node| !node.name.is_empty() && !node.name.contains('/') && node.name != "..");
        Ok(nodes)
    }

    fn folder_bytes(&self, folder: &Node, path: &str) -> Result<Vec<u8>, IsoError> {
        let mut bytes = Vec::new();
        for part in self.parts(folder, path)? {
            let len = part.end - part.start;
            if len > MAX_FOLDER || bytes.len() as u64 > MAX_FOLDER {
                return Err(IsoError::Folder { path: path.to_owned(), what: "is larger than 8 MiB" });
            }
            let old = bytes.len();
            bytes.resize(old + usize::try_from(len).unwrap_or(0), 0);
            self.from.read_exact_at(part.start, bytes.get_mut(old..).unwrap_or_default())?;
        }
        Ok(bytes)
    }

    /// Bytes that SUSP says to skip, where the top folder uses Rock Ridge.
    fn rock_ridge(&self) -> Result<Option<usize>, IsoError> {
        let bytes = self.folder_bytes(&self.root, "")?;
        // SUSP 5.3: SP stands at the front of the system use field of the top folder's own record.
        let skip = match record::all(&bytes).next().flatten() {
            Some(first) => match first.system_use(0) {
                [b'S', b'P', 7, 1, 0xbe, 0xef, skip, ..] => usize::from(*skip),
                _ => return Ok(None),
            },
            None => return Ok(None),
        };
        for record in record::all(&bytes).flatten().take(1000) {
            if record::rock_ridge(record.system_use(skip), &|at, len| self.continued(at, len))?.name.is_some()
            {
                return Ok(Some(skip));
            }
        }
        Ok(None)
    }

    fn name(&self, record: &Record<'_>) -> Result<(String, Kind), IsoError> {
        let kind = if record.is_folder() { Kind::Folder } else { Kind::File };
        Ok(match self.names {
            Names::Joliet => (record.joliet_name(), kind),
            Names::Short => (record.short_name(), kind),
            Names::RockRidge { skip } => {
                let said = record::rock_ridge(record.system_use(skip), &|at, len| self.continued(at, len))?;
                let kind = if said.is_elsewhere { Kind::Other } else { kind };
                (said.name.unwrap_or_else(|| record.short_name()), kind)
            }
        })
    }

    /// A continuation area (SUSP 5.1).
    fn continued(&self, at: u64, len: usize) -> Result<Vec<u8>, IsoError> {
        if at.saturating_add(len as u64) > self.size {
            return Err(IsoError::Damaged("a file's name goes on outside of it"));
        }
        let mut bytes = vec![0; len];
        self.from.read_exact_at(at, &mut bytes)?;
        Ok(bytes)
    }
}
