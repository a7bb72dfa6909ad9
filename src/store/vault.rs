//! Secrets at rest: sealed by a key that lies in a file of its own, apart from the database.
//!
//! XChaCha20-Poly1305 with a random nonce of 24 bytes for each sealing. The secret's name is
//! authenticated along, so that a record put under another name does not open. The key is read anew
//! each time: it lies in no memory for longer than it is used, and a file that is put back counts at
//! once.

use super::durable;
use crate::model::{Digest, Millis, SealedSecret, Secret};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{AeadInOut as _, KeyInit as _, XChaCha20Poly1305, XNonce};
use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY: usize = 32;
/// Bytes of a nonce.
const NONCE: usize = 24;
/// Bytes that the authentication adds.
const TAG: usize = 16;
/// What the seal is for, before the name that it holds for.
const PURPOSE: &[u8] = b"pristine secret\0";

/// Why secrets can't be sealed or opened, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The file can't be read or made.
    #[error("can't {what} the secrets' key {}: {why}; give the service's user that folder, or set `secrets_key`", path.display())]
    Io {
        /// `read` or `make`.
        what: &'static str,
        /// File.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Others may read or change it.
    #[error(
        "the secrets' key {} is open to others (mode {mode:04o}): chmod 600 {}; if somebody may have read it, set every secret anew under a new key", path.display(), path.display()
    )]
    Open {
        /// File.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds something else.
    #[error("{} holds no key (64 hex digits): put the file back from a backup", .0.display())]
    NotAKey(PathBuf),
    /// It is gone, and secrets hang on it.
    #[error(
        "the secrets' key {} is missing, and secrets on record were sealed with it: put the file back from a backup. Where there is none they are lost: remove them with `pristine secret rm`, then set them anew", .0.display()
    )]
    Missing(PathBuf),
    /// The file holds another key than the one that sealed the secret.
    #[error(
        "secret {name} was sealed with another key than the one in {}: put that key back from a backup, or set the secret anew", path.display()
    )]
    OtherKey {
        /// Which secret.
        name: String,
        /// File.
        path: PathBuf,
    },
    /// The record is not what was sealed under this name.
    #[error("the record of secret {0} is damaged: set it anew, or put back a backup of the database")]
    Damaged(String),
    /// No randomness.
    #[error("no randomness for a secret: {0}")]
    Random(String),
}

/// Seals and opens secrets.
#[derive(Clone, Debug)]
pub struct Vault {
    path: PathBuf,
}

/// A key, and what a record calls it.
struct Key {
    cipher: XChaCha20Poly1305,
    id: String,
}

impl Vault {
    /// A vault whose key lies in that file. Nothing is read or made yet.
    pub fn new(path: &Path) -> Vault {
        Vault { path: path.to_owned() }
    }

    /// Seals a secret under that name. The key is made where there is none yet, but for `on_record`:
    /// other secrets were sealed, and a new key would hide that theirs is gone.
    pub fn seal(
        &self,
        name: &str,
        secret: &Secret,
        now: Millis,
        on_record: bool,
    ) -> Result<SealedSecret, VaultError> {
        let key = match self.read()? {
            Some(key) => key,
            None if on_record => return Err(VaultError::Missing(self.path.clone())),
            None => self.make()?,
        };
        let bytes = secret.expose().len();
        let nonce: [u8; NONCE] = random()?;
        // Room for all of it, so that no copy of the value is left behind by growing.
        let mut buffer = Zeroizing::new(Vec::with_capacity(bytes + TAG));
        buffer.extend_from_slice(secret.expose());
        // Fails for values of more than 256 GiB.
        key.cipher
            .encrypt_in_place(&XNonce::from(nonce), &bound_to(name), &mut *buffer)
            .map_err(|_| VaultError::Damaged(name.to_owned()))?;
        let sealed = STANDARD.encode([nonce.as_slice(), buffer.as_slice()].concat());
        Ok(SealedSecret { name: name.to_owned(), bytes, changed: now, key: key.id, sealed })
    }

    /// Opens a secret.
    pub fn open(&self, record: &SealedSecret) -> Result<Secret, VaultError> {
        let key = self.read()?.ok_or_else(|| VaultError::Missing(self.path.clone()))?;
        if key.id != record.key {
            return Err(VaultError::OtherKey { name: record.name.clone(), path: self.path.clone() });
        }
        let damaged = || VaultError::Damaged(record.name.clone());
        let sealed = STANDARD.decode(&record.sealed).map_err(|_| damaged())?;
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE>().ok_or_else(damaged)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        key.cipher
            .decrypt_in_place(&XNonce::from(*nonce), &bound_to(&record.name), &mut *buffer)
            .map_err(|_| damaged())?;
        Ok(Secret::new(std::mem::take(&mut *buffer)))
    }

    /// What the key in place calls itself; `None` where there is none.
    pub fn key_id(&self) -> Result<Option<String>, VaultError> {
        Ok(self.read()?.map(|key| key.id))
    }

