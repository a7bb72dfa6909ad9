//! What other readers find in what is written: unsquashfs (squashfs-tools) and the kernel.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use super::*;
use crate::{
    image::{
        progress::Silent,
        source::{
            self, Content, Devices, Meta, Node, Options,
            tests::{link, listing, props},
        },
        squashfs::{Compressor, check},
    },
    store::testing::TempDir,
};
use proptest::prelude::*;
use std::{fs, io::Cursor, path::Path, process::Command};

fn written(tree: &Tree, threads: usize) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let options = WriteOptions { threads: NonZero::new(threads), ..WriteOptions::default() };
    let written = write(tree, &mut out, &options, &Silent).unwrap();
    assert_eq!(written.bytes, out.get_ref().len() as u64);
    out.into_inner()
}

fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn folder(path: &Path) -> Vec<String> {
    let options = Options { devices: Devices::Keep, ..Options::default() };
    listing(&source::open(path, &options, &Silent).unwrap())
}

/// What unsquashfs makes of it.
fn unpacked(squashfs: &[u8]) -> Vec<String> {
    let dir = TempDir::new();
    let (file, root) = (dir.path().join("sq"), dir.path().join("root"));
    fs::write(&file, squashfs).unwrap();
    run(Command::new("unsquashfs").args(["-quiet", "-no-progress", "-dest"]).arg(&root).arg(&file));
    folder(&root)
}

/// What the kernel shows of it; `None` where this machine has no loop devices.
fn mounted(squashfs: &[u8]) -> Option<Vec<String>> {
    if !Path::new("/dev/loop-control").exists() {
        eprintln!("no loop devices here: not looked at by the kernel");
        return None;
    }
    let dir = TempDir::new();
    let (file, root) = (dir.path().join("sq"), dir.path().join("root"));
    fs::write(&file, squashfs).unwrap();
    fs::create_dir(&root).unwrap();
    run(Command::new("mount").args(["-t", "squashfs", "-o", "loop,ro"]).arg(&file).arg(&root));
    let read = std::panic::catch_unwind(|| folder(&root));
    run(Command::new("umount").arg(&root));
    Some(read.unwrap())
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

fn put(tree: &mut Tree, path: &str, bytes: impl Into<Vec<u8>>) {
    tree.insert_file(path, Meta { mtime: 1_700_000_000, ..Meta::root(0o644) }, bytes.into()).unwrap();
}

/// All that a root has, with files on both sides of every edge.
fn everything() -> Tree {
    let mut tree = Tree::default();
    let with = |name: &str, value: &[u8]| {
        let xattrs = [(name.as_bytes().to_vec(), value.to_vec())].into();
        Meta { xattrs, mtime: 5, ..Meta::root(0o755) }
    };
    // cap_net_raw=ep, as `setcap` writes it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    tree.insert_file("usr/bin/ping", with("security.capability", &capability), &b"ping"[..]).unwrap();
    tree.insert_file("usr/bin/ping6", with("security.capability", &capability), &b"ping6"[..]).unwrap();
    tree.insert_dir("usr/lib", with("trusted.x", b"")).unwrap();
    let meta = Meta { mode: 0o777, ..with("security.x", &[9; 3000]) };
    tree.insert_symlink("bin", meta, "usr/bin").unwrap();
    let node = |kind, mode| Node { meta: Meta { uid: 7, gid: 70_000, ..Meta::root(mode) }, kind };
    tree.insert("dev/console", node(Kind::Char(5, 1), 0o600)).unwrap();
    tree.insert("dev/nvme", node(Kind::Block(4095, 1_048_575), 0o660)).unwrap();
    tree.insert("run/pipe", node(Kind::Fifo, 0o4777)).unwrap();
    for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 77] {
        put(&mut tree, &format!("size/{len}"), noise(len as u64, len));
        put(&mut tree, &format!("size/{len}.again"), noise(len as u64, len));
    }
    let holes = [vec![0; 2 * BLOCK], noise(1, BLOCK), vec![0; BLOCK + 5]].concat();
    put(&mut tree, "holes", holes);
    put(&mut tree, "zeros", vec![0; 2 * BLOCK + 1]);
    put(&mut tree, "few zeros", vec![0; 100]);
    link(&mut tree, b"a/first", b"holes");
    link(&mut tree, b"z/last", b"holes");
    for n in 0..1500 {
        put(&mut tree, &format!("many/{n:>0150}"), format!("{n}"));
    }
    tree
}

