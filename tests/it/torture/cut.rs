//! State files that end in their middle: the service starts with what is left, or says which file it can't do
//! without, and what to do.

use super::{
    super::{api::Dir, images::noise, store::publish},
    Row,
    leases::{OURS, Service},
    long, times,
};
use pristine::{
    client::{Client, ClientError},
    fleet::{ImportOrder, MachineRow},
    lab::{Host, Net},
    model::{Digest, Mac, Secret},
    store::{ImageStore, db::Db, trust::TrustFiles},
};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

/// A state folder with a bit of everything, as a kill leaves it.
fn filled(host: &Host, state: &Path) {
    let store = ImageStore::open(&state.join("store")).unwrap();
    publish(&store, "web:1", &noise(100_000));
    let cli = |words: &[&str]| {
        let out =
            Command::new(env!("CARGO_BIN_EXE_pristine")).arg("--state-dir").arg(state).args(words).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let key = state.with_file_name("key");
    cli(&["key", "generate", "--no-password", "--out", key.to_str().unwrap()]);
    cli(&["key", "trust", key.with_extension("pub").to_str().unwrap()]);
    cli(&["image", "sign", "web:1", "--key", key.to_str().unwrap()]);
    let mut service = Service::start(host, state);
    host.enter(|| {
        let client = Client::new("http://127.0.0.1:8081", &state.join("api-token")).unwrap();
        client.set_default("web:1").unwrap();
        client.set_secret("root", &Secret::new(b"secret".to_vec())).unwrap();
        // In one transaction: each byte of its log is cut.
        let row = |n: u8| MachineRow {
            pin: Some(Some("web:1".to_owned())),
            ..MachineRow::new(Mac([0x52, 0x54, 0, 0, 0, n]))
        };
        client
            .import_machines(&ImportOrder { machines: (0..PINS).map(row).collect(), dry_run: false })
            .unwrap();
    })
    .unwrap();
    cli(&["image", "scrub", "--rate", "0"]);
    service.0.kill();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        match path.is_dir() {
            true => todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())),
            false => out.push(path),
        }
    }
    out.retain(|f| fs::metadata(f).is_ok_and(|m| m.is_file()));
    out.sort();
    out
}

/// Machines that are pinned.
const PINS: u8 = 20;

/// Whether nothing is missing of what a state without that file's end has. What is cut off the log is lost, but whole
/// transactions and the last ones first: all pins, of which the default came before, or none.
fn are_kept(pins: usize, default: bool, cut: &str) -> bool {
    (pins, default) == (PINS.into(), true) || cut == "pristine.db-wal" && pins == 0
}

/// Whether the image is there, and all its blobs hash to their names.
fn is_whole(store: &ImageStore) -> bool {
    let Ok(image) = store.resolve("web:1") else { return false };
    let mut digests = image.manifest.blobs().map(|blob| blob.digest).chain([image.digest]);
    digests.all(|digest| {
        let Ok(Some(mut reader)) = store.blobs().reader(digest) else { return false };
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).is_ok() && Digest::of(&bytes) == digest
    })
}

/// Whether the store knows of something wrong in it.
fn is_damaged(store: &ImageStore) -> bool {
    store.entries().is_ok_and(|entries| entries.iter().any(|e| e.image.is_err()))
        || store.damaged_images().is_ok_and(|bad| !bad.is_empty())
        || store.bad_tags().is_ok_and(|bad| !bad.is_empty())
}

/// Opens what that file belongs to, as a start does; what is wrong with what comes of it. `None` where nothing but a
/// process reads it.
fn opened(folder: &Path, short: &Path) -> Option<Result<(), String>> {
    let name = short.file_name()?.to_str()?;
    Some(match name {
        "pristine.db" | "pristine.db-wal" => match Db::open(folder) {
            Ok((_, found)) => {
                let pins = found.machines.iter().filter(|m| m.pin.is_some()).count();
                let default = found.default.is_some();
                if are_kept(pins, default, name) {
                    Ok(())
                } else {
                    Err(format!("{pins} pins, default {default}"))
                }
            }
            Err(why) if name == "pristine.db" && why.to_string().contains("pristine.db is damaged") => Ok(()),
            Err(why) => Err(why.to_string()),
        },
        _ if name.starts_with("trust.") => match TrustFiles::at(folder).read() {
            Ok(found) if found.trust.keys.len() == 1 => Ok(()),
            Ok(found) => Err(format!("{found:?}")),
            Err(why) if why.to_string().contains(name) => Ok(()),
            Err(why) => Err(why.to_string()),
        },
        _ if short.starts_with("store") => match ImageStore::open(&folder.join("store")) {
            Ok(store) if is_damaged(&store) || is_whole(&store) => Ok(()),
            Ok(_) => Err("neither whole nor known to be damaged".into()),
            Err(why) => Err(why.to_string()),
        },
        _ => return None,
    })
}

