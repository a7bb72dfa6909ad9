//! Where a root came from: what goes into an image's provenance.

use crate::model::Digest;
use std::collections::BTreeMap;

/// What was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceKind {
    /// Nothing: made by hand.
    #[default]
    Empty,
    /// A folder with a root in it.
    Folder,
    /// A tar archive, packed or not.
    Tar,
    /// A folder in the form of the OCI image layout.
    OciLayout,
    /// The same in a tar archive.
    OciArchive,
    /// What `docker save` writes.
    DockerArchive,
}

impl SourceKind {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            SourceKind::Empty => "empty",
            SourceKind::Folder => "folder",
            SourceKind::Tar => "tar",
            SourceKind::OciLayout => "oci-layout",
            SourceKind::OciArchive => "oci-archive",
            SourceKind::DockerArchive => "docker-archive",
        }
    }
}

/// One layer of an OCI image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFact {
    /// Of the bytes as they are stored.
    pub digest: Digest,
    /// Of the unpacked archive.
    pub diff_id: Digest,
    /// Bytes as stored.
    pub size: u64,
}

/// What an OCI image says of how it is run. A server boots it another way: informative only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFacts {
    /// Environment, `KEY=value`.
    pub env: Vec<String>,
    /// Entry point.
    pub entrypoint: Vec<String>,
    /// Arguments, or the command where there is no entry point.
    pub cmd: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// User to run as.
    pub user: String,
    /// Folder to run in.
    pub working_dir: String,
    /// When it was made, as it says.
    pub created: String,
}

/// What is known of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What was given.
    pub kind: SourceKind,
    /// Digest of the archive as it was given; `None` for folders.
    pub archive: Option<Digest>,
    /// Digest of the image's manifest.
    pub image: Option<Digest>,
    /// Its name in the archive.
    pub reference: Option<String>,
    /// What it runs on: `linux/amd64`.
    pub platform: Option<String>,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerFact>,
    /// How it wants to be run.
    pub config: Option<ConfigFacts>,
}

impl Facts {
    /// As pairs for a manifest's provenance. Nothing of this machine and no time is in them, so that
    /// the same source gives the same pairs everywhere.
    pub fn provenance(&self) -> BTreeMap<String, String> {
        let mut out = BTreeMap::from([("source".to_owned(), self.kind.word().to_owned())]);
        let mut put = |key: &str, value: Option<String>| {
            out.extend(value.map(|v| (key.to_owned(), v)));
        };
        put("source_sha256", self.archive.map(|d| d.to_string()));
        put("oci_image", self.image.map(|d| format!("sha256:{d}")));
        put("oci_platform", self.platform.clone());
        let layers: Vec<String> = self.layers.iter().map(|l| format!("sha256:{}", l.digest)).collect();
        put("oci_layers", (!layers.is_empty()).then(|| layers.join(" ")));
        out
    }
}
