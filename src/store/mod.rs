//! What is on disk: the state database, the image store, the NBP folder, the secrets' key (`vault`).
//!
//! A store, from below: `packs` of chunks, `recipe`s that list a blob's chunks, `blobs`, which may also be
//! plain files, and `images`.

pub mod blobs;
pub mod chunk;
mod chunked;
pub mod chunks;
pub mod content;
pub mod db;
pub mod durable;
pub mod images;
pub mod mapped;
pub mod nbps;
mod packs;
mod recipe;
pub mod resolve;
pub mod signatures;
#[cfg(test)]
pub(crate) mod testing;
mod tmp;
pub mod trust;
pub mod vault;

pub use blobs::StoreError;
pub use images::{BlobFile, ImageStore, RemoveError, StoreLock};
pub use nbps::{Nbp, Nbps, NbpsError};
pub use resolve::ResolveError;
