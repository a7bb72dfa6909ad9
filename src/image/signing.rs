//! Key files, and signing images with them. Secret keys never enter the state folder: they lie where
//! operators put them, best on another host.

use crate::{
    model::{Image, Trust},
    store::{
        ImageStore, ResolveError, StoreError, durable,
        signatures::{KeepError, Stored},
    },
};
use pristine_signature::{
    KeyError, KeyId, Protection, PublicKey, SecretKey, SecretKeyError, Signature, SignatureError, Statement,
    Zeroizing, utc,
};
use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Longest key file, in bytes.
const MAX_KEY_FILE: u64 = 4096;

/// Why a key file was not made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The file system said no.
    #[error("can't {what} {path}: {source}")]
    Io {
        /// As in "read".
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key is never written over another.
    #[error("{0} is there already: name another file with --out")]
    Exists(PathBuf),
    /// Others could read the secret key.
    #[error(
        "secret key {0} can be read by others (mode {1:04o}): chmod 600 it; if others may have read it, make a new key and revoke this one"
    )]
    Readable(PathBuf, u32),
    /// Not a secret key, or not usable.
    #[error("secret key {0}: {1}")]
    Secret(PathBuf, SecretKeyError),
    /// Not a public key.
    #[error("public key {0}: {1}")]
    Public(PathBuf, KeyError),
    /// Neither a file nor a key.
    #[error("`{0}` is neither a file nor a public key: {1}")]
    NoKey(String, KeyError),
    /// Not a signature.
    #[error("signature {0}: {1}")]
    Signature(PathBuf, SignatureError),
    /// A comment that a file can't hold.
    #[error("a comment is one line of at most 200 printable characters")]
    Comment,
    /// Signed in the future, it seems.
    #[error("key {0} signed this image at {1} already, and this host's clock says {2}: set the clock")]
    Clock(KeyId, String, String),
    /// Attaching needs somebody who vouches.
    #[error("the signature was not kept: {0}")]
    NotVouched(String),
    /// This host can't make random numbers.
    #[error("no randomness for a key: {0}")]
    NoRandomness(String),
    /// No such image.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Not kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn io_at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SigningError {
    let path = path.to_owned();
    move |source| SigningError::Io { what, path, source }
}

/// Where the public key of a secret key file goes.
pub fn public_path(secret: &Path) -> PathBuf {
    secret.with_extension("pub")
}

/// Makes a key and writes it to `path` (mode 0600, protected by `password` where there is one), its public
/// half to [`public_path`]. Overwrites nothing.
pub fn generate(path: &Path, comment: &str, password: Option<&str>) -> Result<PublicKey, SigningError> {
    if comment.chars().count() > 200 || comment.chars().any(char::is_control) {
        return Err(SigningError::Comment);
    }
    let public = public_path(path);
    for file in [path, &public] {
        if fs::symlink_metadata(file).is_ok() || public == path {
            return Err(SigningError::Exists(file.to_owned()));
        }
    }
    let no_random = |e: getrandom::Error| SigningError::NoRandomness(e.to_string());
    let (mut seed, mut id, mut salt) = (Zeroizing::new([0; 32]), [0; 8], [0; 32]);
    for bytes in [&mut seed[..], &mut id, &mut salt] {
        getrandom::fill(bytes).map_err(no_random)?;
    }
    let key = SecretKey::new(&seed, id).ok_or_else(|| SigningError::NoRandomness("all zero".into()))?;
    let protection = password.map(|password| Protection { password, salt });
    let comment = if comment.is_empty() {
        format!("secret key {} of Pristine", key.public().id)
    } else {
        comment.to_owned()
    };
    let text =
        key.to_file(&comment, protection.as_ref()).map_err(|e| SigningError::Secret(path.to_owned(), e))?;
    durable::write_atomic(path, text.as_bytes(), 0o600).map_err(io_at("write", path))?;
    durable::write_atomic(&public, key.public().to_file().as_bytes(), 0o644)
        .map_err(io_at("write", &public))?;
    Ok(key.public())
}

fn read_text(path: &Path) -> Result<(File, Zeroizing<String>), SigningError> {
    let file = File::open(path).map_err(io_at("open", path))?;
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_FILE as usize));
    (&file).take(MAX_KEY_FILE).read_to_string(&mut text).map_err(io_at("read", path))?;
    Ok((file, text))
}

