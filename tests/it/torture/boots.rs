//! Boots: somebody else's MAC, hostile words, a clock that is set, restarts in their middle, and a bad line.

use super::{
    Row,
    http::fetch,
    junk::Junk,
    line::Line,
    site::{Asker, BOUND, HTTP, Site, images, made_up, nbps, option, with_clock},
    times,
};
use crate::{
    boots::settings,
    dhcpd::harness::until,
    fuzz::targets::{commands, is_plain, loads, loads_with},
};
use pristine::{
    client::Client,
    lab::{
        Folder, Host, Mode, copy_images,
        fleet::{Options, run},
        output_within,
        show::Timeline,
    },
    model::{Digest, LeaseState, Mac, Manifest, Secret},
    provisioner::MachinePatch,
};
use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

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
    value(script, "pristine.token=").map(str::to_owned)
}

/// What a script has the kernel told behind this.
pub fn value<'a>(script: &'a str, key: &str) -> Option<&'a str> {
    script.split(key).nth(1)?.split_whitespace().next()
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

/// Nothing tells it from the machine: but it can't have what the machine has without being noticed.
#[test]
fn a_clone_that_was_first_is_an_alarm_at_the_machines_own_request() {
    let mut row = Row::new("another machine's MAC and address, with the token of its boot");
    let site = Site::with_image("");
    site.api(|client| {
        client.set_secret("db", &Secret::new(b"hunter2".to_vec())).unwrap();
        let document = "[[file]]\npath = \"/etc/db\"\nmode = \"0600\"\nsecret = \"db\"\n";
        client.set_profile("db", "hostname=db*", document).unwrap();
    });
    let nonce = |c: char| format!("{{\"nonce\":\"{}\"}}", c.to_string().repeat(32));
    for n in 0..times(1, 20) {
        let (machine, mac) = booter(&site);
        site.register(mac, &format!("db{n}"));
        let cidr = machine.addresses("eth0").unwrap().remove(0);
        let its = token(&script(&machine, mac, "")).expect("a token");
        // One at a time is on the cable: two with one address hardly reach anybody.
        machine.link("eth0", false).unwrap();
        let clone = site.net.client_with_mac(mac).unwrap();
        clone.address("eth0", &cidr).unwrap();
        let (code, _) = tell(&clone, "/boot/config", &its, &nonce('a'));
        assert_eq!(code, 200, "nobody can tell");
        clone.link("eth0", false).unwrap();
        machine.link("eth0", true).unwrap();
        let before = site.alarms();
        row.holds(!before.iter().any(|a| a.contains(&mac.to_string())), || format!("too early: {before:?}"));
        let (code, body) = tell(&machine, "/boot/config", &its, &nonce('b'));
        row.holds(code == 409 && !body.contains("hunter2"), || format!("the machine: {code} {body}"));
        let alarms = site.alarms();
        row.holds(alarms.iter().any(|a| a.contains(&mac.to_string())), || format!("no alarm: {alarms:?}"));
        row.made(1);
    }
    row.end();
}

