//! `-m`: why something is changed, for the audit log.

use super::{Context, Failure};
use crate::{
    client::Client,
    model::audit::{By, MAX_CLAIM, misleads},
};
use clap::Args;

/// Of every command that changes something.
#[derive(Debug, Default, Args)]
pub struct Why {
    /// Why, for `pristine log`
    #[arg(short = 'm', long, value_name = "TEXT")]
    message: Option<String>,
}

impl Why {
    /// A client that says who sits here, and why they do what they do.
    pub fn client(&self, context: &Context) -> Result<Client, Failure> {
        let by =
            By::operator(operator(), self.message.clone()).map_err(|e| Failure::Usage(format!("-m: {e}")))?;
        Ok(context.client()?.in_name_of(by.claim, by.why))
    }
}

/// Who sits here, as far as this host knows: a claim, nothing more.
fn operator() -> Option<String> {
    let named = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
    let name = named("PRISTINE_OPERATOR").or_else(|| {
        let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(named)?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Some(format!("{user}@{}", host.trim()))
    })?;
    Some(name.chars().filter(|c| !misleads(*c)).take(MAX_CLAIM).collect())
}
