//! What a machine is told to boot, as pure functions: which NBP fits its firmware, and (see
//! `script`) what its iPXE script says.

mod nbp;

pub use nbp::{NbpAnswer, ServerAddr};
