//! ISOs of xorriso, read with each kind of names; and ISOs that lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::single_range_in_vec_init, reason = "a file in one part is meant")]

use super::*;
use crate::store::testing::TempDir;
use proptest::prelude::*;
use std::{fs, path::PathBuf, process::Command};

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        let bytes = self.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

const LONG: &str = "a-name-that-is-far-longer-than-what-iso-9660-allows-and-so-long-that-rock-ridge-needs-to-go-on-in-a-\
                    continuation-area-for-it-because-a-record-has-no-more-than-255-bytes-in-all.squashfs";

fn made(arguments: &[&str]) -> (TempDir, PathBuf) {
    let dir = TempDir::new();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("LiveOS/deep/er")).unwrap();
    fs::create_dir_all(tree.join("empty")).unwrap();
    fs::write(tree.join("LiveOS/squashfs.img"), b"hsqs and more").unwrap();
    fs::write(tree.join("LiveOS/deep/er").join(LONG), b"long").unwrap();
    fs::write(tree.join("nothing"), b"").unwrap();
    std::os::unix::fs::symlink("LiveOS/squashfs.img", tree.join("link")).unwrap();
    // A folder of more than one sector.
    fs::create_dir_all(tree.join("many")).unwrap();
    for n in 0..200 {
        fs::write(tree.join(format!("many/file-{n:03}")), format!("{n}")).unwrap();
    }
    let iso = dir.path().join("x.iso");
    let out = Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-V", "Test Volume"])
        .args(arguments)
        .arg("-o")
        .args([&iso, &tree])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    (dir, iso)
}

fn names(iso: &Iso<impl ReadAt>, path: &str) -> Vec<String> {
    let nodes = iso.list(path).unwrap().unwrap();
    nodes.into_iter().filter(|n| n.kind != Kind::Other).map(|n| n.name).collect()
}

fn bytes(path: &Path, iso: &Iso, folder: &str, name: &str) -> Vec<u8> {
    let nodes = iso.list(folder).unwrap().unwrap();
    let node = nodes.iter().find(|n| n.name == name).unwrap();
    let all = fs::read(path).unwrap();
    let parts = iso.parts(node, name).unwrap();
    parts.into_iter().flat_map(|p| all[p.start as usize..p.end as usize].to_vec()).collect()
}

#[test]
fn the_names_that_the_maker_gave_are_read() {
    for (arguments, volume) in [
        (&["-R", "-iso-level", "3"][..], "Test Volume"),
        (&["-J", "-joliet-long", "-iso-level", "3"], "Test Volume"),
        (&["-R", "-J"], "Test Volume"),
    ] {
        let (_dir, path) = made(arguments);
        let iso = Iso::open(&path).unwrap();
        assert_eq!(iso.volume(), volume);
        let mut top = names(&iso, "");
        top.retain(|name| name != "link");
        top.sort();
        assert_eq!(top, ["LiveOS", "empty", "many", "nothing"], "{arguments:?}");
        let link = iso.list("").unwrap().unwrap().into_iter().find(|n| n.name == "link");
        assert!(link.is_none_or(|n| n.kind == Kind::Other), "a link is no file");
        assert_eq!(bytes(&path, &iso, "LiveOS", "squashfs.img"), b"hsqs and more");
        assert_eq!(bytes(&path, &iso, "", "nothing"), b"");
        assert_eq!(names(&iso, "many").len(), 200);
        assert_eq!(bytes(&path, &iso, "many", "file-123"), b"123");
        assert_eq!(names(&iso, "liveos/DEEP"), ["er"], "letters count alike");
        assert_eq!(names(&iso, "empty"), Vec::<String>::new());
        assert_eq!(iso.list("nowhere/at/all").unwrap(), None);
        assert_eq!(iso.list("nothing").unwrap(), None, "a file is no folder");
        let long = names(&iso, "LiveOS/deep/er").remove(0);
        match arguments[0] {
            "-R" => assert_eq!(long, LONG),
            // Joliet has 64 letters, 103 of them at most.
            _ => assert!(long.starts_with(&LONG[..60]), "{long}"),
        }
    }
}

#[test]
fn short_names_are_read_where_there_are_no_others() {
    let (_dir, path) = made(&["--norock", "-iso-level", "2"]);
    let iso = Iso::open(&path).unwrap();
    assert!(names(&iso, "").contains(&"liveos".to_owned()), "{:?}", names(&iso, ""));
    assert_eq!(bytes(&path, &iso, "LIVEOS", "squashfs.img"), b"hsqs and more");
}

