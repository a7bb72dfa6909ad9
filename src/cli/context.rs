//! What every command may need: configuration, output.

use super::{Failure, Outcome};
use crate::{
    client::Client,
    config::{Config, ConfigError},
};
use serde::Serialize;
use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Read where there is one and no other is named.
const DEFAULT_CONFIG: &str = "/etc/pristine/pristine.toml";

/// The global arguments.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--api`.
    pub api: Option<String>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// `--json`.
    pub json: bool,
}

impl Context {
    /// The configuration: of `--config`, else of the default file, else all defaults.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let default = Path::new(DEFAULT_CONFIG);
        let file = self.config_file.as_deref().or_else(|| default.exists().then_some(default));
        let mut config = file.map_or_else(|| Ok(Config::default()), Config::load)?;
        if let Some(dir) = &self.state_dir {
            config.state_dir = dir.clone();
        }
        Ok(config)
    }

    /// A client of the service: at `--api` with the token of `--token-file`, each from the
    /// configuration where it isn't given.
    pub fn client(&self) -> Result<Client, Failure> {
        let config = match (&self.api, &self.token_file) {
            (Some(_), Some(_)) => Config::default(),
            _ => self.config()?,
        };
        let url = self.api.clone().unwrap_or_else(|| url_of(config.api.listen));
        let token = self.token_file.clone().unwrap_or_else(|| config.token_file());
        Ok(Client::new(&url, &token)?)
    }

    /// Prints `value` as JSON with `--json`, else what `text` makes.
    pub fn show(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
        if self.json { print(&(serde_json::to_string_pretty(value)? + "\n")) } else { print(&text()) }
    }
}

/// The URL under which a listener is reached from this host.
fn url_of(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// Writes to standard output.
pub fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| if e.kind() == std::io::ErrorKind::BrokenPipe { Failure::PipeClosed } else { e.into() })
}
