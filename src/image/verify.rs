//! Reads everything in the store again: is each blob what its name says, and does each rootfs hang on
//! its root hash?

use super::{
    copy::{self, CopyError, Verity},
    progress::Progress,
};
use crate::{
    model::{BlobRef, Digest, Image, RootFs},
    store::{ImageStore, StoreError, images::Entry},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

/// What is wrong with a blob, and whom it hurts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The blob.
    pub digest: Digest,
    /// What it is in the image, as in "rootfs".
    pub role: &'static str,
    /// Where it lies.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
    /// Images that need it.
    pub images: Vec<String>,
}

/// What was read and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Images checked.
    pub images: usize,
    /// Blobs read, manifests among them.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong; nothing if empty.
    pub damage: Vec<Damage>,
}

struct Todo {
    role: &'static str,
    size: u64,
    rootfs: Option<RootFs>,
    images: Vec<String>,
}

/// Reads all blobs of `entries`, each once. What is damaged is marked where this process may do that, as a scrub
/// does: it isn't served any more, and importing the same files heals it.
///
/// # Errors
/// Only where a file can't be read at all; damage is in the report.
pub fn verify(store: &ImageStore, entries: &[Entry], progress: &dyn Progress) -> Result<Report, StoreError> {
    let mut report = Report { images: entries.len(), ..Report::default() };
    let mut todo: BTreeMap<Digest, Todo> = BTreeMap::new();
    for entry in entries {
        report.blobs += 1;
        match &entry.image {
            Ok(image) => plan(image, &entry.label(), &mut todo),
            Err(StoreError::Corrupt { digest, path, what, .. }) => {
                mark(store, *digest);
                report.damage.push(Damage {
                    digest: *digest,
                    role: "manifest",
                    path: path.clone(),
                    what: what.clone(),
                    images: vec![entry.label()],
                });
            }
            Err(e) => report.damage.push(Damage {
                digest: entry.digest,
                role: "manifest",
                path: store.blobs().place(entry.digest),
                what: e.to_string(),
                images: vec![entry.label()],
            }),
        }
    }
    let step = progress.begin("verify", todo.values().map(|t| t.size).sum());
    for (digest, item) in todo {
        report.blobs += 1;
        report.bytes += item.size;
        let wrong = check(store, digest, &item, &|n| step.advance(n))?;
        if wrong.is_some() {
            mark(store, digest);
        }
        let (role, images) = (item.role, item.images);
        report.damage.extend(wrong.map(|what| Damage {
            digest,
            role,
            path: store.blobs().place(digest),
            what,
            images,
        }));
    }
    step.done();
    Ok(report)
}

fn mark(store: &ImageStore, digest: Digest) {
    if let Err(error) = store.quarantine(digest) {
        tracing::warn!(%error, "damage could not be marked: `pristine image scrub` as the service's user does");
    }
}

fn plan(image: &Image, label: &str, todo: &mut BTreeMap<Digest, Todo>) {
    let m = &image.manifest;
    let mut add = |role, blob: BlobRef, rootfs| {
        let item = todo.entry(blob.digest).or_insert_with(|| Todo {
            role,
            size: blob.size,
            rootfs,
            images: Vec::new(),
        });
        if !item.images.iter().any(|i| i == label) {
            item.images.push(label.to_owned());
        }
    };
    add("kernel", m.kernel, None);
    m.initramfs.iter().for_each(|blob| add("initramfs", *blob, None));
    if let Some(rootfs) = m.rootfs {
        add("rootfs", rootfs.blob, Some(rootfs));
        add("verity tree", rootfs.verity.tree, None);
    }
}

/// What is wrong with a blob, in words.
fn check(
    store: &ImageStore,
    digest: Digest,
    item: &Todo,
    seen: &dyn Fn(u64),
) -> Result<Option<String>, StoreError> {
    let reader = match store.blobs().reader(digest) {
        Ok(Some(reader)) => reader,
        Ok(None) => return Ok(Some("it is missing".into())),
        Err(StoreError::Corrupt { what, .. }) => return Ok(Some(what)),
        Err(e) => return Err(e),
    };
    if reader.size() != item.size {
        return Ok(Some(format!("it has {} bytes where the image says {}", reader.size(), item.size)));
    }
    let verity = item.rootfs.map_or(Verity::No, |r| Verity::Salted(r.verity.salt));
    let read = match copy::copy(reader, io::sink(), verity, 0, seen) {
        Ok(read) => read,
        Err(CopyError::Read(e) | CopyError::Write(e)) => return Ok(Some(format!("it can't be read: {e}"))),
    };
    if read.blob.digest != digest {
        return Ok(Some(format!("its bytes hash to {}", read.blob.digest)));
    }
    let Some(rootfs) = item.rootfs else { return Ok(None) };
    let good = read.tree.is_some_and(|tree| {
        tree.fits(&rootfs.verity) && Digest::of(&tree.bytes) == rootfs.verity.tree.digest
    });
    Ok((!good).then(|| "its dm-verity tree is not the one that the image names".into()))
}

/// The images that damage hurts, for a person.
pub fn hurt(report: &Report) -> BTreeSet<&str> {
    report.damage.iter().flat_map(|d| d.images.iter().map(String::as_str)).collect()
}
