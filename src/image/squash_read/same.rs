//! Do two files hold the same? Blocks that are stored alike are not unpacked.

use super::{
    File, ReadError, Squashfs,
    content::{Part, Parts},
};
use std::{
    collections::HashMap,
    io::{Read, Seek},
};

/// Which of the two images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Old,
    /// The second.
    New,
}

/// Which image can't be read, and why.
pub type Unread = (Side, ReadError);

fn old(e: ReadError) -> Unread {
    (Side::Old, e)
}

fn new(e: ReadError) -> Unread {
    (Side::New, e)
}

/// Pairs of fragment blocks remembered.
const KEPT: usize = 1 << 16;

/// Compares files of two images.
#[derive(Debug, Default)]
pub struct Comparer {
    /// Pairs of fragment blocks, and whether they are stored alike.
    fragments: HashMap<(u32, u32), bool>,
}

impl Comparer {
    /// True where `x` in `a` and `y` in `b` hold the same bytes.
    pub fn same<A: Read + Seek, B: Read + Seek>(
        &mut self,
        a: &mut Squashfs<A>,
        x: &File,
        b: &mut Squashfs<B>,
        y: &File,
    ) -> Result<bool, Unread> {
        if x.size != y.size {
            return Ok(false);
        }
        let aligned = a.from.block_size == b.from.block_size;
        let (mut parts_a, mut parts_b) = (Parts::of(x), Parts::of(y));
        let (mut left_a, mut left_b) = (Vec::new(), Vec::new());
        loop {
            if aligned {
                let (Some((p, len)), Some((q, _))) =
                    (parts_a.next(a).map_err(old)?, parts_b.next(b).map_err(new)?)
                else {
                    return Ok(true);
                };
                if !self.stored_alike(a, p, b, q)?
                    && a.part(p, len).map_err(old)? != b.part(q, len).map_err(new)?
                {
                    return Ok(false);
                }
                continue;
            }
            // Blocks of different sizes: what both have, then more of the one that has none left.
            if left_a.is_empty()
                && let Some((p, len)) = parts_a.next(a).map_err(old)?
            {
                left_a = a.part(p, len).map_err(old)?;
            }
            if left_b.is_empty()
                && let Some((q, len)) = parts_b.next(b).map_err(new)?
            {
                left_b = b.part(q, len).map_err(new)?;
            }
            let both = left_a.len().min(left_b.len());
            if both == 0 {
                return Ok(true);
            }
            if left_a.get(..both) != left_b.get(..both) {
                return Ok(false);
            }
            left_a.drain(..both);
            left_b.drain(..both);
        }
    }

    /// True where the stored bytes alone say that two parts are the same.
    fn stored_alike<A: Read + Seek, B: Read + Seek>(
        &mut self,
        a: &mut Squashfs<A>,
        p: Part,
        b: &mut Squashfs<B>,
        q: Part,
    ) -> Result<bool, Unread> {
        if a.from.compressor != b.from.compressor {
            return Ok(false);
        }
        match (p, q) {
            (Part::Block(p), Part::Block(q)) => Ok((p.len, p.plain) == (q.len, q.plain)
                && (p.is_sparse() || a.from.stored(p).map_err(old)? == b.from.stored(q).map_err(new)?)),
            (Part::Fragment { index: i, offset: m }, Part::Fragment { index: j, offset: n }) if m == n => {
                if let Some(known) = self.fragments.get(&(i, j)) {
                    return Ok(*known);
                }
                let p = a.tables.fragment(i, &mut a.from, &mut a.metadata).map_err(old)?;
                let q = b.tables.fragment(j, &mut b.from, &mut b.metadata).map_err(new)?;
                let alike = (p.len, p.plain) == (q.len, q.plain)
                    && a.from.stored(p).map_err(old)? == b.from.stored(q).map_err(new)?;
                if self.fragments.len() >= KEPT {
                    self.fragments.clear();
                }
                self.fragments.insert((i, j), alike);
                Ok(alike)
            }
            _ => Ok(false),
        }
    }
}
