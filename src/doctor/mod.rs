//! What would keep a boot from working here: each check says what was found and what to do.
//!
//! | file | looks at |
//! |---|---|
//! | `host` | capabilities, clock, disk, state folder, firewall |
//! | `ports` | whether the service's ports are free, and who has them |
//! | `links` | interfaces, other DHCP servers on them |
//! | `content` | boot programs, images |

mod content;
mod host;
mod links;
mod ports;

use crate::config::Config;
use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Boots work, but not all, or not safely.
    Warn,
    /// Boots fail until this is changed.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do; `None` where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Check {
        Check { name: name.into(), level: Level::Ok, found: found.into(), advice: None }
    }

    fn warn(name: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name: name.into(), level: Level::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(name: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name: name.into(), level: Level::Fail, found: found.into(), advice: Some(advice.into()) }
    }
}

/// All checks, in the order in which a person would repair things. Takes a few seconds: it listens
/// for other DHCP servers.
pub async fn examine(config: &Config) -> Vec<Check> {
    let service = host::service_pid(&config.state_dir);
    let mut checks = host::checks(config, service);
    checks.extend(links::checks(config, service).await);
    checks.extend(ports::checks(config, service));
    checks.extend(content::checks(config));
    checks
}
