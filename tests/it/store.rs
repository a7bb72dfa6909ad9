//! Chunked blobs, as machines and operators meet them: any range over HTTP is the bytes that were imported, and
//! what is damaged is found and not served.

use super::{
    http::{Folder, serve_store},
    images::{Site, noise, path, squashfs, text},
};
use pristine::{
    httpd::Settings,
    model::{Arch, Digest, Manifest, RootFs, Verity},
    store::{
        ImageStore,
        blobs::{BlobWriter, SealedBlob},
    },
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
};

fn sealed(mut to: BlobWriter, bytes: &[u8]) -> SealedBlob {
    to.write_all(bytes).unwrap();
    to.seal(Digest::of(bytes)).unwrap()
}

/// Puts an image with that root into the store.
pub(crate) fn publish(store: &ImageStore, tag: &str, root: &[u8]) -> Digest {
    let kernel = sealed(store.blobs().begin().unwrap(), b"kernel");
    let initramfs = sealed(store.blobs().begin().unwrap(), b"initramfs");
    let root = sealed(store.blobs().begin_shared(root.len() as u64).unwrap(), root);
    let tree = initramfs.name();
    let verity = Verity { root_hash: tree.digest, salt: tree.digest, data_blocks: 1, tree };
    let manifest = Manifest {
        schema: 1,
        tag: tag.parse().unwrap(),
        arch: Arch::X86_64,
        kernel: kernel.name(),
        initramfs: vec![initramfs.name()],
        rootfs: Some(RootFs { blob: root.name(), verity }),
        cmdline: String::new(),
        native: true,
        labels: BTreeMap::new(),
        provenance: BTreeMap::new(),
    };
    store.publish(vec![kernel, initramfs, root], &manifest, false).unwrap().digest
}

/// Three roots, each of them the last one with a few changes.
fn versions() -> Vec<Vec<u8>> {
    let mut root = noise(6 << 20);
    let mut out = vec![root.clone()];
    for n in 1..3 {
        for at in [10_000 * n, 2_000_000 + n, 4_500_000] {
            root.splice(at..at + 100, noise(40_000).into_iter().rev().skip(n));
        }
        out.push(root.clone());
    }
    out
}

#[test]
fn any_range_of_a_root_in_chunks_is_its_bytes() {
    let folder = Folder::new();
    let store = ImageStore::open(&folder.0.join("store")).unwrap();
    let roots = versions();
    let images: Vec<Digest> =
        roots.iter().enumerate().map(|(n, root)| publish(&store, &format!("web:{n}"), root)).collect();
    let served = serve_store(Settings::default(), folder, store, images[0]);
    for root in &roots {
        let digest = Digest::of(root);
        let url = served.url(&format!("/blobs/{digest}"));
        assert!(served.curl(&[&url]) == *root);
        let end = root.len();
        for (from, to) in [(0, 1), (9_999, 10_001), (16_383, 300_000), (1_999_000, 4_600_000), (end - 1, end)]
        {
            let range = format!("{from}-{}", to - 1);
            assert!(served.curl(&["-r", &range, &url]) == root[from..to], "{range}");
        }
        let head = served.text(&["-I", &url]);
        assert!(head.contains(&format!("content-length: {end}\n")), "{head}");
        let parts = served.curl(&["-r", "0-9,2000000-2000099", &url]);
        let holds = |part: &[u8]| parts.windows(part.len()).any(|w| w == part);
        assert!(holds(&root[..10]) && holds(&root[2_000_000..2_000_100]));
        assert!(served.text(&["-i", "-r", "99999999-", &url]).starts_with("HTTP/1.1 416 "));
    }
}

/// Flips a bit in place, as a bad disk does.
pub(crate) fn flip(file: &Path, at: u64) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn damage_that_a_scrub_finds_is_named_not_served_and_healed_by_the_same_import() {
    let site = Site::new();
    squashfs(&site.at(""), "rootfs", &noise(2 << 20));
    let web = site.imported("web", &[]);
    squashfs(&site.at(""), "other", &noise(1_200_000).into_iter().rev().collect::<Vec<_>>());
    site.imported("safe", &[("--rootfs", path(&site.at("other")))]);
    assert!(text(&site.image(&["scrub", "--rate", "0"]).stdout).contains("all images are as they should be"));
    let pack = site.packs().into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    flip(&pack, 1_000_000);

    let out = site.image(&["scrub", "--rate", "0", "--json"]);
    assert_eq!(out.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["found"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["images"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["images"][0]["label"], "web:1");
    let said = text(&site.image(&["scrub", "--rate", "0"]).stdout);
    assert!(said.contains("DAMAGED image web:1") && said.contains("import the same files again"), "{said}");

    let store = ImageStore::open_read_only(&site.store_dir());
    let root = web["manifest"]["rootfs"]["blob"]["digest"].as_str().unwrap().to_owned();
    let image = web["digest"].as_str().unwrap().parse().unwrap();
    let served = serve_store(Settings::default(), Folder::new(), store, image);
    let url = served.url(&format!("/blobs/{root}"));
    let code = |served: &super::http::Served| served.text(&["-o", "got", "-w", "%{http_code}", &url]);
    assert_eq!(code(&served), "500");
    squashfs(&site.at(""), "rootfs", &noise(2 << 20));
    site.imported("web", &[]);
    assert_eq!(code(&served), "200");
    assert!(site.image(&["scrub", "--rate", "0"]).status.success());
}

#[test]
fn gc_tells_before_it_does_and_frees_what_no_image_needs() {
    let site = Site::new();
    let common = noise(1_500_000);
    let version =
        |n: u8| [vec![n; 100], noise(1_000_000).iter().map(|b| b ^ n).collect(), common.clone()].concat();
    for n in 1..3 {
        squashfs(&site.at(""), "rootfs", &version(n));
        site.imported(&format!("v{n}"), &[]);
    }
    assert!(site.image(&["rm", "v1:1"]).status.success());
    let before = site.files();
    let said = text(&site.image(&["gc"]).stdout);
    assert!(said.contains("gc --run") && said.contains("Nothing was changed"), "{said}");
    assert_eq!(site.files(), before);
    let done = site.json(&["gc", "--run"]);
    assert!(done["freed"].as_u64().unwrap() > 800_000, "{done}");
    assert!(site.image(&["verify"]).status.success());
    assert_eq!(site.json(&["gc"])["garbage"], 0);
}
