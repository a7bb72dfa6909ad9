//! `pristine key …`: keys that sign images, and whom this site trusts. Offline commands against the state
//! folder; a running service sees what they change.

mod generate;
mod trust;

use super::{Context, Outcome};
use crate::store::trust::TrustFiles;
use clap::Subcommand;

/// Keys that vouch for images.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key pair: a secret key that signs, a public key to trust
    Generate(generate::Generate),
    /// Every key that is or was trusted here
    List,
    /// Trust a public key: images that it signed may boot
    Trust(trust::TrustArgs),
    /// Stop trusting a key, for ever, whenever it signed
    Revoke(trust::Revoke),
}

impl Key {
    pub(super) fn run(self, context: &Context) -> Outcome {
        if let Key::Generate(args) = self {
            return args.run(context);
        }
        let files = TrustFiles::at(&context.config()?.state_dir);
        match self {
            Key::List => trust::list(&files, context),
            Key::Trust(args) => args.run(&files, context),
            Key::Revoke(args) => args.run(&files, context),
            Key::Generate(_) => Ok(()),
        }
    }
}
