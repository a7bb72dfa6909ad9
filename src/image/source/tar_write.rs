//! Writes a tree as a tar archive. The same tree gives the same bytes, whatever the order and form of
//! what it was read from: names sorted, numeric owners, times clamped, PAX records (sorted too) only for
//! what a ustar header doesn't hold, holes written out.

use super::{
    node::{Kind, Node},
    path::show,
    pax::write_record,
    tree::{Entry, Tree},
};
use std::io::{self, Read as _, Write};
use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// Bytes that are copied at once.
const PART: usize = 256 << 10;

/// Why an archive wasn't written to its end.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file of the tree can't be read.
    #[error("can't read `{path}`: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The archive can't be written.
    #[error("can't write: {0}")]
    Write(#[from] io::Error),
}

impl Tree {
    /// Writes it all to `out`. No time after `clamp_mtime` (seconds since 1970) is written.
    pub fn write_tar(&self, out: &mut dyn Write, clamp_mtime: Option<i64>) -> Result<(), WriteError> {
        let mut buffer = vec![0; PART];
        for entry in self.walk() {
            write_entry(out, entry, clamp_mtime, &mut buffer)?;
        }
        // Two empty blocks end an archive.
        out.write_all(&[0; 2 * BLOCK])?;
        out.flush()?;
        Ok(())
    }
}

fn write_entry(
    out: &mut dyn Write,
    entry: Entry<'_>,
    clamp: Option<i64>,
    buffer: &mut [u8],
) -> Result<(), WriteError> {
    let node = entry.node;
    let path = match (entry.path, node.is_dir()) {
        (b"", _) => b"./".to_vec(),
        (path, true) => [path, b"/"].concat(),
        (path, false) => path.to_vec(),
    };
    let mtime = clamp.map_or(node.meta.mtime, |c| node.meta.mtime.min(c));
    let (mut header, pax) = head(&path, node, entry.link_to, mtime);
    if !pax.is_empty() {
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        put(&mut extended.as_old_mut().name, &[b"PaxHeaders/".as_slice(), &path].concat());
        extended.set_mode(0o644);
        extended.set_size(pax.len() as u64);
        zero(&mut extended);
        extended.set_cksum();
        out.write_all(extended.as_bytes())?;
        out.write_all(&pax)?;
        pad(out, pax.len() as u64)?;
    }
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    if let (Kind::File { size, content }, None) = (&node.kind, entry.link_to) {
        let fail = |source| WriteError::Read { path: show(entry.path), source };
        let mut reader = content.open(*size).map_err(fail)?;
        loop {
            let n = reader.read(buffer).map_err(fail)?;
            if n == 0 {
                break;
            }
            out.write_all(buffer.get(..n).unwrap_or_default())?;
        }
        pad(out, *size)?;
    }
    Ok(())
}

/// The header, and the records for what it can't hold.
fn head(path: &[u8], node: &Node, link_to: Option<&[u8]>, mtime: i64) -> (Header, Vec<u8>) {
    let mut header = Header::new_ustar();
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut record = |key: &[u8], value: Vec<u8>| records.push((key.to_vec(), value));
    zero(&mut header);
    if put(&mut header.as_old_mut().name, path) {
        record(b"path", path.to_vec());
    }
    let (kind, link) = match (link_to, &node.kind) {
        (Some(first), _) => (EntryType::Link, Some(first)),
        (_, Kind::Symlink(target)) => (EntryType::Symlink, Some(target.as_slice())),
        (_, Kind::File { .. }) => (EntryType::Regular, None),
        (_, Kind::Dir) => (EntryType::Directory, None),
        (_, Kind::Char(..)) => (EntryType::Char, None),
        (_, Kind::Block(..)) => (EntryType::Block, None),
        (_, Kind::Fifo) => (EntryType::Fifo, None),
    };
    header.set_entry_type(kind);
    if let Some(link) = link
        && put(&mut header.as_old_mut().linkname, link)
    {
        record(b"linkpath", link.to_vec());
    }
    if let Kind::Char(major, minor) | Kind::Block(major, minor) = node.kind {
        // A ustar header, which new_ustar made, has both fields.
        let _ = header.set_device_major(major);
        let _ = header.set_device_minor(minor);
    }
    header.set_mode(node.meta.mode);
    let seven_digits = |id: u32| (id < 1 << 21).then_some(u64::from(id));
    header.set_uid(seven_digits(node.meta.uid).unwrap_or(0));
    header.set_gid(seven_digits(node.meta.gid).unwrap_or(0));
    if seven_digits(node.meta.uid).is_none() {
        record(b"uid", node.meta.uid.to_string().into_bytes());
    }
    if seven_digits(node.meta.gid).is_none() {
        record(b"gid", node.meta.gid.to_string().into_bytes());
    }
    let eleven_digits = |n: u64| (n < 1 << 33).then_some(n);
    let size = if link_to.is_some() { 0 } else { node.size() };
    header.set_size(eleven_digits(size).unwrap_or(0));
    if eleven_digits(size).is_none() {
        record(b"size", size.to_string().into_bytes());
    }
    let time = u64::try_from(mtime).ok().and_then(eleven_digits);
    header.set_mtime(time.unwrap_or(0));
    if time.is_none() {
        record(b"mtime", mtime.to_string().into_bytes());
    }
    for (name, value) in &node.meta.xattrs {
        record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
    }
    records.sort();
    let mut pax = Vec::new();
    records.iter().for_each(|(key, value)| write_record(&mut pax, key, value));
    (header, pax)
}

/// Fields that stay as they are for most entries.
fn zero(header: &mut Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let _ = header.set_device_major(0);
    let _ = header.set_device_minor(0);
}

/// Writes as much of `bytes` as the field holds; true where that isn't all.
fn put(field: &mut [u8; 100], bytes: &[u8]) -> bool {
    field.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    bytes.len() > field.len()
}

fn pad(out: &mut dyn Write, len: u64) -> io::Result<()> {
    let over = (len % BLOCK as u64) as usize;
    let missing = if over == 0 { 0 } else { BLOCK - over };
    out.write_all([0; BLOCK].get(..missing).unwrap_or_default())
}
