//! Chunked blobs, as machines and operators meet them: any range over HTTP is the bytes that were imported.

use super::{
    http::{Folder, serve_store},
    images::noise,
};
use pristine::{
    httpd::Settings,
    model::{Arch, Digest, Manifest, RootFs, Verity},
    store::{
        ImageStore,
        blobs::{BlobWriter, SealedBlob},
    },
};
use std::{collections::BTreeMap, io::Write as _};

fn sealed(mut to: BlobWriter, bytes: &[u8]) -> SealedBlob {
    to.write_all(bytes).unwrap();
    to.seal(Digest::of(bytes)).unwrap()
}

/// Puts an image with that root into the store.
fn publish(store: &ImageStore, tag: &str, root: &[u8]) -> Digest {
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