/// Reads a secret key file that others can't read. `password` is asked for only where it is needed.
pub fn secret_key<E: From<SigningError>>(
    path: &Path,
    password: impl FnOnce() -> Result<Zeroizing<String>, E>,
) -> Result<SecretKey, E> {
    let (file, text) = read_text(path)?;
    let mode = file.metadata().map_err(io_at("look at", path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SigningError::Readable(path.to_owned(), mode).into());
    }
    let wrong = |e| SigningError::Secret(path.to_owned(), e);
    let password = if SecretKey::wants_password(&text).map_err(wrong)? { Some(password()?) } else { None };
    Ok(SecretKey::parse(&text, password.as_ref().map(|p| p.as_str())).map_err(wrong)?)
}

/// A public key: a file of that name, or the key itself.
pub fn public_key(file_or_key: &str) -> Result<PublicKey, SigningError> {
    let path = Path::new(file_or_key);
    if path.exists() {
        let (_, text) = read_text(path)?;
        return PublicKey::parse(&text).map_err(|e| SigningError::Public(path.to_owned(), e));
    }
    PublicKey::parse(file_or_key).map_err(|e| SigningError::NoKey(file_or_key.chars().take(80).collect(), e))
}

/// A signature that was made.
#[derive(Debug)]
pub struct Signed {
    /// The image.
    pub image: Image,
    /// By which key.
    pub key: KeyId,
    /// The signature file.
    pub path: PathBuf,
}

/// Signs the manifest of the image that `reference` names, and keeps the signature beside the image.
pub fn sign(
    store: &ImageStore,
    reference: &str,
    key: &SecretKey,
    now: SystemTime,
) -> Result<Signed, SigningError> {
    let image = store.resolve(reference)?;
    let manifest = manifest(store, &image)?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let (public, digest, tag) = (key.public(), image.digest.to_string(), image.manifest.tag.to_string());
    for old in store.signatures(image.digest)?.iter().filter(|s| s.key_id() == public.id) {
        let said = old.vouches(&public, &manifest, &digest, &tag).ok().and_then(|s| s.signed);
        if let Some(then) = said.filter(|then| *then > now) {
            return Err(SigningError::Clock(public.id, utc(then), utc(now)));
        }
    }
    let statement = Statement { signed: Some(now), image: Some(digest), tag: Some(tag) };
    let signature = key.sign(&manifest, &statement.to_string());
    let path = store.keep_signature(image.digest, &signature)?;
    Ok(Signed { image, key: public.id, path })
}

/// Keeps a signature that was made elsewhere (by the `minisign` tool, on a host without network). Only one
/// by a key that is trusted now.
pub fn attach(
    store: &ImageStore,
    trust: &Trust,
    reference: &str,
    file: &Path,
    now: i64,
) -> Result<Signed, SigningError> {
    let image = store.resolve(reference)?;
    let (_, text) = read_text(file)?;
    let signature = Signature::parse(&text).map_err(|e| SigningError::Signature(file.to_owned(), e))?;
    let manifest = manifest(store, &image)?;
    trust
        .judge(&image, &manifest, std::slice::from_ref(&signature), now)
        .map_err(SigningError::NotVouched)?;
    let path = store.keep_signature(image.digest, &signature)?;
    Ok(Signed { image, key: signature.key_id(), path })
}

/// What is found of one signature file.
#[derive(Debug)]
pub struct Finding {
    /// By which key; `None` where the file can't be read.
    pub key: Option<KeyId>,
    /// When it was signed, in seconds since 1970. Only of one that fits a known key.
    pub signed: Option<u64>,
    /// `None` where it vouches for the image; else why not.
    pub wrong: Option<String>,
}

/// Each signature of an image, and whether it vouches for it now.
pub fn findings(
    store: &ImageStore,
    trust: &Trust,
    image: &Image,
    now: i64,
) -> Result<Vec<Finding>, SigningError> {
    let manifest = manifest(store, image)?;
    let (digest, tag) = (image.digest.to_string(), image.manifest.tag.to_string());
    let one = |stored: Stored| match stored.signature {
        Err(e) => Finding { key: None, signed: None, wrong: Some(format!("{}: {e}", stored.path.display())) },
        Ok(signature) => {
            let id = signature.key_id();
            let said = trust.get(id).and_then(|k| signature.vouches(&k.key, &manifest, &digest, &tag).ok());
            let wrong = trust.judge(image, &manifest, &[signature], now).err();
            Finding { key: Some(id), signed: said.and_then(|s| s.signed), wrong }
        }
    };
    Ok(store.signature_files(image.digest)?.into_iter().map(one).collect())
}

fn manifest(store: &ImageStore, image: &Image) -> Result<Vec<u8>, SigningError> {
    let path = store.blobs().path(image.digest);
    let gone = || io_at("read", &path)(io::ErrorKind::NotFound.into());
    store.manifest_bytes(image.digest)?.ok_or_else(gone)
}
