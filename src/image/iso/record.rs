//! Directory records (ECMA-119 9.1) and the names that they carry.

use super::{IsoError, SECTOR};
use std::ops::Range;

/// Most records of one file in parts: with 4 GiB a part, 256 GiB.
pub(super) const MAX_PARTS: usize = 64;
/// Most continuation areas of one record, and most bytes of one.
const MAX_CONTINUED: usize = 16;
const MAX_AREA: usize = 2 * SECTOR as usize;
/// Longest name that is kept, in bytes (Rock Ridge's own limit).
const MAX_NAME: usize = 255;

/// One record, its length checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a>(&'a [u8]);

/// What Rock Ridge says of a record.
#[derive(Debug, Default)]
pub(super) struct RockRidge {
    pub name: Option<String>,
    /// A symbolic link, or a folder that lies elsewhere.
    pub is_elsewhere: bool,
}

impl<'a> Record<'a> {
    /// The record at the front of `bytes`; `None` where it can't be one.
    pub fn parse(bytes: &'a [u8]) -> Option<Record<'a>> {
        let len = usize::from(*bytes.first()?);
        let record = bytes.get(..len).filter(|r| r.len() >= 34)?;
        let name_len = usize::from(*record.get(32)?);
        record.get(33..33 + name_len)?;
        Some(Record(record))
    }

    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// Where its bytes are. The length isn't compared with anything.
    pub fn extent(&self) -> Range<u64> {
        let start = (u64::from(u32_le(self.0, 2)) + u64::from(self.byte(1))) * SECTOR;
        start..start + u64::from(u32_le(self.0, 10))
    }

    pub fn is_folder(&self) -> bool {
        self.byte(25) & 2 != 0
    }

    /// Another record of the same file follows.
    pub fn goes_on(&self) -> bool {
        self.byte(25) & 0x80 != 0
    }

    pub fn is_interleaved(&self) -> bool {
        self.byte(26) != 0 || self.byte(27) != 0
    }

    fn raw_name(&self) -> &'a [u8] {
        self.0.get(33..33 + usize::from(self.byte(32))).unwrap_or_default()
    }

    pub fn is_self_or_parent(&self) -> bool {
        matches!(self.raw_name(), [0] | [1])
    }

    /// `FILE.TXT;1` as `file.txt`.
    pub fn short_name(&self) -> String {
        let text = String::from_utf8_lossy(self.raw_name()).to_ascii_lowercase();
        without_version(&text).trim_end_matches('.').to_owned()
    }

    /// UCS-2, most significant byte first.
    pub fn joliet_name(&self) -> String {
        let units = self.raw_name().chunks_exact(2).map(|pair| match pair {
            [high, low] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        });
        let text: String = char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect();
        without_version(&text).to_owned()
    }

    /// The system use field, behind the name and what makes its length even.
    pub fn system_use(&self, skip: usize) -> &'a [u8] {
        let name_len = usize::from(self.byte(32));
        let at = 33 + name_len + usize::from(name_len.is_multiple_of(2)) + skip;
        self.0.get(at..).unwrap_or_default()
    }
}

fn without_version(name: &str) -> &str {
    match name.rsplit_once(';') {
        Some((front, version)) if version.bytes().all(|b| b.is_ascii_digit()) => front,
        _ => name,
    }
}

fn u32_le(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Every record of a folder. No record crosses a sector's end; zeros fill it up. `None`, once, for
/// what can't be a record.
pub(super) fn all(folder: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    folder.chunks(SECTOR as usize).flat_map(|sector| {
        let mut rest = sector;
        std::iter::from_fn(move || {
            if *rest.first()? == 0 {
                return None;
            }
            let record = Record::parse(rest);
            rest = record.and_then(|r| rest.get(r.0.len()..)).unwrap_or_default();
            Some(record)
        })
    })
}

/// Reads a system use field and its continuations, which `area` fetches by place and length.
pub(super) fn rock_ridge(
    field: &[u8],
    area: &dyn Fn(u64, usize) -> Result<Vec<u8>, IsoError>,
) -> Result<RockRidge, IsoError> {
    let mut said = RockRidge::default();
    let mut name: Option<Vec<u8>> = None;
    let mut bytes = field.to_vec();
    for _ in 0..MAX_CONTINUED {
        let mut next = None;
        let mut rest = bytes.as_slice();
        while let [a, b, len, _version, ..] = rest {
            let entry = rest.get(..usize::from(*len)).filter(|e| e.len() >= 4);
            let Some(entry) = entry else { break };
            match (&[*a, *b], entry) {
                // Flags: 1 goes on, 2 and 4 stand for `.` and `..`.
                (b"NM", [_, _, _, _, flags, part @ ..]) if flags & 6 == 0 => {
                    let name = name.get_or_insert_default();
                    if name.len() + part.len() > MAX_NAME {
                        return Err(IsoError::Damaged("a file's name has more than 255 bytes"));
                    }
                    name.extend(part);
                }
                (b"SL" | b"CL", _) => said.is_elsewhere = true,
                (b"CE", e) if e.len() >= 28 => {
                    let at = u64::from(u32_le(e, 4)) * SECTOR + u64::from(u32_le(e, 12));
                    next = Some((at, usize::try_from(u32_le(e, 20)).unwrap_or(usize::MAX)));
                }
                (b"ST", _) => break,
                _ => {}
            }
            rest = rest.get(entry.len()..).unwrap_or_default();
        }
        let Some((at, len)) = next else {
            said.name = name.map(|n| String::from_utf8_lossy(&n).into_owned());
            return Ok(said);
        };
        if len > MAX_AREA {
            return Err(IsoError::Damaged("a file's name goes on for ever"));
        }
        bytes = area(at, len)?;
    }
    Err(IsoError::Damaged("a file's name goes on for ever"))
}