/// A file cut at each of its bytes, in this process: what isn't right. False where no part of this process reads it.
fn every_byte(state: &Path, short: &Path, row: &mut Row) -> bool {
    // In memory: nothing here is about the disk.
    let dir = Dir::in_memory("cut");
    let whole = fs::read(state.join(short)).unwrap();
    let copied = |name: &str| {
        assert!(
            Command::new("cp")
                .arg("-a")
                .args([state.join(name), dir.0.join(name)])
                .status()
                .unwrap()
                .success()
        )
    };
    let beside = match short.to_str().unwrap() {
        "pristine.db" => "pristine.db-wal",
        "pristine.db-wal" => "pristine.db",
        "trust.json" => "trust.accepted.json",
        "trust.accepted.json" => "trust.json",
        _ => "",
    };
    if short.starts_with("store") {
        copied("store");
    }
    // An opening may write to it.
    let beside =
        (!beside.is_empty()).then(|| (dir.0.join(beside), fs::read(state.join(beside)).unwrap_or_default()));
    for at in (0..whole.len()).rev() {
        if let Some((file, bytes)) = &beside {
            fs::write(file, bytes).unwrap();
        }
        let cut = dir.0.join(short);
        let _ = fs::remove_file(&cut);
        fs::write(&cut, &whole[..at]).unwrap();
        let Some(found) = opened(&dir.0, short) else { return false };
        row.holds(found.is_ok(), || format!("{} cut to {at}: {found:?}", short.display()));
        row.made(1);
    }
    true
}

#[test]
fn a_file_that_ends_in_its_middle_is_done_without_or_named() {
    let mut row = Row::new("state files cut at every byte");
    let dir = Dir::new("cut");
    let (state, copy) = (dir.0.join("state"), dir.0.join("copy"));
    fs::create_dir(&state).unwrap();
    let net = Net::new().unwrap();
    let host = net.host("server", &format!("{OURS}/16")).unwrap();
    filled(&host, &state);
    // Written anew at each start, or no state.
    let spared = ["notify", "log", "pristine.lock", "pristine.db-shm"];
    for (nth, file) in files(&state).into_iter().enumerate() {
        let name = file.file_name().unwrap().to_str().unwrap();
        if spared.contains(&name) {
            continue;
        }
        let size = fs::metadata(&file).unwrap().len();
        let in_process = long() && every_byte(&state, file.strip_prefix(&state).unwrap(), &mut row);
        // By a process at each byte of what no part of this one reads; of the rest, some.
        let most = times(1, if in_process { 12 } else { 400 }).min(size);
        for n in 0..most {
            let at = match most {
                1 => size * (nth as u64 % 3) / 2,
                _ => n * size / most,
            }
            .min(size.saturating_sub(1));
            let _ = fs::remove_dir_all(&copy);
            assert!(Command::new("cp").arg("-a").arg(&state).arg(&copy).status().unwrap().success());
            let cut = copy.join(file.strip_prefix(&state).unwrap());
            let mode = fs::metadata(&cut).unwrap().permissions();
            let bytes = fs::read(&cut).unwrap();
            fs::remove_file(&cut).unwrap();
            fs::write(&cut, &bytes[..usize::try_from(at).unwrap()]).unwrap();
            fs::set_permissions(&cut, mode).unwrap();
            let short = file.strip_prefix(&state).unwrap().display().to_string();
            let what = format!("{short} cut to {at} of {size} bytes");
            match Service::within(&host, &copy, &[]) {
                Ok(service) => {
                    let found = host.enter(|| as_answered(&copy)).unwrap();
                    match found {
                        Ok((pins, default, alarms)) => {
                            row.holds(are_kept(pins, default, name), || {
                                format!("{what}: {pins} pins, default {default}")
                            });
                            let store = ImageStore::open_read_only(&copy.join("store"));
                            row.holds(is_whole(&store) || !alarms.is_empty(), || {
                                format!("{what}: the image is damaged, and nobody is told")
                            });
                        }
                        Err(why) => row.holds(false, || format!("{what}: it starts, and {why}")),
                    }
                    drop(service);
                }
                Err(said) => {
                    let last = said.lines().filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
                    // Neither can be made up: who has which address, and who may give orders.
                    let needed = ["pristine.db", "api-token"].contains(&name);
                    let named =
                        last.contains(name) && (last.contains("help:") || last.contains("Put back a backup"));
                    row.holds(needed && named, || format!("{what}: it doesn't start: {last}"));
                }
            }
            row.made(1);
        }
    }
    row.end();
}

/// Of the running service: pinned machines, whether there is a default, and alarms.
fn as_answered(state: &Path) -> Result<(usize, bool, Vec<String>), ClientError> {
    let client = Client::new("http://127.0.0.1:8081", &state.join("api-token"))?;
    let pins = client.machines(None)?.iter().filter(|m| m.pin.is_some()).count();
    let default = client.default_target()?.target.is_some();
    let alarms = client.status()?.alarms.into_iter().filter(|a| a.about != "disk");
    Ok((pins, default, alarms.map(|a| a.text).collect()))
}
