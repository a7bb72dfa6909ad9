//! Wires a configuration to running servers.

use crate::config::Config;

/// Why the service can't start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No link is named.
    #[error(
        "no interface to serve\n  help: pristine serve --interface <name>, or an [[interface]] in the configuration"
    )]
    NoInterface,
}

/// Runs the service until it is told to end (SIGTERM, SIGINT).
pub fn run(config: Config) -> Result<(), ServeError> {
    if config.interfaces.is_empty() {
        return Err(ServeError::NoInterface);
    }
    Ok(())
}
