//! Boots: somebody else's MAC, hostile words, a clock that is set, restarts in their middle, and a bad line.

use super::{
    Row,
    junk::Junk,
    site::{Asker, BOUND, HTTP, Site, images, made_up, nbps, option},
    times,
};
use crate::{boots::settings, dhcpd::harness::until};
use pristine::{
    lab::{
        Folder, Host, Mode, copy_images,
        fleet::{Options, run},
        output_within,
        show::Timeline,
    },
    model::{Mac, Secret},
};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Status and body of a request, by curl.
pub fn curl(host: &Host, args: &[&str]) -> (u16, String) {
    let mut command = host.command("curl");
    command.args(["-sS", "--max-time", "30", "-w", "\n%{http_code}"]).args(args);
    let out = output_within(command, BOUND).unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
    (code.parse().unwrap_or(0), body.to_owned())
}

fn script(host: &Host, mac: Mac, more: &str) -> String {
    curl(host, &[&format!("http://{HTTP}/boot/script?mac={mac}{more}")]).1
}

/// The token of the boot that a script begins.
pub fn token(script: &str) -> Option<String> {
    let rest = script.split("pristine.token=").nth(1)?;
    Some(rest.split_whitespace().next()?.to_owned())
}

fn tell(host: &Host, path: &str, token: &str, body: &str) -> (u16, String) {
    let bearer = format!("Authorization: Bearer {token}");
    curl(host, &["-H", &bearer, "-d", body, &format!("http://{HTTP}{path}")])
}

/// A client with an address.
fn booter(site: &Site) -> (Host, Mac) {
    let host = site.net.client().unwrap();
    let mut asker = Asker::on(&host);
    let addr = until("an address", || asker.lease(Duration::from_secs(5)));
    host.address("eth0", &format!("{addr}/16")).unwrap();
    (host, asker.mac())
}

#[test]
fn a_mac_alone_yields_no_secret_and_a_token_counts_once() {
    let mut row = Row::new("another machine's MAC, asked for from an address of one's own");
    let site = Site::with_image("");
    site.api(|client| {
        client.set_secret("db", &Secret::new(b"hunter2".to_vec())).unwrap();
        let document = "[[file]]\npath = \"/etc/db\"\nmode = \"0600\"\nsecret = \"db\"\n";
        client.set_profile("db", "hostname=db*", document).unwrap();
    });
    for n in 0..times(1, 20) {
        let (machine, mac) = booter(&site);
        let (clone, _) = booter(&site);
        site.register(mac, &format!("db{n}"));
        let begun = script(&machine, mac, "");
        let its = token(&begun).unwrap_or_else(|| panic!("no token in {begun}"));
        let stolen = script(&clone, mac, "");
        row.holds(token(&stolen).is_none(), || format!("the clone's script: {stolen}"));
        let nonce = |c: char| format!("{{\"nonce\":\"{}\"}}", c.to_string().repeat(32));
        let (code, body) = tell(&clone, "/boot/config", &its, &nonce('a'));
        row.holds(code >= 400 && !body.contains("hunter2"), || format!("from elsewhere: {code} {body}"));
        let (code, body) = tell(&machine, "/boot/config", &its, &nonce('b'));
        row.holds(code == 200 && body.contains("hunter2"), || format!("the machine itself: {code} {body}"));
        let (code, body) = tell(&machine, "/boot/config", &its, &nonce('c'));
        row.holds(code == 409 && !body.contains("hunter2"), || format!("a second time: {code} {body}"));
        let alarms = site.alarms();
        row.holds(alarms.iter().any(|a| a.contains(&mac.to_string())), || format!("no alarm: {alarms:?}"));
        row.made(2);
    }
    row.end();
}

