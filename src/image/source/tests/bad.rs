//! Archives that are out of order: each is refused, by the entry's name.
use super::*;

#[track_caller]
fn refused(bytes: Vec<u8>, want: &str) {
    let said = refusal(&bytes);
    assert!(said.contains(want), "{said:?} lacks {want:?}");
}

#[test]
fn names_that_lead_out_are_refused() {
    let good = || Archive::new().file("etc/hosts", "x");
    refused(good().file("../evil", "x").end(), "entry `../evil`: its name has `..` in it");
    refused(good().file("a/../../evil", "x").end(), "entry `a/../../evil`");
    refused(
        good().hardlink("evil", "../../etc/shadow").end(),
        "entry `evil`: it is a hard link to `../../etc/shadow`",
    );
    refused(good().pax(&[("path", "x/../../evil")]).file("fine", "x").end(), "entry `x/../../evil`");
    refused(good().raw(b'L', "L", "", b"../evil\0").file("fine", "x").end(), "entry `../evil`");
    // A slash in front means the root of the image.
    assert_eq!(
        names(&opened(&good().file("/etc/motd", "m").end())),
        ["etc dir", "etc/hosts file x", "etc/motd file m"]
    );
}

#[test]
fn a_link_never_leads_out_of_the_tree() {
    let tree = opened(
        &Archive::new()
            .symlink("abs", "/etc")
            .symlink("up", "../../../etc")
            .symlink("loop", "loop")
            .file("abs/passwd", "inside")
            .file("up/shadow", "inside too")
            .end(),
    );
    assert_eq!(
        names(&tree),
        [
            "abs -> /etc",
            "etc dir",
            "etc/passwd file inside",
            "etc/shadow file inside too",
            "loop -> loop",
            "up -> ../../../etc"
        ]
    );
    assert_eq!(tree.read_all("up/passwd", 100).unwrap(), b"inside");
    assert_eq!(tree.read_link("abs"), Some(b"/etc".as_slice()));
    assert!(tree.read("loop/x").unwrap_err().to_string().contains("more than 40 symbolic links"));
    assert!(tree.read("abs/none").unwrap_err().to_string().contains("not in the root"));
    refused(Archive::new().symlink("loop", "loop").file("loop/x", "").end(), "entry `loop/x`");
}

#[test]
fn links_need_a_target_that_is_there() {
    refused(
        Archive::new().hardlink("b", "a").file("a", "").end(),
        "entry `b`: it is a hard link to `a`, which is not in the archive before it",
    );
    refused(Archive::new().dir("a").hardlink("b", "a").end(), "hard link to the folder `a`");
    refused(Archive::new().symlink("b", "").end(), "entry `b`: it is a link without a target");
    let tree = opened(&Archive::new().file("a", "one").hardlink("b", "./a").file("a", "two").end());
    // As on disk: a later file takes the name, not the inode.
    assert_eq!(names(&tree), ["a file two", "b file one"]);
}

#[test]
fn devices_stay_below_dev() {
    let archive = |name: &str| Archive::new().file("a", "").raw(b'4', name, "", b"").end();
    refused(archive("srv/disk"), "entry `srv/disk`: it is a block device outside /dev");
    assert_eq!(names(&opened(&archive("dev/sda"))), ["a file ", "dev dir", "dev/sda block 1:3"]);
    let with = |devices| Options { devices, ..Options::default() };
    let tree = open_bytes(&archive("srv/disk"), &with(Devices::Skip)).unwrap();
    assert_eq!(names(&tree), ["a file "]);
    let tree = open_bytes(&archive("srv/disk"), &with(Devices::Keep)).unwrap();
    assert_eq!(names(&tree), ["a file ", "srv dir", "srv/disk block 1:3"]);
    assert!(
        refusal_with(&archive("dev/sda"), &with(Devices::Refuse)).contains("`dev/sda`: it is a block device")
    );
}

