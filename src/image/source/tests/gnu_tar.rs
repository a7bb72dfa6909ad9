//! What GNU tar writes is read, and what is written here GNU tar reads.
use super::*;
use std::{os::unix::fs::FileExt as _, path::Path, process::Command};

fn tar(args: &[&str], dir: &Path) -> String {
    let out = Command::new("tar").args(args).current_dir(dir).env("LC_ALL", "C").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn every_format_of_gnu_tar_gives_the_same_tree() {
    let long = format!("{}/{}", ["d".repeat(90), "e".repeat(90), "f".repeat(90)].join("/"), "n".repeat(200));
    let (dir, root) = folder_of(&[("etc/hosts", b"h"), (&long, b"long"), ("a b\nc", b"odd")]);
    std::os::unix::fs::symlink("t".repeat(300), root.join("link")).unwrap();
    fs::hard_link(root.join(&long), root.join("hard")).unwrap();
    // Parts at the front, in the middle and at the end, more than a header holds.
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    for part in (0..40).step_by(2) {
        sparse.write_all_at(&[part as u8 + 1; 4096], part << 20).unwrap();
    }
    drop(sparse);
    let whole = fs::read(root.join("sparse")).unwrap();

    let options = Options { owners: Owners::AllRoot, ..Options::default() };
    let want = open(&root, &options, &Silent).unwrap();
    let formats: [&[&str]; 6] = [
        &["--format=gnu"],
        &["--format=posix"],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--sparse"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=gnu", "--sparse", "--zstd"],
    ];
    for format in formats {
        let mut args = format.to_vec();
        args.extend(["-cf", "../in.tar", "."]);
        tar(&args, &root);
        let tree = open(&dir.path().join("in.tar"), &options, &Silent).unwrap();
        assert!(tree.read_all("sparse", 1 << 30).unwrap() == whole, "{format:?}");
        assert!(written(&tree, None) == written(&want, None), "{format:?}");
    }
}

#[test]
fn gnu_tar_reads_what_is_written() {
    let mut tree = Tree::default();
    let long = format!("{}/{}", "d".repeat(150), "n".repeat(250));
    let meta = |mode, uid, mtime| Meta { mode, uid, gid: uid, mtime, ..Meta::root(0) };
    tree.insert_file(&long, meta(0o4711, 3_000_000, 5), b"content".as_slice()).unwrap();
    tree.insert_symlink("link", meta(0o777, 0, 7), "t".repeat(200)).unwrap();
    tree.insert("dev/console", Node { meta: meta(0o600, 5, 9), kind: Kind::Char(5, 1) }).unwrap();
    let dir = TempDir::new();
    fs::write(dir.path().join("out.tar"), written(&tree, Some(6))).unwrap();
    let said = tar(&["-tvf", "out.tar", "--numeric-owner", "--utc"], dir.path());
    let d = "d".repeat(150);
    let want = [
        "drwxr-xr-x 0/0               0 1970-01-01 00:00 ./".to_owned(),
        format!("drwxr-xr-x 0/0               0 1970-01-01 00:00 {d}/"),
        format!("-rws--x--x 3000000/3000000   7 1970-01-01 00:00 {long}"),
        "drwxr-xr-x 0/0               0 1970-01-01 00:00 dev/".to_owned(),
        "crw------- 5/5             5,1 1970-01-01 00:00 dev/console".to_owned(),
        format!("lrwxrwxrwx 0/0               0 1970-01-01 00:00 link -> {}", "t".repeat(200)),
    ];
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        said.lines().map(words).collect::<Vec<_>>(),
        want.iter().map(|l| words(l)).collect::<Vec<_>>()
    );
}