#[test]
fn unsquashfs_and_the_kernel_find_all_that_is_in_a_tree() {
    let tree = everything();
    let bytes = written(&tree, 2);
    let superblock = check(&bytes, bytes.len() as u64).unwrap();
    assert_eq!((superblock.compressor, superblock.block_size), (Compressor::Zstd, BLOCK as u32));
    let want = listing(&tree);
    if let Some(found) = mounted(&bytes) {
        same(&found, &want);
    }
    // A capability goes when unsquashfs changes the owner, as it does last.
    let without =
        |lines: &[String]| lines.iter().filter(|l| !l.contains("ping")).cloned().collect::<Vec<_>>();
    same(&without(&unpacked(&bytes)), &without(&want));
}

fn same(found: &[String], want: &[String]) {
    let cut = |line: &String| line.chars().take(200).collect::<String>();
    let differ = found.iter().zip(want).find(|(a, b)| a != b).map(|(a, b)| (cut(a), cut(b)));
    assert_eq!((differ, found.len()), (None, want.len()));
}

#[test]
fn the_number_of_cores_makes_no_difference_and_what_is_twice_there_is_stored_once() {
    let tree = everything();
    let bytes = written(&tree, 1);
    assert!(bytes == written(&tree, 2) && bytes == written(&tree, 9));
    // The noise of `size` once, that of `holes` once, little else.
    let noise = 8 * BLOCK + 1 + BLOCK;
    assert!(bytes.len() < noise + 200_000, "{} bytes for {noise} that can't be made smaller", bytes.len());
}

#[test]
fn no_time_is_later_than_asked_for_and_none_before_1970() {
    let mut tree = Tree::default();
    put(&mut tree, "new", "new");
    tree.insert_dir("old", Meta { mtime: -7, ..Meta::root(0o755) }).unwrap();
    let mut out = Cursor::new(Vec::new());
    let options = WriteOptions { clamp_mtime: Some(1_600_000_000), threads: None };
    write(&tree, &mut out, &options, &Silent).unwrap();
    let found = unpacked(out.get_ref()).join("\n");
    assert!(found.contains("new 644 0:0 1600000000 ") && found.contains("old 755 0:0 0 "), "{found}");
    // When it was made: the newest time in it.
    assert_eq!(out.get_ref()[8..12], 1_600_000_000_u32.to_le_bytes());
}

#[test]
fn what_a_squashfs_does_not_hold_is_named() {
    let refused = |tree: &Tree| {
        write(tree, Cursor::new(Vec::new()), &WriteOptions::default(), &Silent).unwrap_err().to_string()
    };
    let mut tree = Tree::default();
    let kind = Kind::Char(4096, 0);
    tree.insert("dev/odd", Node { meta: Meta::root(0o600), kind }).unwrap();
    assert!(refused(&tree).contains("`dev/odd` is device 4096:0"), "{}", refused(&tree));
    let mut tree = Tree::default();
    for id in 0..65_536 {
        tree.insert_dir(format!("{id}"), Meta { uid: id, ..Meta::root(0o755) }).unwrap();
    }
    assert!(refused(&tree).contains("65535 owners"), "{}", refused(&tree));
    let mut tree = Tree::default();
    let xattrs = [(b"system.x".to_vec(), Vec::new())].into();
    tree.insert_dir("odd", Meta { xattrs, ..Meta::root(0o755) }).unwrap();
    assert!(refused(&tree).contains("`system.x`"), "{}", refused(&tree));
}

