//! Where an imported file's bytes are: a file of its own, a part of another (a kernel in an ISO), so
//! that nothing is unpacked first, or a temporary one without a name that was made for it.

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// How messages name it.
    shown: PathBuf,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Whole(PathBuf),
    Within { path: PathBuf, parts: Vec<Range<u64>> },
    Open(Arc<File>),
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Whole(a), Place::Whole(b)) => a == b,
            (Place::Within { path: a, parts: c }, Place::Within { path: b, parts: d }) => (a, c) == (b, d),
            (Place::Open(a), Place::Open(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Place {}

impl Input {
    /// The file `name` that lies in `path` as these parts, in this order.
    pub fn part_of(path: &Path, name: &str, parts: Vec<Range<u64>>) -> Input {
        let mut shown = path.to_owned().into_os_string();
        shown.push(format!(":/{name}"));
        Input { shown: shown.into(), place: Place::Within { path: path.to_owned(), parts } }
    }

    /// A temporary file, which messages call `name`.
    pub fn temporary(file: File, name: &str) -> Input {
        Input { shown: name.into(), place: Place::Open(Arc::new(file)) }
    }

    /// How messages name it: `debian.iso:/live/vmlinuz` where it lies in another file.
    pub fn shown(&self) -> PathBuf {
        self.shown.clone()
    }

    /// Opens it. The length is that of now.
    pub fn open(&self) -> io::Result<Opened> {
        let not_a_file = || io::Error::from(io::ErrorKind::InvalidInput);
        let file = match &self.place {
            Place::Whole(path) | Place::Within { path, .. } => {
                // Before it is opened: opening a pipe waits for whoever writes to it.
                if !std::fs::metadata(path)?.is_file() {
                    return Err(not_a_file());
                }
                File::open(path)?
            }
            Place::Open(file) => file.try_clone()?,
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(not_a_file());
        }
        let whole = 0..meta.len();
        let parts = match &self.place {
            Place::Within { parts, .. } => parts.clone(),
            _ => Vec::from([whole]),
        };
        Ok(Opened { file, left: parts.clone(), parts })
    }
}

impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Input {
        Input { shown: path.clone(), place: Place::Whole(path) }
    }
}

impl From<&Path> for Input {
    fn from(path: &Path) -> Input {
        path.to_owned().into()
    }
}

/// An open [`Input`], read from its beginning.
#[derive(Debug)]
pub struct Opened {
    file: File,
    parts: Vec<Range<u64>>,
    left: Vec<Range<u64>>,
}

impl Opened {
    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.end.saturating_sub(part.start)).sum()
    }

    /// Back to the beginning.
    pub fn rewind(&mut self) {
        self.left.clone_from(&self.parts);
    }

    /// The file that it is, or lies in.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Read for Opened {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.left.first_mut() {
            let room =
                usize::try_from(part.end.saturating_sub(part.start)).unwrap_or(usize::MAX).min(buf.len());
            if room == 0 && !buf.is_empty() {
                self.left.remove(0);
                continue;
            }
            self.file.seek(SeekFrom::Start(part.start))?;
            let read = self.file.read(buf.get_mut(..room).unwrap_or_default())?;
            part.start += read as u64;
            return Ok(read);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #![allow(clippy::single_range_in_vec_init, reason = "a file in one part is meant")]
    use super::*;
    use crate::store::testing::TempDir;

    fn text(input: &Input) -> String {
        let mut opened = input.open().unwrap();
        let mut out = String::new();
        opened.read_to_string(&mut out).unwrap();
        opened.rewind();
        let mut again = String::new();
        opened.read_to_string(&mut again).unwrap();
        assert_eq!((&out, out.len() as u64), (&again, opened.size()));
        out
    }

    #[test]
    fn a_file_and_parts_of_one_are_read_alike() {
        let dir = TempDir::new();
        let path = dir.path().join("x.iso");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(text(&Input::from(path.as_path())), "0123456789");
        let part = Input::part_of(&path, "live/vmlinuz", vec![8..10, 0..0, 2..5]);
        assert_eq!(text(&part), "89234");
        assert!(part.shown().to_string_lossy().ends_with("x.iso:/live/vmlinuz"));
        assert_eq!(text(&Input::part_of(&path, "past", vec![8..8])), "");
        assert!(Input::from(dir.path()).open().is_err(), "a folder is no file");
    }
}
