//! What is on disk: the state database, the image store, the NBP folder.

pub mod blobs;
pub mod db;
pub mod durable;
pub mod images;
pub mod nbps;
pub mod resolve;
pub mod signatures;
#[cfg(test)]
pub(crate) mod testing;
pub mod trust;

pub use blobs::StoreError;
pub use images::{BlobFile, ImageStore, RemoveError, StoreLock};
pub use nbps::{Nbp, Nbps, NbpsError};
pub use resolve::ResolveError;
