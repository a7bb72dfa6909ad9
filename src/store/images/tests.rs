#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::{
    model::Arch,
    store::{blobs::SealedBlob, testing::TempDir},
};
use std::{collections::BTreeMap, io::Write as _, os::unix::fs::PermissionsExt as _};

fn sealed(store: &ImageStore, bytes: &[u8]) -> SealedBlob {
    let mut w = store.blobs().begin().unwrap();
    w.write_all(bytes).unwrap();
    w.seal(Digest::of(bytes)).unwrap()
}

/// An image with a kernel and an initramfs of the given bytes.
fn try_import(
    store: &ImageStore,
    tag: &str,
    kernel: &str,
    initramfs: &str,
    move_tag: bool,
) -> Result<Published, StoreError> {
    let blobs = vec![sealed(store, kernel.as_bytes()), sealed(store, initramfs.as_bytes())];
    let manifest = Manifest {
        schema: 1,
        tag: tag.parse().unwrap(),
        arch: Arch::X86_64,
        kernel: blobs.first().unwrap().name(),
        initramfs: vec![blobs.last().unwrap().name()],
        rootfs: None,
        cmdline: String::new(),
        native: false,
        labels: BTreeMap::new(),
        provenance: BTreeMap::new(),
    };
    store.publish(blobs, &manifest, move_tag)
}

fn import(store: &ImageStore, tag: &str, kernel: &str, initramfs: &str) -> Digest {
    try_import(store, tag, kernel, initramfs, false).unwrap().digest
}

