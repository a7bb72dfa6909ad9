//! What `docker save`, `podman save` and `skopeo copy docker-archive:` write: manifest.json names a configuration
//! and the layers by files in the archive. Where the archive has an image layout as well (Docker 25 and
//! later), that is read instead.

use super::{
    super::{Options, tree::Tree},
    OciFault, Plan, blobs,
    blobs::Expected,
    choose::{list, shown},
    json::{Config, Saved, parse},
};
use crate::model::Digest;

/// True where manifest.json is of that kind; a root may well have a file of that name.
pub(in super::super) fn is_docker(tree: &Tree) -> bool {
    let bytes = tree.read_all("manifest.json", tree.bounds.json_bytes).unwrap_or_default();
    parse::<Vec<Saved>>(&bytes).is_ok_and(|images| !images.is_empty())
}

pub(super) fn plan(layout: &Tree, options: &Options) -> Result<Plan, OciFault> {
    let bounds = &options.bounds;
    let bytes = blobs::file(layout, "manifest.json", "manifest.json", "", bounds.json_bytes)?;
    let images: Vec<Saved> =
        parse(&bytes).map_err(|why| OciFault::Json { what: "manifest.json".into(), why })?;
    let image = pick(&images, options)?;
    if image.layers.len() > bounds.layers {
        return Err(OciFault::TooMany { what: "the number of layers", limit: bounds.layers as u64 });
    }
    let bytes =
        blobs::file(layout, "configuration", &image.config, &shown(&image.config), bounds.json_bytes)?;
    // The file is named by its digest, which is the image's identity.
    let named = image.config.trim_end_matches(".json").rsplit('/').next().unwrap_or_default();
    let found = Digest::of(&bytes);
    if let Ok(said) = named.parse::<Digest>()
        && said != found
    {
        return Err(OciFault::Digest { what: "configuration", said, found });
    }
    let config: Config = parse(&bytes)
        .map_err(|why| OciFault::Json { what: format!("configuration {}", shown(named)), why })?;
    if options.platform.fit(&config.platform).is_none() {
        let (wanted, there) = (options.platform.to_string(), config.platform.to_string());
        return Err(OciFault::Platform { wanted, there });
    }
    let ids = &config.rootfs.diff_ids;
    if image.layers.len() != ids.len() {
        return Err(OciFault::DiffIds { layers: image.layers.len(), ids: ids.len() });
    }
    let mut layers = Vec::new();
    for (number, (path, id)) in (1..).zip(image.layers.iter().zip(ids)) {
        layers.push(Expected {
            number,
            path: path.clone(),
            name: format!("{number} ({})", shown(path)),
            stored: None,
            diff_id: blobs::digest("a diff_id", id)?,
        });
    }
    let reference = image.repo_tags.first().cloned();
    Ok(Plan { image: Some(found), reference, config, layers })
}

fn pick<'a>(images: &'a [Saved], options: &Options) -> Result<&'a Saved, OciFault> {
    let names = || list(images.iter().map(|i| i.repo_tags.join(" or ")));
    match (&options.reference, images) {
        (Some(wanted), images) => {
            let found = images.iter().find(|i| i.repo_tags.contains(wanted));
            found.ok_or_else(|| OciFault::Reference { wanted: wanted.clone(), there: names() })
        }
        (None, [one]) => Ok(one),
        (None, _) => Err(OciFault::Several(names())),
    }
}
