//! Files with holes, in the three forms that GNU tar writes: its own header (`--format=gnu`), PAX
//! version 0.1 and version 1.0 (GNU tar manual, "Storing Sparse Files"). 0.0 is refused by name: no
//! tar wrote it by default after 2006.

use super::{
    content::{Backing, Part},
    error::EntryFault,
    pax::SparseRecords,
};
use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

const BLOCK: u64 = 512;
/// Stretches of data of one file. What a file of a root has at most is a few thousand.
const MAX_PARTS: usize = 100_000;

/// What a sparse file's entry says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Bytes of the file, holes counted.
    pub size: u64,
    /// Where data lies; `from` counts from the start of the archive.
    pub parts: Vec<Part>,
}

/// GNU's own header. `at` is where the blocks after it begin, `stored` the bytes of data. Gives also
/// where the data begins.
pub(super) fn from_gnu(
    header: &GnuHeader,
    archive: &Backing,
    mut at: u64,
    stored: u64,
) -> Result<(Sparse, u64), EntryFault> {
    let size = header.real_size().map_err(|_| EntryFault::Number("size"))?;
    let mut map = Vec::new();
    let add = |map: &mut Vec<(u64, u64)>, fields: &[GnuSparseHeader]| {
        for field in fields.iter().filter(|f| !f.is_empty()) {
            let offset = field.offset().map_err(|_| EntryFault::Sparse("an offset is no number"))?;
            let len = field.length().map_err(|_| EntryFault::Sparse("a length is no number"))?;
            map.push((offset, len));
        }
        if map.len() > MAX_PARTS { Err(EntryFault::Sparse("it has too many parts")) } else { Ok(()) }
    };
    add(&mut map, &header.sparse)?;
    let mut more = header.is_extended();
    while more {
        let mut block = GnuExtSparseHeader::new();
        archive.read_exact_at(block.as_mut_bytes(), at).map_err(|_| EntryFault::Truncated)?;
        at += BLOCK;
        let before = map.len();
        add(&mut map, block.sparse())?;
        more = block.is_extended();
        if more && map.len() == before {
            return Err(EntryFault::Sparse("a part of it is empty"));
        }
    }
    Ok((check(size, map, at, stored)?, at))
}

/// PAX 0.1 or 1.0. The entry's data, `stored` bytes long, begin at `at`.
pub(super) fn from_pax(
    records: &SparseRecords,
    archive: &Backing,
    at: u64,
    stored: u64,
) -> Result<Sparse, EntryFault> {
    if records.oldest {
        return Err(EntryFault::Sparse(
            "version 0.0 of the format isn't read here: pack it without --sparse",
        ));
    }
    let size = records.real_size.ok_or(EntryFault::Sparse("its size is missing"))?;
    match (records.major, records.minor, &records.map) {
        (Some(1), Some(0) | None, _) => {
            let (map, used) = map_in_data(archive, at, stored)?;
            let rest = stored.checked_sub(used).ok_or(EntryFault::Sparse("it is longer than its data"))?;
            check(size, map, at + used, rest)
        }
        (Some(0) | None, Some(1) | None, Some(map)) => {
            let numbers = map.split(|b| *b == b',').map(decimal).collect::<Option<Vec<u64>>>();
            let numbers = numbers.ok_or(EntryFault::Sparse("it is no list of numbers"))?;
            if numbers.len() % 2 != 0 || numbers.len() / 2 > MAX_PARTS {
                return Err(EntryFault::Sparse("its numbers don't come in pairs, or are too many"));
            }
            let map = numbers.chunks_exact(2).filter_map(|p| Some((*p.first()?, *p.get(1)?))).collect();
            check(size, map, at, stored)
        }
        _ => Err(EntryFault::Sparse("its version is unknown")),
    }
}

/// Version 1.0: decimal numbers on lines of their own in front of the data, padded to blocks: how many
/// pairs, then the pairs. Gives also the bytes that they take.
fn map_in_data(archive: &Backing, at: u64, stored: u64) -> Result<(Vec<(u64, u64)>, u64), EntryFault> {
    let (mut numbers, mut digits) = (Vec::<u64>::new(), Vec::new());
    let (mut used, mut wanted) = (0, 1);
    while numbers.len() < wanted {
        if used + BLOCK > stored {
            return Err(EntryFault::Sparse("it is longer than its data"));
        }
        let mut block = [0; BLOCK as usize];
        archive.read_exact_at(&mut block, at + used).map_err(|_| EntryFault::Truncated)?;
        used += BLOCK;
        for byte in block {
            match byte {
                b'\n' if numbers.len() < wanted => {
                    numbers.push(decimal(&digits).ok_or(EntryFault::Sparse("it has no number on a line"))?);
                    digits.clear();
                    if let [count] = numbers.as_slice() {
                        let count = usize::try_from(*count).ok().filter(|n| *n <= MAX_PARTS);
                        wanted = 1 + 2 * count.ok_or(EntryFault::Sparse("it has too many parts"))?;
                    }
                }
                _ if numbers.len() >= wanted => break,
                _ if digits.len() > 20 => return Err(EntryFault::Sparse("it has no number on a line")),
                digit => digits.push(digit),
            }
        }
    }
    let pairs = numbers.get(1..).unwrap_or_default().chunks_exact(2);
    Ok((pairs.filter_map(|p| Some((*p.first()?, *p.get(1)?))).collect(), used))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// Parts in order, apart, inside the file, and as long together as the data.
fn check(size: u64, map: Vec<(u64, u64)>, mut from: u64, stored: u64) -> Result<Sparse, EntryFault> {
    let (mut parts, mut end, mut sum) = (Vec::with_capacity(map.len()), 0u64, 0u64);
    for (at, len) in map {
        let stop = at.checked_add(len).filter(|stop| at >= end && *stop <= size);
        end = stop.ok_or(EntryFault::Sparse("its parts overlap or reach past the end"))?;
        sum += len;
        if sum > stored {
            return Err(EntryFault::Sparse("its parts are longer than its data"));
        }
        if len > 0 {
            parts.push(Part { at, from, len });
            from += len;
        }
    }
    if sum != stored {
        return Err(EntryFault::Sparse("its parts are shorter than its data"));
    }
    Ok(Sparse { size, parts })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn maps_that_lie_are_refused() {
        assert!(check(100, vec![(0, 10), (50, 10)], 0, 20).is_ok());
        assert!(check(100, vec![(50, 10), (0, 10)], 0, 20).is_err());
        assert!(check(100, vec![(0, 10), (5, 10)], 0, 20).is_err());
        assert!(check(100, vec![(95, 10)], 0, 10).is_err());
        assert!(check(100, vec![(0, 10)], 0, 20).is_err());
        assert!(check(100, vec![(0, 30)], 0, 20).is_err());
        assert!(check(u64::MAX, vec![(u64::MAX, 10)], 0, 10).is_err());
    }
}
