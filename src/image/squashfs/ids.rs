//! What inodes refer to by a number: owners, and sets of extended attributes.

use super::{
    table::{At, Table},
    write::WriteError,
};
use crate::image::source::Xattrs;
use std::{collections::HashMap, io};

/// The number of no attributes.
pub(super) const NO_XATTRS: u32 = u32::MAX;
/// Owners and groups that an image may have together.
const MAX_IDS: usize = 1 << 16;
/// Kinds of attributes, in the order of their numbers.
const KINDS: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Owners and groups, by the order of their first use.
#[derive(Default)]
pub(super) struct Ids {
    numbers: HashMap<u32, u16>,
    ids: Vec<u32>,
}

impl Ids {
    pub fn number(&mut self, id: u32) -> Result<u16, WriteError> {
        if let Some(number) = self.numbers.get(&id) {
            return Ok(*number);
        }
        if self.ids.len() == MAX_IDS - 1 {
            return Err(WriteError::Ids(MAX_IDS - 1));
        }
        let number = self.ids.len() as u16;
        self.numbers.insert(id, number);
        self.ids.push(id);
        Ok(number)
    }

    pub fn len(&self) -> u16 {
        self.ids.len() as u16
    }

    /// The table at `position`, and where its index is.
    pub fn table(&self, position: u64) -> io::Result<(Vec<u8>, u64)> {
        let mut table = Table::new()?;
        self.ids.iter().try_for_each(|id| table.put(&id.to_le_bytes()))?;
        table.finish_indexed(position)
    }
}

/// Sets of extended attributes, each stored once.
pub(super) struct XattrSets {
    numbers: HashMap<Xattrs, u32>,
    values: Table,
    sets: Vec<(At, u32, u32)>,
}

impl XattrSets {
    pub fn new() -> io::Result<XattrSets> {
        Ok(XattrSets { numbers: HashMap::new(), values: Table::new()?, sets: Vec::new() })
    }

    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// The number of a set.
    pub fn number(&mut self, set: &Xattrs) -> Result<u32, WriteError> {
        if set.is_empty() {
            return Ok(NO_XATTRS);
        }
        if let Some(number) = self.numbers.get(set) {
            return Ok(*number);
        }
        let (at, mut size) = (self.values.at()?, 0);
        for (name, value) in set {
            let kinds = KINDS.iter().zip(0u16..);
            let found = kinds.filter_map(|(kind, number)| Some((number, name.strip_prefix(*kind)?))).next();
            let (kind, rest) = found
                .ok_or_else(|| WriteError::Xattr(String::from_utf8_lossy(name).escape_debug().to_string()))?;
            // A name has at most 255 bytes, and the bounds of a source hold a value far below 4 GiB.
            let head = [kind.to_le_bytes(), (rest.len() as u16).to_le_bytes()].concat();
            let record = [&head, rest, &(value.len() as u32).to_le_bytes(), value].concat();
            self.values.put(&record)?;
            size += record.len() as u32;
        }
        let number = self.sets.len() as u32;
        self.sets.push((at, set.len() as u32, size));
        self.numbers.insert(set.clone(), number);
        Ok(number)
    }

    /// The tables at `position`, and where the header is that the superblock names.
    pub fn tables(self, position: u64) -> io::Result<(Vec<u8>, u64)> {
        let (mut bytes, _) = self.values.finish()?;
        let mut table = Table::new()?;
        for (at, count, size) in &self.sets {
            table.put(&at.packed().to_le_bytes())?;
            table.put(&count.to_le_bytes())?;
            table.put(&size.to_le_bytes())?;
        }
        let sets = position + bytes.len() as u64;
        let (stored, starts) = table.finish()?;
        bytes.extend(stored);
        let header = position + bytes.len() as u64;
        bytes.extend(position.to_le_bytes());
        bytes.extend((self.sets.len() as u32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(starts.iter().flat_map(|start| (sets + start).to_le_bytes()));
        Ok((bytes, header))
    }
}
