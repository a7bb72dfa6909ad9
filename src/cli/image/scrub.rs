//! `pristine image scrub`.

use super::rm::in_use;
use crate::{
    cli::{Context, Failure, Outcome, text},
    image::progress::{OnStderr, Progress as _},
    store::{
        ImageStore,
        images::{DamagedImage, Paced, Scrubbed},
    },
};
use serde_json::json;
use std::{fmt::Write as _, path::Path};

/// `rate` is in MiB a second; 0 is as fast as the disk.
pub(super) fn run(rate: u32, state_dir: &Path, store: &ImageStore, context: &Context) -> Outcome {
    let step = OnStderr.begin("scrub", store.stored_bytes()?);
    let mut pace = Paced::new(u64::from(rate) << 20, || false);
    let done = store.scrub(text::now, &mut |n| {
        step.advance(n);
        pace.spend(n)
    })?;
    step.done();
    let done = done.unwrap_or_default();
    let machines = |image: &DamagedImage| match in_use(state_dir, image.digest) {
        Ok(by) => by,
        Err(why) => vec![format!("machines can't be told: {why}")],
    };
    let hurt: Vec<(&DamagedImage, Vec<String>)> = done.images.iter().map(|i| (i, machines(i))).collect();
    let images: Vec<_> = hurt
        .iter()
        .map(|(i, by)| json!({ "digest": i.digest, "label": i.label, "what": i.what, "in_use": by }))
        .collect();
    let value = json!({
        "chunks": done.chunks, "files": done.files, "bytes": done.bytes, "found": done.found, "images": images,
    });
    context.show(&value, || words(&done, &hurt))?;
    if done.images.is_empty() { Ok(()) } else { Err(Failure::Said) }
}

fn words(done: &Scrubbed, hurt: &[(&DamagedImage, Vec<String>)]) -> String {
    let mut out = String::new();
    for (image, by) in hurt {
        let _ = writeln!(out, "DAMAGED image {} ({})", image.label, image.digest.short());
        for what in &image.what {
            let _ = writeln!(out, "  what    {what}");
        }
        for who in by {
            let _ = writeln!(out, "  hurts   {who}");
        }
        let _ = writeln!(
            out,
            "  remedy  import the same files again, or remove the image; it is not served until then"
        );
    }
    for at in &done.found {
        let _ = writeln!(out, "damaged now: {at}");
    }
    let _ = writeln!(
        out,
        "{} chunks and {} files, {} read: {}",
        done.chunks,
        done.files,
        text::size(done.bytes),
        match hurt.len() {
            0 => "all images are as they should be".to_owned(),
            n => format!("{n} images are damaged"),
        }
    );
    out
}
