//! OCI images: the image layout (image-spec 1.1, image-layout.md) as a folder or an archive, and what
//! `docker save` writes. Every document and layer is proven by its digest before it is used.

mod blobs;
mod choose;
mod docker;
mod fault;
mod json;
mod platform;

pub use fault::OciFault;
pub use platform::Platform;

use super::{
    Options, apply,
    bounds::Used,
    error::SourceError,
    facts::{ConfigFacts, Facts, LayerFact, SourceKind},
    tree::Tree,
};
use crate::{image::progress::Progress, model::Digest};
use blobs::Expected;
use json::{Config, Media, media};
use std::path::Path;

pub(super) use docker::is_docker;

/// An image, chosen and its documents proven: what is left are the layers.
struct Plan {
    image: Option<Digest>,
    reference: Option<String>,
    config: Config,
    layers: Vec<Expected>,
}

/// The root of the image in `layout`, the lowest layer first.
pub(super) fn read(
    layout: &Tree,
    path: &Path,
    kind: SourceKind,
    options: &Options,
    used: &mut Used,
    progress: &dyn Progress,
) -> Result<Tree, SourceError> {
    let label = path.display().to_string();
    let plan = match kind {
        SourceKind::DockerArchive => docker::plan(layout, options),
        _ => plan(layout, options),
    };
    let plan = plan.map_err(|fault| SourceError::Oci { archive: label.clone(), fault: Box::new(fault) })?;
    let mut tree = Tree::new(options.bounds.clone());
    let mut facts = Facts {
        kind,
        archive: layout.facts().archive,
        image: plan.image,
        reference: plan.reference,
        platform: Some(plan.config.platform.to_string()),
        layers: Vec::new(),
        config: Some(config_facts(plan.config)),
    };
    for expected in &plan.layers {
        let (unpacked, size) = blobs::layer(layout, expected, &label, options, used, progress)?;
        let label = format!("{label}: layer {}", expected.name);
        apply::layer(&mut tree, &unpacked.plain, &label, options, used)?;
        facts.layers.push(LayerFact { digest: unpacked.stored, diff_id: unpacked.unpacked, size });
    }
    tree.facts = facts;
    Ok(tree)
}

fn plan(layout: &Tree, options: &Options) -> Result<Plan, OciFault> {
    let bounds = &options.bounds;
    let file: json::LayoutFile =
        json::parse(&blobs::file(layout, "oci-layout", "oci-layout", "", bounds.json_bytes)?)
            .map_err(|why| OciFault::Json { what: "oci-layout".into(), why })?;
    if !file.image_layout_version.starts_with("1.") {
        let version = choose::shown(&file.image_layout_version);
        return Err(OciFault::Version { what: "the image layout", version, known: "1" });
    }
    let chosen = choose::choose(layout, options)?;
    let (layers, ids) = (&chosen.manifest.layers, &chosen.config.rootfs.diff_ids);
    if layers.len() != ids.len() {
        return Err(OciFault::DiffIds { layers: layers.len(), ids: ids.len() });
    }
    let mut expected = Vec::new();
    for (number, (layer, id)) in (1..).zip(layers.iter().zip(ids)) {
        match media(&layer.media_type) {
            Media::Layer => {}
            Media::Encrypted => return Err(OciFault::Encrypted(number)),
            _ => {
                let media_type = choose::shown(&layer.media_type);
                return Err(OciFault::MediaType { what: "a layer", media_type });
            }
        }
        let digest = blobs::digest("a layer", &layer.digest)?;
        expected.push(Expected {
            number,
            path: blobs::path(digest),
            name: format!("{number} (sha256:{})", digest.short()),
            stored: Some((digest, layer.size)),
            diff_id: blobs::digest("a diff_id", id)?,
        });
    }
    Ok(Plan {
        image: Some(chosen.digest),
        reference: chosen.reference,
        config: chosen.config,
        layers: expected,
    })
}

fn config_facts(config: Config) -> ConfigFacts {
    let run = config.config;
    ConfigFacts {
        env: run.env,
        entrypoint: run.entrypoint,
        cmd: run.cmd,
        labels: run.labels,
        user: run.user,
        working_dir: run.working_dir,
        created: config.created,
    }
}