/// First words of the lines: what iPXE would do.
fn commands(script: &str) -> Vec<String> {
    script.lines().map(|l| l.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn hostile_words_of_machines_become_no_commands() {
    let mut row = Row::new("hostile serials, makers and hostnames in iPXE scripts and kernel command lines");
    let site = Site::with_image("[bounds]\nscripts_per_minute = 100000\n");
    let (host, mac) = booter(&site);
    let good = script(&host, mac, "&serial=abc&manufacturer=Dell");
    assert!(token(&good).is_some(), "{good}");
    let words = [
        "${net0/ip}",
        "&&",
        " || ",
        ";",
        "\n",
        "\r\nshell\n",
        "#",
        "'",
        "\"",
        "`id`",
        "\\",
        "{{x}}",
        "\u{1b}[2J",
        "\0",
        "é",
    ];
    let mut junk = Junk::new(17);
    for _ in 0..times(15, 1_000) {
        let made: String = (0..6).map(|_| words[junk.next() as usize % words.len()]).collect();
        let encoded: String = made.bytes().map(|b| format!("%{b:02x}")).collect();
        let said = script(&host, mac, &format!("&serial={encoded}&manufacturer={encoded}&product={encoded}"));
        let plain = said.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b));
        row.holds(plain && commands(&said) == commands(&good), || format!("{made:?}: {said}"));
        let mut asker = Asker::on(&host);
        let (name, class) = (option(12, made.as_bytes()), option(77, made.as_bytes()));
        let answer = asker.ask(&[&[53, 1, 1], &name, &class, &option(60, b"PXEClient")], BOUND);
        row.holds(answer.is_some(), || format!("no offer to {made:?}"));
        row.made(1);
    }
    row.end();
}

/// The service with a wall clock that a file moves.
fn with_clock(folder: &Folder) -> (PathBuf, PathBuf) {
    let (clock, wrapper) = (folder.path().join("clock"), folder.path().join("pristine"));
    fs::write(&clock, "+0").unwrap();
    let text = format!(
        "#!/bin/sh\nLD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1) FAKETIME_TIMESTAMP_FILE={} \
         FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 exec {} \"$@\"\n",
        clock.display(),
        env!("CARGO_BIN_EXE_pristine")
    );
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    (clock, wrapper)
}

