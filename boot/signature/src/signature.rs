use crate::{
    Statement, UNTRUSTED,
    key::{ED25519, KeyId, PublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use blake2::{Blake2b512, Digest as _};
use std::fmt;

/// Longest signature file, in bytes.
pub const MAX_SIGNATURE: usize = 4096;
/// Most signatures of one image.
pub const MAX_SIGNATURES: usize = 16;

/// `ED`: a signature over the BLAKE2b-512 of the file.
const PREHASHED: [u8; 2] = *b"ED";
/// In front of the line that the second signature covers.
const TRUSTED: &str = "trusted comment: ";

/// Why a signature is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureError {
    /// Not a signature file.
    Shape(&'static str),
    /// Longer than any real one.
    TooLong,
    /// More than [`MAX_SIGNATURES`].
    TooMany,
    /// Over the bytes themselves instead of their hash.
    Legacy,
    /// Another key made it, by its own word.
    OtherKey,
    /// It is not by this key over these bytes.
    Wrong,
    /// The signature fits, the trusted comment was changed.
    WrongComment,
    /// A field of the trusted comment can't be read.
    Comment(&'static str),
    /// The trusted comment names another image.
    OtherImage,
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignatureError::Shape(what) => write!(f, "it is not a minisign signature: {what}"),
            SignatureError::TooLong => write!(f, "it has more than {MAX_SIGNATURE} bytes"),
            SignatureError::TooMany => write!(f, "there are more than {MAX_SIGNATURES} signatures"),
            SignatureError::Legacy => f.write_str(
                "it is of minisign's old form, which does not hash first: sign again (minisign before 0.10: with -H)",
            ),
            SignatureError::OtherKey => f.write_str("it is by another key"),
            SignatureError::Wrong => {
                f.write_str("it does not fit: the image or the signature was changed, or another key made it")
            }
            SignatureError::WrongComment => f.write_str("its trusted comment was changed"),
            SignatureError::Comment(field) => {
                write!(f, "`{field}:` in its trusted comment is there twice or has no such value")
            }
            SignatureError::OtherImage => f.write_str("its trusted comment names another image"),
        }
    }
}

impl std::error::Error for SignatureError {}

/// A minisign signature, as its file says it. Nothing in it is to be believed before
/// [`Signature::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    pub(crate) untrusted: String,
    pub(crate) id: KeyId,
    pub(crate) prehashed: bool,
    pub(crate) signature: [u8; 64],
    pub(crate) comment: String,
    /// Over signature and trusted comment.
    pub(crate) global: [u8; 64],
}