#[test]
fn names_that_lie_are_refused() {
    let mut nul = Archive::new();
    nul.push(b'L', b"L", b"", b"a\0b\0", |_| ());
    refused(nul.file("x", "").end(), "zero byte");
    let mut long = Archive::new();
    long.push(b'L', b"L", b"", "x/".repeat(2500).as_bytes(), |_| ());
    refused(long.file("x", "").end(), "4999 bytes, and 4095 are allowed");
    let mut huge = Archive::new();
    huge.push(b'L', b"L", b"", b"", |h| h.set_size(1 << 40));
    refused(huge.file("x", "").end(), "longer than the bound");
    let mut past = Archive::new();
    past.push(b'x', b"x", b"", b"", |h| h.set_size(5000));
    refused(past.end(), "the archive ends inside it");
    refused(
        Archive::new().raw(b'x', "x", "", b"999 path=a\n").file("x", "").end(),
        "a record's length is wrong",
    );
    refused(Archive::new().pax(&[("path", "a")]).pax(&[("path", "b")]).file("x", "").end(), "two headers");
    refused(
        Archive::new().file("a", "").pax(&[("path", "a")]).end(),
        "belongs to an entry that doesn't come",
    );
    refused(
        Archive::new().pax(&[("uid", "4294967295")]).file("x", "").end(),
        "entry `x`: its owner is not a number that fits",
    );
    refused(
        Archive::new().pax(&[("size", "99999")]).file("x", "abc").end(),
        "entry `x`: the archive ends inside it",
    );
    refused(Archive::new().raw(b'g', "g", "", b"9 path=a\n").file("x", "").end(), "for all entries");
    refused(Archive::new().raw(b'M', "x", "", b"").end(), "its type `M` is unknown");
    refused(Archive::new().raw(b'5', "d", "", b"hidden").end(), "folder with contents");
    refused(Archive::new().file("", "x").end(), "it has no name");
}

#[test]
fn what_is_cut_or_damaged_is_told_apart_from_what_is_no_archive() {
    let whole = Archive::new().file("a", &"x".repeat(2000)).file("b", "y");
    refused(whole.clone().cut(), "it is truncated: it ends without the two empty blocks");
    let mut cut = whole.clone().cut();
    cut.truncate(1000);
    refused(cut, "entry `a`: the archive ends inside it: it is truncated");
    let mut cut = whole.clone().cut();
    cut.truncate(512 + 2048 + 100);
    refused(cut, "in the middle of a header");
    let mut damaged = whole.end();
    damaged[512 + 2048] ^= 1;
    refused(damaged, "the header at byte 2560 is damaged");
    refused(b"not an archive, a text".repeat(100), "it is not a tar archive");
    refused(b"short".to_vec(), "it is not a tar archive");
    refused(Vec::new(), "is empty");
    refused(vec![0; 10240], "nothing in it");
    refused([b"hsqs".as_slice(), &[0; 600]].concat(), "is a squashfs already");
    refused(b"PK\x03\x04zip".to_vec(), "is a zip archive");
    refused([b"BZh91AY&SY".as_slice(), &[0; 600]].concat(), "bzip2 -d");
}

#[test]
fn bombs_are_bounded() {
    let bounds = |change: fn(&mut Bounds)| {
        let mut options = Options::default();
        change(&mut options.bounds);
        options
    };
    let many = (0..50).fold(Archive::new(), |a, i| a.file(&format!("f{i}"), "0123456789")).end();
    let said = refusal_with(&many, &bounds(|b| b.entries = 20));
    assert!(said.contains("entry `f20`: it holds more than 20 entries"), "{said}");
    let said = refusal_with(&many, &bounds(|b| b.content_bytes = 95));
    assert!(said.contains("entry `f9`: it holds more than 95 bytes of file contents"), "{said}");
    let said = refusal_with(&many, &bounds(|b| b.metadata_bytes = 3000));
    assert!(said.contains("bytes of names and attributes"), "{said}");
    let deep = Archive::new().file(&"d/".repeat(40), "").end();
    let said = refusal_with(&deep, &bounds(|b| b.depth = 30));
    assert!(said.contains("40 folders deep, and 30 are allowed"), "{said}");
    // Folders that nobody named count.
    let deep = Archive::new().file(&format!("{}x", "d/".repeat(40)), "").end();
    let said = refusal_with(&deep, &bounds(|b| b.entries = 30));
    assert!(said.contains("more than 30 entries"), "{said}");

    let zeros = Archive::new().file("big", &"\0".repeat(3 << 20)).end();
    let packed = zstd::encode_all(zeros.as_slice(), 3).unwrap();
    assert_eq!(names(&opened(&packed)).len(), 1);
    let said = refusal_with(&packed, &bounds(|b| b.unpacked_bytes = 1 << 20));
    assert!(said.contains("more than 1048576 bytes once unpacked"), "{said}");
}

