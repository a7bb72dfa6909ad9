//! Which keys vouch for images at this site, and whether an image's signatures are enough.

use super::{Image, Millis};
use pristine_signature::{KeyId, PublicKey, Signature, SignatureError, utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;

/// Most keys of one site, revoked ones counted.
pub const MAX_KEYS: usize = 256;

/// The keys of a site, as one document with a version. Every change makes the version higher, so that an
/// old copy can be told from the newest one; what was revoked stays in it for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// Format of this document; 1.
    pub schema: u32,
    /// 0 where no key was ever trusted.
    pub version: u64,
    /// In the order in which they were trusted.
    pub keys: Vec<TrustedKey>,
}

/// A key that may vouch for images, or that may not any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    /// The minisign public key, as its one line of base64.
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    pub key: PublicKey,
    /// Operators' name for it.
    pub name: String,
    /// When it was trusted.
    pub added: Millis,
    /// It vouches for nothing from then on; `None` for no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// It vouches for nothing any more, whenever it signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
}

/// The end of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// When.
    pub at: Millis,
    /// Why, in operators' words.
    pub reason: String,
}

fn write_key<S: Serializer>(key: &PublicKey, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(key)
}

fn read_key<'de, D: Deserializer<'de>>(d: D) -> Result<PublicKey, D::Error> {
    PublicKey::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

/// Why one trust document can't follow another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// An old copy.
    #[error("it has version {0}, and version {1} was in force already: it is an old copy")]
    Older(u64, u64),
    /// Two documents with one version.
    #[error("it has version {0} like the one in force, but says something else")]
    Forked(u64),
    /// A revocation is missing.
    #[error("key {0} is revoked, and it does not say so")]
    Forgets(KeyId),
}

/// Why a trust document can't be changed so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustRefusal {
    /// No such key.
    #[error("no key {0} is trusted here; `pristine key list` shows them")]
    NoKey(KeyId),
    /// Revoked for ever.
    #[error("key {0} was revoked ({1}) and stays so: make a new key with `pristine key generate`")]
    Revoked(KeyId, String),
    /// Two keys with one id.
    #[error(
        "key {0} is trusted already, as another key with the same id: somebody chose that id on purpose, trust neither before you know who"
    )]
    SameId(KeyId),
    /// A name or reason that can't be shown.
    #[error("`{0}` can't be a {1}: write 1 to 120 printable characters")]
    Word(String, &'static str),
    /// Too many.
    #[error("there are {MAX_KEYS} keys, and no more fit")]
    Full,
}

impl Default for Trust {
    fn default() -> Trust {
        Trust { schema: 1, version: 0, keys: Vec::new() }
    }
}

