#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::{
    archive::{self, Archive},
    inventory::Inventory,
    pack::{self, Packed},
    uploads::{KEPT, MAX_UPLOADS, Uploads},
    *,
};
use crate::{
    image::{
        copy::{Verity, copy},
        progress::Silent,
    },
    model::{Arch, Image, Manifest, RootFs, Verity as Tree},
    store::{ImageStore, chunk::tests::noise, testing::TempDir},
};
use proptest::prelude::*;
use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

fn store() -> (TempDir, ImageStore) {
    let dir = TempDir::new();
    let store = ImageStore::open(dir.path()).unwrap();
    (dir, store)
}

/// An image `web:VERSION` of these bytes as its root; kernel and initramfs share chunks, one is empty.
fn image(store: &ImageStore, version: &str, root: &[u8]) -> Image {
    let mut sealed = Vec::new();
    let mut put = |bytes: &[u8]| {
        let mut to = store.blobs().begin_shared(bytes.len() as u64).unwrap();
        to.write_all(bytes).unwrap();
        sealed.push(to.seal(Digest::of(bytes)).unwrap());
        BlobRef { digest: Digest::of(bytes), size: bytes.len() as u64 }
    };
    let tree = copy(root, std::io::sink(), Verity::Derived, 0, &|_| ()).unwrap().tree.unwrap();
    let shared = noise(77, 1 << 20);
    let manifest = Manifest {
        schema: 1,
        tag: Tag::new("web", version).unwrap(),
        arch: Arch::X86_64,
        kernel: put(&shared),
        initramfs: vec![put(&[&shared[..], b"and more"].concat()), put(b"")],
        rootfs: Some(RootFs {
            blob: put(root),
            verity: Tree {
                root_hash: tree.root_hash,
                salt: tree.salt,
                data_blocks: tree.data_blocks,
                tree: put(&tree.bytes),
            },
        }),
        cmdline: "quiet".into(),
        native: true,
        labels: Default::default(),
        provenance: Default::default(),
    };
    let done = store.publish(sealed, &manifest, false).unwrap();
    Image::clone(&store.get(done.digest).unwrap().unwrap())
}

fn packed(store: &ImageStore, image: &Image, since: Option<&Image>) -> Packed {
    pack::pack(store, image, since, &Silent).unwrap()
}

/// Chunks as a request carries them.
fn body(packed: &mut Packed, numbers: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    for n in numbers {
        let bytes = packed.chunk(*n).unwrap();
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(bytes);
    }
    out
}

fn bytes(store: &ImageStore, blob: BlobRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.blobs().reader(blob.digest).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn is_whole(store: &ImageStore, image: &Image) -> bool {
    let whole = |b: BlobRef| Digest::of(&bytes(store, b)) == b.digest;
    let blobs = image.manifest.blobs().all(whole);
    blobs && store.resolve(&image.manifest.tag.to_string()).unwrap() == *image
}

#[test]
fn an_inventory_is_read_as_it_was_written() {
    let (_dir, store) = store();
    let (old, new) = (image(&store, "1", &noise(1, 700_000)), image(&store, "2", &noise(2, 90_000)));
    for packed in [packed(&store, &new, None), packed(&store, &new, Some(&old))] {
        assert_eq!(Inventory::parse(&packed.inventory.to_bytes()).unwrap(), packed.inventory);
    }
    // The two blobs that have most in common travel as one.
    let inventory = packed(&store, &new, None).inventory;
    assert!(inventory.travelling() < inventory.bytes() - (1 << 19));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let (_dir, store) = store();
    let new = image(&store, "1", &noise(1, 700_000));
    let good = packed(&store, &new, None).inventory;
    let refused = |change: &dyn Fn(&mut Inventory)| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(Inventory::parse(&bad.to_bytes()).is_err());
    };
    refused(&|i| i.blobs[0].chunks.swap(0, 1));
    refused(&|i| i.blobs[0].chunks.truncate(1));
    refused(&|i| i.blobs.truncate(2));
    refused(&|i| i.chunks.push(i.chunks[0]));
    refused(&|i| i.chunks[0].chunk.len += 1);
    refused(&|i| i.chunks[0].old = Some((0, 0)));
    refused(&|i| i.manifest.push(b' '));
    refused(&|i| i.signatures.push("none".into()));
}

#[test]
fn an_upload_goes_on_where_it_was_and_ends_as_the_image() {
    let ((_a, from), (_b, to)) = (store(), store());
    let new = image(&from, "1", &noise(1, 3 << 20));
    let mut packed = packed(&from, &new, None);
    let inventory = packed.inventory.to_bytes();
    let now = SystemTime::now();
    let uploads = Uploads::new(to.clone());
    let begun = uploads.begin(&inventory, false, now).unwrap();
    assert_eq!(begun.missing, (0..packed.inventory.chunks.len()).collect::<Vec<_>>());
    let (first, rest) = begun.missing.split_at(begun.missing.len() / 2);
    let first = body(&mut packed, first);
    uploads.take(new.digest, &first, now).unwrap();
    let early = uploads.commit(new.digest, false, &Silent).unwrap_err();
    assert!(matches!(early, TransferError::Missing(m) if m == rest));

    // The service was restarted, and a chunk that came is not whole: both are a thing of asking again.
    let uploads = Uploads::new(to.clone());
    let name = packed.inventory.chunks[0].chunk;
    let dir = to.uploads_dir().join(new.digest.to_string());
    fs::write(dir.join(name.digest.to_string()), vec![0; name.len as usize]).unwrap();
    assert_eq!(uploads.begin(&inventory, false, now).unwrap().missing, rest);
    let rest = body(&mut packed, rest);
    uploads.take(new.digest, &rest, now).unwrap();
    let late = uploads.commit(new.digest, false, &Silent).unwrap_err();
    assert!(matches!(late, TransferError::Missing(m) if m == [0]));
    assert!(to.resolve("web:1").is_err(), "nothing is shown before all is proven");
    let last = body(&mut packed, &[0]);
    uploads.take(new.digest, &last, now).unwrap();
    uploads.commit(new.digest, false, &Silent).unwrap();
    assert!(is_whole(&to, &new));
    assert!(uploads.begin(&inventory, false, now).unwrap().existed);
    assert_eq!(fs::read_dir(to.uploads_dir()).unwrap().count(), 0);

    // The next version: only what it has new.
    let mut root = noise(1, 3 << 20);
    root.splice(1_000_000..1_000_000, *b"inserted");
    let next = image(&from, "2", &root);
    let begun =
        uploads.begin(&pack::pack(&from, &next, None, &Silent).unwrap().inventory.to_bytes(), false, now);
    assert!(begun.unwrap().bytes < 1 << 20);
}