#[test]
fn hostile_words_of_machines_become_no_commands() {
    let mut row = Row::new("hostile names, serials, labels, arguments in iPXE and kernel command lines");
    let site = Site::with_image("[bounds]\nscripts_per_minute = 100000\n");
    let (host, mac) = booter(&site);
    let good = script(&host, mac, "&serial=abc&manufacturer=Dell");
    assert!(token(&good).is_some(), "{good}");
    let words = [
        "${net0/ip}",
        "&&",
        " || ",
        " init=/bin/sh",
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
        row.holds(same(&said, &good, FINE), || format!("{made:?}: {said}"));
        let mut asker = Asker::on(&host);
        let (name, class) = (option(12, made.as_bytes()), option(77, made.as_bytes()));
        let answer = asker.ask(&[&[53, 1, 1], &name, &class, &option(60, b"PXEClient")], BOUND);
        row.holds(answer.is_some(), || format!("no offer to {made:?}"));
        row.made(1);
    }
    // What an operator calls a machine, and has it started with: refused, or no more than a word.
    let patch = |patch: MachinePatch| site.api(|c| c.set_machine(&mac.to_string(), &patch)).is_ok();
    let labelled = |word: &str| {
        let labels = [("word".to_owned(), Some(word.to_owned()))].into();
        patch(MachinePatch { rack: Some(Some("r1".into())), labels, ..MachinePatch::default() })
    };
    let args = |arg: &str| {
        // A JSON string is a TOML string.
        let document = format!("kernel_args = [{}]\n", serde_json::Value::from(arg));
        site.api(|c| c.set_profile("args", "rack = r1", &document)).is_ok()
    };
    let hostname =
        |word: &str| patch(MachinePatch { hostname: Some(Some(word.to_owned())), ..MachinePatch::default() });
    assert!(labelled("fine") && args(FINE));
    let good = script(&host, mac, "");
    assert!(token(&good).is_some() && loads(&good).concat().contains(&FINE.to_owned()), "{good}");
    let by_label = "word={{ label.word }}";
    let ways: [Way<'_>; 4] = [
        ("a host name", &hostname, FINE),
        ("a kernel argument", &args, "{}"),
        ("a label in a kernel argument", &|word| args(by_label) && labelled(word), "word={}"),
        ("a label", &|word| args(FINE) && labelled(word), FINE),
    ];
    for (what, set, argument) in ways {
        let (mut taken, mut refused) = (0, 0);
        for n in 0..times(20, 500) {
            // Now and then one that is nothing but a word.
            let word = match n % 10 {
                0 => format!("word-{n}"),
                _ => (0..=n % 3).map(|_| words[junk.next() as usize % words.len()]).collect(),
            };
            let said = set(&word).then(|| script(&host, mac, ""));
            match &said {
                Some(said) if token(said).is_some() => {
                    taken += 1;
                    let argument = argument.replace("{}", &word);
                    row.holds(same(said, &good, &argument), || format!("{what} {word:?}: {said}"));
                }
                said => {
                    refused += 1;
                    let boots = said.as_ref().is_some_and(|said| said.contains("kernel "));
                    row.holds(!boots, || format!("{what} {word:?}: {said:?}"));
                }
            }
            row.made(1);
        }
        eprintln!("{what}: {taken} taken, {refused} refused");
        row.holds(taken > 0, || format!("{what}: none was taken"));
    }
    row.end();
}

/// The kernel argument that says nothing.
const FINE: &str = "word=fine";

/// What an operator sets, and how: false where that is refused. And the one kernel argument that comes of it.
type Way<'a> = (&'a str, &'a dyn Fn(&str) -> bool, &'a str);

/// Whether iPXE would do the same by both, show them on any console, and load the same with the same words for the
/// kernel, but for that argument.
fn same(one: &str, other: &str, argument: &str) -> bool {
    let (loaded, wanted) = (loads(&of_any_boot(one)), loads_with(&of_any_boot(other), FINE, argument));
    one.bytes().all(is_plain) && commands(one) == commands(other) && loaded == wanted
}

/// A script without what tells one boot from another.
fn of_any_boot(script: &str) -> String {
    let own =
        ["pristine.token=", "pristine.boot="].into_iter().filter_map(|key| Some((value(script, key)?, key)));
    own.fold(script.to_owned(), |script, (value, key)| script.replace(value, key))
}

