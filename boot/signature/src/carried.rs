use crate::{KeyId, PublicKey, Signature, SignatureError, utc};
use std::{collections::BTreeMap, fmt};

/// Most keys, and most lines of images, that an initramfs carries.
pub const MAX_CARRIED: usize = 64;
/// Longest text of either.
const MAX_TEXT: usize = 64 << 10;
/// A line of images for every name that has no line of its own.
const ANY: &str = "*";

/// The keys that an initramfs carries, and which images they may vouch for on the machine that runs it.
///
/// The second is what defends against roll-back: an old image's signature stays good for ever, and a
/// taken-over server may well have it. So the initramfs says from when on signatures count. Whoever
/// wants to return to an older image signs it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Any one of these must have signed.
    pub keys: Vec<PublicKey>,
    /// Which images; none at all means any.
    pub images: Vec<Allowed>,
}

/// Images that may boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The name in their tag, or `*` for any.
    pub name: String,
    /// Signed at this time or later, in seconds since 1970; 0 for any time.
    pub not_before: u64,
}

/// Who vouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// By this key.
    pub key: KeyId,
    /// At this time.
    pub signed: Option<u64>,
}

/// Why what an initramfs carries can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CarriedError {
    /// No key at all: then nothing could boot.
    NoKey,
    /// This line is no key.
    Key(usize, crate::KeyError),
    /// There is a file of images, and no image in it.
    NoImage,
    /// This line is not `NAME` or `NAME SECONDS`.
    Image(usize),
    /// A name is there twice.
    Twice(String),
    /// More than any real one has.
    TooMany,
}

impl fmt::Display for CarriedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CarriedError::NoKey => f.write_str("there is no key in it"),
            CarriedError::NoImage => f.write_str("there is no image in it"),
            CarriedError::Key(line, why) => write!(f, "line {line}: {why}"),
            CarriedError::Image(line) => {
                write!(
                    f,
                    "line {line} should say which images: a name or *, and from which second since 1970 on"
                )
            }
            CarriedError::Twice(name) => write!(f, "{name} is there twice"),
            CarriedError::TooMany => write!(f, "it has more than {MAX_CARRIED} lines"),
        }
    }
}

impl std::error::Error for CarriedError {}

/// Lines that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let said = |l: &&str| !l.is_empty() && !l.starts_with('#') && !l.starts_with("untrusted comment:");
    text.lines().map(str::trim).enumerate().map(|(i, l)| (i + 1, l)).filter(move |(_, l)| said(l))
}

impl Carried {
    /// Reads the two files. `images` is `None` where there is no such file.
    pub fn parse(keys: &str, images: Option<&str>) -> Result<Carried, CarriedError> {
        if keys.len().max(images.map_or(0, str::len)) > MAX_TEXT {
            return Err(CarriedError::TooMany);
        }
        let mut carried = Carried::default();
        for (number, line) in lines(keys) {
            carried.keys.push(PublicKey::parse(line).map_err(|e| CarriedError::Key(number, e))?);
        }
        for (number, line) in images.into_iter().flat_map(lines) {
            let mut words = line.split_whitespace();
            let (name, time, None) = (words.next(), words.next(), words.next()) else {
                return Err(CarriedError::Image(number));
            };
            let not_before = time.unwrap_or("0").parse().map_err(|_| CarriedError::Image(number))?;
            carried.images.push(Allowed { name: name.unwrap_or(ANY).to_owned(), not_before });
        }
        if images.is_some() && carried.images.is_empty() {
            return Err(CarriedError::NoImage);
        }
        carried.check()?;
        Ok(carried)
    }

    /// What makes no sense in it.
    pub fn check(&self) -> Result<(), CarriedError> {
        if self.keys.is_empty() {
            return Err(CarriedError::NoKey);
        }
        if self.keys.len() > MAX_CARRIED || self.images.len() > MAX_CARRIED {
            return Err(CarriedError::TooMany);
        }
        let mut names = BTreeMap::new();
        match self.images.iter().find(|a| names.insert(&a.name, ()).is_some()) {
            Some(twice) => Err(CarriedError::Twice(twice.name.clone())),
            None => Ok(()),
        }
    }

    /// The file of keys.
    pub fn keys_file(&self) -> String {
        let line = |k: &PublicKey| format!("{k}\n");
        let head =
            "# Keys that may vouch for what this initramfs boots, one a line (minisign public keys).\n";
        [head.to_owned()].into_iter().chain(self.keys.iter().map(line)).collect()
    }

