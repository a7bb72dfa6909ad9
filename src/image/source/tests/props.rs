//! Properties: one tree has one archive, and no bytes do harm.
use super::*;
use proptest::prelude::*;

fn meta() -> impl Strategy<Value = Meta> {
    let id = prop_oneof![Just(0u32), 1000..1010u32, 2_097_150..2_097_155u32, Just(u32::MAX - 1)];
    let time = prop_oneof![Just(0i64), -5..5i64, Just(1i64 << 33), 0..i64::from(u32::MAX)];
    let name = prop::sample::select(vec!["user.a", "security.capability", "trusted.x"]);
    let xattrs = prop::collection::btree_map(
        name.prop_map(|n| n.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..30),
        0..3,
    );
    (0..0o10000u32, id.clone(), id, time, xattrs).prop_map(|(mode, uid, gid, mtime, xattrs)| Meta {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..700)
            .prop_map(|b| Kind::File { size: b.len() as u64, content: Content::of(b) }),
        2 => Just(Kind::Dir),
        1 => prop::collection::vec(1u8.., 1..150).prop_map(Kind::Symlink),
        1 => (0..4095u32, 0..1_048_575u32).prop_map(|(a, b)| Kind::Char(a, b)),
        1 => Just(Kind::Fifo),
    ]
}

/// Names below folders that are never anything else, so that all of them fit into one tree.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![9 => b'a'..=b'c', 1 => any::<u8>().prop_filter("none of these", |b| !b"\0/.".contains(b))];
    let leaf = prop_oneof![9 => prop::collection::vec(byte, 1..4), 1 => Just(vec![b'x'; 120])];
    (prop::collection::vec(prop::sample::select(vec!["dev", "D", "D-"]), 1..4), leaf)
        .prop_map(|(dirs, leaf)| [dirs.join("/").as_bytes(), b"/l", leaf.as_slice()].concat())
}

pub(in crate::image) fn tree() -> impl Strategy<Value = (Tree, Vec<usize>)> {
    let entries = prop::collection::vec((path(), meta(), kind()), 0..12);
    let links = prop::collection::vec((path(), any::<prop::sample::Index>()), 0..3);
    (entries, links, prop::collection::vec(any::<usize>(), 64)).prop_map(|(entries, links, order)| {
        let mut tree = Tree::default();
        for (path, meta, kind) in &entries {
            tree.insert(path, Node { meta: meta.clone(), kind: kind.clone() }).unwrap();
        }
        for (path, of) in links.iter().filter(|_| !entries.is_empty()) {
            let node = tree.names.get(&of.get(&entries).0).cloned();
            if let Some(node) = node.filter(|n| !n.is_dir()) {
                tree.put(path.clone(), node).unwrap();
            }
        }
        (tree, order)
    })
}

fn keep_all() -> Options {
    Options { devices: Devices::Keep, ..Options::default() }
}

proptest! {
    #[test]
    fn a_tree_written_and_read_is_the_same_tree((tree, _) in tree()) {
        let bytes = written(&tree, None);
        let again = open_bytes(&bytes, &keep_all());
        if tree.is_empty() {
            // The root alone is nothing to build an image from.
            prop_assert!(again.is_err());
            return Ok(());
        }
        let again = again.unwrap();
        prop_assert_eq!(listing(&again), listing(&tree));
        prop_assert!(written(&again, None) == bytes);
    }

    #[test]
    fn the_order_of_an_archive_doesnt_matter((tree, order) in tree()) {
        // Whole entries (with their extended headers) in another order; links stay after what they link to.
        prop_assume!(!tree.is_empty());
        let mut entries: Vec<(usize, Vec<u8>)> = Vec::new();
        for (i, e) in tree.walk().enumerate() {
            let mut alone = Tree::default();
            alone.names.insert(e.path.to_vec(), std::sync::Arc::new(e.node.clone()));
            let bytes = written(&alone, None);
            let root = if e.path.is_empty() { 0 } else { 512 };
            if e.link_to.is_none() {
                entries.push((order[i % order.len()], bytes[root..bytes.len() - 1024].to_vec()));
            }
        }
        entries.sort();
        let mut archive: Vec<u8> = entries.into_iter().flat_map(|(_, b)| b).collect();
        for e in tree.walk() {
            if let Some(first) = e.link_to {
                let mut link = Archive::new();
                let pax = |k: &[u8], v: &[u8]| { let mut d = Vec::new(); pax::write_record(&mut d, k, v); d };
                let both = [pax(b"path", e.path), pax(b"linkpath", first)].concat();
                link.push(b'x', b"x", b"", &both, |_| ());
                link.push(b'1', b"x", b"y", b"", |_| ());
                archive.extend(link.cut());
            }
        }
        archive.resize(archive.len() + 1024, 0);
        let again = open_bytes(&archive, &keep_all()).unwrap();
        prop_assert_eq!(listing(&again), listing(&tree));
        prop_assert!(written(&again, None) == written(&tree, None));
    }

    #[test]
    fn damaged_archives_are_read_or_refused((tree, _) in tree(), hits in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8), fix: bool) {
        let mut bytes = written(&tree, None);
        for (at, byte) in hits {
            let at = at % bytes.len();
            bytes[at] = byte;
            // Half of them with a checksum that fits, to get behind it.
            let start = at / 512 * 512;
            if fix && let Some(block) = bytes.get_mut(start..start + 512) {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let mut options = keep_all();
        options.bounds.content_bytes = 1 << 20;
        if let Ok(tree) = open_bytes(&bytes, &options) {
            prop_assert!(tree.walk().all(|e| e.path.split(|b| *b == b'/').all(|p| p != b"..")));
            // The archive is gone by now, its handle isn't.
            let _ = tree.write_tar(&mut std::io::sink(), Some(0));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(open_bytes(&bytes, &Options::default()).is_err());
    }
}
