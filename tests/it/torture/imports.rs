//! Kill -9 amid imports of images and collections of garbage: images are absent or perfect, and nothing stays.

use super::{
    super::images::{Site, noise, path, squashfs, text},
    Row, times,
};
use pristine::store::ImageStore;
use std::collections::BTreeSet;

/// Imports, removals and collections, each killed at some call that changes the file system.
#[test]
fn kill_9_of_imports_and_collections_loses_no_image_and_leaves_a_clean_store() {
    let mut row = Row::new("kill -9 under image imports and chunk gc");
    let kills = times(15, 150);
    let site = Site::new();
    let mut root = noise(2 << 20);
    squashfs(&site.at(""), "rootfs", &root);
    site.imported("v0", &[]);
    let mut listed = BTreeSet::from(["v0:1".to_owned()]);
    let (mut killed, mut seed) = (0, 1u32);
    let mut round = 0;
    while killed < kills {
        round += 1;
        assert!(round < kills * 20, "most kills come too late");
        let mut random = |most: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % most
        };
        let collects = round % 2 == 0 && listed.len() > 2;
        let words: Vec<String> = if collects {
            let oldest = listed.iter().nth(random(2) as usize).unwrap().clone();
            assert!(site.image(&["rm", &oldest]).status.success());
            listed.remove(&oldest);
            ["gc", "--run"].map(str::to_owned).into()
        } else {
            let at = random(1_000_000) as usize;
            root.splice(at..at + 50_000, noise(300_000 + round).into_iter().rev().take(60_000));
            squashfs(&site.at(""), "rootfs", &root);
            site.import_words(&format!("v{round}"), &[])
        };
        let call = ["flock", "write", "fchmod", "fsync", "rename", "unlink", "openat"][random(7) as usize];
        let nth = 1 + random(if call == "openat" { 60 } else { 24 });
        let status = site.killed_at(call, nth, &words);
        killed += u32::from(!status.success());
        row.made(usize::from(!status.success()));
        let step = format!("round {round}, {} killed at {call} {nth}", words[0]);
        // What comes next clears away what was left.
        drop(ImageStore::open(&site.store_dir()).unwrap());
        let verified = site.image(&["verify"]);
        assert!(verified.status.success(), "{step}: {}", text(&verified.stdout));
        let now: BTreeSet<String> = site
            .json(&["list"])
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["tags"][0].as_str().unwrap().to_owned())
            .collect();
        assert!(now.is_superset(&listed), "{step}: {listed:?} became {now:?}");
        assert!(now.len() <= listed.len() + 1 && (status.success() || !collects || now == listed), "{step}");
        listed = now;
        let names: Vec<String> = site.files().iter().map(|(p, _)| path(p).to_owned()).collect();
        assert!(!names.iter().any(|n| n.contains("/.tmp-")), "{step}: {names:?}");
        let packs = names.iter().filter(|n| n.ends_with(".pack")).count();
        assert_eq!(names.iter().filter(|n| n.ends_with(".idx")).count(), packs, "{step}: {names:?}");
    }
    // Twice: what a killed collection left in two packs is found by the next.
    for _ in 0..2 {
        assert!(site.image(&["gc", "--run"]).status.success());
    }
    let left = site.json(&["gc"]);
    assert!(left["garbage"].as_u64() <= Some(left["bytes"].as_u64().unwrap() / 10), "{left}");
    assert!(site.image(&["scrub", "--rate", "0"]).status.success());
    row.end();
}