#[test]
fn uploads_are_bounded_in_number_and_age_and_take_only_what_was_asked_for() {
    let ((_a, from), (_b, to)) = (store(), store());
    let uploads = Uploads::new(to.clone());
    let now = SystemTime::now();
    let begin = |n: usize, now| {
        let new = image(&from, &n.to_string(), &noise(n as u64, 9000));
        let bytes = packed(&from, &new, None).inventory.to_bytes();
        uploads.begin(&bytes, false, now).map(|_| new)
    };
    let first = begin(0, now).unwrap();
    let strange = [&5u32.to_le_bytes()[..], b"hello"].concat();
    assert!(matches!(uploads.take(first.digest, &strange, now), Err(TransferError::Unasked(_))));
    assert!(matches!(uploads.take(first.digest, &strange[..7], now), Err(TransferError::Damaged { .. })));
    let unknown = Digest([9; 32]);
    assert!(matches!(uploads.take(unknown, &strange, now), Err(TransferError::NoUpload(_))));
    for n in 1..MAX_UPLOADS {
        begin(n, now).unwrap();
    }
    assert!(matches!(begin(MAX_UPLOADS, now), Err(TransferError::Busy(_))));
    begin(MAX_UPLOADS + 1, now + KEPT + Duration::from_secs(60)).unwrap();
    assert_eq!(fs::read_dir(to.uploads_dir()).unwrap().count(), 1);
}

#[test]
fn a_manifest_of_other_bytes_is_refused_though_every_chunk_is_right() {
    let ((_a, from), (_b, to)) = (store(), store());
    let root = noise(1, 50_000);
    let good = image(&from, "1", &root);
    let mut manifest = good.manifest.clone();
    manifest.tag = Tag::new("web", "2").unwrap();
    manifest.rootfs.as_mut().unwrap().verity.root_hash = Digest([1; 32]);
    let lie = from.publish(Vec::new(), &manifest, false).unwrap().digest;
    let mut packed = packed(&from, &from.get(lie).unwrap().unwrap(), None);
    let uploads = Uploads::new(to.clone());
    let now = SystemTime::now();
    let missing = uploads.begin(&packed.inventory.to_bytes(), false, now).unwrap().missing;
    let chunks = body(&mut packed, &missing);
    uploads.take(lie, &chunks, now).unwrap();
    let error = uploads.commit(lie, false, &Silent).unwrap_err();
    assert!(matches!(error, TransferError::Unproven { .. }), "{error}");
    assert!(to.list().unwrap().is_empty());
}

#[test]
fn an_older_image_is_found_whichever_way_it_is_stored() {
    let ((_a, from), (b, to)) = (store(), store());
    let root = noise(1, 2 << 20);
    let old = image(&from, "1", &root);
    let new = image(&from, "2", &[&root[..1_500_000], b"!", &root[1_500_000..]].concat());
    let file = b.path().join("archive");
    let write = |since: Option<&Image>| {
        let mut out = Vec::new();
        archive::write(&mut packed(&from, &new, since), &mut out, Path::new("x"), &Silent).unwrap();
        fs::write(&file, &out).unwrap();
        out.len()
    };
    assert!(write(Some(&old)) * 4 < write(None));
    write(Some(&old));
    assert!(matches!(Archive::open(&file, &to, &Silent), Err(TransferError::Lacks { .. })));
    // As plain files, as they were stored before there were chunks.
    let plain = |bytes: &[u8]| {
        let mut to = to.blobs().begin().unwrap();
        to.write_all(bytes).unwrap();
        to.seal(Digest::of(bytes)).unwrap()
    };
    let sealed = old.manifest.blobs().map(|blob| plain(&bytes(&from, blob)));
    to.publish(sealed.collect(), &old.manifest, false).unwrap();
    Archive::open(&file, &to, &Silent).unwrap().import(&to, false, &Silent).unwrap();
    assert!(is_whole(&to, &new));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_damage_to_an_inventory_is_an_error_or_another_inventory(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5), cut: proptest::sample::Index,
    ) {
        use std::sync::OnceLock;
        static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
        let good = GOOD.get_or_init(|| {
            let (_dir, store) = store();
            let (old, new) = (image(&store, "1", &noise(1, 90_000)), image(&store, "2", &noise(2, 90_000)));
            packed(&store, &new, Some(&old)).inventory.to_bytes()
        });
        let mut bytes = good.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = Inventory::parse(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes);
        }
        prop_assert!(Inventory::parse(&good[..cut.index(good.len())]).is_err());
    }
}
