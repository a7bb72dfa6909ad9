//! Boot programs, held in memory: a few megabytes that many machines ask for at the same moment.

use crate::model::Digest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

/// File beside the boot programs that records where each came from and what it must hash to.
pub const DIGESTS_FILE: &str = "digests.json";
/// Most files that a folder may have.
pub const MAX_FILES: usize = 64;
/// Longest boot program, in bytes.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// Most bytes of all boot programs together.
pub const MAX_TOTAL_BYTES: u64 = 64 << 20;
/// Folders within folders, as in `grub/x86_64-efi/…`.
const MAX_DEPTH: usize = 4;

/// Why the boot programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum NbpsError {
    /// Reading failed.
    #[error("can't read boot program {path}: {source}")]
    Read {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the bytes that were recorded.
    #[error(
        "boot program {path} has SHA-256 {found}, but {DIGESTS_FILE} records {recorded}: it was changed; run `pristine nbp fetch --force`, or take its entry out of {DIGESTS_FILE} if you put your own there"
    )]
    Mismatch {
        /// Which file.
        path: PathBuf,
        /// What it hashes to.
        found: Digest,
        /// What it should.
        recorded: Digest,
    },
    /// The record itself can't be understood.
    #[error("{path} can't be understood ({source}): run `pristine nbp fetch --force`, or remove it")]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Too much for memory.
    #[error(
        "{path} is too much: boot programs are at most {MAX_FILES} files, 16 MiB each, 64 MiB in all; move what is no boot program elsewhere"
    )]
    TooMuch {
        /// The file at which a bound was passed.
        path: PathBuf,
    },
}

/// One line of [`DIGESTS_FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// File name, relative to the folder.
    pub name: String,
    /// What it hashes to.
    pub sha256: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Package that it came from.
    pub package: String,
    /// Version of that package.
    pub version: String,
}

/// [`DIGESTS_FILE`] as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Boot programs with a known origin, by name.
    pub files: Vec<Recorded>,
}

impl Record {
    /// The record in `dir`; empty where there is none.
    pub fn read(dir: &Path) -> Result<Record, NbpsError> {
        let path = dir.join(DIGESTS_FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| NbpsError::Record { path, source }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(source) => Err(NbpsError::Read { path, source }),
        }
    }
}

/// One boot program.
#[derive(Clone, Debug)]
pub struct Nbp {
    /// Name by which firmware asks, `/` between folders, none in front.
    pub name: String,
    /// The program.
    pub bytes: Bytes,
    /// SHA-256 of it.
    pub digest: Digest,
    /// Where it came from, if recorded.
    pub origin: Option<Recorded>,
}

/// The boot programs of a folder. Cheap to clone; clones share one table.
#[derive(Clone, Debug)]
pub struct Nbps {
    dir: PathBuf,
    table: Arc<RwLock<Arc<BTreeMap<String, Nbp>>>>,
}

impl Nbps {
    /// Loads every file of `dir`, with its folders; a folder that is not there is an empty one.
    /// Names that begin with a dot are passed over.
    ///
    /// # Errors
    /// A file that can't be read, that is not what [`DIGESTS_FILE`] records, or a bound passed.
    pub fn load(dir: &Path) -> Result<Nbps, NbpsError> {
        let table = read_table(dir)?;
        Ok(Nbps { dir: dir.to_owned(), table: Arc::new(RwLock::new(Arc::new(table))) })
    }

    /// Loads the folder again, for all clones. On error the old table stays.
    pub fn reload(&self) -> Result<(), NbpsError> {
        let table = Arc::new(read_table(&self.dir)?);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
    }

