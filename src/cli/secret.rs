//! `pristine secret`: values go in, and none comes out.

use super::{Context, Failure, Outcome, password, table::Table, text, why::Why};
use crate::{
    model::{Secret, wire::SecretView},
    provisioner::MAX_SECRET,
};
use clap::{Args, Subcommand};
use std::{
    fs::File,
    io::{IsTerminal as _, Read},
    path::PathBuf,
};

/// Secrets: passwords of BMCs, keys for machines.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every secret: its name, size and age, never its value
    List,
    /// Set a secret, or replace the one of that name. The value comes from standard input
    #[command(after_help = "\
Examples:
  pristine secret set bmc-a1                          # asks for it, and shows nothing of it
  printf 'root:hunter2' | pristine secret set bmc-a1  # exactly these bytes: echo would add a line end
  pristine secret set tls-key --file server.key")]
    Set(Set),
    /// Remove a secret for good
    Rm {
        /// Its name
        name: String,
        #[command(flatten)]
        why: Why,
    },
}

/// What to set.
#[derive(Debug, Args)]
pub struct Set {
    /// Name of the secret
    name: String,
    /// Take the value from this file, all of it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    why: Why,
}

impl Command {
    pub(super) fn run(self, context: &Context) -> Outcome {
        match self {
            Command::List => {
                let secrets = context.client()?.secrets()?;
                context.show(&secrets, || list(&secrets))
            }
            Command::Set(set) => {
                // Before anybody types a secret that can't be sent.
                let client = set.why.client(context)?;
                let value = set.value()?;
                let line = if value.expose().ends_with(b"\n") { ", its line end with it" } else { "" };
                let view = client.set_secret(&set.name, &value)?;
                context.show(&view, || format!("secret {} is set ({} bytes{line})\n", view.name, view.bytes))
            }
            Command::Rm { name, why } => {
                why.client(context)?.remove_secret(&name)?;
                context
                    .show(&serde_json::json!({ "removed": name }), || format!("secret {name} is removed\n"))
            }
        }
    }
}

impl Set {
    fn value(&self) -> Result<Secret, Failure> {
        let Some(file) = &self.file else {
            let stdin = std::io::stdin();
            return if stdin.is_terminal() { self.ask() } else { read("standard input", stdin.lock()) };
        };
        let name = file.display().to_string();
        let opened = File::open(file).map_err(|e| Failure::text(format!("can't read {name}: {e}")))?;
        read(&name, opened)
    }

    fn ask(&self) -> Result<Secret, Failure> {
        let hint = "in a script, give it on standard input or name a --file";
        let value = password::ask(&format!("Value of {}: ", self.name), hint)?;
        if value != password::ask("The same once more: ", hint)? {
            return Err(Failure::text("the two are not the same: nothing was changed"));
        }
        Ok(Secret::new(value.as_bytes().to_vec()))
    }
}

fn read(from: &str, source: impl Read) -> Result<Secret, Failure> {
    // Room for all of it, so that no copy is left behind by growing.
    let mut value = Vec::with_capacity(MAX_SECRET + 1);
    let read = source.take(MAX_SECRET as u64 + 1).read_to_end(&mut value);
    let value = Secret::new(value);
    read.map_err(|e| Failure::text(format!("can't read {from}: {e}")))?;
    if value.expose().len() > MAX_SECRET {
        return Err(Failure::text(format!("{from} has more than {MAX_SECRET} bytes, the most of a secret")));
    }
    Ok(value)
}

fn list(secrets: &[SecretView]) -> String {
    if secrets.is_empty() {
        return "no secrets: `pristine secret set NAME` makes one\n".into();
    }
    let mut table = Table::new(&["SECRET", ">BYTES", "SET", ""]);
    for secret in secrets {
        let note = if secret.readable { "" } else { "can't be read: see `pristine status`" };
        table.row([&secret.name, &secret.bytes.to_string(), &text::time(secret.changed), note]);
    }
    table.render()
}
