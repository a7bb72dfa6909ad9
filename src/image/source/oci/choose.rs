//! Which image of a layout: by name where several are there, and by platform.

use super::{
    super::{Options, bounds::Bounds, tree::Tree},
    OciFault, blobs,
    json::{Config, Descriptor, Index, Manifest, Media, PlatformField, media, parse},
};
use crate::model::Digest;

/// Indexes in indexes; what tools write has two.
const MAX_NESTED: usize = 4;
/// Images in all indexes together.
const MAX_IMAGES: usize = 2000;

/// A manifest that an index leads to.
#[derive(Debug)]
struct Candidate {
    descriptor: Descriptor,
    platform: PlatformField,
    names: Vec<String>,
}

/// The image that was chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    pub digest: Digest,
    pub manifest: Manifest,
    pub config: Config,
    pub reference: Option<String>,
}

/// Chooses an image from index.json.
pub(super) fn choose(layout: &Tree, options: &Options) -> Result<Chosen, OciFault> {
    let bytes = blobs::file(layout, "index.json", "index.json", "", options.bounds.json_bytes)?;
    let index = index(&bytes, "index.json")?;
    let mut all = Vec::new();
    collect(layout, &index, &[], 0, &options.bounds, &mut all)?;
    let found = pick(&all, options)?;
    let (digest, manifest) = manifest(layout, &found.descriptor, &options.bounds)?;
    let config = config(layout, &manifest.config, &options.bounds)?;
    let same = config.platform.os == found.platform.os
        && config.platform.architecture == found.platform.architecture;
    if !same {
        let (said, found) = (found.platform.to_string(), config.platform.to_string());
        return Err(OciFault::PlatformLies { manifest: digest, said, found });
    }
    Ok(Chosen { digest, manifest, config, reference: found.names.first().cloned() })
}

fn index(bytes: &[u8], what: &str) -> Result<Index, OciFault> {
    let index: Index = parse(bytes).map_err(|why| OciFault::Json { what: what.to_owned(), why })?;
    version("the index", index.schema_version)?;
    Ok(index)
}

fn version(what: &'static str, version: u32) -> Result<(), OciFault> {
    if version == 2 {
        Ok(())
    } else {
        Err(OciFault::Version { what, version: version.to_string(), known: "2" })
    }
}

fn manifest(layout: &Tree, of: &Descriptor, bounds: &Bounds) -> Result<(Digest, Manifest), OciFault> {
    let (digest, bytes) = blobs::document(layout, "manifest", of, bounds.json_bytes)?;
    let what = || format!("manifest sha256:{digest}");
    let manifest: Manifest = parse(&bytes).map_err(|why| OciFault::Json { what: what(), why })?;
    version("the manifest", manifest.schema_version)?;
    if manifest.layers.len() > bounds.layers {
        return Err(OciFault::TooMany { what: "the number of layers", limit: bounds.layers as u64 });
    }
    Ok((digest, manifest))
}

pub(super) fn config(layout: &Tree, of: &Descriptor, bounds: &Bounds) -> Result<Config, OciFault> {
    if media(&of.media_type) != Media::Config {
        // Helm charts, signatures and the like are kept in the same form.
        return Err(OciFault::MediaType { what: "the configuration", media_type: shown(&of.media_type) });
    }
    let (digest, bytes) = blobs::document(layout, "configuration", of, bounds.json_bytes)?;
    parse(&bytes).map_err(|why| OciFault::Json { what: format!("configuration sha256:{digest}"), why })
}

fn collect(
    layout: &Tree,
    index: &Index,
    outer: &[String],
    depth: usize,
    bounds: &Bounds,
    out: &mut Vec<Candidate>,
) -> Result<(), OciFault> {
    if depth > MAX_NESTED {
        return Err(OciFault::TooMany { what: "the depth of indexes in indexes", limit: MAX_NESTED as u64 });
    }
    for descriptor in &index.manifests {
        if out.len() >= MAX_IMAGES {
            return Err(OciFault::TooMany { what: "the number of images", limit: MAX_IMAGES as u64 });
        }
        let mut names = outer.to_vec();
        // What skopeo and buildah write, and containerd's.
        for key in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
            names.extend(descriptor.annotations.get(key).cloned());
        }
        match media(&descriptor.media_type) {
            Media::Index => {
                let (digest, bytes) = blobs::document(layout, "index", descriptor, bounds.json_bytes)?;
                let inner = self::index(&bytes, &format!("index sha256:{digest}"))?;
                collect(layout, &inner, &names, depth + 1, bounds, out)?;
            }
            Media::Manifest => {
                let note = descriptor.annotations.contains_key("vnd.docker.reference.type");
                let platform = match &descriptor.platform {
                    // What describes other images is none.
                    Some(p) if note || p.os == "unknown" => continue,
                    Some(p) => p.clone(),
                    None if note => continue,
                    None => match manifest(layout, descriptor, bounds) {
                        Ok((_, m)) if media(&m.config.media_type) == Media::Config => {
                            config(layout, &m.config, bounds)?.platform
                        }
                        Ok(_) => continue,
                        Err(e) => return Err(e),
                    },
                };
                out.push(Candidate { descriptor: descriptor.clone(), platform, names });
            }
            _ => {
                let media_type = shown(&descriptor.media_type);
                return Err(OciFault::MediaType { what: "an entry of the index", media_type });
            }
        }
    }
    Ok(())
}

fn pick<'a>(all: &'a [Candidate], options: &Options) -> Result<&'a Candidate, OciFault> {
    let named: Vec<&Candidate> = match &options.reference {
        None => all.iter().collect(),
        Some(wanted) => {
            let named: Vec<_> = all.iter().filter(|c| c.names.contains(wanted)).collect();
            if named.is_empty() {
                let there = list(all.iter().map(|c| c.names.join(" or ")));
                return Err(OciFault::Reference { wanted: wanted.clone(), there });
            }
            named
        }
    };
    let fit = |c: &&Candidate| options.platform.fit(&c.platform);
    let Some(best) = named.iter().filter_map(fit).min() else {
        let there = list(named.iter().map(|c| c.platform.to_string()));
        return Err(OciFault::Platform { wanted: options.platform.to_string(), there });
    };
    let mut fitting: Vec<&Candidate> = named.into_iter().filter(|c| fit(c) == Some(best)).collect();
    fitting.sort_by(|a, b| a.descriptor.digest.cmp(&b.descriptor.digest));
    fitting.dedup_by(|a, b| a.descriptor.digest == b.descriptor.digest);
    match fitting.as_slice() {
        [one] => Ok(one),
        several => Err(OciFault::Several(list(several.iter().map(|c| {
            let name = if c.names.is_empty() { "without a name".into() } else { c.names.join(" or ") };
            format!("{name} ({}, {})", c.platform, shown(&c.descriptor.digest))
        })))),
    }
}

/// Each once, in order, and not more than a screen holds.
pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.filter(|i| !i.is_empty()).map(|i| shown(&i)).collect();
    items.sort();
    items.dedup();
    let more = items.len().saturating_sub(20);
    items.truncate(20);
    match (items.len(), more) {
        (0, _) => "nothing".into(),
        (_, 0) => items.join(", "),
        _ => format!("{} and {more} more", items.join(", ")),
    }
}

pub(super) fn shown(text: &str) -> String {
    text.chars().flat_map(char::escape_default).take(200).collect()
}
