//! From what an operator typed to an image's digest, and what to say where nothing fits.

use super::blobs::StoreError;
use crate::model::{Digest, Tag, distance};
use std::collections::BTreeMap;

/// Fewest digits that name an image by the beginning of its digest.
pub const MIN_PREFIX: usize = 8;
/// Most tags that an error names.
const MAX_NEAREST: usize = 3;

/// Why a reference names no image.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nothing of that name.
    #[error("there is no image `{reference}`{}", did_you_mean(nearest))]
    NotFound {
        /// What was asked.
        reference: String,
        /// The nearest tags, best first.
        nearest: Vec<String>,
    },
    /// Several images begin with these digits.
    #[error("`{reference}` begins the digests of several images: {}; write more digits", candidates.join(", "))]
    Ambiguous {
        /// What was asked.
        reference: String,
        /// Which images, by tag and digest.
        candidates: Vec<String>,
    },
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn did_you_mean(nearest: &[String]) -> String {
    if nearest.is_empty() {
        "; `pristine image list` shows what there is".into()
    } else {
        format!("; did you mean {}?", nearest.join(" or "))
    }
}

/// The images with their tags.
pub(super) type Index = BTreeMap<Digest, Vec<Tag>>;

/// The digest that `reference` names. A whole digest isn't looked up.
pub(super) fn digest(
    reference: &str,
    tag_target: impl FnOnce(&Tag) -> Result<Option<Digest>, StoreError>,
    index: impl FnOnce() -> Result<Index, StoreError>,
) -> Result<Digest, ResolveError> {
    if let Ok(digest) = reference.parse() {
        return Ok(digest);
    }
    if let Ok(tag) = reference.parse::<Tag>()
        && let Some(digest) = tag_target(&tag)?
    {
        return Ok(digest);
    }
    let index = index()?;
    let prefix = reference.strip_prefix("sha256:").unwrap_or(reference);
    if prefix.len() >= MIN_PREFIX && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        let fits: Vec<_> = index.iter().filter(|(d, _)| d.to_string().starts_with(prefix)).collect();
        match fits.as_slice() {
            [] => {}
            [(digest, _)] => return Ok(**digest),
            _ => {
                let name = |(d, tags): &(&Digest, &Vec<Tag>)| match tags.first() {
                    Some(tag) => format!("{tag} ({d})"),
                    None => d.to_string(),
                };
                let candidates = fits.iter().map(name).collect();
                return Err(ResolveError::Ambiguous { reference: reference.to_owned(), candidates });
            }
        }
    }
    let nearest = nearest(reference, &index);
    Err(ResolveError::NotFound { reference: reference.chars().take(160).collect(), nearest })
}

/// The tags most like `reference`, best first: by letters to change in the name, then in the whole. A
/// name more than half wrong is not near.
pub(super) fn nearest(reference: &str, index: &Index) -> Vec<String> {
    // Nobody mistypes more than a tag's length; a long text would cost time.
    let reference: String = reference.chars().take(130).collect();
    let name = reference.split(':').next().unwrap_or("");
    let mut scored: Vec<(usize, usize, &Tag)> = index
        .values()
        .flatten()
        .map(|tag| (distance(name, &tag.name), distance(&reference, &tag.to_string()), tag))
        .filter(|(by_name, _, _)| *by_name <= name.chars().count().div_ceil(2).min(5))
        .collect();
    scored.sort();
    scored.iter().take(MAX_NEAREST).map(|(_, _, tag)| tag.to_string()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn index(tags: &[&str]) -> Index {
        tags.iter().map(|t| (Digest::of(t.as_bytes()), vec![t.parse().unwrap()])).collect()
    }

    fn said(reference: &str, tags: &[&str]) -> String {
        digest(reference, |_| Ok(None), || Ok(index(tags))).unwrap_err().to_string()
    }

    #[test]
    fn names_the_nearest_and_not_the_far() {
        let tags = ["web:1", "web:2", "dns:1", "debian:12"];
        assert_eq!(said("wbe:2", &tags), "there is no image `wbe:2`; did you mean web:2 or web:1?");
        assert_eq!(said("web", &tags), "there is no image `web`; did you mean web:1 or web:2?");
        assert_eq!(said("debain:12", &tags), "there is no image `debain:12`; did you mean debian:12?");
        assert!(said("quite-another:7", &tags).ends_with("`pristine image list` shows what there is"));
    }

    #[test]
    fn takes_a_prefix_that_fits_one() {
        let all = index(&["web:1", "web:2"]);
        let (first, second) = (*all.keys().next().unwrap(), *all.keys().nth(1).unwrap());
        let find = |r: &str| digest(r, |_| Ok(None), || Ok(all.clone()));
        assert_eq!(find(&first.to_string()[..8]).unwrap(), first);
        assert_eq!(find(&second.to_string()).unwrap(), second);
        assert!(find(&first.to_string()[..7]).is_err(), "7 digits are too few");
        let mut twin = first;
        twin.0[31] ^= 1;
        let twins = Index::from([(first, vec![]), (twin, vec![])]);
        let err = digest(&first.to_string()[..8], |_| Ok(None), || Ok(twins)).unwrap_err();
        assert!(matches!(&err, ResolveError::Ambiguous { candidates, .. } if candidates.len() == 2));
    }
}
