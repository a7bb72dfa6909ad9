//! Folders as roots.
use super::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};

fn root() -> (TempDir, PathBuf) {
    let (dir, root) = folder_of(&[("etc/hosts", b"h"), ("usr/bin/su", b"su"), ("a-b", b""), ("a/b", b"")]);
    fs::set_permissions(root.join("usr/bin/su"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(root.join("usr/bin/su"), root.join("usr/bin/sudo")).unwrap();
    symlink("/etc/hosts", root.join("hosts")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    (dir, root)
}

fn read(path: &std::path::Path) -> Tree {
    let options = Options { owners: Owners::AllRoot, ..Options::default() };
    open(path, &options, &Silent).unwrap()
}

#[test]
fn a_folder_keeps_modes_links_and_pipes_and_gives_the_bytes_that_its_tar_gives() {
    let (dir, root) = root();
    let tree = read(&root);
    let want = [
        "a dir",
        "a-b file ",
        "a/b file ",
        "etc dir",
        "etc/hosts file h",
        "hosts -> /etc/hosts",
        "pipe fifo",
        "usr dir",
        "usr/bin dir",
        "usr/bin/su file su",
        "usr/bin/sudo = usr/bin/su",
    ];
    assert_eq!(names(&tree), want);
    assert_eq!(tree.get("usr/bin/su").unwrap().meta.mode, 0o4755);
    assert_eq!(tree.facts().provenance().get("source").unwrap(), "folder");

    let packed = dir.path().join("in.tar");
    let tar = std::process::Command::new("tar")
        .args(["--owner=0", "--group=0", "--sort=none", "-C"])
        .args([&root, std::path::Path::new("-cf"), &packed, std::path::Path::new(".")])
        .status()
        .unwrap();
    assert!(tar.success());
    let again = read(&packed);
    assert!(written(&tree, None) == written(&again, None), "{:#?}\n{:#?}", listing(&tree), listing(&again));
}

#[test]
fn a_file_that_is_changed_or_replaced_after_the_folder_was_read_is_named() {
    let (_dir, root) = root();
    let tree = read(&root);
    fs::remove_file(root.join("etc/hosts")).unwrap();
    symlink("/etc/passwd", root.join("etc/hosts")).unwrap();
    let said = tree.write_tar(&mut Vec::new(), None).unwrap_err().to_string();
    assert!(said.contains("`etc/hosts`"), "{said}");

    let tree = read(&root);
    fs::rename(root.join("usr"), root.join("usr2")).unwrap();
    symlink("usr2", root.join("usr")).unwrap();
    assert!(tree.read("usr/bin/su").is_err(), "a folder that became a link is not gone through");
}

#[test]
fn what_an_image_cant_hold_is_left_out_and_said() {
    let (_dir, root) = root();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("sock")).unwrap();
    let tree = read(&root);
    assert!(tree.get("sock").is_none());
    assert_eq!(tree.notes(), ["`sock` is a socket: left out"]);
}

#[test]
fn bounds_hold_for_folders() {
    let (_dir, root) = root();
    let mut options = Options::default();
    options.bounds.entries = 3;
    let said = open(&root, &options, &Silent).unwrap_err().to_string();
    assert!(said.contains("more than 3 entries"), "{said}");
}

#[test]
fn recipes_put_files_where_links_lead_and_take_names_away() {
    let (_dir, root) = folder_of(&[("usr/lib/a", b"a"), ("old/x/y", b"")]);
    symlink("usr/lib", root.join("lib")).unwrap();
    symlink("a", root.join("usr/lib/b")).unwrap();
    let mut tree = read(&root);
    tree.insert_file("/lib/b", Meta::root(0o600), b"new".as_slice()).unwrap();
    tree.insert_dir("lib/new/deep", Meta::root(0o700)).unwrap();
    tree.insert_symlink("etc/localtime", Meta::root(0o777), "/usr/share/zoneinfo/UTC").unwrap();
    tree.insert_file_from("lib/a", Meta::root(0o644), root.join("usr/lib/a")).unwrap();
    assert!(tree.remove("old").unwrap());
    assert!(!tree.remove("old").unwrap());
    assert_eq!(
        names(&tree),
        [
            "etc dir",
            "etc/localtime -> /usr/share/zoneinfo/UTC",
            "lib -> usr/lib",
            "usr dir",
            "usr/lib dir",
            "usr/lib/a file a",
            "usr/lib/b file new",
            "usr/lib/new dir",
            "usr/lib/new/deep dir",
        ]
    );
    let kids: Vec<_> = tree.children("usr/lib").into_iter().map(|(n, _)| show(n)).collect();
    assert_eq!(kids, ["a", "b", "new"]);
    assert_eq!(tree.read_all("lib/b", 10).unwrap(), b"new");
    let said = tree.insert_file("usr/lib/a/b", Meta::root(0o644), b"".as_slice()).unwrap_err().to_string();
    assert!(said.contains("`usr/lib/a`, which is a file"), "{said}");
    assert!(tree.insert_file("../x", Meta::root(0o644), b"".as_slice()).is_err());
}