fn store() -> (TempDir, ImageStore) {
    let dir = TempDir::new();
    let store = ImageStore::open(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn what_one_process_imports_another_serves() {
    let (dir, store) = store();
    let service = ImageStore::open(dir.path()).unwrap();
    assert!(service.blob(Digest::of(b"k")).unwrap().is_none());
    let web = import(&store, "web:1", "k", "i");
    assert_eq!(service.resolve("web:1").unwrap().digest, web);
    assert_eq!(service.blob(Digest::of(b"k")).unwrap().unwrap().content.size(), 1);
    assert!(service.blob(web).unwrap().is_some(), "init fetches the manifest as a blob");
    assert_eq!(service.list().unwrap().len(), 1);
}

#[test]
fn a_moved_tag_leaves_the_old_image_to_its_pins() {
    let (_dir, store) = store();
    let old = import(&store, "web:1", "k", "i");
    let refused = try_import(&store, "web:1", "k2", "i", false).unwrap_err().to_string();
    assert!(refused.contains("--move-tag"), "{refused}");
    assert_eq!(store.resolve("web:1").unwrap().digest, old);
    let moved = try_import(&store, "web:1", "k2", "i", true).unwrap();
    assert_eq!(moved.moved_from, Some(old));
    assert_eq!(store.resolve("web:1").unwrap().digest, moved.digest);
    assert!(store.get(old).unwrap().is_some());
    assert!(store.blob(Digest::of(b"k")).unwrap().is_some());
    // A new process sees the same, and its sweep takes nothing.
    let again = ImageStore::open(&store.0.dir).unwrap();
    assert!(again.get(old).unwrap().is_some());
    store.remove(&old.to_string(), |_| Ok(vec![])).unwrap();
    assert!(again.get(old).unwrap().is_none());
    assert!(again.get(moved.digest).unwrap().is_some());
}

#[test]
fn importing_the_same_again_changes_nothing() {
    let (_dir, store) = store();
    let first = import(&store, "web:1", "k", "i");
    let again = try_import(&store, "web:1", "k", "i", false).unwrap();
    assert_eq!(again, Published { digest: first, existed: true, moved_from: None });
}

#[test]
fn removal_spares_what_others_need_and_what_machines_run() {
    let (_dir, store) = store();
    let one = import(&store, "web:1", "kernel", "one");
    import(&store, "web:2", "kernel", "two");
    let used = store.remove("web:1", |d| {
        assert_eq!(d, one);
        Ok(vec!["r1 (52:54:00:00:00:01) is pinned to it".into()])
    });
    assert!(used.unwrap_err().to_string().contains("52:54:00:00:00:01"));
    assert!(store.get(one).unwrap().is_some());
    assert!(matches!(store.remove("web:1", |_| Err("db locked".into())), Err(RemoveError::Unknown { .. })));
    let removed = store.remove("web:1", |_| Ok(vec![])).unwrap();
    assert_eq!(removed.blobs, 2, "its manifest and its initramfs");
    assert!(store.blob(Digest::of(b"kernel")).unwrap().is_some());
    assert!(store.blob(Digest::of(b"one")).unwrap().is_none());
    assert!(store.resolve("web:1").unwrap_err().to_string().contains("did you mean web:2?"));
}

#[test]
fn a_blob_of_the_wrong_size_is_named_and_not_served() {
    let (_dir, store) = store();
    import(&store, "web:1", "kernel", "i");
    let digest = Digest::of(b"kernel");
    assert!(store.blob(digest).unwrap().is_some());
    let path = store.blobs().path(digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"kerne").unwrap();
    let said = store.blob(digest).unwrap_err().to_string();
    assert!(said.contains(&digest.to_string()) && said.contains("web:1"), "{said}");
    fs::remove_file(&path).unwrap();
    assert!(store.blob(digest).unwrap_err().to_string().contains("missing"));
}

#[test]
fn a_changed_kernel_or_initramfs_of_the_right_size_is_not_served() {
    let (_dir, store) = store();
    import(&store, "web:1", "kernel", "initramfs");
    for good in [&b"kernel"[..], b"initramfs"] {
        let digest = Digest::of(good);
        assert!(store.blob(digest).unwrap().is_some());
        // In place, as a flipped bit would be: the same file, the same length.
        let path = store.blobs().path(digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut bytes = good.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        for what in ["hash to", "found to be damaged"] {
            let said = store.blob(digest).unwrap_err().to_string();
            assert!(said.contains(what) && said.contains("web:1"), "{said}");
        }
    }
    import(&store, "web:1", "kernel", "initramfs");
    assert!(store.blob(Digest::of(b"kernel")).unwrap().is_some(), "importing again repairs it");
    assert!(store.blob(Digest::of(b"initramfs")).unwrap().is_some());
}

#[test]
fn an_image_whose_removal_was_killed_can_not_be_pinned_from_memory() {
    let (_dir, store) = store();
    let web = import(&store, "web:1", "kernel", "i");
    assert!(store.resolve(&web.to_string()).is_ok());
    // What `remove` does first; its blobs go at the next opening.
    fs::remove_file(store.tag_path(&"web:1".parse().unwrap())).unwrap();
    assert!(store.resolve(&web.to_string()).is_err());
}

#[test]
fn a_tag_that_is_cut_hides_no_other_image_and_takes_nothing_away() {
    let (dir, store) = store();
    let web = import(&store, "web:1", "kernel", "i");
    let db = import(&store, "db:1", "other kernel", "i");
    fs::write(store.tag_path(&"web:1".parse().unwrap()), "").unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    assert_eq!(store.entries().unwrap().iter().map(|e| e.digest).collect::<Vec<_>>(), [db]);
    assert!(store.resolve("db:1").is_ok() && store.blob(Digest::of(b"other kernel")).unwrap().is_some());
    assert!(store.blob(Digest::of(b"kernel")).unwrap().is_none(), "nobody asked for its image");
    assert!(store.get(web).unwrap().is_some(), "pins go on");
    assert!(store.blob(Digest::of(b"kernel")).unwrap().is_some());
    assert!(store.resolve("web:1").unwrap_err().to_string().contains("tags/web/1"));
    assert!(matches!(store.bad_tags().unwrap()[..], [StoreError::BadTagFile { .. }]));
    assert!(store.blobs().path(Digest::of(b"kernel")).exists(), "who knows what it pointed to");
}

#[test]
fn a_changed_manifest_is_never_believed() {
    let (dir, store) = store();
    let web = import(&store, "web:1", "kernel", "i");
    let path = store.blobs().path(web);
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, text.replace("\"cmdline\": \"\"", "\"cmdline\": \"init=/bin/sh\"")).unwrap();
    assert!(matches!(store.get(web), Err(StoreError::Corrupt { .. })));
    assert!(store.resolve("web:1").is_err());
    // Opening must not take the blobs of an image that it can't read.
    let again = ImageStore::open(dir.path()).unwrap();
    assert!(again.blobs().path(Digest::of(b"kernel")).exists());
    assert!(again.entries().unwrap().first().unwrap().image.is_err());
    assert!(again.remove("web:1", |_| Ok(vec![])).is_ok());
    assert!(!again.blobs().path(Digest::of(b"kernel")).exists());
}

#[test]
fn opening_clears_what_a_killed_import_left() {
    let (dir, store) = store();
    let web = import(&store, "web:1", "kernel", "i");
    store.blobs().publish(sealed(&store, b"orphan")).unwrap();
    fs::write(dir.path().join("tags/web/.tmp-1-1-1"), b"half").unwrap();
    let again = ImageStore::open(dir.path()).unwrap();
    assert!(!again.blobs().path(Digest::of(b"orphan")).exists());
    assert!(!dir.path().join("tags/web/.tmp-1-1-1").exists());
    assert_eq!(again.resolve("web:1").unwrap().digest, web);
}

#[test]
fn a_pin_guard_holds_off_a_removal() {
    let (dir, store) = store();
    import(&store, "web:1", "kernel", "i");
    let guard = store.pin_guard().unwrap();
    let other = ImageStore::open(dir.path()).unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let remover = std::thread::spawn(move || {
        tx.send(()).unwrap();
        other.remove("web:1", |_| Ok(vec![]))
    });
    rx.recv().unwrap();
    assert!(store.resolve("web:1").is_ok(), "nothing goes while the guard lives");
    drop(guard);
    remover.join().unwrap().unwrap();
    assert!(store.resolve("web:1").is_err());
}
