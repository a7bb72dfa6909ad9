//! Helpers: archives made byte by byte, and a tree as text.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod bad;
mod folder;
mod gnu_tar;
mod layers;
mod oci;
pub(in crate::image) mod props;

use super::*;
use crate::{image::progress::Silent, store::testing::TempDir};
use std::{fs, io::Read as _, io::Write as _, path::PathBuf};

/// An archive that is made entry by entry; nothing is checked.
#[derive(Clone, Default)]
pub(super) struct Archive(Vec<u8>);

impl Archive {
    pub fn new() -> Archive {
        Archive::default()
    }

    pub fn raw(mut self, kind: u8, name: &str, link: &str, data: &[u8]) -> Archive {
        self.push(kind, name.as_bytes(), link.as_bytes(), data, |_| ());
        self
    }

    pub fn push(
        &mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        data: &[u8],
        change: impl Fn(&mut tar::Header),
    ) {
        let mut h = tar::Header::new_gnu();
        h.as_old_mut().name.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        h.as_old_mut().linkname.iter_mut().zip(link).for_each(|(to, from)| *to = *from);
        h.set_entry_type(tar::EntryType::new(kind));
        h.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        h.set_uid(0);
        h.set_gid(0);
        h.set_mtime(1000);
        h.set_size(data.len() as u64);
        if matches!(kind, b'3' | b'4') {
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        }
        change(&mut h);
        h.set_cksum();
        self.0.extend_from_slice(h.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub fn file(self, name: &str, data: &str) -> Archive {
        self.raw(b'0', name, "", data.as_bytes())
    }

    pub fn dir(self, name: &str) -> Archive {
        self.raw(b'5', name, "", b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Archive {
        self.raw(b'2', name, target, b"")
    }

    pub fn hardlink(self, name: &str, target: &str) -> Archive {
        self.raw(b'1', name, target, b"")
    }

    pub fn pax(self, records: &[(&str, &str)]) -> Archive {
        let mut data = Vec::new();
        records.iter().for_each(|(k, v)| pax::write_record(&mut data, k.as_bytes(), v.as_bytes()));
        self.raw(b'x', "PaxHeaders/x", "", &data)
    }

    /// Without the mark of the end.
    pub fn cut(self) -> Vec<u8> {
        self.0
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Opens bytes as a file.
pub(super) fn open_bytes(bytes: &[u8], options: &Options) -> Result<Tree, SourceError> {
    let dir = TempDir::new();
    let path = dir.path().join("in.tar");
    fs::write(&path, bytes).unwrap();
    open(&path, options, &Silent)
}

pub(super) fn opened(bytes: &[u8]) -> Tree {
    open_bytes(bytes, &Options::default()).unwrap()
}

/// Why bytes are refused, without the name of the temporary file.
pub(super) fn refusal(bytes: &[u8]) -> String {
    refusal_with(bytes, &Options::default())
}

pub(super) fn refusal_with(bytes: &[u8], options: &Options) -> String {
    let text = open_bytes(bytes, options).unwrap_err().to_string();
    text.rsplit_once("in.tar").map_or(text.clone(), |(_, rest)| rest.trim_start_matches(": ").to_owned())
}

/// What is in a tree, a line each; contents where they are short.
pub(in crate::image) fn listing(tree: &Tree) -> Vec<String> {
    tree.walk()
        .map(|e| {
            let (path, m) = (show(e.path), &e.node.meta);
            let what = match (&e.node.kind, e.link_to) {
                (_, Some(first)) => format!("= {}", show(first)),
                (Kind::File { size, content }, _) => {
                    let mut bytes = Vec::new();
                    content.open(*size).unwrap().read_to_end(&mut bytes).unwrap();
                    assert_eq!(bytes.len() as u64, *size);
                    format!("file {}", String::from_utf8_lossy(&bytes).escape_debug())
                }
                (Kind::Dir, _) => "dir".into(),
                (Kind::Symlink(target), _) => format!("-> {}", show(target)),
                (Kind::Char(a, b), _) => format!("char {a}:{b}"),
                (Kind::Block(a, b), _) => format!("block {a}:{b}"),
                (Kind::Fifo, _) => "fifo".into(),
            };
            let xattrs: String = m.xattrs.iter().map(|(k, v)| format!(" {}={v:02x?}", show(k))).collect();
            format!("{path} {:o} {}:{} {} {what}{xattrs}", m.mode, m.uid, m.gid, m.mtime)
        })
        .collect()
}

/// Gives what has a name another one.
pub(in crate::image) fn link(tree: &mut Tree, new: &[u8], old: &[u8]) {
    let node = tree.names.get(old).unwrap().clone();
    tree.put(new.to_vec(), node).unwrap();
}

/// Names and kinds alone.
pub(super) fn names(tree: &Tree) -> Vec<String> {
    let brief = |line: String| {
        let mut words = line.splitn(5, ' ');
        let path = words.next().unwrap().to_owned();
        format!("{path} {}", words.nth(3).unwrap())
    };
    listing(tree).into_iter().skip(1).map(brief).collect()
}

pub(super) fn written(tree: &Tree, clamp: Option<i64>) -> Vec<u8> {
    let mut out = Vec::new();
    tree.write_tar(&mut out, clamp).unwrap();
    out
}

use super::path::show;

/// A folder with a file for each of these.
pub(super) fn folder_of(files: &[(&str, &[u8])]) -> (TempDir, PathBuf) {
    let dir = TempDir::new();
    let root = dir.path().join("layout");
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap().write_all(bytes).unwrap();
    }
    (dir, root)
}
