//! Foreign images by the command line: an ISO is recognised and imported whole, what is broken is named
//! and leaves the store as it was.

use pristine::lab::Folder;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

struct Site {
    folder: Folder,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(program: &str, arguments: &[&str]) {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{program}: {}", text(&out.stderr));
}

impl Site {
    /// A tree as Debian's live ISOs have it, with two kernels.
    fn new() -> Site {
        let site = Site { folder: Folder::temporary("foreign").unwrap() };
        let mut kernel = vec![0; 0x8000];
        kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        kernel[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
        kernel[0x236] = 1;
        fs::create_dir_all(site.at("tree/live")).unwrap();
        fs::create_dir_all(site.at("root")).unwrap();
        fs::write(site.at("root/file"), vec![7; 1 << 20]).unwrap();
        for version in ["6.1.0-9-amd64", "6.1.0-10-amd64"] {
            // Their bytes differ, so that digests tell which was taken.
            kernel.extend(version.bytes());
            fs::write(site.at(&format!("tree/live/vmlinuz-{version}")), &kernel).unwrap();
            let initrd = format!("070701 of {version}");
            fs::write(site.at(&format!("tree/live/initrd.img-{version}")), initrd).unwrap();
        }
        let (root, squashfs) = (site.path("root"), site.path("tree/live/filesystem.squashfs"));
        run("mksquashfs", &[&root, &squashfs, "-noappend", "-quiet"]);
        site
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    fn iso(&self, name: &str) -> String {
        let (iso, tree) = (self.path(name), self.path("tree"));
        run("xorriso", &["-as", "mkisofs", "-quiet", "-R", "-J", "-V", "Test", "-o", &iso, &tree]);
        iso
    }

    fn pristine(&self, words: &[&str]) -> Output {
        let state = self.path("state");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pristine"));
        command.args(["--state-dir", &state]).args(words).output().unwrap()
    }

    fn import(&self, words: &[&str]) -> Output {
        self.pristine(&[&["image", "import", "--name", "live", "--version", "1"], words].concat())
    }

    fn show(&self) -> Value {
        let out = self.pristine(&["image", "show", "live:1", "--json"]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Every file of the store that holds something.
    fn stored(&self) -> usize {
        fn count(dir: &Path) -> usize {
            let Ok(entries) = fs::read_dir(dir) else { return 0 };
            entries
                .map(|e| e.unwrap().path())
                .map(|p| match fs::metadata(&p).unwrap() {
                    meta if meta.is_dir() => count(&p),
                    meta => usize::from(meta.len() > 0),
                })
                .sum()
        }
        count(&self.at("state"))
    }

    /// The import is refused with these words, and stores nothing.
    fn refused(&self, words: &[&str], says: &[&str]) {
        let before = self.stored();
        let out = self.import(words);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{words:?}: {said}");
        says.iter().for_each(|says| assert!(said.contains(says), "{words:?}: no `{says}` in: {said}"));
        assert_eq!(self.stored(), before, "{words:?}");
    }
}

fn digest(path: &Path) -> String {
    pristine::model::Digest::of(&fs::read(path).unwrap()).to_string()
}

#[test]
fn a_live_iso_is_one_command_and_its_files_are_stored_as_they_are() {
    let site = Site::new();
    let iso = site.iso("live.iso");
    let out = site.import(&["--live", &iso, "--cmdline-extra", "console=ttyS0", "--cmdline-extra", "toram"]);
    let said = text(&out.stderr);
    assert!(out.status.success(), "{said}");
    for words in
        ["is debian-live", "live.iso:/live/vmlinuz-6.1.0-10-amd64", "the newest", "by itself: nothing"]
    {
        assert!(said.contains(words), "no `{words}` in: {said}");
    }
    let image = site.show();
    let m = &image["manifest"];
    let wanted = "boot=live components fetch={rootfs_url} BOOTIF={bootif} console=ttyS0 toram";
    assert_eq!((&m["cmdline"], &m["native"]), (&Value::from(wanted), &Value::from(false)));
    for (blob, file) in [
        (&m["kernel"], "vmlinuz-6.1.0-10-amd64"),
        (&m["initramfs"][0], "initrd.img-6.1.0-10-amd64"),
        (&m["rootfs"]["blob"], "filesystem.squashfs"),
    ] {
        assert_eq!(blob["digest"], digest(&site.at("tree/live").join(file)), "{file}");
    }
    let p = &m["provenance"];
    let told = (&p["preset"], &p["iso"], &p["iso_volume"]);
    assert_eq!(told, (&"debian-live".into(), &"live.iso".into(), &"Test".into()));
    assert!(site.pristine(&["image", "verify"]).status.success());

    // The same files from a folder are the same blobs.
    let dir = site.path("tree");
    let words = ["--preset", "debian-live", "--dir", &dir, "--move-tag"];
    assert!(site.import(&words).status.success());
    assert_eq!(site.show()["manifest"]["rootfs"], m["rootfs"]);
}

#[test]
fn a_broken_iso_is_refused_by_what_is_broken_and_nothing_is_stored() {
    let site = Site::new();
    let whole = fs::read(site.iso("live.iso")).unwrap();
    let with = |name: &str, bytes: &[u8]| {
        fs::write(site.at(name), bytes).unwrap();
        site.path(name)
    };
    site.refused(&["--live", &with("short.iso", &whole[..whole.len() / 2])], &["short.iso", "cut short"]);
    site.refused(&["--live", &with("zeros.iso", &[0; 90_000])], &["not an ISO 9660 image"]);
    site.refused(&["--live", &site.path("nowhere.iso")], &["nowhere.iso", "No such file"]);
    site.refused(&["--live", &site.path("tree/live/filesystem.squashfs")], &["--rootfs takes"]);

    // The squashfs' superblock: its block size.
    let at = whole.windows(4).position(|w| w == b"hsqs").unwrap();
    let broken = site.path("superblock.iso");
    fs::write(&broken, &whole).unwrap();
    fs::File::options().write(true).open(&broken).unwrap().write_all_at(&[1], at as u64 + 12).unwrap();
    let says = ["superblock.iso:/live/filesystem.squashfs", "its superblock is damaged"];
    site.refused(&["--live", &broken], &says);

    // Without its root it is nothing that is known; by its preset, the missing file is named.
    fs::remove_file(site.at("tree/live/filesystem.squashfs")).unwrap();
    let rootless = site.iso("rootless.iso");
    site.refused(
        &["--live", &rootless],
        &["rootless.iso (Test) is none of the systems", "casper/*.squashfs"],
    );
    let says = ["has no `live/filesystem.squashfs`, which preset debian-live needs"];
    site.refused(&["--live", &rootless, "--preset", "debian-live"], &says);
    let dir = site.path("tree");
    site.refused(&["--preset", "debian-live", "--dir", &dir], &says);
}

#[test]
fn presets_are_listed_shown_and_found_by_near_names() {
    let site = Site::new();
    let list = text(&site.pristine(&["image", "preset", "list"]).stdout);
    for name in [
        "ubuntu-casper",
        "debian-live",
        "fedora-coreos",
        "fedora-live",
        "flatcar",
        "talos",
        "debian-installer",
    ] {
        assert!(list.contains(name), "{list}");
        let shown = text(&site.pristine(&["image", "preset", "show", name]).stdout);
        assert!(
            shown.contains("cmdline") && shown.contains("verified") && shown.contains("source"),
            "{shown}"
        );
    }
    for words in [&["image", "preset", "show", "debian-liv"][..], &["image", "preset", "show", "xyz"]] {
        let out = site.pristine(words);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1));
        assert_eq!(said.contains("did you mean debian-live?"), words[3] == "debian-liv", "{said}");
        assert!(said.contains("There are") || said.contains("there are"), "{said}");
    }
    site.refused(&["--preset", "talso", "--dir", &site.path("tree")], &["did you mean talos?"]);
}

#[test]
fn a_preset_gives_its_command_line_to_files_that_are_named_one_by_one() {
    let site = Site::new();
    let [kernel, initramfs] =
        ["vmlinuz-6.1.0-9-amd64", "initrd.img-6.1.0-9-amd64"].map(|f| site.path(&format!("tree/live/{f}")));
    // A CoreOS root is a cpio archive, which Pristine's own init could not mount.
    fs::write(site.at("rootfs.img"), b"070701 and more").unwrap();
    let root = site.path("rootfs.img");
    let files = ["--kernel", &kernel, "--initramfs", &initramfs, "--rootfs", &root];
    let out = site.import(&[&files[..], &["--preset", "fedora-coreos"]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let m = site.show()["manifest"].clone();
    assert!(m["cmdline"].as_str().unwrap().starts_with("coreos.live.rootfs_url={rootfs_url} "), "{m}");
    assert_eq!((&m["native"], &m["provenance"]["rootfs"]), (&false.into(), &"cpio archive".into()));
    // A preset whose command line names a root needs one.
    let out = site.import(&[
        "--kernel",
        &kernel,
        "--initramfs",
        &initramfs,
        "--preset",
        "ubuntu-casper",
        "--move-tag",
    ]);
    assert!(
        text(&out.stderr).contains("names {iso_url}, but the image has no rootfs"),
        "{}",
        text(&out.stderr)
    );
    for words in [
        &["--live", "x.iso", "--kernel", "y"][..],
        &["--dir", "x"],
        &["--kernel", "x", "--cmdline-extra", "quiet"],
        &[],
    ] {
        assert_eq!(site.import(words).status.code(), Some(2), "{words:?}");
    }
}
