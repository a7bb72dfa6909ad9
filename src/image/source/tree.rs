//! A root filesystem: names, what they stand for, and where the contents are.

use super::{
    bounds::Bounds,
    content::{Content, FileReader},
    facts::Facts,
    node::{Kind, Meta, Node},
    path::{self, PathFault, join, show, split},
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    ops::Bound,
    path::PathBuf,
    sync::Arc,
};

/// Symbolic links that one name may lead through, as in Linux.
const MAX_LINKS: usize = 40;

/// Why a name in a tree can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Not a name.
    #[error("`{path}`: {fault}")]
    Path {
        /// What was given.
        path: String,
        /// What is wrong.
        fault: PathFault,
    },
    /// Not there.
    #[error("`{0}` is not in the root")]
    Missing(String),
    /// Links in a circle.
    #[error("`{0}` leads through more than 40 symbolic links")]
    Links(String),
    /// It lies below something that is no folder.
    #[error("`{path}` lies below `{dir}`, which is a {what}")]
    NotADir {
        /// What was asked for.
        path: String,
        /// What it would lie below.
        dir: String,
        /// What that is.
        what: &'static str,
    },
    /// Only files have contents.
    #[error("`{path}` is a {what}, not a file")]
    NotAFile {
        /// What was asked for.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The contents can't be read.
    #[error("can't read `{path}`: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// One step of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name, without a slash in front; empty for the root.
    pub path: &'a [u8],
    /// What it stands for.
    pub node: &'a Node,
    /// The first name of the same inode, where this is a further one.
    pub link_to: Option<&'a [u8]>,
}

/// A root filesystem. Cheap to clone: contents stay where they are.
#[derive(Clone, Debug)]
pub struct Tree {
    /// In the order of bytes, which puts a folder before what is in it.
    pub(super) names: BTreeMap<Vec<u8>, Arc<Node>>,
    pub(super) facts: Facts,
    pub(super) notes: Vec<String>,
    pub(super) bounds: Bounds,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new(Bounds::default())
    }
}

impl Tree {
    /// A root with nothing in it.
    pub fn new(bounds: Bounds) -> Tree {
        let root = Arc::new(Node::implied_dir());
        Tree {
            names: BTreeMap::from([(Vec::new(), root)]),
            facts: Facts::default(),
            notes: Vec::new(),
            bounds,
        }
    }