impl Signature {
    /// Reads one signature file.
    pub fn parse(text: &str) -> Result<Signature, SignatureError> {
        match Signature::parse_all(text)?.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(SignatureError::Shape("it is empty")),
            _ => Err(SignatureError::Shape("it has more than four lines")),
        }
    }

    /// Reads signature files that were put one behind the other.
    pub fn parse_all(text: &str) -> Result<Vec<Signature>, SignatureError> {
        let mut lines = text.lines().map(|l| l.strip_suffix('\r').unwrap_or(l));
        let mut all = Vec::new();
        while let Some(untrusted) = lines.next() {
            if untrusted.is_empty() {
                continue;
            }
            if all.len() == MAX_SIGNATURES {
                return Err(SignatureError::TooMany);
            }
            let four = [Some(untrusted), lines.next(), lines.next(), lines.next()];
            let [Some(untrusted), Some(signature), Some(comment), Some(global)] = four else {
                return Err(SignatureError::Shape("it breaks off"));
            };
            all.push(Signature::from_lines(untrusted, signature, comment, global)?);
        }
        Ok(all)
    }

    fn from_lines(
        untrusted: &str,
        signature: &str,
        comment: &str,
        global: &str,
    ) -> Result<Signature, SignatureError> {
        if untrusted.len() + signature.len() + comment.len() + global.len() + 4 > MAX_SIGNATURE {
            return Err(SignatureError::TooLong);
        }
        let shape = SignatureError::Shape;
        let untrusted = untrusted
            .strip_prefix(UNTRUSTED)
            .ok_or(shape("line 1 should start with `untrusted comment: `"))?;
        let comment =
            comment.strip_prefix(TRUSTED).ok_or(shape("line 3 should start with `trusted comment: `"))?;
        if [untrusted, comment].iter().any(|c| c.chars().any(|c| c.is_control() && c != '\t')) {
            return Err(shape("a comment has control characters"));
        }
        let bytes = STANDARD.decode(signature).map_err(|_| shape("line 2 is not base64"))?;
        let global = STANDARD.decode(global).map_err(|_| shape("line 4 is not base64"))?;
        let (Some((algorithm, rest)), Ok(global)) = (bytes.split_at_checked(2), global.try_into()) else {
            return Err(shape("line 2 or 4 has another length than a signature"));
        };
        let (Some((id, signature)), prehashed) = (rest.split_at_checked(8), algorithm == PREHASHED) else {
            return Err(shape("line 2 has another length than a signature"));
        };
        if !prehashed && algorithm != ED25519 {
            return Err(shape("its algorithm is not Ed25519"));
        }
        match (id.try_into(), signature.try_into()) {
            (Ok(id), Ok(signature)) => Ok(Signature {
                untrusted: untrusted.to_owned(),
                id: KeyId(id),
                prehashed,
                signature,
                comment: comment.to_owned(),
                global,
            }),
            _ => Err(shape("line 2 has another length than a signature")),
        }
    }

    /// Which key made it, by its own word.
    pub fn key_id(&self) -> KeyId {
        self.id
    }

    /// True where `key` signed `message` and the trusted comment; what that comment says.
    pub fn verify(&self, key: &PublicKey, message: &[u8]) -> Result<Statement, SignatureError> {
        if self.id != key.id {
            return Err(SignatureError::OtherKey);
        }
        if !self.prehashed {
            return Err(SignatureError::Legacy);
        }
        let ed25519 = ed25519_compact::PublicKey::new(key.bytes);
        let fits = |bytes: &[u8], signature: &[u8; 64]| {
            ed25519.verify(bytes, &ed25519_compact::Signature::new(*signature)).is_ok()
        };
        if !fits(&Blake2b512::digest(message), &self.signature) {
            return Err(SignatureError::Wrong);
        }
        if !fits(&global_message(&self.signature, &self.comment), &self.global) {
            return Err(SignatureError::WrongComment);
        }
        Statement::read(&self.comment).map_err(SignatureError::Comment)
    }

    /// True where `key` vouches for the image with these manifest bytes.
    pub fn vouches(
        &self,
        key: &PublicKey,
        manifest: &[u8],
        image: &str,
        tag: &str,
    ) -> Result<Statement, SignatureError> {
        let statement = self.verify(key, manifest)?;
        if statement.fits(image, tag) { Ok(statement) } else { Err(SignatureError::OtherImage) }
    }
}

/// What the second signature is over.
pub(crate) fn global_message(signature: &[u8; 64], comment: &str) -> Vec<u8> {
    [&signature[..], comment.as_bytes()].concat()
}

impl fmt::Display for Signature {
    /// The signature file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = if self.prehashed { PREHASHED } else { ED25519 };
        let signature = STANDARD.encode([&algorithm[..], &self.id.0, &self.signature].concat());
        writeln!(f, "{UNTRUSTED}{}\n{signature}", self.untrusted)?;
        writeln!(f, "{TRUSTED}{}\n{}", self.comment, STANDARD.encode(self.global))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature by {}", self.id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    /// From the documentation of minisign: key, file `test`, signature.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const FILE: &str = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";
    const LEGACY: &str = "untrusted comment: signature from minisign secret key\n\
        RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=\n\
        trusted comment: timestamp:1555779966\tfile:test\n\
        QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==\n";

    fn key() -> PublicKey {
        PublicKey::parse(KEY).unwrap()
    }

    #[test]
    fn verifies_what_minisign_signed_and_writes_the_same_file() {
        let signature = Signature::parse(FILE).unwrap();
        assert_eq!(signature.to_string(), FILE);
        let statement = signature.verify(&key(), b"test").unwrap();
        assert_eq!(statement.signed, Some(1_633_700_835));
        assert_eq!(signature.verify(&key(), b"Test"), Err(SignatureError::Wrong));
        let windows = Signature::parse(&FILE.replace('\n', "\r\n")).unwrap();
        assert_eq!(windows, signature);
        assert_eq!(Signature::parse_all(&FILE.repeat(3)).unwrap().len(), 3);
    }

