//! Whether somebody whom the site trusts vouches for an image, where `require_signature` asks for that.
//!
//! Asked for each packet that names an image: so what was found is remembered for as long as neither the
//! trust document nor the image's signatures changed. Four `stat`s tell; a revocation counts from the
//! next packet on. The end of a key that was reached is written down, so that no clock that is set back revives it.

use crate::{
    model::{Digest, Image, Millis, Trust},
    store::{
        ImageStore,
        durable::Stamp,
        trust::{InForce, TrustFiles},
    },
};
use pristine_signature::utc;
use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Most images whose verdict is remembered; past it the memory starts anew.
const MAX_KNOWN: usize = 1024;

/// The policy and what was found so far.
#[derive(Debug)]
pub(super) struct Vouching {
    required: bool,
    files: TrustFiles,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of the trust document's files, when it was read.
    stamps: Option<[Option<Stamp>; 3]>,
    /// Of the keys, the first that is to come.
    next_end: Option<Millis>,
    found: InForce,
    /// What the log was told of a document that is refused.
    complaint: Option<String>,
    verdicts: HashMap<Digest, Verdict>,
}

#[derive(Clone, Debug)]
struct Verdict {
    signatures: Option<Stamp>,
    /// When the key ends that vouches.
    until: Option<Millis>,
    found: Result<(), String>,
}

impl Vouching {
    pub fn new(required: bool, state_dir: &Path) -> Vouching {
        Vouching { required, files: TrustFiles::at(state_dir), known: Mutex::default() }
    }

    /// `Ok` where the image may boot; else why not, and what to do, as a sentence.
    pub fn vouch(&self, images: &ImageStore, image: &Image, now: Millis) -> Result<(), String> {
        if !self.required {
            return Ok(());
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut known, now)?;
        let wall = now;
        let now = known.found.at_least(now);
        // Before the signatures are read: what comes later shows.
        let signatures = images.signatures_stamp(image.digest).map_err(|e| e.to_string())?;
        let remembered = known.verdicts.get(&image.digest);
        if let Some(v) =
            remembered.filter(|v| v.signatures == signatures && v.until.is_none_or(|end| now < end))
        {
            return v.found.clone();
        }
        let mut verdict = judge(&known.found.trust, images, image, now, signatures)?;
        if let (Err(why), true) = (&mut verdict.found, wall < now) {
            let path = self.files.clock().display();
            why.push_str(&format!(
                " (this host's clock says {}, and it was {} here before, when a key ended: set the clock; if it was wrong then, \
                 remove {path})",
                at(wall),
                at(now)
            ));
        }
        let found = verdict.found.clone();
        if known.verdicts.len() >= MAX_KNOWN {
            known.verdicts.clear();
        }
        if signatures.is_none_or(|s| s.is_settled()) {
            known.verdicts.insert(image.digest, verdict);
        } else {
            known.verdicts.remove(&image.digest);
        }
        found
    }

    /// Writes down which keys ended by now, also where nothing boots.
    pub fn keep_time(&self, now: Millis) {
        if self.required {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            // Told to each boot that is refused for it.
            let _ = self.refresh(&mut known, now);
        }
    }

    /// Reads the trust document again where it changed, or where a key ended. One that is refused changes nothing.
    fn refresh(&self, known: &mut Known, now: Millis) -> Result<(), String> {
        let stamps = self.files.stamps().map_err(|e| e.to_string())?;
        if known.stamps == Some(stamps) && known.next_end.is_none_or(|end| now < end) {
            return Ok(());
        }
        let found = match self.files.accept(now) {
            Ok(found) => found,
            // Not kept for the next restart (a full disk): in force all the same, and tried again.
            Err(error) => {
                tracing::error!(%error, "the trusted keys could not be read or kept");
                known.stamps = None;
                known.verdicts.clear();
                known.found = self.files.read().map_err(|e| e.to_string())?;
                return Ok(());
            }
        };
        let trust = &found.trust;
        if found.refused != known.complaint {
            match &found.refused {
                Some(why) => tracing::error!(why, "the trust document is refused"),
                None => tracing::info!(version = trust.version, "the trust document is good again"),
            }
        }
        if *trust != known.found.trust {
            tracing::info!(version = trust.version, keys = trust.keys.len(), "trusted keys");
        }
        // Accepting writes: the stamps of what was read may be older, and then it is read once more.
        *known = Known {
            stamps: Some(stamps),
            next_end: trust.next_end(now),
            complaint: found.refused.clone(),
            found,
            verdicts: HashMap::new(),
        };
        Ok(())
    }
}

/// A time for people.
fn at(time: Millis) -> String {
    utc(u64::try_from(time / 1000).unwrap_or(0))
}

fn judge(
    trust: &Trust,
    images: &ImageStore,
    image: &Image,
    now: Millis,
    signatures: Option<Stamp>,
) -> Result<Verdict, String> {
    let manifest = images.manifest_bytes(image.digest).map_err(|e| e.to_string())?.unwrap_or_default();
    let files = images.signatures(image.digest).map_err(|e| e.to_string())?;
    Ok(match trust.judge(image, &manifest, &files, now) {
        Ok(key) => Verdict { signatures, until: key.until, found: Ok(()) },
        // No time ends a refusal.
        Err(why) => Verdict { signatures, until: None, found: Err(why) },
    })
}