    /// What is known of where it came from.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What an operator should know: what of the source an image can't hold and was left out.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many names there are, the root counted.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True where there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.names.len() < 2
    }

    /// Bytes of all files, each inode counted once.
    pub fn content_bytes(&self) -> u64 {
        self.walk().filter(|e| e.link_to.is_none()).map(|e| e.node.size()).sum()
    }

    /// What a name stands for. No link is followed, neither the last nor one on the way: `get("lib/x")`
    /// finds nothing where `lib` is a link. See [`Tree::resolve`].
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Node> {
        let path = path::normalise(path.as_ref(), &self.bounds).ok()?;
        self.names.get(&path).map(|n| &**n)
    }

    /// The last parts of the names in a folder, sorted, and what they stand for.
    pub fn children(&self, path: impl AsRef<[u8]>) -> Vec<(&[u8], &Node)> {
        let Ok(dir) = path::normalise(path.as_ref(), &self.bounds) else { return Vec::new() };
        let prefix = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let below = self.below(&dir).filter_map(|(path, node)| Some((path.get(prefix..)?, &**node)));
        below.filter(|(rest, _)| !rest.contains(&b'/')).collect()
    }

    /// All names below a folder, itself left out.
    pub(super) fn below<'a>(
        &'a self,
        dir: &[u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a Arc<Node>)> + use<'a> {
        let (from, to) = if dir.is_empty() {
            (Bound::Excluded(Vec::new()), Bound::Unbounded)
        } else {
            // `0` is the byte after `/`.
            (Bound::Excluded([dir, b"/"].concat()), Bound::Excluded([dir, b"0"].concat()))
        };
        self.names.range((from, to)).map(|(path, node)| (path.as_slice(), node))
    }

    /// The target of a symbolic link, as it is written.
    pub fn read_link(&self, path: impl AsRef<[u8]>) -> Option<&[u8]> {
        match &self.get(path)?.kind {
            Kind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Where a name leads when links are followed, as a machine does that has this as its root: an
    /// absolute target starts at the root, and `..` never leaves it.
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, TreeError> {
        self.follow(path.as_ref(), true)
    }

    /// The same, but the last part may be missing, or a link that isn't followed.
    pub(super) fn resolve_parent(&self, path: &[u8]) -> Result<Vec<u8>, TreeError> {
        self.follow(path, false)
    }

    fn follow(&self, path: &[u8], last: bool) -> Result<Vec<u8>, TreeError> {
        let mut todo: VecDeque<Vec<u8>> = parts(path);
        let (mut at, mut links) = (Vec::new(), 0);
        while let Some(part) = todo.pop_front() {
            match part.as_slice() {
                b".." => {
                    at.truncate(split(&at).0.len());
                    continue;
                }
                _ if todo.is_empty() && !last => return Ok(join(&at, &part)),
                _ => {}
            }
            let next = join(&at, &part);
            match self.names.get(&next).map(|n| &n.kind) {
                None if last => return Err(TreeError::Missing(show(path))),
                Some(Kind::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS || todo.len() > self.bounds.path_bytes {
                        return Err(TreeError::Links(show(path)));
                    }
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    parts(target).into_iter().rev().for_each(|p| todo.push_front(p));
                }
                Some(kind) if !matches!(kind, Kind::Dir) && !todo.is_empty() => {
                    return Err(TreeError::NotADir { path: show(path), dir: show(&next), what: kind.word() });
                }
                // What is missing on the way can only be made.
                _ => at = next,
            }
        }
        Ok(at)
    }

    /// What a name leads to, links followed.
    pub fn lookup(&self, path: impl AsRef<[u8]>) -> Result<&Node, TreeError> {
        let path = self.resolve(path)?;
        self.names.get(&path).map(|n| &**n).ok_or_else(|| TreeError::Missing(show(&path)))
    }

    /// Opens a file for reading, links followed inside the root.
    pub fn read(&self, path: impl AsRef<[u8]>) -> Result<FileReader, TreeError> {
        let path = path.as_ref();
        let node = self.lookup(path)?;
        match &node.kind {
            Kind::File { size, content } => {
                content.open(*size).map_err(|source| TreeError::Read { path: show(path), source })
            }
            other => Err(TreeError::NotAFile { path: show(path), what: other.word() }),
        }
    }

    /// All of a file that has at most `limit` bytes.
    pub fn read_all(&self, path: impl AsRef<[u8]>, limit: u64) -> Result<Vec<u8>, TreeError> {
        let path = path.as_ref();
        let mut reader = self.read(path)?;
        let fail = |source| TreeError::Read { path: show(path), source };
        if reader.size() > limit {
            return Err(fail(io::Error::other(format!(
                "it has {} bytes, and {limit} are allowed",
                reader.size()
            ))));
        }
        let mut out = Vec::new();
        io::Read::read_to_end(&mut reader, &mut out).map_err(fail)?;
        Ok(out)
    }

    /// Every name in the order of its bytes, from the root on. A folder comes before what is in it.
    pub fn walk(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut first: HashMap<*const Node, &[u8]> = HashMap::new();
        self.names.iter().map(move |(path, node)| {
            // Only what several names share can have another name.
            let link_to = if Arc::strong_count(node) > 1 && !node.is_dir() {
                let known = first.entry(Arc::as_ptr(node)).or_insert(path);
                (*known != path.as_slice()).then_some(*known)
            } else {
                None
            };
            Entry { path, node, link_to }
        })
    }

    /// Puts a file there, in place of what had the name; missing folders are made. Links on the way are
    /// followed, a link of that very name is replaced.
    pub fn insert_file(
        &mut self,
        path: impl AsRef<[u8]>,
        meta: Meta,
        bytes: impl Into<Arc<[u8]>>,
    ) -> Result<(), TreeError> {
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        self.insert(path.as_ref(), Node { meta, kind: Kind::File { size, content: Content::of(bytes) } })
    }

    /// The same with the bytes of a file of this machine, which is read when the tree is.
    pub fn insert_file_from(
        &mut self,
        path: impl AsRef<[u8]>,
        meta: Meta,
        file: PathBuf,
    ) -> Result<(), TreeError> {
        let fail = |source| TreeError::Read { path: file.display().to_string(), source };
        let open = std::fs::File::open(&file).map_err(fail)?;
        if !open.metadata().map_err(fail)?.is_file() {
            return Err(TreeError::NotAFile { path: file.display().to_string(), what: "special file" });
        }
        let backing = super::content::Backing::whole(open).map_err(fail)?;
        let (size, content) = (backing.len(), Content(super::content::Place::Extent(backing)));
        self.insert(path.as_ref(), Node { meta, kind: Kind::File { size, content } })
    }

    /// Puts a folder there; a folder that is there gets the new owner and mode and keeps what is in it.
    pub fn insert_dir(&mut self, path: impl AsRef<[u8]>, meta: Meta) -> Result<(), TreeError> {
        self.insert(path.as_ref(), Node { meta, kind: Kind::Dir })
    }

    /// Puts a symbolic link there.
    pub fn insert_symlink(
        &mut self,
        path: impl AsRef<[u8]>,
        meta: Meta,
        target: impl AsRef<[u8]>,
    ) -> Result<(), TreeError> {
        self.insert(path.as_ref(), Node { meta, kind: Kind::Symlink(target.as_ref().to_vec()) })
    }

    /// Puts a node there.
    pub fn insert(&mut self, path: impl AsRef<[u8]>, node: Node) -> Result<(), TreeError> {
        let path = self.canonical(path.as_ref())?;
        self.put(path, Arc::new(node))
    }

    /// Takes a name away, with all below it; false where there was none. Links on the way are
    /// followed, the last part isn't. The root itself stays.
    pub fn remove(&mut self, path: impl AsRef<[u8]>) -> Result<bool, TreeError> {
        let path = self.canonical(path.as_ref())?;
        Ok(!path.is_empty() && self.take(&path))
    }

    /// Gives a name, without following a link, another owner, mode, time or attributes; other names
    /// of the same inode keep theirs.
    pub fn set_meta(&mut self, path: impl AsRef<[u8]>, meta: Meta) -> Result<(), TreeError> {
        let path = self.canonical(path.as_ref())?;
        let node = self.names.get_mut(&path).ok_or_else(|| TreeError::Missing(show(&path)))?;
        *node = Arc::new(Node { meta, kind: node.kind.clone() });
        Ok(())
    }

    fn canonical(&self, path: &[u8]) -> Result<Vec<u8>, TreeError> {
        let clean = path::normalise(path, &self.bounds)
            .map_err(|fault| TreeError::Path { path: show(path), fault })?;
        self.resolve_parent(&clean)
    }

    /// Puts a node at a resolved name, with the folders that are missing on the way.
    pub(super) fn put(&mut self, path: Vec<u8>, node: Arc<Node>) -> Result<(), TreeError> {
        self.make_parents(&path)?;
        let keeps = node.is_dir() && self.names.get(&path).is_some_and(|old| old.is_dir());
        if path.is_empty() && !node.is_dir() {
            return Err(TreeError::NotADir { path: "/".into(), dir: "/".into(), what: node.kind.word() });
        }
        if !keeps {
            self.take(&path);
        }
        self.names.insert(path, node);
        Ok(())
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let mut dir = split(path).0;
        let mut missing = Vec::new();
        while !dir.is_empty() {
            match self.names.get(dir) {
                Some(node) if node.is_dir() => break,
                Some(node) => {
                    let what = node.kind.word();
                    return Err(TreeError::NotADir { path: show(path), dir: show(dir), what });
                }
                None => missing.push(dir.to_vec()),
            }
            dir = split(dir).0;
        }
        for dir in missing {
            self.names.insert(dir, Arc::new(Node::implied_dir()));
        }
        Ok(())
    }

    /// Takes a resolved name away with all below it.
    pub(super) fn take(&mut self, path: &[u8]) -> bool {
        let below: Vec<Vec<u8>> = self.below(path).map(|(path, _)| path.to_vec()).collect();
        for path in below {
            self.names.remove(&path);
        }
        !path.is_empty() && self.names.remove(path).is_some()
    }

    /// Says something to the operator, once, and not without end.
    pub(super) fn note(&mut self, text: String) {
        if self.notes.len() < 100 && !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

fn parts(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").map(<[u8]>::to_vec).collect()
}
