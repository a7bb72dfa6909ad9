//! `pristine nbp`: boot programs for firmware.

mod fetch;
mod sources;

use super::{Context, Outcome, table::Table};
use crate::store::{Nbps, NbpsError};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};

use fetch::{FetchOptions, Fetched, fetch};

/// Boot programs for firmware.
#[derive(Debug, Subcommand)]
pub enum Nbp {
    /// Take iPXE's boot programs from Debian's `ipxe` package; without the network if they are there
    Fetch(Fetch),
    /// Say which boot programs there are, and where they came from
    List {
        /// Their folder [default: from the configuration, <state>/nbp]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `pristine nbp fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Where to put them [default: from the configuration, <state>/nbp]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Debian release that the package comes from; older ones lack autoexec.ipxe
    #[arg(long, value_name = "RELEASE", default_value = "trixie")]
    suite: String,
    /// Use this package file instead of the mirror, for sites without one
    #[arg(long, value_name = "FILE")]
    deb: Option<PathBuf>,
    /// Fetch anew, and replace files of the same name that came from elsewhere
    #[arg(long)]
    force: bool,
}

impl Nbp {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let folder = |dir: Option<PathBuf>| match dir {
            Some(dir) => Ok(dir),
            None => context.config().map(|config| config.nbp_dir()),
        };
        match self {
            Nbp::Fetch(Fetch { dir, suite, deb, force }) => {
                let dir = folder(dir)?;
                let fetched = fetch(&dir, &FetchOptions { suite, deb, force })?;
                context.show(&fetched, || said(&dir, &fetched))
            }
            Nbp::List { dir } => {
                let dir = folder(dir)?;
                let (json, text) = list(&dir)?;
                context.show(&json, || text)
            }
        }
    }
}

fn said(dir: &Path, fetched: &Fetched) -> String {
    let mut text = String::new();
    let Fetched { package, version, .. } = fetched;
    match fetched.written.len() {
        0 => text.push_str(&format!("{}: {package} {version} is there already\n", dir.display())),
        n => text.push_str(&format!(
            "{}: {n} files of {package} {version}: {}\n",
            dir.display(),
            fetched.written.join(", ")
        )),
    }
    for name in &fetched.kept {
        text.push_str(&format!("{name}: kept, it is your own (--force replaces it)\n"));
    }
    text
}

/// The boot programs in `dir`, for programs and for people.
pub fn list(dir: &Path) -> Result<(serde_json::Value, String), NbpsError> {
    let nbps = Nbps::load(dir)?.list();
    let files: Vec<_> = nbps
        .iter()
        .map(|nbp| {
            json!({
                "name": nbp.name,
                "size": nbp.bytes.len(),
                "sha256": nbp.digest,
                "package": nbp.origin.as_ref().map(|o| &o.package),
                "version": nbp.origin.as_ref().map(|o| &o.version),
            })
        })
        .collect();
    let mut table = Table::new(&["NAME", ">BYTES", "SHA-256", "FROM"]);
    for nbp in &nbps {
        let from =
            nbp.origin.as_ref().map_or("your own".to_owned(), |o| format!("{} {}", o.package, o.version));
        table.row([nbp.name.clone(), nbp.bytes.len().to_string(), nbp.digest.short(), from]);
    }
    let text = if nbps.is_empty() {
        format!("no boot programs in {}: run `pristine nbp fetch`, or put your own there\n", dir.display())
    } else {
        table.render()
    };
    Ok((json!({ "dir": dir, "files": files }), text))
}