#[test]
fn a_clock_that_is_set_gives_no_live_lease_away_and_ends_tokens() {
    let mut row = Row::new("clock steps of a day and of ten years, both ways");
    let folder = Folder::temporary("clock").unwrap();
    let (clock, wrapper) = with_clock(&folder);
    let pool = "[[subnet]]\nnetwork = \"198.18.0.0/16\"\npools = [\"198.18.7.1-198.18.7.4\"]\n\
                [bounds]\nknown_reserve_percent = 0\n";
    let prepare = |state: &Path| copy_images(&images(), state).unwrap();
    let mut site = Site::by(wrapper, pool, prepare);
    site.api(|client| client.set_default("tiny:1").map(drop)).unwrap();
    let (host, mac) = booter(&site);
    let held: Vec<(Mac, Ipv4Addr)> = (1..4)
        .map(|n| {
            let mut asker = Asker::named(&host, made_up(n));
            (asker.mac(), until("an address", || asker.lease(Duration::from_secs(5))))
        })
        .collect();
    for step in ["+1d", "-1d", "+3650d", "-3650d", "+0"].repeat(times(1, 5)) {
        let begun = script(&host, mac, "");
        let token = token(&begun).unwrap_or_else(|| panic!("no token in {begun}"));
        let (code, _) = tell(&host, "/boot/report", &token, r#"{"stage":"init"}"#);
        row.holds(code == 204, || format!("{step}: a live token got {code}"));
        fs::write(&clock, step).unwrap();
        for restarted in [false, true] {
            if restarted {
                site.service.kill();
                site.service.run(&site.server).unwrap();
                let (code, _) = tell(&host, "/boot/report", &token, r#"{"stage":"network"}"#);
                row.holds(code == 401, || format!("{step}: a token of before got {code}"));
            }
            let mut stranger = Asker::named(&host, made_up(99));
            let given = stranger.lease(Duration::from_millis(700));
            row.holds(given.is_none(), || format!("{step}, restarted {restarted}: {given:?} is somebody's"));
            for (mac, addr) in &held {
                let again = Asker::named(&host, *mac).lease(Duration::from_secs(10));
                row.holds(again == Some(*addr), || format!("{step}: {mac} had {addr}, now {again:?}"));
            }
        }
        row.made(1);
    }
    row.holds(site.is_sound(site.service.pid()), || "it panicked".into());
    row.end();
}

#[test]
fn boots_finish_over_a_restart_in_their_middle() {
    let mut row = Row::new("restart in the middle of 200 boots");
    let folder = Folder::temporary("torture-fleet").unwrap();
    let (machines, kills) = (200, times(1, 3));
    let options = Options {
        settings: settings(&folder, Mode::Full),
        images: images(),
        machines,
        racks: 4,
        seed: 11,
        failures: 0.0,
        loss: 0.0,
        speed: 200.0,
        storm: Duration::from_secs(1),
        // Each is hashed.
        whole_roots: true,
        from: "tiny:1".parse().unwrap(),
        to: None,
        in_flight: (0, 0),
        deadline: Duration::from_secs(60),
        kills,
        bound: Duration::from_secs(240),
    };
    let tally = run(&options, &Timeline::default()).unwrap();
    eprintln!("{tally}");
    row.holds(tally.up() == machines, || format!("not all are up: {tally}"));
    row.holds(tally.wrong_hashes() == 0, || format!("wrong hashes: {tally}"));
    row.holds(tally.kills() == kills, || format!("it was not killed: {tally}"));
    row.holds(tally.after_kill() < Duration::from_secs(60), || format!("too late: {tally}"));
    row.made(machines as usize);
    row.end();
}

/// On the switch, whatever the protocol: of what machines send, and of what they are sent, one frame in twenty is
/// lost, and one in fifty of those to the server comes twice.
#[test]
fn boots_finish_over_a_line_that_loses_and_doubles_packets() {
    let mut row = Row::new("loss 5 %, duplication 2 %");
    let site = Site::with_image("");
    let mut nft = site.net.command("nft");
    nft.arg(
        "add table bridge bad; add chain bridge bad line { type filter hook forward priority 0; }; \
         add rule bridge bad line numgen random mod 20 0 counter drop",
    );
    assert!(output_within(nft, BOUND).unwrap().status.success());
    let file = fs::read(nbps().join("snponly.efi")).unwrap();
    let ports = || {
        let mut ip = site.net.command("ip");
        ip.args(["-o", "link", "show", "type", "veth"]);
        let text = String::from_utf8(output_within(ip, BOUND).unwrap().stdout).unwrap();
        let name = |l: &str| Some(l.split(": ").nth(1)?.split('@').next()?.to_owned());
        text.lines().filter_map(name).collect::<Vec<String>>()
    };
    let server = ports().remove(0);
    for _ in 0..times(1, 12) {
        let before = ports();
        let host = site.net.client().unwrap();
        let port = ports().into_iter().find(|p| !before.contains(p)).expect("its port");
        let mut nft = site.net.command("nft");
        nft.arg(format!(
            "add table netdev twice; add chain netdev twice {port} {{ type filter hook ingress device {port} priority 0; }}; \
             add rule netdev twice {port} numgen random mod 50 0 counter dup to {server}"
        ));
        assert!(output_within(nft, BOUND).unwrap().status.success());
        let mut asker = Asker::on(&host);
        let addr = until("an address", || asker.lease(Duration::from_secs(1)));
        host.address("eth0", &format!("{addr}/16")).unwrap();
        row.holds(super::tftp::read(&host, 1).is_some_and(|(got, _)| got == file), || "TFTP".into());
        let begun = script(&host, asker.mac(), "");
        row.holds(token(&begun).is_some(), || begun.clone());
        let kernel = begun.split_whitespace().find(|w| w.starts_with("http") && w.contains("/blobs/"));
        let (code, _) = curl(&host, &["-o", "/dev/null", kernel.expect("a kernel")]);
        row.holds(code == 200, || format!("the kernel: {code}"));
        let (code, _) = tell(&host, "/boot/report", &token(&begun).unwrap(), r#"{"stage":"init"}"#);
        row.holds(code == 204, || format!("a report: {code}"));
        row.made(1);
    }
    row.end();
}
