//! `pristine image list` and `show`.

use super::mib;
use crate::{
    cli::{Context, Outcome, context::print, table::Table},
    model::{BlobRef, Image},
    store::{ImageStore, images::Entry},
};
use serde_json::{Value, json};

/// Bytes of all that an image needs.
fn size(image: &Image) -> u64 {
    image.manifest.blobs().map(|b| b.size).sum()
}

fn kernel_release(image: &Image) -> &str {
    let version = image.manifest.provenance.get("kernel_version");
    version.and_then(|v| v.split_whitespace().next()).unwrap_or("-")
}

fn entry_json(entry: &Entry) -> Value {
    match &entry.image {
        Ok(image) => {
            json!({ "digest": entry.digest, "tags": entry.tags, "size": size(image), "manifest": image.manifest })
        }
        Err(e) => json!({ "digest": entry.digest, "tags": entry.tags, "error": e.to_string() }),
    }
}

pub(super) fn list(store: &ImageStore, context: &Context) -> Outcome {
    let entries = store.entries()?;
    let value: Vec<Value> = entries.iter().map(entry_json).collect();
    context.show(&value, || {
        if entries.is_empty() {
            return "no images yet: `pristine image import` makes one\n".into();
        }
        let mut table = Table::new(&["IMAGE", "DIGEST", "ARCH", "KERNEL", ">SIZE", "INIT"]);
        for entry in &entries {
            let name = match (&entry.image, entry.tags.as_slice()) {
                (Ok(image), []) => format!("(was {})", image.manifest.tag),
                _ => entry.label(),
            };
            let rest = match &entry.image {
                Ok(image) => [
                    image.manifest.arch.to_string(),
                    kernel_release(image).to_owned(),
                    mib(size(image)),
                    if image.manifest.native { "native" } else { "foreign" }.to_owned(),
                ],
                Err(_) => ["damaged".into(), "-".into(), "-".into(), "see image verify".into()],
            };
            table.row([name, entry.digest.short()].into_iter().chain(rest));
        }
        table.render()
    })?;
    // Shown beside those that can be.
    store.bad_tags()?.into_iter().next().map_or(Ok(()), |error| Err(error.into()))
}

pub(super) fn show(reference: &str, store: &ImageStore, context: &Context) -> Outcome {
    let image = store.resolve(reference)?;
    let value = json!({ "digest": image.digest, "size": size(&image), "manifest": image.manifest });
    context.show(&value, || describe(&image))
}

/// The manifest's own bytes, for signing elsewhere.
pub(super) fn manifest(reference: &str, store: &ImageStore) -> Outcome {
    let image = store.resolve(reference)?;
    let bytes = store.manifest_bytes(image.digest)?.unwrap_or_default();
    print(&String::from_utf8(bytes)?)
}

fn describe(image: &Image) -> String {
    let m = &image.manifest;
    let mut table = Table::new(&["image", &m.tag.to_string()]);
    table.row(["digest".to_owned(), image.digest.to_string()]);
    table.row(["arch".to_owned(), m.arch.to_string()]);
    let init = if m.native {
        "native: verifies the root and reports its stages"
    } else {
        "foreign: neither verifies the root nor reports"
    };
    table.row(["initramfs", init]);
    table.row(["cmdline", m.cmdline.as_str()]);
    let mut blob = |role: &str, b: &BlobRef| {
        table.row([role.to_owned(), format!("{}  {}", b.digest, mib(b.size))]);
    };
    blob("kernel", &m.kernel);
    m.initramfs.iter().for_each(|i| blob("initramfs", i));
    if let Some(rootfs) = &m.rootfs {
        blob("rootfs", &rootfs.blob);
        blob("verity tree", &rootfs.verity.tree);
        table.row(["root hash".to_owned(), rootfs.verity.root_hash.to_string()]);
    }
    m.labels.iter().for_each(|(k, v)| table.row([format!("label {k}"), v.clone()]));
    for (key, value) in &m.provenance {
        // A build's log has several lines.
        let keys = [key.as_str()].into_iter().chain(std::iter::repeat(""));
        keys.zip(value.lines()).for_each(|(key, line)| table.row([key, line]));
    }
    table.render()
}
