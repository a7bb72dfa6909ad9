//! `image build` by the command line: the same input gives the same image, and what can't be built leaves nothing.

use super::{
    boots::tiny_root,
    images::{path, text},
};
use pristine::lab::Folder;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

struct Site {
    folder: Folder,
}

impl Site {
    /// With the root of the tiny image in `root`.
    fn new() -> Site {
        let site = Site { folder: Folder::temporary("build").unwrap() };
        tiny_root(&site.at("root"), "1");
        site
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, source: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pristine"));
        command.args(["--state-dir", path(&self.at("state")), "image", "build", path(source)]);
        command.args(["--name", "web", "--version", "1", "--nics", "virtual"]).args(more);
        command.env_remove("SOURCE_DATE_EPOCH");
        command
    }

    fn built(&self, source: &Path, more: &[&str]) -> Value {
        let out = self.command(source, more).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let mut show = Command::new(env!("CARGO_BIN_EXE_pristine"));
        show.args(["--state-dir", path(&self.at("state")), "image", "show", "web:1", "--json"]);
        let out = show.output().unwrap();
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// What is said of a source that isn't built; nothing may be in the store.
    fn refused(&self, source: &Path, more: &[&str]) -> String {
        let out = self.command(source, more).output().unwrap();
        self.nothing(&out)
    }

    fn nothing(&self, out: &Output) -> String {
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
        let mut todo = vec![self.at("state/store")];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => todo.push(path),
                    path => assert!(path.metadata().unwrap().size() == 0, "{} is left", path.display()),
                }
            }
        }
        text(&out.stderr)
    }

    fn tar(&self, name: &str, more: &[&str]) -> PathBuf {
        let file = self.at(name);
        let mut tar = Command::new("tar");
        tar.args(["--create", "--auto-compress", "--numeric-owner", "--file", path(&file)]).args(more);
        assert!(tar.args(["--directory", path(&self.at("root")), "."]).status().unwrap().success());
        file
    }
}

#[test]
fn a_root_gives_the_same_image_elsewhere_later_and_packed_in_another_way() {
    let site = Site::new();
    let first = site.built(&site.at("root"), &["--label", "role=web", "--check"]);
    let elsewhere = Site::new();
    assert_eq!(elsewhere.built(&elsewhere.at("root"), &["--label", "role=web"])["digest"], first["digest"]);

    // Of a tar the digest is told; all else is the same.
    let (gz, xz) = (site.tar("root.tar.gz", &[]), elsewhere.tar("root.tar.xz", &["--sort=name"]));
    let (gz, xz) = (site.built(&gz, &["--move-tag"]), elsewhere.built(&xz, &["--move-tag"]));
    for part in ["rootfs", "kernel", "initramfs", "cmdline", "arch"] {
        assert_eq!(gz["manifest"][part], first["manifest"][part], "{part}");
        assert_eq!(xz["manifest"][part], first["manifest"][part], "{part}");
    }
    let provenance = &gz["manifest"]["provenance"];
    assert_eq!(provenance["source"], "tar");
    assert_ne!(provenance["source_sha256"], xz["manifest"]["provenance"]["source_sha256"]);
    let log = provenance["build_log"].as_str().unwrap();
    assert!(log.contains("kernel boot/vmlinuz-") && log.contains("packed with zstd"), "{log}");
}

#[test]
fn what_a_boot_loader_reads_is_left_out_and_owners_are_roots_where_asked_for() {
    let site = Site::new();
    let one = site.built(&site.at("root"), &[]);
    let all = site.built(&site.at("root"), &["--keep-boot", "--move-tag"]);
    let size = |image: &Value| image["manifest"]["rootfs"]["blob"]["size"].as_u64().unwrap();
    let kernel = one["manifest"]["kernel"]["size"].as_u64().unwrap();
    assert!(size(&all) > size(&one) + kernel / 2, "{} and {}", size(&one), size(&all));

    let owned = site.at("root/etc/passwd");
    std::os::unix::fs::chown(&owned, Some(1000), Some(1000)).unwrap();
    let mine = site.built(&site.at("root"), &["--move-tag"]);
    let roots = site.built(&site.at("root"), &["--all-root", "--move-tag"]);
    assert_ne!(mine["digest"], one["digest"]);
    assert_eq!(roots["digest"], one["digest"]);
}

