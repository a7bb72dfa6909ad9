//! `pristine image verify`.

use super::mib;
use crate::{
    cli::{Context, Failure, Outcome},
    image::{progress::OnStderr, verify},
    store::{ImageStore, images::Entry},
};
use std::fmt::Write as _;

/// The images that `references` name; all where there are none.
pub(super) fn chosen(references: &[String], store: &ImageStore) -> Result<Vec<Entry>, Failure> {
    let mut entries = store.entries()?;
    if !references.is_empty() {
        let mut wanted = Vec::new();
        for reference in references {
            // By tag first: resolving reads the manifest, which may be what is damaged.
            let tagged = entries.iter().find(|e| e.tags.iter().any(|t| t.to_string() == *reference));
            wanted.push(match tagged {
                Some(entry) => entry.digest,
                None => store.resolve(reference)?.digest,
            });
        }
        entries.retain(|e| wanted.contains(&e.digest));
    }
    Ok(entries)
}

pub(super) fn run(entries: &[Entry], store: &ImageStore, context: &Context) -> Outcome {
    let report = verify::verify(store, entries, &OnStderr)?;
    context.show(&report, || {
        let mut text = String::new();
        for d in &report.damage {
            let _ = writeln!(
                text,
                "DAMAGED {} blob {}: {}\n  file    {}\n  hurts   {}\n  remedy  import the same files again, or remove the image; it is not served until then",
                d.role,
                d.digest,
                d.what,
                d.path.display(),
                d.images.join(", ")
            );
        }
        let _ = writeln!(
            text,
            "{} images, {} blobs, {} read: {}",
            report.images,
            report.blobs,
            mib(report.bytes),
            match report.damage.len() {
                0 => "all as they should be".to_owned(),
                n => format!("{n} damaged, hurting {}", verify::hurt(&report).into_iter().collect::<Vec<_>>().join(", ")),
            }
        );
        text
    })?;
    if let Some(error) = store.bad_tags()?.into_iter().next() {
        return Err(error.into());
    }
    if report.damage.is_empty() { Ok(()) } else { Err(Failure::Said) }
}
