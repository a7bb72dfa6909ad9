//! `pristine apply` and `pristine export`: a site as a file.

use super::{Context, Failure, Outcome, changes, context::print, text, why::Why};
use crate::{
    client::ClientError,
    config::Problem,
    fleet::{ApplyOrder, Document},
};
use clap::Args;
use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

/// Largest file that is read.
const MAX_FILE: u64 = 64 << 20;

/// Make the site what a file says: default, selector rules, machines and their pins; all of it or nothing.
/// What the file doesn't name is left alone.
#[derive(Debug, Args)]
pub struct Apply {
    /// The file, as `pristine export` writes it; - for standard input
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Take away what the file doesn't name: rules, the default, what was said of other machines
    #[arg(long)]
    prune: bool,
    /// Only at this revision, as an earlier --dry-run showed it: what was read is what is done, or nothing
    #[arg(long, value_name = "REVISION", conflicts_with = "dry_run")]
    at: Option<u64>,
    /// Show each change, however many
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    why: Why,
}

/// Write the site as a file for `pristine apply`: always the same of the same site.
#[derive(Debug, Args)]
pub struct Export {
    /// Write it here instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Apply {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let text = read(&self.file)?;
        let document: Document =
            toml::from_str(&text).map_err(|e| self.wrong(vec![Problem::of_toml::<Document>(&text, &e)]))?;
        let client = self.why.client(context)?;
        let mut order = ApplyOrder { document, prune: self.prune, dry_run: true, revision: self.at };
        let failed = |e: ClientError| match e {
            ClientError::Refused { body, .. } if !body.problems.is_empty() => {
                let located =
                    body.problems.iter().map(|p| Problem::located(&text, &p.path, p.column, &p.message));
                self.wrong(located.collect())
            }
            e => e.into(),
        };
        let plan = client.apply(&order).map_err(failed)?;
        let done = match self.dry_run || plan.changes.is_empty() {
            true => plan,
            false => {
                // What was planned, and nothing else: refused where something changed in between.
                (order.dry_run, order.revision) = (false, Some(plan.revision));
                client.apply(&order).map_err(failed)?
            }
        };
        context.show(&done, || changes::shown(&done, &text::Tags::fetch(&client), self.all))
    }

    fn wrong(&self, mut problems: Vec<Problem>) -> Failure {
        problems.sort_by_key(|p| (p.line, p.column));
        let lines: Vec<String> = problems.iter().map(|p| format!("{}{p}", self.file.display())).collect();
        Failure::text(lines.join("\n"))
    }
}

impl Export {
    pub(super) fn run(self, context: &Context) -> Outcome {
        let exported = context.client()?.export()?;
        let text = match context.json {
            true => serde_json::to_string_pretty(&exported.document)? + "\n",
            false => exported.document.to_toml(),
        };
        match &self.output {
            None => print(&text),
            Some(path) => write(path, &text),
        }
    }
}

/// A file, or standard input.
pub fn read(path: &Path) -> Result<String, Failure> {
    let name = path.display();
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes),
        false => std::fs::File::open(path).and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|e| Failure::text(format!("can't read {name}: {e}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Failure::text(format!(
            "{name} is larger than {} MiB, the most that is taken at once",
            MAX_FILE >> 20
        )));
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::text(format!("{name} is not text in UTF-8: is it the right file?")))
}

/// Writes a file, whole or not at all.
pub fn write(path: &Path, text: &str) -> Outcome {
    crate::store::durable::write_atomic(path, text.as_bytes(), 0o644)
        .map_err(|e| Failure::text(format!("can't write {}: {e}", path.display())))
}
