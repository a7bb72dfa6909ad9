//! `pristine image export`, and `image import` of what it wrote.

use super::mib;
use crate::{
    cli::{Context, Failure, Outcome},
    image::{
        progress::OnStderr,
        transfer::{
            TransferError,
            archive::{self, Archive},
            pack,
        },
    },
    store::{ImageStore, durable},
};
use clap::Args;
use serde_json::json;
use std::{
    fs::{self, File},
    io::{BufWriter, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

/// Arguments of `image export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// name:version, a digest, or the first 8 or more of its digits
    image: String,
    /// Leave out what this image has: the site that imports the archive must have it too
    #[arg(long, value_name = "IMAGE")]
    since: Option<String>,
    /// Write to this file, whole or not at all [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn export(args: &ExportArgs, store: &ImageStore, context: &Context) -> Outcome {
    let image = store.resolve(&args.image)?;
    let since = args.since.as_ref().map(|old| store.resolve(old)).transpose()?;
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "an archive is no text: name a file with --output, or redirect it".into(),
        ));
    }
    let mut packed = pack::pack(store, &image, since.as_ref(), &OnStderr)?;
    let written = match &args.output {
        Some(path) => to_file(&mut packed, path)?,
        None => {
            let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
            archive::write(&mut packed, &mut out, Path::new("standard output"), &OnStderr)?
        }
    };
    let said = format!(
        "{}: {}, {} chunks{}",
        image.manifest.tag,
        mib(written.bytes),
        written.chunks,
        since.map_or_else(String::new, |old| format!(
            ", {} that {} has left out",
            written.left_out, old.manifest.tag
        )),
    );
    match &args.output {
        // Standard output may be the archive.
        None => eprintln!("{said}"),
        Some(path) => {
            let value = json!({
                "digest": image.digest, "file": path, "size": written.bytes, "chunks": written.chunks,
                "left_out": written.left_out,
            });
            context.show(&value, || format!("{said} in {}\n", path.display()))?;
        }
    }
    Ok(())
}

/// Writes beside `path` and puts it in place when it is whole.
fn to_file(packed: &mut pack::Packed, path: &Path) -> Result<archive::Written, TransferError> {
    let wrong = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TransferError::Io { what, path, source }
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let tmp = durable::tmp_name(dir);
    let mut write = || {
        let file = File::create_new(&tmp).map_err(wrong("make a file beside", path))?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let written = archive::write(packed, &mut out, path, &OnStderr)?;
        out.flush().and_then(|()| file.sync_all()).map_err(wrong("write", path))?;
        drop(out);
        durable::rename(&tmp, path).map_err(wrong("put in place", path))?;
        Ok(written)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&tmp);
    })
}

/// `image import FILE`: an archive that `image export` wrote.
pub(super) fn import(file: &Path, move_tag: bool, store: &ImageStore, context: &Context) -> Outcome {
    let archive = Archive::open(file, store, &OnStderr)?;
    let tag = archive.inventory.image.manifest.tag.clone();
    let stored = archive.import(store, move_tag, &OnStderr)?;
    let done = stored.published;
    let value = json!({
        "digest": done.digest, "tag": tag, "existed": done.existed, "moved_from": done.moved_from,
        "signatures": stored.signatures,
    });
    context.show(&value, || {
        let signed = match stored.signatures {
            0 => String::new(),
            n => format!(", with {n} signature{}", if n == 1 { "" } else { "s" }),
        };
        match done.moved_from {
            _ if done.existed => format!("{tag} was {} already{signed}\n", done.digest),
            Some(old) => format!("{tag} is {} (was {old}){signed}\n", done.digest),
            None => format!("{tag} is {}{signed}\n", done.digest),
        }
    })
}
