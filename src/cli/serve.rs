//! `pristine serve`.

use super::{Context, Outcome};
use crate::{config::Interface, dhcp::Mode, serve};
use clap::{Args, ValueEnum};

/// Run the service. `pristine serve --interface eth1` alone serves a flat network.
#[derive(Debug, Args)]
pub struct Serve {
    /// Serve this link, besides those of the configuration; repeatable
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// What is answered on the links named here
    #[arg(long, value_enum, default_value = "full", requires = "interface")]
    mode: LinkMode,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LinkMode {
    /// Addresses and boot programs: the only DHCP server of the link
    Full,
    /// Boot programs only, beside the site's own DHCP server
    Proxy,
}

impl Serve {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let mut config = context.config()?;
        let mode = match self.mode {
            LinkMode::Full => Mode::Full,
            LinkMode::Proxy => Mode::Proxy,
        };
        for name in self.interface {
            config.interfaces.retain(|i| i.name != name);
            config.interfaces.push(Interface::named(&name, mode));
        }
        serve::run(config)?;
        Ok(())
    }
}
