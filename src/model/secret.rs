use super::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

/// A secret in the clear: wiped when dropped, and shown by nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over, without another copy of them.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// The bytes, for the one whom they are meant for.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A secret as it is on record: sealed by the vault (`store::vault`), useless without its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Its name, unique. The seal holds for this name alone.
    pub name: String,
    /// Bytes of its value.
    pub bytes: usize,
    /// When it was set.
    pub changed: Millis,
    /// Which key sealed it: 16 hex digits that tell nothing about the key.
    pub key: String,
    /// Nonce, ciphertext and tag, in base64.
    pub sealed: String,
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_it() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        let (key, sealed) = ("0123".to_owned(), "c2VhbGVk".to_owned());
        let record = SealedSecret { name: "bmc".into(), bytes: 7, changed: 1, key, sealed };
        assert_eq!(format!("{record:?}"), "SealedSecret { name: \"bmc\", .. }");
    }
}