impl Trust {
    /// What can't be in a document, whoever wrote it.
    pub fn check(&self) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        if self.keys.len() > MAX_KEYS {
            return Err(format!("has more than {MAX_KEYS} keys"));
        }
        match self.keys.iter().find(|k| !ids.insert(k.key.id)) {
            Some(twice) => Err(format!("has key {} twice", twice.key.id)),
            None => Ok(()),
        }
    }

    /// Whether this document may take the place of `last`, which was in force.
    pub fn follows(&self, last: &Trust) -> Result<(), Stale> {
        if self.version < last.version {
            return Err(Stale::Older(self.version, last.version));
        }
        if self.version == last.version && self != last {
            return Err(Stale::Forked(self.version));
        }
        let still: BTreeSet<_> = self.keys.iter().filter(|k| k.revoked.is_some()).map(|k| k.key.id).collect();
        let mut revoked = last.keys.iter().filter(|k| k.revoked.is_some()).map(|k| k.key.id);
        match revoked.find(|id| !still.contains(id)) {
            Some(id) => Err(Stale::Forgets(id)),
            None => Ok(()),
        }
    }

    /// The latest end of a key that was reached by `now`; `None` where none was.
    pub fn last_end(&self, now: Millis) -> Option<Millis> {
        self.keys.iter().filter_map(|k| k.until).filter(|end| *end <= now).max()
    }

    /// The first end of a key that is still to come.
    pub fn next_end(&self, now: Millis) -> Option<Millis> {
        self.keys.iter().filter_map(|k| k.until).filter(|end| *end > now).min()
    }

    /// The entry of a key.
    pub fn get(&self, id: KeyId) -> Option<&TrustedKey> {
        self.keys.iter().find(|k| k.key.id == id)
    }

    /// Trusts a key from now on; one that is trusted already gets the new name and end.
    pub fn trust(&mut self, new: TrustedKey) -> Result<(), TrustRefusal> {
        check_word(&new.name, "key's name")?;
        let (id, full) = (new.key.id, self.keys.len() >= MAX_KEYS);
        match self.keys.iter_mut().find(|k| k.key.id == id) {
            Some(TrustedKey { revoked: Some(r), .. }) => {
                return Err(TrustRefusal::Revoked(id, r.reason.clone()));
            }
            Some(known) if known.key != new.key => return Err(TrustRefusal::SameId(id)),
            Some(known) => (known.name, known.until) = (new.name, new.until),
            None if full => return Err(TrustRefusal::Full),
            None => self.keys.push(new),
        }
        Ok(())
    }

    /// Revokes a key for ever; one that is revoked already stays as it was.
    pub fn revoke(&mut self, id: KeyId, revoked: Revoked) -> Result<(), TrustRefusal> {
        check_word(&revoked.reason, "reason")?;
        let known = self.keys.iter_mut().find(|k| k.key.id == id).ok_or(TrustRefusal::NoKey(id))?;
        known.revoked.get_or_insert(revoked);
        Ok(())
    }

    /// Who vouches for `image`, whose manifest has these bytes; or why nobody does and what to do, as a
    /// sentence. `now` never goes back: see [`crate::store::trust::InForce::at_least`].
    pub fn judge(
        &self,
        image: &Image,
        manifest: &[u8],
        signatures: &[Signature],
        now: Millis,
    ) -> Result<&TrustedKey, String> {
        let (digest, tag) = (image.digest.to_string(), image.manifest.tag.to_string());
        let what = format!("image {tag} ({})", image.digest.short());
        let sign = format!("`pristine image sign {} --key FILE`", image.digest.short());
        let mut against = Vec::new();
        for signature in signatures {
            let id = signature.key_id();
            let Some(known) = self.get(id) else {
                against.push((0, format!("is signed by no trusted key, only by {id}: if you know that key, `pristine key trust` it; else sign with one that is: {sign}")));
                continue;
            };
            let by = format!("key {id} ({})", known.name);
            // Last, since it costs most.
            let wrong = || signature.vouches(&known.key, manifest, &digest, &tag).err();
            if let Some(revoked) = &known.revoked {
                let at = seconds(revoked.at);
                against.push((3, format!("is signed only by {by}, which was revoked on {at} ({}): sign it with another key: {sign}", revoked.reason)));
            } else if let Some(until) = known.until.filter(|until| *until <= now) {
                let until = seconds(until);
                against.push((
                    2,
                    format!(
                        "is signed only by {by}, which ended on {until}: sign it with another key: {sign}"
                    ),
                ));
            } else if let Some(error) = wrong() {
                let more = match error {
                    SignatureError::Legacy => String::new(),
                    _ => format!(": sign it again: {sign}"),
                };
                against.push((1, format!("has a signature by {by} that is refused, since {error}{more}")));
            } else {
                return Ok(known);
            }
        }
        against.sort();
        let why = against.pop().map(|(_, why)| why);
        Err(format!("{what} {}", why.unwrap_or_else(|| format!("is not signed: {sign}"))))
    }
}

/// A time for people.
fn seconds(at: Millis) -> String {
    utc(u64::try_from(at / 1000).unwrap_or(0))
}

fn check_word(word: &str, what: &'static str) -> Result<(), TrustRefusal> {
    let fits = (1..=120).contains(&word.chars().count()) && !word.chars().any(char::is_control);
    let shown = || word.escape_debug().take(80).collect();
    if fits { Ok(()) } else { Err(TrustRefusal::Word(shown(), what)) }
}
