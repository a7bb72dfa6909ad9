//! Every name in an image.

use super::{Kind, Node, ReadError, Squashfs, damaged, inode::Folder, u16_at, u32_at};
use std::{
    collections::{BTreeMap, HashSet},
    io::{Read, Seek},
};

/// Most names.
const MAX_NAMES: usize = 4_000_000;
/// Most bytes of paths.
const MAX_NAME_BYTES: usize = 512 << 20;
/// Most folders within each other.
const MAX_DEPTH: usize = 256;

/// What an image holds: by path without the first `/`; the root itself is the empty path.
pub type Listing = BTreeMap<Vec<u8>, Node>;

impl<R: Read + Seek> Squashfs<R> {
    /// Lists everything.
    pub fn walk(&mut self) -> Result<Listing, ReadError> {
        let root = self.node(self.root)?;
        let Kind::Folder(folder) = root.kind else { return Err(damaged("its root is no folder")) };
        let (mut listing, mut bytes) = (Listing::from([(Vec::new(), root)]), 0);
        let mut seen = HashSet::from([self.root]);
        let mut todo = vec![(Vec::new(), 0, folder)];
        while let Some((path, depth, folder)) = todo.pop() {
            if depth >= MAX_DEPTH {
                return Err(ReadError::TooMuch {
                    what: "folders within each other",
                    limit: MAX_DEPTH as u64,
                });
            }
            for (name, reference) in self.names(folder, MAX_NAMES - listing.len()).map_err(|e| e.at(&path))? {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(&name);
                bytes += below.len();
                if bytes > MAX_NAME_BYTES {
                    return Err(ReadError::TooMuch { what: "bytes of names", limit: MAX_NAME_BYTES as u64 });
                }
                let node = self.node(reference).map_err(|e| e.at(&below))?;
                if let Kind::Folder(folder) = node.kind {
                    if !seen.insert(reference) {
                        return Err(damaged("a folder lies in two places").at(&below));
                    }
                    todo.push((below.clone(), depth + 1, folder));
                }
                if listing.insert(below.clone(), node).is_some() {
                    return Err(damaged("a name is there twice").at(&below));
                }
            }
        }
        Ok(listing)
    }

    /// The names in one folder, each with the reference of its inode; at most `limit`.
    fn names(&mut self, folder: Folder, limit: usize) -> Result<Vec<(Vec<u8>, u64)>, ReadError> {
        let (mut out, mut left, mut place) = (Vec::new(), folder.size as usize, folder.at);
        let mut take = |left: &mut usize, len: usize| {
            *left = left.checked_sub(len).ok_or_else(|| damaged("a folder ends within a name"))?;
            self.metadata.take(&mut self.from, &mut place, len)
        };
        while left > 0 {
            let head = take(&mut left, 12)?;
            let (count, block) = (u32_at(&head, 0), u64::from(u32_at(&head, 4)));
            if count >= 256 {
                return Err(damaged("a folder has an impossible run of names"));
            }
            for _ in 0..=count {
                let entry = take(&mut left, 8)?;
                let name = take(&mut left, usize::from(u16_at(&entry, 6)) + 1)?;
                if name.len() > 255
                    || name == b"."
                    || name == b".."
                    || name.iter().any(|b| matches!(b, 0 | b'/'))
                {
                    return Err(damaged("a folder has an impossible name"));
                }
                if out.len() >= limit {
                    return Err(ReadError::TooMuch { what: "names", limit: MAX_NAMES as u64 });
                }
                out.push((name, block << 16 | u64::from(u16_at(&entry, 0))));
            }
        }
        Ok(out)
    }
}
