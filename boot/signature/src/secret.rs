use crate::{
    KeyId, PublicKey, Signature, UNTRUSTED,
    key::{ED25519, SECRET_LEN},
    signature::global_message,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use blake2::{Blake2b, Blake2b512, Digest as _, digest::consts::U32};
use std::fmt;
use zeroize::Zeroizing;

/// scrypt.
const SCRYPT: [u8; 2] = *b"Sc";
/// No password.
const PLAIN: [u8; 2] = [0, 0];
/// BLAKE2b-256.
const BLAKE2B: [u8; 2] = *b"B2";
/// What a password costs in files that we write: 128 MiB and about half a second.
const OPERATIONS: u64 = 1 << 22;
const MEMORY: u64 = 1 << 27;
/// Most that a file may ask for: 1 GiB, which minisign itself asks for.
const MOST_LOG_N: u8 = 20;
const MOST_P: u32 = 16;
/// Key id, secret key, checksum: what a password hides.
const HIDDEN: usize = 8 + 64 + 32;

/// Why a text is no secret key, or can't be used as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKeyError {
    /// Not a secret key file.
    Shape,
    /// It is a public key.
    Public,
    /// It wants a password, and none was given.
    PasswordNeeded,
    /// It has no password, but one was given.
    NoPassword,
    /// Wrong password.
    WrongPassword,
    /// The file was changed.
    Damaged,
    /// It asks for more memory or time than any real one.
    TooCostly,
}

impl fmt::Display for SecretKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SecretKeyError::Shape => "it is not a minisign secret key file",
            SecretKeyError::Public => "it is a public key: name the secret one (.key) that belongs to it",
            SecretKeyError::PasswordNeeded => "it is protected by a password",
            SecretKeyError::NoPassword => "it is not protected by a password, but one was given",
            SecretKeyError::WrongPassword => "the password is wrong",
            SecretKeyError::Damaged => "it is damaged: its checksum does not fit",
            SecretKeyError::TooCostly => "it asks for more memory than 1 GiB, or more time than any real one",
        })
    }
}

impl std::error::Error for SecretKeyError {}

/// What a secret key file is protected by.
pub struct Protection<'a> {
    /// Whoever has the file needs this too.
    pub password: &'a str,
    /// Random.
    pub salt: [u8; 32],
}

/// A secret key. Wiped from memory when dropped, never shown.
pub struct SecretKey {
    id: KeyId,
    key: ed25519_compact::SecretKey,
}