    #[test]
    fn refuses_what_is_not_one_signature() {
        let said = |text: &str| Signature::parse(text).unwrap_err().to_string();
        assert!(said("").contains("empty"));
        assert!(said(&FILE.repeat(2)).contains("more than four lines"));
        assert!(said(&FILE.replacen("untrusted", "trusted", 1)).contains("line 1"));
        assert!(said(&FILE.replace("\ntrusted comment: ", "\n")).contains("line 3"));
        assert!(said(&FILE.replace("test\t", "test\x1b[2J")).contains("control"));
        assert!(said(&FILE.replace("wLMD", "wLM")).contains("line 4"));
        assert!(said(&FILE.replace("RUQf", "RVQf")).contains("algorithm"));
        assert!(said(&FILE.replace("test", &"t".repeat(MAX_SIGNATURE))).contains("4096"));
        assert_eq!(Signature::parse_all(&FILE.repeat(17)), Err(SignatureError::TooMany));
        let lines: Vec<&str> = FILE.lines().collect();
        assert!(said(&lines[..3].join("\n")).contains("breaks off"));
    }

    #[test]
    fn old_signatures_over_unhashed_files_are_refused_with_what_to_do() {
        let said = Signature::parse(LEGACY).unwrap().verify(&key(), b"test").unwrap_err();
        assert_eq!(said, SignatureError::Legacy);
        // Nor can the form be changed to the other.
        let as_new = LEGACY.replacen("RWQf", "RUQf", 1);
        assert_eq!(Signature::parse(&as_new).unwrap().verify(&key(), b"test"), Err(SignatureError::Wrong));
    }

    #[test]
    fn a_signature_has_one_form_only() {
        // S + L fits the same equation; RFC 8032 section 5.1.7 wants it refused.
        const L: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut twin = Signature::parse(FILE).unwrap();
        let mut carry = 0;
        for (s, l) in twin.signature[32..].iter_mut().zip(L) {
            let sum = u16::from(*s) + u16::from(l) + carry;
            (*s, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert_eq!((carry, twin.verify(&key(), b"test")), (0, Err(SignatureError::Wrong)));
    }

    #[test]
    fn a_key_that_lets_everything_pass_vouches_for_nothing() {
        for weak in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            let key = PublicKey { bytes: weak, ..key() };
            let mut signature = Signature::parse(FILE).unwrap();
            (signature.signature, signature.global) = ([0; 64], [0; 64]);
            (signature.signature[0], signature.global[0]) = (1, 1);
            assert_eq!(signature.verify(&key, b"anything"), Err(SignatureError::Wrong));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}", at in 0usize..400, with in ".{0,4}") {
            let _ = Signature::parse_all(&text);
            let mut changed = FILE.to_owned();
            let at = (0..=at.min(FILE.len())).rev().find(|i| FILE.is_char_boundary(*i)).unwrap();
            changed.replace_range(at..at, &with);
            if let Ok(all) = Signature::parse_all(&changed) {
                for signature in all {
                    prop_assert_eq!(Signature::parse(&signature.to_string()), Ok(signature));
                }
            }
        }

        #[test]
        fn one_changed_bit_is_refused_wherever_it_is(bit in 0usize..8, at in 0usize..64, which in 0usize..5) {
            let mut signature = Signature::parse(FILE).unwrap();
            let (mut message, mut key) = (b"test".to_vec(), key());
            match which {
                0 => signature.signature[at] ^= 1 << bit,
                1 => signature.global[at] ^= 1 << bit,
                2 => message[at % 4] ^= 1 << bit,
                3 => key.bytes[at % 32] ^= 1 << bit,
                _ => {
                    let mut comment = signature.comment.into_bytes();
                    let at = at % comment.len();
                    comment[at] ^= 1 << (bit % 7);
                    signature.comment = String::from_utf8(comment).unwrap();
                }
            }
            prop_assert!(signature.verify(&key, &message).is_err());
        }
    }
}
