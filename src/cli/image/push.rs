//! `pristine image push`.

use super::mib;
use crate::{
    cli::{Context, Outcome},
    image::{progress::OnStderr, transfer::pack},
    store::ImageStore,
};
use clap::Args;
use serde_json::json;

/// Arguments of `image push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// name:version, a digest, or the first 8 or more of its digits
    image: String,
    /// Let the tag point to this image there where it points to another; pins keep the old one
    #[arg(long)]
    move_tag: bool,
}

pub(super) fn run(args: &PushArgs, store: &ImageStore, context: &Context) -> Outcome {
    let image = store.resolve(&args.image)?;
    let client = context.client()?;
    let mut packed = pack::pack(store, &image, None, &OnStderr)?;
    let cut = |why: &str| eprintln!("pristine: the push goes on after a cut: {why}");
    let pushed = client.push(&mut packed, args.move_tag, &OnStderr, &cut)?;
    let (tag, all) = (&image.manifest.tag, packed.inventory.chunks.len());
    let value = json!({
        "digest": image.digest, "tag": tag, "existed": pushed.existed, "moved_from": pushed.moved_from,
        "chunks": all, "sent_chunks": pushed.chunks, "sent_bytes": pushed.bytes,
    });
    context.show(&value, || {
        let sent = format!("sent {} of {all} chunks, {}", pushed.chunks, mib(pushed.bytes));
        match pushed.moved_from {
            _ if pushed.existed && pushed.chunks == 0 => {
                format!("{tag} is there already: {}\n", image.digest)
            }
            Some(old) => format!("{tag} is {} there (was {old}): {sent}\n", image.digest),
            None => format!("{tag} is {} there: {sent}\n", image.digest),
        }
    })
}