    fn read(&self) -> Result<Option<Key>, VaultError> {
        let path = &self.path;
        let io = |e: io::Error| VaultError::Io { what: "read", path: path.clone(), why: e.to_string() };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(VaultError::Open { path: path.clone(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(1024));
        file.take(1024).read_to_string(&mut text).map_err(io)?;
        let not_a_key = |_| VaultError::NotAKey(path.clone());
        let bytes = Zeroizing::new(text.trim().parse::<Digest>().map_err(not_a_key)?.0);
        Ok(Some(Key::of(&bytes)))
    }

    fn make(&self) -> Result<Key, VaultError> {
        let io = |e: io::Error| VaultError::Io { what: "make", path: self.path.clone(), why: e.to_string() };
        let bytes: Zeroizing<[u8; KEY]> = Zeroizing::new(random()?);
        let text = Zeroizing::new(format!("{}\n", Digest(*bytes)));
        if let Some(dir) = self.path.parent().filter(|d| !d.as_os_str().is_empty()) {
            durable::create_dir_all(dir).map_err(io)?;
        }
        if durable::write_new(&self.path, text.as_bytes(), 0o600).map_err(io)? {
            tracing::info!(path = %self.path.display(), "made a key for secrets: keep a copy of it apart from the database's");
            return Ok(Key::of(&bytes));
        }
        // Another one made it at the same time.
        self.read()?.ok_or_else(|| VaultError::Missing(self.path.clone()))
    }
}

impl Key {
    fn of(bytes: &[u8; KEY]) -> Key {
        let hashed = Zeroizing::new([b"pristine secrets key\0".as_slice(), bytes].concat());
        let id = Digest::of(&hashed).to_string().chars().take(16).collect();
        Key { cipher: XChaCha20Poly1305::new(&(*bytes).into()), id }
    }
}

fn bound_to(name: &str) -> Vec<u8> {
    [PURPOSE, name.as_bytes()].concat()
}

fn random<const N: usize>() -> Result<[u8; N], VaultError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| VaultError::Random(e.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::store::testing::TempDir;
    use std::fs;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec())
    }

    #[test]
    fn what_is_sealed_opens_under_its_name_alone() {
        let dir = TempDir::new();
        let path = dir.path().join("deep/secrets.key");
        let vault = Vault::new(&path);
        assert_eq!(vault.key_id(), Ok(None));
        let a = vault.seal("a", &secret("hunter2"), 5, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((a.bytes, a.changed, Some(a.key.clone())), (7, 5, vault.key_id().unwrap()));
        assert_eq!(vault.open(&a), Ok(secret("hunter2")));
        assert!(!STANDARD.decode(&a.sealed).unwrap().windows(7).any(|w| w == b"hunter2"));
        let again = vault.seal("a", &secret("hunter2"), 5, true).unwrap();
        assert_ne!(a.sealed, again.sealed, "a nonce of its own each time");

        let renamed = SealedSecret { name: "b".into(), ..a.clone() };
        assert_eq!(vault.open(&renamed), Err(VaultError::Damaged("b".into())));
        for i in 0..a.sealed.len() {
            let mut sealed = a.sealed.clone().into_bytes();
            sealed[i] = if sealed[i] == b'A' { b'B' } else { b'A' };
            let sealed = String::from_utf8(sealed).unwrap();
            assert!(vault.open(&SealedSecret { sealed, ..a.clone() }).is_err(), "byte {i}");
        }
        for sealed in ["", "AAAA", "no base64!"] {
            let cut = SealedSecret { sealed: sealed.into(), ..a.clone() };
            assert_eq!(vault.open(&cut), Err(VaultError::Damaged("a".into())), "{sealed}");
        }
    }

    #[test]
    fn a_key_that_is_gone_open_to_others_or_another_one_is_said_and_never_made_anew() {
        let dir = TempDir::new();
        let path = dir.path().join("secrets.key");
        let vault = Vault::new(&path);
        let a = vault.seal("a", &secret("x"), 5, false).unwrap();
        let key = fs::read(&path).unwrap();

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let said = vault.open(&a).unwrap_err().to_string();
        assert!(said.contains("mode 0640") && said.contains("chmod 600"), "{said}");
        assert!(vault.seal("b", &secret("x"), 5, true).is_err());

        fs::remove_file(&path).unwrap();
        let said = vault.open(&a).unwrap_err().to_string();
        assert!(
            said.contains("is missing") && said.contains("backup") && said.contains("secret rm"),
            "{said}"
        );
        assert_eq!(vault.seal("b", &secret("x"), 5, true), Err(VaultError::Missing(path.clone())));
        assert!(!path.exists(), "no new key hides that the old one is gone");

        vault.seal("c", &secret("x"), 5, false).unwrap();
        assert!(matches!(vault.open(&a), Err(VaultError::OtherKey { name, .. }) if name == "a"));
        for garbage in ["", "ffff", &"g".repeat(64), &"0".repeat(2_000)] {
            fs::write(&path, garbage).unwrap();
            assert_eq!(vault.open(&a), Err(VaultError::NotAKey(path.clone())), "{garbage}");
        }
        fs::write(&path, key).unwrap();
        assert_eq!(vault.open(&a), Ok(secret("x")), "the key that is put back counts at once");
    }
}
