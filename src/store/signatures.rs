//! Signatures of images: `<store>/signatures/<image>/<key id>.minisig`, beside the image, not in it, so that
//! signing changes no digest. One of each key and image; they go when the image goes.

use super::{
    blobs::{StoreError, dir_entries, io_at},
    durable::{self, Stamp},
    images::{ImageStore, MAX_MANIFEST},
    resolve::ResolveError,
};
use crate::model::{Digest, Tag};
use pristine_signature::{MAX_SIGNATURE, MAX_SIGNATURES, Signature, SignatureError};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

/// What the names of signature files end in, as minisign's do.
const ENDING: &str = "minisig";

/// A signature file of an image.
#[derive(Debug)]
pub struct Stored {
    /// Where it lies.
    pub path: PathBuf,
    /// What it says, or why it can't be read.
    pub signature: Result<Signature, SignatureError>,
}

/// Why a signature was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// No such image.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// As many as there may be.
    #[error("image {0} has {MAX_SIGNATURES} signatures, and no more fit: remove one from {path}", path = .1.display())]
    Full(Digest, PathBuf),
    /// The store can't be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageStore {
    fn signatures_dir(&self, image: Digest) -> PathBuf {
        self.dir().join("signatures").join(image.to_string())
    }

    /// Changes when a signature of the image comes or goes; `None` where it has none.
    pub fn signatures_stamp(&self, image: Digest) -> Result<Option<Stamp>, StoreError> {
        let dir = self.signatures_dir(image);
        Stamp::of(&dir).map_err(io_at("look at", &dir))
    }

    /// The signature files of an image, by key id; at most [`MAX_SIGNATURES`].
    pub fn signature_files(&self, image: Digest) -> Result<Vec<Stored>, StoreError> {
        let mut out = Vec::new();
        for path in signature_paths(&self.signatures_dir(image))?.into_iter().take(MAX_SIGNATURES) {
            let file = File::open(&path).map_err(io_at("open", &path))?;
            let mut bytes = Vec::new();
            file.take(MAX_SIGNATURE as u64 + 1).read_to_end(&mut bytes).map_err(io_at("read", &path))?;
            let signature = match String::from_utf8(bytes) {
                Ok(text) => Signature::parse(&text),
                Err(_) => Err(SignatureError::Shape("it is not text")),
            };
            out.push(Stored { path, signature });
        }
        Ok(out)
    }

    /// The signatures of an image that can be read.
    pub fn signatures(&self, image: Digest) -> Result<Vec<Signature>, StoreError> {
        Ok(self.signature_files(image)?.into_iter().filter_map(|s| s.signature.ok()).collect())
    }

    /// Keeps a signature of an image, in place of an older one by the same key. Whether it fits is not
    /// looked at: nobody believes a signature before checking it.
    pub fn keep_signature(&self, image: Digest, signature: &Signature) -> Result<PathBuf, KeepError> {
        // The image must not go in between.
        let _guard = self.pin_guard()?;
        self.resolve(&image.to_string())?;
        let dir = self.signatures_dir(image);
        let path = dir.join(format!("{}.{ENDING}", signature.key_id()));
        let others = signature_paths(&dir)?.into_iter().filter(|p| *p != path).count();
        if others >= MAX_SIGNATURES {
            return Err(KeepError::Full(image, dir));
        }
        durable::create_dir_all(&dir).map_err(io_at("make folder", &dir))?;
        durable::write_atomic(&path, signature.to_string().as_bytes(), 0o444)
            .map_err(io_at("write", &path))?;
        Ok(path)
    }

    /// The bytes of an image's manifest: what is signed. `None` where there is no such blob.
    pub fn manifest_bytes(&self, image: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.blobs().path(image);
        let Some(reader) = self.blobs().reader(image)? else { return Ok(None) };
        let mut bytes = Vec::new();
        reader.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(io_at("read", &path))?;
        let found = Digest::of(&bytes);
        if found == image {
            return Ok(Some(bytes));
        }
        let what = format!("its bytes hash to {}", found.short());
        Err(StoreError::Corrupt { digest: image, path, what, images: vec![image.short()] })
    }

    /// Removes an image's signatures.
    pub(super) fn remove_signatures(&self, image: Digest) -> Result<(), StoreError> {
        let dir = self.signatures_dir(image);
        match fs::remove_dir_all(&dir) {
            Ok(()) => durable::sync_dir(self.dir()).map_err(io_at("make durable", self.dir())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_at("remove", &dir)(e)),
        }
    }

    /// Removes what killed commands left: half-written files, signatures of images that are gone. The
    /// caller holds the exclusive lock.
    pub(super) fn sweep_signatures(&self, images: &BTreeMap<Digest, Vec<Tag>>) -> Result<(), StoreError> {
        for dir in dir_entries(&self.dir().join("signatures"))? {
            let image = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<Digest>().ok());
            match image {
                Some(image) if !images.contains_key(&image) => self.remove_signatures(image)?,
                Some(_) => {
                    for path in dir_entries(&dir)?.iter().filter(|p| is_leftover(p)) {
                        durable::remove_file(path).map_err(io_at("remove", path))?;
                    }
                }
                None => {}
            }
        }
        Ok(())
    }
}

fn is_leftover(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".tmp-"))
}

fn signature_paths(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = dir_entries(dir)?;
    paths.retain(|p| p.extension().is_some_and(|e| e == ENDING));
    Ok(paths)
}