#[test]
fn what_is_no_iso_is_named() {
    let dir = TempDir::new();
    let said = |bytes: &[u8]| {
        let path = dir.path().join("x");
        fs::write(&path, bytes).unwrap();
        Iso::open(&path).unwrap_err().to_string()
    };
    assert!(said(b"").contains("an empty file"));
    assert!(said(b"hsqs0000").contains("a squashfs; that is what --rootfs takes"));
    assert_eq!(said(&[7; 100_000]), "it is not an ISO 9660 image");
    assert!(Iso::open(dir.path()).unwrap_err().to_string().contains("no plain file"));
}

#[test]
fn one_that_is_cut_short_anywhere_is_refused() {
    let (dir, path) = made(&["-R"]);
    let whole = fs::read(&path).unwrap();
    let short = dir.path().join("short.iso");
    // Down from the end, and within the descriptors.
    for len in [whole.len() - 1, whole.len() - 2048, whole.len() / 2, 17 * 2048 + 5, 17 * 2048] {
        fs::write(&short, &whole[..len]).unwrap();
        let error = Iso::open(&short).unwrap_err();
        assert!(matches!(error, IsoError::Short { has, .. } if has == len as u64), "{len}: {error}");
    }
}

/// A folder's record.
fn record(name: &[u8], sector: u32, len: u32, flags: u8) -> Vec<u8> {
    let mut r = vec![0; 33];
    r[2..6].copy_from_slice(&sector.to_le_bytes());
    r[10..14].copy_from_slice(&len.to_le_bytes());
    r[25] = flags;
    r[32] = name.len() as u8;
    r.extend(name);
    if r.len() % 2 == 1 {
        r.push(0);
    }
    r[0] = r.len() as u8;
    r
}

/// An image whose top folder lies in sector 20 and a folder `dir` in sector 21, 30 sectors in all.
fn image(top: &[Vec<u8>], dir: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0; 30 * 2048];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(16 * 2048, b"\x01CD001\x01");
    put(16 * 2048 + 128, &2048u16.to_le_bytes());
    put(16 * 2048 + 80, &30u32.to_le_bytes());
    put(16 * 2048 + 156, &record(&[0], 20, 2048, 2));
    put(17 * 2048, b"\xffCD001\x01");
    let dots = |of: u32| [record(&[0], of, 2048, 2), record(&[1], 20, 2048, 2)];
    put(20 * 2048, &[&dots(20)[..], top].concat().concat());
    put(21 * 2048, &[&dots(21)[..], dir].concat().concat());
    out
}

fn read(bytes: Vec<u8>) -> Result<Iso<Vec<u8>>, IsoError> {
    let size = bytes.len() as u64;
    Iso::read(bytes, size)
}

#[test]
fn a_folder_within_itself_is_refused_and_no_path_goes_deeper_than_its_own_parts() {
    let dir = record(b"DIR", 21, 2048, 2);
    let back = [record(b"SELF", 21, 2048, 2), record(b"TOP", 20, 2048, 2)];
    let iso = read(image(&[dir], &back)).unwrap();
    assert_eq!(names(&iso, "dir"), ["self", "top"]);
    for path in ["dir/self", "dir/top", "dir/top/dir/top/dir"] {
        let error = iso.list(path).unwrap_err().to_string();
        assert!(error.contains("leads back"), "{path}: {error}");
    }
}

#[test]
fn extents_that_lie_are_refused_by_the_name_of_what_they_are_of() {
    let top = [
        record(b"DIR", 4_000_000, 2048, 2),
        record(b"BIG.;1", 22, 4_000_000_000, 0),
        record(b"FAR.;1", u32::MAX, 10, 0),
        record(b"OK.;1", 29, 2048, 0),
    ];
    let iso = read(image(&top, &[])).unwrap();
    let nodes = iso.list("").unwrap().unwrap();
    for node in &nodes[1..3] {
        let error = iso.parts(node, &node.name).unwrap_err().to_string();
        assert!(
            error.contains(&format!("/{} should lie in", node.name)) && error.contains("61440"),
            "{error}"
        );
    }
    assert_eq!(iso.parts(&nodes[3], "ok").unwrap(), [59392..61440]);
    let error = iso.list("dir").unwrap_err().to_string();
    assert!(error.contains("/dir should lie in"), "{error}");
    // A folder of gigabytes within a file of gigabytes costs no memory.
    let huge = [record(b"DIR", 21, 1 << 30, 2)];
    let iso = Iso::read(Sparse(image(&huge, &[])), 2 << 30).unwrap();
    assert!(iso.list("dir").unwrap_err().to_string().contains("larger than 8 MiB"));
}

