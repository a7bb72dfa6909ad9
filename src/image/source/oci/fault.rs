//! What can be wrong with an OCI image.

use super::super::tree::TreeError;
use crate::model::Digest;

/// What is wrong with an OCI image.
#[derive(Debug, thiserror::Error)]
pub enum OciFault {
    /// A blob that should be there.
    #[error("{what} {name} is missing: copy the image again, with all its layers")]
    Missing {
        /// What it would be.
        what: &'static str,
        /// Its digest, or its file in the archive.
        name: String,
    },
    /// A blob of another length.
    #[error("{what} {name} has {found} bytes, and {said} were promised: copy the image again")]
    Size {
        /// What it is.
        what: &'static str,
        /// Its digest.
        name: String,
        /// What the descriptor says.
        said: u64,
        /// What is there.
        found: u64,
    },
    /// A blob of other bytes.
    #[error("{what} {said} has other bytes (their digest is {found}): it is damaged or was tampered with")]
    Digest {
        /// What it is.
        what: &'static str,
        /// What the descriptor says.
        said: Digest,
        /// What is there.
        found: Digest,
    },
    /// A layer that unpacks to something else.
    #[error(
        "layer {number} unpacks to sha256:{found}, and the configuration promises sha256:{said} (diff_id): it is damaged or was tampered with"
    )]
    DiffId {
        /// From 1, the lowest first.
        number: usize,
        /// What the configuration says.
        said: Digest,
        /// What is there.
        found: Digest,
    },
    /// Manifest and configuration don't fit.
    #[error(
        "the manifest has {layers} layers, and its configuration names {ids}: they don't belong together"
    )]
    DiffIds {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        ids: usize,
    },
    /// Not the document that it should be.
    #[error("{what} can't be read: {why}")]
    Json {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// Something that isn't known.
    #[error("{what} has the unknown media type `{media_type}`")]
    MediaType {
        /// What it should be.
        what: &'static str,
        /// Its type.
        media_type: String,
    },
    /// A layer that can't be opened.
    #[error("layer {0} is encrypted: decrypt the image first (`skopeo copy --decryption-key`)")]
    Encrypted(usize),
    /// A digest that can't be checked.
    #[error("{what} is named by `{digest}`: only sha256 digests are read here")]
    Algorithm {
        /// What.
        what: &'static str,
        /// Its name.
        digest: String,
    },
    /// A format of another age.
    #[error("{what} is of version {version}, and {known} is read here")]
    Version {
        /// What.
        what: &'static str,
        /// Its version.
        version: String,
        /// What is read.
        known: &'static str,
    },
    /// Nothing for this machine.
    #[error("there is no image for {wanted}; it has: {there}. Choose one with --platform")]
    Platform {
        /// What was asked for.
        wanted: String,
        /// What is there.
        there: String,
    },
    /// Descriptor and configuration name two platforms.
    #[error("the index says that manifest {manifest} is for {said}, and its configuration says {found}")]
    PlatformLies {
        /// Which manifest.
        manifest: Digest,
        /// By the index.
        said: String,
        /// By the configuration.
        found: String,
    },
    /// More than one.
    #[error("it holds several images: {0}. Choose one with --ref")]
    Several(String),
    /// Not this one.
    #[error("it holds no image called `{wanted}`; it has: {there}")]
    Reference {
        /// What was asked for.
        wanted: String,
        /// What is there.
        there: String,
    },
    /// Over a bound.
    #[error("{what} is over the bound of {limit}")]
    TooMany {
        /// What.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A blob that can't be used where it lies.
    #[error("{what} {name} is stored as a sparse file in the archive: pack it again without --sparse")]
    Sparse {
        /// What it is.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The layout itself.
    #[error(transparent)]
    Tree(#[from] TreeError),
}
