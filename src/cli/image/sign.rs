//! `pristine image sign`, and `pristine image verify --signature`.

use crate::{
    cli::{Context, Failure, Outcome, password, table::Table, text},
    image::signing,
    store::{ImageStore, images::Entry, trust::TrustFiles},
};
use clap::Args;
use pristine_signature::{SecretKey, utc};
use serde_json::json;
use std::{path::PathBuf, time::SystemTime};

/// Arguments of `image sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// name:version, a digest, or the first 8 or more of its digits
    #[arg(required = true)]
    images: Vec<String>,
    /// Secret key file, see `pristine key generate`
    #[arg(long, value_name = "FILE", required_unless_present = "signature")]
    key: Option<PathBuf>,
    /// Take the key's password from the first line of this file instead of asking for it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Keep a signature that was made elsewhere: `minisign -S` over what `image show IMAGE --manifest` prints
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "password_file"])]
    signature: Option<PathBuf>,
}

pub(super) fn run(args: &SignArgs, files: &TrustFiles, store: &ImageStore, context: &Context) -> Outcome {
    let in_force = files.read()?;
    let (trust, now) = (&in_force.trust, in_force.at_least(text::now()));
    let key = args.key.as_ref().map(|path| open(path, args)).transpose()?;
    let mut done = Vec::new();
    for image in &args.images {
        let signed = match (&key, &args.signature) {
            (Some(key), _) => signing::sign(store, image, key, SystemTime::now())?,
            (None, Some(file)) => signing::attach(store, trust, image, file, now)?,
            (None, None) => return Err(Failure::Usage("give --key or --signature".into())),
        };
        let vouches = signing::findings(store, trust, &signed.image, now)?
            .into_iter()
            .any(|f| f.key == Some(signed.key) && f.wrong.is_none());
        done.push((signed, vouches));
    }
    let value: Vec<_> = done
        .iter()
        .map(|(s, vouches)| {
            json!({ "digest": s.image.digest, "tag": s.image.manifest.tag, "key": s.key.to_string(), "path": s.path, "trusted": vouches })
        })
        .collect();
    context.show(&value, || {
        let line = |(s, vouches): &(signing::Signed, bool)| {
            let note = if *vouches {
                ""
            } else {
                " (a key that is not trusted here: `pristine key trust` its .pub file)"
            };
            format!(
                "{} ({}) is signed by key {}{note}\n",
                s.image.manifest.tag,
                s.image.digest.short(),
                s.key
            )
        };
        done.iter().map(line).collect()
    })
}

fn open(path: &std::path::Path, args: &SignArgs) -> Result<SecretKey, Failure> {
    signing::secret_key(path, || match &args.password_file {
        Some(file) => password::from_file(file),
        None => password::ask(
            &format!("Password of {}: ", path.display()),
            "in a script, name a file with --password-file",
        ),
    })
}

/// Whether somebody whom this site trusts vouches for each image; exit 1 where nobody does.
pub(super) fn verify(
    entries: &[Entry],
    files: &TrustFiles,
    store: &ImageStore,
    context: &Context,
) -> Outcome {
    let found = files.read()?;
    let now = found.at_least(text::now());
    let (mut rows, mut values, mut unsigned) = (Vec::new(), Vec::new(), 0);
    for entry in entries {
        let image = match &entry.image {
            Ok(image) => image,
            Err(e) => {
                unsigned += 1;
                values.push(json!({ "digest": entry.digest, "vouched": false, "why": e.to_string(), "signatures": [] }));
                rows.push([entry.label(), "-".into(), "-".into(), "-".into(), format!("damaged: {e}")]);
                continue;
            }
        };
        let findings = signing::findings(store, &found.trust, image, now)?;
        let vouched = findings.iter().any(|f| f.wrong.is_none());
        unsigned += usize::from(!vouched);
        let signatures: Vec<_> = findings
            .iter()
            .map(|f| json!({ "key": f.key.map(|k| k.to_string()), "signed": f.signed, "wrong": f.wrong }))
            .collect();
        values.push(json!({ "digest": image.digest, "tag": image.manifest.tag, "vouched": vouched, "signatures": signatures }));
        if findings.is_empty() {
            rows.push([entry.label(), "-".into(), "-".into(), "-".into(), "not signed".into()]);
        }
        for f in findings {
            let name = f.key.and_then(|id| found.trust.get(id)).map_or("-".into(), |k| k.name.clone());
            let id = f.key.map_or("-".into(), |k| k.to_string());
            let signed = f.signed.map_or("-".into(), utc);
            rows.push([entry.label(), id, name, signed, f.wrong.unwrap_or_else(|| "vouches".into())]);
        }
    }
    context.show(&json!({ "images": values, "refused": found.refused }), || {
        let mut out = found.refused.as_ref().map(|why| format!("WARNING: {why}\n")).unwrap_or_default();
        let mut table = Table::new(&["IMAGE", "KEY", "NAME", "SIGNED", "VERDICT"]);
        rows.into_iter().for_each(|row| table.row(row));
        out += &table.render();
        out += &match unsigned {
            0 => format!("{} images, a trusted key vouches for each\n", entries.len()),
            n => format!("{} images, nobody vouches for {n}\n", entries.len()),
        };
        out
    })?;
    if unsigned == 0 { Ok(()) } else { Err(Failure::Said) }
}
