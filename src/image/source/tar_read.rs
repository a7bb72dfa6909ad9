//! Reads a tar archive: old, ustar, GNU and PAX. Contents are not read, only where they lie.
//!
//! The headers' fields are read by the crate `tar`. The way from header to header is ours: it needs a
//! bound on all that is kept, contents by position, PAX values with line ends in them (capabilities
//! have such), and a name for everything that is out of order. Where readers of archives differ, what
//! is ambiguous is refused.

use super::{
    Options,
    bounds::Used,
    content::{Backing, Content, Place},
    error::{ArchiveFault, EntryFault, SourceError},
    node::{Kind, Meta, Xattrs, keeps},
    path::{normalise, show},
    pax::Records,
    sparse::{self, Sparse},
};
use std::io;
use tar::Header;

const BLOCK: u64 = 512;

/// An entry of an archive.
#[derive(Debug)]
pub(super) struct Item {
    /// Its canonical name, before any link is followed.
    pub path: Vec<u8>,
    pub meta: Meta,
    pub what: What,
    /// It has attributes that no image holds, and which were left out.
    pub dropped: bool,
}

#[derive(Debug)]
pub(super) enum What {
    Node(Kind),
    /// Another name for this one.
    HardLink(Vec<u8>),
}

/// Reads the archive in `backing`, called `label`, to its end. `strict` wants the mark of the end: without it
/// a cut between two entries can't be told (where a digest proves the bytes, it isn't needed).
pub(super) fn read(
    backing: &Backing,
    label: &str,
    strict: bool,
    options: &Options,
    used: &mut Used,
    each: &mut dyn FnMut(Item) -> Result<(), SourceError>,
) -> Result<(), SourceError> {
    Reader { backing, label, options, used, at: 0, all: Records::default() }.run(strict, each)
}

struct Reader<'a> {
    backing: &'a Backing,
    label: &'a str,
    options: &'a Options,
    used: &'a mut Used,
    /// Where the next header is.
    at: u64,
    /// What global headers said.
    all: Records,
}

/// What headers in front of an entry said of it.
#[derive(Default)]
struct Ahead {
    pax: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Ahead {
    fn any(&self) -> bool {
        self.pax.is_some() || self.name.is_some() || self.link.is_some()
    }
}

impl Reader<'_> {
    fn run(
        mut self,
        strict: bool,
        each: &mut dyn FnMut(Item) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let mut ahead = Ahead::default();
        loop {
            let Some(block) = self.block(strict)? else {
                return if ahead.any() { Err(self.archive(ArchiveFault::Dangling)) } else { Ok(()) };
            };
            let header = Header::from_byte_slice(&block);
            let kind = header.entry_type().as_byte();
            match kind {
                b'L' | b'K' | b'x' | b'X' | b'g' => self.extended(kind, header, &mut ahead)?,
                // A label of the whole volume.
                b'V' => self.at += data_blocks(header.entry_size().unwrap_or(0)),
                _ => {
                    let name = raw_name(header, &ahead, &self.all);
                    let item = self.entry(header, std::mem::take(&mut ahead), &name);
                    let item = item.map_err(|fault| self.fault(&name, fault))?;
                    if let Some(item) = item {
                        each(item)?;
                    }
                }
            }
        }
    }

