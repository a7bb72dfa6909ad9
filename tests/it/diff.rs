//! `image diff`: what an operator reads before re-pointing a rack.

use crate::images::{Site, path, text};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

fn pack(site: &Site, name: &str, words: &[&str], fill: impl Fn(&Path)) -> String {
    let (root, file) = (site.at(&format!("{name}.root")), site.at(name));
    fs::create_dir_all(root.join("var/lib/dpkg")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    // Larger than what an import takes for a system.
    fs::write(root.join("vmlinux"), (0..20_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    fill(&root);
    let mut mksquashfs = Command::new("mksquashfs");
    let out = mksquashfs.args([&root, &file]).args(["-quiet", "-noappend", "-all-root"]).args(words).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    path(&file).to_owned()
}

fn status(packages: &[(&str, &str)]) -> String {
    let paragraph = |(name, version): &(&str, &str)| {
        format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n")
    };
    packages.iter().map(paragraph).collect()
}

fn write(root: &Path, name: &str, contents: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

/// Images web:1 and web:2 whose roots differ in everything, packed by different compressors.
fn two_versions() -> Site {
    let site = Site::new();
    let old = pack(&site, "old", &["-comp", "gzip"], |root| {
        let packages = [("openssl", "3.0.9-1"), ("curl", "7.88-2"), ("nginx", "1.22-1"), ("zlib", "1.2-1")];
        write(root, "var/lib/dpkg/status", &status(&packages));
        write(root, "etc/motd", "one\n");
        write(root, "etc/shadow", "x");
        write(root, "etc/gone", "");
        fs::set_permissions(root.join("etc/shadow"), fs::Permissions::from_mode(0o640)).unwrap();
        (0..30).for_each(|n| write(root, &format!("lib/modules/6.1/{n}.ko"), "old"));
    });
    let new = pack(&site, "new", &["-comp", "zstd", "-b", "4096"], |root| {
        let packages = [("openssl", "3.0.13-1"), ("curl", "7.88-1"), ("zlib", "1.2-1"), ("jq", "1.6-2")];
        write(root, "var/lib/dpkg/status", &status(&packages));
        write(root, "etc/motd", "two\n");
        write(root, "etc/shadow", "x");
        fs::set_permissions(root.join("etc/shadow"), fs::Permissions::from_mode(0o644)).unwrap();
        (0..30).for_each(|n| write(root, &format!("lib/modules/6.2/{n}.ko"), "new"));
        (0..25).for_each(|n| write(root, &format!("etc/conf.{n:02}"), "c"));
    });
    site.imported("web", &[("--rootfs", &old), ("--label", "role=web")]);
    let words = [
        ("--version", "2"),
        ("--rootfs", &new),
        ("--label", "role=db"),
        ("--cmdline", "quiet root={rootfs_url}"),
    ];
    let mut words: Vec<(&str, &str)> = words.to_vec();
    fs::write(site.at("initramfs"), b"070701 with pristine-init and more").unwrap();
    words.push(("--arch", "amd64"));
    let out = site.import("web", &words);
    assert!(out.status.success(), "{}", text(&out.stderr));
    site
}

#[test]
fn two_versions_differ_by_package_file_kernel_command_line_and_size() {
    let site = two_versions();
    let out = site.image(&["diff", "web:1", "web:2"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    let after = |head: &str| said.split_once(head).unwrap_or_else(|| panic!("no {head:?} in\n{said}")).1;
    assert!(said.contains("new bytes") && said.contains("that web:1 lacks"), "{said}");
    assert!(said.contains("cmdline    -console=ttyS0 +quiet\n"), "{said}");
    assert!(said.contains("label      -role=web\nlabel      +role=db\n"), "{said}");
    assert!(said.contains("packages   1 upgraded, 1 DOWNGRADED, 1 added, 1 removed, 1 the same\n"), "{said}");
    assert!(said.contains("files      56 added, 32 removed, 3 changed\n"), "{said}");
    assert!(after("Packages upgraded\n").starts_with("  openssl  3.0.9-1 → 3.0.13-1\n"), "{said}");
    assert!(after("Packages DOWNGRADED\n").starts_with("  curl  7.88-2 → 7.88-1\n"), "{said}");
    assert!(after("Files added\n").starts_with("  /etc/conf.00  1 B\n"), "{said}");
    assert!(said.contains("  … 6 more: --all shows them\n"), "{said}");
    assert!(
        after("Files removed\n").starts_with("  /etc/gone  0 B\n  /lib/modules/6.1/  with all 30 within\n\n"),
        "{said}"
    );
    let changed = after("Files changed\n");
    assert!(changed.starts_with("  /etc/motd  content\n  /etc/shadow  mode 0640 → 0644\n"), "{said}");

    let all = text(&site.image(&["diff", "web:1", "web:2", "--all"]).stdout);
    assert!(all.contains("/lib/modules/6.2/29.ko  3 B\n") && !all.contains("--all shows"), "{all}");

    let value = site.json(&["diff", "web:1", "web:2"]);
    assert_eq!(value["root"]["files"]["added"].as_array().unwrap().len(), 56);
    assert_eq!(value["root"]["packages"]["changed"][1]["way"], "upgraded");
    assert_eq!(value["root"]["files"]["changed"][1]["what"], json!(["mode"]));
    assert_eq!(value["initramfs"]["changed"], true);
    assert_eq!(value["kernel"]["changed"], false);
    let size = |which: &str| value["sizes"]["total"][which].as_u64().unwrap();
    assert!(value["sizes"]["new_bytes"].as_u64().unwrap() < size("new"), "the kernel isn't new");
}

#[test]
fn the_same_root_is_not_read_and_the_rest_is_compared() {
    let site = Site::new();
    let web = site.imported("web", &[]);
    site.imported("quiet", &[("--cmdline", "quiet")]);
    // Not even there.
    let blob = site.blob(&web["manifest"]["rootfs"]["blob"]["digest"]);
    fs::remove_file(blob).unwrap();
    let said = text(&site.image(&["diff", "web:1", "quiet:1"]).stdout);
    assert!(said.contains("contents   the same root filesystem"), "{said}");
    assert!(said.contains("cmdline    -console=ttyS0 -root={rootfs_url} +quiet\n"), "{said}");
    let value = site.json(&["diff", "web:1", "quiet:1"]);
    assert_eq!(value["root"], json!({ "result": "same" }));
    assert_eq!(value["sizes"]["new_bytes"], 0);
}

#[test]
fn what_cannot_be_compared_is_said_and_the_rest_is_compared() {
    let site = Site::new();
    site.imported("web", &[]);
    let mut iso = vec![0; 0x9000];
    iso[0x8000..0x8006].copy_from_slice(b"\x01CD001");
    fs::write(site.at("iso"), iso).unwrap();
    let iso = path(&site.at("iso")).to_owned();
    let mut words = site.import_words("live", &[("--rootfs", &iso), ("--cmdline", "boot=live")]);
    words.push("--foreign".into());
    let out = site.image(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&site.image(&["diff", "web:1", "live:1"]).stdout);
    assert!(said.contains("contents   can't be compared: the root of live:1 is no squashfs"), "{said}");
    assert!(said.contains("cmdline    -console=ttyS0 -root={rootfs_url} +boot=live\n"), "{said}");
    assert!(said.contains("foreign: doesn't verify the root"), "{said}");

    // Of several compressors only one can be read.
    let lz4 = pack(&site, "lz4", &["-comp", "lz4"], |_| ());
    site.imported("lz4", &[("--rootfs", &lz4)]);
    let said = text(&site.image(&["diff", "web:1", "lz4:1"]).stdout);
    assert!(said.contains("the root filesystem of lz4:1: it is compressed with lz4"), "{said}");

    let out = site.image(&["diff", "web:1", "web:3"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("web:3"), "{}", text(&out.stderr));
}

#[test]
fn other_package_databases_are_read_or_named() {
    let site = Site::new();
    let apk = |version: &str| format!("C:Q1x\nP:musl\nV:{version}\nA:x86_64\n\n");
    let old = pack(&site, "old", &["-comp", "xz"], |root| {
        write(root, "lib/apk/db/installed", &apk("1.2.4_rc1-r9"));
        write(root, "var/lib/rpm/Packages", "berkeley");
    });
    let new =
        pack(&site, "new", &["-comp", "xz"], |root| write(root, "lib/apk/db/installed", &apk("1.2.4-r0")));
    site.imported("a", &[("--rootfs", &old)]);
    site.imported("b", &[("--rootfs", &new)]);
    let said = text(&site.image(&["diff", "a:1", "b:1"]).stdout);
    assert!(said.contains("Packages upgraded\n  musl  1.2.4_rc1-r9 → 1.2.4-r0\n"), "{said}");
    assert!(said.contains("a:1: /var/lib/rpm/Packages: a database in rpm's Berkeley DB format"), "{said}");
}
