use crate::UNTRUSTED;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{fmt, str::FromStr};

/// `Ed`: the algorithm of keys, and of signatures over unhashed files.
pub(crate) const ED25519: [u8; 2] = *b"Ed";
/// Algorithm, id, key.
const LEN: usize = 2 + 8 + 32;
/// Bytes of a secret key file's second line, decoded.
pub(crate) const SECRET_LEN: usize = 158;

/// Names a key: 8 random bytes, shown as minisign shows them (16 hex digits, as a little-endian
/// number). It proves nothing: whoever makes a key may choose the id of another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().try_for_each(|b| write!(f, "{b:02X}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<KeyId, KeyError> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(KeyError::Id);
        }
        u64::from_str_radix(text, 16).map(|n| KeyId(n.to_le_bytes())).map_err(|_| KeyError::Id)
    }
}

/// Why a text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Not one line of base64, with or without an untrusted comment in front.
    Shape,
    /// Neither the length nor the algorithm of a minisign public key.
    NotPublic,
    /// It is a secret key.
    Secret,
    /// No point of the curve, or one for which anybody can make signatures over anything.
    Weak,
    /// Not a key id.
    Id,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyError::Shape => {
                "it is not a minisign public key: one line of 56 letters that starts with RW, with or without its comment in front"
            }
            KeyError::NotPublic => "it is base64, but not of a minisign public key (Ed25519, 42 bytes)",
            KeyError::Secret => "it is a SECRET key: give the public one (.pub), and keep this one to yourself",
            KeyError::Weak => "it looks like a key, but no secret key belongs to it",
            KeyError::Id => "a key id has 16 hex digits, as `pristine key list` shows it",
        })
    }
}

impl std::error::Error for KeyError {}

/// A minisign public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey {
    /// Its name.
    pub id: KeyId,
    /// The Ed25519 key itself.
    pub bytes: [u8; 32],
}

impl PublicKey {
    /// Reads a public key file, or its second line alone.
    pub fn parse(text: &str) -> Result<PublicKey, KeyError> {
        let mut lines =
            text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(UNTRUSTED.trim_end()));
        let (Some(line), None) = (lines.next(), lines.next()) else { return Err(KeyError::Shape) };
        let bytes = STANDARD.decode(line).map_err(|_| KeyError::Shape)?;
        if bytes.len() == SECRET_LEN && bytes.starts_with(&ED25519) {
            return Err(KeyError::Secret);
        }
        let bytes: [u8; LEN] = bytes.try_into().map_err(|_| KeyError::NotPublic)?;
        let (algorithm, rest) = bytes.split_at(2);
        let (id, key) = rest.split_at(8);
        match (algorithm == ED25519, id.try_into(), key.try_into()) {
            (true, Ok(_), Ok(bytes)) if is_weak(bytes) => Err(KeyError::Weak),
            (true, Ok(id), Ok(bytes)) => Ok(PublicKey { id: KeyId(id), bytes }),
            _ => Err(KeyError::NotPublic),
        }
    }

    /// The file that minisign reads (`-p FILE`).
    pub fn to_file(&self) -> String {
        format!("{UNTRUSTED}minisign public key {}\n{self}\n", self.id)
    }
}

/// True for no point of the curve, and for one of small order: signatures over anything can be made for it.
fn is_weak(key: [u8; 32]) -> bool {
    ed25519_compact::PublicKey::new(key).validate().is_err()
}

impl fmt::Display for PublicKey {
    /// The one line that minisign takes too (`-P KEY`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode([&ED25519[..], &self.id.0, &self.bytes].concat()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// The key in minisign's own documentation.
    const LINE: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn reads_a_file_and_its_second_line_alone_and_writes_both_back() {
        let key = PublicKey::parse(LINE).unwrap();
        assert_eq!((key.id.to_string().as_str(), key.to_string().as_str()), ("E7620F1842B4E81F", LINE));
        assert_eq!(PublicKey::parse(&key.to_file()), Ok(key));
        assert_eq!(PublicKey::parse(&format!("untrusted comment: mine\r\n{LINE}\r\n")), Ok(key));
        assert_eq!("e7620f1842b4e81f".parse(), Ok(key.id));
    }

    #[test]
    fn says_what_else_it_is() {
        let secret = STANDARD.encode([&b"Ed"[..], &[7; 156]].concat());
        assert_eq!(PublicKey::parse(&format!("untrusted comment: x\n{secret}\n")), Err(KeyError::Secret));
        assert_eq!(PublicKey::parse(""), Err(KeyError::Shape));
        assert_eq!(PublicKey::parse(&format!("{LINE}\n{LINE}")), Err(KeyError::Shape));
        assert_eq!(PublicKey::parse(&LINE.replacen("RW", "AA", 1)), Err(KeyError::NotPublic));
        assert_eq!(PublicKey::parse("AAAA"), Err(KeyError::NotPublic));
        for bad in ["", "E7620F1842B4E81", "E7620F1842B4E81FF", "+7620F1842B4E81F"] {
            assert_eq!(bad.parse::<KeyId>(), Err(KeyError::Id));
        }
    }

    #[test]
    fn a_key_that_everything_fits_is_no_key() {
        // A point of order 8.
        let order_8 = [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
            0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ];
        let key = PublicKey { id: KeyId([0; 8]), bytes: order_8 };
        assert_eq!(PublicKey::parse(&key.to_string()), Err(KeyError::Weak));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(untrusted comment: [^\n]{0,9}\n)?[A-Za-z0-9+/=\r\n ]{0,80}|.{0,80}") {
            if let Ok(key) = PublicKey::parse(&text) {
                prop_assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
            }
        }

        #[test]
        fn every_key_is_read_back(id: [u8; 8], bytes: [u8; 32]) {
            let key = PublicKey { id: KeyId(id), bytes };
            prop_assume!(!is_weak(bytes));
            prop_assert_eq!(PublicKey::parse(&key.to_file()), Ok(key));
            prop_assert_eq!(key.id.to_string().parse(), Ok(key.id));
        }
    }
}