    /// The next header; `None` at the end of the archive.
    fn block(&mut self, strict: bool) -> Result<Option<[u8; BLOCK as usize]>, SourceError> {
        let left = self.backing.len().saturating_sub(self.at);
        if left == 0 {
            // Only what is proven in another way may end without a mark.
            return if strict {
                let fault = match self.at {
                    0 => ArchiveFault::NotTar,
                    _ => ArchiveFault::Truncated("without the two empty blocks that end an archive"),
                };
                Err(self.archive(fault))
            } else {
                Ok(None)
            };
        }
        let mut block = [0; BLOCK as usize];
        match self.backing.read_exact_at(&mut block, self.at) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                let fault = match self.at {
                    0 => ArchiveFault::NotTar,
                    _ => ArchiveFault::Truncated("in the middle of a header"),
                };
                return Err(self.archive(fault));
            }
            Err(e) => return Err(self.archive(ArchiveFault::Read(e))),
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if !checksum_fits(&block) {
            let fault = if self.at == 0 { ArchiveFault::NotTar } else { ArchiveFault::Header(self.at) };
            return Err(self.archive(fault));
        }
        self.at += BLOCK;
        Ok(Some(block))
    }

    /// A header that says more about the entry that follows, or about all.
    fn extended(&mut self, kind: u8, header: &Header, ahead: &mut Ahead) -> Result<(), SourceError> {
        let name = header.path_bytes().into_owned();
        let read = (|| {
            let size = size_field(header)?;
            if size > self.options.bounds.header_bytes {
                return Err(EntryFault::Pax("it is longer than the bound"));
            }
            self.used.metadata(&self.options.bounds, size)?;
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
            self.backing.read_exact_at(&mut bytes, self.at).map_err(cut)?;
            self.at += data_blocks(size);
            match kind {
                b'L' if ahead.name.is_none() => ahead.name = Some(until_nul(bytes)),
                b'K' if ahead.link.is_none() => ahead.link = Some(until_nul(bytes)),
                b'g' => {
                    self.all.read(&bytes)?;
                    if self.all.names_one_entry() {
                        return Err(EntryFault::Pax(
                            "a header for all entries gives one name or size to all",
                        ));
                    }
                }
                b'x' | b'X' if ahead.pax.is_none() => {
                    let mut pax = self.all.clone();
                    pax.read(&bytes)?;
                    ahead.pax = Some(pax);
                }
                _ => return Err(EntryFault::Pax("two headers of one kind stand before one entry")),
            }
            Ok(())
        })();
        read.map_err(|fault| self.fault(&name, fault))
    }

    /// An entry; `None` for a device that the policy leaves out.
    fn entry(&mut self, header: &Header, ahead: Ahead, raw: &[u8]) -> Result<Option<Item>, EntryFault> {
        let bounds = &self.options.bounds;
        let path = normalise(raw, bounds)?;
        let pax = ahead.pax.unwrap_or_else(|| self.all.clone());
        let kind = match header.entry_type().as_byte() {
            // Before ustar a folder was a file with a slash at its name's end.
            b'0' | b'\0' | b'7' if raw.ends_with(b"/") => b'5',
            b'\0' | b'7' => b'0',
            // A folder with a list of its names, of an incremental archive.
            b'D' => b'D',
            kind => kind,
        };
        let size = match pax.size {
            Some(size) => size,
            None => size_field(header)?,
        };
        let meta = self.meta(header, &pax)?;
        let attributes: usize = meta.xattrs.iter().map(|(k, v)| k.len() + v.len() + 64).sum();
        self.used.entry(bounds, (path.len() + attributes + 200) as u64)?;

        let target = || -> Result<Vec<u8>, EntryFault> {
            let field = || header.link_name_bytes().map(|n| n.into_owned());
            let target = pax.linkpath.clone().or(ahead.link.clone()).or_else(field);
            target.filter(|t| !t.is_empty()).ok_or(EntryFault::NoTarget)
        };
        let what = match kind {
            b'0' => What::Node(self.file(&pax, size)?),
            b'S' => What::Node(self.gnu_sparse(header, size)?),
            b'5' if size > 0 => return Err(EntryFault::Contents("folder")),
            b'5' => What::Node(Kind::Dir),
            b'D' => {
                self.skip(size)?;
                What::Node(Kind::Dir)
            }
            // Some writers give the size of what is linked to, and no contents.
            b'1' => {
                let target = target()?;
                let clean = normalise(&target, bounds);
                What::HardLink(clean.map_err(|fault| EntryFault::LinkPath { target: show(&target), fault })?)
            }
            b'2' => {
                let target = target()?;
                if target.len() > 4095 || target.contains(&0) {
                    return Err(EntryFault::BadTarget(target.len()));
                }
                self.used.metadata(bounds, target.len() as u64)?;
                What::Node(Kind::Symlink(target))
            }
            b'3' | b'4' | b'6' if size > 0 => return Err(EntryFault::Contents("device or pipe")),
            b'3' | b'4' => {
                let major =
                    header.device_major().ok().flatten().ok_or(EntryFault::Number("device number"))?;
                let minor =
                    header.device_minor().ok().flatten().ok_or(EntryFault::Number("device number"))?;
                What::Node(if kind == b'3' { Kind::Char(major, minor) } else { Kind::Block(major, minor) })
            }
            b'6' => What::Node(Kind::Fifo),
            other => return Err(EntryFault::Type(char::from(other))),
        };
        if path.is_empty() && !matches!(what, What::Node(Kind::Dir)) {
            return Err(super::path::PathFault::Empty.into());
        }
        if let What::Node(node) = &what
            && !self.options.devices.admits(&path, node)?
        {
            return Ok(None);
        }
        let dropped = pax.acl || pax.xattrs.keys().any(|k| !keeps(k));
        Ok(Some(Item { path, meta, what, dropped }))
    }

    fn file(&mut self, pax: &Records, stored: u64) -> Result<Kind, EntryFault> {
        let at = self.skip(stored)?;
        if pax.sparse.any() {
            let sparse = sparse::from_pax(&pax.sparse, self.backing, at, stored)?;
            return self.sparse_file(sparse);
        }
        self.used.content(&self.options.bounds, stored)?;
        let part = self.backing.part(at, stored).ok_or(EntryFault::Truncated)?;
        Ok(Kind::File { size: stored, content: Content(Place::Extent(part)) })
    }

    fn gnu_sparse(&mut self, header: &Header, stored: u64) -> Result<Kind, EntryFault> {
        let gnu = header.as_gnu().ok_or(EntryFault::Type('S'))?;
        let (sparse, data) = sparse::from_gnu(gnu, self.backing, self.at, stored)?;
        self.at = data;
        self.skip(stored)?;
        self.sparse_file(sparse)
    }

    fn sparse_file(&mut self, sparse: Sparse) -> Result<Kind, EntryFault> {
        let bounds = &self.options.bounds;
        self.used.content(bounds, sparse.size)?;
        self.used.metadata(bounds, sparse.parts.len() as u64 * 24)?;
        let place = Place::Sparse { backing: self.backing.clone(), parts: sparse.parts.into() };
        Ok(Kind::File { size: sparse.size, content: Content(place) })
    }

    /// Goes past `size` bytes of contents and gives where they begin.
    fn skip(&mut self, size: u64) -> Result<u64, EntryFault> {
        let at = self.at;
        if self.backing.part(at, size).is_none() {
            return Err(EntryFault::Truncated);
        }
        self.at += data_blocks(size);
        Ok(at)
    }

    fn meta(&self, header: &Header, pax: &Records) -> Result<Meta, EntryFault> {
        let old = header.as_old();
        let mode = blank(&old.mode, header.mode().map(u64::from), "mode")?;
        let owner = |pax: Option<u64>, field: &[u8], read, what| {
            let id = match pax {
                Some(id) => id,
                None => blank(field, read, what)?,
            };
            // The highest stands for "none" in the kernel.
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(EntryFault::Number(what))
        };
        let (uid, gid) = (
            owner(pax.uid, &old.uid, header.uid(), "owner")?,
            owner(pax.gid, &old.gid, header.gid(), "group")?,
        );
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            // Times before 1970 are two's complement.
            None => blank(&old.mtime, header.mtime(), "time")? as i64,
        };
        let (uid, gid) = self.options.owners.of(uid, gid);
        let xattrs: Xattrs = pax.xattrs.clone().into_iter().filter(|(k, _)| keeps(k)).collect();
        Ok(Meta { mode: mode as u32 & 0o7777, uid, gid, mtime, xattrs })
    }

    fn fault(&self, raw: &[u8], fault: EntryFault) -> SourceError {
        SourceError::Entry { archive: self.label.to_owned(), entry: show(raw), fault }
    }

    fn archive(&self, fault: ArchiveFault) -> SourceError {
        SourceError::Archive { archive: self.label.to_owned(), fault }
    }
}