/// As if zeros followed for ever.
struct Sparse(Vec<u8>);

impl ReadAt for Sparse {
    fn read_exact_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = self.0.get(at as usize + i).copied().unwrap_or(0);
        }
        Ok(())
    }
}

#[test]
fn files_beyond_4_gib_lie_in_parts() {
    let part = |sector, len, flags| record(b"BIG.;1", sector, len, flags);
    let top = [part(22, 4096, 0x80), part(25, 2048, 0x80), part(28, 5, 0), record(b"NEXT.;1", 29, 1, 0)];
    let iso = read(image(&top, &[])).unwrap();
    let nodes = iso.list("").unwrap().unwrap();
    assert_eq!(nodes.len(), 2);
    assert_eq!(iso.parts(&nodes[0], "big").unwrap(), [45056..49152, 51200..53248, 57344..57349]);
    let lies = [
        vec![part(22, 4096, 0x80), record(b"OTHER.;1", 25, 1, 0)],
        vec![part(22, 4096, 0x80)],
        (0..44).map(|_| part(22, 1, 0x80)).collect(),
    ];
    for top in lies {
        let error = read(image(&top, &[])).unwrap().list("").unwrap_err().to_string();
        assert!(error.contains("part"), "{error}");
    }
}

#[test]
fn rock_ridge_that_never_ends_is_refused() {
    // SP in the top folder's own record; a name whose continuation is itself.
    let with = |name: &[u8], sector: u32, flags: u8, susp: &[u8]| {
        let mut r = record(name, sector, 2048, flags);
        r.extend(susp);
        r[0] = r.len() as u8;
        r
    };
    let ce = |sector: u32, len: u32| {
        let mut e = b"CE\x1c\x01".to_vec();
        for n in [sector, 0, len] {
            e.extend(n.to_le_bytes());
            e.extend(n.to_be_bytes());
        }
        e
    };
    for (sector, len, words) in [
        (28, 28, "for ever"),
        (28, 1 << 20, "for ever"),
        (9_000, 100, "outside"),
        (u32::MAX, u32::MAX, "for ever"),
    ] {
        let mut bytes = image(&[], &[]);
        let top = [
            with(&[0], 20, 2, b"SP\x07\x01\xbe\xef\0"),
            record(&[1], 20, 2048, 2),
            with(b"A.;1", 22, 0, &[b"NM\x06\x01\0a".to_vec(), ce(sector, len)].concat()),
        ]
        .concat();
        bytes[20 * 2048..20 * 2048 + top.len()].copy_from_slice(&top);
        let again = ce(28, 28);
        bytes[28 * 2048..28 * 2048 + again.len()].copy_from_slice(&again);
        let error = read(bytes).and_then(|iso| iso.list("").map(drop)).unwrap_err().to_string();
        assert!(error.contains(words), "{sector} {len}: {error}");
    }
}

proptest! {
    /// Any change to a real image's descriptors and folders gives an answer, soon, and no path out of it.
    #[test]
    fn any_bytes_are_answered(changes in prop::collection::vec((0usize..8 * 2048, any::<u8>()), 0..40)) {
        let dir = [record(b"FILE.;1", 22, 10, 0), record(b"SUB", 21, 2048, 2)];
        let mut bytes = image(&[record(b"DIR", 21, 2048, 2), record(b"F.;1", 23, 100, 0)], &dir);
        for (at, byte) in changes {
            bytes[16 * 2048 + at] = byte;
        }
        let size = bytes.len() as u64;
        if let Ok(iso) = read(bytes) {
            for path in ["", "dir", "dir/sub", "dir/sub/sub/sub"] {
                for node in iso.list(path).ok().flatten().unwrap_or_default() {
                    prop_assert!(!node.name.contains('/') && node.name != "..");
                    for part in iso.parts(&node, "x").unwrap_or_default() {
                        prop_assert!(part.start <= part.end && part.end <= size);
                    }
                }
            }
        }
    }

    #[test]
    fn any_system_use_field_is_answered(field in prop::collection::vec(any::<u8>(), 0..300), more in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = record::rock_ridge(&field, &|_, _| Ok(more.clone()));
        // With signatures that it knows.
        let mut field = field;
        for (i, sig) in [b"NM", b"CE", b"SL"].iter().enumerate() {
            if let Some(front) = field.get_mut(i * 30..i * 30 + 2) {
                front.copy_from_slice(*sig);
            }
        }
        let _ = record::rock_ridge(&field, &|_, _| Ok(more.clone()));
    }
}
