//! What is on disk: the state database, the image store, the NBP folder.

pub mod nbps;

pub use nbps::{Nbp, Nbps, NbpsError};