/// The name as it is written: PAX counts before GNU's long names, those before the header.
fn raw_name(header: &Header, ahead: &Ahead, all: &Records) -> Vec<u8> {
    let pax = ahead.pax.as_ref().unwrap_or(all);
    pax.sparse
        .name
        .clone()
        .or_else(|| pax.path.clone())
        .or_else(|| ahead.name.clone())
        .unwrap_or_else(|| header.path_bytes().into_owned())
}

fn size_field(header: &Header) -> Result<u64, EntryFault> {
    blank(&header.as_old().size, header.entry_size(), "size")
}

/// A field that is blank stands for 0.
fn blank(field: &[u8], read: io::Result<u64>, what: &'static str) -> Result<u64, EntryFault> {
    match read {
        Ok(n) => Ok(n),
        Err(_) if field.iter().all(|b| matches!(b, 0 | b' ')) => Ok(0),
        Err(_) => Err(EntryFault::Number(what)),
    }
}

fn cut(e: io::Error) -> EntryFault {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => EntryFault::Truncated,
        _ => EntryFault::Read(e),
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    // GNU ends the name with one zero byte. Any other stays in, and is refused with the name.
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// Bytes that contents take: whole blocks.
fn data_blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// The sum of the header's bytes, its own field counted as spaces; some old writers summed signed.
pub(super) fn checksum_fits(block: &[u8; BLOCK as usize]) -> bool {
    let Ok(said) = Header::from_byte_slice(block).cksum() else { return false };
    let bytes = || block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b });
    let unsigned: u32 = bytes().map(u32::from).sum();
    let signed: i32 = bytes().map(|b| i32::from(b as i8)).sum();
    said == unsigned || i64::from(said) == i64::from(signed)
}
