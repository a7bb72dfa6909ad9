//! State files that end in their middle: the service starts with what is left, or says which file it can't do
//! without, and what to do.

use super::{
    super::{api::Dir, images::noise, store::publish},
    Row,
    leases::{OURS, Service},
    times,
};
use pristine::{
    client::Client,
    lab::{Host, Net},
    model::Secret,
    store::ImageStore,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A state folder with a bit of everything, as a kill leaves it.
fn filled(host: &Host, state: &Path) {
    let store = ImageStore::open(&state.join("store")).unwrap();
    publish(&store, "web:1", &noise(300_000));
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
        for n in 0..20 {
            client.pin(&format!("52:54:00:00:00:{n:02x}"), "web:1").unwrap();
        }
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
        // Every byte of what is small, and of what is large as many places.
        let most = times(1, 200).min(size);
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
                    let answers = host.enter(|| {
                        let client = Client::new("http://127.0.0.1:8081", &copy.join("api-token")).unwrap();
                        client.status().map(|s| s.alarms).map_err(|e| e.to_string())
                    });
                    let answers = answers.unwrap();
                    row.holds(answers.is_ok(), || format!("{what}: it starts, and {answers:?}"));
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
