//! The trust document on disk: `<state>/trust.json`, which operators change (or their configuration
//! management lays there), and `<state>/trust.accepted.json`, the last one that was in force. A document that
//! can't follow that one (an old copy, a forgotten revocation) is never believed: the last good one
//! stays in force, over restarts too.
//!
//! `<state>/trust.clock` is the latest end of a key that was reached here: a clock that is set back revives no key.

use super::{
    blobs::{StoreError, io_at},
    durable::{self, Stamp},
};
use crate::model::{Millis, Trust, TrustRefusal};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Longest document, in bytes.
const MAX_TRUST: u64 = 256 << 10;

/// Why the trust document can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file system said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Neither document can be believed: then nobody vouches for anything.
    #[error("no trusted keys are known: {0}")]
    Unknown(String),
    /// The document was replaced by one that is refused: changing would mix the two.
    #[error(
        "{0}. Nothing was changed. To go on from the keys in force: cp {accepted} {file}",
        accepted = .1.accepted.display(),
        file = .1.file.display()
    )]
    Refused(String, TrustFiles),
    /// The change makes no sense.
    #[error(transparent)]
    Change(#[from] TrustRefusal),
}

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// The document.
    pub trust: Trust,
    /// Why `trust.json` is not it, as a sentence; `None` where it is.
    pub refused: Option<String>,
    /// It is newer than what was in force before.
    pub newer: bool,
    /// The latest end of a key that was reached here, whatever the clock says since; 0 where none was.
    pub reached: Millis,
}

impl InForce {
    /// What to judge keys by: `now`, or the time that it was here at least, where the clock was set back.
    pub fn at_least(&self, now: Millis) -> Millis {
        now.max(self.reached)
    }
}

/// What `trust.clock` says. A part of it can't be read as a whole one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reached {
    schema: u32,
    reached: Millis,
}

/// The three files. Any number of processes may read and change them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustFiles {
    file: PathBuf,
    accepted: PathBuf,
    clock: PathBuf,
    lock: PathBuf,
}

impl TrustFiles {
    /// Those of the state folder `dir`; makes nothing.
    pub fn at(dir: &Path) -> TrustFiles {
        let at = |name| dir.join(name);
        TrustFiles {
            file: at("trust.json"),
            accepted: at("trust.accepted.json"),
            clock: at("trust.clock"),
            lock: at("trust.lock"),
        }
    }

    /// Where operators find the document.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Where the latest end of a key that was reached is kept.
    pub fn clock(&self) -> &Path {
        &self.clock
    }

    /// Changes when one of the files does.
    pub fn stamps(&self) -> Result<[Option<Stamp>; 3], StoreError> {
        let stamp = |path: &Path| Stamp::of(path).map_err(io_at("look at", path));
        Ok([stamp(&self.file)?, stamp(&self.accepted)?, stamp(&self.clock)?])
    }

    /// What is in force now. Writes nothing.
    pub fn read(&self) -> Result<InForce, TrustError> {
        Ok(InForce { reached: self.reached()?, ..self.documents()? })
    }

    /// The end that was reached. A file that can't be read counts for every end: nobody knows which.
    fn reached(&self) -> Result<Millis, TrustError> {
        let Some(bytes) = bytes(&self.clock)? else { return Ok(0) };
        match serde_json::from_slice(&bytes) {
            Ok(Reached { schema: 1, reached }) => Ok(reached),
            _ => Err(TrustError::Unknown(format!(
                "{}, the latest end of a key that was reached here, can't be read: see that this host's clock is right and \
                 that no key in `trust.json` should have ended, then remove this file",
                self.clock.display()
            ))),
        }
    }

