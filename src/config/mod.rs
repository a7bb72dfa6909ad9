//! `pristine.toml`: read, checked, explained. Every key has a default; `docs/configuration.md`
//! describes each of them, and a test holds it to this module.

mod check;
mod keys;
mod load;
mod sections;
#[cfg(test)]
mod tests;

pub use crate::provisioner::Unknown;
pub use keys::all_keys;
pub use load::{ConfigError, Problem};
pub use sections::{
    API_LISTEN, Api, Bounds, Config, Dhcp, Http, Images, Interface, LogLevel, Nbp, Tftp, token_file_in,
};
