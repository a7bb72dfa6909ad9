//! Where an imported file's bytes are: a file of its own, or a part of another (a kernel in an ISO), so
//! that nothing is unpacked first.

use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

/// A file to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    path: PathBuf,
    within: Option<Within>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Within {
    name: String,
    parts: Vec<Range<u64>>,
}

impl Input {
    /// The file `name` that lies in `path` as these parts, in this order.
    pub fn part_of(path: &Path, name: &str, parts: Vec<Range<u64>>) -> Input {
        Input { path: path.to_owned(), within: Some(Within { name: name.to_owned(), parts }) }
    }

    /// How messages name it: `debian.iso:/live/vmlinuz` where it lies in another file.
    pub fn shown(&self) -> PathBuf {
        match &self.within {
            None => self.path.clone(),
            Some(within) => {
                let mut shown = self.path.clone().into_os_string();
                shown.push(format!(":/{}", within.name));
                shown.into()
            }
        }
    }

    /// Opens it. The length is that of now.
    pub fn open(&self) -> io::Result<Opened> {
        let not_a_file = || io::Error::from(io::ErrorKind::InvalidInput);
        // Before it is opened: opening a pipe waits for whoever writes to it.
        if !std::fs::metadata(&self.path)?.is_file() {
            return Err(not_a_file());
        }
        let file = File::open(&self.path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(not_a_file());
        }
        let whole = 0..meta.len();
        let parts = self.within.as_ref().map_or_else(|| Vec::from([whole]), |within| within.parts.clone());
        Ok(Opened { file, left: parts.clone(), parts })
    }
}

impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Input {
        Input { path, within: None }
    }
}

impl From<&Path> for Input {
    fn from(path: &Path) -> Input {
        Input { path: path.to_owned(), within: None }
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