    /// Of the two documents.
    fn documents(&self) -> Result<InForce, TrustError> {
        let accepted = read(&self.accepted)?.transpose().map_err(|why| {
            let path = self.accepted.display();
            TrustError::Unknown(format!(
                "{path}, the last document in force, {why}: look at trust.json, then remove this one"
            ))
        })?;
        let path = self.file.display();
        let (why, last) = match (read(&self.file)?, accepted) {
            (None, None) => return Ok(InForce::default()),
            (Some(Ok(trust)), None) => return Ok(InForce { trust, newer: true, ..InForce::default() }),
            (Some(Err(why)), None) => return Err(TrustError::Unknown(format!("{path} {why}"))),
            (Some(Ok(trust)), Some(last)) => match trust.follows(&last) {
                Ok(()) => return Ok(InForce { newer: trust != last, trust, ..InForce::default() }),
                Err(stale) => (format!("is refused: {stale}"), last),
            },
            (Some(Err(why)), Some(last)) => (why, last),
            (None, Some(last)) => ("is gone".to_owned(), last),
        };
        let version = last.version;
        let refused = Some(format!("{path} {why}; version {version} stays in force"));
        Ok(InForce { trust: last, refused, ..InForce::default() })
    }

    /// What is in force `now`, kept for ever after as the least that may be in force, with the ends of keys that
    /// were reached.
    pub fn accept(&self, now: Millis) -> Result<InForce, TrustError> {
        let reached = |found: &InForce| found.trust.last_end(now).filter(|end| *end > found.reached);
        let found = self.read()?;
        if !found.newer && reached(&found).is_none() {
            return Ok(found);
        }
        let _lock = self.lock()?;
        let mut found = self.read()?;
        if let Some(end) = reached(&found) {
            let mut text =
                serde_json::to_vec(&Reached { schema: 1, reached: end }).map_err(StoreError::from)?;
            text.push(b'\n');
            durable::write_atomic(&self.clock, &text, 0o644).map_err(io_at("write", &self.clock))?;
            found.reached = end;
        }
        if found.newer {
            self.write(&self.accepted, &found.trust)?;
        }
        Ok(found)
    }

    /// Changes the document: `change`, a higher version, on disk before it returns.
    pub fn change(
        &self,
        change: impl FnOnce(&mut Trust) -> Result<(), TrustRefusal>,
    ) -> Result<Trust, TrustError> {
        let _lock = self.lock()?;
        let InForce { mut trust, refused, .. } = self.read()?;
        if let Some(why) = refused {
            return Err(TrustError::Refused(why, self.clone()));
        }
        let before = trust.clone();
        change(&mut trust)?;
        if trust == before {
            return Ok(trust);
        }
        trust.version += 1;
        // In this order: killed in between, the new one follows the last one accepted.
        self.write(&self.file, &trust)?;
        self.write(&self.accepted, &trust)?;
        Ok(trust)
    }

    fn write(&self, path: &Path, trust: &Trust) -> Result<(), StoreError> {
        let mut text = serde_json::to_vec_pretty(trust)?;
        text.push(b'\n');
        // Public keys only: whoever wants to know them may.
        durable::write_atomic(path, &text, 0o644).map_err(io_at("write", path))
    }

    fn lock(&self) -> Result<File, StoreError> {
        let path = &self.lock;
        if let Some(dir) = path.parent() {
            durable::create_dir_all(dir).map_err(io_at("make folder", dir))?;
        }
        let open = File::options().create(true).truncate(false).write(true).open(path);
        let file = open.map_err(io_at("open", path))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(io_at("lock", path)(e.into())),
            }
        }
    }
}

/// What is in a file, up to a byte more than is allowed; `None` where there is none.
fn bytes(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_TRUST + 1).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_at("read", path)(e)),
    }
}

/// A document, or what is wrong with it; `None` where there is no file.
fn read(path: &Path) -> Result<Option<Result<Trust, String>>, StoreError> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    if bytes.len() as u64 > MAX_TRUST {
        return Ok(Some(Err(format!("has more than {} KiB", MAX_TRUST >> 10))));
    }
    Ok(Some(match serde_json::from_slice::<Trust>(&bytes) {
        Ok(trust) if trust.schema == 1 => trust.check().map(|()| trust),
        Ok(trust) => Err(format!("has schema {}, which this program does not know", trust.schema)),
        Err(e) => Err(format!("can't be read: {e}")),
    }))
}