#[test]
fn two_builds_that_differ_are_told_by_file_and_not_kept() {
    let site = Site::new();
    // A source that changes by itself: what mmdebstrap makes, with a hook that writes down a random number.
    let said = site.refused(Path::new("tests/fixtures/unsteady"), &["--check"]);
    assert!(said.contains("/etc/random: contents (37 and 37 bytes)"), "{said}");
    assert!(!said.contains("/etc/steady"), "{said}");
}

#[test]
fn what_cant_be_built_is_named_and_nothing_is_left() {
    let site = Site::new();
    let root = site.at("root");
    let release = fs::read_dir(root.join("lib/modules")).unwrap().next().unwrap().unwrap().file_name();
    let release = release.to_str().unwrap();

    let said = site.refused(&root, &["--kernel-version", "5.10"]);
    assert!(said.contains("no kernel 5.10") && said.contains(release), "{said}");
    let modules = root.join("lib/modules").join(release);
    fs::rename(&modules, root.join("lib/modules/5.10")).unwrap();
    let said = site.refused(&root, &[]);
    assert!(said.contains(&format!("/lib/modules/{release} is not there, only 5.10")), "{said}");
    fs::rename(root.join("lib/modules/5.10"), &modules).unwrap();

    let dep = fs::read(modules.join("modules.dep")).unwrap();
    fs::remove_file(modules.join("modules.dep")).unwrap();
    assert!(site.refused(&root, &[]).contains("modules.dep"));
    fs::write(modules.join("modules.dep"), dep).unwrap();

    let init = root.join("sbin/init");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(site.refused(&root, &[]).contains("no init in it"));
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();

    // An archive with an entry that climbs out, and one with a device where none should be.
    symlink("x", root.join("etc/climb")).unwrap();
    let climbing = site.tar("climb.tar", &["--transform=s,^./etc/climb,../climb,"]);
    let said = site.refused(&climbing, &[]);
    assert!(said.contains("../climb"), "{said}");
    assert!(
        Command::new("mknod").arg(root.join("etc/disk")).args(["b", "8", "0"]).status().unwrap().success()
    );
    let device = site.tar("device.tar", &[]);
    let said = site.refused(&device, &[]);
    assert!(
        said.contains("`./etc/disk`: it is a block device outside /dev") && said.contains("--devices"),
        "{said}"
    );
    site.built(&device, &["--devices", "skip"]);
}

#[test]
fn an_oci_image_that_isnt_what_it_says_is_refused() {
    let site = Site::new();
    let layout = site.at("layout");
    let image = format!("{}:tiny", path(&layout));
    for words in [
        &["init", "--layout", path(&layout)][..],
        &["new", "--image", &image],
        &["insert", "--image", &image, path(&site.at("root")), "/"],
    ] {
        assert!(Command::new("umoci").args(words).status().unwrap().success(), "{words:?}");
    }
    site.built(&layout, &[]);
    assert!(Command::new("rm").arg("-r").arg(site.at("state")).status().unwrap().success());

    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let layer = blobs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let digest = &layer.file_name().unwrap().to_str().unwrap()[..12];
    let mut bytes = fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layer, bytes).unwrap();
    assert!(site.refused(&layout, &[]).contains(digest), "a layer that isn't what its digest says");
    fs::remove_file(&layer).unwrap();
    assert!(site.refused(&layout, &[]).contains(digest), "a layer that isn't there");
    assert!(site.refused(&layout, &["--platform", "linux/s390x"]).contains("linux/s390x"));
    assert!(site.refused(&layout, &["--ref", "other"]).contains("other"));
}

#[test]
fn a_full_disk_says_where_there_is_no_room() {
    let site = Site::new();
    let small = site.at("small");
    fs::create_dir(&small).unwrap();
    let script = format!("mount -t tmpfs -o size=16m tmpfs {0}; TMPDIR={0} exec \"$@\"", path(&small));
    let build = site.command(&site.at("root"), &["--keep-boot"]);
    let out = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script, "sh"])
        .arg(build.get_program())
        .args(build.get_args())
        .output()
        .unwrap();
    let said = site.nothing(&out);
    assert!(said.contains("TMPDIR") && said.contains("No space left"), "{said}");
}
