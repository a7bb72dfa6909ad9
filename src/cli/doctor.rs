//! `pristine doctor`.

use super::{Context, Failure, Outcome};
use crate::{
    config::Interface,
    dhcp::Mode,
    doctor::{self, Check, Level},
};
use clap::Args;

/// Say what would keep a boot from working here. Exit code 1 if anything would.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Look at this link as well, as if it were served in full mode; repeatable
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
}

impl Doctor {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let mut config = context.config()?;
        for name in &self.interface {
            if !config.interfaces.iter().any(|i| i.name == *name) {
                config.interfaces.push(Interface::named(name, Mode::Full));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let checks = runtime.block_on(doctor::examine(&config));
        context.show(&checks, || words(&checks))?;
        if checks.iter().any(|c| c.level == Level::Fail) { Err(Failure::Said) } else { Ok(()) }
    }
}

fn words(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for c in checks {
        let level = match c.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        out.push_str(&format!("{level}  {:<width$}  {}\n", c.name, c.found));
        if let Some(advice) = &c.advice {
            out.push_str(&format!("      {:<width$}  -> {advice}\n", ""));
        }
    }
    let count = |level| checks.iter().filter(|c| c.level == level).count();
    let (fails, warns) = (count(Level::Fail), count(Level::Warn));
    out.push_str(&match (fails, warns) {
        (0, 0) => "all is well\n".to_owned(),
        (0, w) => format!("boots can work; {w} to look at\n"),
        (f, w) => format!("{f} would keep boots from working, {w} more to look at\n"),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_found_and_what_to_do() {
        let check = |name: &str, level, found: &str, advice: Option<&str>| Check {
            name: name.into(),
            level,
            found: found.into(),
            advice: advice.map(str::to_owned),
        };
        let checks = [
            check("clock", Level::Ok, "synchronised", None),
            check("UDP 67", Level::Fail, "taken by dnsmasq", Some("stop it")),
        ];
        assert_eq!(
            words(&checks),
            "ok    clock   synchronised\n\
             FAIL  UDP 67  taken by dnsmasq\n              -> stop it\n\
             1 would keep boots from working, 0 more to look at\n"
        );
    }
}
