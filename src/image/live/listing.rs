//! Folders and ISOs, looked at alike.

use super::LiveError;
use crate::image::{
    input::Input,
    iso::{Iso, IsoError, Kind},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Most files that one pattern finds, and most folders that are looked at for it.
const MOST: usize = 256;

/// Something with files in folders.
pub trait Listing {
    /// Its name for messages.
    fn shown(&self) -> String;

    /// The volume's name, where it is an ISO.
    fn volume(&self) -> Option<&str> {
        None
    }

    /// The whole of it as one file, where it is one.
    fn itself(&self) -> Option<Input> {
        None
    }

    /// Names in the folder at `path`, each with whether it is a folder itself. Empty where there is no such
    /// folder.
    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, LiveError>;

    /// The file at `path`.
    fn input(&self, path: &str) -> Result<Input, LiveError>;

    /// The paths of all files that fit `pattern`, sorted; at most 256.
    fn find(&self, pattern: &str) -> Result<Vec<String>, LiveError> {
        let mut folders = vec![String::new()];
        let mut parts = pattern.split('/').peekable();
        while let Some(part) = parts.next() {
            let wants_folder = parts.peek().is_some();
            let mut next = Vec::new();
            for folder in folders.iter().take(MOST) {
                let fits =
                    |(name, is_folder): &(String, bool)| *is_folder == wants_folder && matches(part, name);
                let names = self.list(folder)?.into_iter().filter(fits);
                next.extend(names.map(|(name, _)| match folder.as_str() {
                    "" => name,
                    folder => format!("{folder}/{name}"),
                }));
            }
            folders = next;
        }
        // Signatures and digests lie beside what they are of.
        folders.retain(|path| ![".sig", ".asc", ".sha256", ".DIGESTS"].iter().any(|end| path.ends_with(end)));
        folders.sort();
        folders.truncate(MOST);
        Ok(folders)
    }
}

/// Does `name` fit `pattern`? `*` stands for any letters, `?` for one; large and small are alike.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when the latest star must take one more.
    let mut star = None;
    while let Some(c) = name.get(n) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(wanted) if *wanted == '?' || wanted.eq_ignore_ascii_case(c) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}

/// A folder on disk.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`.
    pub fn open(path: &Path) -> Result<Folder, LiveError> {
        let failed = |source| LiveError::Folder { path: path.to_owned(), source };
        match fs::metadata(path).map_err(failed)?.is_dir() {
            true => Ok(Folder(path.to_owned())),
            false => Err(failed(io::ErrorKind::NotADirectory.into())),
        }
    }
}

impl Listing for Folder {
    fn shown(&self) -> String {
        self.0.display().to_string()
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, LiveError> {
        let folder = self.0.join(path);
        let failed = |source| LiveError::Folder { path: folder.clone(), source };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut out = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // Links are followed; one that leads nowhere is nothing.
            let Ok(meta) = fs::metadata(entry.path()) else { continue };
            if let Ok(name) = entry.file_name().into_string() {
                out.push((name, meta.is_dir()));
            }
        }
        Ok(out)
    }

    fn input(&self, path: &str) -> Result<Input, LiveError> {
        Ok(self.0.join(path).into())
    }
}

/// An ISO.
#[derive(Debug)]
pub struct IsoFile {
    path: PathBuf,
    iso: Iso,
}

impl IsoFile {
    /// Opens the ISO at `path`.
    pub fn open(path: &Path) -> Result<IsoFile, LiveError> {
        let iso = Iso::open(path).map_err(|source| LiveError::Iso { path: path.to_owned(), source })?;
        Ok(IsoFile { path: path.to_owned(), iso })
    }

    fn failed(&self, source: IsoError) -> LiveError {
        LiveError::Iso { path: self.path.clone(), source }
    }
}

impl Listing for IsoFile {
    fn shown(&self) -> String {
        match self.iso.volume() {
            "" => self.path.display().to_string(),
            volume => format!("{} ({volume})", self.path.display()),
        }
    }

    fn volume(&self) -> Option<&str> {
        Some(self.iso.volume())
    }

    fn itself(&self) -> Option<Input> {
        Some(self.path.as_path().into())
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, LiveError> {
        let nodes = self.iso.list(path).map_err(|e| self.failed(e))?.unwrap_or_default();
        let seen = nodes.into_iter().filter(|node| node.kind != Kind::Other);
        Ok(seen.map(|node| (node.name, node.kind == Kind::Folder)).collect())
    }

    fn input(&self, path: &str) -> Result<Input, LiveError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let nodes = self.iso.list(folder).map_err(|e| self.failed(e))?.unwrap_or_default();
        let node = nodes.into_iter().find(|node| node.kind == Kind::File && node.name == name);
        let gone = || self.failed(IsoError::Read(io::ErrorKind::NotFound.into()));
        let parts = self.iso.parts(&node.ok_or_else(gone)?, path).map_err(|e| self.failed(e))?;
        Ok(Input::part_of(&self.path, path, parts))
    }
}