impl SecretKey {
    /// A new key of random bytes. `None` where they are all zero: then nothing is random here.
    pub fn new(seed: &Zeroizing<[u8; 32]>, id: [u8; 8]) -> Option<SecretKey> {
        if **seed == [0; 32] {
            return None;
        }
        let pair = ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(**seed));
        Some(SecretKey { id: KeyId(id), key: pair.sk })
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey { id: self.id, bytes: *self.key.public_key() }
    }

    /// Signs `message` and, with it, `comment` (one line without control characters but tabs).
    pub fn sign(&self, message: &[u8], comment: &str) -> Signature {
        let sign = |bytes: &[u8]| *self.key.sign(bytes, None);
        let signature = sign(&Blake2b512::digest(message));
        Signature {
            untrusted: format!("signature by key {}", self.id),
            id: self.id,
            prehashed: true,
            signature,
            comment: comment.to_owned(),
            global: sign(&global_message(&signature, comment)),
        }
    }

    /// Whether the secret key file `text` wants a password.
    pub fn wants_password(text: &str) -> Result<bool, SecretKeyError> {
        let bytes = decode(text)?;
        match bytes.get(2..4) {
            Some(kdf) if kdf == SCRYPT => Ok(true),
            Some(kdf) if kdf == PLAIN => Ok(false),
            _ => Err(SecretKeyError::Shape),
        }
    }

    /// Reads a secret key file.
    pub fn parse(text: &str, password: Option<&str>) -> Result<SecretKey, SecretKeyError> {
        let encrypted = SecretKey::wants_password(text)?;
        let bytes = decode(text)?;
        let mut rest = bytes.as_slice();
        let head: [u8; 6] = take(&mut rest)?;
        let salt: [u8; 32] = take(&mut rest)?;
        let operations = u64::from_le_bytes(take(&mut rest)?);
        let memory = u64::from_le_bytes(take(&mut rest)?);
        let mut hidden = Zeroizing::new(take::<HIDDEN>(&mut rest)?);
        if !head.starts_with(&ED25519) || !head.ends_with(&BLAKE2B) {
            return Err(SecretKeyError::Shape);
        }
        match (encrypted, password) {
            (true, None) => return Err(SecretKeyError::PasswordNeeded),
            (false, Some(_)) => return Err(SecretKeyError::NoPassword),
            (true, Some(password)) => hide(&mut hidden, password, &salt, operations, memory)?,
            (false, None) => {}
        }
        let mut rest = hidden.as_slice();
        let id = KeyId(take(&mut rest)?);
        let key = ed25519_compact::SecretKey::new(take(&mut rest)?);
        let wrong = if encrypted { SecretKeyError::WrongPassword } else { SecretKeyError::Damaged };
        if checksum(id, &key) != take::<32>(&mut rest)? {
            return Err(wrong);
        }
        // A key with another public half would give the secret one away by signing.
        if *key.get(..32).unwrap_or_default() == [0; 32]
            || key.validate_public_key(&key.public_key()).is_err()
        {
            return Err(SecretKeyError::Damaged);
        }
        Ok(SecretKey { id, key })
    }

    /// The secret key file, as minisign reads it (`-s FILE`). `comment` is one line.
    pub fn to_file(
        &self,
        comment: &str,
        protection: Option<&Protection<'_>>,
    ) -> Result<Zeroizing<String>, SecretKeyError> {
        let mut hidden = Zeroizing::new([0; HIDDEN]);
        let parts = self.id.0.iter().chain(self.key.iter()).copied().chain(checksum(self.id, &self.key));
        hidden.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        let (kdf, salt, operations, memory) = match protection {
            Some(p) => {
                hide(&mut hidden, p.password, &p.salt, OPERATIONS, MEMORY)?;
                (SCRYPT, p.salt, OPERATIONS, MEMORY)
            }
            None => (PLAIN, [0; 32], 0, 0),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_LEN));
        for part in [
            &ED25519[..],
            &kdf,
            &BLAKE2B,
            &salt,
            &operations.to_le_bytes(),
            &memory.to_le_bytes(),
            &hidden[..],
        ] {
            bytes.extend_from_slice(part);
        }
        let line = Zeroizing::new(STANDARD.encode(&bytes));
        Ok(Zeroizing::new(format!("{UNTRUSTED}{comment}\n{}\n", *line)))
    }
}

