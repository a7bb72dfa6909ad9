//! Two builds of one thing, compared: where they differ, which files do.

use super::{BuildError, Made, Plan, make};
use crate::{
    image::{
        copy::{self, CopyError, Verity},
        input::Input,
        progress::Progress,
        source::{Entry, FileReader, Kind, Node, Show, Tree},
    },
    model::Digest,
    store::durable,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::PathBuf,
};

/// Differences that are told one by one.
const MOST: usize = 100;

/// Builds again, from scratch and in another folder, and tells what is not as in `first`.
pub fn again(plan: &Plan, first: &Made, progress: &dyn Progress) -> Result<Vec<String>, BuildError> {
    let dir = Folder(durable::tmp_name(&plan.options.spool));
    let fail = |source| BuildError::Spool { dir: dir.0.clone(), source };
    fs::create_dir(&dir.0).map_err(fail)?;
    let mut plan = plan.clone();
    plan.options.spool.clone_from(&dir.0);
    let second = make(&plan, progress)?;
    differences(first, &second).map_err(fail)
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A line for each thing that differs.
fn differences(a: &Made, b: &Made) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    let differ = |a: &Input, b: &Input| Ok::<_, io::Error>(digest(a)? != digest(b)?);
    if differ(&a.kernel, &b.kernel)? {
        out.push("the kernel".to_owned());
    }
    if differ(&a.initramfs, &b.initramfs)? {
        out.push("the initramfs".to_owned());
    }
    let trees = compare(&a.tree, &b.tree)?;
    if trees.is_empty() && differ(&a.rootfs, &b.rootfs)? {
        out.push("the squashfs, though all files in it are the same".to_owned());
    }
    out.extend(trees);
    let keys = a.provenance.keys().chain(b.provenance.keys());
    let keys = keys.filter(|key| a.provenance.get(*key) != b.provenance.get(*key));
    // A log counts bytes: what differs in those is told above.
    out.extend(keys.filter(|key| *key != "build_log").map(|key| format!("provenance {key}")));
    out.dedup();
    Ok(out)
}

fn digest(input: &Input) -> io::Result<Digest> {
    let copied = copy::copy(input.open()?, io::sink(), Verity::No, 0, &|_| ());
    copied.map(|copied| copied.blob.digest).map_err(CopyError::into_io)
}

fn compare(a: &Tree, b: &Tree) -> io::Result<Vec<String>> {
    let (mut out, mut more) = (Vec::new(), 0);
    let mut say = |path: &[u8], what: &str| {
        if out.len() < MOST {
            out.push(format!("/{}: {what}", Show(path).to_string().trim_start_matches('/')));
        } else {
            more += 1;
        }
    };
    let mut right: BTreeMap<&[u8], Entry<'_>> = b.walk().map(|entry| (entry.path, entry)).collect();
    for left in a.walk() {
        let Some(right) = right.remove(left.path) else {
            say(left.path, "only in the first build");
            continue;
        };
        let what = difference(left.node, right.node)?;
        if !what.is_empty() {
            say(left.path, &what.join(", "));
        } else if left.link_to != right.link_to {
            say(left.path, "another hard link");
        }
    }
    right.keys().for_each(|path| say(path, "only in the second build"));
    if more > 0 {
        out.push(format!("and {more} more"));
    }
    Ok(out)
}

/// In what two inodes differ.
fn difference(a: &Node, b: &Node) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    let mut pair = |what: &str, differs: bool, a: String, b: String| {
        if differs {
            out.push(format!("{what} {a} and {b}"));
        }
    };
    let (m, n) = (&a.meta, &b.meta);
    pair("mode", m.mode != n.mode, format!("{:o}", m.mode), format!("{:o}", n.mode));
    let owner = |m: &crate::image::source::Meta| format!("{}:{}", m.uid, m.gid);
    pair("owner", (m.uid, m.gid) != (n.uid, n.gid), owner(m), owner(n));
    pair("time", m.mtime != n.mtime, m.mtime.to_string(), n.mtime.to_string());
    if m.xattrs != n.xattrs {
        out.push("extended attributes".into());
    }
    match (&a.kind, &b.kind) {
        (Kind::File { size: s, content: c }, Kind::File { size: t, content: d })
            if s != t || !same(c.open(*s)?, d.open(*t)?)? =>
        {
            out.push(format!("contents ({s} and {t} bytes)"));
        }
        (Kind::Symlink(s), Kind::Symlink(t)) if s != t => {
            out.push(format!("links to {} and {}", Show(s), Show(t)));
        }
        (Kind::Char(s, t), Kind::Char(u, v)) | (Kind::Block(s, t), Kind::Block(u, v)) if (s, t) != (u, v) => {
            out.push(format!("device {s}:{t} and {u}:{v}"));
        }
        (s, t) if s.word() != t.word() => out.push(format!("{} and {}", s.word(), t.word())),
        _ => {}
    }
    Ok(out)
}

fn same(mut a: FileReader, mut b: FileReader) -> io::Result<bool> {
    loop {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        a.by_ref().take(1 << 20).read_to_end(&mut left)?;
        b.by_ref().take(1 << 20).read_to_end(&mut right)?;
        if left != right || left.is_empty() {
            return Ok(left == right);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::image::source::Meta;

    #[test]
    fn what_differs_is_told_by_file() {
        let tree = |files: &[(&str, u32, &str)]| {
            let mut tree = Tree::default();
            for (path, mode, text) in files {
                tree.insert_file(path, Meta::root(*mode), text.as_bytes().to_vec()).unwrap();
            }
            tree
        };
        let a = tree(&[
            ("etc/machine-id", 0o644, "aa"),
            ("etc/same", 0o644, "x"),
            ("gone", 0o644, ""),
            ("mode", 0o600, ""),
        ]);
        let b = tree(&[
            ("etc/machine-id", 0o644, "bb"),
            ("etc/same", 0o644, "x"),
            ("mode", 0o644, ""),
            ("new", 0o644, ""),
        ]);
        assert_eq!(
            compare(&a, &b).unwrap(),
            [
                "/etc/machine-id: contents (2 and 2 bytes)",
                "/gone: only in the first build",
                "/mode: mode 600 and 644",
                "/new: only in the second build",
            ]
        );
        assert!(compare(&a, &a.clone()).unwrap().is_empty());
    }
}