/// How long a stranger waits for an address.
const LOOK: Duration = Duration::from_millis(1_500);

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
            let given = stranger.lease(LOOK);
            row.holds(given.is_none(), || format!("{step}, restarted {restarted}: {given:?} is somebody's"));
            for (mac, addr) in &held {
                let again = Asker::named(&host, *mac).lease(Duration::from_secs(10));
                row.holds(again == Some(*addr), || format!("{step}: {mac} had {addr}, now {again:?}"));
            }
        }
        row.made(1);
    }
    // A stranger gets what is free, and as soon as it was looked for above.
    let (mac, addr) = held[0];
    Asker::named(&host, mac).release(addr);
    until("the released address is free", || {
        let leases = site.api(Client::leases).unwrap();
        leases.iter().all(|l| l.addr != addr || l.state != LeaseState::Bound).then_some(())
    });
    let given = Asker::named(&host, made_up(99)).lease(LOOK);
    row.holds(given == Some(addr), || format!("{addr} is free, and a stranger got {given:?}"));
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
        whole_blobs: true,
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
    row.holds(tally.broken() == 0, || format!("boots broke: {tally}"));
    row.holds(tally.amid() > 0, || format!("nobody was booting at a kill: {tally}"));
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
             add rule netdev twice {port} numgen inc mod 50 0 counter dup to {server}"
        ));
        assert!(output_within(nft, BOUND).unwrap().status.success());
        steps(&mut row, &host);
        row.made(1);
    }
    let mut nft = site.net.command("nft");
    nft.args(["list", "chain", "bridge", "bad", "line"]);
    let rules = String::from_utf8(output_within(nft, BOUND).unwrap().stdout).unwrap();
    let counted = |rules: &str| {
        let counters = rules.split("packets ").skip(1);
        counters.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    let lost = counted(&rules);
    let mut nft = site.net.command("nft");
    nft.args(["list", "table", "netdev", "twice"]);
    let twins = String::from_utf8(output_within(nft, BOUND).unwrap().stdout).unwrap();
    let twice = counted(&twins);
    eprintln!("{lost} frames were lost, {twice} came twice");
    row.holds(lost > 20, || format!("too few frames were lost: {rules}"));
    row.holds(twice >= times(2, 24), || format!("too few frames came twice: {twins}"));
    row.end();
}

/// What a boot asks for, one after the other; every blob is hashed.
fn steps(row: &mut Row, host: &Host) {
    let mut asker = Asker::on(host);
    let addr = until("an address", || asker.lease(Duration::from_secs(1)));
    let file = fs::read(nbps().join("snponly.efi")).unwrap();
    host.address("eth0", &format!("{addr}/16")).unwrap();
    row.holds(super::tftp::read(host, 1).is_some_and(|(got, _)| got == file), || "TFTP".into());
    let begun = script(host, asker.mac(), "");
    row.holds(token(&begun).is_some(), || begun.clone());
    let image: Digest = value(&begun, "pristine.image=").unwrap().parse().unwrap();
    let blob = |digest: Digest| {
        let body = fetch(host, HTTP, &format!("/blobs/{digest}"));
        body.filter(|body| Digest::of(body) == digest)
    };
    let manifest = blob(image).expect("the manifest");
    let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
    let root = manifest.rootfs.expect("a root");
    let parts = [manifest.kernel.digest, root.verity.tree.digest, root.blob.digest];
    for digest in parts.into_iter().chain(manifest.initramfs.iter().map(|b| b.digest)) {
        row.holds(blob(digest).is_some(), || format!("blob {digest} of {manifest:?}"));
    }
    let (code, _) = tell(host, "/boot/report", &token(&begun).unwrap(), r#"{"stage":"init"}"#);
    row.holds(code == 204, || format!("a report: {code}"));
}

/// The server at one end of the line, a machine at the other.
#[test]
fn boots_finish_over_a_line_that_delays_and_swaps_packets() {
    let mut row = Row::new("reordering, delay");
    let site = Site::with_image("");
    let (least, most) = times((200, 2_000), (2_000, 12_000));
    let line = Line::new(&site.net, Duration::from_micros(least), Duration::from_micros(most));
    // The line carries frames as they are on a cable: none that a NIC would cut up.
    site.server.run(&["ip", "link", "set", "eth0", "gso_max_segs", "1"]).unwrap();
    for _ in 0..times(1, 5) {
        let host = site.net.bare_host("client").unwrap();
        host.plug("sw1", "eth0", None, None).unwrap();
        host.run(&["ip", "link", "set", "eth0", "gso_max_segs", "1"]).unwrap();
        steps(&mut row, &host);
        row.made(1);
    }
    let carried = line.cut();
    eprintln!("{carried:?}");
    row.holds(carried.overtaken * 20 > carried.frames, || format!("too few were swapped: {carried:?}"));
    row.end();
}
