//! Each preset's files, in folders and ISOs; what is missing is named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use super::*;
use crate::{image::preset::named, store::testing::TempDir};
use std::{fs, path::Path, process::Command};

fn folder(files: &[&str]) -> TempDir {
    let dir = TempDir::new();
    fs::create_dir(dir.path().join("tree")).unwrap();
    for file in files {
        let path = dir.path().join("tree").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    dir
}

fn iso(dir: &TempDir, volume: &str) -> IsoFile {
    let (iso, tree) = (dir.path().join("x.iso"), dir.path().join("tree"));
    let mut command = Command::new("xorriso");
    command.args(["-as", "mkisofs", "-quiet", "-R", "-J", "-V", volume, "-o"]).args([&iso, &tree]);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    IsoFile::open(&iso).unwrap()
}

fn file(input: &Input) -> String {
    let shown = input.shown().display().to_string();
    shown.rsplit_once("x.iso").or(shown.rsplit_once("tree/")).map(|(_, tail)| tail.to_owned()).unwrap()
}

fn parts(found: &Found) -> [String; 4] {
    let root = found.rootfs.as_ref().map(file).unwrap_or_else(|| "-".into());
    [found.preset.name.to_owned(), file(&found.kernel), file(&found.initramfs), root]
}

#[test]
fn each_iso_is_recognised_by_what_lies_in_it() {
    let medium = ["install.amd/vmlinuz", "install.amd/initrd.gz"];
    let cases: &[(&str, &[&str], [&str; 4])] = &[
        (
            "Ubuntu-Server 24.04 LTS amd64",
            &[
                "casper/vmlinuz",
                "casper/hwe-vmlinuz",
                "casper/initrd",
                "casper/ubuntu-server-minimal.squashfs",
            ],
            ["ubuntu-casper", ":/casper/vmlinuz", ":/casper/initrd", ""],
        ),
        (
            "d-live 12.5.0 st amd64",
            &[
                "live/vmlinuz-6.1.0-18-amd64",
                "live/initrd.img-6.1.0-18-amd64",
                "live/filesystem.squashfs",
                medium[0],
                medium[1],
            ],
            [
                "debian-live",
                ":/live/vmlinuz-6.1.0-18-amd64",
                ":/live/initrd.img-6.1.0-18-amd64",
                ":/live/filesystem.squashfs",
            ],
        ),
        (
            "Fedora-WS-Live-40",
            &["images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", "LiveOS/squashfs.img"],
            [
                "fedora-live",
                ":/images/pxeboot/vmlinuz",
                ":/images/pxeboot/initrd.img",
                ":/LiveOS/squashfs.img",
            ],
        ),
        (
            "Fedora-KDE-Live-42",
            &["boot/x86_64/loader/linux", "boot/x86_64/loader/initrd", "LiveOS/squashfs.img"],
            [
                "fedora-live",
                ":/boot/x86_64/loader/linux",
                ":/boot/x86_64/loader/initrd",
                ":/LiveOS/squashfs.img",
            ],
        ),
        (
            "fedora-coreos-43",
            &["images/pxeboot/vmlinuz", "images/pxeboot/initrd.img", "images/pxeboot/rootfs.img"],
            [
                "fedora-coreos",
                ":/images/pxeboot/vmlinuz",
                ":/images/pxeboot/initrd.img",
                ":/images/pxeboot/rootfs.img",
            ],
        ),
        (
            "FLATCAR",
            &["flatcar/vmlinuz", "flatcar/cpio.gz"],
            ["flatcar", ":/flatcar/vmlinuz", ":/flatcar/cpio.gz", "-"],
        ),
        (
            "TALOS_V1_11_5",
            &["boot/vmlinuz", "boot/initramfs.xz"],
            ["talos", ":/boot/vmlinuz", ":/boot/initramfs.xz", "-"],
        ),
        ("ISOIMAGE", &["linux", "initrd.gz"], ["debian-installer", ":/linux", ":/initrd.gz", "-"]),
    ];
    for (volume, files, wanted) in cases {
        let dir = folder(files);
        let found = recognise(&iso(&dir, volume)).unwrap_or_else(|e| panic!("{volume}: {e}"));
        assert_eq!(parts(&found), *wanted, "{volume}");
        assert_eq!(found.notes, Vec::<String>::new(), "{volume}");
    }
}

#[test]
fn what_is_none_of_them_is_told_what_was_looked_for() {
    let dir = folder(&["boot/vmlinuz", "boot/initramfs.xz", "setup.exe"]);
    let error = recognise(&iso(&dir, "CHECKN1X")).unwrap_err().to_string();
    assert!(error.contains("x.iso (CHECKN1X) is none of the systems"), "{error}");
    for words in [
        "debian-live: live/vmlinuz*, live/initrd*, live/filesystem.squashfs\n",
        "ubuntu-casper: casper/vmlinuz*, casper/initrd*, casper/*.squashfs\n",
        "talos: boot/vmlinuz*, boot/initramfs.xz in a volume TALOS…\n",
        "--foreign",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn an_installer_that_needs_its_medium_is_refused_until_it_is_asked_for_by_name() {
    let dir = folder(&["install.amd/vmlinuz", "install.amd/initrd.gz", "pool/x"]);
    let iso = iso(&dir, "Debian 12.5.0 amd64 n");
    let error = recognise(&iso).unwrap_err().to_string();
    assert!(
        error.contains("looks for packages on the medium") && error.contains("netboot.tar.gz"),
        "{error}"
    );
    let found = find(&iso, named("debian-installer").unwrap()).unwrap();
    assert_eq!(parts(&found)[1..3], [":/install.amd/vmlinuz", ":/install.amd/initrd.gz"]);
    assert!(found.notes[0].contains("installation medium"));
}

fn in_folder(preset: &str, files: &[&str]) -> Result<Found, LiveError> {
    let dir = folder(files);
    find(&Folder::open(&dir.path().join("tree")).unwrap(), named(preset).unwrap())
}

#[test]
fn each_preset_finds_its_files_in_a_folder_as_its_project_names_them() {
    let cases: &[(&str, &[&str], [&str; 3])] = &[
        ("ubuntu-casper", &["vmlinuz", "initrd", "noble.iso"], ["vmlinuz", "initrd", "noble.iso"]),
        ("ubuntu-casper", &["linux", "initrd", "noble.iso", "pxelinux.0"], ["linux", "initrd", "noble.iso"]),
        ("debian-live", &["vmlinuz", "initrd.img", "my.squashfs"], ["vmlinuz", "initrd.img", "my.squashfs"]),
        (
            "fedora-live",
            &["vmlinuz", "initrd.img", "squashfs.img"],
            ["vmlinuz", "initrd.img", "squashfs.img"],
        ),
        (
            "debian-installer",
            &["debian-installer/amd64/linux", "debian-installer/amd64/initrd.gz", "pxelinux.0"],
            ["debian-installer/amd64/linux", "debian-installer/amd64/initrd.gz", "-"],
        ),
        (
            "flatcar",
            &[
                "flatcar_production_pxe.vmlinuz",
                "flatcar_production_pxe.vmlinuz.sig",
                "flatcar_production_pxe_image.cpio.gz",
            ],
            ["flatcar_production_pxe.vmlinuz", "flatcar_production_pxe_image.cpio.gz", "-"],
        ),
        (
            "fedora-coreos",
            &[
                "fedora-coreos-43.1-live-kernel.x86_64",
                "fedora-coreos-43.1-live-kernel.x86_64.sig",
                "fedora-coreos-43.1-live-initramfs.x86_64.img",
                "fedora-coreos-43.1-live-rootfs.x86_64.img",
            ],
            [
                "fedora-coreos-43.1-live-kernel.x86_64",
                "fedora-coreos-43.1-live-initramfs.x86_64.img",
                "fedora-coreos-43.1-live-rootfs.x86_64.img",
            ],
        ),
        ("talos", &["vmlinuz-amd64", "initramfs-amd64.xz"], ["vmlinuz-amd64", "initramfs-amd64.xz", "-"]),
        ("talos", &["kernel-amd64", "initramfs-amd64.xz"], ["kernel-amd64", "initramfs-amd64.xz", "-"]),
    ];
    for (preset, files, wanted) in cases {
        let found = in_folder(preset, files).unwrap_or_else(|e| panic!("{preset}: {e}"));
        assert_eq!(parts(&found)[1..], *wanted, "{preset}");
    }
    // An unpacked ISO does as well, but where the system wants the ISO itself.
    let unpacked = ["live/vmlinuz", "live/initrd.img", "live/filesystem.squashfs"];
    assert_eq!(parts(&in_folder("debian-live", &unpacked).unwrap())[1], "live/vmlinuz");
    let error =
        in_folder("ubuntu-casper", &["casper/vmlinuz", "casper/initrd", "casper/a.squashfs"]).unwrap_err();
    assert!(error.to_string().contains("*.iso"), "{error}");
}

#[test]
fn of_several_kernels_the_newest_is_taken_with_its_own_initramfs_and_that_is_said() {
    let files = [
        "live/vmlinuz",
        "live/vmlinuz-6.1.0-9-amd64",
        "live/vmlinuz-6.1.0-10-amd64",
        "live/initrd.img",
        "live/initrd.img-6.1.0-10-amd64",
        "live/initrd.img-6.1.0-9-amd64",
        "live/filesystem.squashfs",
        "live/other.squashfs",
    ];
    let dir = folder(&files);
    let found = recognise(&iso(&dir, "two")).unwrap();
    assert_eq!(
        parts(&found)[1..],
        [":/live/vmlinuz-6.1.0-10-amd64", ":/live/initrd.img-6.1.0-10-amd64", ":/live/filesystem.squashfs"]
    );
    assert_eq!(found.notes.len(), 1);
    assert!(
        found.notes[0].contains("3 kernels") && found.notes[0].contains("took live/vmlinuz-6.1.0-10-amd64")
    );

    let both = ["a-1-live-kernel-x", "a-2-live-kernel-x", "a-1-live-initramfs.img", "a-2-live-initramfs.img"];
    let files = [&both[..], &["a-1-live-rootfs.img", "a-2-live-rootfs.img"]].concat();
    assert_eq!(
        parts(&in_folder("fedora-coreos", &files).unwrap())[1..],
        ["a-2-live-kernel-x", "a-2-live-initramfs.img", "a-2-live-rootfs.img"]
    );
}

#[test]
fn what_a_preset_lacks_is_named_by_its_pattern() {
    let said = |preset, files: &[&str]| in_folder(preset, files).unwrap_err().to_string();
    let error = said("debian-live", &["live/vmlinuz", "live/initrd.img"]);
    assert!(error.contains("has no `live/filesystem.squashfs`, which preset debian-live needs"), "{error}");
    let error = said("fedora-coreos", &["x-live-kernel-x86_64", "x-live-rootfs.x86_64.img"]);
    assert!(error.contains("has no `*-live-initramfs*`"), "{error}");
    let error = said("flatcar", &[]);
    assert!(error.contains("has no `flatcar/vmlinuz*`"), "{error}");
    assert!(
        error.contains("  flatcar_production_pxe.vmlinuz, flatcar_production_pxe_image.cpio.gz"),
        "{error}"
    );
    let error = said("debian-live", &["vmlinuz", "initrd.img", "a.squashfs", "b.squashfs"]);
    assert!(error.contains("several files that could be the root: a.squashfs, b.squashfs"), "{error}");
    assert!(Folder::open(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
}

#[test]
fn patterns_take_any_letters_and_versions_sort_as_people_count() {
    for (pattern, name, fits) in [
        ("vmlinuz*", "vmlinuz", true),
        ("vmlinuz*", "vmlinuz-6.1", true),
        ("vmlinuz*", "hwe-vmlinuz", false),
        ("*-live-kernel*", "fedora-coreos-43-live-kernel-x", true),
        ("LiveOS", "liveos", true),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*a*b", "xaxaxb", true),
        ("*a*b", "xaxaxbc", false),
        ("", "", true),
        ("*", "", true),
    ] {
        assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
    }
    let mut kernels = ["v-6.1.0-10", "v-6.1.0-9", "v", "v-6.12", "v-5.10.0-99"];
    kernels.sort_by(|a, b| newer(a, b));
    assert_eq!(kernels, ["v", "v-5.10.0-99", "v-6.1.0-9", "v-6.1.0-10", "v-6.12"]);
}
