//! Puts an archive's entries into a tree: later ones in place of earlier ones, and the layers of an
//! image on each other, with whiteouts (OCI image-spec, layer.md, "Applying Changesets").

use super::{
    Options,
    bounds::Used,
    content::Backing,
    error::{EntryFault, SourceError},
    node::{Kind, Node},
    path::{join, show, split},
    tar_read::{self, Item, What},
    tree::{Tree, TreeError},
};
use std::{collections::HashSet, sync::Arc};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS kept for itself; it means nothing in an image.
const AUFS: &[u8] = b".wh..wh.";

/// An archive that isn't a layer: names that start with `.wh.` are names as others are.
pub(super) fn archive(
    tree: &mut Tree,
    from: &Backing,
    label: &str,
    options: &Options,
    used: &mut Used,
) -> Result<(), SourceError> {
    // Entries come while `used` is counted: they are placed after, in order.
    let items = items(from, label, true, options, used)?;
    items.into_iter().try_for_each(|item| place(tree, item, label, used))
}

/// A layer on all that is in the tree. Its whiteouts count for lower layers alone, wherever in the
/// archive they stand, so they come first.
pub(super) fn layer(
    tree: &mut Tree,
    from: &Backing,
    label: &str,
    options: &Options,
    used: &mut Used,
) -> Result<(), SourceError> {
    let items = items(from, label, false, options, used)?;
    let fault = |path: &[u8], fault| SourceError::Entry { archive: label.into(), entry: show(path), fault };
    let is_dir = |item: &Item| matches!(item.what, What::Node(Kind::Dir));
    let dirs: HashSet<&[u8]> = items.iter().filter(|i| is_dir(i)).map(|i| i.path.as_slice()).collect();
    let mut emptied = HashSet::new();
    for item in &items {
        match Mark::of(&item.path).map_err(|f| fault(&item.path, f))? {
            Mark::Whiteout(path) => whiteout(tree, &path, &dirs).map_err(|f| fault(&item.path, f))?,
            Mark::Opaque(dir) if emptied.insert(dir) => {
                opaque(tree, dir, &dirs).map_err(|f| fault(&item.path, f))?;
            }
            Mark::Opaque(_) | Mark::Aufs | Mark::None => {}
        }
    }
    drop((dirs, emptied));
    for item in items {
        if matches!(Mark::of(&item.path), Ok(Mark::None)) {
            place(tree, item, label, used)?;
        }
    }
    Ok(())
}

fn items(
    from: &Backing,
    label: &str,
    strict: bool,
    options: &Options,
    used: &mut Used,
) -> Result<Vec<Item>, SourceError> {
    let mut items = Vec::new();
    tar_read::read(from, label, strict, options, used, &mut |item| {
        items.push(item);
        Ok(())
    })?;
    Ok(items)
}

/// What a name in a layer means.
enum Mark<'a> {
    None,
    /// This name is gone.
    Whiteout(Vec<u8>),
    /// All that lower layers have in this folder is gone.
    Opaque(&'a [u8]),
    Aufs,
}

impl Mark<'_> {
    fn of(path: &[u8]) -> Result<Mark<'_>, EntryFault> {
        if path.split(|b| *b == b'/').any(|p| p.starts_with(AUFS) && p != OPAQUE) {
            return Ok(Mark::Aufs);
        }
        let (dir, name) = split(path);
        if dir.split(|b| *b == b'/').any(|p| p.starts_with(WHITEOUT)) {
            return Err(EntryFault::Whiteout);
        }
        match name.strip_prefix(WHITEOUT) {
            None => Ok(Mark::None),
            Some(_) if name == OPAQUE => Ok(Mark::Opaque(dir)),
            Some(b"" | b"." | b"..") => Err(EntryFault::Whiteout),
            Some(gone) => Ok(Mark::Whiteout(join(dir, gone))),
        }
    }
}

fn whiteout(tree: &mut Tree, path: &[u8], dirs: &HashSet<&[u8]>) -> Result<(), EntryFault> {
    if let Some(path) = lower(tree, path, dirs)? {
        tree.take(&path);
    }
    Ok(())
}

fn opaque(tree: &mut Tree, dir: &[u8], dirs: &HashSet<&[u8]>) -> Result<(), EntryFault> {
    if let Some(marker) = lower(tree, &join(dir, OPAQUE), dirs)? {
        let below = |path: &[u8]| tree.below(path).map(|(path, _)| path.to_vec()).collect::<Vec<_>>();
        for path in below(split(&marker).0) {
            tree.names.remove(&path);
        }
    }
    Ok(())
}

/// Where a name of a layer is in the layers below; `None` where they can't have it, since the layer
/// puts a folder in place of what they have on the way.
fn lower(tree: &Tree, path: &[u8], dirs: &HashSet<&[u8]>) -> Result<Option<Vec<u8>>, EntryFault> {
    let on_the_way = path.iter().enumerate().filter(|(_, b)| **b == b'/');
    for dir in on_the_way.filter_map(|(at, _)| path.get(..at)).filter(|dir| dirs.contains(dir)) {
        let is_dir = |at: Vec<u8>| tree.names.get(&at).is_some_and(|n| n.is_dir());
        if !tree.resolve_parent(dir).is_ok_and(is_dir) {
            return Ok(None);
        }
    }
    match tree.resolve_parent(path) {
        Ok(path) => Ok(Some(path)),
        Err(TreeError::NotADir { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn place(tree: &mut Tree, item: Item, label: &str, used: &mut Used) -> Result<(), SourceError> {
    let path = item.path.clone();
    if item.dropped {
        tree.note(
            "some entries have access control lists or attributes that no image holds: those are left out"
                .into(),
        );
    }
    place_one(tree, item, used).map_err(|fault| SourceError::Entry {
        archive: label.to_owned(),
        entry: show(&path),
        fault,
    })
}

fn place_one(tree: &mut Tree, item: Item, used: &mut Used) -> Result<(), EntryFault> {
    let path = tree.resolve_parent(&item.path)?;
    let node = match item.what {
        What::Node(kind) => Arc::new(Node { meta: item.meta, kind }),
        What::HardLink(target) => {
            let at = tree.resolve_parent(&target)?;
            let missing = || EntryFault::LinkMissing(show(&target));
            let node = tree.names.get(&at).ok_or_else(missing)?;
            if node.is_dir() {
                return Err(EntryFault::LinkToDir(show(&target)));
            }
            if at == path {
                return Ok(());
            }
            Arc::clone(node)
        }
    };
    let bounds = tree.bounds.clone();
    let before = tree.names.len();
    let length = path.len() as u64;
    tree.put(path, node)?;
    // Folders that nobody named take room as well.
    for _ in before + 1..tree.names.len() {
        used.entry(&bounds, length + 200)?;
    }
    Ok(())
}
