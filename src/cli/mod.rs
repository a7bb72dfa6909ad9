//! The command line: one noun a file, each a clap type with a `run`.
//!
//! Exit codes: 0 done, 1 it failed (standard error says why and what to do), 2 wrong usage.
//! Commands about machines and boots talk to the running service over its API only; `serve`, `lab`,
//! `config`, `doctor`, `nbp` and what `image` does to the store work on this host.

mod boots;
mod changes;
mod config;
mod context;
mod csv;
mod doctor;
mod explain;
mod facts;
mod failure;
mod fleet;
mod image;
mod key;
mod lab;
mod lease;
mod log;
mod machine;
mod nbp;
mod password;
mod pin;
mod power;
mod profile;
mod rollout;
mod rows;
mod rule;
mod secret;
mod serve;
mod status;
pub mod table;
pub mod text;
mod watch;
mod why;

pub use context::Context;
pub use failure::{Failure, Outcome};

use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Bare-metal network boot: every reboot returns a server to its pinned, verified, read-only image.
#[derive(Debug, Parser)]
#[command(name = "pristine", version, arg_required_else_help = true, infer_subcommands = false)]
struct Cli {
    /// Configuration file [default: /etc/pristine/pristine.toml where it exists]
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "FILE", env = "PRISTINE_CONFIG")]
    config: Option<PathBuf>,
    /// State folder, instead of the configuration's
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// URL of the service's API [default: from the configuration, http://127.0.0.1:8081]
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "URL", env = "PRISTINE_API")]
    api: Option<String>,
    /// File with the API's token [default: from the configuration, <state>/api-token]
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        value_name = "FILE",
        env = "PRISTINE_TOKEN_FILE"
    )]
    token_file: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service: DHCP, TFTP, HTTP and the operators' API
    Serve(serve::Serve),
    /// Read, check and show the configuration
    #[command(subcommand)]
    Config(config::Config),
    /// Say what would keep a boot from working here; exit code 1 if anything would
    Doctor(doctor::Doctor),
    /// Machines: list, show, set, forget, import, export
    #[command(subcommand)]
    Machine(machine::Command),
    /// Pin a machine to an image; it boots it from its next power-on
    Pin(pin::Pin),
    /// Take a machine's pin away: it gets what the site's rules and default say again
    Unpin(pin::Unpin),
    /// Have a machine that fell back to its last good image try again what the rules say
    Retry(pin::Retry),
    /// Show or set what machines boot that have no pin and that no rule picks
    Default(pin::Default),
    /// What the machines that a selector picks boot: set, list, remove
    #[command(subcommand)]
    Rule(rule::Command),
    /// What machines get besides their image, by selector: host name, users, files, kernel arguments
    #[command(subcommand)]
    Profile(profile::Command),
    /// Move machines to another image in waves, gated on health: start, show, pause, roll back
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Machines' power, by their BMCs: on, off, cycle, and how it is done
    #[command(subcommand)]
    Power(power::Command),
    /// Secrets, sealed on disk and never shown: list, set, remove
    #[command(subcommand)]
    Secret(secret::Command),
    /// Make the site what a file says: default, rules, machines; --dry-run shows what would change
    Apply(fleet::Apply),
    /// Write the site as a file for apply
    Export(fleet::Export),
    /// What a machine would get if it powered on now, and why
    Explain(explain::Explain),
    /// Boot attempts: seconds at each stage, and how they ended
    Boots(boots::Boots),
    /// Follow boots live, one line a step
    Watch(watch::Watch),
    /// What changed of what machines boot: by whom, when, from what to what, and why
    Log(log::Log),
    /// Addresses and who has them
    #[command(subcommand)]
    Lease(lease::Command),
    /// How the service is: version, uptime, alarms, counters
    Status(status::Status),
    /// Images in the store: import, list, verify, remove
    #[command(subcommand)]
    Image(image::Image),
    /// Keys that sign images, and whom this site trusts: generate, list, trust, revoke
    #[command(subcommand)]
    Key(key::Key),
    /// Boot programs for firmware: fetch, list
    #[command(subcommand)]
    Nbp(nbp::Nbp),
    /// Virtual servers on real firmware, on this host
    #[command(subcommand)]
    Lab(lab::Lab),
    /// The version of this program
    Version,
}

impl Command {
    fn run(self, context: &Context) -> Outcome {
        match self {
            Command::Serve(c) => c.run(context),
            Command::Config(c) => c.run(context),
            Command::Doctor(c) => c.run(context),
            Command::Machine(c) => c.run(context),
            Command::Pin(c) => c.run(context),
            Command::Unpin(c) => c.run(context),
            Command::Retry(c) => c.run(context),
            Command::Default(c) => c.run(context),
            Command::Rule(c) => c.run(context),
            Command::Profile(c) => c.run(context),
            Command::Rollout(c) => c.run(context),
            Command::Power(c) => c.run(context),
            Command::Secret(c) => c.run(context),
            Command::Apply(c) => c.run(context),
            Command::Export(c) => c.run(context),
            Command::Explain(c) => c.run(context),
            Command::Boots(c) => c.run(context),
            Command::Watch(c) => c.run(context),
            Command::Log(c) => c.run(context),
            Command::Lease(c) => c.run(context),
            Command::Status(c) => c.run(context),
            Command::Image(c) => c.run(context),
            Command::Key(c) => c.run(context),
            Command::Nbp(c) => c.run(context),
            Command::Lab(c) => c.run(context),
            Command::Version => {
                let version = env!("CARGO_PKG_VERSION");
                context.show(&serde_json::json!({ "version": version }), || format!("pristine {version}\n"))
            }
        }
    }
}

/// Reads the arguments, does what they say, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = Context {
        config_file: cli.config,
        state_dir: cli.state_dir,
        api: cli.api,
        token_file: cli.token_file,
        json: cli.json,
    };
    match cli.command.run(&context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
