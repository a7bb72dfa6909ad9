//! `pristine key list`, `trust` and `revoke`.

use crate::{
    cli::{Context, Failure, Outcome, table::Table, text},
    image::signing,
    model::{Millis, Revoked, TrustedKey},
    store::trust::TrustFiles,
};
use clap::Args;
use pristine_signature::KeyId;
use serde_json::{Value, json};
use std::path::Path;

/// Trust a public key.
#[derive(Debug, Args)]
pub struct TrustArgs {
    /// Public key file (.pub), or the key itself: the line that starts with RW
    #[arg(value_name = "FILE|KEY")]
    key: String,
    /// What to call it [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// It vouches for nothing from then on, as in 2027-01-01
    #[arg(long, value_name = "TIME", value_parser = text::parse_time)]
    until: Option<Millis>,
}

/// Stop trusting a key.
#[derive(Debug, Args)]
pub struct Revoke {
    /// Its id, as `pristine key list` shows it
    id: KeyId,
    /// Why: machines that are refused show it
    #[arg(long, default_value = "no reason given")]
    reason: String,
}

impl TrustArgs {
    pub(super) fn run(self, files: &TrustFiles, context: &Context) -> Outcome {
        let key = signing::public_key(&self.key)?;
        let name = self.name.unwrap_or_else(|| match Path::new(&self.key).file_stem() {
            Some(stem) if Path::new(&self.key).exists() => stem.to_string_lossy().into_owned(),
            _ => "unnamed".to_owned(),
        });
        let now = text::now();
        if self.until.is_some_and(|until| until <= now) {
            return Err(Failure::Usage(
                "--until is in the past: `pristine key revoke` ends a key at once".into(),
            ));
        }
        let reached = files.read()?.reached;
        if self.until.is_some_and(|until| until <= reached) {
            return Err(Failure::Usage(format!(
                "--until is before a time that this host's clock reached already: give a later one; if the clock was \
                 wrong then, remove {}",
                files.clock().display()
            )));
        }
        let new = TrustedKey { key, name: name.clone(), added: now, until: self.until, revoked: None };
        let trust = files.change(|trust| trust.trust(new))?;
        let value = json!({ "id": key.id.to_string(), "name": name, "version": trust.version });
        context.show(&value, || {
            format!(
                "key {} ({name}) is trusted; {} is version {}\n",
                key.id,
                files.path().display(),
                trust.version
            )
        })
    }
}

impl Revoke {
    pub(super) fn run(self, files: &TrustFiles, context: &Context) -> Outcome {
        let revoked = Revoked { at: text::now(), reason: self.reason };
        let trust = files.change(|trust| trust.revoke(self.id, revoked))?;
        let value = json!({ "id": self.id.to_string(), "version": trust.version });
        context.show(&value, || {
            format!(
                "key {} is revoked, for ever: what it signed vouches for nothing from now on; {} is version {}\n\
                 An initramfs that carries the key knows nothing of this: make it anew and replace it on its USB sticks and in its UKIs.\n",
                self.id,
                files.path().display(),
                trust.version
            )
        })
    }
}

pub(super) fn list(files: &TrustFiles, context: &Context) -> Outcome {
    let found = files.read()?;
    let now = found.at_least(text::now());
    let state = |k: &TrustedKey| match (&k.revoked, k.until) {
        (Some(_), _) => "revoked",
        (None, Some(until)) if until <= now => "ended",
        _ => "trusted",
    };
    let one = |k: &TrustedKey| -> Value {
        json!({
            "id": k.key.id.to_string(), "key": k.key.to_string(), "name": k.name, "state": state(k), "added": k.added,
            "until": k.until, "revoked": k.revoked,
        })
    };
    let keys: Vec<Value> = found.trust.keys.iter().map(one).collect();
    let value = json!({ "version": found.trust.version, "refused": found.refused, "keys": keys });
    context.show(&value, || {
        let mut out = found.refused.as_ref().map(|why| format!("WARNING: {why}\n")).unwrap_or_default();
        if text::now() < now {
            out += &format!(
                "WARNING: this host's clock is behind {}, when a key ended here: set it; if it was wrong then, remove {}\n",
                text::time(now),
                files.clock().display()
            );
        }
        if found.trust.keys.is_empty() {
            return out + "no keys yet: `pristine key generate` makes one, `pristine key trust` trusts it\n";
        }
        let mut table = Table::new(&["KEY", "NAME", "STATE", "SINCE", "PUBLIC KEY", "NOTE"]);
        for k in &found.trust.keys {
            let (since, note) = match (&k.revoked, k.until) {
                (Some(r), _) => (r.at, r.reason.clone()),
                (None, Some(until)) => (k.added, format!("until {}", text::time(until))),
                (None, None) => (k.added, String::new()),
            };
            table.row([
                k.key.id.to_string(),
                k.name.clone(),
                state(k).to_owned(),
                text::time(since),
                k.key.to_string(),
                note,
            ]);
        }
        out += &table.render();
        out
    })
}