    /// The file of images; `None` where any may boot.
    pub fn images_file(&self) -> Option<String> {
        let line = |a: &Allowed| {
            format!("# {} signed since {}\n{} {}\n", a.name, utc(a.not_before), a.name, a.not_before)
        };
        let head = "# What those keys may vouch for: name, and the second since 1970 from which on signatures count.\n";
        let lines = [head.to_owned()].into_iter().chain(self.images.iter().map(line));
        (!self.images.is_empty()).then(|| lines.collect())
    }

    /// Whether the image `tag` with this identity and these manifest bytes may boot here; who vouched,
    /// or why not, in words that follow "image …".
    pub fn judge(
        &self,
        manifest: &[u8],
        image: &str,
        tag: &str,
        signatures: &[Signature],
    ) -> Result<Vouched, String> {
        let name = tag.split(':').next().unwrap_or_default();
        let line = |wanted: &str| self.images.iter().find(|a| a.name == wanted);
        let not_before = match line(name).or_else(|| line(ANY)) {
            Some(allowed) => allowed.not_before,
            None if self.images.is_empty() => 0,
            None => {
                let names: Vec<&str> = self.images.iter().map(|a| a.name.as_str()).collect();
                return Err(format!("is not one that this initramfs boots: it boots {}", names.join(", ")));
            }
        };
        if signatures.is_empty() {
            return Err("is not signed: `pristine image sign` signs it".into());
        }
        let mut why = None;
        for signature in signatures {
            let same_id = self.keys.iter().filter(|k| k.id == signature.key_id());
            for key in same_id {
                match signature.vouches(key, manifest, image, tag) {
                    Ok(said) if said.signed.unwrap_or(0) >= not_before => {
                        return Ok(Vouched { key: key.id, signed: said.signed });
                    }
                    Ok(said) => {
                        let when =
                            said.signed.map_or("at no stated time".into(), |s| format!("at {}", utc(s)));
                        let since = utc(not_before);
                        why = Some(format!(
                            "was signed {when}, and this initramfs boots what was signed at {since} or later: sign it again if it is to boot"
                        ));
                    }
                    Err(SignatureError::OtherKey) => {}
                    Err(e) => {
                        why.get_or_insert(format!("has a signature by key {} that is refused: {e}", key.id));
                    }
                }
            }
        }
        Err(why.unwrap_or_else(|| {
            let by: Vec<String> = signatures.iter().map(|s| s.key_id().to_string()).collect();
            format!("is signed by none of the keys that this initramfs carries, only by {}", by.join(", "))
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn what_is_written_is_read_back_and_key_files_may_be_joined() {
        let images = vec![
            Allowed { name: "web".into(), not_before: 1_764_000_000 },
            Allowed { name: "*".into(), not_before: 0 },
        ];
        let carried = Carried { keys: vec![PublicKey::parse(KEY).unwrap()], images };
        let (keys, images) = (carried.keys_file(), carried.images_file().unwrap());
        assert_eq!(Carried::parse(&keys, Some(&images)), Ok(carried.clone()));
        assert!(images.contains("# web signed since 2025-11-24 16:00:00Z"), "{images}");
        let any = Carried { images: Vec::new(), ..carried };
        assert_eq!(any.images_file(), None);
        let joined = format!("untrusted comment: one\n{KEY}\n\nuntrusted comment: two\n{KEY}\n");
        assert_eq!(Carried::parse(&joined, None).unwrap().keys.len(), 2);
        assert_eq!(Carried::parse(KEY, Some("web # all of them")), Err(CarriedError::Image(1)));
    }

    #[test]
    fn what_can_not_be_read_is_an_error_and_never_no_policy() {
        for keys in ["", "\n# nothing\n"] {
            assert_eq!(Carried::parse(keys, None), Err(CarriedError::NoKey));
        }
        assert!(matches!(Carried::parse("nonsense", None), Err(CarriedError::Key(1, _))));
        assert_eq!(Carried::parse(KEY, Some("# none\n")), Err(CarriedError::NoImage));
        assert_eq!(Carried::parse(KEY, Some("web soon")), Err(CarriedError::Image(1)));
        assert_eq!(Carried::parse(KEY, Some("web 1\nweb 2")), Err(CarriedError::Twice("web".into())));
        assert_eq!(Carried::parse(&format!("{KEY}\n").repeat(65), None), Err(CarriedError::TooMany));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(keys in "[RWQ#\n =]{0,60}|.{0,60}", images in "[a-z0-9*# \n]{0,60}") {
            let _ = Carried::parse(&keys, Some(&images));
            if let Ok(carried) = Carried::parse(KEY, Some(&images)) {
                prop_assert_eq!(Carried::parse(&carried.keys_file(), carried.images_file().as_deref()), Ok(carried));
            }
        }
    }
}
