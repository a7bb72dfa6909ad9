//! Blobs of an image layout: found by digest, checked before they are used.

use super::{
    super::{
        Options,
        bounds::Used,
        content::{Backing, Place},
        error::SourceError,
        node::Kind,
        path::show,
        tree::{Tree, TreeError},
        unpack::{Unpacked, unpack},
    },
    OciFault,
    json::Descriptor,
};
use crate::{image::progress::Progress, model::Digest};

/// A name `sha256:…` as a digest.
pub(super) fn digest(what: &'static str, name: &str) -> Result<Digest, OciFault> {
    let hex = name.strip_prefix("sha256:");
    let parsed = hex.and_then(|hex| hex.parse().ok());
    parsed.ok_or_else(|| OciFault::Algorithm { what, digest: name.chars().take(80).collect() })
}

/// Where a layout keeps a blob.
pub(super) fn path(digest: Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// A document: its bytes are what the descriptor promises.
pub(super) fn document(
    layout: &Tree,
    what: &'static str,
    descriptor: &Descriptor,
    limit: u64,
) -> Result<(Digest, Vec<u8>), OciFault> {
    let digest = digest(what, &descriptor.digest)?;
    if descriptor.size > limit {
        return Err(OciFault::TooMany { what, limit });
    }
    let name = format!("sha256:{digest}");
    let bytes = file(layout, what, &path(digest), &name, limit)?;
    let found = bytes.len() as u64;
    if found != descriptor.size {
        return Err(OciFault::Size { what, name, said: descriptor.size, found });
    }
    let found = Digest::of(&bytes);
    if found != digest {
        return Err(OciFault::Digest { what, said: digest, found });
    }
    Ok((digest, bytes))
}

/// A file of the layout that has no digest to check.
pub(super) fn file(
    layout: &Tree,
    what: &'static str,
    path: &str,
    name: &str,
    limit: u64,
) -> Result<Vec<u8>, OciFault> {
    match layout.lookup(path) {
        Err(TreeError::Missing(_)) => return Err(OciFault::Missing { what, name: name.to_owned() }),
        Err(e) => return Err(e.into()),
        Ok(node) if node.size() > limit => return Err(OciFault::TooMany { what, limit }),
        Ok(_) => {}
    }
    Ok(layout.read_all(path, limit)?)
}

/// What is known of a layer before it is read.
pub(super) struct Expected {
    /// From 1, the lowest first.
    pub number: usize,
    /// Its file in the layout.
    pub path: String,
    /// Its name for people.
    pub name: String,
    /// Digest and size as stored, where they are promised.
    pub stored: Option<(Digest, u64)>,
    /// Digest of the plain archive.
    pub diff_id: Digest,
}

/// A layer, unpacked and proven.
pub(super) fn layer(
    layout: &Tree,
    expected: &Expected,
    label: &str,
    options: &Options,
    used: &mut Used,
    progress: &dyn Progress,
) -> Result<(Unpacked, u64), SourceError> {
    let oci = |fault| SourceError::Oci { archive: label.to_owned(), fault: Box::new(fault) };
    let name = || expected.name.clone();
    let backing = backing(layout, &expected.path, &expected.name).map_err(oci)?;
    if let Some((_, said)) = expected.stored
        && backing.len() != said
    {
        let found = backing.len();
        return Err(oci(OciFault::Size { what: "layer", name: name(), said, found }));
    }
    let step = progress.begin(&format!("layer {}", expected.number), backing.len());
    let unpacked = unpack(&backing, &format!("{label}: layer {}", expected.name), options, used, &*step)?;
    step.done();
    if let Some((said, _)) = expected.stored
        && said != unpacked.stored
    {
        return Err(oci(OciFault::Digest { what: "layer", said, found: unpacked.stored }));
    }
    if unpacked.unpacked != expected.diff_id {
        let (number, said, found) = (expected.number, expected.diff_id, unpacked.unpacked);
        return Err(oci(OciFault::DiffId { number, said, found }));
    }
    Ok((unpacked, backing.len()))
}

fn backing(layout: &Tree, path: &str, name: &str) -> Result<Backing, OciFault> {
    let what = "layer";
    let missing = || OciFault::Missing { what, name: name.to_owned() };
    let node = match layout.lookup(path) {
        Err(TreeError::Missing(_)) => return Err(missing()),
        other => other?,
    };
    let Kind::File { content, .. } = &node.kind else { return Err(missing()) };
    let fail = |source| OciFault::Tree(TreeError::Read { path: show(path.as_bytes()), source });
    match &content.0 {
        Place::Extent(backing) => Ok(backing.clone()),
        Place::InFolder { root, path, .. } => root.open(path).and_then(Backing::whole).map_err(fail),
        Place::Sparse { .. } | Place::Bytes(_) => Err(OciFault::Sparse { what, name: name.to_owned() }),
    }
}