    /// The program of that exact name.
    pub fn get(&self, name: &str) -> Option<Bytes> {
        self.table().get(name).map(|nbp| nbp.bytes.clone())
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Nbp> {
        self.table().values().cloned().collect()
    }

    fn table(&self) -> Arc<BTreeMap<String, Nbp>> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read_table(dir: &Path) -> Result<BTreeMap<String, Nbp>, NbpsError> {
    let record = Record::read(dir)?;
    let mut table = BTreeMap::new();
    let mut total = 0;
    read_folder(dir, "", 0, &mut total, &mut table)?;
    for recorded in record.files {
        if let Some(nbp) = table.get_mut(&recorded.name) {
            if nbp.digest != recorded.sha256 {
                return Err(NbpsError::Mismatch {
                    path: dir.join(&recorded.name),
                    found: nbp.digest,
                    recorded: recorded.sha256,
                });
            }
            nbp.origin = Some(recorded);
        }
    }
    Ok(table)
}

fn read_folder(
    dir: &Path,
    prefix: &str,
    depth: usize,
    total: &mut u64,
    table: &mut BTreeMap<String, Nbp>,
) -> Result<(), NbpsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NbpsError::Read { path, source }
    };
    let entries = match fs::read_dir(dir) {
        Err(e) if depth == 0 && e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed(dir))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed(dir))?;
        let path = entry.path();
        let Some(file_name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if file_name.starts_with('.') || (depth == 0 && file_name == DIGESTS_FILE) {
            continue;
        }
        let name = format!("{prefix}{file_name}");
        // A link to a file is an operator's choice; a link to a folder could be a loop.
        if entry.file_type().map_err(failed(&path))?.is_dir() {
            if depth < MAX_DEPTH {
                read_folder(&path, &format!("{name}/"), depth + 1, total, table)?;
            }
            continue;
        }
        if !fs::metadata(&path).map_err(failed(&path))?.is_file() {
            continue;
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(&path).map_err(failed(&path))?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed(&path))?;
        let len = bytes.len() as u64;
        *total += len;
        if len > MAX_FILE_BYTES || *total > MAX_TOTAL_BYTES || table.len() >= MAX_FILES {
            return Err(NbpsError::TooMuch { path });
        }
        let digest = Digest::of(&bytes);
        table.insert(name.clone(), Nbp { name, bytes: bytes.into(), digest, origin: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;

    /// A folder that is removed with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let mut raw = [0; 8];
            getrandom::fill(&mut raw).unwrap();
            let path = std::env::temp_dir().join(format!("nbps-{:016x}", u64::from_ne_bytes(raw)));
            fs::create_dir(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn record(dir: &Path, name: &str, bytes: &[u8]) {
        let file = Recorded {
            name: name.into(),
            sha256: Digest::of(bytes),
            size: bytes.len() as u64,
            package: "ipxe".into(),
            version: "1".into(),
        };
        let text = serde_json::to_vec(&Record { files: vec![file] }).unwrap();
        fs::write(dir.join(DIGESTS_FILE), text).unwrap();
    }

    #[test]
    fn own_files_and_recorded_ones_are_served_and_folders_keep_their_names() {
        let dir = Folder::new();
        fs::write(dir.0.join("snponly.efi"), b"efi").unwrap();
        fs::create_dir(dir.0.join("grub")).unwrap();
        fs::write(dir.0.join("grub/grub.cfg"), b"cfg").unwrap();
        fs::write(dir.0.join(".hidden"), b"x").unwrap();
        record(&dir.0, "snponly.efi", b"efi");
        let nbps = Nbps::load(&dir.0).unwrap();
        let names: Vec<_> = nbps.list().into_iter().map(|n| (n.name, n.origin.is_some())).collect();
        assert_eq!(names, [("grub/grub.cfg".to_owned(), false), ("snponly.efi".to_owned(), true)]);
        assert_eq!(nbps.get("grub/grub.cfg").unwrap(), "cfg");
        assert!(nbps.get("../snponly.efi").is_none() && nbps.get(DIGESTS_FILE).is_none());
    }

    #[test]
    fn a_changed_program_is_named_and_a_failed_reload_keeps_what_was_there() {
        let dir = Folder::new();
        fs::write(dir.0.join("ipxe.efi"), b"good").unwrap();
        record(&dir.0, "ipxe.efi", b"good");
        let nbps = Nbps::load(&dir.0).unwrap();
        fs::write(dir.0.join("ipxe.efi"), b"evil").unwrap();
        let error = nbps.reload().unwrap_err().to_string();
        assert!(error.contains("ipxe.efi") && error.contains("nbp fetch"), "{error}");
        assert_eq!(nbps.get("ipxe.efi").unwrap(), "good");
    }

    #[test]
    fn a_folder_that_is_no_boot_folder_is_refused_before_memory_is_full() {
        let dir = Folder::new();
        let file = fs::File::create(dir.0.join("disk.img")).unwrap();
        file.set_len(MAX_FILE_BYTES + 1).unwrap();
        let error = Nbps::load(&dir.0).unwrap_err().to_string();
        assert!(error.contains("disk.img") && error.contains("16 MiB"), "{error}");
        assert!(Nbps::load(&dir.0.join("absent")).unwrap().list().is_empty());
    }
}
