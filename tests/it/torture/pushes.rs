//! Kill -9 of either side of a push: the image comes whole in the end, and what was there stays.

use super::{
    super::{
        images::{Site, path, text},
        transfer::{BOUND, Server, When, digest, done, image, noise, push},
    },
    Row,
    leases::{is_up_again, kill, temporary},
    times,
};
use pristine::{client::Client, lab::Running, store::ImageStore};
use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Kills client and service in turn, each time at another place: among the bytes that go up, and while the
/// service makes the image of them.
#[test]
fn a_push_ends_well_after_kills_of_either_side() {
    let mut row = Row::new("kill -9 under pushes of images");
    let kills: u64 = times(10, 50);
    let site = Site::new();
    let mut server = Server::new(&[]);
    server.start();
    let wire = server.wire();
    image(&site, "kept", "1", &noise(1, 3 << 20));
    done(&push(&site, &wire.url(), &server.token(), &["kept:1"]));
    let kept = digest(&site, "kept:1");
    let full = wire.taken();
    let mut cut = 0;
    // A kill that comes too late is none: others are made for those.
    for n in 0..2 * kills {
        if cut == kills {
            break;
        }
        image(&site, "new", "1", &noise(100 + n, 3 << 20));
        // Within the list, among the chunks, while the image is made of them.
        let when = match n % 5 {
            3 | 4 => When::Commit(Duration::from_millis(n * 13 % 200)),
            _ => When::Bytes(full * (2 * (n % kills) + 1) / (2 * kills)),
        };
        fs::write(site.at("token"), server.token()).unwrap();
        let mut client = Command::new(env!("CARGO_BIN_EXE_pristine"));
        client.args(["--state-dir", path(&site.at("state")), "image", "push", "new:1", "--api", &wire.url()]);
        client
            .args(["--token-file", path(&site.at("token"))])
            .stdout(Stdio::null())
            .stderr(fs::File::create(site.at("said")).unwrap());
        let mut client = Running::start(client, "pristine image push").unwrap();
        let of_service = n % 2 == 1;
        let victim = if of_service { server.pid() } else { client.pid() };
        *wire.at.lock().unwrap() = Some((when, Box::new(move || kill(victim))));
        if of_service {
            // It comes back, as systemd brings it back; the client goes on by itself.
            let came = server.running.as_mut().unwrap();
            let killed = loop {
                if came.wait_within(Duration::from_millis(50)).is_ok() {
                    break true;
                }
                if client.ended().is_some() {
                    break false;
                }
            };
            if killed {
                cut += 1;
                let begun = Instant::now();
                server.start();
                server.api(Client::status);
                is_up_again(&mut row, begun);
            }
        }
        let status = client.wait_within(BOUND).unwrap();
        *wire.at.lock().unwrap() = None;
        let said = fs::read_to_string(site.at("said")).unwrap();
        if of_service {
            assert!(status.success(), "kill {n}: {said}");
        } else if !status.success() {
            cut += 1;
            // What was there stays, what was cut off isn't shown, and the next push goes on.
            let listed = text(&server.image(&["list"]).stdout);
            assert!(listed.contains("kept:1"), "kill {n}: {listed}");
            done(&server.image(&["verify"]));
            done(&push(&site, &wire.url(), &server.token(), &["new:1"]));
        }
        wire.taken();
        done(&server.image(&["verify"]));
        let store = ImageStore::open_read_only(&server.state.join("store"));
        assert_eq!(store.resolve("kept:1").unwrap().digest.to_string(), kept);
        assert_eq!(store.resolve("new:1").unwrap().digest.to_string(), digest(&site, "new:1"));
        assert_eq!(fs::read_dir(server.state.join("store/uploads")).unwrap().count(), 0, "kill {n}");
        let left = temporary(&server.state);
        row.holds(left.is_empty(), || format!("kill {n}: {left:?} stays"));
        done(&server.image(&["rm", "new:1"]));
        done(&site.image(&["rm", "new:1"]));
    }
    assert_eq!(cut, kills, "of {} kills no more came in time", 2 * kills);
    row.made(usize::try_from(cut).unwrap());
    row.end();
}
