//! Extended headers of tar archives (POSIX.1-2008 pax, "pax Extended Header"): what doesn't fit into
//! a header's 512 bytes.

use super::{error::EntryFault, node::Xattrs};

/// What extended headers say of an entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<i64>,
    pub xattrs: Xattrs,
    /// An access control list, which no squashfs holds.
    pub acl: bool,
    pub sparse: SparseRecords,
}

/// The words of GNU tar for sparse files, versions 0.1 and 1.0.
#[derive(Clone, Debug, Default)]
pub(super) struct SparseRecords {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    pub map: Option<Vec<u8>>,
    /// Version 0.0, which repeats its words.
    pub oldest: bool,
}

impl Records {
    /// Reads the records in `bytes`. Later ones count; an empty value takes an earlier one back.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), EntryFault> {
        // Some writers pad with zero bytes.
        while bytes.first().is_some_and(|b| *b != 0) {
            let (record, rest) = split_record(bytes).ok_or(EntryFault::Pax("a record's length is wrong"))?;
            let at = record.iter().position(|b| *b == b'=').ok_or(EntryFault::Pax("a record has no `=`"))?;
            let (key, value) = record.split_at(at);
            self.set(key, value.get(1..).unwrap_or_default())?;
            bytes = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), EntryFault> {
        let text = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.linkpath = text,
            b"size" => self.size = number(value, "size")?,
            b"uid" => self.uid = number(value, "owner")?,
            b"gid" => self.gid = number(value, "group")?,
            b"mtime" => self.mtime = time(value)?,
            b"GNU.sparse.major" => self.sparse.major = number(value, "sparse version")?,
            b"GNU.sparse.minor" => self.sparse.minor = number(value, "sparse version")?,
            b"GNU.sparse.name" => self.sparse.name = text,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = number(value, "size")?;
            }
            b"GNU.sparse.map" => self.sparse.map = text,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.oldest = true,
            b"SCHILY.acl.access" | b"SCHILY.acl.default" => self.acl = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.len() > 255 || name.contains(&0) {
                        return Err(EntryFault::Pax("an attribute's name is wrong"));
                    }
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }

    /// True where a header that is for all entries gives what only one can have.
    pub fn names_one_entry(&self) -> bool {
        self.path.is_some() || self.linkpath.is_some() || self.size.is_some() || self.sparse.any()
    }
}

impl SparseRecords {
    pub fn any(&self) -> bool {
        self.major.is_some() || self.map.is_some() || self.name.is_some() || self.oldest
    }
}

/// One record `LENGTH KEY=VALUE\n`, where the length counts all of it, without length and line end.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let len: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..len)?;
    Some((record.strip_suffix(b"\n")?, bytes.get(len..)?))
}

fn number(value: &[u8], what: &'static str) -> Result<Option<u64>, EntryFault> {
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|t| t.parse().ok()).map(Some).ok_or(EntryFault::Number(what))
}

/// Seconds with or without a fraction, which is rounded down.
fn time(value: &[u8]) -> Result<Option<i64>, EntryFault> {
    let fault = || EntryFault::Number("time");
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| fault())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fault());
    }
    let seconds: i64 = whole.parse().map_err(|_| fault())?;
    let below = text.starts_with('-') && fraction.bytes().any(|b| b != b'0');
    Ok(Some(if below { seconds.saturating_sub(1) } else { seconds }))
}

/// Appends a record.
pub(super) fn write_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(format!("{len} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_may_hold_line_ends_and_times_fractions() {
        let mut bytes = Vec::new();
        write_record(&mut bytes, b"SCHILY.xattr.security.capability", b"\x01\n\n=\0\x02");
        write_record(&mut bytes, b"mtime", b"-1.5");
        write_record(&mut bytes, b"uid", b"4000000000");
        let mut r = Records::default();
        r.read(&bytes).unwrap();
        assert_eq!(r.xattrs.get(b"security.capability".as_slice()).unwrap(), b"\x01\n\n=\0\x02");
        assert_eq!((r.mtime, r.uid), (Some(-2), Some(4_000_000_000)));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bad in
            ["99 path=a\n", "5 path=a\n", "0 path=a\n", "x path=a\n", "11 path=a\n", "8 patha\n", "9 path=a"]
        {
            assert!(Records::default().read(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Records::default().read(b"9 size=-1\n").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(path in prop::collection::vec(1u8.., 1..1200), size: u64) {
            let mut bytes = Vec::new();
            write_record(&mut bytes, b"path", &path);
            write_record(&mut bytes, b"size", size.to_string().as_bytes());
            let mut r = Records::default();
            r.read(&bytes).unwrap();
            prop_assert_eq!(r.path, Some(path));
            prop_assert_eq!(r.size, Some(size));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Records::default().read(&bytes);
        }
    }
}
