use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// `name:version`, an operator's word for an image. It points to a digest and may be moved; a pin
/// never stores it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// What the image is, as in `web`.
    pub name: String,
    /// Which one, as in `2` or `2026-11-22`.
    pub version: String,
}

/// Why a text is not a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No colon between name and version.
    #[error("`{0}` has no version: write name:version, as in web:2")]
    NoVersion(String),
    /// A part is empty, too long, or has characters that a path, a URL or a script could misread.
    #[error(
        "`{0}` can't be used in a tag: a name or version has 1 to 64 of a-z, A-Z, 0-9, `.`, `_`, `+` and `-`, and starts with a letter or digit"
    )]
    BadPart(String),
}

impl Tag {
    /// A tag from its two parts, both checked.
    pub fn new(name: &str, version: &str) -> Result<Tag, NameError> {
        for part in [name, version] {
            let ok = (1..=64).contains(&part.len())
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b));
            if !ok {
                return Err(NameError::BadPart(part.chars().take(80).collect()));
            }
        }
        Ok(Tag { name: name.to_owned(), version: version.to_owned() })
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let (name, version) =
            s.split_once(':').ok_or_else(|| NameError::NoVersion(s.chars().take(80).collect()))?;
        Tag::new(name, version)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.version)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_a_path_or_a_script_could_misread() {
        assert_eq!("web:2".parse::<Tag>().map(|t| t.to_string()), Ok("web:2".into()));
        for s in ["web", "web:", ":2", "web:..", "a/b:1", "web:1 2", "web:1\n", "web:${x}", "-w:1"] {
            assert!(s.parse::<Tag>().is_err(), "{s}");
        }
    }
}
