#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::{same::Comparer, *};
use crate::store::testing::TempDir;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    sync::OnceLock,
};

type Open = Squashfs<Cursor<Vec<u8>>>;

fn run(program: &str, words: &[&str]) {
    let out = Command::new(program).args(words).output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Bytes that don't shrink much, so that blocks differ.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut x = seed | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            (x >> 24) as u8
        })
        .collect()
}

/// Files of each size class, links, a hole, a device, attributes, a folder of many names.
fn tree(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("usr/bin")).unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("small"), "text\n").unwrap();
    fs::write(at("usr/large"), noise(300_001, 7)).unwrap();
    fs::write(at("usr/block"), vec![9; 131_072]).unwrap();
    let hole = fs::File::create(at("usr/hole")).unwrap();
    hole.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&hole, b"end", (1 << 20) - 3).unwrap();
    fs::hard_link(at("small"), at("usr/other")).unwrap();
    symlink("../small", at("usr/link")).unwrap();
    fs::set_permissions(at("small"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::create_dir(at("many")).unwrap();
    (0..400).for_each(|n| fs::write(at(&format!("many/{n:04}")), format!("{n}")).unwrap());
}

fn pack(words: &[&str]) -> Vec<u8> {
    pack_tree(tree, words)
}

fn pack_tree(fill: impl Fn(&Path), words: &[&str]) -> Vec<u8> {
    let dir = TempDir::new();
    let (root, file) = (dir.path().join("root"), dir.path().join("sq"));
    fs::create_dir(&root).unwrap();
    fill(&root);
    let [root, file] = [&root, &file].map(|p| p.to_str().unwrap().to_owned());
    let pseudo = ["-p", "null c 666 0 3 1 3", "-p", "disk b 660 7 8 259 4", "-p", "pipe i 600 0 0 f"];
    run("mksquashfs", &[&[root.as_str(), &file, "-quiet", "-no-progress"], &pseudo[..], words].concat());
    fs::read(file).unwrap()
}

fn open(bytes: &[u8]) -> Open {
    Squashfs::open(Cursor::new(bytes.to_vec()), bytes.len() as u64).unwrap()
}

fn file(sq: &mut Open, path: &str) -> File {
    match sq.walk().unwrap().get(path.as_bytes()).unwrap().kind {
        Kind::File(file) => file,
        _ => unreachable!("{path} is no file"),
    }
}

fn check_tree(bytes: &[u8]) {
    let dir = TempDir::new();
    tree(dir.path());
    let mut sq = open(bytes);
    let listing = sq.walk().unwrap();
    // The root, 8 plain names, many, usr, usr/bin, 3 pseudo ones and 400.
    assert_eq!(listing.len(), 1 + 7 + 3 + 3 + 400);
    for (path, node) in &listing {
        let real = dir.path().join(std::str::from_utf8(path).unwrap());
        match &node.kind {
            Kind::File(file) => {
                assert!(sq.read(file, 1 << 30).unwrap() == fs::read(&real).unwrap(), "{real:?}")
            }
            Kind::Folder(_) => assert!(real.is_dir()),
            Kind::Link(target) => assert_eq!(target, b"../small"),
            Kind::CharDevice(n) => {
                assert_eq!((&path[..], *n, node.mode, node.gid), (&b"null"[..], 0x103, 0o666, 3))
            }
            Kind::BlockDevice(n) => assert_eq!((&path[..], *n), (&b"disk"[..], 259 << 8 | 4)),
            Kind::Fifo => assert_eq!(path, b"pipe"),
            Kind::Socket => unreachable!(),
        }
    }
    assert_eq!(listing[&b"small"[..]].number, listing[&b"usr/other"[..]].number, "a hard link");
    assert_eq!(listing[&b"small"[..]].mode, 0o4755);
}

#[test]
fn reads_all_that_mksquashfs_wrote_by_each_compressor() {
    for comp in ["gzip", "xz", "zstd"] {
        check_tree(&pack(&["-comp", comp]));
    }
    for words in [&["-b", "4096"][..], &["-b", "1M", "-always-use-fragments"], &["-no-fragments"]] {
        check_tree(&pack(words));
    }
    check_tree(&pack(&["-noI", "-noD", "-noF", "-noX", "-noId"]));
    check_tree(&pack(&["-comp", "xz", "-Xbcj", "x86"]));
}

#[test]
fn a_compressor_that_it_lacks_is_named() {
    for comp in ["lz4", "lzo"] {
        let bytes = pack(&["-comp", comp]);
        let error = Squashfs::open(Cursor::new(&bytes), bytes.len() as u64).unwrap_err();
        assert!(error.to_string().contains(comp), "{error}");
    }
}

#[test]
fn extended_attributes_come_with_their_values() {
    let fill = |root: &Path| {
        for (name, value) in [("a", "first"), ("b", "first"), ("c", "second")] {
            let path = root.join(name);
            fs::write(&path, name).unwrap();
            let long = value.repeat(100);
            for (key, value) in [("user.note", value), ("user.long", &long), ("trusted.x", "y")] {
                rustix::fs::setxattr(&path, key, value.as_bytes(), rustix::fs::XattrFlags::CREATE).unwrap();
            }
        }
        fs::write(root.join("plain"), "").unwrap();
    };
    let mut sq = open(&pack_tree(fill, &[]));
    let listing = sq.walk().unwrap();
    let mut of = |path: &str| {
        let xattrs = sq.xattrs(&listing[path.as_bytes()]).unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        xattrs.into_iter().map(|x| (text(x.name), text(x.value))).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(of("a").keys().collect::<Vec<_>>(), ["trusted.x", "user.long", "user.note"]);
    assert_eq!(of("b")["user.long"], "first".repeat(100), "a value that lies with another's");
    assert_eq!(of("c")["user.note"], "second");
    assert!(of("plain").is_empty());
}

#[test]
fn files_are_the_same_by_content_however_they_are_packed() {
    let packed = [
        pack(&[]),
        pack(&["-comp", "zstd"]),
        pack(&["-b", "4096"]),
        pack(&["-b", "1M", "-no-fragments", "-comp", "xz"]),
        pack(&["-noD", "-noF"]),
    ];
    for other in &packed {
        let (mut a, mut b) = (open(&packed[0]), open(other));
        let mut comparer = Comparer::default();
        for path in ["empty", "small", "usr/large", "usr/hole", "usr/block", "many/0007"] {
            let (x, y) = (file(&mut a, path), file(&mut b, path));
            assert!(comparer.same(&mut a, &x, &mut b, &y).unwrap(), "{path}");
        }
        let (x, y) = (file(&mut a, "many/0007"), file(&mut b, "many/0008"));
        assert!(!comparer.same(&mut a, &x, &mut b, &y).unwrap());
    }
    let changed = |at: usize| {
        move |root: &Path| {
            tree(root);
            let mut bytes = noise(300_001, 7);
            bytes[at] ^= 1;
            fs::write(root.join("usr/large"), bytes).unwrap();
        }
    };
    for at in [0, 131_072, 300_000] {
        for words in [&[][..], &["-b", "4096"]] {
            let (mut a, mut b) = (open(&packed[0]), open(&pack_tree(changed(at), words)));
            let (x, y) = (file(&mut a, "usr/large"), file(&mut b, "usr/large"));
            assert!(!Comparer::default().same(&mut a, &x, &mut b, &y).unwrap(), "byte {at}");
        }
    }
}

/// Reads all there is: an error is fine, a panic or an endless loop isn't.
fn read_all(bytes: &[u8]) {
    let Ok(mut sq) = Squashfs::open(Cursor::new(bytes), bytes.len() as u64) else { return };
    let Ok(listing) = sq.walk() else { return };
    for node in listing.values() {
        let _ = sq.xattrs(node);
        if let Kind::File(file) = &node.kind {
            let _ = sq.read(file, 4 << 20);
        }
    }
}

/// Small images: metadata as it is, so that damage reaches the fields, and packed.
fn small(n: usize) -> &'static [u8] {
    static MADE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    &MADE.get_or_init(|| {
        let fill = |root: &Path| {
            fs::create_dir_all(root.join("etc/deep/er")).unwrap();
            fs::write(root.join("etc/hosts"), "::1 localhost").unwrap();
            fs::write(root.join("etc/large"), noise(9000, 3)).unwrap();
            symlink("etc", root.join("link")).unwrap();
            let xattr = |key, value: &[u8]| {
                rustix::fs::setxattr(root.join("etc/hosts"), key, value, rustix::fs::XattrFlags::CREATE)
                    .unwrap();
            };
            xattr("user.a", b"value");
        };
        let plain = ["-noI", "-noD", "-noF", "-noX", "-noId", "-b", "4096"];
        vec![
            pack_tree(fill, &plain),
            pack_tree(fill, &["-b", "4096"]),
            pack_tree(fill, &["-comp", "xz"]),
            pack_tree(fill, &["-comp", "zstd"]),
        ]
    })[n]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn damage_is_an_error_or_harmless(
        which in 0usize..4,
        changes in proptest::collection::vec((0usize..20_000, any::<u8>()), 1..12),
        cut in proptest::option::of(0usize..20_000),
    ) {
        let mut bytes = small(which).to_vec();
        // The padding at the end means nothing.
        let used = u64_at(&bytes, 40) as usize;
        for (at, byte) in changes {
            bytes[at % used] = byte;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        read_all(&bytes);
    }
}

#[test]
fn every_single_byte_may_be_any_extreme() {
    let good = small(0);
    let used = u64_at(good, 40) as usize;
    // The contents of files are not metadata.
    let from = u64_at(good, 64) as usize;
    for at in (0..SUPERBLOCK).chain(from..used) {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            read_all(&bytes);
        }
    }
}
