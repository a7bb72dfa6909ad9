//! `pristine config`.

use super::{Context, Outcome, context::print};
use crate::config;
use clap::Subcommand;
use std::path::PathBuf;

/// Read, check and show the configuration.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Say what is wrong in a configuration file, with line and column
    Check {
        /// The file [default: that of --config]
        file: Option<PathBuf>,
    },
    /// Print the effective configuration, defaults written out
    Show,
}

impl Config {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Config::Check { file } => {
                let mut context = context.clone();
                context.config_file = file.or(context.config_file);
                let config = context.config()?;
                let name = context
                    .config_file
                    .as_ref()
                    .map_or_else(|| "the default configuration".to_owned(), |f| f.display().to_string());
                context.show(&serde_json::json!({ "ok": true }), || {
                    format!("{name}: right ({})\n", summary(&config))
                })
            }
            Config::Show => {
                let config = context.config()?;
                let text = config.show()?;
                if context.json {
                    return print(&(serde_json::to_string_pretty(&config.effective())? + "\n"));
                }
                print(&text)
            }
        }
    }
}

fn summary(config: &config::Config) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    [
        count(config.interfaces.len(), "interface"),
        count(config.subnets.len(), "subnet"),
        count(config.reservations.len(), "reservation"),
    ]
    .join(", ")
}