/// The second line's bytes.
fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, SecretKeyError> {
    let mut lines = text.lines().map(str::trim);
    let comment = lines.next().is_some_and(|l| l.starts_with(UNTRUSTED.trim_end()));
    let line = lines.next().filter(|_| comment).ok_or(SecretKeyError::Shape)?;
    let bytes = Zeroizing::new(STANDARD.decode(line).map_err(|_| SecretKeyError::Shape)?);
    match bytes.len() {
        SECRET_LEN => Ok(bytes),
        42 => Err(SecretKeyError::Public),
        _ => Err(SecretKeyError::Shape),
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], SecretKeyError> {
    let (head, tail) = from.split_first_chunk().ok_or(SecretKeyError::Shape)?;
    *from = tail;
    Ok(*head)
}

fn checksum(id: KeyId, key: &ed25519_compact::SecretKey) -> [u8; 32] {
    let mut hash = Blake2b::<U32>::new();
    hash.update(ED25519);
    hash.update(id.0);
    hash.update(&key[..]);
    hash.finalize().into()
}

/// Hides by a password, or shows again what was hidden by it: both are the same.
fn hide(
    hidden: &mut [u8; HIDDEN],
    password: &str,
    salt: &[u8; 32],
    operations: u64,
    memory: u64,
) -> Result<(), SecretKeyError> {
    let (log_n, p) = scrypt_cost(operations, memory);
    if log_n > MOST_LOG_N || !(1..=MOST_P).contains(&p) {
        return Err(SecretKeyError::TooCostly);
    }
    let params = scrypt::Params::new(log_n, 8, p).map_err(|_| SecretKeyError::TooCostly)?;
    let mut stream = Zeroizing::new([0; HIDDEN]);
    scrypt::scrypt(password.as_bytes(), salt, &params, &mut *stream)
        .map_err(|_| SecretKeyError::TooCostly)?;
    hidden.iter_mut().zip(stream.iter()).for_each(|(to, from)| *to ^= from);
    Ok(())
}

/// log2 of N, and p, of what libsodium calls opslimit and memlimit; r is 8
/// (`crypto_pwhash_scryptsalsa208sha256`, pickparams).
fn scrypt_cost(operations: u64, memory: u64) -> (u8, u32) {
    let operations = operations.max(32_768);
    let log_of = |most: u64| (1..63).find(|log| 1u64 << log > most / 2).unwrap_or(63);
    if operations < memory / 32 {
        (log_of(operations / 32), 1)
    } else {
        let log_n = log_of(memory / 1024);
        let r_times_p = (operations / 4 / (1u64 << log_n)).min(0x3fff_ffff);
        (log_n, (r_times_p / 8) as u32)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    fn key() -> SecretKey {
        SecretKey::new(&Zeroizing::new([7; 32]), *b"12345678").unwrap()
    }

    #[test]
    fn signs_what_its_public_key_verifies() {
        let key = key();
        let signature = key.sign(b"manifest", "timestamp:5\timage:ab");
        let read = Signature::parse(&signature.to_string()).unwrap();
        assert_eq!(read.verify(&key.public(), b"manifest").unwrap().signed, Some(5));
        assert!(read.vouches(&key.public(), b"manifest", "ab", "web:1").is_ok());
        let other = read.vouches(&key.public(), b"manifest", "cd", "web:1").unwrap_err();
        assert!(other.to_string().contains("another image"));
    }

    #[test]
    fn a_file_without_password_is_read_back_and_any_change_is_seen() {
        let file = key().to_file("mine", None).unwrap();
        assert!(file.starts_with("untrusted comment: mine\n"));
        assert_eq!(SecretKey::parse(&file, None).unwrap().public(), key().public());
        assert_eq!(SecretKey::parse(&file, Some("x")).err(), Some(SecretKeyError::NoPassword));
        assert_eq!(SecretKey::parse(&key().public().to_file(), None).err(), Some(SecretKeyError::Public));
        let bytes = decode(&file).unwrap();
        for at in (0..6).chain(54..SECRET_LEN) {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            let text = format!("untrusted comment: x\n{}\n", STANDARD.encode(changed));
            assert!(SecretKey::parse(&text, None).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_file_with_password_needs_it() {
        let protection = Protection { password: "a b", salt: [3; 32] };
        let file = key().to_file("mine", Some(&protection)).unwrap();
        assert_eq!(SecretKey::wants_password(&file), Ok(true));
        assert_eq!(SecretKey::parse(&file, None).err(), Some(SecretKeyError::PasswordNeeded));
        assert_eq!(SecretKey::parse(&file, Some("a c")).err(), Some(SecretKeyError::WrongPassword));
        assert_eq!(SecretKey::parse(&file, Some("a b")).unwrap().public(), key().public());
    }

    #[test]
    fn costs_are_as_libsodium_counts_them_and_bounded() {
        // OPSLIMIT_SENSITIVE and MEMLIMIT_SENSITIVE, OPSLIMIT_INTERACTIVE and MEMLIMIT_INTERACTIVE, ours.
        assert_eq!(scrypt_cost(33_554_432, 1_073_741_824), (20, 1));
        assert_eq!(scrypt_cost(524_288, 16_777_216), (14, 1));
        assert_eq!(scrypt_cost(OPERATIONS, MEMORY), (17, 1));
        let mut hidden = [0; HIDDEN];
        for (operations, memory) in
            [(u64::MAX, u64::MAX), (u64::MAX, 1 << 20), (0, 1 << 20), (1 << 40, 1 << 40)]
        {
            let costly = hide(&mut hidden, "", &[0; 32], operations, memory);
            assert!(costly.is_ok() || costly == Err(SecretKeyError::TooCostly));
        }
        assert_eq!(hide(&mut hidden, "", &[0; 32], 1 << 40, 1 << 40), Err(SecretKeyError::TooCostly));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(untrusted comment: x\n)?.{0,220}", tail in proptest::collection::vec(0u8.., 152..158)) {
            let _ = SecretKey::parse(&text, None);
            let bytes = [&b"Ed\0\0B2"[..], &tail].concat();
            let _ = SecretKey::parse(&format!("untrusted comment: x\n{}", STANDARD.encode(bytes)), None);
        }
    }
}