/// A file that is read short, and a disk that is full.
#[test]
fn a_file_that_changes_and_a_full_disk_end_it_by_name() {
    let dir = TempDir::new();
    fs::write(dir.path().join("log"), "1").unwrap();
    let tree = source::open(dir.path(), &Options::default(), &Silent).unwrap();
    fs::write(dir.path().join("log"), "12").unwrap();
    let end = write(&tree, Cursor::new(Vec::new()), &WriteOptions::default(), &Silent);
    assert!(end.unwrap_err().to_string().contains("can't read `log`"));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let end = write(&everything(), full, &WriteOptions::default(), &Silent);
    assert!(matches!(end, Err(WriteError::Write(e)) if e.kind() == io::ErrorKind::StorageFull));
}

/// What makes ten versions of an image cost little more than one.
#[test]
fn one_file_more_leaves_nearly_all_fragments_as_they_were() {
    let text = |n: u64| noise(n, 3000).iter().map(|b| b % 16 + b'a').collect::<Vec<u8>>();
    let mut tree = Tree::default();
    for n in 0..600 {
        put(&mut tree, &format!("usr/share/{n:03}"), text(n));
    }
    let before = fragments(&tree);
    put(&mut tree, "usr/share/100-new", text(1000));
    put(&mut tree, "usr/share/400-new", text(1001));
    let after = fragments(&tree);
    let new = after.iter().filter(|f| !before.contains(f)).count();
    assert!(before.len() > 20 && new <= 4, "{new} of {} are new", after.len());
}

fn fragments(tree: &Tree) -> Vec<Vec<u8>> {
    let bytes = written(tree, 2);
    let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let count = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
    let table = u64_at(&bytes, u64_at(&bytes, 80) as usize) as usize;
    let head = u16::from_le_bytes([bytes[table], bytes[table + 1]]);
    let stored = &bytes[table + 2..table + 2 + usize::from(head & 0x7fff)];
    let plain = if head >> 15 == 1 { stored.to_vec() } else { zstd::bulk::decompress(stored, 8192).unwrap() };
    let place = |n: usize| {
        let start = u64_at(&plain, n * 16) as usize;
        let size = u32::from_le_bytes(plain[n * 16 + 8..n * 16 + 12].try_into().unwrap()) & 0xff_ffff;
        bytes[start..start + size as usize].to_vec()
    };
    (0..count).map(place).collect()
}

/// Made of what a file system here can hold, so that unsquashfs can unpack it.
fn holdable(tree: &Tree) -> Tree {
    let mut out = Tree::default();
    for entry in tree.walk() {
        if let Some(first) = entry.link_to {
            link(&mut out, entry.path, first);
            continue;
        }
        let mut node = entry.node.clone();
        node.meta.mtime = node.meta.mtime.clamp(0, i64::from(u32::MAX));
        let plain = matches!(node.kind, Kind::File { .. } | Kind::Dir);
        node.meta.xattrs.retain(|name, _| match name.as_slice() {
            b"security.capability" => false,
            name => plain || !name.starts_with(b"user."),
        });
        if matches!(node.kind, Kind::Symlink(_)) {
            node.meta.mode = 0o777;
        }
        out.insert(entry.path, node).unwrap();
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_written_is_what_unsquashfs_reads((tree, _) in props::tree(), sizes in prop::collection::vec(0usize..600_000, 0..4)) {
        let mut tree = holdable(&tree);
        for (n, len) in sizes.into_iter().enumerate() {
            let bytes = if n % 2 == 0 { noise(n as u64, len) } else { vec![0; len] };
            tree.insert(format!("big/{n}"), Node { meta: Meta::root(0o600), kind: Kind::File { size: len as u64, content: Content::of(bytes) } }).unwrap();
        }
        let bytes = written(&tree, 2);
        prop_assert!(bytes == written(&tree, 1));
        same(&unpacked(&bytes), &listing(&tree));
    }
}
