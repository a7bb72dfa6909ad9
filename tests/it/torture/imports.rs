//! Kill -9 amid imports of images and collections of garbage: images are absent or perfect, and nothing stays.

use super::{
    super::images::{Site, noise, path, squashfs, text},
    Row,
    leases::{OURS, Service, is_up_again},
    times,
};
use pristine::{
    client::{Client, ClientError},
    lab::{Host, Net},
    store::ImageStore,
};
use std::{collections::BTreeSet, os::unix::process::ExitStatusExt as _, time::Instant};

/// One that has an image pinned.
const MACHINE: &str = "52:54:00:00:00:01";

/// Asks the service's API.
fn ask<T: Send>(server: &Host, site: &Site, ask: impl FnOnce(&Client) -> Result<T, ClientError> + Send) -> T {
    let client = Client::new("http://127.0.0.1:8081", &site.at("state").join("api-token")).unwrap();
    server.enter(|| ask(&client)).unwrap().unwrap()
}

/// Imports, removals and collections, each killed at some call that changes the file system.
#[test]
fn kill_9_of_imports_and_collections_loses_no_image_and_leaves_a_clean_store() {
    let mut row = Row::new("kill -9 under image imports and chunk gc");
    let kills = times(15, 150);
    let site = Site::new();
    let mut root = noise(2 << 20);
    squashfs(&site.at(""), "rootfs", &root);
    site.imported("v0", &[]);
    let net = Net::new().unwrap();
    let server = net.host("server", &format!("{OURS}/16")).unwrap();
    let mut listed = BTreeSet::from(["v0:1".to_owned()]);
    let (mut killed, mut beside, mut seed) = (0, 0, 1u32);
    let mut round = 0;
    while killed < kills {
        round += 1;
        assert!(round < kills * 20, "most kills come too late");
        let mut random = |most: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % most
        };
        let collects = round % 2 == 0 && listed.len() > 3;
        let words: Vec<String> = if collects {
            // But for the one that is pinned.
            let oldest = listed.iter().filter(|i| *i != "v0:1").nth(random(2) as usize).unwrap().clone();
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
        // Some beside a service, which has an image in use.
        let mut service = (round % 5 == 1).then(|| Service::start(&server, &site.at("state")));
        let step = format!(
            "round {round}, {} killed at {call} {nth}, beside a service: {}",
            words[0],
            service.is_some()
        );
        let status = site.killed_at(call, nth, &words);
        let kill = status.signal() == Some(9) || status.code() == Some(137);
        assert!(status.success() || kill, "{step}: {status}");
        killed += u32::from(kill);
        beside += u32::from(kill && service.is_some());
        row.made(usize::from(kill));
        if kill && round % 3 == 0 && service.is_none() {
            let begun = Instant::now();
            let mut next = Service::start(&server, &site.at("state"));
            is_up_again(&mut row, begun);
            next.0.kill();
        }
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
        if let Some(service) = &mut service {
            let alarms =
                ask(&server, &site, |client| client.pin(MACHINE, "v0:1").and_then(|_| client.status()));
            let alarms: Vec<_> = alarms.alarms.into_iter().filter(|a| a.about != "disk").collect();
            assert!(alarms.is_empty(), "{step}: {alarms:?}");
            service.0.kill();
        }
    }
    assert!(beside > 0, "none of them beside a service");
    // Twice: what a killed collection left in two packs is found by the next.
    for _ in 0..2 {
        assert!(site.image(&["gc", "--run"]).status.success());
    }
    let left = site.json(&["gc"]);
    assert!(left["garbage"].as_u64() <= Some(left["bytes"].as_u64().unwrap() / 10), "{left}");
    assert!(site.image(&["scrub", "--rate", "0"]).status.success());
    row.end();
}
