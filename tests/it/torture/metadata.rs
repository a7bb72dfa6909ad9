//! Signed metadata that is old, has ended, or doesn't belong together: refused by the running service, which goes on
//! with the last good one, also after a kill.

use super::{super::images::Site, Row, site::with_clock, times};
use pristine::{
    lab::{Folder, Host, Mode, Net, Service, Settings},
    store::trust::TrustFiles,
};
use serde_json::Value;
use std::{fs, process::Command};

/// Whether a machine is told to boot something.
fn boots(host: &Host, mac: &str) -> bool {
    let url = format!("http://198.18.0.1:8080/boot/script?mac={mac}&platform=efi&buildarch=x86_64");
    let script = host.run(&["curl", "-s", "--max-time", "30", &url]).unwrap();
    assert!(script.starts_with("#!ipxe"), "{script}");
    script.contains("\nkernel ")
}

fn version(site: &Site) -> u64 {
    TrustFiles::at(&site.at("state")).read().unwrap().trust.version
}

#[test]
fn what_is_stale_expired_or_mixed_counts_for_nothing_and_the_last_good_stays() {
    let mut row = Row::new("stale, expired, mixed signed metadata");
    let site = Site::new();
    let folder = Folder::temporary("metadata").unwrap();
    let net = Net::new().unwrap();
    let server = net.host("server", "198.18.0.1/16").unwrap();
    let client = net.host("client", "198.18.0.2/16").unwrap();
    let web = site.imported("web", &[]);
    let other = site.imported("other", &[("--label", "other=1")]);
    let (key, _) = (site.trusted_key("a"), site.trusted_key("b"));
    site.sign("web:1", "a");
    site.sign("other:1", "b");
    let nbps = folder.path().join("nbp");
    fs::create_dir(&nbps).unwrap();
    let (clock, binary) = with_clock(&folder);
    let settings = Settings {
        binary,
        nbps,
        state: site.at("state"),
        dir: folder.path().to_owned(),
        mode: Mode::Full,
        extra: "[images]\nrequire_signature = true\n".into(),
    };
    let mut service = Service::start(&server, settings).unwrap();
    let pristine = |service: &Service, words: &[&str]| {
        let mut command: Command = service.command(&server);
        command.args(words).output().unwrap().status.success()
    };
    assert!(pristine(&service, &["default", "web:1"]));
    for round in 0..times(2, 50) {
        let mac = format!("52:54:00:00:03:{:02x}", round % 200);
        let good = fs::read_to_string(site.trust_json()).unwrap();
        let counted = version(&site);
        row.holds(boots(&client, &mac), || "what is signed doesn't boot".into());
        // Stale: an older version. Mixed: the same version with other words. Broken: cut, gone.
        let mut document: Value = serde_json::from_str(&good).unwrap();
        document["version"] = (counted - 1).into();
        let stale = document.to_string();
        document["version"] = counted.into();
        document["keys"] = Value::Array(Vec::new());
        let mixed = document.to_string();
        let cut = good[..good.len() / 2].to_owned();
        for (what, text) in
            [("stale", Some(stale)), ("mixed", Some(mixed)), ("cut", Some(cut)), ("gone", None)]
        {
            match text {
                Some(text) => fs::write(site.trust_json(), text).unwrap(),
                None => fs::remove_file(site.trust_json()).unwrap(),
            }
            row.holds(boots(&client, &mac), || format!("{what}: the last good one isn't kept"));
            let listed = site.said(&["key", "list"]);
            row.holds(listed.contains("WARNING"), || format!("{what}: key list says nothing: {listed}"));
            if round % 2 == 0 {
                service.kill();
                service.run(&server).unwrap();
                row.holds(boots(&client, &mac), || {
                    format!("{what}: the last good one isn't kept over a kill")
                });
            }
            row.holds(version(&site) == counted, || {
                format!("{what}: version {} of {counted}", version(&site))
            });
            row.made(1);
        }
        fs::write(site.trust_json(), &good).unwrap();
        // Another image's signature, under this image's name.
        let own = site.signature(&web, &key);
        let saved = fs::read(&own).unwrap();
        let theirs = fs::read_dir(site.signature(&other, "x").parent().unwrap()).unwrap().next().unwrap();
        fs::remove_file(&own).unwrap();
        fs::copy(theirs.unwrap().path(), &own).unwrap();
        row.holds(!boots(&client, &mac), || "another image's signature vouches".into());
        row.made(1);
        fs::remove_file(&own).unwrap();
        fs::write(&own, &saved).unwrap();
        row.holds(boots(&client, &mac), || "its own signature doesn't vouch any more".into());
        // Its key ended: a newer document, which counts from the next boot on, and over a kill.
        let mut document: Value = serde_json::from_str(&good).unwrap();
        document["version"] = (counted + 1).into();
        for k in document["keys"].as_array_mut().unwrap() {
            k["until"] = 1_577_836_800_000_i64.into();
        }
        fs::write(site.trust_json(), document.to_string()).unwrap();
        row.holds(!boots(&client, &mac), || "a key that ended vouches".into());
        service.kill();
        fs::write(site.trust_json(), &good).unwrap();
        service.run(&server).unwrap();
        row.holds(!boots(&client, &mac), || {
            "after a kill an old document brings back a key that ended".into()
        });
        row.holds(version(&site) == counted + 1, || format!("version {} after a kill", version(&site)));
        row.made(1);
        // No clock that is set back revives it, nor one that is right again.
        for step in ["-3650d", "+0"] {
            service.kill();
            fs::write(&clock, step).unwrap();
            service.run(&server).unwrap();
            row.holds(!boots(&client, &mac), || format!("a clock set by {step} revives a key that ended"));
            row.made(1);
        }
        // The operator extends it.
        let mut document: Value = serde_json::from_str(&good).unwrap();
        document["version"] = (counted + 2).into();
        fs::write(site.trust_json(), document.to_string()).unwrap();
    }
    let log = fs::read_to_string(service.log_path()).unwrap();
    row.holds(!log.contains("panicked at"), || "it panicked".into());
    row.end();
}
