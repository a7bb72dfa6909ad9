//! Signatures of images: Ed25519 in minisign's file formats (<https://jedisct1.github.io/minisign/>), so
//! that the `minisign` tool verifies what Pristine signs and the other way round.
//!
//! The service and the initramfs' `init` must judge alike, so both use this crate. It is pure: no file,
//! no clock, no randomness.
//!
//! | file | idea |
//! |---|---|
//! | `key` | public keys and their ids |
//! | `signature` | signature files, and whether one fits |
//! | `statement` | what the trusted comment says: when, which image |
//! | `carried` | the keys that an initramfs carries, and what they may vouch for |
//! | `secret` | secret keys (feature `sign`) |
//!
//! What is signed is the bytes of an image's manifest, whose SHA-256 is the image's identity: whoever
//! has checked a signature may trust every digest in the manifest.

mod carried;
mod key;
#[cfg(feature = "sign")]
mod secret;
mod signature;
mod statement;
mod time;

pub use carried::{Allowed, Carried, CarriedError, MAX_CARRIED, Vouched};
pub use key::{KeyError, KeyId, PublicKey};
#[cfg(feature = "sign")]
pub use secret::{Protection, SecretKey, SecretKeyError};
pub use signature::{MAX_SIGNATURE, MAX_SIGNATURES, Signature, SignatureError};
pub use statement::Statement;
pub use time::utc;
#[cfg(feature = "sign")]
pub use zeroize::Zeroizing;

/// In front of a line that nobody vouches for.
const UNTRUSTED: &str = "untrusted comment: ";
