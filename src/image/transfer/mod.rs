//! Images on their way from one site to another: as an archive ([`archive`]) or chunk by chunk over the
//! API ([`uploads`]).
//!
//! Both carry an [`inventory`]: the manifest, its signatures, and of which chunks each blob is made. Whoever
//! sends proves every blob while it is cut ([`pack`]); whoever receives proves every chunk, every blob and
//! the root hash before the image is published ([`assemble`]), manifest and tag last. `docs/archive-format.md`.

pub mod archive;
pub mod assemble;
mod here;
pub mod inventory;
pub mod pack;
#[cfg(test)]
mod tests;
pub mod uploads;

use crate::{
    model::{BlobRef, Digest, Tag},
    netboot::CmdlineError,
    store::{ResolveError, StoreError, signatures::KeepError},
};
use std::{io, path::PathBuf};

/// Why an image was not sent or not taken. The store is as before.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file system said no.
    #[error("can't {what} {path}: {source}{}", full(source))]
    Io {
        /// As in "read".
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something else.
    #[error("{path} is no archive of an image: `pristine image export` makes them{hint}")]
    NotArchive {
        /// Which file.
        path: PathBuf,
        /// What it is, where that can be told.
        hint: &'static str,
    },
    /// The end is missing, or there is too much.
    #[error("{path} has {has} bytes where its list says {needs}: copy it again. Nothing was changed")]
    Length {
        /// Which file.
        path: PathBuf,
        /// What its list says.
        needs: u64,
        /// What is there.
        has: u64,
    },
    /// Not the bytes that were sent.
    #[error("{what}: copy or send it again. Nothing was changed")]
    Damaged {
        /// What is wrong.
        what: String,
    },
    /// An inventory that contradicts itself.
    #[error("the list of what the image is made of can't be right: {0}")]
    Inventory(&'static str),
    /// A manifest that no machine could boot.
    #[error("the image's command line: {0}")]
    Cmdline(#[from] CmdlineError),
    /// What an archive builds on isn't here.
    #[error(
        "this archive holds only what {tag} ({}) lacks, and {what}: import {tag} first, or export the image anew without --since",
        digest.short()
    )]
    Lacks {
        /// The image it builds on.
        tag: Tag,
        /// Its identity.
        digest: Digest,
        /// What is missing.
        what: String,
    },
    /// Chunks that nobody sent yet, or that are gone again.
    #[error("{} chunks are still missing: send them, then commit again", .0.len())]
    Missing(Vec<usize>),
    /// Whole, but not what the manifest names.
    #[error("{what}: whoever made the manifest of this image made it of other bytes. Nothing was changed")]
    Unproven {
        /// What doesn't fit.
        what: String,
    },
    /// Nobody sends an image of this name.
    #[error("no upload of image {} is under way: begin it (again)", .0.short())]
    NoUpload(Digest),
    /// As many as there may be.
    #[error(
        "{0} uploads are under way, and no more are taken: let them end, or wait a day until what nobody goes on with is cleared away"
    )]
    Busy(usize),
    /// A chunk that the image isn't made of.
    #[error("chunk {} isn't one that this upload still lacks: begin the upload again", .0.short())]
    Unasked(Digest),
    /// No such image.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signature wasn't kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

fn full(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::StorageFull => ": make room, then try again",
        io::ErrorKind::QuotaExceeded => ": the quota is used up",
        _ => "",
    }
}

fn io_at(what: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> TransferError {
    let path = path.to_owned();
    move |source| TransferError::Io { what, path, source }
}

/// The blob isn't in the store, or not whole.
fn missing(blob: &BlobRef, path: PathBuf) -> TransferError {
    StoreError::Corrupt { digest: blob.digest, path, what: "it is missing".into(), images: Vec::new() }.into()
}
