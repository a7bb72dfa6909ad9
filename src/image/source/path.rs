//! Names inside a root: bytes without a slash in front, without `.`, never with `..`.

use super::bounds::Bounds;
use std::fmt;

/// Why a name can't stand in a root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It climbs.
    #[error("its name has `..` in it, which would lead out of the root")]
    DotDot,
    /// No file system holds it.
    #[error("its name has a zero byte in it")]
    Nul,
    /// Nothing is left of it.
    #[error("it has no name")]
    Empty,
    /// Longer than asked for.
    #[error("its name has {len} bytes, and {limit} are allowed")]
    TooLong {
        /// Bytes.
        len: usize,
        /// The bound.
        limit: usize,
    },
    /// A part that no file system holds.
    #[error("a part of its name has {0} bytes, and a file system holds 255")]
    PartTooLong(usize),
    /// Deeper than asked for.
    #[error("it lies {depth} folders deep, and {limit} are allowed")]
    TooDeep {
        /// Folders.
        depth: usize,
        /// The bound.
        limit: usize,
    },
}

/// The canonical form of a name: `./etc//hosts` and `/etc/hosts` are `etc/hosts`, the root is empty.
pub fn normalise(raw: &[u8], bounds: &Bounds) -> Result<Vec<u8>, PathFault> {
    // A name of a million parts is refused before it is looked at.
    if raw.len() > bounds.path_bytes.saturating_mul(2) {
        return Err(PathFault::TooLong { len: raw.len(), limit: bounds.path_bytes });
    }
    if raw.contains(&0) {
        return Err(PathFault::Nul);
    }
    let (mut out, mut depth) = (Vec::with_capacity(raw.len()), 0);
    for part in raw.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        match part {
            b".." => return Err(PathFault::DotDot),
            _ if part.len() > 255 => return Err(PathFault::PartTooLong(part.len())),
            _ => {}
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(part);
        depth += 1;
    }
    if out.len() > bounds.path_bytes {
        return Err(PathFault::TooLong { len: out.len(), limit: bounds.path_bytes });
    }
    if depth > bounds.depth {
        return Err(PathFault::TooDeep { depth, limit: bounds.depth });
    }
    Ok(out)
}

/// The folder that a name is in, and its last part. The root is in itself, with an empty last part.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (path.get(..at).unwrap_or(b""), path.get(at + 1..).unwrap_or(b"")),
        None => (b"", path),
    }
}

/// A name in a folder.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

/// A name for people: what can't be printed is escaped, and it is cut where it gets long.
#[derive(Clone, Copy, Debug)]
pub struct Show<'a>(pub &'a [u8]);

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        let text = String::from_utf8_lossy(self.0);
        for c in text.chars().take(200) {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        if text.chars().nth(200).is_some() {
            f.write_str("...")?;
        }
        Ok(())
    }
}

/// The same as a text.
pub fn show(path: &[u8]) -> String {
    Show(path).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn norm(raw: &[u8]) -> Result<Vec<u8>, PathFault> {
        normalise(raw, &Bounds::default())
    }

    #[test]
    fn one_name_has_one_form() {
        for raw in ["etc/hosts", "/etc/hosts", "./etc/hosts", "etc//hosts/", "././etc/./hosts", "//etc/hosts"]
        {
            assert_eq!(norm(raw.as_bytes()).unwrap(), b"etc/hosts", "{raw}");
        }
        for root in ["", "/", "./", "."] {
            assert_eq!(norm(root.as_bytes()).unwrap(), b"", "{root}");
        }
    }

    #[test]
    fn names_that_climb_or_that_nothing_holds_are_refused() {
        assert_eq!(norm(b"a/../../etc/passwd"), Err(PathFault::DotDot));
        assert_eq!(norm(b".."), Err(PathFault::DotDot));
        assert_eq!(norm(b"a\0b"), Err(PathFault::Nul));
        assert_eq!(norm(&[b'x'; 256]), Err(PathFault::PartTooLong(256)));
        assert!(matches!(norm("ab/".repeat(3000).as_bytes()), Err(PathFault::TooLong { .. })));
        assert!(matches!(norm("a/".repeat(200).as_bytes()), Err(PathFault::TooDeep { .. })));
        assert!(norm(b"..a/b..").is_ok());
    }

    proptest! {
        #[test]
        fn a_form_is_its_own_form_and_never_climbs(raw in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(path) = norm(&raw) {
                prop_assert_eq!(norm(&path).unwrap(), path.clone());
                prop_assert!(path.split(|b| *b == b'/').all(|p| p != b".." && p != b"."));
                let (dir, name) = split(&path);
                prop_assert_eq!(join(dir, name), path.clone());
            }
        }

        #[test]
        fn a_shown_name_moves_no_cursor(raw in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(show(&raw).chars().all(|c| !c.is_control()));
        }
    }
}
