//! `pristine key generate`.

use crate::{
    cli::{Context, Failure, Outcome, password},
    image::signing,
};
use clap::Args;
use pristine_signature::Zeroizing;
use serde_json::json;
use std::path::PathBuf;

/// Make a key pair.
#[derive(Debug, Args)]
pub struct Generate {
    /// File of the secret key; the public one is written beside it, with .pub at its end
    #[arg(long, value_name = "FILE", default_value = "pristine.key")]
    out: PathBuf,
    /// A line that reminds people of what the key is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
    /// Take the password from the first line of this file instead of asking for it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Leave the secret key without a password: whoever has the file can sign
    #[arg(long, conflicts_with = "password_file")]
    no_password: bool,
}

impl Generate {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let password = match (&self.password_file, self.no_password) {
            (_, true) => None,
            (Some(file), _) => Some(password::from_file(file)?),
            (None, _) => Some(ask_twice()?),
        };
        let key = signing::generate(&self.out, &self.comment, password.as_ref().map(|p| p.as_str()))?;
        let public = signing::public_path(&self.out);
        let value =
            json!({ "id": key.id.to_string(), "key": key.to_string(), "secret": self.out, "public": public });
        context.show(&value, || {
            format!(
                "key {}\nsecret  {}  (mode 0600: keep it off the boot server, with a copy in a safe place)\npublic  {}  {key}\nnext    pristine key trust {}\n",
                key.id,
                self.out.display(),
                public.display(),
                public.display()
            )
        })
    }
}

fn ask_twice() -> Result<Zeroizing<String>, Failure> {
    let hint = "in a script, name a file with --password-file, or leave the key without one by --no-password";
    let first = password::ask("Password for the new key: ", hint)?;
    if first.is_empty() {
        return Err(Failure::Usage(
            "an empty password protects nothing: --no-password says that it is meant".into(),
        ));
    }
    if first != password::ask("The same once more: ", hint)? {
        return Err(Failure::text("the two passwords are not the same: nothing was written"));
    }
    Ok(first)
}