#[test]
fn a_sparse_map_that_lies_is_refused() {
    let sparse = |map: &str, size: &str, data: &str| {
        let records = [("GNU.sparse.map", map), ("GNU.sparse.size", size), ("GNU.sparse.name", "s")];
        Archive::new().pax(&records).file("x", data).end()
    };
    assert_eq!(names(&opened(&sparse("2,3,8,1", "10", "abcd"))), ["s file \\0\\0abc\\0\\0\\0d\\0"]);
    refused(sparse("2,3,4,1", "10", "abcd"), "entry `s`: it is a sparse file whose map is damaged");
    refused(sparse("2,3,9,2", "10", "abcde"), "overlap or reach past the end");
    refused(sparse("2,300,400,1", "1000", "abcd"), "longer than its data");
    refused(sparse("2,3", "10", "abcd"), "shorter than its data");
    refused(sparse("2,3,8", "10", "abcd"), "pairs");
    refused(sparse("0,1", "999999999999999", "a"), "bytes of file contents");
    let old = [("GNU.sparse.offset", "0"), ("GNU.sparse.size", "9")];
    refused(Archive::new().pax(&old).file("x", "").end(), "version 0.0");
}

#[test]
fn packed_archives_are_told_by_content_and_a_cut_one_is_refused() {
    let plain = Archive::new().file("etc/os-release", "ID=test").end();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&plain).unwrap();
    let gz = gz.finish().unwrap();
    let xz = liblzma::encode_all(plain.as_slice(), 3).unwrap();
    let zst = zstd::encode_all(plain.as_slice(), 3).unwrap();
    for (name, packed) in [("gzip", gz), ("xz", xz), ("zstd", zst)] {
        let tree = opened(&packed);
        assert_eq!(names(&tree), ["etc dir", "etc/os-release file ID=test"], "{name}");
        assert_eq!(tree.facts().archive, Some(crate::model::Digest::of(&packed)));
        let said = refusal(&packed[..packed.len() - 9]);
        assert!(said.contains("truncated") || said.contains("can't unpack it as"), "{name}: {said}");
        let mut damaged = packed.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        assert!(open_bytes(&damaged, &Options::default()).is_err(), "{name}");
        // Two in a row are one archive, as their tools see it.
        let half = plain.len() / 2;
        let _ = half;
    }
}

#[test]
fn a_full_disk_or_a_changed_file_is_said() {
    let packed = zstd::encode_all(Archive::new().file("a", "x").end().as_slice(), 3).unwrap();
    let options = Options { spool: "/nonexistent/folder".into(), ..Options::default() };
    let said = open_bytes(&packed, &options).unwrap_err().to_string();
    assert!(
        said.contains("can't write a temporary file in /nonexistent/folder") && said.contains("TMPDIR"),
        "{said}"
    );

    let dir = TempDir::new();
    let path = dir.path().join("in.tar");
    fs::write(&path, Archive::new().file("a", "before").end()).unwrap();
    let tree = open(&path, &Options::default(), &Silent).unwrap();
    fs::write(&path, Archive::new().file("a", "after").end()).unwrap();
    let said = tree.write_tar(&mut Vec::new(), None).unwrap_err().to_string();
    assert!(said.contains("`a`") && said.contains("changed while it was read"), "{said}");
}
